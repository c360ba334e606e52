"""The data: chest X-rays of ChestMNIST in two classes, cardiomegaly (0) and pneumothorax (1).

    from datareader import get_data_loaders
    train, val, test = get_data_loaders(batch_size=32)
    images, labels = next(iter(train))  # (32, 1, 28, 28) floats in 0..1, (32,) floats 0 or 1

An image is kept when exactly one of its 14 labels is set, and that one is cardiomegaly or
pneumothorax. Run as a script, this file prints the number of images per split and class, and draws
a page of random training images of both classes, or it makes npz files:

    python datareader.py [--data FILE.npz] [--out DIR]
    python datareader.py split FILE.npz --val 0.15    # val images out of train's, by patient
    python datareader.py pack FOLDER CSV --size 28    # of pictures and their labels
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import chestlab  # noqa: F401  # before PyTorch, for which it sets environment variables

# isort: split
import numpy as np
import PIL.Image
import torch
from torch.utils.data import DataLoader, Dataset

from chestlab.data.phantom import OFFICIAL_COUNTS
from chestlab.data.sources import is_file_name, load
from chestlab.data.splits import CLASS_NAMES, SPLITS, TwoClassData
from chestlab.files import notebook
from chestlab.files.atomic import check_writable, make_folder
from chestlab.files.errors import InputError, OneLineParser, one_line_errors
from chestlab.files.progress import StopSignals

ROWS, COLUMNS = 3, 7  # of the sample images of a class


class ChestMNISTTwoClass(Dataset):
    """One split of the two-class data, an image at a time.

    Args:
        split: ``train``, ``val`` or ``test``.
        data: ``auto`` (the official file, downloaded if need be, or marked phantoms where it
            cannot be had), ``chestmnist``, ``phantom``, the path of an npz file in ChestMNIST's
            layout, or data that `chestlab.data.sources.load` has read already.
        transform: gets a grey PIL image of S x S pixels, as in torchvision's data sets.
        root: folder of the official files; None is ``~/.medmnist``.
        source_size: 28 (None), 64, 128 or 224 pixels, of the official or phantom images.

    Attributes:
        split: `chestlab.data.splits.Split` with ``images`` (N, S, S) uint8 and ``labels`` (N,)
            uint8; its ``to(device)`` gives all of them as two tensors on a device.
        classes: names of classes 0 and 1.
        source: where the images are from, in one line.

    Raises:
        InputError: no such split, or the file is missing, damaged or of another layout.
    """

    classes = CLASS_NAMES

    def __init__(
        self,
        split: str,
        data: str | Path | TwoClassData = "auto",
        transform: Callable[[PIL.Image.Image], Any] | None = None,
        root: Path | None = None,
        source_size: int | None = None,
    ) -> None:
        if split not in SPLITS:
            raise InputError(f"split '{split}': allowed are {', '.join(SPLITS)}")
        if not isinstance(data, TwoClassData):
            data = load(str(data), root, source_size)
        self.split = getattr(data, split)
        self.source = data.source
        self.transform = transform

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[Any, torch.Tensor]:
        """Image and label (0-d float32) of one row.

        The image is what ``transform`` returns, or a (1, S, S) float32 tensor in 0..1.
        """
        pixels = self.split.images[index]
        label = torch.tensor(self.split.labels[index], dtype=torch.float32)
        if self.transform is not None:
            return self.transform(PIL.Image.fromarray(pixels)), label
        return torch.from_numpy(pixels)[None].float() / 255, label


def get_data_loaders(
    batch_size: int = 32,
    data: str | Path | TwoClassData = "auto",
    transform: Callable[[PIL.Image.Image], Any] | None = None,
    train_transform: Callable[[PIL.Image.Image], Any] | None = None,
    num_workers: int = 0,
    root: Path | None = None,
    source_size: int | None = None,
) -> tuple[DataLoader, DataLoader, DataLoader]:
    """Loaders of train (shuffled), val and test.

    Args:
        batch_size: images in a batch.
        data: see `ChestMNISTTwoClass`.
        transform: of every image, see `ChestMNISTTwoClass`.
        train_transform: takes its place in train, for augmentation.
        num_workers: processes that prepare images; 0 does it in this one. On Windows and macOS
            more than 0 needs transforms that can be pickled (no lambda), and a script whose code
            is below ``if __name__ == "__main__":``.
        root, source_size: see `ChestMNISTTwoClass`.

    Returns:
        Three loaders of batches (N, 1, S, S) float32 in 0..1 and labels (N,) float32.

    Raises:
        InputError: the file is missing, damaged or of another layout.
    """
    if not isinstance(data, TwoClassData):
        data = load(str(data), root, source_size)
    loaders = []
    for name in SPLITS:
        training = name == "train"
        dataset = ChestMNISTTwoClass(
            name, data, (train_transform or transform) if training else transform
        )
        loaders.append(DataLoader(dataset, batch_size, shuffle=training, num_workers=num_workers))
    return tuple(loaders)


def counts_table(data: TwoClassData) -> str:
    """Images per split and class; of the official file with the published counts beside them."""
    official = data.source.startswith("ChestMNIST ")
    heading = f"{'split':<6}{CLASS_NAMES[0]:>14}{CLASS_NAMES[1]:>14}{'total':>8}{'ratio':>9}"
    lines = [data.source, heading + (f"{'published':>16}" if official else "")]
    for name, counts in data.counts().items():
        first, second = counts.values()
        ratio = f"1:{second / first:.2f}"
        line = f"{name:<6}{first:>14,}{second:>14,}{first + second:>8,}{ratio:>9}"
        if official:
            published = "{:,} + {:,}".format(*OFFICIAL_COUNTS[name])
            line += f"{published:>16}"
        lines.append(line)
    return "\n".join(lines)


def draw_samples(data: TwoClassData, path: Path, seed: int = 0) -> None:
    """Draw random training images of both classes on one page.

    Args:
        data: its ``train`` is drawn from.
        path: PNG to write; its folder must exist.
        seed: chooses the images.
    """
    from chestlab.reporting.style import (
        GREY,
        INK,
        NORMAL,
        SMALL,
        WIDTH,
        reduced,
        save_figure,
        titled_figure,
    )  # fmt: skip

    rng = np.random.default_rng(seed)
    height = WIDTH * ROWS / COLUMNS
    figure = titled_figure(f"Random training images · {data.source}", 2 * (height + 0.35) + 0.3)
    for label, axes in enumerate(figure.subplots(2, 1)):
        rows = np.flatnonzero(data.train.labels == label)
        chosen = rng.permutation(rows)[: ROWS * COLUMNS]
        tiles = [
            np.pad(reduced(image), 1, constant_values=255) for image in data.train.images[chosen]
        ]
        side = len(tiles[0])
        blank = np.full((side, side), 255.0)
        tiles += [blank] * (ROWS * COLUMNS - len(tiles))
        page = np.array(tiles).reshape(ROWS, COLUMNS, side, side).transpose(0, 2, 1, 3)
        page = page.reshape(ROWS * side, COLUMNS * side)
        axes.imshow(page, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        title = f"class {label}, {CLASS_NAMES[label]}: {len(chosen)} of {len(rows):,}"
        axes.set_title(title, fontsize=NORMAL, color=INK, loc="left")
        axes.axis("off")
    if data.credit:
        figure.supxlabel(data.credit, fontsize=SMALL, color=GREY)
    save_figure(figure, path)


def main() -> None:
    """Print the table of counts and draw the page of samples, or run a command."""
    from chestlab.runs.data_commands import COMMANDS, run_command
    from chestlab.runs.flags import add_classes, add_data, add_folder
    from chestlab.runs.naming import run_name

    words = notebook.command_line()
    if words and words[0] in COMMANDS:
        run_command(words)
        return
    parser = OneLineParser(
        description="Print the number of images per split and class, and draw a page of random "
        "training images, samples.png, in the folder --out.",
        epilog="Commands that make npz files: 'datareader.py split --help' (val or test images out "
        "of train's) and 'datareader.py pack --help' (of pictures and a table of labels).",
    )
    add_data(parser)
    add_classes(parser)
    add_folder(parser, "--out", "results")
    options = parser.parse_args(words)
    check_writable(options.out, "--out")
    data = load(options.data, options.root, options.source_size, classes=options.classes)
    print(counts_table(data))
    is_file = is_file_name(options.data)
    folder = options.out / ("phantom" if data.phantom and not is_file else "")
    make_folder(folder)
    path = folder / f"{run_name('samples', options.data, data.size)}.png"
    draw_samples(data, path)
    print(f"sample images: {path}")
    notebook.show([path])


if __name__ == "__main__":
    with one_line_errors(resume=None), StopSignals():
        main()
