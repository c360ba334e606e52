"""What all studies by cross-validation share: their flags, data, folds and networks."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from chestlab.data import sources
from chestlab.data.folds import CrossValidationSplits
from chestlab.evaluation.out_of_fold import OutOfFold
from chestlab.files.atomic import check_writable, make_folder
from chestlab.files.errors import InputError, OneLineParser
from chestlab.runs.crossval import STORE, Configuration, Store
from chestlab.runs.flags import add_data, add_folder, add_hyperparameter, checked
from chestlab.runs.naming import check_name, output_folders, run_name
from chestlab.training.device import check_precision, pick_device
from chestlab.training.layers import check_input, set_drop_paths
from chestlab.training.recipe import Recipe, hyperparameter
from chestlab.training.weights import read_pretrained
from networks import Network, network

REPEATS = hyperparameter(2, "", low=1, high=100)

FOLDS = hyperparameter(5, "", low=2, high=100)


def comparison_parser(description: str) -> OneLineParser:
    """The flags that every script of cross-validated comparisons has."""
    parser = OneLineParser(
        description=description,
        allow_abbrev=False,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=28, width=96),
    )
    add = parser.add_argument
    add_data(parser)
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
    add(
        "--weights",
        default="imagenet",
        metavar="{imagenet,none,FILE}",
        help="what networks start from; imagenet: those that have a backbone (default: imagenet)",
    )
    add("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="(default: auto)")
    add_folder(parser, "--results-dir", "results")
    add_folder(parser, "--models-dir", "trained_models")
    add("--name", help="of the folder of results (default: made of what is compared and the data)")
    group = parser.add_argument_group("recipe", "What is otherwise than in the recipe named.")
    for one in dataclasses.fields(Recipe):
        if one.metadata:
            add_hyperparameter(group, one.name, one, "the recipe's")
    return parser


class Study:
    """What the flags of a comparison say, checked; nothing has been written yet.

    Args:
        options: of `comparison_parser`.
        stem: what the folder's name begins with.

    Attributes:
        data: without its test images.
        plan: which image is in which fold.
        folder: of the results.

    Raises:
        InputError: device, folders, data or name cannot be used.
    """

    def __init__(self, options: argparse.Namespace, stem: str) -> None:
        self.options = options
        self.device = pick_device(options.device)
        check_writable(options.results_dir, "--results-dir")
        check_writable(options.models_dir, "--models-dir")
        data = sources.load(options.data, options.root, options.source_size, related=True)
        self.data = dataclasses.replace(data, test=data.test.take(np.arange(0)))
        name = options.name or run_name(Recipe(stem), options.data, data.size)
        check_name(name)
        results_dir, self.models_dir = output_folders(options, data)
        self.folder = results_dir / name
        self.changes = {
            one.name: getattr(options, one.name)
            for one in dataclasses.fields(Recipe)
            if one.metadata and getattr(options, one.name) is not None
        }
        self.plan = CrossValidationSplits(self.data, options.folds, options.repeats)

    def open_store(self) -> Store:
        """Make the folders."""
        make_folder(self.folder)
        return Store(self.models_dir / STORE)

    def base(self, name: str, recipe: str | None = None) -> tuple[Network, Configuration]:
        """A network and its recipe with the changes that the flags ask for.

        Args:
            name: a key of `networks.NETWORKS`.
            recipe: a name of its script's, by default the script's default.

        Raises:
            InputError: the network has no such recipe, or does not fit the flags.
        """
        found = network(name, self.options.device)
        recipe = recipe or list(found.recipes)[-1]
        if recipe not in found.recipes:
            allowed = " or ".join(found.recipes)
            raise InputError(f"'{recipe}': the recipes of {found.script}.py are {allowed}")
        changes, start = dict(self.changes), None
        staged = found.imagenet_url is not None
        if not staged and self.options.weights not in ("imagenet", "none"):
            start = read_pretrained(self.options.weights, None)
        if staged:
            if self.options.weights == "none":
                changes.setdefault("stage1_epochs", 0)
            start = read_pretrained(self.options.weights, found.imagenet_url)
        changed = dataclasses.replace(found.recipes[recipe], **changes)
        if changed.stage1_epochs and not staged:
            raise InputError(
                "--stage1-epochs: this network has no backbone to freeze; allowed is 0"
            )
        check_precision(changed, self.device)
        configuration = Configuration(
            name, found.build, changed, found.arguments, start=start, staged=staged
        )
        model = configuration.model()
        if changed.drop_path:
            set_drop_paths(model, changed.drop_path)
        check_input(model, changed, self.data.size)
        return found, configuration

    def about(self) -> dict[str, Any]:
        """What every page tells of its data and folds, as plain values."""
        counts = self.data.counts()
        return {
            "data": {
                "source": self.data.source,
                "size": self.data.size,
                "sha256": self.data.sha256,
                "phantom": self.data.phantom,
                "counts": {split: counts[split] for split in ("train", "val")},
            },
            "folds": self.plan.folds,
            "repeats": self.plan.repeats,
            "device": self.device.type,
            "torch": torch.__version__,
        }


def describe(about: Mapping[str, Any], oof: OutOfFold) -> str:
    """A page's paragraph on its data, its folds and its intervals."""
    counts = about["data"]["counts"]
    images = sum(sum(of_split.values()) for of_split in counts.values())
    unit = "image" if oof.patients is None else "patient"
    units = images if oof.patients is None else len(np.unique(oof.patients))
    repeats = f"{about['repeats']} repeat{'s' if about['repeats'] > 1 else ''}"
    return (
        f"Data: `{about['data']['source']}`, the {images} images of train and val of {units} "
        f"{unit}s; no test image was looked at. {repeats} of {about['folds']}-fold "
        f"cross-validation, stratified by class and grouped by {unit}, another division and seed "
        "in each; nothing is chosen on the fold that is held out. AUC is the mean over the folds "
        "of the AUC within a fold; accuracy is at a probability of 0.5. Intervals: 95 %, from a "
        f"bootstrap over {unit}s and the variance between repeats. They hold for networks trained "
        "on these images: how much another training set would change a network shows only in so "
        f"far as the folds differ. On {about['device']}, PyTorch {about['torch']}."
    )
