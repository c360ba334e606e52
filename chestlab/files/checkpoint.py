"""Checkpoints: plain tensors and values in a file whose every bit is checked when it is read."""

from __future__ import annotations

import hashlib
import io
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chestlab.files.atomic import atomic_write
from chestlab.files.errors import InputError
from chestlab.files.foreign_checkpoint import (
    check_archive,
    is_safetensors,
    read_safetensors,
    refusal,
    stand_ins,
    what_else,
)

LEGACY_START = pickle.dumps(0x1950A86A20F9469CFC6C, 2)  # of PyTorch's files before the zip


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
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
            digest.update(content.numpy().data)
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
        path: a checkpoint, or a state dict that somebody else has saved with ``torch.save`` or
            as safetensors. PyTorch's format from before the zip has no checksums: a changed number
            in such a file is not noticed. Values of NumPy and the like beside the tensors are
            left unread, see `foreign_checkpoint.RECORDS`.
        sealed: it must be as `save_checkpoint` has written it, value for value.

    Raises:
        InputError: the file is missing, damaged, or holds anything but tensors and plain values.
    """
    start = b""
    try:
        with path.open("rb") as file:
            start = file.read(200)
        if not sealed and is_safetensors(start):
            return read_safetensors(path)
        state = _read(path, sealed, legacy=not sealed and start.startswith(LEGACY_START))
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"checkpoint '{path}' does not exist") from None
    except zipfile.BadZipFile:
        raise InputError(
            f"checkpoint '{path}' is damaged or none at all: {what_else(start)}"
        ) from None
    except pickle.UnpicklingError:
        raise InputError(refusal(path)) from None
    except Exception as error:  # what a damaged zip or pickle raises can be nearly any type
        reason = f"{type(error).__name__} {error}".split("\n", 1)[0]
        raise InputError(f"checkpoint '{path}' cannot be read: {reason[:200]}") from None
    if not isinstance(state, dict):
        raise InputError(f"checkpoint '{path}' holds a {type(state).__name__}, not a dict")
    seal = state.pop("seal", None)
    if sealed:
        _check_seal(path, state, seal)
    return state


def _read(path: Path, sealed: bool, legacy: bool) -> Any:
    """What ``torch.save`` has put into a file, in the format of today or before the zip."""
    import torch

    file: Any = path
    if legacy:
        file = io.BytesIO(path.read_bytes())  # PyTorch would try a path as a tar first
    else:
        with zipfile.ZipFile(path) as archive:
            check_archive(path, archive)
    with warnings.catch_warnings(), torch.serialization.safe_globals([] if sealed else stand_ins()):
        warnings.simplefilter("ignore")
        state = torch.load(file, map_location="cpu", weights_only=True)
    if legacy and file.read(1):  # tensors that are not listed would hold what memory held
        raise InputError(f"checkpoint '{path}' is damaged: it goes on behind its last tensor")
    return state


def _check_seal(path: Path, state: dict[str, Any], seal: Any) -> None:
    """Refuse a checkpoint that is not as `save_checkpoint` has written it."""
    try:
        sound = seal == _seal(state)
    except (RecursionError, RuntimeError, TypeError):  # nothing of ours is nested or made so
        sound = False
    if not sound:
        hint = "; weights of others are for --weights of a training script" if seal is None else ""
        raise InputError(
            f"checkpoint '{path}' is not as a run of this project has written it{hint}"
        )
