"""Every network of the project by the name of its runs: class, recipes, script.

Studies find a network here; to add one to them, add a line to `NETWORKS`.

    python networks.py

records the recipes as published; pages of runs say what differs from them.
"""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import chestlab  # noqa: F401  # before PyTorch, for which it sets environment variables

# isort: split
from torch import nn

import resnet_modified
import train
import train_densenet
import train_fast
import train_improved
import train_mobilenet
from chestlab.files.errors import InputError, OneLineParser
from chestlab.runs.family import REDUCTION, WIDTH, recipes_for
from chestlab.runs.published import write_published
from chestlab.training.recipe import Recipe
from model import EfficientChestNet
from model_densenet import (
    ARCHITECTURES,
    TIMM,
    DenseNet121Chest,
    TimmChest,
    TorchvisionChest,
    imagenet_url,
    torchvision_chest,
)
from model_improved import ResidualChestNet
from model_mobilenet import IMAGENET_URL, MobileNetV3Chest
from resnet_mish import MishResNet34
from resnet_modified import ModifiedResNet34
from resnet_plain import Plain34, ResNet34
from resnet_se import SEResNet34
from resnet_se_mish import SEMishResNet34

PROJECT = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Network:
    """What a script trains.

    Attributes:
        script: file name without ``.py``.
        build: class, or function, that makes the model.
        recipes: by the name ``--recipe`` knows them; the first one is the script's default.
        model_options: arguments of the model's constructor that are flags of the script.
        imagenet_url: address of weights that its backbone can start from (a URL, or ``timm/NAME``),
            or None. Where there are any, ``build`` takes `PretrainedWeights` first.
        arguments: of ``build``, fixed.
    """

    script: str
    build: Callable[..., nn.Module]
    recipes: Mapping[str, Recipe]
    model_options: Mapping[str, dataclasses.Field] = field(default_factory=dict)
    imagenet_url: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def recipe(self) -> Recipe:
        """The script's default one."""
        return next(iter(self.recipes.values()))


def _family(
    script: str, build: type[nn.Module], options: Mapping[str, dataclasses.Field] | None = None
) -> Network:
    """A member of the 34-layer family; `network` fills in its recipes."""
    return Network(script, build, {}, {"width": WIDTH, **(options or {})})


def _backbone(arch: str) -> Network:
    """A network of torchvision or timm under the classifier of experiment 4."""
    url, recipes = imagenet_url(arch), train_densenet.RECIPES
    return Network("train_densenet", torchvision_chest, recipes, {}, url, {"arch": arch})


NETWORKS = {
    "efficientchestnet": Network("train", EfficientChestNet, train.RECIPES),
    "efficientchestnet_fast": Network(
        "train_fast", EfficientChestNet, train_fast.RECIPES, arguments={"strides": "2122"}
    ),
    "residualchestnet": Network("train_improved", ResidualChestNet, train_improved.RECIPES),
    "mobilenetv3": Network(
        "train_mobilenet", MobileNetV3Chest, train_mobilenet.RECIPES, imagenet_url=IMAGENET_URL
    ),
    **{arch: _backbone(arch) for arch in ARCHITECTURES},
    "plain34": _family("resnet_plain", Plain34),
    "resnet34": _family("resnet_plain", ResNet34),
    "seresnet34": _family("resnet_se", SEResNet34, {"reduction": REDUCTION}),
    "mishresnet34": _family("resnet_mish", MishResNet34),
    "modifiedresnet34": _family("resnet_modified", ModifiedResNet34, resnet_modified.OPTIONS),
    "semishresnet34": _family("resnet_se_mish", SEMishResNet34, {"reduction": REDUCTION}),
}


class NetworkNames(tuple[str, ...]):
    """The names that `network` knows: the keys of `NETWORKS`, and every ``timm/NAME``."""

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or str(name).startswith(TIMM)


NAMES = NetworkNames((*NETWORKS, f"{TIMM}NAME"))


def network(name: str, device: str = "auto") -> Network:
    """Look a network up.

    Args:
        name: one of `NAMES`.
        device: the 34-layer family's image size follows it, as ``--device`` of its scripts.

    Raises:
        InputError: timm has no such network, or is not installed.
    """
    if name.startswith(TIMM):
        return _backbone(name)
    found = NETWORKS[name]
    if found.recipes:
        return found
    return dataclasses.replace(found, recipes=recipes_for(name, ["--device", device]))


def network_class(name: str, script: str = "") -> Callable[..., nn.Module]:
    """The class that a checkpoint names.

    Args:
        name: of the class.
        script: file name, without ``.py``, of the script that trained it; where the class is none
            of this project's, that file is imported from the project's folder.

    Raises:
        InputError: there is no such class.
    """
    of_scripts = (known.build for known in NETWORKS.values())
    for known in (DenseNet121Chest, TorchvisionChest, TimmChest, *of_scripts):
        if known.__name__ == name:
            return known
    if script.isidentifier() and (PROJECT / f"{script}.py").is_file():
        if str(PROJECT) not in sys.path:
            sys.path.insert(0, str(PROJECT))
        try:
            found = getattr(importlib.import_module(script), name, None)
        except Exception as error:
            raise InputError(
                f"'{script}.py', which has the checkpoint's network '{name}', cannot be imported: "
                f"{type(error).__name__}: {error}"
            ) from None
        if isinstance(found, type) and issubclass(found, nn.Module):
            return found
    where, remedy = "not in networks.py", "add it to networks.py"
    if script:
        where = f"neither in networks.py nor in '{script}.py'"
        remedy = f"put '{script}.py' with this class back, or {remedy}"
    raise InputError(f"the checkpoint's network '{name}' is {where}: {remedy}")


def record() -> None:
    """Write `chestlab/runs/published_recipes.json`."""
    family = [name for name, known in NETWORKS.items() if not known.recipes]
    of_family = [recipe for name in family for recipe in network(name, "cpu").recipes.values()]
    recipes = [recipe for known in NETWORKS.values() for recipe in known.recipes.values()]
    write_published([*recipes, *of_family], {recipe.name for recipe in of_family})


if __name__ == "__main__":
    OneLineParser(description=__doc__).parse_args()
    record()
