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
    """

    def __init__(self, signum: int, when: str = "") -> None:
        super().__init__(signum, when)
        self.signum = signum
        self.when = when


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


class Progress:
    """A bar in a terminal, one line in a notebook, a line per epoch in a log file."""

    def __init__(self, epochs: int, steps: int, done: int) -> None:
        from tqdm import tqdm

        self.epochs, self.steps, self.epoch = epochs, steps, done
        self.bar = None
        self.start, self.started_at = time.perf_counter(), done
        if sys.stdout.isatty() or in_notebook():
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

    def end_of_epoch(self, row: Mapping[str, float], best_epoch: int | None = None) -> None:
        """Show a row of the history; without a best epoch there is no validation in it."""
        self.epoch += 1
        text = f"loss {row['train_loss']:.3f}"
        if best_epoch is not None:
            text += (
                f"  val loss {row['val_loss']:.3f}  val accuracy {row['val_accuracy']:.1%}  "
                f"AUC {row['val_auc']:.3f}  best {best_epoch}"
            )
        if self.bar is not None:
            self.bar.set_postfix_str(text, refresh=False)
            self.bar.set_description_str(f"epoch {min(self.epoch + 1, self.epochs)}/{self.epochs}")
            return
        per_epoch = (time.perf_counter() - self.start) / (self.epoch - self.started_at)
        left = per_epoch * (self.epochs - self.epoch)
        print(
            f"epoch {self.epoch}/{self.epochs}  {text}  at most {duration(left)} left", flush=True
        )

    def close(self) -> None:
        """Leave the last state of the bar on the screen."""
        if self.bar is not None:
            self.bar.close()


def duration(seconds: float) -> str:
    """Seconds as m:ss, or h:mm:ss from an hour on."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
