"""What stands in `results/`, as pages that a code host renders.

`python visualize.py` calls this room: it reads the folder of every finished run and writes
`results/README.md` (or `README.id.md`), a page about the mistakes of a run, or a list of image
names. It reads numbers and asks `visualize` for pictures; it trains and predicts nothing.
"""

from __future__ import annotations

import csv
import dataclasses
import html
import json
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

import visualize
from datareader import (
    CLASS_NAMES,
    NIH_CREDIT,
    PHANTOM_MARK,
    SPLITS,
    Split,
    TwoClassData,
)
from messages import LANGUAGES, MESSAGES
from metrics import mcnemar, paired_difference
from recipe import in_words
from storage import UNFINISHED, InputError, atomic_write, write_csv
from tasks import GOAL, SPLIT_TITLES

ALL_PAIRS = 6  # runs of which every pair is listed; of more, each against two references
LISTED, SHOWN = 10, visualize.GRID_COLUMNS  # mistakes of a kind in the table and in the picture
WARNING = "Look at the test images only after the recipe is final."
NOTHING = "-"  # in a cell without a number
GALLERY = (
    "training_curves",
    "confusion_matrix",
    "roc_curve",
    "calibration",
    "val_predictions",
    "gradcam",
    "members",
)


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
    """A finished run as it lies on the disk.

    Attributes:
        folder: of its files.
        metrics: its ``metrics.json``.
        predictions: of ``val``, and where there are any of ``test`` and ``oof``, the images of a
            cross-validation, each by the one network that has not seen it.
    """

    folder: Path
    metrics: Mapping[str, Any]
    predictions: Mapping[str, Predictions]

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def kind(self) -> str:
        """A key of `visualize.KINDS`."""
        if self.metrics.get("yardstick"):
            return "yardstick"
        return "ensemble" if "members" in self.metrics else "network"

    @property
    def source(self) -> str:
        return self.metrics["data"]["source"]

    @property
    def phantom(self) -> bool:
        return bool(self.metrics["data"].get("phantom"))

    @cached_property
    def stem(self) -> str:
        """The source as part of a file's name."""
        return _stem(self.source)

    @cached_property
    def short_name(self) -> str:
        """The name without what all runs on this source share."""
        return self.name.replace(f"_{self.stem}", "") or self.name

    @cached_property
    def recipe_key(self) -> str:
        """Equal for runs that differ in nothing but the seed.

        A knob that a recipe of an older version lacks counts as what it is by default, off.
        """
        from recipe import Recipe

        recipe = dict(self.metrics.get("recipe") or {})
        if "epochs" in recipe:
            recipe = dataclasses.asdict(Recipe(name="")) | recipe
        for key in ("name", "seed"):
            recipe.pop(key, None)
        same = ("model", "model_arguments", "starting_weights", "tta")
        identity = {key: self.metrics.get(key) for key in same}
        return json.dumps([identity, recipe, self.metrics["data"]["sha256"]], sort_keys=True)

    @property
    def group_key(self) -> str:
        """As `recipe_key`, and ensembles of another kind are another recipe."""
        return json.dumps([self.recipe_key, self.kind, self.metrics.get("kind")])

    def hits(self, split: str) -> np.ndarray:
        """(N,) booleans, prediction right."""
        predictions = self.predictions[split]
        return (predictions.probabilities >= self.metrics["threshold"]) == (predictions.labels == 1)


def read_runs(results_dir: Path) -> list[StoredRun]:
    """Every finished run below ``results_dir``, phantoms included; damaged ones are named.

    Raises:
        InputError: there is none.
    """
    runs = []
    paths = [*results_dir.glob("*/metrics.json"), *results_dir.glob("phantom/*/metrics.json")]
    for path in sorted(paths):
        if path.parent.name.endswith(UNFINISHED):
            continue
        try:
            runs += _read_run(path)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            print(f"NOTE: '{path.parent}' is left out, it is damaged: {error!r}", file=sys.stderr)
    if not runs:
        raise InputError(f"there is no finished run in '{results_dir}'")
    return runs


def _read_run(path: Path) -> list[StoredRun]:
    """The run, or nothing where its task is another than these two classes."""
    metrics = json.loads(path.read_text(encoding="utf-8"))
    if "auc_per_finding" in metrics["val"]:
        return []
    predictions = {}
    for split in ("val", "test", "oof"):
        if (figures := metrics.get(split)) is None and split != "val":
            continue
        low, high = figures["accuracy_ci95"]
        for value in (figures["accuracy"], figures["auc"], figures["n"], low, high):
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
        # the hit of an image whose probability is the threshold to the last bit may differ
        if abs(run.hits(split).mean() - metrics[split]["accuracy"]) * metrics[split]["n"] > 1.5:
            raise ValueError(f"{split}_probabilities.csv and metrics.json disagree")
    return [run]


