"""Experiment 4 and its comparison rows: torchvision's networks for one channel and one logit."""

import io
import itertools
import json
import pickle
import random
import re
from dataclasses import replace

import pytest
import torch
from conftest import rest_slow, run_in_process
from damaged_files import (
    Payload,
    extreme_number,
    flip_bits,
    random_block,
    remove_block,
    repeat_block,
    swap_blocks,
    truncate,
    zero_block,
)
from torch import nn
from torchvision.models import densenet121, get_model, mobilenet_v3_large

from chestlab.files.checkpoint import LEGACY_START, load_checkpoint, save_checkpoint
from chestlab.files.errors import InputError
from chestlab.training.layers import parameter_count
from chestlab.training.recipe import Recipe
from chestlab.training.trainer import Trainer
from chestlab.training.weights import RANDOM_MARK, PretrainedWeights, grey_stem, read_pretrained
from model_densenet import ARCHITECTURES, DenseNet121Chest, TorchvisionChest, imagenet_url
from model_mobilenet import MobileNetV3Chest
from networks import network
from train_densenet import REPORT as DENSENET
from train_mobilenet import REPORT as MOBILENET

FIXED_SIZE = {"vit_b_16": 224}
QUICK = "densenet121", "efficientnet_b0", "mobilenet_v2", "swin_t"  # one of each kind


def run_tiny(phantom_npz, cwd, *flags):
    return run_in_process("train_densenet.py", "--data", phantom_npz, *flags, cwd=cwd)


def stem_of(network):
    return next(module for module in network.modules() if isinstance(module, nn.Conv2d))


def last_linear(network):
    return [module for module in network.modules() if isinstance(module, nn.Linear)][-1]


def without_head(network):
    """torchvision's network up to what its last linear layer is given."""
    taken = []
    last_linear(network).register_forward_pre_hook(lambda layer, inputs: taken.append(inputs[0]))

    def features(x):
        network(x)
        return taken.pop()

    return features


def calibrate(network):
    """Give the batch norms statistics of noise: with their first ones every image looks alike."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1
    with torch.no_grad():
        network.train()(torch.randn(4, 3, 64, 64))
    return network.eval()


def test_densenet121_has_7_603_969_parameters():
    assert parameter_count(DenseNet121Chest()) == 7_603_969


@pytest.mark.parametrize("arch", rest_slow(ARCHITECTURES, *QUICK))
def test_each_network_has_one_channel_one_logit_and_gradients_everywhere(arch):
    torch.manual_seed(0)
    coloured = get_model(arch, weights=None)
    stem, head = stem_of(coloured), last_linear(coloured)
    new_head = [head.in_features, 512, 256, 1]
    wanted = (
        parameter_count(coloured)
        - stem.weight.numel() * 2 // 3
        - parameter_count(head)
        + sum(a * b + b for a, b in itertools.pairwise(new_head))
    )
    model = TorchvisionChest(arch=arch)
    assert parameter_count(model) == wanted
    logits = model(torch.randn(2, 1, 33, 33))
    assert logits.shape == (2,)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("arch", "stem"),
    [
        pytest.param(arch, "sum", marks=() if arch in QUICK else pytest.mark.slow)
        for arch in ARCHITECTURES
    ]
    + [("densenet121", "mean")],
)
def test_a_grey_image_gives_what_it_or_a_third_of_it_gives_in_three_equal_colours(arch, stem):
    """The sum of the colours' weights keeps the signal, their mean is a third of it."""
    torch.manual_seed(1)
    coloured = get_model(arch, weights=None)
    if arch not in FIXED_SIZE:
        calibrate(coloured)
    start = PretrainedWeights("file", "", coloured.state_dict()).with_stem(stem)
    model, coloured = TorchvisionChest(start, arch).eval(), coloured.eval()
    summed = stem_of(coloured).weight.sum(1, keepdim=True)
    torch.testing.assert_close(stem_of(model).weight, summed / (3 if stem == "mean" else 1))
    size = FIXED_SIZE.get(arch, 64)
    grey = torch.randn(1, 1, size, size)
    original = without_head(coloured)
    with torch.inference_mode():
        ours = model.backbone(grey)
        third, whole = (original(x.expand(1, 3, -1, -1)) for x in (grey / 3, grey))
    same, other = (third, whole) if stem == "mean" else (whole, third)
    assert (ours - same).norm() < 1e-3 * same.norm()
    assert (ours - other).norm() > 1e-2 * other.norm()


