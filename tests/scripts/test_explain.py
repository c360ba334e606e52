"""Grad-CAM: the right layer in any architecture, the right pixels, the right picture and words."""

import dataclasses
import importlib.util
import math

import numpy as np
import pytest
import torch
from conftest import status_of
from PIL import Image
from torch import nn

import explain
import networks
from chestlab.data import sources
from chestlab.data.phantom import PHANTOM_MARK, make_phantom
from chestlab.evaluation.looks import read_looks
from chestlab.files.checkpoint import load_checkpoint, save_checkpoint
from chestlab.files.errors import InputError
from chestlab.reporting import gradcam_plots
from chestlab.runs import finished_runs
from chestlab.training import gradcam
from chestlab.training.inference import TrainedModel, load_model
from chestlab.training.recipe import Recipe
from model import EfficientChestNet
from model_improved import ResidualChestNet
from model_mobilenet import MobileNetV3Chest
from networks import network_class

needs_captum = pytest.mark.skipif(
    importlib.util.find_spec("captum") is None, reason="captum is not installed"
)


def trained(model, size=28, **changes):
    values = {
        "name": "one",
        "architecture": type(model).__name__,
        "model": model.eval(),
        "recipe": Recipe(name="one"),
        "threshold": 0.5,
        "tta": "none",
        "size": size,
        "source": "ChestMNIST 28 px",
        "sha256": "",
        "note": "",
        "seen": {},
        "device": torch.device("cpu"),
    }
    return TrainedModel(**{**values, **changes})


class Dark(nn.Module):
    """A network whose logit is the darkness of the left half less that of the right half."""

    def __init__(self):
        super().__init__()
        self.pool = nn.AvgPool2d(4)
        self.halves = nn.Conv2d(1, 2, 1, bias=False)
        self.head = nn.Linear(2, 1, bias=False)
        with torch.no_grad():
            self.halves.weight.copy_(torch.tensor([1.0, -1.0]).view(2, 1, 1, 1))
            self.head.weight.copy_(torch.tensor([[1.0, -1.0]]))

    def forward(self, x):
        features = self.halves(self.pool(x)).relu()
        return self.head(features.mean((2, 3))).squeeze(1)


class ChannelsLast(nn.Module):
    """The same features, given as (N, H, W, C) by the last module, as a Swin transformer's are."""

    def __init__(self, body, channels):
        super().__init__()
        self.body, self.norm = body, nn.Identity()
        self.head = nn.Linear(channels, 1)

    def forward(self, x):
        return self.head(self.norm(self.body(x).permute(0, 2, 3, 1)).mean((1, 2))).squeeze(1)


class ChannelsFirst(ChannelsLast):
    def forward(self, x):
        return self.head(self.norm(self.body(x)).mean((2, 3))).squeeze(1)


