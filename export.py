"""Write a trained network as one ONNX file that takes pixels and gives probabilities.

    python export.py                                     # the newest finished run
    python export.py --checkpoint RUN --precision int8   # a run or an ensemble by name, or FILE.pth
    python export.py --demo DIR                          # a web page to try it

The file holds the whole path of `predict.py`: grey pictures (N, 1, H, W) of 8 bits and any size, of
which the middle square is resized and normalised; the network or all networks of an ensemble, with
the run's test-time augmentation; and the probability of pneumothorax (N,). onnxruntime runs it from
Python, JavaScript, C# and more: docs/use_elsewhere.md.

Before it is written, its probabilities of the run's validation images are compared with those of
`predict.py`; `export.json` beside it has the figures. fp16 stores the weights of large layers in
half precision. int8 computes with 8-bit integers, in ranges measured on training images, in all
layers that endure it. Test images are not used. --demo writes a new folder for any web server, with
a page that classifies pictures in the browser; none leaves it. This is no medical device.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import chestlab  # noqa: F401  # before PyTorch, for which it sets environment variables

# isort: split
import torch

from chestlab.data.splits import CLASS_NAMES, TwoClassData
from chestlab.files.atomic import check_writable
from chestlab.files.errors import InputError, OneLineParser, one_line_errors
from chestlab.files.progress import StopSignals
from chestlab.runs import demo_page, export_check
from chestlab.runs.finished_averages import load_trained
from chestlab.runs.finished_runs import add_checkpoint_flags
from chestlab.training import int8, onnx_model
from chestlab.training.averages import Trained, networks_of
from chestlab.training.export_graph import WholePath
from chestlab.training.recipe import as_dict, recipe_hash
from explain import load_data
from networks import network_class

if TYPE_CHECKING:
    from onnx import ModelProto

DISCLAIMER = "No medical device: these numbers say nothing about a patient."


def metadata(trained: Trained, data: TwoClassData) -> dict[str, str]:
    """What the file says of itself: texts, `classes` being a JSON list."""
    licence = f"that of the images in '{trained.source}'"
    if trained.phantom:
        licence = "procedural images, no X-rays"
    elif data.credit and data.sha256 == trained.sha256:
        licence = f"{data.credit}; MedMNIST: CC BY 4.0"
    hashes = [recipe_hash(as_dict(network.recipe)) for network in networks_of(trained)]
    return {
        "name": trained.name,
        "model": trained.architecture,
        "classes": json.dumps(CLASS_NAMES),
        "threshold": f"{trained.threshold:g}",
        "size": str(trained.size),
        "source": trained.source,
        "licence": licence,
        "recipe": "+".join(dict.fromkeys(hashes)),
        "disclaimer": " ".join([DISCLAIMER, trained.note]).strip(),
    }


def whole_path(trained: Trained, with_map: bool) -> tuple[WholePath, list[int] | None]:
    """The module to export, and the size of its map; without one where the network has none."""
    if with_map:
        example = torch.zeros((1, 1, trained.size, trained.size), dtype=torch.uint8)
        try:
            module = WholePath(trained, with_map=True)
            with torch.no_grad():
                return module, list(module(example)[1].shape[1:])
        except (InputError, RuntimeError):  # the second where its layers want a map of one size
            print("no map: this network has no feature map that its last layers average")
    return WholePath(trained), None


def in_precision(
    model: ModelProto, precision: str, data: TwoClassData
) -> tuple[ModelProto, dict[str, Any]]:
    """The model with other numbers inside, and what `export.json` says of them."""
    if precision == "fp16":
        return onnx_model.with_half_weights(model), {}
    if precision == "fp32":
        return model, {}
    print("int8: measuring ranges and differences on training images")
    quantised = int8.quantise(model, data.train.images)
    return quantised.model, {
        "int8": {
            "calibration": quantised.calibration,
            "mean_change_on_training": quantised.mean_changes,
            "largest_change_on_training": quantised.largest_change,
            "layers": quantised.layers,
            "in_float": quantised.in_float,
        }
    }


def export(options: argparse.Namespace) -> Path:
    """Write the file, or with ``--demo`` the folder, that the command line asks for.

    Raises:
        InputError: a library, checkpoint, folder or the data is missing or not fitting, the network
            has no form in ONNX, or the file differs from it by too much; nothing is written.
        OSError: the disk is full; what was there is untouched.
    """
    onnx_model.require_onnx()
    if options.out is not None:
        check_out(options.out)
    if options.demo is not None:
        demo_page.check_folder(options.demo)
        runtime = demo_page.find_runtime([Path(), Path(__file__).parent])
    trained, checkpoints = load_trained(options, network_class)
    out = options.out or checkpoints[0].with_name(file_name(trained, options.precision))
    if options.out is None and options.demo is None:
        check_out(out)
    data = load_data(trained, options.data, options.root, checkpoints[0])
    check_same_data(trained, data, options.demo is not None)
    print(f"exporting {trained.name}, {trained.architecture} trained on {trained.source}")
    content, row = checked_model(options, trained, data)
    if options.demo is not None:
        demo_page.write(options.demo, content, row, trained, data, runtime)
        report(options.demo / demo_page.NETWORK, options.demo / demo_page.PAGE, row)
        print(demo_page.how_to_open(options.demo, runtime))
        return options.demo
    export_check.write(out, content, row)
    report(out, out.parent / export_check.TABLE, row)
    return out


def checked_model(
    options: argparse.Namespace, trained: Trained, data: TwoClassData
) -> tuple[bytes, dict[str, Any]]:
    """The content of the ONNX file, and what `export.json` says of it.

    Raises:
        InputError: the network has no form in ONNX, or the file differs from it by too much.
    """
    module, map_size = whole_path(trained, options.with_map or options.demo is not None)
    height, width = 2 * trained.size + 2, trained.size + 3  # of an example: no two sizes are equal
    example = torch.zeros((2, 1, height, width), dtype=torch.uint8)
    model = onnx_model.export(module, example, options.opset)
    model, about = in_precision(model, options.precision, data)
    described = metadata(trained, data)
    onnx_model.set_metadata(model, described)
    content = model.SerializeToString()
    run = onnx_model.run_model(content)
    return content, {
        **described,
        "classes": list(CLASS_NAMES),
        "threshold": trained.threshold,
        "size": trained.size,
        "precision": options.precision,
        "opset": options.opset,
        "map": map_size,
        "bytes": len(content),
        "data": {"source": data.source, "sha256": data.sha256},
        **export_check.check(run, trained, data.val, options.precision),
        **about,
        "versions": onnx_model.versions(),
    }


def check_same_data(trained: Trained, data: TwoClassData, demo: bool) -> None:
    """Warn of data that the network was not trained on.

    Raises:
        InputError: with ``demo``, whose page tells the network's own images and accuracy.
    """
    if data.sha256 == trained.sha256:
        return
    if demo:
        raise InputError(
            f"--demo: '{data.source}' is not the file that the network was trained on "
            f"('{trained.source}'), whose counts and accuracy the page tells; --data names that one"
        )
    print(
        f"WARNING: not the data it was trained on ('{trained.source}'): the accuracies below are "
        f"of images of '{data.source}', which it may have been trained on"
    )


def check_out(out: Path) -> None:
    """Refuse a place where the file and `export.json` cannot be written."""
    if out.suffix != ".onnx":
        raise InputError(f"--out '{out}': the name of an ONNX file ends in .onnx")
    if not out.parent.is_dir():
        raise InputError(f"--out '{out}': there is no folder '{out.parent}'; make it first")
    if out.is_dir():
        raise InputError(f"--out '{out}' is a folder; wanted is a file's name")
    check_writable(out.parent, "--out")
    export_check.read_table(out.parent)


def file_name(trained: Trained, precision: str) -> str:
    return f"{trained.name}{'' if precision == 'fp32' else f'_{precision}'}.onnx"


def report(out: Path, beside: Path, row: dict[str, Any]) -> None:
    """Print what was written, with the file beside it, and how it was checked."""
    val, shown = row["validation"], {}
    for name in ("accuracy", "auc"):
        values = [val[name]["before"], val[name]["after"]]
        shown[name] = " -> ".join("undefined" if v is None else f"{v:.4f}" for v in values)
    sizes = ", ".join(f"{other['height']} x {other['width']}" for other in row["other_sizes"])
    print(
        f"probabilities of {val['n']} validation images and of pictures of {sizes} px: largest "
        f"difference to predict.py {row['largest_difference']:.1e}, allowed {row['bound']:g}\n"
        f"validation accuracy {shown['accuracy']}, AUC {shown['auc']}\n"
        f"{out}: {row['bytes'] / 1e6:.2f} MB, {row['precision']}, ONNX opset {row['opset']}; "
        f"{beside}\n{DISCLAIMER}"
    )


def main(argv: Sequence[str] | None = None) -> None:
    """The command line; exit statuses of `errors.one_line_errors`."""
    parser = OneLineParser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add_checkpoint_flags(parser)
    add("--precision", choices=tuple(export_check.BOUNDS), default="fp32", help="(default: fp32)")
    place = parser.add_mutually_exclusive_group().add_argument
    place("--out", type=Path, metavar="FILE.onnx", help="(default: beside the checkpoint)")
    place("--demo", type=Path, metavar="DIR", help="write a page to try it in a browser, instead")
    add("--data", metavar="{chestmnist,phantom,FILE.npz}", help="(default: the run's)")
    add("--root", type=Path, metavar="DIR", help="of the official files (default: the run's)")
    add("--with-map", action="store_true", help="a second output: where the evidence lies")
    add("--opset", type=opset, default=onnx_model.OPSET, metavar="N", help="(default: %(default)s)")
    with one_line_errors(resume=None), StopSignals():
        export(parser.parse_args(argv))


def opset(word: str) -> int:
    """An opset that is offered."""
    low, high = onnx_model.OPSETS
    if not word.isdecimal() or not low <= int(word) <= high:
        raise argparse.ArgumentTypeError(f"'{word}' is no opset from {low} to {high}")
    return int(word)


if __name__ == "__main__":
    main()
