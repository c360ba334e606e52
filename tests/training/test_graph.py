"""A captured training step does what the eager one does, or makes way for it."""

import dataclasses
import re

import numpy as np
import pytest
import recorded_graph
import torch
from torch import nn

from chestlab.training import cuda_graph, optimizer
from chestlab.training.recipe import Recipe
from chestlab.training.trainer import Trainer
from chestlab.training.trainer_state import HISTORY_COLUMNS
from model import EfficientChestNet
from model_densenet import TorchvisionChest
from model_improved import ResidualChestNet
from model_mobilenet import MobileNetV3Chest
from resnet_modified import ModifiedResNet34

EXACT = 2.0**-7  # a graph's rates are float32: with these the eager step's are the same


class Net(nn.Module):
    """All that a step changes: weights, running statistics, random numbers."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(1, 4, 3, 2, bias=False), nn.BatchNorm2d(4))
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Dropout(0.3), nn.Linear(36, 1)
        )

    def forward(self, x):
        return self.head(torch.relu(self.backbone(x))).squeeze(1)


class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 1)

    def forward(self, x):
        return self.linear(x.flatten(1)).squeeze(1)


def tensors(n, seed=0, side=8, device="cpu"):
    """Images whose brightness tells the class, with noise."""
    g = torch.Generator().manual_seed(seed)
    labels = (torch.arange(n) % 2).float()
    noise = torch.randint(0, 160, (n, 1, side, side), generator=g)
    images = (noise + 60 * labels[:, None, None, None]).to(torch.uint8)
    return images.to(device), labels.to(device)


TRAIN, VAL = tensors(38), tensors(20, seed=1)  # in batches of 8: four whole ones, then one of 6


def make(recipe, network=Net, **more):
    return Trainer(network, recipe, TRAIN, VAL, **more)


def trained(trainer, epochs):
    for _ in range(epochs):
        trainer.run_epoch()
    return trainer


def assert_same(one, other):
    """Everything the next epoch depends on, and the history, bit for bit."""
    one, other = (flat(trainer.state_dict()) for trainer in (one, other))
    assert one.keys() == other.keys()
    for name, value in one.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, other[name]), name
        else:
            assert value == other[name], name


def flat(value, name=""):
    if name == ".history":
        value = value[:, [column != "seconds" for column in HISTORY_COLUMNS]]
    if isinstance(value, dict):
        parts = [flat(inner, f"{name}.{key}") for key, inner in value.items()]
    elif isinstance(value, list):
        parts = [flat(inner, f"{name}.{i}") for i, inner in enumerate(value)]
    else:
        parts = [] if name in (".training_seconds",) or callable(value) else [{name: value}]
    return {key: inner for part in parts for key, inner in part.items()}


@pytest.fixture
def cuda(monkeypatch):
    recorded_graph.install(monkeypatch)


RECIPE = Recipe(name="r", batch_size=8, epochs=4, lr=EXACT, patience=9)
CHANGES = {
    "constant": {},
    "plateau": {"schedule": "plateau", "plateau_patience": 0, "gamma": 0.5, "epochs": 6},
    "onecycle": {"schedule": "onecycle", "warmup": 0.3},
    "cosine": {"schedule": "cosine", "warmup": 0.1},
    "no clipping": {"clip": 0.0, "weight_decay": 0.25},
    "accumulation": {"batch_size": 4, "accumulation": 2, "label_smoothing": 0.1},
    "warps": {"flip": 0.5, "rotate": 10.0, "translate": 0.1, "scale": 0.1, "image_size": 10},
    "others": {"vertical_flip": 0.5, "jitter": 0.3, "erase": 0.5, "normalize": "per-image"},
    "degraded": {"degrade": 0.5, "normalize": "per-image"},
    "randaugment": {"policy": "randaugment"},
    "autoaugment": {"policy": "autoaugment"},
    "mixing": {"mixup": 0.4, "cutmix": 1.0},
    "focal": {"loss": "focal", "pos_weight": 2.0},
    "average": {"ema": 0.9},
    "rates by layer": {"layer_decay": 2.0**-11, "lr": 2.0**-4},
    "bf16": {"amp": "bf16"},
}


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
def test_replaying_gives_the_eager_steps_numbers(cuda, monkeypatch, changes):
    for schedule in ("_one_cycle", "_cosine"):
        real = getattr(optimizer, schedule)
        rounded = lambda *arguments, real=real: float(np.float32(real(*arguments)))  # noqa: E731
        monkeypatch.setattr(optimizer, schedule, rounded)
    recipe = dataclasses.replace(RECIPE, **changes)
    eager = trained(make(dataclasses.replace(recipe, graph=False)), recipe.epochs)
    assert recorded_graph.Graph.replays == 0
    replayed = trained(make(recipe), recipe.epochs)
    assert recorded_graph.Graph.replays == 4 * recipe.epochs - cuda_graph.WARM_UP
    assert replayed.graph is not None
    record = {"used": True, "reason": "", "largest_error": 0.0}
    assert replayed.graph_record() == record
    replayed.release()
    assert replayed.graph is None and replayed.graph_record() == record
    assert len({row["train_loss"] for row in replayed.history}) == recipe.epochs
    assert_same(replayed, eager)


def test_a_schedules_rates_reach_the_replayed_steps(cuda):
    """Without rounding, too; the rate of a step is not that of the capture."""
    recipe = dataclasses.replace(RECIPE, schedule="onecycle", lr=0.01, warmup=0.3)
    eager = trained(make(dataclasses.replace(recipe, graph=False)), 4)
    replayed = trained(make(recipe), 4)
    for name, value in eager.model.state_dict().items():
        torch.testing.assert_close(replayed.model.state_dict()[name], value, rtol=1e-4, atol=1e-6)
    assert [row["lr"] for row in replayed.history] == [row["lr"] for row in eager.history]


def test_fp16_steps_are_skipped_and_scaled_within_the_graph(cuda, monkeypatch):
    def scaler(self):
        return torch.amp.GradScaler("cpu", growth_interval=2, init_scale=2.0**20)

    monkeypatch.setattr(Trainer, "_new_scaler", scaler)
    for clip in (1.0, 0.0):
        recipe = dataclasses.replace(RECIPE, amp="fp16", clip=clip, epochs=8)
        eager = trained(make(dataclasses.replace(recipe, graph=False), Linear), 8)
        replayed = trained(make(recipe, Linear), 8)
        (taken,) = {int(state["step"]) for state in replayed.optimizer.state.values()}
        assert cuda_graph.WARM_UP < taken < 5 * 8  # some moved the weights, some did not
        assert_same(replayed, eager)


def test_resuming_in_the_middle_is_bit_exact(cuda):
    recipe = dataclasses.replace(RECIPE, rotate=10.0, ema=0.9)
    straight = trained(make(recipe), 4)
    state = trained(make(recipe), 2).state_dict()
    assert state["optimizer"]["param_groups"][0]["lr"] == EXACT
    resumed = make(recipe)
    resumed.load_state_dict(state, straight.best_weights)
    assert_same(trained(resumed, 2), straight)


def test_the_second_stage_is_captured_anew(cuda):
    def stages(recipe):
        first = trained(make(recipe, frozen=True), 2)
        return trained(make(recipe, previous=first), 2)

    assert_same(stages(RECIPE), stages(dataclasses.replace(RECIPE, graph=False)))
    assert recorded_graph.Graph.replays == 2 * (2 * 4 - cuda_graph.WARM_UP)


def refusing_forward(monkeypatch):
    forward = Linear.forward

    def reads_back(self, x):
        logits = forward(self, x)
        if self.training:
            assert float(logits.detach().mean()) < 1e9
        return logits

    monkeypatch.setattr(Linear, "forward", reads_back)


def refusing_update(monkeypatch):
    step = torch.optim.AdamW.step

    def unless_captured(self):
        if self.param_groups[0]["capturable"]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return step(self)

    monkeypatch.setattr(torch.optim.AdamW, "step", unless_captured)


def refusing_library(monkeypatch):
    def broken():
        raise AttributeError("no graphs here")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", broken)


@pytest.mark.parametrize("refuse", [refusing_forward, refusing_update, refusing_library])
@pytest.mark.parametrize("clip", [1.0, 0.0])
def test_a_step_that_cannot_be_captured_goes_on_eagerly(cuda, monkeypatch, capsys, refuse, clip):
    refuse(monkeypatch)
    recipe = dataclasses.replace(RECIPE, amp="fp16", clip=clip, rotate=10.0)
    eager = trained(make(dataclasses.replace(recipe, graph=False), Linear), 4)
    capsys.readouterr()
    fallen = trained(make(recipe, Linear), 4)
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 1
    assert said[0].startswith("no CUDA graph of the training step (")
    assert fallen.graph is None
    assert bool(cuda_graph._failed) == (refuse is refusing_forward)  # not after a lack of memory
    assert recorded_graph.Graph.replays == 0
    assert_same(fallen, eager)


def without_update(monkeypatch):
    """The replay does all but the optimiser's step."""
    replay = recorded_graph.Graph.replay

    def skip(self):
        self.operations = [o for o in self.operations if "_fused_adamw" not in str(o[0])]
        replay(self)

    monkeypatch.setattr(recorded_graph.Graph, "replay", skip)


