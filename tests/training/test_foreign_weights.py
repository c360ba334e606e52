"""Weights that others have saved: wrapped, renamed, in other number types, or of other networks."""

import gzip
import io
import pickle
from argparse import Namespace
from collections import OrderedDict, defaultdict
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from damaged_files import Payload
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torchvision.models import densenet121, mobilenet_v3_large, resnet50

from chestlab.files.checkpoint import load_checkpoint, save_checkpoint
from chestlab.files.errors import InputError
from chestlab.training.weights import PretrainedWeights, load_pretrained, read_pretrained
from model import EfficientChestNet
from model_densenet import DenseNet121Chest, TorchvisionChest
from model_mobilenet import MobileNetV3Chest

LAST = "head.6."


@pytest.fixture(scope="module")
def state():
    """Of experiment 1's network, with other numbers in every tensor."""
    torch.manual_seed(7)
    return {
        name: torch.rand_like(value) if value.is_floating_point() else torch.full_like(value, 9)
        for name, value in EfficientChestNet().state_dict().items()
    }


def named(state, prefix):
    return {f"{prefix}{name}": value for name, value in state.items()}


def saved(folder, content, name="w.pth"):
    torch.save(content, folder / name)
    return folder / name


def start_from(path, build=EfficientChestNet):
    torch.manual_seed(1)
    return load_pretrained(build, read_pretrained(str(path), None)).state_dict()


def refused(path, build=EfficientChestNet):
    with pytest.raises(InputError) as refusal:
        start_from(path, build)
    message = str(refusal.value)
    assert path.name in message and message.isprintable() and len(message) < 700
    return message


def assert_loaded(own, state, kept=LAST):
    """All layers are the file's but the last one, which keeps its random numbers."""
    for name, value in own.items():
        if name.startswith(kept):
            assert name not in state or not torch.equal(value, state[name]), name
        else:
            assert torch.equal(value, state[name]), name


class Wrapped(nn.Module):
    """A network as an attribute of another one, as Lightning's modules have it."""

    def __init__(self, network):
        super().__init__()
        self.net = network
        self.criterion = nn.BCEWithLogitsLoss(pos_weight=torch.ones(1))


WRAPPED = {
    "module": lambda s: named(s, "module."),
    "compiled": lambda s: named(s, "_orig_mod."),
    "both": lambda s: named(s, "module._orig_mod."),
    "both the other way": lambda s: named(s, "_orig_mod.module."),
    "a part of it in parallel": lambda s: {
        name.replace("stage2.", "stage2.module._orig_mod."): value for name, value in s.items()
    },
    "state_dict": lambda s: {"state_dict": s, "epoch": 3},
    "model_state_dict": lambda s: {"model_state_dict": s, "optimizer_state_dict": {"state": {}}},
    "net": lambda s: {"net": s, "acc": 93.1},
    "nested": lambda s: {"checkpoint": {"model": {"state_dict": named(s, "module.")}}},
    "another prefix": lambda s: named(s, "encoder.backbone."),
    "flat, beside numbers": lambda s: {**s, "epoch": 3, "lr": 1e-3},
    "optimiser": lambda s: {
        "model": s,
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(4, 4)}}, "param_groups": [{"lr": 0.1}]},
    },
    "parts": lambda s: {
        part: {n.removeprefix(f"{part}."): v for n, v in s.items() if n.startswith(f"{part}.")}
        for part in dict.fromkeys(name.split(".")[0] for name in s)
    },
    "ordered": lambda s: {"state_dict": OrderedDict(s)},
    "parameters": lambda s: {
        name: nn.Parameter(value) if value.is_floating_point() else value
        for name, value in s.items()
    },
    "a counter at the top": lambda s: {"n_averaged": torch.tensor(5), **named(s, "module.")},
    "a threshold per finding": lambda s: {**s, "op_threshs": torch.rand(18)},
    "no counters of batches": lambda s: {
        name: value for name, value in s.items() if not name.endswith("num_batches_tracked")
    },
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_a_state_dict_is_found_in_whatever_wraps_it(tmp_path, state, kind, capsys):
    own = start_from(saved(tmp_path, WRAPPED[kind](state)))
    if kind == "no counters of batches":
        state = {n: torch.tensor(0) if n.endswith("tracked") else v for n, v in state.items()}
    assert_loaded(own, state)
    told = capsys.readouterr().out
    assert told.startswith("weights 'w.pth': ") and told.count("\n") == 1
    assert f"'{LAST[:-1]}' starts from random numbers" in told


