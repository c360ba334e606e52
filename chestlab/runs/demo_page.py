"""A static folder in which a browser runs an exported network: the page, its data and its files."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from chestlab.data import grey_values, image_files, inverted, phantom, pillow_images
from chestlab.data.provenance import overlap
from chestlab.data.splits import CLASS_COLUMNS, CLASS_NAMES, Split, TwoClassData
from chestlab.files.atomic import TEMPORARY_SUFFIX, check_writable
from chestlab.files.errors import InputError
from chestlab.reporting.page import TEMPLATES, render
from chestlab.training import likeness, onnx_model
from chestlab.training.averages import Trained, networks_of
from chestlab.training.export_graph import PillowSquare
from chestlab.training.onnx_model import Runner

TEMPLATE = TEMPLATES / "demo"
PAGE = "index.html"  # a template; the folder's other files are copied
NETWORK = "network.onnx"

LEVELS = (0.0, 0.65, 0.8, 0.95)  # of the decided class's probability: undecided to very sure

SAMPLE_SIDE, SAMPLE_SEED = 256, 14  # px; phantoms to train on have seed 0

# onnxruntime-web's smallest build without GPU, in one script, and what it computes with.
SCRIPT, WASM = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
CDN = "https://cdn.jsdelivr.net/npm/onnxruntime-web@{version}/dist/"  # the package's files
CDN_VERSION = "1.30.0"
CDN_HASHES = {
    SCRIPT: "sha384-PLWz+nHEVHpjwBsO0YVdvQj6n5814Iv8E3b8FG0Rp/uIAtjFMCKOpP66iPzedrIG",
    WASM: "sha384-vjBJ1z7qrhkTyYsNqKeF6c7N+nOJSU94czEo+tvZcu8G75JparGq9kB+kTnEUNVM",
}


@dataclass(frozen=True)
class Runtime:
    """Where a page finds onnxruntime-web.

    Attributes:
        version: of the package.
        base: address of its files' folder, relative to the page or of a CDN.
        hashes: of `SCRIPT` and `WASM`, for the browser to check.
        files: content by name, to be copied; empty where a CDN has them.
    """

    version: str
    base: str
    hashes: Mapping[str, str]
    files: Mapping[str, bytes]


def find_runtime(places: Sequence[Path]) -> Runtime:
    """onnxruntime-web in the ``node_modules`` of the first of these folders, else on a CDN.

    Raises:
        InputError: the package that is there lacks a file.
    """
    for place in places:
        package = place / "node_modules" / "onnxruntime-web"
        if package.is_dir():
            try:
                about = json.loads((package / "package.json").read_text(encoding="utf-8"))
                files = {name: (package / "dist" / name).read_bytes() for name in (SCRIPT, WASM)}
                version = str(about["version"])
            except (OSError, ValueError, KeyError, TypeError):
                raise InputError(
                    f"'{package}' lacks what the page needs: npm install --no-save "
                    f"onnxruntime-web@{CDN_VERSION}, or remove that folder to use a CDN"
                ) from None
            return Runtime(version, "./", {name: integrity(files[name]) for name in files}, files)
    return Runtime(CDN_VERSION, CDN.format(version=CDN_VERSION), CDN_HASHES, {})


def integrity(content: bytes) -> str:
    """The hash that browsers compare, https://www.w3.org/TR/sri-2/."""
    return f"sha384-{base64.b64encode(hashlib.sha384(content).digest()).decode()}"


def policy(runtime: Runtime) -> str:
    """The page's Content-Security-Policy: its own files, and those two of a CDN if it needs one.

    When it has loaded, the page adds one that forbids these, too (`demo.js`).
    """
    script, wasm = ("", "") if runtime.files else (runtime.base + SCRIPT, runtime.base + WASM)
    rules = {
        "default-src": "'none'",
        "script-src": f"'self' 'wasm-unsafe-eval' {script}",
        "connect-src": f"'self' {wasm}",
        "style-src": "'self'",
        "img-src": "blob: data:",
        "form-action": "'none'",
        "base-uri": "'none'",
    }
    return "; ".join(f"{name} {value}".rstrip() for name, value in rules.items())


