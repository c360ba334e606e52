"""Whose images are whose: where patients come from, and what two splits must not share."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from chestlab.data import cache, provenance
from chestlab.data.folds import join, make_folds
from chestlab.data.leaks import split_warnings
from chestlab.data.npz import filter_npz
from chestlab.data.sources import load
from chestlab.data.splits import SPLITS, Split, image_keys, nih_patients
from chestlab.evaluation.metrics import effective_patients, evaluate, evaluate_findings
from chestlab.files.errors import InputError


@pytest.fixture(autouse=True)
def user_cache(tmp_path, monkeypatch):
    for variable in ("HOME", "USERPROFILE", "LOCALAPPDATA", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "home"))


def arrays_of(n: int = 40, **more: np.ndarray) -> dict[str, np.ndarray]:
    """A file's arrays: every fourth image has another finding, the others one of the two."""
    rng = np.random.default_rng(0)
    arrays = {}
    for split in SPLITS:
        arrays[f"{split}_images"] = rng.integers(0, 256, (n, 16, 16), np.uint8)
        arrays[f"{split}_labels"] = np.eye(14, dtype=np.uint8)[np.resize([1, 7, 7, 3], n)]
    return {**arrays, **more}


def named(form: str, n: int = 40) -> dict[str, np.ndarray]:
    """Names (N,) of each split from a form of ``patient``, two images each, and ``image``."""
    return {
        f"{split}_names": np.array(
            [form.format(patient=100 * number + i // 2, image=i % 2) for i in range(n)]
        )
        for number, split in enumerate(SPLITS, 1)
    }


NIH = named("{patient:08d}_{image:03d}.png")


def patients_in(n: int = 40) -> dict[str, np.ndarray]:
    """Patients (N,) of each split, four images each."""
    return {f"{split}_patients": np.arange(n) // 4 + 50 * k for k, split in enumerate(SPLITS)}


def stored(tmp_path, *parts, **more):
    """The path of a file with two-class images and what is asked for besides."""
    path = tmp_path / "source.npz"
    arrays = arrays_of(**more)
    for part in parts:
        arrays |= part
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize(
    "form",
    [
        "{patient:08d}_{image:03d}.png",
        "images_001/images/{patient:08d}_{image:03d}.png",
        r"D:\x-rays\{patient:08d}_{image:03d}.PNG",
        "folder.png/{patient:08d}_{image:03d}.Png",
    ],
)
@pytest.mark.parametrize("findings", [False, True])
def test_names_like_nihs_tell_the_patients_wherever_the_files_lay(tmp_path, form, findings):
    data = filter_npz(stored(tmp_path, named(form)), findings=findings)
    for number, split in enumerate(SPLITS, 1):
        part = getattr(data, split)
        assert part.patients.tolist() == [f"{100 * number + i // 2:08d}" for i in part.index]
    assert data.warnings == ()


OTHER_NAMES = [
    "chestxray_{patient:08d}_{image:03d}.png",  # eight equal first characters
    "patient_{patient}_{image}.png",
    "{patient:08d}_{image}.png",
    "{patient:08d}_{image:03d}.png.txt",
    "{patient:08d}_{image:03d}.png\n",
    "{patient:08d}/{image:03d}.png",
    "{patient:09d}_{image:03d}.png",
    "00000013_005.png/{patient}.png",
]


@pytest.mark.parametrize("form", OTHER_NAMES)
@pytest.mark.parametrize("findings", [False, True])
def test_other_names_leave_patients_unknown_and_images_are_resampled(
    tmp_path, capsys, form, findings
):
    data = load(str(stored(tmp_path, named(form))), findings=findings)
    assert data.train.names is not None
    assert all(getattr(data, split).patients is None for split in SPLITS)
    printed = capsys.readouterr().err
    (warning,) = data.warnings
    assert f"WARNING: 'source.npz': {warning}" in printed and printed.count("\n") == 1
    assert "patients are unknown: train_names[0] is" in warning and "resample images" in warning


def test_intervals_have_a_width_whatever_the_names(tmp_path):
    """Eight equal first characters made one patient of all images, and intervals of no width."""
    val = filter_npz(stored(tmp_path, named("chestxray_{patient}_{image}.png"))).val
    scores = np.random.default_rng(0).normal(size=len(val)) + val.labels
    low, high = evaluate(val.labels, scores, 0.5, val.patients)["accuracy_ci95"]
    assert high - low > 0.1


@pytest.mark.parametrize(("split", "row"), [("train", 0), ("val", 3), ("test", 39)])
def test_one_name_of_another_kind_anywhere_leaves_all_patients_unknown(tmp_path, split, row):
    """Also that of an image of another finding (rows 3 and 39), which is not loaded."""
    names = NIH[f"{split}_names"].copy()
    names[row] = "scan.png"
    data = filter_npz(stored(tmp_path, NIH, {f"{split}_names": names}))
    assert all(getattr(data, name).patients is None for name in SPLITS)
    assert f"{split}_names[{row}] is 'scan.png'" in data.warnings[0]


@pytest.mark.parametrize("kind", [str, np.int16, np.uint64])
@pytest.mark.parametrize("names", [{}, NIH, named("x{patient}-{image}")])
def test_an_array_of_patients_wins_over_names(tmp_path, names, kind):
    patients = {key: values.astype(kind) for key, values in patients_in().items()}
    path = stored(tmp_path, names, patients)
    data = load(str(path), related=True)
    for split in SPLITS:
        part = getattr(data, split)
        assert part.patients.tolist() == [str(p) for p in patients[f"{split}_patients"][part.index]]
    assert data.warnings == () and data.related.patients is not None
    for fold in make_folds(data, 3, "train+val"):
        assert not set(fold.train.patients) & set(fold.val.patients)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"val_patients": None}, "of patients there are only those of train, test"),
        ({"train_patients": np.full(40, 0.5)}, r"train_patients is float64 \(40,\); wanted is int"),
        ({"train_patients": np.arange(39)}, r"\(39,\); wanted .* \(40,\), as there are 40 labels"),
        (
            dict.fromkeys(patients_in(), np.array(["a", " "] * 20)),
            "train_patients has no patient for 10 of 30",
        ),
    ],
)
def test_patients_that_cannot_be_used_are_named(tmp_path, changed, message):
    arrays = {key: value for key, value in {**patients_in(), **changed}.items()}
    path = stored(tmp_path, {key: value for key, value in arrays.items() if value is not None})
    with pytest.raises(InputError, match=message):
        filter_npz(path)


