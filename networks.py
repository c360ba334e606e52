"""Every network of the project by the name of its runs, with the recipes of its script."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from torch import nn

from model_densenet import ARCHITECTURES
from recipe import Recipe

NETWORKS = {  # name of its runs: script, and what makes it there
    "efficientchestnet": ("train", "EfficientChestNet"),
    "residualchestnet": ("train_improved", "ResidualChestNet"),
    "mobilenetv3": ("train_mobilenet", "MobileNetV3Chest"),
    **dict.fromkeys(ARCHITECTURES, ("train_densenet", "torchvision_chest")),
    "plain34": ("resnet_plain", "Plain34"),
    "resnet34": ("resnet_plain", "ResNet34"),
    "seresnet34": ("resnet_se", "SEResNet34"),
    "mishresnet34": ("resnet_mish", "MishResNet34"),
    "modifiedresnet34": ("resnet_modified", "ModifiedResNet34"),
    "semishresnet34": ("resnet_se_mish", "SEMishResNet34"),
}


@dataclass(frozen=True)
class Network:
    """What a script trains.

    Attributes:
        script: file name without ``.py``.
        build: class, or function, that makes the model.
        recipes: by the name ``--recipe`` knows them; the last one is the script's default.
        knobs: arguments of the model's constructor that are flags of the script.
        imagenet_url: of weights that its backbone can start from, or None. Where there are any,
            ``build`` takes a starting point first.
        arguments: of ``build``, fixed.
    """

    script: str
    build: Callable[..., nn.Module]
    recipes: Mapping[str, Recipe]
    knobs: Mapping[str, dataclasses.Field] = field(default_factory=dict)
    imagenet_url: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def recipe(self) -> Recipe:
        """The script's default one."""
        return list(self.recipes.values())[-1]


def network(name: str, device: str = "auto") -> Network:
    """Look a network up.

    Args:
        name: a key of `NETWORKS`.
        device: the 34-layer family's image size follows it, as ``--device`` of its scripts.
    """
    file, made_by = NETWORKS[name]
    script = import_module(file)
    build = getattr(script, made_by)
    if file.startswith("resnet_"):
        from compare_family import FAMILY
        from family import WIDTH, recipes_for

        recipes = recipes_for(name, ["--device", device])
        return Network(file, build, recipes, {"width": WIDTH, **FAMILY[name].knobs})
    named = {key: getattr(script, key.upper(), None) for key in ("scratch", "report", "best")}
    recipes = {key: recipe for key, recipe in named.items() if recipe is not None}
    if name in ARCHITECTURES:
        arguments = {"arch": name}
        return Network(file, build, recipes, {}, script.imagenet_url(name), arguments)
    return Network(file, build, recipes, {}, getattr(script, "IMAGENET_URL", None))
