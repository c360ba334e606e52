"""The command line of `studies.pretrain`: objectives, their recipes, and all flags."""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import networks
import resnet_modified
from chestlab.files.errors import OneLineParser
from chestlab.runs.family import REDUCTION, WIDTH
from chestlab.runs.flags import (
    LARGEST_ENSEMBLE,
    add_data,
    add_folder,
    add_hyperparameter,
    changes_in_name,
    given_hyperparameters,
)
from chestlab.runs.naming import check_name, weights_in_name
from chestlab.training.recipe import Recipe, hyperparameter
from studies.study import refuse_classes

FINDINGS = Recipe(
    name="findings",
    epochs=30,
    batch_size=128,
    lr=2e-3,
    weight_decay=1e-4,
    schedule="cosine",
    warmup=0.05,
    clip=1.0,
    flip=0.5,
    rotate=10,
    translate=0.1,
    scale=0.1,
    seed=42,
    monitor="last",
)

SIMCLR = dataclasses.replace(
    FINDINGS,
    name="simclr",
    epochs=100,
    batch_size=256,
    rotate=15,
    scale=0.2,
    jitter=0.4,  # else the grey levels alone would identify an image
    erase=0.3,
)

OBJECTIVES = {"findings": FINDINGS, "simclr": SIMCLR}

HYPERPARAMETERS = (  # the others concern validation, or the stages of one network
    "epochs",
    "batch_size",
    "lr",
    "weight_decay",
    "beta1",
    "beta2",
    "schedule",
    "warmup",
    "restart_epochs",
    "clip",
    "image_size",
    "normalize",
    "mean",
    "std",
    "flip",
    "rotate",
    "translate",
    "scale",
    "vertical_flip",
    "jitter",
    "policy",
    "magnitude",
    "erase",
    "seed",
    "amp",
)

OF_THE_SCRIPT = ("image_size", "normalize", "mean", "std", "cpu_bf16")  # where no flag says other

TEMPERATURE = hyperparameter(
    0.2, "simclr: similarities are divided by this; low ones weigh near images", above=0, high=10
)

PROJECTION = hyperparameter(128, "simclr: values per image that are compared", low=2, high=4096)

SIMCLR_OPTIONS = {"nt_xent_temperature": TEMPERATURE, "projection": PROJECTION}

NETWORK_OPTIONS = {"width": WIDTH, "reduction": REDUCTION, **resnet_modified.OPTIONS}


def parse(argv: Sequence[str], description: str | None = None) -> argparse.Namespace:
    """Flags to a namespace as of `flags.parse`.

    Its ``objective`` is the name, ``settings`` what defines the objective, ``network`` that of
    `networks`.

    Raises:
        InputError: a flag is unknown or its value is not allowed.
    """
    parser = _parser(description)
    options = parser.parse_args(argv)
    if options.resume and options.overwrite:
        parser.error("--resume and --overwrite exclude each other")
    if options.name is not None:
        check_name(options.name)
    options.no_test = True  # a pre-training evaluates nothing
    options.network = networks.network(options.net, options.device)
    options.model_arguments = _model_arguments(parser, options)
    options.recipe = _recipe(options)
    if options.recipe.schedule == "plateau":
        parser.error("--schedule plateau needs validation images, which are not used here")
    if 0 < options.recipe.image_size < 16:
        parser.error("--image-size: allowed are 0 and 16 to 1024 pixels")
    options.settings = _settings(parser, options)
    options.name_changes = _changes_in_name(options)
    return options


