"""The second figure beside running batch-norm statistics: the same weights with estimated ones.

A recipe that evaluates with running averages, as the course reports did, can be judged by averages
that lag behind its weights; see `chestlab.training.batch_norm`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from chestlab.evaluation.metrics import defined_auc, mean_loss
from chestlab.runs.experiment import Experiment
from chestlab.training.batch_norm import batch_norms, estimate_statistics
from chestlab.training.inference import predict
from chestlab.training.layers import on_device
from chestlab.training.trainer import Trainer

LAG = 0.05  # of val AUC, by which estimated statistics are better than running ones; sound: 0.02


def both_statistics(
    experiment: Experiment, trainer: Trainer, running: Mapping[str, np.ndarray]
) -> dict[str, Any] | None:
    """Train and val with running and with estimated statistics, in a single pass at 0.5.

    Test is not evaluated again.

    Args:
        experiment: of one label per image.
        trainer: finished, with the weights that are kept.
        running: logits (N,) of a single pass with running averages, by split.

    Returns:
        ``loss``, ``accuracy`` and ``auc`` by split and by ``running`` and ``estimated``; None
        where the recipe does not evaluate with running averages, or the network has none.
    """
    names = batch_norms(trainer.model, trainer.frozen_modules)
    if experiment.recipe.batch_norm != "running" or not names:
        return None
    splits = {"train": experiment.splits["train"], "val": experiment.data.val}
    images = {name: split.to(experiment.device)[0] for name, split in splits.items()}
    model = on_device(experiment.build(), experiment.device)  # of one process
    model.load_state_dict(trainer.best_weights)
    layers = [model.get_submodule(name) for name in names]
    estimate_statistics(model, layers, images["train"], experiment.recipe)
    return {
        name: {
            "running": _figures(split.labels, running[name]),
            "estimated": _figures(
                split.labels, predict(model, images[name], experiment.recipe, tta="none")
            ),
        }
        for name, split in splits.items()
    }


def _figures(labels: np.ndarray, logits: np.ndarray) -> dict[str, float | None]:
    return {
        "loss": mean_loss(labels, logits),
        "accuracy": float(np.mean((logits >= 0) == (labels == 1))),
        "auc": defined_auc(labels, logits),
    }


def lag_alarm(figures: Mapping[str, Any] | None) -> list[str]:
    """A sentence where estimated statistics are much better; ``figures`` of `both_statistics`."""
    if figures is None:
        return []
    running, estimated = (figures["val"][kind]["auc"] for kind in ("running", "estimated"))
    if estimated is None or estimated - (running or 0.5) <= LAG:
        return []
    told = "undefined" if running is None else f"{running:.3f}"
    return [
        f"with batch-norm statistics estimated on training images the same weights have a val AUC "
        f"of {estimated:.3f}, with running averages {told}: the averages lag behind: "
        "try --batch-norm estimated"
    ]
