"""Averages of trained networks: an ensemble over seeds or folds, or a blend of ensembles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from chestlab.data.phantom import PHANTOM_MARK
from chestlab.evaluation.metrics import sigmoid
from chestlab.training.inference import TrainedModel

LEAST_PROBABILITY = 1e-6  # so that one certain network does not outweigh all others


@dataclass(frozen=True)
class TrainedAverage:
    """Networks whose predictions are averaged, used like one `TrainedModel`.

    Attributes:
        name: of the average, as its folder of results.
        members: at least one, all trained on images of one file.
        threshold: probability from which class 1, pneumothorax, is predicted.
        of_logits: the mean is that of the logits, not of the probabilities.
    """

    name: str
    members: Sequence[Trained]
    threshold: float
    of_logits: bool

    @property
    def architecture(self) -> str:
        return " + ".join(dict.fromkeys(member.architecture for member in self.members))

    @property
    def size(self) -> int:
        return self.members[0].size

    @property
    def source(self) -> str:
        return self.members[0].source

    @property
    def sha256(self) -> str:
        return self.members[0].sha256

    @property
    def data_location(self) -> str:
        return self.members[0].data_location

    @property
    def note(self) -> str:
        return "; ".join(dict.fromkeys(member.note for member in self.members if member.note))

    @property
    def phantom(self) -> bool:
        return PHANTOM_MARK in self.source

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Probabilities (N,) of pneumothorax of images (N, S, S) uint8, S being ``size``."""
        each = [member.probabilities(images) for member in self.members]
        return mean_of_logits(each) if self.of_logits else np.mean(each, axis=0)


Trained = TrainedModel | TrainedAverage


def mean_of_logits(probabilities: Sequence[np.ndarray]) -> np.ndarray:
    """Mean of the logits, as probabilities.

    Networks trained for long are certain of most images; their probabilities hardly differ from 0
    or 1 there, while their logits still tell how certain each is.

    Args:
        probabilities: (N,) of each network.

    Returns:
        (N,) probabilities.
    """
    clipped = np.clip(probabilities, LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
    return sigmoid(np.mean(np.log(clipped) - np.log1p(-clipped), axis=0))


def networks_of(trained: Trained) -> list[TrainedModel]:
    """The networks that are averaged, or the one that there is."""
    if isinstance(trained, TrainedModel):
        return [trained]
    return [network for member in trained.members for network in networks_of(member)]
