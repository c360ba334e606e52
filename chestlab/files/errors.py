"""Errors that end a script in one line on stderr, and its exit status."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import io
import re
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from chestlab.files import notebook
from chestlab.files.notebook import command_line
from chestlab.files.progress import Interrupted


class InputError(ValueError):
    """Something the user gave cannot be used; the message is one line that says what is allowed.

    The command line prints it without a traceback and ends with exit status 2. Raised where a
    script's own lines are wrong, it is printed with file and line.
    """

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows in place of a traceback."""
        return [f"error: {self}"]


# Words in the RuntimeError of the allocators of CUDA, MPS and the CPU, on Linux and on Windows, and
# of cuDNN and cuBLAS where they get no memory to work in.
NO_MEMORY = re.compile(
    "out of memory|can't allocate memory|not enough memory|unable to find an engine to execute"
    "|ALLOC(ATION)?_FAILED"
)

PACKAGE = Path(__file__).resolve().parent.parent

_python_hook = sys.excepthook


def _show_input_error(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Python's hook for errors that nothing catches: an `InputError` in one line, and where."""
    if not isinstance(error, InputError):
        _python_hook(kind, error, trace)
        return
    frames = traceback.extract_tb(trace)
    own = [
        frame
        for frame in frames
        if PACKAGE not in Path(frame.filename).resolve().parents and frame.filename[0] != "<"
    ]
    where = f"{Path(own[-1].filename).name}, line {own[-1].lineno}: " if own else ""
    print(f"error: {where}{' '.join(str(error).split())}", file=sys.stderr)
    raise SystemExit(2)


sys.excepthook = _show_input_error


class OneLineParser(argparse.ArgumentParser):
    """Raises `InputError` for a wrong command line instead of printing a page of usage.

    By default it parses `notebook.command_line`. A misspelt flag is told with the closest one.
    """

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        return super().parse_known_args(command_line() if args is None else args, namespace)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        options, unknown = self.parse_known_args(args, namespace)
        for word in unknown:
            flag = word.partition("=")[0].replace("_", "-")
            close = difflib.get_close_matches(flag, self._option_string_actions, n=1)
            if word.startswith("-") and close:
                self.error(f"there is no flag {word}: did you mean {close[0]}?")
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return options

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (see --help)")


class TrainingError(RuntimeError):
    """Training cannot go on; the last completed epoch is kept."""


@contextlib.contextmanager
def one_line_errors(resume: str | None = "--resume") -> Iterator[None]:
    """Context that turns errors into one line on stderr and the exit statuses of `run`.

    Args:
        resume: the flag with which the same command goes on; empty where it always does, None
            where it always starts again.
    """
    kept = "" if resume is None else "; the last completed epoch is kept"
    again = f"the same command with {resume}" if resume else "the same command"
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name outside a Windows code page must not fail
            stream.reconfigure(errors="backslashreplace")
    try:
        yield
        return
    except InputError as error:
        status, message = 2, f"error: {error}"
    except TrainingError as error:
        status, message = 1, f"stopped: {error}{kept}"
    except OSError as error:
        where = f" ('{error.filename}')" if error.filename else ""
        status = 1
        goes_on = "starts again" if resume is None else "goes on"
        message = f"stopped: {error.strerror or error}{where}; "
        message += f"{resume or again} {goes_on} once that is mended"
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not NO_MEMORY.search(str(error)):
            raise
        smaller = "try" if resume is None else "try a smaller --batch-size or --image-size, or"
        status, message = 1, f"stopped: out of memory: {smaller} --device cpu{kept}"
    except Interrupted as interruption:
        status = 128 + interruption.signum
        kept = interruption.kept and resume is not None
        message = f"interrupted{interruption.when}: "
        message += f"{again} goes on" if kept else "the same command starts again"
    notebook.leave(status, message)
