"""Negatives and images that are no X-rays, given to `predict.py`."""

import csv

import numpy as np
import pytest
from conftest import status_of
from PIL import Image

import predict
from chestlab.data.sources import load
from chestlab.files.checkpoint import load_checkpoint, save_checkpoint


@pytest.fixture(scope="module")
def checkpoint(run_of_one_epoch):
    return run_of_one_epoch[0] / "trained_models" / "one_best.pth"


@pytest.fixture
def negatives(run_of_one_epoch, tmp_path):
    """A folder with the negatives of the run's 24 test images, and the images' probabilities."""
    folder, data = run_of_one_epoch
    split = load(str(data)).test
    (tmp_path / "images").mkdir()
    for image, row in zip(split.images, split.index, strict=True):
        Image.fromarray(255 - image).save(tmp_path / "images" / f"{row:03}.png")
    table = read_table(folder / "results" / "one" / "test_probabilities.csv")
    return tmp_path / "images", [float(row["probability"]) for row in table]


def read_table(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def predicted(checkpoint, folder, table, *flags):
    arguments = ["--checkpoint", str(checkpoint), "--csv", str(table), "--device", "cpu"]
    assert status_of(predict.main, [str(folder), *arguments, *flags]) == 0
    rows = read_table(table)
    return [float(row["probability"]) for row in rows], [row["warnings"] for row in rows]


def test_negatives_are_warned_of_and_inverted_only_where_that_is_asked_for(
    checkpoint, negatives, tmp_path, capsys
):
    folder, stored = negatives
    left, warned = predicted(checkpoint, folder, tmp_path / "auto.csv")
    assert all("looks inverted (" in text for text in warned)
    printed = capsys.readouterr()
    assert "every image inverted" not in printed.out
    said = printed.err.splitlines()
    assert sum("WARNING: looks inverted (" in line for line in said) == len(stored) == 24
    silent, unsaid = predicted(checkpoint, folder, tmp_path / "no.csv", "--invert", "no")
    assert silent == left and not any("inverted" in text for text in unsaid)
    turned, settled = predicted(checkpoint, folder, tmp_path / "yes.csv", "--invert", "yes")
    assert turned == pytest.approx(stored, abs=1e-6) and turned != left
    assert not any("inverted" in text for text in settled)
    assert "every image inverted\n" in capsys.readouterr().out


def test_noise_is_marked_on_the_screen_and_in_the_table(checkpoint, tmp_path, capsys):
    (tmp_path / "images").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "images" / "noise.png")
    _, (warning,) = predicted(checkpoint, tmp_path / "images", tmp_path / "table.csv")
    assert warning.startswith("unlike the training images (distance ")
    assert f"noise.png: WARNING: {warning}" in capsys.readouterr().err


def test_a_checkpoint_without_statistics_says_once_what_is_not_judged(
    checkpoint, negatives, tmp_path, capsys
):
    state = load_checkpoint(checkpoint, sealed=True)
    del state["likeness"]
    save_checkpoint(tmp_path / "old_best.pth", state)
    _, warned = predicted(tmp_path / "old_best.pth", negatives[0], tmp_path / "table.csv")
    said = capsys.readouterr().err.splitlines()
    assert sum(line.startswith("NOTE: ") and "a new training" in line for line in said) == 1
    assert all("looks inverted (" in text and "unlike" not in text for text in warned)


def test_another_word_is_refused(checkpoint, negatives, capsys):
    arguments = [str(negatives[0]), "--checkpoint", str(checkpoint), "--invert", "perhaps"]
    assert status_of(predict.main, arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--invert" in line and all(word in line for word in ("auto", "yes", "no"))
