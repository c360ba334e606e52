"""Tables, notes and the figure of `train_speed.py`, and what was measured before."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import io
import json
import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measurements import ROWS
from chestlab.files.atomic import atomic_write
from chestlab.reporting.page import render

ORDER = (*ROWS, "start", "evaluation", "source")  # of the table


def comparison(
    title: str, sides: Sequence[list[float]], target: str, inverse: bool = False
) -> dict[str, Any]:
    """Medians of both sides, their ratio, and how far the ratios of the pairs are apart."""
    first, second = (statistics.median(side) for side in sides)
    ratios = sorted(a / b for a, b in zip(*sides, strict=True))
    ratio, low, high = first / second, ratios[0], ratios[-1]
    if inverse:
        ratio, low, high = 1 / ratio, 1 / high, 1 / low
    row = {"title": title, "textbook": first, "ours": second, "target": target}
    row |= {"ratio": ratio, "low": low, "high": high, "repeats": len(ratios)}
    text = f"{title}: {first:.3g} s, {second:.3g} s, ratio {ratio:.2f} ({low:.2f} to {high:.2f})"
    print(text, flush=True)
    return row


def draw_scaling(result: dict[str, Any], path: Path, title: str) -> tuple[float, float]:
    """Images per second against batch size and data set size; returns the fit of a step.

    Returns:
        Seconds that a step takes before its first image, and for each image.
    """
    from matplotlib.figure import Figure

    batches = np.array([int(batch) for batch in result["steps"]], float)
    seconds = np.array(list(result["steps"].values()))
    # Relative errors count: in absolute ones the largest batch alone would decide.
    design = np.stack([np.ones_like(batches), batches], 1) / seconds[:, None]
    fixed, per_image = np.linalg.lstsq(design, np.ones_like(seconds), rcond=None)[0]
    fixed, per_image = max(float(fixed), 0.0), float(per_image)

    figure = Figure(figsize=(10, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.semilogx(batches, batches / seconds, "o", color="#1f4e79", label="measured")
    line = np.geomspace(batches[0], batches[-1], 100)
    label = f"step = {fixed * 1e3:.1f} ms + {per_image * 1e3:.2f} ms x images"
    left.semilogx(line, line / (fixed + per_image * line), color="#1f4e79", label=label)
    left.axhline(1 / per_image, color="#808080", linestyle=":", label="arithmetic alone")
    crossing = fixed / per_image
    if crossing >= batches[0]:
        left.axvline(crossing, color="#c05000", linestyle="--")
        place = f"arithmetic takes over at {crossing:.1f} images"
    else:
        place = f"arithmetic takes over below {batches[0]:.0f} images"
    left.set_title(place, fontsize=11)
    left.set_xlabel("images per batch")
    left.set_xticks(batches, [f"{b:.0f}" for b in batches])
    left.minorticks_off()
    n = np.array([int(size) for size in result["sizes"]], float)
    right.semilogx(n, list(result["sizes"].values()), "s-", color="#1f4e79")
    right.set_xticks(n, [f"{size:,.0f}" for size in n])
    right.minorticks_off()
    right.set_xlabel(f"training images (batches of {result['batch_size']})")
    right.set_title("an epoch with its validation", fontsize=11)
    for axis in (left, right):
        axis.set_ylim(0, 1.1 * axis.get_ylim()[1])
        axis.set_ylabel("training images per second")
        axis.grid(alpha=0.3)
    left.legend(fontsize=9, loc="lower right")
    figure.suptitle(title, fontsize=12)
    content = io.BytesIO()
    figure.savefig(content, dpi=110, format="png")
    atomic_write(path, content.getvalue())
    return fixed, per_image


def processor() -> str:
    """Name of the processor."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def setup(options: argparse.Namespace, source: str) -> str:
    """Machine, threads and data: what figures of one table have in common."""
    import torch

    from chestlab.training.device import native_cpu_bf16

    parts = [
        f"{processor()}, {options.threads or torch.get_num_threads()} of {os.cpu_count()} cores",
        f"bf16 {'native' if native_cpu_bf16() else 'not native'}",
    ]
    if options.device == "cuda":
        parts.append(torch.cuda.get_device_name())
    return f"{'; '.join(parts)}. Data: {source}."