def other_images(monkeypatch):
    """The replay uses the images that it was captured with."""
    copy = torch.Tensor.copy_

    def unless_rows(self, other):
        rows = self.dtype == torch.int64 and self.shape == other.shape == (8,)
        return self if rows else copy(self, other)

    monkeypatch.setattr(torch.Tensor, "copy_", unless_rows)


def other_random_numbers(monkeypatch):
    """The replay draws those of the generators' present state, and moves them too far."""
    replay = recorded_graph.Graph.replay

    def draw(self):
        replay(self)
        torch.rand(1)

    monkeypatch.setattr(recorded_graph.Graph, "replay", draw)


def eager_step_without_memory(monkeypatch):
    real, taken = Trainer._whole_step, []

    def short_of_memory(self, rows):
        taken.append(rows)
        if len(taken) == 2:  # the first one is captured
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, rows)

    monkeypatch.setattr(Trainer, "_whole_step", short_of_memory)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (without_update, r"error of its exp_avg_sq: 1 of the eager step's change"),
        (other_images, r"error of its \w+: \d\S* of the eager step's change"),
        (other_random_numbers, r"error of its random numbers: inf of the eager step's change"),
        (eager_step_without_memory, "out of memory in comparing it with the eager step"),
    ],
)
@pytest.mark.parametrize("amp", ["off", "fp16"])
def test_a_graph_that_is_not_the_eager_step_is_given_up(
    cuda, monkeypatch, capsys, damage, reason, amp
):
    recipe = dataclasses.replace(RECIPE, amp=amp, rotate=10.0)
    eager = trained(make(dataclasses.replace(recipe, graph=False), Linear), 3)
    capsys.readouterr()
    damage(monkeypatch)
    fallen = trained(make(recipe, Linear), 3)
    (said,) = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        rf"no CUDA graph of the training step \({reason}.*\): going on without", said
    )
    record = fallen.graph_record()
    assert not record["used"]
    assert re.match(reason, record["reason"])
    assert_same(fallen, eager)


