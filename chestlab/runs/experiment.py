"""One run from the command line to the pictures: data, training, evaluation, results.

Every training script is a recipe, a model and one call of `run`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from chestlab.data import phantom, provenance, sources
from chestlab.data.splits import NIH_CREDIT, SPLITS, Split, TwoClassData
from chestlab.evaluation.metrics import fit_temperature, roc_auc, sigmoid
from chestlab.evaluation.predictions import write_probabilities
from chestlab.evaluation.tasks import SPLIT_TITLES, print_scores, task_of
from chestlab.files.atomic import atomic_write, check_writable, make_folder
from chestlab.files.checkpoint import save_checkpoint
from chestlab.files.errors import InputError
from chestlab.files.progress import Interrupted, Progress, StopSignals, duration
from chestlab.files.run_files import RunFiles, read_metrics, run_lock
from chestlab.runs.naming import check_name, output_folders, run_name
from chestlab.runs.resumable import Resumable
from chestlab.training.device import check_precision, pick_device, precision
from chestlab.training.layers import parameter_count, set_drop_paths
from chestlab.training.recipe import as_dict
from chestlab.training.sampling import related_images, training_split
from chestlab.training.trainer import HISTORY_COLUMNS, Trainer, predict
from chestlab.training.weights import (
    RANDOM_MARK,
    PretrainedWeights,
    load_pretrained,
)


class Run(Resumable):
    """What one start of a script works with.

    Args:
        build: model class.
        signals: checked between two batches.
        start: reads the weights to start from, where the run can start from any.
        options: of `flags.parse`.
        data: by default what the options name.
        below: folder of what this run is a part of, inside both output folders.

    Attributes:
        staged: the model has a backbone that can start from ImageNet's weights and be frozen.

    Raises:
        InputError: device, folders, data or name cannot be used; nothing has been written.
    """

    def __init__(
        self,
        build: Callable[..., nn.Module],
        signals: StopSignals,
        start: Callable[[], PretrainedWeights] | None,
        options: argparse.Namespace,
        data: TwoClassData | None = None,
        below: str = "",
    ) -> None:
        self.task = task_of(options.task)
        self.build = partial(build, **options.model_arguments)
        self.options, self.signals = options, signals
        self.recipe = options.recipe
        self.device = pick_device(options.device)
        check_precision(self.recipe, self.device)
        self.staged: bool = options.pretrained
        if self.recipe.stage1_epochs and not self.staged:
            raise InputError(
                "--stage1-epochs: this network has no backbone to freeze; allowed is 0"
            )
        if self.recipe.freeze and not self.staged:
            raise InputError("--freeze: this network has no backbone to freeze; allowed is 0")
        check_writable(options.results_dir, "--results-dir")
        check_writable(options.models_dir, "--models-dir")
        findings = options.task == "findings"
        self.data = data or sources.load(
            options.data, options.root, options.source_size, findings, self.recipe.related
        )
        self.name = options.name or run_name(self.recipe, options.data, self.data.size)
        check_name(self.name)
        results_dir, models_dir = output_folders(options, self.data)
        self.final = RunFiles(results_dir / below, models_dir / below, self.name)
        check_writable(self.final.folder, "--results-dir")
        check_writable(self.final.models_dir, "--models-dir")
        self.files = self.final
        self.history_lines: list[str] = []
        self.start = start() if start else None
        if self.start is not None:
            start_with = self.build if self.staged else partial(load_pretrained, self.build)
            self.build = partial(start_with, self.start)
            self._check_leaks()
        network = self.build()  # what does not fit is told before anything is written
        if self.recipe.drop_path:
            set_drop_paths(network, self.recipe.drop_path)
        self._check_network(network)
        before = self.start.seen if self.start else {}
        self.train = self.data.train
        if not findings:
            self.train = training_split(self.data, self.recipe)
        trained = [("train", self.data.train)]
        if self.recipe.related:
            trained.append(("train", related_images(self.data)))
        now = {"trained": trained, "chosen": [("val", self.data.val)]}
        self.seen = {
            how: provenance.union(
                before.get(how),
                provenance.record(parts, self.data.phantom),
            )
            for how, parts in now.items()
        }
        self.identity = {
            "model": type(network).__name__,
            **({"model_arguments": options.model_arguments} if options.model_arguments else {}),
            **({"starting_weights": self._weights_note()} if self.start is not None else {}),
            "recipe": as_dict(self.recipe),
            "data": {
                "source": self.data.source,
                "size": self.data.size,
                "sha256": self.data.sha256,
                "counts": self.data.counts(),
                **({"fold": self.data.fold} if self.data.fold else {}),
            },
        }

    @property
    def _parts(self) -> dict[str, Split]:
        """The splits by name, with a fold's held-out images where there are any."""
        parts = {name: getattr(self.data, name) for name in (*SPLITS, "held_out")}
        return {name: split for name, split in parts.items() if split is not None}

    def _check_leaks(self) -> None:
        """Refuse weights of a network that knows images this run will be judged on.

        The official splits are compared image by image, a fold patient by patient. To have been
        chosen on the official val images is allowed, since this run will be, too.
        """
        for name, images in self._parts.items():
            if name == "train":
                continue
            left_out = name == "held_out" or (name == "val" and self._val_is_fold)
            chosen_again = name == "val" and not left_out
            provenance.check_unseen(
                [r for how, r in self.start.seen.items() if how == "trained" or not chosen_again],
                name,
                images,
                phantom=self.data.phantom,
                by_patient=left_out,
                source=self.start.source,
            )

    @property
    def _val_is_fold(self) -> bool:
        return bool(self.data.fold) and self.data.held_out is None

    def go(self) -> None:
        """Train, evaluate and draw what is not done yet, holding the run's lock."""
        make_folder(self.final.models_dir)
        with run_lock(self.final.models_dir / f"{self.name}.lock", self.name):
            todo, state = self._choose_start()
            if not todo:
                return
            make_folder(self.files.folder)
            trainer = self._train(state)
            self._report(trainer)
            if self.files is not self.final:
                self.files.replace(self.final)
            _print_summary(self.final)

    def _train(self, state: dict[str, Any] | None) -> Trainer:
        """Go through the stages from where the state left off; returns the last one's trainer."""
        stages = self.recipe.stages
        train, val = self.train.to(self.device), self.data.val.to(self.device)
        trainer = None
        for number in range(state["stage"] if state else 0, len(stages)):
            frozen = number < len(stages) - 1
            trainer = Trainer(self.build, stages[number], train, val, frozen, previous=trainer)
            if state is not None:
                self._restore(trainer, state)
                state = None
            self._print_header(trainer)
            self._train_stage(trainer, number)
            if frozen:
                self._save_weights(self.files.stage1, trainer)
        return trainer

    def _train_stage(self, trainer: Trainer, number: int) -> None:
        progress = Progress(
            trainer.first_epoch + trainer.recipe.epochs,
            trainer.steps_per_epoch,
            len(trainer.history),
        )

        def on_step() -> None:
            self.signals.check()
            progress.step()

        trainer.on_step = on_step
        self.signals.patient = True
        try:
            while not trainer.finished:
                row = trainer.run_epoch()
                self._save(trainer, number)
                progress.end_of_epoch(row, trainer.best_epoch)
                self.signals.check()
        except Interrupted as interruption:
            self.signals.patient = False
            if trainer.history:
                self._draw_curves(trainer)
            raise Interrupted(interruption.signum, f" after epoch {len(trainer.history)}") from None
        finally:
            progress.close()
            self.signals.patient = False

    def _save(self, trainer: Trainer, stage: int) -> None:
        """State first, best weights second: after a cut between the two, the state holds both."""
        state = {**self.identity, "stage": stage, "trainer": trainer.state_dict()}
        save_checkpoint(self.files.last, state)
        if trainer.best_epoch == len(trainer.history):
            self._save_weights(self.files.best, trainer)
        self._write_history(trainer)

    def _save_weights(self, path: Path, trainer: Trainer, **more: Any) -> None:
        """The best epoch's weights with all that is needed to use them."""
        best = {"epoch": trainer.best_epoch, "weights": trainer.best_weights}
        save_checkpoint(path, {**self.identity, **best, "seen": self.seen, **more})

    def _write_history(self, trainer: Trainer) -> None:
        new = trainer.history[len(self.history_lines) :]  # all of them are slow after 1,000 epochs
        self.history_lines += [",".join(str(row[name]) for name in HISTORY_COLUMNS) for row in new]
        text = "\n".join((",".join(HISTORY_COLUMNS), *self.history_lines, ""))
        atomic_write(self.files.folder / "history.csv", text)

    def _restore(self, trainer: Trainer, state: Mapping[str, Any]) -> None:
        stored = state["trainer"]
        in_state = stored["best_epoch"] == len(stored["history"])
        best = None
        if not in_state:
            best = self._load(self.files.best)
            if best["epoch"] != stored["best_epoch"]:
                raise InputError(
                    f"'{self.files.best}' is of epoch {best['epoch']}, and the best so far is "
                    f"epoch {stored['best_epoch']}: --overwrite starts anew"
                )
        trainer.load_state_dict(stored, best and best["weights"])
        if in_state:
            self._save_weights(self.files.best, trainer)
        self._write_history(trainer)
        if stored["device"] != trainer.device.type:
            print(
                f"NOTE: begun on {stored['device']}, going on on {trainer.device.type}: "
                "the numbers will not be those of an uninterrupted run",
                file=sys.stderr,
            )

    def _print_header(self, trainer: Trainer) -> None:
        counts = ", ".join(f"{name.replace('_', ' ')} {n}" for name, n in self._n().items())
        print(
            f"{self.identity['model']}, {parameter_count(trainer.model):,} parameters, "
            f"{self.recipe.image_size or self.data.size} px, on {self.device.type} in "
            f"{precision(trainer)}, seed {self.recipe.seed}"
            f"{', backbone frozen' if trainer.frozen else ''}{self._mark(', ')}\n"
            f"data: {self.data.source} ({counts} images)",
            flush=True,
        )

    def _mark(self, separator: str) -> str:
        """What every artefact of a run says that could have started from weights and did not."""
        random = self.start is not None and self.start.source == "none"
        return separator + RANDOM_MARK if random else ""

    def _n(self) -> dict[str, str]:
        """How many images each split has; of train also what the recipe adds."""
        n = {name: str(len(split)) for name, split in self._parts.items()}
        if added := len(self.train) - len(self.data.train):
            n["train"] += f" + {added} added"
        return n

    def title(self, *splits: str) -> str:
        n = ", ".join(f"{split.replace('_', ' ')} n = {self._n()[split]}" for split in splits)
        fold = f" · {self.data.fold}" if self.data.fold else ""
        mark = self._mark("\n")
        return f"{self.name} · {self.identity['model']}{fold}\n{self.data.source} · {n}{mark}"

    def _draw_curves(self, trainer: Trainer) -> None:
        from chestlab.reporting import curves

        curves.draw_training_curves(
            trainer.history,
            self.files.folder / "training_curves.png",
            title=self.title("train", "val"),
            best_epoch=trainer.best_epoch,
            kept="last" if self.recipe.monitor == "last" else "best",
            stage_changes=[trainer.first_epoch + 1] if trainer.first_epoch else (),
            measure=self.task.measure,
        )

    def _report(self, trainer: Trainer) -> None:
        """Evaluate the chosen epoch, write every artefact, `metrics.json` last."""
        start = time.perf_counter()
        splits = self._parts
        if self.options.no_test:
            del splits["test"]
        stage_results = self._stage_results(trainer) if self.staged else None
        trainer.model.load_state_dict(trainer.best_weights)
        logits = self._predict(trainer, splits, self.recipe.tta)
        scaling = {}
        if self.recipe.temperature:
            temperature = fit_temperature(self.data.val.labels, logits["val"])
            scaling = {"temperature": temperature}
            logits = {name: values / temperature for name, values in logits.items()}
        probabilities = {name: sigmoid(values) for name, values in logits.items()}
        before = time.perf_counter()
        decision = self.task.decide(self.data.val.labels, probabilities["val"])
        choosing = time.perf_counter() - before
        figures = {
            name: self.task.evaluate(split, logits[name], **decision)
            for name, split in splits.items()
        }
        del splits["train"]
        for name, split in splits.items():
            path = self.files.folder / f"{name}_probabilities.csv"
            write_probabilities(path, split, probabilities[name])
        self._draw(trainer, splits, probabilities, figures, decision)
        decision |= {"tta": self.recipe.tta, **scaling}
        self._save_weights(self.files.best, trainer, **decision)
        if stage_results is not None:
            self._save_weights(self.files.finished, trainer, **decision)
            stage_results["threshold"] = _stage_result(figures, choosing)
        seconds = sum(row["seconds"] for row in trainer.history)
        metrics = {
            "name": self.name,
            "model": self.identity["model"],
            "parameters": parameter_count(trainer.model),
            **{
                key: self.identity[key]
                for key in ("model_arguments", "starting_weights")
                if key in self.identity
            },
            "data": {**self.identity["data"], "phantom": self.data.phantom},
            "recipe": self.identity["recipe"],
            "recipe_name": self.options.recipe_name,
            "recipe_changes": self.options.recipe_changes,
            "seed": self.recipe.seed,
            "device": self.device.type,
            "amp": precision(trainer),
            "torch": torch.__version__,
            "training_images": len(self.train),
            "epochs_run": len(trainer.history),
            "best_epoch": trainer.best_epoch,
            **({"stage1_epochs_run": trainer.first_epoch} if stage_results is not None else {}),
            **decision,
            "bootstrap_unit": "image" if self.data.val.patients is None else "patient",
            "seconds": seconds + time.perf_counter() - start,
            "images_per_second": trainer.images_per_epoch
            * len(trainer.history)
            / trainer.training_seconds,
            **{split: figures.get(split) for split in {**dict.fromkeys(SPLITS), **figures}},
            "costs": self._costs(trainer),
            **({"ladder": stage_results} if stage_results is not None else {}),
        }
        atomic_write(self.files.metrics, json.dumps(metrics, indent=2) + "\n")

    def _costs(self, trainer: Trainer) -> dict[str, Any]:
        from chestlab.training import costs

        trained = [row["seconds"] for row in trainer.history]
        first = trainer.first_epoch  # of the second stage, or 0
        return {
            **costs.measure(
                trainer.model, self.data.val.to(self.device)[0], self.recipe, trainer.amp
            ),
            "checkpoint_bytes": self.files.best.stat().st_size,
            "stage1_seconds": sum(trained[:first]),
            "stage2_seconds": sum(trained[first:]),
        }

    def _predict(
        self, trainer: Trainer, splits: Mapping[str, Split], tta: str
    ) -> dict[str, np.ndarray]:
        return {
            name: predict(trainer.model, split.to(self.device)[0], self.recipe, trainer.amp, tta)
            for name, split in splits.items()
        }

    def _stage_results(self, trainer: Trainer) -> dict[str, Any]:
        """Val and test after each step of a two-stage run, at 0.5, with the step's own seconds."""
        splits = {name: getattr(self.data, name) for name in ("val", "test")}
        if self.options.no_test:
            del splits["test"]
        first = sum(row["seconds"] for row in trainer.history[: trainer.first_epoch])
        second = sum(row["seconds"] for row in trainer.history[trainer.first_epoch :])
        steps = [
            ("stage2", trainer.best_weights, "none", second),
            ("tta", trainer.best_weights, self.recipe.tta, None),
        ]
        if trainer.first_epoch:
            steps.insert(0, ("stage1", self._load(self.files.stage1)["weights"], "none", first))
        stage_results = {}
        for name, weights, tta, seconds in steps:
            start = time.perf_counter()
            trainer.model.load_state_dict(weights)
            logits = self._predict(trainer, splits, tta)
            figures = {
                split: {
                    "accuracy": float(np.mean((logits[split] >= 0) == (part.labels == 1))),
                    "auc": roc_auc(part.labels, logits[split]),
                }
                for split, part in splits.items()
            }
            stage_results[name] = _stage_result(figures, seconds or time.perf_counter() - start)
        return stage_results

    def _weights_note(self) -> dict[str, str]:
        note = {"source": self.start.source, "sha256": self.start.sha256}
        return {**note, "note": RANDOM_MARK} if self._mark("") else note

    def _draw(
        self,
        trainer: Trainer,
        splits: Mapping[str, Split],
        probabilities: Mapping[str, Any],
        figures: Mapping[str, Mapping[str, Any]],
        decision: Mapping[str, float],
    ) -> None:
        from chestlab.reporting import run_figures

        splits = {name: split for name, split in splits.items() if name != "held_out"}
        titles = {name: SPLIT_TITLES[name] for name in splits}
        if self._val_is_fold:
            titles["val"] = SPLIT_TITLES["fold"]
        self._draw_curves(trainer)
        credit = "" if self.data.phantom else NIH_CREDIT
        run_figures.draw_results(
            self.files.folder,
            splits,
            probabilities,
            figures,
            titles,
            self.title,
            credit,
            **decision,
        )


def _stage_result(figures: Mapping[str, Mapping[str, Any]], seconds: float) -> dict[str, Any]:
    stage_result = {
        split: {key: figures[split][key] for key in ("accuracy", "auc")}
        for split in ("val", "test")
        if split in figures
    }
    return {**stage_result, "seconds": seconds}


def _print_summary(files: RunFiles) -> None:
    metrics = read_metrics(files.metrics)
    kept = "last" if metrics["recipe"]["monitor"] == "last" else "best"
    threshold = f"threshold {metrics['threshold']:.2f}, " if "threshold" in metrics else ""
    print(
        f"{kept} epoch {metrics['best_epoch']} of {metrics['epochs_run']}, {threshold}"
        f"{duration(metrics['seconds'])} (minutes:seconds)"
    )
    print_scores(metrics)
    print(f"results: {files.folder}   checkpoint: {files.best}", flush=True)
    if metrics["data"]["phantom"]:
        print(phantom.PHANTOM_MARK, flush=True)
