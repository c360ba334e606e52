"""Networks of single folds whose weights are kept, so that studies share what is trained once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from chestlab.data.folds import Fold
from chestlab.files import claims
from chestlab.files.atomic import make_folder
from chestlab.files.checkpoint import load_checkpoint, save_checkpoint
from chestlab.runs import crossval
from chestlab.runs.crossval import Configuration
from chestlab.runs.shared_folds import name_of
from chestlab.training.inference import TrainedModel
from chestlab.training.recipe import Recipe
from studies.study import Study

FOLDER = "deployment"  # below that of the checkpoints, named after the study that first kept them

TRAINED = "trained"  # file of the weights, without its ending


class FoldNetwork:
    """The network of one fold, trained as `crossval.each_fold` trains it.

    Args:
        study: with data and folds.
        configuration: what is trained.
        repeat, number: of the fold, from 0.

    Attributes:
        recipe: with the seed of the repeat.
        fold: the images.
        key: of the fold, see `crossval.fold_key`.
        folder: of the weights, named after the key.
        where: configuration and fold in words.
    """

    def __init__(
        self, study: Study, configuration: Configuration, repeat: int, number: int
    ) -> None:
        self.study = study
        self.configuration = crossval.in_repeat(configuration, repeat)
        self.recipe = self.configuration.recipe
        choosing = crossval.needs_val(self.recipe)
        self.fold: Fold = study.splits.fold(repeat, number, choosing=choosing)
        self.key = crossval.fold_key(self.configuration, self.fold, study.data, study.device)
        self.folder = study.models_dir / FOLDER / name_of(self.key)
        self.where = f"{configuration.name}: repeat {repeat + 1}, fold {number + 1}"

    @property
    def is_trained(self) -> bool:
        return (self.folder / f"{TRAINED}.pth").exists()

    def network(self, train: bool = True) -> nn.Module:
        """The trained network on the CPU, from the store or trained now.

        Args:
            train: False for a network in its initial state where none is stored.
        """
        return self.stored(TRAINED, self.configuration.model, self.recipe, train)

    def stored(
        self, name: str, build: Callable[[], nn.Module], recipe: Recipe, train: bool
    ) -> nn.Module:
        """A network with the weights stored under ``name``, or trained by ``recipe`` now.

        Args:
            name: of the file, without its ending.
            build: makes the network in its initial state.
            recipe: it is trained with.
            train: as that of `network`.
        """
        path = self.folder / f"{name}.pth"
        if not path.exists():
            if not train:
                torch.manual_seed(recipe.seed)
                return build().eval()
            make_folder(self.folder)
            with claims.turn(path.with_suffix(".claim")):  # of two processes one trains it
                if not path.exists():
                    weights, seconds = self._train(build, recipe)
                    save_checkpoint(path, {"weights": weights, "seconds": seconds})
                    print(f"{self.where}: {path.stem} in {seconds:.0f} s", flush=True)
        model = build()
        model.load_state_dict(load_checkpoint(path, sealed=True)["weights"])
        return model.eval()

    @property
    def seconds(self) -> float:
        """What the training of the stored network took; 0 where an earlier version stored it."""
        path = self.folder / f"{TRAINED}.pth"
        return float(load_checkpoint(path, sealed=True).get("seconds", 0.0))

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
        data = self.study.data
        about = {"size": data.size, "source": data.source, "sha256": data.sha256, "note": ""}
        return TrainedModel(
            name=self.configuration.name,
            architecture=type(model).__name__,
            model=model,
            recipe=self.recipe,
            threshold=0.5,
            tta=self.recipe.tta if tta is None else tta,
            seen={},
            device=torch.device("cpu"),
            **about,
        )
