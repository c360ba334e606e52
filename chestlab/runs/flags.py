"""The command line of every training script, generated from `recipe.Recipe`."""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from chestlab.data.splits import CLASS_NAMES, FINDINGS, SOURCE_SIZES
from chestlab.files.errors import OneLineParser
from chestlab.files.notebook import command_line, leave
from chestlab.reporting.tensorboard import require_tensorboard
from chestlab.runs.naming import check_name, weights_in_name
from chestlab.runs.published import changes_from_published, published_values
from chestlab.training.recipe import (
    Recipe,
    allowed_values,
    from_random_numbers,
    is_allowed,
    shown_choices,
)

LARGEST_ENSEMBLE = 100


# The flags that people change first, in the groups of the short help.
FIRST = {
    "what is trained": ("recipe", "data", "source_size", "weights", "arch", "reduction", "task"),
    "training": (
        "epochs",
        "batch_size",
        "lr",
        "weight_decay",
        "patience",
        "stage1_epochs",
        "image_size",
        "seed",
        "device",
    ),
    "runs": ("resume", "overwrite", "name"),
}


class ScriptParser(OneLineParser):
    """Parser of a training script: ``--help`` lists the flags of `FIRST`, ``--help-all`` all."""

    def __init__(self, description: str | None, has_backbone: bool = False) -> None:
        self.has_backbone = has_backbone
        module = getattr(sys.modules["__main__"], "__spec__", None)  # of python -m studies.NAME
        super().__init__(
            prog=None if module is None else f"python -m {module.name}",
            description=description,
            usage="%(prog)s [flags]",
            add_help=False,
            allow_abbrev=False,
            formatter_class=partial(argparse.HelpFormatter, max_help_position=32, width=96),
        )
        group = self.add_argument_group("help")
        group.add_argument(
            "-h", "--help", action="store_true", help="the flags that people change first"
        )
        group.add_argument("--help-all", action="store_true", help="all flags")

    def parse_args(self, args: Any = None, namespace: Any = None) -> argparse.Namespace:
        """Parse, or print one of the two helps and end."""
        words = command_line() if args is None else list(args)
        if "--help-all" in words:
            self.print_help()
            leave(0)
        elif {"-h", "--help"} & set(words):
            self._print_message(self.short_help(), sys.stdout)
            leave(0)
        return super().parse_args(words, namespace)

    def short_help(self) -> str:
        """Usage, description and the flags of `FIRST`, in their groups."""
        formatter = self._get_formatter()
        formatter.add_usage(self.usage, [], [])
        formatter.add_text((self.description or "").split("\n\n")[0])
        known = {action.dest: action for action in self._actions}
        if not self.has_backbone:
            known.pop("stage1_epochs", None)
        for title, names in FIRST.items():
            formatter.start_section(title)
            formatter.add_arguments([known[name] for name in names if name in known])
            formatter.end_section()
        formatter.add_text("--help-all lists every flag. Values in brackets are the defaults.")
        return formatter.format_help()


