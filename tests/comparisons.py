"""Shared by the tests of cross-validated comparisons: a network that knows a share of the truth."""

import dataclasses

import numpy as np
import pytest
from tiny_train import TinyNet

import networks
from chestlab.data.splits import FINDINGS
from chestlab.runs import crossval
from chestlab.training.recipe import Recipe, hyperparameter
from studies import study

BASE = Recipe(name="tiny", epochs=2, batch_size=16, lr=1e-2, monitor="last", flip=0.5, seed=7)
LABELS = 0.7  # what the truth adds to a logit of the base


class TinyChest(TinyNet):
    """`TinyNet` with a dropout that is a flag."""

    def __init__(self, dropout=0.2):
        super().__init__()
        self.layers[7].p = dropout


@pytest.fixture
def tiny_networks(monkeypatch):
    """Every name is the tiny network, with one recipe."""
    found = networks.Network(
        "train_tiny",
        TinyChest,
        {"report": BASE},
        {"dropout": hyperparameter(0.2, "", low=0, high=0.9)},
    )
    monkeypatch.setattr(study, "network", lambda name, device="auto": found)
    return found


@pytest.fixture(scope="module")
def named_npz(phantom_npz, tmp_path_factory):
    """The small phantom with NIH's file names, two images a patient, and other findings."""
    with np.load(phantom_npz) as source:
        arrays = dict(source)
    labels, count = arrays["train_labels"], 0
    labels[40:] = 0
    labels[40::2, FINDINGS.index("mass")] = 1
    for split in ("train", "val", "test"):
        numbers = count + np.arange(len(arrays[f"{split}_labels"]))
        patients = numbers // 2
        if split == "train":  # other findings are of patients of the classes as well, and of others
            patients[40:] = np.arange(len(numbers) - 40)
        names = zip(patients, numbers, strict=True)
        arrays[f"{split}_names"] = np.array([f"{p:08}_{n:03}.png" for p, n in names])
        count += len(numbers) + len(numbers) % 2
    path = tmp_path_factory.mktemp("named") / "named.npz"
    np.savez(path, **arrays)
    return path


@pytest.fixture
def trained(monkeypatch):
    """Training is left out: logits are noise of the seed and as much of the truth as deserved.

    Without flipping, and with rotation, less of it; with per-image normalisation more. The list
    holds the configuration of every network that would have been trained.
    """
    done = []

    def train_fold(configuration, splits, fold, device, on_step):
        on_step()
        recipe = configuration.recipe
        skill = LABELS + 2 * (recipe.normalize == "per-image")
        skill -= 0.6 * (recipe.flip == 0) + 0.6 * (recipe.rotate > 0)
        # noise of the image and the seed, the same for every configuration
        noise = np.array(
            [np.random.default_rng([recipe.seed, int(i)]).normal() for i in fold.held_out.index]
        )
        done.append(dataclasses.replace(configuration))
        logits = skill * (2.0 * fold.held_out.labels - 1) + noise
        about = {"seconds": 1.0 + recipe.rotate, "epochs": 2, "best_epoch": 2}
        views = dict.fromkeys(crossval.VIEWS, logits.tolist())
        return {"logits": views, **about, "images": len(fold.train)}

    monkeypatch.setattr(crossval, "train_fold", train_fold)
    return done
