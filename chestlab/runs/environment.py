"""What a run was made with: command line, commit, versions, machine."""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from chestlab.files.notebook import command_line

PACKAGES = ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "matplotlib")

PROJECT = Path(__file__).resolve().parents[2]

GIT_SECONDS = 5.0  # of waiting; a repository on a slow network drive must not hold up a run


def environment(device: torch.device) -> dict[str, Any]:
    """What the lab report of a run says of its circumstances, for ``report/environment.json``.

    None of it belongs into ``metrics.json``, which repeats exactly.

    Args:
        device: of the training.

    Returns:
        ``finished`` (UTC, ISO 8601), ``command``, ``commit`` (None outside a git repository,
        ``-dirty`` with changes that are not committed), ``python``, ``packages`` by name,
        ``system``, ``device_name`` and ``threads`` of PyTorch on the CPU.
    """
    return {
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command(),
        "commit": commit(PROJECT),
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "system": platform.platform(terse=True),
        "device_name": device_name(device),
        "threads": torch.get_num_threads(),
    }


def command() -> str:
    """The command line of this process, with ``~`` for the user's folder."""
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)  # of python -m studies.NAME
    file = Path(getattr(main, "__file__", "")).name  # none in a cell without %run
    script = [file] if spec is None else ["-m", spec.name]
    words = [word.replace(str(Path.home()), "~") for word in command_line()]
    return " ".join(shlex.join(["python", *filter(None, script), *words]).split())


def commit(folder: Path) -> str | None:
    """The commit of a folder's checkout; None where there is no git or no repository."""
    arguments = ["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        said = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=GIT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return said.stdout.strip() or None


def device_name(device: torch.device) -> str:
    """The graphics card's name, or the processor's."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
