"""The networks of `studies.deployment`: trained on a fold, pruned, and written as ONNX files."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

import export
from chestlab.data.folds import Fold
from chestlab.evaluation.alarms import logits_of
from chestlab.files.atomic import atomic_write, make_folder
from chestlab.files.checkpoint import load_checkpoint, save_checkpoint
from chestlab.runs import crossval
from chestlab.runs.crossval import Configuration
from chestlab.training import onnx_model
from chestlab.training.architecture import describe_blocks
from chestlab.training.augment import to_input
from chestlab.training.export_graph import WholePath
from chestlab.training.inference import TrainedModel
from chestlab.training.layers import parameter_count
from chestlab.training.pruning import with_zeros, without_channels
from chestlab.training.recipe import Recipe, as_dict
from studies.study import Study

if TYPE_CHECKING:
    from onnx import ModelProto

FOLDER = "deployment"  # of the trained networks, below that of the checkpoints

SHARES = {"pruned25": 0.25, "pruned50": 0.5}  # of the channels; fixed before anything was trained

FINE_TUNING_EPOCHS, FINE_TUNING_RATE = 0.25, 0.5  # of the recipe's, for what pruning leaves

ZEROS = {"zeros_magnitude": "magnitude", "zeros_2_4": "2:4"}  # whose times alone are measured

BASE, INT8 = "fp32", "int8"


@dataclass(frozen=True)
class Deployed:
    """A network with its frozen recipe.

    Attributes:
        name: of its rows.
        network: one of `networks.NAMES`.
        recipe: name of a recipe of its script.
        changes: hyperparameters that differ from it.
        weights: what it starts from, as ``--weights`` of the training scripts.
        pruned: it is pruned as well.
    """

    name: str
    network: str
    recipe: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    weights: str = "none"
    pruned: bool = False


DEPLOYED = (
    Deployed("efficientchestnet", "efficientchestnet", "best", pruned=True),
    Deployed("residualchestnet", "residualchestnet", "best", pruned=True),
    Deployed("mobilenetv3", "mobilenetv3", "report", {"batch_norm": "estimated"}),
    Deployed("densenet121_scratch", "densenet121", "scratch"),
    Deployed("tf_efficientnet_lite0", "timm/tf_efficientnet_lite0", "report", weights="imagenet"),
    Deployed("resnet34", "resnet34", "cosine"),
)


def variants(deployed: Deployed) -> dict[str, tuple[str, str]]:
    """What is made of a network: by name, which of its networks and in which numbers."""
    parts = ("", *(SHARES if deployed.pruned else ()))
    return {
        f"{part}_{precision}".removeprefix("_").removesuffix(f"_{BASE}"): (part, precision)
        for part in parts
        for precision in (BASE, INT8)
    }


ORDER = tuple(variants(Deployed("", "", "", pruned=True)))


class FoldNetwork:
    """The network of one fold, what pruning leaves of it, and their files.

    Args:
        study: with data, folds and store.
        configuration: what is trained.
        repeat, number: of the fold, from 0.
    """

    def __init__(
        self, study: Study, configuration: Configuration, repeat: int, number: int
    ) -> None:
        recipe = configuration.recipe
        choosing = recipe.monitor != "last" or recipe.schedule == "plateau"
        recipe = dataclasses.replace(recipe, seed=(recipe.seed + repeat) % 2**31)
        self.study, self.recipe = study, recipe
        self.configuration = dataclasses.replace(configuration, recipe=recipe)
        self.fold: Fold = study.splits.fold(repeat, number, choosing=choosing)
        self.key = crossval.fold_key(self.configuration, self.fold, study.data, study.device)
        text = json.dumps(self.key, sort_keys=True)
        self.folder = study.models_dir / FOLDER / hashlib.sha256(text.encode()).hexdigest()[:40]
        self.where = f"{configuration.name}: repeat {repeat + 1}, fold {number + 1}"

    @property
    def is_trained(self) -> bool:
        return (self.folder / "trained.pth").exists()

    def network(self, part: str = "", train: bool = True) -> nn.Module:
        """The trained network, or what pruning has left of it, from the store or trained now.

        Args:
            part: empty, or a key of `SHARES`.
            train: False for a network in its initial state where none is stored.
        """
        path = self.folder / f"{part or 'trained'}.pth"
        build, recipe = self.configuration.model, self.recipe
        if part:
            whole = self.network("", train)
            example = to_input(torch.from_numpy(self.fold.held_out.images[:2, None]), recipe)
            build = partial(copy.deepcopy, without_channels(whole, example, SHARES[part]))
            recipe = fine_tuning(recipe)
        if not path.exists():
            if not train:
                torch.manual_seed(recipe.seed)
                return build().eval()
            weights, seconds = self._train(build, recipe)
            make_folder(self.folder)
            save_checkpoint(path, {"weights": weights})
            print(f"{self.where}: {path.stem} in {seconds:.0f} s", flush=True)
        model = build()
        model.load_state_dict(load_checkpoint(path, sealed=True)["weights"])
        return model.eval()

    def _train(
        self, build: Callable[[], nn.Module], recipe: Recipe
    ) -> tuple[dict[str, torch.Tensor], float]:
        """The weights that the recipe keeps, on the CPU, and the seconds of the training."""
        study = self.study
        images = crossval.training_images(study.splits, self.fold, recipe)
        configuration = Configuration(self.configuration.name, build, recipe)
        study.signals.check()
        with study.signals.deferred():
            trainer = crossval.fit_fold(
                configuration, images, self.fold, study.device, study.signals.check
            )
        seconds = sum(row["seconds"] for row in trainer.history)
        return {name: value.cpu() for name, value in trainer.best_weights.items()}, seconds

    def trained(self, model: nn.Module, tta: str | None = None) -> TrainedModel:
        """A network as `predict.py` uses it, with the threshold of cross-validation."""
        data, name = self.study.data, architecture(self.configuration)
        about = {"size": data.size, "source": data.source, "sha256": data.sha256, "note": ""}
        return TrainedModel(
            name=self.configuration.name,
            architecture=name,
            model=model,
            recipe=self.recipe,
            threshold=0.5,
            tta=self.recipe.tta if tta is None else tta,
            seen={},
            device=torch.device("cpu"),
            **about,
        )

    def evaluate(self, part: str, precision: str) -> dict[str, Any]:
        """What a file predicts of the images held out, from the store or measured now."""
        key = {**self.key, "file": precision, "tta": self.recipe.tta}
        if part:
            key |= {"channels_removed": SHARES[part], "fine_tuning": as_dict(self._tuned())}
        images = self.fold.held_out.images[:, None]
        result = self.study.store.get(key, len(images))
        if result is None:
            model = self.file(self.trained(self.network(part)), precision)
            self.study.signals.check()
            run = onnx_model.run_model(model.SerializeToString())
            logits = logits_of(onnx_model.probabilities(run, images))
            result = {"logits": {"file": logits.tolist()}, "int8": int8_of(model)}
            self.study.store.put(key, result)
        return result

    def _tuned(self) -> Recipe:
        return dataclasses.replace(fine_tuning(self.recipe), name="", tta=Recipe.tta)

    def file(self, trained: TrainedModel, precision: str) -> ModelProto:
        """The ONNX model that `export.py` makes of a network."""
        height, width = 2 * trained.size + 2, trained.size + 3  # no two sizes are equal
        example = torch.zeros((2, 1, height, width), dtype=torch.uint8)
        model = onnx_model.export(WholePath(trained), example)
        data = dataclasses.replace(self.study.data, train=self.fold.train)
        model, about = export.in_precision(model, precision, data)
        texts = {INT8: json.dumps(about[INT8])} if INT8 in about else {}
        onnx_model.set_metadata(model, {**export.metadata(trained), **texts})
        return model

    def files_of_one_view(self, deployed: Deployed) -> dict[str, Path]:
        """Files without test-time augmentation by variant, from the store or made now.

        Their times can be compared between networks, whose recipes ask for 1 to 10 views.
        """
        whole = {zeros: ("", BASE) for zeros in ZEROS if deployed.pruned}
        paths = {}
        for variant, (part, precision) in {**variants(deployed), **whole}.items():
            stored = (self.folder / f"{part or 'trained'}.pth").exists()
            folder = self.folder if stored else self.folder / "untrained"
            make_folder(folder)
            path = paths[variant] = folder / f"{variant}.onnx"
            if not path.exists():
                model = self.network(part, train=False)
                if variant in ZEROS:
                    model = with_zeros(model, ZEROS[variant])
                file = self.file(self.trained(model, "none"), precision)
                atomic_write(path, file.SerializeToString())
        return paths


def architecture(configuration: Configuration) -> str:
    """Name of the class of a configuration's network."""
    return type(configuration.model()).__name__


