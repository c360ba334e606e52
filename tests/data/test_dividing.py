"""`datareader.py split` and `pack`: patients stay together, every class is in every split."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from conftest import run_in_process
from PIL import Image

from chestlab.data.dividing import divide, label_groups
from chestlab.data.npz import filter_npz
from chestlab.data.splits import FINDINGS, SPLITS, two_class_mask
from chestlab.files.errors import InputError
from chestlab.runs.data_commands import run_command

EYE = np.eye(14, dtype=np.uint8)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    for variable in ("HOME", "USERPROFILE", "LOCALAPPDATA", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def random_labels(n: int, seed: int) -> np.ndarray:
    """(n, 14) flags: the two classes alone, several findings, or none; hernia is rare."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, 14)) < 0.1).astype(np.uint8)
    alone = rng.random(n) < 0.4
    labels[alone] = EYE[rng.choice([1, 7, 7], alone.sum())]
    labels[:, 13] = 0
    labels[rng.choice(n, 6, replace=False), 13] = 1
    return labels


# Dividing.


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("known", [True, False])
def test_every_split_has_its_share_of_every_finding_and_no_patient_is_in_two(seed, known):
    rng = np.random.default_rng(seed)
    labels = random_labels(1200, seed)
    patients = rng.geometric(0.02, 1200) if known else None  # some have dozens of images
    groups, shares = label_groups(labels), {"val": 0.15, "test": 0.2}
    rows = divide(groups, patients, shares, seed)
    assert (sum(chosen.astype(int) for chosen in rows.values()) == 1).all()
    for split, share in shares.items():
        assert abs(rows[split].mean() - share) < (0.06 if known else 0.02)
        for group in groups.T:
            got, wanted = (group & rows[split]).sum(), share * group.sum()
            assert got >= 1 and abs(got - wanted) <= 5 + (0.35 if known else 0.1) * wanted
    if known:
        assert not set(patients[rows["train"]]) & set(patients[~rows["train"]])
        assert not set(patients[rows["val"]]) & set(patients[rows["test"]])
    again, other = (divide(groups, patients, shares, number) for number in (seed, seed + 99))
    assert np.array_equal(again["val"], rows["val"])
    assert not np.array_equal(other["val"], rows["val"])


def test_a_class_of_two_patients_is_in_two_splits_and_one_of_one_stays_in_train():
    labels = EYE[[1] * 6 + [7] * 30 + [3]]
    patients = np.array([*"aaabbb", *map(str, range(30)), "c"])
    for seed in range(20):
        rows = divide(label_groups(labels), patients, {"val": 0.15}, seed)
        assert (labels[rows["val"]][:, 1]).sum() == 3 and rows["train"][-1]


def test_labels_of_any_form_are_divided_by_their_values():
    for labels in (np.array([0, 1, 1]), np.array([[0], [1], [1]]), np.array(["a", "b", "b"])):
        assert label_groups(labels).tolist() == [[True, False], [False, True], [False, True]]
    assert label_groups(np.eye(2)).tolist() == [[False, True], [True, False]]
    assert label_groups(np.arange(500.0)).all()
    with pytest.raises(InputError, match=r"the shares 0\.5 \+ 0\.5 leave no train split"):
        divide(np.ones((9, 1), bool), None, {"val": 0.5, "test": 0.5})


# The command split.


