"""Experiments 2 and 3: parameter counts, starting weights, the two stages, the ladder."""

import csv
import hashlib
import http.server
import json
import threading

import pytest
import torch
from conftest import ROOT, TINY, run_in_process, run_script, without_times
from torch import nn
from torchvision.models import mobilenet_v3_large

from chestlab.evaluation.looks import read_looks
from chestlab.files.errors import InputError
from chestlab.training.inference import predict
from chestlab.training.layers import parameter_count
from chestlab.training.recipe import Recipe
from chestlab.training.trainer import Trainer
from chestlab.training.weights import RANDOM_MARK, PretrainedWeights, read_pretrained
from model_improved import ResidualChestNet
from model_mobilenet import MobileNetV3Chest
from train_improved import REPORT as IMPROVED
from train_mobilenet import REPORT as MOBILENET

STAGES = ROOT / "tests" / "tiny_stages.py"


def test_residual_network_has_4_119_745_parameters_and_one_logit_per_image():
    model = ResidualChestNet().eval()
    assert parameter_count(model) == 4_119_745
    assert model(torch.randn(2, 1, 28, 28)).shape == (2,)
    assert model.last(model.layers(model.stem(torch.randn(1, 1, 28, 28)))).shape == (1, 512, 7, 7)


def test_mobilenet_has_5_022_225_parameters_2_050_561_of_them_in_the_classifier():
    model = MobileNetV3Chest().eval()
    assert parameter_count(model) == 5_022_225
    assert parameter_count(model.classifier) == 2_050_561
    assert model(torch.randn(2, 1, 64, 64)).shape == (2,)


def test_the_recipes_are_the_reports():
    wanted = {
        IMPROVED: {
            "epochs": 30,
            "batch_size": 32,
            "lr": 5e-4,
            "weight_decay": 5e-4,
            "schedule": "plateau",
            "gamma": 0.5,
            "plateau_patience": 5,
            "clip": 1.0,
            "patience": 15,
            "rotate": 15,
            "translate": 0.1,
            "scale": 0.1,
            "flip": 0.5,
        },
        MOBILENET: {
            "stage1_epochs": 30,
            "stage1_lr": 1e-3,
            "epochs": 120,
            "lr": 1e-4,
            "schedule": "constant",
            "weight_decay": 0.01,
            "batch_size": 48,
            "accumulation": 2,
            "patience": 40,
            "seed": 2024,
            "image_size": 128,
            "stem": "mean",
            "flip": 0.5,
            "tta": "flip",
        },
    }
    for recipe, values in wanted.items():
        assert {key: getattr(recipe, key) for key in values} == values


@pytest.fixture(scope="module")
def imagenet():
    """A state dict like the one torchvision offers, with random weights and three colours."""
    torch.manual_seed(5)
    return mobilenet_v3_large(weights=None).state_dict()


def test_imagenet_weights_fill_the_backbone_and_the_first_convolution_is_the_mean(imagenet):
    model = MobileNetV3Chest(PretrainedWeights("imagenet", "", dict(imagenet)).with_stem("mean"))
    colours = imagenet["features.0.0.weight"]
    grey = (colours[:, 0:1] + colours[:, 1:2] + colours[:, 2:3]) / 3
    torch.testing.assert_close(model.backbone[0][0].weight, grey)
    own = model.backbone.state_dict()
    assert len(own) == sum(name.startswith("features.") for name in imagenet)
    for name, value in own.items():
        if name != "0.0.weight":
            assert torch.equal(value, imagenet[f"features.{name}"]), name


def test_a_checkpoint_of_this_project_gives_its_backbone_only():
    """Whatever it was trained for: its classifier is left behind."""
    torch.manual_seed(1)
    other = MobileNetV3Chest()
    start = PretrainedWeights("x.pth", "", {"weights": other.state_dict()})
    torch.manual_seed(2)
    model = MobileNetV3Chest(start)
    for name, value in model.backbone.state_dict().items():
        assert torch.equal(value, other.backbone.state_dict()[name]), name
    assert not torch.equal(model.classifier[2].weight, other.classifier[2].weight)


@pytest.mark.parametrize("damage", ["missing", "shape", "extra", "foreign"])
def test_weights_that_do_not_fit_are_refused(imagenet, damage):
    state = dict(imagenet)
    if damage == "missing":
        del state["features.4.block.0.0.weight"]
    elif damage == "shape":
        state["features.4.block.0.0.weight"] = torch.zeros(1)
    elif damage == "extra":
        state["features.99.weight"] = torch.zeros(1)
    else:
        state = {"something": 1}
    with pytest.raises(InputError, match=r"bad\.pth"):
        MobileNetV3Chest(PretrainedWeights("bad.pth", "", state))


