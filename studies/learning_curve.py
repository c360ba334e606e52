"""What more training images would bring: cross-validated figures over shares of the patients.

    python learning_curve.py --nets residualchestnet resnet34 --data FILE.npz

Every network is trained on 25, 50, 75 and 100 % of the patients of each fold's rest (a smaller
share lies within a larger one) and judged on the whole fold, beside the yardsticks. A power law
through the four points is extrapolated to the official training images, and marked as what it is.
Writes results/learning_curve_<data>/; what is finished is stored, and the same command goes on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from chestlab.data.phantom import OFFICIAL_COUNTS, PHANTOM_MARK
from chestlab.evaluation import baselines
from chestlab.evaluation.metrics import BOOTSTRAP_SEED
from chestlab.evaluation.out_of_fold import MEASURES, OutOfFold
from chestlab.evaluation.verdicts import Estimate
from chestlab.files.atomic import atomic_write, write_csv
from chestlab.files.errors import InputError, one_line_errors
from chestlab.files.progress import StopSignals
from chestlab.runs.crossval import cross_validate, cross_validate_baseline
from chestlab.training.recipe import in_words
from networks import NETWORKS
from studies.study import Study, comparison_parser, describe

SHARES = (0.25, 0.5, 0.75, 1.0)

OFFICIAL_IMAGES = sum(OFFICIAL_COUNTS["train"])

LARGEST = 6  # networks with a look of their own

LEAST_ERROR = 1e-3  # an error of 0 has no logarithm


@dataclass(frozen=True)
class Extrapolation:
    """A power law ``error = a * images ** -b`` beyond what was measured.

    Attributes:
        value: 1 less the error at `OFFICIAL_IMAGES`, by the law through the measured means.
        low, high: 95 % percentile interval over patients and repeats.
        exponent: b.
    """

    value: float
    low: float
    high: float
    exponent: float


def fit_power_law(images: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least squares through logarithms.

    The law falls towards an error of 0 for ever; real curves level off (Hestness et al.,
    https://arxiv.org/abs/1712.00409), so far ahead it promises too much rather than too little.

    Args:
        images: (K,) numbers of training images.
        scores: (..., K) shares of right answers, or AUCs.

    Returns:
        (...,) exponents b and factors a of ``1 - score = a * images ** -b``.
    """
    x = np.log(images)
    y = np.log(np.maximum(1 - np.asarray(scores), LEAST_ERROR))
    centred = x - x.mean()
    slope = (y * centred).sum(-1) / (centred**2).sum()
    return -slope, np.exp(y.mean(-1) - slope * x.mean())


