"""The real data is rebuilt from NIH's images: pixels, order, labels, what is missing or damaged."""

import csv
import gzip
import io
import os
import re
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from conftest import REAL_DATA, ROOT
from PIL import Image

from chestlab.data import sources
from chestlab.data.splits import FINDINGS, SPLITS
from studies import nih_archives, nih_subset

IMAGES = {  # split, finding, mode of the PNG; in the order of the list
    "00000001_000.png": ("train", "cardiomegaly", "L"),
    "00000001_001.png": ("train", "pneumothorax", "RGBA"),
    "00000002_000.png": ("val", "cardiomegaly", "RGB"),
    "00001335_006.png": ("val", "pneumothorax", "L"),
    "00001336_000.png": ("test", "cardiomegaly|mass", "L"),
    "00030805_000.png": ("test", "cardiomegaly", "L"),
    "00030804_000.png": ("test", "pneumothorax", "L"),
}
FIRST, LAST = list(IMAGES)[:4], list(IMAGES)[4:]  # images_001.tar.gz has all of the first


def reduced(grey):
    """(64, 64) uint8 of (1024, 1024), as Pillow samples floats bilinearly at single points."""
    picture = Image.fromarray(grey.astype(np.float32))
    steps = (16, 0, 0, 0, 16, 0)
    kinds = Image.Transform.AFFINE, steps, Image.Resampling.BILINEAR
    return np.floor(np.asarray(picture.transform((64, 64), *kinds)) + 0.5).astype(np.uint8)


@pytest.fixture(scope="module")
def pictures():
    """Grey (1024, 1024) uint8 and the bytes of the PNG, by name."""
    rng, made = np.random.default_rng(5), {}
    for name, (_, _, mode) in IMAGES.items():
        coarse = rng.integers(0, 256, (128, 128), dtype=np.uint8)
        grey = np.asarray(Image.fromarray(coarse).resize((1024, 1024), Image.Resampling.BICUBIC))
        content = io.BytesIO()
        Image.fromarray(grey).convert(mode).save(content, "PNG", compress_level=1)
        made[name] = grey, content.getvalue()
    return made


@pytest.fixture
def folder(pictures, tmp_path, monkeypatch):
    """A folder with the images in folders of their own; the list names them and no others."""
    listed = tmp_path / "list.csv.gz"
    with gzip.open(listed, "wt", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["split", "name", "labels", "mean", "crc32"])
        for name, (split, labels, _) in IMAGES.items():
            image = reduced(pictures[name][0])
            crc = f"{zlib.crc32(image.tobytes()):08x}"
            table.writerow([split, name, labels, f"{image.mean():.2f}", crc])
    monkeypatch.setattr(nih_subset, "LIST", listed)
    monkeypatch.chdir(tmp_path)
    images = tmp_path / "nih"
    for name, (_, content) in pictures.items():
        place = images / f"images_{nih_archives.archive_of(name):03d}" / "images"
        place.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(content)
    return images


def build(images, *flags, status=1):
    """Run the command, whose list of made images has none of the known checksums."""
    with pytest.raises(SystemExit) as ended:
        nih_subset.main(["--images", str(images), *flags])
    assert ended.value.code == status


def refused(capsys, images, *flags):
    """The one line that the command ends with; nothing may be written."""
    build(images, *flags, status=2)
    assert not list(Path.cwd().glob("*.npz*"))
    (line,) = capsys.readouterr().err.splitlines()
    return line


def make_tar(path, pictures, names):
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name in names:
            member = tarfile.TarInfo(f"images/{name}")
            member.size = len(pictures[name][1])
            archive.addfile(member, io.BytesIO(pictures[name][1]))
    return path


def test_pixels_order_labels_and_names_are_those_of_the_list(folder, pictures):
    build(folder, "--size", "28", "64")
    large, small = (np.load(f"chestmnist_nih_subset_{size}.npz") for size in (64, 28))
    parts = ("images", "labels", "names")
    assert large.files == [f"{split}_{part}" for split in SPLITS for part in parts]
    for split in SPLITS:
        names = [name for name in IMAGES if IMAGES[name][0] == split]
        expected = np.stack([reduced(pictures[name][0]) for name in names])
        assert np.array_equal(large[f"{split}_images"], expected)
        bicubic = [
            np.asarray(Image.fromarray(image).resize((28, 28), Image.Resampling.BICUBIC))
            for image in expected
        ]
        assert np.array_equal(small[f"{split}_images"], np.stack(bicubic))
        for file in (large, small):
            assert file[f"{split}_names"].tolist() == names
            flags = file[f"{split}_labels"]
            assert flags.dtype == np.uint8
            for row, name in zip(flags, names, strict=True):
                assert {FINDINGS[k] for k in np.flatnonzero(row)} == set(IMAGES[name][1].split("|"))


