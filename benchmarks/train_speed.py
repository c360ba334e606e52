"""How fast training is, against the training loop of a textbook, `train_minimal.py`.

    python benchmarks/train_speed.py --threads 2

Every measurement is a process of its own, the two sides take turns, and a row is the ratio of the
medians. Seconds per epoch are (a long run - a short run) / (difference in epochs), with validation
on both sides, so start-up and the first, slower epoch do not count. Writes RESULTS.md and
scaling.png beside this file, and RESULTS.json, which keeps what was measured before: `--rows` can
be measured one by one, on several machines, and be interrupted. `--data FILE.npz` measures on a
file instead of phantoms, `--source224` filters a 224-px source of official size, made on the fly
(4 GB on disk, and numpy's side of it takes 6 GB of memory), `--quick` only shows that everything
runs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.measurements import ROWS, Row
from benchmarks.results import Results, comparison, draw_scaling
from chestlab.data import sources, splits
from chestlab.data.phantom import LABELS, make_phantom
from chestlab.files.errors import OneLineParser, one_line_errors

HERE = Path(__file__).resolve().parent
MEASUREMENTS = HERE / "measurements.py"
SIDES = ("textbook", "ours")
# What was done for speed; `--parts` measures a row without each of them, one at a time.
PARTS = {
    "memory": "freed memory is kept",
    "channels_last": "channels-last layout",
    "fused": "fused AdamW",
    "bf16": "bf16",
}
# What was tried and not adopted, measured in the same way.
TRIED = {
    "forced_bf16": "bf16 (not done)",
    "flush": "tiny numbers flushed to zero (not done)",
}


EVALUATED = 682  # test images of ChestMNIST in the two classes; a smaller file's are repeated
EVALUATION = "test images with flip TTA, MobileNetV3-Large, 128 px"
EVALUATION_TARGET = (1.5, 5.0)  # on a CPU, on CUDA
START = "process start to the end of the first training step, cached data"
START_TARGET = 1.25  # at most, times the bare import
SOURCE_MEMORY = 400e6  # bytes above the imports, at most
PART_REPEATS = 3  # of the measurements of one part, at most
BATCH_SIZES = (4, 8, 16, 32, 64, 128, 256)
DATA_SIZES = (1, 10, 34)  # times the two-class training images; 34 x is all of ChestMNIST


class Bench:
    """Starts measuring processes and turns their results into rows of the tables.

    Args:
        options: of the command line.
        data: npz file whose two-class images are cached.
        folder: for temporary files.
    """

    def __init__(self, options: argparse.Namespace, data: Path, folder: Path) -> None:
        self.options, self.data, self.folder = options, data, folder
        self.device_column = 1 if options.device == "cuda" else 0
        self.environment = dict(os.environ)
        if options.threads:
            self.environment["OMP_NUM_THREADS"] = str(options.threads)

    def start(self, *arguments: str) -> tuple[str, float]:
        """Output and seconds of a Python process."""
        begun = time.perf_counter()
        done = subprocess.run(
            [sys.executable, *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            encoding="utf-8",
        )
        seconds = time.perf_counter() - begun
        if done.returncode:
            raise SystemExit(f"a measurement failed:\n{done.stderr}")
        return done.stdout, seconds

    def specification(self, kind: str, **more: Any) -> str:
        """Options of a measuring process, in JSON; see `measurements.py`."""
        common = {
            "kind": kind,
            "data": str(self.data),
            "device": self.options.device,
            "threads": self.options.threads,
            "folder": str(self.folder),
            "size": 32 if self.options.quick else 0,
            "changed": "",
        }
        return json.dumps({**common, **more})

    def measure(self, kind: str, **more: Any) -> dict[str, Any]:
        """What a process of that kind reports."""
        output, _ = self.start(str(MEASUREMENTS), self.specification(kind, **more))
        return json.loads(output.splitlines()[-1])

    def in_turns(self, *sides: Callable[[], float], most: int | None = None) -> list[list[float]]:
        """What each side measures, in turns, as often as asked for and at ``most`` so often."""
        repeats = min(self.options.repeats, most or self.options.repeats)
        rounds = [[side() for side in sides] for _ in range(repeats)]
        return [list(values) for values in zip(*rounds, strict=True)]

    def images(self, row: Row) -> int:
        if self.options.quick:
            return 32
        return 0 if self.options.device == "cuda" else row.cpu_images

    def epoch(self, name: str) -> dict[str, Any]:
        """A row of the table: seconds of an epoch on both sides."""
        row = ROWS[name]
        one = partial(self.measure, "epoch", row=name, epochs=row.epochs, images=self.images(row))
        sides = self.in_turns(*(lambda s=side: one(side=s)["seconds"] for side in SIDES))
        target = row.target[self.device_column]
        return comparison(row.title, sides, f">= {target:g}" if target else "")

    def part(self, name: str, part: str) -> dict[str, Any]:
        """How much longer an epoch takes without one of the parts."""
        row = ROWS[name]
        one = partial(
            self.measure,
            "epoch",
            row=name,
            epochs=row.epochs,
            images=self.images(row),
            side="ours",
        )
        peaks: dict[str, list[float]] = {"": [], part: []}

        def side(changed: str) -> float:
            result = one(changed=changed)
            peaks[changed].append(result["peak_bytes"])
            return result["seconds"]

        keys = ("", part) if part in TRIED else (part, "")
        sides = self.in_turns(*(partial(side, key) for key in keys), most=PART_REPEATS)
        line = comparison(f"{row.title}: {(PARTS | TRIED)[part]}", sides, "")
        line["peaks"] = [statistics.median(peaks[key]) for key in keys]
        return line

    def evaluation(self) -> dict[str, Any]:
        images = 32 if self.options.quick else EVALUATED
        one = partial(self.measure, "evaluation", images=images)
        sides = self.in_turns(*(lambda s=side: one(side=s)["seconds"] for side in SIDES))
        return comparison(
            f"{images} {EVALUATION}", sides, f">= {EVALUATION_TARGET[self.device_column]:g}"
        )

    def first_step(self) -> dict[str, Any]:
        bare = "import torch, torchvision"
        if self.options.device == "cuda":
            bare += "; x = torch.ones(1, 1, 8, 8, device='cuda'); "
            bare += "torch.nn.functional.conv2d(x, x); torch.cuda.synchronize()"
        sides = self.in_turns(
            lambda: self.start("-c", bare)[1],
            lambda: self.start(str(MEASUREMENTS), self.specification("start"))[1],
        )
        return comparison(
            f"{START}; against a bare import, as ours over it", sides, f"<= {START_TARGET:g}", True
        )

    def source(self) -> dict[str, Any]:
        """Time and memory for the two-class images of a 224-px file of official size."""
        path = self.folder / "source_224.npz"
        make_source(path, 0.002 if self.options.quick else 1.0)
        peaks: dict[str, list[float]] = {side: [] for side in SIDES}

        def one(side: str) -> float:
            result = self.measure("source", side=side, data=str(path))
            peaks[side].append(result["bytes"])
            return result["seconds"]

        sides = self.in_turns(*(partial(one, side) for side in SIDES))
        row = comparison("224-px source of official size, filtered, against numpy", sides, ">= 1")
        path.unlink()
        memory = statistics.median(peaks["ours"]) / 1e6
        row["note"] = (
            f"filtering takes {memory:,.0f} MB above the imports "
            f"(target: at most {SOURCE_MEMORY / 1e6:.0f}), numpy "
            f"{statistics.median(peaks['textbook']) / 1e6:,.0f} MB"
        )
        return row


def make_source(path: Path, share: float) -> None:
    """A 224-px npz in ChestMNIST's layout with its counts, or a share of them, written in blocks.

    The pixels are smooth with noise on top, so that they shrink about as X-rays do; of the labels
    the share that ChestMNIST has is of the two classes.
    """
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:224, :224] / 224
    waves = [96 + 64 * np.sin(3 * x + k) * np.cos(2 * y - k) for k in range(64)]
    patterns = [(wave + rng.integers(0, 16, x.shape)).astype(np.uint8) for wave in waves]
    counts = {"train": (78_468, 2306), "val": (11_219, 305), "test": (22_433, 682)}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for split, (n, kept) in counts.items():
            n, kept = max(8, round(n * share)), max(4, round(kept * share))
            labels = np.zeros((n, LABELS), np.uint8)
            chosen = rng.permutation(n)[:kept]
            labels[chosen[::2], splits.CLASS_COLUMNS[0]] = 1
            labels[chosen[1::2], splits.CLASS_COLUMNS[1]] = 1
            with archive.open(f"{split}_images.npy", "w", force_zip64=True) as file:
                header = {"descr": "|u1", "fortran_order": False, "shape": (n, 224, 224)}
                np.lib.format.write_array_header_1_0(file, header)
                for k in range(n):
                    file.write(np.roll(patterns[k % len(patterns)], k, axis=1).tobytes())
            with archive.open(f"{split}_labels.npy", "w") as file:
                np.lib.format.write_array(file, labels, version=(1, 0))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = OneLineParser(
        prog="python benchmarks/train_speed.py", description=__doc__.splitlines()[0]
    )
    add = parser.add_argument
    add("--device", choices=("cpu", "cuda"), default="cpu", help="(default: %(default)s)")
    add("--threads", type=int, default=0, help="of PyTorch on a CPU (default: its own choice)")
    add("--data", default="", help="an npz in ChestMNIST's layout (default: phantoms)")
    add("--repeats", type=int, default=5, help="of every measurement (default: %(default)s)")
    choices = (*ROWS, "start", "evaluation", "scaling")
    add("--rows", nargs="+", choices=(*choices, "none"), default=choices, help="(default: all)")
    parts = tuple(name for name, row in ROWS.items() if row.parts)
    add("--parts", nargs="+", choices=parts, default=(), help="what each step gained, by itself")
    add("--source224", action="store_true", help="also filter a 224-px source of official size")
    add("--quick", action="store_true", help="a smoke run: few images, one repetition")
    add("--out", type=Path, default=HERE, help="folder of RESULTS.md (default: beside this file)")
    return parser.parse_args()


def main() -> None:
    """Measure what is asked for and write the table."""
    options = parse()
    if options.quick:
        options.repeats = 1
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = Path(options.data)
        if not options.data:
            data = folder / "phantom.npz"
            counts = {"train": 64, "val": 16, "test": 32} if options.quick else {}
            np.savez(data, **make_phantom(size=28, **counts))
        loaded = sources.load(str(data))  # cached from now on
        bench = Bench(options, data, folder)
        results = Results(options.out, options, loaded.source)
        for name in options.rows:
            if name in ROWS:
                row, images = bench.epoch(name), bench.images(ROWS[name])
                if images and images < len(loaded.train):
                    row["title"] += f" of {images} images"
                results.add("rows", name, row)
        if "start" in options.rows:
            results.add("rows", "start", bench.first_step())
        if "evaluation" in options.rows:
            results.add("rows", "evaluation", bench.evaluation())
        if "scaling" in options.rows:
            few = options.quick
            scaling = bench.measure(
                "scaling",
                repeats=1 if few else 10,
                batches=(4, 8) if few else BATCH_SIZES,
                multiples=(1, 2) if few else DATA_SIZES,
            )
            title = f"EfficientChestNet, 28 px, on {options.device} · {loaded.source}"
            name = "scaling_cuda.png" if options.device == "cuda" else "scaling.png"
            fixed, per_image = draw_scaling(scaling, options.out / name, title)
            note = (
                f"a training step of EfficientChestNet takes {fixed * 1e3:.1f} ms and "
                f"{per_image * 1e3:.2f} ms for every image ([figure]({name}))"
            )
            results.add("notes", "scaling", note)
        if options.source224:
            row = bench.source()
            results.add("rows", "source", row)
            results.add("notes", "source", row["note"])
        for name in options.parts:
            for part in ROWS[name].parts:
                results.add("parts", f"{name}: {part}", bench.part(name, part))
        print(results.page())


if __name__ == "__main__":
    with one_line_errors():
        main()
