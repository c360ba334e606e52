"""Files of weights that other programs have written: what they are, and what of them is read.

Nothing here runs code that a file names: a pickle is listed opcode by opcode, never executed.
"""

from __future__ import annotations

import io
import pickletools
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from chestlab.files.errors import InputError

# Records that training scripts keep beside the weights. They are read as `Unread`.
RECORDS = {
    "numpy": ("dtype", "ndarray"),
    "numpy.core.multiarray": ("scalar", "_reconstruct"),
    "numpy._core.multiarray": ("scalar", "_reconstruct"),
    "numpy.core.numeric": ("_frombuffer",),
    "numpy._core.numeric": ("_frombuffer",),
    "argparse": ("Namespace",),
    "builtins": ("bool", "dict", "float", "frozenset", "int", "list", "set", "str", "tuple"),
    "collections": ("defaultdict", "deque"),
    "datetime": ("date", "datetime", "timedelta"),
    "pathlib": ("Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"),
    "pathlib._local": ("Path", "PosixPath", "WindowsPath"),  # of Python 3.13
    "pytorch_lightning.utilities.parsing": ("AttributeDict",),
    "lightning.pytorch.utilities.parsing": ("AttributeDict",),
    "lightning_fabric.utilities.data": ("AttributeDict",),
    "lightning.fabric.utilities.data": ("AttributeDict",),
}

# Modules that no weights need, and whose functions do harm.
HARMFUL = ("os", "posix", "nt", "sys", "subprocess", "shutil", "socket", "runpy", "importlib")

WEIGHT_KEYS = ("state_dict", "model_state_dict", "model", "net", "network", "weights")

STARTS = {
    b"\x1f\x8b": "it is compressed by gzip: unpack it first",
    b"\x89HDF\r\n": "it is an HDF5 file, as Keras writes; wanted is a state dict of PyTorch",
    b"PK": "it is a zip archive without its end: copy or download it again",
    b"\x80": "it is a plain pickle, or what is left of one; wanted is what torch.save writes",
    b"version https://git-lfs": "it is a pointer of Git LFS: fetch the file with git lfs pull",
}


class Unread:
    """Stands for a value beside the weights that is left unread, whatever it was made from."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        """Leave the value's content unread, too."""


def stand_ins() -> list[Any]:
    """A class for each of `RECORDS`, for `torch.serialization.safe_globals`.

    Of containers it makes plain dicts and lists, the only ones that PyTorch fills.
    """
    plain = {"defaultdict": dict, "AttributeDict": dict, "deque": list}
    made = []
    for module, names in RECORDS.items():
        for name in names:
            content: dict[str, Any] = {"__module__": module}
            if name in plain:
                content["__new__"] = partial(_empty, plain[name])
            made.append(type(name, (Unread,), content))
    return made


def _empty(kind: type, *_: Any) -> Any:
    return kind()


def what_else(start: bytes) -> str:
    """What a file is that is no checkpoint of PyTorch, from its first bytes."""
    if not start:
        return "it is empty"
    for magic, what in STARTS.items():
        if start.startswith(magic):
            return what
    text = start.decode("ascii", "replace")
    if all(letter.isprintable() or letter.isspace() for letter in text) and "\ufffd" not in text:
        return f"it is text that begins with {' '.join(text.split())[:40]!r}"
    return "it is neither a zip archive nor any other file that torch.save writes"


def check_archive(path: Path, archive: zipfile.ZipFile) -> None:
    """Refuse an archive that is damaged, or not of ``torch.save``.

    Raises:
        InputError: says which.
    """
    names = archive.namelist()
    inner = {name.rsplit("/", 1)[-1] for name in names}
    if "constants.pkl" in inner:
        raise InputError(
            f"checkpoint '{path}' is a TorchScript archive: torch.save(torch.jit.load('{path}')"
            ".state_dict(), 'weights.pth') keeps its weights alone"
        )
    if "data.pkl" not in inner:
        raise InputError(
            f"checkpoint '{path}' is a zip archive of something else, with "
            f"{', '.join(repr(name[:60]) for name in names[:3]) or 'nothing in it'}"
        )
    if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
        raise InputError(f"checkpoint '{path}' is compressed; PyTorch's own are not")
    damaged = archive.testzip()  # torch.load takes flipped bits for other numbers
    if damaged:
        raise InputError(f"checkpoint '{path}' is damaged: wrong checksum of {damaged!r}")


