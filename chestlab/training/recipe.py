"""The recipe: every knob of a run, from which the command line is made."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


def knob(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    choices: tuple[str, ...] | None = None,
) -> Any:
    """A recipe field with what its command-line flag says and allows.

    ``low`` and ``high`` are allowed themselves, ``above`` is not.
    """
    metadata = {"help": help, "low": low, "high": high, "above": above, "choices": choices}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Recipe:
    """Every knob of a run. The defaults of a script are the values it sets here."""

    name: str
    epochs: int = knob(100, "passes over the training images, at most", low=1, high=100_000)
    batch_size: int = knob(32, "images per forward pass", low=2, high=65_536)
    accumulation: int = knob(1, "batches per optimiser step", low=1, high=4096)
    lr: float = knob(1e-3, "learning rate of AdamW (its maximum, for a schedule)", above=0, high=10)
    weight_decay: float = knob(1e-4, "decoupled weight decay of AdamW", low=0, high=10)
    beta1: float = knob(0.9, "AdamW's decay of the gradient mean", low=0, high=0.9999)
    beta2: float = knob(0.999, "AdamW's decay of the squared gradient mean", low=0, high=0.999999)
    schedule: str = knob(
        "constant",
        "how the learning rate moves",
        choices=("constant", "onecycle", "cosine", "restarts", "step", "plateau"),
    )
    warmup: float = knob(
        0.0,
        "onecycle, cosine, restarts: share of all steps in which the rate rises",
        low=0,
        high=0.9,
    )
    div_factor: float = knob(10.0, "onecycle: the rate starts at lr over this", low=1)
    final_div_factor: float = knob(100.0, "onecycle: and ends at its start over this", low=1)
    restart_epochs: int = knob(10, "restarts: epochs of the first cosine, doubled each time", low=1)
    step_size: int = knob(5, "step: epochs between two cuts of the rate", low=1)
    plateau_patience: int = knob(5, "plateau: epochs without a lower val loss before a cut", low=0)
    gamma: float = knob(0.1, "step, plateau: the rate is multiplied by this", above=0, high=1)
    clip: float = knob(1.0, "largest norm of all gradients together, 0 for no limit", low=0)
    layer_decay: float = knob(
        1.0,
        "the first layer's share of the learning rate, rising to 1 at the last",
        above=0,
        high=1,
    )
    freeze: float = knob(
        0.0, "share of the backbone's layers, from the input, that stay as they are", low=0, high=1
    )
    ema: float = knob(
        0.0,
        "decay per step of averaged weights, which are then judged and kept",
        low=0,
        high=0.9999,
    )
    loss: str = knob("bce", "binary cross-entropy, plain or focal", choices=("bce", "focal"))
    focal_gamma: float = knob(2.0, "focal: power by which easy images count less", low=0, high=10)
    pos_weight: float = knob(
        1.0, "weight of class 1 in the loss; 0.486 balances the official two", above=0, high=100
    )
    label_smoothing: float = knob(0.0, "targets become s/2 and 1 - s/2", low=0, high=0.9)
    sampler: str = knob(
        "shuffle",
        "each image once, or drawn so that classes balance",
        choices=("shuffle", "balanced"),
    )
    related: bool = knob(
        False, "train as well on images that show one of the classes beside other findings"
    )
    smote: bool = knob(False, "fill up the smaller class with SMOTE's mixtures of its images")
    monitor: str = knob(
        "val_accuracy",
        "what chooses the best epoch and stops early; last: nothing does",
        choices=("val_accuracy", "val_auc", "val_loss", "last"),
    )
    patience: int = knob(15, "epochs without a better one before stopping", low=1)
    stage1_epochs: int = knob(
        0, "epochs with the backbone frozen, before everything is trained", low=0, high=100_000
    )
    stage1_lr: float = knob(1e-3, "learning rate of those", above=0, high=10)
    stage2_epochs: int = knob(
        0, "epochs of what follows, 0 for --epochs, which caps both stages", low=0, high=100_000
    )
    tta: str = knob(
        "none",
        "test-time augmentation: logits averaged over the mirrored image, or over random warps too",
        choices=("none", "flip", "warps"),
    )
    tta_warps: int = knob(8, "warps: how many, the same for every image", low=1, high=1000)
    temperature: bool = knob(False, "divide the logits by a temperature fitted on val")
    image_size: int = knob(
        0, "side of the network's input in pixels, 0 for the source's own", low=0, high=1024
    )
    normalize: str = knob(
        "fixed", "fixed mean and sd, or each image's own", choices=("fixed", "per-image")
    )
    mean: float = knob(0.5, "fixed: subtracted from pixels in 0..1", low=0, high=1)
    std: float = knob(0.5, "fixed: divided by after that", above=0, high=10)
    flip: float = knob(0.0, "probability of a left-right flip", low=0, high=1)
    rotate: float = knob(0.0, "rotation drawn from +- this many degrees", low=0, high=180)
    translate: float = knob(0.0, "shift drawn from +- this share of each side", low=0, high=1)
    scale: float = knob(0.0, "zoom drawn from 1 +- this", low=0, high=0.9)
    vertical_flip: float = knob(0.0, "probability of an upside-down flip", low=0, high=1)
    jitter: float = knob(0.0, "brightness and contrast drawn from 1 +- this", low=0, high=0.9)
    policy: str = knob(
        "none",
        "random operations drawn for each image",
        choices=("none", "randaugment", "autoaugment"),
    )
    magnitude: float = knob(0.3, "randaugment: strength of its two operations", low=0, high=1)
    erase: float = knob(0.0, "probability that a rectangle is blacked out", low=0, high=1)
    mixup: float = knob(0.0, "alpha of MixUp, 0 for none", low=0, high=10)
    cutmix: float = knob(0.0, "alpha of CutMix, 0 for none", low=0, high=10)
    drop_path: float = knob(
        0.0,
        "stochastic depth: probability of leaving out the last residual branch",
        low=0,
        high=0.9,
    )
    seed: int = knob(42, "of weights, order, augmentation and dropout", low=0, high=2**31 - 1)
    amp: str = knob(
        "auto", "mixed precision; auto: where it is native", choices=("auto", "off", "bf16", "fp16")
    )
    graph: bool = knob(True, "replay the training step as a CUDA graph, where there is CUDA")
    # Depthwise convolutions run slower in bf16 on a CPU, full ones faster; no flag, a measurement.
    cpu_bf16: bool = False

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


def in_words(name: str, changes: Mapping[str, Any]) -> str:
    """A recipe's name with what was otherwise, as pages of results write it."""
    return ", ".join([f"`{name}`", *(f"`{key}` {value}" for key, value in changes.items())])
