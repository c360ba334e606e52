"""ONNX files: the probabilities of `predict.py` from pixels alone, checked before it is written."""

import csv
import errno
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT, require_exporter, status_of
from PIL import Image
from tiny_train import RECIPE, TinyNet

import export
import predict
from chestlab.data.splits import Split, TwoClassData
from chestlab.files.atomic import atomic_write
from chestlab.files.errors import InputError
from chestlab.runs import export_check
from chestlab.runs.finished_averages import load_trained
from chestlab.training import int8, onnx_model
from chestlab.training.averages import TrainedAverage
from chestlab.training.export_graph import PillowSquare, WholePath
from chestlab.training.inference import TrainedModel
from networks import NETWORKS, network, network_class


@pytest.fixture(scope="module", autouse=True)
def exporter():
    require_exporter()


SIZE = 28
EXAMPLE = torch.zeros((2, 1, 58, 31), dtype=torch.uint8)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def pillow_square(picture, size=SIZE):
    """The middle square of (H, W) by Pillow itself."""
    image = Image.fromarray(picture)
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    return np.array(square.resize((size, size), Image.Resampling.BICUBIC))


def trained(model, recipe=RECIPE, **changes):
    """A network in evaluation mode, with batch norms that are not as they were made."""
    model.train()
    with torch.no_grad():
        for seed in range(3):
            generator = torch.Generator().manual_seed(seed)
            model(torch.randn(8, 1, 64, 64, generator=generator))
    fields = {
        "name": "tiny",
        "architecture": type(model).__name__,
        "model": model.eval(),
        "recipe": recipe,
        "threshold": 0.5,
        "tta": recipe.tta,
        "size": SIZE,
        "source": "small.npz",
        "sha256": "0",
        "note": "",
        "seen": {},
        "device": torch.device("cpu"),
    }
    return TrainedModel(**{**fields, **changes})


def tiny(seed=0, **changes):
    torch.manual_seed(seed)
    recipe = replace(RECIPE, **changes.pop("recipe", {}))
    return trained(TinyNet(), recipe, **changes)


@pytest.fixture(scope="module")
def exported(run_of_one_epoch, tmp_path_factory):
    """The file of the run of one epoch, with a map, and its row in `export.json`."""
    out = tmp_path_factory.mktemp("exported") / "one.onnx"
    checkpoint = run_of_one_epoch[0] / "trained_models" / "one_best.pth"
    arguments = ["--checkpoint", str(checkpoint), "--out", str(out), "--with-map"]
    before = {path: path.read_bytes() for path in run_of_one_epoch[0].rglob("*.csv")}
    with pytest.MonkeyPatch.context() as patch:  # test images must not be needed
        loaded = export.load_data

        def without_test(*known):
            return replace(loaded(*known), test=None)

        patch.setattr(export, "load_data", without_test)
        assert status_of(export.main, arguments) == 0
    assert before == {path: path.read_bytes() for path in run_of_one_epoch[0].rglob("*.csv")}
    return out, json.loads((out.parent / "export.json").read_text())["one.onnx"]


@pytest.fixture
def checkpoint(run_of_one_epoch):
    return run_of_one_epoch[0] / "trained_models" / "one_best.pth"


@pytest.fixture
def quick(monkeypatch):
    """Stands in for the exporter, for tests of what happens before and after it."""
    module = WholePath(tiny())
    model = SimpleNamespace(SerializeToString=lambda: b"an ONNX file")
    monkeypatch.setattr(onnx_model, "export", lambda *arguments: model)
    monkeypatch.setattr(onnx_model, "set_metadata", lambda *arguments: None)
    monkeypatch.setattr(onnx_model, "run_model", lambda content: None)
    monkeypatch.setattr(export, "whole_path", lambda *arguments: (module, None))
    figures = {name: {"before": 0.5, "after": 0.5} for name in ("accuracy", "auc")}
    validation = {"n": 1, "largest_difference": 0.0, **figures}
    row = {"bound": 1e-5, "largest_difference": 0.0, "validation": validation, "other_sizes": []}
    monkeypatch.setattr(export_check, "check", lambda *arguments: row)