def test_what_pytorch_itself_wraps_is_unwrapped(tmp_path, state):
    network = EfficientChestNet()
    network.load_state_dict(state)
    modules = (
        nn.DataParallel(network),
        torch.compile(network),
        AveragedModel(network),
        Wrapped(network),
    )
    for module in modules:
        assert_loaded(start_from(saved(tmp_path, module.state_dict())), state)


def test_the_line_about_the_weights_is_printed_once(tmp_path, state, capsys):
    start = read_pretrained(str(saved(tmp_path, {"model": named(state, "module.")})), None)
    for _ in range(3):
        load_pretrained(EfficientChestNet, start)
    assert capsys.readouterr().out == (
        f"weights 'w.pth': {len(state) - 2} tensors under 'model.module'; left out: "
        "head.6.weight (1, 128), head.6.bias (1,); 'head.6' starts from random numbers\n"
    )


def test_colours_that_become_one_channel_are_said(tmp_path, state, capsys):
    coloured = {**state, "stem.0.weight": state["stem.0.weight"].repeat(1, 3, 1, 1)}
    start_from(saved(tmp_path, coloured))
    assert "tensors; 1 converted from three colours to their sum; left" in capsys.readouterr().out


def records():
    """What training scripts keep beside the weights, in types that are no plain Python values."""
    return {
        "best": np.float64(0.5),
        "half": np.float32(0.25),
        "epoch": np.int64(3),
        "stopped": np.bool_(True),
        "history": np.arange(6.0).reshape(2, 3),
        "args": Namespace(lr=1e-3, out=Path("runs")),
        "when": datetime(2024, 5, 6),
        "took": timedelta(seconds=5),
        "losses": defaultdict(list, train=[0.1]),
        "classes": {"a", "b"},
    }


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before the zip"])
def test_numpy_numbers_and_the_like_beside_the_weights_stay_unread(tmp_path, state, zipped):
    for name, value in records().items():
        torch.save(
            {"state_dict": state, name: value},
            tmp_path / "w.pth",
            _use_new_zipfile_serialization=zipped,
        )
        assert_loaded(start_from(tmp_path / "w.pth"), state)


def test_no_run_of_this_project_holds_such_records(tmp_path):
    save_checkpoint(tmp_path / "w.pth", {"best": np.float64(0.5)})
    load_checkpoint(tmp_path / "w.pth")
    with pytest.raises(InputError, match="holds more than tensors"):
        load_checkpoint(tmp_path / "w.pth", sealed=True)


def old_names(state, prefix):
    """The layout of CheXNet's checkpoint, of 2018: old dotted names, 14 findings."""
    new = {}
    for name, value in state.items():
        for part in ("norm1", "norm2", "conv1", "conv2"):
            name = name.replace(f".{part}.", f".{part[:-1]}.{part[-1]}.")
        if not name.endswith("num_batches_tracked"):
            new[prefix + name.replace("classifier.", "classifier.0.")] = value
    return new


@pytest.fixture(scope="module")
def dense():
    torch.manual_seed(5)
    return densenet121(num_classes=14).state_dict()


