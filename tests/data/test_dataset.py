"""`datareader.py`: the data set, its loaders, the table of counts and the page of samples."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import run_script
from PIL import Image
from torchvision import transforms

import datareader
from chestlab.data.phantom import OFFICIAL_COUNTS, PHANTOM_MARK
from chestlab.data.sources import load
from chestlab.data.splits import SPLITS, Split, TwoClassData
from chestlab.files.errors import InputError
from datareader import ChestMNISTTwoClass, get_data_loaders


def flipped(image: Image.Image) -> torch.Tensor:
    """A transform that worker processes can unpickle."""
    assert isinstance(image, Image.Image) and image.mode == "L"
    return transforms.functional.to_tensor(transforms.functional.hflip(image))


def test_items_are_the_images_of_the_split_as_totensor_makes_them(phantom_npz):
    dataset = ChestMNISTTwoClass("val", phantom_npz)
    split = load(str(phantom_npz)).val
    with_transform = ChestMNISTTwoClass("val", phantom_npz, transforms.ToTensor())
    assert len(dataset) == len(split) == 24
    for row, (pixels, label) in enumerate(zip(split.images, split.labels, strict=True)):
        image, target = dataset[row]
        assert image.shape == (1, 28, 28) and image.dtype == target.dtype == torch.float32
        np.testing.assert_array_equal(image[0], np.float32(pixels) / np.float32(255))
        assert target.shape == () and target == label
        assert torch.equal(with_transform[row][0], image)
    images, labels = dataset.split.to(torch.device("cpu"))
    assert torch.equal(images[5].float() / 255, dataset[5][0]) and labels[5] == dataset[5][1]
    assert dataset.classes[1] == "pneumothorax" and PHANTOM_MARK in dataset.source


@pytest.mark.parametrize("workers", [0, 2])
def test_loaders_give_every_image_once_and_shuffle_train_alone(phantom_npz, workers):
    data = load(str(phantom_npz))
    loaders = get_data_loaders(10, phantom_npz, train_transform=flipped, num_workers=workers)
    for name, loader in zip(SPLITS, loaders, strict=True):
        split = getattr(data, name)
        batches = list(loader)
        assert batches[0][0].shape == (10, 1, 28, 28) and batches[0][1].shape == (10,)
        images, labels = (torch.cat(parts).numpy() for parts in zip(*batches, strict=True))
        assert images.dtype == labels.dtype == np.float32
        wanted = split.images[:, None, :, ::-1] if name == "train" else split.images[:, None]
        pairs = zip(np.rint(255 * images).astype(np.uint8), labels, strict=True)
        rows = [(image.tobytes(), label) for image, label in pairs]
        expected = [(a.tobytes(), b) for a, b in zip(wanted, split.labels, strict=True)]
        assert sorted(rows) == sorted(expected)
        assert (rows == expected) == (name != "train")


def test_a_data_set_can_be_sent_to_a_process_that_is_started_anew(phantom_npz):
    """As Windows and macOS start workers."""
    dataset = ChestMNISTTwoClass("train", phantom_npz, flipped)
    loader = torch.utils.data.DataLoader(
        dataset, 32, num_workers=1, multiprocessing_context="spawn"
    )
    assert sum(len(labels) for _, labels in loader) == 64
    assert torch.equal(pickle.loads(pickle.dumps(dataset))[3][0], dataset[3][0])


def test_wrong_splits_and_files_are_named():
    with pytest.raises(InputError, match="train, val, test"):
        ChestMNISTTwoClass("validation", "phantom")
    with pytest.raises(InputError, match="no such file"):
        get_data_loaders(data="nothing.npz")


def test_counts_of_the_official_file_stand_beside_the_published_ones():
    def split(first: int, second: int) -> Split:
        labels = np.repeat(np.array([0, 1], np.uint8), [first, second])
        return Split(np.zeros((len(labels), 28, 28), np.uint8), labels, np.arange(len(labels)))

    splits = {name: split(*counts) for name, counts in OFFICIAL_COUNTS.items()}
    official = TwoClassData(**splits, source="ChestMNIST 28 px", sha256="")
    lines = datareader.counts_table(official).splitlines()
    assert lines[2].split() == ["train", "754", "1,552", "2,306", "1:2.06", "754", "+", "1,552"]
    assert [line.split()[-4] for line in lines[2:]] == ["1:2.06", "1:2.14", "1:1.81"]
    other = TwoClassData(**splits, source="file.npz", sha256="")
    assert datareader.counts_table(other).splitlines()[2].split()[-1] == "1:2.06"


def test_script_prints_the_counts_and_draws_one_page(phantom_npz, tmp_path):
    done = run_script("datareader.py", "--data", phantom_npz, "--out", "pages", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert PHANTOM_MARK in lines[0]
    counts = {line.split()[0]: line.split()[1:] for line in lines[2:5]}
    data = load(str(phantom_npz)).counts()
    for name in SPLITS:
        first, second = data[name].values()
        assert counts[name] == [
            str(first), str(second), str(first + second), f"1:{second / first:.2f}",
        ]  # fmt: skip
    (page,) = (tmp_path / "pages").iterdir()
    assert page.name == "samples_small.png" and str(Path("pages", page.name)) in lines[-1]
    assert 10_000 < page.stat().st_size < 300_000
    with Image.open(page) as picture:
        assert picture.width > 1000 and picture.height > 800


def test_the_page_of_large_images_stays_below_300_kb(tmp_path):
    noise = np.random.default_rng(0).integers(60, 200, (60, 224, 224), np.uint8)
    split = Split(noise, np.arange(60, dtype=np.uint8) % 2, np.arange(60))
    datareader.draw_samples(TwoClassData(split, split, split, "noise", ""), tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size < 300_000


@pytest.mark.parametrize(
    "arguments",
    [("--data", "nothing.npz"), ("--source-size", 30), ("--colour", "red")],
)
def test_wrong_flags_end_in_one_line(arguments, tmp_path):
    done = run_script("datareader.py", *arguments, cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