def file_arrays(n: int = 160, names: bool = True) -> dict[str, np.ndarray]:
    """Train and test in ChestMNIST's layout, with arrays of the user's own."""
    rng = np.random.default_rng(1)
    arrays = {"note": np.array("mine"), "train_weights": np.arange(5)}
    for number, (split, count) in enumerate((("train", n), ("test", 30))):
        arrays[f"{split}_images"] = rng.integers(0, 256, (count, 16, 16), np.uint8)
        arrays[f"{split}_labels"] = np.resize(EYE[[1, 7, 7, 3]], (count, 14))
        arrays[f"{split}_ages"] = rng.random(count)
        if names:
            patients = 1000 * number + rng.integers(0, count // 3, count)
            texts = [f"{patient:08d}_{k % 1000:03d}.png" for k, patient in enumerate(patients)]
            arrays[f"{split}_names"] = np.array(texts)
    return arrays


def divided(path):
    """Rows of train and val of a divided file by the age of each image, which is unique."""
    with np.load(path) as file:
        return {key: file[key] for key in file}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("labels", [lambda v: v, lambda v: v[:, 7] * 1.0, np.asfortranarray])
@pytest.mark.parametrize("images", [lambda v: v, lambda v: (v / 255).astype(">f4")[:, None]])
def test_every_array_of_train_is_divided_and_the_others_are_copied(capsys, save, labels, images):
    arrays = file_arrays()
    for split in ("train", "test"):
        arrays[f"{split}_images"] = images(arrays[f"{split}_images"])
        arrays[f"{split}_labels"] = labels(arrays[f"{split}_labels"])
    save("mine.npz", **arrays)
    before = Path("mine.npz").read_bytes()
    run_command(["split", "mine.npz", "--val", "0.2"])
    new = divided("mine_split.npz")
    assert Path("mine.npz").read_bytes() == before
    order = {age: row for row, age in enumerate(arrays["train_ages"].tolist())}
    rows = {s: [order[age] for age in new[f"{s}_ages"].tolist()] for s in ("train", "val")}
    assert sorted(rows["train"] + rows["val"]) == list(range(160))
    assert all(part == sorted(part) for part in rows.values()) and 26 <= len(rows["val"]) <= 38
    for split, part in rows.items():
        for key in ("images", "labels", "names"):
            found, wanted = new[f"{split}_{key}"], arrays[f"train_{key}"][part]
            assert found.dtype == wanted.dtype
            np.testing.assert_array_equal(found, wanted)
    patients = {s: {name[:8] for name in new[f"{s}_names"].tolist()} for s in rows}
    assert not patients["train"] & patients["val"]
    for key in ("note", "train_weights", *(key for key in arrays if key.startswith("test"))):
        np.testing.assert_array_equal(new[key], arrays[key])
    printed = capsys.readouterr()
    assert (
        printed.err == ""
        and f"val: {len(rows['val'])} images of {len(patients['val'])} pati" in (printed.out)
    )


def test_the_file_that_is_written_trains_and_the_same_seed_is_the_same_file(capsys):
    np.savez("mine.npz", **file_arrays())
    with pytest.raises(InputError, match=r"there is no val split: 'python datareader.py split min"):
        filter_npz(Path("mine.npz"))
    for out, seed in (("a.npz", "1"), ("b.npz", "1"), ("c.npz", "2")):
        run_command(["split", "mine.npz", "--val", "0.15", "--out", out, "--seed", seed])
    a, b, c = (Path(f"{name}.npz").read_bytes() for name in "abc")
    assert a == b != c
    data = filter_npz(Path("a.npz"))
    assert data.warnings == () and len(data.train) + len(data.val) == 120


def test_patients_of_the_file_itself_are_kept_together(capsys):
    arrays = file_arrays(names=False)
    arrays |= {f"{s}_patients": np.arange(len(arrays[f"{s}_ages"])) // 5 for s in ("train", "test")}
    np.savez("mine.npz", **arrays)
    run_command(["split", "mine.npz", "--val", "0.2"])
    new = divided("mine_split.npz")
    assert not set(new["train_patients"]) & set(new["val_patients"])
    assert "WARNING" not in capsys.readouterr().err


@pytest.mark.parametrize("names", [None, "study-{}.png"])
def test_without_patients_it_divides_by_image_and_says_so(capsys, names):
    arrays = file_arrays(names=False)
    if names:
        for split in ("train", "test"):
            arrays[f"{split}_names"] = np.array(
                [names.format(k) for k in range(len(arrays[f"{split}_ages"]))]
            )
    np.savez("mine.npz", **arrays)
    run_command(["split", "mine.npz", "--val", "0.25"])
    assert len(divided("mine_split.npz")["val_ages"]) == 40
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1 and "patients are unknown" in printed


def test_val_and_test_are_made_at_once_and_an_empty_split_counts_as_missing():
    arrays = {k: v for k, v in file_arrays().items() if not k.startswith("test")}
    arrays["val_images"], arrays["val_labels"] = np.zeros((0, 16, 16), "u1"), EYE[:0]
    np.savez("mine.npz", **arrays)
    run_command(["split", "mine.npz", "--val", "0.15", "--test", "0.25"])
    new = divided("mine_split.npz")
    assert [len(new[f"{s}_ages"]) for s in SPLITS] == pytest.approx([96, 24, 40], abs=9)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["gone.npz", "--val", "0.15"], "'gone.npz': there is no such file"),
        (["mine.npz"], "which split is to be made"),
        (["mine.npz", "--val", "0"], "'0' is not a share above 0 and below 1"),
        (["mine.npz", "--val", "nan"], "'nan' is not a share above 0"),
        (["mine.npz", "--val", "0.6", "--test", "0.6"], "file has a test split: test_images"),
        (["mine.npz", "--val", "0.1", "--out", "mine.npz"], "is the file that is read"),
        (["mine.npz", "--val", "0.1", "--out", "other.npz"], "is there already: --overwrite repl"),
        (["mine.npz", "--val", "0.1", "--out", "x.zip"], "'x.zip' is no FILE.npz"),
        (["mine.txt", "--val", "0.1"], "'mine.txt' is no FILE.npz"),
        (["other.npz", "--val", "0.1"], "'other.npz' is not a sound npz file"),
        (["bare.npz", "--val", "0.1"], r"train_labels is float64 \(160, 0\): not one label for ea"),
        (["mine.npz", "--val", "0.1", "--seed", "-1"], "'-1' is not an integer from 0 up to 2"),
    ],
)
def test_a_split_that_cannot_be_made_is_refused_and_nothing_is_written(tmp_path, words, message):
    np.savez("mine.npz", **file_arrays())
    np.savez("bare.npz", **{**file_arrays(), "train_labels": np.zeros((160, 0))})
    (tmp_path / "other.npz").write_bytes(b"precious")
    before = sorted((p.name, p.read_bytes()) for p in tmp_path.iterdir() if p.is_file())
    with pytest.raises(InputError, match=message) as refusal:
        run_command(["split", *words])
    assert "\n" not in str(refusal.value)
    assert sorted((p.name, p.read_bytes()) for p in tmp_path.iterdir() if p.is_file()) == before


