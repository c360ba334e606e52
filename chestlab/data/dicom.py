"""DICOM files, by pydicom where it is installed, to grey values as a viewer shows them."""

from __future__ import annotations

import dataclasses
import importlib.util
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from chestlab.data.grey_values import (
    COLOUR,
    Picture,
    Window,
    choose_window,
    is_colourful,
    luminance,
)
from chestlab.data.pillow_images import check_size
from chestlab.files.errors import InputError

RADIOGRAPHS = {"", "CR", "DX", "DR", "RG", "RF", "XA", "OT", "SC"}  # (0008,0060) of X-ray pictures
UNDEFINED = 0xFFFFFFFF  # length of compressed pixels
PIXEL_DATA, TRAILER = 0x7FE00010, 0xFFFAFFFA  # tags; what may follow are signatures and padding
CHEST_WORDS = ("CHEST", "THORA", "TORA", "THX", "LUNG", "PULM", "PARU", "DADA")


def read_dicom(path: Path, given: Window | None = None) -> Picture:
    """Read the first frame: modality LUT or rescaling, VOI LUT or window, MONOCHROME1 inverted.

    DICOM PS3.3 C.11.1 and C.11.2. Of several windows the first is taken. Where there is none, it
    is chosen as for other files, by BitsStored where that is less than BitsAllocated.

    Args:
        path: of the file.
        given: the window, instead of the file's own VOI LUT or window.

    Raises:
        InputError: pydicom is missing, the file holds no image, is damaged, or is compressed in a
            way that pydicom cannot undo; the message is one line without the path.
    """
    if importlib.util.find_spec("pydicom") is None:
        raise InputError("is a DICOM file, which pydicom reads: pip install pydicom")
    from pydicom import dcmread

    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            dataset = dcmread(path, force=True)
            if any(name not in dataset for name in ("Rows", "Columns", "PixelData")):
                raise InputError(
                    "is a DICOM file without an image"
                    if dataset.preamble
                    else "is no DICOM file, or its beginning is damaged"
                )
            damage = _damage(dataset, path.stat().st_size)
            picture = _picture(dataset, given)
    except InputError:
        raise
    except Exception as error:  # damaged files raise nearly any type
        reason = " ".join(str(error).split())[:200]
        lacking = reason.startswith("Missing required element")
        remedy = "; save it as a grey PNG in a DICOM viewer" if lacking else ""
        raise InputError(f"cannot be read: {reason or type(error).__name__}{remedy}") from None
    said = dict.fromkeys(" ".join(str(warning.message).split())[:200] for warning in caught)
    notes = (*picture.warnings, *damage, *(f"may be damaged: {text}" for text in said))
    return dataclasses.replace(picture, warnings=notes)


def _damage(dataset: Any, size: int) -> list[str]:
    """What pydicom passes over in a file of ``size`` bytes; call before anything is decoded."""
    tags = list(dataset.keys())  # in the order of the file
    if tags != sorted(tags) or any(PIXEL_DATA < tag < TRAILER for tag in tags):
        return ["may be damaged: it has data after its pixels, or elements out of order"]
    pixels = dataset.get_item(PIXEL_DATA)
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if tags[-1] != PIXEL_DATA or pixels.length == UNDEFINED or (syntax and syntax.is_deflated):
        return []
    end = pixels.value_tell + pixels.length
    return [] if end == size else [f"may be damaged: {size - end} bytes follow its pixels"]


def _picture(dataset: Any, given: Window | None) -> Picture:
    check_size(int(dataset.Columns), int(dataset.Rows))
    stored = _first_frame(dataset)
    notes = _notes(dataset)
    if stored.ndim == 3:
        notes += [COLOUR] if is_colourful(stored) else []
        grey = luminance(*np.moveaxis(stored, -1, 0))
        return Picture(grey, choose_window(grey), warnings=tuple(notes))
    inverted = dataset.get("PhotometricInterpretation") == "MONOCHROME1"
    padding = _padding(stored, dataset)
    if dataset.get("ModalityLUTSequence"):
        values, window = _looked_up(stored, dataset.ModalityLUTSequence[0], "modality LUT")
    else:
        values, window = _rescaled(stored, ~padding, dataset)
    if given is None:
        values, of_interest = _values_of_interest(values, dataset)
        window = of_interest or window
    else:
        window = given
    if padding.any():  # it is black
        values = np.where(padding, window.high if inverted else window.low, values)
    return Picture(values, window, inverted, tuple(notes))


def _padding(stored: np.ndarray, dataset: Any) -> np.ndarray:
    """Mask (H, W) of what was added around the picture (PS3.3 C.7.5.1.1.2); never of all of it."""
    value, limit = dataset.get("PixelPaddingValue"), dataset.get("PixelPaddingRangeLimit")
    if not isinstance(value, int):
        return np.zeros(stored.shape, bool)
    low, high = sorted((value, limit if isinstance(limit, int) else value))
    added = (stored >= low) & (stored <= high)
    return added & ~added.all()


