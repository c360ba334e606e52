"""The rows of the first page's table: experiments, averages and baselines, one each."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chestlab.evaluation.looks import NETWORKS_BETWEEN
from chestlab.evaluation.out_of_fold import AVERAGE_KIND, NETWORK_KIND
from chestlab.reporting.fresh_results import FreshFolds, Seeds
from chestlab.reporting.lab_experiments import experiment_of
from chestlab.reporting.page import Wording, in_language, link
from chestlab.reporting.run_tables import model_name
from chestlab.reporting.stored_runs import StoredRun, start_of, start_source
from chestlab.training.network_names import with_strides

OTHERS = 99  # number of a network that is none of the experiments'


@dataclass(frozen=True)
class Row:
    """A row.

    Attributes:
        label: plain text, for the picture and for sentences, too.
        address: of its page, from the page's folder.
        kind: ``network``, ``seeds`` (a mean over them), ``average`` or ``baseline``.
        run: whose figures of val and test it shows, or None.
        seeds: whose means it shows instead, or None.
        fresh: name of its configuration on the fresh folds, or None.
        like: what a run is of that starts as this does; for rows without a run.
    """

    label: str
    address: str
    kind: str
    run: StoredRun | None = None
    seeds: Seeds | None = None
    fresh: str | None = None
    like: Mapping[str, Any] = field(default_factory=dict)

    @property
    def metrics(self) -> Mapping[str, Any]:
        """What the run, or the runs of several seeds, are of."""
        if self.run is not None:
            return self.run.metrics
        return self.seeds.about if self.seeds is not None else {}

    @property
    def start(self) -> Mapping[str, Any]:
        """The weights that it starts from, empty where none are told."""
        return (self.metrics or self.like).get("starting_weights") or {}

    @property
    def without_imagenet(self) -> bool:
        """Whether it starts from random numbers where the report's experiment does not."""
        return bool(self.start.get("note"))

    @property
    def subject(self) -> tuple[str, str]:
        """Network and name of the recipe."""
        return title_of(self.metrics), _recipe_name(self.metrics)


def table_rows(
    wording: Wording,
    page_dir: Path,
    runs: Sequence[StoredRun],
    fresh: FreshFolds | None,
    seeds: Sequence[Seeds],
) -> list[Row]:
    """The rows in their order: experiments by number, averages, baselines.

    Args:
        wording: language of the page.
        page_dir: folder of the page.
        runs: on the same images, in whatever size; of those of one network and recipe the row
            shows the one that `_representative` picks.
        fresh: study on fresh folds of these images.
        seeds: studies of several seeds on these images; a mean stands in the place of single runs.
    """
    rows = [
        *_network_rows(wording, page_dir, runs, fresh),
        *_seed_rows(wording, page_dir, seeds),
    ]
    means = {(title_of(of.about), _recipe_name(of.about)) for of in seeds}
    rows = [row for row in rows if row.seeds or row.subject not in means]
    rows.sort(key=lambda row: (number_of(row.metrics), row.subject[0], row.kind == "seeds"))
    if fresh is not None:
        page = study_page(wording, page_dir, fresh.folder)
        rows = _with_fresh_folds(wording, rows, fresh, page)
    return [
        *rows,
        *_average_rows(wording, page_dir, runs, fresh),
        *_baseline_rows(wording, page_dir, runs, fresh),
    ]


def page_of(wording: Wording, page_dir: Path, run: StoredRun) -> str:
    """The address of a run's report, or of its folder where it has none."""
    report = in_language(wording, run.folder / "README.md")
    return link(page_dir, report) if report.exists() else f"{link(page_dir, run.folder)}/"


def study_page(wording: Wording, page_dir: Path, folder: Path) -> str:
    """The address of a study's page."""
    return link(page_dir, in_language(wording, folder / "README.md"))


def title_of(metrics: Mapping[str, Any]) -> str:
    """What a network is called."""
    arguments = metrics.get("model_arguments") or {}
    arch = arguments.get("arch", metrics["model"])
    title = experiment_of(metrics).title.format(model=metrics["model"], arch=arch)
    return with_strides(title, arguments)


def number_of(metrics: Mapping[str, Any]) -> int:
    """The number of a network's experiment, `OTHERS` of another network."""
    return experiment_of(metrics).number or OTHERS


