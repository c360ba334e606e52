"""Numbers at their limits: losses that are not finite, splits and batches of one, odd sizes."""

from __future__ import annotations

import csv
import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from conftest import TINY, run_in_process
from tiny_train import RECIPE, TinyNet
from torch import nn

from chestlab.data import sources, splits
from chestlab.data.phantom import make_phantom
from chestlab.files.checkpoint import load_checkpoint
from chestlab.files.errors import TrainingError
from chestlab.runs import run as run_module
from chestlab.training.augment import to_input
from chestlab.training.recipe import Recipe
from chestlab.training.trainer import Trainer

pytestmark = pytest.mark.filterwarnings("error")  # a user would see them on stderr

STEPS = 4  # to an epoch of the runs here: 64 images in batches of 16


@pytest.fixture
def start(tmp_path, phantom_npz, capsys, monkeypatch):
    """Start a training script within this process: exit status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def start(*flags, build=TinyNet, data=phantom_npz):
        capsys.readouterr()
        status = 0
        try:
            arguments = ("--data", data, "--device", "cpu", "--name", "one", *flags)
            run_module.run(build, {"report": RECIPE}, list(map(str, arguments)))
        except SystemExit as end:
            status = end.code
        return status, *capsys.readouterr()

    return start


def breaking(value, batch, training=True):
    """TinyNet, but from batch number ``batch`` on every output is ``value``."""

    class Net(TinyNet):
        batches = 0

        def forward(self, x):
            if self.training == training:
                Net.batches += 1
            logits = super().forward(x)
            broken = self.training == training and Net.batches >= batch
            return logits * value if broken else logits

    Net.__name__ = TinyNet.__name__
    return Net


def tensors(labels, side=8, seed=0):
    """Random images, and the labels given."""
    g = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (len(labels), 1, side, side), generator=g, dtype=torch.uint8)
    return images, torch.tensor(labels, dtype=torch.float32)


# Losses that are not finite.


@pytest.mark.parametrize(
    ("value", "batch"), [(math.nan, 1), (math.nan, 2 * STEPS + 3), (math.inf, STEPS + 1)]
)
def test_a_training_loss_that_is_not_finite_stops_the_run_with_epoch_step_and_rate(
    value, batch, start, tmp_path, no_pictures
):
    status, _, err = start("--schedule", "constant", build=breaking(value, batch))
    assert status == 1
    assert len(err.splitlines()) == 1
    epoch, step = (batch - 1) // STEPS + 1, (batch - 1) % STEPS + 1
    assert f"not finite in epoch {epoch}, step {step} of {STEPS}, at learning rate 0.01" in err

    last = tmp_path / "trained_models" / "one_last.pth"
    assert last.exists() == (epoch > 1)
    if last.exists():
        kept = load_checkpoint(last)["trainer"]
        assert len(kept["history"]) == epoch - 1
        assert all(torch.isfinite(tensor).all() for tensor in kept["model"].values())

        status, _, err = start("--schedule", "constant", "--resume", build=breaking(value, 1))
        assert status == 1
        assert f"not finite in epoch {epoch}, step 1" in err
        status, _, err = start("--schedule", "constant", "--resume")
        assert status == 0, err


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_validation_loss_that_is_not_finite_stops_the_run_and_is_never_the_best(
    value, start, tmp_path
):
    status, _, err = start(build=breaking(value, batch=2, training=False))
    assert status == 1
    assert len(err.splitlines()) == 1
    assert "validation loss is not finite after epoch 2" in err and "learning rate" in err
    last = load_checkpoint(tmp_path / "trained_models" / "one_last.pth")
    assert len(last["trainer"]["history"]) == 1
    best = load_checkpoint(tmp_path / "trained_models" / "one_best.pth")
    assert best["epoch"] == 1


def test_an_absurd_rate_ends_the_command_with_one_line(tmp_path, phantom_npz):
    """Decay times rate is 100 here, so every step makes the weights 99 times larger."""
    flags = ("--lr", 10, "--weight-decay", 10, "--schedule", "constant", "--epochs", 50)
    result = run_in_process(TINY, "--data", phantom_npz, "--name", "one", *flags, cwd=tmp_path)
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert "not finite" in result.stderr and "at learning rate 10:" in result.stderr
    assert load_checkpoint(tmp_path / "trained_models" / "one_last.pth")


# Batches and splits of one class or one image.


@pytest.mark.parametrize("label", [0, 1])
def test_a_batch_of_one_class_trains_like_any_other(label):
    recipe = dataclasses.replace(RECIPE, batch_size=8, epochs=1)
    trainer = Trainer(TinyNet, recipe, tensors([label] * 16, side=28), tensors([0, 1], side=28))
    row = trainer.run_epoch()
    assert math.isfinite(row["train_loss"])
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())


def test_a_validation_split_of_one_class_has_no_auc_and_does_not_choose_by_it():
    recipe = dataclasses.replace(RECIPE, epochs=3, monitor="val_loss", patience=3)
    trainer = Trainer(TinyNet, recipe, tensors([0, 1] * 8, side=28), tensors([1, 1], side=28))
    while not trainer.finished:
        trainer.run_epoch()
    assert all(math.isnan(row["val_auc"]) for row in trainer.history)
    losses = [row["val_loss"] for row in trainer.history]
    assert trainer.best_epoch == 1 + losses.index(min(losses))


def test_validation_and_test_splits_with_one_image_per_class_get_every_figure(start, tmp_path):
    data = tmp_path / "few.npz"
    np.savez(data, **make_phantom(size=28, train=64, val=2, test=2, seed=5))
    status, _, err = start(data=data)
    assert status == 0, err
    metrics = json.loads((tmp_path / "results" / "one" / "metrics.json").read_text())
    for split in ("val", "test"):
        assert metrics[split]["n"] == 2
        assert sum(map(sum, metrics[split]["confusion"])) == 2
        assert metrics[split]["auc"] in (0.0, 0.5, 1.0)
        low, high = metrics[split]["accuracy_ci95"]
        assert 0 <= low <= metrics[split]["accuracy"] <= high <= 1
        assert all(math.isfinite(bound) for bound in metrics[split]["auc_ci95"])


class FlatNorm(nn.Module):
    """Batch norm over features that have no extent in space, which fails for a batch of one."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)
        )

    def forward(self, x):
        return self.layers(x).squeeze(1)


