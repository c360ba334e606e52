"""One run from the command line to the pictures: data, training, evaluation, results.

Every training script is a recipe, a model and one call of `run`.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import datareader
import notebook_cell
import provenance
from console import Interrupted, Progress, StopSignals, duration
from engine import HISTORY_COLUMNS, Trainer, TrainingError, parameter_count, predict
from flags import check_name, parse, pick_device, run_name
from metrics import fit_temperature, roc_auc, sigmoid
from recipe import Recipe, as_dict
from sampling import related_images, training_split
from stochastic_depth import set_drop_paths
from storage import (
    InputError,
    RunFiles,
    atomic_write,
    check_writable,
    load_checkpoint,
    run_lock,
    save_checkpoint,
    write_csv,
)
from tasks import SPLIT_TITLES, task_of
from weights import RANDOM_MARK, StartingPoint, started, starting_point


def run(
    build: Callable[[], nn.Module],
    recipes: Mapping[str, Recipe],
    argv: Sequence[str] | None = None,
    imagenet_url: str | Callable[..., str] | None = None,
    knobs: Mapping[str, dataclasses.Field] | None = None,
    findings: bool = False,
    below: str = "",
) -> RunFiles | None:
    """Run a training script: parse the flags, train or resume, evaluate, draw.

    Ends the process with status 2 for wrong input, 130 or 143 when interrupted (resumable), 1 for
    any other failure, each with one line on stderr (see `notebook_cell.leave` for a cell's end);
    returns where everything lies when done (None for an ensemble or a search for the learning
    rate). A notebook shows the pictures.

    Args:
        build: model class.
        recipes: by the name ``--recipe`` knows them; the last one is the default.
        argv: flags, by default the process's own.
        imagenet_url: of torchvision's weights, for a model whose constructor takes a
            `weights.StartingPoint` first and which has a ``backbone``; a callable gets what
            ``knobs`` have become and returns the address. Any other model can start from a
            checkpoint of its own kind.
        knobs: arguments of the model's constructor that are flags, made with `recipe.knob`.
        findings: the constructor takes ``outputs``, so that ``--task findings`` can be asked for.
        below: folder of what this run is a part of, inside both output folders.
    """
    with one_line_errors(), StopSignals() as signals:
        options = parse(recipes, argv, imagenet_url is not None, knobs, findings)
        start = None
        if imagenet_url is not None or options.weights != "none":
            url = imagenet_url
            if callable(imagenet_url):
                url = imagenet_url(**options.model_arguments)
            start = cache(partial(starting_point, options.weights, url))  # once for all members
        if options.members or options.folds:
            from ensemble import Ensemble

            ensemble = Ensemble(partial(Run, build, signals, start), options)
            ensemble.go()
            notebook_cell.show(ensemble.files.folder.glob("*.png"))
            return None
        one = Run(build, signals, start, options, below=below)
        if options.find_lr:
            from lr_finder import find_learning_rate

            find_learning_rate(one)
            notebook_cell.show(one.final.folder.glob("lr_finder.png"))
            return None
        one.go()
        if not below:
            notebook_cell.show(one.final.folder.glob("*.png"))
    return one.final


@contextlib.contextmanager
def one_line_errors(resume: str = "--resume") -> Iterator[None]:
    """Context that turns errors into one line on stderr and the exit statuses of `run`.

    Args:
        resume: the flag with which the same command goes on; empty where it always does.
    """
    again = f"the same command with {resume}" if resume else "the same command"
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a name outside a Windows code page must not end a run
            stream.reconfigure(errors="backslashreplace")
    try:
        yield
        return
    except InputError as error:
        status, message = 2, f"error: {error}"
    except TrainingError as error:
        status, message = 1, f"stopped: {error}; the last completed epoch is kept"
    except OSError as error:
        where = f" ('{error.filename}')" if error.filename else ""
        status = 1
        message = f"stopped: {error.strerror or error}{where}; "
        message += f"{resume or again} goes on once that is mended"
    except Interrupted as interruption:
        status = 128 + interruption.signum
        message = f"interrupted{interruption.when}: {again} goes on"
    notebook_cell.leave(status, message)


class Resumable:
    """What lies under a name: a finished run, an unfinished one to go on with, or nothing.

    Attributes:
        options: the flags.
        recipe: the knobs.
        data: the images.
        name: of the run.
        final: where the finished run lies.
        files: where this one grows.
        identity: what must be the same for a run to go on.
    """

    options: argparse.Namespace
    recipe: Recipe
    data: datareader.TwoClassData | datareader.FindingsData
    name: str
    final: RunFiles
    files: RunFiles
    identity: dict[str, Any]

    def is_finished(self) -> bool:
        """Whether a run with this recipe, model, data and weights has finished under the name."""
        if not self.final.metrics.exists():
            return False
        try:
            self._check_same(read_metrics(self.final.metrics), self.final.metrics)
        except InputError:
            return False
        return True

    def _choose_start(self) -> tuple[bool, dict[str, Any] | None]:
        """Whether anything is to be done, and the state to go on from; sets ``files``.

        Raises:
            InputError: an unfinished run lies there and neither flag says what to do with it, or
                ``--resume`` meets another recipe, model or data set.
        """
        fresh, final = self.final.replacement, self.final
        for files in (fresh, final):
            files.remove_temporaries()
        if fresh.metrics.exists():  # cut off between finishing and taking the old run's place
            fresh.replace(final)
        elif not fresh.last.exists():  # cut off after that, or in its first epoch
            fresh.clear()
        finished = final.metrics.exists()
        self.files = fresh if finished else final
        unfinished = self.files.last.exists()
        if self.options.resume and unfinished:
            state = self._load(self.files.last)
            print(f"resuming '{self.name}' after epoch {len(state['trainer']['history'])}")
            return True, state
        if self.options.resume and finished:
            stored = read_metrics(final.metrics)
            self._check_same(stored, final.metrics)
            if stored.get("test") is not None or self.options.no_test or not final.last.exists():
                print(f"'{self.name}' is finished: nothing to do. See {final.folder}")
                return False, None
            print(f"'{self.name}' is finished but for the test images")
            self.files = final
            return True, self._load(final.last)
        if self.options.resume:
            print(f"nothing to resume for '{self.name}': starting from the beginning")
        elif unfinished and not self.options.overwrite:
            raise InputError(
                f"there is an unfinished run '{self.name}': --resume goes on with it, "
                "--overwrite starts anew"
            )
        self.files.clear()
        return True, None

    def _load(self, path: Path) -> dict[str, Any]:
        """A checkpoint of this very run: same model, recipe, data and weights to start from."""
        state = load_checkpoint(path, sealed=True)
        self._check_same(state, path)
        return state

    def _check_same(self, stored: Mapping[str, Any], path: Any) -> None:
        try:
            before = _flat({key: stored[key] for key in self.identity})
        except (KeyError, TypeError):
            raise InputError(f"'{path}' is not of a run of this project") from None
        now = _flat(self.identity)
        before.setdefault("data size", now["data size"])  # runs begun before it was stored
        for name, value in as_dict(Recipe(name="")).items():  # knobs that came later
            before.setdefault(f"recipe {name}", value)
        if "starting_weights" not in self.identity:  # which a run from random numbers leaves out
            others = _flat(stored.get("starting_weights", {}), "starting_weights")
            before, now = before | others, now | dict.fromkeys(others)
        different = [key for key in now if before.get(key) != now[key]]
        if different:
            telling = [key for key in different if key != "data sha256"] or different
            raise InputError(
                f"--resume: '{path}' has {telling[0]} {before.get(telling[0])!r}, asked for is "
                f"{now[telling[0]]!r}: use the same, --overwrite, or another --name"
            )

    def _check_network(self, model: nn.Module) -> None:
        """Refuse an input that is too small, and leave bf16 on a CPU to full convolutions.

        Raises:
            InputError: the input is smaller than the network's ``smallest_input``.
        """
        check_input(model, self.recipe, self.data.size)
        convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
        if any(module.groups > 1 for module in convolutions):  # slower with it, see Recipe
            self.recipe = dataclasses.replace(self.recipe, cpu_bf16=False)


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
        start: Callable[[], StartingPoint] | None,
        options: argparse.Namespace,
        data: datareader.TwoClassData | None = None,
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
        self.data = data or datareader.load(
            options.data, options.root, options.source_size, findings, self.recipe.related
        )
        self.name = options.name or run_name(self.recipe, options.data, self.data.size)
        check_name(self.name)
        results_dir, models_dir = places(options, self.data)
        self.final = RunFiles(results_dir / below, models_dir / below, self.name)
        check_writable(self.final.folder, "--results-dir")
        check_writable(self.final.models_dir, "--models-dir")
        self.files = self.final
        self.history_lines: list[str] = []
        self.start = start() if start else None
        if self.start is not None:
            start_with = self.build if self.staged else partial(started, self.build)
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
    def _parts(self) -> dict[str, datareader.Split]:
        """The splits by name, with a fold's held-out images where there are any."""
        parts = {name: getattr(self.data, name) for name in (*datareader.SPLITS, "held_out")}
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

        def tick() -> None:
            self.signals.check()
            progress.step()

        trainer.tick = tick
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
        import visualize

        visualize.draw_training_curves(
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
        ladder = self._ladder(trainer) if self.staged else None
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
        if ladder is not None:
            self._save_weights(self.files.finished, trainer, **decision)
            ladder["threshold"] = _rung(figures, choosing)
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
            **({"stage1_epochs_run": trainer.first_epoch} if ladder is not None else {}),
            **decision,
            "bootstrap_unit": "image" if self.data.val.patients is None else "patient",
            "seconds": seconds + time.perf_counter() - start,
            "images_per_second": trainer.images_per_epoch
            * len(trainer.history)
            / trainer.training_seconds,
            **{
                split: figures.get(split)
                for split in {**dict.fromkeys(datareader.SPLITS), **figures}
            },
            "costs": self._costs(trainer),
            **({"ladder": ladder} if ladder is not None else {}),
        }
        atomic_write(self.files.metrics, json.dumps(metrics, indent=2) + "\n")

    def _costs(self, trainer: Trainer) -> dict[str, Any]:
        import costs

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
        self, trainer: Trainer, splits: Mapping[str, datareader.Split], tta: str
    ) -> dict[str, np.ndarray]:
        return {
            name: predict(trainer.model, split.to(self.device)[0], self.recipe, trainer.amp, tta)
            for name, split in splits.items()
        }

    def _ladder(self, trainer: Trainer) -> dict[str, Any]:
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
        ladder = {}
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
            ladder[name] = _rung(figures, seconds or time.perf_counter() - start)
        return ladder

    def _weights_note(self) -> dict[str, str]:
        note = {"source": self.start.source, "sha256": self.start.sha256}
        return {**note, "note": RANDOM_MARK} if self._mark("") else note

    def _draw(
        self,
        trainer: Trainer,
        splits: Mapping[str, datareader.Split],
        probabilities: Mapping[str, Any],
        figures: Mapping[str, Mapping[str, Any]],
        decision: Mapping[str, float],
    ) -> None:
        splits = {name: split for name, split in splits.items() if name != "held_out"}
        titles = {name: SPLIT_TITLES[name] for name in splits}
        if self._val_is_fold:
            titles["val"] = SPLIT_TITLES["fold"]
        self._draw_curves(trainer)
        credit = "" if self.data.phantom else datareader.NIH_CREDIT
        self.task.draw(
            self.files.folder,
            splits,
            probabilities,
            figures,
            titles,
            self.title,
            credit,
            **decision,
        )


