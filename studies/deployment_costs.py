"""Times of the same network in several programs, side by side on a processor that is idle."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from chestlab.training import onnx_model
from chestlab.training.inference import TrainedModel

BATCHES = (1, 64)  # pictures at once, as in `chestlab.training.costs`

THREADS = (1, 2)

ROUNDS = 15  # turns of each program

FEW_ROUNDS = 5  # of rounds that take longer than `SLOW_ROUND`

SLOW_ROUND = 2.0  # seconds

TURN = 0.03  # seconds that a turn lasts at least

PAUSE = 0.02  # seconds between turns: threads that have finished wait actively for a while

ATTEMPTS = 2  # the one that other programs disturbed least is kept

MOST_BY_OTHERS = 0.1  # cores that other programs may use meanwhile, on an idle machine

LONGEST_WAIT = 20.0  # seconds before each network, for the machine to become idle

VNNI = ("avx512_vnni", "avx_vnni")  # flags of processors that multiply 8-bit integers natively

Ask = Callable[[], Any]


@dataclass(frozen=True)
class Turns:
    """Times of several programs that took turns.

    Attributes:
        times: by program, per picture over all calls: ``median_ms``, ``low_ms`` and ``high_ms``
            (quartiles), and ``cpu_median_ms`` and so on, of processor time of all threads together.
        by_others: cores that other programs used meanwhile; None where the system does not tell.
        load: load average of the last minute before; None where there is none.
    """

    times: dict[str, dict[str, float]]
    by_others: float | None
    load: float | None


def busy(by_others: float | None) -> bool | None:
    """Whether other programs disturbed a measurement; None where that is not known."""
    return None if by_others is None else by_others > MOST_BY_OTHERS


def machine() -> dict[str, Any]:
    """The processor, whether it has VNNI (None where the system does not tell), and versions."""
    name, vnni = platform.processor() or platform.machine(), None
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    fields = {key.strip(): value.strip() for key, value in fields.items()}
    if "flags" in fields:
        vnni = any(flag in fields["flags"].split() for flag in VNNI)
    return {
        "processor": fields.get("model name", name),
        "cores": os.cpu_count(),
        "vnni": vnni,
        "versions": onnx_model.versions(),
    }


class OthersUse:
    """Cores that other programs use, from its construction until it is asked."""

    def __init__(self) -> None:
        self.start = self._now()

    def _now(self) -> tuple[float, float, float] | None:
        """Seconds of the clock, of all processes and of this one, on Linux."""
        try:
            line = Path("/proc/stat").read_text(encoding="utf-8").split("\n", 1)[0]
        except OSError:
            return None
        user, nice, system, _, _, irq, softirq, steal = map(int, line.split()[1:9])
        ticks = user + nice + system + irq + softirq + steal
        return time.perf_counter(), ticks / os.sysconf("SC_CLK_TCK"), time.process_time()

    def cores(self) -> float | None:
        now = self._now()
        if now is None or self.start is None:
            return None
        clock, every, own = (b - a for a, b in zip(self.start, now, strict=True))
        return max(0.0, every - own) / clock


def wait_until_idle() -> bool:
    """Wait until other programs have used next to nothing for a second, and not too long.

    Returns:
        False where they did not stop. Where the system does not tell, they count as idle.
    """
    deadline = time.perf_counter() + LONGEST_WAIT
    while time.perf_counter() < deadline:
        use = OthersUse()
        time.sleep(1.0)
        if not busy(use.cores()):
            return True
    return False


def in_turns(asks: Mapping[str, Ask], pictures: int) -> Turns:
    """Time programs that answer the same ``pictures``, in alternating turns.

    What slows the machine for a while slows all of them. A turn of several calls begins with one
    that does not count, which brings the program's weights back into the caches.
    """
    calls, together = {}, 0.0
    for name, ask in asks.items():
        ask()
        start = time.perf_counter()
        ask()
        once = time.perf_counter() - start
        calls[name] = max(1, round(TURN / once))
        together += once * calls[name]
    rounds = FEW_ROUNDS if together > SLOW_ROUND else ROUNDS
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in asks}
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    use = OthersUse()
    for _ in range(rounds):
        for name, ask in asks.items():
            time.sleep(PAUSE)
            if calls[name] > 1:
                ask()
            for _ in range(calls[name]):
                start, cpu = time.perf_counter(), time.process_time()
                ask()
                seconds[name].append((time.perf_counter() - start, time.process_time() - cpu))
    by_others, times = use.cores(), {}
    for name, pairs in seconds.items():
        quartiles = 1000 * np.percentile(pairs, [25, 50, 75], axis=0) / pictures
        keys = ("low", "median", "high")
        times[name] = {
            f"{clock}{key}_ms": float(value)
            for clock, values in zip(("", "cpu_"), quartiles.T, strict=True)
            for key, value in zip(keys, values, strict=True)
        }
    return Turns(times, by_others, load)


def least_disturbed(asks: Mapping[str, Ask], pictures: int, most: int = ATTEMPTS) -> Turns:
    """`in_turns` while the machine is idle, or else the quietest of ``most`` attempts."""
    attempts: list[Turns] = []
    while len(attempts) < most:
        attempts.append(in_turns(asks, pictures))
        if not busy(attempts[-1].by_others):
            break
    return min(attempts, key=lambda turns: turns.by_others or 0.0)


def times(
    torch_models: Mapping[str, TrainedModel], files: Mapping[str, bytes], images: np.ndarray
) -> list[dict[str, Any]]:
    """Times per picture of PyTorch and of files in onnxruntime, from pixels to probabilities.

    On a busy machine of one thread alone, and once: a second thread would wait for its core.

    Args:
        torch_models: what PyTorch runs, by name, without test-time augmentation.
        files: contents of the ONNX files, by name, the same.
        images: (64, S, S) uint8 or more.

    Returns:
        A row for each name, batch and number of threads.
    """
    rows, before = [], torch.get_num_threads()
    idle = wait_until_idle()
    try:
        for threads in THREADS if idle else THREADS[:1]:
            torch.set_num_threads(threads)
            runs = {name: onnx_model.run_model(file, threads) for name, file in files.items()}
            for batch in BATCHES:
                part = images[:batch]
                asks: dict[str, Ask] = {
                    name: lambda model=model, part=part: model.probabilities(part)
                    for name, model in torch_models.items()
                }
                asks |= {
                    name: lambda run=run, part=part: run(part[:, None])
                    for name, run in runs.items()
                }
                turns = least_disturbed(asks, batch, ATTEMPTS if idle else 1)
                about = {"batch": batch, "threads": threads}
                about |= {"by_others": turns.by_others, "load": turns.load}
                rows += [{"variant": name, **about, **row} for name, row in turns.times.items()]
    finally:
        torch.set_num_threads(before)
    return rows
