"""Finished runs read from `results/`."""

from __future__ import annotations

import csv
import dataclasses
import difflib
import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from chestlab.data.splits import SPLITS, TwoClassData, nih_patients
from chestlab.evaluation.alarms import alarms, is_constant, logits_of
from chestlab.files.atomic import write_csv
from chestlab.files.errors import InputError
from chestlab.files.run_files import STUDIES, UNFINISHED, RunFiles
from chestlab.training.recipe import Recipe

DATA = "data"  # folder below that of the results: what was trained on

SHA_DIGITS = 12  # of a SHA-256, which tell files of one name apart


@dataclass(frozen=True, eq=False)
class Predictions:
    """Probabilities of some images.

    Attributes:
        origin: (N,) split of each image in the source.
        index: (N,) row of each image in that split.
        labels: (N,) of 0 and 1.
        probabilities: (N,) of class 1.
    """

    origin: np.ndarray
    index: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray

    def same_images(self, other: Predictions) -> bool:
        fields = ("origin", "index", "labels")
        return all(np.array_equal(getattr(self, f), getattr(other, f)) for f in fields)


@dataclass(frozen=True, eq=False)
class StoredRun:
    """A finished run as it is stored.

    Attributes:
        folder: where its files are.
        metrics: its ``metrics.json``.
        predictions: by split: ``val``; ``test`` if it was evaluated there; ``oof`` if it was
            cross-validated, each image predicted by the one network that has not seen it.
    """

    folder: Path
    metrics: Mapping[str, Any]
    predictions: Mapping[str, Predictions]

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def kind(self) -> str:
        """A key of `comparison_plots.KINDS`: ``network``, ``ensemble`` or ``baseline``."""
        if self.metrics.get("yardstick"):  # the file's key for a baseline
            return "baseline"
        return "ensemble" if "members" in self.metrics else "network"

    @cached_property
    def val_out_of_fold(self) -> bool:
        """Whether each validation image is predicted by the networks that did not train on it.

        So it is in an average of folds over ``train+val``, and in an average of such averages.
        """
        of_folds = self.kind == "ensemble" and "oof" in self.predictions
        return of_folds and bool((self.predictions["oof"].origin == "val").any())

    @property
    def source(self) -> str:
        return self.metrics["data"]["source"]

    @property
    def phantom(self) -> bool:
        return bool(self.metrics["data"].get("phantom"))

    @cached_property
    def stem(self) -> str:
        """The source's name as part of a file's name."""
        return source_stem(self.source)

    @cached_property
    def short_name(self) -> str:
        """The name without what all runs on this source share."""
        return self.name.replace(f"_{self.stem}", "") or self.name

    @property
    def shown_name(self) -> str:
        """`short_name` for pages, with a mark where there are warnings."""
        return f"{self.short_name} (!)" if self.metrics["warnings"] else self.short_name

    def ordering_auc(self, split: str) -> float:
        """The AUC of a split, to sort by; below all others where it is undefined."""
        auc = self.metrics[split]["auc"]
        return -math.inf if auc is None else auc

    @cached_property
    def data_key(self) -> str:
        """Equal for runs on the same images with the same labels, see `data_key`."""
        return data_key(self.metrics["data"])

    @cached_property
    def recipe_key(self) -> str:
        """Equal for runs that differ in nothing but the seed.

        A hyperparameter that a recipe of an older version lacks has its default value, off.
        """
        recipe = dict(self.metrics.get("recipe") or {})
        if "epochs" in recipe:
            recipe = dataclasses.asdict(Recipe(name="")) | recipe
        for key in ("name", "seed"):
            recipe.pop(key, None)
        same = ("model", "model_arguments", "starting_weights", "tta")
        identity = {key: self.metrics.get(key) for key in same}
        return json.dumps([identity, recipe, self.data_key], sort_keys=True)

    @property
    def group_key(self) -> str:
        """Equal for runs of the same `recipe_key` and kind, and ensembles of the same size."""
        return json.dumps([self.recipe_key, self.kind, self.metrics.get("kind")])

    @property
    def shown_splits(self) -> list[str]:
        """``val``, and ``test`` if the run was evaluated there."""
        return [split for split in ("val", "test") if split in self.predictions]

    def sizes(self) -> str:
        """Numbers of images of `shown_splits`, as the titles of figures give them."""
        return ", ".join(f"{split} n = {self.metrics[split]['n']}" for split in self.shown_splits)

    def correct(self, split: str) -> np.ndarray:
        """(N,) booleans, true where the prediction at the run's threshold is right."""
        predictions = self.predictions[split]
        return (predictions.probabilities >= self.metrics["threshold"]) == (predictions.labels == 1)