@pytest.mark.parametrize("findings", [False, True])
def test_patients_of_different_types_are_refused_since_nobody_would_be_in_two_splits(
    tmp_path, findings
):
    patients = patients_in()
    same = [f"{patient:08d}" for patient in patients["train_patients"]]
    path = stored(tmp_path, patients, {"val_patients": np.array(same)})
    with pytest.raises(InputError) as refusal:
        filter_npz(path, findings=findings)
    message = str(refusal.value)
    assert "train_patients is int64 (40,) and val_patients is <U8 (40,)" in message
    assert message.isprintable() and len(message) < 800
    exec(message[message.index("np.savez(") :], {"np": np})
    data = filter_npz(tmp_path / "source_mended.npz", findings=findings)
    assert data.warnings[0].startswith("train and val share 10 patients")


def test_a_cache_brings_back_patients_and_warnings_and_warns_again(tmp_path, capsys, monkeypatch):
    shared = {"test_patients": patients_in()["train_patients"]}
    path = stored(tmp_path, NIH, patients_in(), shared)
    first, printed = load(str(path)), capsys.readouterr().err
    assert printed.startswith("WARNING: 'source.npz': train and test share")
    monkeypatch.setattr(cache, "filter_npz", None)
    second = load(str(path))
    assert capsys.readouterr().err == printed
    assert second.warnings == first.warnings
    for split in SPLITS:
        assert np.array_equal(getattr(first, split).patients, getattr(second, split).patients)


