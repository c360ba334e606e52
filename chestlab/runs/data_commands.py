"""The commands of `datareader.py` that make npz files: ``split`` and ``pack``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from chestlab.data.arrays import LARGEST, SMALLEST, quoted
from chestlab.data.dividing import label_groups, split_npz
from chestlab.data.leaks import split_warnings
from chestlab.data.pack import Packed, pack, read_table, write_packed
from chestlab.data.sources import is_file_name
from chestlab.data.splits import CLASS_NAMES, SPLITS
from chestlab.files.atomic import check_writable, make_folder
from chestlab.files.errors import InputError, OneLineParser
from chestlab.runs.flags import seed

COMMANDS = ("split", "pack")

SHOWN = 20  # lines of a kind; more are counted


def run_command(words: Sequence[str]) -> None:
    """Run one of `COMMANDS`, the first of the command line's ``words``, with the others.

    Raises:
        InputError: the flags, a file or too many rows of a table cannot be used; nothing is
            written then.
    """
    options = _parser().parse_args(words)
    options.work(options)


def _parser() -> OneLineParser:
    parser = OneLineParser(prog="datareader.py", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=OneLineParser)
    split = commands.add_parser(
        "split",
        allow_abbrev=False,
        description="Write a copy of an npz file in which a part of its training images are val, "
        "or test, images, with about the same share of every finding; images of one patient stay "
        "together where patients are known.",
    )
    split.set_defaults(work=_split)
    split.add_argument("file", type=_npz, metavar="FILE.npz")
    for name in ("val", "test"):
        split.add_argument(f"--{name}", type=_share, metavar="X", help="share of train, as 0.15")
    _add_output(split, "FILE_split.npz beside the file")
    packing = commands.add_parser(
        "pack",
        allow_abbrev=False,
        description="Make an npz file of pictures and a table, a CSV file whose first line is "
        "path,label[,patient,split]. A label is a finding, several with | between, or No Finding. "
        "Without a column of splits images are divided at random, those of a patient together.",
    )
    packing.set_defaults(work=_pack)
    packing.add_argument("folder", type=Path, metavar="FOLDER", help="of the paths in the table")
    packing.add_argument("table", type=Path, metavar="CSV")
    packing.add_argument(
        "--size", type=_size, default=28, metavar="N", help="side in pixels (default: 28)"
    )
    for name in ("val", "test"):
        packing.add_argument(
            f"--{name}",
            type=_share,
            metavar="X",
            help="share of the images, where the table has no column of splits (default: 0.15)",
        )
    packing.add_argument("--skip", action="store_true", help="leave out rows that cannot be used")
    _add_output(packing, "FOLDER.npz beside the folder")
    return parser


def _add_output(parser: argparse.ArgumentParser, default: str) -> None:
    add = parser.add_argument
    add("--seed", type=seed, default=42, metavar="N", help="of the random division (default: 42)")
    add("--out", type=_npz, metavar="FILE.npz", help=f"(default: {default})")
    add("--overwrite", action="store_true", help="replace the file that is there")


def _split(options: argparse.Namespace) -> None:
    shares = {name: getattr(options, name) for name in ("val", "test") if getattr(options, name)}
    if not shares:
        raise InputError("split: which split is to be made? --val 0.15, --test 0.15 or both")
    out = options.out or options.file.with_name(f"{options.file.stem}_split.npz")
    if not options.file.is_file():
        raise InputError(f"'{options.file}': there is no such file")
    _check_output(out, options, options.file)
    rows, patients = split_npz(options.file, out, shares, options.seed)
    for split, chosen in rows.items():
        of = "" if patients is None else f" of {len(np.unique(patients[chosen]))} patients"
        print(f"{split}: {chosen.sum()} images{of}")
    if patients is None:
        _warn(
            "patients are unknown (no train_patients, and names that are not like NIH's "
            "00000013_005.png): divided by image, so that images of one patient may be in several "
            "splits and figures on them too good"
        )
    print(f"written: {out}; python train.py --data {quoted(out)}")


def _pack(options: argparse.Namespace) -> None:
    folder: Path = options.folder
    if not folder.is_dir():
        raise InputError(f"'{folder}': there is no such folder")
    out = options.out or _beside(folder)
    _check_output(out, options)
    table = read_table(options.table)
    given = [f"--{name}" for name in ("val", "test") if getattr(options, name) is not None]
    if given and table.splits is not None:
        raise InputError(f"{given[0]}: the table has a column of splits, which decides")
    shares = {name: getattr(options, name) or 0.15 for name in ("val", "test")}
    packed = pack(folder, table, options.size, shares, options.seed)
    _list("WARNING: ", packed.doubts)
    _list("", packed.errors)
    bad, of = len({line for line, _ in packed.errors}), f"of {packed.total} rows"
    if not packed.arrays or (bad and not options.skip):
        remedy = "" if not packed.arrays else ", or leave them out with --skip"
        raise InputError(
            f"'{options.table}': {bad} {of} cannot be used, see above; nothing was written: mend "
            f"them{remedy}"
        )
    if bad:
        _warn(f"{bad} {of} left out, see above")
    for window, count in packed.windows.items():
        print(f"black and white are {window} in {count} images")
    _report(packed)
    make_folder(out.parent)
    write_packed(packed, out)
    print(f"written: {out}; python train.py --data {quoted(out)}")


def _beside(folder: Path) -> Path:
    """The npz file of a folder, which may be ``.`` or ``..``.

    Raises:
        InputError: the folder is the root, which has no name.
    """
    whole = folder.resolve()
    if not whole.name:
        raise InputError(f"'{folder}' has no name to call the file by: --out names it")
    named = folder if folder.name not in ("", "..") else whole
    return named.with_name(f"{whole.name}.npz")


def _report(packed: Packed) -> None:
    """Print what each split has, and warn of what a training will miss."""
    splits = packed.splits()
    if any(split.patients is None for split in splits.values()):
        _warn(
            "patients are unknown (no column patient, and names that are not like NIH's "
            "00000013_005.png): images of one patient may be in several splits, and figures on "
            "them too good"
        )
    for split in SPLITS:
        if split not in splits:
            _warn(
                f"there are no {split} images: 'python datareader.py split' makes some of train's"
            )
            continue
        alone = label_groups(splits[split].labels)[:, :2].sum(0).tolist()
        classes = ", ".join(f"{n} {name} alone" for n, name in zip(alone, CLASS_NAMES, strict=True))
        print(f"{split}: {len(splits[split])} images ({classes})")
        if not all(alone):
            _warn(f"{split} has no image of one of the two classes alone: only --task findings")
    for text in split_warnings(splits):
        _warn(text)


def _list(mark: str, lines: Sequence[tuple[int, str]]) -> None:
    for line, text in lines[:SHOWN]:
        print(f"{mark}line {line}: {text}", file=sys.stderr)
    if len(lines) > SHOWN:
        print(f"{mark}and {len(lines) - SHOWN} more", file=sys.stderr, flush=True)


def _warn(text: str) -> None:
    print(f"WARNING: {text}", file=sys.stderr, flush=True)


def _check_output(out: Path, options: argparse.Namespace, source: Path | None = None) -> None:
    """Refuse to write over a file, unless ``--overwrite`` allows it.

    Raises:
        InputError: the file is there, or is the one that is read, or cannot be written.
    """
    if source is not None and out.exists() and out.samefile(source):
        raise InputError(f"--out '{out}' is the file that is read: name another")
    if out.is_dir() or (out.exists() and not options.overwrite):
        raise InputError(f"'{out}' is there already: --overwrite replaces it, --out names another")
    check_writable(out.parent, "--out")


def _npz(text: str) -> Path:
    if not is_file_name(text):
        raise argparse.ArgumentTypeError(f"'{text}' is no FILE.npz")
    return Path(text).expanduser()


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a share above 0 and below 1, as 0.15")
    return share


def _size(text: str) -> int:
    if not text.isdecimal() or not SMALLEST <= int(text) <= LARGEST:
        raise argparse.ArgumentTypeError(f"'{text}' is not {SMALLEST} to {LARGEST} pixels")
    return int(text)
