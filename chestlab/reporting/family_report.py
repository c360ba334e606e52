"""What a comparison of the 34-layer family found: pictures, tables and verdicts on hypotheses.

Reads finished runs and their checkpoints; no figure is typed here, and no run is changed.
"""

from __future__ import annotations

import csv
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from chestlab.data.splits import FindingsData, TwoClassData
from chestlab.evaluation.metrics import sigmoid
from chestlab.evaluation.tasks import GOAL, SPLIT_TITLES
from chestlab.evaluation.verdicts import (
    Estimate,
    Scored,
    difference,
    estimate,
    gain,
    score,
    verdict,
)
from chestlab.files.atomic import atomic_write, write_csv
from chestlab.files.checkpoint import load_checkpoint
from chestlab.files.errors import InputError
from chestlab.files.run_files import RunFiles
from chestlab.reporting import family_plots
from chestlab.reporting.evaluation_plots import draw_confusion_matrix
from chestlab.reporting.page import markdown_table
from chestlab.reporting.stored_runs import read_run
from chestlab.training.device import resolve_amp
from chestlab.training.diagnostics import (
    GRADIENT_BATCHES,
    SILENT_SLOPE,
    gradient_norms,
    silent_units,
)
from chestlab.training.recipe import Recipe, in_words
from chestlab.training.trainer import predict

CATCH_UP_EPOCHS = 30  # the old reports expect it after 30 to 50

CATCH_UP_MARGIN = 1.0  # points that Plain-34 may lack and still has caught up


@dataclass(frozen=True)
class Hypothesis:
    """A claim of the old reports: ``member`` gains ``low`` to ``high`` points over ``over``."""

    text: str
    member: str
    over: str
    low: float
    high: float
    last_epoch: bool = False  # of validation images after the last epoch; else of test images


HYPOTHESES = (
    Hypothesis("SE adds 1 to 3 points", "seresnet34", "resnet34", 1, 3),
    Hypothesis("Mish adds 0.5 to 2 points", "mishresnet34", "resnet34", 0.5, 2),
    Hypothesis("Modified is better than ResNet-34", "modifiedresnet34", "resnet34", 0, math.inf),
    Hypothesis(
        "Plain-34 catches up with ResNet-34 after 30 to 50 epochs",
        "plain34",
        "resnet34",
        -CATCH_UP_MARGIN,
        math.inf,
        last_epoch=True,
    ),
)


