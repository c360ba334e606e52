"""Weights to start from: ImageNet's, a file's, or none."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from chestlab.files.checkpoint import load_checkpoint
from chestlab.files.errors import InputError
from chestlab.training.foreign_weights import Matched, Misfit, match
from chestlab.training.weights_sources import find_imagenet

RANDOM_MARK = "random initialisation, not the report's experiment"


@dataclass(frozen=True)
class PretrainedWeights:
    """The weights that a network starts from.

    Attributes:
        source: ``imagenet``, ``none`` or the file's name.
        sha256: of the file, empty for ``none``.
        state: what the file holds, a state dict or dicts around one; None for ``none``.
        origin: of ImageNet's weights: ``torchvision``, ``timm`` or a package.
        licence: of these, an SPDX identifier; empty where none is stated.
        stem: what a first convolution over three colours becomes in a network for one channel:
            ``sum`` or ``mean``, see `foreign_weights.in_grey`.
        told: lines about them that have been printed, each once however many networks start here.
    """

    source: str
    sha256: str = ""
    state: dict[str, Any] | None = None
    origin: str = ""
    licence: str = ""
    stem: str = "sum"
    told: set[str] = field(default_factory=set, repr=False, compare=False)

    @property
    def seen(self) -> dict[str, dict[str, Any]]:
        """Of a network of this project, what it was ``trained`` and ``chosen`` on.

        As of `provenance.record`; empty where nothing is known.
        """
        seen = (self.state or {}).get("seen")
        return seen if self.of_this_project and isinstance(seen, dict) else {}

    @property
    def record(self) -> dict[str, str]:
        """What checkpoints and `metrics.json` keep of them."""
        record = {"source": self.source, "sha256": self.sha256}
        if self.origin:
            record |= {"origin": self.origin, "licence": self.licence}
        return record

    def with_stem(self, stem: str) -> PretrainedWeights:
        """The same weights for a recipe with this ``stem``."""
        return replace(self, stem=stem)

    @property
    def of_this_project(self) -> bool:
        """The file is a checkpoint that `chestlab.runs.checkpoints` or a study has written."""
        return isinstance((self.state or {}).get("weights"), dict)


def read_pretrained(choice: str, url: str | None) -> PretrainedWeights:
    """Find the weights that ``--weights`` names.

    Args:
        choice: ``imagenet``, ``none`` or the path of a state dict or checkpoint.
        url: address of the network's ImageNet weights, see `weights_sources.find_imagenet`; None
            where there are none.

    Raises:
        InputError: the file cannot be had or read safely; says what can be done. Or it is
            ``NAME_last.pth``, which does not say which images its network has seen.
    """
    if choice == "none":
        return PretrainedWeights("none")
    if choice == "imagenet" and url is not None:
        file = find_imagenet(url)
        print(file, flush=True)
        return PretrainedWeights(choice, file.sha256, file.state, file.origin, file.licence)
    path = Path(choice).expanduser()
    if not path.is_file():
        allowed = "none" if url is None else "imagenet, none"
        raise InputError(f"--weights '{choice}': allowed are {allowed} or an existing file")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    state = load_checkpoint(path)
    if isinstance(state.get("trainer"), dict) and "recipe" in state:
        raise InputError(f"--weights '{choice}': it is for --resume; wanted is NAME_best.pth")
    return PretrainedWeights(path.name, digest, state)


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
    backbone: nn.Module, start: PretrainedWeights, head: str | tuple[str, ...] = ""
) -> None:
    """Load pretrained weights into ``backbone``; the head stays as it is.

    A first convolution over three colours becomes one over one channel, by ``start.stem``.

    Args:
        backbone: the part to fill.
        start: a state dict of a network with this backbone, see `foreign_weights.match`, or a
            checkpoint of this project, whatever it was trained for.
        head: how the names of a classifier in the file begin, where they do not tell it.

    Raises:
        InputError: names or shapes do not fit, or the weights are not finite.
    """
    if start.state is None:
        return
    try:
        matched = match(start.state, backbone.state_dict(), head, start.stem)
    except InputError as error:
        raise InputError(f"--weights: '{start.source}' {error}") from None
    _fill(backbone, matched)
    _tell(start, matched, "the classifier")


def load_pretrained(build: Callable[[], nn.Module], start: PretrainedWeights) -> nn.Module:
    """A new network with pretrained weights in all layers but the last linear one.

    That one gives the logits and keeps its random weights, since it may have had another task.
    A head of linear layers of other widths is left out as a whole.

    Args:
        build: makes the network.
        start: a checkpoint of the same network, or a state dict with its names, as torchvision's
            of ResNet-34 is; see `foreign_weights.match`.

    Raises:
        InputError: it is of another network, or the weights are not finite.
    """
    network = build()
    if start.state is None:
        return network
    state, kind = start.state, type(network).__name__
    if start.of_this_project and state.get("model", kind) != kind:
        raise InputError(
            f"--weights: '{start.source}' is of {str(state['model'])[:60]}, this is {kind}"
        )
    matched, kept = _match_but_for_head(network, start)
    _fill(network, matched)
    _tell(start, matched, f"'{kept}'")
    return network


def _match_but_for_head(network: nn.Module, start: PretrainedWeights) -> tuple[Matched, str]:
    """Match all but the last linear layer, or all but the module of linear layers that holds it.

    Returns:
        What matched, and the name of the module left out.

    Raises:
        InputError: neither matches; says why the first does not.
    """
    last = last_linear(network)
    kept, head = [last], last.split(".")[0]
    if all(value.dim() < 3 for value in network.get_submodule(head).state_dict().values()):
        kept.append(head)
    errors = []
    for name in kept:
        rest = {n: v for n, v in network.state_dict().items() if not n.startswith(f"{name}.")}
        try:
            return match(start.state or {}, rest, f"{name}.", start.stem), name
        except Misfit as error:
            errors.append(error)
        except InputError as error:
            errors.insert(0, error)
    raise InputError(f"--weights: '{start.source}' {errors[0]}")


def _fill(module: nn.Module, matched: Matched) -> None:
    module.load_state_dict({**module.state_dict(), **matched.tensors})


def _tell(start: PretrainedWeights, matched: Matched, kept: str) -> None:
    """Print, once, what was taken from a file and what was left out."""
    if start.source == "imagenet":
        return
    line = f"weights '{start.source}': {len(matched.tensors)} tensors"
    line += f" under '{matched.prefix.removesuffix('.')}'" if matched.prefix else ""
    line = "; ".join([line, *matched.notes])
    if matched.left_out:
        line += f"; left out: {', '.join(matched.left_out)}"
    line += f"; {kept} starts from random numbers"
    if line not in start.told:
        start.told.add(line)
        print(line, flush=True)


def network_of(choice: str) -> str | None:
    """Class name in the checkpoint that ``--weights`` names, None where it has none."""
    try:
        model = load_checkpoint(Path(choice).expanduser()).get("model")
        return model if isinstance(model, str) else None
    except (InputError, RuntimeError):  # reported where the weights are read; no such home folder
        return None


def last_linear(network: nn.Module) -> str:
    """Name of the layer that gives the logits."""
    return [name for name, m in network.named_modules() if isinstance(m, nn.Linear)][-1]
