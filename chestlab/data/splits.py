"""The images of a data set in their splits, with labels, row numbers and patients."""

from __future__ import annotations

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

PATIENT_CHARACTERS = 8  # of an NIH file name: 00000013_005.png is image 5 of patient 00000013


@dataclass(frozen=True)
class Split:
    """The images of one split, in the order of the source.

    Attributes:
        images: (N, S, S) uint8.
        labels: (N,) uint8, 0 cardiomegaly, 1 pneumothorax; or (N, 14) of 0 and 1, `FINDINGS`.
        index: (N,) int64, row in the source's split.
        names: (N,) file names, or None where the source has none.
        origin: (N,) name of each image's split in the source, where several were joined.
    """

    images: np.ndarray
    labels: np.ndarray
    index: np.ndarray
    names: np.ndarray | None = None
    origin: np.ndarray | None = None

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
        )

    @property
    def patients(self) -> np.ndarray | None:
        """(N,) patient of each image, or None where the source has no names."""
        return None if self.names is None else self.patients_of(self.names)

    def shares_patients(self, other: Split) -> np.ndarray:
        """(N,) booleans: whether an image of the same patient is in ``other``.

        Raises:
            ValueError: the patients of either are unknown.
        """
        patients, others = self.patients, other.patients
        if patients is None or others is None:
            raise ValueError("the source has no file names, so that its patients are unknown")
        return np.isin(patients, others)

    @staticmethod
    def patients_of(names: np.ndarray) -> np.ndarray:
        """File names (N,) to patients (N,)."""
        return names.astype(f"U{PATIENT_CHARACTERS}")

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

    @property
    def size(self) -> int:
        """Side of the source images in pixels."""
        return int(self.train.images.shape[1])


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


def two_class_mask(labels: np.ndarray) -> np.ndarray:
    """(N, 14) flags to (N,) booleans: exactly one flag, and that one column 1 or 7."""
    return (labels.sum(1, dtype=np.int64) == 1) & labels[:, CLASS_COLUMNS].any(1)


def related_mask(labels: np.ndarray) -> np.ndarray:
    """(N, 14) flags to (N,) booleans: several flags, and exactly one of columns 1 and 7."""
    one_of_two = labels[:, CLASS_COLUMNS].sum(1, dtype=np.int64) == 1
    return one_of_two & (labels.sum(1, dtype=np.int64) > 1)