@pytest.mark.parametrize("arch", [*ARCHITECTURES, "mobilenet_v3_large"])
def test_a_random_stem_is_drawn_as_torchvision_would_for_one_channel(arch, monkeypatch):
    class Grey(nn.Conv2d):
        def __init__(self, in_channels, *arguments, **named):
            super().__init__(1 if in_channels == 3 else in_channels, *arguments, **named)

    torch.manual_seed(0)
    model = MobileNetV3Chest() if "v3" in arch else TorchvisionChest(arch=arch)
    ours = stem_of(model)
    with monkeypatch.context() as patch:
        patch.setattr(nn, "Conv2d", Grey)
        patch.setattr(torch.nn.modules.conv, "Conv2d", Grey)
        theirs = stem_of(get_model(arch, weights=None))
    assert ours.weight.shape == theirs.weight.shape and ours.weight.is_leaf
    assert (ours.stride, ours.padding, ours.in_channels) == (theirs.stride, theirs.padding, 1)
    for one, other in ((ours.weight, theirs.weight), (ours.bias, theirs.bias)):
        assert (one is None) == (other is None)
        if one is not None:
            assert one.detach().std().item() == pytest.approx(other.detach().std().item(), rel=0.25)


def test_a_state_dict_has_one_channel_and_nothing_of_the_old_head():
    names = TorchvisionChest(arch="resnet50").state_dict().keys()
    wanted = {f"backbone.{name}" for name in get_model("resnet50").state_dict()}
    assert {name for name in names if name.startswith("backbone.")} == {
        name for name in wanted if not name.startswith("backbone.fc.")
    }


def test_images_are_resized_for_a_vision_transformer():
    torch.manual_seed(0)
    model = TorchvisionChest(arch="vit_b_16").eval()
    x = torch.full((1, 1, 30, 30), 0.3)
    with torch.inference_mode():
        assert torch.allclose(model(x), model(torch.full((1, 1, 224, 224), 0.3)), atol=1e-5)


def test_a_checkpoint_of_this_project_gives_its_backbone_only(tmp_path):
    torch.manual_seed(1)
    other = DenseNet121Chest()
    save_checkpoint(tmp_path / "x.pth", {"weights": other.state_dict(), "epoch": 3})
    model = DenseNet121Chest(read_pretrained(str(tmp_path / "x.pth"), ""))
    for name, value in other.backbone.state_dict().items():
        assert torch.equal(value, model.backbone.state_dict()[name]), name
    assert not torch.equal(model.classifier[0].weight, other.classifier[0].weight)


@pytest.mark.parametrize(
    "state",
    [
        {"weights": 3},
        {"weights": {}},
        {1: torch.zeros(3)},
        {"features.conv0.weight": torch.zeros(64, 3, 7, 7)},
        {"weights": {"backbone.features.conv0.weight": "x", 2: None}},
    ],
    ids=["number", "empty", "no names", "little", "text"],
)
def test_a_state_of_something_else_is_told(state):
    with pytest.raises(InputError, match=r"'bad\.pth' does not fit") as refusal:
        DenseNet121Chest(PretrainedWeights("bad.pth", "", state))
    assert str(refusal.value).isprintable()


def test_weights_of_another_network_are_told():
    start = PretrainedWeights("other.pth", "", get_model("densenet121").state_dict())
    with pytest.raises(InputError, match=r"'other\.pth' does not fit"):
        TorchvisionChest(start, "densenet169")


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_address_ends_in_a_checksum(arch):
    assert re.fullmatch(rf"https://.*/{arch}.*-[0-9a-f]{{8}}\.pth", imagenet_url(arch))


@pytest.mark.parametrize("arch", ["densenet121", "swin_t"])
def test_a_frozen_backbone_stays_as_it_is_bit_for_bit(arch):
    images = torch.randint(0, 256, (8, 1, 32, 32), dtype=torch.uint8)
    data = images, (torch.arange(8) % 2).float()
    recipe = Recipe(name="r", epochs=1, batch_size=4, lr=0.01)
    trainer = Trainer(lambda: TorchvisionChest(arch=arch), recipe, data, data, frozen=True)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.run_epoch()
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith("backbone."), name


