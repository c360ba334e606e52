"""npz files of other shapes and types: read as the plain file, or refused with what mends them."""

from __future__ import annotations

import re

import numpy as np
import pytest

from chestlab.data import cache
from chestlab.data.npz import filter_npz
from chestlab.data.sources import load
from chestlab.data.splits import CLASS_NAMES, SPLITS
from chestlab.files.errors import InputError

ORDER = CLASS_NAMES  # 0 is cardiomegaly, 1 pneumothorax
EYE = np.eye(14, dtype=np.uint8)


@pytest.fixture(autouse=True)
def user_cache(tmp_path, monkeypatch):
    for variable in ("HOME", "USERPROFILE", "LOCALAPPDATA", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "home"))


def plain_arrays(side: int = 16, other_findings: bool = False) -> dict[str, np.ndarray]:
    """A plain file: each split of another length, images dark and bright, names that tell patients.

    Pixels are correlated with their neighbours and use the whole range, as those of X-rays.
    """
    rng = np.random.default_rng(0)
    arrays = {}
    for number, (split, n) in enumerate(zip(SPLITS, (40, 18, 22), strict=True)):
        images = rng.integers(0, 256, (n, side, side), np.uint8)
        images[:, 0, 0], images[:, 0, 1] = 0, 255
        columns = [1, 7, 7, 3, 1] if other_findings else [1, 7, 7]
        arrays[f"{split}_images"] = images
        arrays[f"{split}_labels"] = EYE[np.resize(columns, n)]
        names = [f"{100 * number + k // 2:08d}_{k % 2:03d}.png" for k in range(n)]
        arrays[f"{split}_names"] = np.array(names)
    return arrays


def saved(path, arrays, **changes):
    """``path`` with arrays whose ``images`` or ``labels`` are changed in every split.

    A change with a split before it, as ``val_images``, is of that split alone.
    """
    new = {}
    for name, array in arrays.items():
        key = name.split("_")[1]
        change = changes.get(name, changes.get(key))
        new[name] = array if change is None else change(array)
    np.savez(path, **new)
    return path


def assert_same_images(data, plain) -> None:
    for split in SPLITS:
        for key in ("images", "labels", "index", "names", "patients"):
            found, expected = (getattr(getattr(d, split), key) for d in (data, plain))
            assert found.dtype == expected.dtype, (split, key)
            np.testing.assert_array_equal(found, expected, f"{split} {key}")


