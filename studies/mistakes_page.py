"""Pictures and pages of `studies.mistakes`, made of what it has computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from chestlab.data.splits import CLASS_NAMES, NIH_CREDIT, Split
from chestlab.evaluation.out_of_fold import NESTED_ACCURACY, OutOfFold
from chestlab.reporting.page import NOTHING, Wording, escaped
from chestlab.reporting.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    NORMAL,
    SMALL,
    VERMILLION,
    finish,
    reduced,
    set_padding,
    tidy,
    titled_figure,
)
from studies.mistakes_figures import LEFT_OUT, Row
from studies.study import interval_cell, p_cell, write_readmes

COLUMNS = 6  # of the picture of mistakes

IN_TABLE = (0, 10, 20, 30, 50)  # percent left out

WORDS = {  # by language: of verdicts, properties and groups, as the JSON names them
    "en": {
        "helps": "**helps**",
        "hurts": "**hurts**",
        "undecided": "undecided",
        "yes": "yes",
        "no": "no",
        "images_of_patient": "images of the patient",
        "black_border": "black border",
        "marked": "box by a radiologist",
        "auc": "AUC",
        "nothing_found": "none",
    },
    "id": {
        "helps": "**membantu**",
        "hurts": "**merugikan**",
        "undecided": "belum dapat disimpulkan",
        "yes": "ya",
        "no": "tidak",
        "class": "kelas",
        "cardiomegaly": "kardiomegali",
        "pneumothorax": "pneumotoraks",
        "images_of_patient": "jumlah citra pasien",
        "one": "satu",
        "several": "beberapa",
        "brightness": "kecerahan",
        "contrast": "kontras",
        "black_border": "bingkai hitam",
        "none": "tanpa",
        "some": "ada",
        "split": "bagian data",
        "train": "latih",
        "val": "validasi",
        "view": "arah sinar",
        "sex": "jenis kelamin",
        "F": "perempuan",
        "M": "laki-laki",
        "age": "usia",
        "marked": "kotak oleh radiolog",
        "accuracy": "akurasi",
        "auc": "AUC",
        "nothing_found": "tidak ada",
    },
}


def _word(wording: Wording, key: str) -> str:
    """A name of the JSON in the page's language; quarters are numbered."""
    name, _, number = key.rpartition(" ")
    if name == "quarter":
        return f"{'kuartil' if wording.language == 'id' else 'quarter'} {number}"
    return WORDS[wording.language].get(key, key)


def write_page(folder: Path, summary: Mapping[str, Any], oof: OutOfFold, images: Split) -> None:
    """Write ``reliability.png``, ``mistakes.png`` and the page in two languages.

    Args:
        folder: of the results.
        summary: of ``mistakes.json``.
        oof: the logits that it was computed from.
        images: N, those of the logits.
    """
    _draw_reliability(summary, folder / "reliability.png")
    _draw_mistakes(summary, images, folder / "mistakes.png")
    write_texts(folder, summary, oof)


def write_texts(folder: Path, summary: Mapping[str, Any], oof: OutOfFold) -> None:
    """Write the page in two languages; arguments as of `write_page`."""
    write_readmes(
        folder,
        "mistakes",
        summary,
        oof,
        lambda wording: {
            "s": summary,
            "number": wording.number,
            "word": lambda key: _word(wording, key),
            "cell": lambda row, name, form=".3f": interval_cell(wording, row, name, form),
            "p": lambda p: p_cell(float("nan") if p is None else p, wording),
            "best": _row_of(summary["calibration"], summary),
            "best_selective": _row_of(summary["selective"], summary),
            "best_threshold": _row_of(summary["thresholds"], summary),
            "verdicts": _counts(summary),
            "calibration": [_calibration_cells(wording, row) for row in summary["calibration"]],
            "errors": [_error_cells(wording, row) for row in summary["calibration"]],
            "thresholds": [_threshold_cells(wording, row) for row in summary["thresholds"]],
            "selective": [
                [f"`{row['configuration']}`"]
                + [interval_cell(wording, row, f"without_{share}") for share in IN_TABLE]
                for row in summary["selective"]
            ],
            "mistakes": [_mistake_cells(wording, row, summary) for row in summary["mistakes"]],
            "shared": [_shared_cells(wording, row) for row in summary["shared"]],
            "subgroups": [_subgroup_cells(wording, row) for row in summary["subgroups"]],
            "comparisons": [_comparison_cells(wording, row) for row in summary["comparisons"]],
            "properties": [_property_cells(wording, row) for row in summary["properties"]],
            "shortcuts": [
                (_word(wording, row["property"]), interval_cell(wording, row, "matched", "+.3f"))
                for row in summary["properties"]
                if row["shortcut"]
            ],
            "differing": [row for row in summary["comparisons"] if row["differs"]],
        },
    )


