"""The effect of each switch of a recipe, by repeated cross-validation over train and val.

    python -m studies.ablation --net residualchestnet --data FILE.npz --repeats 2 --folds 5

A base recipe is compared with itself plus each switch alone (minus it, where the base has it), with
all winners together and with whole other recipes of the script (--recipes), on the same folds and
seeds; and with HOG + RBF SVM on the same folds. results/studies/ablation_<net>_<data>/ gets the
logits, the table, a picture and a page. Finished folds are stored, and the same command continues
where it was stopped. ``--redraw FOLDER`` writes table, picture and page again from the logits.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from chestlab.evaluation import baselines
from chestlab.evaluation.out_of_fold import BASELINE_KIND, MEASURES, OutOfFold
from chestlab.evaluation.verdicts import VERDICTS, Estimate, verdicts
from chestlab.files.errors import InputError, TrainingError, one_line_errors
from chestlab.files.progress import StopSignals
from chestlab.reporting.front_messages import SWITCHES_IN_INDONESIAN
from chestlab.reporting.numbers import MISSING
from chestlab.reporting.page import Wording
from chestlab.runs.crossval import Outcome
from chestlab.training.augment import warps_anything
from chestlab.training.recipe import Recipe, as_dict, in_words
from chestlab.training.weights import PretrainedWeights, read_pretrained
from networks import NAMES
from studies.stored_results import read_results
from studies.study import (
    Study,
    comparison_parser,
    interval_cell,
    interval_columns,
    p_cell,
    write_readmes,
    write_table,
)
from studies.switches import is_on, offered, select, toggled, usable

BASE, TOGETHER, RECIPE, BASELINE = "base", "together", "recipe", "hog_rbf_svm"

ADDED, REMOVED = SINGLE = ("added", "removed")  # kinds of configurations: one switch turned

CLAIM = (0, math.inf)  # of every row: the switch helps


class Ablation(Study):
    """Trains a base recipe and its variants, then writes the page.

    Args:
        options: of `main`.
        signals: checked after every optimiser step.

    Raises:
        InputError: the flags cannot be used. Nothing has been written.
    """

    def __init__(self, options: argparse.Namespace, signals: StopSignals) -> None:
        suffix = f"_{options.base}" if options.base else ""
        super().__init__(options, signals, f"ablation_{options.net}{suffix}")
        self.network, self.base = self.configuration(options.net, options.base)
        self.recipes = {
            name: self.configuration(options.net, name)[1].recipe for name in options.recipes
        }
        allowed = offered(self, self.base)
        if not warps_anything(self.base.recipe):  # all of them would be the image itself
            allowed.pop("tta-warps")
        everything = () if options.recipes else allowed
        wanted = [*(options.switch or everything), *(options.together or ())]
        self.switches = select(allowed, wanted)
        self.pretrained = {path: read_pretrained(str(path), None) for path in options.pretrained}
        self.configurations: dict[str, dict[str, Any]] = {}
        self.oof = OutOfFold.of(self.splits, {})
        self.failed: dict[str, str] = {}

    def run(self) -> None:
        """Train what is not stored, then write the page."""
        self.open_store()
        recipe = self.base.recipe
        self._measure(BASE, recipe, "what all others are compared with")
        for name, other in self.recipes.items():
            other = dataclasses.replace(other, name=recipe.name, seed=recipe.seed)
            self._measure(f"recipe {name}", other, f"all of recipe {name}", RECIPE)
        for switch in self.switches.values():
            kind = REMOVED if is_on(recipe, switch) else ADDED
            name = f"{'-' if kind == REMOVED else '+'} {switch.name}"
            self._measure(name, toggled(recipe, switch), switch.text, kind, switch.name)
        for path, pretrained in self.pretrained.items():
            text = f"start from {path.stem}"
            self._measure(f"+ {path.stem}", recipe, text, ADDED, pretrained=pretrained)
        self._measure_baseline()
        self._measure_together()
        summary = {
            "net": self.options.net,
            "script": self.network.script,
            "recipe_name": self.options.base or next(iter(self.network.recipes)),
            "recipe": as_dict(recipe),
            **self.about(),
            "configurations": self.configurations,
            "failed": self.failed,
        }
        self.write("ablation", summary, self.oof, write_page)

    def _measure(
        self,
        name: str,
        recipe: Recipe,
        text: str,
        kind: str = BASE,
        switch: str = "",
        pretrained: PretrainedWeights | None = None,
    ) -> None:
        configuration = dataclasses.replace(
            self.base, name=name, recipe=recipe, pretrained=pretrained or self.base.pretrained
        )
        try:
            outcome = self.cross_validate(configuration)
        except TrainingError as error:
            if kind == BASE:
                raise
            print(f"left out: {error}", flush=True)
            self.failed[name] = str(error)
            return
        base = as_dict(self.base.recipe)
        changes = {key: value for key, value in as_dict(recipe).items() if value != base[key]}
        about = {"text": text, "kind": kind, "switch": switch, "changes": changes}
        self._keep(name, outcome, about)

    def _measure_baseline(self) -> None:
        (baseline,) = (one for one in baselines.BASELINES if one.key == BASELINE)
        outcome = self.cross_validate_baseline(baseline)
        self._keep(BASELINE, outcome, {"text": baseline.model, "kind": BASELINE_KIND})

    def _keep(self, name: str, outcome: Outcome, about: Mapping[str, Any]) -> None:
        self.oof.add(name, outcome.logits)
        costs = {key: getattr(outcome, key) for key in ("seconds", "images", "best_epoch")}
        self.configurations[name] = {**about, **costs}
        self.oof.describe(self.configurations)
        auc = self.oof.estimate(name, "auc")
        print(f"{name}: AUC {auc.value:.3f} ({auc.low:.3f} to {auc.high:.3f})", flush=True)

    def _measure_together(self) -> None:
        """Base with every winner on and every loser off, or with the switches asked for."""
        single = {
            name: configuration
            for name, configuration in self.configurations.items()
            if configuration["kind"] in SINGLE and configuration["switch"]
        }
        gains = [_gain(self.oof, name, about["kind"], "auc") for name, about in single.items()]
        chosen = []
        for about, gain, verdict in zip(
            single.values(), gains, verdicts(gains, [CLAIM] * len(gains)), strict=True
        ):
            # not Holm's: a choice, whose price is a worse recipe and no wrong claim
            wins = verdict.raw == ("supported" if about["kind"] == ADDED else "refuted")
            if self.options.together is not None:
                wins = about["switch"] in self.options.together
            if wins:
                chosen.append((abs(gain.value), about["switch"]))
        recipe, taken = self.base.recipe, []
        for _, name in sorted(chosen, reverse=True):
            switch = self.switches[name]
            if not any(set(switch.changes) & set(other.changes) for other in taken):
                recipe, taken = toggled(recipe, switch), [*taken, switch]
        if len(taken) > 1:
            text = ", ".join(switch.name for switch in taken)
            self._measure(TOGETHER, recipe, text, TOGETHER)


def _gain(oof: OutOfFold, name: str, kind: str, measure: str) -> Estimate:
    """Effect of a switch: with it less without it, whichever of the two is the base."""
    pair = (BASE, name) if kind == REMOVED else (name, BASE)
    return oof.gain(*pair, measure)


def read(folder: Path) -> tuple[dict[str, Any], OutOfFold]:
    """The summary and the logits that `Ablation.run` has written.

    Raises:
        InputError: a file is missing or damaged.
    """
    summary, oof = read_results(folder, "ablation", "configurations")
    if BASE not in oof.logits:
        raise InputError(f"'{folder}': there is no base to compare with")
    return summary, oof


def table(summary: Mapping[str, Any], oof: OutOfFold) -> list[dict[str, Any]]:
    """A row per configuration: base, recipes, all winners, then each switch by its verdict."""
    rows = []
    base_images = _images_seen(summary["configurations"][BASE])
    for name, configuration in summary["configurations"].items():
        kind = configuration["kind"]
        row = {"configuration": name, "text": configuration["text"], "kind": kind}
        row |= {"verdict": "", "verdict_holm": ""}
        for measure in MEASURES:
            row |= interval_columns(measure, oof.estimate(name, measure))
        row["seconds"] = configuration["seconds"]
        row["images_ratio"] = _images_seen(configuration) / base_images
        rows.append(row)
    compared = [row for row in rows if row["kind"] in (*SINGLE, RECIPE, TOGETHER)]
    _add_gains(compared, "gain", lambda row, m: _gain(oof, row["configuration"], row["kind"], m))
    networks = [row for row in rows if row["kind"] != BASELINE_KIND]
    _add_gains(networks, "over_hog", lambda row, m: oof.gain(row["configuration"], BASELINE, m))
    return sorted(rows, key=_place)


def _add_gains(
    rows: Sequence[dict[str, Any]],
    comparison: str,
    gain: Callable[[Mapping[str, Any], str], Estimate],
) -> None:
    """Add gains by each measure to the rows, and verdicts on those of AUC.

    Args:
        rows: all that are compared; Holm's correction is for their number.
        comparison: ``gain``, over the base, or ``over_hog``: in the names of the columns.
        gain: of a row and a measure.
    """
    by_row = [{measure: gain(row, measure) for measure in MEASURES} for row in rows]
    of_auc = [gains["auc"] for gains in by_row]
    decided = verdicts(of_auc, [CLAIM] * len(rows))
    start = "" if comparison == "gain" else f"{comparison}_"
    for row, gains, verdict in zip(rows, by_row, decided, strict=True):
        for measure in MEASURES:
            row |= interval_columns(f"{measure}_{comparison}", gains[measure])
        row[f"auc_{comparison}_detectable"] = gains["auc"].detectable
        row[f"auc_{comparison}_monte_carlo"] = gains["auc"].monte_carlo
        row |= {f"{start}p": verdict.p, f"{start}p_holm": verdict.p_holm}
        row |= {f"{start}verdict": verdict.raw, f"{start}verdict_holm": verdict.holm}


def _place(row: Mapping[str, Any]) -> tuple:
    """Key that sorts the rows of a table."""
    single = row["kind"] in SINGLE
    kind = (BASE, RECIPE, TOGETHER, ADDED, BASELINE_KIND).index(ADDED if single else row["kind"])
    if not single:
        return kind, 0, 0
    return kind, VERDICTS.index(row["verdict"]), -row["auc_gain"]


def _images_seen(configuration: Mapping[str, Any]) -> float:
    """By a network in training, each as often as it was: a cost that no other job changes."""
    return configuration["images"] * (configuration.get("best_epoch") or 1)


def write_page(folder: Path) -> None:
    """Write ``table.csv``, ``gains.png`` and, last, the page in both languages.

    Raises:
        InputError: ``oof.csv`` or ``ablation.json`` is missing or damaged.
    """
    summary, oof = read(folder)
    rows = table(summary, oof)
    write_table(folder / "table.csv", rows)
    recipe = in_words(summary["recipe_name"], summary["recipe_changes"])
    compared = [row for row in rows if row["verdict"]]
    if compared:
        _draw(summary, oof, compared, folder / "gains.png", recipe.replace("`", ""))
    over = [row for row in rows if "auc_over_hog" in row]
    over.sort(key=lambda row: (row["kind"] not in (BASE, RECIPE, TOGETHER), -row["auc_over_hog"]))

    def values(wording: Wording) -> dict[str, Any]:
        monte_carlo = max((row["auc_gain_monte_carlo"] for row in compared), default=0.0)
        return {
            **{key: summary[key] for key in ("net", "script", "recipe_name", "failed")},
            "recipe": recipe,
            "gains": bool(compared),
            "comparisons": len(compared),
            "by_chance": wording.number(0.05 * len(compared), ".1f"),
            "monte_carlo": wording.number(monte_carlo, ".4f"),
            "together": any(row["kind"] == TOGETHER for row in rows),
            "rows": [_cells(wording, row) for row in rows],
            "over_hog": [
                (f"`{row['configuration']}`", *_gain_cells(wording, row, "over_hog"))
                for row in over
            ],
            **_answer(wording, compared),
        }

    write_readmes(folder, "ablation", summary, oof, values)


def _answer(wording: Wording, compared: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the page begins with: the switches whose effect is decided after Holm's correction."""
    by_gain = sorted(compared, key=lambda row: -row["auc_gain"])
    texts = [
        f"{_named(wording, row)} {interval_cell(wording, row, 'auc_gain', '+.3f')}"
        for row in by_gain
    ]
    verdict = [row["verdict_holm"] for row in by_gain]
    of_verdict = {
        name: [text for text, of in zip(texts, verdict, strict=True) if of == name]
        for name in ("supported", "refuted")
    }
    return {
        "helps": of_verdict["supported"],
        "hurts": of_verdict["refuted"][::-1],
        "undecided": verdict.count("undecided"),
        "largest": texts[0] if texts else "",
    }


