"""How studies name a network in their results and in the table of looks."""

from __future__ import annotations

from chestlab.runs.crossval import Configuration
from chestlab.training.network_names import with_strides
from model_densenet import ARCHITECTURES, TIMM, DenseNet121Chest, TimmChest, TorchvisionChest


def network_name(configuration: Configuration) -> str:
    """The name of a backbone, as ``densenet121`` or ``timm/NAME``, or the network's class.

    Networks with a backbone of torchvision or timm share a class, which does not tell them apart,
    nor does it those with other ``strides``, which are added to its name.
    """
    arguments = configuration.arguments
    return arguments.get("arch") or with_strides(configuration.build.__name__, arguments)


def spellings(name: str) -> set[str]:
    """A name of `network_name`, and the class by which some stored looks name the same network."""
    if name.startswith(TIMM):
        return {name, TimmChest.__name__}
    if name in ARCHITECTURES:
        of_densenet = name == "densenet121"
        return {name, (DenseNet121Chest if of_densenet else TorchvisionChest).__name__}
    return {name}
