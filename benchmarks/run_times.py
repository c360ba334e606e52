"""How long each training script takes: measured on this CPU, computed for two graphics cards.

    python -m benchmarks.run_times

Measured: every script is started on phantoms of the official number of images, with its default
recipe, until it has said how long a step takes; then it is stopped. A measurement during which
other processes used the processor is repeated. Computed: see `roofline.py`. Writes RUN_TIMES.md
beside this file, and RUN_TIMES.json, which keeps what was measured before, so that `--rows` can
measure networks one by one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from jinja2 import Template

from benchmarks.results import processor, versions
from benchmarks.roofline import ATTAINED, CARDS, LAUNCH, SOURCE_SIZE, compute
from chestlab.data.phantom import OFFICIAL_COUNTS, make_phantom
from chestlab.files.atomic import atomic_write
from chestlab.files.errors import InputError, OneLineParser, one_line_errors
from chestlab.training.device import native_cpu_bf16
from chestlab.training.recipe import Recipe
from networks import PROJECT, network

HERE = Path(__file__).resolve().parent
SCRIPTS = {  # and the networks that each of them trains, in turn
    "train.py": ["efficientchestnet"],
    "train_improved.py": ["residualchestnet"],
    "train_mobilenet.py": ["mobilenetv3"],
    "train_densenet.py": ["densenet121"],
    "resnet_plain.py": ["plain34", "resnet34"],
    "resnet_se.py": ["seresnet34"],
    "resnet_mish.py": ["mishresnet34"],
    "resnet_modified.py": ["modifiedresnet34"],
    "resnet_se_mish.py": ["semishresnet34"],
}
NETWORKS = {name: script for script, names in SCRIPTS.items() for name in names}
IMAGES = sum(OFFICIAL_COUNTS["train"])

ESTIMATE = re.compile(r"about [\w ]+ \((?:at most )?\d+ epochs? of (\d+) steps, (\S+) ms each\)")
EPOCH = re.compile(r"epoch (\d+)/(\d+) .* ([\d:]+) left")

QUIET = 0.05  # share of the processor that other processes may have during a measurement
PATIENCE = 1800  # seconds to wait until it is so


def stages_of(name: str) -> tuple[Recipe, ...]:
    """The recipes of the stages of a network's default recipe on a CPU."""
    return network(name, "cpu").recipe.stages


def steps_per_epoch(recipe: Recipe) -> int:
    return math.ceil(IMAGES / (recipe.batch_size * recipe.accumulation))


def step_ms(line: str, steps: int) -> float | None:
    """Milliseconds of a step from a line that a run has printed, None where it does not say.

    Where an epoch is over before the estimate, its line says it, with the validation.

    Raises:
        ValueError: the run does not have that number of steps per epoch.
    """
    if estimate := ESTIMATE.search(line):
        if int(estimate[1]) != steps:
            raise ValueError(f"{estimate[1]} steps per epoch instead of {steps}")
        return float(estimate[2])
    epoch = EPOCH.search(line)
    if epoch is None or epoch[1] == epoch[2]:
        return None
    seconds = sum(60**k * int(part) for k, part in enumerate(reversed(epoch[3].split(":"))))
    return 1000 * seconds / ((int(epoch[2]) - int(epoch[1])) * steps)


