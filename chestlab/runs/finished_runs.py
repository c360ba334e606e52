"""Finished runs for what is done with a trained network: the checkpoint, and the images again.

Shared by the scripts that use a checkpoint. A run is finished when its results have `metrics.json`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from chestlab.data import sources
from chestlab.data.phantom import PHANTOM_MARK
from chestlab.data.splits import TwoClassData
from chestlab.files.checkpoint import load_checkpoint
from chestlab.files.errors import InputError
from chestlab.files.run_files import STUDIES, UNFINISHED
from chestlab.reporting.stored_runs import StoredRun, shortened
from chestlab.runs.flags import add_folder

LISTED = 5  # checkpoints that an error names

DEEPEST = 4  # folders below that of the checkpoints: phantom, studies, one of them, its runs

LOCATION_LENGTH = 2048  # characters; see `data_location`


def add_checkpoint_flags(parser: argparse.ArgumentParser) -> None:
    """Add ``--checkpoint``, ``--models-dir`` and ``--results-dir``, see `pick_checkpoint`."""
    parser.add_argument(
        "--checkpoint",
        metavar="{FILE.pth,RUN}",
        help="a checkpoint or the name of a finished run (default: the newest finished run)",
    )
    add_folder(parser, "--models-dir", "trained_models")
    add_folder(parser, "--results-dir", "results")


def pick_checkpoint(options: argparse.Namespace) -> Path:
    """The checkpoint that the flags name, by default of the newest finished run.

    Prints which one it is, unless the flags name the file itself.

    Args:
        options: with the flags of `add_checkpoint_flags`.

    Raises:
        InputError: there is no such checkpoint or run; lists what there is.
    """
    given, models_dir, results_dir = options.checkpoint, options.models_dir, options.results_dir
    if given is None:
        finished = finished_checkpoints(models_dir, results_dir)
        if not finished:
            raise InputError(_nothing_finished(models_dir, results_dir))
        print(f"checkpoint: {finished[0]} (newest finished run; --checkpoint names another)")
        return finished[0]
    path = Path(os.path.expanduser(given))  # noqa: PTH111 (keeps ~name of an unknown user)
    if os.path.exists(path) and not path.is_dir():  # noqa: PTH110 (a name may be too long)
        return path
    named = _checkpoint_of(given, models_dir, results_dir)
    if named is None:
        raise InputError(
            f"--checkpoint '{shortened(given)}': {_why_not(path, models_dir, results_dir)}"
        )
    print(f"checkpoint: {named}")
    return named


def finished_checkpoints(models_dir: Path, results_dir: Path) -> list[Path]:
    """Checkpoints of the finished two-class runs, the newest first.

    Members of ensembles and runs of studies, which lie in folders of their own, are left out
    unless there is nothing else.
    """
    finished = [
        path
        for path in _all_checkpoints(models_dir)
        if _is_finished(_results_of(path, models_dir, results_dir))
    ]

    def finished_at(path: Path) -> float:
        metrics = _results_of(path, models_dir, results_dir) / "metrics.json"
        return max(path.stat().st_mtime, metrics.stat().st_mtime)

    finished.sort(key=finished_at, reverse=True)
    alone = [path for path in finished if _is_alone(path, models_dir)]
    return alone or finished


def _all_checkpoints(models_dir: Path) -> list[Path]:
    """One per run, of finished and unfinished ones: those of no member first, then the newest."""
    paths = {}
    for depth in range(DEEPEST + 1):
        for ending in ("_best", "_final"):  # after a run in two stages both hold the same
            for path in models_dir.glob("*/" * depth + f"*{ending}.pth"):
                name = path.stem.removesuffix(ending)
                if name and not name.endswith(UNFINISHED):
                    paths.setdefault(path.parent / name, path)
    return sorted(
        paths.values(),
        key=lambda path: (_is_alone(path, models_dir), path.stat().st_mtime),
        reverse=True,
    )


def _is_alone(path: Path, models_dir: Path) -> bool:
    """A checkpoint is of a run of its own, and of no ensemble or study."""
    return path.parent.relative_to(models_dir).as_posix() in (".", "phantom")


def _results_of(path: Path, models_dir: Path, results_dir: Path) -> Path:
    """The results' folder of a checkpoint: the same folders lie below both."""
    name = re.sub("_(best|final)$", "", path.stem)
    return results_dir / path.parent.relative_to(models_dir) / name


