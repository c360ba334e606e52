"""What shortens a training beside hyperparameters: sizes, first kernels, optimizer."""

import dataclasses
import sys
from collections import Counter

import pytest
import torch
from torch import nn

from chestlab.files.errors import InputError
from chestlab.training.augment import to_input
from chestlab.training.trainer import Trainer
from model import EfficientChestNet
from studies import shorter_training
from train import BEST

RECIPE = dataclasses.replace(BEST, epochs=4, batch_size=8)


@pytest.fixture
def trainer():
    torch.manual_seed(3)
    images = torch.randint(0, 256, (24, 1, 28, 28), dtype=torch.uint8)
    images[:, :, ::2] //= 4  # rows differ, so that components do
    return Trainer(
        EfficientChestNet, RECIPE, (images, torch.arange(24) % 2.0), (images[:0], torch.zeros(0))
    )


def test_images_grow_by_the_steps_and_the_recipe_is_whole_at_the_end(trainer, monkeypatch):
    seen, checks = [], []
    monkeypatch.setattr(trainer, "on_step", lambda: checks.append(1))
    forward = trainer.forward
    monkeypatch.setattr(trainer, "forward", lambda x: seen.append(x.shape[-1]) or forward(x))
    shorter_training.progressive(trainer)
    trainer.fit()
    assert seen == [14] * 6 + [20] * 3 + [28] * 3 and len(checks) == 12
    assert dataclasses.replace(trainer.recipe, image_size=RECIPE.image_size) == RECIPE
    shares = {side: count / len(seen) for side, count in Counter(seen).items()}
    assert shorter_training.growing_sides(28) == shares


def test_the_first_kernels_whiten_the_training_images(trainer):
    random = trainer.model.stem[0].weight.clone()
    shorter_training.whitened(trainer)
    first = trainer.model.stem[0].weight
    assert torch.equal(first[18:], random[18:]) and torch.equal(first[9:18], -first[:9])
    assert torch.equal(trainer.average.model.stem[0].weight, first)
    x = to_input(trainer.train_images, RECIPE)
    out = nn.functional.conv2d(x, first[:9].detach()).transpose(0, 1).flatten(1)
    assert torch.allclose(out.cov(), torch.eye(9), atol=0.02)
    patches = nn.functional.unfold(x, (3, 3)).transpose(0, 1).flatten(1)
    assert torch.allclose(patches.cov().diag().sum(), (1 / first[:9].square().sum((1, 2, 3))).sum())
    assert trainer.optimizer.param_groups[0]["params"][0] is first  # it is trained


def test_muon_trains_the_matrices_and_follows_the_schedule(trainer):
    pytest.importorskip("timm.optim.muon", reason="no Muon in timm: requirements-timm.txt")
    shorter_training.muon(trainer)
    matrices, rest = (group["params"] for group in trainer.optimizer.param_groups)
    assert sum(map(len, (matrices, rest))) == len(list(trainer.model.parameters()))
    assert all(p.ndim > 1 for p in matrices) and trainer.model.stem[0].weight in set(rest)
    before = [p.detach().clone() for p in (*matrices, *rest)]
    trainer.fit()
    state = trainer.optimizer.state
    assert all("exp_avg" not in state[p] for p in matrices)  # Muon has one moment
    assert all("exp_avg" in state[p] for p in rest)
    assert not trainer.optimizer.param_groups[1]["nesterov"]  # else it is NAdamW
    assert all(not torch.equal(a, b) for a, b in zip(before, (*matrices, *rest), strict=True))
    assert trainer.history[-1]["lr"] < trainer.history[1]["lr"] <= RECIPE.lr


def test_without_muon_its_remedy_is_named(trainer, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm.optim", None)
    with pytest.raises(InputError, match="pip install -U timm"):
        shorter_training.muon(trainer)