def depth(bits):
    """A change to unsigned 16-bit values of which ``bits`` are used."""
    return lambda v: (v.astype(np.uint32) * (2**bits - 1) // 255).astype(np.uint16)


def burnt(v):
    """12-bit values with a label as the only white pixels of 16 bits, in every image."""
    values = depth(12)(v)
    values[:, 1, 1:3] = 65535
    return values


# Changes of the images, and a part of the note.
IMAGES = {
    "channel last": (lambda v: v[..., None], "images: 1 channel to grey"),
    "channel first": (lambda v: v[:, None], "images: 1 channel to grey"),
    "equal colours": (lambda v: v[..., None].repeat(3, -1), "images: 3 equal channels to grey"),
    "equal colours first": (lambda v: v[:, None].repeat(3, 1), "images: 3 equal channels"),
    "float32 0..1": (lambda v: (v / 255).astype(np.float32), "float32 values in 0..1, exactly"),
    "float64 0..1": (lambda v: v / 255, "float64 values in 0..1, exactly"),
    "float16 0..1": (lambda v: (v / 255).astype(np.float16), "float16 values in 0..1, exactly"),
    "float32 0..255": (lambda v: v.astype(np.float32), "float32 values in 0..255, exactly"),
    "float16 0..255": (lambda v: v.astype(np.float16), "float16 values in 0..255, exactly"),
    "between grey values": (lambda v: v + 0.25 * (v < 200), "values in 0..255, rounded to 8 bits"),
    "hair above 1": (lambda v: v / 255 * 1.0005, "values in 0..1, rounded"),
    "big-endian floats": (lambda v: (v / 255).astype(">f4"), "values in 0..1, exactly"),
    "int64": (lambda v: v.astype(np.int64), "int64 values in 0..255"),
    "int16": (lambda v: v.astype(np.int16), "int16 values in 0..255"),
    "8 bits in 16": (lambda v: v.astype(np.uint16), "uint16 values in 0..255"),
    "10 bits": (depth(10), r"uint16 values in 0..1023 \(10-bit values\) to 8 bits"),
    "12 bits": (depth(12), r"values in 0..4095 \(12-bit values\)"),
    "14 bits": (depth(14), r"values in 0..16383 \(14-bit values\)"),
    "15 bits": (depth(15), r"values in 0..32767 \(15-bit values\)"),
    "16 bits": (depth(16), r"values in 0..65535 to 8 bits"),
    "12 bits, big-endian": (lambda v: depth(12)(v).astype(">u2"), "values in 0..4095"),
    "12 bits in int32": (lambda v: depth(12)(v).astype(np.int32), "int32 values in 0..4095"),
    "Fortran order": (lambda v: np.asfortranarray(v / 255), "float64 values in 0..1"),
    "Fortran order of bytes": (np.asfortranarray, None),
    "colours of floats": (lambda v: (v / 255)[:, None].repeat(3, 1), "3 equal channels to grey"),
}

# Changes of the labels, the flag's value, and a part of the note.
LABELS = {
    "bool": (lambda v: v == 1, None, "labels: bool to 0 and 1"),
    "int8": (lambda v: v.astype(np.int8), None, "labels: int8 to 0 and 1"),
    "int64": (lambda v: v.astype(np.int64), None, "labels: int64 to 0 and 1"),
    "big-endian": (lambda v: v.astype(">i8"), None, "labels: >i8 to 0 and 1"),
    "float64": (lambda v: v.astype(np.float64), None, "labels: float64 to 0 and 1"),
    "Fortran order": (lambda v: np.asfortranarray(v.astype(float)), None, "float64 to 0 and 1"),
    "one column": (lambda v: v[:, 7:8], ORDER, r"\(N, 1\) whose 0 and 1 are cardiomegaly and pn"),
    "vector": (lambda v: v[:, 7], ORDER, r"\(N,\) whose 0 and 1 are cardiomegaly and pneumo"),
    "vector of floats": (lambda v: v[:, 7] * 1.0, ORDER, r"float64 to 0 and 1, \(N,\) whose"),
    "vector of bools": (lambda v: v[:, 7] == 1, ORDER, r"bool to 0 and 1, \(N,\) whose"),
    "other order": (lambda v: v[:, 1], ORDER[::-1], "0 and 1 are pneumothorax and cardiomegaly"),
    "two columns": (lambda v: v[:, [1, 7]], ORDER, r"\(N, 2\) whose columns 0 and 1 are cardio"),
    "two other columns": (lambda v: v[:, [7, 1]] == 1, ORDER[::-1], "columns 0 and 1 are pneumo"),
}


@pytest.mark.parametrize("case", IMAGES)
def test_images_of_another_form_are_those_of_the_plain_file(tmp_path, capsys, monkeypatch, case):
    """From the file and then from the cache, with one note each time and no warning."""
    change, note = IMAGES[case]
    arrays = plain_arrays(other_findings=True)
    plain = filter_npz(saved(tmp_path / "plain.npz", arrays))
    path = saved(tmp_path / "other.npz", arrays, images=change)
    first = load(str(path))
    assert_same_images(first, plain)
    printed = capsys.readouterr().err
    assert printed == "".join(f"NOTE: 'other.npz': {text}\n" for text in first.notes)
    assert len(first.notes) == (0 if note is None else 1) and first.warnings == ()
    assert re.search(note or "^$", "".join(first.notes)), first.notes
    monkeypatch.setattr(cache, "filter_npz", None)
    second = load(str(path))
    assert_same_images(second, plain)
    assert capsys.readouterr().err == printed and second.sha256 == first.sha256


@pytest.mark.parametrize("case", LABELS)
def test_labels_of_another_form_are_those_of_the_plain_file(tmp_path, capsys, monkeypatch, case):
    change, classes, note = LABELS[case]
    arrays = plain_arrays(other_findings=classes is None)
    plain = filter_npz(saved(tmp_path / "plain.npz", arrays))
    path = saved(tmp_path / "other.npz", arrays, labels=change)
    first = load(str(path), classes=classes)
    assert_same_images(first, plain)
    assert first.counts() == plain.counts() and first.classes == classes
    (text,) = first.notes
    assert re.search(note, text), text
    assert capsys.readouterr().err == f"NOTE: 'other.npz': {text}\n"
    monkeypatch.setattr(cache, "filter_npz", None)
    again = load(str(path), classes=classes)
    assert_same_images(again, plain)
    assert again.classes == classes


@pytest.mark.parametrize("images", ["channel last", "float32 0..1", "12 bits"])
@pytest.mark.parametrize("labels", ["bool", "float64"])
def test_all_findings_of_another_form(tmp_path, images, labels):
    arrays = plain_arrays(other_findings=True)
    plain = filter_npz(saved(tmp_path / "plain.npz", arrays), findings=True)
    changes = {"images": IMAGES[images][0], "labels": LABELS[labels][0]}
    data = load(str(saved(tmp_path / "other.npz", arrays, **changes)), findings=True)
    assert_same_images(data, plain)
    assert len(data.notes) == 1


def test_the_order_of_the_classes_decides_also_against_a_cache(tmp_path):
    path = saved(tmp_path / "other.npz", plain_arrays(), labels=lambda v: v[:, 7])
    first, second = (load(str(path), classes=order) for order in (ORDER, ORDER[::-1]))
    assert np.array_equal(first.train.labels, 1 - second.train.labels)
    assert np.array_equal(load(str(path), classes=ORDER).train.labels, first.train.labels)
    with pytest.raises(InputError, match=r"\(40,\), one label per image: --classes"):
        load(str(path))
    for classes in (None, ORDER):
        with pytest.raises(InputError, match="no 14 label columns, which the findings need"):
            load(str(path), findings=True, classes=classes)


@pytest.mark.parametrize("order", [("cardiomegaly",), ("cardiomegaly", "mass"), (ORDER[0],) * 2])
def test_other_classes_are_refused(tmp_path, order):
    path = saved(tmp_path / "other.npz", plain_arrays(), labels=lambda v: v[:, 7])
    with pytest.raises(InputError, match="allowed are cardiomegaly,pneumothorax and pneumothorax,"):
        load(str(path), classes=order)


def test_classes_are_not_needed_where_columns_tell_them(tmp_path):
    arrays = plain_arrays()
    path = saved(tmp_path / "plain.npz", arrays)
    data = load(str(path), classes=ORDER[::-1])
    assert_same_images(data, filter_npz(path))
    assert data.classes is None and "--classes is not needed" in data.notes[0]
    with pytest.raises(InputError, match="--classes is for --data FILE"):
        load("phantom", classes=ORDER)


def test_one_label_per_image_is_no_file_of_14_findings(tmp_path):
    path = saved(tmp_path / "other.npz", plain_arrays(), labels=lambda v: v[:, 7])
    with pytest.raises(InputError, match="no 14 label columns, which the findings need"):
        load(str(path), findings=True, classes=ORDER)
    assert len(load(str(path), related=True, classes=ORDER).related) == 0


def test_splits_of_different_forms_are_told_apart(tmp_path):
    changes = {"val_images": lambda v: v[..., None], "test_labels": lambda v: v == 1}
    path = saved(tmp_path / "other.npz", plain_arrays(), **changes)
    data = load(str(path))
    assert data.notes == (
        "converted images: 1 channel to grey (val); labels: bool to 0 and 1 (test)",
    )
    assert_same_images(data, filter_npz(saved(tmp_path / "plain.npz", plain_arrays())))


def test_a_label_burnt_in_does_not_make_images_dark_and_is_warned_of(tmp_path):
    arrays = plain_arrays()
    expected = {k: v.copy() for k, v in arrays.items()}
    for split in SPLITS:
        expected[f"{split}_images"][:, 1, 1:3] = 255
    data = load(str(saved(tmp_path / "other.npz", arrays, images=burnt)))
    assert_same_images(data, filter_npz(saved(tmp_path / "plain.npz", expected)))
    assert (
        "values lie in 0..65535: of these 0 was taken for black and 4095 for white"
        in (data.warnings[0])
    )


def test_values_with_an_offset_begin_at_black_and_are_warned_of(tmp_path):
    change = lambda v: (32768 + depth(12)(v)).astype(np.uint16)  # noqa: E731
    data = load(str(saved(tmp_path / "other.npz", plain_arrays(), images=change)))
    assert_same_images(data, filter_npz(saved(tmp_path / "plain.npz", plain_arrays())))
    assert "32768 was taken for black and 36863 for white" in data.warnings[0]


def test_single_images_of_another_scale_are_warned_of(tmp_path):
    def change(v):
        values = v.astype(float)
        values[5] /= 255
        return values

    data = load(str(saved(tmp_path / "other.npz", plain_arrays(), train_images=change)))
    assert data.warnings[0].startswith("1 images of train_images have no value above 1, the first")
    assert "in row 5" in data.warnings[0]


def test_dark_images_are_warned_of(tmp_path):
    kinds = (lambda v: v.astype(int) // 8, lambda v: v // 8, lambda v: v / 255 / 8)
    for images, brightest in zip(kinds, (31, 31, 32), strict=True):
        path = saved(tmp_path / "dark.npz", plain_arrays(), images=images)
        expected = f"the brightest pixel of train_images has {brightest} of 255"
        assert load(str(path)).warnings[0] == expected
    path = saved(tmp_path / "black.npz", plain_arrays(), images=lambda v: (v > 9).astype("u1"))
    assert len(load(str(path)).warnings) == 3
    assert load(str(path)).warnings[0].startswith("train_images holds nothing but 0 and 1 of 255")


def first(value, row=4):
    """A change of floats that puts one value into one image or label row."""

    def change(v):
        v = v.astype(np.float64)
        v[(row, *[0] * (v.ndim - 1))] = value
        return v

    return change


def unit(v):
    return v / 255


# Changes, what the message says, whether the mended file holds the plain one's images.
REFUSED = {
    "NaN in a pixel": (
        {"train_images": lambda v: first(np.nan)(unit(v))},
        r"train_images is float64 \(40, 16, 16\) and holds nan in image 4; allowed are values in 0",
        True,
    ),
    "infinity": (
        {"val_images": lambda v: first(np.inf, 2)(v)},
        r"val_images is float64 \(18, 16, 16\) and holds inf in image 2",
        True,
    ),
    "-1..1": ({"images": lambda v: v / 127.5 - 1}, r"train_images .* holds -1 in image 0", True),
    "standardised": (
        {"images": lambda v: (v - 127.0) / 64},
        r"float64 .* holds -1.98438 in image 0; .* if -1.98438 is black and 2 white",
        True,
    ),
    "Hounsfield": ({"images": lambda v: v.astype(np.int16) * 8 - 1000}, "holds -1000 in", True),
    "0..65535 in floats": (
        {"images": lambda v: v * 257.0},
        "holds 65535 in image 0; allowed are values in 0..1 or in 0..255; .* if 65535 is white",
        True,
    ),
    "a float above 255": ({"images": first(258, 9)}, "holds 258 in image 9; .*255 is white", None),
    "1.02": ({"images": lambda v: v / 255 * 1.02}, "holds 1.02 in image 0; up to 1.02", None),
    "0..15": ({"images": lambda v: v / 17}, "up to 15, which is neither the white of 0..1", True),
    "two scales": (
        {"images": lambda v: v * 1.0, "val_images": unit},
        "val_images lies in 0..1 and train_images in 0..255: they have different scales",
        True,
    ),
    "black and white": (
        {"images": lambda v: (v > 99) * 1.0},
        "train_images is float64 .* holds only 0 and 1",
        None,
    ),
    "bool images": (
        {"images": lambda v: v > 99},
        r"train_images is bool \(40, 16, 16\); wanted are grey values",
        None,
    ),
    "negative integers": ({"images": lambda v: v.astype(int) - 1}, "holds -1 in image 0", None),
    "int8 that overflowed": ({"images": lambda v: v.view(np.int8)}, "int8 .* holds -", None),
    "large integers": ({"images": lambda v: v.astype(int) * 1000}, "holds 255000 in image 0", True),
    "complex": ({"images": lambda v: v * 1j + v}, r"train_images is complex128", True),
    "texts": ({"images": lambda v: v.astype(str)}, "train_images is <U3", True),
    "colours": (
        {"val_images": lambda v: v[..., None] // np.array([1, 2, 1], np.uint8)},
        r"val_images is uint8 \(18, 16, 16, 3\) and holds the colour 255 127 255 in image 0",
        None,
    ),
    "colours first": (
        {"images": lambda v: v[:, None] / np.array([1, 2, 1])[:, None, None]},
        "holds the colour 255 127.5 255 in image 0",
        None,
    ),
    "alpha": (
        {"images": lambda v: np.concatenate([v[..., None].repeat(3, -1), 0 * v[..., None]], -1)},
        r"train_images is uint8 \(40, 16, 16, 4\); wanted is uint8 \(40, S, S\)",
        True,
    ),
    "grey and alpha first": ({"images": lambda v: v[:, None].repeat(2, 1)}, r"\(40, 2, 16", True),
    "last axis": (
        {"images": lambda v: np.moveaxis(v, 0, -1)},
        r"train_images is uint8 \(16, 16, 40\); wanted .* if the last axis counts the images",
        True,
    ),
    "flat images": ({"images": lambda v: v.reshape(len(v), -1)}, r"uint8 \(40, 256\)", True),
    "oblong images": (
        {"images": lambda v: np.pad(v, ((0, 0), (0, 0), (3, 3)))},
        r"train_images is uint8 \(40, 16, 22\); .* if the middle is enough",
        True,
    ),
    "small images": ({"images": lambda v: v[:, :8, :8]}, "8 px wide; allowed are 16 to 1024", None),
    "large images": (
        {"images": lambda v: v.repeat(80, 1).repeat(80, 2)},
        "1280 px wide; allowed are 16 to 1024",
        None,
    ),
    "fewer images": ({"test_images": lambda v: v[:20]}, r"\(20, .* as there are 22 labels", None),
    "more images": ({"test_images": lambda v: np.append(v, v, 0)}, r"test_images .*\(44, ", True),
    "objects": (
        {"images": lambda v: v.astype(object)},
        r"'train_images' holds Python objects; they are not read, for safety; a line .* if you tru",
        True,
    ),
    "uncertain labels": (
        {"labels": lambda v: np.where(v.T == 1, 1, -np.eye(14)[2][:, None]).T.astype(np.int64)},
        r"train_labels is int64 \(40, 14\) and holds -1 in row 0, column 2 \(effusion\); allowed",
        True,
    ),
    "half a label": (
        {"val_labels": lambda v: np.where(v == 0, 0.25, v)},
        r"val_labels is float64 \(18, 14\) and holds 0.25 in row 0, column 0 \(atelectasis\)",
        True,
    ),
    "label 2": ({"labels": lambda v: v * 2}, r"holds 2 in row 0, column 1 \(cardiomegaly\)", True),
    "NaN labels": (
        {"train_labels": lambda v: np.where(v == 0, np.nan, v)},
        r"holds nan in row 0, column 0 .* if a missing label means no finding",
        True,
    ),
    "rows are findings": (
        {"labels": lambda v: v.T},
        r"train_labels is uint8 \(14, 40\); wanted is 0 and 1 in \(N, 14\), a column per finding",
        True,
    ),
    "15 columns": ({"labels": lambda v: np.pad(v, ((0, 0), (0, 1)))}, r"uint8 \(40, 15\)", True),
    "13 columns": ({"labels": lambda v: v[:, :13]}, r"\(40, 13\); .* from hernia on", True),
    "a third axis": ({"labels": lambda v: v[:, None]}, r"uint8 \(40, 1, 14\)", True),
    "texts for labels": ({"labels": lambda v: v.astype(str)}, "train_labels is <U3", True),
    "class names": (
        {"labels": lambda v: np.array(ORDER)[v[:, 7]]},
        r"train_labels is <U12 \(40,\); wanted .* if all others are cardiomegaly",
        True,
    ),
    "names as bytes": (
        {"labels": lambda v: np.array(ORDER)[v[:, 7]].astype("S")},
        r"train_labels is \|S12 \(40,\)",
        True,
    ),
    "objects for labels": ({"labels": lambda v: v.astype(object)}, "'train_labels' holds", True),
    "vector": (
        {"labels": lambda v: v[:, 7]},
        r"train_labels is uint8 \(40,\), one label per image: --classes cardiomegaly,pneumothorax "
        "reads it where 0 is cardiomegaly, and --classes pneumothorax,cardiomegaly where it is pn.*"
        "; a line of numpy that mends it for commands without that flag, if 1 is pneumothorax: np",
        True,
    ),
    "one column": ({"labels": lambda v: v[:, 7:8] * 1.0}, r"float64 \(40, 1\), one label", True),
    "two columns": ({"labels": lambda v: v[:, [1, 7]]}, r"\(40, 2\), one column per class", True),
    "numbers for names": (
        {"names": lambda v: np.arange(len(v))},
        r"train_names is int64 \(40,\); wanted is text",
        None,
    ),
    "bytes for names": ({"names": lambda v: v.astype("S")}, r"train_names is \|S16", True),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_the_line_of_a_refusal_mends_the_file(tmp_path, case):
    """Each message is one line that names the array; its numpy, run as it is, makes a good file."""
    changes, message, is_plain = REFUSED[case]
    two_classes = case in ("class names", "names as bytes", "vector", "one column", "two columns")
    arrays = plain_arrays(other_findings=not two_classes)
    path = saved(tmp_path / "bad.npz", arrays, **changes)
    with pytest.raises(InputError, match=message) as refusal:
        load(str(path))
    text = str(refusal.value)
    assert text.isprintable() and len(text) < 800
    line = text[text.index("np.savez(") :]
    exec(line, {"np": np})
    mended = load(str(tmp_path / "bad_mended.npz"))
    if is_plain:
        assert_same_images(mended, filter_npz(saved(tmp_path / "plain.npz", arrays)))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (lambda v: v[:, 7] * 2, r"train_labels is uint8 \(40,\) and holds 2 in row 1; allowed are"),
        (lambda v: v[:, 7:8] - 0.5, r"float64 \(40, 1\) and holds -0.5 in row 0"),
        (lambda v: np.where(v[:, 7] == 1, 1, np.nan), "holds nan in row 0; .* label means 0"),
        (lambda v: v[:, [7, 7]], r"\(40, 2\) and holds 0 and 0 in row 0; allowed is one 1 in each"),
        (lambda v: np.where(v[:, 7] == 1, 7, 1), "holds 7 in row 1; .*number the 14 findings fr"),
    ],
)
def test_one_label_per_image_that_is_neither_0_nor_1(tmp_path, labels, message):
    arrays = plain_arrays()
    path = saved(tmp_path / "bad.npz", arrays, labels=labels)
    with pytest.raises(InputError, match=message):  # not: --classes reads it
        load(str(path))
    with pytest.raises(InputError, match=message) as refusal:
        load(str(path), classes=ORDER)
    text = str(refusal.value)
    exec(text[text.index("np.savez(") :], {"np": np})
    if "14 findings" in text and "holds 2" in text:
        return  # 0 and 2 number two other findings
    data = load(str(tmp_path / "bad_mended.npz"), classes=ORDER)
    assert_same_images(data, filter_npz(saved(tmp_path / "plain.npz", arrays)))


def test_a_file_with_capitals_is_a_file_like_another(tmp_path):
    arrays = plain_arrays()
    plain = filter_npz(saved(tmp_path / "plain.npz", arrays))
    (tmp_path / "plain.npz").rename(tmp_path / "PLAIN.NPZ")
    data = load(str(tmp_path / "PLAIN.NPZ"))
    assert_same_images(data, plain)
    assert data.source == "PLAIN.NPZ" and data.sha256 == plain.sha256
