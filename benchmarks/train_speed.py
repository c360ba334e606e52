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
import contextlib
import dataclasses
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from chestlab.data import npz, sources, splits
from chestlab.data.phantom import LABELS, make_phantom
from chestlab.files.atomic import atomic_write
from chestlab.files.errors import OneLineParser

HERE = Path(__file__).resolve().parent
SIDES = ("textbook", "ours")
# What was done for speed, each of which a row's `Row.parts` take away again, one at a time.
PARTS = {
    "memory": "freed memory is kept",
    "channels_last": "channels-last layout",
    "fused": "fused AdamW",
    "bf16": "bf16",
}
# What was tried and is not done, measured in the same way.
TRIED = {
    "forced_bf16": "bf16 (not done)",
    "flush": "tiny numbers flushed to zero (not done)",
}


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        title: what is measured.
        script: module with the recipe, and its name in there.
        network: module and class.
        cpu_images: training images on a CPU, where all of them would take too long.
        epochs: of the short and of the long run.
        target: (on a CPU, on CUDA) how many times the textbook's speed is wanted, if anything.
        size: side of the input in pixels, 0 for the recipe's.
        parts: of `PARTS` and `TRIED`, measured one by one with ``--parts``.
    """

    title: str
    script: tuple[str, str]
    network: tuple[str, str]
    cpu_images: int
    epochs: tuple[int, int]
    target: tuple[float | None, float | None]
    size: int = 0
    parts: tuple[str, ...] = ()


ROWS = {
    "efficientchestnet": Row(
        "EfficientChestNet, 28 px, an epoch",
        ("train", "REPORT"),
        ("model", "EfficientChestNet"),
        2306,
        (1, 2),
        (1.3, 10),
        parts=("memory", "channels_last", "fused", "forced_bf16", "flush"),
    ),
    "residual": Row(
        "ResidualChestNet, 28 px, random warps, an epoch",
        ("train_improved", "REPORT"),
        ("model_improved", "ResidualChestNet"),
        2306,
        (1, 2),
        (2.2, 8),
        parts=("memory", "channels_last", "fused", "bf16"),
    ),
    "mobilenet": Row(
        "MobileNetV3-Large, all layers, 128 px, an epoch",
        ("train_mobilenet", "REPORT"),
        ("model_mobilenet", "MobileNetV3Chest"),
        144,
        (1, 3),
        (None, 6),
        parts=("memory", "channels_last", "fused", "forced_bf16"),
    ),
    "resnet34": Row(
        "ResNet-34, 224 px, an epoch",
        ("family", "RECIPES"),
        ("resnet_plain", "ResNet34"),
        96,
        (1, 3),
        (2, 3),
        size=224,
    ),
    "densenet121": Row(
        "DenseNet-121, all layers, 128 px, an epoch",
        ("train_densenet", "REPORT"),
        ("model_densenet", "DenseNet121Chest"),
        128,
        (1, 3),
        (2, None),
    ),
}
ORDER = (*ROWS, "start", "evaluation", "source")  # of the table
EVALUATED = 682  # test images of ChestMNIST in the two classes; a smaller file's are repeated
EVALUATION = "test images with flip TTA, MobileNetV3-Large, 128 px"
EVALUATION_TARGET = (1.5, 5.0)  # on a CPU, on CUDA
START = "process start to the end of the first training step, cached data"
START_TARGET = 1.25  # at most, times the bare import
SOURCE_MEMORY = 400e6  # bytes above the imports, at most
PART_REPEATS = 3  # of the measurements of one part, at most
BATCH_SIZES = (4, 8, 16, 32, 64, 128, 256)
DATA_SIZES = (1, 10, 34)  # times the two-class training images; 34 x is all of ChestMNIST


# What runs in processes of its own.


def row_parts(name: str, size: int | None = None) -> tuple[Callable, Any]:
    """The network class of a row, and its recipe for one stage with all parameters trained."""
    import importlib

    row = ROWS[name]
    recipe = getattr(importlib.import_module(row.script[0]), row.script[1])
    if isinstance(recipe, dict):
        recipe = next(iter(recipe.values()))
    recipe = dataclasses.replace(recipe, stage1_epochs=0, name=name)
    if row.size or size:
        recipe = dataclasses.replace(recipe, image_size=size or row.size)
    return getattr(importlib.import_module(row.network[0]), row.network[1]), recipe


def part_of(data: splits.TwoClassData, images: int) -> splits.TwoClassData:
    """The first ``images`` of train and the same share of val; 0 for all."""
    if not images or images >= len(data.train):
        return data
    share = images / len(data.train)
    val = max(2, round(share * len(data.val)))
    return dataclasses.replace(
        data, train=data.train.take(np.arange(images)), val=data.val.take(np.arange(val))
    )


def change(part: str) -> None:
    """Undo one of `PARTS` or do one of `TRIED` in this process, bf16 apart: the recipe has it."""
    import torch

    from chestlab.training import trainer

    if part == "memory":
        trainer.keep_freed_memory = lambda: None
    elif part == "channels_last":
        torch.channels_last = torch.contiguous_format
    elif part == "fused":
        plain = torch.optim.AdamW
        torch.optim.AdamW = lambda *arguments, fused, **rest: plain(*arguments, **rest)
    elif part == "flush":
        torch.set_flush_denormal(True)


def measure_epoch(options: argparse.Namespace) -> dict[str, float]:
    """Seconds of one epoch with its validation."""
    import torch

    build, recipe = row_parts(options.row, options.size)
    device = torch.device(options.device)
    data = part_of(sources.load(options.data), options.images)
    amp = {"bf16": "off", "forced_bf16": "bf16"}.get(options.changed, recipe.amp)
    recipe = dataclasses.replace(recipe, amp=amp)
    change(options.changed)

    def run(epochs: int, data: splits.TwoClassData = data) -> None:
        now = dataclasses.replace(recipe, epochs=epochs, patience=epochs)
        if options.side == "textbook":
            import textbook

            textbook.train(build, now, data.train, data.val, device)
        else:
            from chestlab.training.trainer import Trainer

            trainer = Trainer(build, now, data.train.to(device), data.val.to(device))
            while not trainer.finished:
                trainer.run_epoch()

    # The first run of a process compiles kernels and must not be the short one.
    run(1, part_of(data, 2 * recipe.batch_size * recipe.accumulation))
    seconds = [timed(partial(run, epochs), device) for epochs in options.epochs]
    short, long = options.epochs
    return {"seconds": (seconds[1] - seconds[0]) / (long - short), "peak_bytes": peak_memory()}


def timed(work: Callable[[], Any], device: Any) -> float:
    """Seconds until ``work`` is done on the device, too."""
    import torch

    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - start


def measure_evaluation(options: argparse.Namespace) -> dict[str, float]:
    """Seconds for the logits of the test images, the second time."""
    import torch

    build, recipe = row_parts("mobilenet", options.size)
    device = torch.device(options.device)
    test = sources.load(options.data).test
    test = test.take(np.arange(options.images) % len(test))
    torch.manual_seed(0)
    if options.side == "textbook":
        import textbook

        model = textbook.WithMirror(build()).to(device)
        loader = textbook.make_loader(test, recipe, training=False)
        work = partial(textbook.evaluate, model, loader)
    else:
        from chestlab.training.device import resolve_amp
        from chestlab.training.trainer import predict

        # As `experiment.Run` decides: bf16 on a CPU is not for depthwise convolutions.
        model = build().to(device, memory_format=torch.channels_last)
        amp = resolve_amp(recipe, device)
        images = test.to(device)[0]
        work = partial(predict, model, images, recipe, amp, "flip")
    work()
    return {"seconds": timed(work, device)}


def first_step(options: argparse.Namespace) -> None:
    """`train.py` until its first optimiser step is done."""
    import train
    from chestlab.runs import run as run_module
    from chestlab.training.trainer import Trainer
    from model import EfficientChestNet

    step = Trainer.step

    def one_step(trainer: Trainer, rows: Any) -> None:
        step(trainer, rows)
        if trainer.device.type == "cuda":
            import torch

            torch.cuda.synchronize()
        sys.stdout.flush()
        os._exit(0)

    Trainer.step = one_step

    flags = ["--data", options.data, "--device", options.device, "--name", "start"]
    flags += ["--results-dir", f"{options.folder}/results", "--overwrite"]
    flags += ["--models-dir", f"{options.folder}/models"]
    run_module.run(EfficientChestNet, {"report": train.REPORT}, flags)


def measure_source(options: argparse.Namespace) -> dict[str, float]:
    """Seconds and bytes above the imports for the two-class images of a large source."""
    before = peak_memory()
    start = time.perf_counter()
    if options.side == "ours":
        kept = len(npz.filter_npz(Path(options.data)).train)
    else:
        with np.load(options.data) as archive:
            arrays = {name: archive[name] for name in archive.files}
        kept = len(arrays["train_images"][splits.two_class_mask(arrays["train_labels"])])
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "bytes": peak_memory() - before, "kept": kept}


def measure_scaling(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds per step by batch size, and images per second of an epoch by data set size."""
    import torch

    from chestlab.data import sources
    from chestlab.training.trainer import Trainer, predict

    build, recipe = row_parts("efficientchestnet")
    device = torch.device(options.device)
    data = sources.load(options.data)
    images, labels = data.train.to(device)
    val = data.val.to(device)
    steps = {}
    for batch in options.batches:
        now = dataclasses.replace(recipe, batch_size=batch)
        trainer = Trainer(build, now, (images, labels), val)
        trainer.model.train()
        rows = torch.arange(batch, device=device) % len(labels)
        trainer.step(rows)
        seconds = [timed(partial(trainer.step, rows), device) for _ in range(options.repeats)]
        steps[batch] = statistics.median(seconds)
    sizes = {}
    for times in options.multiples:
        large = images.repeat(times, 1, 1, 1), labels.repeat(times)
        trainer = Trainer(build, recipe, large, val)
        trainer.model.train()
        n = trainer.images_per_epoch
        order = torch.randperm(n, device=device)
        # A CPU would take an hour for all of ChestMNIST: some of its steps stand for the others.
        few = min(trainer.steps_per_epoch, options.repeats * (100 if device.type == "cuda" else 2))
        parts = order.split(recipe.batch_size)
        trainer.step(parts[0])
        seconds = [timed(partial(trainer.step, rows), device) for rows in parts[:few]]
        training = statistics.mean(seconds) * trainer.steps_per_epoch
        validation = timed(lambda t=trainer: predict(t.model, val[0], recipe), device)
        sizes[n] = n / (training + validation)
    return {"steps": steps, "sizes": sizes, "batch_size": recipe.batch_size}


