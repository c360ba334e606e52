"""Which experiment fits on a graphics card of 4, 6 or 8 GB, without a card: writes MEMORY.md.

python benchmarks/memory.py
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.results import write_page
from chestlab.files.errors import OneLineParser, one_line_errors
from chestlab.training.memory import OVERHEAD, Memory, training_need
from chestlab.training.weights import PretrainedWeights
from networks import network

HERE = Path(__file__).resolve().parent
EXPERIMENTS = {
    "efficientchestnet": "1",
    "residualchestnet": "2",
    "mobilenetv3": "3",
    "densenet121": "4",
    "plain34": "5",
    "resnet34": "5",
    "seresnet34": "6",
    "mishresnet34": "7",
    "modifiedresnet34": "8",
    "semishresnet34": "9",
}
CARDS = (4, 6, 8)  # GB
IMAGES = 2306 + 305 + 682  # of ChestMNIST in the two classes


def need(name: str, amp: torch.dtype | None) -> Memory:
    """The memory of an experiment's default recipe on CUDA."""
    found = network(name, "cuda")
    build = partial(found.build, **found.arguments)
    if found.imagenet_url is not None:
        build = partial(build, PretrainedWeights("none"))
    return training_need(build, found.recipe, (IMAGES, 28), amp)


def row(name: str) -> dict[str, Any]:
    """A line of the table."""
    half, full = need(name, torch.bfloat16), need(name, None)
    recipe = network(name, "cuda").recipe
    fits = [f"{card} GB" for card in CARDS if half.with_graph <= card * 1e9]
    eager = [f"{card} GB without graph" for card in CARDS if half.without_graph <= card * 1e9]
    return {
        "experiment": EXPERIMENTS[name],
        "name": name,
        "side": recipe.image_size or 28,
        "batch": recipe.batch_size,
        **{key: gigabytes(getattr(half, key)) for key in ("kept", "step", "evaluation")},
        "graph": gigabytes(half.with_graph),
        "eager": gigabytes(half.without_graph),
        "fp32": gigabytes(full.without_graph),
        "fits": (fits + eager + ["none of these"])[0],
    }


def gigabytes(number: int) -> str:
    return f"{number / 1e9:.2f}"


def main() -> None:
    """Write the table."""
    OneLineParser(
        prog="python benchmarks/memory.py", description=__doc__.splitlines()[0]
    ).parse_args()
    rows = [row(name) for name in EXPERIMENTS]
    values = {"rows": rows, "overhead": OVERHEAD / 1e9, "torch": torch.__version__}
    write_page(HERE / "MEMORY.md", "memory.md.j2", **values)


if __name__ == "__main__":
    with one_line_errors():
        main()