def run_until_estimate(name: str, data: Path, threads: int) -> list[float]:
    """Milliseconds of a step in each stage of a network's script, which is then stopped."""
    stages, script = stages_of(name), NETWORKS[name]
    command = [str(PROJECT / script)]
    if name != SCRIPTS[script][0]:  # the script itself trains another network first
        code = "from chestlab.runs.family import train; from networks import NETWORKS; "
        command = ["-c", f"{code}train(NETWORKS['{name}'].build, '{name}')"]
    command += ["--data", str(data), "--device", "cpu"]
    if len(stages) > 1:
        command += ["--weights", "none", "--stage1-epochs", "1"]
    lines: list[str] = []
    found: list[float] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(
            [sys.executable, "-u", *command],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(PROJECT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            ms = step_ms(line, steps_per_epoch(stages[0]))
            found += [] if ms is None else [ms]
            if len(found) == len(stages) or (EPOCH.search(line) and not found):
                break
        process.terminate()
    if len(found) < len(stages):
        raise SystemExit(f"no estimate from {' '.join(command)}:\n{''.join(lines)}")
    return found


def busy_seconds() -> float:
    """Processor time of all processes since the machine was started; NaN where not on Linux."""
    try:
        first = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0]
    except OSError:
        return math.nan
    user, nice, system, _idle, _wait, *rest = map(int, first.split()[1:9])
    return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK")


def with_share_of_others(work: Callable[[], Any]) -> tuple[Any, float]:
    """What ``work`` returns, and the processor's share that other processes had meanwhile."""

    def others() -> float:
        return busy_seconds() - sum(os.times()[:4])  # of this process and of those it started

    before, start = others(), time.perf_counter()
    result = work()
    return result, (others() - before) / (time.perf_counter() - start) / (os.cpu_count() or 1)


def require_quiet() -> None:
    """Refuse to measure while other processes are busy.

    Raises:
        InputError: they have more than `QUIET` of the processor.
    """
    share = with_share_of_others(lambda: time.sleep(3))[1]
    if share > QUIET:
        raise InputError(f"other processes have {share:.0%} of the CPU: try again later")


def measure(name: str, data: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds of a network's steps, a list of repetitions for each of its stages."""
    kept: list[list[float]] = []
    shares = []
    end = time.monotonic() + PATIENCE
    while len(kept) < options.repeats:
        if time.monotonic() > end:
            raise InputError(f"{name}: other processes kept the CPU busy: try again later")
        if with_share_of_others(lambda: time.sleep(3))[1] > QUIET:
            continue
        found, share = with_share_of_others(lambda: run_until_estimate(name, data, options.threads))
        print(f"{name}: {found} ms, other processes had {share:.0%} of the CPU", flush=True)
        if not share > QUIET:
            kept.append(found)
            shares.append(share)
    return {"step_ms": list(zip(*kept, strict=True)), "others": max(shares)}


def total(stages: Sequence[Recipe], ms: Sequence[float]) -> float:
    """Seconds of all training steps, from the milliseconds of a step of each stage."""
    pairs = zip(stages, ms, strict=True)
    return sum(stage.epochs * steps_per_epoch(stage) * step / 1000 for stage, step in pairs)


def hours(seconds: float, at_most: bool = False) -> str:
    """Hours and minutes as h:mm, rounded up, after a sign where the run may be over earlier."""
    minutes = math.ceil(seconds / 60)
    return f"{'≤ ' if at_most else ''}{minutes // 60}:{minutes % 60:02d}"


def summary(measured: dict[str, Any]) -> list[list[str]]:
    """Cells of the table, a row for each script."""
    rows = []
    for number, (script, names) in enumerate(SCRIPTS.items(), start=1):
        stages = [stage for name in names for stage in stages_of(name)]
        early = any(s.monitor != "last" and s.patience < s.epochs for s in stages)
        of_cpu = [median(ms) for name in names for ms in measured[name]["step_ms"]]
        of_cards = [[ms for name in names for ms in measured[name]["card_ms"][c]] for c in CARDS]
        rows.append(
            [
                str(number),
                f"`{script}`",
                " + ".join(f"{stage.epochs} x {steps_per_epoch(stage)}" for stage in stages),
                *(hours(total(stages, ms), early) for ms in (of_cpu, *of_cards)),
            ]
        )
    return rows


def details(measured: dict[str, Any]) -> list[dict[str, Any]]:
    """What `run_times.md.j2` shows of each stage of each network."""
    rows = []
    for name in NETWORKS:
        stages, costs = stages_of(name), measured[name]
        for k, stage in enumerate(stages):
            rows.append(
                {
                    "title": f"{name}, stage {k + 1}" if len(stages) > 1 else name,
                    "cpu_size": stage.image_size or SOURCE_SIZE,
                    "cpu_ms": sorted(costs["step_ms"][k]),
                    "card_size": costs["image_size"],
                    "card_ms": [f"{ms[k]:.3g}" for ms in costs["card_ms"].values()],
                    **{key: costs[key][k] for key in ("operations", "bytes", "flops")},
                }
            )
    return rows


def page(state: dict[str, Any]) -> str:
    """RUN_TIMES.md in Markdown, from what RUN_TIMES.json holds."""
    measured = state["networks"]
    template = Template((HERE / "run_times.md.j2").read_text(encoding="utf-8"), trim_blocks=True)
    return template.render(
        state,
        rows=summary(measured),
        details=details(measured),
        others=max(measured[name]["others"] for name in NETWORKS),
        images=IMAGES,
        val_images=sum(OFFICIAL_COUNTS["val"]),
        source_size=SOURCE_SIZE,
        cards=CARDS,
        quiet=QUIET,
        launch=LAUNCH,
        attained=ATTAINED,
        median=median,
    )


def main() -> None:
    """Measure what is asked for, compute the rest, and write the page."""
    parser = OneLineParser(
        prog="python -m benchmarks.run_times", description=__doc__.splitlines()[0]
    )
    add = parser.add_argument
    add("--rows", nargs="+", choices=(*NETWORKS, "none"), default=NETWORKS, help="(default: all)")
    add("--repeats", type=int, default=3, help="of every measurement (default: %(default)s)")
    add("--threads", type=int, default=os.cpu_count(), help="of PyTorch (default: %(default)s)")
    add("--out", type=Path, default=HERE, help="folder of the two files (default: beside this one)")
    options = parser.parse_args()
    machine = (
        f"{processor()}, {options.threads} of {os.cpu_count()} cores, bf16 "
        f"{'native' if native_cpu_bf16() else 'not native'}"
    )
    state: dict[str, Any] = {"machine": machine, "versions": versions(), "networks": {}}
    with contextlib.suppress(FileNotFoundError):
        before = json.loads((options.out / "RUN_TIMES.json").read_text(encoding="utf-8"))
        if (before["machine"], before["versions"]) == (machine, versions()):
            state = before
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "phantom.npz"
        np.savez(data, **make_phantom(size=SOURCE_SIZE))
        for name in NETWORKS:
            kept = state["networks"].setdefault(name, {})
            kept |= compute(network(name, "cuda"))
            if name in options.rows:
                kept |= measure(name, data, options)
            atomic_write(options.out / "RUN_TIMES.json", json.dumps(state, indent=1) + "\n")
    if missing := [name for name in NETWORKS if "step_ms" not in state["networks"][name]]:
        raise InputError(f"not measured yet on this machine, so no page: {', '.join(missing)}")
    atomic_write(options.out / "RUN_TIMES.md", page(state))
    print(page(state))


if __name__ == "__main__":
    with one_line_errors():
        main()
