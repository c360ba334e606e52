"""A run that goes on for more epochs than it was begun with, as if it had been begun with them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from chestlab.files.checkpoint import load_checkpoint, save_checkpoint
from chestlab.files.errors import InputError
from chestlab.files.run_files import RunFiles
from chestlab.training.recipe import Recipe

# The flags that may differ, as `Resumable` names them.
LENGTHS = ("epochs", "stage2_epochs")

# What a checkpoint of weights holds beside the run's identity; a threshold is chosen at the end.
OF_WEIGHTS = ("epoch", "weights", "seen", "script", "data_location")


def depends_on_length(recipe: Recipe) -> bool:
    """Whether the learning rate of an epoch depends on how many epochs there are in all."""
    return recipe.schedule in ("onecycle", "cosine") or (
        recipe.schedule == "restarts" and recipe.warmup > 0
    )


def is_longer(recipe: Recipe, before: Mapping[str, Any]) -> bool:
    """Whether a recipe is an earlier one with more epochs in its last stage.

    Args:
        recipe: what is asked for.
        before: those of `LENGTHS` that were others before.

    Raises:
        InputError: it is, but then the epochs done would have been others; says why.
    """
    earlier = dataclasses.replace(recipe, **before)
    *first, last = recipe.stages
    *first_before, last_before = earlier.stages
    if last.epochs <= last_before.epochs:
        return False
    for now, then in zip(first, first_before, strict=True):
        if now.epochs != then.epochs:
            raise InputError(
                f"with {recipe.epochs} epochs its first stage would have had {now.epochs} epochs "
                f"instead of {then.epochs}"
            )
    if depends_on_length(last):
        raise InputError(
            f"its schedule '{last.schedule}' sets the learning rate by the number of epochs, which "
            f"would have been {last.epochs} from the start instead of {last_before.epochs}"
        )
    return True


def lengthen(source: RunFiles, files: RunFiles, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Write a run's checkpoints as those of an unfinished run with more epochs.

    Args:
        source: of the run, finished or not; a finished one stays as it is.
        files: of the longer run, may be the same as those of an unfinished one.
        identity: of the longer run.

    Returns:
        The state to go on from.

    Raises:
        InputError: a checkpoint is missing or damaged.
    """
    state = {**load_checkpoint(source.last, sealed=True), **identity}
    for old, new in ((source.stage1, files.stage1), (source.best, files.best)):
        if old.exists():
            weights = load_checkpoint(old, sealed=True)
            kept = {key: weights[key] for key in OF_WEIGHTS if key in weights}
            save_checkpoint(new, {**identity, **kept})
    save_checkpoint(files.last, state)  # the last, with which there is a run to go on from
    return state
