"""An exported file against the network it was made of, and what is written beside it."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from chestlab.data.image_files import read_xray
from chestlab.data.splits import Split
from chestlab.evaluation.alarms import logits_of
from chestlab.evaluation.metrics import defined_auc
from chestlab.files.atomic import atomic_write, replace_file
from chestlab.files.errors import InputError
from chestlab.training.averages import Trained
from chestlab.training.onnx_model import Runner, probabilities

BOUNDS = {"fp32": 1e-5, "fp16": 2e-3, "int8": 0.1}  # of the difference of a probability

AUC_LOSS = 0.005  # that 8-bit integers may cost

SHAPES = ((512, 400), (400, 512), (1024, 1024))  # height and width of pictures beside the source's

TABLE = "export.json"  # of all files in its folder


def check(run: Runner, trained: Trained, split: Split, precision: str) -> dict[str, Any]:
    """Compare a file's probabilities with those of `predict.py`, on images of validation.

    Args:
        run: of `run_model`.
        trained: what was exported.
        split: images (N, S, S) of the network's source size.
        precision: a key of `BOUNDS`.

    Returns:
        What `export.json` says of it.

    Raises:
        InputError: they differ by more than the bound.
    """
    before = trained.probabilities(split.images)
    after = probabilities(run, split.images[:, None])
    difference = np.abs(after - before)
    figures = {
        "n": len(split),
        "largest_difference": float(difference.max()),
        "mean_difference": float(difference.mean()),
        "accuracy": {},
        "auc": {},
    }
    for name, values in (("before", before), ("after", after)):
        correct = (values >= trained.threshold) == (split.labels == 1)
        figures["accuracy"][name] = float(correct.mean())
        figures["auc"][name] = defined_auc(split.labels, logits_of(values))
    others = _other_sizes(run, trained, split)
    largest = max([figures["largest_difference"], *(other["difference"] for other in others)])
    bound = BOUNDS[precision]
    if not largest <= bound:
        raise InputError(
            f"--precision {precision}: the file's probabilities differ from those of predict.py by "
            f"up to {largest:.2g}, and allowed are {bound:g}; nothing is written"
            f"{_remedy(precision)}"
        )
    auc = figures["auc"]
    if None not in auc.values() and auc["before"] - auc["after"] > AUC_LOSS:
        raise InputError(
            f"--precision {precision}: the AUC on validation falls from {auc['before']:.3f} to "
            f"{auc['after']:.3f}, by more than {AUC_LOSS:g}; nothing is written{_remedy(precision)}"
        )
    return {
        "bound": bound,
        "largest_difference": largest,
        "validation": figures,
        "other_sizes": others,
    }


def _remedy(precision: str) -> str:
    return {"fp32": "", "fp16": ": take fp32", "int8": ": take fp16 or fp32"}[precision]


def _other_sizes(run: Runner, trained: Trained, split: Split) -> list[dict[str, Any]]:
    """Enlarged validation images through Pillow and the network, and through the file."""
    varied = [image for image in split.images if image.min() < image.max()][: len(SHAPES)]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture.png"
        for (height, width), image in zip(SHAPES, varied, strict=False):
            large = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
            large.save(path)
            seen = read_xray(path, trained.size).seen
            before = float(trained.probabilities(seen[None])[0])
            after = float(run(np.array(large)[None, None])[0][0])
            rows.append(
                {
                    "height": height,
                    "width": width,
                    "before": before,
                    "after": after,
                    "difference": abs(after - before),
                }
            )
    return rows


def read_table(folder: Path) -> dict[str, Any]:
    """The table of the exported files in a folder, by name; empty where there is none.

    Raises:
        InputError: there is a file of the table's name that is none.
    """
    path = folder / TABLE
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError):
        table = None
    if not isinstance(table, dict) or not all(isinstance(row, dict) for row in table.values()):
        raise InputError(f"'{path}' is no table of exported files: move it, or take another folder")
    return table


def write(out: Path, content: bytes, row: dict[str, Any]) -> None:
    """Write an exported file and its row in `export.json`, both or neither.

    Raises:
        OSError: the disk is full, or the folder is read-only; what was there is untouched.
    """
    waiting = out.with_name(f".{out.name}.tmp")
    try:
        atomic_write(waiting, content)
        table = read_table(out.parent) | {out.name: row}
        atomic_write(out.parent / TABLE, json.dumps(table, indent=2) + "\n")
        replace_file(waiting, out)
    finally:
        waiting.unlink(missing_ok=True)
