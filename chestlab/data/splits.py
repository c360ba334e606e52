"""The images of a data set in their splits, with labels, row numbers and patients."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

SPLITS = ("train", "val", "test")

CLASS_NAMES = ("cardiomegaly", "pneumothorax")

CLASS_COLUMNS = (1, 7)  # of the 14 ChestMNIST labels

FINDINGS = (  # MedMNIST's order of the label columns
    "atelectasis",
    "cardiomegaly",
    "effusion",
    "infiltration",
    "mass",
    "nodule",
    "pneumonia",
    "pneumothorax",
    "consolidation",
    "edema",
    "emphysema",
    "fibrosis",
    "pleural thickening",
    "hernia",
)

OFFICIAL_IMAGES = {"train": 78_468, "val": 11_219, "test": 22_433}

SOURCE_SIZES = (28, 64, 128, 224)

NIH_CREDIT = "X-rays: NIH Clinical Center, ChestX-ray14 (Wang et al., CVPR 2017)"

_NIH_NAME = re.compile(r"([0-9]{8})_[0-9]{3}\.png", re.IGNORECASE)  # image 5 of patient 00000013


@dataclass(frozen=True)
class Split:
    """The images of one split, in the order of the source.

    Attributes:
        images: (N, S, S) uint8.
        labels: (N,) uint8, 0 cardiomegaly, 1 pneumothorax; or (N, 14) of 0 and 1, `FINDINGS`.
        index: (N,) int64, row in the source's split.
        names: (N,) file names, or None where the source has none.
        origin: (N,) name of each image's split in the source, where several were joined.
        patients: (N,) text, the patient of each image, or None where they are unknown; see
            `npz.filter_npz` for where they come from.
    """

    images: np.ndarray
    labels: np.ndarray
    index: np.ndarray
    names: np.ndarray | None = None
    origin: np.ndarray | None = None
    patients: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: np.ndarray) -> Split:
        """The images of ``rows`` (integers or booleans)."""
        return Split(
            self.images[rows],
            self.labels[rows],
            self.index[rows],
            None if self.names is None else self.names[rows],
            None if self.origin is None else self.origin[rows],
            None if self.patients is None else self.patients[rows],
        )

    def shares_patients(self, other: Split) -> np.ndarray:
        """(N,) booleans: whether an image of the same patient is in ``other``.

        Raises:
            ValueError: the patients of either are unknown.
        """
        if self.patients is None or other.patients is None:
            raise ValueError("the patients are unknown")
        return np.isin(self.patients, other.patients)

    def to(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Images (N, 1, S, S) uint8 and labels (N,) or (N, 14) float32 on ``device``."""
        import torch

        images = torch.from_numpy(self.images)[:, None].to(device)
        return images, torch.from_numpy(self.labels).to(device, torch.float32)


@dataclass(frozen=True)
class Data:
    """Train, val and test, with their source.

    Attributes:
        source: one readable line, e.g. ``ChestMNIST 28 px`` or a file's name.
        sha256: of the source file; of the arrays for a phantom made in memory.
        phantom: the images are procedural and no X-rays.
        fold: name of the cross-validation fold that is held out, or empty.
        held_out: images of that fold; None where there is no fold, or val is the fold.
        related: training images that show one of the two classes beside other findings; None
            where they were not requested.
        warnings: what is wrong with the source, a sentence each: patients that cannot be read from
            its names, and what `leaks.split_warnings` finds.
        notes: what was converted when the source was read, a sentence each.
        classes: names of the classes that labels 0 and 1 of the source stand for, where the flag
            ``--classes`` told them.
    """

    train: Split
    val: Split
    test: Split
    source: str
    sha256: str
    phantom: bool = False
    fold: str = ""
    held_out: Split | None = None
    related: Split | None = None
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    classes: tuple[str, ...] | None = None

    @property
    def size(self) -> int:
        """Side of the source images in pixels."""
        return int(self.train.images.shape[1])

    @property
    def credit(self) -> str:
        """Whose X-rays they are, for the foot of a picture; empty where that is not known.

        NIH's are those with NIH's file names, and, without names, a file in ChestMNIST's layout.
        """
        if self.phantom or self.classes is not None:
            return ""
        names = self.train.names
        return NIH_CREDIT if names is None or nih_patients(names) is not None else ""


class TwoClassData(Data):
    """Images with exactly one finding, cardiomegaly or pneumothorax; labels (N,)."""

    def counts(self) -> dict[str, dict[str, int]]:
        """Images per split and class."""
        return {
            name: {
                c: int((getattr(self, name).labels == k).sum()) for k, c in enumerate(CLASS_NAMES)
            }
            for name in SPLITS
        }


class FindingsData(Data):
    """All images of the source; labels (N, 14)."""

    def counts(self) -> dict[str, dict[str, int]]:
        """Images per split and finding; one image can have several findings, or none."""
        return {
            name: dict(zip(FINDINGS, getattr(self, name).labels.sum(0).tolist(), strict=True))
            for name in SPLITS
        }


def nih_patients(names: np.ndarray) -> np.ndarray | None:
    """Patients (N,) of images with NIH's file names (N,), or None if any name is of another kind.

    NIH ChestX-ray14 (Wang et al., CVPR 2017) numbers its images by patient: ``00000013_005.png``.
    Folders before the name, with either separator, and the suffix's case do not matter.
    """
    matches = [_NIH_NAME.fullmatch(_last_component(name)) for name in names.tolist()]
    patients = [match[1] for match in matches if match is not None]
    return np.array(patients, dtype="U8") if len(patients) == len(matches) else None


def image_keys(names: np.ndarray) -> np.ndarray:
    """Texts (N,) that are equal for two names of one image.

    For NIH's file names, which are unique, that is the name without its folder; for others it is
    the whole name, because ``train/1.png`` and ``test/1.png`` are different images.
    """
    keys = []
    for name in names.tolist():
        last = _last_component(name)
        keys.append(last.lower() if _NIH_NAME.fullmatch(last) else name)
    return np.array(keys, dtype=str)


def _last_component(path: str) -> str:
    """A path's part after the last separator of any system."""
    return re.split(r"[\\/]", path)[-1]


def two_class_mask(labels: np.ndarray) -> np.ndarray:
    """(N, 14) flags to (N,) booleans: exactly one flag, and that one column 1 or 7."""
    return (labels.sum(1, dtype=np.int64) == 1) & labels[:, CLASS_COLUMNS].any(1)


def related_mask(labels: np.ndarray) -> np.ndarray:
    """(N, 14) flags to (N,) booleans: several flags, and exactly one of columns 1 and 7."""
    one_of_two = labels[:, CLASS_COLUMNS].sum(1, dtype=np.int64) == 1
    return one_of_two & (labels.sum(1, dtype=np.int64) > 1)