def _recipe_name(metrics: Mapping[str, Any]) -> str:
    return metrics.get("recipe_name") or ""


def _from_start(wording: Wording, label: str, start: str) -> str:
    return wording.say("from_start", label=label, start=start) if start else label


def _numbered(wording: Wording, metrics: Mapping[str, Any]) -> str:
    number = number_of(metrics)
    label = title_of(metrics) if number == OTHERS else f"{number} {title_of(metrics)}"
    return _from_start(wording, label, start_of(metrics))


def _short(metrics: Mapping[str, Any]) -> str:
    number = number_of(metrics)
    return title_of(metrics) if number == OTHERS else str(number)


def _network_rows(
    wording: Wording, page_dir: Path, runs: Sequence[StoredRun], fresh: FreshFolds | None
) -> list[Row]:
    by_recipe: dict[tuple[str, str, str], list[StoredRun]] = defaultdict(list)
    for run in runs:
        if run.kind == "network":
            key = title_of(run.metrics), _recipe_name(run.metrics), start_of(run.metrics)
            by_recipe[key].append(run)
    sizes = Counter(run.metrics["data"]["sha256"] for run in runs)
    main = fresh.sha256 if fresh else max(sizes, key=lambda key: sizes[key], default="")
    recipes = Counter(title for title, *_ in by_recipe)
    rows = []
    for (title, recipe, _), of_recipe in by_recipe.items():
        run = _representative(of_recipe, main)
        label = _numbered(wording, run.metrics)
        if recipes[title] > 1 and recipe == "report":
            label += f", {recipe}"
        if run.metrics["data"]["sha256"] != main:
            label += f", {run.metrics['data'].get('size')} px"
        rows.append(Row(label, page_of(wording, page_dir, run), "network", run))
    return rows


def _representative(runs: Sequence[StoredRun], main: str) -> StoredRun:
    """Of a network's runs with one recipe: unchanged, on the main file, highest val AUC.

    Args:
        runs: one or more.
        main: SHA-256 of the file that most is measured on; others hold the images in other sizes.
    """

    def place(run: StoredRun) -> tuple:
        changed = bool(run.metrics.get("recipe_changes"))
        other = run.metrics["data"]["sha256"] != main
        return changed, other, -run.ordering_auc("val"), run.name

    return min(runs, key=place)


def _seed_rows(wording: Wording, page_dir: Path, seeds: Sequence[Seeds]) -> list[Row]:
    return [
        Row(
            wording.say("mean_of_seeds", number=_short(of.about), n=len(of.about["runs"])),
            study_page(wording, page_dir, of.folder),
            "seeds",
            seeds=of,
        )
        for of in seeds
    ]


def _with_fresh_folds(
    wording: Wording, rows: Sequence[Row], fresh: FreshFolds, page: str
) -> list[Row]:
    """Rows of networks with their configurations on the fresh folds, of the same recipe and start.

    A network of which another recipe alone was measured there has a row of its own for that, and so
    has the best network there, where it differs in hyperparameters from the rows of its recipe.

    Args:
        page: address of the study's page.
    """
    known = [fresh.of_network(_names(row.metrics)) for row in rows]
    titles = Counter(row.subject[0] for row in rows)
    found: list[Row] = []
    for row, names in zip(rows, known, strict=True):
        same = [name for name in names if _is_of(row, fresh.configurations[name])]
        found.append(dataclasses.replace(row, fresh=same[-1] if same else None))
        if names and not same and titles[row.subject[0]] == 1:
            about = fresh.configurations[names[0]]
            label = ", ".join((_numbered(wording, row.metrics), *_in_words(about)))
            as_noted = row.without_imagenet and start_source(about) == "none"
            like = row.metrics if as_noted else {}
            found.append(Row(label, page, "network", fresh=names[0], like=like))
    return _with_best_network(found, fresh, page)


