"""How well inverted images, and images that are no chest X-rays, are told: writes UNLIKE.md.

    python -m benchmarks.unlike FILE.npz [FILE.npz ...] --checkpoint FILE_best.pth

Rules and thresholds were chosen on train and val. On the test images the chosen ones are measured
once: nothing was changed afterwards, their labels serve only to name the images of the two classes,
and no network predicts them. ``--checkpoint``: a run on the first file, for the distances in the
network's features, to which the one on images is compared, and for what it predicts.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jinja2 import Template
from torch import nn

from benchmarks import odd_images
from chestlab.data import sources
from chestlab.data.inverted import CORRELATION_LIMIT, FRONTAL, correlations, standardized
from chestlab.data.splits import TwoClassData, two_class_mask
from chestlab.files.atomic import atomic_write
from chestlab.files.errors import OneLineParser, one_line_errors
from chestlab.training.augment import to_input
from chestlab.training.inference import TrainedModel, load_model
from chestlab.training.likeness import PERCENTILE, Likeness
from networks import network_class

HERE = Path(__file__).resolve().parent
DEVELOPED_ON = 300  # X-rays of val that are changed
FEATURES = {"the pooled features": 0, "the last layer's input": -1}  # which linear layer's input
FEATURE_COMPONENTS = 16
SURE = 0.9

Judge = Callable[[np.ndarray], np.ndarray]


def border_minus_centre(images: np.ndarray) -> np.ndarray:
    """Mean of the inner three quarters of each side less that of the frame, (N,)."""
    values = standardized(images, 24)
    inner = values[:, 3:-3, 3:-3].sum((1, 2)) / 18**2
    return inner - (values.sum((1, 2)) - inner * 18**2) / (24**2 - 18**2)


def upper_corners(images: np.ndarray) -> np.ndarray:
    """How much darker than the image's mean both upper corners are, a sixth of the side, (N,)."""
    values = standardized(images, 24)
    return -(values[:, :4, :4].mean((1, 2)) + values[:, :4, -4:].mean((1, 2))) / 2


def rules(fitted: Likeness) -> dict[str, tuple[Judge, float]]:
    """Scores of upright images are high; below the threshold an image is taken for inverted."""
    own = partial(correlations, mean=fitted.mean)
    coarse = partial(correlations, mean=FRONTAL)
    return {
        "centre brighter than the outer 1/8 of each side": (border_minus_centre, 0.0),
        "both upper corners darker than the image": (upper_corners, 0.0),
        "the negative is further from the training images": (
            lambda images: fitted.distances(255 - images) - fitted.distances(images),
            0.0,
        ),
        "correlation with the 7 x 7 mean in the code below 0": (coarse, 0.0),
        f"the same below {CORRELATION_LIMIT}: the rule for old checkpoints": (
            coarse,
            CORRELATION_LIMIT,
        ),
        "correlation with the mean training image below 0": (own, 0.0),
        f"the same below {CORRELATION_LIMIT}: the rule": (own, CORRELATION_LIMIT),
    }


def share(flags: np.ndarray) -> str:
    return f"{flags.sum():,} of {flags.size:,} ({flags.mean():.1%})"


def rule_row(name: str, judge: Judge, limit: float, images: np.ndarray) -> list[str]:
    """False alarms on images as they are, misses on their negatives."""
    return [name, share(judge(images) < limit), share(judge(255 - images) >= limit)]