def check_folder(folder: Path) -> None:
    """Refuse a folder that is not empty, or that cannot be made and written.

    Raises:
        InputError: so it is.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--demo '{folder}' is a file; wanted is a new or empty folder")
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"--demo '{folder}' is not empty: name a new folder, or empty it")
    if not folder.resolve().parent.is_dir():
        raise InputError(f"--demo '{folder}': there is no folder '{folder.parent}'; make it first")
    check_writable(folder.resolve().parent, "--demo")


def write(
    folder: Path,
    network: bytes,
    row: Mapping[str, Any],
    trained: Trained,
    data: TwoClassData,
    runtime: Runtime,
) -> None:
    """Write the page of an exported network, whole or not at all.

    Args:
        folder: as `check_folder` wants it.
        network: the ONNX file.
        row: what `export.json` would say of it.
        trained: what was exported.
        data: that it was trained on.
        runtime: of `find_runtime`.

    Raises:
        OSError: the disk is full; nothing is left.
    """
    square, example = PillowSquare(trained.size), torch.zeros((2, 1, 58, 31), dtype=torch.uint8)
    preparing = onnx_model.export(square, example, row["opset"], ("square",))
    samples, drawn = draw_samples()
    about = page_data(row, trained, data, onnx_model.run_model(network), runtime)
    about |= {"samples": samples}
    copied = [path for path in TEMPLATE.iterdir() if path.is_file() and path.name != PAGE]
    write_folder(
        folder,
        {
            **{path.name: path.read_bytes() for path in copied},
            **runtime.files,
            **drawn,
            NETWORK: network,
            "prepare.onnx": preparing.SerializeToString(),
            "page.json": (json.dumps(about) + "\n").encode(),
            PAGE: render(PAGE, TEMPLATE, policy=policy(runtime)).encode(),
        },
    )


def how_to_open(folder: Path, runtime: Runtime) -> str:
    """What a user has to know to see the page."""
    lines = [f'to try it: python -m http.server -d "{folder}", and open http://localhost:8000']
    if not runtime.files:
        lines.append(
            f"the page loads onnxruntime-web {runtime.version} from {runtime.base}; to have a copy "
            f"in the folder: npm install --no-save onnxruntime-web@{runtime.version}, and again"
        )
    return "\n".join(lines)


def page_data(
    row: Mapping[str, Any], trained: Trained, data: TwoClassData, run: Runner, runtime: Runtime
) -> dict[str, Any]:
    """What `demo.js` reads of the network, in plain values."""
    known = next((n.likeness for n in networks_of(trained) if n.likeness is not None), None)
    unseen = validation_is_unseen(trained, data)
    val = row["validation"]
    return {
        **{key: row[key] for key in ("name", "model", "source", "licence", "map", "precision")},
        "note": trained.note,
        "phantom": trained.phantom,
        "threshold": trained.threshold,
        "size": trained.size,
        "counts": data.counts()["train"],
        "validation": {
            "n": val["n"],
            "accuracy": val["accuracy"]["after"],
            "auc": val["auc"]["after"],
        }
        if unseen
        else None,
        "levels": LEVELS,
        "sureness": sureness(run, trained.threshold, data.val) if unseen else None,
        "likeness": None if known is None else likeness_data(known),
        "negative": {
            "mean": plain((inverted.FRONTAL if known is None else known.mean).ravel()),
            "limit": inverted.CORRELATION_LIMIT,
        },
        "limits": {
            "pixels": pillow_images.MOST_PIXELS,
            "widest": image_files.WIDEST,
            "smallest": image_files.SMALLEST,
            "flat_levels": image_files.FLAT_LEVELS,
            "flat_share": image_files.FLAT_SHARE,
            "pale": image_files.PALE,
            "colourful": grey_values.COLOURFUL,
            "colour_share": grey_values.COLOUR_SHARE,
        },
        "runtime": {
            "version": runtime.version,
            **{
                key: {"address": runtime.base + name, "integrity": runtime.hashes[name]}
                for key, name in (("script", SCRIPT), ("wasm", WASM))
            },
        },
    }


def likeness_data(known: likeness.Likeness) -> dict[str, Any]:
    """`Likeness` in lists, arrays of images flattened."""
    return {
        "mean": plain(known.mean.ravel()),
        "components": [plain(component) for component in known.components],
        "centre": plain(known.centre),
        "spread": plain(known.spread),
        "limit": known.limit,
        "val_images": known.val_images,
        "percentile": likeness.PERCENTILE,
    }


def plain(values: np.ndarray) -> list[float]:
    """Float32 values (N,) in the nine digits that tell them apart."""
    return [float(f"{value:.9g}") for value in values.tolist()]


def validation_is_unseen(trained: Trained, data: TwoClassData) -> bool:
    """Whether no network was trained on a validation image, as those of folds were."""
    records = [network.seen.get("trained") for network in networks_of(trained)]
    return all(
        record is not None and not overlap(record, "val", data.val, by_patient=False)
        for record in records
    )


def sureness(run: Runner, threshold: float, split: Split) -> list[dict[str, int]]:
    """Of the images of each of `LEVELS`, how many there are and how many are classified correctly.

    The level is that of the probability of the class that is decided for.
    """
    probabilities = onnx_model.probabilities(run, split.images[:, None]).astype(np.float64)
    positive = probabilities >= threshold
    level = np.searchsorted(LEVELS, np.where(positive, probabilities, 1 - probabilities), "right")
    correct = positive == (split.labels == 1)
    return [
        {"n": int((level == k).sum()), "correct": int(correct[level == k].sum())}
        for k in range(1, len(LEVELS) + 1)
    ]


def draw_samples() -> tuple[list[dict[str, str]], dict[str, bytes]]:
    """Phantoms of both classes and the negative of one: descriptions, and PNG files by name."""
    arrays = phantom.make_phantom(SAMPLE_SIDE, train=2, val=2, test=6, seed=SAMPLE_SEED)
    labels = arrays["test_labels"]
    of_class = []
    for column in CLASS_COLUMNS:
        alone = (labels.sum(1) == 1) & (labels[:, column] == 1)
        of_class.append(arrays["test_images"][alone][:2])
    pictures = [
        (name, image)
        for name, images in zip(CLASS_NAMES, of_class, strict=True)
        for image in images
    ]
    pictures.append(("inverted", 255 - of_class[0][0]))
    samples, files = [], {}
    for number, (kind, image) in enumerate(pictures, start=1):
        content = io.BytesIO()
        Image.fromarray(image).save(content, "PNG", optimize=True)
        name = f"samples/{number}.png"
        files[name] = content.getvalue()
        samples.append({"file": name, "kind": kind})
    return samples, files


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files by their names, in a folder that appears when all are written.

    Raises:
        OSError: the disk is full, or the place may not be written; nothing is left.
    """
    folder = folder.resolve()
    waiting = folder.with_name(f".{folder.name}.{os.getpid()}{TEMPORARY_SUFFIX}")
    waiting.mkdir()
    try:
        for name, content in files.items():
            path = waiting / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
        with contextlib.suppress(FileNotFoundError):
            folder.rmdir()  # an empty one, which Windows does not replace
        waiting.rename(folder)
    except BaseException:
        shutil.rmtree(waiting, ignore_errors=True)
        raise