def is_safetensors(start: bytes) -> bool:
    """Whether a file begins as the format safetensors does: with the size of a JSON header."""
    return len(start) > 8 and start[8:9] == b"{" and start[4:8] == bytes(4)


def read_safetensors(path: Path) -> dict[str, Any]:
    """The tensors of a file in the format safetensors.

    Raises:
        InputError: it is damaged, or the package is missing.
    """
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError:
        raise InputError(f"'{path}' needs safetensors: pip install safetensors") from None
    try:
        return load_file(path)
    except (SafetensorError, ValueError, TypeError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"checkpoint '{path}' is damaged or none at all: {reason}") from None


def refusal(path: Path) -> str:
    """Why a checkpoint with objects of classes is not read, and what keeps its weights alone.

    Args:
        path: a file whose pickle names something that is neither a tensor nor in `RECORDS`.
    """
    message = f"checkpoint '{path}' holds more than tensors and plain values"
    try:
        pickled = _opcodes(path)
    except Exception:  # a damaged file raises nearly any type
        return f"{message}, which is not read, for safety"
    names = dict.fromkeys(value for kind, value in pickled if kind == "GLOBAL")
    foreign = [name for name in names if not _is_plain(name) and not _is_record(name)]
    listed = ", ".join(name.replace(" ", ".")[:80] for name in foreign[:2])
    message += f" ({listed})" if listed and listed.isprintable() else ""
    if any(_is_harmful(name) for name in foreign):
        return f"{message}: a call that runs as soon as the file is unpickled; do not open it"
    take = _weights_in(pickled)
    return (
        f"{message}, which is not read, for safety; if you trust it and have its classes, "
        f"torch.save(torch.load('{path}', weights_only=False){take}, 'weights.pth') keeps the "
        "weights alone"
    )


def _is_plain(name: str) -> bool:
    """A global of a pickle that every state dict may name."""
    module, _, kind = name.partition(" ")
    return module in ("torch", "torch._utils", "torch.nn.parameter", "_codecs") or (
        module == "collections" and kind in ("OrderedDict", "Counter")
    )


def _is_record(name: str) -> bool:
    module, _, kind = name.replace("__builtin__", "builtins").partition(" ")
    return kind in RECORDS.get(module, ())


def _is_harmful(name: str) -> bool:
    module, _, function = name.replace("__builtin__", "builtins").partition(" ")
    return module.split(".")[0] in HARMFUL or (
        module == "builtins" and function in ("eval", "exec", "compile", "open", "__import__")
    )


def _weights_in(pickled: list[tuple[str, Any]]) -> str:
    """What gets the state dict out of an unpickled value: an index, a call, or both."""

    def is_object(start: int) -> bool:
        if pickled[start : start + 2] == [("MARK", None), ("BINUNICODE", "module")]:
            start += 2  # the format before the zip has a class's source text beside it
        kind, name = pickled[start]
        return kind == "GLOBAL" and not _is_plain(name)

    if is_object(0):
        return ".state_dict()"
    for key in WEIGHT_KEYS:
        if ("BINUNICODE", key) in pickled[:-3]:
            place = pickled.index(("BINUNICODE", key))
            return f"['{key}']{'.state_dict()' if is_object(place + 1) else ''}"
    return "['state_dict']"


def _opcodes(path: Path) -> list[tuple[str, Any]]:
    """Opcodes of a checkpoint's pickle with their arguments, those of the memo left out."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            return list(_of_one_pickle(io.BytesIO(archive.read(name))))
    file = io.BytesIO(path.read_bytes())
    for _ in range(3):  # of the format before the zip: a magic number, a version, a machine
        list(pickletools.genops(file))
    return list(_of_one_pickle(file))


def _of_one_pickle(file: io.BytesIO) -> Iterator[tuple[str, Any]]:
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name not in ("PROTO", "FRAME", "MEMOIZE", "BINPUT", "LONG_BINPUT", "PUT"):
            yield opcode.name, argument
