"""The looks at test images: every evaluation of them is a line of ``test_looks.csv``.

An evaluation on the folds of `studies.fresh_folds` is a line as well, of a kind of its own: it is a
use of those folds, and no look at test.

The table lies in the folder of the results. It only grows, and several runs may write at once.
A look compares labels with what a network predicts of images that it is judged on; reading stored
figures again is none, and neither is predicting without labels. Pages count from this table.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import hashlib
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path, PurePath
from typing import TypeVar

import numpy as np

from chestlab.data.phantom import OFFICIAL_COUNTS
from chestlab.data.splits import OFFICIAL_IMAGES, Data, Split
from chestlab.files.atomic import TEMPORARY_SUFFIX, atomic_write
from chestlab.files.run_files import STUDIES, held_lock

FILE_NAME = "test_looks.csv"

LOCK_SECONDS = 60.0  # of waiting for other processes, each of which takes milliseconds

NETWORKS_BETWEEN = "; "  # separates networks that were averaged

Figures = TypeVar("Figures")


@dataclass(frozen=True)
class Look:
    """A line of the table.

    Attributes:
        run: its folder below that of the results, with ``/`` between the parts; see `run_label`.
        kind: ``run``, ``average`` (of members), ``blend`` (of runs), ``baseline``, ``explain``,
            ``mistakes``, ``stage`` (of a run in two stages, before they were judged on val alone),
            ``fresh folds`` (of networks whose held-out images are of train and val).
        network: class of the network or networks, separated by `NETWORKS_BETWEEN`.
        recipe_name: the recipe's name and what was changed by flag.
        recipe: hash of the recipe without its name and seed, see `recipe.recipe_hash`.
        data: SHA-256 of the source.
        images: which images they were, see `image_set`.
        evaluation: equal for two evaluations that show the same, of which only the first counts:
            a run that was killed while it wrote its results evaluates the same weights again. Empty
            where every evaluation counts.
        note: ``reconstructed`` for evaluations from before the table existed.
        time: UTC, ISO 8601.
    """

    run: str
    kind: str
    network: str
    recipe_name: str
    recipe: str
    data: str
    images: str
    evaluation: str = ""
    note: str = ""
    time: str = ""

    @property
    def networks(self) -> set[str]:
        return set(self.network.split(NETWORKS_BETWEEN))


COLUMNS = ("time", *(f.name for f in dataclasses.fields(Look) if f.name != "time"))


def evaluate_test(folder: Path, look: Look, evaluate: Callable[[], Figures]) -> Figures:
    """The one way to figures of test: the look is written down before anything is computed.

    Args:
        folder: of the table, see `looks_dir`.
        look: without its time.
        evaluate: compares labels and predictions.

    Returns:
        What ``evaluate`` returns.

    Raises:
        OSError: the table cannot be written; nothing has been evaluated.
    """
    folder.mkdir(exist_ok=True)  # the phantoms' may not exist yet
    record(folder / FILE_NAME, look)
    return evaluate()


def looks_dir(results_dir: Path, phantom: bool) -> Path:
    """The folder of the table. Phantoms have one of their own, wherever their runs lie.

    Args:
        results_dir: of the results, of X-rays or of phantoms.
        phantom: the images are generated.
    """
    return results_dir / "phantom" if phantom and results_dir.name != "phantom" else results_dir


def run_label(path: PurePath) -> str:
    """`Look.run` of a folder below that of the results, the same before it became a study's."""
    return path.relative_to(STUDIES).as_posix() if path.parts[0] == STUDIES else path.as_posix()


def record(path: Path, look: Look) -> None:
    """Add a line to the table, unless the same evaluation of the same run and kind is there.

    The file is replaced as a whole while a lock is held, so that it is never cut off in a line and
    no line of another process gets lost. Where the file system knows no locks, two runs that end
    at the same instant may lose one.

    Raises:
        OSError: it cannot be written, or another process has held the lock for `LOCK_SECONDS`.
    """
    look = dataclasses.replace(look, time=datetime.now(timezone.utc).isoformat(timespec="seconds"))
    with _lock(path.with_name(f".{path.stem}.lock")):
        for leftover in path.parent.glob(f".{path.name}.*{TEMPORARY_SUFFIX}"):  # of killed ones
            with contextlib.suppress(OSError):
                leftover.unlink()
        before = path.read_bytes() if path.exists() else _lines([COLUMNS])
        if look.evaluation and any(_same(look, other) for other in _parse(before, path)):
            return
        end = b"" if before.endswith(b"\n") else b"\n"
        row = [getattr(look, column) for column in COLUMNS]
        atomic_write(path, before + end + _lines([row]))


def _same(look: Look, other: Look) -> bool:
    return all(getattr(look, f) == getattr(other, f) for f in ("run", "kind", "evaluation"))


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    from filelock import Timeout

    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(held_lock(path, LOCK_SECONDS))
        except Timeout:
            reason = "another process does not let go of it"
            raise TimeoutError(None, reason, str(path)) from None
        yield


def read_looks(path: Path) -> list[Look]:
    """The lines of a table, oldest first; none where there is no file.

    Lines that are none of ours are left out, with a line on stderr.

    Raises:
        OSError: it cannot be read.
    """
    return list(_parse(path.read_bytes(), path)) if path.exists() else []


def _parse(content: bytes, path: Path) -> Iterator[Look]:
    text = content.decode("utf-8-sig", errors="replace").replace("\0", "")
    damaged = 0
    for row in csv.DictReader(io.StringIO(text)):
        if all(isinstance(row.get(column), str) for column in COLUMNS):
            yield Look(**{column: row[column] for column in COLUMNS})
        else:
            damaged += 1
    if damaged:
        print(f"NOTE: {damaged} damaged lines in '{path}' are not counted", file=sys.stderr)


def _lines(rows: Sequence[Sequence[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def image_set(data: Data, split: Split) -> str:
    """Which images a test split holds: equal for files of the same X-rays in another size.

    Known by the file names where the source has them, by the rows in the official files, whose
    order is the same in every size, and else by the source's SHA-256.
    """
    if split.names is not None:
        return names_key(split.names.tolist())
    official = (sum(OFFICIAL_COUNTS["test"]), OFFICIAL_IMAGES["test"])
    if len(split) in official and not data.phantom:
        return _digest("ChestMNIST", split.index.tolist())
    return data.sha256


def names_key(names: Iterable[str]) -> str:
    """A hash of file names, without folders and endings, in whatever order."""
    stems = (name.replace("\\", "/").rpartition("/")[2] for name in names)
    return _digest(sorted(stem.rpartition(".")[0] or stem for stem in stems))


def predictions_key(probabilities: np.ndarray) -> str:
    """A hash of probabilities, for `Look.evaluation`."""
    values = np.ascontiguousarray(probabilities, np.float64)
    return hashlib.sha256(values.tobytes()).hexdigest()[:16]


def _digest(*values: object) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