def _is_finished(folder: Path) -> bool:
    """There is a sound `metrics.json` of a two-class run."""
    try:
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(metrics, dict) and "threshold" in metrics


def _checkpoint_of(given: str, models_dir: Path, results_dir: Path) -> Path | None:
    """The checkpoint of a run's name, of a results' folder, or of a file's name alone."""
    name = Path(given)
    with contextlib.suppress(ValueError, OSError):
        if name.is_dir():  # a folder of results, as a shell completes it
            name = name.resolve().relative_to(results_dir.resolve())
    for place in ("", STUDIES, "phantom", f"phantom/{STUDIES}"):
        folder = models_dir / place
        for ending in ("_best.pth", "_final.pth", ""):
            path = folder / f"{name}{ending}"
            if os.path.isfile(path) and path.suffix == ".pth":  # noqa: PTH113 (as above)
                return path
    return None


def _why_not(path: Path, models_dir: Path, results_dir: Path) -> str:
    """Why a path or name is no checkpoint, and what there is instead, the nearest place first."""
    known = _all_checkpoints(models_dir)
    nested = [member for member in known if not _is_alone(member, models_dir)]
    members = [member for member in nested if member.parent.name == path.name]
    if members:
        return f"several networks are averaged there: name one; {_listed(members, models_dir)}"
    places = [path, path.parent] if len(path.parts) > 1 else []
    for place in places:
        if os.path.isdir(place) and (there := _all_checkpoints(place)):  # noqa: PTH112 (as above)
            known = there
            break
    missing = "there is no such file and no such run"
    if any(_is_finished(results_dir / place / path.name) for place in ("", STUDIES)):
        missing = "its results are here, its weights, which no repository holds, are not: train it"
    return f"{missing}; {_listed(known, models_dir)}"


def _listed(paths: Sequence[Path], models_dir: Path) -> str:
    """What checkpoints there are, or how to get one, as the end of a message."""
    if not paths:
        return f"'{models_dir}' holds no checkpoint: python train.py trains a network first"
    more = f" and {len(paths) - LISTED} more" if len(paths) > LISTED else ""
    return f"there are {', '.join(map(str, paths[:LISTED]))}{more}"


def _nothing_finished(models_dir: Path, results_dir: Path) -> str:
    known = _all_checkpoints(models_dir)
    if not known:
        return f"no finished run: {_listed(known, models_dir)}"
    return (
        f"no run with a checkpoint in '{models_dir}' has finished in '{results_dir}': "
        f"--checkpoint takes any; {_listed(known, models_dir)}"
    )


def data_location(data: str, root: Path | None, classes: Sequence[str] | None = None) -> str:
    """Where a run's images are, to be kept in its checkpoint: JSON of ``data``, ``file``, ``root``.

    ``data`` is the flag's value, ``file`` the whole path of a file and ``root`` that of the
    official files' folder, or None. ``classes`` is added where ``--classes`` named them. The text
    always has `LOCATION_LENGTH` characters (more only for very long paths): `metrics.json` states
    the checkpoint's size, which must be the same in every folder.
    """
    file = None
    if sources.is_file_name(data):
        file = os.path.abspath(os.path.expanduser(data))  # noqa: PTH100, PTH111 (links stay)
    place = {"data": data, "file": file, "root": None if root is None else str(root.absolute())}
    if classes is not None:
        place["classes"] = list(classes)
    return json.dumps(place).ljust(LOCATION_LENGTH)


def stored_classes(location: str) -> list[str] | None:
    """The classes in a `data_location` that ``--classes`` gave, or None."""
    return json.loads(location).get("classes") if location.strip() else None


