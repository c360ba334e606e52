"""What differs where a script runs in a notebook's cell, by ``%run`` or with its text pasted in."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any


class Stopped(Exception):
    """Ends a cell as a wrong flag or Ctrl-C ends a script: shown as its one line alone."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in place of a traceback."""
        return [str(self)]


class Line:
    """A file for a progress bar: what is written takes the place of what was written before.

    The cell's output thus holds one line, also where a notebook is stored after a long training.
    """

    def __init__(self) -> None:
        from IPython.display import display

        self._handle: Any = display({"text/plain": ""}, raw=True, display_id=True)

    def write(self, text: str) -> None:
        """Show ``text``, which tqdm begins with a carriage return."""
        if text.strip():
            self._handle.update({"text/plain": text.strip()}, raw=True)

    def flush(self) -> None:
        """Nothing is held back."""


class Arguments(list[str]):
    """A ``sys.argv`` whose end `keep_names` can wait for, as for that of no plain list."""


def ipython() -> Any:
    """IPython's shell, if the code runs in one."""
    return getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()


def in_notebook() -> bool:
    """Whether the code runs in the kernel of a notebook, Colab's and VS Code's included."""
    return hasattr(ipython(), "kernel")


def keep_names() -> None:
    """Keep the names of a notebook, or of IPython, as they are when a script under ``%run`` ends.

    At the script's end ``%run`` copies the script's names over the notebook's, for example PIL's
    ``Image`` over IPython's. The next thing it does is to let go of the list that it has made for
    ``sys.argv``; at that moment the notebook's names are put back, also after an error.
    """
    shell, script = ipython(), vars(sys.modules["__main__"])
    if shell is None or script is shell.user_ns or isinstance(sys.argv, Arguments):
        return  # no IPython; pasted into a cell, or `%run -i`; done already
    notebook, before = shell.user_ns, dict(shell.user_ns)

    def put_back() -> None:
        for name, value in script.items():
            if name in notebook and notebook[name] is value:
                if name in before:
                    notebook[name] = before[name]
                else:
                    del notebook[name]

    sys.argv = Arguments(sys.argv)
    weakref.finalize(sys.argv, put_back).atexit = False


def command_line() -> list[str]:
    """The process's own arguments; none in a cell without ``%run``, which has the kernel's.

    Every script asks for them here, and thus keeps the names of a notebook that runs it.
    """
    keep_names()
    arguments = sys.argv[1:]
    if in_notebook() and any(word.endswith(".json") for word in arguments):  # its connection file
        return []
    return arguments


def module_name(thing: type) -> str:
    """Name of the module that defines a class, also of the script that was started.

    Empty where that has no file: in a notebook's cell.
    """
    if thing.__module__ != "__main__":
        return thing.__module__
    path = getattr(sys.modules["__main__"], "__file__", None)
    return "" if path is None or in_notebook() else Path(path).stem


def show(pictures: Iterable[Path]) -> None:
    """Show PNG files below the cell, the oldest first; elsewhere do nothing."""
    if in_notebook():
        from IPython.display import Image, display

        for path in sorted(pictures, key=lambda path: (path.stat().st_mtime_ns, path.name)):
            display(Image(path.read_bytes()))


def leave(status: int, message: str = "") -> None:
    """End the process with an exit status after one line on stderr, if there is any.

    Raises:
        Stopped: in a notebook, where the process goes on and a status of 0 needs no end.
    """
    message = " ".join(message.splitlines())
    if in_notebook():
        if status:
            raise Stopped(message or "stopped: see above")
        return
    if message:
        print(message, file=sys.stderr, flush=True)
    sys.exit(status)