class OneLogit(nn.Module):
    """A torchvision network of three colours and some classes as one of grey and one logit."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x.expand(-1, 3, -1, -1))[:, 0]


def torchvision_network(name):
    import torchvision

    return OneLogit(getattr(torchvision.models, name)(weights=None, num_classes=2))


@pytest.mark.parametrize(
    ("build", "side", "name", "channels_last", "fields"),
    [
        (EfficientChestNet, 28, "attention", False, 7),
        (ResidualChestNet, 28, "last", False, 7),
        (MobileNetV3Chest, 128, "backbone", False, 4),
        (lambda: torchvision_network("resnet18"), 64, "network.layer4", False, 2),
        (lambda: torchvision_network("densenet121"), 64, "network.features", False, 2),
        (lambda: torchvision_network("swin_t"), 64, "network.permute", False, 2),
        (lambda: ChannelsLast(nn.Conv2d(1, 5, 3, 4), 5), 28, "norm", True, 7),
        (lambda: ChannelsFirst(nn.Conv2d(1, 5, 3, 4), 5), 28, "norm", False, 7),
    ],
    ids=["efficient", "residual", "mobilenet", "resnet", "densenet", "swin", "last", "first"],
)
def test_the_last_feature_map_is_found_in_any_architecture(
    build, side, name, channels_last, fields
):
    torch.manual_seed(0)
    model = build().eval()
    x = torch.randn(1, 1, side, side)
    assert gradcam.last_feature_map(model, x) == (name, channels_last)
    if importlib.util.find_spec("captum") is None:
        return
    images = np.random.default_rng(0).integers(0, 256, (3, side, side)).astype(np.uint8)
    maps = gradcam.grad_cam(trained(model, side), images, np.array([0, 1, 1]))
    assert maps.shape == (3, fields, fields)
    assert np.isfinite(maps).all() and (maps >= 0).all()


def test_a_map_of_one_field_is_passed_over():
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 1, 1)
    )
    assert gradcam.last_feature_map(model, torch.randn(1, 1, 16, 16)) == ("1", False)


def test_a_network_without_any_map_is_refused():
    with pytest.raises(InputError, match="no feature map"):
        gradcam.last_feature_map(
            nn.Sequential(nn.Flatten(), nn.Linear(64, 1)), torch.randn(1, 1, 8, 8)
        )


def half_dark():
    image = np.full((1, 16, 16), 255, np.uint8)
    image[:, :, :8] = 0
    return image


@needs_captum
def test_the_map_lies_where_the_evidence_for_the_predicted_class_is():
    """Dark's logit rises with bright pixels, which are on the right, and falls with dark ones."""
    for_one = gradcam.grad_cam(trained(Dark(), 16), half_dark(), np.array([1]))[0]
    for_zero = gradcam.grad_cam(trained(Dark(), 16), half_dark(), np.array([0]))[0]
    assert for_one[:, 2:].min() > 0 and for_one[:, :2].max() == 0
    assert for_zero[:, :2].min() > 0 and for_zero[:, 2:].max() == 0


@needs_captum
def test_under_augmentation_the_map_is_the_mean_with_the_mirrored_one_mirrored_back():
    torch.manual_seed(0)
    model = ChannelsFirst(nn.Conv2d(1, 5, 3, 4), 5)
    images = np.random.default_rng(0).integers(0, 256, (1, 28, 28)).astype(np.uint8)
    dark, ones = trained(Dark(), 16, tta="flip"), np.array([1])
    plain = gradcam.grad_cam(trained(Dark(), 16), half_dark(), ones)
    assert np.allclose(gradcam.grad_cam(dark, half_dark(), ones), plain)
    recipe = Recipe(name="one", rotate=10, tta_warps=4)
    single, flip, warps = (
        trained(model, tta=tta, recipe=recipe) for tta in ("none", "flip", "warps")
    )
    flipped = gradcam.grad_cam(flip, images, ones)
    assert np.array_equal(gradcam.grad_cam(warps, images, ones), flipped)
    assert not np.allclose(gradcam.grad_cam(single, images, ones), flipped)
    assert gradcam.views_line(single) == gradcam.views_line(flip) == ""
    assert "the prediction also averages 4 random warps" in gradcam.views_line(warps)


@needs_captum
def test_channels_last_gives_the_map_of_channels_first_and_leaves_the_network_as_it_was():
    torch.manual_seed(0)
    first = ChannelsFirst(nn.Conv2d(1, 5, 3, 4), 5)
    last = ChannelsLast(nn.Conv2d(1, 5, 3, 4), 5)
    last.load_state_dict(first.state_dict())
    images = np.random.default_rng(0).integers(0, 256, (40, 28, 28)).astype(np.uint8)
    classes = np.arange(40) % 2
    expected = gradcam.grad_cam(trained(first), images, classes)
    names = list(last.state_dict())
    assert np.allclose(gradcam.grad_cam(trained(last), images, classes), expected, atol=1e-6)
    assert expected.max() > 0
    assert list(last.state_dict()) == names