def parse(
    recipes: Mapping[str, Recipe],
    argv: Sequence[str] | None,
    has_imagenet: bool = False,
    model_options: Mapping[str, dataclasses.Field] | None = None,
    findings: bool = False,
) -> argparse.Namespace:
    """Flags to a namespace whose ``recipe`` is the chosen one with every override applied.

    Its ``model_arguments`` are those of the network's constructor that have flags,
    ``recipe_changes`` what differs from the recipe as it was published, by flag or by an edit of
    the script, the seed aside, and ``name_changes`` what differs by flag.

    Args:
        recipes: by name; the first one is the default.
        argv: None for the process's own.
        has_imagenet: there are ImageNet weights for the network's backbone. Without weights there
            is no frozen stage unless ``--stage1-epochs`` asks for it.
        model_options: arguments of the network's constructor, made with
            `recipe.hyperparameter`. One called ``arch`` names the run, and after it the recipe
            where that is not the default.
        findings: there is a second task, with 14 outputs.

    Raises:
        InputError: a flag is unknown or its value is not allowed.
    """
    parser = make_parser(recipes, has_imagenet, model_options or {}, findings)
    options = parser.parse_args(argv)
    options.has_backbone = has_imagenet
    options.task = getattr(options, "task", "two-class")
    _check_combinations(parser, options)
    options.folds_over = options.folds_over or "train"
    options.recipe_name = options.recipe
    options.model_arguments = {
        name: option.default if getattr(options, name) is None else getattr(options, name)
        for name, option in (model_options or {}).items()
    }
    named, given = recipes[options.recipe], given_hyperparameters(options)
    options.recipe = dataclasses.replace(named, **given | _derived(options, recipes, given))
    options.recipe_changes = changes_from_published(named, options.recipe)
    options.published = published_values(named)
    options.name_changes = changes_in_name(options, named, given, model_options or {})
    if options.weights != ("imagenet" if has_imagenet else "none"):
        options.name_changes["weights"] = weights_in_name(options.weights)
    _check_recipe(parser, options)
    return options


def make_parser(
    recipes: Mapping[str, Recipe],
    has_imagenet: bool,
    model_options: Mapping[str, dataclasses.Field],
    findings: bool,
) -> ScriptParser:
    """The parser of a training script; arguments as of `parse`."""
    default = next(iter(recipes))
    parser = ScriptParser(sys.modules["__main__"].__doc__, has_backbone=has_imagenet)
    add = parser.add_argument
    add(
        "--recipe",
        choices=list(recipes),
        default=default,
        help="values to start from (default: %(default)s)",
    )
    add_data(parser)
    add_classes(parser)
    if findings:
        add(
            "--task",
            choices=("two-class", "findings"),
            default="two-class",
            help="cardiomegaly or pneumothorax, or each of the 14 findings on all images; the "
            "latter is monitored by its mean AUC (default: two-class)",
        )
    add_weights(parser, has_imagenet)
    add(
        "--device",
        choices=("auto", "cpu", "cuda", "mps"),
        default="auto",
        help="auto: CUDA, else MPS, else the CPU (default: auto)",
    )
    add(
        "--resume",
        action="store_true",
        help="go on with an unfinished run, or with --epochs MORE a finished one; else start one",
    )
    add(
        "--overwrite",
        action="store_true",
        help="start anew where an unfinished run lies, or a finished one of another recipe",
    )
    add("--no-test", action="store_true", help="leave the test images alone: for searches")
    add("--tensorboard", action="store_true", help="curves and pictures for TensorBoard, too")
    add("--find-lr", action="store_true", help="draw the loss over rising rates, suggest one")
    _add_ensembles(parser)
    add_folder(parser, "--results-dir", "results")
    add_folder(parser, "--models-dir", "trained_models")
    add("--name", help="of the run (default: made of recipe, file, size and changed values)")
    group = parser.add_argument_group(
        "recipe", f"The values in brackets are those of --recipe {default}."
    )
    for field in dataclasses.fields(Recipe):
        if field.metadata:
            add_hyperparameter(group, field.name, field, getattr(recipes[default], field.name))
    if model_options:
        group = parser.add_argument_group("network")
        for name, option in model_options.items():
            add_hyperparameter(group, name, option, option.default)
    return parser


def _add_ensembles(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--members",
        type=_count,
        metavar="K",
        help="train K networks that differ in the seed, and average their probabilities",
    )
    parser.add_argument(
        "--folds",
        type=_count,
        metavar="K",
        help="train K networks, each without one of K parts of the training images (patients "
        "stay together), and average their probabilities",
    )
    parser.add_argument(
        "--folds-over",
        choices=("train", "train+val"),
        help="what is divided; train+val leaves no other images to choose the epoch on than the "
        "part held out (default: train)",
    )
    parser.add_argument(
        "--members-test",
        action="store_true",
        help="evaluate every member on test, too, and not only their average: each is one more "
        "look at test",
    )
    parser.set_defaults(test_for_average=False)  # a member's, see `ensemble`


