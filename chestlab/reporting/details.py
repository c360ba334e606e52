"""The page of all runs: how figures are computed, tables, pairs, costs, looks, files.

The text is in `templates/details.md.j2` and `templates/source.md.j2`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chestlab.data.phantom import PHANTOM_MARK
from chestlab.data.splits import CLASS_NAMES
from chestlab.evaluation.looks import FILE_NAME, Look
from chestlab.reporting import comparison_plots
from chestlab.reporting.fold_table import cross_validation_table
from chestlab.reporting.look_tables import look_table, looks_at_images_of, looks_at_others
from chestlab.reporting.page import Wording, escaped, link, markdown_table, render
from chestlab.reporting.pairs import pairs_section
from chestlab.reporting.run_tables import (
    Best,
    best_on_test,
    cost_table,
    member_lines,
    patient_lines,
    run_table,
    warning_lines,
)
from chestlab.reporting.stored_runs import StoredRun, names_path, read_patients

MEMBER = re.compile(r"(seed|fold)\d+$|runs$")  # folder of members below that of a study


def details_page(
    wording: Wording,
    results_dir: Path,
    page_dir: Path,
    runs: Sequence[StoredRun],
    looks: Sequence[Look],
    pages: Mapping[str, str],
    leads: str,
) -> str:
    """The text of the page.

    Args:
        wording: language of the page.
        results_dir: has the lists of names.
        page_dir: where the page lies, and the pictures that it needs.
        runs: that it shows.
        looks: at any test images.
        pages: addresses of other pages: ``front``, and ``translation`` where there is one.
        leads: `front_page.FrontPage.leads`.
    """
    groups = by_source(runs)
    stems = Counter(group[0].stem for group in groups)
    sections = [
        _source_section(wording, results_dir, page_dir, group, stems[group[0].stem] > 1, looks)
        for group in groups
    ]
    return render(
        "details.md.j2",
        say=wording.say,
        pages=pages,
        sources=sections,
        leads=leads,
        phantom_mark=PHANTOM_MARK if all(run.phantom for run in runs) else "",
        files=[
            (escaped(run.short_name), link(page_dir, run.folder), file_links(page_dir, run.folder))
            for run in runs
        ],
    )


def by_source(runs: Sequence[StoredRun]) -> list[list[StoredRun]]:
    """Runs on one file each, read alike, known by its content, in the order of the files' names."""
    groups: dict[str, list[StoredRun]] = {}
    for run in runs:
        groups.setdefault(run.data_key, []).append(run)
    return sorted(groups.values(), key=lambda group: group[0].source)


def source_heading(group: Sequence[StoredRun], same_name: bool) -> str:
    """The heading of a source; where another has its name, with what tells it apart."""
    about = group[0].metrics["data"]
    apart = ", ".join([f"SHA-256 {about['sha256'][:6]}", *about.get("classes", ())])
    return escaped(group[0].source) + (f" ({apart})" if same_name else "")


def file_links(page_dir: Path, folder: Path) -> str:
    """Links to the files of a run or a study: those in its folder and in the one or two below."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    shown = [path for path in paths if not _is_of_member(path.relative_to(folder))]
    names = (path.relative_to(folder).as_posix() for path in shown)
    return ", ".join(
        f"[{escaped(name)}]({link(page_dir, path)})"
        for name, path in zip(names, shown, strict=True)
    )


def _is_of_member(path: Path) -> bool:
    """A file below a study's folder is a member's, which is not kept under version control."""
    return len(path.parts) > 1 and bool(MEMBER.match(path.parts[0]))


def _source_section(
    wording: Wording,
    results_dir: Path,
    page_dir: Path,
    group: list[StoredRun],
    same_name: bool,
    looks: Sequence[Look],
) -> dict[str, Any]:
    """What `source.md.j2` shows of the runs on one source.

    Runs on different sources never share a table. Missing pictures are drawn.

    Args:
        wording: language of the page.
        results_dir: has the lists of names.
        page_dir: where the page lies.
        group: the runs.
        same_name: another source has the same file name, so that the hash of its content is shown,
            and the classes that were named.
        looks: at any test images.
    """
    # Sorted by validation: an order by test would be a choice made on test.
    group = sorted(group, key=lambda r: (r.kind == "baseline", -r.ordering_auc("val"), r.name))
    first = group[0]
    about = first.metrics["data"]
    apart = "_".join(["", about["sha256"][:6], *about.get("classes", ())]) if same_name else ""
    tested = [run for run in group if "test" in run.predictions]
    patients, best = None, {}
    if tested:
        patients = read_patients(results_dir, tested[0], "test")
        best = {key: best_on_test(tested, key, patients) for key in ("accuracy", "auc")}
    shown = looks_at_images_of(group, looks)
    others, looks = looks_at_others(about["sha256"], looks, shown), shown
    names, table = names_path(results_dir, first.source), page_dir / FILE_NAME
    unit = first.metrics.get("bootstrap_unit")
    picture, pairs = "", None
    if len(tested) > 1:
        picture = f"comparison_{first.stem}{apart}.png"
        _draw_comparison(page_dir / picture, group)
        pairs = pairs_section(wording, group, tested, patients)
    return {
        "heading": source_heading(group, same_name),
        "counts": _count_table(wording, first.metrics["data"]["counts"]),
        "names": link(page_dir, names) if names.exists() else "",
        "runs": run_table(wording, page_dir, group, best, looks),
        "looks": look_table(wording, looks),
        "other_looks": wording.number(others, "d") if others else "",
        "looks_file": f"[{FILE_NAME}]({FILE_NAME})" if table.exists() else FILE_NAME,
        "unit": wording.say("patient" if unit == "patient" else "image"),
        "folds": _out_of_fold_line(wording, group),
        "patients": patient_lines(wording, results_dir, (tested or group)[0]),
        "warnings": warning_lines(wording, group),
        "best": _best_lines(wording, group, best) if len(tested) > 1 else [],
        "has_baselines": any(run.kind == "baseline" for run in group),
        "members": member_lines(wording, group),
        "picture": picture,
        "pairs": pairs,
        "costs": cost_table(wording, group),
        "cross_validation": cross_validation_table(wording, results_dir, group),
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


def _out_of_fold_line(wording: Wording, group: Sequence[StoredRun]) -> str:
    """Which runs of a table have val figures out of fold; empty where none has."""
    numbers = [str(number) for number, run in enumerate(group, 1) if run.val_out_of_fold]
    return wording.say("below_table_folds", runs=", ".join(numbers)) if numbers else ""


def _best_lines(
    wording: Wording, group: Sequence[StoredRun], best: Mapping[str, Best]
) -> list[str]:
    """A sentence on the highest accuracy and one on the highest AUC on test."""
    lines = []
    for key, (run, unclear) in best.items():
        highest = run.metrics["test"][key]
        tied = [run, *(other for other in unclear if other.metrics["test"][key] == highest)]
        named = (
            wording.say("run_number", number=group.index(of) + 1, run=of.shown_name) for of in tied
        )
        values = {
            "figure": wording.say(f"test_{key}"),
            "runs": wording.say("and").join(named),
            "number": group.index(run) + 1,
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
        }
        for number, run in enumerate(group, 1)
        if shown.get(run.group_key) is run
    ]
    several = len(shown) < sum("test" in run.predictions for run in group)
    which = " · of several seeds the one with the highest val AUC" if several else ""
    n = sum(group[0].metrics["data"]["counts"]["test"].values())
    title = f"{group[0].source} · test n = {n}, held out · bars: 95 % intervals{which}"
    comparison_plots.draw_comparison(points, picture, title=title)
