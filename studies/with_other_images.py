"""Studies of networks that learn all training images of the source, those of other findings too."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from chestlab.data import sources
from chestlab.data.folds import Fold
from chestlab.data.splits import Split
from chestlab.files.progress import StopSignals
from chestlab.training.losses import Objective
from chestlab.training.recipe import Recipe
from chestlab.training.trainer import Trainer
from studies.fold_networks import KeptNetworks
from studies.pretrain import without

TIMES = 8  # an epoch shows an image of the two classes, for each time that it shows another one


class WithOtherImages(KeptNetworks):
    """A study of networks that learn images of other findings beside those of the two classes.

    Args:
        options, signals, results, folds: as the arguments of `StoredConfigurations`.

    Attributes:
        others: training images of the source that are not of the two classes alone, with the 14
            findings.
    """

    def __init__(
        self, options: argparse.Namespace, signals: StopSignals, results: str, **folds: Any
    ) -> None:
        super().__init__(options, signals, results, **folds)
        source = options.data, options.root, options.source_size
        train = sources.load(*source, findings=True).train
        pool = self.splits.pool
        of_two_classes = np.isin(train.index, pool.index[pool.origin == "train"])
        self.others = train.take(~of_two_classes)

    def images_of(self, fold: Fold) -> tuple[torch.Tensor, Split]:
        """What an epoch of a fold shows.

        Returns:
            Images (N, 1, S, S) uint8 on the device, those of the two classes `TIMES` times, then
            the others once; and these others, none of them of a patient who is held out.
        """
        others = without(self.others, fold.held_out, "train")
        (labelled, _), (rest, _) = fold.train.to(self.device), others.to(self.device)
        return torch.cat([labelled.repeat(TIMES, 1, 1, 1), rest]), others

    def fitted(
        self,
        build: Callable[[], nn.Module],
        recipe: Recipe,
        train: tuple[torch.Tensor, torch.Tensor],
        objective: Objective | None = None,
    ) -> tuple[nn.Module, dict[str, Any]]:
        """Train a network on images and targets.

        Args:
            build, recipe, train, objective: as those of `Trainer`.

        Returns:
            The network with the weights that the recipe keeps, and of the result of a fold, as of
            `crossval.train_fold`, all but the logits.
        """
        images, targets = train
        self.signals.check()
        with self.signals.deferred():
            nothing = images[:0], targets[:0]
            trainer = Trainer(build, recipe, train, nothing, objective=objective)
            trainer.on_step = self.signals.check
            trainer.fit()
        trainer.model.load_state_dict(trainer.best_weights)
        return trainer.model, {
            "seconds": sum(row["seconds"] for row in trainer.history),
            "best_epoch": trainer.best_epoch,
            "epochs": len(trainer.history),
            "images": len(images),
        }