def _check_combinations(parser: OneLineParser, options: argparse.Namespace) -> None:
    """Refuse flags that exclude each other, and one whose library is missing."""
    if options.tensorboard:
        require_tensorboard()
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
    if options.members_test and not (options.members or options.folds):
        parser.error("--members-test is for --members and --folds")
    if options.members_test and options.no_test:
        parser.error("--members-test and --no-test exclude each other")
    if options.name is not None:
        check_name(options.name)
    if options.task == "findings" and (options.members or options.folds):
        parser.error("--members and --folds are for --task two-class")


def given_hyperparameters(options: argparse.Namespace) -> dict[str, Any]:
    """The recipe's hyperparameters that have been given as flags."""
    return {
        field.name: getattr(options, field.name)
        for field in dataclasses.fields(Recipe)
        if field.metadata and getattr(options, field.name, None) is not None
    }


def changes_in_name(
    options: argparse.Namespace,
    named: Recipe,
    given: Mapping[str, Any],
    model_options: Mapping[str, dataclasses.Field],
) -> dict[str, Any]:
    """What a default name says of the flags: values that differ from recipe and network.

    Args:
        options: with ``model_arguments``.
        named: the recipe of the script.
        given: of `given_hyperparameters`.
        model_options: arguments of the network's constructor; ``arch`` names the run anyway.
    """
    arguments = options.model_arguments
    of_model = {
        name: arguments[name]
        for name, option in model_options.items()
        if name in arguments and name != "arch" and arguments[name] != option.default
    }
    of_recipe = {key: value for key, value in given.items() if value != getattr(named, key)}
    return {**of_model, **of_recipe}


def _derived(
    options: argparse.Namespace, recipes: Mapping[str, Recipe], given: Mapping[str, Any]
) -> dict[str, Any]:
    """What follows from other flags for the recipe; sets the number of outputs for the task."""
    derived: dict[str, Any] = {}
    if options.has_backbone and options.weights == "none":
        derived |= from_random_numbers(recipes[options.recipe])
        derived = {name: value for name, value in derived.items() if name not in given}
    if "arch" in options.model_arguments:
        suffix = "" if options.recipe == next(iter(recipes)) else f"_{options.recipe}"
        derived["name"] = options.model_arguments["arch"].replace("/", "_") + suffix
    if options.task == "findings":
        if recipes[options.recipe].monitor == "val_accuracy" and "monitor" not in given:
            derived["monitor"] = "val_auc"
        derived["name"] = recipes[options.recipe].name + "_findings"
        options.model_arguments["outputs"] = len(FINDINGS)
    return derived


def _check_recipe(parser: OneLineParser, options: argparse.Namespace) -> None:
    """Refuse what does not fit the task, and images that are too small."""
    if options.task == "findings":
        for name in ("related", "smote", "temperature"):
            if getattr(options.recipe, name):
                parser.error(f"--{name} is for --task two-class")
        if options.recipe.sampler == "balanced":
            parser.error("--sampler balanced is for --task two-class")
    if 0 < options.recipe.image_size < 16:
        parser.error("--image-size: allowed are 0 and 16 to 1024 pixels")
    if options.recipe.tta == "warps":
        from chestlab.training.augment import warps_anything  # imports torch

        if not warps_anything(options.recipe):
            parser.error(
                "--tta warps needs --rotate, --translate or --scale above 0, or it averages copies "
                "of one image; --tta flip averages an image and its mirror image"
            )


def add_hyperparameter(group: Any, name: str, option: dataclasses.Field, value: Any) -> None:
    """A flag for ``option`` that stays None unless it is given; ``value`` is then in force."""
    if isinstance(option.default, bool):
        on = option.metadata["on"]
        metavar, value = f"{{{on},off}}", {True: on, False: "off"}.get(value, value)
    elif option.metadata["choices"]:
        metavar = "{" + ",".join(shown_choices(option)) + "}"
    else:
        metavar = "N" if isinstance(option.default, int) else "X"
    group.add_argument(
        f"--{name.replace('_', '-')}",
        type=checked(option),
        metavar=metavar,
        help=f"{option.metadata['help']} ({value})",
    )


