"""Stochastic depth: whole residual branches are left out at random in training."""

from __future__ import annotations

from torch import nn

from storage import InputError


def set_drop_paths(model: nn.Module, last: float) -> None:
    """Let every residual block leave out its branch, the more often the deeper it lies.

    Huang et al., https://arxiv.org/abs/1603.09382: the probability rises along a line from the
    input to ``last`` at the last block; each image is drawn for by itself, and what is kept is
    scaled up. A block offers the place as a module named ``drop_path``.

    Args:
        model: changed in place; its parameters and their names stay the same.
        last: probability at the last block, 0..1.

    Raises:
        InputError: the network has no such blocks.
    """
    from torchvision.ops import StochasticDepth

    blocks = [module for module in model.modules() if hasattr(module, "drop_path")]
    if not blocks:
        raise InputError("--drop-path: this network has no residual branches to leave out")
    for number, block in enumerate(blocks, 1):
        layer = StochasticDepth(last * number / len(blocks), "row")
        block.drop_path = layer.train(block.training)
