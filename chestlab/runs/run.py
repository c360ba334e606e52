"""From the command line to the results: what every training script calls."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial

import numpy as np
from torch import nn

from chestlab.files import notebook
from chestlab.files.atomic import write_csv
from chestlab.files.errors import one_line_errors
from chestlab.files.progress import StopSignals
from chestlab.files.run_files import RunFiles
from chestlab.runs.ensemble import Ensemble
from chestlab.runs.experiment import Run
from chestlab.runs.flags import parse
from chestlab.training.lr_finder import HIGHEST, LOWEST, STEPS, rising_losses, smooth, steepest
from chestlab.training.recipe import Recipe
from chestlab.training.trainer import Trainer
from chestlab.training.weights import read_pretrained


def run(
    build: Callable[[], nn.Module],
    recipes: Mapping[str, Recipe],
    argv: Sequence[str] | None = None,
    imagenet_url: str | Callable[..., str] | None = None,
    model_options: Mapping[str, dataclasses.Field] | None = None,
    findings: bool = False,
    below: str = "",
) -> RunFiles | None:
    """Run a training script: parse the flags, train or resume, evaluate, draw.

    Ends the process with status 2 for wrong input, 130 or 143 when interrupted (resumable), 1 for
    any other failure, each with one line on stderr (see `notebook_cell.leave` for a cell's end);
    returns where everything lies when done (None for an ensemble or a search for the learning
    rate). A notebook shows the pictures.

    Args:
        build: model class.
        recipes: by the name ``--recipe`` knows them; the last one is the default.
        argv: flags, by default the process's own.
        imagenet_url: of torchvision's weights, for a model whose constructor takes a
            `weights.StartingPoint` first and which has a ``backbone``; a callable gets what
            ``knobs`` have become and returns the address. Any other model can start from a
            checkpoint of its own kind.
        knobs: arguments of the model's constructor that are flags, made with `recipe.knob`.
        findings: the constructor takes ``outputs``, so that ``--task findings`` can be asked for.
        below: folder of what this run is a part of, inside both output folders.
    """
    with one_line_errors(), StopSignals() as signals:
        options = parse(recipes, argv, imagenet_url is not None, model_options, findings)
        start = None
        if imagenet_url is not None or options.weights != "none":
            url = imagenet_url
            if callable(imagenet_url):
                url = imagenet_url(**options.model_arguments)
            start = cache(partial(read_pretrained, options.weights, url))  # once for all members
        if options.members or options.folds:
            ensemble = Ensemble(partial(Run, build, signals, start), options)
            ensemble.go()
            notebook.show(ensemble.files.folder.glob("*.png"))
            return None
        one = Run(build, signals, start, options, below=below)
        if options.find_lr:
            find_learning_rate(one)
            notebook.show(one.final.folder.glob("lr_finder.png"))
            return None
        one.go()
        if not below:
            notebook.show(one.final.folder.glob("*.png"))
    return one.final


def find_learning_rate(run: Run) -> float:
    """Run the test, write ``lr_finder.png`` and ``lr_finder.csv``, print and return a suggestion.

    The suggestion is where the smoothed loss falls most steeply over the logarithm of the rate.
    """
    from chestlab.reporting import curves

    recipe = dataclasses.replace(run.recipe, schedule="constant", ema=0.0, stage1_epochs=0)
    trainer = Trainer(run.build, recipe, run.train.to(run.device), run.data.val.to(run.device))
    rates = np.geomspace(LOWEST, HIGHEST, STEPS)
    rates, losses = rising_losses(trainer, rates, run.signals.check)
    smoothed = smooth(losses)
    suggestion = steepest(rates, smoothed)
    folder = run.final.folder
    folder.mkdir(parents=True, exist_ok=True)
    rows = zip(rates.tolist(), losses.tolist(), smoothed.tolist(), strict=True)
    write_csv(folder / "lr_finder.csv", ["lr", "loss", "smoothed_loss"], list(rows))
    path = folder / "lr_finder.png"
    curves.draw_lr_finder(rates, losses, smoothed, suggestion, path, title=run.title("train"))
    print(f"the loss falls most steeply at --lr {suggestion:.2g} (of {len(rates)} steps): {path}")
    return suggestion
