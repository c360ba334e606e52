"""How far an image is from those of the training, so that a prediction of noise is not silent.

An image is reduced to `SIDE` px, standardised, and described by 14 numbers: its coefficients on the
first principal components of the training images, the logarithm of the sum of squares that these
leave over, and that of its sharpness, the mean square of second differences. Its distance is
Mahalanobis's with a diagonal covariance: the root of the sum of squares of these numbers, each in
standard deviations of the training images from their mean.

Above the limit are 157 of 3,030 real test images (2 of the 107 with one of the two classes) and all
or nearly all noise, photographs, CT slices and turned X-rays, but few images that are drawn to look
like chest X-rays. Nothing of it depends on the network. Distances between the activations of a
network's last layers were measured, too; they miss a quarter to a half of the photographs and CT
slices, and most turned X-rays: `benchmarks/UNLIKE.md`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch

from chestlab.data.inverted import CORRELATION_LIMIT, FRONTAL, correlations, standardized

SIDE = 28  # px
COMPONENTS = 12
LEAST_IMAGES = 32  # of the training; fewer describe nothing
MOST_IMAGES = 4096  # of the training that are used, evenly spaced among all
PERCENTILE = 99  # of the validation images, whose distance is the limit

SHAPES = {
    "mean": (SIDE, SIDE),
    "components": (COMPONENTS, SIDE * SIDE),
    "centre": (COMPONENTS + 2,),
    "spread": (COMPONENTS + 2,),
}


@dataclass(frozen=True)
class Likeness:
    """Statistics of the training images, and the distance that most validation images keep.

    Attributes:
        mean: (28, 28) float32, mean of the standardised images.
        components: (12, 784) float32, orthonormal rows.
        centre: (14,) float32, mean of the images' 14 numbers.
        spread: (14,) float32, their standard deviations.
        limit: 99th percentile of the validation images' distances.
        val_images: how many these are.
    """

    mean: np.ndarray
    components: np.ndarray
    centre: np.ndarray
    spread: np.ndarray
    limit: float
    val_images: int

    @classmethod
    def fit(cls, train: np.ndarray, val: np.ndarray) -> Likeness | None:
        """Statistics of images (N, S, S) uint8; None where they are too few. Nothing is random."""
        if len(train) < LEAST_IMAGES or not len(val):
            return None
        if len(train) > MOST_IMAGES:
            train = train[np.linspace(0, len(train) - 1, MOST_IMAGES).astype(int)]
        values = standardized(train, SIDE)
        mean = values.mean(0)
        centred = (values - mean).reshape(len(values), -1)
        components = np.linalg.svd(centred, full_matrices=False)[2][:COMPONENTS]
        numbers = _numbers(values, mean, components)
        arrays = {
            "mean": mean,
            "components": components,
            "centre": numbers.mean(0),
            "spread": np.maximum(numbers.std(0), 1e-3),
        }
        single = {name: array.astype(np.float32) for name, array in arrays.items()}
        unlimited = cls(**single, limit=np.inf, val_images=len(val))
        limit = float(np.percentile(unlimited.distances(val), PERCENTILE))
        return replace(unlimited, limit=limit)

    def distances(self, images: np.ndarray) -> np.ndarray:
        """Distances (N,) of images (N, S, S) uint8 from the training images."""
        numbers = _numbers(standardized(images, SIDE), self.mean, self.components)
        return np.sqrt((((numbers - self.centre) / self.spread) ** 2).sum(1))

    def state(self) -> dict[str, Any]:
        """Tensors and plain values for a checkpoint, 41 kB; `from_state` reads them."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
            for name, value in values.items()
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Likeness:
        """The reverse of `state`.

        Raises:
            ValueError: a part is missing, of another shape, or not finite.
        """
        values = {}
        for name, shape in SHAPES.items():
            tensor = state.get(name) if isinstance(state, Mapping) else None
            if not isinstance(tensor, torch.Tensor) or tuple(tensor.shape) != shape:
                raise ValueError(f"'{name}' is missing or not of shape {shape}")
            if not torch.isfinite(tensor).all():
                raise ValueError(f"'{name}' is not finite")
            values[name] = tensor.numpy()
        limit, number = state.get("limit"), state.get("val_images")
        if not isinstance(limit, float) or not 0 < limit < np.inf or not isinstance(number, int):
            raise ValueError("'limit' or 'val_images' is missing or no positive number")
        if values["spread"].min() <= 0:
            raise ValueError("'spread' is not positive")
        return cls(**values, limit=limit, val_images=number)


def _numbers(values: np.ndarray, mean: np.ndarray, components: np.ndarray) -> np.ndarray:
    """What describes standardised images (N, 28, 28): (N, 14)."""
    centred = (values - mean).reshape(len(values), -1)
    coefficients = centred @ components.T
    left_over = (centred**2).sum(1) - (coefficients**2).sum(1)
    second = [np.diff(values, 2, axis).reshape(len(values), -1) for axis in (1, 2)]
    sharpness = (np.concatenate(second, 1) ** 2).mean(1)
    logarithms = np.log(np.maximum(np.stack([left_over, sharpness], 1), 1e-6))
    return np.concatenate([coefficients, logarithms], 1)


def doubts(images: np.ndarray, likeness: Likeness | None, negatives: str) -> list[tuple[str, ...]]:
    """Why predictions of images may be wrong: inverted, or unlike the training images.

    Args:
        images: (N, S, S) uint8.
        likeness: of the network, None where its checkpoint has none: the first is judged by
            `inverted.FRONTAL` then, and the second is not.
        negatives: ``auto``, ``yes`` (the images have been inverted, because the user said so) or
            ``no`` (whether they are inverted is not to be judged).

    Returns:
        for each image a sentence for each doubt; of one that looks inverted the negative is
        compared with the training images.
    """
    sentences: list[list[str]] = [[] for _ in images]
    if negatives != "no":
        mean = FRONTAL if likeness is None else likeness.mean
        pattern = "a mean chest X-ray" if likeness is None else "the mean training image"
        r = correlations(images, mean)
        inverted = r < CORRELATION_LIMIT
        now, flag = (" now", "--invert no") if negatives == "yes" else ("", "--invert yes")
        for row in np.flatnonzero(inverted):
            text = f"looks inverted{now} (correlation {r[row]:.2f} with {pattern}): {flag}?"
            sentences[row].append(text)
        images = np.where(inverted[:, None, None], 255 - images, images)
    if likeness is not None:
        for row, distance in zip(sentences, likeness.distances(images), strict=True):
            if distance > likeness.limit:
                row.append(
                    f"unlike the training images (distance {distance:.1f}; {PERCENTILE} % of "
                    f"{likeness.val_images} validation images are below {likeness.limit:.1f})"
                )
    return [tuple(row) for row in sentences]
