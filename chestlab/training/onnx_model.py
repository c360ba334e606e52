"""PyTorch modules as ONNX models: exported, in half precision, with metadata, and run."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.torch_version import TorchVersion

from chestlab.files.errors import InputError

if TYPE_CHECKING:
    from onnx import ModelProto

Runner = Callable[[np.ndarray], Sequence[Any]]  # from pictures to the outputs of a file

LIBRARIES = ("onnx", "onnxscript", "onnxruntime")

OLDEST_TORCH = "2.8"  # 2.6 fails on three of the operations here; 2.7 was not tried

INPUT = "pictures"
OUTPUTS = ("probability", "map")

# The first with GELU as one operator, which makes experiment 1 a third faster in large batches;
# onnxruntime reads it from 1.17 on.
OPSET = 20
OPSETS = (18, 23)  # oldest, the exporter's own, and newest that are offered

BATCH = 64  # pictures that a file is run on at once

MOST_BYTES = 2**31 - 1  # of a protocol buffer, which an ONNX file is

LAYERS = ("Conv", "Gemm", "MatMul")  # operators of layers with weights

SMALLEST_HALF = 5000  # weights of a layer from which on they are stored in float16


def require_onnx() -> None:
    """Raise `InputError`, saying how to install it, where a library is missing or too old."""
    missing = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed: "
            "pip install -r requirements-export.txt"
        )
    if TorchVersion(torch.__version__) < OLDEST_TORCH:
        raise InputError(
            f"the exporter needs PyTorch {OLDEST_TORCH} or newer, and {torch.__version__} is "
            "installed: pip install --upgrade torch torchvision"
        )


def export(
    module: nn.Module,
    example: torch.Tensor,
    opset: int = OPSET,
    names: Sequence[str] = OUTPUTS,
) -> ModelProto:
    """The ONNX model of a module from `INPUT`, (N, 1, H, W) uint8, to `OUTPUTS` or the first.

    Args:
        module: in evaluation mode, on the CPU.
        example: an input with N, H and W from 2 up, all different.
        opset: version of ONNX's operators.
        names: of the outputs, where they are others; those that the module lacks are left out.

    Raises:
        InputError: the network does something that has no form in ONNX.
    """
    import onnx

    dynamic = torch.export.Dim.DYNAMIC
    with torch.no_grad():
        outputs = module(example)
    names = names[: 1 if isinstance(outputs, torch.Tensor) else len(outputs)]
    try:
        with silence():
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                optimize=True,
                verbose=False,
                opset_version=opset,
                input_names=[INPUT],
                output_names=list(names),
                dynamic_shapes=({0: dynamic, 2: dynamic, 3: dynamic},),
            )
    except (OSError, MemoryError):
        raise
    except Exception as error:  # a network of one's own may make the exporter raise nearly any
        cause = error.__cause__ or error
        reason = f"{type(cause).__name__}: {str(cause).strip()}".split("\n", 1)[0]
        raise InputError(f"this network cannot be exported to ONNX: {reason[:200]}") from None
    assert program is not None  # of dynamo=True
    model = program.model_proto
    _check_size(model)
    if model.opset_import[0].version != opset:
        raise InputError(
            f"--opset {opset}: this network could only be exported as opset "
            f"{model.opset_import[0].version}"
        )
    _strip(model)
    onnx.checker.check_model(model)
    return model


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Context without the exporter's progress, warnings and log; its errors are raised."""
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def _check_size(model: ModelProto) -> None:
    if model.ByteSize() > MOST_BYTES:
        raise InputError(
            f"one ONNX file holds up to 2 GB, and this one has {model.ByteSize() / 2**30:.1f}: "
            "export its members one by one"
        )


def _strip(model: ModelProto) -> None:
    """Remove what the exporter writes down about itself: Python's stack, classes and file names."""
    graph = model.graph
    del model.metadata_props[:], graph.metadata_props[:]
    values = [*graph.input, *graph.output, *graph.value_info, *graph.initializer]
    for part in [*values, *graph.node]:
        del part.metadata_props[:]
        part.doc_string = ""
    for value, names in [(graph.input[0], "N1HW")] + [(out, "N") for out in graph.output]:
        for size, name in zip(value.type.tensor_type.shape.dim, names, strict=False):
            if name != "1":
                size.dim_param = name
    del graph.value_info[:]  # whose sizes have the exporter's names; a runtime infers them


def set_metadata(model: ModelProto, texts: Mapping[str, str]) -> None:
    """Replace the model's metadata, which a runtime shows as a table of texts."""
    del model.metadata_props[:]
    for key, value in texts.items():
        model.metadata_props.add(key=key, value=value)


def layers(model: ModelProto) -> dict[str, str]:
    """The nodes of convolutions and linear layers, by name, and the names of their weights."""
    from onnx import TensorProto

    weights = {
        tensor.name
        for tensor in model.graph.initializer
        if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) > 1
    }
    return {
        node.name: name
        for node in model.graph.node
        if node.op_type in LAYERS
        for name in node.input
        if name in weights
    }


def with_half_weights(model: ModelProto, smallest: int = SMALLEST_HALF) -> ModelProto:
    """A copy that stores the weights of large layers in float16; its arithmetic is float32.

    Layers with few weights, such as depthwise convolutions, keep theirs: those of experiment 1
    cause most of the difference (tenfold measured) and are 4 % of its file. Arithmetic in float16
    would change its probabilities by up to 0.007, and processors have to emulate it.

    Args:
        model: in float32.
        smallest: number of weights from which on a layer is large.
    """
    from onnx import TensorProto, helper, numpy_helper

    model = copy.deepcopy(model)
    names, casts = set(layers(model).values()), []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.name in names and values.size >= smallest:
            name, stored = tensor.name, f"{tensor.name}.half"
            tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), stored))
            to = TensorProto.FLOAT
            casts.append(helper.make_node("Cast", [stored], [name], f"{name}.cast", to=to))
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*casts, *nodes])
    return model


def run_model(content: bytes, threads: int | None = None) -> Runner:
    """A function from pictures (N, 1, H, W) uint8 to the outputs of an ONNX file, on the CPU.

    Args:
        content: of the file.
        threads: of one operator; None for as many as the processor has cores.

    Raises:
        InputError: the installed onnxruntime cannot run it.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own have no common base
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"onnxruntime {onnxruntime.__version__} cannot run the file: {reason}"
        ) from None
    return lambda pictures: session.run(None, {INPUT: pictures})


def probabilities(run: Runner, pictures: np.ndarray) -> np.ndarray:
    """Probabilities (N,) of pictures (N, 1, H, W) uint8, in batches."""
    batches = range(0, len(pictures), BATCH)
    return np.concatenate([run(pictures[start : start + BATCH])[0] for start in batches])


def versions() -> dict[str, str]:
    """Versions of PyTorch and of the libraries that a file was made and checked with."""
    return {name: metadata.version(name) for name in ("torch", *LIBRARIES)}
