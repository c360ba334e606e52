"""The learning rate that ``--find-lr`` suggests for a script."""

from __future__ import annotations

import dataclasses

import numpy as np

from chestlab.files.atomic import write_csv
from chestlab.files.progress import StopSignals
from chestlab.runs.experiment import Experiment
from chestlab.training.lr_finder import HIGHEST, LOWEST, STEPS, rising_losses, smooth, steepest
from chestlab.training.trainer import Trainer


def find_learning_rate(experiment: Experiment, signals: StopSignals) -> None:
    """Train for some steps with a rising learning rate and suggest one.

    Writes ``lr_finder.png`` and ``lr_finder.csv``. The suggestion is where the smoothed loss falls
    most steeply over the logarithm of the rate.
    """
    from chestlab.reporting import curves

    recipe = dataclasses.replace(experiment.recipe, schedule="constant", ema=0.0, stage1_epochs=0)
    trainer = Trainer(experiment.build, recipe, *experiment.tensors())
    rates = np.geomspace(LOWEST, HIGHEST, STEPS)
    rates, losses = rising_losses(trainer, rates, signals.check)
    smoothed = smooth(losses)
    suggestion = steepest(rates, smoothed)
    folder = experiment.final.folder
    folder.mkdir(parents=True, exist_ok=True)
    rows = zip(rates.tolist(), losses.tolist(), smoothed.tolist(), strict=True)
    write_csv(folder / "lr_finder.csv", ["lr", "loss", "smoothed_loss"], list(rows))
    path, title = folder / "lr_finder.png", experiment.title("train")
    curves.draw_lr_finder(rates, losses, smoothed, suggestion, path, title=title)
    print(f"the loss falls most steeply at --lr {suggestion:.2g} (of {len(rates)} steps): {path}")
