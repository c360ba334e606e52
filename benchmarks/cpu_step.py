"""What a training step takes on this CPU, for what, and whether it could take less.

    python -m benchmarks.cpu_step

Steps of experiments 1 to 4 on phantoms, with their default recipes: arithmetic per second beside
that of a matrix product in the same precision, and the share of each kind of operation. Then what
might make steps or evaluation faster, in turns with and without it, and what a run of experiment 1
takes before and after its epochs. Writes CPU_STEP.md beside this file.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.autograd.profiler_util import FunctionEventAvg
from torch.fx.experimental.optimization import fuse
from torch.profiler import ProfilerActivity, profile

from benchmarks.measurements import matrix_product, timed
from benchmarks.results import processor, versions, write_page
from benchmarks.roofline import training_step
from benchmarks.run_times import require_quiet
from chestlab.data.phantom import OFFICIAL_COUNTS, make_phantom
from chestlab.files.errors import OneLineParser, one_line_errors
from chestlab.reporting.stored_runs import read_history
from chestlab.training.augment import to_input
from chestlab.training.device import autocast, memory_format
from chestlab.training.trainer import Trainer
from networks import PROJECT, network

HERE = Path(__file__).resolve().parent
CPU = torch.device("cpu")
EXPERIMENTS = ("efficientchestnet", "residualchestnet", "mobilenetv3", "densenet121")
CHANGED = ("efficientchestnet", "mobilenetv3")  # of which changes are tried
SIDE = 2048  # rows and columns of the matrices that are multiplied
IMAGES = 64  # of an evaluation

KINDS = {  # words in the names of operations, other than convolutions
    "batch norm": ("batch_norm",),
    "activations": ("gelu", "relu", "hardswish", "hardsigmoid", "silu", "sigmoid", "threshold"),
    "optimiser": ("adamw", "_foreach"),
}
DEPTHWISE, CONVOLUTIONS, REST = "depthwise convolutions", "other convolutions", "the rest"
COLUMNS = (DEPTHWISE, CONVOLUTIONS, *KINDS, REST)


def kind(operation: str, shapes: Any) -> str:
    """Which of `COLUMNS` an operation belongs to.

    Args:
        operation: its name, as the profiler has it.
        shapes: of its inputs; those of a convolution hold its weights' (out, in / groups, h, w).
    """
    if "conv" in operation:
        weights = shapes[2 if "backward" in operation else 1] if len(shapes) > 2 else []
        one_each = len(weights) == 4 and weights[1] == 1 < weights[0]
        return DEPTHWISE if one_each else CONVOLUTIONS
    return next((k for k, words in KINDS.items() if any(w in operation for w in words)), REST)


def shares(operations: Iterable[FunctionEventAvg]) -> dict[str, float]:
    """The share of the time of each of `COLUMNS`, in percent."""
    spent = dict.fromkeys(COLUMNS, 0.0)
    for operation in operations:
        spent[kind(operation.key, operation.input_shapes)] += operation.self_cpu_time_total
    return {name: 100 * time / sum(spent.values()) for name, time in spent.items()}


def milliseconds(work: Callable[[], Any]) -> float:
    return 1000 * timed(work, CPU)


def in_turns(works: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Milliseconds of each work, one after the other, ``repeats`` times; each was done before."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            found[name].append(milliseconds(work))
    return found


def peak(dtype: torch.dtype, repeats: int) -> float:
    """Floating-point operations per second of a product of two square matrices."""
    _first, *seconds = matrix_product(SIDE, dtype, CPU, repeats + 1)
    return 2 * SIDE**3 / median(seconds)


class Step:
    """The last stage of a network's default recipe, and a batch of phantoms for it."""

    def __init__(self, name: str) -> None:
        self.known = network(name, "cpu")
        self.recipe = self.known.recipe.stages[-1]
        self.n = self.recipe.batch_size * self.recipe.accumulation
        phantoms = make_phantom(size=28, train=max(self.n, IMAGES), val=2, test=2, seed=1)
        self.images = torch.from_numpy(phantoms["train_images"])[:, None]
        labels = (torch.arange(len(self.images)) % 2).float()
        nothing = self.images[:0], labels[:0]
        build = lambda: self.known.build(**self.known.arguments)  # noqa: E731
        self.trainer = Trainer(build, self.recipe, (self.images, labels), nothing)
        self.trainer.model.train()
        self()  # the first one makes the optimiser's averages

    def __call__(self) -> None:
        self.trainer.step(torch.arange(self.n))

    def cells(self, repeats: int, peaks: dict[torch.dtype, float]) -> list[str]:
        """A line of the table of steps; adds the peak of the step's precision if it is missing."""
        dtype = self.trainer.amp or torch.float32
        if dtype not in peaks:
            peaks[dtype] = peak(dtype, repeats)
        ms = median(milliseconds(self) for _ in range(repeats))
        flops = sum(f for _, f in training_step(self.known, self.recipe, False))
        rate = flops / ms * 1000
        side = self.recipe.image_size or self.images.shape[-1]
        precision = str(dtype).removeprefix("torch.")
        numbers = f"{ms:.0f}", f"{flops / 1e9:.1f}", f"{rate / 1e9:.0f}"
        return [precision, str(side), str(self.n), *numbers, f"{100 * rate / peaks[dtype]:.0f}"]

    def profile(self, repeats: int) -> list[str]:
        """A line of the table of kinds of operations."""
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
            for _ in range(repeats):
                self()
        found = shares(profiler.key_averages(group_by_input_shape=True))
        return [f"{share:.0f}" for share in found.values()]

    def evaluation(self, model: nn.Module) -> Callable[[], torch.Tensor]:
        """Work that returns the logits (N,) of `IMAGES` phantoms."""
        images = self.images[:IMAGES]

        @torch.inference_mode()
        def logits() -> torch.Tensor:
            x = to_input(images, self.recipe).contiguous(memory_format=memory_format(images.device))
            with autocast(images.device, self.trainer.amp):
                return model(x).float()

        return logits


