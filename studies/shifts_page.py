"""Tables, picture and pages of `studies.shifts`, made of what it has stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from chestlab.evaluation import verdicts
from chestlab.evaluation.out_of_fold import BASELINE_KIND, MEASURES, OutOfFold
from chestlab.evaluation.packed_logits import read_packed
from chestlab.evaluation.prevalence import FIGURES, at_prevalence
from chestlab.evaluation.verdicts import UNKNOWN, Estimate, Noise
from chestlab.files.errors import InputError
from chestlab.reporting.page import NOTHING, Wording
from studies.stored_results import read_summary, unlike_images
from studies.study import ENGLISH, interval_cell, interval_columns, p_cell, write_readmes

if TYPE_CHECKING:  # Matplotlib is loaded where something is drawn
    from matplotlib.axes import Axes

LOGITS = "logits.csv.bz2"

NONE = "none"  # the images as they are

PREVALENCES = (0.5, 0.2)  # of pneumothorax, beside that of the images

LIMITS = {"auc": 0.01, "accuracy": 0.02}  # a loss that is surely smaller does no harm

SILENT = 0.1  # `predict.py` warns of fewer: the loss comes without a warning

NAMES = ("efficientchestnet", "residualchestnet")  # networks that are shown

HURTS, HARMLESS, OPEN, HELPS = "hurts", "harmless", "open", "helps"

UNTESTED = "untested"  # with a single repeat

WORDS = {
    "en": {
        HURTS: "**hurts**",
        HARMLESS: "harmless",
        OPEN: "open",
        HELPS: "helps",
        UNTESTED: NOTHING,
    },
    "id": {
        HURTS: "**merugikan**",
        HARMLESS: "aman",
        OPEN: "belum pasti",
        HELPS: "membantu",
        UNTESTED: NOTHING,
    },
}

HEADS = {  # of the first table: shift, change of each measure, warnings
    "en": ("shift", ("AUC", "accuracy"), "`predict.py` warns"),
    "id": ("pergeseran", ("AUC", "akurasi"), "peringatan `predict.py`"),
}

LABELS = {  # of each kind of shift, with its strength
    "en": {
        "resample": "{side} px and back, {filter}",
        "blur": "blur, sd {sd} px",
        "sharpen": "sharpened",
        "gamma": "gamma {power}",
        "window": "window, {percent} % cut at each end",
        "contrast": "contrast x {factor}",
        "brightness": "brightness {added}",
        "jpeg": "JPEG, quality {quality}",
        "border": "black border, {width} px",
        "letter": "letter {letter} in a corner",
        "tilt": "tilted by {degrees} degrees",
        "noise": "noise, sd {sd} grey levels",
        "inverted": "negative",
        "equalized": "histogram equalized",
    },
    "id": {
        "resample": "{side} px lalu kembali, {filter}",
        "blur": "kabur, simpangan baku {sd} px",
        "sharpen": "dipertajam",
        "gamma": "gamma {power}",
        "window": "windowing, {percent} % dipotong di tiap ujung",
        "contrast": "kontras x {factor}",
        "brightness": "kecerahan {added}",
        "jpeg": "JPEG, mutu {quality}",
        "border": "bingkai hitam, {width} px",
        "letter": "huruf {letter} di sudut",
        "tilt": "miring {degrees} derajat",
        "noise": "derau, simpangan baku {sd} tingkat keabuan",
        "inverted": "negatif",
        "equalized": "histogram diratakan",
    },
}

Row = Mapping[str, Any]


def read_shifts(folder: Path, name: str) -> dict[str, Any]:
    """What ``<name>.json`` holds.

    Raises:
        InputError: it is missing or damaged.
    """
    summary = read_summary(folder, name, "networks")
    if not isinstance(summary.get("shifts"), dict) or not summary["shifts"]:
        raise InputError(f"'{folder / f'{name}.json'}': 'shifts' is missing, empty or no object")
    return summary


def read_stored(folder: Path, name: str) -> tuple[dict[str, Any], dict[str, OutOfFold]]:
    """What ``<name>.json`` holds, and the logits by network.

    Raises:
        InputError: one of the files is missing or damaged, or they are not of one study.
    """
    summary, logits = read_shifts(folder, name), read_packed(folder / LOGITS)
    shifts = {NONE, *summary["shifts"]}
    if set(logits) != set(summary["networks"]) or any(
        set(of_network.logits) != shifts for of_network in logits.values()
    ):
        raise InputError(f"'{folder}': {LOGITS} and {name}.json are not of the same study")
    for network, oof in logits.items():
        repeats, of_study = summary["networks"][network].get("repeats"), summary["repeats"]
        wrong = unlike_images(summary, oof)
        if not isinstance(repeats, list) or len(repeats) != len(oof.folds):
            wrong = f"'repeats' of '{network}' are not the {len(oof.folds)} that have logits"
        elif not all(repeat in range(1, of_study + 1) for repeat in repeats):
            wrong = f"'repeats' of '{network}' are not from 1 to {of_study}"
        if wrong:
            raise InputError(f"'{folder}': {LOGITS} is not of the study of {name}.json: {wrong}")
    return summary, logits


def tables_of(
    summary: Mapping[str, Any], logits: Mapping[str, OutOfFold]
) -> dict[str, list[dict[str, Any]]]:
    """For each network a row per shift, with its figures and what it changes.

    Differences are paired with the same network on images as they are. The variance between repeats
    is pooled over the networks of a shift, and not over shifts, which are too unlike each other in
    strength; the baseline has its own. Holm's correction is for the shifts of a network, of one
    measure.
    """
    names = list(summary["shifts"])
    networks = [n for n in logits if summary["networks"][n]["kind"] != BASELINE_KIND]
    tables: dict[str, list[dict[str, Any]]] = {}
    for network, oof in logits.items():
        rows: list[dict[str, Any]] = [{"shift": name} for name in names]
        alike = networks if network in networks else [network]
        for measure in MEASURES:
            changes = [
                verdicts.gain(
                    oof.score(name, measure),
                    oof.score(NONE, measure),
                    _noise([_differences(logits[n], name, measure) for n in alike]),
                )
                for name in names
            ]
            found = verdicts.verdicts(changes, [(0, np.inf)] * len(changes))
            for row, change, verdict in zip(rows, changes, found, strict=True):
                row[measure] = float(oof.score(row["shift"], measure)[0].mean())
                row |= interval_columns(f"{measure}_change", change)
                row |= {f"{measure}_p": verdict.p, f"{measure}_p_holm": verdict.p_holm}
                row[f"{measure}_verdict"] = _verdict(change, verdict.holm, LIMITS[measure])
        tables[network] = rows
    return tables


def _differences(oof: OutOfFold, name: str, measure: str) -> np.ndarray:
    """(R,) of the repeats."""
    return oof.score(name, measure)[0] - oof.score(NONE, measure)[0]


def _noise(figures: Sequence[np.ndarray]) -> Noise:
    """Variance between repeats of a figure or difference, pooled over networks."""
    freedom = sum(len(values) - 1 for values in figures)
    if not freedom:
        return UNKNOWN
    squares = sum(float(((values - values.mean()) ** 2).sum()) for values in figures)
    return Noise(squares / freedom, freedom)


def _verdict(change: Estimate, holm: str, limit: float) -> str:
    if change.seeds < 2:
        return UNTESTED
    if holm != "undecided":
        return HELPS if change.value > 0 else HURTS
    return HARMLESS if change.low > -limit else OPEN


def by_damage(summary: Mapping[str, Any], tables: Mapping[str, Sequence[Row]]) -> list[str]:
    """The shifts, those first that lower the AUC of the networks most, on average."""
    networks = [n for n in tables if summary["networks"][n]["kind"] != BASELINE_KIND]
    changes = np.mean([[row["auc_change"] for row in tables[n]] for n in networks], axis=0)
    names = list(summary["shifts"])
    return [names[k] for k in np.argsort(changes, kind="stable")]


def prevalence_tables(networks: Mapping[str, OutOfFold]) -> dict[str, list[dict[str, Any]]]:
    """For each network a row per share of pneumothorax, with what changes from the images' own.

    The variance between repeats is pooled over the networks. A predictive value is left out where a
    repeat predicts one class alone.
    """
    own = float(next(iter(networks.values())).labels.mean())
    at_own = {name: at_prevalence(oof, NONE, own) for name, oof in networks.items()}
    tables: dict[str, list[dict[str, Any]]] = {name: [] for name in networks}
    for share in (own, *PREVALENCES):
        scores = {name: at_prevalence(oof, NONE, share) for name, oof in networks.items()}
        values = {
            figure: [of[figure][0] for of in scores.values() if np.isfinite(of[figure][0]).all()]
            for figure in FIGURES
        }
        changes = _noise([scores[n]["accuracy"][0] - at_own[n]["accuracy"][0] for n in networks])
        for name, of in scores.items():
            row: dict[str, Any] = {"share": share, "own": share == own}
            for figure in FIGURES:
                if np.isfinite(of[figure][0]).all():
                    found = verdicts.estimate(*of[figure], _noise(values[figure]))
                    row |= interval_columns(figure, found)
            change = verdicts.gain(of["accuracy"], at_own[name]["accuracy"], changes)
            tables[name].append(row | interval_columns("accuracy_change", change))
    return tables


def write_page(folder: Path) -> None:
    """Write ``shifts.png`` and the page in two languages.

    Raises:
        InputError: the logits or ``shifts.json`` are missing or damaged, or not of one study.
    """
    summary, logits = read_stored(folder, "shifts")
    if set(summary.get("warned", ())) != {NONE, *summary["shifts"]}:
        raise InputError(f"'{folder / 'shifts.json'}' is missing or damaged")
    tables = tables_of(summary, logits)
    order = by_damage(summary, tables)
    tables = {
        n: sorted(rows, key=lambda row: order.index(row["shift"])) for n, rows in tables.items()
    }
    _draw(summary, tables, folder / "shifts.png")
    networks = [n for n in tables if summary["networks"][n]["kind"] != BASELINE_KIND]
    prevalences = prevalence_tables({name: logits[name] for name in networks})
    hurting = {row["shift"] for n in networks for row in tables[n] if row["auc_verdict"] == HURTS}
    silent = [n for n in order if n in hurting and summary["warned"][n]["any"] < SILENT]
    first = logits[networks[0]]
    images = OutOfFold(first.origin, first.index, first.labels, first.patients, first.folds, {})

    def values(wording: Wording) -> dict[str, Any]:
        return {
            "shifts": len(order),
            "missing": [name for name in NAMES if name not in summary["networks"]],
            "answers": [_answer(wording, summary, n, tables[n], logits[n]) for n in tables],
            "overview_heads": _overview_heads(wording, list(tables)),
            "overview": [_overview_cells(wording, summary, tables, name) for name in order],
            "details": [
                (n, [_cells(wording, summary, row) for row in rows]) for n, rows in tables.items()
            ],
            "silent": "; ".join(label(wording, summary, name) for name in silent),
            "prevalences": [
                _prevalence_cells(wording, n, row) for n in networks for row in prevalences[n]
            ],
            "warned_none": wording.percent(summary["warned"][NONE]["any"]),
            "inverted": wording.percent(summary["warned"]["inverted"]["inverted"]),
            "not_inverted": wording.percent(summary["warned"][NONE]["inverted"]),
            "normalized": [
                n for n in networks if summary["networks"][n]["normalize"] == "per-image"
            ],
            "rotations": " / ".join(
                wording.number(summary["networks"][n]["rotate"], "g") for n in networks
            ),
            "limits": {key: wording.number(value, ".2f") for key, value in LIMITS.items()},
        }

    write_readmes(folder, "shifts", summary, images, values)


def label(wording: Wording, summary: Mapping[str, Any], name: str) -> str:
    """A shift in words."""
    strength = dict(summary["shifts"][name])
    kind = strength.pop("kind")
    texts = {
        key: value
        if isinstance(value, str)
        else wording.number(value, "+g" if key == "added" else "g")
        for key, value in strength.items()
    }
    return LABELS[wording.language][kind].format(**texts)


def _answer(
    wording: Wording, summary: Mapping[str, Any], name: str, rows: Sequence[Row], oof: OutOfFold
) -> dict[str, Any]:
    """What the page says first of a network: the shifts of each verdict on its AUC."""

    def listed(wanted: Sequence[Row], measure: str) -> str:
        worst = sorted(wanted, key=lambda row: row[f"{measure}_change"])
        return "; ".join(
            f"{label(wording, summary, row['shift'])} "
            f"({wording.number(row[f'{measure}_change'], '+.3f')})"
            for row in worst
        )

    of = {v: [row for row in rows if row["auc_verdict"] == v] for v in WORDS["en"]}
    threshold = [
        row for row in rows if row["accuracy_verdict"] == HURTS and row["auc_verdict"] != HURTS
    ]
    about = summary["networks"][name]
    return {
        "name": name,
        "baseline": about["kind"] == BASELINE_KIND,
        "repeats": about["repeats"],
        **{m: wording.number(float(oof.score(NONE, m)[0].mean())) for m in MEASURES},
        "hurt": len(of[HURTS]),
        "worst": listed(sorted(of[HURTS], key=lambda row: row["auc_change"])[:5], "auc"),
        "safe": len(of[HARMLESS]),
        "untested": listed(of[UNTESTED], "auc"),
        "hurting": listed(of[HURTS], "auc"),
        "threshold": listed(threshold, "accuracy"),
        "harmless": "; ".join(label(wording, summary, row["shift"]) for row in of[HARMLESS]),
        "open": listed(of[OPEN], "auc"),
        "helping": listed(of[HELPS], "auc"),
    }


def _overview_heads(wording: Wording, networks: Sequence[str]) -> list[str]:
    first, measures, last = HEADS[wording.language]
    changes = [f"{measure}, `{network}`" for measure in measures for network in networks]
    return [first, *changes, last]


def _overview_cells(
    wording: Wording, summary: Mapping[str, Any], tables: Mapping[str, Sequence[Row]], name: str
) -> list[str]:
    """A line of the first table: what a shift changes, for every network."""
    words = WORDS[wording.language]
    cells = [label(wording, summary, name)]
    for measure in MEASURES:
        for rows in tables.values():
            (row,) = (row for row in rows if row["shift"] == name)
            change = wording.number(row[f"{measure}_change"], "+.3f")
            cells.append(f"{change} {words[row[f'{measure}_verdict']]}".removesuffix(f" {NOTHING}"))
    return [*cells, wording.percent(summary["warned"][name]["any"])]


def _cells(wording: Wording, summary: Mapping[str, Any], row: Row) -> list[str]:
    """A line of a network's own table."""
    cells = [label(wording, summary, row["shift"])]
    for measure in MEASURES:
        cells.append(wording.number(row[measure]))
        cells.append(interval_cell(wording, row, f"{measure}_change", "+.3f"))
        cells.append(p_cell(row[f"{measure}_p_holm"], wording))
        cells.append(WORDS[wording.language][row[f"{measure}_verdict"]])
    return cells


