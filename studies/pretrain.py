"""Pre-train any network on all training images of ChestMNIST; --weights of its script takes the
checkpoint. It learns the 14 findings, or, without labels, to recognise an image (SimCLR).

    python -m studies.pretrain --net residualchestnet --objective findings
    torchrun --nproc-per-node 2 -m studies.pretrain --net residualchestnet

Validation images choose nothing: the number of epochs is fixed, and the last one's weights are the
result. Of the 14 findings their mean AUC is shown after every epoch, to see whether more epochs
would help; test images are never looked at. To evaluate a network by cross-validation afterwards,
every patient of the fold held out there must be unknown to it: --exclude-fold.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from chestlab.data import phantom, provenance, sources, splits
from chestlab.data.folds import make_folds, train_and_val, warn_without_patients
from chestlab.evaluation.tasks import FindingsTask
from chestlab.files.atomic import atomic_write, check_writable, write_csv
from chestlab.files.checkpoint import save_checkpoint
from chestlab.files.errors import InputError, one_line_errors
from chestlab.files.notebook import command_line
from chestlab.files.progress import StopSignals, duration
from chestlab.files.run_files import RunFiles
from chestlab.runs.naming import check_name, name_of, output_folders
from chestlab.runs.resumable import Resumable, structure_of
from chestlab.runs.run import watched
from chestlab.training.device import check_precision, pick_device, precision
from chestlab.training.distributed import Processes
from chestlab.training.inference import predict
from chestlab.training.layers import parameter_count
from chestlab.training.losses import ProjectionHead, SimCLR
from chestlab.training.recipe import as_dict
from chestlab.training.trainer import Trainer
from chestlab.training.weights import last_linear, load_pretrained, read_pretrained
from studies.pretrain_flags import HYPERPARAMETERS, parse

COLUMNS = ("epoch", "train_loss", "val_loss", "val_auc", "lr", "seconds")


def main(argv: Sequence[str] | None = None) -> None:
    """Pre-train a network; exit statuses of `chestlab.runs.run`."""
    processes = Processes.from_environment()
    with one_line_errors(), StopSignals() as signals, processes.together(signals):
        options = parse(command_line() if argv is None else argv, __doc__)
        with processes.first_goes_first():  # the others find the first one's download and cache
            pretraining = Pretraining(options, processes)
        train(pretraining, signals)


class Pretraining(Resumable):
    """What is pre-trained: images, network, objective, and where the results go.

    Args:
        options: of `parse`.
        processes: that share the work; the first of them writes.

    Attributes:
        train: the images to learn from, none of them of an excluded patient.
        val: the images to see how well the findings are told apart, of no excluded patient either;
            none for an objective without labels.
        build: makes the network with the objective's last layer.
        seen: record of the images, for the checkpoint.

    Raises:
        InputError: device, folders, data, weights or name cannot be used; nothing was written.
    """

    def __init__(self, options: argparse.Namespace, processes: Processes) -> None:
        self.options, self.processes = options, processes
        self.recipe = options.recipe
        self.device = processes.device(pick_device(options.device))
        self._check_flags()
        held_out = self._load_images()
        self._choose_name()
        self.start = None
        if options.weights != "none":
            self.start = read_pretrained(options.weights, options.network.imagenet_url)
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
        build_network = self._network_builder()
        network = build_network()  # what does not fit is refused before anything is written
        self.prepare_recipe(network)
        self.head = last_linear(network)
        outputs = options.settings.get("projection", self.train.labels.shape[1])
        self.build = partial(with_head, build_network, self.head, outputs, options.objective)
        self.identity = self._identity(network)

    def _check_flags(self) -> None:
        check_precision(self.recipe, self.device)
        if self.recipe.batch_size < 2 * self.processes.size:
            raise InputError(
                f"--batch-size {self.recipe.batch_size}: {self.processes.size} processes need "
                f"{2 * self.processes.size} or more"
            )
        check_writable(self.options.results_dir, "--results-dir")
        check_writable(self.options.models_dir, "--models-dir")

    def _load_images(self) -> splits.Split | None:
        """Set ``data``, ``train`` and ``val``; returns the two-class images that are left out."""
        options, held_out = self.options, None
        source = options.data, options.root, options.source_size
        self.data = sources.load(*source, findings=True)
        if options.exclude_fold:
            held_out = _held_out(sources.load(*source), options)
        self.train, self.val = self.data.train, self.data.val
        if held_out is not None:
            self.train = without(self.train, held_out, "train")
            self.val = without(self.val, held_out, "val")
        if len(self.train) < 2 * self.processes.size:
            raise InputError(f"there are {len(self.train)} training images left, too few")
        return held_out

    def _choose_name(self) -> None:
        self.name = name_of(self.options, self.data)
        check_name(self.name)
        results_dir, models_dir = output_folders(self.options, self.data)
        self.final = RunFiles(results_dir / "pretraining", models_dir, self.name)
        self.files = self.final
        check_writable(self.final.folder, "--results-dir")

    def _network_builder(self) -> Callable[[], nn.Module]:
        """Makes the network of the flags, with the weights that it starts from."""
        network = self.options.network
        build = partial(network.build, **self.options.model_arguments)
        if self.start is None:
            return build
        start_with = build if network.imagenet_url else partial(load_pretrained, build)
        return partial(start_with, self.start.with_stem(self.recipe.stem))

    def _identity(self, network: nn.Module) -> dict[str, Any]:
        identity: dict[str, Any] = {
            "model": type(network).__name__,
            "structure": structure_of(network),
            "model_arguments": self.options.model_arguments,
            "objective": self.options.settings,
            "recipe": {key: as_dict(self.recipe)[key] for key in (*HYPERPARAMETERS, "cpu_bf16")},
            "data": {
                "source": self.data.source,
                "size": self.data.size,
                "sha256": self.data.sha256,
                "without": self.left_out,
                "images": len(self.train),
            },
        }
        if self.start is not None:
            identity["starting_weights"] = self.start.record
        return identity

    @property
    def left_out(self) -> str:
        """What ``--exclude-fold`` leaves out, in words, or nothing."""
        if not self.options.exclude_fold:
            return ""
        fold, k = self.options.exclude_fold
        if fold == "all":
            return "all two-class images"
        return f"fold {fold} of {k} over {self.options.folds_over}"

    def trainer(self) -> Trainer:
        """The training, at its beginning; without labels it has no validation images."""
        (images, labels), val = self._tensors(self.train), self._tensors(self.val)
        objective = None
        if self.options.objective == "simclr":
            objective = SimCLR(self.options.settings["nt_xent_temperature"])
            labels = labels.new_zeros(len(labels))
            val = images[:0], labels[:0]
        return Trainer(
            self.build,
            self.recipe,
            (images, labels),
            val,
            objective=objective,
            processes=self.processes,
        )

    def _tensors(self, split: splits.Split) -> tuple[torch.Tensor, torch.Tensor]:
        """Images (N, 1, S, S) uint8 and labels (N, 14) on the device."""
        images = torch.from_numpy(split.images)[:, None].to(self.device)
        return images, torch.from_numpy(split.labels).to(self.device, torch.float32)

    def _figures_of_val(self, trainer: Trainer) -> dict[str, Any] | None:
        """Figures of the findings in float32, each one's AUC included, where there are any."""
        if not len(trainer.val_images):
            return None
        logits = predict(trainer.eval_model, trainer.val_images, self.recipe)
        return FindingsTask().evaluate(self.val, logits)

    def describe(self, trainer: Trainer) -> str:
        """Network, objective and data in two lines."""
        n_left_out = len(self.data.train) - len(self.train)
        without = f", {n_left_out} left out for {self.left_out}" if self.left_out else ""
        number = self.processes.size
        shared = f", {number} processes" if number > 1 else ""
        return (
            f"{self.identity['model']}, {parameter_count(trainer.model):,} parameters, "
            f"{self.options.objective}, {self.recipe.image_size or self.data.size} px, on "
            f"{self.device.type} in {precision(trainer)}, seed {self.recipe.seed}{shared}\n"
            f"data: {self.data.source} ({len(self.train)} training images{without})"
        )

    def save(self, trainer: Trainer) -> None:
        """Write the state to resume from, and the history."""
        save_checkpoint(self.files.last, {**self.identity, "trainer": trainer.state_dict()})
        rows = [[row[name] for name in COLUMNS] for row in trainer.history]
        write_csv(self.files.folder / "history.csv", COLUMNS, rows)

    def write_results(self, trainer: Trainer) -> None:
        """Write the last epoch's weights with what is known of them, then `metrics.json`.

        SimCLR's projection head is left out.
        """
        figures = self._figures_of_val(trainer)
        weights = {
            name: value
            for name, value in trainer.model.state_dict().items()
            if self.options.objective == "findings" or not name.startswith(f"{self.head}.")
        }
        state = {"epoch": self.recipe.epochs, "weights": weights, "seen": self.seen}
        state |= {"history": [dict(row) for row in trainer.history], "val": figures}
        save_checkpoint(self.files.finished, {**self.identity, **state})
        seconds = sum(row["seconds"] for row in trainer.history)
        patients = self.train.patients
        metrics = {
            "name": self.name,
            **self.identity,
            "parameters": parameter_count(trainer.model),
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
            "val": figures,
            "seconds": seconds,
            "images_per_second": trainer.images_per_epoch * len(trainer.history) / seconds,
        }
        atomic_write(self.files.metrics, json.dumps(metrics, indent=2) + "\n")


