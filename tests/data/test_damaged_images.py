"""Image files damaged at random: read as they were, refused in one line, or read with a warning.

A picture that another content of the file shows is noticed where the format has checksums or
lengths. Bytes changed in place are not where it has none: then it is just another picture.

The mutants are read in a process of its own, which is this file as a script: they could hang it or
crash the interpreter.
"""

from __future__ import annotations

import collections
import faulthandler
import importlib.util
import io
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from damaged_files import BYTE_MUTATIONS
from PIL import Image

from chestlab.data.image_files import Xray, read_xray
from chestlab.data.phantom import make_phantom
from chestlab.files.errors import InputError

pytest_plugins = ["figures"]

HANG_SECONDS = 10
SIZE = 28

# Kinds of files whose pixels have checksums; those of others are read as they are.
CHECKED = ("PNG", "PNG of 16 bits", "deflated TIFF")
# Kinds that do not say where they end; a block may be in them twice.
ENDLESS = ("JPEG", "TIFF", "TIFF of 16 bits")


def good_files(folder: Path) -> dict[str, Path]:
    """A sound file of each kind, of the same picture."""
    grey = make_phantom(size=64, train=2, val=2, test=2, seed=1)["train_images"][0]
    wide = grey.astype(np.uint16) * 16
    ways = {
        "PNG": (grey, "PNG", {}),
        "PNG of 16 bits": (wide, "PNG", {}),
        "JPEG": (grey, "JPEG", {"quality": 98}),
        "TIFF": (grey, "TIFF", {}),
        "TIFF of 16 bits": (wide, "TIFF", {}),
        "deflated TIFF": (grey, "TIFF", {"compression": "tiff_adobe_deflate"}),
        "BMP": (grey, "BMP", {}),
        "WebP": (grey, "WEBP", {"lossless": True}),
    }
    files = {}
    for number, (kind, (values, form, options)) in enumerate(ways.items()):
        files[kind] = folder / f"{number}"
        Image.fromarray(values).save(files[kind], form, **options)
    if importlib.util.find_spec("pydicom") is not None:
        files["DICOM"] = folder / "dicom"
        write_dicom(files["DICOM"], wide)
    return files


def write_dicom(path: Path, values: np.ndarray) -> None:
    from pydicom import uid
    from pydicom.dataset import FileDataset, FileMetaDataset

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = uid.DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    dataset.Modality, dataset.PatientID, dataset.BodyPartExamined = "DX", "nobody", "CHEST"
    dataset.WindowCenter, dataset.WindowWidth = [2048, 3000], [4096, 900]
    dataset.Rows, dataset.Columns = values.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    dataset.PixelData = values.astype("<u2").tobytes()
    dataset.save_as(path, enforce_file_format=True)


def outcome(path: Path, expected: Xray) -> str:
    """``refused``, ``same``, ``warned`` or ``unnoticed``; any other error passes through."""
    try:
        xray = read_xray(path, SIZE)
    except InputError as error:
        text = str(error)
        assert text and text.isprintable() and len(text) < 500, text
        return "refused"
    if np.array_equal(xray.seen, expected.seen):
        return "same"
    return "warned" if xray.warnings else "unnoticed"


def read_mutants(folder: Path, count: int) -> dict[str, dict[str, int]]:
    """How ``count`` mutants of each kind of file end; raises at the first that ends badly."""
    path = folder / "mutant"
    results = {}
    for kind, file in good_files(folder).items():
        good, rng = file.read_bytes(), random.Random(kind)
        expected = read_xray(file, SIZE)
        assert not expected.warnings, (kind, expected.warnings)
        outcomes: collections.Counter[str] = collections.Counter()
        for number in range(count):
            mutate = rng.choice(BYTE_MUTATIONS)
            data = bytearray(good)
            mutate(data, rng)
            path.write_bytes(data)
            where = f"mutant {number} of {kind}, {mutate.__name__}"
            print(where, file=sys.stderr, flush=True)  # the last line says where a crash was
            faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
            start = time.monotonic()
            try:
                end = outcome(path, expected)
            except BaseException as error:
                raise AssertionError(f"{where}: {error!r}") from error
            faulthandler.cancel_dump_traceback_later()
            assert time.monotonic() - start < HANG_SECONDS, where
            in_place = len(data) == len(good)
            longer = kind in ENDLESS and (len(data) > len(good) or kind == "JPEG")
            assert end != "unnoticed" or in_place or longer, f"{where}: another picture, no warning"
            outcomes[end] += 1
        results[kind] = dict(outcomes)
    return results


SIZES = [pytest.param(60, id="fast"), pytest.param(1000, id="all", marks=pytest.mark.slow)]


@pytest.mark.parametrize("count", SIZES)
def test_mutants_are_read_rightly_or_with_a_warning_or_refused(count, tmp_path, record_figure):
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path), str(count)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests")))},
        capture_output=True,
        text=True,
        timeout=60 + count,
    )
    assert done.returncode == 0, (done.returncode, done.stderr[-3000:])
    results = json.loads(done.stdout)
    print(json.dumps(results, indent=1))
    assert set(results) >= {"PNG", "JPEG", "TIFF", "BMP", "WebP"}
    for kind, outcomes in results.items():
        assert sum(outcomes.values()) == count
        assert outcomes["refused"] > count / 8, (kind, outcomes)
        if kind in CHECKED:  # of a TIFF the tags have none
            allowed = 0 if kind.startswith("PNG") else count / 100
            assert outcomes.get("unnoticed", 0) <= allowed, (kind, outcomes)
        record_figure(f"mutants of an image file read in process: {kind}", count)


def test_a_healthy_file_with_unusual_parts_gets_no_warning(tmp_path):
    grey = make_phantom(size=64, train=2, val=2, test=2, seed=1)["train_images"][0]
    exif = Image.Exif()
    exif[0x010E] = "a description"
    for form in ("PNG", "TIFF", "JPEG", "WEBP"):
        Image.fromarray(grey).save(tmp_path / "image", form, exif=exif, dpi=(300, 300))
        assert read_xray(tmp_path / "image", SIZE).warnings == ()
    stream = io.BytesIO()
    Image.fromarray(grey).save(stream, "BMP")
    content = bytearray(stream.getvalue())
    content[2:6] = bytes(4)  # some programs leave the length out
    (tmp_path / "image").write_bytes(content)
    assert read_xray(tmp_path / "image", SIZE).warnings == ()


if __name__ == "__main__":
    print(json.dumps(read_mutants(Path(sys.argv[1]), int(sys.argv[2]))))
