"""Learning the 14 findings before the two classes: which files, which rows, and the pages."""

import csv
import json

import numpy as np
import pytest
import torch
from comparisons import trained  # noqa: F401 (a fixture)
from sklearn.metrics import roc_auc_score

from chestlab.data import sources
from chestlab.data.splits import FINDINGS
from chestlab.evaluation import out_of_fold
from chestlab.evaluation.baselines import BASELINES
from chestlab.files.checkpoint import load_checkpoint, save_checkpoint
from chestlab.training.inference import predict
from chestlab.training.weights import last_linear, load_pretrained, read_pretrained
from model import EfficientChestNet
from studies import findings_first, pretrain
from studies.findings_first_page import PROBE, SHORT
from studies.learned_findings import CHEXNET
from studies.stored_results import read_results
from train import RECIPES

NAME = "efficientchestnet_findings"


@pytest.fixture(scope="module")
def npz(phantom_npz, tmp_path_factory):
    """The small phantom, half of whose images have effusion, mass, both or nothing instead."""
    with np.load(phantom_npz) as source:
        arrays = dict(source)
    for split in ("train", "val"):
        labels = arrays[f"{split}_labels"]
        others = np.arange(0, len(labels), 2)
        labels[others] = 0
        for column, step in ((FINDINGS.index("effusion"), 2), (FINDINGS.index("mass"), 3)):
            labels[others[::step], column] = 1
    path = tmp_path_factory.mktemp("others") / "others.npz"
    np.savez(path, **arrays)
    return path


@pytest.fixture(scope="module")
def file(npz, tmp_path_factory):
    """What `pretrain` leaves after six epochs without any image of the two classes."""
    folder = tmp_path_factory.mktemp("pretrained")
    flags = ["--data", str(npz), "--exclude-fold", "all", "--epochs", "6"]
    flags += ["--batch-size", "8"]
    places = ["--models-dir", str(folder), "--results-dir", str(folder / "results")]
    pretrain.main([*flags, *places, "--device", "cpu", "--name", "small"])
    return folder / "small_final.pth"