def _looked_up(values: np.ndarray, table: Any, name: str) -> tuple[np.ndarray, Window]:
    """Values (H, W) through a lookup table, and the window of its entries (PS3.3 C.11.1.1).

    Entries of 8 bits may take a byte each, or two. A table may state 16 bits and use 12.
    """
    count, first, bits = (int(number) for number in table.LUTDescriptor)
    count, entries = count or 65_536, table.LUTData
    if isinstance(entries, bytes):
        entries = np.frombuffer(entries, "<u2" if len(entries) >= 2 * count else np.uint8)
    entries = np.asarray(entries)[:count]
    places = np.rint(values).astype(np.int64) - first
    bits = min(bits, max(8, int(entries.max()).bit_length()))
    window = Window(0, 2**bits - 1, f"the file's {name}")
    return entries[np.clip(places, 0, len(entries) - 1)], window


def _values_of_interest(values: np.ndarray, dataset: Any) -> tuple[np.ndarray, Window | None]:
    """Values and window of the VOI LUT or of the first window that the file has, if any."""
    if dataset.get("VOILUTSequence"):
        return _looked_up(values, dataset.VOILUTSequence[0], "VOI LUT")
    if dataset.get("WindowCenter") is None or dataset.get("WindowWidth") is None:
        return values, None
    centers, widths = (
        np.atleast_1d(np.array(dataset[name].value, float))
        for name in ("WindowCenter", "WindowWidth")
    )
    center, width = centers[0], widths[0]
    several = len(centers) if len(np.unique(centers)) > 1 or len(np.unique(widths)) > 1 else 1
    source = "the file's window" if several == 1 else f"the first of the file's {several} windows"
    function = str(dataset.get("VOILUTFunction") or "LINEAR").upper()
    if not (np.isfinite(center) and width >= 1 + (function == "LINEAR")):
        return values, None
    if function == "SIGMOID":
        sigmoid = 1 / (1 + np.exp(-4 * (values.astype(np.float64) - center) / width))
        return sigmoid, Window(0, 1, f"the file's sigmoid of {center:g}, {width:g}")
    if function == "LINEAR":  # PS3.3 C.11.2.1.2.1
        center, width = center - 0.5, width - 1
    return values, Window(center - width / 2, center + width / 2, source)


def _rescaled(stored: np.ndarray, content: np.ndarray, dataset: Any) -> tuple[np.ndarray, Window]:
    """Stored values, and the window of their ``content`` by depth, in units of the modality."""
    allocated, bits = int(dataset.BitsAllocated), int(dataset.BitsStored)
    window = choose_window(stored[content], bits if bits < allocated else None)
    slope = float(dataset.get("RescaleSlope") or 1)
    intercept = float(dataset.get("RescaleIntercept") or 0)
    if (slope, intercept) == (1, 0):
        return stored, window
    low, high = sorted(slope * value + intercept for value in (window.low, window.high))
    values = stored.astype(np.float64) * slope + intercept
    return values, dataclasses.replace(window, low=low, high=high)


def _first_frame(dataset: Any) -> np.ndarray:
    """Stored values (H, W), or colours (H, W, 3) of 8 bits.

    Raises:
        InputError: nothing installed can undo the compression.
    """
    from pydicom.pixels.processing import apply_color_lut
    from pydicom.pixels.utils import pixel_array
    from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if "TransferSyntaxUID" not in dataset.file_meta:  # of a file without the part before the data
        implicit = dataset.original_encoding[0]
        dataset.file_meta.TransferSyntaxUID = (
            ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
        )
    syntax = dataset.file_meta.TransferSyntaxUID
    top = dataset.get("HighBit")
    if top is not None and dataset.get("BitsStored", 16) <= top < dataset.get("BitsAllocated", 16):
        dataset.BitsStored = top + 1  # else pydicom drops the highest bits of old files
    try:
        pixels = pixel_array(dataset, index=0)
    except RuntimeError as error:
        if not syntax.is_compressed:
            raise
        raise InputError(
            f"is compressed ({syntax.name}), and pydicom cannot unpack it: pip install pylibjpeg "
            f"pylibjpeg-libjpeg pylibjpeg-openjpeg ({' '.join(str(error).split())[:100]})"
        ) from None
    if dataset.get("PhotometricInterpretation") == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, dataset)
        pixels = (pixels >> 8).astype(np.uint8) if pixels.dtype == np.uint16 else pixels
    return pixels


def _notes(dataset: Any) -> list[str]:
    """What the header tells of a picture that the network was not trained on."""
    notes = []
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames > 1:
        notes.append(f"has {frames} frames: only the first is read")
    modality = str(dataset.get("Modality") or "").upper()
    if modality not in RADIOGRAPHS:
        notes.append(f"is of modality {modality}, not a radiograph")
    part = str(dataset.get("BodyPartExamined") or "").upper()
    if part not in ("", "UNKNOWN") and not any(word in part for word in CHEST_WORDS):
        notes.append(f"is of body part {part}, not the chest")
    view = str(dataset.get("ViewPosition") or "").upper()
    if view in ("LL", "RL") or "LAT" in view:
        notes.append(f"is a lateral view ({view}); the training's are frontal (PA, AP)")
    return notes