def test_imagenet_weights_are_downloaded_checked_and_kept(tmp_path, imagenet, monkeypatch):
    torch.save(imagenet, tmp_path / "state.pth")
    content = (tmp_path / "state.pth").read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    requests = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments):
            pass

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/models/net-{digest[:8]}.pth"
        for _ in range(2):
            start = read_pretrained("imagenet", url)
            assert start.sha256 == digest
        server.shutdown()
    assert len(requests) == 1
    assert (tmp_path / f"home/hub/checkpoints/net-{digest[:8]}.pth").is_file()


def test_a_frozen_backbone_stays_as_it_is_batch_norm_statistics_included():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
            self.head = nn.Linear(4, 1)

        def forward(self, x):
            return self.head(self.backbone(x).mean((2, 3))).squeeze(1)

    images = torch.randint(0, 256, (16, 1, 8, 8), dtype=torch.uint8)
    data = images, (torch.arange(16) % 2).float()
    recipe = Recipe(name="r", epochs=2, batch_size=8, stage1_epochs=2, stage1_lr=0.1)
    first, second = recipe.stages
    trainer = Trainer(Net, first, data, data, frozen=True)
    before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    while not trainer.finished:
        trainer.run_epoch()
    after = trainer.model.state_dict()
    for name, value in before.items():
        assert torch.equal(value, after[name]) == name.startswith("backbone"), name

    follower = Trainer(Net, second, data, data, previous=trainer)
    for name, value in trainer.best_weights.items():
        assert torch.equal(value, follower.model.state_dict()[name]), name
    follower.run_epoch()
    assert not torch.equal(follower.model.backbone[0].weight, before["backbone.0.weight"])
    assert [row["epoch"] for row in follower.history] == [1, 2, 3]
    assert [row["lr"] for row in follower.history] == [0.1, 0.1, 1e-3]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [30, 120]),
        ({"epochs": 5}, [5, 5]),
        ({"epochs": 50}, [30, 50]),
        ({"stage1_epochs": 3, "stage2_epochs": 4}, [3, 4]),
        ({"stage1_epochs": 0}, [120]),
    ],
)
def test_epochs_is_a_cap_on_both_stages(changes, expected):
    from dataclasses import replace

    assert [stage.epochs for stage in replace(MOBILENET, **changes).stages] == expected


def test_flip_tta_is_the_mean_logit_of_an_image_and_its_mirror_image():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 1), nn.Flatten(0)).eval()
    images = torch.randint(0, 256, (6, 1, 8, 8), dtype=torch.uint8)
    recipe = Recipe(name="r")
    both = predict(model, images, recipe) + predict(model, images.flip(-1), recipe)
    assert predict(model, images, recipe, tta="flip") == pytest.approx(both / 2, abs=1e-6)


