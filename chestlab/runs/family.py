"""How the 34-layer family is trained: the reports' recipes, the same for every member.

Where a report is silent the value is our assumption, marked below. Every member gets the same
treatment, or a comparison would say nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from chestlab.files.notebook import command_line, show
from chestlab.files.run_files import RunFiles
from chestlab.reporting.stored_runs import read_run
from chestlab.runs.run import run
from chestlab.training.distributed import Processes
from chestlab.training.recipe import Recipe, hyperparameter
from chestlab.training.weights import network_of

CPU_SIZE, GPU_SIZE = 64, 224  # pixels; the reports' size would take a CPU twelve times longer

NEVER = 100_000  # epochs of patience: the reports of two recipes know no early stopping

# Assumed for all: no clipping, no augmentation, pixels to -1..1, val accuracy chooses the epoch.
_ALL = Recipe(name="", batch_size=32, weight_decay=1e-4, clip=0, seed=42, cpu_bf16=True)

# The default first.
RECIPES = {
    # 3e-4, weight decay 1e-4, cosine after 1 epoch of warm-up (a tenth of the run), label
    # smoothing 0.1, 10 epochs, from a report; AdamW, batch size and seed assumed.
    "cosine": dataclasses.replace(
        _ALL,
        epochs=10,
        lr=3e-4,
        schedule="cosine",
        warmup=0.1,
        label_smoothing=0.1,
        patience=NEVER,
    ),
    # 6e-4 cut to a tenth every 5 epochs, weight decay 1e-4, label smoothing 0.05, 30 epochs and
    # patience 10, from a report; AdamW, image size, batch size and seed assumed.
    "step": dataclasses.replace(
        _ALL,
        epochs=30,
        lr=6e-4,
        schedule="step",
        step_size=5,
        gamma=0.1,
        label_smoothing=0.05,
        patience=10,
    ),
    # AdamW 1e-3, weight decay 1e-4, 10 epochs, seed 42, from a report; batch size assumed.
    "adamw": dataclasses.replace(_ALL, epochs=10, lr=1e-3, schedule="constant", patience=NEVER),
}

# Below 8 channels oneDNN's backward pass of a strided 1x1 convolution writes out of bounds where
# there is AVX2 but no AVX-512 (https://github.com/uxlfoundation/oneDNN/issues/6035).
WIDTH = hyperparameter(
    64, "channels of the first stage, doubled by each of the others", low=8, high=512
)

REDUCTION = hyperparameter(
    16, "channels of a block over the hidden width of its SE", low=1, high=512
)


def train(
    build: Callable[..., nn.Module],
    name: str,
    model_options: Mapping[str, dataclasses.Field] | None = None,
    argv: Sequence[str] | None = None,
    subfolder: str = "",
) -> RunFiles | None:
    """Train one member as its script does; see `run.run` for how the process ends.

    Without ``--image-size`` images have 224 px on a GPU and 64 on a CPU.

    Args:
        build: its class.
        name: of its runs.
        model_options: arguments of its constructor that are flags, besides ``width``.
        argv: flags, by default the process's own.
        subfolder: inside both output folders, for a run that is a part of something.
    """
    argv = command_line() if argv is None else argv
    asked_for_help = {"-h", "--help", "--help-all"} & set(argv)
    first = Processes.from_environment().first
    if _peek(argv, "--image-size") is None and first and not asked_for_help:
        size = recipes_for(name, argv)["cosine"].image_size
        print(f"image size {size} px (by default {GPU_SIZE} on a GPU, {CPU_SIZE} on a CPU)")
    if torch.cuda.is_initialized():  # the costs of an earlier run in this process are not ours
        torch.cuda.reset_peak_memory_stats()
    return run(
        build,
        recipes_for(name, argv),
        argv,
        model_options={"width": WIDTH, **(model_options or {})},
        findings=True,
        subfolder=subfolder,
    )


def train_both(members: Mapping[str, Callable[..., nn.Module]]) -> None:
    """Train members one after the other with the same flags, and draw them side by side.

    With ``--weights FILE`` only the one whose checkpoint it is.

    Args:
        members: by the name of their runs; with ``--name`` that follows the name given.
    """
    argv = command_line()
    prefix = _peek(argv, "--name")
    network = network_of(_peek(argv, "--weights") or "none")
    if network is not None:
        chosen = {name: build for name, build in members.items() if build.__name__ == network}
        members = chosen or members
    runs = {}
    for name, build in members.items():
        named = [] if prefix is None else ["--name", f"{prefix}_{name}"]
        runs[build.__name__] = train(build, name, argv=[*argv, *named])
    if None in runs.values() or len(runs) < 2:  # ensembles have pictures of their own
        return
    from chestlab.reporting.family_plots import draw_side_by_side

    files = list(runs.values())
    path = files[0].results_dir / ("_vs_".join(run_files.name for run_files in files) + ".png")
    draw_side_by_side({name: [read_run(run_files)] for name, run_files in runs.items()}, path)
    print(f"side by side: {path}")
    show([path])


def recipes_for(name: str, argv: Sequence[str]) -> dict[str, Recipe]:
    """The recipes under a run's name, with the image size that suits the device asked for.

    The default recipe has the plain name, the others add theirs.
    """
    device = _peek(argv, "--device") or "auto"
    gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
    size = CPU_SIZE if device == "cpu" or (device == "auto" and not gpu) else GPU_SIZE
    return {
        key: dataclasses.replace(
            recipe,
            name=name if key == next(iter(RECIPES)) else f"{name}_{key}",
            image_size=size,
        )
        for key, recipe in RECIPES.items()
    }


def _peek(argv: Sequence[str], flag: str) -> str | None:
    """A flag's value, before all flags are read and checked; None where there is none."""
    value = None
    for word, following in zip(argv, [*argv[1:], None], strict=False):
        if word == flag:
            value = following
        elif word.startswith(f"{flag}="):
            value = word.partition("=")[2]
    return value
