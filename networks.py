"""Every network of the project by the name of its runs, with the recipes of its script."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module

from torch import nn

from recipe import Recipe

NETWORKS = {  # name of its runs: script, and what makes it there
    "efficientchestnet": ("train", "EfficientChestNet"),
    "residualchestnet": ("train_improved", "ResidualChestNet"),
    "mobilenetv3": ("train_mobilenet", "MobileNetV3Chest"),
    "densenet121": ("train_densenet", "torchvision_chest"),
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
        imagenet_url: of weights that its backbone can start from, or None.
    """

    script: str
    build: Callable[..., nn.Module]
    recipes: Mapping[str, Recipe]
    knobs: Mapping[str, dataclasses.Field] = field(default_factory=dict)
    imagenet_url: str | Callable[..., str] | None = None


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
    named = {key: getattr(script, key.upper(), None) for key in ("report", "best")}
    recipes = {key: recipe for key, recipe in named.items() if recipe is not None}
    url = getattr(script, "IMAGENET_URL", getattr(script, "imagenet_url", None))
    return Network(file, build, recipes, getattr(script, "KNOBS", {}), url)