def extrapolate(
    oof: OutOfFold, names: Sequence[str], images: Sequence[float], measure: str
) -> Extrapolation:
    """The law through the means over repeats, and its interval.

    Args:
        oof: logits of all shares.
        names: of the configurations of one network, a share each.
        images: mean numbers they were trained on.
        measure: ``auc`` or ``accuracy``.
    """
    found = [oof.score(name, measure) for name in names]
    values = np.stack([values for values, _, _ in found], -1)  # (R, K)
    drawn = np.stack([drawn for _, drawn, _ in found], -1)  # (B, R, K)
    repeats = np.random.default_rng(BOOTSTRAP_SEED).integers(0, len(values), drawn.shape[:2])
    resampled = np.take_along_axis(drawn, repeats[..., None], 1).mean(1)
    usable = resampled[np.isfinite(resampled).all(1)]

    def ahead(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        exponent, factor = fit_power_law(np.array(images), scores)
        return 1 - factor * float(OFFICIAL_IMAGES) ** -exponent, exponent

    value, exponent = ahead(values.mean(0))
    low, high = np.percentile(ahead(usable)[0], [2.5, 97.5])
    return Extrapolation(float(value), float(low), float(high), float(exponent))


class LearningCurve:
    """Networks and yardsticks over the shares.

    Args:
        options: of `main`.
        signals: checked between two batches.

    Raises:
        InputError: the flags cannot be used. Nothing has been written.
    """

    def __init__(self, options: argparse.Namespace, signals: StopSignals) -> None:
        self.options, self.signals = options, signals
        if len(set(options.nets)) > LARGEST:
            raise InputError(f"--nets: at most {LARGEST} fit into one picture")
        self.setting = Study(options, "learning_curve")
        self.nets = {
            name: self.setting.base(name, options.base) for name in dict.fromkeys(options.nets)
        }

    def go(self) -> None:
        """Train what is not stored, then write the page."""
        setting, store = self.setting, self.setting.open_store()
        logits: dict[str, np.ndarray] = {}
        points: dict[str, dict[str, Any]] = {}

        def keep(name: str, title: str, kind: str, share: float, outcome: Any) -> None:
            key = f"{name} {share:.0%}"
            logits[key] = outcome.logits
            points[key] = {"name": title, "kind": kind, "share": share}
            points[key] |= {"images": outcome.images, "seconds": outcome.seconds}

        for baseline in baselines.BASELINES:
            for share in SHARES:
                outcome = cross_validate_baseline(baseline, setting.plan, store, share)
                keep(baseline.key, baseline.model, "yardstick", share, outcome)
                self.signals.check()
        for share in SHARES:
            for name, (_, configuration) in self.nets.items():
                arguments = configuration, setting.plan, store, setting.device, self.signals
                keep(name, name, "network", share, cross_validate(*arguments, share))
                print(f"{name} on {share:.0%} of the patients is done", flush=True)
        found = {
            "recipes": {
                name: {
                    "script": network.script,
                    "recipe_name": self.options.base or list(network.recipes)[-1],
                }
                for name, (network, _) in self.nets.items()
            },
            "recipe_changes": {k: v for k, v in setting.changes.items() if k != "seed"},
            **setting.about(),
            "points": points,
        }
        folder = setting.folder
        OutOfFold.of(setting.plan, logits).write(folder / "oof.csv")
        atomic_write(folder / "learning_curve.json", json.dumps(found, indent=2) + "\n")
        write_page(folder)
        print(f"learning curve: {folder / 'README.md'}", flush=True)
        if setting.data.phantom:
            print(PHANTOM_MARK, flush=True)


def table(found: Mapping[str, Any], oof: OutOfFold) -> list[dict[str, Any]]:
    """A row per network and share, and one for each extrapolation."""
    rows = []
    for name in dict.fromkeys(point["name"] for point in found["points"].values()):
        points = {key: one for key, one in found["points"].items() if one["name"] == name}
        points = dict(sorted(points.items(), key=lambda item: item[1]["share"]))
        for key, one in points.items():
            row = {"name": name, "kind": one["kind"], "share": one["share"]}
            row |= {"images": one["images"], "extrapolated": False}
            for measure in MEASURES:
                row |= _columns(measure, oof.estimate(key, measure))
            rows.append(row | {"seconds": one["seconds"]})
        images = [one["images"] for one in points.values()]
        row = {"name": name, "kind": rows[-1]["kind"], "share": "", "images": OFFICIAL_IMAGES}
        row["extrapolated"] = True
        for measure in MEASURES:
            law = extrapolate(oof, list(points), images, measure)
            row |= {**_columns(measure, law), f"{measure}_exponent": law.exponent}
        rows.append(row)
    return rows


def _columns(name: str, one: Estimate | Extrapolation) -> dict[str, float]:
    return {name: one.value, f"{name}_low": one.low, f"{name}_high": one.high}


def write_page(folder: Path) -> None:
    """Write ``table.csv``, ``learning_curve.png`` and, last, ``README.md``.

    Raises:
        InputError: ``oof.csv`` or ``learning_curve.json`` is missing or damaged.
    """
    from chestlab.reporting.page import markdown_table
    from chestlab.reporting.study_plots import draw_learning_curves

    path = folder / "learning_curve.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        names = set(found["points"])
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"'{path}' is missing, or not of a learning curve") from None
    oof = OutOfFold.read(folder / "oof.csv")
    if set(oof.logits) != names:
        raise InputError(f"'{folder}': oof.csv and learning_curve.json do not belong together")
    rows = table(found, oof)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    write_csv(
        folder / "table.csv", columns, [[row.get(key, "") for key in columns] for row in rows]
    )
    shown = [row for row in rows if row["name"] != baselines.BASELINES[0].model]
    draw_learning_curves(
        shown,
        folder / "learning_curve.png",
        title="Learning curves: mean over folds and repeats\n"
        f"{found['data']['source']} · train + val n = {len(oof.labels)}, {found['repeats']} x "
        f"{found['folds']} folds",
        caption="Hollow, behind the dotted line: not measured, a power law extrapolated to the "
        f"{OFFICIAL_IMAGES:,} official training images. Bars: 95 % intervals.",
    )
    recipes = ", ".join(
        f"{name} with recipe {in_words(one['recipe_name'], found['recipe_changes'])} of "
        f"`{one['script']}.py`"
        for name, one in found["recipes"].items()
    )
    head = ("", "training images", "share of the patients", "AUC (95 %)", "accuracy (95 %)")
    lines = [
        (
            row["name"],
            f"{row['images']:,.0f}",
            "*extrapolated*" if row["extrapolated"] else f"{row['share']:.0%}",
            *(f"{row[m]:.3f} ({row[f'{m}_low']:.3f} to {row[f'{m}_high']:.3f})" for m in MEASURES),
        )
        for row in rows
    ]
    atomic_write(
        folder / "README.md",
        "\n\n".join(
            [
                "# Learning curves",
                f"{recipes}. {describe(found, oof)} Each network was trained on shares of "
                "the patients of the other folds, a smaller share within a larger one.",
                "![Learning curves](learning_curve.png)",
                markdown_table(head, lines, left=1),
                f"Extrapolated: the error, 1 less the figure, falls as a power of the number of "
                f"training images through the four points, to {OFFICIAL_IMAGES:,} images, the "
                "official number. It is not a measurement: such a law knows no floor, while real "
                "curves level off. Its interval is that of a bootstrap over patients and repeats, "
                "each resample with a law of its own.",
            ]
        )
        + "\n",
    )


def main(argv: Sequence[str] | None = None) -> None:
    """The command line; exit statuses of `experiment.run`."""
    with one_line_errors(resume=""), StopSignals() as signals:
        parser = comparison_parser(__doc__.splitlines()[0])
        parser.add_argument(
            "--nets", nargs="+", choices=tuple(NETWORKS), default=("residualchestnet",)
        )
        parser.add_argument("--base", metavar="RECIPE", help="(default: that of each script)")
        LearningCurve(parser.parse_args(argv), signals).go()


if __name__ == "__main__":
    main()