def load_training_data(
    about: Mapping[str, Any], location: str, root: Path | None = None, near: Path | None = None
) -> TwoClassData:
    """Load the images again that a run was trained on.

    Args:
        about: the run's ``data`` in checkpoint or `metrics.json`: ``source``, ``sha256``, ``size``.
        location: of `data_location`, or empty where a run of an older version has none.
        root: folder of the official files; by default the run's.
        near: the checkpoint or results of the run: a file that was named by a path relative to the
            project's folder is looked for there, too, wherever that folder is now.

    Raises:
        InputError: they are not to be found, or not the same any more.
    """
    place = json.loads(location) if location.strip() else {}
    source, size = about["source"], about.get("size")
    name = source.removeprefix(f"{PHANTOM_MARK} (").removesuffix(")")
    if PHANTOM_MARK not in source:
        name = source
    if not sources.is_file_name(name):
        if PHANTOM_MARK in source:
            data = sources.load("phantom", None, size)
        else:
            stored = Path(place["root"]) if place.get("root") else None
            if root is None and stored is not None and any(stored.glob("chestmnist*.npz")):
                root = stored
            data = sources.load("chestmnist", root, size)
        _check_same(data, about, source)
        return data
    errors = []
    for path in _possible_files(name, place, near):
        try:
            data = sources.load(str(path), classes=place.get("classes"))
            _check_same(data, about, str(path))
            return data
        except InputError as error:
            errors.append(error)
    if errors:
        raise errors[0]
    raise InputError(
        f"it was trained on '{place.get('file') or name}', which is not here: --data names it"
    )


def _check_same(data: TwoClassData, about: Mapping[str, Any], shown: str) -> None:
    if data.sha256 != about["sha256"]:
        raise InputError(
            f"'{shown}' is not the file it was trained on, though of the same name: "
            "--data takes it all the same"
        )


def _possible_files(name: str, place: Mapping[str, Any], near: Path | None) -> list[Path]:
    """Files of the name that exist, the likeliest first."""
    projects = [] if near is None else near.resolve().parents[: DEEPEST + 1]
    relative = [Path(name)]
    paths = []
    if place.get("file"):
        paths = [Path(place["file"])]
        relative.insert(0, Path(place["data"]))
    paths += relative
    paths += [project / path for project in projects for path in relative]
    return [path for path in dict.fromkeys(paths) if os.path.isfile(path)]  # noqa: PTH113


def load_data_of(
    shown: Sequence[StoredRun],
    known: Sequence[StoredRun],
    results_dir: Path,
    models_dir: Path,
    root: Path | None = None,
) -> Iterator[tuple[TwoClassData, list[StoredRun]]]:
    """The images of stored runs, each set once, with the runs on it.

    Images that are not to be found are left out with a line on stderr, unless there are no others.

    Args:
        shown: runs whose images are wanted.
        known: all runs; one that was trained on the same images may know where they are.
        results_dir: of the runs.
        models_dir: of their checkpoints.
        root: folder of the official files; by default the run's.

    Raises:
        InputError: no run's images can be found.
    """
    groups: dict[str, list[StoredRun]] = {}
    for run in shown:
        groups.setdefault(run.data_key, []).append(run)
    errors = []
    for key, runs in groups.items():
        trained = [*runs, *(run for run in known if run.data_key == key)]
        checkpoint, location = _stored_location(trained, results_dir, models_dir)
        about = {"size": None, **runs[0].metrics["data"]}
        try:
            data = load_training_data(about, location, root, checkpoint or runs[0].folder)
        except InputError as error:
            errors.append((runs, error))
            continue
        yield data, runs
    for runs, error in errors:
        names = f"'{runs[0].name}'" + (f" and {len(runs) - 1} more" if len(runs) > 1 else "")
        if len(errors) == len(groups):
            raise InputError(f"{names}: {error}")
        print(f"NOTE: {names} left out: {error}", file=sys.stderr)


def _stored_location(
    runs: Sequence[StoredRun], results_dir: Path, models_dir: Path
) -> tuple[Path | None, str]:
    """A checkpoint of one of the runs, or of its members, and the `data_location` in it."""
    for run in runs:
        place = models_dir / run.folder.relative_to(results_dir)
        for path in (place.with_name(f"{place.name}_best.pth"), *sorted(place.glob("*_best.pth"))):
            if path.is_file():
                with contextlib.suppress(InputError):
                    if location := load_checkpoint(path).get("data_location", ""):
                        return path, location
    return None, ""
