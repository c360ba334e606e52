"""Errors that end a script in one line on stderr, and its exit status."""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

from chestlab.files import notebook
from chestlab.files.notebook import command_line
from chestlab.files.progress import Interrupted


class InputError(ValueError):
    """Something the user gave cannot be used; the message is one line that says what is allowed.

    The command line prints it without a traceback and ends with exit status 2.
    """


class OneLineParser(argparse.ArgumentParser):
    """Raises `InputError` for a wrong command line instead of printing a page of usage.

    By default it parses `notebook_cell.command_line`.
    """

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        return super().parse_known_args(command_line() if args is None else args, namespace)

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (see --help)")


class TrainingError(RuntimeError):
    """Training cannot go on; the last completed epoch is kept."""


@contextlib.contextmanager
def one_line_errors(resume: str = "--resume") -> Iterator[None]:
    """Context that turns errors into one line on stderr and the exit statuses of `run`.

    Args:
        resume: the flag with which the same command goes on; empty where it always does.
    """
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
        status, message = 1, f"stopped: {error}; the last completed epoch is kept"
    except OSError as error:
        where = f" ('{error.filename}')" if error.filename else ""
        status = 1
        message = f"stopped: {error.strerror or error}{where}; "
        message += f"{resume or again} goes on once that is mended"
    except Interrupted as interruption:
        status = 128 + interruption.signum
        message = f"interrupted{interruption.when}: {again} goes on"
    notebook.leave(status, message)