def _read_predictions(path: Path, split: str) -> Predictions:
    home = "train" if split == "oof" else split  # of tables that do not name it
    with path.open(encoding="utf-8", newline="") as file:
        rows = sorted(
            (
                row.get("split", home),
                int(row["index"]),
                int(row["label"]),
                float(row["probability"]),
            )
            for row in csv.DictReader(file)
        )
    if not rows or not all(row[2] in (0, 1) and 0 <= row[3] <= 1 for row in rows):
        raise ValueError(f"{path.name} holds something else than labels and probabilities")
    return Predictions(*(np.array(column) for column in zip(*rows, strict=True)))


def _stem(source: str) -> str:
    """A source as part of a file's name."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", source.removesuffix(".npz")).strip("-")


def read_patients(results_dir: Path, run: StoredRun, split: str) -> np.ndarray | None:
    """(N,) patient of each image of a run, or None where no list of names fits it."""
    wanted = run.predictions[split]
    try:
        with (results_dir / f"{run.stem}_names.csv").open(encoding="utf-8", newline="") as file:
            names = {
                (row["split"], int(row["index"]), int(row["label"])): row["name"]
                for row in csv.DictReader(file)
            }
        images = zip(wanted.origin, wanted.index, wanted.labels, strict=True)
        found = [names[str(origin), int(i), int(label)] for origin, i, label in images]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Split.patients_of(np.array(found))


def write_names(data: TwoClassData, results_dir: Path) -> Path:
    """Write which image of the NIH each two-class image is: split, index, name, label.

    Raises:
        InputError: the source has no names.
    """
    if data.train.names is None:
        raise InputError(f"'{data.source}' holds no names of images")
    path = results_dir / f"{_stem(data.source)}_names.csv"
    rows = [
        (split, *row)
        for split in SPLITS
        for part in (getattr(data, split),)
        for row in zip(part.index.tolist(), part.names.tolist(), part.labels.tolist(), strict=True)
    ]
    results_dir.mkdir(parents=True, exist_ok=True)
    write_csv(path, ("split", "index", "name", "label"), rows)
    return path


class Page:
    """Text in one language.

    Args:
        language: ``en`` or ``id``.
    """

    def __init__(self, language: str) -> None:
        self.column = LANGUAGES.index(language)
        self.blocks: list[str] = []

    def say(self, key: str, **values: Any) -> str:
        return MESSAGES[key][self.column].format(**values)

    def add(self, text: str) -> None:
        self.blocks.append(text)

    def number(self, value: float | None, form: str = ".3f") -> str:
        """With the language's decimal mark; a dash where there is no number."""
        if value is None or not np.isfinite(value):
            return NOTHING
        text = format(value, form)
        return text.translate(str.maketrans(".,", ",.")) if self.column else text

    def percent(self, value: float) -> str:
        return f"{self.number(100 * value, '.1f')} %"

    def interval(self, ends: Sequence[float] | None, form: str = ".3f", factor: float = 1) -> str:
        if not ends:
            return ""
        low, high = (self.number(factor * end, form) for end in ends)
        return self.say("interval", low=low, high=high)

    def table(self, heads: Sequence[str], rows: Sequence[Sequence[str]], left: int = 2) -> None:
        """Add a table whose first ``left`` columns are flush left."""
        self.add(markdown_table(heads, rows, left))

    def text(self) -> str:
        return "\n\n".join(self.blocks) + "\n"


def markdown_table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], left: int | None = None
) -> str:
    """A table whose first ``left`` columns are flush left, the others right; None: all left."""
    left = len(heads) if left is None else left
    rules = ["---"] * left + ["---:"] * (len(heads) - left)
    return "\n".join(f"| {' | '.join(line)} |" for line in [heads, rules, *rows])


