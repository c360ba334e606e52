"""The training loop of every network: step, epoch, validation, early stopping, state to resume.

The whole data set is on the device as uint8; a batch is an index into it. Nothing is read back
from the device within an epoch: losses and correct answers are added up there.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from chestlab.evaluation.metrics import mean_loss, roc_auc
from chestlab.files.errors import TrainingError
from chestlab.training.augment import to_input
from chestlab.training.averaging import WeightAverage
from chestlab.training.batch_norm import (
    batch_norms,
    estimate_statistics,
    forget_within_an_epoch,
    frozen_norms,
)
from chestlab.training.cuda_graph import CaptureError, StepGraph, supported
from chestlab.training.device import (
    autocast,
    keep_freed_memory,
    memory_errors,
    memory_format,
    resolve_amp,
)
from chestlab.training.distributed import ONE_PROCESS, Processes, SharedBatches
from chestlab.training.graph_check import BOUNDS
from chestlab.training.inference import predict
from chestlab.training.layers import freeze_first, on_device, set_drop_paths
from chestlab.training.losses import Classification, Objective
from chestlab.training.mixing import mix
from chestlab.training.optimizer import (
    PER_STEP,
    highest_rate,
    make_optimizer,
    make_scheduler,
)
from chestlab.training.recipe import Recipe
from chestlab.training.trainer_state import load_state, state_of


class Trainer:
    """One network in training, resumable at every epoch's end.

    Args:
        build: makes the model, called after seeding.
        recipe: the hyperparameters.
        train: images (N, 1, S, S) uint8 and labels (N,) float, on the device of the training; or
            labels (N, F) of F findings, whose losses and accuracies are averaged.
        val: the same, for choosing the epoch; may be empty where the recipe monitors nothing.
        frozen: train all but ``model.backbone``, whose batch norms stay in evaluation mode, too:
            its weights are those of the statistics it was pre-trained with.
        previous: a finished stage. This one starts from its best weights and goes on with its
            history, and an epoch of this stage is the best only if it beats all of that one's.
        objective: the loss; by default that of classification.
        processes: that share the work, by default this one alone.

    Attributes:
        on_step: called after every optimiser step; it may raise to stop the training, which
            discards the epoch in flight.
        history: one dict of `HISTORY_COLUMNS` per completed epoch.
        eval_model: the network that is validated and kept: the averaged one, where there is one.
        frozen_modules: the modules that stay in evaluation mode.
        best_epoch: the epoch chosen on the validation images so far, 0 before the first.
        best_weights: its state dict, on the device.
        micro_batch: images per forward pass, halved where the device's memory does not suffice.
        graph: replays the steps of full size, None where all of them are run eagerly.
        no_graph: why there is none; empty where there is one.
        graph_error: of the first replay of a graph that was released.
    """

    def __init__(
        self,
        build: Callable[[], nn.Module],
        recipe: Recipe,
        train: tuple[torch.Tensor, torch.Tensor],
        val: tuple[torch.Tensor, torch.Tensor],
        frozen: bool = False,
        previous: Trainer | None = None,
        *,
        objective: Objective | None = None,
        processes: Processes = ONE_PROCESS,
    ) -> None:
        self.recipe = recipe
        self.objective = objective or Classification(recipe)
        self.processes = processes
        self.train_images, self.train_labels = train
        self.val_images, self.val_labels = val
        self.device = self.train_images.device
        self.on_step: Callable[[], None] = lambda: None
        self.amp = resolve_amp(recipe, self.device)
        self.micro_batch = recipe.batch_size
        if self.device.type == "cpu":
            keep_freed_memory()

        torch.manual_seed(recipe.seed)
        self.batches = SharedBatches(processes)
        model = on_device(build(), self.device)
        if recipe.drop_path:
            set_drop_paths(model, recipe.drop_path)
        self.model = self.batches.convert(model)
        self.frozen = frozen
        self.frozen_modules = freeze_first(self.model, recipe.freeze) if recipe.freeze else []
        if frozen:  # the whole backbone: dropout and stochastic depth have no weights, but rest too
            self.frozen_modules = [self.model.get_submodule("backbone").requires_grad_(False)]
        if recipe.batch_norm == "frozen":  # before another stage's statistics are loaded
            self.frozen_modules += frozen_norms(self.model)
        # One generator per purpose: another augmentation leaves the order as it is.
        self.shuffle = torch.Generator().manual_seed(2 * recipe.seed)
        self.noise = torch.Generator(self.device).manual_seed(2 * recipe.seed + 1)
        self.optimizer = make_optimizer(self.model, recipe)
        self.scheduler = make_scheduler(self.optimizer, recipe, self.steps_per_epoch)
        self.scaler = self._new_scaler()
        self.no_graph = ""
        self.graph_error: float | None = None
        self.graph = self._new_graph()
        self.history: list[dict[str, float]] = []
        self.best_epoch = 0
        self.best_weights: dict[str, torch.Tensor] = {}
        self.training_seconds = 0.0
        if previous is not None:
            self.model.load_state_dict(previous.best_weights)
            self.history = list(previous.history)
            self.best_epoch, self.best_weights = previous.best_epoch, previous.best_weights
            self.training_seconds = previous.training_seconds
        if recipe.batch_norm == "epoch":
            layers = batch_norms(self.model, self.frozen_modules).values()
            forget_within_an_epoch(layers, self.steps_per_epoch)
        self.average = WeightAverage(self.model, recipe.ema) if recipe.ema else None
        self.forward = self.batches.wrap(self.model)
        self.first_epoch = len(self.history)  # number of epochs before this stage

    @property
    def eval_model(self) -> nn.Module:
        """The network that is validated and kept."""
        return self.average.model if self.average else self.model

    @property
    def images_per_step(self) -> int:
        """Images of an optimiser step, of all processes together."""
        return self.recipe.batch_size * self.recipe.accumulation

    @property
    def images_per_epoch(self) -> int:
        """All training images, less one where the last batch would have only that one.

        Batch norm has no statistics of one value; which image is left out changes every epoch.
        Of several processes each needs an image.
        """
        n, left = len(self.train_images), len(self.train_images) % self.images_per_step
        return n - left if left < max(2, self.processes.size) else n

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.images_per_epoch / self.images_per_step)

    @property
    def finished(self) -> bool:
        """Whether the last epoch is done, or none was better for ``recipe.patience`` epochs."""
        since_start = len(self.history) - self.first_epoch
        since_best = len(self.history) - max(self.best_epoch, self.first_epoch)
        return since_start >= self.recipe.epochs or since_best >= self.recipe.patience

    def fit(self, on_epoch: Callable[[dict[str, float]], None] | None = None) -> None:
        """Train until the last epoch, or until `recipe.patience` stops early.

        Args:
            on_epoch: called after every epoch with its row of ``history``; it may raise to stop,
                and the training can go on from there.
        """
        while not self.finished:
            row = self.run_epoch()
            if on_epoch is not None:
                on_epoch(row)

    def run_epoch(self) -> dict[str, float]:
        """Train on every image once, validate, and add a row to ``history``.

        Raises:
            TrainingError: a loss is not finite; names epoch, step and learning rate.
        """
        start = time.perf_counter()
        self.model.train()
        for layer in self.frozen_modules:
            layer.eval()
        order = self._order().to(self.device)
        losses, rates = [], []
        correct = torch.zeros((), dtype=torch.int64, device=self.device)
        for rows in self._split(order):
            rates.append(highest_rate(self.optimizer))
            loss, right = self.step(rows)
            losses.append(loss * len(rows))
            correct += right
            self.on_step()
        step_losses = (self.processes.total(torch.stack(losses)) / self.processes.size).cpu()
        correct = self.processes.total(correct)
        not_finite = torch.nonzero(~torch.isfinite(step_losses))
        if len(not_finite):
            step = int(not_finite[0])
            raise TrainingError(
                f"the training loss is not finite in epoch {len(self.history) + 1}, step "
                f"{step + 1} of {len(losses)}, at learning rate {rates[step]:.3g}: "
                "try a lower --lr or --amp off"
            )
        if self.recipe.batch_norm == "estimated":
            self._estimate_statistics()
        self.training_seconds += time.perf_counter() - start

        row = {
            "epoch": len(self.history) + 1,
            "train_loss": float(step_losses.sum()) / len(order),
            "train_accuracy": int(correct) / self.train_labels[order].numel(),
            **self._validate(rates[-1]),
            "lr": rates[-1],
        }
        if self.recipe.schedule == "plateau":
            self.scheduler.step(row["val_loss"])
        elif self.recipe.schedule not in PER_STEP:
            self.scheduler.step()
        row["seconds"] = time.perf_counter() - start
        self._remember(row)
        return row

    def _estimate_statistics(self) -> None:
        """Give the network that is evaluated the batch-norm statistics of its own weights."""
        names = batch_norms(self.model, self.frozen_modules)
        layers = [self.eval_model.get_submodule(name) for name in names]
        images = self.train_images
        estimate_statistics(self.eval_model, layers, images, self.recipe, self.amp)

    def _validate(self, rate: float) -> dict[str, float]:
        """Figures of the validation images after an epoch; NaN where there are none."""
        if not len(self.val_images):
            return dict.fromkeys(("val_loss", "val_accuracy", "val_auc"), math.nan)
        logits = self._validation_logits()
        if not np.isfinite(logits).all():
            raise TrainingError(
                f"the validation loss is not finite after epoch {len(self.history) + 1}, at "
                f"learning rate {rate:.3g}: try a lower --lr or --amp off"
            )
        labels = self.val_labels.cpu().numpy()
        return {
            "val_loss": mean_loss(labels, logits),
            "val_accuracy": float(np.mean((logits >= 0) == (labels == 1))),
            "val_auc": roc_auc(labels, logits),
        }

    def _validation_logits(self) -> np.ndarray:
        """Logits (N,) or (N, F) of the validation images; each process predicts a share."""
        images = self.val_images
        if 1 < self.processes.size <= len(images):
            share = self.processes.share(len(images)).to(self.device)
            logits = predict(self.eval_model, images[share], self.recipe, self.amp)
            return np.concatenate(self.processes.gather(logits))
        return predict(self.eval_model, images, self.recipe, self.amp)

    def _order(self) -> torch.Tensor:
        """Rows of the training images in the order of an epoch."""
        if self.recipe.sampler == "shuffle":
            order = torch.randperm(len(self.train_images), generator=self.shuffle)
            return order[: self.images_per_epoch]
        classes = self.train_labels.cpu().long()
        weights = (1 / torch.bincount(classes).double())[classes]
        return torch.multinomial(
            weights, self.images_per_epoch, replacement=True, generator=self.shuffle
        )

    def _split(self, order: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The rows of each optimiser step of an epoch."""
        if self.objective.views == 1:
            return order.split(self.images_per_step)
        return order.tensor_split(self.steps_per_epoch)  # few images are too easy to tell apart

    def step(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """One optimiser step on the images ``rows``.

        The gradient is that of the mean over all of ``rows``, whatever batches they are split
        into and however small the last of these is.

        Returns:
            Mean loss and number of correct answers, on the device. Of several processes each has
            a loss of its own, of which theirs is the mean, and counts its own share.
        """
        if self.graph is not None and len(rows) == self.images_per_step:
            result = self._graph_step(rows)
        else:
            result = self._eager_step(rows)
        if self.average:
            self.average.update()
        if self.recipe.schedule in PER_STEP:
            self.scheduler.step()
        return result

    def _graph_step(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        assert self.graph is not None
        try:
            loss, correct = self.graph.run(rows, self._eager_step, self._whole_step)
            return loss, correct
        except CaptureError as error:
            self._drop_graph(str(error))
        scale, self.scaler = self.scaler.state_dict(), self._new_scaler()  # it stopped half-way
        self.scaler.load_state_dict(scale)
        return self._eager_step(rows)

    def _drop_graph(self, reason: str) -> None:
        print(f"no CUDA graph of the training step ({reason}): going on without", flush=True)
        self.graph, self.no_graph = None, reason

    def _eager_step(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        result = None
        while result is None:
            try:
                with memory_errors():
                    result = self._gradients(rows)
            except torch.OutOfMemoryError:
                if not self._graph_in_memory():
                    self._check_halving()
            if result is None:  # out of the handler, whose traceback would keep the memory
                self._save_memory()
        self._update()
        return result

    def _whole_step(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The step as a graph captures it: it launches kernels and uses no number of the host."""
        result = self._gradients(rows)
        self._update()
        return result

    def _update(self) -> None:
        if self.recipe.clip:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def _gradients(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        total = torch.zeros((), device=self.device)
        correct = torch.zeros((), dtype=torch.int64, device=self.device)
        # Even parts, so that no image is left alone in a batch, and no process without one.
        smallest = max(2, self.processes.size)
        n_parts = min(math.ceil(len(rows) / self.micro_batch), len(rows) // smallest)
        parts = rows.tensor_split(n_parts)
        for part in parts:
            x, labels = self._inputs(part)
            with self.batches.accumulate(self.forward, last=part is parts[-1]):
                with autocast(self.device, self.amp):
                    outputs = self.forward(x.contiguous(memory_format=memory_format(x.device)))
                loss, right = self.objective.loss(outputs, labels, self.batches)
                # DistributedDataParallel takes the mean over processes, of which this is a part.
                loss = loss * (len(labels) * self.processes.size / len(rows))
                self.scaler.scale(loss).backward()
            total += loss.detach()
            correct += right
        return total, correct

    def _inputs(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Network input and labels of the images ``rows``, or of this process's share of them."""
        images, labels = self.train_images[rows], self.train_labels[rows]
        views = [to_input(images, self.recipe, self.noise) for _ in range(self.objective.views)]
        if len(views) == 1:
            views[0], labels = mix(views[0], labels, self.recipe, self.noise)
        return self.batches.take(views, labels)

    @property
    def _device_module(self) -> Any:
        return getattr(torch, self.device.type)  # torch.cuda or torch.mps

    def _new_scaler(self) -> torch.amp.GradScaler:
        return torch.amp.GradScaler(self.device.type, enabled=self.amp == torch.float16)

    def _new_graph(self) -> StepGraph | None:
        """None also where memory is short: a graph keeps some for itself."""
        reasons = {
            "--graph off": not self.recipe.graph,
            "several processes": self.processes.size > 1,
            "halved batches": self.micro_batch < self.recipe.batch_size,
            "it failed before": not supported(self.device),
        }
        self.no_graph = next((reason for reason, holds in reasons.items() if holds), "")
        if self.no_graph:
            if self.device.type == "cuda" and self.no_graph == "it failed before":
                print("no CUDA graph of the training step: one failed before in this process")
            return None
        bound = BOUNDS[self.amp]
        return StepGraph(self.model, self.optimizer, self.noise, self.scaler, bound)

    def graph_record(self) -> dict[str, Any]:
        """Whether steps were replayed, why not, and the error of the first replay, if any."""
        error = self.graph_error if self.graph is None else self.graph.error
        reason = "" if error is not None else self.no_graph or "too few steps"
        return {"used": error is not None, "reason": reason, "largest_error": error}

    def release(self) -> None:
        """After the last step: give back the memory of the graph, and keep what was found of it."""
        self.graph_error = None if self.graph is None else self.graph.error
        self.graph = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _check_halving(self) -> None:
        """Raise `TrainingError` where smaller batches cannot save memory, or are another task."""
        if self.micro_batch < 4:
            raise TrainingError(
                f"out of memory even with batches of {self.micro_batch}: try a smaller "
                "--image-size, or --device cpu"
            ) from None
        if self.processes.size > 1 or self.objective.views > 1:
            message = "out of memory: try a smaller --batch-size or --image-size"
            raise TrainingError(message) from None

    def _graph_in_memory(self) -> bool:
        return self.graph is not None and self.graph.graph is not None

    def _save_memory(self) -> None:
        """First give up the graph, whose memory no other step can use; then halve the batch."""
        self.optimizer.zero_grad(set_to_none=True)
        if self._graph_in_memory():
            self._drop_graph("out of memory")
        else:
            self._halve_batch()
        if self.device.type != "cpu":
            with contextlib.suppress(RuntimeError):  # of some versions, after a stopped capture
                self._device_module.empty_cache()

    def _halve_batch(self) -> None:
        self.graph, self.no_graph = None, "halved batches"
        self.micro_batch //= 2
        print(
            f"out of memory: going on with batches of {self.micro_batch} and an unchanged "
            f"{self.images_per_step} images per step; batch norm sees the smaller batches",
            flush=True,
        )

    def _remember(self, row: dict[str, float]) -> None:
        self.history.append(row)
        if self._is_best():
            self.best_epoch = len(self.history)
            self.best_weights = {k: v.clone() for k, v in self.eval_model.state_dict().items()}

    def _is_best(self) -> bool:
        monitor = self.recipe.monitor
        if monitor == "last" or self.best_epoch == 0:
            return True
        sign = -1 if monitor == "val_loss" else 1
        return sign * self.history[-1][monitor] > sign * self.history[self.best_epoch - 1][monitor]

    def state_dict(self) -> dict[str, Any]:
        """Everything the next epoch depends on, as tensors and plain Python values."""
        return state_of(self)

    def load_state_dict(
        self, state: dict[str, Any], best_weights: dict[str, torch.Tensor] | None
    ) -> None:
        """Continue from ``state``: bit-identically on a CPU with equally many threads.

        Args:
            state: of `state_dict`.
            best_weights: of the best epoch, None where that is the state's own.
        """
        load_state(self, state, best_weights)
        self.graph = self._new_graph()
