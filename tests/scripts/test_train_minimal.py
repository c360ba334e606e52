"""`train_minimal.py`: the same network as `model.py`, in one file that learns."""

from __future__ import annotations

import ast
import io
import re
import runpy
import sys
import types

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
    assert len(text.splitlines()) <= 207
    imported = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            imported.add(node.module.split(".")[0])
    on_colab = {"torch", "torchvision", "numpy", "matplotlib", "tqdm"}  # without an installation
    assert imported - set(sys.stdlib_module_names) == on_colab


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_says_in_words_what_it_takes_and_writes(flag, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(SOURCE), flag])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(SOURCE), run_name="__main__")
    told = capsys.readouterr()
    assert not end.value.code and not told.err
    assert "[FILE.npz [EPOCHS]]" in told.out and "train_minimal_best.pth" in told.out


def test_it_downloads_the_file_that_medmnist_knows():
    medmnist = pytest.importorskip("medmnist")
    assert medmnist.INFO["chestmnist"]["url"] == train_minimal.URL
    assert f'"{medmnist.INFO["chestmnist"]["MD5"]}"' in SOURCE.read_text(encoding="utf-8")


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


def test_it_reads_the_same_images_and_labels(phantom):
    splits, source = train_minimal.read(phantom)
    data = load(str(phantom))
    assert source == data.source == f"{PHANTOM_MARK} (phantom.npz)"
    for name in SPLITS:
        images, labels = splits[name].tensors
        pixels = getattr(data, name).images[:, None] / 255
        np.testing.assert_allclose(images, (pixels - REPORT.mean) / REPORT.std, atol=1e-6)
        np.testing.assert_array_equal(labels, getattr(data, name).labels)


@pytest.mark.slow  # over a minute; one epoch of it is run with the README's other commands
def test_it_learns_and_writes_weights_and_curves(phantom, tmp_path):
    no_such = {"MPLBACKEND": "nonsense"}  # no window is needed
    done = run_script("train_minimal.py", phantom, 3, cwd=tmp_path, timeout=900, **no_such)
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
    loader = torch.utils.data.DataLoader(splits["test"], 32)
    _, accuracy, auc = train_minimal.evaluate(network.to(train_minimal.DEVICE), loader)
    assert f"{accuracy:.3f}, AUC {auc:.3f}" in lines[1][0]


def test_early_stopping_ends_a_training_without_progress(phantom, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train_minimal, "PATIENCE", 2)
    accuracies = iter([0.5, 0.6, 0.6, 0.4, 0.9, 0.6, 0.7])
    monkeypatch.setattr(train_minimal, "train_epoch", lambda *arguments: (0.7, 0.5))
    monkeypatch.setattr(train_minimal, "evaluate", lambda *arguments: (0.7, next(accuracies), 0.5))
    train_minimal.main(*train_minimal.read(phantom), 7)
    assert "accuracy 0.600, AUC 0.500 at epoch 2" in capsys.readouterr().out.splitlines()[1]


def in_a_cell(text, folder, monkeypatch):
    """Execute the file's text, or other text, as a notebook's kernel does."""
    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    monkeypatch.setattr(sys, "argv", ["ipykernel_launcher.py", "-f", "/tmp/kernel-1.json"])
    monkeypatch.chdir(folder)
    names = {"__name__": "__main__"}
    exec(compile(text, "cell", "exec"), names)
    return names


def test_a_cell_takes_its_file_from_the_top_and_not_from_the_kernel(phantom, tmp_path, monkeypatch):
    text = SOURCE.read_text(encoding="utf-8")
    edited = text.replace("DATA = None", f"DATA = {str(phantom)!r}").replace("= 100\n", "= 1\n")
    edited = edited.replace("\ndef main(", "\ndef unused(").replace(
        "\nif __name__", "\ndef main(*given): global got; got = given\nif __name__"
    )
    names = in_a_cell(edited, tmp_path, monkeypatch)
    assert names["got"][1] == f"{PHANTOM_MARK} (phantom.npz)"


@pytest.fixture
def offline(monkeypatch, tmp_path_factory):
    """No network, and a home folder without ChestMNIST."""
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path_factory.mktemp("home")))
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # where nothing listens


def test_without_a_network_it_names_the_ways_out_in_one_line(
    offline, tmp_path, monkeypatch, capsys
):
    done = run_script("train_minimal.py", cwd=tmp_path)
    in_a_cell(SOURCE.read_text(encoding="utf-8"), tmp_path, monkeypatch)
    assert done.returncode == 2
    for line in (done.stderr, capsys.readouterr().err):
        assert line.startswith("error: ChestMNIST cannot be downloaded (")
        assert line.count("\n") == 1
        for way_out in (train_minimal.URL, "DATA = 'FILE.npz'", "train_minimal.py FILE.npz"):
            assert way_out in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments", [("nothing.npz", 1, 2), ("{data}", "many"), ("{data}", "0"), ("{data}", "\u00b2")]
)
def test_wrong_arguments_end_in_one_line(arguments, phantom, script, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        script("train_minimal.py", *[word.format(data=phantom) for word in map(str, arguments)])
    printed = capsys.readouterr()
    assert end.value.code == 2 and printed.out == ""
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def wrong_files():
    """Contents of files that cannot be trained on, by what is wrong with them."""
    arrays = make_phantom(size=28, train=40, val=20, test=20, seed=1)
    one_class = arrays["test_labels"][:, 7] == 1
    changes = {
        "no array 'val_labels'": {"val_labels": None},
        "labels of one column": {"train_labels": arrays["train_labels"][:, 7]},
        "three labels": {"train_labels": arrays["train_labels"][:, :3]},
        "fewer labels than images": {"val_labels": arrays["val_labels"][:-1]},
        "colour": {"train_images": np.repeat(arrays["train_images"][..., None], 3, 3)},
        "floats": {"test_images": arrays["test_images"] / 255},
        "objects": {"val_images": arrays["val_images"].astype(object)},
        "one class": {
            f"test_{kind}": arrays[f"test_{kind}"][one_class] for kind in ("images", "labels")
        },
        "no image": {f"train_{kind}": arrays[f"train_{kind}"][:0] for kind in ("images", "labels")},
    }
    for what, change in changes.items():
        content = io.BytesIO()
        kept = {name: array for name, array in {**arrays, **change}.items() if array is not None}
        np.savez(content, **kept)
        yield what, content.getvalue()
    yield "half a file", content.getvalue()[: len(content.getvalue()) // 2]
    yield "text", b"train_images,train_labels\n"
    yield "nothing", b""
    array = io.BytesIO()
    np.save(array, np.zeros(3))
    yield "npy", array.getvalue()


def test_a_file_of_another_content_is_refused_in_one_line(tmp_path):
    for what, content in wrong_files():
        path = tmp_path / "wrong.npz"
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is no npz file in ChestMNIST's layout") as error:
            train_minimal.read(path)
        assert "\n" not in str(error.value), what
    for path in (tmp_path, tmp_path / "missing.npz", "~nobody/x.npz"):
        with pytest.raises(ValueError, match="is no npz file"):
            train_minimal.read(path)
    done = run_script("train_minimal.py", "wrong.npz", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