def test_a_first_convolution_may_have_a_bias_or_none():
    for bias in (True, False):
        network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=bias), nn.Conv2d(4, 3, 1))
        grey_stem(network, from_fan_in=True)
        assert network(torch.randn(1, 1, 5, 5)).shape == (1, 3, 5, 5)


# PyTorch's format from before the zip, with the names of that time.


@pytest.fixture(scope="module")
def old_densenet():
    """What torchvision's own DenseNet-121 file holds, with random numbers; and the same in new."""
    torch.manual_seed(3)
    new = calibrate(densenet121(weights=None)).state_dict()
    old = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", name): value
        for name, value in new.items()
        if not name.endswith("num_batches_tracked")
    }
    assert "features.denseblock4.denselayer16.norm.1.running_var" in old
    return old, new


def legacy(state):
    content = io.BytesIO()
    torch.save(state, content, _use_new_zipfile_serialization=False)
    return content.getvalue()


def test_old_densenet_files_are_read_into_the_names_of_today(tmp_path, old_densenet):
    old, new = old_densenet
    path = tmp_path / "densenet.pth"
    path.write_bytes(legacy(old))
    model = DenseNet121Chest(read_pretrained(str(path), ""))
    own = model.backbone.state_dict()
    assert own.keys() == {name for name in new if not name.startswith("classifier.")}
    for name, value in own.items():
        if name == "features.conv0.weight":
            torch.testing.assert_close(value, new[name].sum(1, keepdim=True))
        elif not name.endswith("num_batches_tracked"):  # the old ones did not count
            assert torch.equal(value, new[name]), name


def test_old_files_start_as_pytorch_starts_them():
    assert legacy({"a": torch.zeros(1)}).startswith(LEGACY_START)


def test_an_old_file_is_never_a_checkpoint_of_this_project(tmp_path):
    state = {"a": torch.arange(3.0)}
    save_checkpoint(tmp_path / "new.pth", state)
    sealed = torch.load(tmp_path / "new.pth", weights_only=True)
    path = tmp_path / "old.pth"
    path.write_bytes(legacy(sealed))
    assert torch.equal(load_checkpoint(path)["a"], state["a"])
    with pytest.raises(InputError, match="damaged or none at all"):
        load_checkpoint(path, sealed=True)


def test_a_payload_in_an_old_file_is_refused_and_does_not_run(tmp_path):
    for number, state in enumerate(({"x": Payload(tmp_path / "ran")}, Payload(tmp_path / "ran"))):
        path = tmp_path / f"{number}.pth"
        path.write_bytes(legacy(state))
        with pytest.raises(InputError, match="holds more than tensors"):
            load_checkpoint(path)
    bare = LEGACY_START + pickle.dumps(Payload(tmp_path / "ran"))
    (tmp_path / "bare.pth").write_bytes(bare)
    with pytest.raises(InputError):
        load_checkpoint(tmp_path / "bare.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[: len(LEGACY_START)],
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: data[: len(data) // 2],
        lambda data: legacy([1, 2]),
        lambda data: data.replace(b"K\x05\x85", b"K\xff\x85"),
    ],
    ids=["start", "a byte short", "a byte more", "half", "a list", "shape"],
)
def test_a_damaged_old_file_is_told(tmp_path, change):
    path = tmp_path / "a.pth"
    data = legacy({"a": torch.arange(5.0)})
    assert change(data) != data
    path.write_bytes(change(data))
    with pytest.raises(InputError, match=r"checkpoint '.*a\.pth'") as refusal:
        load_checkpoint(path)
    told = str(refusal.value).replace(str(path), path.name)
    assert told.isprintable() and len(told) < 400