def add_weights(parser: argparse.ArgumentParser, has_imagenet: bool) -> None:
    """Add the flag that says what a network starts from.

    Args:
        parser: of a script.
        has_imagenet: there are ImageNet weights for the network's backbone.
    """
    if has_imagenet:
        parser.add_argument(
            "--weights",
            default="imagenet",
            metavar="{imagenet,none,FILE}",
            help="what the backbone starts from; FILE: weights of the same network (default: "
            "imagenet, from a cache, a package or a download)",
        )
    else:
        parser.add_argument(
            "--weights",
            default="none",
            metavar="{none,FILE}",
            help="what the network starts from; FILE: weights of the same network, from here or "
            "from others (default: none, random numbers)",
        )


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add the flags whose values `sources.load` takes: data, root and source size."""
    parser.add_argument(
        "--data",
        default="auto",
        metavar="{auto,chestmnist,phantom,FILE.npz}",
        help="auto: the official file, else marked phantoms (default: auto)",
    )
    parser.add_argument(
        "--root", type=_folder, metavar="DIR", help="of the official files (default: ~/.medmnist)"
    )
    parser.add_argument(
        "--source-size",
        type=int,
        choices=SOURCE_SIZES,
        metavar="{28,64,128,224}",
        help="side of the official images in pixels (default: 28)",
    )


def add_classes(parser: argparse.ArgumentParser) -> None:
    """Add the flag that says which classes labels 0 and 1 of a file are."""
    parser.add_argument(
        "--classes",
        type=_classes,
        metavar="NAME,NAME",
        help="of labels 0 and 1 in a FILE.npz with one label per image: "
        f"{','.join(CLASS_NAMES)} or {','.join(CLASS_NAMES[::-1])}",
    )


def add_folder(parser: argparse.ArgumentParser, flag: str, default: str) -> None:
    """Add a flag that names a folder."""
    parser.add_argument(
        flag, type=_folder, default=Path(default), metavar="DIR", help=f"(default: {default})"
    )


def checked(option: dataclasses.Field) -> Callable[[str], Any]:
    """A converter for argparse that says what is allowed when a value is not.

    Args:
        option: made with `recipe.hyperparameter`.
    """
    kind: Any = type(option.default)

    def convert(text: str) -> Any:
        try:
            words = {option.metadata["on"]: True, "off": False}
            value = words.get(text) if kind is bool else kind(text)
        except ValueError:
            value = None
        if not is_allowed(option, value):
            raise argparse.ArgumentTypeError(f"'{text}' is not {allowed_values(option)}")
        return value

    return convert


seed = checked(Recipe.__dataclass_fields__["seed"])  # a converter for argparse


def _count(text: str) -> int:
    """A converter for argparse: how many networks an ensemble has."""
    if not re.fullmatch("[0-9]{1,4}", text) or not 2 <= int(text) <= LARGEST_ENSEMBLE:
        raise argparse.ArgumentTypeError(
            f"'{text}' is not an integer from 2 up to {LARGEST_ENSEMBLE}"
        )
    return int(text)


def _classes(text: str) -> tuple[str, ...]:
    """A converter for argparse: the two classes in the order of their labels."""
    names = tuple(word.strip().lower() for word in text.split(","))
    if sorted(names) != sorted(CLASS_NAMES):
        raise argparse.ArgumentTypeError(
            f"'{text}': allowed are {','.join(CLASS_NAMES)} (0 is {CLASS_NAMES[0]}) and "
            f"{','.join(CLASS_NAMES[::-1])} (0 is {CLASS_NAMES[1]})"
        )
    return names


def _folder(text: str) -> Path:
    """A converter for argparse: shells on Windows leave a leading ~ to the program."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise argparse.ArgumentTypeError(f"'{text}': there is no such home folder") from None