@pytest.fixture
def command(npz, tmp_path, monkeypatch):
    """Run the study in a folder of its own; where its results are."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(out_of_fold, "BOOTSTRAP_RESAMPLES", 50)

    def run(*flags):
        flags = ["--folds", "3", "--device", "cpu", "--name", "a", *map(str, flags)]
        findings_first.main(["--data", str(npz), *flags])
        return tmp_path / "results" / "studies" / "a"

    run.data = npz
    return run


def rows_of(path):
    with path.open(newline="") as rows:
        return list(csv.DictReader(rows))


def test_rows_start_where_they_say(command, file, trained):  # noqa: F811
    folder = command("--pretrained", file)
    assert len(trained) == 3 * 2 * 3  # rows, repeats, folds
    starts = {c.name: c.pretrained and c.pretrained.source for c in trained}
    named = {NAME: "small_final.pth", NAME + SHORT: "small_final.pth"}
    assert starts == {"efficientchestnet": None, **named}
    before = load_checkpoint(file)["weights"]
    for configuration in trained:
        weights = configuration.model().state_dict()
        same = [torch.equal(weights[key], before[key]) for key in weights if "weight" in key]
        assert sum(same) == (0 if configuration.pretrained is None else len(same) - 1)
    recipes = {c.name: c.recipe for c in trained}
    assert recipes[NAME + SHORT].epochs == findings_first.FEWER["epochs"]
    assert recipes[NAME].epochs == recipes["efficientchestnet"].epochs
    rows = [row["configuration"] for row in rows_of(folder / "table.csv")]
    assert rows == ["efficientchestnet", NAME, NAME + SHORT, NAME + PROBE]
    pairs = [(row["configuration"], row["over"]) for row in rows_of(folder / "comparisons.csv")]
    assert pairs[0] == (NAME, "efficientchestnet") and len(pairs) == 3

    del trained[:]
    page = (folder / "README.md").read_text()
    command("--pretrained", file)
    assert not trained and (folder / "README.md").read_text() == page


def test_the_page_shows_each_finding_on_images_of_nobody_in_the_folds(
    command,
    file,
    npz,
    trained,  # noqa: F811
):
    folder = command("--pretrained", file, "--only", NAME)
    start = json.loads((folder / "findings_first.json").read_text())["configurations"][NAME][
        "start"
    ]
    both = sources.load(str(npz), None, 28).val.index
    rest = np.setdiff1d(np.arange(len(np.load(npz)["val_labels"])), both)
    assert start["val"]["n"] == len(rest)
    with np.load(npz) as arrays:
        labels = arrays["val_labels"][rest]
    network = EfficientChestNet()
    network.set_submodule(last_linear(network), torch.nn.Linear(128, len(FINDINGS)))
    network.load_state_dict(load_checkpoint(file)["weights"])
    logits = predicted(network.eval(), npz, rest)
    rows = {row["finding"]: row for row in rows_of(folder / "findings.csv")}
    for k, finding in enumerate(FINDINGS):
        assert float(rows[finding]["chexnet"]) == CHEXNET[finding]
        if 0 < labels[:, k].sum() < len(labels):
            wanted = roc_auc_score(labels[:, k], logits[:, k])
            assert float(rows[finding][NAME]) == pytest.approx(wanted, abs=1e-6)
    for page in ("README.md", "README.id.md"):
        text = (folder / page).read_text()
        assert "findings.png" in text and "| hernia |" in text
    assert (folder / "findings.png").exists()


def predicted(network, npz, rows):
    images = torch.from_numpy(np.load(npz)["val_images"][rows])[:, None]
    return predict(network, images, RECIPES["best"])


def test_the_probe_is_logistic_regression_on_what_the_last_layer_takes(command, file, trained):  # noqa: F811
    folder = command("--pretrained", file, "--only", NAME)
    network = load_pretrained(EfficientChestNet, read_pretrained(str(file), None))
    network.set_submodule(last_linear(network), torch.nn.Identity())
    _, oof = read_results(folder, "findings_first", "configurations")
    images = np.load(command.data)
    features = np.stack(
        [
            predict(
                network, torch.from_numpy(images[f"{o}_images"][i])[None, None], RECIPES["best"]
            )[0]
            for o, i in zip(oof.origin, oof.index, strict=True)
        ]
    )
    held = oof.folds[0] == 0
    (logistic,) = (known for known in BASELINES if known.key == "logistic_pixels")
    fits = [
        logistic.build(c).fit(features[~held], oof.labels[~held]).decision_function(features[held])
        for c in logistic.grid
    ]
    stored = oof.logits[NAME + PROBE][0][held]
    assert features.shape == (len(held), 128)
    assert max(np.corrcoef(fit, stored)[0, 1] for fit in fits) > 0.999


def test_rows_of_two_files_are_not_mixed_in_one_table(command, file, tmp_path, trained, capsys):  # noqa: F811
    command("--pretrained", file)
    state = load_checkpoint(file)
    save_checkpoint(tmp_path / "longer_final.pth", {**state, "epoch": 7})
    with pytest.raises(SystemExit) as end:
        command("--pretrained", "longer_final.pth", "--only", NAME + SHORT)
    assert end.value.code == 2
    told = f"--pretrained 'longer_final.pth': the row '{NAME}' of "
    assert told in capsys.readouterr().err
    before = len(trained)
    folder = command("--pretrained", "longer_final.pth")
    assert len(trained) == before + 2 * 2 * 3  # rows that start there, repeats, folds
    assert "in 7 epochs in batches of 8" in (folder / "README.md").read_text()
    assert "the source names no patients" in (folder / "README.md").read_text()
    assert "sumber data tidak menyebut pasien" in (folder / "README.id.md").read_text()


@pytest.mark.parametrize("damage", ["network", "strides", "objective", "unknown", "twice", "seen"])
def test_other_files_are_refused_in_one_line(command, file, tmp_path, capsys, damage):
    state = load_checkpoint(file)
    if damage == "network":
        state["model"] = "TimmChest"
    elif damage == "strides":  # their weights fit, but see the image at another resolution
        state["model_arguments"] = {"strides": "2221"}
    elif damage == "objective":
        state["objective"] = {"name": "two classes"}
    elif damage == "unknown":
        del state["seen"]
    elif damage == "seen":
        state["seen"]["trained"]["rows"]["train"] = list(range(1000))
    save_checkpoint(tmp_path / "other_final.pth", state)
    files = ["other_final.pth"] + [file] * (damage == "twice")
    with pytest.raises(SystemExit) as end:
        command("--pretrained", *files)
    assert end.value.code == 2 and not (tmp_path / "results").exists()
    lines = capsys.readouterr().err.strip().splitlines()
    told = {"twice": "allowed is one", "seen": "held-out"}.get(damage, "wanted is NAME_final.pth")
    assert told in lines[-1]