def peak_memory() -> int:
    """Largest number of bytes of memory this process has held, 0 where it cannot be told."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):  # getrusage's begins with the parent's peak
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


WORKERS: dict[str, Callable[[argparse.Namespace], Any]] = {
    "epoch": measure_epoch,
    "evaluation": measure_evaluation,
    "start": first_step,
    "source": measure_source,
    "scaling": measure_scaling,
}


def work(specification: str) -> None:
    """Entry of a measuring process; prints what it measured as the last line."""
    options = argparse.Namespace(**json.loads(specification))
    if options.threads and options.kind not in ("start", "source"):
        import torch

        torch.set_num_threads(options.threads)
    print(json.dumps(WORKERS[options.kind](options)), flush=True)


# What the measuring processes are started by.


class Bench:
    """Starts measuring processes and keeps what they report.

    Args:
        options: of the command line.
        data: npz whose two-class subset is cached.
        folder: for what is thrown away.
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
        )
        seconds = time.perf_counter() - begun
        if done.returncode:
            raise SystemExit(f"a measurement failed:\n{done.stderr}")
        return done.stdout, seconds

    def specification(self, kind: str, **more: Any) -> str:
        """What a measuring process is told."""
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
        output, _ = self.start(str(Path(__file__)), "--work", self.specification(kind, **more))
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
            lambda: self.start(str(Path(__file__)), "--work", self.specification("start"))[1],
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


