"""The second figure of a run with running batch-norm statistics, and its alarm."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from torch import nn

from chestlab import Recipe
from chestlab.runs import results
from chestlab.runs import run as runs
from chestlab.runs.estimated_statistics import LAG, lag_alarm

RECIPE = Recipe(name="slow", epochs=6, batch_size=16, lr=1e-2, monitor="last", flip=0.5)


class SlowNet(nn.Module):
    """As torchvision builds MobileNetV3: batch norm with momentum 0.01."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 8, 3, 2, bias=False),
            nn.BatchNorm2d(8, momentum=0.01),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, 2, bias=False),
            nn.BatchNorm2d(8, momentum=0.01),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 1),
        )

    def forward(self, x):
        return self.layers(x).squeeze(1)


@pytest.fixture(scope="module")
def folders(phantom_npz, tmp_path_factory):
    """A run whose running averages lag, and one that estimates them itself."""
    base = tmp_path_factory.mktemp("statistics")
    found = {}
    for how in ("running", "estimated"):
        flags = ["--data", phantom_npz, "--device", "cpu", "--batch-norm", how, "--name", how]
        flags += ["--results-dir", base / "results", "--models-dir", base / "models"]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.argv", ["train_slow.py", *map(str, flags)])
            patch.setattr(results, "draw_pictures", lambda *arguments: None)
            runs.run(SlowNet, {"report": RECIPE})
        (folder,) = base.glob(f"results/**/{how}")
        found[how] = json.loads((folder / "metrics.json").read_text())
    return found


def test_the_second_figure_is_that_of_a_recipe_which_estimates(folders):
    lagging, estimating = folders["running"], folders["estimated"]
    assert estimating["statistics"] is None
    both = lagging["statistics"]
    for split in ("train", "val"):
        estimated = both[split]["estimated"]
        assert estimated["auc"] == pytest.approx(estimating[split]["auc"], abs=1e-6)
        assert both[split]["running"]["auc"] == pytest.approx(lagging[split]["auc"], abs=1e-6)
        assert both[split]["running"]["loss"] == pytest.approx(lagging[split]["loss"], abs=1e-6)
        assert estimated["loss"] < both[split]["running"]["loss"]
    assert set(both) == {"train", "val"}  # a second figure of test would be a second look


def test_test_figures_and_weights_are_those_of_running_averages(folders):
    lagging = folders["running"]
    assert lagging["val"]["loss"] != pytest.approx(
        lagging["statistics"]["val"]["estimated"]["loss"]
    )


@pytest.mark.parametrize(
    ("running", "estimated", "alarms"),
    [(0.8, 0.8 + 0.9 * LAG, 0), (0.7, 0.7 + 1.1 * LAG, 1), (None, 0.8, 1), (0.8, None, 0)],
)
def test_a_large_lag_is_an_alarm(running, estimated, alarms):
    figures = {"val": {"running": {"auc": running}, "estimated": {"auc": estimated}}}
    assert len(lag_alarm(figures)) == alarms
    assert lag_alarm(None) == []


@pytest.mark.parametrize(
    ("layer", "setting", "advised"),
    [
        (nn.BatchNorm2d(1), "running", True),
        (nn.BatchNorm2d(1), "estimated", False),
        (nn.GroupNorm(1, 1), "running", False),
    ],
)
def test_only_running_statistics_are_advised_against(layer, setting, advised):
    split = SimpleNamespace(labels=np.arange(40) % 2)
    experiment = SimpleNamespace(
        splits={"train": split},
        data=SimpleNamespace(warnings=[]),
        recipe=Recipe(name="x", batch_norm=setting),
    )
    history = [{"train_loss": 0.7, "train_accuracy": 0.9}]
    trainer = SimpleNamespace(
        model=nn.Sequential(layer), history=history, best_epoch=1, frozen_modules=[]
    )
    constant = {name: np.full(40, 0.4) for name in ("train", "val")}
    warnings = results._warnings(experiment, trainer, constant, constant, {"threshold": 0.5})
    assert len(warnings) == 3
    assert all(("--batch-norm estimated" in text) == advised for text in warnings)