def test_a_cache_of_an_older_version_is_made_anew(tmp_path, capsys):
    """It held names alone, of which the first eight characters were the patient."""
    path = stored(tmp_path, named("chestxray_{patient}_{image}.png"))
    load(str(path))
    cached = path.with_name("source.two-class.npz")
    with np.load(cached) as file:
        arrays = dict(file)
    about = json.loads(arrays["about"].item())
    identity = json.loads(about["identity"])
    assert identity[0] > 1
    old = {**about, "identity": json.dumps([1, *identity[1:]])}
    del old["warnings"]
    np.savez(cached, **{**arrays, "about": np.array([json.dumps(old)])})
    capsys.readouterr()
    data = load(str(path))
    assert data.train.patients is None and "patients are unknown" in capsys.readouterr().err
    with np.load(cached) as file:
        assert json.loads(file["about"].item())["identity"] == about["identity"]


def split_of(images: list[int], patients: list[str] | None = None, names=None) -> Split:
    """A split with images of one grey each."""
    grey = np.array(images, np.uint8)[:, None, None] * np.ones((1, 16, 16), np.uint8)
    n = len(images)
    return Split(
        grey,
        np.arange(n, dtype=np.uint8) % 2,
        np.arange(n),
        None if names is None else np.array(names),
        patients=None if patients is None else np.array(patients),
    )


def test_what_two_splits_share_is_counted():
    train = split_of([1, 2, 3, 4, 4], ["a", "a", "b", "c", "d"], ["1", "2", "3", "4", "5"])
    val = split_of([11, 12, 13], ["e", "f", "g"], ["11", "3", "13"])
    test = split_of([21, 4, 23], ["a", "b", "h"], ["21", "22", "23"])
    assert split_warnings({"train": train, "val": val, "test": test}) == (
        "train and val share 1 file name (1 and 1 images): figures on val may be too good",
        "train and test share 2 patients (3 and 2 images), 1 identical image (2 and 1 images): "
        "figures on test may be too good",
    )
    clean = {"train": train.take([0, 1]), "val": val.take([0]), "test": test.take([2])}
    assert split_warnings({**clean, "train": train.take([0, 2])}) == ()
    (one_patient,) = split_warnings(clean)
    assert one_patient.startswith("all 2 images of train are of one patient")


def test_nihs_names_in_other_folders_are_the_same_images_and_other_names_are_not():
    names = np.array(["a/00000013_005.png", "b\\00000013_005.PNG", "train/1.png", "test/1.png"])
    keys = image_keys(names).tolist()
    assert keys == ["00000013_005.png", "00000013_005.png", "train/1.png", "test/1.png"]
    assert nih_patients(names[:2]).tolist() == ["00000013"] * 2 and nih_patients(names) is None


def test_a_file_in_which_splits_share_images_warns_when_it_is_loaded(tmp_path, capsys):
    """Of images that are not loaded it says nothing: row 3 of the file has another finding."""
    arrays = arrays_of()
    arrays["test_images"][[0, 3]] = arrays["train_images"][[5, 7]]
    np.savez(tmp_path / "source.npz", **arrays)
    for kind, images in (({}, 1), ({"findings": True}, 2)):
        data = load(str(tmp_path / "source.npz"), **kind)
        (warning,) = data.warnings
        assert re.match(rf"train and test share {images} identical image", warning)
        assert f"WARNING: 'source.npz': {warning}\n" == capsys.readouterr().err


def test_folds_keep_what_the_source_is_warned_of(tmp_path):
    data = load(str(stored(tmp_path, {**NIH, "test_names": NIH["train_names"]})))
    assert "share 20 patients" in data.warnings[0]
    assert all(fold.warnings == data.warnings for fold in make_folds(data, 3, "train"))