@pytest.mark.parametrize(
    ("layout", "with_classifier"),
    [
        (lambda s: {"state_dict": old_names(s, "module.densenet121."), "best_loss": 1.0}, True),
        (lambda s: old_names(s, "densenet121."), True),
        (lambda s: {"model": named(s, "net.")}, True),
        (lambda s: {n.removeprefix("features."): v for n, v in s.items() if n[0] == "f"}, False),
        (lambda s: {"encoder": {n.removeprefix("features."): v for n, v in s.items()}}, True),
    ],
    ids=["CheXNet", "old names", "of today", "features alone", "features and classifier"],
)
def test_a_densenet_of_others_gives_its_backbone(tmp_path, dense, layout, with_classifier, capsys):
    path = saved(tmp_path, layout(dense), "m.pth.tar")
    own = DenseNet121Chest(read_pretrained(str(path), "")).backbone.state_dict()
    assert {name for name in dense if not name.startswith("classifier.")} == own.keys()
    for name, value in own.items():
        if name == "features.conv0.weight":
            torch.testing.assert_close(value, dense[name].sum(1, keepdim=True))
        else:
            assert torch.equal(value, dense[name]), name
    told = capsys.readouterr().out
    assert told.count("\n") == 1 and told.endswith("; the classifier starts from random numbers\n")
    assert ("(14, 1024)" in told) == with_classifier


def test_a_classifier_of_another_width_is_left_out_and_said(tmp_path, state, capsys):
    wider = {**state, "head.6.weight": torch.rand(14, 128), "head.6.bias": torch.rand(14)}
    assert_loaded(start_from(saved(tmp_path, wider)), state)
    assert "left out: head.6.weight (14, 128), head.6.bias (14,)" in capsys.readouterr().out
    narrow = {
        **state,
        "head.3.weight": torch.rand(64, 256),
        "head.3.bias": torch.rand(64),
        "head.6.weight": torch.rand(14, 64),
        "head.6.bias": torch.rand(14),
    }
    assert_loaded(start_from(saved(tmp_path, narrow)), state, kept="head.")
    told = capsys.readouterr().out
    assert "head.3.weight (64, 256)" in told and "'head' starts from random numbers" in told
    without = {name: value for name, value in state.items() if not name.startswith("head.")}
    assert_loaded(start_from(saved(tmp_path, without)), state, kept="head.")


def test_mobilenets_features_may_come_alone(tmp_path):
    torch.manual_seed(2)
    features = mobilenet_v3_large(weights=None).features.state_dict()
    start = read_pretrained(str(saved(tmp_path, {"model": features})), "")
    own = MobileNetV3Chest(start).backbone.state_dict()
    assert torch.equal(own["4.block.0.0.weight"], features["4.block.0.0.weight"])


# Number types.


@pytest.mark.parametrize(
    ("kind", "lossy"),
    [("float16", False), ("bfloat16", False), ("float64", True), ("int64", False)],
)
def test_other_number_types_are_converted_and_it_is_said(tmp_path, state, kind, lossy, capsys):
    dtype = getattr(torch, kind)
    factor = 100 if kind == "int64" else 1
    given = {
        n: (v.double() * factor / 3).to(dtype) if v.is_floating_point() else v
        for n, v in state.items()
    }
    own = start_from(saved(tmp_path, given))
    assert all(v.dtype == state[n].dtype for n, v in own.items())
    wanted = {
        n: v.float() if v.is_floating_point() or v.dtype == dtype else v for n, v in given.items()
    }
    assert_loaded(own, {n: v.to(state[n].dtype) for n, v in wanted.items()})
    told = capsys.readouterr().out
    assert f"converted from {kind}" in told
    assert ("rounded" in told) == lossy
    assert ("taken as they are" in told) == (kind == "int64")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (float("nan"), "holds NaN"),
        (float("inf"), "holds infinity"),
        (1e300, "holds a number beyond float32"),
    ],
)
def test_weights_that_are_not_finite_are_named(tmp_path, state, value, said):
    name = "stage2.0.layers.0.weight"
    bad = state[name].double()
    bad[3, 2] = value
    message = refused(saved(tmp_path, {"model": {**state, name: bad}}))
    assert f"'w.pth' is not finite: 'model.{name}' {said} (1 of " in message


def test_nan_in_what_is_left_out_does_no_harm(tmp_path, state):
    bad = torch.full((14, 128), float("nan"))
    assert_loaded(start_from(saved(tmp_path, {**state, "head.6.weight": bad})), state)


# What does not fit.