def _cell(wording: Wording, row: Row, name: str, form: str = ".3f") -> str:
    """As `interval_cell`, for a value that there may not be."""
    return NOTHING if row[name] is None else interval_cell(wording, row, name, form)


def _row_of(rows: Sequence[Row], summary: Mapping[str, Any]) -> Row:
    """The row of the network that the page is about."""
    return next(row for row in rows if row["configuration"] == summary["network"]["name"])


def _counts(summary: Mapping[str, Any]) -> dict[str, int]:
    """How many configurations the temperature helps, hurts, and leaves undecided."""
    decided = [row["verdict"] for row in summary["calibration"]]
    return {verdict: decided.count(verdict) for verdict in ("helps", "hurts", "undecided")}


def _calibration_cells(wording: Wording, row: Row) -> list[str]:
    p_holm = float("nan") if row["p_holm"] is None else row["p_holm"]
    return [
        f"`{row['configuration']}`",
        interval_cell(wording, row, "temperature", ".2f"),
        interval_cell(wording, row, "loss"),
        interval_cell(wording, row, "loss_after"),
        interval_cell(wording, row, "loss_change", "+.3f"),
        p_cell(p_holm, wording),
        _word(wording, row["verdict"]),
    ]


def _error_cells(wording: Wording, row: Row) -> list[str]:
    brier = {"brier": ".3f", "brier_after": ".3f", "brier_change": "+.3f"}
    errors = ("ece", "ece_by_chance", "ece_after", "ece_by_chance_after")
    return [
        f"`{row['configuration']}`",
        *(interval_cell(wording, row, name, form) for name, form in brier.items()),
        *(wording.number(row[name]) for name in errors),
    ]


def _threshold_cells(wording: Wording, row: Row) -> list[str]:
    run = row.get("run")
    ends = [row["threshold_low"], row["threshold_high"]]
    val = (
        [row["val_threshold_low"], row["val_threshold_high"]] if "val_threshold_low" in row else []
    )
    return [
        f"`{row['configuration']}`",
        wording.with_interval(row["threshold"], ends, ".2f"),
        wording.interval(val, ".2f").strip("()") or NOTHING,
        wording.number(row["run_threshold"], ".2f") if run else NOTHING,
        interval_cell(wording, row, "accuracy"),
        interval_cell(wording, row, NESTED_ACCURACY),
        interval_cell(wording, row, "nested_gain", "+.3f"),
        wording.number(row["run_accuracy"]) if run else NOTHING,
    ]


def _mistake_cells(wording: Wording, row: Row, summary: Mapping[str, Any]) -> list[str]:
    others, patient = len(summary["other_networks"]), row["patient"]
    hog = (
        NOTHING if row["hog_wrong"] is None else _word(wording, "yes" if row["hog_wrong"] else "no")
    )
    beside = NOTHING
    if patient:
        counts = [
            f"{patient[name]} {_word(wording, name)}" for name in CLASS_NAMES if patient[name]
        ]
        beside = ", ".join(counts) or _word(wording, "nothing_found")
    cells = [
        f"{_word(wording, row['split'])} {row['index']}",
        escaped(row["name"] or NOTHING),
        _word(wording, CLASS_NAMES[row["label"]]),
        wording.number(row["probability"]),
        f"{row['wrong_repeats']} / {summary['repeats']}",
        hog,
        f"{row['others_wrong']} / {others}" if others else NOTHING,
        beside,
    ]
    return cells + ([] if row["table"] is None else [escaped(row["table"]) or NOTHING])


def _shared_cells(wording: Wording, row: Row) -> list[str]:
    shares = [_cell(wording, row, key) for key in ("where_wrong", "where_right")]
    return [f"`{row['configuration']}`", wording.number(row["both"], "d"), *shares]


