"""The page of all runs on X-rays, `results/README.md` or `README.id.md`, and that of phantoms.

`python visualize.py` writes them from the folders of the finished runs. Runs on phantoms have a
page of their own, `results/phantom/README.md`, which like all in that folder is not under version
control. The text is in `templates/overview.md.j2` and `templates/source.md.j2`, its sentences are
in `messages`.
"""

from __future__ import annotations

import csv
import html
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chestlab.data.phantom import PHANTOM_MARK
from chestlab.data.splits import CLASS_NAMES
from chestlab.evaluation.looks import Look
from chestlab.evaluation.out_of_fold import OutOfFold
from chestlab.evaluation.tasks import SPLIT_TITLES
from chestlab.files.atomic import atomic_write
from chestlab.files.errors import InputError
from chestlab.reporting import comparison_plots, evaluation_plots
from chestlab.reporting.look_tables import (
    all_looks,
    look_table,
    looks_at_images_of,
    recipe_text,
)
from chestlab.reporting.messages import LANGUAGES, MESSAGES
from chestlab.reporting.page import Wording, escaped, link, markdown_table, render
from chestlab.reporting.pairs import pairs_section
from chestlab.reporting.run_tables import (
    Best,
    best_on_test,
    cost_table,
    cross_validation_table,
    member_lines,
    model_name,
    patient_lines,
    run_table,
    warning_lines,
)
from chestlab.reporting.stored_runs import StoredRun, read_patients, read_runs

GALLERY = (  # pictures of a run, in the order of the page
    "training_curves",
    "confusion_matrix",
    "roc_curve",
    "calibration",
    "val_predictions",
    "gradcam",
    "members",
)

PAGES = {code: "README.md" if code == "en" else f"README.{code}.md" for code in LANGUAGES}


def write_report(results_dir: Path, language: str = "en") -> list[Path]:
    """Write the pages of all runs, ``README.md`` or ``README.id.md``, and the pictures they need.

    The page of the X-rays lies in ``results_dir``, that of the phantoms in its ``phantom``. Where
    there are no runs on X-rays, the page in ``results_dir`` is the phantoms'.

    Returns:
        The pages.

    Raises:
        InputError: there is no finished run.
        OSError: a file cannot be written.
    """
    wording = Wording(language)
    runs = read_runs(results_dir)
    phantoms = [run for run in runs if run.phantom]
    comparisons, looks = _comparison_pages(results_dir), all_looks(results_dir)
    if len(phantoms) == len(runs):
        return [_write_page(wording, results_dir, runs, comparisons, looks)]
    marked = [
        page
        for page in comparisons
        if PHANTOM_MARK in page.read_text(encoding="utf-8", errors="replace")
    ]
    xrays = [run for run in runs if not run.phantom]
    others = [page for page in comparisons if page not in marked]
    pages = [_write_page(wording, results_dir, xrays, others, looks)]
    if phantoms:
        folder = results_dir / "phantom"
        folder.mkdir(exist_ok=True)  # all are on a phantom file, whose runs lie beside the X-rays'
        pages.append(_write_page(wording, folder, phantoms, marked, looks))
    return pages


def _comparison_pages(results_dir: Path) -> list[Path]:
    """Every page in a folder below that is not a run's own, such as the family's."""
    pages = (*results_dir.glob("*/README.md"), *results_dir.glob("phantom/*/README.md"))
    return sorted(
        page
        for page in pages
        if page.parent != results_dir / "phantom" and not (page.parent / "metrics.json").exists()
    )


def _write_page(
    wording: Wording,
    folder: Path,
    runs: Sequence[StoredRun],
    comparisons: Sequence[Path],
    looks: Sequence[Look],
) -> Path:
    """Write one page into a folder.

    Args:
        wording: language of the page.
        folder: where it lies.
        runs: that it shows.
        comparisons: pages that it links, and whose tables it shows where they are ablations'.
        looks: at any test images.
    """
    groups: dict[tuple[bool, str], list[StoredRun]] = {}  # runs on one source, by its content
    for run in runs:
        groups.setdefault((run.phantom, run.metrics["data"]["sha256"]), []).append(run)
    stems = Counter(group[0].stem for group in groups.values())

    def sections(phantom: bool, level: str) -> list[dict[str, Any]]:
        shown = [group for (on_phantom, _), group in groups.items() if on_phantom == phantom]
        return [
            _source_section(wording, folder, group, level, stems[group[0].stem] > 1, looks)
            for group in sorted(shown, key=lambda group: group[0].source)
        ]

    ablations = (page.parent for page in comparisons if (page.parent / "ablation.json").exists())
    text = render(
        "overview.md.j2",
        say=wording.say,
        translations=[
            (MESSAGES["language"][column], PAGES[code])
            for column, code in enumerate(LANGUAGES)
            if code != wording.language and (folder / PAGES[code]).exists()
        ],
        comparisons=[_comparison_link(folder, page) for page in comparisons],
        sources=sections(phantom=False, level="##"),
        ablations=[
            section
            for ablation in ablations
            if (section := _ablation_section(wording, folder, ablation)) is not None
        ],
        phantoms=sections(phantom=True, level="###"),
        phantom_mark=PHANTOM_MARK,
    )
    path = folder / PAGES[wording.language]
    atomic_write(path, text)
    return path


