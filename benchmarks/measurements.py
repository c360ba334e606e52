"""What `train_speed.py` measures, each measurement in a process of its own.

    python benchmarks/measurements.py SPECIFICATION

The specification is a JSON object of what `train_speed.Bench.specification` puts into it; the last
line of the output is the result, in JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from chestlab.data import npz, sources, splits


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
        if options.side in ("textbook", "compiled"):
            from benchmarks import textbook

            compiled = options.side == "compiled"
            textbook.train(build, now, data.train, data.val, device, compiled)
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
        from benchmarks import textbook

        model = textbook.WithMirror(build()).to(device)
        loader = textbook.make_loader(test, recipe, training=False)
        work = partial(textbook.evaluate, model, loader)
    else:
        from chestlab.training.device import resolve_amp
        from chestlab.training.inference import predict
        from chestlab.training.layers import on_device

        # As `Experiment` decides: bf16 on a CPU is not for depthwise convolutions.
        model = on_device(build(), device)
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

    from chestlab.training.cuda_graph import WARM_UP
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
        for _ in range(WARM_UP + 2 if device.type == "cuda" else 1):  # a graph's capture included
            trainer.step(parts[0])
        seconds = [timed(partial(trainer.step, rows), device) for rows in parts[:few]]
        training = statistics.mean(seconds) * trainer.steps_per_epoch
        validation = timed(lambda t=trainer: predict(t.model, val[0], recipe), device)
        sizes[n] = n / (training + validation)
    return {"steps": steps, "sizes": sizes, "batch_size": recipe.batch_size}


def measure_peak(options: argparse.Namespace) -> dict[str, float]:
    """Floating-point operations per second of a large matrix product.

    In bf16, on a graphics card that lacks it in the precision that trainings have there.
    """
    import torch

    from chestlab.training.device import resolve_amp
    from chestlab.training.recipe import Recipe

    side, device, dtype = 512 if options.size else 8192, torch.device(options.device), None
    if device.type == "cuda":
        dtype = resolve_amp(Recipe(name="peak"), device) or torch.float32
    seconds = matrix_product(side, dtype or torch.bfloat16, device, 8)
    return {"flops": 2 * side**3 / min(seconds)}


def matrix_product(side: int, dtype: Any, device: Any, repeats: int) -> list[float]:
    """Seconds of each product of two matrices of ``side`` x ``side``, the first one included."""
    import torch

    x = torch.ones(side, side, dtype=dtype, device=device)
    return [timed(lambda: x @ x, device) for _ in range(repeats)]


def peak_memory() -> int:
    """Largest number of bytes of memory this process has held, 0 where it cannot be told."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
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
    "peak": measure_peak,
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


if __name__ == "__main__":
    work(sys.argv[1])