@needs_captum
def test_the_map_is_that_of_the_formula():
    """The mean gradient of each channel times the channel, summed, and cut at zero."""
    torch.manual_seed(0)
    model = ResidualChestNet().eval()
    images = np.random.default_rng(0).integers(0, 256, (2, 28, 28)).astype(np.uint8)
    found = gradcam.grad_cam(trained(model), images, np.array([1, 1]))
    x = (torch.from_numpy(images)[:, None] / 255 - 0.5) / 0.5
    features = model.last(model.layers(model.stem(x)))
    logits = model.head(features).squeeze(1)
    (gradient,) = torch.autograd.grad(logits.sum(), features)
    expected = (gradient.mean((2, 3), keepdim=True) * features).sum(1).relu().detach().numpy()
    assert np.allclose(found, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("side", [16, 28, 64, 97])
def test_a_flat_map_has_the_area_of_the_regions(side):
    shares = gradcam.region_shares(np.ones((2, side, side), np.float32))
    for name, area in (("frame", 1 - 0.75**2), ("corners", 0.25)):
        found, flat = shares[name]
        assert flat == pytest.approx(area)
        assert found == pytest.approx([area, area])


def test_the_regions_tell_the_corner_from_the_middle_and_empty_maps_are_left_out():
    maps = np.zeros((3, 28, 28), np.float32)
    maps[0, 1, 26] = 5
    maps[1, 14, 14] = 2
    shares = gradcam.region_shares(maps)
    for name in ("frame", "corners"):
        assert shares[name][0] == pytest.approx([1, 0], abs=1e-9)
    first, second, third = gradcam.describe_shares(maps)
    assert "2 images, 50 %" in first and "44 % there" in first
    assert "2 images, 50 %" in second and "25 % there" in second
    assert third.startswith("For 1 of 3 images nothing")


@needs_captum
def test_the_command_draws_the_runs_picture_and_says_what_it_measures(
    run_of_one_epoch, capsys, monkeypatch, tmp_path
):
    """Once everything is called one class, once the other: the evidence speaks for one of them."""
    folder, data = run_of_one_epoch
    monkeypatch.chdir(data.parent)
    state = load_checkpoint(folder / "trained_models" / "one_best.pth", sealed=True)
    assert state["data_location"].strip()
    state.pop("data_location")  # as in a checkpoint of an older version
    titles, pictures = [], []
    real = gradcam_plots.draw_gradcam

    def spy(*values, **named):
        titles.append(named["title"])
        real(*values, **named)

    monkeypatch.setattr(gradcam_plots, "draw_gradcam", spy)
    for name, threshold in (("low", 0.001), ("high", 0.999), ("low", 0.001)):
        save_checkpoint(tmp_path / f"{name}_best.pth", {**state, "threshold": threshold})
        (tmp_path / "results" / name).mkdir(parents=True, exist_ok=True)
        arguments = ["--checkpoint", str(tmp_path / f"{name}_best.pth"), "--device", "cpu"]
        arguments += ["--results-dir", str(tmp_path / "results")]
        assert status_of(explain.main, arguments) == 0
        pictures.append((tmp_path / "results" / name / "gradcam.png").read_bytes())
        assert len(pictures[-1]) < 300_000
    assert pictures[0] == pictures[2] != pictures[1]
    out = capsys.readouterr().out
    assert "a flat map would have 44 % there" in out and "a flat map would have 25 % there" in out
    assert str(tmp_path / "results" / "low" / "gradcam.png") in out
    with Image.open(tmp_path / "results" / "low" / "gradcam.png") as image:
        assert image.width > 1000
    assert "PHANTOM DATA, not ChestMNIST" in titles[0] and "val n = 24" in titles[0]


def test_without_captum_one_line_says_how_to_get_it(run_of_one_epoch, capsys, monkeypatch):
    folder, _ = run_of_one_epoch
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    checkpoint = folder / "trained_models/one_best.pth"
    assert status_of(explain.main, ["--checkpoint", str(checkpoint)]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert "pip install captum" in error


@needs_captum
@pytest.mark.parametrize("case", ["no data", "other data", "no folder", "other size"])
def test_what_does_not_fit_is_refused_and_nothing_is_drawn(
    case, run_of_one_epoch, capsys, monkeypatch, tmp_path
):
    folder, _ = run_of_one_epoch
    monkeypatch.chdir(tmp_path)
    results = folder / "results"
    state = load_checkpoint(folder / "trained_models" / "one_best.pth", sealed=True)
    state["data"] = {**state["data"], "source": f"{PHANTOM_MARK} (of_this_test.npz)"}
    state["data_location"] = finished_runs.data_location("of_this_test.npz", None)
    save_checkpoint(tmp_path / "one_best.pth", state)
    arguments = ["--checkpoint", "one_best.pth"]
    wanted = {
        "no data": f"'{tmp_path / 'of_this_test.npz'}', which is not here: --data names it",
        "other data": "is not the file it was trained on",
        "no folder": "--out names another place",
        "other size": "was trained on 28 px",
    }[case]
    if case == "other data":
        np.savez(
            tmp_path / "of_this_test.npz", **make_phantom(size=28, train=8, val=8, test=8, seed=9)
        )
    if case == "other size":
        np.savez(tmp_path / "o.npz", **make_phantom(size=32, train=8, val=8, test=8, seed=9))
        arguments += ["--data", "o.npz"]
    if case == "no folder":
        results = tmp_path / "nowhere"
    before = sorted(folder.rglob("*"))
    assert status_of(explain.main, [*arguments, "--results-dir", str(results)]) == 2
    error = capsys.readouterr().err
    assert wanted in error and len(error.splitlines()) == 1
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("seed", ["-1", str(2**31)])
def test_a_seed_that_is_none_is_refused_in_one_line(seed, capsys):
    assert status_of(explain.main, ["--seed", seed]) == 2
    error = capsys.readouterr().err
    assert f"--seed: '{seed}' is not an integer from 0 up to " in error
    assert len(error.splitlines()) == 1


@needs_captum
@pytest.mark.parametrize("named", [True, False], ids=["from another folder", "by default"])
def test_the_run_its_data_and_its_results_are_found(
    named, run_of_one_epoch, capsys, monkeypatch, tmp_path
):
    folder, _ = run_of_one_epoch
    drawn = []
    monkeypatch.setattr(gradcam_plots, "draw_gradcam", lambda *values, **n: drawn.append(values))
    monkeypatch.chdir(tmp_path if named else folder)
    checkpoint = str(folder / "trained_models" / "one_best.pth")
    assert status_of(explain.main, ["--checkpoint", checkpoint] if named else []) == 0
    assert drawn[0][5].resolve() == folder / "results" / "one" / "gradcam.png"
    told = capsys.readouterr().out.splitlines()[0]
    assert ("newest finished run" in told) == (not named)


@needs_captum
def test_other_data_are_named_in_the_title(run_of_one_epoch, monkeypatch, tmp_path):
    folder, _ = run_of_one_epoch
    titles = []
    monkeypatch.setattr(gradcam_plots, "draw_gradcam", lambda *v, title, **n: titles.append(title))
    other = tmp_path / "other.npz"
    np.savez(other, **make_phantom(size=28, train=8, val=8, test=8, seed=9))
    checkpoint = str(folder / "trained_models" / "one_best.pth")
    out = tmp_path / "new" / "picture.png"
    arguments = ["--data", str(other), "--split", "test", "--out", str(out)]
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert status_of(explain.main, ["--checkpoint", checkpoint, *arguments]) == 0
    assert "not the data it was trained on" in titles[0] and "test n = 8" in titles[0]
    (look,) = read_looks(tmp_path / "results/phantom/test_looks.csv")  # once: it shows the same
    assert (look.run, look.kind) == ("one", "explain")


@needs_captum
@pytest.mark.parametrize("rows", [0, 5])
def test_images_that_the_network_was_trained_on_are_told(
    rows, run_of_one_epoch, monkeypatch, tmp_path
):
    """As for a member of a cross-validation, whose folds go across the source's splits."""
    folder, data = run_of_one_epoch
    state = load_checkpoint(folder / "trained_models" / "one_best.pth", sealed=True)
    seen = state["seen"]["trained"]
    assert seen["rows"].keys() == {"train"}
    known = {
        **seen,
        "rows": {**seen["rows"], "val": sources.load(str(data)).val.index[:rows].tolist()},
    }
    save_checkpoint(tmp_path / "one_best.pth", {**state, "seen": {"trained": known}})
    titles = []
    monkeypatch.setattr(gradcam_plots, "draw_gradcam", lambda *v, title, **n: titles.append(title))
    arguments = ["--data", str(data), "--out", str(tmp_path / "picture.png")]
    assert (
        status_of(explain.main, ["--checkpoint", str(tmp_path / "one_best.pth"), *arguments]) == 0
    )
    assert (f"was trained on {rows} of these images" in titles[0]) == (rows > 0)
    assert ("was trained on" in titles[0]) == (rows > 0)


@pytest.mark.parametrize(
    ("models", "there", "expected"),
    [
        ("models", ["one"], "one"),
        ("models/ens", ["one", "ens/one"], "ens/one"),
        ("models/phantom", ["one", "phantom/one"], "phantom/one"),
        ("models/phantom/ens", ["phantom/one", "phantom/ens/one"], "phantom/ens/one"),
        ("models/phantom", ["one"], None),
        ("models", ["two"], None),
    ],
)
def test_the_picture_goes_where_the_run_has_its_results(models, there, expected, tmp_path):
    results = tmp_path / "results"
    for name in there:
        (results / name).mkdir(parents=True, exist_ok=True)
    network = trained(Dark())
    checkpoint = tmp_path / models / "one_best.pth"
    if expected is None:
        with pytest.raises(InputError, match="--out names another place"):
            explain.results_file(network, checkpoint, results)
        return
    assert explain.results_file(network, checkpoint, results) == results / expected / "gradcam.png"


@pytest.mark.parametrize(("wrong", "right"), [(0, 6), (6, 0), (1, 2)])
def test_the_picture_bears_empty_and_short_rows(wrong, right, tmp_path):
    n = 2 * (wrong + right)
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 2
    hit = np.arange(n) < 2 * right
    probabilities = np.where((labels == 1) == hit, 0.9, 0.1)
    maps = rng.random((n, 28, 28)).astype(np.float32)
    maps[0] = 0
    gradcam_plots.draw_gradcam(
        rng.integers(0, 256, (n, 28, 28)).astype(np.uint8),
        maps,
        labels,
        probabilities,
        np.arange(n),
        tmp_path / "picture.png",
        threshold=0.5,
        title="Grad-CAM of one",
        notes=["a note", ""],
    )
    assert (tmp_path / "picture.png").stat().st_size > 20_000


def test_a_network_is_rebuilt_with_the_arguments_that_its_checkpoint_stores(
    run_of_one_epoch, tmp_path
):
    folder, _ = run_of_one_epoch
    state = load_checkpoint(folder / "trained_models" / "one_best.pth", sealed=True)
    path = tmp_path / "other_final.pth"
    wide = EfficientChestNet(strides=(1, 2, 2, 1))
    arguments = {"strides": "1221", "dropout": (0.1, 0.1)}  # as a flag gives them
    save_checkpoint(path, {**state, "weights": wide.state_dict(), "model_arguments": arguments})
    loaded = load_model(path, network_class)
    assert (loaded.name, loaded.architecture) == ("other", "EfficientChestNet (strides 1221)")
    assert [loaded.model.get_submodule(f"stage{n}.1.layers.3").stride[0] for n in (1, 2, 3)] == [
        *(2, 2, 1)
    ]
    assert loaded.model.stem[0].stride == (1, 1)
    assert loaded.model.head[2].p == 0.1
    assert dataclasses.asdict(loaded.recipe) == state["recipe"]
    assert (loaded.threshold, loaded.tta) == (state["threshold"], state["tta"])
    assert loaded.size == 28 and loaded.phantom and not loaded.model.training


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threshold": None}, "has no threshold yet"),
        ({"threshold": math.nan}, "its threshold is nan, allowed are probabilities"),
        ({"threshold": 7.0}, "its threshold is 7.0, allowed are probabilities"),
        ({"weights": None}, "has no threshold yet"),
        ({"model": "NoSuchNet"}, "'NoSuchNet' is neither in"),
        ({"model": "Recipe"}, "'Recipe' is neither in"),
        ({"model": "../model"}, "is neither in"),
        ({"model": "Mine", "script": "../model"}, "is neither in"),
        ({"model": "ResidualChestNet"}, r"fit ResidualChestNet, which has been .* \.\.\.\)$"),
        ({"model_arguments": {"width": 3}}, "does not fit EfficientChestNet"),
        ({"recipe": {"name": "one", "warp": 3}}, "of another version"),
        ({"data": {"source": "x", "sha256": "y"}}, "does not say how large"),
    ],
    ids=str,
)
def test_a_checkpoint_that_cannot_be_used_is_refused(change, message, run_of_one_epoch, tmp_path):
    folder, _ = run_of_one_epoch
    state = load_checkpoint(folder / "trained_models" / "one_best.pth", sealed=True)
    state |= change
    path = tmp_path / "one_best.pth"
    save_checkpoint(path, {key: value for key, value in state.items() if value is not None})
    with pytest.raises(InputError, match=message):
        load_model(path, network_class)