def _subgroup_cells(wording: Wording, row: Row) -> list[str]:
    group = _word(wording, row["group"])
    if row["group"].startswith("quarter"):
        form = ".0f" if row["property"] == "age" else ".2f"
        ends = [wording.number(row[end], form) for end in ("from", "to")]
        group += f" ({ends[0]}\N{EN DASH}{ends[1]})"
    return [
        _word(wording, row["property"]),
        group,
        wording.number(row["images"], "d"),
        wording.number(row["patients"], "d") if "patients" in row else NOTHING,
        wording.number(row["share"], ".2f"),
        interval_cell(wording, row, "accuracy"),
        interval_cell(wording, row, "auc") if "auc" in row else NOTHING,
    ]


def _comparison_cells(wording: Wording, row: Row) -> list[str]:
    p, p_holm = (float("nan") if row[key] is None else row[key] for key in ("p", "p_holm"))
    return [
        _word(wording, row["property"]),
        f"{_word(wording, row['group'])} \N{MINUS SIGN} {_word(wording, row['less'])}",
        _word(wording, row["measure"]),
        interval_cell(wording, row, "difference", "+.3f"),
        wording.number(row["detectable"]),
        p_cell(p, wording),
        p_cell(p_holm, wording),
    ]


def _property_cells(wording: Wording, row: Row) -> list[str]:
    forms = {"alone_auc": ".3f", "link": "+.2f", "matched": "+.3f"}
    cells = [_cell(wording, row, key, form) for key, form in forms.items()]
    for key in ("p", "p_holm"):
        cells.append(p_cell(float("nan") if row[key] is None else row[key], wording))
    possible = f"**{_word(wording, 'yes')}**" if row["shortcut"] else _word(wording, "no")
    return [_word(wording, row["property"]), *cells, possible]


def _draw_reliability(summary: Mapping[str, Any], path: Path) -> None:
    """Draw reliability, accuracy without the unsure, and figures of subgroups."""
    name = summary["network"]["name"]
    kept = _row_of(summary["selective"], summary)
    change = _row_of(summary["calibration"], summary)
    groups = summary["subgroups"]
    heights = [3.1, 0.8 + 0.23 * len(groups)]
    figure = titled_figure(
        f"{name}: accuracy {kept['without_0']:.3f}, on the surest half of the images "
        f"{kept['without_50']:.3f}\n{summary['data']['source']} · train + val, fresh folds, "
        f"{summary['repeats']} x {summary['folds']} · of those here the highest AUC",
        body_height=sum(heights),
    )
    upper, lower = figure.subfigures(2, 1, height_ratios=heights, squeeze=False)[:, 0]
    left, right = upper.subplots(1, 2)
    _draw_bins(left, summary["reliability"], change["temperature"])
    _draw_selective(right, summary)
    panels = lower.subplots(1, 2, sharey=True)
    labels = [f"{_word(Wording('en'), row['property'])}: {row['group']}" for row in groups]
    for axes, measure, label in zip(panels, ("accuracy", "auc"), ("accuracy", "AUC"), strict=True):
        _draw_groups(axes, groups, measure)
        tidy(axes, f"{label} by group of images", "")
    panels[0].set_yticks(range(len(groups)), labels, fontsize=SMALL - 0.5)
    panels[0].set_ylim(len(groups) - 0.4, -0.6)
    for axes, whole in zip(panels, (kept["without_0"], summary["auc"]["auc"]), strict=True):
        axes.axvline(whole, color=INK, linewidth=1, zorder=1)
    handles = [*left.get_legend_handles_labels()[0], *right.get_legend_handles_labels()[0]]
    notes = "Means of single networks, out of fold. Bars and band: 95 % intervals over patients"
    notes += " and repeats (reliability: patients). Vertical lines: all images."
    finish(figure, path, handles, [notes])


