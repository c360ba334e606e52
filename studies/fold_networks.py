"""Networks of single folds whose weights are kept, so that studies share what is trained once, and
studies of what is made of several of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from chestlab.data.folds import Fold
from chestlab.evaluation.out_of_fold import NETWORK_KIND
from chestlab.files import claims
from chestlab.files.atomic import make_folder
from chestlab.files.checkpoint import load_checkpoint, save_checkpoint
from chestlab.files.errors import TrainingError
from chestlab.runs import crossval
from chestlab.runs.crossval import Configuration, Outcome
from chestlab.runs.shared_folds import SharedFolds, name_of
from chestlab.training.inference import TrainedModel, predict
from chestlab.training.recipe import Recipe, as_dict, recipe_hash
from studies.network_names import network_name
from studies.stored_configurations import StoredConfigurations
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
        prepare = self.configuration.prepare
        configuration = Configuration(self.configuration.name, build, recipe, prepare=prepare)
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


class KeptNetworks(StoredConfigurations):
    """A study of networks whose weights are kept, and of others that are made of these."""

    def made_of(self, configuration: Configuration) -> Sequence[Configuration] | None:
        """The kept networks that a configuration is made of; None for one that is kept itself."""
        raise NotImplementedError

    def about_made(self, members: Sequence[Configuration]) -> dict[str, Any]:
        """What is stored about a configuration that is made of ``members``."""
        raise NotImplementedError

    def key_of_made(
        self, configuration: Configuration, members: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any]:
        """What the stored fold of a configuration depends on that is made of ``members``."""
        raise NotImplementedError

    def made(
        self, configuration: Configuration, fold: Fold, members: Sequence[FoldNetwork]
    ) -> dict[str, Any]:
        """The result of a fold, as of `crossval.train_fold`, of what is made of ``members``."""
        raise NotImplementedError

    def cross_validate(self, configuration: Configuration, share: float = 1.0) -> Outcome:
        """As of `Study`, of a network whose weights are kept, or of one that is made."""
        members = self.made_of(configuration)

        def network(of: Configuration, repeat: int, fold: Fold) -> FoldNetwork:
            return FoldNetwork(self, of, repeat, int(self.splits.assignment[repeat, fold.rows[0]]))

        def key_of_network(of: Configuration, repeat: int, fold: Fold) -> dict[str, Any]:
            return {"kept": network(of, repeat, fold).key, "tta": of.recipe.tta}

        def fold_of(repeat: int, number: int) -> Fold:
            return self.splits.fold(repeat, number, choosing=False)

        def key_of(repeat: int, fold: Fold) -> dict[str, Any]:
            key = key_of_network(configuration, repeat, fold)
            if members is not None:
                keys = [key_of_network(of, repeat, fold) for of in members]
                key |= self.key_of_made(configuration, keys)
            return key

        def train(repeat: int, fold: Fold, where: str) -> dict[str, Any]:
            try:
                if members is None:
                    return self._kept(network(configuration, repeat, fold))
                known = [network(of, repeat, fold) for of in members]
                return self.made(crossval.in_repeat(configuration, repeat), fold, known)
            except TrainingError as error:
                raise TrainingError(f"{configuration.name}, {where}: {error}") from None

        def tell(fold: Fold, where: str, result: Mapping[str, Any]) -> None:
            told = crossval.in_words(result, fold, configuration.recipe)
            print(f"{configuration.name}: {where}: {told}", flush=True)

        name, store = configuration.name, self.store
        folds = SharedFolds(name, self.splits, store, fold_of, key_of, train, tell)
        return crossval.gathered(self.splits, crossval.unnamed(folds.each()))

    def measure_row(self, configuration: Configuration, changes: Mapping[str, Any]) -> None:
        """`measure` a configuration under its name.

        Args:
            configuration: what is trained or made.
            changes: what differs from the recipe of its network's script.
        """
        about = {
            "kind": NETWORK_KIND,
            "model": network_name(configuration),
            "changes": dict(changes),
            "recipe": recipe_hash(as_dict(configuration.recipe)),
        }
        members = self.made_of(configuration)
        if members is not None:
            about |= self.about_made(members)
        if configuration.pretrained is not None:
            about["start"] = configuration.pretrained.record
        self.measure(configuration.name, configuration, about, estimated=False)

    def average(self, name: str, members: Sequence[str], about: Mapping[str, Any] = {}) -> None:
        """`put_average` of rows, with what they cost, once all are there.

        Its ``images`` are those of the member that learns the most.
        """
        if all(member in self.configurations for member in members):
            rows = [self.configurations[member] for member in members]
            images = max(row["images"] for row in rows)
            costs = {"images": images, "seconds": sum(row["seconds"] for row in rows)}
            self.put_average(name, members, {**costs, **about})

    def _kept(self, of_fold: FoldNetwork) -> dict[str, Any]:
        """What a network predicts of the fold that is held out; its weights are kept."""
        return {
            **self.predicted(of_fold.network(), of_fold.recipe, of_fold.fold),
            "seconds": of_fold.seconds,
            "best_epoch": of_fold.recipe.epochs,
            "epochs": of_fold.recipe.epochs,
            "images": len(crossval.training_images(self.splits, of_fold.fold, of_fold.recipe)),
        }

    def predicted(self, network: nn.Module, recipe: Recipe, fold: Fold) -> dict[str, Any]:
        """The logits of the images that are held out.

        Raises:
            TrainingError: one is not finite.
        """
        held_out = fold.held_out.to(self.device)[0]
        logits = predict(network.to(self.device), held_out, recipe, tta=recipe.tta)
        if not np.isfinite(logits).all():
            raise TrainingError("a logit of a held-out image is not finite")
        return {"logits": {recipe.tta: logits.tolist()}}