def _named(wording: Wording, row: Mapping[str, Any]) -> str:
    """The switch of a row, as `effect_of`, in the page's language."""
    name, kind = row["configuration"], row["kind"]
    if kind == TOGETHER:
        return wording.say("all_winners")
    name = f"`{name[2:] if kind in SINGLE else name}`"
    return f"{name} ({wording.say('on_in_base')})" if kind == REMOVED else name


def _draw(
    summary: Mapping[str, Any],
    oof: OutOfFold,
    rows: Sequence[Mapping[str, Any]],
    path: Path,
    recipe: str,
) -> None:
    """Draw the gains of the rows that have a verdict."""
    from chestlab.reporting.study_plots import draw_gains

    bars = []
    for row in rows:
        name, kind = row["configuration"], row["kind"]
        gains = {measure: _gain(oof, name, kind, measure) for measure in MEASURES}
        decided = row["verdict_holm"], row["verdict"]
        bars.append((effect_of(name, kind), decided, gains))
    draw_gains(
        bars,
        path,
        title=f"{summary['net']} · base: recipe {recipe}\n"
        f"{summary['data']['source']} · train + val n = {len(oof.labels)}, {summary['repeats']} x "
        f"{summary['folds']} choice folds",
        caption="With the switch less without it, whichever of the two the base is. Bars: 95 % "
        "intervals over patients and repeats; the verdict is on the AUC, without Holm's "
        "correction where hollow.",
    )


