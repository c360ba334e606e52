"""How any model is trained: the recipe, the step, the epoch, early stopping, state to resume from.

The whole data set lies on the device as uint8; a batch is an index into it. Nothing is read back
from the device within an epoch: losses and hits are added up there.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import functools
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from augment import to_input
from metrics import mean_loss, roc_auc

HISTORY_COLUMNS = (
    "epoch",
    "train_loss",
    "train_accuracy",
    "val_loss",
    "val_accuracy",
    "val_auc",
    "lr",
    "seconds",
)
EVALUATION_BATCH = 128
PER_STEP = ("onecycle", "cosine")  # schedules that move after every optimiser step
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


class TrainingError(RuntimeError):
    """Training cannot go on; the last completed epoch is kept."""


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
        choices=("constant", "onecycle", "cosine", "step", "plateau"),
    )
    warmup: float = knob(
        0.0, "onecycle, cosine: share of all steps in which the rate rises", low=0, high=0.9
    )
    div_factor: float = knob(10.0, "onecycle: the rate starts at lr over this", low=1)
    final_div_factor: float = knob(100.0, "onecycle: and ends at its start over this", low=1)
    step_size: int = knob(5, "step: epochs between two cuts of the rate", low=1)
    plateau_patience: int = knob(5, "plateau: epochs without a lower val loss before a cut", low=0)
    gamma: float = knob(0.1, "step, plateau: the rate is multiplied by this", above=0, high=1)
    clip: float = knob(1.0, "largest norm of all gradients together, 0 for no limit", low=0)
    label_smoothing: float = knob(0.0, "targets become s/2 and 1 - s/2", low=0, high=0.9)
    monitor: str = knob(
        "val_accuracy",
        "what chooses the best epoch and stops early",
        choices=("val_accuracy", "val_auc", "val_loss"),
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
        "test-time augmentation: logits averaged over mirrored images",
        choices=("none", "flip"),
    )
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
    seed: int = knob(42, "of weights, order, augmentation and dropout", low=0, high=2**31 - 1)
    amp: str = knob(
        "auto", "mixed precision; auto: where it is native", choices=("auto", "off", "bf16", "fp16")
    )
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


def resolve_amp(recipe: Recipe, device: torch.device) -> torch.dtype | None:
    """The mixed-precision type of a run, None for float32 throughout.

    ``auto`` is bf16 on a CUDA device that has it natively and fp16 with loss scaling on one that
    does not; on a CPU bf16 where the processor has it and the recipe was measured faster with it.
    """
    if recipe.amp != "auto":
        return {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}[recipe.amp]
    if device.type == "cuda":
        native = torch.cuda.get_device_capability(device) >= (8, 0)
        return torch.bfloat16 if native else torch.float16
    if device.type == "cpu" and recipe.cpu_bf16 and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return torch.bfloat16
    return None


def autocast(device: torch.device, amp: torch.dtype | None) -> contextlib.AbstractContextManager:
    """The context of a forward pass."""
    return torch.autocast(device.type, amp) if amp else contextlib.nullcontext()


@functools.cache
def keep_freed_memory() -> None:
    """Let the process keep what it frees, for the next step, until it ends.

    By default glibc asks the system anew for every activation and gives it back after use, and
    the system clears each of those pages again. Does nothing where the C library is not glibc.
    Source: https://man7.org/linux/man-pages/man3/mallopt.3.html
    """
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):  # another C library has no mallopt
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)


def make_scheduler(
    optimizer: torch.optim.Optimizer, recipe: Recipe, steps_per_epoch: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """The recipe's learning-rate schedule.

    ``onecycle`` and ``cosine`` move after every optimiser step, the others after an epoch.
    ``onecycle`` is `torch.optim.lr_scheduler.OneCycleLR` with linear annealing, written out: that
    class overwrites AdamW's betas unless told not to, and divides by zero where the warm-up is
    exactly one step long.
    """
    schedulers = torch.optim.lr_scheduler
    total = recipe.epochs * steps_per_epoch
    if recipe.schedule == "onecycle":
        return schedulers.LambdaLR(optimizer, partial(_one_cycle, recipe, total))
    if recipe.schedule == "cosine":
        return schedulers.LambdaLR(optimizer, partial(_cosine, recipe, total))
    if recipe.schedule == "step":
        return schedulers.StepLR(optimizer, recipe.step_size, recipe.gamma)
    if recipe.schedule == "plateau":
        return schedulers.ReduceLROnPlateau(
            optimizer, factor=recipe.gamma, patience=recipe.plateau_patience
        )
    return schedulers.LambdaLR(optimizer, lambda epoch: 1.0)


def _one_cycle(recipe: Recipe, total: int, step: int) -> float:
    """Factor of the learning rate at a step: up to 1 along a line, and down along another."""
    start = 1 / recipe.div_factor
    end = start / recipe.final_div_factor
    peak = max(0.0, recipe.warmup * total - 1)
    if step < peak:
        return start + (1 - start) * step / peak
    if total - 1 <= peak:
        return 1.0
    return 1 + (end - 1) * min(1.0, (step - peak) / (total - 1 - peak))


def _cosine(recipe: Recipe, total: int, step: int) -> float:
    """Factor of the learning rate at a step: a line up to 1, then half a cosine down to 0."""
    warm = round(recipe.warmup * total)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1, total - warm))))


def predict(
    model: nn.Module,
    images: torch.Tensor,
    recipe: Recipe,
    amp: torch.dtype | None = None,
    tta: str = "none",
) -> np.ndarray:
    """Logits (N,) or (N, F) float64 of images (N, 1, S, S) uint8, in evaluation mode.

    Under ``tta="flip"`` the mean of the logits of each image and of its mirror image.
    """
    if images.device.type == "cpu":
        keep_freed_memory()
    model.eval()
    size = EVALUATION_BATCH
    while size:
        with (
            contextlib.suppress(torch.OutOfMemoryError),
            torch.inference_mode(),
            autocast(images.device, amp),
        ):
            logits = []
            for batch in images.split(size):
                x = to_input(batch, recipe).contiguous(memory_format=torch.channels_last)
                values = model(x).float()
                if tta == "flip":
                    values = (values + model(x.flip(-1)).float()) / 2
                logits.append(values)
            return torch.cat(logits).double().cpu().numpy()
        size //= 2
    raise TrainingError("out of memory with a single image: try a smaller --image-size")


class Trainer:
    """One network in training, resumable at every epoch's end.

    Args:
        build: makes the model, called after seeding.
        recipe: the knobs.
        train: images (N, 1, S, S) uint8 and labels (N,) float, on the device of the training; or
            labels (N, F) of F findings, whose losses and hits are averaged.
        val: the same, for choosing the epoch.
        frozen: train all but ``model.backbone``. Its batch norms stay in evaluation mode, too:
            statistics of a new domain under weights that cannot follow would be a third thing,
            neither the pre-trained network nor a trained one.
        previous: a finished stage: its best weights are where this one starts, its history goes
            on, and an epoch of this stage is the best only if it beats all of that one's.

    Attributes:
        tick: called after every optimiser step; it may raise to stop the training, which
            discards the epoch in flight.
        history: one dict of `HISTORY_COLUMNS` per completed epoch.
        best_epoch: the epoch chosen on the validation images so far, 0 before the first.
        best_weights: its state dict, on the device.
        micro_batch: images per forward pass, halved where the device's memory does not suffice.
    """

    def __init__(
        self,
        build: Callable[[], nn.Module],
        recipe: Recipe,
        train: tuple[torch.Tensor, torch.Tensor],
        val: tuple[torch.Tensor, torch.Tensor],
        frozen: bool = False,
        previous: Trainer | None = None,
    ) -> None:
        self.recipe = recipe
        self.train_images, self.train_labels = train
        self.val_images, self.val_labels = val
        self.device = self.train_images.device
        self.tick: Callable[[], None] = lambda: None
        self.amp = resolve_amp(recipe, self.device)
        self.micro_batch = recipe.batch_size
        if self.device.type == "cpu":
            keep_freed_memory()

        torch.manual_seed(recipe.seed)
        self.model = build().to(self.device, memory_format=torch.channels_last)
        self.frozen = frozen
        if frozen:
            self.model.backbone.requires_grad_(False)
        # A stream of its own for each purpose: changing the augmentation keeps the order.
        self.shuffle = torch.Generator().manual_seed(2 * recipe.seed)
        self.noise = torch.Generator(self.device).manual_seed(2 * recipe.seed + 1)
        self.optimizer = torch.optim.AdamW(
            [p for p in self.model.parameters() if p.requires_grad],
            lr=recipe.lr,
            betas=(recipe.beta1, recipe.beta2),
            weight_decay=recipe.weight_decay,
            fused=self.device.type in ("cpu", "cuda"),
        )
        self.scheduler = make_scheduler(self.optimizer, recipe, self.steps_per_epoch)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.amp == torch.float16)
        self.history: list[dict[str, float]] = []
        self.best_epoch = 0
        self.best_weights: dict[str, torch.Tensor] = {}
        self.training_seconds = 0.0
        if previous is not None:
            self.model.load_state_dict(previous.best_weights)
            self.history = list(previous.history)
            self.best_epoch, self.best_weights = previous.best_epoch, previous.best_weights
            self.training_seconds = previous.training_seconds
        self.first_epoch = len(self.history)  # number of epochs before this stage

    @property
    def images_per_step(self) -> int:
        return self.recipe.batch_size * self.recipe.accumulation

    @property
    def images_per_epoch(self) -> int:
        """All training images, less one where it would make a batch of one on its own.

        Batch norm has no statistics of one value; which image sits out changes every epoch.
        """
        n = len(self.train_images)
        return n - 1 if n % self.images_per_step == 1 else n

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.images_per_epoch / self.images_per_step)

    @property
    def finished(self) -> bool:
        since_start = len(self.history) - self.first_epoch
        since_best = len(self.history) - max(self.best_epoch, self.first_epoch)
        return since_start >= self.recipe.epochs or since_best >= self.recipe.patience

    def run_epoch(self) -> dict[str, float]:
        """Train on every image once, validate, and add a row to ``history``.

        Raises:
            TrainingError: a loss is not finite; names epoch, step and learning rate.
        """
        start = time.perf_counter()
        self.model.train()
        if self.frozen:
            self.model.backbone.eval()
        order = torch.randperm(len(self.train_images), generator=self.shuffle)
        order = order[: self.images_per_epoch].to(self.device)
        losses, rates = [], []
        hits = torch.zeros((), dtype=torch.int64, device=self.device)
        for rows in order.split(self.images_per_step):
            rates.append(self.optimizer.param_groups[0]["lr"])
            loss, right = self._step(rows)
            losses.append(loss * len(rows))
            hits += right
            self.tick()
        step_losses = torch.stack(losses).cpu()
        broken = torch.nonzero(~torch.isfinite(step_losses))
        if len(broken):
            step = int(broken[0])
            raise TrainingError(
                f"the training loss is not finite in epoch {len(self.history) + 1}, step "
                f"{step + 1} of {len(losses)}, at learning rate {rates[step]:.3g}: "
                "try a lower --lr or --amp off"
            )
        self.training_seconds += time.perf_counter() - start

        logits = predict(self.model, self.val_images, self.recipe, self.amp)
        if not np.isfinite(logits).all():
            raise TrainingError(
                f"the validation loss is not finite after epoch {len(self.history) + 1}, at "
                f"learning rate {rates[-1]:.3g}: try a lower --lr or --amp off"
            )
        labels = self.val_labels.cpu().numpy()
        row = {
            "epoch": len(self.history) + 1,
            "train_loss": float(step_losses.sum()) / len(order),
            "train_accuracy": int(hits) / self.train_labels[order].numel(),
            "val_loss": mean_loss(labels, logits),
            "val_accuracy": float(np.mean((logits >= 0) == (labels == 1))),
            "val_auc": roc_auc(labels, logits),
            "lr": rates[-1],
        }
        if self.recipe.schedule == "plateau":
            self.scheduler.step(row["val_loss"])
        elif self.recipe.schedule not in PER_STEP:
            self.scheduler.step()
        row["seconds"] = time.perf_counter() - start
        self._remember(row)
        return row

    def _step(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """One optimiser step on the images ``rows``; mean loss and number of hits, on the device.

        The gradient is that of the mean over all of ``rows``, however they are split into
        batches and however few are left for the last of them.
        """
        result = None
        while result is None:
            try:
                result = self._gradients(rows)
            except torch.OutOfMemoryError:
                if self.micro_batch < 4:
                    raise TrainingError(
                        f"out of memory even with batches of {self.micro_batch}: try a smaller "
                        "--image-size, or --device cpu"
                    ) from None
            if result is None:  # out of the handler, whose traceback would keep the memory
                self._halve_batch()
        if self.recipe.clip:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.recipe.schedule in PER_STEP:
            self.scheduler.step()
        return result

    def _gradients(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        total = torch.zeros((), device=self.device)
        hits = torch.zeros((), dtype=torch.int64, device=self.device)
        # Even parts, so that no image is left alone in a batch.
        parts = min(math.ceil(len(rows) / self.micro_batch), len(rows) // 2)
        for batch in rows.tensor_split(parts):
            labels = self.train_labels[batch]
            x = to_input(self.train_images[batch], self.recipe, self.noise)
            with autocast(self.device, self.amp):
                logits = self.model(x.contiguous(memory_format=torch.channels_last))
            smoothing = self.recipe.label_smoothing
            targets = labels * (1 - smoothing) + smoothing / 2
            loss = F.binary_cross_entropy_with_logits(logits.float(), targets)
            loss = loss * (len(batch) / len(rows))
            self.scaler.scale(loss).backward()
            total += loss.detach()
            hits += ((logits.detach() >= 0) == (labels == 1)).sum()
        return total, hits

    @property
    def _device_module(self) -> Any:
        return getattr(torch, self.device.type)  # torch.cuda or torch.mps

    def _halve_batch(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        if self.device.type != "cpu":
            self._device_module.empty_cache()
        self.micro_batch //= 2
        print(
            f"out of memory: going on with batches of {self.micro_batch} and an unchanged "
            f"{self.images_per_step} images per step; batch norm sees the smaller batches",
            flush=True,
        )

    def _remember(self, row: dict[str, float]) -> None:
        self.history.append(row)
        sign = -1 if self.recipe.monitor == "val_loss" else 1
        values = [sign * row[self.recipe.monitor] for row in self.history]
        if self.best_epoch == 0 or values[-1] > values[self.best_epoch - 1]:
            self.best_epoch = len(self.history)
            self.best_weights = {k: v.clone() for k, v in self.model.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        """Everything the next epoch depends on, as tensors and plain Python values."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random": torch.get_rng_state(),
            "random_device": (
                None if self.device.type == "cpu" else self._device_module.get_rng_state()
            ),
            "shuffle": self.shuffle.get_state(),
            "noise": self.noise.get_state(),
            "device": self.device.type,
            "micro_batch": self.micro_batch,
            "best_epoch": self.best_epoch,
            "first_epoch": self.first_epoch,
            "training_seconds": self.training_seconds,
            "history": torch.tensor(
                [[row[column] for column in HISTORY_COLUMNS] for row in self.history],
                dtype=torch.float64,
            ),
        }

    def load_state_dict(
        self, state: dict[str, Any], best_weights: dict[str, torch.Tensor] | None
    ) -> None:
        """Continue from ``state``; bit-identically where device and thread count are the same.

        Args:
            state: of `state_dict`.
            best_weights: of the best epoch, None where that is the state's own.
        """
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        if self.scaler.is_enabled() and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["random"])
        if state["device"] == self.device.type:  # streams of another device mean nothing here
            self.noise.set_state(state["noise"])
            if state["random_device"] is not None:
                self._device_module.set_rng_state(state["random_device"])
        self.shuffle.set_state(state["shuffle"])
        self.micro_batch = state["micro_batch"]
        self.best_epoch = state["best_epoch"]
        self.first_epoch = state["first_epoch"]
        self.training_seconds = state["training_seconds"]
        self.history = [
            dict(zip(HISTORY_COLUMNS, values, strict=True)) for values in state["history"].tolist()
        ]
        for row in self.history:
            row["epoch"] = int(row["epoch"])
        best = best_weights if best_weights is not None else self.model.state_dict()
        self.best_weights = {k: v.to(self.device, copy=True) for k, v in best.items()}


def parameter_count(model: nn.Module) -> int:
    """Number of trainable and frozen parameters."""
    return sum(p.numel() for p in model.parameters())


def as_dict(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain values, for `metrics.json` and checkpoints."""
    return dataclasses.asdict(recipe)