def comparison(
    title: str, sides: Sequence[list[float]], target: str, inverse: bool = False
) -> dict[str, Any]:
    """Medians of both sides, their ratio, and how far the ratios of the pairs are apart."""
    first, second = (statistics.median(side) for side in sides)
    ratios = sorted(a / b for a, b in zip(*sides, strict=True))
    ratio, low, high = first / second, ratios[0], ratios[-1]
    if inverse:
        ratio, low, high = 1 / ratio, 1 / high, 1 / low
    row = {"title": title, "textbook": first, "ours": second, "target": target}
    row |= {"ratio": ratio, "low": low, "high": high, "repeats": len(ratios)}
    text = f"{title}: {first:.3g} s, {second:.3g} s, ratio {ratio:.2f} ({low:.2f} to {high:.2f})"
    print(text, flush=True)
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


def draw_scaling(result: dict[str, Any], path: Path, title: str) -> tuple[float, float]:
    """Images per second against batch size and data set size; returns the fit of a step.

    Returns:
        Seconds that a step takes before its first image, and for each image.
    """
    import io

    from matplotlib.figure import Figure

    batches = np.array([int(batch) for batch in result["steps"]], float)
    seconds = np.array(list(result["steps"].values()))
    # Relative errors count: in absolute ones the largest batch alone would decide.
    design = np.stack([np.ones_like(batches), batches], 1) / seconds[:, None]
    fixed, per_image = np.linalg.lstsq(design, np.ones_like(seconds), rcond=None)[0]
    fixed, per_image = max(float(fixed), 0.0), float(per_image)

    figure = Figure(figsize=(10, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.semilogx(batches, batches / seconds, "o", color="#1f4e79", label="measured")
    line = np.geomspace(batches[0], batches[-1], 100)
    label = f"step = {fixed * 1e3:.1f} ms + {per_image * 1e3:.2f} ms x images"
    left.semilogx(line, line / (fixed + per_image * line), color="#1f4e79", label=label)
    left.axhline(1 / per_image, color="#808080", linestyle=":", label="arithmetic alone")
    crossing = fixed / per_image
    if crossing >= batches[0]:
        left.axvline(crossing, color="#c05000", linestyle="--")
        place = f"arithmetic takes over at {crossing:.1f} images"
    else:
        place = f"arithmetic takes over below {batches[0]:.0f} images"
    left.set_title(place, fontsize=11)
    left.set_xlabel("images per batch")
    left.set_xticks(batches, [f"{b:.0f}" for b in batches])
    left.minorticks_off()
    n = np.array([int(size) for size in result["sizes"]], float)
    right.semilogx(n, list(result["sizes"].values()), "s-", color="#1f4e79")
    right.set_xticks(n, [f"{size:,.0f}" for size in n])
    right.minorticks_off()
    right.set_xlabel(f"training images (batches of {result['batch_size']})")
    right.set_title("an epoch with its validation", fontsize=11)
    for axis in (left, right):
        axis.set_ylim(0, 1.1 * axis.get_ylim()[1])
        axis.set_ylabel("training images per second")
        axis.grid(alpha=0.3)
    left.legend(fontsize=9, loc="lower right")
    figure.suptitle(title, fontsize=12)
    content = io.BytesIO()
    figure.savefig(content, dpi=110, format="png")
    atomic_write(path, content.getvalue())
    return fixed, per_image


def processor() -> str:
    """Name of the processor."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def setup(options: argparse.Namespace, source: str) -> str:
    """Machine, threads and data: what figures of one table have in common."""
    import torch

    parts = [
        f"{processor()}, {options.threads or torch.get_num_threads()} of {os.cpu_count()} cores",
        f"bf16 {'native' if torch.ops.mkldnn._is_mkldnn_bf16_supported() else 'not native'}",
    ]
    if options.device == "cuda":
        parts.append(torch.cuda.get_device_name())
    return f"{'; '.join(parts)}. Data: {source}."


def versions() -> str:
    import torch
    import torchvision

    of_torch = f"PyTorch {torch.__version__}, torchvision {torchvision.__version__}"
    return f"{of_torch}, Python {platform.python_version()}"


class Results:
    """What was measured, now and before, on this machine and on others; `RESULTS.json` on disk.

    Figures of this machine and data that were measured with other versions are forgotten.

    Args:
        folder: of the two files.
        options: of the command line.
        source: name of the data.
    """

    def __init__(self, folder: Path, options: argparse.Namespace, source: str) -> None:
        self.folder = folder
        self.sections: dict[str, dict[str, Any]] = {}
        with contextlib.suppress(FileNotFoundError):
            self.sections = json.loads((folder / "RESULTS.json").read_text(encoding="utf-8"))
        now, key = versions(), setup(options, source)
        if self.sections.get(key, {}).get("versions") != now:
            self.sections[key] = {"versions": now, "rows": {}, "parts": {}, "notes": {}}
        self.section = self.sections[key]

    def add(self, kind: str, key: str, found: Any) -> None:
        """Keep a row of a table (``rows`` or ``parts``) or a note, and write both files.

        Args:
            kind: which of the three.
            key: what was measured; a figure measured before under the same key is replaced.
            found: of `comparison`, or a text.
        """
        if kind != "notes":
            found["date"] = datetime.date.today().isoformat()
            if hasattr(os, "getloadavg"):
                found["load"] = os.getloadavg()[0]
        self.section[kind][key] = found
        atomic_write(self.folder / "RESULTS.json", json.dumps(self.sections, indent=1) + "\n")
        atomic_write(self.folder / "RESULTS.md", self.page())

    def page(self) -> str:
        """Both tables and the notes of every machine, in Markdown."""
        text = (
            "# Speed against a textbook's training loop\n\n"
            "Medians of measurements in turns, each a process of its own; ratios above 1 mean that "
            "ours is faster, where no other is said. The loop of the textbook is "
            "that of `train_minimal.py`, in fp32. Written by `benchmarks/train_speed.py`.\n"
        )
        for key, section in self.sections.items():
            rows = [section["rows"][name] for name in ORDER if name in section["rows"]]
            every = [*rows, *section["parts"].values()]
            dates = sorted({row["date"] for row in every})
            loads = sorted(row["load"] for row in every if "load" in row)
            text += f"\n## {key}\n\n{section['versions']}."
            if dates:
                text += f" {' to '.join(dict.fromkeys((dates[0], dates[-1])))}."
            if loads:
                text += f" Load of the machine after a row: {loads[0]:.1f} to {loads[-1]:.1f}."
            text += f"\n\n{table(rows)}\n" if rows else "\n"
            text += "".join(
                f"\n{note[0].upper()}{note[1:]}.\n" for note in section["notes"].values()
            )
            if section["parts"]:
                parts = sorted(section["parts"].items())
                text += "\n### What each step gained\n\n"
                text += parts_table([row for _, row in parts]) + "\n"
        return text


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows of `comparison` in Markdown."""
    lines = [
        "| what | textbook, s | ours, s | ratio | lowest to highest | n | target |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['title']} | {row['textbook']:.3g} | {row['ours']:.3g} | {row['ratio']:.2f} "
            f"| {row['low']:.2f} to {row['high']:.2f} | {row['repeats']} | {row['target']} |"
        )
    return "\n".join(lines)


def parts_table(rows: Sequence[dict[str, Any]]) -> str:
    """What each step gained, in Markdown."""
    lines = [
        "| what | without, s | with, s | ratio | lowest to highest | n | memory, MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        before, after = (f"{peak / 1e6:,.0f}" for peak in row["peaks"])
        lines.append(
            f"| {row['title']} | {row['textbook']:.3g} | {row['ours']:.3g} | {row['ratio']:.2f} "
            f"| {row['low']:.2f} to {row['high']:.2f} | {row['repeats']} | {before}, {after} |"
        )
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = OneLineParser(description=__doc__.splitlines()[0])
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
    add("--work", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure what is asked for and write the table."""
    options = parse()
    if options.work:
        work(options.work)
        return
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
    main()