def effect_of(name: str, kind: str) -> str:
    """What a gain is the effect of; a switch that was taken away is named as the base has it."""
    if kind == TOGETHER:
        return "all winners"
    if kind not in SINGLE:
        return name
    return name[2:] + (" (on in the base)" if kind == REMOVED else "")


def _cells(wording: Wording, row: Mapping[str, Any]) -> tuple[str, ...]:
    figures = [interval_cell(wording, row, measure) for measure in MEASURES]
    seconds = wording.number(row["seconds"], ".1f")
    if row["kind"] != BASELINE_KIND:
        seconds += f" (x {wording.number(row['images_ratio'], '.2f')})"
    gains = _gain_cells(wording, row, "gain") if row["verdict"] else [""] * 7
    auc, detectable, accuracy, *decided = gains
    return (
        f"`{row['configuration']}`",
        _text(wording, row),
        *figures,
        *(auc, detectable, accuracy, seconds),
        *decided,
    )


def _text(wording: Wording, row: Mapping[str, Any]) -> str:
    """What a row's configuration is, in the page's language."""
    text, name = row["text"], row["configuration"][2:]
    if row["kind"] in SINGLE and name in SWITCHES_IN_INDONESIAN and wording.language == "id":
        return SWITCHES_IN_INDONESIAN[name]
    if row["kind"] == BASELINE_KIND:
        return wording.baseline(text)
    return wording.translated(text, "ablation_base", "ablation_recipe", "ablation_start")


