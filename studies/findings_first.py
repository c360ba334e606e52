"""Does it help to learn the 14 findings of all chests first, and then the two classes?

    python -m studies.pretrain --net efficientchestnet --exclude-fold all
    python -m studies.findings_first --data FILE.npz --pretrained FILE_final.pth

Of each network that has a file, its default recipe is cross-validated on the choice folds from
random numbers and from the file; the recipe with fewer epochs at a lower rate, from the file; and
logistic regression on the features that the file's network has before it sees the two classes. Test
is not read. `pretrain --objective simclr` makes files that know no label. For networks from
ImageNet weights see `imagenet --chests`.

results/studies/findings_first_<data>/ gets logits, tables, pictures and a page in two languages,
with the findings' AUC on validation images of patients who are in no fold. Finished folds are
stored, and the same command continues where it was stopped. ``--only NAME`` trains some of the
rows. ``--redraw FOLDER`` writes the page again from what is stored.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import nn

from chestlab.evaluation import baselines
from chestlab.evaluation.out_of_fold import BASELINE_KIND, NETWORK_KIND
from chestlab.files.errors import InputError, one_line_errors
from chestlab.files.progress import StopSignals
from chestlab.runs.crossval import Configuration
from chestlab.training.layers import parameter_count
from chestlab.training.network_names import network_name, with_strides
from chestlab.training.recipe import as_dict, recipe_hash
from chestlab.training.weights import PretrainedWeights, last_linear, read_pretrained
from networks import NETWORKS
from studies.findings_first_page import PROBE, SHORT, write_page
from studies.imagenet_chests import refuse_known
from studies.learned_findings import record_of
from studies.pretrain_flags import OBJECTIVES
from studies.probes import OF_INPUT, Probe, features
from studies.stored_configurations import StoredConfigurations, known_first
from studies.study import add_only, comparison_parser

FEWER = {"epochs": 15, "lr": 5e-4}  # fixed before anything was trained

ALONE = tuple(name for name, known in NETWORKS.items() if known.recipes and not known.imagenet_url)


@dataclass(frozen=True)
class Row:
    """What is trained on every fold.

    Attributes:
        name: of the row.
        network: one of `ALONE`.
        learned: what the network knows at the start: an objective of `pretrain`, or ``none``.
        changes: hyperparameters that differ from the network's default recipe.
    """

    name: str
    network: str
    learned: str = "none"
    changes: Mapping[str, Any] = field(default_factory=dict)


def rows_of(name: str) -> list[Row]:
    """The rows of a network, whichever files are given."""
    rows = [Row(name, name)]
    for objective in OBJECTIVES:
        rows.append(Row(f"{name}_{objective}", name, objective))
        rows.append(Row(f"{name}_{objective}{SHORT}", name, objective, FEWER))
    return rows


ROWS = tuple(row for name in ALONE for row in rows_of(name))


class FindingsFirst(StoredConfigurations):
    """Trains the rows that files are given for, then writes the pages.

    Args:
        options: of `main`.
        signals: checked after every optimiser step.

    Raises:
        InputError: the flags cannot be used. Nothing has been written.
    """

    def __init__(self, options: argparse.Namespace, signals: StopSignals) -> None:
        super().__init__(options, signals, "findings_first")
        self.starts: dict[tuple[str, str], PretrainedWeights] = {}
        for file in options.pretrained:
            key, start = self._read(file)
            if key in self.starts:
                raise InputError(f"--pretrained: two files of {key[0]} on {key[1]}; allowed is one")
            self.starts[key] = start
        networks = {name for name, _ in self.starts}
        known = {*self.starts, *((name, "none") for name in networks)}
        self.rows = [
            row for row in ROWS if (row.network, row.learned) in known and row.name in options.only
        ]
        self.to_train = {row.name: self._configuration_of(row) for row in self.rows}

    def _read(self, file: str) -> tuple[tuple[str, str], PretrainedWeights]:
        """A checkpoint of `pretrain`, with its network and objective.

        Raises:
            InputError: it is of another kind, or knows a patient of the folds.
        """
        start = read_pretrained(file, None)
        state = start.state or {}
        known = ((name, NETWORKS[name]) for name in ALONE)
        networks = {with_strides(of.build.__name__, of.arguments): name for name, of in known}
        found = networks.get(network_name({"model": "", **state}))
        objective = (state.get("objective") or {}).get("name")
        if found is None or objective not in OBJECTIVES or "trained" not in start.seen:
            raise InputError(
                f"--pretrained '{file}': wanted is NAME_final.pth of python -m studies.pretrain "
                f"--net {' or '.join(ALONE)} --exclude-fold all"
            )
        refuse_known(file, start, self.splits)
        return (found, str(objective)), start

    def _configuration_of(self, row: Row) -> Configuration:
        _, configuration = self.configuration(row.network, weights="none")
        recipe = dataclasses.replace(configuration.recipe, **row.changes)
        start = self.starts.get((row.network, row.learned))
        configuration = dataclasses.replace(
            configuration, name=row.name, recipe=recipe, pretrained=start
        )
        configuration.model()  # weights that do not fit are refused before anything is trained
        return configuration

    def run(self) -> None:
        """Train what is neither stored nor in the results, then write the pages."""
        self.begin()
        self._refuse_other_files()
        for (name, objective), start in self.starts.items():
            probe = self._probe(name, start)
            outcome = self.cross_validate_baseline(probe)
            about = {"kind": BASELINE_KIND, "model": probe.model, "images": outcome.images}
            about |= {"start": record_of(start, objective), "seconds": outcome.seconds}
            self.keep({f"{name}_{objective}{PROBE}": (about, outcome.logits)})
            self.signals.check()
        for row in self.rows:
            configuration = self.to_train[row.name]
            self.measure(row.name, configuration, self._about(row, configuration), estimated=False)
        self.finish(write_page)

    def _refuse_other_files(self) -> None:
        """Raise `InputError` where rows that stay in the results start from another file."""
        for (network, objective), start in self.starts.items():
            names = (f"{network}_{objective}", f"{network}_{objective}{SHORT}")
            for name in set(names) - self.to_train.keys():
                before = self.configurations.get(name, {}).get("start") or {}
                if before.get("sha256", start.sha256) != start.sha256:
                    raise InputError(
                        f"--pretrained '{start.source}': the row '{name}' of '{self.folder}' "
                        "starts from another file; give --only both rows, or another --name"
                    )

    def _probe(self, name: str, start: PretrainedWeights) -> Probe:
        """Logistic regression on what the network's last layer takes, before any fine-tuning."""
        _, configuration = self.configuration(name, weights="none")
        model = dataclasses.replace(configuration, pretrained=start).model()
        parameters = parameter_count(model)
        model.set_submodule(last_linear(model), nn.Identity())
        (logistic,) = (known for known in baselines.BASELINES if known.key == "logistic_pixels")
        of_input = [f"{key}{getattr(configuration.recipe, key)}" for key in OF_INPUT]
        return Probe(
            "_".join(["probe_logistic", name, start.sha256[:12], *of_input]),
            f"{name} features + logistic regression",
            build=logistic.build,
            grid=logistic.grid,
            features=partial(features, model, configuration.recipe),
            network_parameters=parameters,
        )

    def _about(self, row: Row, configuration: Configuration) -> dict[str, Any]:
        """What is stored about a row; with other values it is trained again."""
        start = self.starts.get((row.network, row.learned))
        return {
            "kind": NETWORK_KIND,
            "model": row.network,
            "changes": dict(row.changes),
            "recipe": recipe_hash(as_dict(configuration.recipe)),
            "start": None if start is None else record_of(start, row.learned),
        }

    def in_order(self, names: Collection[str]) -> list[str]:
        return order(names)


def order(names: Collection[str]) -> list[str]:
    """The names of rows as the table has them."""
    probes = [f"{name}_{objective}{PROBE}" for name in ALONE for objective in OBJECTIVES]
    return known_first(names, (*(row.name for row in ROWS), *probes))


def main(argv: Sequence[str] | None = None) -> None:
    """The command line; exit statuses of `chestlab.runs.run`."""
    with one_line_errors(resume=""), StopSignals() as signals:
        parser = comparison_parser(
            "findings_first", __doc__.splitlines()[0], write_page, frozen=True
        )
        add_only(parser, tuple(row.name for row in ROWS))
        parser.add_argument(
            "--pretrained",
            nargs="+",
            required=True,
            metavar="FILE",
            help="checkpoints of studies.pretrain --exclude-fold all, of one or more of "
            f"{', '.join(ALONE)}",
        )
        FindingsFirst(parser.parse_args(argv), signals).run()


if __name__ == "__main__":
    main()
