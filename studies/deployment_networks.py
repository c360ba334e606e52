"""The networks of `studies.deployment`: trained on a fold, pruned, and written as ONNX files."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

import export
from chestlab.evaluation.alarms import logits_of
from chestlab.files.atomic import atomic_write, make_folder
from chestlab.runs.shared_folds import name_of
from chestlab.training import onnx_model
from chestlab.training.architecture import describe_blocks
from chestlab.training.augment import to_input
from chestlab.training.export_graph import WholePath
from chestlab.training.inference import TrainedModel
from chestlab.training.layers import parameter_count
from chestlab.training.pruning import with_zeros, without_channels
from chestlab.training.recipe import Recipe, as_dict, recipe_hash
from studies.deployment_page import BASE, INT8
from studies.fold_networks import TRAINED, FoldNetwork
from studies.frozen_recipes import Frozen

if TYPE_CHECKING:
    from onnx import ModelProto

SHARES = {"pruned25": 0.25, "pruned50": 0.5}  # of the channels; fixed before anything was trained

FINE_TUNING_EPOCHS, FINE_TUNING_RATE = 0.25, 0.5  # of the recipe's, for what pruning leaves

ZEROS = {"zeros_magnitude": "magnitude", "zeros_2_4": "2:4"}  # whose times alone are measured


@dataclass(frozen=True)
class Deployed(Frozen):
    """A frozen recipe whose networks are exported.

    Attributes:
        pruned: it is pruned as well.
    """

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


class DeployedFold(FoldNetwork):
    """The network of one fold, what pruning leaves of it, and their files."""

    def part(self, name: str, train: bool = True) -> nn.Module:
        """The network of the fold, or what pruning has left of it, from the store or trained now.

        Args:
            name: empty, or a key of `SHARES`.
            train: False for a network in its initial state where none is stored.
        """
        whole = self.network(train)
        if not name:
            return whole
        example = to_input(torch.from_numpy(self.fold.held_out.images[:2, None]), self.recipe)
        build = partial(copy.deepcopy, without_channels(whole, example, SHARES[name]))
        return self.stored(self._file_name(name), build, fine_tuning(self.recipe), train)

    def _file_name(self, part: str) -> str:
        """Of the weights of a part, without ending; another way of making it has another name."""
        if not part:
            return TRAINED
        made_by = {"channels_removed": SHARES[part], "recipe": recipe_hash(as_dict(self._tuned()))}
        return f"{part}_{name_of(made_by)[:12]}"

    def evaluate(self, part: str, precision: str) -> dict[str, Any]:
        """What a file predicts of the images held out, from the store or measured now."""
        key = {**self.key, "file": precision, "tta": self.recipe.tta}
        if part:
            key |= {"channels_removed": SHARES[part], "fine_tuning": as_dict(self._tuned())}
        images = self.fold.held_out.images[:, None]
        result = self.study.store.get(key, len(images))
        if result is None:
            model = self.file(self.trained(self.part(part)), precision)
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
        onnx_model.set_metadata(model, {**export.metadata(trained, self.study.data), **texts})
        return model

    def files_of_one_view(self, deployed: Deployed) -> dict[str, Path]:
        """Files without test-time augmentation by variant, from the store or made now.

        Their times can be compared between networks, whose recipes ask for 1 to 10 views.
        """
        whole = {zeros: ("", BASE) for zeros in ZEROS if deployed.pruned}
        paths = {}
        for variant, (part, precision) in {**variants(deployed), **whole}.items():
            weights = self._file_name(part)
            stored = (self.folder / f"{weights}.pth").exists()
            folder = self.folder if stored else self.folder / "untrained"
            make_folder(folder)
            name = variant.replace(part, weights) if part else variant
            path = paths[variant] = folder / f"{name}.onnx"
            if not path.exists():
                model = self.part(part, train=False)
                if variant in ZEROS:
                    model = with_zeros(model, ZEROS[variant])
                file = self.file(self.trained(model, "none"), precision)
                atomic_write(path, file.SerializeToString())
        return paths


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
