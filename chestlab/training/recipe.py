"""The recipe: every hyperparameter of a run, from which the command line is made."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from chestlab.files.errors import InputError


def hyperparameter(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    choices: tuple[str, ...] | None = None,
    prefix: str = "",
    on: str = "on",
) -> Any:
    """A recipe field with the help text and the allowed values of its command-line flag.

    ``low`` and ``high`` are allowed values themselves, ``above`` is not. Beside ``choices`` every
    name that begins with ``prefix`` is allowed, and checked where it is used. ``on`` is the flag's
    word for True; that for False is ``off``.
    """
    metadata = {"help": help, "low": low, "high": high, "above": above, "choices": choices}
    metadata |= {"prefix": prefix, "on": on}
    return field(default=default, metadata=metadata)


def allowed_values(option: dataclasses.Field) -> str:
    """What a value of a hyperparameter must be, in words: 'an integer from 2 up to 65536'."""
    rule = option.metadata
    if isinstance(option.default, bool):
        return f"{rule['on']} or off"
    if isinstance(option.default, str):
        return " or ".join(shown_choices(option))
    words = "an integer" if isinstance(option.default, int) else "a number"
    limits = (("above", "above"), ("low", "from"), ("high", "up to"))
    return words + "".join(f" {word} {rule[k]}" for k, word in limits if rule[k] is not None)


def shown_choices(option: dataclasses.Field) -> tuple[str, ...]:
    """The names that a hyperparameter may have, with ``PREFIX/NAME`` for those with a prefix."""
    prefix = option.metadata["prefix"]
    return (*option.metadata["choices"], f"{prefix}NAME") if prefix else option.metadata["choices"]


def is_allowed(option: dataclasses.Field, value: Any) -> bool:
    """Whether a hyperparameter may have this value, of this type; an integer is a number."""
    rule, kind = option.metadata, type(option.default)
    if kind is str:
        open_to = bool(rule["prefix"]) and str(value).startswith(rule["prefix"])
        return isinstance(value, str) and (open_to or value in rule["choices"])
    if kind is bool:
        return isinstance(value, bool)
    if isinstance(value, bool) or not isinstance(value, int if kind is int else (int, float)):
        return False
    return (
        abs(value) < math.inf  # also of an integer beyond any float
        and (rule["low"] is None or value >= rule["low"])
        and (rule["above"] is None or value > rule["above"])
        and (rule["high"] is None or value <= rule["high"])
    )


@dataclass(frozen=True)
class Recipe:
    """Every hyperparameter of a run. The defaults of a script are the values it sets here.

    Raises:
        InputError: a hyperparameter is misspelt, or its value is not allowed.
    """

    name: str
    epochs: int = hyperparameter(
        100, "passes over the training images, at most", low=1, high=100_000
    )
    batch_size: int = hyperparameter(32, "images per forward pass", low=2, high=65_536)
    accumulation: int = hyperparameter(1, "batches per optimiser step", low=1, high=4096)
    lr: float = hyperparameter(
        1e-3, "learning rate of AdamW (its maximum, for a schedule)", above=0, high=10
    )
    weight_decay: float = hyperparameter(1e-4, "decoupled weight decay of AdamW", low=0, high=10)
    beta1: float = hyperparameter(0.9, "AdamW's decay of the gradient mean", low=0, high=0.9999)
    beta2: float = hyperparameter(
        0.999, "AdamW's decay of the squared gradient mean", low=0, high=0.999999
    )
    schedule: str = hyperparameter(
        "constant",
        "how the learning rate moves",
        choices=("constant", "onecycle", "cosine", "restarts", "step", "plateau"),
    )
    warmup: float = hyperparameter(
        0.0,
        "onecycle, cosine, restarts: share of all steps in which the rate rises",
        low=0,
        high=0.9,
    )
    div_factor: float = hyperparameter(10.0, "onecycle: the rate starts at lr over this", low=1)
    final_div_factor: float = hyperparameter(
        100.0, "onecycle: and ends at its start over this", low=1
    )
    restart_epochs: int = hyperparameter(
        10, "restarts: epochs of the first cosine, doubled each time", low=1
    )
    step_size: int = hyperparameter(5, "step: epochs between two cuts of the rate", low=1)
    plateau_patience: int = hyperparameter(
        5, "plateau: epochs without a lower val loss before a cut", low=0
    )
    gamma: float = hyperparameter(
        0.1, "step, plateau: the rate is multiplied by this", above=0, high=1
    )
    clip: float = hyperparameter(
        1.0, "largest norm of all gradients together, 0 for no limit", low=0
    )
    layer_decay: float = hyperparameter(
        1.0,
        "the first layer's share of the learning rate, rising to 1 at the last",
        above=0,
        high=1,
    )
    freeze: float = hyperparameter(
        0.0, "share of the backbone's layers, from the input, that stay as they are", low=0, high=1
    )
    ema: float = hyperparameter(
        0.0,
        "decay per step of averaged weights, which are then evaluated and kept",
        low=0,
        high=0.9999,
    )
    batch_norm: str = hyperparameter(
        "running",
        "its statistics in evaluation: running averages; with a momentum that replaces them "
        "within an epoch; estimated anew on training images after every epoch; or frozen, those of "
        "the weights to start from, in training as well",
        choices=("running", "epoch", "estimated", "frozen"),
    )
    loss: str = hyperparameter(
        "bce", "binary cross-entropy, plain or focal", choices=("bce", "focal")
    )
    focal_gamma: float = hyperparameter(
        2.0, "focal: power by which easy images count less", low=0, high=10
    )
    pos_weight: float = hyperparameter(
        1.0, "weight of class 1 in the loss; 0.486 balances the official two", above=0, high=100
    )
    label_smoothing: float = hyperparameter(0.0, "targets become s/2 and 1 - s/2", low=0, high=0.9)
    sampler: str = hyperparameter(
        "shuffle",
        "each image once, or drawn so that classes balance",
        choices=("shuffle", "balanced"),
    )
    related: bool = hyperparameter(
        False, "train as well on images that show one of the classes beside other findings"
    )
    smote: bool = hyperparameter(
        False, "fill up the smaller class with SMOTE's mixtures of its images"
    )
    monitor: str = hyperparameter(
        "val_accuracy",
        "what chooses the best epoch and stops early; last: nothing does",
        choices=("val_accuracy", "val_auc", "val_loss", "last"),
    )
    patience: int = hyperparameter(15, "epochs without a better one before stopping", low=1)
    stem: str = hyperparameter(
        "sum",
        "what the first convolution of weights for three colours becomes for one: the sum of the "
        "colours' weights, so that a grey image gives what it gives in colour, or their mean, a "
        "third of that",
        choices=("sum", "mean"),
    )
    stage1_epochs: int = hyperparameter(
        0, "epochs with the backbone frozen, before everything is trained", low=0, high=100_000
    )
    stage1_lr: float = hyperparameter(1e-3, "learning rate of those", above=0, high=10)
    stage2_epochs: int = hyperparameter(
        0, "epochs of what follows, 0 for --epochs, which caps both stages", low=0, high=100_000
    )
    tta: str = hyperparameter(
        "none",
        "test-time augmentation: logits averaged over the mirrored image, or over random warps too",
        choices=("none", "flip", "warps"),
    )
    tta_warps: int = hyperparameter(
        8, "warps: how many, the same for every image", low=1, high=1000
    )
    temperature: bool = hyperparameter(False, "divide the logits by a temperature fitted on val")
    image_size: int = hyperparameter(
        0, "side of the network's input in pixels, 0 for the source's own", low=0, high=1024
    )
    normalize: str = hyperparameter(
        "fixed", "fixed mean and sd, or each image's own", choices=("fixed", "per-image")
    )
    mean: float = hyperparameter(0.5, "fixed: subtracted from pixels in 0..1", low=0, high=1)
    std: float = hyperparameter(0.5, "fixed: divided by after that", above=0, high=10)
    flip: float = hyperparameter(0.0, "probability of a left-right flip", low=0, high=1)
    rotate: float = hyperparameter(0.0, "rotation drawn from +- this many degrees", low=0, high=180)
    translate: float = hyperparameter(
        0.0, "shift drawn from +- this share of each side", low=0, high=1
    )
    scale: float = hyperparameter(0.0, "zoom drawn from 1 +- this", low=0, high=0.9)
    vertical_flip: float = hyperparameter(0.0, "probability of an upside-down flip", low=0, high=1)
    jitter: float = hyperparameter(
        0.0, "brightness and contrast drawn from 1 +- this", low=0, high=0.9
    )
    policy: str = hyperparameter(
        "none",
        "random operations drawn for each image",
        choices=("none", "randaugment", "autoaugment"),
    )
    magnitude: float = hyperparameter(
        0.3, "randaugment: strength of its two operations", low=0, high=1
    )
    erase: float = hyperparameter(0.0, "probability that a rectangle is blacked out", low=0, high=1)
    degrade: float = hyperparameter(
        0.0,
        "probability of each of: reduced and enlarged again, noise, a black border; against "
        "pictures that were reduced in another way",
        low=0,
        high=1,
    )
    mixup: float = hyperparameter(0.0, "alpha of MixUp, 0 for none", low=0, high=10)
    cutmix: float = hyperparameter(0.0, "alpha of CutMix, 0 for none", low=0, high=10)
    drop_path: float = hyperparameter(
        0.0,
        "stochastic depth: probability of leaving out the last residual branch",
        low=0,
        high=0.9,
    )
    seed: int = hyperparameter(
        42, "of weights, order, augmentation and dropout", low=0, high=2**31 - 1
    )
    amp: str = hyperparameter(
        "auto", "mixed precision; auto: where it is native", choices=("auto", "off", "bf16", "fp16")
    )
    graph: bool = hyperparameter(
        True,
        "replay the training step as a CUDA graph; auto: where there is CUDA and the first replay "
        "equals the eager step",
        on="auto",
    )
    # Depthwise convolutions run slower in bf16 on a CPU, full ones faster; no flag, a measurement.
    cpu_bf16: bool = False

    def __new__(cls, *_: Any, **values: Any) -> Recipe:
        """Refuse a misspelt hyperparameter, before the constructor meets it."""
        known = [option.name for option in dataclasses.fields(cls)]
        if values and not _ and "name" not in values:
            raise InputError("a recipe needs a name, as in Recipe(name='mine', ...)")
        for name in values:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
                hint = f"did you mean {close[0]}?" if close else "see chestlab/training/recipe.py"
                raise InputError(f"a recipe has no hyperparameter '{name}': {hint}")
        return super().__new__(cls)

    def __post_init__(self) -> None:
        for option in dataclasses.fields(self):
            value = getattr(self, option.name)
            if option.metadata and not is_allowed(option, value):
                boolean = isinstance(option.default, bool)
                allowed = "True or False" if boolean else allowed_values(option)
                raise InputError(
                    f"recipe '{self.name}': {option.name} = {value!r} is not {allowed}"
                )

    @property
    def stages(self) -> tuple[Recipe, ...]:
        """The recipes of the stages a run goes through: with frozen backbone, if any, and all."""
        replace = dataclasses.replace
        second = replace(self, epochs=min(self.epochs, self.stage2_epochs or self.epochs))
        if not self.stage1_epochs:
            return (second,)
        epochs = min(self.epochs, self.stage1_epochs)
        return replace(self, epochs=epochs, lr=self.stage1_lr), second


def as_dict(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain values, for `metrics.json` and checkpoints."""
    return dataclasses.asdict(recipe)


def from_random_numbers(recipe: Recipe) -> dict[str, Any]:
    """What a recipe for pre-trained weights cannot do without them, as values of its fields.

    There is no backbone to train a classifier on first, and no batch-norm statistics to freeze.
    """
    kind = Recipe.batch_norm if recipe.batch_norm == "frozen" else recipe.batch_norm
    return {"stage1_epochs": 0, "batch_norm": kind}


def recipe_hash(recipe: Mapping[str, Any]) -> str:
    """A hash of a stored recipe without name and seed.

    A hyperparameter with its default value is left out, so that recipes of older versions, which
    lack it, keep their hash.
    """
    defaults = as_dict(Recipe(name=""))
    changed = {
        key: value
        for key, value in recipe.items()
        if key not in ("name", "seed") and (key not in defaults or defaults[key] != value)
    }
    return hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:16]


def in_words(name: str, changes: Mapping[str, Any]) -> str:
    """A recipe's name with what was otherwise, as pages of results write it."""
    return ", ".join([f"`{name}`", *(f"`{key}` {value}" for key, value in changes.items())])