def train(pretraining: Pretraining, signals: StopSignals) -> None:
    """Train what is not done yet, holding the lock of the run's name."""
    with pretraining.claim() as (unfinished, state):
        if not unfinished:
            return
        trainer = pretraining.trainer()
        if state is not None:
            trainer.load_state_dict(state["trainer"], None)
        print(pretraining.describe(trainer), flush=True)
        with watched(trainer, signals) as progress:

            def on_epoch(row: Mapping[str, float]) -> None:
                if pretraining.processes.first:
                    pretraining.save(trainer)
                progress.end_of_epoch(row)
                signals.check()

            trainer.fit(on_epoch)
        if pretraining.processes.first:
            pretraining.write_results(trainer)
            pretraining.finish()
            _print_summary(pretraining, trainer)


def _print_summary(pretraining: Pretraining, trainer: Trainer) -> None:
    seconds = sum(row["seconds"] for row in trainer.history)
    last = trainer.history[-1]
    of_val = "" if math.isnan(last["val_auc"]) else f"val mean AUC {last['val_auc']:.3f}, "
    print(
        f"{len(trainer.history)} epochs, loss {last['train_loss']:.3f}, {of_val}"
        f"{duration(seconds)} (minutes:seconds)\nresults: {pretraining.final.folder}   "
        f"for --weights: {pretraining.final.finished}",
        flush=True,
    )
    if pretraining.data.phantom:
        print(phantom.PHANTOM_MARK, flush=True)