def _with_best_network(rows: Sequence[Row], fresh: FreshFolds, page: str) -> list[Row]:
    """Rows with one for the network of the highest AUC on the fresh folds, if it has none."""
    best = fresh.highest(NETWORK_KIND)
    if best is None or any(row.fresh == best for row in rows):
        return list(rows)
    about = fresh.configurations[best]
    places = [
        place
        for place, row in enumerate(rows)
        if row.run and about["model"] in _names(row.metrics) and _begins_as(row, about)
    ]
    if not places:
        return list(rows)
    like, after = rows[places[-1]], places[-1] + 1
    known = _changes(like.metrics)
    changes = [f"{k} {v}" for k, v in about["recipe_changes"].items() if known.get(k) != v]
    label = ", ".join((like.label, *changes))
    row = Row(label, page, "network", fresh=best, like=like.metrics)
    return [*rows[:after], row, *rows[after:]]


def _is_of(row: Row, about: Mapping[str, Any]) -> bool:
    """Whether a configuration of the fresh folds has the recipe of a row, and starts as it does."""
    return _begins_as(row, about) and about["recipe_changes"] == _changes(row.metrics)


def _begins_as(row: Row, about: Mapping[str, Any]) -> bool:
    """The same but for the hyperparameters in which it differs from the recipe."""
    wanted = _recipe_name(row.metrics), start_source(row.metrics)
    return (about["recipe_name"], start_source(about)) == wanted


def _in_words(about: Mapping[str, Any]) -> list[str]:
    """The recipe of a configuration of the fresh folds, in plain text."""
    return [about["recipe_name"], *(f"{key} {v}" for key, v in about["recipe_changes"].items())]


def _changes(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What a run does otherwise than its recipe, as studies name it.

    A network that starts from random numbers has no stage with a frozen backbone, and every run has
    a seed: neither is told there.
    """
    changes = metrics.get("recipe_changes") or {}
    return {key: value for key, value in changes.items() if key not in ("stage1_epochs", "seed")}


def _names(metrics: Mapping[str, Any]) -> set[str]:
    """What studies call a network: by its class, or torchvision's by their own names."""
    arguments = metrics.get("model_arguments") or {}
    model, arch = with_strides(metrics["model"], arguments), arguments.get("arch", "")
    return {model, arch, title_of(metrics).replace("-", "").lower()} - {""}


def averaged(wording: Wording, models: Sequence[str], start: str = "") -> str:
    """The numbers of experiments that are averaged, as ``1 and 2`` or ``1, 2 and 4 (2 x)``.

    Args:
        wording: language.
        models: that are averaged.
        start: what `start_of` tells of the last one.
    """
    counts = Counter(_short({"model": model}) for model in models)
    names = (f"{name} ({n} x)" if n > 1 else name for name, n in counts.items())
    return _from_start(wording, wording.listed(names), start)


def _average_rows(
    wording: Wording, page_dir: Path, runs: Sequence[StoredRun], fresh: FreshFolds | None
) -> list[Row]:
    """A row for each average of different networks, on fresh folds or as a run."""
    blends = {
        (tuple(run.metrics["model"].split(" + ")), start_of(run.metrics)): run
        for run in sorted(runs, key=lambda run: run.ordering_auc("val"))
        if run.metrics.get("blend")
    }
    measured = {  # of several averages of the same networks the last one, with current recipes
        (tuple(about["model"].split(NETWORKS_BETWEEN)), start_of(about)): name
        for name, about in (fresh.configurations.items() if fresh else ())
        if about["kind"] == AVERAGE_KIND
    }
    rows = []
    for key in dict.fromkeys([*measured, *blends]):
        label = wording.say("average_of", of=averaged(wording, *key))
        run = blends.get(key)
        if run is not None:
            address = page_of(wording, page_dir, run)
        else:
            assert fresh is not None  # where the average was measured
            address = study_page(wording, page_dir, fresh.folder)
        rows.append(Row(label, address, "average", run, fresh=measured.get(key)))
    return rows


def _baseline_rows(
    wording: Wording, page_dir: Path, runs: Sequence[StoredRun], fresh: FreshFolds | None
) -> list[Row]:
    rows: dict[str, Row] = {}
    for run in sorted(runs, key=lambda run: -run.ordering_auc("val")):
        label = model_name(wording, run)
        if run.kind != "baseline" or label in rows:
            continue
        key = (run.metrics.get("recipe") or {}).get("name")
        known = key if fresh is not None and key in fresh.configurations else None
        rows[label] = Row(label, page_of(wording, page_dir, run), "baseline", run, fresh=known)
    return list(rows.values())