def test_training_reads_the_file(folder):
    build(folder)
    data = sources.load("chestmnist_nih_subset_28.npz")
    assert data.size == 28
    assert data.train.patients.tolist() == ["00000001", "00000001"]
    assert data.test.index.tolist() == [1, 2]  # the first has two findings
    assert data.test.labels.tolist() == [0, 1]


def test_archives_are_read_as_they_were_downloaded(folder, pictures, tmp_path):
    build(folder)
    expected = Path("chestmnist_nih_subset_28.npz").read_bytes()
    archives = tmp_path / "downloads"
    (archives / "more").mkdir(parents=True)
    make_tar(archives / "images_001.tar.gz", pictures, FIRST)
    with zipfile.ZipFile(archives / "more" / "archive.zip", "w") as archive:
        for name in LAST[:2]:
            archive.writestr(f"images_002/images/{name}", pictures[name][1])
    (archives / LAST[2]).write_bytes(pictures[LAST[2]][1])
    build(archives, "--out", "again")
    assert Path("again/chestmnist_nih_subset_28.npz").read_bytes() == expected


def test_missing_images_are_told_with_their_archives(folder, capsys):
    (folder / "images_001/images/00000002_000.png").unlink()
    (folder / "images_012/images/00030805_000.png").unlink()
    line = refused(capsys, folder, "--missing", "missing.txt")
    assert "2 images are missing (00000002_000.png, 00030805_000.png)" in line
    assert "images_001.tar.gz (2.0 GB; 1), images_012.tar.gz (2.9 GB; 1)" in line
    assert Path("missing.txt").read_text() == "00000002_000.png\n00030805_000.png\n"
    assert "there is no such folder" in refused(capsys, folder / "nowhere")
    assert "there is no such folder" in refused(capsys, folder, "--missing", "nowhere/names.txt")


def test_what_an_archive_cannot_hold_is_told_before_it_is_read(
    folder, pictures, tmp_path, capsys, monkeypatch
):
    archives = tmp_path / "downloads"
    archives.mkdir()
    make_tar(archives / "images_01.tar.gz", pictures, FIRST)  # NIH's script names it so
    monkeypatch.setattr(nih_archives, "_read_tar", None)
    assert "3 images are missing" in refused(capsys, archives)


def test_images_missing_from_an_archive_of_another_name_are_told(
    folder, pictures, tmp_path, capsys
):
    archives = tmp_path / "downloads"
    archives.mkdir()
    make_tar(archives / "chest.tar.gz", pictures, FIRST + LAST[1:])
    assert f"1 images are missing ({LAST[0]})" in refused(capsys, archives)