def test_pictures_of_any_size_are_cropped_and_resized_as_by_pillow_to_the_bit():
    rng = np.random.default_rng(0)
    for number in range(60):
        size = int(rng.choice([28, 64, 224]))
        picture = noise(*rng.integers(1, 400, 2), seed=number)
        if number % 3 == 0:  # edges, where the filter overshoots
            picture = (picture > 127).astype(np.uint8) * 255
        square = PillowSquare(size)(torch.from_numpy(picture)[None, None])
        assert square.dtype == torch.uint8 and square.shape == (1, 1, size, size)
        assert np.array_equal(square[0, 0].numpy(), pillow_square(picture, size)), picture.shape


def test_the_file_gives_the_probabilities_of_the_script_for_pictures_of_any_size(
    exported, checkpoint, tmp_path, run_of_one_epoch
):
    out, _ = exported
    sources = np.load(run_of_one_epoch[1])["val_images"]
    shapes = [(28, 28), (29, 57), (512, 400), (400, 512), (1024, 1024), (20, 20)]
    pictures = {}
    for number, (height, width) in enumerate(shapes):
        image = Image.fromarray(sources[number]).resize((width, height), Image.Resampling.BICUBIC)
        image.save(tmp_path / f"{number}.png")
        pictures[f"{number}.png"] = np.array(image)
    arguments = "--checkpoint", str(checkpoint), "--csv", str(tmp_path / "table.csv")
    assert status_of(predict.main, [str(tmp_path), *arguments, "--device", "cpu"]) == 0
    with (tmp_path / "table.csv").open(newline="", encoding="utf-8") as file:
        rows = {Path(row["file"]).name: row for row in csv.DictReader(file)}
    run = onnx_model.run_model(out.read_bytes())
    assert len(rows) == len(shapes)
    for name, picture in pictures.items():
        (probability,) = run(picture[None, None])[0]
        assert probability == pytest.approx(float(rows[name]["probability"]), abs=1e-5), name