class FeatureDistance:
    """Distance in the input of a linear layer, to compare with that of images.

    Probabilistic principal components (Tipping and Bishop, 1999): Mahalanobis's distance, all
    directions but the first having the same variance.
    """

    def __init__(self, trained: TrainedModel, layer: int, data: TwoClassData) -> None:
        linear = [m for m in trained.model.modules() if isinstance(m, nn.Linear)]
        self.trained, self.layer = trained, linear[layer]
        features, _ = self.look(data.train.images)
        self.mean = features.mean(0)
        values, vectors = np.linalg.eigh(np.cov((features - self.mean).T))
        self.vectors, self.variances = vectors[:, ::-1], values[::-1].copy()
        self.variances[FEATURE_COMPONENTS:] = self.variances[FEATURE_COMPONENTS:].mean()
        self.limit = np.percentile(self.of(self.look(data.val.images)[0]), PERCENTILE)

    def look(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Features (N, F) and probabilities (N,) of images (N, S, S)."""
        kept: list[torch.Tensor] = []
        handle = self.layer.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0]))
        with torch.inference_mode():
            batches = self.trained.tensor(np.ascontiguousarray(images)).split(64)
            logits = [self.trained.model(to_input(x, self.trained.recipe)) for x in batches]
        handle.remove()
        return torch.cat(kept).double().numpy(), torch.cat(logits).sigmoid().numpy()

    def of(self, features: np.ndarray) -> np.ndarray:
        z = (features - self.mean) @ self.vectors
        return np.sqrt((z**2 / self.variances).sum(1))


def kind_row(
    name: str, images: np.ndarray, fitted: Likeness, by_features: list[FeatureDistance]
) -> list[str]:
    """Share of a kind that is told by each distance, and on which the network is sure."""
    cells = [name, str(len(images)), f"{(fitted.distances(images) > fitted.limit).mean():.0%}"]
    probabilities = np.zeros(0)
    for distance in by_features:
        features, probabilities = distance.look(images)
        cells.append(f"{(distance.of(features) > distance.limit).mean():.0%}")
    sure = np.maximum(probabilities, 1 - probabilities) > SURE
    return [*cells, f"{sure.mean():.0%}" if by_features else "-"]


def of_file(path: str) -> dict[str, Any]:
    """What the page says of one file: the rules on train and val, the chosen ones on test."""
    data = sources.load(path)
    fitted = Likeness.fit(data.train.images, data.val.images)
    assert fitted is not None
    with np.load(path) as arrays:
        known = np.concatenate([arrays["train_images"], arrays["val_images"]])
        test, two = arrays["test_images"], two_class_mask(arrays["test_labels"])
        val = arrays["val_images"][~two_class_mask(arrays["val_labels"])]
    chosen = {name: rule for name, rule in rules(fitted).items() if "the rule" in name}
    far = fitted.distances(test) > fitted.limit
    return {
        "source": data.source,
        "size": data.size,
        "train": len(data.train),
        "val_images": fitted.val_images,
        "limit": fitted.limit,
        "known": [rule_row(name, *rule, known) for name, rule in rules(fitted).items()],
        "test": [rule_row(name, *rule, test) for name, rule in chosen.items()],
        "far": [
            ["val, other findings or none", share(fitted.distances(val) > fitted.limit)],
            ["test, one of the two classes", share(far[two])],
            ["test, all", share(far)],
            ["test, all, inverted", share(fitted.distances(255 - test) > fitted.limit)],
        ],
        "val": val[:DEVELOPED_ON],
        "data": data,
        "fitted": fitted,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and write the page."""
    parser = OneLineParser(
        prog="python -m benchmarks.unlike", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("files", nargs="+", metavar="FILE.npz")
    parser.add_argument("--checkpoint", type=Path, metavar="FILE_best.pth")
    parser.add_argument(
        "--out", type=Path, default=HERE / "UNLIKE.md", help="(default: %(default)s)"
    )
    options = parser.parse_args(argv)
    with one_line_errors(resume=""):
        measured = [of_file(path) for path in options.files]
        first = measured[0]
        by_features, network = [], ""
        if options.checkpoint is not None:
            trained = load_model(options.checkpoint, network_class)
            network = f"{trained.architecture} ({trained.recipe.epochs} epochs)"
            by_features = [
                FeatureDistance(trained, layer, first["data"]) for layer in FEATURES.values()
            ]
        row = partial(kind_row, fitted=first["fitted"], by_features=by_features)
        odd = itertools.chain(odd_images.made(first["size"]), odd_images.files(first["size"]))
        tables = {
            "odd": [row(*kind) for kind in odd],
            "changed": [row(*kind) for kind in odd_images.changed_xrays(first["val"])],
            "usable": [row(*kind) for kind in odd_images.usable_xrays(first["val"])],
        }
        template = Template((HERE / "unlike.md.j2").read_text(encoding="utf-8"), trim_blocks=True)
        text = template.render(
            measured=measured,
            network=network,
            features=list(FEATURES),
            limit=CORRELATION_LIMIT,
            components=FEATURE_COMPONENTS,
            sure=SURE,
            **tables,
        )
        atomic_write(options.out, text.rstrip() + "\n")
        print(options.out)


if __name__ == "__main__":
    main()