def _prevalence_cells(wording: Wording, name: str, row: Row) -> list[str]:
    cells = [f"`{name}`", wording.percent(row["share"])]
    for figure in FIGURES:
        cells.append(interval_cell(wording, row, figure) if figure in row else NOTHING)
    cells.append(NOTHING if row["own"] else interval_cell(wording, row, "accuracy_change", "+.3f"))
    return cells


def _draw(summary: Mapping[str, Any], tables: Mapping[str, Sequence[Row]], path: Path) -> None:
    """Draw what each shift changes, the most harmful first, a point for each network."""
    from matplotlib.lines import Line2D

    from chestlab.reporting.style import (
        BLUE,
        GREY,
        INK,
        SMALL,
        VERMILLION,
        finish,
        tidy,
        titled_figure,
    )

    colors = iter((BLUE, VERMILLION))
    looks = {
        name: (GREY, "s") if about["kind"] == BASELINE_KIND else (next(colors), "o")
        for name, about in summary["networks"].items()
    }
    names = [row["shift"] for row in next(iter(tables.values()))]
    first = next(iter(tables))
    hurt = sum(row["auc_verdict"] == HURTS for row in tables[first])
    figure = titled_figure(
        f"{hurt} of {len(names)} made-up shifts lower the AUC of {first} (after Holm)\n"
        f"{summary['data']['source']} · train + val, fresh folds, trained on images as they are",
        body_height=0.9 + 0.36 * len(names),
    )
    panels = figure.subplots(1, 2, sharey=True)
    for axes, measure, text in zip(panels, MEASURES, ("AUC", "accuracy at 0.5"), strict=True):
        axes.axvline(0, color=INK, linewidth=1.2, zorder=1)
        for number, (network, rows) in enumerate(tables.items()):
            aside = 0.24 * (number - (len(tables) - 1) / 2)
            _draw_changes(axes, rows, measure, aside, *looks[network])
        # losses range from a thousandth to a half: linear near 0, logarithmic beyond
        axes.set_xscale("symlog", linthresh=0.02, linscale=0.6)
        axes.set_xticks([-0.5, -0.2, -0.05, -0.02, 0, 0.02, 0.05])
        axes.set_xticklabels(["-.5", "-.2", "-.05", "-.02", "0", ".02", ".05"])
        axes.minorticks_off()
        tidy(axes, f"\N{LEFTWARDS ARROW} hurts   change of {text}", "")
    labels = [label(ENGLISH, summary, name) for name in names]
    panels[0].set_yticks(range(len(names)), labels, fontsize=SMALL)
    panels[0].set_ylim(len(names) - 0.4, -0.6)
    handles = [
        Line2D([], [], label=name, color=color, marker=marker, linestyle="")
        for name, (color, marker) in looks.items()
    ]
    notes = [
        "Filled: different from 0 after Holm's correction. Bars: 95 % intervals over patients and "
        "repeats. Beyond 0.02 the axis is logarithmic."
    ]
    finish(figure, path, handles, notes)


def _draw_changes(
    axes: Axes, rows: Sequence[Row], measure: str, aside: float, color: str, marker: str
) -> None:
    """Draw a network's change by each shift with its interval, ``aside`` of the shift's line."""
    for place, row in enumerate(rows):
        value, low, high = (row[f"{measure}_change{end}"] for end in ("", "_low", "_high"))
        sure = row[f"{measure}_verdict"] in (HURTS, HELPS)
        axes.errorbar(
            [value],
            [place + aside],
            xerr=[[max(0, value - low)], [max(0, high - value)]],
            color=color,
            marker=marker,
            markersize=5,
            markerfacecolor=color if sure else "white",
            elinewidth=1.2,
        )