def write_report(results_dir: Path, language: str = "en") -> Path:
    """Write ``README.md`` (or ``README.id.md``) and the pictures it needs into ``results_dir``.

    Raises:
        InputError: there is no finished run.
        OSError: a file cannot be written.
    """
    runs = read_runs(results_dir)
    page = Page(language)
    names = {code: "README.md" if code == "en" else f"README.{code}.md" for code in LANGUAGES}
    page.add(f"# {page.say('title')}")
    for code in LANGUAGES:
        if code != language and (results_dir / names[code]).exists():
            page.add(f"[{MESSAGES['language'][LANGUAGES.index(code)]}]({names[code]})")
    page.add(page.say("intro"))
    page.add(f"## {page.say('protocol_title')}")
    page.add(page.say("protocol"))
    page.add(page.say("reading"))
    own_pages = [  # of comparisons, whose runs lie deeper
        path
        for path in sorted(results_dir.glob("*/README.md"))
        if not (path.parent / "metrics.json").exists()
    ]
    if own_pages:
        links = (f"- [{_heading(p)}]({_link(results_dir, p)})" for p in own_pages)
        page.add("\n".join([f"{page.say('own_pages')}\n", *links]))
    groups: dict[tuple[bool, str], list[StoredRun]] = {}
    for run in runs:
        key = run.phantom, run.metrics["data"]["sha256"]
        groups.setdefault(key, []).append(run)
    real = sorted(
        (group for (phantom, _), group in groups.items() if not phantom),
        key=lambda group: group[0].source,
    )
    stems = Counter(group[0].stem for group in groups.values())

    def add(group: list[StoredRun], level: str) -> None:
        source, sha256 = group[0].source, group[0].metrics["data"]["sha256"]
        suffix = f"_{sha256[:6]}" if stems[group[0].stem] > 1 else ""  # files of the same name
        about = f" (SHA-256 {sha256[:6]})" if suffix else ""
        _add_source(page, results_dir, group, f"{level} {_escaped(source)}{about}", suffix)

    for group in real:
        add(group, "##")
    for path in sorted(results_dir.glob("*/ablation.json")):
        _add_ablation(page, results_dir, path.parent)
    phantoms = [group for (phantom, _), group in groups.items() if phantom]
    if phantoms:
        page.add(f"## {page.say('phantom_title')}")
        page.add(f"**{PHANTOM_MARK}.** {page.say('phantom')}")
    for group in phantoms:
        add(group, "###")
    path = results_dir / names[language]
    atomic_write(path, page.text())
    return path


def _heading(page: Path) -> str:
    """What a page calls itself, and its folder, which tells two of the same name apart."""
    with page.open(encoding="utf-8", errors="replace") as file:
        first = file.readline().lstrip("# ").strip()
    return f"{_escaped(first)} ({_escaped(page.parent.name)})"


