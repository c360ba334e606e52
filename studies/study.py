"""What all studies by cross-validation share: flags, data, folds, networks, tables and pages."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from chestlab.data import sources
from chestlab.data.folds import FOLDS_SEED, CrossValidationSplits
from chestlab.data.phantom import PHANTOM_MARK
from chestlab.evaluation.baselines import Baseline
from chestlab.evaluation.bootstrap import BOOTSTRAP_RESAMPLES
from chestlab.evaluation.out_of_fold import OutOfFold
from chestlab.files import claims
from chestlab.files.atomic import atomic_write, check_writable, make_folder, write_csv
from chestlab.files.errors import InputError, OneLineParser
from chestlab.files.progress import StopSignals
from chestlab.files.run_files import STUDIES
from chestlab.reporting.numbers import MISSING
from chestlab.reporting.page import Wording
from chestlab.runs import crossval
from chestlab.runs.crossval import STORE, Configuration, Outcome, Store
from chestlab.runs.flags import (
    add_data,
    add_folder,
    add_hyperparameter,
    checked,
    given_hyperparameters,
)
from chestlab.runs.naming import check_name, output_folders, run_name
from chestlab.training.batch_norm import frozen_norms
from chestlab.training.device import check_precision, pick_device
from chestlab.training.layers import check_input, set_drop_paths, without_slow_bf16
from chestlab.training.recipe import Recipe, from_random_numbers, hyperparameter
from chestlab.training.weights import read_pretrained
from networks import Network, network
from studies.redraw import add_redraw

REPEATS = hyperparameter(2, "", low=1, high=100)

FOLDS = hyperparameter(5, "", low=2, high=100)

ENGLISH = Wording("en")

TEMPLATES = Path(__file__).parent / "templates"


def comparison_parser(
    study: str,
    description: str,
    write_page: Callable[[Path], None] | None = None,
    *,
    frozen: bool = False,
) -> OneLineParser:
    """The flags that every study by cross-validation has.

    Args:
        study: name of its module, for the line on how it is used.
        description: one line.
        write_page: what ``--redraw FOLDER`` calls; without it there is no such flag.
        frozen: leave out the flags of the recipe and of the weights to start from.
    """
    parser = OneLineParser(
        prog=f"python -m studies.{study}",
        description=description,
        allow_abbrev=False,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=28, width=96),
    )
    add = parser.add_argument
    add_data(parser)
    refuse_classes(parser)
    add(
        "--folds",
        type=checked(FOLDS),
        default=FOLDS.default,
        metavar="K",
        help="parts of the "
        "train and val images, patients together; each is held out once (default: %(default)s)",
    )
    add(
        "--repeats",
        type=checked(REPEATS),
        default=REPEATS.default,
        metavar="R",
        help="divisions into folds, each with another seed (default: %(default)s)",
    )
    if not frozen:
        add(
            "--weights",
            default="imagenet",
            metavar="{imagenet,none,FILE}",
            help="what networks start from; imagenet: those that have a backbone "
            "(default: imagenet)",
        )
    add("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="(default: auto)")
    add_folder(parser, "--results-dir", "results")
    add_folder(parser, "--models-dir", "trained_models")
    add("--name", help="of the folder of results (default: made of what is compared and the data)")
    if write_page is not None:
        add_redraw(parser, write_page)
    if frozen:
        return parser
    group = parser.add_argument_group("recipe", "Hyperparameters that differ from the recipe's.")
    for field in dataclasses.fields(Recipe):
        if field.metadata:
            add_hyperparameter(group, field.name, field, "the recipe's")
    return parser


def refuse_classes(parser: argparse.ArgumentParser) -> None:
    """Let ``--classes``, a flag of the training scripts, be refused with a remedy.

    Studies store what they have trained by the file that it was trained on; read in another order
    of the classes, the same file would find the networks of the other order.
    """

    def refuse(text: str) -> None:
        raise argparse.ArgumentTypeError(
            "studies read files with 14 label columns; the error without this flag has a line of "
            "numpy that makes one"
        )

    parser.add_argument("--classes", type=refuse, help=argparse.SUPPRESS)


class Study:
    """Data, folds and output folders of a study, checked; nothing has been written yet.

    Args:
        options: of `comparison_parser`.
        signals: checked after every optimiser step.
        stem: what the name of the results' folder begins with.
        first_seed: of the folds: `folds.FOLDS_SEED` or `folds.FRESH_FOLDS_SEED`.
        repeats: usual number of them; another one is told in the folder's name.

    Attributes:
        data: without its test images.
        splits: which image is in which fold.
        folder: of the results.
        models_dir: of what is kept between two starts.
        changes: hyperparameters that the flags set.

    Raises:
        InputError: device, folders, data or name cannot be used.
    """

    def __init__(
        self,
        options: argparse.Namespace,
        signals: StopSignals,
        stem: str,
        first_seed: int = FOLDS_SEED,
        repeats: int = REPEATS.default,
    ) -> None:
        self.options, self.signals = options, signals
        self.device = pick_device(options.device)
        check_writable(options.results_dir, "--results-dir")
        check_writable(options.models_dir, "--models-dir")
        data = sources.load(options.data, options.root, options.source_size, related=True)
        self.data = dataclasses.replace(data, test=data.test.take(np.arange(0)))
        results_dir, self.models_dir = output_folders(options, data)
        self.changes = given_hyperparameters(options)
        usual = {"folds": FOLDS.default, "repeats": repeats}
        shape = {key: getattr(options, key) for key in usual}
        shape = {key: value for key, value in shape.items() if value != usual[key]}
        stem = stem.replace("/", "_")  # of networks called timm/NAME
        name = options.name or run_name(stem, options.data, data.size, {**self.changes, **shape})
        check_name(name)
        self.folder = results_dir / STUDIES / name
        self.splits = CrossValidationSplits(self.data, options.folds, options.repeats, first_seed)

    def open_store(self) -> None:
        """Make the folders of the results and of the finished folds."""
        make_folder(self.folder)
        self.store = Store(self.models_dir / STORE)

    def alone(self) -> contextlib.AbstractContextManager[None]:
        """Context in which no other process of the study reads or writes its results."""
        return claims.turn(self.models_dir / f"{self.folder.name}_results.claim")

    def check_stored(
        self, summary: Mapping[str, Any], oof: OutOfFold, repeats: Sequence[int] | None = None
    ) -> None:
        """Refuse stored results of other images or folds than those of this study.

        Args:
            summary: with what `about` tells of the data.
            oof: logits of the results.
            repeats: which ones ``oof`` has, from 0 (default: all).

        Raises:
            InputError: they are of others.
        """
        expected = OutOfFold.of(self.splits, {})
        folds = expected.folds if repeats is None else expected.folds[list(repeats)]
        same = np.array_equal(oof.folds, folds) and all(
            np.array_equal(getattr(oof, key), getattr(expected, key))
            for key in ("origin", "index", "labels")
        )
        if not same or summary["data"]["sha256"] != self.data.sha256:
            raise InputError(f"'{self.folder}' is of other images or folds: move it away")

    def configuration(
        self, name: str, recipe: str | None = None, weights: str | None = None
    ) -> tuple[Network, Configuration]:
        """A network and its recipe with the changes that the flags ask for.

        Args:
            name: one of `networks.NAMES`.
            recipe: a name of its script's, by default the script's default.
            weights: what it starts from, by default what ``--weights`` says.

        Raises:
            InputError: the network has no such recipe, or does not fit the flags.
        """
        found = network(name, self.options.device)
        recipe = recipe or next(iter(found.recipes))
        if recipe not in found.recipes:
            allowed = " or ".join(found.recipes)
            raise InputError(f"'{recipe}': the recipes of {found.script}.py are {allowed}")
        changes, pretrained = dict(self.changes), None
        staged = found.imagenet_url is not None
        choice: str = weights or self.options.weights
        if not staged and choice not in ("imagenet", "none"):
            pretrained = read_pretrained(choice, None)
        if staged:
            if choice == "none":
                changes = from_random_numbers(found.recipes[recipe]) | changes
                changes.setdefault("stem", Recipe.stem)  # there is no other one to adapt
            pretrained = read_pretrained(choice, found.imagenet_url)
        changed = dataclasses.replace(found.recipes[recipe], **changes)
        if changed.stage1_epochs and not staged:
            raise InputError(
                "--stage1-epochs: this network has no backbone to freeze; allowed is 0"
            )
        check_precision(changed, self.device)
        configuration = Configuration(
            name, found.build, changed, found.arguments, pretrained=pretrained, staged=staged
        )
        model = configuration.model()
        if changed.drop_path:
            set_drop_paths(model, changed.drop_path)
        check_input(model, changed, self.data.size)
        if changed.batch_norm == "frozen":
            frozen_norms(model)
        recipe_of_network = without_slow_bf16(changed, model)
        return found, dataclasses.replace(configuration, recipe=recipe_of_network)

    def cross_validate(self, configuration: Configuration, share: float = 1.0) -> Outcome:
        """Train what is not stored; see `crossval.cross_validate`."""
        return crossval.cross_validate(
            configuration, self.splits, self.store, self.device, self.signals, share
        )

    def cross_validate_baseline(self, baseline: Baseline, share: float = 1.0) -> Outcome:
        """The same of a classical classifier."""
        return crossval.cross_validate_baseline(baseline, self.splits, self.store, share)

    def about(self) -> dict[str, Any]:
        """What every page says of its data and folds, as plain values."""
        counts = self.data.counts()
        return {
            "recipe_changes": {k: v for k, v in self.changes.items() if k != "seed"},
            "data": {
                "source": self.data.source,
                "size": self.data.size,
                "sha256": self.data.sha256,
                "phantom": self.data.phantom,
                "counts": {split: counts[split] for split in ("train", "val")},
            },
            "folds": self.splits.folds,
            "repeats": self.splits.repeats,
            "device": self.device.type,
            "torch": torch.__version__,
        }

    def write(
        self,
        name: str,
        summary: Mapping[str, Any],
        oof: OutOfFold,
        write_page: Callable[[Path], None],
    ) -> None:
        """Write ``oof.csv`` and ``<name>.json``, and the page that is made of these two."""
        with self.alone():
            oof.write(self.folder / "oof.csv")
            atomic_write(self.folder / f"{name}.json", json.dumps(summary, indent=2) + "\n")
            write_page(self.folder)
        self.print_end(name.replace("_", " "))

    def print_end(self, title: str) -> None:
        """Say where the page is."""
        print(f"{title}: {self.folder / 'README.md'}", flush=True)
        if self.data.phantom:
            print(PHANTOM_MARK, flush=True)


def add_only(parser: argparse.ArgumentParser, names: Sequence[str], nargs: str = "+") -> None:
    """Add the flag ``--only`` with the names of what a study can train."""
    parser.add_argument(
        "--only",
        nargs=nargs,
        choices=names,
        default=names,
        metavar="NAME",
        help=f"train these alone, out of {', '.join(names)} (default: all)",
    )


def can_be_had(name: str, get: Callable[[], object], asked: bool) -> bool:
    """Whether what a row needs is at hand; where it is not, a line on stderr says why.

    Args:
        name: of the row.
        get: raises `InputError` where it is not.
        asked: whether ``--only`` asks for the row, and the error is to end the study.
    """
    try:
        get()
    except InputError as error:
        if asked:
            raise
        print(f"NOTE: {name} is not trained: {error}", file=sys.stderr)
        return False
    return True


def interval_columns(name: str, estimate: Any) -> dict[str, float]:
    """The columns of a table for a value with its 95 % interval (``value``, ``low``, ``high``)."""
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def interval_cell(wording: Wording, row: Mapping[str, Any], name: str, form: str = ".3f") -> str:
    """The text of what `interval_columns` has put into a row."""
    ends = row[f"{name}_low"], row[f"{name}_high"]
    return wording.with_interval(row[name], ends, form)


def p_cell(p: float, wording: Wording = ENGLISH) -> str:
    """The text of a p-value; ``n/a`` where there is none."""
    return MISSING if math.isnan(p) else wording.p_value(p)


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Write rows as CSV, empty where a row lacks a column; returns the columns."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    write_csv(path, columns, [[row.get(key, "") for key in columns] for row in rows])
    return columns


def write_readmes(
    folder: Path,
    template: str,
    about: Mapping[str, Any],
    oof: OutOfFold | None,
    values: Callable[[Wording], Mapping[str, Any]],
) -> None:
    """Write the page in every language, each by `write_readme`.

    Args:
        folder: of the results.
        template: of ``templates/<template>.<language>.md.j2``.
        about: of `Study.about`.
        oof: of the same images.
        values: what else the template shows, in the language of a wording.
    """
    from chestlab.reporting.overview import PAGES

    for language, page in PAGES.items():
        shown = values(Wording(language))
        write_readme(folder, f"{template}.{language}", about, oof, page, **shown)


def write_readme(
    folder: Path,
    template: str,
    about: Mapping[str, Any],
    oof: OutOfFold | None,
    page: str = "README.md",
    **values: Any,
) -> None:
    """Write a page from ``templates/<template>.md.j2``.

    Args:
        folder: of the results.
        template: name of the study's template.
        about: of `Study.about`, for the paragraph on data and folds.
        oof: of the same images; None where ``about`` has what `about_images` tells.
        page: its name in the folder, in a language of `overview.PAGES`.
        values: what else the template shows.
    """
    from chestlab.reporting.lab_warnings import warning_in
    from chestlab.reporting.overview import PAGES
    from chestlab.reporting.page import render

    (language,) = (code for code, name in PAGES.items() if name == page)
    images = about if oof is None else about_images(oof)
    first_seed = about.get("first_seed", FOLDS_SEED)
    text = render(
        f"{template}.md.j2",
        TEMPLATES,
        about=about,
        again=goes_on(folder, template, about),
        fresh=is_fresh(about),
        seeds=", ".join(str(first_seed + repeat) for repeat in range(about["repeats"])),
        resamples=f"{images['resamples']:,}",
        warnings=[warning_in(language, text) for text in images["warnings"]],
        **{key: images[key] for key in ("images", "unit", "units")},
        **values,
    )
    atomic_write(folder / page, text)


def is_fresh(about: Mapping[str, Any]) -> bool:
    """Whether results, of `Study.about`, are of other folds than the choice folds."""
    return about.get("first_seed", FOLDS_SEED) != FOLDS_SEED


def goes_on(folder: Path, template: str, about: Mapping[str, Any]) -> str:
    """The command that goes on with a study's results; ``template`` as of `write_readme`."""
    study = template.partition(".")[0]
    source = about.get("data", {}).get("source", "")
    words = [f"python -m studies.{study}"]
    if sources.is_file_name(source):
        words.append(f"--data {source}")
    if study == "findings_first":
        words.append("--pretrained FILE")
    if study == "distill" and is_fresh(about):
        words.append("--fresh")
    if about.get("folds", FOLDS.default) != FOLDS.default:
        words.append(f"--folds {about['folds']}")
    return " ".join([*words, f"--repeats {about['repeats']} --name {folder.name}"])


def about_images(oof: OutOfFold) -> dict[str, Any]:
    """What a page says of the images: their number, that of their patients, and alarms."""
    images, patients = len(oof.labels), oof.patients
    return {
        "images": images,
        "unit": "image" if patients is None else "patient",
        "units": images if patients is None else len(np.unique(patients)),
        "warnings": oof.alarms(),
        "resamples": BOOTSTRAP_RESAMPLES,
    }
