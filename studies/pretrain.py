"""Pre-train any network on all training images of ChestMNIST; --weights of its script takes the
checkpoint. It learns the 14 findings, or, without a label, to know an image again (SimCLR).

    python pretrain.py --net residualchestnet --objective findings
    torchrun --nproc-per-node 2 pretrain.py --net residualchestnet

Validation and test images are never looked at: the number of epochs is fixed, and the last one's
weights are the result. To judge a network by cross-validation afterwards, every patient of the
fold held out there must be unknown to it: --exclude-fold.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import networks
import resnet_modified
from chestlab.data import phantom, provenance, sources, splits
from chestlab.data.folds import make_folds, train_and_val
from chestlab.files.atomic import atomic_write, check_writable, make_folder, write_csv
from chestlab.files.checkpoint import save_checkpoint
from chestlab.files.errors import InputError, OneLineParser, TrainingError, one_line_errors
from chestlab.files.notebook import command_line
from chestlab.files.progress import Interrupted, Progress, StopSignals, duration
from chestlab.files.run_files import RunFiles, run_lock
from chestlab.runs.family import REDUCTION, WIDTH
from chestlab.runs.flags import LARGEST_ENSEMBLE, add_data, add_folder, add_hyperparameter
from chestlab.runs.naming import check_name, output_folders, run_name
from chestlab.runs.resumable import Resumable
from chestlab.training.augment import to_input
from chestlab.training.device import (
    autocast,
    check_precision,
    keep_freed_memory,
    pick_device,
    precision,
    resolve_amp,
)
from chestlab.training.distributed import Processes, WholeBatch, share_batches
from chestlab.training.layers import parameter_count
from chestlab.training.optimizer import PER_STEP, make_scheduler
from chestlab.training.recipe import Recipe, as_dict, hyperparameter
from chestlab.training.weights import last_linear, load_pretrained, read_pretrained

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
)

SIMCLR = dataclasses.replace(
    FINDINGS,
    name="simclr",
    epochs=100,
    batch_size=256,
    rotate=15,
    scale=0.2,
    jitter=0.4,  # or an image would be known by its grey levels alone
    erase=0.3,
)

OBJECTIVES = {"findings": FINDINGS, "simclr": SIMCLR}

HYPERPARAMETERS = (  # the others are about validation, or about one network's stages
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

OF_THE_SCRIPT = ("image_size", "normalize", "mean", "std", "cpu_bf16")  # unless a flag is given

TEMPERATURE = hyperparameter(
    0.2, "simclr: similarities are divided by this; low ones weigh near images", above=0, high=10
)

PROJECTION = hyperparameter(128, "simclr: values per image that are compared", low=2, high=4096)

COLUMNS = ("epoch", "train_loss", "lr", "seconds")

NETWORK_OPTIONS = {"width": WIDTH, "reduction": REDUCTION, **resnet_modified.OPTIONS}


def main(argv: Sequence[str] | None = None) -> None:
    """Pre-train a network; exit statuses of `experiment.run`."""
    processes = Processes.from_environment()
    with one_line_errors(), StopSignals() as signals, processes.together(signals):
        Pretraining(parse(command_line() if argv is None else argv), signals, processes).go()


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Flags to a namespace as of `flags.parse`, with the objective's settings in ``objective``.

    Raises:
        InputError: a flag is unknown or its value is not allowed.
    """
    parser = OneLineParser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(
            prog, max_help_position=28, width=96
        ),
    )
    add = parser.add_argument
    add(
        "--net",
        choices=tuple(networks.NETWORKS),
        default="efficientchestnet",
        metavar="NET",
        help=f"one of {', '.join(networks.NETWORKS)} (default: %(default)s)",
    )
    add(
        "--objective",
        choices=tuple(OBJECTIVES),
        default="findings",
        help="the 14 findings, or SimCLR, which needs no labels: two random warps of an image "
        "are to be told from those of all others in the batch (default: %(default)s)",
    )
    add_data(parser)
    add(
        "--weights",
        default="none",
        metavar="{none,imagenet,FILE}",
        help="what the network itself starts from; imagenet: of torchvision's (default: none)",
    )
    add(
        "--exclude-fold",
        type=_fold,
        metavar="{FOLD/K,all}",
        help="leave out every patient who owns a two-class image of this fold of K, as --folds K "
        "of the training scripts makes them (images, where the source names no patients); all: "
        "of any fold, so that one network serves for all of them",
    )
    add(
        "--folds-over",
        choices=("train", "train+val"),
        default="train",
        help="what is divided there (default: train)",
    )
    add("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="(default: auto)")
    add("--resume", action="store_true", help="go on with an unfinished run; else start one")
    add("--overwrite", action="store_true", help="start anew where an unfinished run lies")
    add_folder(parser, "--results-dir", "results")
    add_folder(parser, "--models-dir", "trained_models")
    add("--name", help="of the run's folder and files (default: made of all that matters)")
    group = parser.add_argument_group(
        "recipe",
        "The values in brackets are those of --objective findings; of simclr: "
        + ", ".join(f"{k} {getattr(SIMCLR, k)}" for k in HYPERPARAMETERS if _differs(k))
        + ". Image size and normalisation are by default those of the network's own script.",
    )
    for one in dataclasses.fields(Recipe):
        if one.name in HYPERPARAMETERS:
            add_hyperparameter(group, one.name, one, getattr(FINDINGS, one.name))
    add_hyperparameter(group, "nt_xent_temperature", TEMPERATURE, TEMPERATURE.default)
    add_hyperparameter(group, "projection", PROJECTION, PROJECTION.default)
    group = parser.add_argument_group("network", "of the 34-layer family")
    for name, one in NETWORK_OPTIONS.items():
        add_hyperparameter(group, name, one, one.default)
    options = parser.parse_args(argv)
    if options.resume and options.overwrite:
        parser.error("--resume and --overwrite exclude each other")
    if options.name is not None:
        check_name(options.name)
    network = networks.network(options.net, options.device)
    for name in NETWORK_OPTIONS:
        if getattr(options, name) is not None and name not in network.model_options:
            parser.error(f"--{name} is not for --net {options.net}")
    options.model_arguments = dict(network.arguments)
    for name, one in network.model_options.items():
        given = getattr(options, name)
        options.model_arguments[name] = one.default if given is None else given
    options.no_test = True  # there is nothing to evaluate
    options.network = network
    options.recipe = _recipe(options)
    if options.recipe.schedule == "plateau":
        parser.error("--schedule plateau looks at validation images, which have no say here")
    if 0 < options.recipe.image_size < 16:
        parser.error("--image-size: allowed are 0 and 16 to 1024 pixels")
    options.settings = {"name": options.objective}
    for name, one in (("nt_xent_temperature", TEMPERATURE), ("projection", PROJECTION)):
        given = getattr(options, name)
        if options.objective == "simclr":
            options.settings[name] = one.default if given is None else given
        elif given is not None:
            parser.error(f"--{name.replace('_', '-')} is for --objective simclr")
    return options


def _differs(name: str) -> bool:
    return getattr(SIMCLR, name) != getattr(FINDINGS, name)


def _fold(text: str) -> tuple[int | str, int]:
    """A converter for argparse: which fold of how many, or all."""
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
    own = options.network.recipe
    name = f"pretrained_{options.net}_{options.objective}"
    if options.exclude_fold:
        over = options.folds_over.replace("+", "")
        fold, k = options.exclude_fold
        name += "_without_two-class" if fold == "all" else f"_without{fold}of{k}_{over}"
    changes = {key: getattr(own, key) for key in OF_THE_SCRIPT}
    changes |= {
        key: getattr(options, key) for key in HYPERPARAMETERS if getattr(options, key) is not None
    }
    return dataclasses.replace(OBJECTIVES[options.objective], **changes, name=name)


class Pretraining(Resumable):
    """What one start of this script works with.

    Args:
        options: of `parse`.
        signals: checked between two batches.
        processes: that share the work; the first of them writes.

    Attributes:
        train: the images to learn from, none of them of an excluded patient.
        seen: record of these images, for the checkpoint.

    Raises:
        InputError: device, folders, data, weights or name cannot be used; nothing was written.
    """

    def __init__(
        self, options: argparse.Namespace, signals: StopSignals, processes: Processes
    ) -> None:
        self.options, self.signals, self.processes = options, signals, processes
        self.recipe = options.recipe
        self.device = processes.device(pick_device(options.device))
        check_precision(self.recipe, self.device)
        if self.recipe.batch_size < 2 * processes.size:
            raise InputError(
                f"--batch-size {self.recipe.batch_size}: {processes.size} processes need "
                f"{2 * processes.size} or more"
            )
        check_writable(options.results_dir, "--results-dir")
        check_writable(options.models_dir, "--models-dir")
        held_out = None
        with processes.first_goes_first():
            source = options.data, options.root, options.source_size
            self.data = sources.load(*source, findings=True)
            if options.exclude_fold:
                held_out = _held_out(sources.load(*source), options)
        self.train = self.data.train if held_out is None else without(self.data.train, held_out)
        if len(self.train) < 2 * processes.size:
            raise InputError(f"there are {len(self.train)} training images left, too few")
        self.name = options.name or run_name(self.recipe, options.data, self.data.size)
        check_name(self.name)
        results_dir, models_dir = output_folders(options, self.data)
        self.final = RunFiles(results_dir / "pretraining", models_dir, self.name)
        self.files = self.final
        check_writable(self.final.folder, "--results-dir")
        self.start = None
        network = options.network
        self.build = partial(network.build, **options.model_arguments)
        if options.weights != "none":
            self.start = read_pretrained(options.weights, network.imagenet_url)
            start_with = (
                self.build if network.imagenet_url else partial(load_pretrained, self.build)
            )
            self.build = partial(start_with, self.start)
        before = self.start.seen if self.start else {}
        if held_out is not None:
            provenance.check_unseen(
                before.values(),
                "held-out",
                held_out,
                phantom=self.data.phantom,
                by_patient=True,
                source=options.weights,
            )
        record = provenance.record([("train", self.train)], self.data.phantom)
        self.seen = {**before, "trained": provenance.union(before.get("trained"), record)}
        one = self.build()
        self._check_network(one)
        self.identity = {
            "model": type(one).__name__,
            "model_arguments": options.model_arguments,
            "objective": options.settings,
            "recipe": {key: as_dict(self.recipe)[key] for key in (*HYPERPARAMETERS, "cpu_bf16")},
            "data": {
                "source": self.data.source,
                "size": self.data.size,
                "sha256": self.data.sha256,
                "without": self._without(),
                "images": len(self.train),
            },
        }
        if self.start is not None:
            note = {"source": self.start.source, "sha256": self.start.sha256}
            self.identity["starting_weights"] = note

    def _without(self) -> str:
        """What is left out, in words, or nothing."""
        if not self.options.exclude_fold:
            return ""
        fold, k = self.options.exclude_fold
        if fold == "all":
            return "all two-class images"
        return f"fold {fold} of {k} over {self.options.folds_over}"

    def go(self) -> None:
        """Train what is not done yet, holding the run's lock."""
        with contextlib.ExitStack() as held:
            plan = None
            if self.processes.first:
                make_folder(self.final.models_dir)
                held.enter_context(run_lock(self.final.models_dir / f"{self.name}.lock", self.name))
                plan = (self.identity, *self._choose_start())
            identity, todo, state = self.processes.from_first(plan)
            if identity != self.identity:
                raise TrainingError("the processes have different data, weights or flags")
            if not todo:
                return
            labels = torch.from_numpy(self.train.labels)
            images = torch.from_numpy(self.train.images)[:, None]
            trainer = Pretrainer(
                self.build,
                self.recipe,
                self.options.settings,
                images.to(self.device),
                labels.to(self.device, torch.float32),
                self.processes,
            )
            if state is not None:
                trainer.load_state_dict(state["trainer"])
            if self.processes.first:
                make_folder(self.files.folder)
            self._print_header(trainer)
            self._train(trainer)
            if self.processes.first:
                self._finish(trainer)

    def _print_header(self, trainer: Pretrainer) -> None:
        left_out = len(self.data.train) - len(self.train)
        without = f", {left_out} left out for {self._without()}" if self._without() else ""
        number = self.processes.size
        shared = f", {number} processes" if number > 1 else ""
        print(
            f"{self.identity['model']}, {parameter_count(trainer.network):,} parameters, "
            f"{self.options.objective}, {self.recipe.image_size or self.data.size} px, on "
            f"{self.device.type} in {precision(trainer)}, seed {self.recipe.seed}{shared}\n"
            f"data: {self.data.source} ({len(self.train)} training images{without})",
            flush=True,
        )

    def _train(self, trainer: Pretrainer) -> None:
        done = len(trainer.history)
        progress = Progress(self.recipe.epochs, trainer.steps_per_epoch, done)

        def on_step() -> None:
            self.signals.check()
            progress.step()

        trainer.on_step = on_step
        self.signals.patient = True
        try:
            while len(trainer.history) < self.recipe.epochs:
                row = trainer.run_epoch()
                if self.processes.first:
                    self._save(trainer)
                progress.end_of_epoch(row)
                self.signals.check()
        except Interrupted as interruption:
            self.signals.patient = False
            when = f" after epoch {len(trainer.history)}"
            raise Interrupted(interruption.signum, when) from None
        finally:
            progress.close()
            self.signals.patient = False

    def _save(self, trainer: Pretrainer) -> None:
        save_checkpoint(self.files.last, {**self.identity, "trainer": trainer.state_dict()})
        rows = [[row[name] for name in COLUMNS] for row in trainer.history]
        write_csv(self.files.folder / "history.csv", COLUMNS, rows)

    def _finish(self, trainer: Pretrainer) -> None:
        """Write the last epoch's weights, then `metrics.json`."""
        weights = {
            name: value
            for name, value in trainer.network.state_dict().items()
            if self.options.objective == "findings" or not name.startswith(f"{trainer.head}.")
        }
        state = {"epoch": self.recipe.epochs, "weights": weights, "seen": self.seen}
        save_checkpoint(self.files.finished, {**self.identity, **state})
        seconds = sum(row["seconds"] for row in trainer.history)
        patients = self.train.patients
        metrics = {
            "name": self.name,
            **self.identity,
            "parameters": parameter_count(trainer.network),
            "patients": None if patients is None else len(np.unique(patients)),
            "left_out_images": len(self.data.train) - len(self.train),
            "phantom": self.data.phantom,
            "seed": self.recipe.seed,
            "device": self.device.type,
            "amp": precision(trainer),
            "torch": torch.__version__,
            "processes": self.processes.size,
            "epochs_run": len(trainer.history),
            "train_loss": trainer.history[-1]["train_loss"],
            "seconds": seconds,
            "images_per_second": len(self.train) * len(trainer.history) / seconds,
        }
        atomic_write(self.files.metrics, json.dumps(metrics, indent=2) + "\n")
        if self.files is not self.final:
            self.files.replace(self.final)
        print(
            f"{len(trainer.history)} epochs, loss {metrics['train_loss']:.3f}, "
            f"{duration(seconds)} (minutes:seconds)\nresults: {self.final.folder}   "
            f"for --weights: {self.final.finished}",
            flush=True,
        )
        if self.data.phantom:
            print(phantom.PHANTOM_MARK, flush=True)


def _held_out(data: splits.TwoClassData, options: argparse.Namespace) -> splits.Split:
    """The two-class images of the fold, or all, that are to be unknown to the network."""
    fold, k = options.exclude_fold
    if fold == "all":
        return train_and_val(data)
    part = make_folds(data, k, options.folds_over)[fold - 1]
    return part.val if part.held_out is None else part.held_out


def without(train: splits.Split, held_out: splits.Split) -> splits.Split:
    """The images of ``train`` that no patient of ``held_out`` owns.

    Where the source names no patients: that are not in ``held_out`` themselves.

    Args:
        train: rows of the source's train split.
        held_out: images of the same source, with their ``origin`` if not all of its train split.
    """
    if train.patients is not None and held_out.patients is not None:
        gone = np.isin(train.patients, held_out.patients)
    else:
        gone = np.isin(train.index, provenance.record([("train", held_out)])["rows"]["train"])
    rest = train.take(~gone)
    if provenance.overlap(provenance.record([("train", rest)]), "train", held_out, by_patient=True):
        raise RuntimeError("images of the fold left out are still there")
    return rest


class ProjectionHead(nn.Sequential):
    """(N, F) to (N, outputs): what SimCLR compares, thrown away afterwards."""

    def __init__(self, features: int, outputs: int) -> None:
        super().__init__(nn.Linear(features, features), nn.ReLU(), nn.Linear(features, outputs))
        self.in_features, self.out_features = features, outputs


class Pretrainer:
    """One network in pre-training, resumable at every epoch's end.

    Each step is of a whole batch, of which every process works on its share. An epoch's images
    are divided into batches of equal size, or one less, so that none is too small to be shared.

    Args:
        build: makes the network, called after seeding; its last linear layer is replaced.
        recipe: the knobs.
        settings: ``name`` of the objective, and what simclr needs besides, as of `parse`.
        images: (N, 1, S, S) uint8 on the device of the training.
        labels: (N, F) float of 0 and 1 there; simclr does not look at them.
        processes: that share the work.

    Attributes:
        tick: called after every optimiser step; it may raise to stop, which discards the epoch.
        network: with the objective's own last layer.
        head: name of that layer.
        history: one dict of `COLUMNS` per completed epoch.
    """

    def __init__(
        self,
        build: Callable[[], nn.Module],
        recipe: Recipe,
        settings: Mapping[str, Any],
        images: torch.Tensor,
        labels: torch.Tensor,
        processes: Processes,
    ) -> None:
        self.recipe, self.settings, self.processes = recipe, settings, processes
        self.images, self.labels, self.device = images, labels, images.device
        self.on_step: Callable[[], None] = lambda: None
        self.amp = resolve_amp(recipe, self.device)
        if self.device.type == "cpu":
            keep_freed_memory()
        self.views = 2 if settings["name"] == "simclr" else 1

        torch.manual_seed(recipe.seed)
        network = build()
        self.head = last_linear(network)
        features = network.get_submodule(self.head).in_features
        if self.views == 2:
            head = ProjectionHead(features, settings["projection"])
        else:
            head = nn.Linear(features, labels.shape[1])
        network.set_submodule(self.head, head)
        network.to(self.device, memory_format=torch.channels_last)
        # A stream of its own for each purpose, the same in every process.
        self.shuffle = torch.Generator().manual_seed(3 * recipe.seed)
        self.noise = torch.Generator(self.device).manual_seed(3 * recipe.seed + 1)
        self.batch = WholeBatch(torch.Generator(self.device).manual_seed(3 * recipe.seed + 2))
        self.network = share_batches(network, self.batch, processes).train()
        self.forward: nn.Module = self.network
        if processes.size > 1:
            self.forward = DistributedDataParallel(self.network)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(),
            lr=recipe.lr,
            betas=(recipe.beta1, recipe.beta2),
            weight_decay=recipe.weight_decay,
            fused=self.device.type in ("cpu", "cuda"),
        )
        self.scheduler = make_scheduler(self.optimizer, recipe, self.steps_per_epoch)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.amp == torch.float16)
        self.history: list[dict[str, float]] = []

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.images) / self.recipe.batch_size)

    def run_epoch(self) -> dict[str, float]:
        """Train on every image once and add a row to ``history``.

        Raises:
            TrainingError: a loss is not finite, or the memory does not suffice.
        """
        start = time.perf_counter()
        order = torch.randperm(len(self.images), generator=self.shuffle).to(self.device)
        losses, sizes, rate = [], [], 0.0
        for rows in order.tensor_split(self.steps_per_epoch):
            rate = self.optimizer.param_groups[0]["lr"]
            try:
                losses.append(self._step(rows))
            except torch.OutOfMemoryError:
                raise TrainingError(
                    "out of memory: try a smaller --batch-size or --image-size"
                ) from None
            sizes.append(len(rows))
            self.on_step()
        step_losses = self.processes.total(torch.stack(losses)).cpu()
        epoch = len(self.history) + 1
        if not step_losses.isfinite().all():
            step = int((~step_losses.isfinite()).nonzero()[0]) + 1
            raise TrainingError(
                f"the training loss is not finite in epoch {epoch}, step {step} of "
                f"{len(losses)}: try a lower --lr or --amp off"
            )
        if self.recipe.schedule not in PER_STEP:
            self.scheduler.step()
        row = {
            "epoch": epoch,
            "train_loss": float(step_losses @ torch.tensor(sizes).float()) / len(order),
            "lr": rate,
            "seconds": time.perf_counter() - start,
        }
        self.history.append(row)
        return row

    def _step(self, rows: torch.Tensor) -> torch.Tensor:
        """One optimiser step on the images ``rows``; this process's part of their mean loss."""
        n = len(rows)
        share = self.processes.share(n).to(self.device)
        # All are warped everywhere: that costs little, and the random numbers stay those of one.
        views = [to_input(self.images[rows], self.recipe, self.noise) for _ in range(self.views)]
        x = torch.cat([view[share] for view in views])
        self.batch.places = torch.cat([share + k * n for k in range(self.views)])
        self.batch.size = self.views * n
        with autocast(self.device, self.amp):
            y = self.forward(x.contiguous(memory_format=torch.channels_last))
        loss = self._loss(y.float(), rows[share], n)
        # Gradients are averaged over the processes: of a sum that takes their number back.
        self.scaler.scale(loss * self.processes.size).backward()
        if self.recipe.clip:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.recipe.schedule in PER_STEP:
            self.scheduler.step()
        return loss.detach()

    def _loss(self, y: torch.Tensor, rows: torch.Tensor, n: int) -> torch.Tensor:
        """This process's summands of the mean over the whole batch of ``n`` images."""
        if self.views == 1:
            labels = self.labels[rows]
            total = F.binary_cross_entropy_with_logits(y, labels, reduction="sum")
            return total / (n * labels.shape[1])
        z = F.normalize(y)
        everyone = z.new_zeros(2 * n, z.shape[1]).index_copy(0, self.batch.places, z)
        everyone = self.processes.total(everyone)
        return nt_xent(z, everyone, self.batch.places, self.settings["nt_xent_temperature"])

    def state_dict(self) -> dict[str, Any]:
        """Everything the next epoch depends on, as tensors and plain Python values."""
        return {
            "model": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
            "shuffle": self.shuffle.get_state(),
            "noise": self.noise.get_state(),
            "masks": self.batch.generator.get_state(),
            "device": self.device.type,
            "history": torch.tensor(
                [[row[column] for column in COLUMNS] for row in self.history], dtype=torch.float64
            ),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state``; bit-identically on the same device in as many processes."""
        self.network.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        if self.scaler.is_enabled() and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        self.shuffle.set_state(state["shuffle"])
        if state["device"] == self.device.type:  # streams of another device mean nothing here
            self.noise.set_state(state["noise"])
            self.batch.generator.set_state(state["masks"])
        self.history = [dict(zip(COLUMNS, row, strict=True)) for row in state["history"].tolist()]
        for row in self.history:
            row["epoch"] = int(row["epoch"])


def nt_xent(
    z: torch.Tensor, everyone: torch.Tensor, places: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Normalised temperature-scaled cross-entropy of SimCLR, over the number of all views.

    Each view is to find the other one of its image among all. Chen et al.
    (https://arxiv.org/abs/2002.05709).

    Args:
        z: (n, D) of length 1, the views that are asked.
        everyone: (2 N, D) of length 1, first views of N images, then second ones.
        places: (n,) of ``z`` in there.
        temperature: similarities are divided by it.
    """
    similar = z @ everyone.T / temperature
    itself = F.one_hot(output_folders, len(everyone)).bool()
    other = (output_folders + len(everyone) // 2) % len(everyone)
    losses = F.cross_entropy(similar.masked_fill(itself, -math.inf), other, reduction="sum")
    return losses / len(everyone)


if __name__ == "__main__":
    main()