def read_runs(results_dir: Path) -> list[StoredRun]:
    """Every finished two-class run below ``results_dir``, phantoms included, sorted by path.

    A damaged run is left out with a line on stderr.

    Raises:
        InputError: there is none.
    """
    runs = []
    places = ("", f"{STUDIES}/", "phantom/", f"phantom/{STUDIES}/")
    paths = [path for place in places for path in results_dir.glob(f"{place}*/metrics.json")]
    for path in sorted(paths):
        if path.parent.name.endswith(UNFINISHED):
            continue
        try:
            run = read_two_class_run(path)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            print(f"NOTE: '{path.parent}' is left out, it is damaged: {error!r}", file=sys.stderr)
            continue
        if run is not None:
            runs.append(run)
    if not runs:
        raise InputError(f"there is no finished run in '{results_dir}': python train.py makes one")
    return runs


def find_run(runs: Sequence[StoredRun], name: str) -> StoredRun:
    """The run of a name, or of its folder as a shell completes it.

    Args:
        runs: of `read_runs`.
        name: of a run; of two with the same name the one that is not among the phantoms is taken.

    Raises:
        InputError: there is none; names the closest.
    """
    end = f"/{Path(name).as_posix().lstrip('/')}"
    for run in sorted(runs, key=lambda run: "phantom" in run.folder.parts[-3:-1]):
        if f"/{run.folder.resolve().as_posix()}".endswith(end):
            return run
    known = {word.lower(): run.name for run in runs for word in (run.short_name, run.name)}
    asked = end[1:].lower()
    close = difflib.get_close_matches(asked, known, n=1)
    close = close or [word for word in known if len(asked) > 2 and asked in word]
    guess = f"did you mean '{shortened(known[close[0]], 80)}'? " if close else ""
    raise InputError(
        f"no finished run '{shortened(name, 40)}'; {guess}python visualize.py lists all"
    )


def shortened(text: str, length: int = 100) -> str:
    """The text in one line of no more than ``length`` characters."""
    text = " ".join(text.split())
    return text if len(text) <= length else f"{text[: length - 3]}..."


def start_source(about: Mapping[str, Any]) -> str:
    """What a network starts from: ``none``, ``imagenet`` or the name of a file.

    Args:
        about: metrics of a run, or a configuration of a study.
    """
    start = about.get("starting_weights") or about.get("start") or {}
    return start.get("source", "none")


def start_of(about: Mapping[str, Any]) -> str:
    """The file of weights that a network starts from; empty for ImageNet's and random ones.

    Args:
        about: metrics of a run, or a configuration of a study.
    """
    source = start_source(about)
    return "" if source in ("none", "imagenet") else Path(source).stem.removesuffix("_final")


def kind_of_average(metrics: Mapping[str, Any]) -> str:
    """What was averaged: ``seeds``, ``folds`` or ``runs``."""
    words = str(metrics.get("kind")).split()
    return next((kind for kind in ("folds", "runs") if kind in words), "seeds")


def networks_of(metrics: Mapping[str, Any]) -> int | None:
    """How many networks a run has; None for an average of averages that has not stored it."""
    members = metrics.get("members", [{}])
    if metrics.get("blend") and not all("networks" in member for member in members):
        return None
    return sum(member.get("networks", 1) for member in members)