def test_splits_without_patients_stay_so_when_joined_or_taken_from():
    """Taking away the one image with another name must not bring patients back."""
    names = ["00000001_000.png", "00000001_001.png", "other.png"]
    split = split_of([1, 2, 3], None, names)
    assert split.take(np.array([0, 1])).patients is None
    assert join((split, split), ("train", "val")).patients is None
    known = split_of([1, 2, 3], ["a", "a", "b"], names)
    assert join((known, known), ("train", "val")).patients.tolist() == ["a", "a", "b"] * 2
    assert known.take(np.array([2])).patients.tolist() == ["b"]


def test_a_network_has_seen_patients_not_equal_first_letters():
    one = split_of([1, 2], None, ["chestxray_1.png", "chestxray_2.png"])
    other = split_of([3], None, ["chestxray_3.png"])
    record = provenance.record([("train", one)])
    assert record["patients"] is None
    assert provenance.overlap(record, "val", other, by_patient=True) == 0
    assert provenance.overlap(record, "val", one, by_patient=True) == 2
    patients = [split_of([k], [patient], [f"{k}.png"]) for k, patient in enumerate("xyx")]
    record = provenance.record([("train", patients[0])])
    assert provenance.overlap(record, "val", patients[1], by_patient=True) == 0
    assert provenance.overlap(record, "val", patients[2], by_patient=True) == 1
    assert provenance.overlap(record, "val", patients[2], by_patient=False) == 0
    both = provenance.union(record, provenance.record([("train", patients[1])]))
    assert both["patients"] == ["x", "y"]


def test_the_record_of_an_older_checkpoint_tells_patients_by_nihs_names_alone():
    nih = split_of([1], ["00000013"], ["00000013_007.png"])
    for name, count in (("00000013_005.png", 1), ("00000013_ap.png", 0)):
        old = {"rows": {"train": [5]}, "names": [name], "phantom": False}
        assert provenance.overlap(old, "val", nih, by_patient=True) == count
        union = provenance.union(old, provenance.record([("val", nih)]))
        assert union["patients"] == (["00000013"] if count else None)


def test_effective_number_of_patients_is_that_of_kish():
    assert effective_patients(np.array(["a", "b", "c"])) == 3
    assert effective_patients(np.array([7] * 5)) == 1
    assert effective_patients(np.array(["a"] * 3 + ["b"])) == pytest.approx(16 / 10)


def test_figures_say_of_how_many_patients_they_are_where_that_is_known():
    labels, logits = np.arange(6) % 2, np.linspace(-1, 1, 6)
    known = evaluate(labels, logits, 0.5, np.array(list("aaabbc")))
    counts = {
        "patients": 3,
        "effective_patients": pytest.approx(36 / 14),
        "most_images_of_a_patient": 3,
    }
    assert {key: known[key] for key in counts} == counts
    unknown = evaluate(labels, logits, 0.5)
    assert set(known) - set(unknown) == set(counts)
    both = np.stack([labels, 1 - labels], 1)
    of_findings = [
        evaluate_findings(both, both - 0.5, ("x", "y"), groups, resamples=10)
        for groups in (np.array(list("aaabbc")), None)
    ]
    assert {key: of_findings[0][key] for key in counts} == counts
    assert set(of_findings[0]) - set(of_findings[1]) == set(counts)


def test_the_real_subset_is_divided_by_patient_and_has_no_image_twice(real_npz, capsys):
    data = load(str(real_npz))
    assert data.warnings == () and capsys.readouterr().err == ""
    patients = data.test.patients
    figures = evaluate(data.test.labels, data.test.labels - 0.5, 0.5, patients)
    assert figures["patients"] == 59 and round(figures["effective_patients"]) == 27
    assert figures["most_images_of_a_patient"] == 14
