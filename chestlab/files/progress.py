"""While a run goes: progress for whoever watches, and a clean stop on Ctrl-C or SIGTERM."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

from chestlab.files.notebook import Line, in_notebook


class Interrupted(BaseException):
    """Ctrl-C or SIGTERM; like KeyboardInterrupt, no ``except Exception`` catches it.

    Attributes:
        signum: which of the two.
        when: how far the run had come, in words.
        kept: there is something to go on from.
    """

    def __init__(self, signum: int, when: str = "", kept: bool = True) -> None:
        super().__init__(signum, when, kept)
        self.signum = signum
        self.when = when
        self.kept = kept


class StopSignals:
    """Context in which Ctrl-C and SIGTERM raise `Interrupted`.

    A signal raises at once, but inside `deferred` the first one waits for the next `check`.
    """

    def __init__(self) -> None:
        self._defer = False
        self._received: list[int] = []
        self._previous: dict[int, Any] = {}

    def check(self) -> None:
        """Raise `Interrupted` if a signal has come."""
        if self._received:
            raise Interrupted(self._received[0])

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Context in which a batch or a checkpoint is finished before a first signal raises."""
        self._defer = True
        try:
            yield
        finally:
            self._defer = False

    def _handle(self, signum: int, frame: Any) -> None:
        self._received.append(signum)
        if not self._defer or len(self._received) > 1:
            raise Interrupted(signum)

    def __enter__(self) -> StopSignals:
        for signum in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(ValueError):  # not in the main thread: leave them alone
                self._previous[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)


WARM_UP_STEPS = 2  # not timed: the first ones allocate, compile and choose algorithms

ESTIMATE_AFTER = 3.0  # seconds of timed steps; an epoch that is shorter ends first


class Progress:
    """A bar in a terminal, one line in a notebook, a line per epoch in a log file.

    Before the first epoch ends it says how long the training will take.

    Args:
        epochs: of the training, with those that are done.
        steps: per epoch.
        done: epochs.
        stops_early: the training may end before its last epoch.
    """

    def __init__(self, epochs: int, steps: int, done: int, stops_early: bool = True) -> None:
        from tqdm import tqdm

        self.epochs, self.steps, self.epoch = epochs, steps, done
        self.at_most = "at most " if stops_early else ""
        self.bar = None
        self.start, self.started_at = time.perf_counter(), done
        self.timed_steps, self.timed_from, self.estimated = -WARM_UP_STEPS, self.start, False
        # IDLE says that it is a terminal, and cannot rewrite a line
        terminal = sys.stdout.isatty() and "idlelib" not in sys.modules
        if terminal or in_notebook():
            self.bar = tqdm(
                total=epochs * steps,
                initial=done * steps,
                file=Line() if in_notebook() else sys.stdout,
                mininterval=0.5,
                dynamic_ncols=True,
                bar_format="{desc} |{bar:16}| {elapsed} < {remaining}{postfix}",
                desc=f"epoch {done + 1}/{epochs}",
            )

    def step(self) -> None:
        """One optimiser step is done."""
        if self.bar is not None:
            self.bar.update(1)
        if self.estimated:
            return
        self.timed_steps += 1
        now = time.perf_counter()
        if self.timed_steps <= 0:
            self.timed_from = now
        elif now - self.timed_from >= ESTIMATE_AFTER:
            self._estimate((now - self.timed_from) / self.timed_steps)

    def _estimate(self, seconds: float) -> None:
        """Say how long all epochs will take, validation aside, from the seconds of a step."""
        self.estimated = True
        left = (self.epochs - self.epoch) * self.steps * seconds
        epochs, ms = self.epochs - self.epoch, 1000 * seconds
        text = (
            f"training takes about {rough(left)} ({self.at_most}{epochs} epoch"
            f"{'s' * (epochs > 1)} of {self.steps} steps, {ms:.{0 if ms >= 100 else 1}f} ms each)"
        )
        if self.bar is not None:
            self.bar.write(text)
        else:
            print(text, flush=True)

    def end_of_epoch(self, row: Mapping[str, float], best_epoch: int | None = None) -> None:
        """Show a row of the history.

        Args:
            row: without ``val_loss`` and the like where nothing is validated.
            best_epoch: so far; None where nothing chooses one.
        """
        self.epoch += 1
        text = f"loss {row['train_loss']:.3f}"
        if "val_loss" in row:
            text += (
                f"  val loss {row['val_loss']:.3f}  val accuracy {row['val_accuracy']:.1%} at 0.5  "
                f"AUC {row['val_auc']:.3f}"
            )
        if best_epoch is not None:
            text += f"  best epoch {best_epoch}"
        if self.bar is not None:
            self.bar.set_postfix_str(text, refresh=False)
            self.bar.set_description_str(f"epoch {min(self.epoch + 1, self.epochs)}/{self.epochs}")
            return
        self.estimated = True  # from here on every line says it
        per_epoch = (time.perf_counter() - self.start) / (self.epoch - self.started_at)
        left = per_epoch * (self.epochs - self.epoch)
        print(
            f"epoch {self.epoch}/{self.epochs}  {text}  {self.at_most}{duration(left)} left",
            flush=True,
        )

    def close(self) -> None:
        """Leave the last state of the bar on the screen."""
        if self.bar is not None:
            self.bar.close()


def rough(seconds: float) -> str:
    """Seconds as a person says it: 45 s, 14 min, 2 h 10 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def duration(seconds: float) -> str:
    """Seconds as m:ss, or h:mm:ss from an hour on."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
