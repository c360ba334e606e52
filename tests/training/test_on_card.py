"""On a graphics card: the compared graph, skipped steps, too little memory, and every experiment.

python -m pytest -m gpu -n 0 tests/training
"""

from __future__ import annotations

import dataclasses
from functools import partial

import numpy as np
import pytest
import torch

from chestlab.training import cuda_graph
from chestlab.training.memory import training_need
from chestlab.training.recipe import Recipe
from chestlab.training.trainer import Trainer
from chestlab.training.weights import PretrainedWeights
from model import EfficientChestNet
from networks import NETWORKS, network

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
CARD = torch.device("cuda")
RECIPE = Recipe(name="r", epochs=2, batch_size=32, amp="off", flip=0.5, rotate=10.0)


@pytest.fixture(autouse=True)
def another_process(monkeypatch):
    """No test knows of a graph that failed in another one."""
    monkeypatch.setattr(cuda_graph, "_failed", [])


def tensors(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of 28 px whose brightness tells the class, with noise, on the card."""
    labels = (torch.arange(n) % 2).float()
    noise = torch.randint(0, 160, (n, 1, 28, 28), generator=torch.Generator().manual_seed(0))
    images = (noise + 60 * labels[:, None, None, None]).to(torch.uint8)
    return images.to(CARD), labels.to(CARD)


def trained(recipe: Recipe, n: int = 160, build=EfficientChestNet) -> Trainer:
    trainer = Trainer(build, recipe, tensors(n), tensors(32))
    trainer.fit()
    return trainer


@pytest.fixture
def limited():
    """Limits the memory of this process to a number of bytes, until the test ends."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()

    def limit(size: int) -> None:
        total = torch.cuda.get_device_properties(CARD).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, size / total))

    yield limit
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


@pytest.mark.parametrize(("amp", "bound"), [("off", 0.01), ("bf16", 0.05), ("fp16", 0.05)])
def test_the_first_replay_equals_the_eager_step_up_to_rounding(amp, bound):
    record = trained(dataclasses.replace(RECIPE, amp=amp)).graph_record()
    assert record["used"], record
    assert 0 <= record["largest_error"] <= bound


def test_steps_that_overflow_are_skipped_by_both(monkeypatch):
    def scaler(self):
        return torch.amp.GradScaler("cuda", init_scale=2.0**40, growth_interval=4)

    monkeypatch.setattr(Trainer, "_new_scaler", scaler)
    recipe = dataclasses.replace(RECIPE, amp="fp16", epochs=8)
    replayed, eager = (trained(dataclasses.replace(recipe, graph=on)) for on in (True, False))
    assert replayed.graph_record()["used"]
    steps = [{int(s["step"]) for s in one.optimizer.state.values()} for one in (replayed, eager)]
    assert steps[0] == steps[1]
    assert max(steps[0]) < 8 * 5  # some were skipped
    assert replayed.scaler.get_scale() == eager.scaler.get_scale()


def test_the_estimated_memory_is_near_the_measured(limited):
    recipe = dataclasses.replace(RECIPE, batch_size=256, graph=False, epochs=1)
    need = training_need(EfficientChestNet, recipe, (544, 28), None)
    trained(recipe, 512)
    assert torch.cuda.max_memory_allocated() == pytest.approx(need.step, rel=0.35)


def test_short_of_memory_the_graph_goes_first(limited, capsys):
    recipe = dataclasses.replace(RECIPE, batch_size=256)
    need = training_need(EfficientChestNet, recipe, (800, 28), None)
    limited(need.kept + round(1.6 * (need.step - need.kept)))
    trainer = trained(recipe, 1500)
    assert trainer.micro_batch == 256
    assert not trainer.graph_record()["used"]
    assert capsys.readouterr().out.count("going on without") == 1


def test_then_the_batch_is_halved_and_a_step_keeps_its_images(limited, capsys):
    recipe = dataclasses.replace(RECIPE, batch_size=512)
    need = training_need(EfficientChestNet, recipe, (1100, 28), None)
    limited(need.kept + round(0.7 * (need.step - need.kept)))
    trainer = trained(recipe, 1024)
    assert trainer.micro_batch in (256, 128)
    assert {int(s["step"]) for s in trainer.optimizer.state.values()} == {2 * 2}
    assert "unchanged 512 images per step" in capsys.readouterr().out
    assert np.isfinite([row["val_loss"] for row in trainer.history]).all()


@pytest.mark.parametrize("name", ["efficientchestnet", "residualchestnet", "mobilenetv3",
    "densenet121", *(name for name in NETWORKS if name.endswith("34"))])  # fmt: skip
def test_every_experiment_trains_two_epochs_with_a_graph(name):
    found = network(name, "cuda")
    build = partial(found.build, **found.arguments)
    if found.imagenet_url is not None:
        build = partial(build, PretrainedWeights("none"))
    recipe = dataclasses.replace(found.recipe, epochs=2, stage1_epochs=0, stage2_epochs=0)
    trainer = trained(recipe, 5 * recipe.batch_size, build)
    assert len(trainer.history) == 2
    assert np.isfinite([row["train_loss"] for row in trainer.history]).all()
    assert trainer.graph_record()["used"], trainer.graph_record()
