"""Images of one's own: the probability of training's own path, and whatever files people have."""

import csv
import errno
import importlib.util
import io
import os
import signal
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from conftest import REAL_DATA, ROOT, run_in_process, status_of
from PIL import Image

import predict
from chestlab.data import image_files, splits
from chestlab.data.sources import load
from chestlab.files.atomic import atomic_write
from chestlab.files.checkpoint import load_checkpoint, save_checkpoint
from chestlab.files.errors import InputError
from chestlab.reporting import gradcam_plots
from chestlab.training.batch_norm import batch_norms, estimate_statistics
from chestlab.training.inference import load_model
from networks import network_class


def noise(*shape, seed=0, high=256, kind=np.uint8):
    return np.random.default_rng(seed).integers(0, high, shape).astype(kind)


def seen(path, size=28):
    return image_files.read_xray(path, size).seen


@pytest.fixture(scope="module")
def checkpoint(run_of_one_epoch):
    return run_of_one_epoch[0] / "trained_models" / "one_best.pth"


@pytest.fixture
def test_images(run_of_one_epoch, tmp_path):
    """A folder with the run's 24 test images as PNG, and their stored probabilities by name."""
    folder, data = run_of_one_epoch
    split = load(str(data)).test
    (tmp_path / "images").mkdir()
    for image, row in zip(split.images, split.index, strict=True):
        Image.fromarray(image).save(tmp_path / "images" / f"{row:03}.png")
    with (folder / "results" / "one" / "test_probabilities.csv").open(newline="") as file:
        stored = {int(row["index"]): float(row["probability"]) for row in csv.DictReader(file)}
    return tmp_path / "images", {f"{row:03}.png": p for row, p in stored.items()}