def test_weights_that_are_not_finite_predict_nothing(run_of_one_epoch, tmp_path):
    state = load_checkpoint(run_of_one_epoch[0] / "trained_models" / "one_best.pth", sealed=True)
    next(iter(state["weights"].values())).view(-1)[0] = math.nan
    save_checkpoint(tmp_path / "one_best.pth", state)
    with pytest.raises(InputError, match="weights that are not finite"):
        load_model(tmp_path / "one_best.pth", network_class)


def test_a_script_that_cannot_be_imported_is_named(monkeypatch, tmp_path):
    (tmp_path / "train_broken.py").write_text("class MyNet(:\n")
    monkeypatch.setattr("networks.PROJECT", tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(InputError, match=r"'train_broken.py'.* cannot be imported: SyntaxError"):
        network_class("MyNet", "train_broken")
    with pytest.raises(InputError, match=r"put 'train_gone.py' with this class back"):
        network_class("MyNet", "train_gone")


def test_a_picture_is_not_written_over_a_file_of_another_kind(run_of_one_epoch, tmp_path, capsys):
    page, checkpoint = tmp_path / "README.md", run_of_one_epoch[0] / "trained_models/one_best.pth"
    page.write_text("mine")
    assert status_of(explain.main, ["--checkpoint", str(checkpoint), "--out", str(page)]) == 2
    assert "ends in .png" in capsys.readouterr().err and page.read_text() == "mine"


def test_a_checkpoint_to_resume_from_is_refused_and_one_best_is_named(run_of_one_epoch):
    folder, _ = run_of_one_epoch
    with pytest.raises(InputError, match=r"NAME_best\.pth"):
        load_model(folder / "trained_models" / "one_last.pth", network_class)


def test_every_network_of_the_project_is_found_by_its_name_alone():
    for network in (EfficientChestNet, ResidualChestNet, MobileNetV3Chest):
        assert network_class(network.__name__) is network


def test_a_network_of_ones_own_is_found_in_the_script_that_trained_it(tmp_path, monkeypatch):
    (tmp_path / "train_mine_here.py").write_text(
        "from torch import nn\nclass Mine(nn.Module): pass\n"
    )
    monkeypatch.setattr(networks, "PROJECT", tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert network_class("Mine", "train_mine_here").__name__ == "Mine"
    for name, script in (("Other", "train_mine_here"), ("Mine", "absent"), ("Mine", "../x")):
        with pytest.raises(InputError, match=r"add it to networks\.py"):
            network_class(name, script)
