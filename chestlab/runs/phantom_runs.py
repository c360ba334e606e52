"""What a run on phantoms does otherwise: it shows that everything works, and is soon done."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable

from chestlab.data.splits import Data
from chestlab.files.errors import InputError
from chestlab.runs.naming import is_stand_in
from chestlab.training.recipe import Recipe, from_random_numbers
from chestlab.training.weights import PretrainedWeights

# Pixels that pass through the network in a stage, those of 40 epochs of 256 images of 28 px. Such
# a run takes about 90 s on two slow CPU cores, everything included.
PIXELS = 40 * 256 * 28**2

LEAST_EPOCHS = 2


def shortened(recipe: Recipe, options: argparse.Namespace, data: Data) -> Recipe:
    """A recipe with fewer epochs where phantoms stand in for X-rays, unless a flag says how many.

    Says so on stderr.
    """
    if not is_stand_in(options, data):
        return recipe
    size = recipe.image_size or data.size
    most = max(LEAST_EPOCHS, PIXELS // (len(data.train) * size * size))
    given = {"epochs": ("epochs", "stage2_epochs"), "stage1_epochs": ("stage1_epochs",)}
    epochs = {
        name: min(getattr(recipe, name), most)
        for name, flags in given.items()
        if all(getattr(options, flag) is None for flag in flags)
    }
    short = dataclasses.replace(recipe, **epochs)
    if short.epochs < recipe.epochs:
        print(
            f"WARNING: {short.epochs} instead of {recipe.epochs} epochs, so that it is done in a "
            "minute or two: a run on phantoms only shows that everything works",
            file=sys.stderr,
        )
    return short


def weights_or_none(
    read: Callable[[], PretrainedWeights],
    recipe: Recipe,
    options: argparse.Namespace,
    data: Data,
) -> tuple[PretrainedWeights, Recipe]:
    """Weights to start from; random ones, loudly, where phantoms stand in and there are no others.

    The recipe then freezes no batch-norm statistics, unless a flag says so.

    Raises:
        InputError: of ``read``, where X-rays are trained on.
    """
    try:
        return read(), recipe
    except InputError as error:
        if options.weights != "imagenet" or not is_stand_in(options, data):
            raise
        print(f"WARNING: {error}\nWARNING: starting from random numbers instead", file=sys.stderr)
        if options.batch_norm is None:
            kind = from_random_numbers(recipe)["batch_norm"]
            recipe = dataclasses.replace(recipe, batch_norm=kind)
        return PretrainedWeights("none"), recipe
