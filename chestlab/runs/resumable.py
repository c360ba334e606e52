"""A run that goes on where it was interrupted."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from chestlab.data.splits import FindingsData, TwoClassData
from chestlab.files.atomic import make_folder
from chestlab.files.checkpoint import load_checkpoint
from chestlab.files.errors import InputError, TrainingError
from chestlab.files.run_files import UNFINISHED, RunFiles, read_metrics, run_lock
from chestlab.runs.more_epochs import LENGTHS, is_longer, lengthen
from chestlab.training.batch_norm import frozen_norms
from chestlab.training.distributed import Processes
from chestlab.training.layers import check_input, without_slow_bf16
from chestlab.training.recipe import Recipe, as_dict


class Resumable:
    """A run whose files may be there already, finished or unfinished.

    Attributes:
        options: the flags.
        recipe: the hyperparameters.
        data: the images.
        name: of the run.
        final: files of the run once it is finished.
        files: those that it writes until then; others while a finished run of its name exists.
        identity: what must be the same for a run to go on.
        processes: that train together; the first one writes.
    """

    options: argparse.Namespace
    recipe: Recipe
    data: TwoClassData | FindingsData
    name: str
    final: RunFiles
    files: RunFiles
    identity: dict[str, Any]
    processes: Processes = Processes()

    def is_finished(self) -> bool:
        """Whether a run with this recipe, model, data and weights has finished under the name."""
        if not self.final.metrics.exists():
            return False
        try:
            return not self._difference(read_metrics(self.final.metrics), self.final.metrics)
        except InputError:
            return False

    @contextlib.contextmanager
    def claim(self) -> Iterator[tuple[bool, dict[str, Any] | None]]:
        """Context that holds the lock of the run's name.

        Yields:
            whether anything is to be done, and the state to go on from, the same in all processes.

        Raises:
            InputError: another process is at work under the name, or as `_choose_start`.
            TrainingError: the processes were not given the same.
        """
        with contextlib.ExitStack() as held:
            start = None
            if self.processes.first:
                models_dir = self.final.models_dir
                make_folder(models_dir)
                held.enter_context(run_lock(models_dir / f"{self.name}.lock", self.name))
                unfinished, state = self._choose_start()
                if unfinished:
                    make_folder(self.files.folder)
                start = self.identity, self.files, unfinished, state
            identity, self.files, unfinished, state = self.processes.from_first(start)
            if identity != self.identity:
                raise TrainingError("the processes have different data, weights or flags")
            yield unfinished, state

    def finish(self) -> None:
        """Put the finished run in the place of the one that it replaces, if there is any."""
        if self.files != self.final:
            self.files.replace(self.final)

    def _choose_start(self) -> tuple[bool, dict[str, Any] | None]:
        """Whether anything is to be done, and the state to go on from; sets ``files``.

        Raises:
            InputError: an unfinished run lies there and neither flag says what to do with it, a
                finished one has another recipe, model or data set and ``--overwrite`` is missing,
                or ``--resume`` meets another one.
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
            return True, self._go_on()
        if self.options.resume and finished:
            stored = read_metrics(final.metrics)
            if self._is_longer(stored, final):
                return True, self._go_on_from(final)
            self._check_same(stored, final.metrics)
            if self.options.no_test or self._is_tested(stored) or not final.last.exists():
                print(f"'{self.name}' is finished: nothing to do. See {final.folder}")
                return False, None
            print(f"'{self.name}' is finished but for the test images")
            self.files = final
            return True, self.load(final.last)
        if self.options.resume:
            shorter = self._shorter_run()
            if shorter is not None:
                return True, self._go_on_from(shorter)
            print(f"nothing to resume for '{self.name}'{self._others()}: starting from epoch 1")
        if not self.options.overwrite:
            self._check_startable(finished, unfinished)
        self.files.clear()
        return True, None

    def _go_on(self) -> dict[str, Any]:
        """The state of the unfinished run, which may now have more epochs to do."""
        try:
            stored = load_checkpoint(self.files.last, sealed=True)
        except InputError:
            stored = None
        if stored is not None and self._is_longer(stored, self.files):
            return self._go_on_from(self.files)
        state = self.load(self.files.last)
        print(f"resuming '{self.name}' after epoch {len(state['trainer']['history'])}")
        return state

    def _go_on_from(self, shorter: RunFiles) -> dict[str, Any]:
        """The state of a run with fewer epochs, now that of this one."""
        try:
            state = lengthen(shorter, self.files, self.identity)
        except InputError as error:
            raise InputError(f"{error}; --overwrite starts anew") from None
        done = len(state["trainer"]["history"])
        name = shorter.name.removesuffix(UNFINISHED)
        print(f"resuming '{name}' after epoch {done}, now with {self.recipe.epochs} epochs")
        return state

    def _is_longer(self, stored: Mapping[str, Any], files: RunFiles) -> bool:
        """Whether this run is a stored one with more epochs, which can go on for those.

        Raises:
            InputError: it is, but cannot go on.
        """
        try:
            different = self._differences(stored, files.folder)
        except InputError:  # told where the run itself is checked
            return False
        before = {name: different.pop(f"recipe {name}", (None, None))[0] for name in LENGTHS}
        before = {name: value for name, value in before.items() if value is not None}
        if different or not before:
            return False
        try:
            return is_longer(self.recipe, before)
        except InputError as error:
            raise InputError(
                f"'{files.name.removesuffix(UNFINISHED)}' cannot go on: {error}. --name NEW "
                f"--weights {files.best} trains anew from its weights, --overwrite from the start"
            ) from None

    def _shorter_run(self) -> RunFiles | None:
        """A finished run of another name that differs in having fewer epochs; the longest one."""
        longest, most = None, 0
        for path in sorted(self.final.results_dir.glob("*/metrics.json")):
            files = dataclasses.replace(self.final, name=path.parent.name)
            with contextlib.suppress(InputError, KeyError):
                stored = read_metrics(path)
                if files.last.exists() and self._is_longer(stored, files):
                    epochs = stored["epochs_run"]
                    longest, most = (files, epochs) if epochs > most else (longest, most)
        return longest

    def _is_tested(self, stored: Mapping[str, Any]) -> bool:
        """Whether the finished run has what is asked for of the test images.

        That is its figures, or for a member of an ensemble its predictions.
        """
        if self.options.test_for_average:
            return (self.final.folder / "test_probabilities.csv").exists()
        return stored.get("test") is not None

    def _check_startable(self, finished: bool, unfinished: bool) -> None:
        """Refuse to start anew over an unfinished run, or a finished one of something else."""
        other = ""
        if unfinished:
            try:
                self.load(self.files.last)
            except InputError as error:  # of another recipe, say, or damaged
                other = str(error)
            else:
                raise InputError(
                    f"there is an unfinished run '{self.name}': --resume goes on with it, "
                    "--overwrite starts anew"
                )
        if finished:
            self._check_replaceable(unfinished)
        if other:
            raise InputError(other)
        if finished:
            print(
                f"'{self.name}' is finished, with the same recipe and data: training it again; "
                "its results stay until the new ones are complete"
            )

    def _check_replaceable(self, unfinished: bool) -> None:
        """Refuse to replace the finished run of the name where it is of something else."""
        ways_out = "--name NEW keeps both, --overwrite replaces it"
        ways_out += " and the unfinished run beside it" if unfinished else ""
        stored = read_metrics(self.final.metrics)
        before = str(stored.get("name", self.name))
        if before != self.name and before.lower() == self.name.lower():
            raise InputError(
                f"the finished run in '{self.final.folder}' is called '{before}', which is the "
                f"same name on this disk: {ways_out}"
            )
        try:
            different = self._difference(stored, self.final.metrics)
        except InputError as error:
            raise InputError(f"{error}: {ways_out}") from None
        if self.options.no_test and stored.get("test") is not None:
            raise InputError(
                f"the finished run in '{self.final.folder}' has test figures, and this one would "
                f"have none: {ways_out}"
            )
        if different:
            raise InputError(f"the finished run in '{self.final.folder}' {different}: {ways_out}")

    def _others(self) -> str:
        """Unfinished runs of other names, for a mistyped --name."""
        ending = "_last.pth"
        names = [
            path.name.removesuffix(ending).removesuffix(UNFINISHED)
            for path in self.final.models_dir.glob(f"*{ending}")
        ]
        open_runs = [
            name
            for name in sorted(set(names))
            if not dataclasses.replace(self.final, name=name).metrics.exists()
        ]
        return f" (unfinished here: {', '.join(open_runs[:5])})" if open_runs else ""

    def load(self, path: Path) -> dict[str, Any]:
        """A checkpoint of this very run: same model, recipe, data and weights to start from."""
        try:
            state = load_checkpoint(path, sealed=True)
        except InputError as error:
            raise InputError(f"{error}; --overwrite starts anew") from None
        self._check_same(state, path)
        return state

    def _check_same(self, stored: Mapping[str, Any], path: Any) -> None:
        different = self._difference(stored, path)
        if different:
            raise InputError(
                f"'{path}' {different}: --resume needs the same, --name NEW keeps both, "
                "--overwrite starts anew"
            )

    def _difference(self, stored: Mapping[str, Any], path: Any) -> str:
        """What of this run's identity is stored otherwise, in words; empty if nothing is.

        Raises:
            InputError: what is stored is not of a run.
        """
        different = self._differences(stored, path)
        # If nothing else differs.
        last = ["structure", "data sha256", *(f"recipe {name}" for name in LENGTHS)]
        telling = [key for key in different if key not in last]
        telling += [key for key in last if key in different]
        if not telling:
            return ""
        if telling[0] == "structure":
            return f"is of a {stored['model']} with other layers than this one"
        before, now = different[telling[0]]
        return f"has {telling[0]} {before!r}, and this one has {now!r}"

    def _differences(self, stored: Mapping[str, Any], path: Any) -> dict[str, tuple[Any, Any]]:
        """All that of this run's identity is stored otherwise: both values, by their name."""
        try:
            needed = [key for key in self.identity if key != "structure" or key in stored]
            before = _flat({key: stored[key] for key in needed})
        except (KeyError, TypeError):
            raise InputError(f"'{path}' is not of a run of this project") from None
        now = _flat(self.identity)
        for name in ("structure", "data size"):  # runs begun before it was stored
            before.setdefault(name, now[name])
        for name, value in as_dict(Recipe(name="")).items():  # hyperparameters that came later
            before.setdefault(f"recipe {name}", value)
        if "starting_weights" not in self.identity:  # which a run from random numbers leaves out
            others = _flat(stored.get("starting_weights", {}), "starting_weights")
            before, now = before | others, now | dict.fromkeys(others)
        return {
            key: (before.get(key), now[key])
            for key in now
            if before.get(key) != now[key] and key != "recipe name"
        }  # under which a recipe goes says nothing of the training

    def prepare_recipe(self, model: nn.Module) -> None:
        """Check the size of the input, and switch bf16 on a CPU off where it is slower.

        Raises:
            InputError: the input is smaller than the network's ``smallest_input``, or there are no
                batch-norm statistics to freeze.
        """
        check_input(model, self.recipe, self.data.size)
        if self.recipe.batch_norm == "frozen":
            frozen_norms(model)
        self.recipe = without_slow_bf16(self.recipe, model)


def structure_of(network: nn.Module) -> str:
    """Hash of a network's layers and their settings, as PyTorch prints them."""
    printed = re.sub(r" at 0x[0-9a-fA-F]+", "", str(network))  # of a function: of one process only
    return hashlib.sha256(printed.encode()).hexdigest()[:16]


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dicts to one level, with keys joined by spaces."""
    if not isinstance(value, Mapping):
        return {prefix: value}
    return {
        key: leaf
        for name, part in value.items()
        for key, leaf in _flat(part, f"{prefix} {name}".strip()).items()
    }