def _gain_cells(wording: Wording, row: Mapping[str, Any], comparison: str) -> list[str]:
    """Gain of AUC, smallest detectable, gain of accuracy, p, Holm's p, verdict, Holm's verdict."""
    start = "" if comparison == "gain" else f"{comparison}_"
    auc, accuracy = (
        interval_cell(wording, row, f"{measure}_{comparison}", "+.3f") for measure in MEASURES
    )
    detectable = row[f"auc_{comparison}_detectable"]
    raw, holm = (wording.say(f"verdict_{row[f'{start}verdict{end}']}") for end in ("", "_holm"))
    return [
        auc,
        MISSING if math.isnan(detectable) else wording.number(detectable),
        accuracy,
        p_cell(row[f"{start}p"], wording),
        p_cell(row[f"{start}p_holm"], wording),
        f"**{raw}**",
        holm,
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """The command line; exit statuses of `chestlab.runs.run`."""
    with one_line_errors(resume=""), StopSignals() as signals:
        parser = comparison_parser("ablation", __doc__.splitlines()[0], write_page)
        parser.add_argument("--net", choices=NAMES, required=True)
        parser.add_argument("--base", metavar="RECIPE", help="(default: that of its script)")
        parser.add_argument(
            "--recipes",
            nargs="+",
            default=[],
            metavar="RECIPE",
            help="other recipes of its script to compare with the base, each as a whole",
        )
        parser.add_argument(
            "--switch",
            nargs="+",
            metavar="NAME",
            help="(default: all, without --recipes) " + ", ".join(usable()),
        )
        parser.add_argument(
            "--together",
            nargs="+",
            metavar="NAME",
            help="switches to turn together (default: the winners)",
        )
        parser.add_argument(
            "--pretrained",
            nargs="+",
            type=Path,
            default=[],
            metavar="FILE",
            help="checkpoints of studies.pretrain to start from, each a switch of its own",
        )
        Ablation(parser.parse_args(argv), signals).run()


if __name__ == "__main__":
    main()
