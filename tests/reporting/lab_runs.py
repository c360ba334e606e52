"""A run's folder as training leaves it, for the tests of lab reports."""

import csv
import json

import numpy as np
import torch

from chestlab.data.splits import CLASS_NAMES
from chestlab.evaluation.metrics import evaluate_probabilities
from chestlab.reporting import lab_report
from chestlab.reporting.stored_runs import read_two_class_run
from chestlab.training.recipe import Recipe, as_dict

SPLITS = {"train": (40, 60), "val": (12, 20), "test": (20, 32)}

EPOCHS = 12


def history_rows():
    """Validation loss lowest in epoch 6, validation accuracy highest in epoch 9."""
    rows = []
    for epoch in range(1, EPOCHS + 1):
        rows.append(
            {
                "epoch": epoch,
                "train_loss": 0.7 - 0.05 * epoch,
                "train_accuracy": 0.6 + 0.03 * epoch,
                "val_loss": 0.4 + 0.011 * abs(epoch - 6) ** 1.5,
                "val_accuracy": (20 + min(epoch, 18 - epoch)) / 32,
                "val_auc": 0.7 + 0.01 * epoch,
                "lr": 0.001,
                "seconds": 2.0 + epoch / 10,
            }
        )
    return rows


def write_run(folder, test=True, skill=1.2, history=True, **changes):
    """A run's folder as training leaves it; the kept epoch is the ninth of at most 40."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    figures = {}
    counts = {s: dict(zip(CLASS_NAMES, n, strict=True)) for s, n in SPLITS.items()}
    for split, (negatives, positives) in SPLITS.items():
        labels = np.array([0] * negatives + [1] * positives)
        probabilities = 1 / (1 + np.exp(-skill * (2 * labels - 1) - rng.normal(0, 1, len(labels))))
        patients = np.arange(len(labels)) // 2
        if split == "test" and not test:
            continue
        figures[split] = evaluate_probabilities(labels, probabilities, 0.45, patients)
        if split != "train":
            with (folder / f"{split}_probabilities.csv").open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(["index", "label", "probability"])
                columns = (3 * np.arange(len(labels))).tolist(), labels.tolist()
                writer.writerows(zip(*columns, probabilities.tolist(), strict=True))
    if history:
        with (folder / "history.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(history_rows()[0]))
            writer.writeheader()
            writer.writerows(history_rows())
    recipe = as_dict(Recipe(name="tiny", epochs=40, patience=3, lr=0.01, flip=0.5, rotate=10))
    metrics = {
        "name": folder.name,
        "model": "EfficientChestNet",
        "parameters": 1234,
        "data": {"source": "chestmnist_small.npz", "size": 28, "sha256": "ab" * 32}
        | {"counts": counts, "phantom": False},
        "recipe": recipe,
        "recipe_name": "report",
        "recipe_changes": {"lr": 0.01},
        "recipe_published": {"lr": 0.001},
        "seed": 7,
        "device": "cpu",
        "amp": "fp32",
        "torch": torch.__version__,
        "epochs_run": EPOCHS,
        "best_epoch": 9,
        "threshold": 0.45,
        "tta": "flip",
        "bootstrap_unit": "patient",
        "seconds": 83.4,
        "images_per_second": 456.0,
        "test": None,
        **figures,
        "architecture": [
            {"name": "a", "content": "Conv2d 3x3", "output": [8, 14, 14], "parameters": 1000}
            | {"multiply_accumulates": 2_500_000},
            {"name": "b", "content": "Linear", "output": [1], "parameters": 234}
            | {"multiply_accumulates": 1_230_000},
        ],
        "costs": {
            "input_size": 28,
            "multiply_accumulates": 3_730_000,
            "inference_batch1": {"median_ms": 1.25, "low_ms": 1.0, "high_ms": 1.5},
            "inference_batch64": None,
            "peak_memory_bytes": 12_345_678,
            "checkpoint_bytes": 5_000_000,
        },
        "warnings": [],
        **changes,
    }
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return metrics


def pages_of(folder, looks=()):
    """The run's report in English and in Indonesian."""
    run = read_two_class_run(folder / "metrics.json")
    paths = lab_report.write_lab_report(run, folder.parent, looks)
    assert [path.name for path in paths] == ["README.md", "README.id.md"]
    return [path.read_text(encoding="utf-8") for path in paths]