def with_head(build: Callable[[], nn.Module], name: str, outputs: int, objective: str) -> nn.Module:
    """A new network whose last linear layer is the objective's.

    Args:
        build: makes the network.
        name: of its last linear layer.
        outputs: findings, or values per image that SimCLR compares.
        objective: ``findings`` or ``simclr``.
    """
    network = build()
    head = ProjectionHead if objective == "simclr" else nn.Linear
    network.set_submodule(name, head(network.get_submodule(name).in_features, outputs))
    return network


def _held_out(data: splits.TwoClassData, options: argparse.Namespace) -> splits.Split:
    """The two-class images that ``--exclude-fold`` names: of one fold, or all."""
    fold, k = options.exclude_fold
    if fold == "all":
        pool = train_and_val(data)
        warn_without_patients(pool)
        return pool
    chosen = make_folds(data, k, options.folds_over)[fold - 1]
    return chosen.val if chosen.held_out is None else chosen.held_out


def without(images: splits.Split, held_out: splits.Split, split: str) -> splits.Split:
    """The images that are of no patient in ``held_out``.

    Where the source names no patients, the images that are not in ``held_out`` themselves, nor have
    the file name of one.

    Args:
        images: of one split of the source.
        held_out: images of the same source, with their ``origin`` if not all of its train split.
        split: which one ``images`` are of.
    """
    if images.patients is not None and held_out.patients is not None:
        excluded = np.isin(images.patients, held_out.patients)
    else:
        excluded = np.isin(
            images.index, provenance.record([("train", held_out)])["rows"].get(split, [])
        )
        if images.names is not None and held_out.names is not None:
            keys = splits.image_keys(held_out.names)
            excluded |= np.isin(splits.image_keys(images.names), keys)
    rest = images.take(~excluded)
    if provenance.overlap(provenance.record([(split, rest)]), "train", held_out, by_patient=True):
        raise RuntimeError("images of the fold left out are still there")
    return rest


if __name__ == "__main__":
    main()