def read_table(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_test_images_saved_as_png_get_the_probabilities_of_the_run(
    checkpoint, test_images, tmp_path, capsys
):
    folder, stored = test_images
    table = tmp_path / "new" / "table.csv"
    arguments = ["--checkpoint", str(checkpoint), "--csv", str(table), "--device", "cpu"]
    assert status_of(predict.main, [str(folder), *arguments]) == 0
    rows = read_table(table)
    threshold = load_model(checkpoint, network_class).threshold
    assert [Path(row["file"]).name for row in rows] == sorted(stored)
    for row in rows:
        p = float(row["probability"])
        assert p == pytest.approx(stored[Path(row["file"]).name], abs=1e-6)
        assert row["class"] == splits.CLASS_NAMES[p >= threshold]
        assert float(row["threshold"]) == threshold
    out = capsys.readouterr().out
    assert len([line for line in out.splitlines() if "medical device" in line]) == 1
    assert f"pneumothorax from threshold {threshold:.2f} on" in out
    assert out.splitlines()[-1] == "PHANTOM DATA, not ChestMNIST"


def test_the_script_predicts_what_the_function_does_and_goes_on_after_a_bad_file(
    checkpoint, test_images, tmp_path
):
    folder, stored = test_images
    (folder / "000_bad.png").write_bytes(b"")
    result = run_in_process("predict.py", folder, "--checkpoint", checkpoint, cwd=tmp_path)
    assert result.returncode == 1, result.stderr
    bad = [line for line in result.stderr.splitlines() if "000_bad.png" in line]
    assert len(bad) == 1 and "Traceback" not in result.stderr
    for name, p in stored.items():
        assert any(name in line and f"{p:.4f}" in line for line in result.stdout.splitlines())


@pytest.mark.skipif(not os.environ.get(REAL_DATA), reason=f"no real X-rays: {REAL_DATA} is not set")
def test_the_real_64_px_images_become_the_28_px_ones(tmp_path):
    """The subset's 28-px images were made of its 64-px ones: exactly by what predict does."""
    folder = Path(os.environ[REAL_DATA])
    with np.load(folder / "chestmnist_nih_subset_64.npz") as large:
        sources = large["val_images"][:50]
    with np.load(folder / "chestmnist_nih_subset_28.npz") as small:
        expected = small["val_images"][:50]
    for number, source in enumerate(sources):
        Image.fromarray(source).save(tmp_path / "image.png")
        assert np.array_equal(seen(tmp_path / "image.png"), expected[number])


GREY = noise(28, 28)


def rgba(alpha):
    return np.dstack([GREY, GREY, GREY, alpha]).astype(np.uint8)


def test_each_way_to_write_the_same_grey_image_gives_the_same_pixels(tmp_path):
    ways = {
        "grey": Image.fromarray(GREY),
        "colour": Image.fromarray(np.dstack([GREY] * 3)),
        "opaque": Image.fromarray(rgba(np.full((28, 28), 255))),
        "grey with alpha": Image.fromarray(GREY).convert("LA"),
        "palette": Image.fromarray(GREY).convert("P"),
        "16 bit": Image.fromarray(GREY.astype(np.uint16) * 257),
    }
    ways["palette"].putpalette([value for value in range(256) for _ in range(3)])
    for name, image in ways.items():
        image.save(tmp_path / "image.png")
        assert np.array_equal(seen(tmp_path / "image.png"), GREY), name


def test_16_bit_values_are_divided_by_257_and_rounded(tmp_path):
    values = noise(28, 28, high=65536, kind=np.uint16)
    values[0, :3] = 0, 128, 129
    values[1, 0] = 65535
    Image.fromarray(values).save(tmp_path / "image.png")
    found = seen(tmp_path / "image.png")
    assert np.array_equal(found, np.rint(values / 257).astype(np.uint8))
    assert found[0, :3].tolist() == [0, 0, 1] and found[1, 0] == 255


def test_what_is_transparent_is_black(tmp_path):
    alpha = np.full((28, 28), 255)
    alpha[:, :14] = 0
    Image.fromarray(rgba(alpha)).save(tmp_path / "image.png")
    found = seen(tmp_path / "image.png")
    assert not found[:, :14].any() and np.array_equal(found[:, 14:], GREY[:, 14:])
    palette = Image.fromarray(np.where(alpha == 0, 7, GREY // 2 + 128).astype(np.uint8)).convert(
        "P"
    )
    palette.save(tmp_path / "image.png", transparency=palette.getpixel((0, 0)))
    found = seen(tmp_path / "image.png")
    assert not found[:, :14].any() and found[:, 14:].min() >= 128


def test_one_bit_is_black_and_white(tmp_path):
    Image.fromarray(GREY > 128).save(tmp_path / "image.png")
    assert np.array_equal(seen(tmp_path / "image.png"), np.where(GREY > 128, 255, 0))


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpeg_in_grey_colour_and_for_print(mode, tmp_path):
    smooth = np.outer(np.arange(28), np.full(28, 8)).astype(np.uint8)
    Image.fromarray(smooth).convert("RGB").convert(mode).save(tmp_path / "image.jpg", quality=98)
    assert np.abs(seen(tmp_path / "image.jpg").astype(int) - smooth).max() <= 4


def test_a_jpeg_is_turned_upright_by_its_exif(tmp_path):
    upright = np.zeros((28, 28), np.uint8)
    upright[:14] = 200
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned right by a quarter
    turned = Image.fromarray(np.rot90(upright))
    turned.save(tmp_path / "image.jpg", quality=98, exif=exif)
    assert np.abs(seen(tmp_path / "image.jpg").astype(int) - upright).max() <= 4


def test_of_a_telephones_two_pictures_in_one_jpeg_the_first_is_taken(tmp_path):
    smooth = np.outer(np.arange(28), np.full(28, 8)).astype(np.uint8)
    first, second = Image.fromarray(smooth), Image.new("L", (28, 28), 20)
    first.save(tmp_path / "image.jpg", "MPO", save_all=True, append_images=[second], quality=98)
    xray = image_files.read_xray(tmp_path / "image.jpg", 28)
    assert np.abs(xray.seen.astype(int) - smooth).max() <= 4 and not xray.warnings


@pytest.mark.parametrize(("height", "width"), [(60, 40), (40, 60), (41, 60), (28, 56)])
def test_the_middle_of_an_oblong_is_taken(height, width, tmp_path):
    picture = noise(height, width)
    Image.fromarray(picture).save(tmp_path / "image.png")
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    middle = Image.fromarray(picture[top : top + side, left : left + side])
    expected = np.asarray(middle.resize((28, 28), Image.Resampling.BICUBIC))
    assert np.array_equal(seen(tmp_path / "image.png"), expected)


def test_a_large_image_is_reduced_to_the_source_size_and_shown_in_a_few_pixels(tmp_path):
    Image.fromarray(noise(1024, 1024)).save(tmp_path / "image.png")
    xray = image_files.read_xray(tmp_path / "image.png", 64)
    assert xray.seen.shape == (64, 64) and xray.shown.shape == (448, 448)
    assert xray.seen.std() < 20  # antialiased: of noise, the mean of many pixels is left


def chunk(kind, content):
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


def claimed_png(width, height):
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    return b"\x89PNG\r\n\x1a\n" + content + chunk(b"IEND", b"")


def encoded(image, form, **options):
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


PICTURE = Image.fromarray(noise(64, 64))
FRAMES = [Image.fromarray(noise(64, 64, seed=seed)) for seed in range(3)]
NAN = Image.fromarray(np.full((64, 64), np.nan, np.float32))
UNREADABLE = "is no image that can be read"
HOSTILE = {
    "empty": (b"", "is empty: copy or download it again"),
    "web page": (b"<!DOCTYPE html>\n<title>404</title>", "is a web page, not an image"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull fetches the image"),
    "text": (b"no image, only words\n" * 50, UNREADABLE),
    "truncated png": (encoded(PICTURE, "PNG")[:2000], "cannot be read"),
    "truncated jpeg": (encoded(PICTURE, "JPEG")[:1000], "cannot be read"),
    "truncated tiff": (encoded(PICTURE, "TIFF")[:3000], "cannot be read"),
    "truncated bmp": (encoded(PICTURE, "BMP")[:3000], "cannot be read"),
    "truncated webp": (encoded(PICTURE, "WEBP", lossless=True)[:3000], "cannot be read"),
    "header only": (encoded(PICTURE, "PNG")[:20], "cannot be read"),
    "flipped bits": (encoded(PICTURE, "PNG")[:500] + b"\xff" * 3000, "cannot be read"),
    "bomb": (claimed_png(100_000, 100_000), "10,000,000,000 pixels; allowed are 50,000,000: save"),
    "small bomb": (claimed_png(9_000, 9_000), "allowed are 50,000,000"),
    "short of data": (claimed_png(100, 100), "cannot be read"),
    "no pixels": (claimed_png(0, 100), f"{UNREADABLE}|cannot be read"),
    "nan": (encoded(NAN, "TIFF"), "not finite"),
    "one pixel": (encoded(PICTURE.resize((1, 1)), "PNG"), "the same grey .* everywhere"),
    "constant": (encoded(Image.new("L", (64, 64), 128), "PNG"), r"the same grey \(128 of 255\)"),
    "transparent": (encoded(Image.new("RGBA", (64, 64)), "PNG"), "fully transparent"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", UNREADABLE),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_file_that_is_no_usable_image_is_refused_in_one_line(case, tmp_path):
    content, message = HOSTILE[case]
    (tmp_path / "image.png").write_bytes(content)
    with pytest.raises(InputError, match=message) as refused:
        seen(tmp_path / "image.png")
    assert len(str(refused.value).splitlines()) == 1


def test_hostile_files_have_a_line_each_and_the_others_are_predicted(checkpoint, tmp_path, capsys):
    for case, (content, _) in HOSTILE.items():
        (tmp_path / f"{case}.png").write_bytes(content)
    PICTURE.save(tmp_path / "sound.png")
    PICTURE.convert("RGB").save(tmp_path / "sound too.JPEG")
    (tmp_path / "notes.txt").write_text("left alone in a folder")
    (tmp_path / "._sound.png").write_text("what macOS leaves on foreign disks")
    missing = str(tmp_path / "missing.png")
    arguments = ["--checkpoint", str(checkpoint), "--device", "cpu"]
    assert status_of(predict.main, [missing, str(tmp_path), missing, *arguments]) == 1
    said = capsys.readouterr()
    unlike = [line for line in said.err.splitlines() if "unlike the training images" in line]
    assert len(unlike) == 2  # what is sound as a file is noise
    lines = [line for line in said.err.splitlines() if line not in unlike]
    assert len(lines) == len(HOSTILE) + 4
    assert lines[0] == f"{missing}: there is no such file"
    assert lines[1] == f"{tmp_path / 'notes.txt'}: is no image: left out"
    assert lines[2] == "not read: 1 file in folders that are no images"
    assert lines[-1] == f"predicted: 2 images; not predicted: {len(HOSTILE) + 1}"
    for case in HOSTILE:
        assert sum(f"{case}.png: " in line and str(tmp_path) in line for line in lines) >= 1
    predicted = [line for line in said.out.splitlines() if str(tmp_path) in line]
    names = [line.rsplit(os.sep, 1)[1] for line in predicted]
    assert names == ["sound too.JPEG", "sound.png"]


def test_folders_are_searched_in_order_each_file_once_and_without_earlier_overlays(tmp_path):
    for name in ("b/2.png", "b/10.PNG", "a/x/1.jpeg", "c.jpg", "over/1_gradcam.png", "a/n.xcf"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "a" / "no suffix").write_bytes(encoded(PICTURE, "JPEG"))
    (tmp_path / "a" / "y.bak").write_bytes(encoded(PICTURE, "BMP"))
    (tmp_path / "a" / "z.bak").write_bytes(b"\0" * 128 + b"DICM")
    (tmp_path / "a" / "body.csv").write_text("BMI,age\n21.5,40\n")
    paths = [tmp_path / "b" / "2.png", tmp_path]

    def names(found):
        return [path.relative_to(tmp_path).as_posix() for path in found]

    found = image_files.find_files(paths, recursive=True, without=[tmp_path / "over"])
    inner = ["a/no suffix", "a/y.bak", "a/z.bak", "a/x/1.jpeg"]
    assert names(found.files) == ["b/2.png", "c.jpg", *inner, "b/10.PNG"]
    assert names(found.others) == ["a/body.csv", "a/n.xcf"] and not found.not_entered
    found = image_files.find_files(paths, without=[tmp_path / "over"])
    assert names(found.files) == ["b/2.png", "c.jpg"]
    assert names(found.not_entered) == ["a", "b"] and not found.others


def test_a_picture_is_read_once_however_its_path_is_spelt(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a/1.png", "a/2.png"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(b"")
    spellings = [Path("a/../a/1.png"), tmp_path / "a" / "1.png", Path("a"), tmp_path]
    found = image_files.find_files(spellings, recursive=True)
    assert list(found.files) == [Path("a/../a/1.png"), Path("a/2.png")]


@pytest.mark.skipif(os.name == "nt", reason="links need a right there that few have")
def test_links_are_pictures_of_their_own_and_dots_are_not_taken_off_behind_one(tmp_path):
    for name in ("a/1.png", "b/c/2.png", "b/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "a" / "same.png").symlink_to("1.png")
    (tmp_path / "a" / "link").symlink_to(tmp_path / "b" / "c")
    paths = [tmp_path / "a" / "1.png", tmp_path / "a" / "same.png"]
    paths.append(tmp_path / "a" / "link" / ".." / "1.png")  # that of b
    assert list(image_files.find_files(paths).files) == paths


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["empty"], "no image to predict"),
        (["missing.png"], "missing.png: there is no such file"),
        (["missing.png", "empty", "missing.png"], "missing.png: there is no such file"),
        ([], "required"),
        (["empty", "--csv", "empty"], "is a folder"),
        (["empty", "--csv", "text.txt/table.csv"], "is not a folder"),
        (["text.txt", "--csv", "text.txt"], "is no table of predict.py: it would be lost"),
        (["empty", "--device", "tpu"], "--device"),
        (["empty", "--checkpoint", "missing.pth"], "'missing.pth': there is no such file"),
        (["empty", "--checkpoint", "text.txt"], "damaged or none"),
        (["empty", "--window", "-9,-12"], "--window '-9,-12': wanted"),
        (["empty", "--window", "9,5"], "--window '9,5': wanted are two numbers LOW,HIGH"),
    ],
    ids=str,
)
def test_nothing_to_do_and_wrong_input_end_with_status_2(
    arguments, message, checkpoint, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("text")
    before = sorted(tmp_path.rglob("*"))
    assert status_of(predict.main, ["--checkpoint", str(checkpoint), *arguments]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert message in error
    assert sorted(tmp_path.rglob("*")) == before


def test_without_a_checkpoint_the_newest_finished_run_predicts(
    run_of_one_epoch, test_images, monkeypatch, capsys
):
    monkeypatch.chdir(run_of_one_epoch[0])
    first = str(test_images[0] / min(test_images[1]))
    assert status_of(predict.main, [first, "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    path = Path("trained_models", "one_best.pth")
    assert out.startswith(f"checkpoint: {path} (newest finished run; --checkpoint names another)")
    assert status_of(predict.main, [first, "--checkpoint", "one", "--device", "cpu"]) == 0
    named = capsys.readouterr().out
    assert named.splitlines()[0] == f"checkpoint: {path}"
    assert named.splitlines()[1:] == out.splitlines()[1:]


def test_overlays_without_captum_are_refused_before_anything_is_done(
    checkpoint, tmp_path, capsys, monkeypatch
):
    PICTURE.save(tmp_path / "image.png")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    arguments = ["--checkpoint", str(checkpoint), "--overlay", str(tmp_path / "over")]
    assert status_of(predict.main, [str(tmp_path), *arguments]) == 2
    said = capsys.readouterr()
    assert "pip install captum" in said.err and not said.out
    assert not (tmp_path / "over").exists()


def test_overlays_into_a_folder_of_the_images_are_refused(checkpoint, tmp_path, capsys):
    for name in ("a.png", "a_gradcam.png"):
        (tmp_path / name).write_bytes(encoded(PICTURE, "PNG"))
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    arguments = ["--checkpoint", str(checkpoint), "--overlay", str(tmp_path)]
    assert status_of(predict.main, [str(tmp_path / "a.png"), *arguments]) == 2
    assert "a folder of the images themselves" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_overlays_of_equal_names_do_not_replace_each_other(checkpoint, tmp_path):
    pytest.importorskip("captum")
    for name in ("a/x.png", "b/X.jpg"):
        (tmp_path / name).parent.mkdir()
        Image.fromarray(noise(100, 120, seed=len(name))).save(tmp_path / name)
    over = tmp_path / "over"
    arguments = ["--checkpoint", str(checkpoint), "--overlay", str(over), "--device", "cpu"]
    for _ in range(2):  # the second time the pictures are there
        assert status_of(predict.main, [str(tmp_path), "--recursive", *arguments]) == 0
        assert sorted(path.name for path in over.iterdir()) == ["X_gradcam_2.png", "x_gradcam.png"]
    for path in over.iterdir():
        with Image.open(path) as picture:
            assert picture.width > 1000 and path.stat().st_size < 300_000


def test_an_overlay_says_what_may_be_wrong(checkpoint, tmp_path, monkeypatch):
    pytest.importorskip("captum")
    drawn = []
    monkeypatch.setattr(
        gradcam_plots, "draw_overlay", lambda *arguments, notes, **_: drawn.append(notes)
    )
    PICTURE.resize((9, 9)).save(tmp_path / "image.png")
    arguments = ["--checkpoint", str(checkpoint), "--overlay", str(tmp_path / "over")]
    assert status_of(predict.main, [str(tmp_path), *arguments, "--device", "cpu"]) == 0
    assert drawn[0][0].startswith("WARNING: is tiny, 9 x 9 pixels")
    assert drawn[0][-1] == predict.DISCLAIMER


def dicom(path, values, photometric):
    """A file of 12 bits."""
    pydicom = pytest.importorskip("pydicom")
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = pydicom.uid.DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset = pydicom.dataset.FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    dataset.Rows, dataset.Columns = values.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.PhotometricInterpretation = photometric
    dataset.PixelData = values.astype("<u2").tobytes()
    dataset.save_as(path, enforce_file_format=True)


def responsive(checkpoint, path, normalize, images):
    """A copy with this normalisation whose outputs, unlike those of one epoch, differ by image."""
    state = load_checkpoint(checkpoint, sealed=True)
    state["recipe"].update(normalize=normalize, mean=0.5, std=0.25)
    state["temperature"] = 0.1
    save_checkpoint(path, state)
    trained = load_model(path, network_class)
    layers = list(batch_norms(trained.model).values())
    estimate_statistics(trained.model, layers, trained.tensor(images), trained.recipe)
    save_checkpoint(path, {**state, "weights": trained.model.state_dict()})


@pytest.mark.parametrize("normalize", ["per-image", "fixed"])
def test_an_x_ray_has_one_probability_in_whatever_file_it_comes(
    normalize, checkpoint, phantom_npz, tmp_path, capsys
):
    data = load(str(phantom_npz))
    responsive(checkpoint, tmp_path / "sharp_best.pth", normalize, data.train.images)
    images = tmp_path / "images"
    images.mkdir()
    grey = np.clip(data.test.images[0], 4, 240)
    wide = grey.astype(np.int64) * 4095 // 255
    Image.fromarray(grey).save(images / "8 bits.png")
    Image.fromarray(wide.astype(np.uint16)).save(images / "12 bits.png")
    Image.fromarray((grey * 257.0).astype(np.uint16)).save(images / "16 bits.tif")
    Image.fromarray((wide + 32768).astype(np.uint16)).save(images / "offset.tif")
    Image.fromarray(grey).save(images / "lossless.webp", lossless=True)
    (images / "no suffix").write_bytes(encoded(Image.fromarray(grey), "BMP"))
    dicom(images / "12 bits.dcm", wide, "MONOCHROME2")
    dicom(images / "12 bits inverted.dcm", 4095 - wide, "MONOCHROME1")
    arguments = ["--checkpoint", str(tmp_path / "sharp_best.pth"), "--device", "cpu"]
    table = tmp_path / "table.csv"
    assert status_of(predict.main, [str(images), *arguments, "--csv", str(table)]) == 0
    rows = {Path(row["file"]).name: row for row in read_table(table)}
    expected = float(rows["8 bits.png"]["probability"])
    for name, row in rows.items():
        assert float(row["probability"]) == pytest.approx(expected, abs=0.01), name
    windows = {name: row["window"] for name, row in rows.items()}
    assert windows["8 bits.png"] == "0,255" and windows["16 bits.tif"] == "0,65535"
    assert windows["offset.tif"] == "32768,36863" and windows["12 bits inverted.dcm"] == "0,4095"
    out = capsys.readouterr().out
    assert "12 bits.png  (window 0,4095: 12-bit values)" in out
    assert "16 bits.tif\n" in out and "8 bits.png\n" in out
    dark = [str(images / "12 bits.png"), "--window", "0,65535", *arguments, "--csv", str(table)]
    assert status_of(predict.main, dark) == 0
    (row,) = read_table(table)
    assert row["window"] == "0,65535"
    if normalize == "fixed":  # an image's own mean and deviation hide a wrong window
        assert abs(float(row["probability"]) - expected) > 0.05


def test_what_may_be_wrong_is_told_and_marked_and_what_failed_has_a_row(
    checkpoint, phantom_npz, tmp_path, capsys
):
    folder = tmp_path / "images"
    (folder / "inner").mkdir(parents=True)
    sound = Image.fromarray(load(str(phantom_npz)).train.images[0])
    sound.save(folder / "sound.png")
    PICTURE.resize((9, 9)).save(folder / "tiny.png")
    PICTURE.resize((280, 70)).save(folder / "strip.png")
    Image.fromarray(noise(64, 64, 3)).save(folder / "colour.png")
    empty = np.zeros((64, 64), np.uint8)  # black counts as a grey, too
    empty[:20, :20] = 90
    Image.fromarray(empty).save(folder / "empty.png")
    Image.fromarray(np.asarray(sound) // 5 + 200).save(folder / "pale.png")
    FRAMES[0].save(folder / "pages.tif", save_all=True, append_images=FRAMES[1:])
    Image.new("L", (64, 64), 128).save(folder / "constant.png")
    (folder / "notes.txt").write_text("no image")
    sound.save(folder / "inner" / "another.png")
    table = folder / "table.csv"
    arguments = [str(folder), "--checkpoint", str(checkpoint), "--device", "cpu"]
    for _ in range(2):  # the second time the table lies in the folder
        assert status_of(predict.main, [*arguments, "--csv", str(table)]) == 1
        err = capsys.readouterr().err.splitlines()
    rows = {Path(row["file"]).name: row for row in read_table(table)}
    expected = {
        "colour.png": "is a colour picture",
        "empty.png": "is nearly empty: 9",
        "pages.tif": "has 3 pages",
        "pale.png": "has little contrast, greys of 2",
        "strip.png": "is 280 x 70 pixels: only the middle 70 x 70",
        "tiny.png": "is tiny, 9 x 9 pixels, enlarged",
    }
    assert rows.keys() == {*expected, "sound.png", "constant.png"}
    for name, warning in expected.items():
        assert rows[name]["warnings"].startswith(warning) and rows[name]["probability"], name
        assert any(f"{name}: WARNING: {warning}" in line for line in err)
    assert rows["sound.png"]["warnings"] == ""
    failed = rows["constant.png"]
    assert failed["warnings"].startswith("has the same grey")
    assert failed["class"] == failed["probability"] == failed["window"] == ""
    assert err[-1] == "predicted: 7 images; not predicted: 1"
    inner = folder / "inner"
    assert f"not entered: 1 folder, as '{inner}'; --recursive enters them" in err
    assert f"{folder / 'notes.txt'}: is no image: left out" in err
    assert not any("table.csv" in line for line in err)
    (folder / "constant.png").unlink()
    assert (
        status_of(predict.main, [*arguments, "--recursive"]) == 0
    )  # notes.txt is no image that failed
    said = capsys.readouterr()
    assert "another.png" in said.out and "not entered" not in said.err


@pytest.mark.skipif(os.name == "nt", reason="there are no such names")
def test_odd_names_of_files_are_printed_and_written_in_one_line(checkpoint, tmp_path, capsys):
    names = [b"new\nline.png", b"not utf-8 \xff.png", b"red \x1b[31m \xc2\x9b2J.png"]
    try:
        for name in names:
            (tmp_path / os.fsdecode(name)).write_bytes(encoded(PICTURE, "PNG"))
    except OSError:
        pytest.skip("this file system takes no such names")
    arguments = ["--checkpoint", str(checkpoint), "--csv", str(tmp_path / "table.csv")]
    assert status_of(predict.main, [str(tmp_path), *arguments, "--device", "cpu"]) == 0
    rows = read_table(tmp_path / "table.csv")
    assert len(rows) == 3 and Path(rows[2]["file"]).name == r"red \x1b[31m \x9b2J.png"
    said = capsys.readouterr()
    assert sum(str(tmp_path) in line for line in said.out.splitlines()) == 3
    assert (said.out + said.err).replace("\n", "").isprintable()  # an escape rules the terminal


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "image.png")
    with pytest.raises(InputError, match="no regular file"):
        seen(tmp_path / "image.png")


def test_a_path_too_long_for_the_system_is_no_file(checkpoint, capsys):
    assert status_of(predict.main, ["x" * 5000 + ".png", "--checkpoint", str(checkpoint)]) == 2
    assert "no such file" in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="links need a right there that few have")
def test_a_link_to_nowhere_is_told_and_the_others_are_predicted(checkpoint, tmp_path, capsys):
    (tmp_path / "link.png").symlink_to("gone.png")
    PICTURE.save(tmp_path / "röntgen 胸部.png")
    table = tmp_path / "table.csv"
    arguments = ["--checkpoint", str(checkpoint), "--device", "cpu", "--csv", str(table)]
    assert status_of(predict.main, [str(tmp_path), *arguments]) == 1
    told = "is a link to 'gone.png', and there is no such file"
    assert f"{tmp_path / 'link.png'}: {told}" in capsys.readouterr().err
    failed, predicted = read_table(table)
    assert failed["warnings"] == told and failed["probability"] == ""
    assert predicted["file"] == str(tmp_path / "röntgen 胸部.png")
    assert status_of(predict.main, [str(tmp_path / "link.png"), *arguments[:4]]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_table_does_not_replace_a_pipe_or_a_device(checkpoint, tmp_path, capsys):
    PICTURE.save(tmp_path / "image.png")
    os.mkfifo(tmp_path / "pipe.csv")
    arguments = [str(tmp_path / "image.png"), "--checkpoint", str(checkpoint)]
    assert status_of(predict.main, [*arguments, "--csv", str(tmp_path / "pipe.csv")]) == 2
    assert "pipe.csv' is no regular file" in capsys.readouterr().err
    with pytest.raises(FileExistsError, match="is no regular file"):
        atomic_write(tmp_path / "pipe.csv", "text")
    assert (tmp_path / "pipe.csv").is_fifo() and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("in_files", [True, False])
def test_files_are_written_when_nobody_reads_what_is_printed(in_files, checkpoint, tmp_path):
    for name in ("a.png", "b.png"):
        PICTURE.save(tmp_path / name)
    words = [str(tmp_path), "--checkpoint", str(checkpoint), "--device", "cpu"]
    words += ["--csv", str(tmp_path / "table.csv")] if in_files else []
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, str(ROOT / "predict.py"), *words],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    os.close(writer)
    assert done.returncode == int(not in_files)
    if in_files:
        assert "stopped" not in done.stderr
        assert [Path(row["file"]).name for row in read_table(tmp_path / "table.csv")] == [
            "a.png",
            "b.png",
        ]
    else:
        assert "stopped: Broken pipe" in done.stderr


def test_a_full_disk_is_told_with_what_the_command_does_next(
    checkpoint, tmp_path, monkeypatch, capsys
):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(predict, "write_csv", full)
    (tmp_path / "a.png").write_bytes(encoded(PICTURE, "PNG"))
    arguments = ["--checkpoint", str(checkpoint), "--csv", str(tmp_path / "t.csv")]
    assert status_of(predict.main, [str(tmp_path / "a.png"), *arguments]) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.endswith("the same command starts again once that is mended")


def test_ctrl_c_ends_in_one_line_and_without_a_table(checkpoint, tmp_path, monkeypatch, capsys):
    PICTURE.save(tmp_path / "image.png")
    (tmp_path / "table.csv").write_text("")

    def stopped(*arguments):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(predict, "read_xray", stopped)
    arguments = [str(tmp_path / "image.png"), "--checkpoint", str(checkpoint), "--device", "cpu"]
    assert status_of(predict.main, [*arguments, "--csv", str(tmp_path / "table.csv")]) == 130
    told = capsys.readouterr().err.splitlines()
    assert told[-1] == "interrupted: the same command starts again"
    assert (tmp_path / "table.csv").read_text() == ""
