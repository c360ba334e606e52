"""Smaller networks out of trained ones: channels removed as a whole, or single weights set to 0.

Removing a channel makes a network smaller in every program (structured pruning); torch-pruning
follows which layers share it (Fang et al., https://arxiv.org/abs/2301.12900). Zeros alone leave
shapes as they are: a program has to skip them, which PyTorch and onnxruntime do not on a CPU.

A network without some of its channels is none that its class builds, so its weights fit into no
checkpoint that `export.py` or `predict.py` read.
"""

from __future__ import annotations

import copy
import importlib.util

import torch
from torch import nn

from chestlab.files.errors import InputError
from chestlab.training.weights import last_linear

ROUND_TO = 8  # channels are left in groups of this size, which fill a processor's registers


def require_torch_pruning() -> None:
    """Raise `InputError`, saying how to install it, where the library is missing."""
    if importlib.util.find_spec("torch_pruning") is None:
        raise InputError(
            "torch-pruning is not installed: pip install -r requirements-deployment.txt"
        )


def without_channels(model: nn.Module, example: torch.Tensor, share: float) -> nn.Module:
    """A copy without the ``share`` of each layer's channels whose weights have the smallest norm.

    Which channels depend on each other, as around a skip, is found by running the network; they
    are kept or removed together. The logit stays. The result has yet to be trained again.

    Args:
        model: on the CPU, with a linear layer as its last one.
        example: an input (N, 1, H, W).
        share: of the channels, above 0 and below 1; rounded so that a multiple of `ROUND_TO`
            is left.
    """
    import torch_pruning

    model = copy.deepcopy(model).eval()
    with torch.enable_grad():  # the library follows the graph of the gradient
        torch_pruning.pruner.BasePruner(
            model,
            example,
            importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=share,
            ignored_layers=[model.get_submodule(last_linear(model))],
            round_to=ROUND_TO,
        ).step()
    return model


def with_zeros(model: nn.Module, pattern: str) -> nn.Module:
    """A copy in which half of the weights of every convolution and linear layer are 0.

    Args:
        model: any network.
        pattern: ``magnitude``, the smaller half of each layer; or ``2:4``, the two smallest of any
            four neighbours along a layer's inputs, as NVIDIA's sparse tensor cores want them
            (https://arxiv.org/abs/2104.08378). Layers whose inputs do not come in fours are left.
    """
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            weight = module.weight.detach()
            inputs = weight.movedim(1, -1) if pattern == "2:4" else weight  # a view
            if pattern == "2:4" and inputs.shape[-1] % 4:
                continue
            groups = inputs.abs().reshape((-1, 4) if pattern == "2:4" else (1, -1))
            smallest = groups.argsort(1)[:, : groups.shape[1] // 2]
            kept = torch.ones_like(groups).scatter_(1, smallest, 0)
            inputs.mul_(kept.reshape(inputs.shape))
    return model