@pytest.mark.parametrize("accumulation", [1, 2, 3])
@pytest.mark.parametrize("n", [2, 3, 4, 5, 8, 9, 11, 12, 13, 17])
def test_no_batch_of_one_meets_batch_norm(n, accumulation):
    recipe = Recipe(name="r", batch_size=4, accumulation=accumulation, epochs=2)
    trainer = Trainer(FlatNorm, recipe, tensors([i % 2 for i in range(n)]), tensors([0, 1]))
    while not trainer.finished:
        row = trainer.run_epoch()
        assert math.isfinite(row["train_loss"])
    assert n - 1 <= trainer.images_per_epoch <= n


# Schedules in the shortest of runs.


@pytest.mark.parametrize("schedule", ["onecycle", "cosine", "step", "plateau"])
def test_one_epoch_with_warm_up_is_a_run(schedule, start, tmp_path, no_pictures):
    """A quarter of four steps is one step of warm-up, where PyTorch's OneCycleLR divides by 0."""
    status, _, err = start("--epochs", 1, "--schedule", schedule, "--warmup", 0.25)
    assert status == 0, err
    with (tmp_path / "results" / "one" / "history.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert 0 < float(row["lr"]) <= 0.01


# Unusual images and labels.


def reversed_labels(path, source):
    """The same images, with the labels of the two classes exchanged."""
    with np.load(source) as arrays:
        content = dict(arrays)
    for split in splits.SPLITS:
        labels = content[f"{split}_labels"]
        first, second = splits.CLASS_COLUMNS
        labels[:, [first, second]] = labels[:, [second, first]]
    np.savez(path, **content)


def test_labels_reversed_in_the_file_reverse_the_figures(tmp_path, phantom_npz):
    """The same weights on the mirrored file: AUC and accuracy at 0.5 are one minus their own."""
    reversed_labels(tmp_path / "reversed.npz", phantom_npz)
    straight = sources.load(str(phantom_npz)).val
    mirrored = sources.load(str(tmp_path / "reversed.npz")).val
    assert np.array_equal(straight.images, mirrored.images)
    assert np.array_equal(straight.labels, 1 - mirrored.labels)

    recipe = dataclasses.replace(RECIPE, epochs=1, lr=1e-12)
    train = sources.load(str(phantom_npz)).train.to("cpu")
    rows = [
        Trainer(TinyNet, recipe, train, split.to("cpu")).run_epoch()
        for split in (straight, mirrored)
    ]
    assert rows[1]["val_auc"] == pytest.approx(1 - rows[0]["val_auc"], abs=1e-12)
    assert rows[1]["val_accuracy"] == pytest.approx(1 - rows[0]["val_accuracy"], abs=1e-12)


@pytest.mark.parametrize("normalize", ["fixed", "per-image"])
@pytest.mark.parametrize("value", [0, 128, 255])
def test_constant_images_stay_finite_through_normalisation_warp_and_a_step(normalize, value):
    recipe = dataclasses.replace(RECIPE, normalize=normalize, translate=0.2, scale=0.2, epochs=1)
    images = torch.full((16, 1, 28, 28), value, dtype=torch.uint8)
    labels = (torch.arange(16) % 2).float()
    generator = torch.Generator().manual_seed(0)
    assert torch.isfinite(to_input(images, recipe)).all()
    assert torch.isfinite(to_input(images, recipe, generator)).all()
    if normalize == "per-image":
        assert to_input(images, recipe).abs().max() < 1e-3
    trainer = Trainer(TinyNet, recipe, (images, labels), (images, labels))
    row = trainer.run_epoch()
    assert all(math.isfinite(value) for value in row.values())
    assert row["val_auc"] == 0.5


@pytest.mark.parametrize("side", [16, 33])
def test_unusual_image_sizes_train(side):
    recipe = dataclasses.replace(RECIPE, batch_size=4, epochs=1)
    data = tensors([0, 1] * 4, side=side)
    assert all(map(math.isfinite, Trainer(TinyNet, recipe, data, data).run_epoch().values()))


@pytest.mark.parametrize(("source", "wanted"), [(33, 16), (16, 33)])
def test_unusual_sizes_of_file_and_network_make_a_whole_run(source, wanted, start, tmp_path):
    data = tmp_path / "odd.npz"
    np.savez(data, **make_phantom(size=source, train=20, val=4, test=4, seed=6))
    status, out, err = start("--image-size", wanted, "--epochs", 1, data=data)
    assert status == 0, err
    assert f"{wanted} px" in out


def test_the_error_of_the_engine_names_the_rate_of_the_very_step():
    recipe = dataclasses.replace(RECIPE, schedule="onecycle", warmup=0.5, epochs=2)
    data = tensors([0, 1] * 32, side=28)
    undisturbed = Trainer(TinyNet, recipe, data, data)
    rates = []
    undisturbed.on_step = lambda: rates.append(undisturbed.optimizer.param_groups[0]["lr"])
    undisturbed.run_epoch()
    with pytest.raises(TrainingError, match=rf"epoch 1, step 3 of 4, at .* {rates[1]:.3g}:"):
        Trainer(breaking(math.nan, 3), recipe, data, data).run_epoch()
