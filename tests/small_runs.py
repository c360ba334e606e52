"""Shared by the tests of the 34-layer family: short flags, findings, Ctrl-C."""

import json
import signal

import numpy as np

from chestlab.data import splits
from chestlab.files.progress import Interrupted
from chestlab.training.trainer import Trainer

SMALL = ("--image-size", 32, "--width", 8, "--epochs", 2, "--device", "cpu", "--amp", "off")


def read_metrics(folder):
    return json.loads((folder / "metrics.json").read_text())


def findings_arrays(rng, sizes, names=True):
    """Labels of every kind: none, one, several; hernia in no image but the first of train."""
    arrays = {}
    for number, (split, n) in enumerate(zip(splits.SPLITS, sizes, strict=True)):
        labels = (rng.random((n, 14)) < 0.3).astype(np.uint8)
        labels[:, 13] = 0
        labels[0] = split == "train"
        labels[1] = 0
        labels[2], labels[3] = np.eye(14, dtype=np.uint8)[[1, 7]]
        arrays[f"{split}_images"] = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        arrays[f"{split}_labels"] = labels
        if names:
            patients = 1000 * number + np.arange(n) // 3
            image_names = [f"{patient:08d}_{k % 3:03d}.png" for k, patient in enumerate(patients)]
            arrays[f"{split}_names"] = np.array(image_names)
    return arrays


def stop_at_epoch(monkeypatch, number):
    """Ctrl-C in the ``number``-th epoch of this process."""
    epochs = []
    run_epoch = Trainer.run_epoch

    def counted(self):
        epochs.append(1)
        if len(epochs) == number:
            raise Interrupted(signal.SIGINT)
        return run_epoch(self)

    monkeypatch.setattr(Trainer, "run_epoch", counted)
    return epochs
