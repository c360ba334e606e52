"""Which learning rate to try: one short run in which it rises from nearly nothing to far too much.

    python train.py --find-lr

The range test of Smith (https://arxiv.org/abs/1506.01186). It uses training images only, keeps no
weights and leaves other results alone.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

from engine import Trainer
from storage import write_csv

if TYPE_CHECKING:
    from experiment import Run

LOWEST, HIGHEST = 1e-6, 1.0
STEPS = 150
SMOOTHING = 0.95  # decay of the running mean of losses
DIVERGED = 4.0  # times the lowest smoothed loss
SKIPPED = 10  # steps at the beginning that suggest nothing: too few losses in the mean


def find_learning_rate(run: Run) -> float:
    """Run the test, write ``lr_finder.png`` and ``lr_finder.csv``, print and return a suggestion.

    The suggestion is where the smoothed loss falls most steeply over the logarithm of the rate.
    """
    import visualize

    recipe = dataclasses.replace(run.recipe, schedule="constant", ema=0.0, stage1_epochs=0)
    trainer = Trainer(run.build, recipe, run.train.to(run.device), run.data.val.to(run.device))
    rates = np.geomspace(LOWEST, HIGHEST, STEPS)
    rates, losses = _rising(trainer, rates, run.signals.check)
    smoothed = smooth(losses)
    suggestion = steepest(rates, smoothed)
    folder = run.final.folder
    folder.mkdir(parents=True, exist_ok=True)
    rows = zip(rates.tolist(), losses.tolist(), smoothed.tolist(), strict=True)
    write_csv(folder / "lr_finder.csv", ["lr", "loss", "smoothed_loss"], list(rows))
    path = folder / "lr_finder.png"
    visualize.draw_lr_finder(rates, losses, smoothed, suggestion, path, title=run.title("train"))
    print(f"the loss falls most steeply at --lr {suggestion:.2g} (of {len(rates)} steps): {path}")
    return suggestion


def _rising(
    trainer: Trainer, rates: np.ndarray, check: Callable[[], None]
) -> tuple[np.ndarray, np.ndarray]:
    """The rates up to the one at which the training diverged, and the loss at each."""
    losses: list[float] = []
    trainer.model.train()
    batches: list[torch.Tensor] = []
    for rate in rates:
        if not batches:
            order = torch.randperm(len(trainer.train_images), generator=trainer.shuffle)
            full = order[: len(order) - len(order) % trainer.images_per_step]
            batches = list((full if len(full) else order).split(trainer.images_per_step))
        for group in trainer.optimizer.param_groups:
            group["lr"] = float(rate) * group["initial_lr"] / trainer.recipe.lr
        loss, _ = trainer.step(batches.pop().to(trainer.device))
        check()
        losses.append(float(loss))
        lowest = np.nanmin(smooth(np.array(losses)))
        if not math.isfinite(losses[-1]) or smooth(np.array(losses))[-1] > DIVERGED * lowest:
            break
    finite = np.isfinite(losses)
    return rates[: len(losses)][finite], np.array(losses)[finite]


def smooth(losses: np.ndarray) -> np.ndarray:
    """Running means (N,) of losses (N,), of the first ones as of the later: without a bias to 0."""
    means, mean = [], 0.0
    for count, loss in enumerate(losses, 1):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        means.append(mean / (1 - SMOOTHING**count))
    return np.array(means)


def steepest(rates: np.ndarray, smoothed: np.ndarray) -> float:
    """The rate at which ``smoothed`` falls fastest per factor of the rate, before its minimum."""
    start = min(SKIPPED, max(0, len(rates) - 2))
    end = max(int(np.argmin(smoothed)) + 1, start + 2)
    slope = np.gradient(smoothed[start:end], np.log(rates[start:end]))
    return float(rates[start + int(np.argmin(slope))])
