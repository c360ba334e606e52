"""The command line of every training script, generated from `recipe.Recipe`."""

from __future__ import annotations

import argparse
import dataclasses
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from chestlab.data.splits import FINDINGS, SOURCE_SIZES
from chestlab.files.errors import OneLineParser
from chestlab.runs.naming import check_name
from chestlab.training.recipe import Recipe

LARGEST_ENSEMBLE = 100


def parse(
    recipes: Mapping[str, Recipe],
    argv: Sequence[str] | None,
    pretrained: bool = False,
    model_options: Mapping[str, dataclasses.Field] | None = None,
    findings: bool = False,
) -> argparse.Namespace:
    """Flags to a namespace whose ``recipe`` is the chosen one with every override applied.

    Its ``model_arguments`` are those of the network's constructor that have flags, its
    ``recipe_changes`` what the run does otherwise than the recipe it names, the seed aside.

    Args:
        recipes: by name; the last one is the default.
        argv: None for the process's own.
        pretrained: the script's network can start from weights; without any there is no frozen
            stage unless ``--stage1-epochs`` asks for it, since random features teach nothing.
        knobs: arguments of the network's constructor, made with `recipe.knob`. One called
            ``arch`` names the run, and after it the recipe where that is not the default.
        findings: there is a second task, with 14 outputs.

    Raises:
        InputError: a flag is unknown or its value is not allowed.
    """
    default = list(recipes)[-1]
    parser = OneLineParser(
        description=sys.modules["__main__"].__doc__,
        allow_abbrev=False,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=28, width=96),
    )
    add = parser.add_argument
    add("--recipe", choices=list(recipes), default=default, help="(default: %(default)s)")
    add_data(parser)
    if findings:
        add(
            "--task",
            choices=("two-class", "findings"),
            default="two-class",
            help="cardiomegaly or pneumothorax, or each of the 14 findings on all images; the "
            "latter is monitored by its mean AUC (default: two-class)",
        )
    add_weights(parser, pretrained)
    add("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="(default: auto)")
    add("--resume", action="store_true", help="go on with an unfinished run; else start one")
    add("--overwrite", action="store_true", help="start anew where an unfinished run lies")
    add("--no-test", action="store_true", help="leave the test images alone: for searches")
    add("--find-lr", action="store_true", help="draw the loss over rising rates, suggest one")
    add(
        "--members",
        type=_count,
        metavar="K",
        help="train K networks that differ in the seed, and average their probabilities",
    )
    add(
        "--folds",
        type=_count,
        metavar="K",
        help="train K networks, each without one of K parts of the training images (patients "
        "stay together), and average their probabilities",
    )
    add(
        "--folds-over",
        choices=("train", "train+val"),
        help="what is divided; train+val leaves no other images to choose the epoch on than the "
        "part held out (default: train)",
    )
    add_folder(parser, "--results-dir", "results")
    add_folder(parser, "--models-dir", "trained_models")
    add("--name", help="of the run's folder and files (default: made of recipe, file and size)")
    group = parser.add_argument_group(
        "recipe", f"The values in brackets are those of --recipe {default}."
    )
    for hyperparameter in dataclasses.fields(Recipe):
        if hyperparameter.metadata:
            add_hyperparameter(
                group,
                hyperparameter.name,
                hyperparameter,
                getattr(recipes[default], hyperparameter.name),
            )
    network = parser.add_argument_group("network") if model_options else None
    for name, hyperparameter in (model_options or {}).items():
        add_hyperparameter(network, name, hyperparameter, hyperparameter.default)
    options = parser.parse_args(argv)
    options.pretrained = pretrained
    if options.resume and options.overwrite:
        parser.error("--resume and --overwrite exclude each other")
    if options.find_lr and (options.members or options.folds or options.resume):
        parser.error("--find-lr goes with none of --members, --folds and --resume")
    if options.members and options.folds:
        parser.error("--members and --folds exclude each other")
    if options.members and options.seed is not None:
        parser.error("--members has seeds of its own: leave out --seed")
    if options.folds_over and not options.folds:
        parser.error("--folds-over is for --folds")
    options.folds_over = options.folds_over or "train"
    overrides = {
        hyperparameter.name: getattr(options, hyperparameter.name)
        for hyperparameter in dataclasses.fields(Recipe)
        if hyperparameter.metadata and getattr(options, hyperparameter.name) is not None
    }
    if options.name is not None:
        check_name(options.name)
    if pretrained and options.weights == "none":
        overrides.setdefault("stage1_epochs", 0)
    options.recipe_name = options.recipe
    options.model_arguments = {
        name: hyperparameter.default if getattr(options, name) is None else getattr(options, name)
        for name, hyperparameter in (model_options or {}).items()
    }
    if "arch" in options.model_arguments:
        suffix = "" if options.recipe == default else f"_{options.recipe}"
        overrides["name"] = options.model_arguments["arch"] + suffix
    options.task = getattr(options, "task", "two-class")
    if options.task == "findings":
        if options.members or options.folds:
            parser.error("--members and --folds are for --task two-class")
        if recipes[options.recipe].monitor == "val_accuracy":
            overrides.setdefault("monitor", "val_auc")
        overrides["name"] = recipes[options.recipe].name + "_findings"
        options.model_arguments["outputs"] = len(FINDINGS)
    named = recipes[options.recipe]
    options.recipe_changes = {
        key: value
        for key, value in overrides.items()
        if key not in ("name", "seed") and value != getattr(named, key)
    }
    options.recipe = dataclasses.replace(named, **overrides)
    if options.task == "findings":
        for hyperparameter in ("related", "smote", "temperature"):
            if getattr(options.recipe, hyperparameter):
                parser.error(f"--{hyperparameter} is for --task two-class")
        if options.recipe.sampler == "balanced":
            parser.error("--sampler balanced is for --task two-class")
    if 0 < options.recipe.image_size < 16:
        parser.error("--image-size: allowed are 0 and 16 to 1024 pixels")
    return options


def add_hyperparameter(
    group: Any, name: str, hyperparameter: dataclasses.Field, value: Any
) -> None:
    """A flag for ``knob`` that stays None unless it is given; ``value`` is what it then means."""
    if isinstance(hyperparameter.default, bool):
        metavar = "{on,off}"
        value = {True: "on", False: "off"}.get(value, value)
    elif hyperparameter.metadata["choices"]:
        metavar = "{" + ",".join(hyperparameter.metadata["choices"]) + "}"
    else:
        metavar = type(hyperparameter.default).__name__[0].upper()
    group.add_argument(
        f"--{name.replace('_', '-')}",
        type=checked(hyperparameter),
        metavar=metavar,
        help=f"{hyperparameter.metadata['help']} ({value})",
    )


def add_weights(parser: argparse.ArgumentParser, pretrained: bool) -> None:
    """Add the flag that says what a network starts from.

    Args:
        parser: of a script.
        pretrained: there are ImageNet weights for the network's backbone.
    """
    if pretrained:
        parser.add_argument(
            "--weights",
            default="imagenet",
            metavar="{imagenet,none,FILE}",
            help="what the backbone starts from; FILE: torchvision's state dict, or a checkpoint "
            "of the same network, as pretrain.py makes them (default: imagenet, downloaded once)",
        )
    else:
        parser.add_argument(
            "--weights",
            default="none",
            metavar="{none,FILE}",
            help="what all layers but the last start from; FILE: a checkpoint of the same network, "
            "as pretrain.py makes them (default: none, random numbers)",
        )


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add the flags whose values `datareader.load` takes: data, root and source size."""
    parser.add_argument(
        "--data",
        default="auto",
        metavar="{auto,chestmnist,phantom,FILE.npz}",
        help="the images; auto: the official file, or marked phantoms where it cannot be "
        "had (default: auto)",
    )
    parser.add_argument(
        "--root", type=_folder, metavar="DIR", help="of the official files (default: ~/.medmnist)"
    )
    parser.add_argument(
        "--source-size",
        type=int,
        choices=SOURCE_SIZES,
        help="side of the official or phantom images in pixels (default: 28)",
    )


def add_folder(parser: argparse.ArgumentParser, flag: str, default: str) -> None:
    """Add a flag that names a folder."""
    parser.add_argument(
        flag, type=_folder, default=Path(default), metavar="DIR", help=f"(default: {default})"
    )


def checked(hyperparameter: dataclasses.Field) -> Callable[[str], Any]:
    """A converter for argparse that says what is allowed when a value is not.

    Args:
        knob: made with `engine.knob`.
    """
    kind, rule = type(hyperparameter.default), hyperparameter.metadata

    def convert(text: str) -> Any:
        if kind is bool:
            allowed, value, good = "on or off", text == "on", text in ("on", "off")
        elif rule["choices"]:
            allowed, value = " or ".join(rule["choices"]), text
            good = text in rule["choices"]
        else:
            allowed = "an integer" if kind is int else "a number"
            if rule["above"] is not None:
                allowed += f" above {rule['above']}"
            if rule["low"] is not None:
                allowed += f" from {rule['low']}"
            if rule["high"] is not None:
                allowed += f" up to {rule['high']}"
            try:
                value = kind(text)
                good = (
                    math.isfinite(value)
                    and (rule["low"] is None or value >= rule["low"])
                    and (rule["above"] is None or value > rule["above"])
                    and (rule["high"] is None or value <= rule["high"])
                )
            except (ValueError, OverflowError):  # the latter: an integer beyond any float
                good = False
        if not good:
            raise argparse.ArgumentTypeError(f"'{text}' is not {allowed}")
        return value

    return convert


def _count(text: str) -> int:
    """A converter for argparse: how many networks an ensemble has."""
    if not re.fullmatch("[0-9]{1,4}", text) or not 2 <= int(text) <= LARGEST_ENSEMBLE:
        raise argparse.ArgumentTypeError(
            f"'{text}' is not an integer from 2 up to {LARGEST_ENSEMBLE}"
        )
    return int(text)


def _folder(text: str) -> Path:
    """A converter for argparse: shells on Windows leave a leading ~ to the program."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise argparse.ArgumentTypeError(f"'{text}': there is no such home folder") from None