def check_input(model: nn.Module, recipe: Recipe, size: int) -> None:
    """Refuse an input that is smaller than the network's ``smallest_input``, if it has one.

    Raises:
        InputError: it is; ``size`` is that of the source's images.
    """
    side, smallest = recipe.image_size or size, getattr(model, "smallest_input", 1)
    if side < smallest:
        raise InputError(
            f"--image-size: this network needs {smallest} pixels or more, these are {side}"
        )


def check_precision(recipe: Recipe, device: torch.device) -> None:
    if recipe.amp == "fp16" and device.type == "cpu":
        raise InputError("--amp fp16: not on a CPU; allowed there are auto, off and bf16")


def places(options: argparse.Namespace, data: datareader.TwoClassData) -> tuple[Path, Path]:
    """Folders of results and checkpoints; phantoms apart, so that they never sit among X-rays.

    A phantom that the user made and named as FILE.npz has its stem in the run's name instead.
    """
    apart = "phantom" if data.phantom and not options.data.endswith(".npz") else ""
    return options.results_dir / apart, options.models_dir / apart


def make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder '{folder}': {error.strerror}") from None


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dicts to one level, with keys joined by spaces."""
    if not isinstance(value, Mapping):
        return {prefix: value}
    return {
        key: leaf
        for name, part in value.items()
        for key, leaf in _flat(part, f"{prefix} {name}".strip()).items()
    }


def write_probabilities(path: Path, split: datareader.Split, probabilities: np.ndarray) -> None:
    """Write row in the source's split, label and probability, the split too where joined.

    Of findings there are 14 probabilities, and the 14 labels are the digits of one column.
    """
    columns = {} if split.origin is None else {"split": split.origin}
    columns["index"] = split.index
    if split.labels.ndim == 1:
        columns |= {"label": split.labels, "probability": probabilities}
    else:
        columns["labels"] = np.array(["".join(map(str, row)) for row in split.labels])
        columns |= zip(datareader.FINDINGS, probabilities.T, strict=True)
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    write_csv(path, list(columns), list(rows))


def _rung(figures: Mapping[str, Mapping[str, Any]], seconds: float) -> dict[str, Any]:
    rung = {
        split: {key: figures[split][key] for key in ("accuracy", "auc")}
        for split in ("val", "test")
        if split in figures
    }
    return {**rung, "seconds": seconds}


def precision(trainer: Any) -> str:
    """The number format of a trainer's forward pass, as it is printed and stored."""
    return {None: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[trainer.amp]


def read_metrics(path: Path) -> dict[str, Any]:
    try:
        metrics = json.loads(path.read_text())
    except (ValueError, RecursionError):
        metrics = None
    if not isinstance(metrics, dict):
        raise InputError(f"'{path}' is damaged: --overwrite trains anew")
    return metrics


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
        print(datareader.PHANTOM_MARK, flush=True)


def print_scores(metrics: Mapping[str, Any]) -> None:
    """Val and test with their intervals, of a run's or an ensemble's `metrics.json`."""
    task = task_of("two-class" if "threshold" in metrics else "findings")
    print(f"val, as selected: {task.line(metrics['val'])}{task.goal(metrics['val'])}")
    if metrics["test"] is not None:
        print(f"test, held out:   {task.line(metrics['test'])}")
    print(f"95 % intervals resample {metrics['bootstrap_unit']}s")
