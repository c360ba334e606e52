"""Training in several processes: the numbers of one, whatever the recipe draws or splits."""

from __future__ import annotations

import copy
import dataclasses
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import ROOT, made_once, rest_slow
from torch import nn
from torchvision.ops import StochasticDepth

from chestlab.files.errors import InputError, TrainingError
from chestlab.files.progress import StopSignals
from chestlab.training.distributed import (
    GatheredBatchNorm,
    Processes,
    SharedBatches,
    WholeBatchDropout,
)
from chestlab.training.losses import ProjectionHead, SimCLR
from chestlab.training.recipe import Recipe
from chestlab.training.trainer import Trainer
from model import EfficientChestNet
from model_improved import ResidualChestNet
from resnet_modified import ModifiedResNet34

RECIPE = Recipe("x", epochs=3, batch_size=8, lr=1e-3, flip=0.5, rotate=10, amp="off", image_size=32)

SMALL = partial(ModifiedResNet34, width=8, dropout=0.3)

CASES = {
    "experiment 1": (EfficientChestNet, {"schedule": "onecycle", "label_smoothing": 0.1}),
    "experiment 2": (ResidualChestNet, {"drop_path": 0.3, "ema": 0.9, "schedule": "plateau"}),
    "mixing": (SMALL, {"mixup": 0.4, "cutmix": 0.4, "erase": 0.3, "ema": 0.9}),
    "accumulation": (
        SMALL,
        {"batch_size": 4, "accumulation": 2, "loss": "focal", "schedule": "plateau"},
    ),
    "balanced classes": (
        SMALL,
        {"sampler": "balanced", "pos_weight": 0.5, "schedule": "onecycle", "label_smoothing": 0.1},
    ),
    "early stopping": (SMALL, {"patience": 1, "epochs": 6, "monitor": "val_auc"}),
    "findings": (partial(SMALL, outputs=3), {}),
    "simclr": (SMALL, {}),
}
QUICK = "mixing", "balanced classes", "findings"  # the others take a minute


class Double(nn.Module):
    """A network in float64: AdamW makes large steps of the rounding errors of float32."""

    def __init__(self, case: str) -> None:
        super().__init__()
        self.network = CASES[case][0]()
        if case == "simclr":
            self.network.fc = ProjectionHead(self.network.fc.in_features, 8)
        self.double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x.double())


