"""The memory of a training, on tensors without numbers: against sums written down by hand."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import train_improved
import train_mobilenet
from chestlab.runs import card_memory, flags
from chestlab.runs.card_memory import in_words, memory_warning
from chestlab.runs.experiment import Experiment
from chestlab.training.augment import to_input
from chestlab.training.distributed import Processes
from chestlab.training.inference import batch_on_cuda
from chestlab.training.memory import OVERHEAD, Memory, training_need
from chestlab.training.recipe import Recipe
from chestlab.training.weights import read_pretrained
from model import EfficientChestNet
from model_densenet import DenseNet121Chest
from model_improved import ResidualChestNet
from model_mobilenet import MobileNetV3Chest
from resnet_modified import ModifiedResNet34

RECIPE = Recipe(name="r", batch_size=32)


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x.flatten(1)).squeeze(1)


def test_what_is_kept_is_the_sum_written_down_by_hand() -> None:
    """Every tensor takes whole blocks of 512 bytes."""
    images, labels = 6656, 512  # 100 x 8 x 8, 32 x 4
    weights = 512 + 512
    averages_and_steps = 2 * weights + 2 * 512
    for ema, copies in ((0.0, 1), (0.9, 2)):
        recipe = dataclasses.replace(RECIPE, ema=ema)
        kept = training_need(Linear, recipe, (100, 8), None).kept
        assert kept == images + labels + weights * (1 + copies) + averages_and_steps


def test_a_step_grows_with_the_batch_and_shrinks_with_half_precision() -> None:
    def step(batch: int, amp: torch.dtype | None) -> int:
        recipe = dataclasses.replace(RECIPE, batch_size=batch)
        need = training_need(ResidualChestNet, recipe, (300, 28), amp)
        return need.step - need.kept

    small, large, half = step(32, None), step(128, None), step(128, torch.bfloat16)
    assert 3 < large / small < 4  # gradients do not grow
    assert 0.45 < half / large < 0.8


def test_estimating_leaves_random_numbers_as_they_are() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    training_need(Linear, RECIPE, (100, 8), None)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("image_size", "batch", "images"), [(0, 32, 128), (224, 64, 128), (28, 512, 1024)]
)
def test_evaluation_stays_within_the_memory_of_a_step(
    image_size: int, batch: int, images: int
) -> None:
    recipe = dataclasses.replace(RECIPE, image_size=image_size, batch_size=batch)
    assert batch_on_cuda(recipe, 28) == images


@pytest.mark.parametrize(
    ("free", "graph", "start"),
    [
        (4.0e9, True, ""),
        (2.9e9, True, "NOTE: with a CUDA graph training takes about 3.0 GB, and 2.9 GB"),
        (2.9e9, False, ""),
        (1.9e9, True, "WARNING: training takes about 2.0 GB, and 1.9 GB of the card are free"),
        (0.2e9, True, "WARNING: images, weights and averages alone take about 0.3 GB, and 0.2 GB"),
    ],
)
def test_the_warning_says_what_does_not_fit(free: float, graph: bool, start: str) -> None:
    need = Memory(kept=300_000_000, step=1_300_000_000, evaluation=800_000_000)
    assert (need.without_graph, need.with_graph) == (1_300_000_000 + OVERHEAD, 3_000_000_000)
    said = in_words(need, int(free), graph)
    assert said.startswith(start)
    assert bool(said) == bool(start)


def test_a_batch_that_is_too_large_for_the_card_is_told_before_the_start(
    phantom_npz, tmp_path
) -> None:
    def warning(*words: str, free: int) -> str:
        folders = ["--results-dir", str(tmp_path / "r"), "--models-dir", str(tmp_path / "m")]
        options = flags.parse(
            train_improved.RECIPES,
            ["--data", str(phantom_npz), "--device", "cpu", *folders, *words],
        )
        return memory_warning(Experiment(ResidualChestNet, options), free)

    assert warning(free=4_000_000_000) == ""
    assert warning(free=200_000_000).startswith("WARNING: training takes about ")
    assert "batches will be halved" in warning("--batch-size", "65536", free=9_000_000_000)


def test_weights_to_start_from_do_not_change_the_estimate(phantom_npz, tmp_path) -> None:
    weights = tmp_path / "start.pth"
    torch.save(MobileNetV3Chest().backbone.state_dict(), weights)
    folders = ["--results-dir", str(tmp_path / "r"), "--models-dir", str(tmp_path / "m")]
    words = ["--data", str(phantom_npz), "--device", "cpu", *folders, "--image-size", "64"]
    options = flags.parse(train_mobilenet.RECIPES, words, has_imagenet=True)
    start = read_pretrained(str(weights), None)
    experiment = Experiment(MobileNetV3Chest, options, read_weights=lambda: start)
    assert experiment.pretrained is not None
    assert memory_warning(experiment, 500_000_000).startswith("WARNING: training takes about ")


def test_a_network_that_cannot_be_estimated_is_trained_all_the_same(capsys, monkeypatch) -> None:
    def fails(*arguments: object) -> str:
        raise TypeError("this layer\nreads numbers")

    monkeypatch.setattr(card_memory, "memory_warning", fails)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1_000_000_000, 0))
    experiment = SimpleNamespace(device=torch.device("cuda"), processes=Processes())
    card_memory.warn_of_memory(experiment)  # type: ignore[arg-type]
    told = capsys.readouterr().err
    assert "not estimated" in told and "this layer reads numbers" in told and told.count("\n") == 1


class CudaGenerator(torch.Generator):
    """A generator that calls itself one of a graphics card, for tensors without numbers."""

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return torch.device("cuda:0")


@pytest.mark.skipif(torch.version.cuda is None, reason="PyTorch without CUDA")
@pytest.mark.parametrize(
    "build",
    [EfficientChestNet, ResidualChestNet, MobileNetV3Chest, DenseNet121Chest, ModifiedResNet34],
)
def test_input_network_and_loss_stay_on_the_card(build: type[nn.Module]) -> None:
    """A tensor left on the CPU, or a number read back, is an error on tensors without numbers."""
    for training in (True, False):
        assert pretended_logits(build, training).shape == (8,)


class LeftBehind(Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x[..., :8, :8] * torch.ones(8))


class ReadBack(Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x[..., :8, :8] / float(x.amax()))


@pytest.mark.skipif(torch.version.cuda is None, reason="PyTorch without CUDA")
@pytest.mark.parametrize(
    ("build", "error"), [(LeftBehind, "same device|two devices"), (ReadBack, "_local_scalar_dense")]
)
def test_a_tensor_left_behind_and_a_number_read_back_are_seen(
    build: type[nn.Module], error: str
) -> None:
    with pytest.raises(Exception, match=error):
        pretended_logits(build, True)


def pretended_logits(build: type[nn.Module], training: bool) -> torch.Tensor:
    """What a network makes of eight augmented images on a card that is not there."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    recipe = dataclasses.replace(
        RECIPE, rotate=10.0, flip=0.5, erase=0.5, jitter=0.2, image_size=64, policy="randaugment"
    )
    with FakeTensorMode():
        try:
            nn.Linear(2, 1, device="cuda:0")
        except RuntimeError as error:
            pytest.skip(
                f"PyTorch {torch.__version__} asks the driver for pretended tensors: {error}"
            )
        with torch.device("cuda:0"):
            network = build().train(training)
            images = torch.zeros(8, 1, 28, 28, dtype=torch.uint8)
            labels = torch.zeros(8)
        x = to_input(images, recipe, CudaGenerator() if training else None)
        logits = network(x.contiguous(memory_format=torch.channels_last))
        loss = F.binary_cross_entropy_with_logits(logits, labels)
    assert {x.device.type, logits.device.type, loss.device.type} == {"cuda"}
    return logits