def test_overwrite_replaces_and_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    np.savez("mine.npz", **file_arrays())
    (tmp_path / "mine_split.npz").write_bytes(b"old")
    words = ["split", "mine.npz", "--val", "0.15", "--overwrite"]
    with monkeypatch.context() as patch:

        def full(*arguments):
            raise OSError(28, "No space left on device")

        patch.setattr("chestlab.data.dividing._npy", full)
        with pytest.raises(OSError, match="No space left"):
            run_command(words)
    assert (tmp_path / "mine_split.npz").read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine.npz", "mine_split.npz"]
    run_command(words)
    assert "val_images" in divided("mine_split.npz")


def test_the_command_that_the_refusal_names_works(tmp_path):
    np.savez("my file.npz", **file_arrays())
    done = run_in_process("datareader.py", "--data", "my file.npz", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    command = done.stderr.split("'")[3]
    assert command.startswith("python datareader.py split ") and command.endswith(" --val 0.15")
    path = command.split('"')[1]
    done = run_in_process("datareader.py", "split", path, "--val", "0.15", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert (tmp_path / "my file_split.npz").is_file()


# The command pack.


def table(rows, header=("path", "label"), name="table.csv", delimiter=",") -> str:
    with Path(name).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows([header, *rows])
    return name


@pytest.fixture
def pictures(tmp_path):
    """(60, 32, 32) uint8 images in a folder, two of each of 30 patients, by NIH's names."""
    rng = np.random.default_rng(2)
    images = rng.integers(0, 256, (60, 32, 32), np.uint8)
    (tmp_path / "xrays" / "sub").mkdir(parents=True)
    for k, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "xrays" / "sub" / f"{k // 2:08d}_{k % 2:03d}.png")
    return images


def rows_of(labels, *more) -> list[tuple]:
    texts = [f"sub/{k // 2:08d}_{k % 2:03d}.png" for k in range(60)]
    return list(zip(texts, np.resize(labels, 60).tolist(), *more, strict=True))


def test_pictures_become_an_npz_of_the_same_pixels_labels_and_patients(pictures, capsys):
    labels = ["Cardiomegaly", "pneumothorax", "Cardiomegaly|Pleural_Thickening", "No Finding"]
    labels = [label for label in labels for _ in range(2)]
    run_command(["pack", "xrays", table(rows_of(labels)), "--size", "32", "--out", "out.npz"])
    new = divided("out.npz")
    expected = {"Cardiomegaly": [1], "pneumothorax": [7], "No Finding": []}
    expected[labels[4]] = [1, FINDINGS.index("pleural thickening")]
    seen, patients = [], {}
    for split in SPLITS:
        patients[split] = set()
        for image, flags, name in zip(
            *(new[f"{split}_{key}"] for key in ("images", "labels", "names")), strict=True
        ):
            patient, number = int(name[4:12]), int(name[13:16])
            row = 2 * patient + number
            np.testing.assert_array_equal(image, pictures[row])
            assert np.flatnonzero(flags).tolist() == expected[labels[row % 8]]
            seen.append(row)
            patients[split].add(patient)
        assert new[f"{split}_labels"].dtype == new[f"{split}_images"].dtype == np.uint8
    assert sorted(seen) == list(range(60))
    assert not patients["train"] & (patients["val"] | patients["test"])
    assert not patients["val"] & patients["test"]
    printed = capsys.readouterr()
    assert printed.err == "" and "written: out.npz; python train.py --data out.npz" in printed.out
    data = filter_npz(Path("out.npz"))
    assert data.warnings == () and data.train.patients is not None


@pytest.mark.parametrize(("delimiter", "other"), [(",", ";"), (";", ","), ("\t", ",")])
def test_the_separator_is_the_one_that_leaves_the_known_columns(pictures, delimiter, other):
    """A heading may hold another one more often."""
    rows = rows_of(["cardiomegaly", "pneumothorax"], ["x"] * 60)
    header = ("path", "label", f"seen by A{other} B{other} C{other} D")
    run_command(["pack", "xrays", table(rows, header, delimiter=delimiter)])
    assert sum(len(divided("xrays.npz")[f"{split}_images"]) for split in SPLITS) == 60


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_table_with_patients_and_splits_is_obeyed(pictures, capsys, delimiter):
    splits = ["train"] * 40 + ["validation"] * 8 + ["Test"] * 12
    rows = rows_of(["cardiomegaly", "pneumothorax"], [f"p{k // 4}" for k in range(60)], splits)
    rows = [
        (patient, path.replace("/", "\\"), label, split, "x")
        for path, label, patient, split in rows
    ]
    header = ("Patient ID", "Path", "LABEL", "split", "remark")
    run_command(["pack", "xrays", table(rows, header, delimiter=delimiter), "--size", "16"])
    new = divided("xrays.npz")
    assert [len(new[f"{split}_images"]) for split in SPLITS] == [40, 8, 12]
    assert new["val_patients"].tolist() == [f"p{k // 4}" for k in range(40, 48)]
    assert capsys.readouterr().err == ""
    data = filter_npz(Path("xrays.npz"))
    assert data.size == 16 and data.test.patients.tolist() == new["test_patients"].tolist()
    assert two_class_mask(new["train_labels"]).all()


def test_quotes_may_follow_a_space_and_splits_have_other_names(pictures):
    splits = ["Training"] * 40 + ["valid"] * 8 + ["testing"] * 12
    rows = rows_of(["Cardiomegaly", "Pneumothorax"], splits)
    lines = [f'"{path}", "{label}", "{split}"' for path, label, split in rows]
    Path("table.csv").write_text("\n".join(["path, label, split", *lines]), encoding="utf-8")
    run_command(["pack", "xrays", "table.csv"])
    new = divided("xrays.npz")
    assert [len(new[f"{split}_images"]) for split in SPLITS] == [40, 8, 12]
    assert two_class_mask(new["train_labels"]).all()


def test_splits_of_the_table_that_share_a_patient_are_warned_of(pictures, capsys):
    rows = rows_of(["cardiomegaly"] * 2 + ["pneumothorax"] * 2, ["train", "val", "test"] * 20)
    run_command(["pack", "xrays", table(rows, ("path", "label", "split"))])
    printed = capsys.readouterr().err
    assert "WARNING: train and val share 10 patients (10 and 10 images): figures on val" in printed


def test_names_of_another_kind_without_patients_are_said(pictures, tmp_path, capsys):
    for path in (tmp_path / "xrays" / "sub").iterdir():
        path.rename(path.with_name(f"scan{path.name}"))
    rows = [(path.replace("/", "/scan"), label) for path, label in rows_of(["mass", "hernia"])]
    run_command(["pack", "xrays", table(rows)])
    printed = capsys.readouterr().err
    assert "patients are unknown (no column patient" in printed
    assert "train has no image of one of the two classes alone: only --task findings" in printed


def test_rows_that_cannot_be_used_are_listed_counted_and_left_out_only_if_asked(
    pictures, tmp_path, capsys
):
    bad = [
        ("gone.png", "Mass"),
        ("sub/00000000_000.png", "Mass"),
        ("notes.txt", "Mass"),
        ("a.png", "Pneumothorx"),
        ("b.png", "No Finding|Mass"),
        ("c.png", ""),
        ("d.png", "1"),
        ("./sub/00000000_001.png", "Mass"),
        ("e.png", "Mass; Effusion"),
        ("f.png", "Normal"),
        ("g.png", "fracture"),
    ]
    (tmp_path / "xrays" / "notes.txt").write_text("no image")
    name = table([*rows_of(["cardiomegaly", "pneumothorax"]), *bad])
    with pytest.raises(InputError, match=r"'table.csv': 11 of 71 rows cannot be used, .*--skip"):
        run_command(["pack", "xrays", name])
    lines = capsys.readouterr().err.splitlines()
    for line, number, words in zip(
        lines,
        range(62, 73),
        (
            f"'{Path('xrays') / 'gone.png'}' there is no such file",
            "'sub/00000000_000.png' stands in line 2, too",
            f"'{Path('xrays') / 'notes.txt'}' ",
            "label 'Pneumothorx': did you mean pneumothorax?",
            "label 'No Finding|Mass': No Finding stands beside a finding",
            "has no label",
            "label '1': wanted are names, as cardiomegaly and pneumothorax",
            "'./sub/00000000_001.png' stands in line 3, too",
            "label 'Mass; Effusion': several findings have | between",
            "label 'Normal': did you mean No Finding?",
            "label 'fracture': allowed are atelectasis, cardiomegaly,",
        ),
        strict=True,
    ):
        assert line.startswith(f"line {number}: {words}"), line
    assert not (tmp_path / "xrays.npz").exists()
    run_command(["pack", "xrays", name, "--skip"])
    assert "WARNING: 11 of 71 rows left out" in capsys.readouterr().err
    assert sum(len(divided("xrays.npz")[f"{split}_images"]) for split in SPLITS) == 60


@pytest.mark.parametrize(("inside", "folder"), [("xrays", "."), ("xrays/sub", "..")])
def test_the_file_lies_beside_the_folder_however_that_is_named(
    pictures, tmp_path, monkeypatch, inside, folder
):
    name = tmp_path / table(rows_of(["cardiomegaly", "pneumothorax"]))
    monkeypatch.chdir(inside)
    run_command(["pack", folder, str(name)])
    assert (tmp_path / "xrays.npz").is_file() and not list((tmp_path / "xrays").rglob("*.npz"))


@pytest.mark.parametrize("header", [("path", "label"), ("path", "label", "patient")])
@pytest.mark.parametrize("delimiter", [",", ";"])
def test_findings_divided_as_fields_are_refused_and_empty_fields_too_many_are_not(
    pictures, capsys, delimiter, header
):
    """A second finding counted as nothing, or as the patient."""
    n = len(header)
    rows = rows_of(["cardiomegaly", "pneumothorax"], *[range(60)] * (n - 2))
    good = rows[3]
    rows[3] = (*good[:2], "Effusion", *good[2:])
    with pytest.raises(InputError, match="1 of 60 rows cannot be used"):
        run_command(["pack", "xrays", table(rows, header, delimiter=delimiter)])
    told = f"line 5: has {n + 1} fields; the header has {n}: several findings have | between"
    assert capsys.readouterr().err.startswith(told)
    rows[3] = (*good, "", " ")
    run_command(["pack", "xrays", table(rows, header, delimiter=delimiter)])
    assert sum(len(divided("xrays.npz")[f"{split}_images"]) for split in SPLITS) == 60


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "'t.csv' has no row below its header"),
        (b"path,label\n", "has no row below its header"),
        (b"image,finding\na.png,mass\n", "no column path and no label among 'image', 'finding'"),
        (b"path,label,Label\n", "two columns are called 'label'"),
        (b"path,label\n\xff\xfe,mass\n", "'t.csv' is no CSV file in UTF-8"),
        (b'path,label\n"a.png,mass\n', "'t.csv', line 2: no CSV"),
        (b"path,label\na.png\n", "1 of 1 rows cannot be used"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(pictures, tmp_path, content, message):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(InputError, match=message):
        run_command(["pack", "xrays", "t.csv"])
    assert not (tmp_path / "xrays.npz").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["gone", "table.csv"], "'gone': there is no such folder"),
        (["xrays", "gone.csv"], "'gone.csv': No such file"),
        (["/", "table.csv"], "'.*' has no name to call the file by: --out names it"),
        (["xrays", "table.csv", "--size", "8"], "'8' is not 16 to 1024 pixels"),
        (["xrays", "table.csv", "--out", "old.npz"], "'old.npz' is there already: --overwrite"),
        (["xrays", "table.csv", "--val", "0.5", "--test", "0.5"], "leave no train split"),
    ],
)
def test_flags_of_pack_that_cannot_be_used(pictures, tmp_path, words, message):
    table(rows_of(["cardiomegaly", "pneumothorax"]))
    (tmp_path / "old.npz").write_bytes(b"old")
    with pytest.raises(InputError, match=message):
        run_command(["pack", *words])
    assert (tmp_path / "old.npz").read_bytes() == b"old"
    assert not (tmp_path / "xrays.npz").exists()
