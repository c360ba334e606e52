"""Can experiments 1 and 2 have the same AUC in less time?

    python -m studies.time_to_accuracy --data FILE.npz

Each network is cross-validated on the choice folds with its default recipe and with changes, all
but one of which make training shorter. A change is as good if its AUC is not lower by more than
`MARGIN`, paired on the same images. Test is not read. Every change is measured by the arithmetic of
the images that the network sees in training, on which its time depends where computing takes it,
and not the launching of many steps.

results/studies/time_to_accuracy_<data>/ gets logits, tables, a picture and a page in two languages.
Finished folds are stored, and the same command continues where it was stopped. ``--only NAME``
trains some of the rows. ``--redraw FOLDER`` writes the page again from the logits. The row with the
optimizer Muon needs timm, and is left out without.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from chestlab.evaluation.out_of_fold import NETWORK_KIND, OutOfFold
from chestlab.evaluation.verdicts import ALPHA, holm, p_value
from chestlab.files.errors import InputError, one_line_errors
from chestlab.files.progress import StopSignals
from chestlab.reporting.page import NOTHING, Wording
from chestlab.runs.crossval import Configuration
from chestlab.training.architecture import describe_blocks
from chestlab.training.recipe import as_dict, recipe_hash
from studies.frozen_recipes import Frozen, frozen_configuration
from studies.shorter_training import WAYS, Way
from studies.smaller_source import gains_over_smaller_sources, smaller_cells
from studies.start_tables import draw, table
from studies.stored_configurations import StoredConfigurations, known_first
from studies.stored_results import read_results
from studies.study import (
    add_only,
    can_be_had,
    comparison_parser,
    interval_cell,
    interval_columns,
    p_cell,
    write_readmes,
    write_table,
)

MARGIN = 0.005  # of AUC that a shorter training may lose; fixed before anything was trained

STRIDES = {f"strides_{digits}": {"strides": digits} for digits in ("2122", "2212", "2221", "2222")}

CHANGES: dict[str, dict[str, Mapping[str, Any]]] = {  # by network, what makes its training shorter
    "efficientchestnet": {
        "epochs_20": {"epochs": 20},
        "epochs_20_lr": {"epochs": 20, "lr": 4e-3},
        "size_20": {"image_size": 20},
        "batch_16": {"epochs": 20, "batch_size": 16},
        "related_9": {"epochs": 9, "related": True},
        "related_18": {"epochs": 18, "related": True},
        "progressive": {},
        "epochs_20_whitened": {"epochs": 20},
        "epochs_20_muon": {"epochs": 20},
        **{name: {} for name in STRIDES},
    },
    "residualchestnet": {
        "epochs_60": {"epochs": 60},
        "epochs_60_lr": {"epochs": 60, "lr": 4e-3},
        "size_20": {"image_size": 20},
    },
}

LATER = ("batch_16", "related_9", "related_18", *WAYS, *STRIDES)  # added when others had been seen

ROWS = tuple(
    row
    for network, changes in CHANGES.items()
    for row in (
        Frozen(network, network, "best"),
        *(
            Frozen(f"{network}_{name}", network, "best", of, arguments=STRIDES.get(name, {}))
            for name, of in changes.items()
        ),
    )
)


class TimeToAccuracy(StoredConfigurations):
    """Trains the rows that are asked for, then writes the pages.

    Args:
        options: of `main`.
        signals: checked after every optimiser step.

    Raises:
        InputError: the flags cannot be used. Nothing has been written.
    """

    def __init__(self, options: argparse.Namespace, signals: StopSignals) -> None:
        super().__init__(options, signals, "time_to_accuracy")
        asked = len(options.only) < len(ROWS)
        self.to_train = [
            (row, self._configuration_of(row))
            for row in ROWS
            if row.name in options.only and can_be_had(row.name, way_of(row.name).check, asked)
        ]

    def _configuration_of(self, row: Frozen) -> Configuration:
        _, configuration = frozen_configuration(self, row)
        return replace(configuration, prepare=way_of(row.name).prepare)

    def run(self) -> None:
        """Train what is neither stored nor in the results, then write the pages."""
        self.begin()
        for row, configuration in self.to_train:
            about = self._about(row, configuration)
            self.measure(row.name, configuration, about, estimated=False)
        self.finish(write_page)

    def _about(self, row: Frozen, configuration: Configuration) -> dict[str, Any]:
        """What is stored about a row; with other values it is trained again."""
        way, recipe = way_of(row.name), configuration.recipe
        sides = way.sides(recipe.image_size or self.data.size)
        model = configuration.model().eval()
        work = {side: describe_blocks(model, torch.zeros(1, 1, side, side))[1] for side in sides}
        return {
            "kind": NETWORK_KIND,
            "model": row.network,
            "changes": {**row.changes, **way.told, **row.arguments},
            "multiply_accumulates": round(sum(sides[side] * work[side] for side in sides)),
            "recipe": recipe_hash(as_dict(recipe)),
        }

    def in_order(self, names: Collection[str]) -> list[str]:
        return known_first(names, [row.name for row in ROWS])


def way_of(name: str) -> Way:
    """What a row does beside hyperparameters."""
    return next((way for end, way in WAYS.items() if name.endswith(f"_{end}")), Way())


def gains(summary: Mapping[str, Any], oof: OutOfFold) -> list[dict[str, Any]]:
    """A row per configuration, with its work and its gain over the network's own recipe.

    ``work`` is the arithmetic of all images seen in training over the recipe's; ``p`` is that of a
    gain of -`MARGIN`, ``p_holm`` is corrected for the number of changes. Where that is below 0.05,
    ``verdict`` is ``as_good`` or ``worse``, by the side that the gain is on, else ``undecided``, as
    is everything with a single repeat. Rows of the recipe itself, and those without it, have none.
    """
    rows = table(summary, oof, list(summary["configurations"]))
    work = {
        row["configuration"]: row["images_seen"]
        * summary["configurations"][row["configuration"]]["multiply_accumulates"]
        for row in rows
    }
    compared = [
        row for row in rows if row["configuration"] != row["model"] and row["model"] in work
    ]
    for row in compared:
        name, base = row["configuration"], row["model"]
        gain = oof.gain(name, base, "auc")
        row |= {"work": work[name] / work[base], **interval_columns("auc_gain", gain)}
        row["p"] = p_value(gain, -MARGIN)
    for row, p in zip(compared, holm([row["p"] for row in compared]), strict=True):
        row |= {"p_holm": p, "verdict": "undecided"}
        if p < ALPHA:
            row["verdict"] = "as_good" if row["auc_gain"] > -MARGIN else "worse"
    return rows


def write_page(folder: Path) -> None:
    """Write ``table.csv``, a picture and the page in two languages.

    Raises:
        InputError: ``oof.csv`` or ``time_to_accuracy.json`` is missing, damaged or of an earlier
            version.
    """
    summary, oof = read_results(folder, "time_to_accuracy", "configurations")
    if any("multiply_accumulates" not in of for of in summary["configurations"].values()):
        raise InputError(f"'{folder}' is of an earlier version: run the study again")
    rows = gains(summary, oof)
    write_table(folder / "table.csv", rows)
    networks = sorted({of["model"] for of in summary["configurations"].values()})
    smaller = gains_over_smaller_sources(folder, "time_to_accuracy", summary, oof)
    heading = "The recipe, and trainings with less work"
    draw(rows, folder / "time_to_accuracy.png", heading, summary, oof)

    def values(wording: Wording) -> dict[str, Any]:
        compared = [row for row in rows if "verdict" in row]
        return {
            "rows": [_cells(wording, row) for row in rows],
            "smaller": [smaller_cells(wording, row) for row in smaller],
            "over_recipe": [
                smaller_cells(wording, row) for row in smaller if row["over"] in networks
            ],
            "told": {
                verdict: [_told(wording, row) for row in compared if row["verdict"] == verdict]
                for verdict in ("as_good", "worse", "undecided")
            },
            "margin": wording.number(MARGIN),
            "compared": len(compared),
            "later": [name for name in LATER if any(x.endswith(f"_{name}") for x in oof.logits)],
            "strides": any("strides" in name for name in oof.logits),
            "missing": [row.name for row in ROWS if row.name not in oof.logits],
        }

    write_readmes(folder, "time_to_accuracy", summary, oof, values)


def _told(wording: Wording, row: Mapping[str, Any]) -> str:
    gain = interval_cell(wording, row, "auc_gain", "+.3f")
    return f"`{row['configuration']}` {gain}, {wording.number(100 * row['work'], '.0f')} %"


def _cells(wording: Wording, row: Mapping[str, Any]) -> list[str]:
    figures = [interval_cell(wording, row, measure) for measure in ("auc", "accuracy")]
    changes = f"`{row['changes']}`" if row["changes"] else NOTHING
    compared = [NOTHING] * 3
    if "work" in row:
        compared = [
            wording.number(100 * row["work"], ".0f"),
            interval_cell(wording, row, "auc_gain", "+.3f"),
            p_cell(row["p_holm"], wording),
        ]
    return [f"`{row['configuration']}`", changes, *figures, *compared]


def main(argv: Sequence[str] | None = None) -> None:
    """The command line; exit statuses of `chestlab.runs.run`."""
    with one_line_errors(resume=""), StopSignals() as signals:
        title = __doc__.splitlines()[0]
        parser = comparison_parser("time_to_accuracy", title, write_page, frozen=True)
        add_only(parser, [row.name for row in ROWS])
        TimeToAccuracy(parser.parse_args(argv), signals).run()


if __name__ == "__main__":
    main()