def test_inputs_outputs_and_metadata_are_as_documented(exported, checkpoint):
    import onnx

    out, row = exported
    content = out.read_bytes()
    model = onnx.load_from_string(content)

    def described(value):
        sizes = [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        return value.name, value.type.tensor_type.elem_type, sizes

    kinds = onnx.TensorProto
    inputs = [("pictures", kinds.UINT8, ["N", 1, "H", "W"])]
    assert list(map(described, model.graph.input)) == inputs
    outputs = [("probability", kinds.FLOAT, ["N"]), ("map", kinds.FLOAT, ["N", 7, 7])]
    assert list(map(described, model.graph.output)) == outputs
    assert [(part.domain, part.version) for part in model.opset_import] == [("", 20)]
    texts = {entry.key: entry.value for entry in model.metadata_props}
    assert set(texts) >= {"classes", "threshold", "source", "licence", "recipe", "disclaimer"}
    assert json.loads(texts["classes"]) == ["cardiomegaly", "pneumothorax"] == row["classes"]
    assert texts["size"] == "28" and float(texts["threshold"]) == row["threshold"]
    assert texts["source"].startswith("PHANTOM DATA") and "no X-rays" in texts["licence"]
    assert "No medical device" in texts["disclaimer"] and len(texts["recipe"]) == 16
    operators = [node.op_type for node in model.graph.node]
    convolutions = [
        part
        for part in network_class("EfficientChestNet")().modules()
        if isinstance(part, torch.nn.Conv2d)
    ]
    assert operators.count("Conv") == len(convolutions) > 20  # the flip is no second copy
    assert "Gelu" in operators and "Erf" not in operators
    assert len(content) == row["bytes"] < 6e6
    for trace in (b"site-packages", str(ROOT).encode(), b"chestlab", str(out.parent).encode()):
        assert trace not in content
    run = onnx_model.run_model(content)
    pictures = noise(5, 1, 40, 33)
    probabilities, maps = run(pictures)
    assert probabilities.dtype == maps.dtype == np.float32
    for number in range(5):
        alone = run(pictures[number : number + 1])
        assert alone[0][0] == pytest.approx(probabilities[number], abs=1e-6)
        assert np.allclose(alone[1][0], maps[number], atol=1e-4)


def test_the_table_has_the_figures_of_the_check(exported, run_of_one_epoch):
    out, row = exported
    metrics = json.loads((run_of_one_epoch[0] / "results" / "one" / "metrics.json").read_text())
    validation = row["validation"]
    assert validation["n"] == 24 and 0 <= validation["largest_difference"] <= 1e-5 == row["bound"]
    assert validation["accuracy"]["before"] == pytest.approx(metrics["val"]["accuracy"])
    assert validation["accuracy"] == dict.fromkeys(
        ("before", "after"), validation["accuracy"]["before"]
    )
    assert validation["auc"]["before"] == metrics["val"]["auc"]
    shapes = [(other["height"], other["width"]) for other in row["other_sizes"]]
    assert shapes == [(512, 400), (400, 512), (1024, 1024)]
    differences = [other["difference"] for other in row["other_sizes"]]
    differences.append(validation["largest_difference"])
    assert max(differences) == row["largest_difference"] <= 1e-5
    assert {"torch", "onnx", "onnxruntime"} <= set(row["versions"])
    assert [path.name for path in sorted(out.parent.iterdir())] == ["export.json", "one.onnx"]


def test_the_example_in_python_runs_where_there_is_no_pytorch(exported, tmp_path):
    page = (ROOT / "docs" / "use_elsewhere.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```python\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    assert len(example.splitlines()) <= 12
    (tmp_path / "efficientchestnet.onnx").write_bytes(exported[0].read_bytes())
    picture = noise(50, 40)
    Image.fromarray(picture).save(tmp_path / "xray.png")
    hidden = "import sys\nfor name in ('torch', 'chestlab'):\n    sys.modules[name] = None\n"
    proof = "try:\n    import torch\nexcept ImportError:\n    print('no torch')\n"
    ended = subprocess.run(
        [sys.executable, "-c", hidden + proof + example],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    (probability,) = onnx_model.run_model(exported[0].read_bytes())(picture[None, None])[0]
    name = ("cardiomegaly", "pneumothorax")[int(probability >= exported[1]["threshold"])]
    first, second = ended.stdout.splitlines()
    assert first == "no torch"
    assert second.startswith(f"{name}: probability of pneumothorax {probability:.4f}. No medical")


@pytest.mark.parametrize(
    "recipe",
    [
        {"tta": "none", "mean": 0.4, "std": 0.2},
        {"tta": "flip", "normalize": "per-image", "image_size": 40},
        {"tta": "warps", "rotate": 20, "translate": 0.2, "scale": 0.1, "image_size": 20},
    ],
)
def test_every_preprocessing_and_augmentation_is_in_the_module(recipe):
    one = tiny(recipe=recipe, temperature=1.7)
    pictures = noise(7, 1, 90, 61)
    seen = np.stack([pillow_square(picture[0]) for picture in pictures])
    with torch.inference_mode():
        found = WholePath(one)(torch.from_numpy(pictures))
    assert found.dtype == torch.float32
    assert np.allclose(found.numpy(), one.probabilities(seen), atol=1e-6)
    assert np.ptp(found.numpy()) > 1e-4


def test_an_ensemble_and_a_blend_are_the_means_of_probabilities_and_of_logits():
    members = [tiny(seed, recipe={"tta": tta}) for seed, tta in ((1, "warps"), (2, "none"))]
    ensemble = TrainedAverage("folds", members, 0.4, of_logits=False)
    certain = tiny(3, temperature=0.001)  # probabilities of 0 or 1
    blend = TrainedAverage("blend", [ensemble, certain], 0.5, of_logits=True)
    images = noise(6, SIZE, SIZE)
    p, q = (member.probabilities(images) for member in members)
    assert np.allclose(ensemble.probabilities(images), (p + q) / 2)
    assert {0.0, 1.0} >= set(certain.probabilities(images).round(9))
    p, q = ((p + q) / 2, certain.probabilities(images).clip(1e-6, 1 - 1e-6))
    odds = np.sqrt(p / (1 - p) * q / (1 - q))
    assert np.allclose(blend.probabilities(images), odds / (1 + odds))
    assert blend.architecture == "TinyNet" and len(export.networks_of(blend)) == 3
    for average in (ensemble, blend):
        with torch.inference_mode():
            found = WholePath(average, with_map=True)(torch.from_numpy(images)[:, None])
        assert np.allclose(found[0].numpy(), average.probabilities(images), atol=1e-6)
        assert found[1].shape == (6, 7, 7)


def test_the_map_of_a_linear_head_is_the_class_activation_map():
    one = tiny(recipe={"tta": "flip"})
    images = torch.from_numpy(noise(3, 1, SIZE, SIZE))
    with torch.inference_mode():
        _, maps = WholePath(one, with_map=True)(images)
        expected = 0
        for mirrored in (False, True):
            x = (images.float() / 255 - 0.5) / 0.5
            features = one.model.layers[:5](x.flip(-1) if mirrored else x)
            linear = one.model.layers[-1]
            activation = torch.einsum("nchw,c->nhw", features, linear.weight[0]) + linear.bias
            expected = expected + (activation.flip(-1) if mirrored else activation) / 2
    assert torch.allclose(maps, expected, atol=1e-5)


def test_averages_with_random_warps_are_exported_and_halved_and_quantised():
    warps = {"tta": "warps", "tta_warps": 2}
    members = [tiny(1, recipe=warps), tiny(2, recipe={"tta": "flip"})]
    average = TrainedAverage("both", members, 0.5, of_logits=False)
    images = noise(60, SIZE, SIZE)
    expected = average.probabilities(images)
    model = onnx_model.export(WholePath(average), EXAMPLE)
    for number in (1, 60):
        found = onnx_model.run_model(model.SerializeToString())(images[:number, None])[0]
        assert np.allclose(found, expected[:number], atol=1e-6)
    names = set(onnx_model.layers(model).values())
    assert len(names) == 6  # two convolutions and a linear layer, of both

    half = onnx_model.with_half_weights(model, smallest=100)
    kinds = {t.name.removesuffix(".half"): t.data_type for t in half.graph.initializer}
    assert sorted(kinds[name] for name in names) == [1, 1, 1, 1, 10, 10]  # float32 and float16
    found = onnx_model.run_model(half.SerializeToString())(images[:, None])[0]
    assert 0 < np.abs(found - expected).max() < 2e-3

    quantised = int8.quantise(model, images, say=lambda line: None)
    kinds = {t.name: t.data_type for t in quantised.model.graph.initializer}
    assert quantised.layers == 6 and quantised.in_float == []
    assert not names & set(kinds)
    assert {kinds[f"{name}_quantized"] for name in names} == {3}  # int8
    assert set(quantised.mean_changes) == {"minmax", "entropy"}
    found = onnx_model.run_model(quantised.model.SerializeToString())(images[:, None])[0]
    assert 0 < np.abs(found - expected).max() < int8.MOST_CHANGE


def test_layers_that_hurt_most_are_left_in_float():
    """By bisection, given how much each layer hurts: changes add up."""
    effects = {"a": 0.06, "b": 0.02, "c": 0.015, "d": 0.004, "e": 0.001}

    def change(kept):
        return sum(effects[name] for name in kept)

    assert int8.MOST_CHANGE == 0.05
    number, largest = int8._fewest(list(effects), change)
    assert number == 1 and largest == pytest.approx(0.04)
    effects["b"] = 0.04
    assert int8._fewest(list(effects), change)[0] == 2
    assert int8._fewest(["a"], change) == (1, 0.0)


def test_a_file_that_is_beyond_its_bound_is_not_written(
    exported, checkpoint, tmp_path, monkeypatch, capsys
):
    import onnx

    model = onnx.load(exported[0])
    (bias,) = (t for t in model.graph.initializer if t.name.endswith("head.6.bias"))
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + 0.1, bias.name))
    monkeypatch.setattr(onnx_model, "export", lambda *arguments: model)
    arguments = ["--checkpoint", str(checkpoint), "--out", str(tmp_path / "one.onnx")]
    assert status_of(export.main, arguments) == 2
    err = capsys.readouterr().err
    assert re.fullmatch(r"error: --precision fp32: the file's prob.* up to 0\.02.*1e-05; .*\n", err)
    assert list(tmp_path.iterdir()) == []


def test_a_fall_of_the_auc_is_refused():
    labels = np.array([0, 0, 1, 1])
    split = Split(noise(4, SIZE, SIZE), labels, np.arange(4))
    model = SimpleNamespace(
        size=SIZE,
        threshold=0.5,
        probabilities=lambda images: np.linspace(0.49, 0.51, 4)[: len(images)],
    )
    worse = np.float32([0.49, 0.5066, 0.4933, 0.51])

    def run(pictures):
        return [worse if len(pictures) == 4 else worse[:1]]

    with pytest.raises(InputError, match=r"falls from 1\.000 to 0\.750, by more than 0\.005"):
        export_check.check(run, model, split, "int8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--opset", "11"], r"--opset: '11' is no opset from 18 to 23"),
        (["--precision", "fp8"], r"--precision: invalid choice: 'fp8'"),
        (["--out", "nowhere/x.onnx"], r"there is no folder 'nowhere'; make it first"),
        (["--out", "x.pth"], r"the name of an ONNX file ends in \.onnx"),
        (["--out", "folder.onnx"], r"is a folder; wanted is a file's name"),
        (["--out", "taken/x.onnx"], r"export\.json' is no table of exported files"),
        (["--checkpoint", "nothing"], r"there is no such file and no such run"),
        (["--checkpoint", "noise.pth"], r"'noise\.pth' is damaged or none at all"),
        (["--checkpoint", "half"], r"average of 2 networks, and the checkpoint of one is missing"),
        (["--data", "nothing.npz"], r"--data 'nothing\.npz': there is no such file"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(
    arguments, message, checkpoint, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "export.json").write_text("[1, 2]")
    (tmp_path / "noise.pth").write_bytes(noise(500).tobytes())
    average = {"members": [{"name": "seed1"}, {"name": "seed2"}], "threshold": 0.5}
    (tmp_path / "results" / "half").mkdir(parents=True)
    (tmp_path / "results" / "half" / "metrics.json").write_text(json.dumps(average))
    before = sorted(tmp_path.rglob("*"))
    if "--checkpoint" not in arguments:
        arguments = [*arguments, "--checkpoint", str(checkpoint)]
    assert status_of(export.main, arguments) == 2
    assert re.fullmatch(rf"error: .*{message}.*\n", capsys.readouterr().err)
    assert sorted(tmp_path.rglob("*")) == before
    assert not list(checkpoint.parent.glob("*.onnx"))


@pytest.fixture
def other_data(run_of_one_epoch, tmp_path):
    """The run's images in another file: validation images were those of the training."""
    arrays = dict(np.load(run_of_one_epoch[1]))
    for key in ("images", "labels"):
        arrays[f"val_{key}"] = arrays[f"train_{key}"]
    np.savez(tmp_path / "divided_anew.npz", **arrays)
    return tmp_path / "divided_anew.npz"


def test_data_of_another_file_are_warned_of_and_make_no_page(
    quick, checkpoint, other_data, tmp_path, capsys
):
    known = ["--checkpoint", str(checkpoint), "--data", str(other_data)]
    assert status_of(export.main, [*known, "--out", str(tmp_path / "x.onnx")]) == 0
    assert "WARNING: not the data it was trained on" in capsys.readouterr().out
    assert status_of(export.main, [*known, "--demo", str(tmp_path / "page")]) == 2
    assert "is not the file that the network was trained on" in capsys.readouterr().err
    assert not (tmp_path / "page").exists()


@pytest.mark.parametrize(
    ("changes", "licence"),
    [
        ({}, "X-rays: NIH Clinical Center"),
        ({"names": np.array(["00000013_005.png"])}, "X-rays: NIH Clinical Center"),
        ({"names": np.array(["own.png"])}, "that of the images in 'small.npz'"),
        ({"classes": ("cardiomegaly", "pneumothorax")}, "that of the images in 'small.npz'"),
        ({"sha256": "another"}, "that of the images in 'small.npz'"),
        ({"phantom": True}, "that of the images in 'small.npz'"),
    ],
)
def test_the_licence_is_nihs_where_the_images_are(changes, licence):
    names = changes.pop("names", None)
    split = Split(np.zeros((1, SIZE, SIZE), np.uint8), np.zeros(1), np.zeros(1), names)
    data = TwoClassData(split, split, split, "small.npz", **{"sha256": "0", **changes})
    assert export.metadata(tiny(), data)["licence"].startswith(licence)


def test_missing_libraries_are_named_with_how_to_install_them(monkeypatch, capsys):
    known = onnx_model.importlib.util.find_spec
    for hidden, are in (({"onnxscript"}, "is"), ({"onnx", "onnxruntime"}, "are")):
        monkeypatch.setattr(
            onnx_model.importlib.util,
            "find_spec",
            lambda name, hidden=hidden: None if name in hidden else known(name),
        )
        assert status_of(export.main, []) == 2
        err = capsys.readouterr().err
        names = " and ".join(sorted(hidden))
        assert err == (
            f"error: {names} {are} not installed: pip install -r requirements-export.txt\n"
        )


def test_an_old_pytorch_is_told(monkeypatch, capsys):
    monkeypatch.setattr(onnx_model, "OLDEST_TORCH", "99.1")
    assert status_of(export.main, []) == 2
    assert "needs PyTorch 99.1 or newer" in capsys.readouterr().err


@pytest.mark.parametrize("full_at", ["model", "table"])
def test_a_full_disk_is_one_line_and_leaves_what_was_there(
    full_at, quick, checkpoint, tmp_path, monkeypatch, capsys
):
    out, table = tmp_path / "one.onnx", tmp_path / "export.json"
    arguments = ["--checkpoint", str(checkpoint), "--out", str(out)]
    assert status_of(export.main, arguments) == 0
    assert out.read_bytes() == b"an ONNX file"
    out.write_bytes(b"an older one")
    before = table.read_text()

    def full(path, content):
        if (path == table) == (full_at == "table"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        atomic_write(path, content)

    monkeypatch.setattr(export_check, "atomic_write", full)
    assert status_of(export.main, arguments) == 1
    assert re.fullmatch(r"stopped: No space left on device \('.*'\); .*\n", capsys.readouterr().err)
    assert sorted(tmp_path.iterdir()) == [table, out]
    assert out.read_bytes() == b"an older one" and table.read_text() == before


def test_the_table_keeps_the_rows_of_the_folders_other_files(quick, checkpoint, tmp_path):
    for name in ("a.onnx", "b.onnx", "a.onnx"):
        arguments = ["--checkpoint", str(checkpoint), "--out", str(tmp_path / name)]
        assert status_of(export.main, arguments) == 0
    rows = json.loads((tmp_path / "export.json").read_text())
    assert list(rows) == ["a.onnx", "b.onnx"] and rows["b.onnx"]["precision"] == "fp32"


def test_an_ensemble_is_found_by_its_name_or_folder_and_a_blend_by_its_runs(
    checkpoint, tmp_path, capsys
):
    def average(name, metrics):
        folder = tmp_path / "results" / name
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text(json.dumps(metrics))

    members = {"members": [{"name": "seed1"}, {"name": "seed2"}], "threshold": 0.37}
    blend = {"members": [{"name": "a"}], "blend": ["folds"], "averaged": "logits"}
    average("folds", members)
    average("studies/folds", members)
    average("studies/both", {**blend, "threshold": 0.44})
    average("studies/of_study", {**blend, "blend": ["alone"], "threshold": 0.44})
    average("studies/alone", members)
    average("studies/lacking", {**blend, "blend": ["folds", "gone"], "threshold": 0.44})
    for name in ("folds", "studies/folds", "studies/alone"):
        (tmp_path / "trained_models" / name).mkdir(parents=True)
        for member in ("seed1_best.pth", "seed2_final.pth"):
            path = tmp_path / "trained_models" / name / member
            path.write_bytes(checkpoint.read_bytes())
    options = SimpleNamespace(
        models_dir=tmp_path / "trained_models", results_dir=tmp_path / "results"
    )
    folders = [str(tmp_path / "trained_models" / "folds"), str(tmp_path / "results" / "folds")]
    for given in ("folds", "studies/folds", *folders):
        options.checkpoint = given
        found, checkpoints = load_trained(options, network_class)
        assert (found.name, found.threshold, found.of_logits) == ("folds", 0.37, False)
        assert [path.name for path in checkpoints] == ["seed1_best.pth", "seed2_final.pth"]
        assert checkpoints[0].parent.parent.name == (
            "studies" if "studies" in given else "trained_models"
        )
        assert found.size == 28 and found.phantom and len(found.members) == 2
    for options.checkpoint, place in (("both", "folds"), ("of_study", "studies/alone")):
        found, checkpoints = load_trained(options, network_class)
        assert (found.threshold, found.of_logits, len(checkpoints)) == (0.44, True, 2)
        assert checkpoints[0].parent == tmp_path / "trained_models" / place
    options.checkpoint = "lacking"
    with pytest.raises(InputError, match="'lacking' averages the run 'gone', which is not in '"):
        load_trained(options, network_class)
    options.checkpoint = str(checkpoint)
    found, checkpoints = load_trained(options, network_class)
    assert found.name == "one" and checkpoints == [checkpoint]


def test_a_network_without_a_form_in_onnx_is_told_in_one_line():
    class Branching(torch.nn.Module):
        def forward(self, x):
            return x.float() if x.float().sum() > 3 else -x.float()

    with pytest.raises(InputError, match=r"this network cannot be exported to ONNX: \w+"):
        onnx_model.export(Branching(), EXAMPLE)


def test_an_interruption_is_told(quick, checkpoint, tmp_path, monkeypatch, capsys):
    def interrupted(*arguments):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(onnx_model, "export", interrupted)
    out = tmp_path / "one.onnx"
    assert status_of(export.main, ["--checkpoint", str(checkpoint), "--out", str(out)]) == 130
    assert capsys.readouterr().err == "interrupted: the same command starts again\n"
    assert list(tmp_path.iterdir()) == []


def test_the_help_is_short(capsys):
    with pytest.raises(SystemExit):
        export.main(["--help"])
    assert len(capsys.readouterr().out.splitlines()) <= 40


TIMM = ("timm/tf_efficientnet_lite0",) if importlib.util.find_spec("timm") else ()


@pytest.mark.slow
@pytest.mark.parametrize("name", [*NETWORKS, *TIMM])
def test_every_architecture_is_exported(name):
    known = network(name, "cpu")
    torch.manual_seed(0)
    recipe = replace(known.recipe, image_size=64 if known.recipe.image_size else 0)
    one = trained(known.build(**known.arguments), recipe)
    module, map_size = export.whole_path(one, with_map=True)
    assert (map_size is None) == name.startswith("vit")
    model = onnx_model.export(module, EXAMPLE)
    pictures = noise(5, 1, 90, 70)
    seen = np.stack([pillow_square(picture[0]) for picture in pictures])
    expected = one.probabilities(seen)
    found = onnx_model.run_model(model.SerializeToString())(pictures)
    # Random weights without shortcuts enlarge float32's noise; trained ones are checked by the
    # script itself.
    assert np.abs(found[0] - expected).max() < (1e-4 if name == "plain34" else 1e-5)
    half = onnx_model.with_half_weights(model)
    assert half.ByteSize() < 0.62 * model.ByteSize()


@pytest.mark.slow
@pytest.mark.parametrize("opset", range(onnx_model.OPSETS[0], onnx_model.OPSETS[1] + 1))
def test_every_opset_that_is_offered_runs(opset):
    one = tiny(recipe={"tta": "warps"})
    model = onnx_model.export(WholePath(one), EXAMPLE, opset)
    assert model.opset_import[0].version == opset
    images = noise(3, SIZE, SIZE)
    found = onnx_model.run_model(model.SerializeToString())(images[:, None])[0]
    assert np.allclose(found, one.probabilities(images), atol=1e-6)


@pytest.mark.slow
def test_the_script_quantises_a_run(checkpoint, tmp_path, capsys):
    out = tmp_path / "small.onnx"
    arguments = ["--checkpoint", str(checkpoint), "--out", str(out), "--precision", "int8"]
    assert status_of(export.main, arguments) == 0
    row = json.loads((tmp_path / "export.json").read_text())["small.onnx"]
    assert row["bytes"] == out.stat().st_size < 5.2e6 / 2
    assert row["int8"]["layers"] == 40 and row["validation"]["largest_difference"] <= row["bound"]
    assert row["int8"]["calibration"] in row["int8"]["mean_change_on_training"]