def _add_ablation(page: Page, results_dir: Path, folder: Path) -> None:
    """The table of an ablation, with a link to its own page."""
    try:
        about = json.loads((folder / "ablation.json").read_text(encoding="utf-8"))
        with (folder / "table.csv").open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["verdict"]]
        cells = [_ablation_row(page, row) for row in rows]
        if about["repeats"] == 1:  # which decides nothing, see `verdicts`
            return
        source = about["data"]["source"]
        values = {key: about[key] for key in ("repeats", "folds", "net")}
        values["recipe_name"] = _recipe(about)
        text = page.say("ablation", source=_escaped(source), **values)
        net, recipe = _escaped(about["net"]), _escaped(about["recipe_name"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"NOTE: '{folder}' is left out, it is damaged: {error!r}", file=sys.stderr)
        return
    page.add(f"## {page.say('ablation_title', net=net, recipe=recipe)}")
    link = f"[{_escaped(folder.name)}]({_link(results_dir, folder / 'README.md')})"
    page.add(f"{text} {link}")
    if cells:
        heads = ("switch", "gain_auc", "gain_accuracy", "images_seen", "verdict")
        page.table([page.say(head) for head in heads], cells, left=1)


def _ablation_row(page: Page, row: Mapping[str, str]) -> tuple[str, ...]:
    gains = []
    for measure in ("auc", "accuracy"):
        value, *ends = (float(row[f"{measure}_gain{end}"]) for end in ("", "_low", "_high"))
        gains.append(f"{page.number(value, '+.3f')} {page.interval(ends, '+.3f')}")
    together = row["kind"] == "together"
    name = page.say("all_winners") if together else f"`{_escaped(row['configuration'])}`"
    ratio = f"x {page.number(float(row['images_ratio']), '.2f')}"
    return name, *gains, ratio, page.say(row["verdict"])


def _add_source(
    page: Page, results_dir: Path, group: list[StoredRun], heading: str, suffix: str
) -> None:
    """Everything about the runs on one source; runs on another never share a table with them."""
    # By validation: an order by test would be a choice made on test.
    group = sorted(group, key=lambda r: (r.kind == "yardstick", -r.metrics["val"]["auc"], r.name))
    sub = "#" * heading.index(" ") + "#"
    page.add(heading)
    counts = group[0].metrics["data"]["counts"]
    page.table(
        [page.say("split"), *(page.say(name) for name in CLASS_NAMES), page.say("together")],
        [
            [page.say(split), *(page.number(n, ",") for n in (*c.values(), sum(c.values())))]
            for split, c in counts.items()
        ],
        left=1,
    )
    if (results_dir / f"{group[0].stem}_names.csv").exists():
        page.add(f"[{page.say('names')}]({group[0].stem}_names.csv)")
    tested = [run for run in group if "test" in run.predictions]
    patients = read_patients(results_dir, tested[0], "test") if tested else None
    best = {key: _best(tested, key, patients) for key in ("accuracy", "auc")}
    page.add(f"{sub} {page.say('table_title')}")
    _add_table(page, results_dir, group, best)
    for key, (run, unclear) in best.items():
        if run is not None and len(tested) > 1:
            values = {
                "figure": page.say(f"test_{key}"),
                "run": f"{group.index(run) + 1} ({run.short_name})",
                "others": ", ".join(str(group.index(other) + 1) for other in unclear),
            }
            page.add(page.say("best_unclear" if unclear else "best_clear", **values))
    if not any(run.kind == "yardstick" for run in group):
        page.add(page.say("no_yardsticks"))
    _add_members(page, group)
    if len(tested) > 1:
        picture = results_dir / f"comparison_{group[0].stem}{suffix}.png"
        _draw_comparison(picture, group)
        page.add(f"![{page.say('comparison_caption')}]({picture.name})")
        page.add(f"*{page.say('comparison_caption')}*")
        page.add(f"{sub} {page.say('pairs_title')}")
        _add_pairs(page, group, tested, patients)
    _add_costs(page, group, sub)
    _add_cross_validation(page, results_dir, group, sub)
    page.add(f"{sub} {page.say('gallery_title')}")
    for number, run in enumerate(group, 1):
        _add_gallery(page, results_dir, run, number)


def _best(
    tested: Sequence[StoredRun], key: str, patients: np.ndarray | None
) -> tuple[StoredRun | None, list[StoredRun]]:
    """The run with the highest test figure, and those it is not clearly better than."""
    best = max(tested, key=lambda run: run.metrics["test"][key], default=None)
    others = [run for run in tested if run is not best]
    return best, [run for run in others if _difference(best, run, patients)[f"{key}_ci95"][0] <= 0]


def _difference(
    first: StoredRun, second: StoredRun, patients: np.ndarray | None, split: str = "test"
) -> dict[str, Any]:
    """`metrics.paired_difference` of two runs on the same images."""
    one, other = first.predictions[split], second.predictions[split]
    if not one.same_images(other):
        raise InputError(f"'{first.name}' and '{second.name}' were not judged on the same images")
    thresholds = first.metrics["threshold"], second.metrics["threshold"]
    scores = one.probabilities, other.probabilities
    return paired_difference(one.labels, *scores, thresholds, patients)


def _add_table(
    page: Page,
    results_dir: Path,
    group: Sequence[StoredRun],
    best: Mapping[str, tuple[StoredRun | None, list[StoredRun]]],
) -> None:
    looks = _looks(group)
    rows = []
    for number, run in enumerate(group, 1):
        metrics = run.metrics
        val = metrics["val"]
        about = [_model(page, run)]
        if run.kind == "ensemble":
            words = str(metrics.get("kind")).split()
            kind = next((kind for kind in ("folds", "runs") if kind in words), "seeds")
            about.append(page.say(f"average_of_{kind}", n=len(metrics["members"])))
            about.append(_recipe(metrics))
        elif run.kind == "network":
            about += [_recipe(metrics), page.say("seed", seed=metrics.get("seed"))]
        if run.kind != "yardstick":
            note = (metrics.get("starting_weights") or {}).get("note")
            about += [note] if note else []
        link = f"[{_escaped(run.short_name)}]({_link(results_dir, run.folder)}/)"
        cells = [
            str(number),
            f"{link}<br>{_escaped(' · '.join(part for part in about if part))}",
            _two_lines(page.percent(val["accuracy"]), page, val.get("accuracy_ci95"), ".1f", 100),
            page.say("yes" if val["accuracy"] >= GOAL else "no"),
            page.number(val["auc"]),
        ]
        for key, form, factor in (("accuracy", ".1f", 100), ("auc", ".3f", 1)):
            if metrics["test"] is None:
                cells.append(NOTHING)
                continue
            value = metrics["test"][key]
            text = page.percent(value) if key == "accuracy" else page.number(value)
            winner, unclear = best[key]
            if run is winner and not unclear and sum("test" in r.predictions for r in group) > 1:
                text = f"**{text}**"
            ends = metrics["test"].get(f"{key}_ci95")
            cells.append(_two_lines(text, page, ends, form, factor))
        costs = metrics.get("costs") or {}
        alone, batch = ((costs.get(f"inference_batch{n}") or {}).get("median_ms") for n in (1, 64))
        cells += [
            page.number(metrics.get("parameters"), ","),
            _time(page, metrics.get("seconds"), metrics.get("device")),
            NOTHING
            if alone is None
            else f"{page.number(alone, '.3g')} / {page.number(batch, '.3g')}",
            page.number(looks[run.group_key], "d"),
        ]
        rows.append(cells)
    heads = ["run", "val_accuracy", "goal", "val_auc", "test_accuracy", "test_auc"]
    heads += ["parameters", "time", "milliseconds", "looks"]
    page.table(["#", *(page.say(f"head_{head}") for head in heads)], rows)
    unit = group[0].metrics.get("bootstrap_unit")
    page.add(page.say("below_table", unit=page.say(unit if unit == "patient" else "image")))


def _add_costs(page: Page, group: Sequence[StoredRun], sub: str) -> None:
    """What each network costs; times and speed ratios only among runs on the same device."""
    rows = []
    for number, run in enumerate(group, 1):
        metrics, costs = run.metrics, run.metrics.get("costs")
        if not costs:
            continue
        same = [r.metrics for r in group if r.metrics.get("device") == metrics.get("device")]
        slowest = max(other["seconds"] for other in same)
        spread = []
        for n in (1, 64):
            times = costs.get(f"inference_batch{n}") or {}
            ends = [times[key] for key in ("low_ms", "high_ms") if key in times]
            text = page.number(times.get("median_ms"), ".3g")
            spread.append(_two_lines(text, page, ends, ".3g", 1))
        rows.append(
            [
                str(number),
                _escaped(run.short_name),
                page.number(metrics.get("parameters"), ","),
                page.number(_over(costs.get("multiply_accumulates"), 1e6), ".3g"),
                page.percent(metrics["val"]["accuracy"]),
                page.percent(metrics["test"]["accuracy"]) if metrics["test"] else NOTHING,
                _time(page, metrics["seconds"], metrics.get("device")),
                f"{page.number(slowest / metrics['seconds'], '.1f')}x",
                page.number(metrics.get("images_per_second"), ".3g"),
                *spread,
                page.number(_over(costs.get("peak_memory_bytes"), 1e6), ".3g"),
                page.number(_over(costs.get("checkpoint_bytes"), 1e6), ".3g"),
            ]
        )
    if not rows:
        return
    heads = ["run", "parameters", "arithmetic", "val_accuracy", "test_accuracy", "time", "speed"]
    heads += ["training_rate", "alone", "of_64", "memory", "checkpoint"]
    page.add(f"{sub} {page.say('costs_title')}")
    page.table(["#", *(page.say(f"head_{head}") for head in heads)], rows)
    page.add(page.say("below_costs"))


def _over(value: float | None, unit: float) -> float | None:
    return None if value is None else value / unit


def _recipe(metrics: Mapping[str, Any]) -> str:
    """The recipe's name, and what the run does otherwise."""
    named = in_words(metrics.get("recipe_name") or "", metrics.get("recipe_changes") or {})
    return named.replace("`", "")


def _looks(group: Sequence[StoredRun]) -> Counter[str]:
    """How many runs of each recipe were evaluated on test, the members of ensembles included."""
    looks: Counter[str] = Counter()
    for run in group:
        if "test" not in run.predictions:
            continue
        looks[run.group_key] += 1
        if run.kind == "ensemble" and "seeds" in str(run.metrics.get("kind")):
            single = json.dumps([run.recipe_key, "network", None])
            looks[single] += sum("test" in member for member in run.metrics["members"])
    return looks


def _two_lines(
    text: str, page: Page, ends: Sequence[float] | None, form: str, factor: float
) -> str:
    return f"{text}<br>{page.interval(ends, form, factor)}" if ends else text


def _model(page: Page, run: StoredRun) -> str:
    recipe = (run.metrics.get("recipe") or {}).get("name")
    if run.kind == "yardstick" and f"yardstick_{recipe}" in MESSAGES:
        return page.say(f"yardstick_{recipe}")
    return run.metrics["model"]


def _time(page: Page, seconds: float | None, device: str | None) -> str:
    from console import duration

    if seconds is None:
        return NOTHING
    text = f"{page.number(seconds, '.1f')} s" if seconds < 60 else duration(seconds)
    return f"{text} ({device})" if device else text


def _add_members(page: Page, group: Sequence[StoredRun]) -> None:
    """How the single networks of the ensembles do, one line for each ensemble."""
    for number, run in enumerate(group, 1):
        figures = (run.metrics.get("mean_and_sd") or {}).get("test")
        if run.kind != "ensemble" or not figures:
            continue
        accuracy, auc = figures["accuracy"], figures["auc"]
        values = {
            "run": f"{number} ({_escaped(run.short_name)})",
            "accuracy": f"{page.percent(accuracy['mean'])} ± {page.percent(accuracy['sd'])}",
            "auc": f"{page.number(auc['mean'])} ± {page.number(auc['sd'])}",
        }
        page.add(page.say("members_alone", **values))


def _add_cross_validation(
    page: Page, results_dir: Path, group: Sequence[StoredRun], heading: str
) -> None:
    """The runs that were cross-validated, against the best yardstick and the report's recipe."""
    runs = [run for run in group if "oof" in run.predictions]
    if not runs:
        return
    yardsticks = [run for run in runs if run.kind == "yardstick"]
    reference = max(yardsticks, key=lambda run: run.metrics["oof"]["auc"], default=None)
    rows = []
    for run in sorted(runs, key=lambda run: -run.metrics["oof"]["auc"]):
        figures = run.metrics["oof"]
        over = sorted(set(run.predictions["oof"].origin.tolist()))
        reported = [
            other
            for other in runs
            if (other.kind, other.metrics["model"]) == (run.kind, run.metrics["model"])
            and other.metrics.get("recipe_name") == "report"
            and not other.metrics.get("recipe_changes")
        ]
        rows.append(
            [
                f"{group.index(run) + 1} {_escaped(run.short_name)}",
                " + ".join(page.say(split) for split in over),
                page.number(figures["n"], ","),
                f"{page.number(figures['auc'])} {page.interval(figures.get('auc_ci95'))}",
                _oof_gain(page, results_dir, run, [reference] if reference else []),
                _oof_gain(page, results_dir, run, reported),
            ]
        )
    page.add(f"{heading} {page.say('cross_validation_title')}")
    heads = [page.say(f"head_{head}") for head in ("run", "divided", "images", "oof_auc")]
    name = "" if reference is None else reference.short_name
    heads += [page.say("head_gain", reference=_escaped(name)), page.say("head_gain_report")]
    page.table(heads, rows)
    page.add(page.say("below_cross_validation"))


def _oof_gain(
    page: Page, results_dir: Path, run: StoredRun, references: Sequence[StoredRun]
) -> str:
    """AUC out of fold, less that of the first of the others that was asked for the same images."""
    for other in references:
        if other is not run and run.predictions["oof"].same_images(other.predictions["oof"]):
            patients = read_patients(results_dir, run, "oof")
            difference = _difference(run, other, patients, "oof")
            gain = page.number(difference["auc"], "+.3f")
            return f"{gain} {page.interval(difference['auc_ci95'], '+.3f')}"
    return NOTHING


def _draw_comparison(picture: Path, group: Sequence[StoredRun]) -> None:
    chosen: dict[str, StoredRun] = {}
    for run in group:  # in the order of validation AUC
        if "test" in run.predictions:
            chosen.setdefault(run.group_key, run)
    points = [
        {
            "number": number,
            "kind": run.kind,
            "accuracy": run.metrics["test"]["accuracy"],
            "interval": run.metrics["test"]["accuracy_ci95"],
            "parameters": run.metrics.get("parameters"),
            "seconds": run.metrics.get("seconds"),
        }
        for number, run in enumerate(group, 1)
        if chosen.get(run.group_key) is run
    ]
    several = len(chosen) < sum("test" in run.predictions for run in group)
    which = " · of several seeds the one with the highest val AUC" if several else ""
    n = sum(group[0].metrics["data"]["counts"]["test"].values())
    title = f"Test accuracy (held out) with 95 % intervals{which}\n{group[0].source} · test n = {n}"
    visualize.draw_comparison(points, picture, title=title)


def _add_pairs(
    page: Page,
    group: Sequence[StoredRun],
    tested: Sequence[StoredRun],
    patients: np.ndarray | None,
) -> None:
    if len(tested) <= ALL_PAIRS:
        pairs = list(combinations(tested, 2))
    else:
        yardsticks = [run for run in tested if run.kind == "yardstick"]
        references = [tested[0], *(run for run in yardsticks[:1] if run is not tested[0])]
        others = [run for run in tested if run not in references]
        pairs = [*combinations(references, 2), *((a, b) for b in references for a in others)]
        page.add(page.say("some_pairs", references=", ".join(r.short_name for r in references)))
    rows = []
    for first, second in pairs:
        names = (f"{group.index(run) + 1} {_escaped(run.short_name)}" for run in (first, second))
        rows.append([*names, *_pair_cells(page, first, second, patients)])
    heads = ["first", "second", "accuracy_gain", "auc_gain", "only_first", "only_second", "mcnemar"]
    page.table([page.say(f"head_{head}") for head in heads], rows)
    if len(tested) > ALL_PAIRS:
        summary = html.escape(page.say("pairs_summary", n=len(rows)))
        page.blocks[-1] = (
            f"<details><summary>{summary}</summary>\n\n{page.blocks[-1]}\n\n</details>"
        )
    unit = page.say("image" if patients is None else "patient")
    page.add(page.say("below_pairs", unit=unit))


def _pair_cells(
    page: Page, first: StoredRun, second: StoredRun, patients: np.ndarray | None
) -> list[str]:
    gain = _difference(first, second, patients)
    test = mcnemar(first.hits("test"), second.hits("test"))
    points = page.number(100 * gain["accuracy"], "+.1f")
    return [
        f"{points} {page.interval(gain['accuracy_ci95'], '+.1f', 100)}",
        f"{page.number(gain['auc'], '+.3f')} {page.interval(gain['auc_ci95'], '+.3f')}",
        str(test["only_first"]),
        str(test["only_second"]),
        page.number(test["p"], ".2g" if test["p"] >= 1e-4 else ".0e"),
    ]


def describe_pair(results_dir: Path, first: str, second: str) -> str:
    """The comparison of two runs on the test images, as lines of text.

    Raises:
        InputError: one of them is not there, was not tested, or on other images.
    """
    runs = {run.name: run for run in read_runs(results_dir)}
    for name in (first, second):
        if name not in runs:
            raise InputError(f"there is no finished run '{name}'; there are {', '.join(runs)}")
        if "test" not in runs[name].predictions:
            raise InputError(f"'{name}' was not evaluated on the test images")
    one, other = runs[first], runs[second]
    if one.metrics["data"]["sha256"] != other.metrics["data"]["sha256"]:
        raise InputError(f"'{first}' and '{second}' are of different data")
    patients = read_patients(results_dir, one, "test")
    page = Page("en")
    accuracy, auc, only_first, only_second, p = _pair_cells(page, one, other, patients)
    unit = "images" if patients is None else "patients"
    return (
        f"test, {first} minus {second} (95 % intervals resample {unit})\n"
        f"accuracy {accuracy} points, AUC {auc}\n"
        f"only the first right {only_first}, only the second right {only_second}, "
        f"McNemar's exact p {p} (takes images for independent)"
    )


def _add_gallery(page: Page, results_dir: Path, run: StoredRun, number: int) -> None:
    if not (run.folder / "calibration.png").exists():  # a run of an older version
        _draw_calibration(run)
    summary = html.escape(f"{number} · {run.short_name} · {_model(page, run)}")
    where = _link(results_dir, run.folder)
    lines = [f"<details{' open' if number == 1 else ''}><summary>{summary}</summary>", ""]
    for name in GALLERY:
        if (run.folder / f"{name}.png").exists():
            caption = page.say(f"caption_{name}")
            lines += [f"![{caption}]({where}/{name}.png)", "", f"*{caption}*", ""]
    if (run.folder / "mistakes.md").exists():
        lines += [f"[{page.say('mistakes')}]({where}/mistakes.md)", ""]
    page.add("\n".join([*lines, "</details>"]))


def _shown(run: StoredRun) -> list[str]:
    return [split for split in ("val", "test") if split in run.predictions]


def _draw_calibration(run: StoredRun) -> None:
    splits = _shown(run)
    n = ", ".join(f"{split} n = {run.metrics[split]['n']}" for split in splits)
    curves = {
        SPLIT_TITLES[split]: {
            "labels": run.predictions[split].labels,
            "probabilities": run.predictions[split].probabilities,
        }
        for split in splits
    }
    visualize.draw_calibration(
        curves,
        run.folder / "calibration.png",
        title=f"{run.name} · {run.metrics['model']}\n{run.source} · {n}",
        threshold=run.metrics["threshold"],
    )


def write_mistakes(data: TwoClassData, results_dir: Path, name: str | None = None) -> list[Path]:
    """Write ``mistakes.md`` and ``mistakes.png`` of a run, or of every run on these data.

    Raises:
        InputError: there is no such run, or it is of other data.
    """
    runs = [run for run in read_runs(results_dir) if name in (None, run.name)]
    if not runs:
        raise InputError(f"--run '{name}': there is no such finished run in '{results_dir}'")
    fitting = [run for run in runs if run.metrics["data"]["sha256"] == data.sha256]
    if not fitting:
        which = "no run in" if name is None else f"run '{name}' in"
        raise InputError(f"{which} '{results_dir}' was made from '{data.source}'")
    return [_write_mistakes(run, data) for run in fitting]


def _write_mistakes(run: StoredRun, data: TwoClassData) -> Path:
    threshold = run.metrics["threshold"]
    groups: dict[str, list[tuple[np.ndarray, int, float, int]]] = {}
    sections = []
    for split in _shown(run):
        predictions, part = run.predictions[split], getattr(data, split)
        index, labels = predictions.index, predictions.labels
        probabilities = predictions.probabilities
        if not (np.array_equal(index, part.index) and np.array_equal(labels, part.labels)):
            raise InputError(f"'{run.folder}' is not about the {split} images of '{data.source}'")
        hits = run.hits(split)
        predicted = probabilities >= threshold
        confidence = np.where(predicted, probabilities, 1 - probabilities)
        doubt = np.abs(probabilities - threshold)
        wrong = np.flatnonzero(~hits)
        kinds = {
            "most confident errors": wrong[np.argsort(-confidence[wrong], kind="stable")],
            "most uncertain": np.argsort(doubt, kind="stable"),
        }
        of = SPLIT_TITLES[split]
        sections.append(f"## {of.capitalize()}: {len(wrong)} of {len(hits)} wrong")
        for kind, rows in kinds.items():
            groups[f"{of}: {kind}"] = [
                (part.images[i], int(labels[i]), float(probabilities[i]), int(index[i]))
                for i in rows[:SHOWN]
            ]
            heads = ["index", "true class", "predicted class", "probability", "confidence"]
            heads += ["image"] if part.names is not None else []
            cells = [
                [
                    str(index[i]),
                    CLASS_NAMES[labels[i]],
                    CLASS_NAMES[int(predicted[i])] + ("" if hits[i] else " (wrong)"),
                    f"{probabilities[i]:.3f}",
                    f"{100 * confidence[i]:.1f} %",
                    *([] if part.names is None else [_escaped(str(part.names[i]))]),
                ]
                for i in rows[:LISTED]
            ]
            sections.append(f"### {kind.capitalize()}")
            sections.append(
                markdown_table(heads, cells, 3) if cells else "None: every one is right."
            )
    page = Page("en")
    page.add(f"# Mistakes of {run.name}")
    page.add(f"{_escaped(run.metrics['model'])} on {_escaped(run.source)}.")
    page.add(
        "**How to read this.** *Index* is the row in the split of the source file, as in "
        f"`*_probabilities.csv`. *Probability* is that of {CLASS_NAMES[1]}, which is predicted "
        f"from {threshold:.2f} on; *confidence* is the probability of the predicted class. *Most "
        "confident errors* are the wrong predictions of which the model was surest: ask whether "
        "something in the picture explains them (a rotated or cropped patient, tubes and wires, "
        "both findings looking alike at this size), or whether the label may be wrong. *Most "
        "uncertain* are the predictions nearest to the threshold, right or wrong: there a small "
        "change of the model changes the answer."
    )
    if not data.phantom:
        page.add(
            "The labels were mined from the text of radiology reports (Wang et al., CVPR 2017), "
            "and some of them are wrong."
        )
    if "test" in run.predictions:
        page.add(f"**{WARNING}** Whatever is changed because of them makes test a second val.")
    page.add(f"![The first {SHOWN} of each list](mistakes.png)")
    for section in sections:
        page.add(section)
    n = ", ".join(f"{split} n = {run.metrics[split]['n']}" for split in _shown(run))
    visualize.draw_mistakes(
        groups,
        run.folder / "mistakes.png",
        threshold=threshold,
        title=f"Mistakes of {run.name}\n{run.source} · {n} · threshold {threshold:.2f}",
        notes=[WARNING] * ("test" in run.predictions) + [NIH_CREDIT] * (not data.phantom),
    )
    path = run.folder / "mistakes.md"
    atomic_write(path, page.text())
    return path


def _link(results_dir: Path, folder: Path) -> str:
    return folder.relative_to(results_dir).as_posix()


def _escaped(text: str) -> str:
    """Text that cannot break a table or become markup."""
    return re.sub(r"([\\`*\[\]|<>])", r"\\\1", text)