def test_without_a_graph_the_record_says_why(cuda):
    off = trained(make(dataclasses.replace(RECIPE, graph=False)), 1)
    assert off.graph_record() == {"used": False, "reason": "--graph off", "largest_error": None}
    short = make(RECIPE)
    short.step(torch.arange(8))
    assert short.graph_record()["reason"] == "too few steps"


@pytest.mark.parametrize(("lost", "batch"), [([1], 4), ([9], 8), ([9, 10], 4)])
def test_short_of_memory_the_graph_goes_first_and_then_half_of_the_batch(
    cuda, monkeypatch, capsys, lost, batch
):
    """While warming up there is no graph yet; the ninth is the small step after five replays."""
    real, seen = Trainer._gradients, []

    def short_of_memory(self, rows):
        seen.append(len(rows))
        if len(seen) in lost:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, rows)

    trainer = make(RECIPE)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_gradients", short_of_memory)
        while trainer.graph is not None:
            trainer.run_epoch()
    trained(trainer, 1)
    assert trainer.micro_batch == batch
    said = capsys.readouterr().out.splitlines()
    without_graph = "no CUDA graph of the training step (out of memory): going on without"
    halved = "out of memory: going on with batches of 4 and an unchanged 8 images per step"
    assert [without_graph] * (9 in lost) + [halved] * (batch == 4) == [
        line.split(";")[0] for line in said
    ]
    resumed = make(RECIPE)
    resumed.load_state_dict(trainer.state_dict(), trainer.best_weights)
    assert (resumed.graph is None) == (batch == 4)