def _comparison_link(folder: Path, page: Path) -> tuple[str, str]:
    """Heading of a page, and its address from a page in ``folder``."""
    with page.open(encoding="utf-8", errors="replace") as file:
        heading = file.readline().lstrip("# ").strip()
    # the folder's name tells two pages of the same heading apart
    return f"{escaped(heading)} ({escaped(page.parent.name)})", link(folder, page)


def _ablation_section(wording: Wording, page_dir: Path, folder: Path) -> dict[str, Any] | None:
    """What the page shows of an ablation; None if it is damaged or has one repeat."""
    try:
        about = json.loads((folder / "ablation.json").read_text(encoding="utf-8"))
        with (folder / "table.csv").open(encoding="utf-8", newline="") as file:
            compared = [row for row in csv.DictReader(file) if row["verdict"]]
        rows = [_ablation_row(wording, row) for row in compared]
        if about["repeats"] == 1:  # a single repeat decides nothing, see `verdicts`
            return None
        values = {key: about[key] for key in ("repeats", "folds", "net")}
        text = wording.say(
            "ablation",
            source=escaped(about["data"]["source"]),
            recipe_name=recipe_text(about),
            comparisons=len(compared),
            **values,
        )
        net, recipe = escaped(about["net"]), escaped(about["recipe_name"])
        oof = OutOfFold.read(folder / "oof.csv")
        kinds = {name: entry["kind"] for name, entry in about["configurations"].items()}
        oof.classical = frozenset(name for name, kind in kinds.items() if kind == "yardstick")
        warnings = oof.alarms()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, InputError) as error:
        print(f"NOTE: '{folder}' is left out, it is damaged: {error!r}", file=sys.stderr)
        return None
    heads = ("switch", "gain_auc", "detectable", "gain_accuracy", "images_seen")
    heads += ("verdict", "verdict_holm")
    return {
        "heading": wording.say("ablation_title", net=net, recipe=recipe),
        "text": f"{text} [{escaped(folder.name)}]({link(page_dir, folder / 'README.md')})",
        "rows": markdown_table([wording.say(head) for head in heads], rows, 1) if rows else "",
        "warnings": [wording.say("warning", text=text) for text in warnings],
    }


def _ablation_row(wording: Wording, row: Mapping[str, str]) -> tuple[str, ...]:
    gains = []
    for measure in ("auc", "accuracy"):
        value, *ends = (float(row[f"{measure}_gain{end}"]) for end in ("", "_low", "_high"))
        gains.append(f"{wording.number(value, '+.3f')} {wording.interval(ends, '+.3f')}")
    together = row["kind"] == "together"
    name = wording.say("all_winners") if together else f"`{escaped(row['configuration'])}`"
    ratio = f"x {wording.number(float(row['images_ratio']), '.2f')}"
    detectable = wording.number(float(row["auc_gain_detectable"]))
    decided = (wording.say(row[key]) for key in ("verdict", "verdict_holm"))
    return name, gains[0], detectable, gains[1], ratio, *decided


