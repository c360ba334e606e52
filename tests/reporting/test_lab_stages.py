"""The lab report's steps of a training in two stages, beside those of experiment 3's report."""

import pytest
from lab_runs import pages_of, write_run

import train_densenet
import train_mobilenet
from chestlab.reporting import lab_stages
from chestlab.training.recipe import as_dict

ACCURACIES = {"stage1": 0.40625, "stage2": 0.5, "tta": 0.65625, "threshold": 0.71875}
IMAGENET = {"source": "imagenet", "sha256": "ab" * 32}


def pages(folder, **changes):
    """Both pages of a run in two stages with the report's recipe, `ACCURACIES` and AUC 0.123."""
    stages = {
        name: {"val": {"accuracy": value, "auc": 0.123}, "seconds": 1.0}
        for name, value in ACCURACIES.items()
    }
    usual = {
        "ladder": stages,
        "model": "MobileNetV3Chest",
        "starting_weights": IMAGENET,
        "recipe": as_dict(train_mobilenet.REPORT),
    }
    write_run(folder, **usual | changes)
    return pages_of(folder)


def section(page, heading):
    return page.split(f"### {heading}\n")[1].split("\n### ")[0]


def cells(text):
    rows = [line for line in text.splitlines() if line.startswith("| ")][2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_the_steps_stand_beside_those_of_the_course_report(tmp_path):
    english, indonesian = pages(tmp_path / "run")
    rows = cells(section(english, "Step by step"))
    assert [row[1:] for row in rows] == [
        ["40.6 %", "0.123", "74.75 %"],
        ["50.0 %", "0.123", "89.18 %"],
        ["65.6 %", "0.123", "89.51 %"],
        ["71.9 %", "0.123", "-"],
    ]
    assert "0.45" in rows[3][0]
    rows = cells(section(indonesian, "Langkah demi langkah"))
    assert [row[3] for row in rows] == ["74,75 %", "89,18 %", "89,51 %", "-"]
    assert "0,45" in rows[3][0]


def test_what_differs_from_the_report_is_named(tmp_path):
    recipe = as_dict(train_densenet.REPORT)
    changes = {"model": "TimmChest", "model_arguments": {"arch": "timm/tf_efficientnet_lite0"}}
    english, indonesian = pages(tmp_path / "run", recipe=recipe, **changes)
    text = section(english, "Step by step")
    for told in (
        "This run is another experiment: the network is timm/tf_efficientnet_lite0;",
        "32 validation images of 28 x 28 pixels come from chestmnist_small.npz;",
        "`batch_size` is 16, not 48; `accumulation` is 4, not 2.",
    ):
        assert told in text
    assert "starts from" not in text
    assert "`batch_size` adalah 16, bukan 48" in section(indonesian, "Langkah demi langkah")


def test_the_reports_own_experiment_is_called_so(tmp_path, monkeypatch):
    monkeypatch.setattr(lab_stages, "REPORT_IMAGES", 32)
    text = section(pages(tmp_path / "run")[0], "Step by step")
    assert "This run has the report's network, starting weights, recipe" in text
    random = {"source": "none", "sha256": ""}
    text = section(pages(tmp_path / "other", starting_weights=random)[0], "Step by step")
    assert "another experiment: it starts from random weights. What" in text


@pytest.mark.parametrize(
    ("model", "steps"), [("DenseNet121Chest", ["stage2", "tta", "threshold"]), ("ResNet34", None)]
)
def test_other_trainings_have_no_column_of_the_report(tmp_path, model, steps):
    stages = steps and {name: {"val": {"accuracy": 0.5, "auc": None}} for name in steps}
    english, _ = pages(tmp_path / "run", model=model, ladder=stages)
    assert "course report of experiment 3" not in english
    assert ("### Step by step" in english) == (steps is not None)
    if steps:
        assert [row[1:] for row in cells(section(english, "Step by step"))] == [["50.0 %", "-"]] * 3


def test_phantoms_have_no_column_of_the_report(tmp_path):
    counts = {"cardiomegaly": 40, "pneumothorax": 60}
    data = {"source": "p", "size": 28, "sha256": "ab" * 32, "phantom": True}
    data["counts"] = {split: counts for split in ("train", "val", "test")}
    assert "course report of experiment 3" not in pages(tmp_path / "run", data=data)[0]


def test_what_is_quoted_is_the_recipe_of_the_script():
    quoted, report = as_dict(lab_stages.REPORT_RECIPE), as_dict(train_mobilenet.REPORT)
    assert quoted | {"name": "mobilenetv3"} == report


def test_the_command_of_the_documentation_has_that_recipe():
    """``train_densenet.py --batch-size 48 --accumulation 2``."""
    recipe = as_dict(train_densenet.REPORT) | {"batch_size": 48, "accumulation": 2}
    report = as_dict(train_mobilenet.REPORT)
    assert {key for key in report if report[key] != recipe[key]} == {"name", "cpu_bf16"}