def trained(case: str, processes: Processes, state: dict | None = None) -> Trainer:
    """A small training; its last batch is small and its shares differ in size."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (27, 1, 28, 28), dtype=torch.uint8, generator=generator)
    labels = (torch.arange(27) % 3 == 0).float()
    if case == "findings":
        labels = (torch.rand((27, 3), generator=generator) < 0.3).float()
    objective = SimCLR(0.2) if case == "simclr" else None
    trainer = Trainer(
        partial(Double, case),
        dataclasses.replace(RECIPE, **CASES[case][1]),
        (images[:21], labels[:21]),
        (images[21:], labels[21:]) if objective is None else (images[:0], labels[:0]),
        objective=objective,
        processes=processes,
    )
    if state is not None:
        trainer.load_state_dict(state, None)
    trainer.fit()
    return trainer


def main(folder: str, *cases: str) -> None:
    """What each of the processes does: the cases, stored by the first."""
    torch.set_num_threads(1)
    processes = Processes.from_environment()
    torch.distributed.init_process_group("gloo")
    for case in cases:
        state = trained(case, processes).state_dict()
        states = processes.gather(state)
        for name, value in states[1]["model"].items():
            assert torch.equal(value, state["model"][name]), name
        if processes.first:
            torch.save(state, Path(folder) / f"{case}.pt")
    torch.distributed.destroy_process_group()


def of_two_processes(factory: pytest.TempPathFactory, case: str) -> Path:
    """A folder with the final state of this case and the like ones, trained by two processes."""
    cases = [one for one in CASES if (one in QUICK) == (case in QUICK)]

    def train(folder: Path) -> None:
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
        paths = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))
        result = subprocess.run(
            [*command, "--standalone", __file__, str(folder), *cases],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert result.returncode == 0, result.stderr

    return made_once(factory, "two_processes" + "_quick" * (case in QUICK), train)


@pytest.mark.parametrize("case", rest_slow(CASES, *QUICK))
def test_two_processes_have_the_losses_of_one(tmp_path_factory, case):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    two = torch.load(of_two_processes(tmp_path_factory, case) / f"{case}.pt")
    one = trained(case, Processes()).state_dict()
    torch.set_num_threads(threads)
    torch.testing.assert_close(
        two["history"][:, :-1], one["history"][:, :-1], rtol=1e-6, atol=1e-6, equal_nan=True
    )
    assert two["model"].keys() == one["model"].keys()
    for random in ("random", "shuffle", "noise"):
        assert torch.equal(two[random], one[random])
    assert two["best_epoch"] == one["best_epoch"]


def test_shares_together_are_the_batch():
    for n, size in ((7, 2), (8, 3), (4, 4)):
        shares = [Processes(rank, size).share(n) for rank in range(size)]
        assert torch.cat(shares).tolist() == list(range(n))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_files_are_read_by_the_first_process_then_the_first_on_each_machine(monkeypatch, capsys):
    """Two machines of two processes; how many of two barriers each passes before it reads."""
    passed = []
    monkeypatch.setattr(torch.distributed, "barrier", lambda: passed.append(1))
    before = []
    for rank in range(4):
        passed.clear()
        with Processes(rank, 4, rank % 2).first_goes_first():
            before.append(len(passed))
            print(f"warning of {rank}", file=sys.stderr)
        assert len(passed) == 2
    assert before == [0, 2, 1, 2]
    assert capsys.readouterr().err == "warning of 0\n"


@pytest.mark.parametrize(
    ("place", "silent"), [((0, 4, 0), False), ((1, 4, 1), True), ((2, 4, 0), False)]
)
@pytest.mark.parametrize(("error", "status"), [(InputError("x"), 2), (TrainingError("x"), 1)])
def test_the_first_process_of_each_machine_reports_errors(
    place, silent, error, status, monkeypatch
):
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda backend: None)
    ends = pytest.raises((SystemExit, type(error)))
    with ends as end, StopSignals() as signals, Processes(*place).together(signals):
        raise error
    assert end.value.code == status if silent else end.value is error


@pytest.mark.parametrize("shape", [(6, 5), (6, 4, 3, 3)])
def test_gathered_batch_norm_is_batch_norm(shape):
    torch.manual_seed(0)
    norm = (nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d)(shape[1])
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    gathered = GatheredBatchNorm(norm, Processes())
    x, weight = torch.randn(shape) * 3 + 1, torch.randn(shape)
    results = []
    for layer in (norm, gathered):
        own = x.clone().requires_grad_()
        y = layer(own)
        (y * weight).sum().backward()
        results.append((y, own.grad, layer.weight.grad, layer.bias.grad, *layer.buffers()))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm.eval()(x), gathered.eval()(x))


@pytest.mark.parametrize("training", [True, False])
def test_the_activation_within_a_batch_norm_of_timm_stays(training):
    layers = pytest.importorskip("timm.layers")
    torch.manual_seed(0)
    network = nn.Sequential(layers.BatchNormAct2d(4, act_layer=nn.ReLU6)).train(training)
    nn.init.normal_(network[0].bias)
    x, names = torch.randn(6, 4, 3, 3), list(network.state_dict())
    as_it_was = copy.deepcopy(network)
    converted = SharedBatches(Processes(0, 2)).convert(network)
    assert isinstance(converted[0], GatheredBatchNorm) and list(converted.state_dict()) == names
    converted[0].processes = Processes()
    shown = converted(x)
    torch.testing.assert_close(shown, as_it_was(x), rtol=1e-4, atol=1e-5)
    assert 0 == shown.min() < shown.max() <= 6


@pytest.mark.parametrize("layer", [nn.Dropout(0.4), StochasticDepth(0.4, "row")])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_dropout_of_shares_is_that_of_the_whole_batch(layer, layout):
    x = torch.randn(40, 3, 5, 2).contiguous(memory_format=layout)
    torch.manual_seed(4)
    whole = layer(x)
    parts = []
    for rank in range(3):
        batches = SharedBatches(Processes(rank, 3))
        share, _ = batches.take([x], torch.zeros(40))
        torch.manual_seed(4)
        parts.append(WholeBatchDropout(layer, batches)(share))
    assert torch.equal(torch.cat(parts), whole)
    assert 0.2 < (whole == 0).float().mean() < 0.6


def test_views_are_shared_image_by_image():
    batches = SharedBatches(Processes(1, 2))
    views = torch.arange(5).view(5, 1, 1, 1), torch.arange(10, 15).view(5, 1, 1, 1)
    x, labels = batches.take(list(views), torch.arange(5))
    assert x.flatten().tolist() == [3, 4, 13, 14]
    assert labels.tolist() == [3, 4]
    assert (batches.size, batches.rows.tolist()) == (10, [3, 4, 8, 9])


def test_random_layers_and_batch_norm_are_converted_and_weights_keep_their_names():
    network = nn.Sequential(nn.Dropout(0.1), nn.Sequential(StochasticDepth(0.2, "row")))
    network.append(nn.BatchNorm2d(3))
    names = list(network.state_dict())
    assert SharedBatches(Processes()).convert(network) is network
    assert [type(network[0]), type(network[2])] == [nn.Dropout, nn.BatchNorm2d]
    converted = SharedBatches(Processes(0, 2)).convert(network)
    kinds = [type(module) for module in (converted[0], converted[1][0], converted[2])]
    assert kinds == [WholeBatchDropout, WholeBatchDropout, GatheredBatchNorm]
    assert (converted[0].layer.p, converted[1][0].layer.p) == (0.1, 0.2)
    assert list(converted.state_dict()) == names


@pytest.mark.parametrize(
    ("processes", "batch_size", "images"), [(1, 8, 16), (2, 8, 16), (3, 7, 17), (4, 7, 14)]
)
def test_no_process_is_left_without_an_image(processes, batch_size, images):
    data = torch.zeros((17, 1, 28, 28), dtype=torch.uint8), torch.zeros(17)
    recipe = dataclasses.replace(RECIPE, batch_size=batch_size)
    trainer = Trainer(EfficientChestNet, recipe, data, data)
    trainer.processes = Processes(0, processes)
    assert trainer.images_per_epoch == images


if __name__ == "__main__":
    main(*sys.argv[1:])