def _parser(description: str | None) -> OneLineParser:
    parser = OneLineParser(
        prog="python -m studies.pretrain",
        description=description,
        allow_abbrev=False,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(
            prog, max_help_position=28, width=96
        ),
    )
    add = parser.add_argument
    add(
        "--net",
        choices=networks.NAMES,
        default="efficientchestnet",
        metavar="NET",
        help=f"one of {', '.join(networks.NAMES)} (default: %(default)s)",
    )
    add(
        "--objective",
        choices=tuple(OBJECTIVES),
        default="findings",
        help="the 14 findings, or SimCLR, which needs no labels: two random warps of an image "
        "are to be told from those of all others in the batch (default: %(default)s)",
    )
    add_data(parser)
    refuse_classes(parser)
    add(
        "--weights",
        default="none",
        metavar="{none,imagenet,FILE}",
        help="what the network itself starts from; imagenet: of torchvision's (default: none)",
    )
    _add_folds(parser)
    add("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="(default: auto)")
    add("--resume", action="store_true", help="go on with an unfinished run; else start one")
    add("--overwrite", action="store_true", help="start anew where an unfinished run lies")
    add_folder(parser, "--results-dir", "results")
    add_folder(parser, "--models-dir", "trained_models")
    add("--name", help="of the run's folder and files (default: made of all that matters)")
    _add_hyperparameters(parser)
    return parser


def _add_folds(parser: OneLineParser) -> None:
    parser.add_argument(
        "--exclude-fold",
        type=_fold,
        metavar="{FOLD/K,all}",
        help="leave out every patient who owns a two-class image of this fold of K, as --folds K "
        "of the training scripts makes them (images, where the source names no patients); all: "
        "of any fold, so that one network serves for all of them",
    )
    parser.add_argument(
        "--folds-over",
        choices=("train", "train+val"),
        default="train",
        help="what is divided there (default: train)",
    )


def _add_hyperparameters(parser: OneLineParser) -> None:
    """Add a flag for each of `HYPERPARAMETERS`, of SimCLR's options and of the network's."""
    different = [k for k in HYPERPARAMETERS if getattr(SIMCLR, k) != getattr(FINDINGS, k)]
    group = parser.add_argument_group(
        "recipe",
        "The values in brackets are those of --objective findings; of simclr: "
        + ", ".join(f"{key} {getattr(SIMCLR, key)}" for key in different)
        + ". Image size and normalisation are by default those of the network's own script.",
    )
    for field in dataclasses.fields(Recipe):
        if field.name in HYPERPARAMETERS:
            add_hyperparameter(group, field.name, field, getattr(FINDINGS, field.name))
    for name, option in SIMCLR_OPTIONS.items():
        add_hyperparameter(group, name, option, option.default)
    group = parser.add_argument_group("network", "of the 34-layer family")
    for name, option in NETWORK_OPTIONS.items():
        add_hyperparameter(group, name, option, option.default)


def _model_arguments(parser: OneLineParser, options: argparse.Namespace) -> dict[str, Any]:
    """Arguments of the network's constructor."""
    known = options.network.model_options
    for name in NETWORK_OPTIONS:
        if getattr(options, name) is not None and name not in known:
            parser.error(f"--{name} is not for --net {options.net}")
    return {**options.network.arguments, **_given_or_default(options, known)}


def _settings(parser: OneLineParser, options: argparse.Namespace) -> dict[str, Any]:
    """Name of the objective, and the values of its own options."""
    if options.objective == "simclr":
        return {"name": "simclr", **_given_or_default(options, SIMCLR_OPTIONS)}
    for name in SIMCLR_OPTIONS:
        if getattr(options, name) is not None:
            parser.error(f"--{name.replace('_', '-')} is for --objective simclr")
    return {"name": options.objective}


def _changes_in_name(options: argparse.Namespace) -> dict[str, Any]:
    """What differs by flag from the objective's recipe and the defaults of its options."""
    settings = {
        name: options.settings[name]
        for name, option in SIMCLR_OPTIONS.items()
        if name in options.settings and options.settings[name] != option.default
    }
    given = {k: v for k, v in given_hyperparameters(options).items() if k in HYPERPARAMETERS}
    named = dataclasses.replace(
        OBJECTIVES[options.objective],
        **{key: getattr(options.network.recipe, key) for key in OF_THE_SCRIPT},
    )
    known = options.network.model_options
    weights = {} if options.weights == "none" else {"weights": weights_in_name(options.weights)}
    return {**changes_in_name(options, named, given, known), **settings, **weights}


def _given_or_default(
    options: argparse.Namespace, fields: Mapping[str, dataclasses.Field]
) -> dict[str, Any]:
    given = {name: getattr(options, name) for name in fields}
    return {name: fields[name].default if v is None else v for name, v in given.items()}


def _fold(text: str) -> tuple[int | str, int]:
    """Convert FOLD/K or all for argparse: the number of the fold, or "all", and K."""
    if text == "all":
        return "all", 0
    match = re.fullmatch("([0-9]{1,3})/([0-9]{1,3})", text)
    fold, k = map(int, match.groups()) if match else (0, 0)
    if not 1 <= fold <= k or not 2 <= k <= LARGEST_ENSEMBLE:
        raise argparse.ArgumentTypeError(
            f"'{text}' is not all or FOLD/K with K from 2 up to {LARGEST_ENSEMBLE}, as in 2/5"
        )
    return fold, k


def _recipe(options: argparse.Namespace) -> Recipe:
    """The objective's recipe with the preprocessing of the network's script and all flags."""
    script_recipe = options.network.recipe
    name = f"pretrained_{options.net.replace('/', '_')}_{options.objective}"
    if options.exclude_fold:
        over = options.folds_over.replace("+", "")
        fold, k = options.exclude_fold
        name += "_without_two-class" if fold == "all" else f"_without{fold}of{k}_{over}"
    changes = {key: getattr(script_recipe, key) for key in OF_THE_SCRIPT}
    changes |= {
        key: getattr(options, key) for key in HYPERPARAMETERS if getattr(options, key) is not None
    }
    return dataclasses.replace(OBJECTIVES[options.objective], **changes, name=name)
