"""The effect of more training images: cross-validated figures over shares of the patients.

    python -m studies.learning_curve --nets residualchestnet resnet34 --data FILE.npz

Every network, and every baseline beside it, is trained on 25, 50, 75 and 100 % of the patients of
the folds that are not held out (a smaller share lies within a larger one) and evaluated on the
whole held-out fold. With three repeats or more, a power law through the four points is
extrapolated to the official number of training images, and marked as an extrapolation. Writes
results/studies/learning_curve_<data>/. Finished folds are stored, and the same command continues
where it was stopped. ``--redraw FOLDER`` writes table, picture and page again from the logits.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from chestlab.data.phantom import OFFICIAL_COUNTS
from chestlab.evaluation import baselines
from chestlab.evaluation.out_of_fold import BASELINE_KIND, MEASURES, NETWORK_KIND, OutOfFold
from chestlab.evaluation.verdicts import Estimate, estimate
from chestlab.files.errors import InputError, one_line_errors
from chestlab.files.progress import StopSignals
from chestlab.reporting.page import Wording
from chestlab.runs.crossval import Outcome
from chestlab.training.recipe import in_words
from networks import NAMES
from studies.stored_results import read_results
from studies.study import (
    Study,
    comparison_parser,
    interval_cell,
    interval_columns,
    write_readmes,
    write_table,
)

SHARES = (0.25, 0.5, 0.75, 1.0)

OFFICIAL_IMAGES = sum(OFFICIAL_COUNTS["train"])

EXTRAPOLATED = (
    "Hollow, behind the dotted line: not measured, a power law extrapolated to the "
    f"{OFFICIAL_IMAGES:,} official training images. "
)

MOST_NETWORKS = 6  # in one picture, each with a colour and a marker

EXTRAPOLATED_REPEATS = 3  # fewer do not tell how much training again would move the law

LEAST_ERROR = 1e-3  # an error of 0 has no logarithm


def fit_power_law(images: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least squares through logarithms.

    The law falls towards an error of 0 without a limit; real curves level off (Hestness et al.,
    https://arxiv.org/abs/1712.00409), so that the law is too optimistic far ahead.

    Args:
        images: (K,) numbers of training images.
        scores: (..., K) accuracies or AUCs.

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
) -> tuple[Estimate, float]:
    """The power law ``error = a * images ** -b`` beyond what was measured, one per repeat.

    Args:
        oof: logits of all shares.
        names: of the configurations of one network, a share each.
        images: mean numbers they were trained on.
        measure: ``auc`` or ``accuracy``.

    Returns:
        1 less the error at `OFFICIAL_IMAGES`, with its interval over patients and repeats, and the
        mean exponent b.
    """
    scores = [oof.score(name, measure) for name in names]
    groups = scores[0][2]

    def ahead(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        exponent, factor = fit_power_law(np.array(images), values)
        return 1 - factor * float(OFFICIAL_IMAGES) ** -exponent, exponent

    values, exponents = ahead(np.stack([values for values, _, _ in scores], -1))
    resampled, _ = ahead(np.stack([drawn for _, drawn, _ in scores], -1))
    return estimate(values, resampled, groups), float(exponents.mean())


class LearningCurve(Study):
    """Trains networks and baselines on the shares, then writes the page.

    Args:
        options: of `main`.
        signals: checked after every optimiser step.

    Raises:
        InputError: the flags cannot be used. Nothing has been written.
    """

    def __init__(self, options: argparse.Namespace, signals: StopSignals) -> None:
        nets = dict.fromkeys(options.nets)
        if len(nets) > MOST_NETWORKS:
            raise InputError(f"--nets: at most {MOST_NETWORKS} fit into one picture")
        super().__init__(options, signals, "learning_curve")
        self.nets = {name: self.configuration(name, options.base) for name in nets}
        self.oof = OutOfFold.of(self.splits, {})
        self.points: dict[str, dict[str, Any]] = {}

    def run(self) -> None:
        """Train what is not stored, then write the page."""
        self.open_store()
        for baseline in baselines.BASELINES:
            for share in SHARES:
                outcome = self.cross_validate_baseline(baseline, share)
                self._keep(baseline.key, baseline.model, BASELINE_KIND, share, outcome)
                self.signals.check()
        for share in SHARES:
            for name, (_, configuration) in self.nets.items():
                outcome = self.cross_validate(configuration, share)
                self._keep(name, name, NETWORK_KIND, share, outcome)
                print(f"{name} on {share:.0%} of the patients is done", flush=True)
        recipes = {
            name: {
                "script": network.script,
                "recipe_name": self.options.base or next(iter(network.recipes)),
            }
            for name, (network, _) in self.nets.items()
        }
        summary = {"recipes": recipes, **self.about(), "points": self.points}
        self.write("learning_curve", summary, self.oof, write_page)

    def _keep(self, key: str, name: str, kind: str, share: float, outcome: Outcome) -> None:
        key = f"{key} {share:.0%}"
        self.oof.add(key, outcome.logits)
        self.points[key] = {"name": name, "kind": kind, "share": share}
        self.points[key] |= {"images": outcome.images, "seconds": outcome.seconds}


def table(summary: Mapping[str, Any], oof: OutOfFold) -> list[dict[str, Any]]:
    """A row per network and share, and one for each extrapolation."""
    rows = []
    for name in dict.fromkeys(point["name"] for point in summary["points"].values()):
        points = {key: point for key, point in summary["points"].items() if point["name"] == name}
        points = dict(sorted(points.items(), key=lambda item: item[1]["share"]))
        for key, point in points.items():
            row = {"name": name, "kind": point["kind"], "share": point["share"]}
            row |= {"images": point["images"], "extrapolated": False}
            for measure in MEASURES:
                row |= interval_columns(measure, oof.estimate(key, measure))
            rows.append(row | {"seconds": point["seconds"]})
        if summary["repeats"] < EXTRAPOLATED_REPEATS:
            continue
        images = [point["images"] for point in points.values()]
        row = {"name": name, "kind": rows[-1]["kind"], "share": "", "images": OFFICIAL_IMAGES}
        row["extrapolated"] = True
        for measure in MEASURES:
            law, exponent = extrapolate(oof, list(points), images, measure)
            row |= {**interval_columns(measure, law), f"{measure}_exponent": exponent}
        rows.append(row)
    return rows


def write_page(folder: Path) -> None:
    """Write ``table.csv``, ``learning_curve.png`` and, last, the page in both languages.

    Raises:
        InputError: ``oof.csv`` or ``learning_curve.json`` is missing or damaged.
    """
    from chestlab.reporting.study_plots import draw_learning_curves

    summary, oof = read_results(folder, "learning_curve", "points")
    rows = table(summary, oof)
    write_table(folder / "table.csv", rows)
    draw_learning_curves(
        [row for row in rows if row["name"] != baselines.BASELINES[0].model],
        folder / "learning_curve.png",
        title=f"{summary['data']['source']} · train + val n = {len(oof.labels)} · means over "
        f"{summary['repeats']} x {summary['folds']} choice folds",
        caption=("" if summary["repeats"] < EXTRAPOLATED_REPEATS else EXTRAPOLATED)
        + "Bars: 95 % intervals.",
    )
    most = max(point["images"] for point in summary["points"].values())

    def values(wording: Wording) -> dict[str, Any]:
        recipes = ", ".join(
            wording.say(
                "network_with_recipe",
                name=name,
                recipe=in_words(recipe["recipe_name"], summary["recipe_changes"]),
                script=recipe["script"],
            )
            for name, recipe in summary["recipes"].items()
        )
        return {
            "recipes": recipes,
            "official": wording.number(OFFICIAL_IMAGES, ","),
            "times": f"{OFFICIAL_IMAGES / most:.0f}",
            "least_repeats": EXTRAPOLATED_REPEATS,
            "rows": [_cells(wording, row) for row in rows],
            "growths": [_growth(wording, summary, oof, name) for name in summary["recipes"]],
        }

    write_readmes(folder, "learning_curve", summary, oof, values)


def _growth(
    wording: Wording, summary: Mapping[str, Any], oof: OutOfFold, name: str
) -> dict[str, Any]:
    """What the page begins with: a network's gain by all patients over fewest and over the last."""
    points = {key: of for key, of in summary["points"].items() if of["name"] == name}
    keys = sorted(points, key=lambda key: points[key]["share"])
    growth: dict[str, Any] = {"name": name}
    for which, key in (("most", keys[-1]), ("fewest", keys[0]), ("before_last", keys[-2])):
        growth[which] = wording.number(points[key]["images"], ",.0f")
    for which, key in (("auc", keys[-1]), ("auc_before", keys[0])):
        growth[which] = wording.number(oof.estimate(key, "auc").value)
    for which, key, certain in (("gain", keys[0], "certain"), ("step", keys[-2], "step_certain")):
        gain = oof.gain(keys[-1], key, "auc")
        growth[which] = interval_cell(wording, interval_columns("auc", gain), "auc", "+.3f")
        beyond = "beyond_chance" if gain.low > 0 or gain.high < 0 else "maybe_chance"
        growth[certain] = wording.say(beyond if summary["repeats"] > 1 else "single_repeat")
    return growth


def _cells(wording: Wording, row: Mapping[str, Any]) -> tuple[str, ...]:
    share = wording.say("extrapolated") if row["extrapolated"] else f"{row['share']:.0%}"
    figures = [interval_cell(wording, row, measure) for measure in MEASURES]
    images = wording.number(row["images"], ",.0f")
    return (wording.baseline(row["name"]), images, share, *figures)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line; exit statuses of `chestlab.runs.run`."""
    with one_line_errors(resume=""), StopSignals() as signals:
        parser = comparison_parser("learning_curve", __doc__.splitlines()[0], write_page)
        parser.add_argument("--nets", nargs="+", choices=NAMES, default=("residualchestnet",))
        parser.add_argument("--base", metavar="RECIPE", help="(default: that of each script)")
        LearningCurve(parser.parse_args(argv), signals).run()


if __name__ == "__main__":
    main()