def test_what_does_not_fit_is_told_with_the_first_names_of_each_side(tmp_path, state):
    part = dict(list(state.items())[:20])
    message = refused(saved(tmp_path, {**part, "more.a": torch.ones(1), "more.b": torch.ones(1)}))
    needed = [n for n in state if not n.endswith("num_batches_tracked") and LAST not in n]
    matching = [n for n in needed if n in part]
    missing = [n for n in needed if n not in part]
    first = ", ".join(f"'{name}'" for name in missing[:3])
    assert message == (
        f"--weights: 'w.pth' does not fit: {len(matching)} of {len(needed)} tensors match; "
        f"{len(missing)} only in the network, as {first}, ...; "
        "2 only in the file, as 'more.a', 'more.b'"
    )
    assert refused(saved(tmp_path, {**part, "head.6.weight": torch.ones(1)})).endswith(", ...")
    value = torch.ones(32, 1, 3, 3).to(torch.complex64)
    other = refused(saved(tmp_path, {**state, "stem.0.weight": value}))
    assert "1 of another shape, as 'stem.0.weight (32, 1, 3, 3) complex64 for" in other
    other = refused(saved(tmp_path, {**state, "stem.0.weight": torch.ones(8, 1, 3, 3)}))
    assert "1 of another shape, as 'stem.0.weight (8, 1, 3, 3) for (32, 1, 3, 3)'" in other


def test_a_file_without_a_tensor_is_told_with_what_it_holds(tmp_path):
    message = refused(saved(tmp_path, {"epoch": 3, "best": 0.5}))
    assert message.endswith("does not fit: there is no tensor in it, but 'epoch', 'best'")
    assert refused(saved(tmp_path, {})).endswith("does not fit: there is nothing in it")
    message = refused(saved(tmp_path, {"stem.0.weight": np.ones(3)}))
    assert message.endswith("'stem.0.weight'; torch.from_numpy makes tensors of NumPy's arrays")


def test_a_larger_network_that_contains_this_one_is_refused():
    torch.manual_seed(0)
    large = resnet50(weights=None).state_dict()
    more = {n.replace("layer3.5.", "layer3.6."): v for n, v in large.items() if "layer3.5." in n}
    start = PretrainedWeights("101.pth", "", {**large, **more})
    with pytest.raises(InputError, match=r"'101\.pth' does not fit: .* a larger one: 18 only in"):
        TorchvisionChest(start, "resnet50")


def test_of_two_networks_in_a_file_the_ordinary_one_is_taken_or_none(tmp_path, state, capsys):
    other = {n: v + 1 if v.is_floating_point() else v for n, v in state.items()}
    average = {"state_dict": state, "state_dict_ema": other}
    assert_loaded(start_from(saved(tmp_path, average)), state)
    assert "those of 'state_dict_ema.' would fit, too" in capsys.readouterr().out
    message = refused(saved(tmp_path, {"student": state, "teacher": other}))
    assert "'w.pth' fits in 2 places, 'student.', 'teacher.': save the tensors of one" in message
    assert_loaded(start_from(saved(tmp_path, {"student": state, "teacher": state})), state)


def test_a_state_to_resume_from_is_no_start(tmp_path, state):
    save_checkpoint(tmp_path / "x_last.pth", {"recipe": {}, "trainer": {"model": state}})
    assert "x_last.pth': it is for --resume; wanted is NAME_best.pth" in refused(
        tmp_path / "x_last.pth"
    )


def test_names_of_a_hostile_file_are_printed_safely(tmp_path):
    refused(saved(tmp_path, {"\x1b[31m\n" + "x" * 999: torch.ones(1), "\u202e": torch.ones(1)}))
    loop = {"a": torch.ones(1)}
    loop["self"] = loop["again"] = loop
    refused(saved(tmp_path, loop))


# Files that hold more than weights, or none.


