"""The switches that an ablation turns and a search chooses among: changes of a recipe."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from chestlab.data.phantom import OFFICIAL_COUNTS
from chestlab.files.errors import InputError
from chestlab.runs.crossval import Configuration
from chestlab.training.batch_norm import batch_norms
from chestlab.training.recipe import Recipe
from studies.study import Study

CARDIOMEGALY, PNEUMOTHORAX = OFFICIAL_COUNTS["train"]


@dataclass(frozen=True)
class Switch:
    """One change of a recipe that can be tried alone.

    Attributes:
        name: on the command line.
        text: what it does, in words.
        changes: values of the recipe's hyperparameters.
        exact: the switch is on only at these very values; else at any but the default.
        backbone: it needs a network that starts from a backbone's weights.
        pretrained: and these must not be random numbers.
    """

    name: str
    text: str
    changes: Mapping[str, Any]
    exact: bool = False
    backbone: bool = False
    pretrained: bool = False


SWITCHES = (
    Switch("flip", "mirror every other image", {"flip": 0.5}),
    Switch("rotate", "turn by up to 10 degrees", {"rotate": 10.0}),
    Switch("shift", "shift by up to 10 % of the side", {"translate": 0.1}),
    Switch("zoom", "zoom by up to 10 %", {"scale": 0.1}),
    Switch("vertical-flip", "turn every other image upside down", {"vertical_flip": 0.5}),
    Switch("erase", "black out a rectangle in every fourth image", {"erase": 0.25}),
    Switch("jitter", "change brightness and contrast by up to 20 %", {"jitter": 0.2}),
    Switch("randaugment", "RandAugment's random operations", {"policy": "randaugment"}),
    Switch("autoaugment", "AutoAugment's learned operations", {"policy": "autoaugment"}),
    Switch("mixup", "blend pairs of images and labels", {"mixup": 0.2}),
    Switch("cutmix", "paste a part of another image, blend the labels", {"cutmix": 1.0}),
    Switch("smote", "interpolate images of the rarer class", {"smote": True}),
    Switch(
        "per-image", "standardise each image by its own mean and sd", {"normalize": "per-image"}
    ),
    Switch("size-64", "resize the input to 64 px", {"image_size": 64}, exact=True),
    Switch("size-128", "resize the input to 128 px", {"image_size": 128}, exact=True),
    Switch(
        "pos-weight",
        "weigh the larger class down to balance",
        {"pos_weight": round(CARDIOMEGALY / PNEUMOTHORAX, 3)},
        exact=True,
    ),
    Switch(
        "pos-weight-report",
        "weigh the larger class up, as the reports write it",
        {"pos_weight": round(PNEUMOTHORAX / CARDIOMEGALY, 2)},
        exact=True,
    ),
    Switch("sampler", "draw both classes equally often", {"sampler": "balanced"}),
    Switch("focal", "focal loss, which looks at hard images", {"loss": "focal"}),
    Switch("smoothing", "targets of 0.05 and 0.95", {"label_smoothing": 0.1}),
    Switch(
        "onecycle", "one cycle of the rate", {"schedule": "onecycle", "warmup": 0.3}, exact=True
    ),
    Switch("cosine", "cosine after a warm-up", {"schedule": "cosine", "warmup": 0.1}, exact=True),
    Switch("restarts", "cosine with warm restarts", {"schedule": "restarts"}, exact=True),
    Switch("ema", "average the weights over the last hundred steps", {"ema": 0.99}),
    Switch("last", "take the last epoch, and train on all images", {"monitor": "last"}),
    Switch("drop-path", "leave out whole residual branches", {"drop_path": 0.1}),
    Switch("related", "train on images with further findings, too", {"related": True}),
    Switch("tta-flip", "average with the mirror image's logit", {"tta": "flip"}),
    Switch("tta-warps", "average over the mirror image and random warps", {"tta": "warps"}),
    Switch(
        "estimated-statistics",
        "estimate batch-norm statistics anew after every epoch",
        {"batch_norm": "estimated"},
    ),
    Switch(
        "frozen-statistics",
        "keep the batch-norm statistics of the weights to start from",
        {"batch_norm": "frozen"},
        backbone=True,
        pretrained=True,
    ),
    Switch(
        "stem-mean",
        "average the colours' weights in the first convolution, in place of their sum",
        {"stem": "mean"},
        backbone=True,
        pretrained=True,
    ),
    Switch(
        "two-stages",
        "train the classifier alone for 10 epochs first",
        {"stage1_epochs": 10},
        backbone=True,
        pretrained=True,
    ),
    Switch("layer-decay", "lower rates for earlier layers", {"layer_decay": 0.1}, backbone=True),
    Switch("freeze", "keep the first half of the backbone", {"freeze": 0.5}, backbone=True),
)


def usable(model: nn.Module | None = None) -> dict[str, Switch]:
    """The switches that can be used here, by name.

    Args:
        model: the network; with None a switch counts that any network can take.
    """
    missing = set()
    if importlib.util.find_spec("imblearn") is None:
        missing.add("smote")
    if model is not None and not hasattr(model, "backbone"):
        missing |= {switch.name for switch in SWITCHES if switch.backbone}
    if model is not None and not any(hasattr(module, "drop_path") for module in model.modules()):
        missing.add("drop-path")
    return {switch.name: switch for switch in SWITCHES if switch.name not in missing}


def offered(study: Study, base: Configuration) -> dict[str, Switch]:
    """The switches that this network can take on these images and that could change anything."""
    model = base.model()
    allowed = usable(model)
    if not base.staged or base.pretrained is None or base.pretrained.state is None:
        allowed = {name: switch for name, switch in allowed.items() if not switch.pretrained}
    if not batch_norms(model):
        allowed = {n: switch for n, switch in allowed.items() if "batch_norm" not in switch.changes}
    allowed.pop(f"size-{base.recipe.image_size or study.data.size}", None)
    if study.splits.pool.patients is None:
        allowed.pop("related")
    return allowed


def select(allowed: Mapping[str, Switch], names: Iterable[str]) -> dict[str, Switch]:
    """The switches of these names.

    Raises:
        InputError: one is not allowed.
    """
    for name in names:
        if name not in allowed:
            raise InputError(f"--switch {name}: allowed are {', '.join(allowed)}")
    return {name: allowed[name] for name in dict.fromkeys(names)}


def is_on(recipe: Recipe, switch: Switch) -> bool:
    """Whether a recipe has the switch on."""
    default = Recipe(name="")
    for key, value in switch.changes.items():
        now = getattr(recipe, key)
        any_amount = not switch.exact and not isinstance(value, str)
        if now != value and not (any_amount and now != getattr(default, key)):
            return False
    return True


def toggled(recipe: Recipe, switch: Switch) -> Recipe:
    """The recipe with the switch on; where it is on, with the defaults of its hyperparameters."""
    changes = dict(switch.changes)
    if is_on(recipe, switch):
        changes = {key: getattr(Recipe(name=""), key) for key in changes}
    return dataclasses.replace(recipe, **changes)
