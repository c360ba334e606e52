"""ONNX models with 8-bit integers in the layers that endure it, by onnxruntime's quantisation.

Activations become 8-bit unsigned integers, by a range measured on training images, and weights
8-bit signed ones, with a scale per output channel (QDQ format). Weights take 7 of their 8 bits:
processors without VNNI add two products in 16 bits, which more would overflow
(https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html).
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from chestlab.files.errors import InputError
from chestlab.training.onnx_model import INPUT, LAYERS, layers, probabilities, run_model, silence

if TYPE_CHECKING:
    from onnx import ModelProto

CALIBRATION_IMAGES = 128

SEARCH_IMAGES = 128  # others, on which the search for layers that hurt measures

RANKING_IMAGES = 16  # of these, the least certain ones

CALIBRATION_BATCH = 4  # images whose activations are in memory together

# Bins of a histogram of activations: onnxruntime's 128 leave its entropy method no choice.
ENTROPY_OPTIONS = {"num_bins": 512, "num_quantized_bins": 128}

MOST_CHANGE = 0.05  # of a probability, on the images of the search


@dataclass(frozen=True)
class Quantised:
    """A quantised model and how it was found.

    Attributes:
        model: the model.
        calibration: the method whose ranges it has, ``minmax`` or ``entropy``.
        mean_changes: by method, how much probabilities change with all layers in 8 bits.
        layers: number of layers with weights.
        in_float: weights of the layers that were left in float, the one that hurts most first.
        largest_change: of a probability, on the images of the search.
    """

    model: ModelProto
    calibration: str
    mean_changes: dict[str, float]
    layers: int
    in_float: list[str] = field(default_factory=list)
    largest_change: float = 0.0


def quantise(model: ModelProto, images: np.ndarray, say: Callable[[str], Any] = print) -> Quantised:
    """Quantise all layers but those that change probabilities by more than `MOST_CHANGE`.

    Ranges are measured on a part of the images and the changes on another one; where there are
    few images, on the same.

    Args:
        model: in float32.
        images: (N, S, S) uint8 of training, in any order.
        say: gets a line about every step.

    Raises:
        InputError: every layer would have to be left in float.
    """
    order = np.random.default_rng(0).permutation(len(images))
    calibration = images[order[:CALIBRATION_IMAGES]][:, None]
    others = images[order[CALIBRATION_IMAGES:][:SEARCH_IMAGES]][:, None]
    search = others if len(others) >= RANKING_IMAGES else calibration
    expected = probabilities(run_model(model.SerializeToString()), search)
    nodes = layers(model)

    def changes(ranges: Any, nodes: Collection[str], part: Any = slice(None)) -> np.ndarray:
        lowered = _with_integers(model, ranges, nodes).SerializeToString()
        return np.abs(probabilities(run_model(lowered), search[part]) - expected[part])

    mean_changes, ranges = {}, {}
    for method in ("minmax", "entropy"):
        ranges[method] = _ranges(model, calibration, method)
        mean_changes[method] = float(changes(ranges[method], nodes).mean())
        say(f"{method}: probabilities change by {mean_changes[method]:.4f} on average")
    best = min(mean_changes, key=lambda method: mean_changes[method])
    uncertain = np.argsort(np.abs(expected - 0.5))[:RANKING_IMAGES]
    chosen = ranges[best]
    order, largest = [], float(changes(chosen, nodes).max())
    left = 0
    if largest > MOST_CHANGE:
        say(f"measuring {len(nodes)} layers, one by one")
        effects = {name: changes(chosen, [name], uncertain).mean() for name in nodes}
        order = sorted(nodes, key=lambda name: -effects[name])
        left, largest = _fewest(order, lambda kept: float(changes(chosen, kept).max()))
    kept = [name for name in nodes if name not in order[:left]]
    if not kept:
        raise InputError(
            f"--precision int8: every layer changes a probability by more than {MOST_CHANGE}; "
            "fp16 halves the file"
        )
    in_float = [nodes[name].removeprefix("trained.") for name in order[:left]]
    say(f"left in float: {', '.join(in_float) or 'no layer'}")
    quantised = _with_integers(model, chosen, kept)
    return Quantised(quantised, best, mean_changes, len(nodes), in_float, largest)


def _fewest(
    order: Sequence[str], largest_change: Callable[[list[str]], float]
) -> tuple[int, float]:
    """How many layers to leave in float, from the first on, and the largest change then.

    Found by bisection: the more are left, the smaller the change is.
    """
    low, high, change = 0, len(order), 0.0  # low are too few, high are enough
    while high - low > 1:
        middle = (low + high) // 2
        found = largest_change(list(order[middle:]))
        if found > MOST_CHANGE:
            low = middle
        else:
            high, change = middle, found
    return high, change


def _ranges(model: ModelProto, images: np.ndarray, method: str) -> Any:
    """The ranges of activations that a method finds on images (N, 1, S, S) uint8."""
    import onnx
    from onnxruntime import quantization

    methods = quantization.CalibrationMethod
    kind = {"minmax": methods.MinMax, "entropy": methods.Entropy}[method]
    with tempfile.TemporaryDirectory() as folder, silence():
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        calibrator = quantization.create_calibrator(
            path,
            list(LAYERS),
            augmented_model_path=str(Path(folder) / "augmented.onnx"),
            calibrate_method=kind,
            extra_options=ENTROPY_OPTIONS if method == "entropy" else {},
        )
        for start in range(0, len(images), CALIBRATION_BATCH):
            reader: Any = _Reader(images[start : start + CALIBRATION_BATCH])
            calibrator.collect_data(reader)
        ranges = calibrator.compute_data()
        calibrator.infer_session = None  # on Windows an open file cannot be removed
    return ranges


class _Reader:
    """One batch, as onnxruntime's calibrators ask for it: an interface, which they import late."""

    def __init__(self, images: np.ndarray) -> None:
        self.batches = iter([{INPUT: images}])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.batches, None)


def _with_integers(model: ModelProto, ranges: Any, nodes: Collection[str]) -> ModelProto:
    """A copy of the model with the layers of these nodes in 8 bits."""
    from onnxruntime import quantization

    with silence():
        quantizer = quantization.QDQQuantizer(
            copy.deepcopy(model),
            per_channel=True,
            reduce_range=True,
            weight_qType=quantization.QuantType.QInt8,
            activation_qType=quantization.QuantType.QUInt8,
            tensors_range=ranges,
            nodes_to_quantize=list(nodes),
            nodes_to_exclude=[],
            op_types_to_quantize=list(LAYERS),
            extra_options={},
        )
        quantizer.quantize_model()
    return quantizer.model.model
