"""Names of runs and the folders that they are written to."""

from __future__ import annotations

import argparse
import hashlib
import os
import re
from pathlib import Path

from chestlab.data.splits import Data
from chestlab.files.errors import InputError
from chestlab.files.run_files import UNFINISHED
from chestlab.training.recipe import Recipe


def output_folders(options: argparse.Namespace, data: Data) -> tuple[Path, Path]:
    """Folders of results and checkpoints; phantoms apart, so that they never sit among X-rays.

    A phantom that the user made and named as FILE.npz has its stem in the run's name instead.
    """
    apart = "phantom" if data.phantom and not options.data.endswith(".npz") else ""
    return options.results_dir / apart, options.models_dir / apart


def check_name(name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,150}", name) or not name.strip("."):
        raise InputError(
            f"--name '{name}': allowed are up to 150 letters, digits, '.', '_' and '-', "
            "and not dots alone"
        )
    if name.endswith(UNFINISHED):
        raise InputError(f"--name '{name}': the ending '{UNFINISHED}' is taken")
    if name.lower() == "phantom":  # some file systems do not tell capitals apart
        raise InputError(f"--name '{name}': runs on phantoms have their folders below this one")


def run_name(recipe: Recipe, data: str, size: int) -> str:
    """``<recipe's name>``, plus the file's stem for a file, plus the size above 28 px.

    A stem that does not make a name as it is gets a few digits that tell it from others.
    """
    name = recipe.name
    if data.endswith(".npz"):
        stem = Path(data).stem
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", stem)[:100]
        if plain != stem:
            plain += "-" + hashlib.sha256(os.fsencode(stem)).hexdigest()[:6]
        name += f"_{plain}"
    return name + (f"_{size}" if size > 28 else "")
