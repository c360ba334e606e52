"""The command line of every training script, generated from `recipe.Recipe`."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import math
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from datareader import FINDINGS, SOURCE_SIZES
from recipe import Recipe
from storage import UNFINISHED, InputError, OneLineParser

LARGEST_ENSEMBLE = 100
GET_STARTED = "https://pytorch.org/get-started/locally/"


def parse(
    recipes: Mapping[str, Recipe],
    argv: Sequence[str] | None,
    pretrained: bool = False,
    knobs: Mapping[str, dataclasses.Field] | None = None,
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
    for knob in dataclasses.fields(Recipe):
        if knob.metadata:
            add_knob(group, knob.name, knob, getattr(recipes[default], knob.name))
    network = parser.add_argument_group("network") if knobs else None
    for name, knob in (knobs or {}).items():
        add_knob(network, name, knob, knob.default)
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
        knob.name: getattr(options, knob.name)
        for knob in dataclasses.fields(Recipe)
        if knob.metadata and getattr(options, knob.name) is not None
    }
    if options.name is not None:
        check_name(options.name)
    if pretrained and options.weights == "none":
        overrides.setdefault("stage1_epochs", 0)
    options.recipe_name = options.recipe
    options.model_arguments = {
        name: knob.default if getattr(options, name) is None else getattr(options, name)
        for name, knob in (knobs or {}).items()
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
        for knob in ("related", "smote", "temperature"):
            if getattr(options.recipe, knob):
                parser.error(f"--{knob} is for --task two-class")
        if options.recipe.sampler == "balanced":
            parser.error("--sampler balanced is for --task two-class")
    if 0 < options.recipe.image_size < 16:
        parser.error("--image-size: allowed are 0 and 16 to 1024 pixels")
    return options


def add_knob(group: Any, name: str, knob: dataclasses.Field, value: Any) -> None:
    """A flag for ``knob`` that stays None unless it is given; ``value`` is what it then means."""
    if isinstance(knob.default, bool):
        metavar = "{on,off}"
        value = {True: "on", False: "off"}.get(value, value)
    elif knob.metadata["choices"]:
        metavar = "{" + ",".join(knob.metadata["choices"]) + "}"
    else:
        metavar = type(knob.default).__name__[0].upper()
    group.add_argument(
        f"--{name.replace('_', '-')}",
        type=checked(knob),
        metavar=metavar,
        help=f"{knob.metadata['help']} ({value})",
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


def checked(knob: dataclasses.Field) -> Callable[[str], Any]:
    """A converter for argparse that says what is allowed when a value is not.

    Args:
        knob: made with `engine.knob`.
    """
    kind, rule = type(knob.default), knob.metadata

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


def check_name(name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,150}", name) or not name.strip("."):
        raise InputError(
            f"--name '{name}': allowed are up to 150 letters, digits, '.', '_' and '-', "
            "and not dots alone"
        )
    if name.endswith(UNFINISHED):
        raise InputError(f"--name '{name}': the ending '{UNFINISHED}' is taken")
    if name.lower() == "phantom":  # some file systems do not tell capitals apart
        raise InputError(f"--name '{name}': runs on phantoms have their folders below this one")


def run_name(recipe: Recipe, data: str, size: int) -> str:
    """``<recipe's name>``, plus the file's stem for a file, plus the size above 28 px.

    A stem that does not make a name as it is gets a few digits that tell it from others.
    """
    name = recipe.name
    if data.endswith(".npz"):
        stem = Path(data).stem
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", stem)[:100]
        if plain != stem:
            plain += "-" + hashlib.sha256(os.fsencode(stem)).hexdigest()[:6]
        name += f"_{plain}"
    return name + (f"_{size}" if size > 28 else "")


def pick_device(wanted: str) -> torch.device:
    """``auto`` is CUDA, then MPS, then the CPU.

    Raises:
        InputError: the device asked for is not there.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if wanted == "auto":
        wanted = next(kind for kind, there in available.items() if there)
    if not available[wanted]:
        usable = ", ".join(kind for kind, there in available.items() if there)
        raise InputError(f"--device {wanted}: PyTorch finds none here; allowed are auto, {usable}")
    cpu_only = torch.version.cuda is None and torch.version.hip is None
    if wanted == "cpu" and cpu_only and shutil.which("nvidia-smi"):
        print(
            "NOTE: this machine has an NVIDIA card, but the installed PyTorch was built without "
            f"CUDA. Training on the CPU. The way out: {GET_STARTED}",
            file=sys.stderr,
        )
    return torch.device(wanted)
