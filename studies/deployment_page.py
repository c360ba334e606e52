"""Tables, picture and pages of `studies.deployment`, made of what it has stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from chestlab.evaluation.out_of_fold import MEASURES, OutOfFold
from chestlab.reporting.page import NOTHING, Wording
from studies.deployment_costs import BATCHES, THREADS, busy
from studies.stored_results import read_results
from studies.study import interval_columns, write_readmes, write_table

TORCH, BASE, INT8, ZEROS = "torch", "fp32", "int8", "zeros_"  # variants, and how some begin

METHODS = ("minmax", "entropy")  # of finding ranges of activations

ODD = 0.1  # a change of time by zeros, which change nothing that is computed

OVERLAP = "_overlap"  # after the name of a ratio of times: their quartiles overlap

FASTER, SMALLER, LOSS = 1.5, 2.0, 0.005  # expected of onnxruntime, of int8's size and of its AUC

WORDS = {  # of a cell, by language
    "en": {"yes": "yes", "no": "**no**", "open": "open", "untrained": "untrained", "trained": ""},
    "id": {
        "yes": "ya",
        "no": "**tidak**",
        "open": "belum pasti",
        "untrained": "tak dilatih",
        "trained": "",
    },
}

Row = Mapping[str, Any]


def predictions_table(summary: Mapping[str, Any], oof: OutOfFold) -> list[dict[str, Any]]:
    """A row per file with its figures on the fresh folds, and what it gains over float32."""
    rows = []
    for name, about in summary["configurations"].items():
        row = {"configuration": name, "network": about["network"], "variant": about["variant"]}
        base = f"{about['network']}_{BASE}"
        for measure in MEASURES:
            row |= interval_columns(measure, oof.estimate(name, measure))
        if name != base and base in oof.logits:
            for measure in MEASURES:
                row |= interval_columns(f"{measure}_gain", oof.gain(name, base, measure))
        rows.append(row)
    return rows


def _faster(name: str, slow: Row, fast: Row, time: str) -> dict[str, Any]:
    """How many times faster one file is, and whether the quartiles of both times overlap."""
    ends = [(of[f"{time}_low_ms"], of[f"{time}_high_ms"]) for of in (slow, fast)]
    overlap = max(low for low, _ in ends) <= min(high for _, high in ends)
    return {
        name: slow[f"{time}_median_ms"] / fast[f"{time}_median_ms"],
        f"{name}{OVERLAP}": overlap,
    }


def ratios(costs: Sequence[Row], predictions: Sequence[Row]) -> list[dict[str, Any]]:
    """A row per network with what was expected: how many times faster or smaller.

    Ratios whose name ends in ``threads2`` are of the time of the clock with two threads, where it
    was measured; the others of processor time of one thread, which other programs change least.
    """
    by_name = {(row["network"], row["variant"]): row for row in costs}
    gains = {(row["network"], row["variant"]): row for row in predictions}
    rows = []
    for network in dict.fromkeys(row["network"] for row in costs):
        of = {variant: by_name[network, variant] for variant in (TORCH, BASE, INT8)}
        row = {"network": network, "int8_smaller": of[BASE]["bytes"] / of[INT8]["bytes"]}
        for batch in BATCHES:
            time, wall = f"batch{batch}_threads1_cpu", f"batch{batch}_threads2"
            row |= _faster(f"onnx_faster_batch{batch}", of[TORCH], of[BASE], time)
            row |= _faster(f"int8_faster_batch{batch}", of[BASE], of[INT8], time)
            if of[BASE].get(f"{wall}_median_ms") and of[INT8].get(f"{wall}_median_ms"):
                row |= _faster(f"int8_faster_batch{batch}_threads2", of[BASE], of[INT8], wall)
        gain = gains.get((network, INT8), {})
        if "auc_gain" in gain:
            row["auc_loss"] = -gain["auc_gain"]
            row["auc_loss_low"], row["auc_loss_high"] = (
                -gain["auc_gain_high"],
                -gain["auc_gain_low"],
            )
        rows.append(row)
    return rows


def zeros_table(costs: Sequence[Row]) -> list[dict[str, Any]]:
    """A row per network with zeros: its time over that of the same network without them.

    Clocks as in `ratios`.
    """
    base = {row["network"]: row for row in costs if row["variant"] == BASE}
    rows = []
    for row in costs:
        if row["variant"].startswith(ZEROS):
            dense, over = base[row["network"]], {}
            for batch in BATCHES:
                for ending, clock in (("", "threads1_cpu"), ("_threads2", "threads2")):
                    key = f"batch{batch}_{clock}_median_ms"
                    if row.get(key) and dense.get(key):
                        over[f"time_batch{batch}{ending}"] = row[key] / dense[key]
            sizes = {key: row[key] / dense[key] for key in ("bytes", "zipped")}
            rows.append({"network": row["network"], "variant": row["variant"], **over, **sizes})
    return rows


def write_page(folder: Path) -> None:
    """Write ``table.csv``, ``costs.csv``, ``deployment.png`` and the page in two languages.

    Raises:
        InputError: ``oof.csv`` or ``deployment.json`` is missing or damaged.
    """
    summary, oof = read_results(folder, "deployment", "configurations")
    costs = summary["costs"]["rows"] if summary["costs"] else []
    predictions = predictions_table(summary, oof)
    expected, zeros = ratios(costs, predictions), zeros_table(costs)
    write_table(folder / "table.csv", predictions)
    write_table(folder / "costs.csv", costs)
    if costs:
        _draw(summary, costs, expected, folder / "deployment.png")
    measured = list(dict.fromkeys(row["network"] for row in predictions))
    untrained = {row["network"] for row in costs if not row["trained"]}
    by_others = [value for row in costs for key, value in row.items() if key.endswith("by_others")]
    known = [value for value in by_others if value is not None]

    def values(wording: Wording) -> dict[str, Any]:
        return {
            "machine": summary["costs"]["machine"] if costs else None,
            "expected": [_expected_cells(wording, row) for row in expected],
            "costs": [_cost_cells(wording, row) for row in costs],
            "zeros": [_zeros_cells(wording, row) for row in zeros],
            "predictions": [_prediction_cells(wording, row) for row in predictions],
            "quantised": [
                _ranges_cells(wording, about)
                for about in summary["configurations"].values()
                if about["int8"]
            ],
            "ranges": _ranges(wording, expected, zeros),
            "slower": _slower(expected),
            "losses": _losses(wording, expected),
            "odd": any(abs(value - 1) > ODD for row in zeros for value in _two_threads(row)),
            "only_costs": [row["network"] for row in expected if row["network"] not in measured],
            "other_weights": [n for n in measured if n in untrained],
            "by_others": wording.number(max(known), ".2f") if known else "",
            "busy": sorted({row["network"] for row in costs if _disturbed(row)}),
        }

    write_readmes(folder, "deployment", summary, oof, values)


def _disturbed(row: Row) -> bool:
    return any(busy(value) for key, value in row.items() if key.endswith("by_others"))


def _two_threads(row: Row) -> list[float]:
    return [value for key, value in row.items() if key.endswith("_threads2")]


def _slower(expected: Sequence[Row]) -> dict[int, dict[str, int]]:
    """By batch, of how many networks int8 was timed with two threads, and is slower there.

    Slower without a doubt: the quartiles of both times do not overlap.
    """
    counts = {}
    for batch in BATCHES:
        key = f"int8_faster_batch{batch}_threads2"
        known = [row for row in expected if row.get(key) is not None]
        slower = sum(row[key] < 1 and not row[key + OVERLAP] for row in known)
        counts[batch] = {"of": len(known), "slower": slower}
    return counts


def _losses(wording: Wording, expected: Sequence[Row]) -> list[dict[str, Any]]:
    """Of each network that was judged, the change of AUC by int8, and whether it is a loss."""
    losses = []
    for row in expected:
        if "auc_loss" in row:
            ends = -row["auc_loss_high"], -row["auc_loss_low"]
            change = wording.with_interval(-row["auc_loss"], ends, "+.4f")
            words = {"network": row["network"], "change": change, "lost": ends[1] < 0}
            losses.append(words | {"excluded": row["auc_loss_high"] < LOSS})
    return losses


def _ranges(wording: Wording, expected: Sequence[Row], zeros: Sequence[Row]) -> dict[str, str]:
    """Smallest and largest of each ratio over the networks, as ``1.2 - 3.4``."""
    texts = {}
    for rows in (expected, zeros):
        for key in {key: None for row in rows for key, value in row.items() if value is not None}:
            values = [row[key] for row in rows if key in row]
            if all(isinstance(value, float) for value in values):
                form = ".3f" if key.startswith("auc") else ".2f"
                ends = [wording.number(end, form) for end in (min(values), max(values))]
                texts[key] = " \N{EN DASH} ".join(dict.fromkeys(ends))
    return texts


def _expected_cells(wording: Wording, row: Row) -> list[str]:
    words = WORDS[wording.language]

    def cell(key: str, least: float) -> str:
        if key not in row:
            return NOTHING
        answer = words["yes" if row[key] >= least else "no"]
        if least == 1 and row[f"{key}{OVERLAP}"]:
            answer = words["open"]
        return f"{wording.number(row[key], '.2f')} {answer}"

    loss = NOTHING
    if "auc_loss" in row:
        ends = row["auc_loss_low"], row["auc_loss_high"]
        answer = "no" if row["auc_loss"] >= LOSS else "yes" if ends[1] < LOSS else "open"
        loss = f"{wording.with_interval(row['auc_loss'], ends, '+.4f')} {words[answer]}"
    return [
        f"`{row['network']}`",
        cell("onnx_faster_batch1", FASTER),
        wording.number(row["onnx_faster_batch64"], ".2f"),
        cell("int8_smaller", SMALLER),
        cell("int8_faster_batch1", 1.0),
        cell("int8_faster_batch64", 1.0),
        cell("int8_faster_batch1_threads2", 1.0),
        cell("int8_faster_batch64_threads2", 1.0),
        loss,
    ]


def _cost_cells(wording: Wording, row: Row) -> list[str]:
    words = WORDS[wording.language]
    times = []
    for where in (f"batch{b}_threads{t}" for b in BATCHES for t in THREADS):
        clock = f"{where}_cpu" if where.endswith("1") else where  # one thread never waits
        ends = [row.get(f"{clock}_{end}_ms") for end in ("low", "high")]
        median = row.get(f"{clock}_median_ms")
        times.append(NOTHING if median is None else wording.with_interval(median, ends, ".3g"))
    weights = words["trained" if row["trained"] else "untrained"]
    return [
        f"`{row['network']}`" + (f", {weights}" if weights else ""),
        f"`{row['variant']}`",
        row.get("in_float") or NOTHING,
        wording.number(row["input_size"], "d"),
        wording.number(row["bytes"] / 1e6, ".2f"),
        wording.number(row["multiply_accumulates"] / 1e6, ".1f"),
        *times,
    ]


def _zeros_cells(wording: Wording, row: Row) -> list[str]:
    times = [f"time_batch{batch}{ending}" for ending in ("", "_threads2") for batch in BATCHES]
    values = (row.get(key) for key in (*times, "bytes", "zipped"))
    numbers = [wording.number(value, ".2f") for value in values]
    return [f"`{row['network']}`", f"`{row['variant']}`", *numbers]


def _prediction_cells(wording: Wording, row: Row) -> list[str]:
    figures = []
    for key, form in (
        ("auc", ".3f"),
        ("accuracy", ".3f"),
        ("auc_gain", "+.4f"),
        ("accuracy_gain", "+.4f"),
    ):
        ends = [row.get(f"{key}_{end}") for end in ("low", "high")]
        figures.append(wording.with_interval(row[key], ends, form) if key in row else NOTHING)
    return [f"`{row['network']}`", f"`{row['variant']}`", *figures]


def _ranges_cells(wording: Wording, about: Row) -> list[str]:
    """How the files of a configuration were quantised, over the folds."""
    folds = about["int8"]
    changes = [
        wording.number(
            float(np.mean([fold["mean_change_on_training"][method] for fold in folds])), ".4f"
        )
        for method in METHODS
    ]
    chosen = [sum(fold["calibration"] == method for fold in folds) for method in METHODS]
    left = [f"{len(fold['in_float'])} / {fold['layers']}" for fold in folds]
    largest = max(fold["largest_change_on_training"] for fold in folds)
    return [
        f"`{about['network']}`",
        f"`{about['variant']}`",
        *changes,
        " : ".join(map(str, chosen)),
        wording.number(largest),
        ", ".join(left),
    ]


def _draw(
    summary: Mapping[str, Any], costs: Sequence[Row], expected: Sequence[Row], path: Path
) -> None:
    """Draw size and times of every network, a point for each variant."""
    from matplotlib.lines import Line2D

    from chestlab.reporting import style

    looks = {  # the variants drawn: text of the legend, colour, marker
        TORCH: ("PyTorch", style.GREY, "s"),
        BASE: ("onnxruntime, float32", style.BLUE, "o"),
        INT8: ("onnxruntime, int8", style.VERMILLION, "D"),
        "pruned50": ("half of the channels, float32", style.GREEN, "^"),
        "pruned50_int8": ("half of the channels, int8", style.ORANGE, "v"),
    }
    markers = {
        variant: {"color": color, "marker": marker, "linestyle": "", "markeredgecolor": style.INK}
        for variant, (_, color, marker) in looks.items()
    }
    networks = [row["network"] for row in expected]
    gains = [row["onnx_faster_batch1"] for row in expected]
    machine = summary["costs"]["machine"]
    figure = style.titled_figure(
        f"With one thread onnxruntime is {min(gains):.1f} to {max(gains):.1f} times as fast as "
        f"PyTorch for one picture\n{machine['processor']}, pixels to probability",
        body_height=0.9 + 0.42 * len(networks),
    )
    panels = figure.subplots(1, 3, sharey=True)
    keys = ("bytes", *(f"batch{batch}_threads1_cpu_median_ms" for batch in BATCHES))
    labels = ("size in MB", "ms per picture, 1 at once", "ms per picture, 64 at once")
    for axes, key, label in zip(panels, keys, labels, strict=True):
        for row in costs:
            if row["variant"] in looks:
                value = row[key] / (1e6 if key == "bytes" else 1)
                place = networks.index(row["network"])
                axes.plot([value], [place], markersize=7, **markers[row["variant"]])
        _logarithmic(axes)
        style.tidy(axes, label, "")
    panels[0].set_yticks(range(len(networks)), networks, fontsize=style.SMALL)
    panels[0].set_ylim(len(networks) - 0.5, -0.5)
    handles = [Line2D([], [], label=looks[name][0], **of) for name, of in markers.items()]
    note = (
        "Median processor time of one thread, without test-time augmentation; with two threads "
        "the order can differ (table of costs)."
    )
    style.finish(figure, path, handles, [note])


def _logarithmic(axes: Any) -> None:
    """Give the horizontal axis a logarithmic scale with plain numbers."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