NO_WEIGHTS = {
    "empty": (lambda good: b"", "it is empty"),
    "text": (lambda good: b"epoch,loss\n1,2\n", "text that begins with 'epoch,loss 1,2'"),
    "page": (lambda good: b"<!DOCTYPE html>\n<html>", "text that begins with '<!DOCTYPE html>"),
    "pointer": (lambda good: b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "cut off": (lambda good: good[: len(good) // 2], "without its end: copy or download it again"),
    "compressed": (gzip.compress, "it is compressed by gzip: unpack it first"),
    "pickle": (lambda good: pickle.dumps({"a": 1}), "a plain pickle, or what is left of one"),
    "Keras": (lambda good: b"\x89HDF\r\n\x1a\n" + bytes(90), "it is an HDF5 file, as Keras writes"),
    "picture": (
        lambda good: b"\x89PNG\r\n\x1a\n" + bytes(90),
        "neither a zip archive nor any other",
    ),
    "another zip": (lambda good: an_npz(), "a zip archive of something else, with 'a.npy'"),
    "bit": (lambda good: good.replace(b"\x3f", b"\x3e", 999), "is damaged: wrong checksum of"),
}


def an_npz():
    content = io.BytesIO()
    np.savez(content, a=np.ones(3))
    return content.getvalue()


@pytest.mark.parametrize("kind", NO_WEIGHTS)
def test_a_file_that_is_no_checkpoint_is_told_what_it_is(tmp_path, state, kind):
    path = saved(tmp_path, state)
    change, said = NO_WEIGHTS[kind]
    path.write_bytes(change(path.read_bytes()))
    assert said in refused(path)


def take(message):
    """The Python line that a refusal offers, executed; the path of what it has written."""
    line = "torch.save(" + message.split("torch.save(", 1)[1].split(" keeps")[0]
    exec(line, {"torch": torch})


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before the zip"])
def test_the_remedy_for_pickled_modules_works_as_it_is_printed(
    tmp_path, state, zipped, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    network = EfficientChestNet()
    network.load_state_dict(state)
    contents = (
        (network, "(model.EfficientChestNet"),
        ({"epoch": 3, "model": network}, "(model.EfficientChestNet"),
        ({"state_dict": state, "callbacks": {"x": network.stem[2]}}, "torch.nn.modules.activation"),
        ({"hyper_parameters": nn.ReLU(), "state_dict": named(state, "model.")}, "ReLU"),
    )
    for content, named_class in contents:
        path = tmp_path / "w.ckpt"
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        message = refused(path)
        assert "holds more than tensors and plain values" in message and named_class in message
        take(message)
        assert_loaded(start_from(tmp_path / "weights.pth"), state)


def test_a_call_in_a_pickle_gets_no_remedy_and_does_not_run(tmp_path):
    message = refused(saved(tmp_path, {"state_dict": Payload(tmp_path / "ran")}))
    assert "do not open it" in message and "weights_only=False" not in message
    assert not (tmp_path / "ran").exists()


def test_torchscript_is_told_with_its_remedy(tmp_path, state, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network = EfficientChestNet().eval()
    network.load_state_dict(state)
    torch.jit.trace(network, torch.rand(1, 1, 28, 28)).save("w.pt")
    message = refused(tmp_path / "w.pt")
    assert "is a TorchScript archive" in message
    take(message)
    assert_loaded(start_from(tmp_path / "weights.pth"), state)


def test_safetensors_are_read(tmp_path, state, capsys):
    safetensors = pytest.importorskip("safetensors.torch")
    given = {n: v.bfloat16() if v.is_floating_point() else v for n, v in state.items()}
    safetensors.save_file(named(given, "model."), tmp_path / "w.safetensors")
    wanted = {n: v.to(state[n].dtype) for n, v in given.items()}
    assert_loaded(start_from(tmp_path / "w.safetensors"), wanted)
    content = (tmp_path / "w.safetensors").read_bytes()
    for number, damaged in enumerate((content[:-1], content[:5000], content[:300] + b"}")):
        (tmp_path / f"{number}.safetensors").write_bytes(damaged)
        assert "is damaged or none at all" in refused(tmp_path / f"{number}.safetensors")


def test_safetensors_without_the_package_names_it(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "safetensors", None)
    (tmp_path / "w.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    assert refused(tmp_path / "w.safetensors").endswith("pip install safetensors")