def arithmetic(model: nn.Module, images: np.ndarray, recipe: Recipe) -> dict[str, int]:
    """Parameters, and multiply-accumulates of one picture."""
    x = to_input(torch.from_numpy(images[:1, None]), recipe)
    with torch.enable_grad():  # as `costs.measure`
        macs = describe_blocks(model, x)[1]
    return {"parameters": parameter_count(model), "multiply_accumulates": macs}


def checkpoint_bytes(model: nn.Module) -> int:
    """Size of the weights alone as PyTorch saves them."""
    content = io.BytesIO()
    torch.save(model.state_dict(), content)
    return len(content.getvalue())


def int8_of(model: ModelProto) -> dict[str, Any] | None:
    """How a file was quantised, as `export.json` has it; None for one in float32."""
    texts = (entry.value for entry in model.metadata_props if entry.key == INT8)
    return next((json.loads(text) for text in texts), None)


def fine_tuning(recipe: Recipe) -> Recipe:
    """The short recipe for what pruning leaves: fewer epochs at a lower rate, else the same."""
    epochs = max(1, round(recipe.epochs * FINE_TUNING_EPOCHS))
    return dataclasses.replace(
        recipe, epochs=epochs, lr=recipe.lr * FINE_TUNING_RATE, stage1_epochs=0, stage2_epochs=0
    )