def changed_line(
    what: str, found: dict[str, list[float]], first: float | None = None, unit: str = ""
) -> list[str]:
    """A line of the table of changes: medians, their ratio with its range, and when it pays off.

    Args:
        what: was changed.
        found: milliseconds without and with the change, in turns.
        first: seconds of its first use, None where that takes no longer than the others.
        unit: what is done several times.
    """
    without, changed = (median(ms) for ms in found.values())
    ratios = [a / b for a, b in zip(*found.values(), strict=True)]
    cells = [what, f"{without:.0f}", f"{changed:.0f}", f"{without / changed:.2f}"]
    cells.append(f"{min(ratios):.2f} to {max(ratios):.2f}")
    if first is None:
        return [*cells, "-", "-"]
    saved = without - changed
    pays = f"{math.ceil(1000 * first / saved):,} {unit}" if saved > 0 else "never"
    return [*cells, f"{first:.1f}", pays]


def try_threads(step: Step, repeats: int) -> list[list[str]]:
    """One thread beside all of them, in turns."""
    threads = torch.get_num_threads()

    def with_one() -> None:
        torch.set_num_threads(1)
        step()
        torch.set_num_threads(threads)

    found = in_turns({"one": with_one, "all": step}, repeats)
    return [changed_line(f"a step: {threads} threads in place of 1", found)]


def try_evaluation(step: Step, repeats: int) -> list[list[str]]:
    """Batch norms folded into convolutions, and compiled, each beside the network as it is."""
    model = step.trainer.model.eval()
    plain = step.evaluation(model)
    lines = []
    for what, change in (("batch norms folded", fuse), ("`torch.compile`", torch.compile)):
        start = time.perf_counter()
        changed = step.evaluation(change(model))
        changed()
        first = time.perf_counter() - start
        torch.testing.assert_close(changed(), plain(), rtol=1e-3, atol=1e-3)
        found = in_turns({"plain": plain, "changed": changed}, repeats)
        lines.append(changed_line(f"evaluation: {what}", found, first, "batches"))
    model.train()
    return lines


