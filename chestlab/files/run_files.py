"""Files that survive a crash: atomic writes, run locks and checkpoints.

A file is written beside its destination, flushed to disk, and renamed over it, so a reader (or
the next start after a power cut) finds the old content or the new one and never a mixture.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import dataclasses
import errno
import hashlib
import io
import os
import pickle
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

from notebook_cell import command_line

TEMPORARY_SUFFIX = ".tmp"
NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}  # some network drives
LEGACY_START = pickle.dumps(0x1950A86A20F9469CFC6C, 2)  # of PyTorch's files before the zip
UNFINISHED = ".unfinished"  # ending of a run that will replace a finished one of the same name
ARTEFACTS = (
    "history.csv",
    "val_probabilities.csv",
    "test_probabilities.csv",
    "held_out_probabilities.csv",
    "oof_probabilities.csv",
    "training_curves.png",
    "val_predictions.png",
    "confusion_matrix.png",
    "roc_curve.png",
    "calibration.png",
    "gradcam.png",
    "finding_aucs.png",
    "mistakes.md",
    "mistakes.png",
    "metrics.json",
)


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


def atomic_write(path: Path, content: bytes | str | Callable[[IO[bytes]], Any]) -> None:
    """Write ``path`` so that it holds either its old content or all of the new one.

    Args:
        path: destination; its folder must exist.
        content: bytes, text (written as UTF-8 with ``\\n``), or a function that writes to the
            open binary file it is given.

    Raises:
        OSError: the disk is full, or the folder is gone or read-only. ``path`` is untouched and
            no temporary file is left.
    """
    handle, temporary = tempfile.mkstemp(
        dir=path.parent, prefix=f".{path.name}.", suffix=TEMPORARY_SUFFIX
    )
    try:
        with os.fdopen(handle, "wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o666 & ~_UMASK)  # mkstemp makes files private
        Path(temporary).replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a failed write does not know which file it was for
        raise


@contextlib.contextmanager
def run_lock(path: Path, name: str) -> Iterator[None]:
    """Hold the run's lock file; the operating system frees it when the process dies.

    Raises:
        InputError: another live process holds it.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(
            f"a run called '{name}' is in progress in another process: "
            "wait for it, stop it, or choose another --name"
        ) from None
    except (OSError, NotImplementedError) as error:
        if getattr(error, "errno", errno.ENOSYS) not in NO_LOCKS:
            raise
        print(f"NOTE: '{path.parent}' knows no locks: start '{name}' only once", file=sys.stderr)
    try:
        yield
    finally:
        lock.release()


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` (tensors and plain Python values only) atomically with ``torch.save``.

    By way of memory: torch.save itself turns a full disk into an error of its own zip writer.
    A seal, the SHA-256 of every name and value, goes into it.
    """
    import torch

    content = io.BytesIO()
    torch.save({**state, "seal": _seal(state)}, content)
    atomic_write(path, lambda file: file.write(content.getbuffer()))


def _seal(value: Any) -> str:
    """SHA-256 of tensors, dicts, lists and plain values, types and order included."""
    import torch

    digest = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            digest.update(f"tensor {value.dtype} {tuple(value.shape)}".encode())
            content = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(content.numpy())
        elif isinstance(value, Mapping):
            digest.update(f"dict {len(value)}".encode())
            for key, item in value.items():
                digest.update(repr(key).encode())
                add(item)
        elif isinstance(value, list | tuple):
            digest.update(f"list {len(value)}".encode())
            for item in value:
                add(item)
        else:
            digest.update(f"{type(value).__name__} {value!r}".encode())

    add(value)
    return digest.hexdigest()


def load_checkpoint(path: Path, sealed: bool = False) -> dict[str, Any]:
    """Read a checkpoint on the CPU without running any code that a pickle might carry.

    Args:
        path: a checkpoint, or a state dict that somebody else has saved. PyTorch's format from
            before the zip has no checksums: a changed number in such a file is not noticed.
        sealed: it must be as `save_checkpoint` has written it, value for value.

    Raises:
        InputError: the file is missing, damaged, or holds anything but tensors and plain values.
    """
    import torch

    source: Path | io.BytesIO = path
    try:
        with path.open("rb") as file:
            legacy = not sealed and file.read(len(LEGACY_START)) == LEGACY_START
        if legacy:
            source = io.BytesIO(path.read_bytes())  # PyTorch would try a path as a tar first
        else:
            with zipfile.ZipFile(path) as archive:
                if any(i.compress_type != zipfile.ZIP_STORED for i in archive.infolist()):
                    raise InputError(f"checkpoint '{path}' is compressed; PyTorch's own are not")
                damaged = archive.testzip()  # torch.load takes flipped bits for other numbers
            if damaged:
                raise InputError(f"checkpoint '{path}' is damaged: wrong checksum of {damaged!r}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            state = torch.load(source, map_location="cpu", weights_only=True)
        if legacy and source.read(1):  # tensors that are not listed would hold what memory held
            raise InputError(f"checkpoint '{path}' is damaged: it goes on behind its last tensor")
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"checkpoint '{path}' does not exist") from None
    except zipfile.BadZipFile as error:
        raise InputError(f"checkpoint '{path}' is damaged or none at all: {error}") from None
    except pickle.UnpicklingError:
        raise InputError(
            f"checkpoint '{path}' holds more than tensors and plain values, which is not read, "
            "for safety"
        ) from None
    except Exception as error:  # what a damaged zip or pickle raises can be nearly any type
        reason = f"{type(error).__name__} {error}".split("\n", 1)[0]
        raise InputError(f"checkpoint '{path}' cannot be read: {reason[:200]}") from None
    if not isinstance(state, dict):
        raise InputError(f"checkpoint '{path}' holds a {type(state).__name__}, not a dict")
    seal = state.pop("seal", None)
    if sealed:
        try:
            sound = seal == _seal(state)
        except (RecursionError, RuntimeError, TypeError):  # nothing of ours is nested or made so
            sound = False
        if not sound:
            raise InputError(f"checkpoint '{path}' is not as a run of this project has written it")
    return state


def check_writable(folder: Path, flag: str) -> None:
    """Check, without making anything, that ``folder`` exists or could be made and written.

    Raises:
        InputError: the path is impossible, or a parent is not a folder or may not be written.
    """
    existing = folder.absolute()
    while existing != existing.parent:
        try:
            existing.lstat()
            break
        except (FileNotFoundError, NotADirectoryError):
            existing = existing.parent
        except OSError as error:  # a name that is too long or not allowed here
            raise InputError(f"{flag} '{folder}': {error.strerror}") from None
    if not existing.is_dir():
        raise InputError(f"{flag} '{folder}': '{existing}' is not a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"{flag} '{folder}': no permission to write in '{existing}'")


@dataclass(frozen=True)
class RunFiles:
    """Where a run keeps its results and checkpoints."""

    results_dir: Path
    models_dir: Path
    name: str

    @property
    def folder(self) -> Path:
        return self.results_dir / self.name

    @property
    def metrics(self) -> Path:
        """Written last: a run is finished when it exists."""
        return self.folder / "metrics.json"

    @property
    def last(self) -> Path:
        return self.models_dir / f"{self.name}_last.pth"

    @property
    def best(self) -> Path:
        return self.models_dir / f"{self.name}_best.pth"

    @property
    def stage1(self) -> Path:
        """The best weights of a first stage with frozen backbone."""
        return self.models_dir / f"{self.name}_stage1.pth"

    @property
    def finished(self) -> Path:
        """The weights to use, with threshold and test-time augmentation."""
        return self.models_dir / f"{self.name}_final.pth"

    @property
    def replacement(self) -> RunFiles:
        """Where a new run grows while a finished one of the same name stays as it is."""
        return dataclasses.replace(self, name=self.name + UNFINISHED)

    @property
    def paths(self) -> list[Path]:
        """Every file of the run, `metrics` last."""
        checkpoints = [self.last, self.best, self.stage1, self.finished]
        return checkpoints + [self.folder / name for name in ARTEFACTS]

    def remove_temporaries(self) -> None:
        """Delete what a killed process has left half-written."""
        for path in self.paths:
            for leftover in path.parent.glob(f".{path.name}.*{TEMPORARY_SUFFIX}"):
                with contextlib.suppress(OSError):
                    leftover.unlink()

    def clear(self) -> None:
        """Remove the run's files, and its folder unless somebody else's files are in it."""
        for path in self.paths:
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def replace(self, old: RunFiles) -> None:
        """Put this finished run in ``old``'s place; repeatable if it is cut off halfway.

        `metrics` is the last to be removed there and the last to be moved.
        """
        if old.metrics.exists():
            old.clear()
        old.folder.mkdir(parents=True, exist_ok=True)
        for source, destination in zip(self.paths, old.paths, strict=True):
            if source.exists():
                source.replace(destination)
        self.clear()


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write a table atomically; floats in full precision, lines ending in ``\\n`` everywhere."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    atomic_write(path, text.getvalue())


def _current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


_UMASK = _current_umask()  # read once at import: changing it later would race with other threads
