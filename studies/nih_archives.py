"""NIH's twelve archives of ChestX-ray14: which image is in which, and reading images out of them.

Source: Wang et al., CVPR 2017, https://nihcc.app.box.com/v/ChestXray-NIHCC.
"""

from __future__ import annotations

import bisect
import contextlib
import os
import re
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from chestlab.files.errors import InputError

SITE = "https://nihcc.app.box.com/v/ChestXray-NIHCC"


class Archive(NamedTuple):
    """One of NIH's archives.

    Attributes:
        name: of the file.
        first: name of its first image.
        size: in bytes.
    """

    name: str
    first: str
    size: int

    @property
    def gigabytes(self) -> str:
        return f"{self.size / 1e9:.1f} GB"


# The images lie in the order of their names. By this table images_001 holds 4,999 of the names in
# NIH's Data_Entry_2017_v2020.csv, images_012 holds 7,121 and each of the others 10,000, the numbers
# that the data set's description on Kaggle gives.
ARCHIVES = (
    Archive("images_001.tar.gz", "00000001_000.png", 2_008_470_987),
    Archive("images_002.tar.gz", "00001336_000.png", 3_952_623_504),
    Archive("images_003.tar.gz", "00003923_014.png", 3_929_234_850),
    Archive("images_004.tar.gz", "00006585_007.png", 3_838_903_983),
    Archive("images_005.tar.gz", "00009232_004.png", 3_935_496_531),
    Archive("images_006.tar.gz", "00011558_008.png", 3_986_301_172),
    Archive("images_007.tar.gz", "00013774_026.png", 4_016_328_426),
    Archive("images_008.tar.gz", "00016051_010.png", 4_018_347_353),
    Archive("images_009.tar.gz", "00018387_035.png", 4_111_327_929),
    Archive("images_010.tar.gz", "00020945_050.png", 4_181_556_296),
    Archive("images_011.tar.gz", "00024718_000.png", 4_187_084_020),
    Archive("images_012.tar.gz", "00028173_003.png", 2_914_187_733),
)


def archive_of(name: str) -> int:
    """Number, from 1, of the archive of NIH that holds an image."""
    return bisect.bisect_right([archive.first for archive in ARCHIVES], name)


def list_archives(names: Collection[str]) -> list[tuple[Archive, int]]:
    """The archives that hold images of ``names``, each with the number of these images."""
    counts = sorted(Counter(map(archive_of, names)).items())
    return [(ARCHIVES[number - 1], count) for number, count in counts]


def archive_table(names: Collection[str]) -> str:
    """`list_archives` as text: a line each with name, size and number of images."""
    needed = list_archives(names)
    total = sum(archive.size for archive, _ in needed) / 1e9
    lines = [f"{archive.name}  {archive.gigabytes:>7}  {n:6,} images" for archive, n in needed]
    return "\n".join([*lines, f"{'together':17}  {total:4.1f} GB  {len(names):6,} images"])


@dataclass
class Sources:
    """Where wanted images may be read from.

    Attributes:
        places: of each image that was found, its file, or a zip and the member of it.
        tars: archives that must be read through to know what they hold.
    """

    places: dict[str, tuple[Path, str]] = field(default_factory=dict)
    tars: list[Path] = field(default_factory=list)

    def absent(self, wanted: Collection[str]) -> list[str]:
        """The images that cannot be here, as far as is known before tar archives are read."""
        numbers = {_archive_number(path) for path in self.tars}
        if None in numbers:  # a name that is not NIH's says nothing of the contents
            return []
        missing = [name for name in wanted if name not in self.places]
        return [name for name in missing if archive_of(name) not in numbers]


def _archive_number(path: Path) -> int | None:
    """The number in the name of an archive as NIH names it, or as its download script does."""
    match = re.fullmatch(r"images_0*(\d{1,2})\.(tar\.gz|tgz|tar)", path.name.lower())
    return int(match[1]) if match and 0 < int(match[1]) <= len(ARCHIVES) else None


def find_sources(folder: Path, wanted: Collection[str]) -> Sources:
    """Look through ``folder`` and all folders below it.

    Raises:
        InputError: it is no folder, or a zip in it is damaged.
        OSError: a folder may not be read.
    """
    if not folder.is_dir():
        raise InputError(f"--images '{folder}': there is no such folder")

    def unreadable(error: OSError) -> None:
        raise error

    sources, zips = Sources(), []
    for parent, folders, names in os.walk(folder, onerror=unreadable):
        folders.sort()
        for name in sorted(names):
            path = Path(parent) / name
            if name in wanted:
                sources.places.setdefault(name, (path, ""))
            elif name.lower().endswith((".tar.gz", ".tgz", ".tar")):
                sources.tars.append(path)
            elif name.lower().endswith(".zip"):
                zips.append(path)
    for path in zips:
        for member in _zip_members(path):
            name = PurePosixPath(member).name
            if name in wanted:
                sources.places.setdefault(name, (path, member))
    return sources


def _zip_members(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except zipfile.BadZipFile as error:
        raise _incomplete(path, str(error)) from None


def read_images(sources: Sources, wanted: Collection[str]) -> Iterator[tuple[str, Path, bytes]]:
    """Each image of ``wanted`` that is there, once: its name, where it lies, its file's bytes.

    Raises:
        InputError: an archive is damaged or incomplete.
    """
    missing = set(wanted) - sources.places.keys()
    with contextlib.ExitStack() as opened:
        zips: dict[Path, zipfile.ZipFile] = {}
        for name, (path, member) in sources.places.items():
            if not member:
                yield name, path, path.read_bytes()
                continue
            if path not in zips:
                zips[path] = opened.enter_context(zipfile.ZipFile(path))
            try:
                content = zips[path].read(member)
            except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
                raise _incomplete(path, f"{member}: {error}") from None
            yield name, path, content
    for path in sources.tars:
        if missing:
            yield from _read_tar(path, missing)


def _read_tar(path: Path, missing: set[str]) -> Iterator[tuple[str, Path, bytes]]:
    """The ``missing`` images in a tar archive, in the archive's order; taken off ``missing``."""
    print(f"reading {path.name}", flush=True)
    try:
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                name = PurePosixPath(member.name).name
                file = archive.extractfile(member) if name in missing else None
                if file is None:  # not wanted, or no file
                    continue
                content = file.read()
                missing.discard(name)
                yield name, path, content
                if not missing:
                    return
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise _incomplete(path, str(error) or type(error).__name__) from None
    number = _archive_number(path)
    lacking = sorted(name for name in missing if archive_of(name) == number)
    if lacking:  # tarfile takes some cut-off archives for whole ones
        raise _incomplete(path, f"{len(lacking):,} images are not in it: {lacking[0]}, ...")


def _incomplete(path: Path, reason: str) -> InputError:
    number, size = _archive_number(path), path.stat().st_size
    whole = f", NIH's has {ARCHIVES[number - 1].size:,}" if number else ""
    return InputError(f"'{path}' is damaged or incomplete ({reason}); it has {size:,} bytes{whole}")