@pytest.mark.parametrize(
    ("network", "side"),
    [
        (EfficientChestNet, 28),
        (ResidualChestNet, 28),
        (lambda: ModifiedResNet34(width=8), 32),
        (MobileNetV3Chest, 32),
        (lambda: TorchvisionChest(arch="densenet121"), 32),
        (lambda: TorchvisionChest(arch="efficientnet_b0"), 32),
        pytest.param(
            lambda: TorchvisionChest(arch="swin_t"),
            32,
            marks=pytest.mark.skipif(
                torch.__version__.startswith(("2.6.", "2.14.")),
                reason="these write a number into a slice by way of a tensor, which the "
                "recorder cannot tell from one that comes from the host",
            ),
        ),
    ],
)
def test_no_network_waits_for_the_device_in_a_step(cuda, monkeypatch, network, side):
    monkeypatch.setattr(cuda_graph, "WARM_UP", 1)
    images = tensors(8, side=side)
    recipe = Recipe(name="r", batch_size=4, epochs=1)
    trainer = trained(Trainer(network, recipe, images, images), 1)
    assert trainer.graph is not None
    assert recorded_graph.Graph.replays == 1


def on_cuda(recipe, epochs):
    images, val = tensors(262, side=28, device="cuda"), tensors(64, seed=1, side=28, device="cuda")
    return trained(Trainer(EfficientChestNet, recipe, images, val), epochs)


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
ON_CUDA = Recipe(
    name="r", epochs=4, batch_size=32, lr=1e-3, schedule="onecycle", flip=0.5, rotate=10.0
)


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
def test_on_cuda_a_graph_gives_the_eager_losses(amp):
    recipe = dataclasses.replace(ON_CUDA, amp=amp)
    eager = on_cuda(dataclasses.replace(recipe, graph=False), 4)
    replayed = on_cuda(recipe, 4)
    assert replayed.graph is not None
    assert replayed.graph.graph is not None
    for state in ("noise", "random_device"):  # every random number was the eager one's
        assert torch.equal(replayed.state_dict()[state], eager.state_dict()[state])
    losses = [[row["train_loss"] for row in one.history] for one in (replayed, eager)]
    np.testing.assert_allclose(*losses, rtol=1e-3 if amp == "off" else 2e-2)
    assert replayed.optimizer.param_groups[0]["lr"] == eager.optimizer.param_groups[0]["lr"]
    assert replayed.scaler.get_scale() == eager.scaler.get_scale()


@pytest.mark.gpu
@needs_cuda
def test_on_cuda_resuming_goes_on_with_the_same_random_numbers():
    straight = on_cuda(ON_CUDA, 4)
    half = on_cuda(ON_CUDA, 2)
    resumed = on_cuda(ON_CUDA, 0)
    resumed.load_state_dict(half.state_dict(), half.best_weights)
    trained(resumed, 2)
    for state in ("noise", "random_device", "shuffle"):
        assert torch.equal(resumed.state_dict()[state], straight.state_dict()[state])
    losses = [[row["train_loss"] for row in one.history] for one in (resumed, straight)]
    np.testing.assert_allclose(*losses, rtol=2e-2)


@pytest.mark.gpu
@needs_cuda
def test_on_cuda_a_step_that_reads_back_goes_on_eagerly(capsys, monkeypatch):
    monkeypatch.setattr(cuda_graph, "_failed", [])

    class ReadsBack(EfficientChestNet):
        def forward(self, x):
            logits = super().forward(x)
            assert float(logits.detach().mean()) < 1e9
            return logits

    images = tensors(262, side=28, device="cuda")
    trainer = trained(Trainer(ReadsBack, ON_CUDA, images, images), 2)
    assert trainer.graph is None
    assert capsys.readouterr().out.count("no CUDA graph of the training step") == 1
    assert not cuda_graph.supported(images[0].device)
    assert np.isfinite([row["train_loss"] for row in trainer.history]).all()
