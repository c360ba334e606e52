"""Folds that several processes compute together, each by one of them, and where they are kept."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from chestlab.data.folds import CrossValidationSplits, Fold
from chestlab.files import claims
from chestlab.files.atomic import atomic_write, make_folder


def name_of(key: Mapping[str, Any]) -> str:
    """Names a fold's files: a hash of what its result depends on, 40 hexadecimal digits."""
    text = json.dumps(key, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:40]


class Store:
    """Finished folds on disk, each a file named after a hash of its key.

    Several processes can share a store; `claim` keeps two of them from working on the same fold. A
    file that cannot be read counts as missing.

    Args:
        folder: made where it is missing.

    Raises:
        InputError: the folder cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        make_folder(folder)

    def _path(self, key: Mapping[str, Any]) -> Path:
        return self.folder / f"{name_of(key)}.json"

    def get(self, key: Mapping[str, Any], images: int) -> dict[str, Any] | None:
        """The result stored under ``key``, None where there is none with that many logits."""
        try:
            result = json.loads(self._path(key).read_text(encoding="utf-8"))["found"]
            sound = all(
                np.shape(logits) == (images,) and np.isfinite(logits).all()
                for logits in result["logits"].values()
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return result if sound else None

    def put(self, key: Mapping[str, Any], result: Mapping[str, Any]) -> None:
        """Store a fold's result; ``key`` and ``result`` are plain values."""
        atomic_write(self._path(key), json.dumps({"what": key, "found": result}) + "\n")

    def claim(self, key: Mapping[str, Any]) -> contextlib.AbstractContextManager[str]:
        """Context of the work on a result; yields who else is at it, see `claims.claim`."""
        return claims.claim(self._path(key).with_suffix(".claim"))


class SharedFolds:
    """Every fold of every repeat, each computed by one of the processes that share a store.

    Args:
        name: of what is computed, for messages.
        splits: which folds.
        store: of finished folds.
        make: the fold of a number of a repeat and a number, both from 0.
        key: what the result of a repeat's fold depends on.
        compute: the result of a repeat's fold, which is the one that errors are to name.
        tell: called with a fold, its name and its result, once that is stored.
    """

    def __init__(
        self,
        name: str,
        splits: CrossValidationSplits,
        store: Store,
        make: Callable[[int, int], Fold],
        key: Callable[[int, Fold], Mapping[str, Any]],
        compute: Callable[[int, Fold, str], dict[str, Any]],
        tell: Callable[[Fold, str, Mapping[str, Any]], None] = lambda *arguments: None,
    ) -> None:
        self.name, self.splits, self.store = name, splits, store
        self.make = lru_cache(maxsize=1)(make)
        self.key, self.compute, self.tell = key, compute, tell
        self.known: dict[tuple[int, int], tuple[Mapping[str, Any], int]] = {}

    def each(self) -> Iterator[tuple[int, Fold, dict[str, Any]]]:
        """The folds in order, with the number of the repeat and the result.

        A fold that another process is at is left to it: those behind it come first, and then this
        process waits, so that it can take over what a process that has died leaves.
        """
        places = list(product(range(self.splits.repeats), range(self.splits.folds)))
        for number, place in enumerate(places):
            told = ""
            while isinstance(result := self._result(place), str):
                if any(self._computes(later) for later in places[number + 1 :]):
                    continue
                if result != told:
                    print(f"{self.name}: {self._where(place)}: waiting for {result}", flush=True)
                    told = result
                time.sleep(claims.PAUSE_SECONDS)
            yield place[0], self.make(*place), result

    def _where(self, place: tuple[int, int]) -> str:
        repeats, folds = self.splits.repeats, self.splits.folds
        return f"repeat {place[0] + 1} of {repeats}, fold {place[1] + 1} of {folds}"

    def _stored(self, place: tuple[int, int]) -> dict[str, Any] | None:
        if place not in self.known:
            fold = self.make(*place)
            self.known[place] = self.key(place[0], fold), len(fold.rows)
        return self.store.get(*self.known[place])

    def _result(self, place: tuple[int, int]) -> dict[str, Any] | str:
        """The result of a fold, stored or computed now, or who else is at it."""
        result = self._stored(place)
        return self._compute(place) if result is None else result

    def _compute(self, place: tuple[int, int]) -> dict[str, Any] | str:
        key, images = self.known[place]
        with self.store.claim(key) as holder:
            if holder:
                return holder
            result = self.store.get(key, images)  # it may have been stored a moment ago
            if result is None:
                fold, where = self.make(*place), self._where(place)
                result = self.compute(place[0], fold, where)
                self.store.put(key, result)
                self.tell(fold, where, result)
        return result

    def _computes(self, place: tuple[int, int]) -> bool:
        """Whether a fold was neither stored nor another process's, and has been computed now."""
        return self._stored(place) is None and not isinstance(self._compute(place), str)
