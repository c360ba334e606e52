"""Is an X-ray inverted, as a negative or MONOCHROME1 without its tag: a rule on the image alone.

In a frontal chest X-ray the air beside the neck is dark, and spine, heart and liver are bright, so
an upright image correlates with the mean of many. An image whose correlation is below
`CORRELATION_LIMIT` is taken for inverted. Of 3,030 real test images that is wrong for 2, and it
misses 10 of their negatives. Rules that were worse, as the border's mean against the centre's (a
fifth wrong), are in `benchmarks/UNLIKE.md`.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

CORRELATION_LIMIT = -0.1  # chosen on train and val of an NIH subset; noise stays above it

# Mean of 440 frontal X-rays (training images of an NIH subset with one of the two classes), each
# standardised, 7 x 7 fields. For checkpoints that have no mean of their own training images.
FRONTAL = np.array(
    [
        [-1.66, -1.35, -0.69, 0.28, -0.54, -1.30, -1.53],
        [-0.18, -0.06, -0.60, 0.11, -0.60, -0.15, -0.09],
        [0.17, -0.10, -0.82, 0.36, -0.69, -0.24, 0.15],
        [-0.17, -0.12, -0.39, 0.81, -0.01, -0.19, -0.19],
        [-0.47, 0.17, 0.32, 1.16, 0.68, 0.13, -0.44],
        [-0.72, 0.66, 1.16, 1.45, 1.12, 0.53, -0.70],
        [-0.78, 0.88, 1.52, 1.65, 1.46, 0.83, -0.83],
    ]
)


def standardized(images: np.ndarray, side: int) -> np.ndarray:
    """Images (N, S, S) uint8 as (N, side, side) float64 of mean 0 and standard deviation 1.

    Each field is the mean of its area of the image. What exposure and contrast change is divided
    out; the deviation of an image without contrast stays 0.
    """
    if images.shape[1] != side:
        size = (side, side)
        images = np.stack(
            [
                np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))
                for image in images
            ]
        )
    values = images.astype(np.float64)
    values -= values.mean((1, 2), keepdims=True)
    return values / (values.std((1, 2), keepdims=True) + 1)  # a grey level more: never 0


def correlations(images: np.ndarray, mean: np.ndarray = FRONTAL) -> np.ndarray:
    """Pearson correlations (N,), -1 to 1, of images (N, S, S) uint8 with a mean image.

    Args:
        images: to be judged; one without contrast has 0.
        mean: (R, R), of upright images; they are reduced to its size.
    """
    values = standardized(images, len(mean)).reshape(len(images), -1)
    pattern = (mean - mean.mean()).ravel()
    norms = np.linalg.norm(values, axis=1) * np.linalg.norm(pattern)
    return values @ pattern / np.maximum(norms, 1e-12)
