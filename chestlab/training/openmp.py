"""How OpenMP threads wait for each other, chosen before PyTorch loads its OpenMP runtime.

A thread that has done its share of an operation waits for the others. By default it spins: it keeps
its core busy, 14 ms with GNU's runtime (PyTorch for Linux) and 200 ms with Intel's and LLVM's
(Windows, macOS, Anaconda), before it sleeps. On a machine of its own that is fastest. Beside
another program the thread that is waited for has no core, because the waiting ones hold it. To
sleep at once then lets it work; where nothing else runs, that would cost up to a third.

Measured with experiment 1 on two cores (AMD EPYC, Linux 6.18), seconds per epoch: alone 3.2 to
4.9; beside a program with two busy threads 6.5 to 11.1, median 9.0 (36 epochs), where GNU's default
takes 11, and 79 for the first epoch; a spin of 3,000 turns, 0.15 ms, takes 9.7 (18 epochs). With
either, 3 of these epochs took 40 to 43. One thread takes 9.5 to 10.9 there (8 epochs). On another
machine (Intel Xeon) two threads took 12.0 beside two busy programs, one thread 7.9 (6 epochs each,
in turns). The number of threads is the user's all the same: figures depend on it in their last
digits, and should not depend on what else a machine does.

Sources: https://gcc.gnu.org/onlinedocs/libgomp/GOMP_005fSPINCOUNT.html,
https://openmp.llvm.org/design/Runtimes.html#kmp-blocktime
"""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import MutableMapping
from pathlib import Path

# Each of these is the user's own choice, and none is changed where one is set.
VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")

# By whether the machine is shared: turns of GNU's loop, some 20,000 a millisecond, and the
# milliseconds of Intel's and LLVM's. To wake a thread takes about 0.1 ms, at most 2 % of the 5 ms
# that it has spun before; 30,000 turns, 1.4 ms, were measured to cost 5 to 10 %.
SHARED = {"GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}
ALONE = {"GOMP_SPINCOUNT": "100000", "KMP_BLOCKTIME": "5"}

SAMPLES, SAMPLE_SECONDS = 5, 0.004


def choose_waiting(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set the variables by which the OpenMP runtimes wait, unless the user has set one of them.

    Does nothing for one thread. Results are the same, however threads wait.
    """
    if any(name in environment for name in VARIABLES) or threads(environment) == 1:
        return
    wanted = threads(environment)
    shared = wanted + other_tasks() > (os.cpu_count() or 1) or cpu_quota() < wanted
    environment.update(SHARED if shared else ALONE)


def cores_are_shared(environment: MutableMapping[str, str] = os.environ) -> bool:
    """Whether `choose_waiting` found that other programs, or a limit, leave too few cores."""
    return SHARED.items() <= environment.items()


def threads(environment: MutableMapping[str, str] = os.environ) -> int:
    """The number of threads that an operation will have: the user's, or that of the cores."""
    first = environment.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if first.isdigit() and int(first):
        return int(first)
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def other_tasks() -> float:
    """How many threads of other programs want a core now; 0 where the system does not say.

    Linux is asked for the present, macOS for the mean over the last minute.
    """
    try:
        return statistics.median(_running() for _ in range(SAMPLES)) - 1
    except (OSError, ValueError):
        pass
    with contextlib.suppress(OSError, AttributeError):  # Windows has no load
        return round(os.getloadavg()[0])
    return 0


def _running(stat: Path = Path("/proc/stat")) -> int:
    """Threads that run or want to, this one included, after a moment."""
    time.sleep(SAMPLE_SECONDS)
    lines = stat.read_text(encoding="ascii").splitlines()
    counts = [line.split()[1] for line in lines if line.startswith("procs_running")]
    return int(counts[0] if counts else "")


def cpu_quota(root: Path = Path("/sys/fs/cgroup")) -> float:
    """Cores that a container's limit amounts to, infinity without one; of cgroups 2 and 1."""
    with contextlib.suppress(OSError, ValueError):
        quota, period = (root / "cpu.max").read_text(encoding="ascii").split()
        return int(quota) / int(period) if quota != "max" else float("inf")
    with contextlib.suppress(OSError, ValueError):
        names = "cpu.cfs_quota_us", "cpu.cfs_period_us"
        quota, period = ((root / "cpu" / name).read_text(encoding="ascii") for name in names)
        return int(quota) / int(period) if int(quota) > 0 else float("inf")
    return float("inf")
