"""What a run keeps while it trains: the state to go on from, the best weights, the history."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from chestlab.files.atomic import atomic_write
from chestlab.files.checkpoint import save_checkpoint
from chestlab.files.errors import InputError
from chestlab.reporting.tensorboard import EventLog
from chestlab.runs.experiment import Experiment
from chestlab.runs.finished_runs import data_location
from chestlab.training.likeness import Likeness
from chestlab.training.trainer import Trainer
from chestlab.training.trainer_state import HISTORY_COLUMNS, copied

BETWEEN = 5.0  # seconds from one writing to the next: what a kill may cost beside its epoch


class Checkpoints:
    """Files of one run that grow with every epoch; of several processes only the first writes."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self.history_lines: list[str] = []
        self.waiting: dict[str, Any] | None = None  # state of an epoch that is not written
        self.written = -math.inf  # when an epoch was, in the seconds of `time.monotonic`
        self.events: EventLog | None = None
        if experiment.options.tensorboard and experiment.processes.first:
            folder = experiment.final.models_dir / "tensorboard"
            self.events = EventLog(folder / experiment.name)
            print(f"to watch the training: tensorboard --logdir {folder}", flush=True)

    def save(self, trainer: Trainer, stage: int) -> None:
        """Keep an epoch, in memory where another one was written less than `BETWEEN` ago.

        Writing can take longer than a short epoch does. The last epoch of a stage is written, and
        one that is chosen by validation, because no later state has its weights.

        Args:
            trainer: after an epoch.
            stage: number of the recipe's stage, from 0.
        """
        if not self.experiment.processes.first:
            return
        identity = self.experiment.identity
        state = {**identity, "stage": stage, "trainer": trainer.state_dict()}
        chosen = trainer.recipe.monitor != "last" and trainer.best_epoch == len(trainer.history)
        if chosen or trainer.finished or time.monotonic() - self.written >= BETWEEN:
            self._write(trainer, state)
        else:
            self.waiting = copied(state)

    @contextmanager
    def none_waiting(self, trainer: Trainer) -> Iterator[None]:
        """Context of a training at whose end, however it ends, the last epoch is written."""
        try:
            yield
        finally:
            if self.waiting is not None:
                self._write(trainer, self.waiting)

    def _write(self, trainer: Trainer, state: Mapping[str, Any]) -> None:
        """Write the state first, the best weights second, the history last.

        After a cut between the first two the state holds both.
        """
        save_checkpoint(self.experiment.files.last, state)
        self.waiting = None
        epochs = len(state["trainer"]["history"])  # a trainer that was cut off may have one more
        if state["trainer"]["best_epoch"] == epochs:
            self.save_weights(self.experiment.files.best, trainer)
        self._write_history(trainer, epochs)
        self.written = time.monotonic()

    def save_weights(self, path: Path, trainer: Trainer, **decision: Any) -> None:
        """Keep the best epoch's weights with all that is needed to use them.

        Args:
            path: of the checkpoint.
            trainer: that has them.
            decision: threshold and the like, once they are chosen.
        """
        if not self.experiment.processes.first:
            return
        best = {"epoch": trainer.best_epoch, "weights": trainer.best_weights}
        more = {"seen": self.experiment.seen, "script": self.experiment.script, **decision}
        if "threshold" in decision and self.likeness is not None:
            more["likeness"] = self.likeness.state()
        options = self.experiment.options
        place = {"data_location": data_location(options.data, options.root, options.classes)}
        save_checkpoint(path, {**self.experiment.identity, **best, **more, **place})

    @cached_property
    def likeness(self) -> Likeness | None:
        """Statistics of the training images, for `predict.py`."""
        return Likeness.fit(self.experiment.train.images, self.experiment.data.val.images)

    def restore(self, trainer: Trainer, state: Mapping[str, Any]) -> None:
        """Let a new trainer go on from a state that `save` has kept.

        Raises:
            InputError: the best weights are missing, or of another epoch than the state says.
        """
        stored = state["trainer"]
        files, processes = self.experiment.files, self.experiment.processes
        best_in_state = stored["best_epoch"] == len(stored["history"])
        best = None
        if not best_in_state:
            best = processes.from_first(
                self._best(stored["best_epoch"]) if processes.first else None
            )
        trainer.load_state_dict(stored, best and best["weights"])
        if best_in_state and not files.metrics.exists():  # a finished run's have a threshold
            self.save_weights(files.best, trainer)
        self._write_history(trainer, len(trainer.history))
        if stored["device"] != trainer.device.type:
            print(
                f"NOTE: begun on {stored['device']}, going on on {trainer.device.type}: "
                "the numbers will not be those of an uninterrupted run",
                file=sys.stderr,
            )

    def _best(self, epoch: int) -> dict[str, Any]:
        """The checkpoint of the best epoch so far; other machines may not have the file."""
        path = self.experiment.files.best
        best = self.experiment.load(path)
        if best["epoch"] != epoch:
            raise InputError(
                f"'{path}' is of epoch {best['epoch']}, and the best so far is epoch {epoch}: "
                "--overwrite starts anew"
            )
        return best

    def _write_history(self, trainer: Trainer, epochs: int) -> None:
        if not self.experiment.processes.first:
            return
        new = trainer.history[len(self.history_lines) : epochs]  # all are slow after 1,000 epochs
        self.history_lines += [",".join(str(row[name]) for name in HISTORY_COLUMNS) for row in new]
        text = "\n".join((",".join(HISTORY_COLUMNS), *self.history_lines, ""))
        atomic_write(self.experiment.files.folder / "history.csv", text)
        if self.events is not None:
            self.events.add_epochs(new)