@pytest.mark.parametrize("damage", ["an image less", "cut off", "no archive"])
def test_an_incomplete_archive_is_refused(folder, pictures, capsys, damage):
    path = make_tar(folder / "images_001.tar.gz", pictures, FIRST[1:])
    for name in FIRST if damage != "an image less" else FIRST[:1]:
        (folder / "images_001/images" / name).unlink()
    content = path.read_bytes()
    if damage == "cut off":
        path.write_bytes(content[: len(content) // 2])
    if damage == "no archive":
        path.write_bytes(b"<html>not found</html>" * 50)
    line = refused(capsys, folder)
    assert "images_001.tar.gz' is damaged or incomplete" in line
    assert f"it has {path.stat().st_size:,} bytes, NIH's has 2,008,470,987" in line


@pytest.mark.parametrize("kind", ["16 bits", "wide", "small", "cut off", "text", "empty"])
def test_an_image_that_is_not_as_nihs_are_is_refused(folder, capsys, kind):
    path = folder / "images_001/images/00000002_000.png"
    reasons = {"16 bits": "mode I;16", "wide": "200 x 100", "small": "32 x 32"}
    content = path.read_bytes()
    if kind == "16 bits":
        Image.fromarray(np.zeros((100, 100), np.uint16)).save(path)
    elif kind in reasons:
        Image.new("L", tuple(map(int, reasons[kind].split(" x ")))).save(path)
    else:
        damaged = {"cut off": content[: len(content) // 2], "text": b"no image", "empty": b""}
        path.write_bytes(damaged[kind])
    line = refused(capsys, folder)
    assert f"{path.name} (in '{path}')" in line
    assert reasons.get(kind, "no sound PNG") in line


def test_a_file_that_is_there_is_replaced_only_if_asked(folder):
    path = Path("chestmnist_nih_subset_28.npz")
    path.write_bytes(b"of the user")
    build(folder, status=2)
    assert path.read_bytes() == b"of the user"
    build(folder, "--overwrite")
    assert np.load(path)["train_images"].shape == (2, 28, 28)


def test_the_same_file_the_same_arrays_or_other_pixels(folder, capsys, monkeypatch):
    """Status 0 for the same arrays, however packed; else 1, with how many images differ."""
    build(folder)
    output = capsys.readouterr()
    (md5,) = re.findall(r"md5 (\w{32}), not", output.out)
    assert "7 of 7 images are identical at 64 px" in output.err
    path = Path("chestmnist_nih_subset_28.npz")
    with np.load(path) as file:
        arrays = nih_subset.arrays_sha256(dict(file))
    monkeypatch.setitem(nih_subset.KNOWN, 28, nih_subset.Checksums(md5, arrays))
    nih_subset.main(["--images", str(folder), "--overwrite"])
    assert f"identical to the file behind results/ (md5 {md5})" in capsys.readouterr().out
    monkeypatch.setitem(nih_subset.KNOWN, 28, nih_subset.Checksums("0" * 32, arrays))
    nih_subset.main(["--images", str(folder), "--overwrite"])
    assert "all arrays identical" in capsys.readouterr().out

    other = folder / "images_001/images/00000002_000.png"
    Image.new("L", (1024, 1024), 255).save(other)
    mean = float(nih_subset.read_subset().means[2])
    build(folder, "--overwrite")
    output = capsys.readouterr()
    assert "not the file behind results/" in output.out
    (line,) = output.err.splitlines()
    assert "6 of 7 images are identical" in line
    assert f"by {255 - mean:.2f} at most ({other.name})" in line
    with np.load(path) as file:
        assert (file["val_images"][0] == 255).all()  # it is written all the same


def test_without_a_folder_the_archives_are_listed(capsys):
    nih_subset.main([])
    text = capsys.readouterr().out
    assert nih_archives.SITE in text
    assert re.search(r"images_001\.tar\.gz +2\.0 GB +4,999 images", text)
    assert re.search(r"images_012\.tar\.gz +2\.9 GB +123 images", text)
    assert re.search(r"together +45\.1 GB +16,362 images", text)


def test_the_list_names_the_images_of_the_results():
    subset = nih_subset.read_subset()
    patients = {split: {n[:8] for n in subset.names[subset.splits == split]} for split in SPLITS}
    assert [len(subset.names[subset.splits == split]) for split in SPLITS] == [11831, 1501, 3030]
    assert len(set(subset.names.tolist())) == 16362
    assert sum(map(len, patients.values())) == len(set().union(*patients.values()))
    lists = sorted((ROOT / "results" / "data").glob("chestmnist_nih_subset_*_names.csv"))
    assert lists
    for path in lists:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        for split in SPLITS:
            of_split = subset.splits == split
            labels = subset.labels[of_split]
            kept = np.flatnonzero((labels.sum(1) == 1) & (labels[:, [1, 7]].sum(1) == 1))
            expected = zip(kept, subset.names[of_split][kept], labels[kept, 7], strict=True)
            named = [row for row in rows if row["split"] == split]
            assert [(int(r["index"]), r["name"], int(r["label"])) for r in named] == list(expected)


@pytest.mark.skipif(not os.environ.get(REAL_DATA), reason=f"no real X-rays: {REAL_DATA} is not set")
def test_the_list_and_the_checksums_are_those_of_the_real_files():
    subset = nih_subset.read_subset()
    paths = [Path(os.environ[REAL_DATA]) / f"chestmnist_nih_subset_{s}.npz" for s in (64, 28)]
    with np.load(paths[0]) as large, np.load(paths[1]) as small:
        images = np.concatenate([large[f"{split}_images"] for split in SPLITS])
        stored = {64: dict(large), 28: dict(small)}
    checksums = [zlib.crc32(image.tobytes()) for image in images]
    assert checksums == subset.checksums.tolist()
    assert np.abs(images.mean((1, 2)) - subset.means).max() <= 0.00501
    for path, (size, arrays) in zip(paths, stored.items(), strict=True):
        built = nih_subset.make_arrays(images, subset, size)
        assert list(built) == list(arrays)
        for name, array in arrays.items():
            assert built[name].dtype == array.dtype
            assert np.array_equal(built[name], array), name
        assert nih_subset.arrays_sha256(built) == nih_subset.KNOWN[size].arrays
        same, words = nih_subset.verdict(path.read_bytes(), arrays, size)
        assert same and "identical to the file" in words
