"""AdamW with a learning rate per layer, and the schedules of the learning rate."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import nn

from chestlab.training.layers import layers_with_weights
from chestlab.training.recipe import Recipe

PER_STEP = ("onecycle", "cosine", "restarts")  # stepped after every optimiser step

RATE_GROUPS = 12  # different learning rates that layer_decay makes of a network's depth


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW over all parameters that require a gradient.

    With ``recipe.layer_decay`` below 1 the learning rate falls geometrically from the last layer
    to the first, which gets that share of it: the first layers of a pre-trained network need the
    least change (ULMFiT, https://arxiv.org/abs/1801.06146).
    """
    layers = layers_with_weights(model)
    trained = [[p for p in m.parameters(recurse=False) if p.requires_grad] for m in layers]
    if recipe.layer_decay == 1:
        groups = [{"params": [p for layer in trained for p in layer]}]
    else:
        shares: dict[float, list[nn.Parameter]] = {}
        for number, layer in enumerate(trained):
            height = round(number / max(1, len(layers) - 1) * (RATE_GROUPS - 1))
            share = recipe.layer_decay ** (1 - height / (RATE_GROUPS - 1))
            shares.setdefault(share, []).extend(layer)
        groups = [{"params": p, "lr": recipe.lr * share} for share, p in shares.items() if p]
    device = next(model.parameters()).device
    return torch.optim.AdamW(
        groups,
        lr=recipe.lr,
        betas=(recipe.beta1, recipe.beta2),
        weight_decay=recipe.weight_decay,
        fused=device.type in ("cpu", "cuda"),
    )


def highest_rate(optimizer: torch.optim.Optimizer) -> float:
    """The learning rate of the last layers, which a recipe names; see `make_optimizer`."""
    return max(group["lr"] for group in optimizer.param_groups)


def make_scheduler(
    optimizer: torch.optim.Optimizer, recipe: Recipe, steps_per_epoch: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """The recipe's learning-rate schedule.

    Those in `PER_STEP` are stepped after every optimiser step, the others after an epoch.
    ``onecycle`` is `torch.optim.lr_scheduler.OneCycleLR` with linear annealing, written out: that
    class overwrites AdamW's betas by default, and divides by zero where the warm-up is exactly
    one step long.
    """
    schedulers = torch.optim.lr_scheduler
    total = recipe.epochs * steps_per_epoch
    if recipe.schedule == "onecycle":
        return schedulers.LambdaLR(optimizer, partial(_one_cycle, recipe, total))
    if recipe.schedule == "cosine":
        return schedulers.LambdaLR(optimizer, partial(_cosine, recipe, total))
    if recipe.schedule == "restarts":
        return schedulers.LambdaLR(optimizer, partial(_restarts, recipe, total))
    if recipe.schedule == "step":
        return schedulers.StepLR(optimizer, recipe.step_size, recipe.gamma)
    if recipe.schedule == "plateau":
        return schedulers.ReduceLROnPlateau(
            optimizer, factor=recipe.gamma, patience=recipe.plateau_patience
        )
    return schedulers.LambdaLR(optimizer, lambda epoch: 1.0)


def _one_cycle(recipe: Recipe, total: int, step: int) -> float:
    """Factor of the learning rate at a step: rises linearly to 1, then falls linearly."""
    start = 1 / recipe.div_factor
    end = start / recipe.final_div_factor
    peak = max(0.0, recipe.warmup * total - 1)
    if step < peak:
        return start + (1 - start) * step / peak
    if total - 1 <= peak:
        return 1.0
    return 1 + (end - 1) * min(1.0, (step - peak) / (total - 1 - peak))


def _cosine(recipe: Recipe, total: int, step: int) -> float:
    """Factor of the learning rate at a step: rises linearly to 1, then half a cosine down to 0."""
    warm = round(recipe.warmup * total)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1, total - warm))))


def _restarts(recipe: Recipe, total: int, step: int) -> float:
    """Factor of the learning rate at a step: rises linearly to 1, then cosines of doubling length.

    SGDR (Loshchilov and Hutter, https://arxiv.org/abs/1608.03983). The last cosine ends with the
    run only where the epochs work out.
    """
    warm = round(recipe.warmup * total)
    if step < warm:
        return (step + 1) / warm
    first = recipe.restart_epochs * total // recipe.epochs  # steps of the first cosine
    position = step - warm
    cycle = int(math.log2(position / first + 1))
    start = first * (2**cycle - 1)
    return 0.5 * (1 + math.cos(math.pi * (position - start) / (first * 2**cycle)))
