"""`train_minimal.py`: the same network as `model.py`, in one file that learns."""

from __future__ import annotations

import ast
import re
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, run_script
from PIL import Image

import model
import train_minimal
from chestlab.data.phantom import PHANTOM_MARK, make_phantom
from chestlab.data.sources import load
from chestlab.data.splits import SPLITS
from train import REPORT

SOURCE = ROOT / "train_minimal.py"


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    """1,000 training images, which is enough to learn something from in three epochs."""
    path = tmp_path_factory.mktemp("phantom") / "phantom.npz"
    np.savez(path, **make_phantom(size=28, train=1000, val=100, test=150, seed=1))
    return path


def test_it_is_one_short_file_that_imports_nothing_from_here():
    text = SOURCE.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 200
    imported = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            imported.add(node.module.split(".")[0])
    allowed = {"torch", "torchvision", "medmnist", "numpy", "matplotlib", "tqdm"}
    assert imported - set(sys.stdlib_module_names) == allowed


def test_its_network_is_that_of_model_py():
    torch.manual_seed(0)
    ours, minimal = model.EfficientChestNet().eval(), train_minimal.EfficientChestNet().eval()
    shapes = [{k: v.shape for k, v in net.state_dict().items()} for net in (ours, minimal)]
    assert shapes[0] == shapes[1]
    assert sum(p.numel() for p in minimal.parameters()) == 1_279_377
    for module in ours.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    minimal.load_state_dict(ours.state_dict())
    images = torch.rand(3, 1, 28, 28)
    with torch.no_grad():
        torch.testing.assert_close(minimal(images), ours(images))
    dropouts = [
        [m.p for m in net.modules() if isinstance(m, torch.nn.Dropout)] for net in (ours, minimal)
    ]
    assert dropouts[0] == dropouts[1]


def test_its_hyperparameters_are_those_of_the_report_s_recipe():
    recipe = REPORT
    assert (recipe.epochs, recipe.patience) == (train_minimal.EPOCHS, train_minimal.PATIENCE)
    assert (recipe.lr, recipe.warmup) == (train_minimal.LR, train_minimal.WARMUP)
    assert (recipe.weight_decay, recipe.clip) == (train_minimal.WEIGHT_DECAY, train_minimal.CLIP)
    assert (recipe.batch_size, recipe.seed) == (train_minimal.BATCH_SIZE, train_minimal.SEED)
    assert train_minimal.TRANSFORM.transforms[1].mean == recipe.mean
    assert train_minimal.TRANSFORM.transforms[1].std == recipe.std


def test_it_reads_the_same_images_and_labels(phantom):
    splits, source = train_minimal.read(phantom)
    data = load(str(phantom))
    assert source == data.source == f"{PHANTOM_MARK} (phantom.npz)"
    for name in SPLITS:
        images, labels = splits[name]
        np.testing.assert_array_equal(images, getattr(data, name).images)
        np.testing.assert_array_equal(labels, getattr(data, name).labels)


def test_it_learns_and_writes_weights_and_curves(phantom, tmp_path):
    done = run_script(
        "train_minimal.py", phantom, 3, cwd=tmp_path, timeout=900, OMP_NUM_THREADS="2"
    )
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "train_minimal_best.pth",
        "train_minimal_curves.png",
    ]
    pattern = r"(\w+), (.*): accuracy ([\d.]+), AUC ([\d.]+) at epoch (\d+)"
    lines = [re.fullmatch(pattern, line) for line in done.stdout.splitlines()]
    assert [line[1] for line in lines] == ["val", "test"]
    assert all(line[2] == f"{PHANTOM_MARK} (phantom.npz)" for line in lines)
    for line in lines:
        assert float(line[4]) > 0.7
    with Image.open(tmp_path / "train_minimal_curves.png") as picture:
        assert picture.width > 1000
    weights = torch.load(tmp_path / "train_minimal_best.pth", weights_only=True)
    network = model.EfficientChestNet()
    network.load_state_dict(weights)
    splits, _ = train_minimal.read(phantom)
    loader = torch.utils.data.DataLoader(train_minimal.TwoClassDataset(*splits["test"]), 32)
    _, accuracy, auc, _ = train_minimal.evaluate(network, loader)
    assert f"{accuracy:.3f}, AUC {auc:.3f}" in lines[1][0]


def test_early_stopping_ends_a_training_without_progress(phantom, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train_minimal, "PATIENCE", 2)
    accuracies = iter([0.5, 0.6, 0.6, 0.4, 0.9, 0.6, 0.7])
    monkeypatch.setattr(train_minimal, "train_epoch", lambda *arguments: (0.7, 0.5))
    monkeypatch.setattr(
        train_minimal, "evaluate", lambda *arguments: (0.7, next(accuracies), 0.5, None)
    )
    train_minimal.main(phantom, 7)
    assert "accuracy 0.600, AUC 0.500 at epoch 2" in capsys.readouterr().out.splitlines()[1]


def test_a_notebook_s_own_arguments_are_no_file(tmp_path):
    """Pasted into a cell the file would otherwise take the kernel's connection file."""
    code = (
        "import sys, numpy; text = open(sys.argv[1], encoding='utf-8').read();"
        "sys.argv = ['ipykernel_launcher.py', '-f', '/tmp/kernel-1.json'];"
        "text = text.replace('def main(', 'def unused(').replace("
        "'if __name__', 'def main(*words): print(words)\\nif __name__');"
        "exec(compile(text, 'cell', 'exec'), {'__name__': '__main__'})"
    )
    script = tmp_path / "cell.py"
    script.write_text(code, encoding="utf-8")
    done = run_script(script, SOURCE, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "()\n"), done.stderr


@pytest.mark.parametrize(
    "arguments", [("nothing.npz",), (SOURCE,), ("{data}", "many"), ("{data}", "0")]
)
def test_wrong_arguments_end_in_one_line(arguments, phantom, tmp_path):
    arguments = [str(word).format(data=phantom) for word in arguments]
    done = run_script("train_minimal.py", *arguments, cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