def try_compile(step: Step, repeats: int) -> list[list[str]]:
    """Forward and backward pass compiled, beside them as they are."""
    trainer, plain = step.trainer, step.trainer.forward
    compiled = torch.compile(plain)

    def run(forward: Callable) -> None:
        trainer.forward = forward
        step()
        trainer.forward = plain

    first = milliseconds(lambda: run(compiled)) / 1000
    run(compiled)  # some layouts of gradients are known after the first step only
    found = in_turns({"plain": lambda: run(plain), "compiled": lambda: run(compiled)}, repeats)
    return [changed_line("a step: `torch.compile`", found, first, "steps")]


def beside_epochs(data: Path) -> tuple[float, float]:
    """Seconds of a run of experiment 1 until its only epoch begins, and from its end on."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["train.py", "--data", str(data), "--epochs", "1", "--device", "cpu"]
        start = time.perf_counter()
        with subprocess.Popen(
            [sys.executable, "-u", str(PROJECT / words[0]), *words[1:]],
            cwd=folder,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        ) as process:
            assert process.stdout is not None
            told = next(time.perf_counter() for s in process.stdout if s.startswith("epoch 1/1"))
            process.stdout.read()
        end = time.perf_counter()
        (history,) = Path(folder).rglob("history.csv")
        (epoch,) = read_history(history.parent)
    return told - start - epoch["seconds"], end - told


def runs_beside_epochs(repeats: int) -> list[str]:
    """Medians of `beside_epochs` with the official number of val and test images, and their sum."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "phantoms.npz"
        val, test = (sum(OFFICIAL_COUNTS[split]) for split in ("val", "test"))
        np.savez(data, **make_phantom(size=28, train=64, val=val, test=test, seed=1))
        found = [beside_epochs(data) for _ in range(repeats)]
    return [f"{median(parts):.1f}" for parts in (*zip(*found, strict=True), map(sum, found))]


def main() -> None:
    """Measure, and write the page."""
    parser = OneLineParser(
        prog="python -m benchmarks.cpu_step", description=__doc__.splitlines()[0]
    )
    add = parser.add_argument
    add("--repeats", type=int, default=11, help="of every measurement (default: %(default)s)")
    add("--out", type=Path, default=HERE, help="folder of CPU_STEP.md (default: beside this file)")
    options: argparse.Namespace = parser.parse_args()
    require_quiet()
    beside = runs_beside_epochs(min(options.repeats, 3))
    peaks: dict[torch.dtype, float] = {}
    steps, kinds, changes = [], [], []
    for name in EXPERIMENTS:
        step = Step(name)
        steps.append([f"`{name}`", *step.cells(options.repeats, peaks)])
        kinds.append([f"`{name}`", *step.profile(options.repeats)])
        print(*steps[-1], *kinds[-1], flush=True)
        for attempt in (try_threads, try_evaluation, try_compile) if name in CHANGED else ():
            lines = [[f"`{name}`", *line] for line in attempt(step, options.repeats)]
            changes += lines
            print(*lines, sep="\n", flush=True)
    write_page(
        options.out / "CPU_STEP.md", "cpu_step.md.j2", steps=steps, kinds=kinds,
        columns=COLUMNS, changes=changes,
        peaks={str(t).removeprefix("torch."): f"{p / 1e9:.0f}" for t, p in peaks.items()},
        machine=f"{processor()}, {torch.get_num_threads()} threads, {os.cpu_count()} cores",
        versions=versions(), repeats=options.repeats, side=SIDE, images=IMAGES, beside=beside,
    )  # fmt: skip


if __name__ == "__main__":
    with one_line_errors():
        main()