def read_two_class_run(path: Path) -> StoredRun | None:
    """The run of a ``metrics.json``, checked; None if its task is the 14 findings.

    Raises:
        OSError, ValueError, KeyError, TypeError, AttributeError: a file is missing or damaged.
    """
    metrics = json.loads(path.read_text(encoding="utf-8"))
    if "auc_per_finding" in metrics["val"]:
        return None
    predictions = {}
    for split in ("val", "test", "oof"):
        if (figures := metrics.get(split)) is None:
            continue
        low, high = figures["accuracy_ci95"]
        for value in (figures["accuracy"], figures["auc"] or 0, figures["n"], low, high):
            float(value)
        predictions[split] = _read_predictions(path.parent / f"{split}_probabilities.csv", split)
        if len(predictions[split].index) != figures["n"]:
            raise ValueError(f"{split}_probabilities.csv does not hold {figures['n']} rows")
    run = StoredRun(path.parent, metrics, predictions)
    for text in (run.source, metrics["model"], metrics["data"]["sha256"], run.recipe_key):
        if not isinstance(text, str):
            raise TypeError(f"{text!r} is no text")
    if not all(isinstance(member, dict) for member in metrics.get("members", [])):
        raise TypeError("members is no list of figures")
    for split in set(predictions) - {"oof"}:  # which may have a threshold of its own
        # an image whose probability equals the threshold to the last bit may fall on either side
        if abs(run.correct(split).mean() - metrics[split]["accuracy"]) * metrics[split]["n"] > 1.5:
            raise ValueError(f"{split}_probabilities.csv and metrics.json disagree")
    _complete(run, metrics)
    return run


def _complete(run: StoredRun, metrics: dict[str, Any]) -> None:
    """Bring an older version's ``metrics`` to today's: no AUC of float noise, and ``warnings``.

    Their training figure is at the run's threshold, where `alarms` takes one at 0.5.
    """
    undefined = {split for split in run.predictions if _is_undefined(run, split)}
    if "val" in undefined and metrics.get("train"):  # predicted by the same network
        undefined.add("train")
    for split in undefined:
        metrics[split] |= {"auc": None, "auc_ci95": None, "auc_ci95_error": None}
    if "warnings" in metrics:
        return
    metrics["warnings"] = []
    if run.kind == "baseline":  # which may predict one class by design
        return
    history, train = read_history(run.folder), metrics.get("train") or {}
    judged = {split: of.probabilities for split, of in run.predictions.items()}
    scale = metrics.get("temperature", 1.0)
    metrics["warnings"] += alarms(
        {split: scale * logits_of(values) for split, values in judged.items()},
        {split: values >= metrics["threshold"] for split, values in judged.items()},
        history,
        metrics.get("best_epoch", 0),
        train.get("accuracy"),
        train.get("n", 0),
    )
    members = [read_two_class_run(path) for path in sorted(run.folder.glob("*/metrics.json"))]
    metrics["warnings"] += [
        member_warning(member.name, text)
        for member in members
        if member is not None
        for text in member.metrics["warnings"]
    ]


def _is_undefined(run: StoredRun, split: str) -> bool:
    """Whether a model's outputs are all the same; out of fold, those of each fold's model."""
    probabilities = run.predictions[split].probabilities
    folds = (run.metrics.get("cross_validation") or {}).get("folds", 1)
    if split == "oof" and len(np.unique(probabilities)) <= folds:
        return True
    return is_constant(logits_of(probabilities))


def member_warning(name: str, text: str) -> str:
    """What an ensemble says of a warning of its member."""
    return f"member {name}: {text}"


