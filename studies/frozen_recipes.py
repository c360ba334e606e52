"""The recipes that are not changed any more, and which of their rows are averaged and compared.

`studies.fresh_folds` evaluates them on folds that nothing is chosen on; other studies start from
them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import train_improved
from chestlab.runs.crossval import Configuration
from networks import Network
from studies.imagenet_chests import CHESTS
from studies.probes import AS_TRAINED, LITE
from studies.study import Study

LOOK_KIND = "fresh folds"  # of a look at the folds that they are evaluated on


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

BASELINES = ("hog_rbf_svm", "logistic_pixels")

# Fixed before the first of the two was trained, which is claimed to have the higher AUC; but for
# what is in `DECIDED_HERE`, and for comparisons with rows of smaller images, whose figures were
# known, as were 9 of the 15 of `LARGER` on the NIH subset.
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
    changed = {"name": frozen.name, "arguments": arguments, "recipe": recipe}
    return network, dataclasses.replace(configuration, **changed)


def comparisons_for(size: int) -> list[tuple[str, str]]:
    """Those of `COMPARISONS` that images with this side can have."""
    others = {of.name for of in FROZEN if not of.is_for(size)}
    others |= {name for name, members in AVERAGES.items() if others & {*members}}
    return [pair for pair in COMPARISONS if not others & {*pair}]
