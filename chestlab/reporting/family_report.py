"""The page and the pictures of a comparison of the 34-layer family.

Everything is computed from finished runs and their checkpoints; no run is changed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from chestlab.data.splits import FindingsData, TwoClassData
from chestlab.evaluation.tasks import GOAL
from chestlab.files.atomic import atomic_write, write_csv
from chestlab.files.run_files import RunFiles
from chestlab.reporting import family_plots
from chestlab.reporting.family_comparison import Comparison, Member
from chestlab.reporting.family_tables import (
    CATCH_UP_EPOCHS,
    CATCH_UP_MARGIN,
    network_rows,
    reduction_networks,
    reduction_rows,
    verdict_rows,
)
from chestlab.reporting.numbers import readable_number
from chestlab.reporting.page import markdown_table, render
from chestlab.training.diagnostics import (
    GRADIENT_BATCHES,
    SILENT_SLOPE,
    gradient_norms,
    silent_units,
)
from chestlab.training.recipe import Recipe, in_words

Rows = Sequence[Mapping[str, Any]]


def write_report(
    folder: Path,
    members: Mapping[str, Member],
    files: Mapping[str, Sequence[RunFiles]],
    data: TwoClassData | FindingsData,
    device: torch.device,
    recipes: Mapping[str, Recipe],
) -> None:
    """Write every picture and table of a comparison, ``README.md`` last.

    Args:
        folder: it must exist.
        members: the networks by name.
        files: of finished runs, by the network's name, in the order of the same seeds.
        data: what they were trained on.
        device: for what is computed from checkpoints.
        recipes: of the family by name, to say what the runs did otherwise.
    """
    comparison = Comparison(members, files, data, device)
    comparison.write_runs(folder)
    networks = network_rows(comparison)
    verdicts = verdict_rows(comparison)
    reductions = reduction_rows(comparison)
    _write_rows(folder / "table.csv", networks)
    _write_rows(folder / "verdicts.csv", verdicts)
    _write_rows(folder / "se_ablation.csv", reductions)
    if reductions:
        _draw_reductions(comparison, folder / "se_ablation.png")
    diagnostics = {}
    if {"plain34", "resnet34"} <= set(comparison.runs):
        diagnostics["gradients.png"] = _gradients(comparison, folder / "gradients.png")
    if {"resnet34", "mishresnet34"} & set(comparison.runs):
        diagnostics["silent_units.png"] = _silent_units(comparison, folder / "silent_units.png")
    overlay = {
        comparison.titles[name]: runs
        for name, runs in comparison.runs.items()
        if "reduction" not in members[name].flags
    }
    if overlay:
        family_plots.draw_side_by_side(overlay, folder / "validation_curves.png")
    named = recipes[comparison.first["recipe_name"]]
    shown = [(name if (folder / name).exists() else "", text) for name, text in diagnostics.items()]
    page = _page(comparison, named, networks, verdicts, reductions, shown, bool(overlay))
    atomic_write(folder / "README.md", page)


def _write_rows(path: Path, rows: Rows) -> None:
    if rows:
        write_csv(path, tuple(rows[0]), [tuple(row.values()) for row in rows])


def _draw_reductions(comparison: Comparison, path: Path) -> None:
    points = [
        (
            "no SE" if reduction is None else f"r = {reduction}",
            comparison.runs[name][0]["parameters"],
            {split: comparison.estimate(name, split, "auc") for split in ("val", "test")},
        )
        for name, reduction in reduction_networks(comparison).items()
    ]
    family_plots.draw_ablation(
        points,
        path,
        title=comparison.picture_title("SE-ResNet-34: reduction of the attention", "val", "test"),
        caption=f"Bars: 95 % intervals over seeds and {comparison.first['bootstrap_unit']}s.",
    )


def _gradients(comparison: Comparison, path: Path) -> str:
    """Draw the gradient at every depth of Plain-34 and ResNet-34; a sentence on it."""
    norms: dict[str, dict[str, list]] = {}
    images, labels = comparison.data.train.to(comparison.device)
    for moment, heading in (("start", "at initialisation"), ("best", "after training")):
        norms[heading] = {
            comparison.titles[name]: [
                gradient_norms(
                    comparison.network(name, k, moment), images, labels, comparison.recipe
                )
                for k in range(len(comparison.seeds))
            ]
            for name in ("plain34", "resnet34")
        }
    used = min(GRADIENT_BATCHES * comparison.recipe.batch_size, len(comparison.data.train))
    family_plots.draw_gradients(
        norms,
        path,
        title=comparison.picture_title("Gradient at every depth", "train"),
        caption=(
            "Euclidean norm of the loss's gradient in each 7x7 and 3x3 convolution, mean over "
            f"batches of the first {used} training images, batch norm in training mode. After "
            f"training: weights of the best epoch. {family_plots.RANGE}"
        ),
    )
    ratios = "; ".join(
        f"{heading} "
        + ", ".join(
            f"{name} {readable_number(family_plots.first_over_last(seeds))}"
            for name, seeds in networks.items()
        )
        for heading, networks in norms.items()
    )
    return (
        f"Gradient in the first convolution over that in the last: {ratios} "
        "(geometric means over seeds)."
    )


def _silent_units(comparison: Comparison, path: Path) -> str:
    """Draw the silent units of ResNet-34 and Mish-ResNet-34 where there are any; a sentence."""
    images, _ = comparison.data.val.to(comparison.device)
    shares = {
        comparison.titles[name]: [
            silent_units(comparison.network(name, k, "best"), images, comparison.recipe)
            for k in range(len(comparison.seeds))
        ]
        for name in ("resnet34", "mishresnet34")
        if name in comparison.runs
    }
    meaning = (
        "A unit is a channel of an activation layer. It is silent when the slope of its "
        f"activation is below {SILENT_SLOPE:g} in magnitude at every position of every "
        "validation image: for ReLU, when its output is 0 everywhere."
    )
    if not any(share for seeds in shares.values() for layers in seeds for share in layers.values()):
        path.unlink(missing_ok=True)  # of an earlier comparison
        return f"No unit of {' or '.join(shares)} is silent in any layer or seed. {meaning}"
    family_plots.draw_silent_units(
        shares,
        path,
        title=comparison.picture_title("Silent units, best epoch", "val"),
        caption=f"{meaning} {family_plots.RANGE}",
    )
    means = ", ".join(
        f"{name} {np.mean([list(layers.values()) for layers in seeds]):.2%}"
        for name, seeds in shares.items()
    )
    return f"Silent units, mean over layers and seeds: {means}."


def recipe_changes(recipe: Recipe, named: Recipe) -> dict[str, Any]:
    """What a run does otherwise than the recipe it names, besides what the page says anyway."""
    on_the_page = ("name", "seed", "epochs", "image_size", "monitor")
    return {
        key: value
        for key, value in asdict(recipe).items()
        if key not in on_the_page and value != getattr(named, key)
    }


def _page(
    comparison: Comparison,
    named: Recipe,
    networks: Rows,
    verdicts: Rows,
    reductions: Rows,
    diagnostics: Sequence[tuple[str, str]],
    overlay: bool,
) -> str:
    """`README.md` of a comparison; ``diagnostics`` are pictures, or "", with their sentences."""
    first, recipe = comparison.first, comparison.recipe
    changes = recipe_changes(recipe, named)
    return render(
        "family.md.j2",
        first=first,
        source=comparison.data.source,
        findings=comparison.findings,
        recipe=recipe,
        recipe_text=in_words(first["recipe_name"], changes),
        seeds=", ".join(map(str, comparison.seeds)),
        overlay=overlay,
        networks=_network_table(comparison, networks),
        warnings=[
            f"{comparison.titles[name]}, seed {run['seed']}: {text}"
            for name, runs in comparison.runs.items()
            for run in runs
            for text in run.get("warnings", ())
        ],
        left_out=_left_out(comparison) if comparison.findings else "",
        goal=f"{GOAL:.0%}",
        reached="" if comparison.findings or comparison.data.phantom else _reached_goal(comparison),
        verdicts=_verdict_table(verdicts) if verdicts else "",
        tested=sum(not row["note"] for row in verdicts),
        margin=f"{CATCH_UP_MARGIN:g}",
        catch_up_epochs=CATCH_UP_EPOCHS,
        reductions=_reduction_table(reductions) if reductions else "",
        diagnostics=diagnostics,
    )


def _network_table(comparison: Comparison, rows: Rows) -> str:
    measure = comparison.measures[0]
    name = "mean AUC" if comparison.findings else "accuracy"
    heads = ["network", "parameters", f"train {name}", f"val {name}, as selected", "gap"]
    heads.append(f"test {name}, held out (95 %)")
    heads += [] if comparison.findings else ["test AUC (95 %)"]
    heads += ["MACs", "ms per image, 1 / 64 at once", "training memory", "s per epoch"]
    cells = []
    for row in rows:
        memory = row["peak_memory_bytes"]
        cells.append(
            [
                row["network"],
                f"{row['parameters']:,}",
                _figure(measure, row[f"train_{measure}"]),
                _figure(measure, row[f"val_{measure}_as_selected"]),
                f"{100 * row['gap']:.1f} points",
                *(_with_interval(row, f"test_{m}", m) for m in comparison.measures),
                f"{row['multiply_accumulates'] / 1e6:,.1f} M",
                f"{row['batch1_ms']:.1f} / {row['batch64_ms']:.1f}",
                "n/a" if memory is None else f"{memory / 2**20:,.0f} MiB",
                f"{row['epoch_seconds']:.1f}",
            ]
        )
    return markdown_table(heads, cells)


def _figure(measure: str, value: float) -> str:
    if math.isnan(value):
        return "n/a"
    return f"{100 * value:.1f} %" if measure == "accuracy" else f"{value:.3f}"


def _with_interval(row: Mapping[str, Any], key: str, measure: str) -> str:
    value, low, high = (_figure(measure, row[f"{key}{end}"]) for end in ("", "_low", "_high"))
    return f"{value} ({low} to {high})"


def _points(value: float, low: float, high: float) -> str:
    """A gain with its interval; ``n/a`` where there is none."""
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})" if math.isfinite(value) else "n/a"


def _left_out(comparison: Comparison) -> str:
    """The findings without an AUC, by split."""
    texts = []
    for split in ("val", "test"):
        aucs = comparison.first[split]["auc_per_finding"]
        names = [name for name, auc in aucs.items() if auc is None]
        texts.append(f"{split} {', '.join(names) or 'none'}")
    return "; ".join(texts)


def _reached_goal(comparison: Comparison) -> str:
    """The runs whose validation accuracy is at least the goal."""
    names = [
        f"{comparison.titles[name]} with seed {run['seed']}"
        for name, runs in comparison.runs.items()
        for run in runs
        if run["val"]["accuracy"] >= GOAL
    ]
    return ", ".join(names) or "none"


def _verdict_table(rows: Rows) -> str:
    heads = ("hypothesis", "measured on", "gain in points (95 %)", "smallest detectable", "p")
    heads += ("p, Holm", "verdict", "verdict, Holm")
    cells = []
    for row in rows:
        measure = {"auc": "AUC", "accuracy": "accuracy"}[row["measure"]]
        verdict = f"**{row['verdict']}**" + (f": {row['note']}" if row["note"] else "")
        cells.append(
            (
                row["hypothesis"],
                f"{row['images']} {measure}",
                _points(row["value"], row["low"], row["high"]),
                _if_known(row["detectable"], ".1f"),
                *(_if_known(row[key], ".3f") for key in ("p", "p_holm")),
                verdict,
                row["verdict_holm"],
            )
        )
    return markdown_table(heads, cells)


def _if_known(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else "n/a"


def _reduction_table(rows: Rows) -> str:
    heads = ("reduction", "parameters", "val AUC, as selected (95 %)", "test AUC (95 %)")
    heads += ("test gain over no SE in points (95 %)", "smallest detectable")
    cells = []
    for row in rows:
        gain = _points(*(100 * row[f"gain_over_no_se{end}"] for end in ("", "_low", "_high")))
        cells.append(
            [
                str(row["reduction"]),
                f"{row['parameters']:,}",
                *(_with_interval(row, f"{split}_auc", "auc") for split in ("val", "test")),
                "" if gain == "n/a" else gain,
                "" if gain == "n/a" else _if_known(100 * row["gain_over_no_se_detectable"], ".1f"),
            ]
        )
    return markdown_table(heads, cells)