def read_history(folder: Path) -> list[dict[str, float]]:
    """The rows of ``history.csv``; none where there is no such file."""
    path = folder / "history.csv"
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def _read_predictions(path: Path, split: str) -> Predictions:
    default = "train" if split == "oof" else split  # origin, where the table has no such column
    with path.open(encoding="utf-8", newline="") as file:
        rows = sorted(
            (
                row.get("split", default),
                int(row["index"]),
                int(row["label"]),
                float(row["probability"]),
            )
            for row in csv.DictReader(file)
        )
    if not rows or not all(row[2] in (0, 1) and 0 <= row[3] <= 1 for row in rows):
        raise ValueError(f"{path.name} holds values that are no labels or probabilities")
    return Predictions(*(np.array(column) for column in zip(*rows, strict=True)))


def data_key(about: Mapping[str, Any]) -> str:
    """The SHA-256 of a file, with the classes that its labels 0 and 1 were said to be, if any.

    Args:
        about: ``data`` of a `metrics.json`.
    """
    return " ".join([about["sha256"], *about.get("classes", ())])


def source_stem(source: str) -> str:
    """A source's name as part of a file's name."""
    stem = re.sub(r"\.npz$", "", source, flags=re.IGNORECASE)
    return re.sub(r"[^A-Za-z0-9._]+", "-", stem).strip("-")


def read_patients(results_dir: Path, run: StoredRun, split: str) -> np.ndarray | None:
    """(N,) patient of each image of a run, from the list of names that is at `names_path`.

    None where there is no such list, it is of another file or other images, or patients are
    unknown. A list without the column ``patient``, of an older version, tells them by NIH's names
    alone; one without ``sha256`` is taken for one of the file that has its name.
    """
    predictions = run.predictions[split]
    try:
        with names_path(results_dir, run.source).open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        of_run = run.metrics["data"]["sha256"][:SHA_DIGITS]
        if rows[0].get("sha256", of_run) != of_run:
            return None
        if "patient" in rows[0]:
            listed = [row["patient"] for row in rows]
        else:
            listed = nih_patients(np.array([row["name"] for row in rows]))
        if listed is None or not all(listed):
            return None
        patients = {
            (row["split"], int(row["index"]), int(row["label"])): str(patient)
            for row, patient in zip(rows, listed, strict=True)
        }
        images = zip(predictions.origin, predictions.index, predictions.labels, strict=True)
        return np.array([patients[str(origin), int(i), int(label)] for origin, i, label in images])
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None


def names_path(results_dir: Path, source: str) -> Path:
    """Where the list of a source's file names and patients is, or would be written.

    Earlier versions wrote it into ``results_dir`` itself; it counts where it is the only one.
    """
    name = f"{source_stem(source)}_names.csv"
    path, earlier = results_dir / DATA / name, results_dir / name
    return earlier if earlier.exists() and not path.exists() else path


def write_names(data: TwoClassData, results_dir: Path) -> Path:
    """Write file name and patient of each two-class image, and which file they are of.

    The columns are split, index, name, label, patient, and the first `SHA_DIGITS` of the file's
    SHA-256. The patient is empty where it is unknown, and so is the name.

    Raises:
        InputError: the source has neither names nor patients.
    """
    if data.train.names is None and data.train.patients is None:
        raise InputError(f"'{data.source}' holds no names of images")
    path = names_path(results_dir, data.source)
    rows = []
    for name in SPLITS:
        split = getattr(data, name)
        columns = [split.index, split.names, split.labels, split.patients]
        values = [[""] * len(split) if c is None else c.tolist() for c in columns]
        rows += [(name, *row, data.sha256[:SHA_DIGITS]) for row in zip(*values, strict=True)]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_csv(path, ("split", "index", "name", "label", "patient", "sha256"), rows)
    return path


def read_run(files: RunFiles) -> dict[str, Any]:
    """A finished run's ``metrics.json``, with the columns of its history under ``history``."""
    with (files.folder / "history.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    history = {key: [float(row[key]) for row in rows] for key in rows[0]}
    return {**json.loads(files.metrics.read_text(encoding="utf-8")), "history": history}
