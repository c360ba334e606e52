"""DICOM files: the same grey as the picture they were made from, whatever their header says."""

import importlib.util

import numpy as np
import pytest
from PIL import Image

from chestlab.data.grey_values import parse_window
from chestlab.data.image_files import read_xray
from chestlab.files.errors import InputError

pydicom = pytest.importorskip("pydicom", reason="DICOM files need pydicom")

GREY = np.clip(np.add.outer(np.arange(32) * 4, np.arange(32) * 3) + 11, 0, 230).astype(np.uint8)
WIDE = GREY.astype(np.int64) * 4095 // 255


def write(path, pixels=WIDE, syntax="ExplicitVRLittleEndian", **elements):
    """A file of 12 bits in 16; other elements replace these, and None leaves one out."""
    from pydicom import uid
    from pydicom.dataset import FileDataset, FileMetaDataset

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = uid.DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = uid.generate_uid(entropy_srcs=[path.name])
    meta.TransferSyntaxUID = getattr(uid, syntax)
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    elements = {
        "Modality": "DX",
        "Rows": pixels.shape[-2],
        "Columns": pixels.shape[-1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 12,
        "PixelRepresentation": 0,
        "PixelData": pixels.astype("<u2").tobytes(),
        **elements,
    }
    for name, value in elements.items():
        if value is not None:
            setattr(dataset, name, value)
    dataset.HighBit = elements.get("HighBit", dataset.BitsStored - 1)
    dataset["PixelData"].VR = "OB" if dataset.BitsAllocated == 8 else "OW"
    dataset.save_as(path, enforce_file_format=True)
    return path


def off_by(xray, expected=GREY):
    return np.abs(xray.seen.astype(int) - expected.astype(int)).max()


def lookup(values, bits, first=0, words=False):
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    item = Dataset()
    item.LUTDescriptor = [len(values), first, bits]
    item["LUTDescriptor"].VR = "US"
    item.LUTData = values.astype("<u2").tobytes() if words else values.tolist()
    item["LUTData"].VR = "OW" if words else "US"
    return Sequence([item])


WHOLE = np.arange(4096)
EIGHT = {"BitsAllocated": 8, "BitsStored": 8, "PixelData": GREY.tobytes()}
COLOUR = {**EIGHT, "SamplesPerPixel": 3, "PlanarConfiguration": 0}
CASES = {
    "12 bits": ({}, "0,4095"),
    "12 bits in 16 stated": ({"BitsStored": 16}, "0,4095"),
    "8 bits": (EIGHT, "0,255"),
    "inverted": (
        {
            "PhotometricInterpretation": "MONOCHROME1",
            "PixelData": (4095 - WIDE).astype("<u2").tobytes(),
        },
        "0,4095",
    ),
    "signed": (
        {"PixelRepresentation": 1, "PixelData": (WIDE - 2048).astype("<i2").tobytes()},
        "-2048,2047",
    ),
    "rescaled": ({"RescaleSlope": 2, "RescaleIntercept": -1024}, "-1024,7166"),
    "several windows": ({"WindowCenter": [2048, 9], "WindowWidth": [4096, 9]}, "0,4095"),
    "exact window": (
        {"WindowCenter": 2047.5, "WindowWidth": 4095, "VOILUTFunction": "LINEAR_EXACT"},
        "0,4095",
    ),
    "window of rescaled values": (
        {
            "RescaleSlope": 2,
            "RescaleIntercept": -1024,
            "WindowCenter": 3071.5,
            "WindowWidth": 8191,
        },
        "-1024,7166",
    ),
    "window of no width": ({"WindowCenter": 2048, "WindowWidth": 0}, "0,4095"),
    "VOI table": (
        {
            "PixelData": (WIDE // 2).astype("<u2").tobytes(),
            "VOILUTSequence": lookup(np.minimum(np.arange(2048) * 2, 4095), 12),
        },
        "0,4095",
    ),
    "modality table": (
        {
            "PixelData": (4095 - WIDE).astype("<u2").tobytes(),
            "ModalityLUTSequence": lookup(65535 - np.arange(4096) * 16, 16),
        },
        "0,65535",
    ),
    "table of 8 bits in words": (
        {"VOILUTSequence": lookup(np.arange(4096) * 255 // 4095, 8, words=True)},
        "0,255",
    ),
    "table of 12 bits that states 16": ({"ModalityLUTSequence": lookup(WHOLE, 16)}, "0,4095"),
    "modality table of 12 bits": ({"ModalityLUTSequence": lookup(WHOLE, 12)}, "0,4095"),
    "slope alone": ({"RescaleSlope": 2}, "0,8190"),
    "intercept alone": ({"RescaleIntercept": -1000}, "-1000,3095"),
    "bits at the upper end": (
        {"HighBit": 15, "PixelData": (WIDE * 16).astype("<u2").tobytes()},
        "0,65535",
    ),
    "colour": (
        {
            **COLOUR,
            "PhotometricInterpretation": "RGB",
            "PixelData": np.dstack([GREY] * 3).tobytes(),
        },
        "0,255",
    ),
    "luminance": (
        {
            **COLOUR,
            "PhotometricInterpretation": "YBR_FULL",
            "PixelData": np.dstack([GREY, GREY * 0 + 128, GREY * 0 + 128]).tobytes(),
        },
        "0,255",
    ),
    "implicit": ({"syntax": "ImplicitVRLittleEndian"}, "0,4095"),
    "deflated": ({"syntax": "DeflatedExplicitVRLittleEndian"}, "0,4095"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_header_is_obeyed(case, tmp_path):
    elements, window = CASES[case]
    xray = read_xray(write(tmp_path / "image.dcm", **elements), 32)
    assert off_by(xray) <= 1 and str(xray.window) == window and not xray.warnings


def test_a_window_that_clips_and_a_sigmoid(tmp_path):
    path = write(tmp_path / "image.dcm", WindowCenter=1000.5, WindowWidth=1001)
    xray = read_xray(path, 32)
    assert str(xray.window) == "500,1500" and xray.window.reason == "the file's window"
    assert off_by(xray, np.rint(np.clip((WIDE - 500) / 1000, 0, 1) * 255)) == 0
    write(path, WindowCenter=[1000.5, 40], WindowWidth=[1001, 80])
    assert read_xray(path, 32).window.reason == "the first of the file's 2 windows"
    write(path, WindowCenter=[1000.5, 1000.5], WindowWidth=[1001, 1001])
    assert read_xray(path, 32).window.reason == "the file's window"
    given = read_xray(path, 32, parse_window("0,4095"))
    assert off_by(given) <= 1 and str(given.window) == "0,4095"
    write(path, WindowCenter=2000, WindowWidth=1000, VOILUTFunction="SIGMOID")
    expected = np.rint(255 / (1 + np.exp(-4 * (WIDE - 2000) / 1000)))
    assert off_by(read_xray(path, 32), expected) == 0


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("padding", [-2000, 0, 20_000])
def test_what_was_added_around_the_picture_is_black_and_does_not_count(
    padding, photometric, tmp_path
):
    pixels = WIDE.copy() if photometric == "MONOCHROME2" else 4095 - WIDE
    pixels[:3] = padding
    header = {"PixelRepresentation": 1, "BitsStored": 16, "PhotometricInterpretation": photometric}
    path = write(
        tmp_path / "image.dcm", pixels.astype(np.int16), **header, PixelPaddingValue=padding
    )
    expected = GREY.copy()
    expected[:3] = 0
    xray = read_xray(path, 32)
    assert off_by(xray, expected) <= 1 and str(xray.window) == "0,4095"
    given = parse_window("-4095,8190")  # wider than the file's on either side
    expected[3:] = 85 + np.rint(GREY[3:] / 3)
    assert off_by(read_xray(path, 32, given), expected) <= 1


def test_what_is_missing_is_named_with_the_remedy(tmp_path):
    path = write(tmp_path / "image.dcm", PhotometricInterpretation=None)
    with pytest.raises(InputError, match="Photometric Interpretation'; save it as a grey PNG"):
        read_xray(path, 32)
    path = write(tmp_path / "image.dcm", WindowCenter=20_000, WindowWidth=100)
    with pytest.raises(InputError, match="everywhere through the window 19950,20049: --window"):
        read_xray(path, 32)


def test_the_first_of_several_frames_is_read_and_that_is_told(tmp_path):
    frames = np.stack([WIDE, WIDE * 0 + 77])
    xray = read_xray(write(tmp_path / "image.dcm", frames, NumberOfFrames=2), 32)
    assert off_by(xray) <= 1
    assert xray.warnings == ("has 2 frames: only the first is read",)


@pytest.mark.parametrize(
    ("elements", "warning"),
    [
        ({"Modality": "CT"}, "is of modality CT, not a radiograph"),
        ({"BodyPartExamined": "KNEE"}, "is of body part KNEE, not the chest"),
        ({"ViewPosition": "LL"}, "is a lateral view"),
        ({"BodyPartExamined": "CHEST", "ViewPosition": "PA"}, None),
    ],
)
def test_what_the_network_was_not_trained_on_is_told(elements, warning, tmp_path):
    found = read_xray(write(tmp_path / "image.dcm", **elements), 32).warnings
    assert (warning is None and not found) or found[0].startswith(warning)


def test_a_file_is_known_by_its_content_and_an_old_one_by_its_suffix(tmp_path):
    content = write(tmp_path / "image.dcm").read_bytes()
    (tmp_path / "IM000001").write_bytes(content)
    assert off_by(read_xray(tmp_path / "IM000001", 32)) <= 1
    start = content.index(b"\x08\x00\x16\x00UI")  # without preamble, prefix and file meta
    (tmp_path / "old.dcm").write_bytes(content[start:])
    assert off_by(read_xray(tmp_path / "old.dcm", 32)) <= 1
    Image.fromarray(GREY).save(tmp_path / "in truth.png")
    (tmp_path / "in truth.png").rename(tmp_path / "in truth.dcm")
    assert off_by(read_xray(tmp_path / "in truth.dcm", 32)) == 0


def test_what_is_no_image_is_refused(tmp_path):
    path = tmp_path / "image.dcm"
    path.write_text("no DICOM\n" * 99)
    with pytest.raises(InputError, match="is no DICOM file"):
        read_xray(path, 32)
    dataset = pydicom.dcmread(write(path))
    del dataset.PixelData
    dataset.save_as(path)
    with pytest.raises(InputError, match="is a DICOM file without an image"):
        read_xray(path, 32)
    with pytest.raises(InputError, match="allowed are 50,000,000"):
        read_xray(write(path, Rows=60_000, Columns=60_000), 32)
    content = write(path).read_bytes()
    path.write_bytes(content[:-200])
    with pytest.raises(InputError, match="cannot be read: The number of bytes of pixel data"):
        read_xray(path, 32)
    path.write_bytes(content + content[-200:])
    assert read_xray(path, 32).warnings[0].startswith("may be damaged")


def test_rle_and_baseline_jpeg_are_unpacked_and_else_the_remedy_is_named(tmp_path):
    from pydicom.encaps import encapsulate
    from pydicom.uid import JPEGLSLossless

    path = write(tmp_path / "image.dcm")
    dataset = pydicom.dcmread(path)
    dataset.compress(pydicom.uid.RLELossless)
    dataset.save_as(path)
    assert off_by(read_xray(path, 32)) <= 1
    dataset = pydicom.dcmread(write(path))
    dataset.PixelData = encapsulate([b"\xff\xd8 no pixels"])
    dataset["PixelData"].VR = "OB"
    dataset.file_meta.TransferSyntaxUID = JPEGLSLossless
    dataset.save_as(path)
    with pytest.raises(InputError, match=r"is compressed \(JPEG-LS.*pip install pylibjpeg") as told:
        read_xray(path, 32)
    assert len(str(told.value).splitlines()) == 1


def test_without_pydicom_its_name_is_told(tmp_path, monkeypatch):
    path = write(tmp_path / "image.dcm")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install pydicom"):
        read_xray(path, 32)
