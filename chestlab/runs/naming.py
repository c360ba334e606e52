"""Names of runs and the folders that they are written to."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chestlab.data.sources import is_file_name
from chestlab.data.splits import Data
from chestlab.files.errors import InputError
from chestlab.files.run_files import UNFINISHED

CHANGES_IN_NAME = 3  # more than these are a short hash


def is_stand_in(options: argparse.Namespace, data: Data) -> bool:
    """Whether the images are phantoms that no file of the user's holds."""
    return data.phantom and not is_file_name(options.data)


def output_folders(options: argparse.Namespace, data: Data) -> tuple[Path, Path]:
    """Folders of results and checkpoints; phantoms apart, so that they never sit among X-rays.

    A phantom that the user made and named as FILE.npz has its stem in the run's name instead.
    """
    apart = "phantom" if is_stand_in(options, data) else ""
    return options.results_dir / apart, options.models_dir / apart


# Names of devices in Windows, with any ending. Source:
# https://learn.microsoft.com/windows/win32/fileio/naming-a-file
DEVICES = {"con", "prn", "aux", "nul"} | {f"{p}{n}" for p in ("com", "lpt") for n in range(1, 10)}


def check_name(name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,150}", name) or not name.strip("."):
        raise InputError(
            f"--name '{name}': allowed are up to 150 letters, digits, '.', '_' and '-', "
            "and not dots alone"
        )
    if name.endswith(".") or name.split(".")[0].lower() in DEVICES:
        raise InputError(f"--name '{name}': no folder can be called so on Windows")
    if name.lower().endswith(UNFINISHED):
        raise InputError(f"--name '{name}': the ending '{UNFINISHED}' is taken")
    if name.lower() == "phantom":  # some file systems do not tell capitals apart
        raise InputError(f"--name '{name}': runs on phantoms have their folders below this one")


def name_of(options: argparse.Namespace, data: Data) -> str:
    """The name that ``--name`` gives, else the default one.

    Args:
        options: with the ``recipe`` and ``name_changes``.
        data: what the run is trained on.
    """
    return options.name or run_name(
        options.recipe.name, options.data, data.size, options.name_changes
    )


def run_name(name: str, data: str, size: int, changes: Mapping[str, Any] | None = None) -> str:
    """Default name: ``<name>[_<file's stem>][_<size above 28 px>][_<what the flags change>]``.

    A stem that does not make a name as it is gets a few digits that tell it from others.

    Args:
        name: of the recipe or the study.
        data: as ``--data``.
        size: of the source images in pixels.
        changes: what differs by flag, as in ``_epochs3_lr0.01``; more than `CHANGES_IN_NAME`
            become a hash of six digits.
    """
    if is_file_name(data):
        name += f"_{_plain(Path(data).stem)}"
    if size > 28:
        name += f"_{size}"
    if not changes:
        return name
    if len(changes) > CHANGES_IN_NAME:
        text = json.dumps(changes, sort_keys=True)
        return f"{name}_{hashlib.sha256(text.encode()).hexdigest()[:6]}"
    for key, value in changes.items():
        text = ("off", "on")[value] if isinstance(value, bool) else value
        name += f"_{key.replace('_', '-')}{text}"
    return name


def _plain(stem: str) -> str:
    """A file's stem in the characters of a name."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", stem)[:60].rstrip(".")
    if plain != stem:
        plain += "-" + hashlib.sha256(os.fsencode(stem)).hexdigest()[:6]
    return plain


def weights_in_name(weights: str) -> str:
    """What a name says of ``--weights``: ``none``, or the stem of a file."""
    return weights if weights in ("none", "imagenet") else f"-{_plain(Path(weights).stem)}"