def write_page(path: Path, template: str, **values: Any) -> None:
    """Write a page from a template of this folder, and print it."""
    page = render(template, Path(__file__).resolve().parent, **values)
    atomic_write(path, page)
    print(page)


def versions() -> str:
    import torch
    import torchvision

    of_torch = f"PyTorch {torch.__version__}, torchvision {torchvision.__version__}"
    return f"{of_torch}, Python {platform.python_version()}"


class Results:
    """What was measured, now and before, on this machine and on others; `RESULTS.json` on disk.

    Figures of this machine and data that were measured with other versions are forgotten.

    Args:
        folder: of the two files.
        options: of the command line.
        source: name of the data.
    """

    def __init__(self, folder: Path, options: argparse.Namespace, source: str) -> None:
        self.folder = folder
        self.sections: dict[str, dict[str, Any]] = {}
        with contextlib.suppress(FileNotFoundError):
            self.sections = json.loads((folder / "RESULTS.json").read_text(encoding="utf-8"))
        now, key = versions(), setup(options, source)
        if self.sections.get(key, {}).get("versions") != now:
            self.sections[key] = {"versions": now, "rows": {}, "parts": {}, "notes": {}}
        self.section = self.sections[key]

    def add(self, kind: str, key: str, found: Any) -> None:
        """Keep a row of a table (``rows`` or ``parts``) or a note, and write both files.

        Args:
            kind: which of the three.
            key: what was measured; a figure measured before under the same key is replaced.
            found: of `comparison`, or a text.
        """
        if kind != "notes":
            found["date"] = datetime.date.today().isoformat()
            if hasattr(os, "getloadavg"):
                found["load"] = os.getloadavg()[0]
        self.section[kind][key] = found
        atomic_write(self.folder / "RESULTS.json", json.dumps(self.sections, indent=1) + "\n")
        atomic_write(self.folder / "RESULTS.md", self.page())

    def page(self) -> str:
        """Both tables and the notes of every machine, in Markdown."""
        text = (
            "# Speed against a textbook's training loop\n\n"
            "Medians of measurements in turns, each a process of its own; ratios above 1 mean that "
            "ours is faster, where no other is said. The loop of the textbook is "
            "that of `train_minimal.py`, in fp32. Written by `benchmarks/train_speed.py`.\n"
        )
        for key, section in self.sections.items():
            rows = [section["rows"][name] for name in ORDER if name in section["rows"]]
            every = [*rows, *section["parts"].values()]
            dates = sorted({row["date"] for row in every})
            loads = sorted(row["load"] for row in every if "load" in row)
            text += f"\n## {key}\n\n{section['versions']}."
            if dates:
                text += f" {' to '.join(dict.fromkeys((dates[0], dates[-1])))}."
            if loads:
                text += f" Load of the machine after a row: {loads[0]:.1f} to {loads[-1]:.1f}."
            text += f"\n\n{table(rows)}\n" if rows else "\n"
            text += "".join(
                f"\n{note[0].upper()}{note[1:]}.\n" for note in section["notes"].values()
            )
            if section["parts"]:
                parts = sorted(section["parts"].items())
                text += "\n### What each step gained\n\n"
                text += parts_table([row for _, row in parts]) + "\n"
        return text


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows of `comparison` in Markdown."""
    lines = [
        "| what | textbook, s | ours, s | ratio | lowest to highest | n | target |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['title']} | {row['textbook']:.3g} | {row['ours']:.3g} | {row['ratio']:.2f} "
            f"| {row['low']:.2f} to {row['high']:.2f} | {row['repeats']} | {row['target']} |"
        )
    return "\n".join(lines)


def parts_table(rows: Sequence[dict[str, Any]]) -> str:
    """What each step gained, in Markdown."""
    lines = [
        "| what | without, s | with, s | ratio | lowest to highest | n | memory, MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        before, after = (f"{peak / 1e6:,.0f}" for peak in row["peaks"])
        lines.append(
            f"| {row['title']} | {row['textbook']:.3g} | {row['ours']:.3g} | {row['ratio']:.2f} "
            f"| {row['low']:.2f} to {row['high']:.2f} | {row['repeats']} | {before}, {after} |"
        )
    return "\n".join(lines)