def _source_section(
    wording: Wording,
    results_dir: Path,
    group: list[StoredRun],
    level: str,
    same_name: bool,
    looks: Sequence[Look],
) -> dict[str, Any]:
    """What `source.md.j2` shows of the runs on one source.

    Runs on different sources never share a table. Missing pictures are drawn.

    Args:
        wording: language of the page.
        results_dir: where the page lies.
        group: the runs.
        level: number signs of the section's heading.
        same_name: another source has the same file name, so that the hash of its content is shown.
        looks: at any test images.
    """
    # Sorted by validation: an order by test would be a choice made on test.
    group = sorted(group, key=lambda r: (r.kind == "baseline", -r.ordering_auc("val"), r.name))
    first = group[0]
    sha256 = first.metrics["data"]["sha256"][:6]
    tested = [run for run in group if "test" in run.predictions]
    patients, best = None, {}
    if tested:
        patients = read_patients(results_dir, tested[0], "test")
        best = {key: best_on_test(tested, key, patients) for key in ("accuracy", "auc")}
    looks = looks_at_images_of(group, looks)
    names = f"{first.stem}_names.csv"
    unit = first.metrics.get("bootstrap_unit")
    picture, pairs = "", None
    if len(tested) > 1:
        picture = f"comparison_{first.stem}{f'_{sha256}' if same_name else ''}.png"
        _draw_comparison(results_dir / picture, group)
        pairs = pairs_section(wording, group, tested, patients)
    return {
        "level": level,
        "heading": escaped(first.source) + (f" (SHA-256 {sha256})" if same_name else ""),
        "counts": _count_table(wording, first.metrics["data"]["counts"]),
        "names": names if (results_dir / names).exists() else "",
        "runs": run_table(wording, results_dir, group, best, looks),
        "looks": look_table(wording, looks),
        "unit": wording.say("patient" if unit == "patient" else "image"),
        "patients": patient_lines(wording, results_dir, (tested or group)[0]),
        "warnings": warning_lines(wording, group),
        "best": _best_lines(wording, group, best) if len(tested) > 1 else [],
        "has_baselines": any(run.kind == "baseline" for run in group),
        "members": member_lines(wording, group),
        "picture": picture,
        "pairs": pairs,
        "costs": cost_table(wording, group),
        "cross_validation": cross_validation_table(wording, results_dir, group),
        "gallery": [_gallery(wording, results_dir, run, n) for n, run in enumerate(group, 1)],
    }


def _count_table(wording: Wording, counts: Mapping[str, Mapping[str, int]]) -> str:
    """Images per split and class."""
    rows = [
        [
            wording.say(split),
            *(wording.number(n, ",") for n in (*of_class.values(), sum(of_class.values()))),
        ]
        for split, of_class in counts.items()
    ]
    heads = ["split", *CLASS_NAMES, "together"]
    return markdown_table([wording.say(head) for head in heads], rows, left=1)


def _best_lines(
    wording: Wording, group: Sequence[StoredRun], best: Mapping[str, Best]
) -> list[str]:
    """A sentence on the highest accuracy and one on the highest AUC on test."""
    lines = []
    for key, (run, unclear) in best.items():
        values = {
            "figure": wording.say(f"test_{key}"),
            "run": f"{group.index(run) + 1} ({run.shown_name})",
            "others": ", ".join(str(group.index(other) + 1) for other in unclear),
        }
        lines.append(wording.say("best_unclear" if unclear else "best_clear", **values))
    return lines


def _draw_comparison(picture: Path, group: Sequence[StoredRun]) -> None:
    """Test accuracy over parameters and time; of several seeds the one with the best val AUC."""
    shown: dict[str, StoredRun] = {}
    for run in group:  # in the order of validation AUC
        if "test" in run.predictions:
            shown.setdefault(run.group_key, run)
    points = [
        {
            "number": number,
            "name": run.shown_name,
            "kind": run.kind,
            "accuracy": run.metrics["test"]["accuracy"],
            "interval": run.metrics["test"]["accuracy_ci95"],
            "auc": run.metrics["test"]["auc"],
            "auc_interval": run.metrics["test"]["auc_ci95"],
            "parameters": run.metrics.get("parameters"),
            "seconds": run.metrics.get("seconds"),
        }
        for number, run in enumerate(group, 1)
        if shown.get(run.group_key) is run
    ]
    several = len(shown) < sum("test" in run.predictions for run in group)
    which = " · of several seeds the one with the highest val AUC" if several else ""
    n = sum(group[0].metrics["data"]["counts"]["test"].values())
    title = f"{group[0].source} · test n = {n}, held out · bars: 95 % intervals{which}"
    comparison_plots.draw_comparison(points, picture, title=title)


def _gallery(wording: Wording, results_dir: Path, run: StoredRun, number: int) -> dict[str, Any]:
    """A run's heading, pictures with their captions, and the link to its mistakes."""
    if not (run.folder / "calibration.png").exists():  # a run of an older version
        _draw_calibration(run)
    folder = link(results_dir, run.folder)
    return {
        "open": number == 1,
        "summary": html.escape(f"{number} · {run.shown_name} · {model_name(wording, run)}"),
        "pictures": [
            (wording.say(f"caption_{name}"), f"{folder}/{name}.png")
            for name in GALLERY
            if (run.folder / f"{name}.png").exists()
        ],
        "mistakes": f"{folder}/mistakes.md" if (run.folder / "mistakes.md").exists() else "",
    }


def _draw_calibration(run: StoredRun) -> None:
    curves = {
        SPLIT_TITLES[split]: {
            "labels": run.predictions[split].labels,
            "probabilities": run.predictions[split].probabilities,
        }
        for split in run.shown_splits
    }
    evaluation_plots.draw_calibration(
        curves,
        run.folder / "calibration.png",
        title=f"{run.name} · {run.metrics['model']}\n{run.source} · {run.sizes()}",
        threshold=run.metrics["threshold"],
    )