@pytest.fixture(scope="module")
def two_stages(tmp_path_factory, phantom_npz):
    folder = tmp_path_factory.mktemp("stages")
    flags = ("--data", phantom_npz, "--weights", "none", "--stage1-epochs", 3, "--name", "s")
    result = run_in_process(STAGES, *flags, cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder, flags, result


def test_a_two_stage_run_leaves_its_checkpoints_ladder_and_one_history(two_stages):
    folder, _, _ = two_stages
    for ending in ("stage1", "best", "last", "final"):
        assert (folder / f"trained_models/s_{ending}.pth").is_file()
    final = torch.load(folder / "trained_models/s_final.pth", weights_only=True)
    metrics = json.loads((folder / "results/s/metrics.json").read_text())
    assert final["threshold"] == metrics["threshold"]
    assert final["tta"] == metrics["tta"] == "flip"
    assert list(metrics["ladder"]) == ["stage1", "stage2", "tta", "threshold"]
    for stage_result in metrics["ladder"].values():
        assert stage_result.keys() == {"val", "seconds"}  # test is evaluated at the end alone
        assert stage_result["val"].keys() == {"accuracy", "auc"}
        assert stage_result["seconds"] > 0
    for figure in ("accuracy", "auc"):
        assert metrics["ladder"]["threshold"]["val"][figure] == metrics["val"][figure]
    steps = (folder / "results/s/README.md").read_text().split("### Step by step")[1]
    steps = [line for line in steps.split("\n### ")[0].splitlines() if line.startswith("| ")]
    assert len(steps) == 2 + len(metrics["ladder"])
    assert [look.kind for look in read_looks(folder / "results/phantom/test_looks.csv")] == ["run"]
    with (folder / "results/s/history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == list(range(1, 8))
    assert [float(row["lr"]) for row in rows] == [1e-2] * 3 + [1e-3] * 4


def test_random_initialisation_is_said_everywhere(two_stages, phantom_npz, tmp_path):
    folder, _, result = two_stages
    metrics = json.loads((folder / "results/s/metrics.json").read_text())
    assert metrics["starting_weights"]["note"] == RANDOM_MARK
    assert RANDOM_MARK in result.stdout


def test_without_weights_there_is_no_frozen_stage_unless_asked_for(
    tmp_path, phantom_npz, no_pictures
):
    result = run_in_process(
        STAGES, "--data", phantom_npz, "--weights", "none", "--epochs", 1, cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    metrics = json.loads(
        (tmp_path / "results/stages_small_epochs1_weightsnone/metrics.json").read_text()
    )
    assert metrics["epochs_run"] == 1
    assert list(metrics["ladder"]) == ["stage2", "tta", "threshold"]


def test_weights_that_cannot_be_had_train_nothing(tmp_path, phantom_npz):
    result = run_in_process(
        STAGES, "--data", phantom_npz, cwd=tmp_path, TORCH_HOME=str(tmp_path / "h")
    )
    assert result.returncode == 2
    assert "put by hand" in result.stderr
    assert "tiny-00000000.pth" in result.stderr
    assert not (tmp_path / "results").exists()
    missing = run_in_process(STAGES, "--data", phantom_npz, "--weights", "no.pth", cwd=tmp_path)
    assert missing.returncode == 2
    assert len(missing.stderr.splitlines()) == 1


def test_a_network_without_a_backbone_has_no_frozen_stage(tmp_path, phantom_npz):
    result = run_in_process(TINY, "--data", phantom_npz, "--stage1-epochs", 1, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith("error: --stage1-epochs")
    assert len(result.stderr.splitlines()) == 1
    assert not any(tmp_path.iterdir())


INTERRUPT = """
import os, runpy, signal, sys
sys.path.insert(0, {root!r})
from chestlab.training.trainer import Trainer
run_epoch = Trainer.run_epoch
def counted(self):
    if len(self.history) == {epochs}:
        os.kill(os.getpid(), signal.{signal})
    return run_epoch(self)
Trainer.run_epoch = counted
sys.argv = [{script!r}, *{flags!r}]
runpy.run_path({script!r}, run_name="__main__")
"""


@pytest.mark.parametrize(
    ("name", "epochs"),
    [
        ("SIGKILL", 3),  # between the stages
        *(
            pytest.param(name, epochs, marks=pytest.mark.slow)
            for name in ("SIGKILL", "SIGINT")
            for epochs in (1, 2, 4)
        ),
        pytest.param("SIGINT", 5, marks=pytest.mark.slow),
    ],
)
def test_resume_across_the_stage_change_is_bit_identical(two_stages, tmp_path, epochs, name):
    folder, flags, _ = two_stages
    script = tmp_path / "interrupt.py"
    script.write_text(
        INTERRUPT.format(
            root=str(ROOT),
            epochs=epochs,
            signal=name,
            script=str(STAGES),
            flags=[str(flag) for flag in flags],
        )
    )
    stopped = run_script(script, cwd=tmp_path)
    assert stopped.returncode == {"SIGKILL": -9, "SIGINT": 130}[name]
    resumed = run_script(STAGES, *flags, "--resume", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    for ending in ("stage1", "best", "final"):
        whole, pieces = (
            torch.load(place / f"trained_models/s_{ending}.pth", weights_only=True)
            for place in (folder, tmp_path)
        )
        assert whole["epoch"] == pieces["epoch"]
        for key, value in whole["weights"].items():
            assert torch.equal(value, pieces["weights"][key]), (ending, key)
    for table in ("val_probabilities.csv", "test_probabilities.csv"):
        assert (folder / "results/s" / table).read_bytes() == (
            tmp_path / "results/s" / table
        ).read_bytes()
    whole, pieces = (
        without_times(json.loads((place / "results/s/metrics.json").read_text()))
        for place in (folder, tmp_path)
    )
    assert whole == pieces


def test_nothing_in_a_frozen_backbone_is_random():
    """Dropout and stochastic depth own no weights, and rest with the layers that do."""

    class WithDropout(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = nn.Sequential(
                nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1)
            )
            self.head = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(4, 1))

        def forward(self, x):
            return self.head(self.backbone(x)).squeeze(1)

    images = torch.randint(0, 256, (8, 1, 16, 16), dtype=torch.uint8)
    parts = (images, (torch.arange(8) % 2).float())
    trainer = Trainer(WithDropout, Recipe(name="x"), parts, parts, frozen=True)
    seen = []
    trainer.on_step = lambda: seen.append([m.training for m in trainer.model.backbone.modules()])
    trainer.run_epoch()
    assert seen and not any(any(modes) for modes in seen)
    assert not any(p.requires_grad for p in trainer.model.backbone.parameters())
