"""Weights to start from: ImageNet's from torchvision, a file's, or none."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from chestlab.files.checkpoint import load_checkpoint
from chestlab.files.errors import InputError

RANDOM_MARK = "random initialisation, not the report's experiment"

# torchvision's DenseNet files are older than the rule that no module's name contains a dot.
OLD_DENSENET_NAME = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")


@dataclass(frozen=True)
class PretrainedWeights:
    """The weights that a network starts from.

    Attributes:
        source: ``imagenet``, ``none`` or the file's name.
        sha256: of the file, empty for ``none``.
        state: state dict of a torchvision model or of one of this project's, or None.
    """

    source: str
    sha256: str = ""
    state: dict[str, Any] | None = None

    @property
    def seen(self) -> dict[str, dict[str, Any]]:
        """Of a network of this project, what it was ``trained`` and ``chosen`` on.

        As of `provenance.record`; empty where nothing is known.
        """
        return (self.state or {}).get("seen", {})


def read_pretrained(choice: str, url: str | None) -> PretrainedWeights:
    """Find the weights that ``--weights`` names.

    Args:
        choice: ``imagenet``, ``none`` or the path of a state dict or checkpoint.
        url: of torchvision's file, whose name ends in the first digits of its SHA-256; None where
            there is none for the network.

    Raises:
        InputError: the file cannot be downloaded or read safely; says where to put it by hand.
    """
    if choice == "none":
        return PretrainedWeights("none")
    path = Path(choice).expanduser()
    if choice == "imagenet" and url is not None:
        from chestlab.data.download import DownloadError, fetch

        path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]
        try:
            fetch(url, path, f"sha256:{path.stem.rsplit('-', 1)[1]}")
        except DownloadError as error:
            raise InputError(
                f"--weights imagenet: {error}; or train with --weights FILE or --weights none"
            ) from None
    elif not path.is_file():
        allowed = "none" if url is None else "imagenet, none"
        raise InputError(f"--weights '{choice}': allowed are {allowed} or an existing file")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    source = choice if choice == "imagenet" else path.name
    return PretrainedWeights(source, digest, load_checkpoint(path))


def grey_stem(network: nn.Module, from_fan_in: bool = False) -> None:
    """Turn the first convolution of a randomly initialised network from three colours to one.

    One colour's weights stay. They are what torchvision would draw for one channel where it draws
    by the number of outputs; where it draws by the number of inputs (``from_fan_in``), a third of
    the inputs means weights that are larger by the root of three.
    """
    stem = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    factor = stem.in_channels**0.5 if from_fan_in else 1
    stem.in_channels = 1
    stem.weight = nn.Parameter(stem.weight.detach()[:, :1] * factor)
    if stem.bias is not None:
        stem.bias = nn.Parameter(stem.bias.detach() * factor)


def load_backbone(
    backbone: nn.Module, start: PretrainedWeights, prefix: str = "", leave: str = ""
) -> None:
    """Load pretrained weights into ``backbone``; the head stays as it is.

    A first convolution over three colours is averaged to one channel. What the network then makes
    of an image is what the original makes of that image, divided by three, in all three colours.

    Args:
        backbone: the part to fill.
        start: a torchvision state dict, or a checkpoint of this project whose network has the
            same backbone, whatever it was trained for.
        prefix: of the backbone's names in torchvision's state dict.
        leave: how the names of the head begin there, empty where ``prefix`` tells them apart.

    Raises:
        InputError: names or shapes do not fit.
    """
    state = start.state
    if state is None:
        return
    if isinstance(state.get("weights"), dict):
        state, prefix, leave = state["weights"], "backbone.", ""
    wanted = backbone.state_dict()
    loaded = {}
    for name, value in state.items():
        if not isinstance(name, str) or not name.startswith(prefix):
            continue
        if leave and name.startswith(leave):
            continue
        name = OLD_DENSENET_NAME.sub(r"\1\2.", name[len(prefix) :])
        loaded[name] = _in_grey(value, wanted.get(name))
    _fill(backbone, loaded, start)


def load_pretrained(build: Callable[[], nn.Module], start: PretrainedWeights) -> nn.Module:
    """A new network with pretrained weights in all layers but the last linear one.

    That one gives the logits and keeps its random weights, since it may have had another task.

    Args:
        build: makes the network.
        start: a checkpoint of the same network, or a state dict with its names, as torchvision's
            of ResNet-34 is.

    Raises:
        InputError: it is of another network.
    """
    network = build()
    state, kind = start.state or {}, type(network).__name__
    if isinstance(state.get("weights"), dict):
        if state.get("model", kind) != kind:
            raise InputError(
                f"--weights: '{start.source}' is of {str(state['model'])[:60]}, this is {kind}"
            )
        state = state["weights"]
    wanted = network.state_dict()
    last = f"{last_linear(network)}."
    loaded = {name: value for name, value in wanted.items() if name.startswith(last)}
    for name, value in state.items():
        if not (isinstance(name, str) and name.startswith(last)):
            loaded[name] = _in_grey(value, wanted.get(name))
    _fill(network, loaded, start)
    return network


def network_of(choice: str) -> str | None:
    """Class name in the checkpoint that ``--weights`` names, None where it has none."""
    try:
        return load_checkpoint(Path(choice).expanduser()).get("model")
    except (InputError, RuntimeError):  # reported where the weights are read; no such home folder
        return None


def last_linear(network: nn.Module) -> str:
    """Name of the layer that gives the logits."""
    return [name for name, m in network.named_modules() if isinstance(m, nn.Linear)][-1]


def _in_grey(value: Any, wanted: torch.Tensor | None) -> Any:
    """A first convolution over three colours averaged to the one channel that is wanted."""
    grey = wanted is not None and wanted.dim() == 4 and wanted.shape[1] == 1
    if grey and torch.is_tensor(value) and value.dim() == 4 and value.shape[1] == 3:
        return value.mean(1, keepdim=True)
    return value


def _fill(module: nn.Module, loaded: dict[Any, Any], start: PretrainedWeights) -> None:
    try:
        module.load_state_dict(loaded)
    except (RuntimeError, AttributeError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"--weights: '{start.source}' does not fit: {reason}") from None