def test_mutants_of_an_old_file_are_read_or_refused(tmp_path):
    """There are no checksums in it: a flipped bit of a weight goes by, nothing worse does."""
    state = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(3, 4)).state_dict()
    good, rng, path = legacy(dict(state)), random.Random(0), tmp_path / "a.pth"
    mutations = (
        truncate,
        flip_bits,
        zero_block,
        random_block,
        remove_block,
        repeat_block,
        swap_blocks,
        extreme_number,
    )
    refused = 0
    for _ in range(300):
        data = bytearray(good)
        rng.choice([m for m in mutations if m is not swap_blocks or len(good) > 4096])(data, rng)
        path.write_bytes(data)
        try:
            assert isinstance(load_checkpoint(path), dict)
        except InputError as error:
            told = str(error).replace(str(path), path.name)
            assert told.isprintable() and len(told) < 400
            refused += 1
    assert refused > 100


def test_a_damaged_old_file_ends_a_command_with_one_line(tmp_path, phantom_npz, old_densenet):
    (tmp_path / "w.pth").write_bytes(legacy(old_densenet[0])[:-5000])
    done = run_tiny(phantom_npz, tmp_path, "--weights", "w.pth")
    assert done.returncode == 2
    assert done.stderr.startswith("error: checkpoint 'w.pth'")
    assert done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["w.pth"]


def test_the_recipe_is_experiment_3s_but_for_the_batches():
    changes = {"name": "densenet121", "batch_size": 16, "accumulation": 4, "cpu_bf16": True}
    assert replace(MOBILENET, **changes) == DENSENET


def test_the_script_runs_in_two_stages_to_the_end(tmp_path, phantom_npz, no_pictures):
    flags = ("--weights", "none", "--stage1-epochs", 1, "--epochs", 1, "--image-size", 32)
    done = run_tiny(phantom_npz, tmp_path, *flags)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "results").glob("densenet121_small_*")
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["parameters"] == 7_603_969
    assert metrics["model_arguments"] == {"arch": "densenet121"}
    assert metrics["starting_weights"]["note"] == RANDOM_MARK
    assert list(metrics["ladder"]) == ["stage1", "stage2", "tta", "threshold"]


@pytest.mark.slow
def test_another_network_gives_the_run_its_name(tmp_path, phantom_npz):
    flags = ("--arch", "mobilenet_v2", "--weights", "none", "--epochs", 1, "--image-size", 32)
    done = run_tiny(phantom_npz, tmp_path, *flags)
    assert done.returncode == 0, done.stderr
    name = "mobilenet_v2_small_epochs1_image-size32_weightsnone"
    metrics = json.loads((tmp_path / "results" / name / "metrics.json").read_text())
    assert metrics["parameters"] == parameter_count(TorchvisionChest(arch="mobilenet_v2"))
    assert metrics["amp"] == "fp32" and not metrics["recipe"]["cpu_bf16"]  # depthwise: slower


@pytest.mark.slow
def test_a_recipe_that_is_not_the_default_names_the_run_too(tmp_path, phantom_npz):
    flags = ("--recipe", "scratch", "--weights", "none", "--epochs", 1, "--image-size", 32)
    done = run_tiny(phantom_npz, tmp_path, "--arch", "mobilenet_v2", *flags)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "results/mobilenet_v2_scratch_small_epochs1_image-size32_weightsnone"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["recipe_name"] == "scratch" and metrics["recipe"]["monitor"] == "last"
    assert list(network("mobilenet_v2").recipes) == ["report", "scratch", "transfer"]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--arch", "resnet5"), "'resnet5' is not densenet121 or"),
        (("--weights", "none", "--image-size", 0), "needs 29 pixels or more, these are 28"),
    ],
)
def test_what_no_network_can_do_is_told(tmp_path, phantom_npz, flags, told):
    done = run_tiny(phantom_npz, tmp_path, *flags)
    assert done.returncode == 2 and told in done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert not any(tmp_path.iterdir())


def test_networks_that_take_any_size_do():
    for arch in ARCHITECTURES:
        model = TorchvisionChest(arch=arch).eval()
        if arch not in FIXED_SIZE:
            with torch.inference_mode():
                assert model(torch.randn(1, 1, *[max(16, model.smallest_input)] * 2)).isfinite()


def test_mobilenet_v3_has_the_names_it_had():
    names = {f"backbone.{name}" for name in mobilenet_v3_large().features.state_dict()}
    own = MobileNetV3Chest().state_dict().keys()
    assert {name for name in own if name.startswith("backbone.")} == names
