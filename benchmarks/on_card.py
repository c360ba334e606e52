"""What can only be shown on a graphics card, in one command of under eight minutes.

    python benchmarks/on_card.py

First the tests marked `gpu`, then experiments 1 and 2 against the textbook's loop, with and without
torch.compile: seconds of an epoch, images per second, share of the card's own peak (a large matrix
product in bf16), and the seconds of 100 epochs. Writes ON_CARD.md beside this file.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.measurements import row_parts
from benchmarks.results import write_page
from benchmarks.train_speed import Bench
from chestlab.data import sources
from chestlab.data.phantom import make_phantom
from chestlab.files.errors import InputError, OneLineParser, one_line_errors

HERE = Path(__file__).resolve().parent
ROWS = {"efficientchestnet": "1", "residual": "2"}
TEST_SECONDS = 240
# Of the short and the long run: ours is many times as fast.
EPOCHS = {"textbook": (1, 3), "compiled": (1, 3), "ours": (1, 101)}
PASSES = 3  # of an image's arithmetic: forward, and backward to inputs and to weights


def run_tests() -> str:
    """The last line of the tests on the card."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-n", "0", "-q", "tests/training"]
    try:
        done = subprocess.run(
            command,
            cwd=HERE.parent,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=TEST_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"not done after {TEST_SECONDS} s"
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return "; ".join([*failed, *done.stdout.splitlines()[-1:]])


def multiply_accumulates(name: str) -> int:
    """Of one image through a row's network."""
    import torch

    from chestlab.training.architecture import describe_blocks

    build, recipe = row_parts(name)
    side = recipe.image_size or 28
    return describe_blocks(build().eval(), torch.zeros(1, 1, side, side))[1]


def measure(bench: Bench, name: str, images: int, peak: float) -> dict[str, Any]:
    """A row of the table: each side in turn."""
    quick = bench.options.quick
    sides = [side for side in EPOCHS if side != "compiled" or not quick]
    seconds = {
        side: bench.measure(
            "epoch",
            row=name,
            side=side,
            epochs=(1, 2) if quick else EPOCHS[side],
            images=0,
        )["seconds"]
        for side in sides
    }
    rate = images / seconds["ours"]
    return {
        "experiment": ROWS[name],
        **{side: f"{seconds[side]:.3g}" if side in seconds else "" for side in EPOCHS},
        "ratio": f"{seconds['textbook'] / seconds['ours']:.1f}",
        "rate": f"{rate:,.0f}",
        "share": f"{100 * 2 * PASSES * multiply_accumulates(name) * rate / peak:.1f} %",
        "hundred": f"{100 * seconds['ours']:.1f}",
    }


def parse() -> argparse.Namespace:
    """The command line, with what `train_speed.Bench` reads besides."""
    parser = OneLineParser(prog="python benchmarks/on_card.py", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--quick", action="store_true", help="a smoke run on a CPU: few images, no tests")
    add("--out", type=Path, default=HERE, help="folder of ON_CARD.md (default: beside this file)")
    options = parser.parse_args()
    options.device = "cpu" if options.quick else "cuda"
    options.threads = 0
    return options


def main() -> None:
    """Run, measure and write."""
    import torch

    options = parse()
    if not options.quick and not torch.cuda.is_available():
        raise InputError("there is no CUDA device; --quick shows on a CPU that this runs")
    tests = "not run" if options.quick else run_tests()
    with tempfile.TemporaryDirectory() as temporary:
        data = Path(temporary) / "phantom.npz"
        counts = {"train": 64, "val": 16, "test": 32} if options.quick else {"train": 2306}
        np.savez(data, **make_phantom(size=28, **counts))
        images = len(sources.load(str(data)).train)
        bench = Bench(options, data, Path(temporary))
        peak = bench.measure("peak")["flops"]
        rows = [measure(bench, name, images, peak) for name in ROWS]
    card = "a CPU (smoke run)" if options.quick else torch.cuda.get_device_name()
    write_page(
        options.out / "ON_CARD.md", "on_card.md.j2", card=card, torch=torch.__version__,
        tests=tests, rows=rows, peak=f"{peak / 1e12:.3g}", images=images,
    )  # fmt: skip


if __name__ == "__main__":
    with one_line_errors():
        main()
