"""What a run is: its network, recipe, images and name, checked before anything is written."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from chestlab.data import provenance, sources
from chestlab.data.splits import SPLITS, Split, TwoClassData
from chestlab.evaluation.tasks import task_of
from chestlab.files.atomic import check_writable
from chestlab.files.errors import InputError
from chestlab.files.notebook import module_name
from chestlab.files.run_files import RunFiles
from chestlab.runs.naming import check_name, name_of, output_folders
from chestlab.runs.phantom_runs import shortened, weights_or_none
from chestlab.runs.resumable import Resumable, structure_of
from chestlab.training.device import check_precision, pick_device, precision
from chestlab.training.distributed import Processes
from chestlab.training.layers import parameter_count, set_drop_paths
from chestlab.training.recipe import Recipe, as_dict
from chestlab.training.sampling import related_images, training_split
from chestlab.training.trainer import Trainer
from chestlab.training.weights import RANDOM_MARK, PretrainedWeights, load_pretrained

Tensors = tuple[torch.Tensor, torch.Tensor]  # images and labels


class Experiment(Resumable):
    """A network with a recipe on images, under a name.

    Args:
        model: class of the network.
        options: of `flags.parse`.
        data: by default what the options name.
        subfolder: inside both output folders, for a member of an ensemble or a study.
        read_weights: reads those to start from, where the network can start from any.
        processes: that train together, as ``torchrun`` has started them.

    Attributes:
        build: makes the network.
        build_random: makes it with random weights, whatever ``build`` starts from.
        train: images to train on, with those that the recipe adds.
        pretrained: weights to start from, or None.
        has_backbone: the network has one that can start from ImageNet's weights and be frozen.
        script: file, without ``.py``, that defines the network.
        looks_dir: folder of the results, that of members and studies included, and, but for
            phantoms, of the table that counts evaluations of test, see `looks`.
        seen: records (`provenance.record`) of the images that train the network, ``trained``, and
            of those that choose its epoch, ``chosen``.

    Raises:
        InputError: device, folders, data or name cannot be used; nothing has been written.
    """

    def __init__(
        self,
        model: Callable[..., nn.Module],
        options: argparse.Namespace,
        data: TwoClassData | None = None,
        subfolder: str = "",
        *,
        read_weights: Callable[[], PretrainedWeights] | None = None,
        processes: Processes = Processes(),  # noqa: B008 (a frozen value)
    ) -> None:
        self.options, self.recipe, self.processes = options, options.recipe, processes
        self.task = task_of(options.task)
        self.device = processes.device(pick_device(options.device))
        self.has_backbone: bool = options.has_backbone
        self._check_flags()
        findings = options.task == "findings"
        self.data = data or sources.load(
            options.data,
            options.root,
            options.source_size,
            findings,
            self.recipe.related,
            options.classes,
        )
        self.recipe = shortened(options.recipe, options, self.data)
        self._choose_name(subfolder)
        self.build = self.build_random = partial(model, **options.model_arguments)
        self.pretrained: PretrainedWeights | None = None
        if read_weights:
            self.pretrained, self.recipe = weights_or_none(
                read_weights, self.recipe, options, self.data
            )
        if self.pretrained is None or self.pretrained.state is None:  # there is no other stem
            self.recipe = dataclasses.replace(self.recipe, stem=Recipe.stem)
        if self.pretrained is not None:
            self.pretrained = self.pretrained.with_stem(self.recipe.stem)
            start_with = self.build if self.has_backbone else partial(load_pretrained, self.build)
            self.build = partial(start_with, self.pretrained)
        self._check_leaks()
        network = self.build()  # once now, so that what does not fit is an error before the run
        if self.recipe.drop_path:
            set_drop_paths(network, self.recipe.drop_path)
        self.prepare_recipe(network)
        self.train = self.data.train
        if isinstance(self.data, TwoClassData):
            self.train = training_split(self.data, self.recipe)
        self.seen = self._seen()
        self.script = module_name(type(network))
        self.identity = self._identity(network)

    def _check_flags(self) -> None:
        check_precision(self.recipe, self.device)
        for flag in ("stage1_epochs", "freeze"):
            if getattr(self.recipe, flag) and not self.has_backbone:
                raise InputError(
                    f"--{flag.replace('_', '-')}: this network has no backbone to freeze; "
                    "allowed is 0"
                )
        images = self.recipe.batch_size * self.recipe.accumulation
        if images < 2 * self.processes.size:
            raise InputError(
                f"--batch-size {self.recipe.batch_size}: {self.processes.size} processes need "
                f"{2 * self.processes.size} images a step or more"
            )
        check_writable(self.options.results_dir, "--results-dir")
        check_writable(self.options.models_dir, "--models-dir")

    def _choose_name(self, subfolder: str) -> None:
        self.name = name_of(self.options, self.data)
        check_name(self.name)
        results_dir, models_dir = output_folders(self.options, self.data)
        self.looks_dir = results_dir
        self.final = RunFiles(results_dir / subfolder, models_dir / subfolder, self.name)
        check_writable(self.final.folder, "--results-dir")
        check_writable(self.final.models_dir, "--models-dir")
        self.files = self.final

    def _seen(self) -> dict[str, Any]:
        before = self.pretrained.seen if self.pretrained else {}
        trained = [("train", self.data.train)]
        if self.recipe.related and isinstance(self.data, TwoClassData):
            trained.append(("train", related_images(self.data)))
        now = {"trained": trained, "chosen": [("val", self.data.val)]}
        return {
            how: provenance.union(before.get(how), provenance.record(parts, self.data.phantom))
            for how, parts in now.items()
        }

    def _identity(self, network: nn.Module) -> dict[str, Any]:
        identity: dict[str, Any] = {
            "model": type(network).__name__,
            "structure": structure_of(network),
        }
        if self.options.model_arguments:
            identity["model_arguments"] = self.options.model_arguments
        if self.pretrained is not None:
            identity["starting_weights"] = {
                **self.pretrained.record,
                **({"note": RANDOM_MARK} if self.random_start else {}),
            }
        identity["recipe"] = as_dict(self.recipe)
        identity["data"] = {
            "source": self.data.source,
            "size": self.data.size,
            "sha256": self.data.sha256,
            "counts": self.data.counts(),
            **({"fold": self.data.fold} if self.data.fold else {}),
            **({"classes": list(self.data.classes)} if self.data.classes else {}),
        }
        return identity

    @property
    def random_start(self) -> bool:
        """The network could have started from weights, and starts from random numbers."""
        return self.pretrained is not None and self.pretrained.source == "none"

    @property
    def splits(self) -> dict[str, Split]:
        """The splits by name, with a fold's held-out images where there are any."""
        splits = {name: getattr(self.data, name) for name in (*SPLITS, "held_out")}
        return {name: split for name, split in splits.items() if split is not None}

    @property
    def val_is_fold(self) -> bool:
        """Val are the images of a fold, which chooses the epoch as well."""
        return bool(self.data.fold) and self.data.held_out is None

    def tensors(self) -> tuple[Tensors, Tensors]:
        """Images and labels to train on, and those to choose the epoch on, on the device."""
        return self.train.to(self.device), self.data.val.to(self.device)

    def _check_leaks(self) -> None:
        """Refuse weights of a network that knows images this run is evaluated on.

        Images of an official split are compared one by one, those of a fold by patient. A network
        that was chosen on the official val images may start here: this run is chosen on them, too.
        """
        if self.pretrained is None:
            return
        for name, images in self.splits.items():
            if name == "train":
                continue
            of_fold = name == "held_out" or (name == "val" and self.val_is_fold)
            known = dict(self.pretrained.seen)
            if name == "val" and not of_fold:
                known.pop("chosen", None)
            provenance.check_unseen(
                known.values(),
                name,
                images,
                phantom=self.data.phantom,
                by_patient=of_fold,
                source=self.pretrained.source,
            )

    def describe(self, trainer: Trainer) -> str:
        """The network, how it is trained and on what, in two lines."""
        counts = ", ".join(f"{name.replace('_', ' ')} {n}" for name, n in self._counts().items())
        number = self.processes.size
        return (
            f"{self.identity['model']}, {parameter_count(trainer.model):,} parameters, "
            f"{self.recipe.image_size or self.data.size} px, on {self.device.type} in "
            f"{precision(trainer)}, seed {self.recipe.seed}"
            f"{f', {number} processes' if number > 1 else ''}"
            f"{', backbone frozen' if trainer.frozen else ''}"
            f"{', ' + RANDOM_MARK if self.random_start else ''}\n"
            f"data: {self.data.source} ({counts} images)"
        )

    def _counts(self) -> dict[str, str]:
        """How many images each split has; of train also what the recipe adds."""
        counts = {name: str(len(split)) for name, split in self.splits.items()}
        if added := len(self.train) - len(self.data.train):
            counts["train"] += f" + {added} added"
        return counts

    def title(self, *splits: str) -> str:
        """First lines of a picture: the run, its network, its data, and images per split."""
        counts = self._counts()
        n = ", ".join(f"{split.replace('_', ' ')} n = {counts[split]}" for split in splits)
        fold = f" · {self.data.fold}" if self.data.fold else ""
        mark = f"\n{RANDOM_MARK}" if self.random_start else ""
        return f"{self.name} · {self.identity['model']}{fold}\n{self.data.source} · {n}{mark}"