class Comparison:
    """Finished runs of several networks on the same seeds.

    Args:
        members: what each network is.
        files: of its runs, by its name, in the order of the seeds.
        data: what they were trained on.
        device: for what is computed from checkpoints.
    """

    def __init__(
        self,
        members: Mapping[str, Member],
        files: Mapping[str, Sequence[RunFiles]],
        data: TwoClassData | FindingsData,
        device: torch.device,
    ) -> None:
        self.files, self.data, self.device = files, data, device
        self.members = {name: members[name] for name in files}
        self.titles = {name: member.title for name, member in self.members.items()}
        self.runs = {name: [read_run(one) for one in of] for name, of in files.items()}
        self.first = next(iter(self.runs.values()))[0]
        self.seeds = [run["seed"] for run in next(iter(self.runs.values()))]
        self.findings = isinstance(data, FindingsData)
        self.measures = ("auc",) if self.findings else ("accuracy", "auc")
        self.recipe = Recipe(**self.first["recipe"])
        self._scores: dict[tuple[str, str, str], tuple] = {}

    def score(self, name: str, split: str, measure: str) -> tuple:
        """`verdicts.score` of a network's runs, from their tables of probabilities.

        Raises:
            InputError: a table is not of the images of this comparison.
        """
        if (name, split, measure) not in self._scores:
            runs = []
            for files, run in zip(self.files[name], self.runs[name], strict=True):
                path = files.folder / f"{split}_probabilities.csv"
                runs.append(_read_scored(path, run.get("threshold")))
                if not np.array_equal(runs[-1].labels, getattr(self.data, split).labels):
                    raise InputError(f"'{path}' is not of the images of '{self.data.source}'")
            self._scores[name, split, measure] = score(runs, measure, self.patients(split))
        return self._scores[name, split, measure]

    def patients(self, split: str) -> np.ndarray | None:
        return getattr(self.data, split).patients

    def estimate(self, name: str, split: str, measure: str) -> Estimate:
        """Of a network's own figure."""
        return estimate(*self.score(name, split, measure))

    def gain(self, name: str, over: str, split: str, measure: str) -> Estimate:
        """Of the difference of two networks."""
        return gain(self.score(name, split, measure), self.score(over, split, measure))

    def network(self, name: str, number: int, moment: str) -> nn.Module:
        """A network at the ``start`` of a run, after its ``best`` epoch or its ``last``."""
        run, files = self.runs[name][number], self.files[name][number]
        torch.manual_seed(run["seed"])
        model = self.members[name].build(**run["model_arguments"])
        if moment == "best":
            model.load_state_dict(load_checkpoint(files.best, sealed=True)["weights"])
        elif moment == "last":
            state = load_checkpoint(files.last, sealed=True)
            model.load_state_dict(state["trainer"]["model"])
        return model.to(self.device, memory_format=torch.channels_last)

    def scored_last(self, name: str) -> list[Scored]:
        """Validation after the last epoch; classes at 0.5, since no threshold was chosen there."""
        images, _ = self.data.val.to(self.device)
        amp = resolve_amp(self.recipe, self.device)
        logits = [
            predict(self.network(name, number, "last"), images, self.recipe, amp)
            for number in range(len(self.seeds))
        ]
        threshold = None if self.findings else 0.5
        return [Scored(self.data.val.labels, sigmoid(one), threshold) for one in logits]

    def title(self, what: str, *splits: str) -> str:
        """A picture's title: what, on which seeds, data and images."""
        n = ", ".join(f"{split} n = {self.first[split]['n']}" for split in splits)
        return (
            f"{what}, seeds {', '.join(map(str, self.seeds))}, {self.recipe.image_size} px\n"
            f"{self.data.source} · {n}"
        )


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
        members: what each network is.
        files: of finished runs, by the network's name, in the order of the same seeds.
        data: what they were trained on.
        device: for what is computed from checkpoints.
        recipes: of the family by name, to say what the runs did otherwise.
    """
    found = Comparison(members, files, data, device)
    table = _table(found)
    write_csv(folder / "table.csv", tuple(table[0]), [tuple(row.values()) for row in table])
    verdict_rows = _verdicts(found)
    if verdict_rows:
        write_csv(
            folder / "verdicts.csv",
            tuple(verdict_rows[0]),
            [tuple(v.values()) for v in verdict_rows],
        )
    ablation = _ablation(found, folder)
    inside = _inside(found, folder)
    for name, runs in found.runs.items():
        _draw_member(found, name, runs, folder / name)
    family = {n: r for n, r in found.runs.items() if "reduction" not in members[n].flags}
    overlay = {found.titles[name]: runs for name, runs in family.items()}
    if overlay:
        family_plots.draw_overlay(overlay, folder / "validation_curves.png")
    text = _readme(found, recipes, table, verdict_rows, ablation, inside, bool(overlay))
    atomic_write(folder / "README.md", text)


def _changes(recipe: Recipe, named: Recipe) -> dict[str, Any]:
    """What a run does otherwise than the recipe it names, besides what the page tells anyway."""
    told = ("name", "seed", "epochs", "image_size", "monitor")
    return {
        key: value
        for key, value in asdict(recipe).items()
        if key not in told and value != getattr(named, key)
    }


def _read_scored(path: Path, threshold: float | None) -> Scored:
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    if header[1] == "labels":
        labels = np.array([[int(digit) for digit in row[1]] for row in rows], np.uint8)
        return Scored(labels, np.array([[float(p) for p in row[2:]] for row in rows]))
    labels = np.array([int(row[1]) for row in rows], np.uint8)
    return Scored(labels, np.array([float(row[2]) for row in rows]), threshold)


def _table(found: Comparison) -> list[dict[str, Any]]:
    """One row per network: means over seeds; intervals of what test images say."""
    measure = found.measures[0]
    rows = []
    for name, runs in found.runs.items():
        train, val = (
            np.array([run[split][measure] for run in runs], float) for split in ("train", "val")
        )
        row = {
            "network": found.titles[name],
            "seeds": len(runs),
            "parameters": runs[0]["parameters"],
            f"train_{measure}": train.mean(),
            f"val_{measure}_as_selected": val.mean(),
            "gap": (train - val).mean(),
        }
        for one in found.measures:
            of_test = found.estimate(name, "test", one)
            spread = [run["test"][one] for run in runs]
            row |= {
                f"test_{one}": of_test.value,
                f"test_{one}_low": of_test.low,
                f"test_{one}_high": of_test.high,
                f"test_{one}_sd_over_seeds": _sd(spread),
            }
        costs = [run["costs"] for run in runs]
        row |= {
            "multiply_accumulates": costs[0]["multiply_accumulates"],
            **{
                f"batch{n}_ms": np.median(
                    [(cost[f"inference_batch{n}"] or {}).get("median_ms", np.nan) for cost in costs]
                )
                for n in (1, 64)
            },
            "peak_memory_bytes": costs[0]["peak_memory_bytes"],
            "epoch_seconds": np.median([s for run in runs for s in run["history"]["seconds"]]),
            "epochs": np.mean([run["epochs_run"] for run in runs]),
            "best_epoch": np.mean([run["best_epoch"] for run in runs]),
        }
        rows.append({k: v.item() if isinstance(v, np.generic) else v for k, v in row.items()})
    return rows


def _sd(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


def _verdicts(found: Comparison) -> list[dict[str, Any]]:
    """Every hypothesis of two networks that are there, by each measure, in points."""
    rows = []
    for claim in HYPOTHESES:
        if claim.member not in found.runs or claim.over not in found.runs:
            continue
        pair = found.runs[claim.member], found.runs[claim.over]
        lengths = {run["epochs_run"] for runs in pair for run in runs}
        note, last = "", ()
        if claim.last_epoch:
            if len(lengths) > 1:
                note = f"the runs stopped at different epochs ({min(lengths)} to {max(lengths)})"
            else:
                last = found.scored_last(claim.member), found.scored_last(claim.over)
                if max(lengths) < CATCH_UP_EPOCHS:
                    note = f"run for {max(lengths)} epochs only"
        elif len(found.seeds) < 2:
            note = "one seed"
        for measure in found.measures:
            if not claim.last_epoch:
                points = found.gain(claim.member, claim.over, "test", measure)
            elif last:
                points = difference(*last, measure, found.patients("val"))
            else:
                points = Estimate(*[math.nan] * 5, len(found.seeds))
            points = _points(points)
            said = "undecided" if note else verdict(points, claim.low, claim.high)
            where = f"val after epoch {max(lengths)}" if claim.last_epoch else "test"
            rows.append(
                {
                    "hypothesis": claim.text,
                    "measure": measure,
                    "images": where,
                    **asdict(points),
                    "claimed_low": claim.low,
                    "claimed_high": claim.high,
                    "verdict": said,
                    "note": note,
                }
            )
    return rows


def _points(found: Estimate) -> Estimate:
    values = {key: 100 * value for key, value in asdict(found).items() if key != "seeds"}
    return Estimate(**values, seeds=found.seeds)


def _ablation(found: Comparison, folder: Path) -> list[dict[str, Any]]:
    """AUC against parameters, without SE and at every reduction; empty with fewer than two."""
    reductions = {
        name: runs[0]["model_arguments"]["reduction"]
        for name, runs in found.runs.items()
        if name.startswith("seresnet34")
    }
    names = sorted(reductions, key=lambda name: -reductions[name])
    if len(names) < 2:
        return []
    if "resnet34" in found.runs:
        names.insert(0, "resnet34")
    rows, points = [], []
    for name in names:
        reduction = reductions.get(name)
        parameters = found.runs[name][0]["parameters"]
        estimates = {split: found.estimate(name, split, "auc") for split in ("val", "test")}
        points.append(("no SE" if reduction is None else f"r = {reduction}", parameters, estimates))
        row = {"reduction": reduction or "no SE", "parameters": parameters}
        for split, of_split in estimates.items():
            row |= {f"{split}_auc{k}": v for k, v in _three(of_split).items()}
        if "resnet34" in found.runs and reduction is not None:
            more = found.gain(name, "resnet34", "test", "auc")
        else:
            more = Estimate(*[math.nan] * 5, len(found.seeds))
        row |= {f"gain_over_no_se{k}": v for k, v in _three(more).items()}
        rows.append(row)
    family_plots.draw_ablation(
        points,
        folder / "se_ablation.png",
        title=found.title("SE-ResNet-34: reduction of the attention", "val", "test"),
        caption=f"Bars: 95 % intervals over seeds and {found.first['bootstrap_unit']}s.",
    )
    write_csv(folder / "se_ablation.csv", tuple(rows[0]), [tuple(row.values()) for row in rows])
    return rows


def _three(one: Estimate) -> dict[str, float]:
    return {"": one.value, "_low": one.low, "_high": one.high}


def _inside(found: Comparison, folder: Path) -> dict[str, str]:
    """Gradients over the depth and silent units: a sentence on each picture, by its file."""
    sentences = {}
    if {"plain34", "resnet34"} <= set(found.runs):
        norms: dict[str, dict[str, list]] = {}
        images, labels = found.data.train.to(found.device)
        for moment, heading in (("start", "at initialisation"), ("best", "after training")):
            norms[heading] = {
                found.titles[name]: [
                    gradient_norms(found.network(name, k, moment), images, labels, found.recipe)
                    for k in range(len(found.seeds))
                ]
                for name in ("plain34", "resnet34")
            }
        used = min(GRADIENT_BATCHES * found.recipe.batch_size, len(found.data.train))
        family_plots.draw_gradients(
            norms,
            folder / "gradients.png",
            title=found.title("Gradient at every depth", "train"),
            caption=(
                "Euclidean norm of the loss's gradient in each 7x7 and 3x3 convolution, mean over "
                f"batches of the first {used} training images, batch norm in training mode. After "
                f"training: weights of the best epoch. {family_plots.RANGE}"
            ),
        )
        ratios = {
            heading: {name: _first_over_last(seeds) for name, seeds in networks.items()}
            for heading, networks in norms.items()
        }
        sentences["gradients.png"] = "Gradient in the first convolution over that in the last: " + (
            "; ".join(
                f"{heading} " + ", ".join(f"{name} {ratio:.3g}" for name, ratio in of.items())
                for heading, of in ratios.items()
            )
            + " (geometric means over seeds)."
        )
    names = [name for name in ("resnet34", "mishresnet34") if name in found.runs]
    if names:
        images, _ = found.data.val.to(found.device)
        shares = {
            found.titles[name]: [
                silent_units(found.network(name, k, "best"), images, found.recipe)
                for k in range(len(found.seeds))
            ]
            for name in names
        }
        family_plots.draw_silent_units(
            shares,
            folder / "silent_units.png",
            title=found.title("Silent units, best epoch", "val"),
            caption=(
                "A unit is a channel of an activation layer. It is silent when the slope of its "
                f"activation is below {SILENT_SLOPE:g} in magnitude at every position of every "
                "validation image: for ReLU, when its output is 0 everywhere. "
                f"{family_plots.RANGE}"
            ),
        )
        means = {
            name: np.mean([list(layers.values()) for layers in seeds])
            for name, seeds in shares.items()
        }
        sentences["silent_units.png"] = "Silent units, mean over layers and seeds: " + (
            ", ".join(f"{name} {mean:.2%}" for name, mean in means.items()) + "."
        )
    return sentences


def _first_over_last(seeds: Sequence[Mapping[str, float]]) -> float:
    ends = [list(layers.values()) for layers in seeds]
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.exp(np.mean(np.log([norms[0] / norms[-1] for norms in ends]))))


def _draw_member(
    found: Comparison, name: str, runs: Sequence[Mapping[str, Any]], folder: Path
) -> None:
    folder.mkdir(exist_ok=True)
    title = found.titles[name]
    family_plots.draw_curve(title, runs, "loss", folder / "loss_curve.png")
    measure = "auc" if found.findings else "accuracy"
    family_plots.draw_curve(title, runs, measure, folder / f"{measure[:3]}_curve.png")
    if not found.findings:
        added = ", counts added up" if len(runs) > 1 else ""
        draw_confusion_matrix(
            {
                SPLIT_TITLES[split]: np.sum([run[split]["confusion"] for run in runs], axis=0)
                for split in ("val", "test")
            },
            folder / "confusion_matrix.png",
            title=found.title(f"{title}{added}", "val", "test"),
        )


def _readme(
    found: Comparison,
    recipes: Mapping[str, Recipe],
    table: Sequence[Mapping[str, Any]],
    verdict_rows: Sequence[Mapping[str, Any]],
    ablation: Sequence[Mapping[str, Any]],
    inside: Mapping[str, str],
    overlay: bool,
) -> str:
    first, named = found.first, found.first["recipe_name"]
    task = "all 14 findings" if found.findings else "cardiomegaly or pneumothorax"
    n = ", ".join(f"{split} {first[split]['n']}" for split in ("train", "val", "test"))
    measure = found.measures[0]
    called = "mean AUC" if found.findings else "accuracy"
    form = (lambda v: f"{v:.3f}") if found.findings else (lambda v: f"{100 * v:.1f} %")
    parts = [
        f"# The 34-layer family: {task}",
        f"{found.data.source} ({n} images), {found.recipe.image_size} px, recipe "
        f"{in_words(named, _changes(found.recipe, recipes[named]))} "
        f"({found.recipe.epochs} epochs at most), seeds "
        f"{', '.join(map(str, found.seeds))}, {first['device']} in {first['amp']}, PyTorch "
        f"{first['torch']}. Every network had the same recipe, seeds and order of images. Written "
        "by `compare_family.py`; every run is in `runs/`.",
    ]
    if overlay:
        parts.append("![Validation curves](validation_curves.png)")
    head = ["network", "parameters", f"train {called}", f"val {called}, as selected", "gap"]
    head += [f"test {called}, held out (95 %)"]
    if not found.findings:
        head.append("test AUC (95 %)")
    head += ["MACs", "ms per image, 1 / 64 at once", "training memory", "s per epoch"]
    lines = []
    for row in table:
        memory = row["peak_memory_bytes"]
        cells = [
            row["network"],
            f"{row['parameters']:,}",
            form(row[f"train_{measure}"]),
            form(row[f"val_{measure}_as_selected"]),
            f"{100 * row['gap']:.1f} points",
        ]
        for one in found.measures:
            show = form if one == measure else (lambda v: f"{v:.3f}")
            low, high = show(row[f"test_{one}_low"]), show(row[f"test_{one}_high"])
            cells.append(f"{show(row[f'test_{one}'])} ({low} to {high})")
        cells += [
            f"{row['multiply_accumulates'] / 1e6:,.1f} M",
            f"{row['batch1_ms']:.1f} / {row['batch64_ms']:.1f}",
            "n/a" if memory is None else f"{memory / 2**20:,.0f} MiB",
            f"{row['epoch_seconds']:.1f}",
        ]
        lines.append(cells)
    parts.append(markdown_table(head, lines))
    unit = first["bootstrap_unit"]
    parts.append(
        f"Means over seeds. Intervals are over seeds and {unit}s together (`verdicts.py`). "
        "Times are medians; memory as `costs.py` counts it."
    )
    if found.findings:
        without = {
            split: [name for name, auc in first[split]["auc_per_finding"].items() if auc is None]
            for split in ("val", "test")
        }
        parts.append(
            "Left out of the mean AUC, because all images of the split agree: "
            + "; ".join(f"{split} {', '.join(of) or 'none'}" for split, of in without.items())
            + "."
        )
    else:
        reached = [
            f"{found.titles[name]} with seed {run['seed']}"
            for name, runs in found.runs.items()
            for run in runs
            if run["val"]["accuracy"] >= GOAL
        ]
        parts.append(
            f"Runs that reached {GOAL:.0%} validation accuracy: {', '.join(reached) or 'none'}."
        )
    if verdict_rows:
        parts += ["## Hypotheses", _verdict_table(verdict_rows), _rule(found)]
    if ablation:
        parts += [
            "## Reduction of SE",
            "![SE ablation](se_ablation.png)",
            _ablation_table(ablation),
        ]
    if inside:
        parts.append("## Inside")
        parts += [
            f"![{file[:-4].replace('_', ' ')}]({file})\n\n{text}" for file, text in inside.items()
        ]
    curve = "auc" if found.findings else "acc"
    names = ["loss_curve", f"{curve}_curve"] + ["confusion_matrix"] * (not found.findings)
    listing = [
        f"- {title}: " + ", ".join(f"[{p.replace('_', ' ')}]({name}/{p}.png)" for p in names)
        for name, title in found.titles.items()
    ]
    parts += ["## Each network", "\n".join(listing)]
    return "\n\n".join(parts) + "\n"


def _verdict_table(verdict_rows: Sequence[Mapping[str, Any]]) -> str:
    head = ("hypothesis", "measured on", "gain in points (95 %)", "smallest to be seen", "verdict")
    rows = []
    for row in verdict_rows:
        measure = {"auc": "AUC", "accuracy": "accuracy"}[row["measure"]]
        known = math.isfinite(row["value"])
        gain = f"{row['value']:+.1f} ({row['low']:+.1f} to {row['high']:+.1f})" if known else "n/a"
        least = f"{row['detectable']:.1f}" if known else "n/a"
        said = f"**{row['verdict']}**" + (f": {row['note']}" if row["note"] else "")
        rows.append((row["hypothesis"], f"{row['images']} {measure}", gain, least, said))
    return markdown_table(head, rows)


def _rule(found: Comparison) -> str:
    unit = "Points are of mean AUC." if found.findings else "Points of accuracy are the reports'."
    return (
        "Paired differences on the same seeds and images. Supported: the interval lies above 0 and "
        "meets the claimed range; refuted: it lies wholly outside that range; else undecided. "
        "Smallest to be seen: the true difference found in 80 % of such experiments (2.8 standard "
        "errors, more where few seeds make most of the error). Plain-34 has caught up where the "
        f"interval lies above -{CATCH_UP_MARGIN:g} point, after at least {CATCH_UP_EPOCHS} epochs; "
        f"validation images there, at 0.5. {unit}"
    )


def _ablation_table(rows: Sequence[Mapping[str, Any]]) -> str:
    head = ("reduction", "parameters", "val AUC, as selected (95 %)", "test AUC (95 %)")
    head += ("test gain over no SE in points (95 %)",)
    lines = []
    for row in rows:
        cells = [str(row["reduction"]), f"{row['parameters']:,}"]
        for split in ("val", "test"):
            value, low, high = (row[f"{split}_auc{end}"] for end in ("", "_low", "_high"))
            cells.append(f"{value:.3f} ({low:.3f} to {high:.3f})")
        value, low, high = (100 * row[f"gain_over_no_se{end}"] for end in ("", "_low", "_high"))
        known = math.isfinite(value)
        cells.append(f"{value:+.1f} ({low:+.1f} to {high:+.1f})" if known else "")
        lines.append(cells)
    return markdown_table(head, lines)


@dataclass(frozen=True)
class Member:
    """A network of the comparison.

    Attributes:
        title: what pictures and tables call it.
        build: its class.
        knobs: arguments of its constructor that are flags.
        flags: their values that differ from the default.
    """

    title: str
    build: Callable[..., nn.Module]
    model_options: Mapping[str, dataclasses.Field] = field(default_factory=dict)
    flags: Mapping[str, Any] = field(default_factory=dict)
