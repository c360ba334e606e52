"""Images and labels in other forms than ChestMNIST's, where converting them loses nothing.

What is converted becomes a note, what may be wrong about it a warning; what would have to be
guessed is refused, with a line of numpy that decides it.

Images become (N, S, S) uint8, from (N, S, S, 1), (N, 1, S, S), three equal channels on either
side, and other numeric types (`value_ranges`). Labels become flags (N, 14) uint8, from any numeric
type that holds only 0 and 1; with the names of the two classes also from one label per image, (N,)
or (N, 1), and from one column per class, (N, 2).
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from chestlab.data.arrays import LARGEST, SMALLEST, ArrayError, NpzArray
from chestlab.data.grey_values import Window, to_grey
from chestlab.data.splits import CLASS_COLUMNS, CLASS_NAMES, FINDINGS, SPLITS
from chestlab.data.value_ranges import Values, find_windows
from chestlab.files.errors import InputError

_EYE = "np.eye(14, dtype='u1')"

_LUMA = "[0.299, 0.587, 0.114]"  # grey of red, green and blue; ITU-R BT.601, as in Pillow


@dataclass(frozen=True)
class ImageForm:
    """How the images of one split are stored.

    Attributes:
        side: S in pixels.
        channels: axis of the channels, or None.
        window: values that become black and white; None where they are uint8.
        about: what differs from (N, S, S) uint8, or empty.
    """

    side: int
    channels: int | None = None
    window: Window | None = None
    about: str = ""

    def convert(self, block: np.ndarray) -> np.ndarray:
        """Images of the source to (n, S, S) uint8."""
        if self.channels is not None:
            block = block.take(0, self.channels)
        return block if self.window is None else to_grey(block, self.window)


@dataclass(frozen=True)
class Labels:
    """The labels of one split.

    Attributes:
        keep: (N,) bool, the images that are wanted.
        flags: (n, 14) uint8 of these, `FINDINGS`.
        named: the file has 14 columns; else the two classes were named from outside.
        about: what differs from (N, 14) uint8 in the file, or empty.
    """

    keep: np.ndarray
    flags: np.ndarray
    named: bool
    about: str


def read_labels(
    archive: zipfile.ZipFile,
    split: str,
    wanted: Callable[[np.ndarray], np.ndarray],
    classes: Sequence[str] | None = None,
) -> Labels:
    """Check the labels of all images of a split, and keep those of the images that are wanted.

    Args:
        archive: of `arrays.open_npz`.
        split: its name.
        wanted: of flags (N, 14) the mask (N,) of those to keep.
        classes: the classes that labels 0 and 1 (or the columns, where there are two) stand for.

    Raises:
        InputError: there are no labels, they have another shape, or one is neither 0 nor 1.
    """
    array = NpzArray(archive, f"{split}_labels")
    form = _label_form(array)
    if form != "columns" and classes is None:
        for start, block in array.blocks():
            _check_label_values(array, form, start, block)
        second = "v[:, 1]" if form == "two" else "v.ravel()"
        says = "one label per image" if form == "one" else "one column per class"
        positive = "1" if form == "one" else "the second"
        raise ArrayError(
            f"{array.about}, {says}: --classes {','.join(CLASS_NAMES)} reads it where "
            f"{'0 is' if form == 'one' else 'the first is'} {CLASS_NAMES[0]}, and --classes "
            f"{','.join(CLASS_NAMES[::-1])} where it is {CLASS_NAMES[1]}",
            array.alike(),
            f"{_EYE}[np.where({second} == 1, 7, 1)]",
            f"for commands without that flag, if {positive} is {CLASS_NAMES[1]}",
        )
    keep, flags = [], []
    for start, block in array.blocks():
        _check_label_values(array, form, start, block)
        rows = block.astype(np.uint8, copy=False)
        if classes is not None and form != "columns":
            second = rows[:, 1] if form == "two" else rows.reshape(len(rows))
            columns = np.array([CLASS_COLUMNS[CLASS_NAMES.index(name)] for name in classes])
            rows = np.eye(len(FINDINGS), dtype=np.uint8)[columns[second]]
        keep.append(wanted(rows))
        flags.append(rows[keep[-1]])
    about = [] if array.dtype == np.uint8 else [f"{array.dtype} to 0 and 1"]
    if classes is not None and form != "columns":
        numbers = "columns 0 and 1 are" if form == "two" else "0 and 1 are"
        shape = ", ".join(["N", *map(str, array.shape[1:])]) + ("" if array.shape[1:] else ",")
        about.append(f"({shape}) whose {numbers} {classes[0]} and {classes[1]}")
    named = form == "columns"
    return Labels(np.concatenate(keep), np.concatenate(flags), named, ", ".join(about))


def _label_form(array: NpzArray) -> str:
    """``columns`` (N, 14), ``one`` label per image, or ``two`` columns, by shape and type."""
    shape, wide = array.shape, array.shape[1] if len(array.shape) == 2 else 0
    wanted = f"0 and 1 in (N, {len(FINDINGS)}), a column per finding"
    if array.dtype.kind not in "biuf":
        mend, meaning = "v.astype(float)", "if the texts are numbers"
        if array.dtype.kind in "US" and (len(shape) == 1 or wide == 1):
            positive = CLASS_NAMES[1] if array.dtype.kind == "U" else CLASS_NAMES[1].encode()
            mend = f"{_EYE}[np.where(v.ravel() == {positive!r}, 7, 1)]"
            meaning = f"if all others are {CLASS_NAMES[0]}"
        raise ArrayError(f"{array.about}; wanted is {wanted}", array.alike(), mend, meaning)
    if wide == len(FINDINGS):
        return "columns"
    if len(shape) == 1 or wide == 1:
        return "one"
    if wide == 2:
        return "two"
    mend = meaning = ""
    where = array.alike()
    if len(shape) == 2 and shape[0] in (1, 2, len(FINDINGS)):
        mend, meaning = "v.T", "if the rows are the findings"
        where = array.alike(slice(0, 1))
    elif len(shape) == 3 and 1 in shape[1:]:
        mend, meaning = "v.squeeze()", ""
    elif wide > len(FINDINGS):
        mend = f"v[:, :{len(FINDINGS)}]"
        meaning = f"if the first are {FINDINGS[0]} to {FINDINGS[-1]} in MedMNIST's order"
    elif wide > 2:
        mend = f"np.pad(v, ((0, 0), (0, {len(FINDINGS) - wide})))"
        meaning = f"if the last, from {FINDINGS[wide]} on, are those that lack"
    raise ArrayError(f"{array.about}; wanted is {wanted}", where, mend, meaning)


def _check_label_values(array: NpzArray, form: str, start: int, block: np.ndarray) -> None:
    """Refuse a label that is neither 0 nor 1, and rows of two columns that do not sum to 1."""
    rows = block.reshape(len(block), -1)
    wrong = ~((rows == 0) | (rows == 1))
    if wrong.any():
        row, column = np.unravel_index(int(wrong.argmax()), wrong.shape)
        value = rows[row, column].item()
        where = f"row {start + row}"
        if form == "columns":
            where += f", column {column} ({FINDINGS[column]})"
        text = f"{array.about} and holds {value:g} in {where}; allowed are 0 and 1"
        raise ArrayError(text, array.alike(), *_mending_of_labels(form, value))
    if form == "two" and ((rows == 1).sum(1) != 1).any():
        row = int(((rows == 1).sum(1) != 1).argmax())
        both = " and ".join(f"{value:g}" for value in rows[row].tolist())
        text = f"{array.about} and holds {both} in row {start + row}; allowed is one 1 in each row"
        raise ArrayError(text, array.alike(), "v[:, 1:]", "if the second column decides")


def _mending_of_labels(form: str, value: float) -> tuple[str, str]:
    """A numpy expression that makes labels of ``v``, and what it takes for granted."""
    missing, yes = value != value, "(v >= 0.5).astype('u1')"
    if form == "one" and not missing and value in range(2, len(FINDINGS)):
        return f"{_EYE}[v.ravel().astype(int)]", "if the labels number the 14 findings from 0"
    if missing:
        return yes, f"if a missing label means {'0' if form == 'one' else 'no finding'}"
    return yes, "if what is below 0.5 means 0, and the rest 1"


def find_forms(
    archive: zipfile.ZipFile, n: Mapping[str, int]
) -> tuple[dict[str, ImageForm], list[str]]:
    """How the images of each split are stored, and warnings of what may be wrong about them.

    Images that are not uint8 or have three channels are read once for it, block by block.

    Args:
        archive: of `arrays.open_npz`.
        n: the number of labels of each split.

    Raises:
        InputError: images of another shape or type, of colour, of several sizes, or of a scale that
            is not clear.
    """
    channels, values = {}, []
    for split in SPLITS:
        array = NpzArray(archive, f"{split}_images")
        channels[split] = _channel_axis(array, n[split])
    for split in SPLITS:
        array = NpzArray(archive, f"{split}_images")
        axis = channels[split]
        coloured = axis is not None and array.shape[axis] == 3
        if array.dtype == np.uint8 and not coloured:
            continue
        gathered = Values(array.name, array.dtype, array.about, array.alike())
        for start, block in array.blocks():
            if coloured and axis is not None:
                _check_channels(array, start, block, axis)
            if array.dtype != np.uint8:
                gathered.add(start, block if axis is None else block.take(0, axis))
        if array.dtype != np.uint8:
            values.append(gathered)
    windows, warnings = find_windows(values)
    forms = {}
    for split, axis in channels.items():
        array = NpzArray(archive, f"{split}_images")
        window, about = windows.get(array.name), []
        if window is not None:
            about.append(f"{array.dtype} {window.reason}")
        if axis is not None:
            number = array.shape[axis]
            about.append(f"{number} {'equal channels' if number == 3 else 'channel'} to grey")
        side = array.shape[2 if axis == 1 else 1]
        forms[split] = ImageForm(side, axis, window, ", ".join(about))
    sizes = {split: form.side for split, form in forms.items()}
    if len(set(sizes.values())) > 1:
        raise InputError(f"the splits differ in image size: {sizes}")
    return forms, warnings


def _channel_axis(array: NpzArray, n: int) -> int | None:
    """The axis of the channels, or None, by the array's shape."""
    shape = array.shape
    wanted = f"({n}, S, S), as there are {n} labels"
    good, axis = False, None
    if len(shape) in (3, 4) and shape[0] == n:
        if len(shape) == 4:
            axis = 3 if shape[3] in (1, 3) else 1
        sides = [size for k, size in enumerate(shape) if k not in (0, axis)]
        good = sides[0] == sides[1] and (axis is None or shape[axis] in (1, 3))
    if not good:
        raise ArrayError(f"{array.about}; wanted is uint8 {wanted}", *_mending_of_shape(array, n))
    side = shape[2 if axis == 1 else 1]
    if not SMALLEST <= side <= LARGEST:
        text = f"{array.name} is {side} px wide; allowed are {SMALLEST} to {LARGEST}"
        larger, smaller = -(-SMALLEST // max(side, 1)), -(-side // LARGEST)
        mend = f"v.repeat({larger}, 1).repeat({larger}, 2)"
        if side > LARGEST:
            mend = f"v[:, ::{smaller}, ::{smaller}]"
        raise ArrayError(text, array.alike(), mend if axis is None and side else "")
    if array.dtype.kind not in "uif":
        mend = {"b": "v * np.uint8(255)", "c": "v.real"}.get(array.dtype.kind, "v.astype(float)")
        meaning = {"b": "if True is white", "c": "if the real part is meant"}
        text = f"{array.about}; wanted are grey values, uint8 {wanted}"
        meant = meaning.get(array.dtype.kind, "if the texts are numbers")
        raise ArrayError(text, array.alike(), mend, meant)
    return axis


def _mending_of_shape(array: NpzArray, n: int) -> tuple[str, str, str]:
    """Which arrays, a numpy expression and its assumption for images of another shape."""
    shape, where = array.shape, array.alike()
    if len(shape) in (3, 4) and shape[-1] == n and shape[0] == shape[1] != n:
        where = array.alike(slice(0, 2))
        return where, "np.moveaxis(v, -1, 0)", "if the last axis counts the images"
    if len(shape) == 2 and shape[0] == n and round(shape[1] ** 0.5) ** 2 == shape[1]:
        side = round(shape[1] ** 0.5)
        return where, f"v.reshape(-1, {side}, {side})", ""
    if len(shape) in (3, 4) and shape[0] != n and n:
        split, count = array.name.split("_")[0], min(n, shape[0])
        longer = f"k.startswith('{split}_') and v.shape[:1] > ({count},)"
        return longer, f"v[:{count}]", "if the first ones belong together"
    if len(shape) == 4 and shape[3] in (2, 4):
        return where, "v[..., 0]", "if the first channel is grey"
    if len(shape) == 4 and shape[1] in (2, 4):
        return where, "v[:, 0]", "if the first channel is grey"
    if len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3)):
        side = min(shape[1:3])
        rows, columns = ((size - side) // 2 for size in shape[1:3])
        cut = f"v[:, {rows}:{rows + side}, {columns}:{columns + side}]"
        return where, cut, "if the middle is enough"
    return where, "", ""


def _check_channels(array: NpzArray, start: int, block: np.ndarray, axis: int) -> None:
    """Refuse images whose three channels differ."""
    first, second, third = (block.take(k, axis) for k in range(3))
    same = np.ones(first.shape, bool)
    for other in (second, third):
        same &= (first == other) | ((first != first) & (other != other))  # NaN is told later
    if not same.all():
        place = np.unravel_index(int((~same).argmax()), same.shape)
        pixel = " ".join(f"{c[place].item():g}" for c in (first, second, third))
        text = f"{array.about} and holds the colour {pixel} in image {start + place[0]}"
        colours = "v" if axis == 3 else "np.moveaxis(v, 1, -1)"
        raise ArrayError(
            f"{text}; allowed are grey images",
            array.alike(),
            f"{colours} @ {_LUMA}",
            "by brightness",
        )


def describe(parts: Mapping[str, str]) -> str:
    """What differs in each split, by its name, with the splits that have it in common."""
    texts = []
    for about in dict.fromkeys(text for text in parts.values() if text):
        splits = [split for split, text in parts.items() if text == about]
        alike = len(splits) == len(parts)
        texts.append(about if alike else f"{about} ({' and '.join(splits)})")
    return "; ".join(texts)