def _draw_bins(axes: Axes, rows: Sequence[Row], temperature: float) -> None:
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1.2)
    for after, color, marker, label in (
        (False, GREY, "s", "probabilities as trained"),
        (True, BLUE, "o", f"logits divided by a temperature, {temperature:.2f}"),
    ):
        shown = [row for row in rows if row["after"] == after]
        x, y, low, high = (
            np.array([row[key] for row in shown], float)
            for key in ("probability", "share", "share_low", "share_high")
        )
        style = {"color": color, "marker": marker, "markersize": 5, "linewidth": 1, "capsize": 2}
        bars = np.maximum([y - low, high - y], 0)
        axes.errorbar(x, y, yerr=bars, label=label, elinewidth=1.2, **style)
    tidy(axes, "probability of pneumothorax", "share with pneumothorax")


def _draw_selective(axes: Axes, summary: Mapping[str, Any]) -> None:
    """A line for each network, average and baseline; a band around the page's network."""
    colors = {"average": VERMILLION, "yardstick": GREEN}
    labels = {"network": "other networks", "average": "average", "yardstick": "baselines"}
    best = summary["network"]["name"]
    percent = [100 * share for share in LEFT_OUT]
    said = set()
    for row in summary["selective"]:
        name = row["configuration"]
        kind = summary["kinds"][name]
        values, low, high = (
            [row[f"without_{round(share)}{end}"] for share in percent]
            for end in ("", "_low", "_high")
        )
        if name == best:
            axes.fill_between(percent, low, high, color=BLUE, alpha=0.18, linewidth=0)
            axes.plot(percent, values, color=BLUE, marker="o", markersize=4, label=name, zorder=3)
        elif kind in labels:
            label = None if kind in said else labels[kind]
            said.add(kind)
            dashes = ":" if kind == "yardstick" else "-"
            style = {"color": colors.get(kind, GREY), "linewidth": 1, "linestyle": dashes}
            axes.plot(percent, values, label=label, **style)
    tidy(axes, "% left out, least sure first", "accuracy of the other images")


def _draw_groups(axes: Axes, rows: Sequence[Row], measure: str) -> None:
    """A point with its interval for each group that has the measure, from the top."""
    for place, row in enumerate(rows):
        if measure in row:
            value, low, high = (row[measure + end] for end in ("", "_low", "_high"))
            style = {"color": BLUE, "marker": "o", "markersize": 5, "capsize": 2.5}
            bars = np.maximum([[value - low], [high - value]], 0)
            axes.errorbar([value], [place], xerr=bars, elinewidth=1.6, **style)


def _draw_mistakes(summary: Mapping[str, Any], images: Split, path: Path) -> None:
    """Draw the surest mistakes in two groups, by their label, the surest first."""
    rows = summary["mistakes"]
    by_label = [[row for row in rows if row["label"] == label] for label in (1, 0)]
    bands = [band for band in by_label if band]
    heights = [-(-len(band) // COLUMNS) for band in bands]
    name, source = summary["network"]["name"], summary["data"]["source"]
    credit = "" if summary["data"]["phantom"] else f"\n{NIH_CREDIT}"
    figure = titled_figure(
        f"The {len(rows)} surest of {summary['images_wrong']} mistakes of {name}, in "
        f"{len(images)} images\n{source} · train + val, fresh folds, mean logit of "
        f"{summary['repeats']} repeats{credit}",
        body_height=1.85 * sum(heights) + 0.35 * len(bands) if bands else 0.5,
    )
    set_padding(figure, hspace=0.03)
    parts = (
        figure.subfigures(len(bands), 1, height_ratios=heights, squeeze=False)[:, 0]
        if bands
        else ()
    )
    for part, band, height in zip(parts, bands, heights, strict=True):
        label = band[0]["label"]
        heading = f"labelled {CLASS_NAMES[label]}, predicted {CLASS_NAMES[1 - label]}: {len(band)}"
        part.suptitle(heading, fontsize=NORMAL, weight="bold", color=INK)
        tiles = part.subplots(height, COLUMNS, squeeze=False).ravel()
        for axes, row in zip(tiles, band, strict=False):
            picture = reduced(images.images[row["row"]])
            axes.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            text = f"p = {row['probability']:.3f}\n{row['split']} {row['index']}"
            axes.set_xlabel(text, fontsize=SMALL, color=INK, labelpad=3)
        for axes in tiles[len(band) :]:
            axes.set_axis_off()
    finish(
        figure, path, notes=["p: probability of pneumothorax, of the mean logit. Row of the file."]
    )
