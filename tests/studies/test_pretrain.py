"""Pre-training: what is learned from which images, by how many processes, and who starts there."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from conftest import ROOT
from torchvision.models import resnet34

from chestlab.data import provenance, sources, splits
from chestlab.data.folds import make_folds
from chestlab.files.checkpoint import load_checkpoint
from chestlab.files.errors import InputError
from chestlab.files.progress import Interrupted
from chestlab.runs import family
from chestlab.runs import run as run_module
from chestlab.runs.experiment import Experiment
from chestlab.runs.flags import parse
from chestlab.training.inference import load_model
from chestlab.training.losses import SimCLR
from chestlab.training.recipe import Recipe
from chestlab.training.trainer import Trainer
from chestlab.training.weights import (
    PretrainedWeights,
    last_linear,
    load_pretrained,
    read_pretrained,
)
from model import EfficientChestNet
from model_improved import ResidualChestNet
from networks import NETWORKS, network, network_class
from resnet_plain import Plain34, ResNet34
from resnet_se import SEResNet34
from studies import pretrain, pretrain_flags
from train import REPORT

posix = pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
HEAVY = ("densenet169", "efficientnet_b3", "resnet50", "resnet101", "vit_b_16")
SMALL = ("--device", "cpu", "--epochs", 2, "--batch-size", 16)
RANDOM = ("--net", "modifiedresnet34", "--width", 8, "--dropout", 0.3, "--image-size", 32)
CHEAP = ("--net", "seresnet34", "--width", 8, "--image-size", 32)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Sums over several threads may differ in their last bit from those over one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def named_npz(tmp_path_factory, phantom_npz):
    """The small phantom with file names, three images a patient, other findings among them."""
    with np.load(phantom_npz) as source:
        arrays = dict(source)
    for number, split in enumerate(splits.SPLITS):
        patients = np.arange(len(arrays[f"{split}_labels"])) // 3 + 1000 * number
        arrays[f"{split}_names"] = np.array(
            [f"{p:08d}_{i:03d}.png" for i, p in enumerate(patients)]
        )
    path = tmp_path_factory.mktemp("named") / "named.npz"
    np.savez(path, **arrays)
    return path


@pytest.fixture
def start(tmp_path, monkeypatch, capsys):
    """Start `pretrain.main`, or a training script's `experiment.run`, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def start(*flags, run=pretrain.main):
        capsys.readouterr()
        status = 0
        try:
            run([str(flag) for flag in flags])
        except SystemExit as end:
            status = end.code
        return status, capsys.readouterr().err

    return start


def train(build, recipe):
    """A training script's call, with flags that keep it short."""

    def run(argv):
        short = ["--device", "cpu", "--epochs", "1", "--no-test"]
        run_module.run(build, {"report": recipe}, [*argv, *short])

    return run


def make(objective="findings", build=EfficientChestNet, n=12, size=28, **changes):
    """A pre-training of a few random images."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (n, 1, size, size), dtype=torch.uint8, generator=generator)
    labels = (torch.rand((n, 14), generator=generator) < 0.3).float()
    recipe = Recipe(**{"name": "x", "batch_size": 4, "lr": 1e-3, "monitor": "last", **changes})
    head, outputs = last_linear(build()), 8 if objective == "simclr" else 14
    return Trainer(
        partial(pretrain.with_head, build, head, outputs, objective),
        recipe,
        (images, labels if objective == "findings" else labels[:, 0]),
        (images[:0], labels[:0]),
        objective=SimCLR(0.2) if objective == "simclr" else None,
    )


def history(folder):
    with (folder / "history.csv").open(newline="") as file:
        return [float(row["train_loss"]) for row in csv.DictReader(file)]


# Any network, either objective.


def test_every_training_script_has_its_networks_here():
    scripts = {path.stem for name in ("train*", "resnet_*") for path in ROOT.glob(f"{name}.py")}
    assert {known.script for known in NETWORKS.values()} == scripts - {"train_minimal"}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] * (n in HEAVY)) for n in NETWORKS],
)
def test_every_network_learns_findings_and_its_script_can_start_there(name):
    found = network(name, "cpu")
    arguments = {**found.arguments, **({"width": 8} if "width" in found.model_options else {})}
    build = partial(found.build, **arguments)
    trainer = make(build=build, n=4, size=32, epochs=1, flip=0.5)
    assert math.isfinite(trainer.run_epoch()["train_loss"])
    learned = trainer.model.state_dict()
    state = {"model": type(build()).__name__, "weights": learned}
    point = PretrainedWeights("x.pth", "", state)
    one = build(point) if found.imagenet_url else load_pretrained(build, point)
    own, last = one.state_dict(), last_linear(one)
    assert learned[f"{last}.weight"].shape[0] == 14
    given = [n for n in own if n.startswith("backbone." if found.imagenet_url else "")]
    given = [n for n in given if not n.startswith(f"{last}.")]
    assert len(given) > len(own) / 2
    assert all(torch.equal(own[n], learned[n]) for n in given)
    assert one.eval()(torch.randn(2, 1, 32, 32)).shape == (2,)


def test_simclr_learns_to_tell_images_apart_without_a_label():
    build = partial(ResNet34, width=8)
    trainer = make("simclr", build, n=16, size=32, batch_size=16, epochs=25, lr=2e-3, flip=0.5)
    coarse = trainer.train_images[..., ::8, ::8]
    trainer.train_images = coarse.repeat_interleave(8, 2).repeat_interleave(8, 3)
    trainer.train_labels.fill_(math.nan)
    trainer.fit()
    first, last = trainer.history[0], trainer.history[-1]
    assert last["train_loss"] < first["train_loss"] - 1
    assert last["train_accuracy"] > first["train_accuracy"]


# From the command line to the two-class task.


@pytest.mark.parametrize("objective", ["findings", pytest.param("simclr", marks=pytest.mark.slow)])
def test_a_script_starts_from_the_checkpoint_and_says_so(start, tmp_path, phantom_npz, objective):
    own = "--objective", objective, "--data", phantom_npz
    name = f"pretrained_efficientchestnet_{objective}_small"
    assert start(*own, *SMALL, "--epochs", 1, "--name", name) == (0, "")
    path = tmp_path / f"trained_models/{name}_final.pth"
    state = load_checkpoint(path, sealed=True)
    head = [n for n in state["weights"] if n.startswith("head.6.")]
    assert len(head) == (2 if objective == "findings" else 0)
    assert state["objective"]["name"] == objective
    metrics = json.loads((tmp_path / f"results/pretraining/{name}/metrics.json").read_text())
    assert metrics["data"]["images"] == 70 and metrics["left_out_images"] == 0
    assert metrics["train_loss"] == history(tmp_path / f"results/pretraining/{name}")[-1]
    assert metrics["phantom"]

    script = train(EfficientChestNet, REPORT)
    flags = "--data", phantom_npz, "--weights", path, "--name", "fine"
    assert start(*flags, run=script) == (0, "")
    fine = json.loads((tmp_path / "results/fine/metrics.json").read_text())
    assert fine["starting_weights"]["source"] == path.name
    assert len(fine["starting_weights"]["sha256"]) == 64
    assert "ladder" not in fine  # that is of networks in two stages
    seen = load_checkpoint(tmp_path / "trained_models/fine_best.pth")["seen"]
    assert seen["trained"]["rows"]["train"] == list(range(70))
    assert "val" not in seen["trained"]["rows"]

    status, told = start("--data", phantom_npz, "--name", "fine", "--resume", run=script)
    assert status == 2 and "starting_weights source" in told
    with pytest.raises(InputError, match=r"of studies\.pretrain"):
        load_model(path, network_class)


def test_all_layers_but_the_last_are_taken():
    torch.manual_seed(0)
    other = ResidualChestNet()
    state = {"model": "ResidualChestNet", "weights": other.state_dict()}
    one = load_pretrained(ResidualChestNet, PretrainedWeights("x.pth", "", state))
    for name, value in one.state_dict().items():
        last = name.startswith("head.11.")
        assert torch.equal(value, other.state_dict()[name]) != last, name


def test_torchvisions_resnet34_fits_the_one_here_and_its_colours_become_grey():
    torch.manual_seed(0)
    coloured = resnet34(weights=None).state_dict()
    one = load_pretrained(ResNet34, PretrainedWeights("resnet34.pth", "", coloured)).state_dict()
    torch.testing.assert_close(one["conv1.weight"], coloured["conv1.weight"].sum(1, keepdim=True))
    name = "layer3.0.downsample.1.running_var"
    assert torch.equal(one[name], coloured[name])


@pytest.mark.parametrize("damage", ["name", "missing", "shape", "extra", "no weights", "number"])
def test_a_checkpoint_of_another_network_is_told_in_one_line(damage):
    state = {"model": "ResNet34", "weights": ResNet34(width=8).state_dict()}
    if damage == "name":
        state["model"] = "Plain34"
    elif damage == "missing":
        del state["weights"]["layer2.0.conv1.weight"]
    elif damage == "shape":
        state["weights"] = ResNet34(width=16).state_dict()
    elif damage == "extra":
        state["weights"]["layer5.weight"] = torch.zeros(1)
    elif damage == "no weights":
        state = {"model": "ResNet34"}
    else:
        state["weights"]["conv1.weight"] = 3
    with pytest.raises(InputError, match=r"--weights: 'bad\.pth'") as refusal:
        load_pretrained(partial(ResNet34, width=8), PretrainedWeights("bad.pth", "", state))
    assert str(refusal.value).isprintable()


def test_a_missing_file_is_told_with_what_is_allowed(tmp_path):
    with pytest.raises(InputError, match="allowed are none or an existing file"):
        read_pretrained(str(tmp_path / "no.pth"), None)
    with pytest.raises(InputError, match="allowed are none or"):
        read_pretrained("imagenet", None)


def test_of_two_networks_a_script_trains_the_one_the_weights_are_of(tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr(family, "train", lambda build, *more, **named: trained.append(build))
    path = tmp_path / "x.pth"
    torch.save({"model": "ResNet34", "weights": {}}, path)
    for flags, wanted in (
        (["--weights", str(path)], [ResNet34]),
        (["--weights", "none"], [Plain34, ResNet34]),
        (["--weights", str(tmp_path / "no.pth")], [Plain34, ResNet34]),  # the first will tell
        ([], [Plain34, ResNet34]),
    ):
        trained.clear()
        monkeypatch.setattr(sys, "argv", ["resnet_plain.py", *flags])
        family.train_both({"plain34": Plain34, "resnet34": ResNet34})
        assert trained == wanted


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--net", "resnet"), "invalid choice"),
        (("--width", 8), "--width is not for --net efficientchestnet"),
        (("--net", "resnet34", "--reduction", 8), "--reduction is not for"),
        (("--nt-xent-temperature", 0.5), "is for --objective simclr"),
        (("--exclude-fold", "6/5"), "is not all or FOLD/K"),
        (("--exclude-fold", "1/60"), "--folds 60"),
        (("--schedule", "plateau"), "validation"),
        (("--weights", "no.pth"), "allowed are none or"),
        (("--net", "densenet121", "--image-size", 16), "needs 29 pixels"),
        (("--amp", "fp16", "--device", "cpu"), "not on a CPU"),
        (("--name", "a/b"), "--name 'a/b'"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(start, tmp_path, named_npz, flags, told):
    status, message = start("--data", named_npz, *flags)
    assert status == 2 and told in message
    assert message.startswith("error: ") and message.count("\n") == 1
    assert not any(tmp_path.iterdir())


# Which images.


def test_validation_and_test_images_have_no_say(start, tmp_path, phantom_npz):
    with np.load(phantom_npz) as source:
        arrays = dict(source)
    for split in ("val", "test"):
        arrays[f"{split}_images"] = 255 - arrays[f"{split}_images"]
        arrays[f"{split}_labels"] = arrays[f"{split}_labels"][::-1]
    np.savez(tmp_path / "other.npz", **arrays)
    for data, name in ((phantom_npz, "one"), ("other.npz", "two")):
        assert start("--data", data, *SMALL, *CHEAP, "--name", name) == (0, "")
    one, two = (load_checkpoint(tmp_path / f"trained_models/{n}_final.pth") for n in ("one", "two"))
    assert one["data"]["sha256"] != two["data"]["sha256"]
    assert all(torch.equal(v, two["weights"][k]) for k, v in one["weights"].items())
    assert one["seen"] == two["seen"] and list(one["seen"]["trained"]["rows"]) == ["train"]


def test_the_findings_auc_of_others_validation_images_is_shown(start, tmp_path, named_npz):
    fold_1 = "--exclude-fold", "1/3", "--folds-over", "train+val"
    flags = "--data", named_npz, *SMALL, *CHEAP, *fold_1, "--amp", "off"  # bf16 varies with batches
    assert start(*flags, "--name", "shown") == (0, "")
    folder = tmp_path / "results/pretraining/shown"
    metrics = json.loads((folder / "metrics.json").read_text())
    with (folder / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    state = load_checkpoint(tmp_path / "trained_models/shown_final.pth")
    assert metrics["val"] == state["val"] and len(rows) == len(state["history"]) == 2
    assert float(rows[-1]["val_loss"]) == pytest.approx(metrics["val"]["loss"], rel=1e-5)
    data = sources.load(str(named_npz))
    fold = make_folds(data, 3, "train+val")[0]
    held_out = fold.held_out if fold.held_out is not None else fold.val
    names = np.load(named_npz)["val_names"]
    others = ~np.isin([name[:8] for name in names], held_out.patients)
    assert metrics["val"]["n"] == others.sum() < len(names)


@pytest.mark.parametrize("over", ["train", "train+val"])
def test_patients_of_an_excluded_fold_stay_unknown(start, tmp_path, named_npz, over):
    flags = "--data", named_npz, *SMALL, *CHEAP, "--name", "without", "--folds-over", over
    assert start(*flags, "--exclude-fold", "2/3") == (0, "")
    path = tmp_path / "trained_models/without_final.pth"
    state = load_checkpoint(path)
    assert state["data"]["without"] == f"fold 2 of 3 over {over}"
    parts = make_folds(sources.load(str(named_npz)), 3, over)
    held_out = [part.val if part.held_out is None else part.held_out for part in parts]
    owners = set(held_out[1].patients)
    seen = np.array(state["seen"]["trained"]["names"])
    everyone = sources.load(str(named_npz), findings=True).train
    wanted = [name for name in everyone.names if name[:8] not in owners]
    assert seen.tolist() == wanted
    two_class = held_out[1].names[np.isin(held_out[1].names, everyone.names)]
    assert 0 < len(two_class) < len(everyone) - len(wanted)  # their other images are gone, too

    point = PretrainedWeights("without", "", state)
    for number, part in enumerate(parts):
        options = parse(
            {"report": dataclasses.replace(REPORT, name="x", image_size=32)},
            ["--data", str(named_npz), "--device", "cpu", "--width", "8"],
            model_options={"width": family.WIDTH},
        )
        make_experiment = partial(Experiment, SEResNet34, options, part, read_weights=lambda: point)
        if number == 1:
            make_experiment()
        else:
            with pytest.raises(InputError, match="has seen"):
                make_experiment()


def test_a_script_refuses_weights_that_know_what_it_is_judged_on(start, tmp_path, named_npz):
    flags = "--data", named_npz, *SMALL, *CHEAP, "--name", "all"
    assert start(*flags) == (0, "")
    path = tmp_path / "trained_models/all_final.pth"
    state = load_checkpoint(path)
    before = set(tmp_path.rglob("*"))
    fold = "--data", named_npz, "--weights", path, "--folds", 3, "--image-size", 32, "--width", 8
    script = SEResNet34

    def run(argv):
        run_module.run(
            script, family.recipes_for("x", argv), argv, model_options={"width": family.WIDTH}
        )

    status, told = start(*fold, run=run)
    assert status == 2 and "has seen" in told and told.count("\n") == 1
    data = sources.load(str(named_npz))
    test = provenance.record([("test", data.test)], phantom=True)
    torch.save({**state, "seen": {"trained": test}}, "bad.pth")
    flags = "--data", named_npz, "--weights", "bad.pth", "--width", 8, "--epochs", 1
    status, told = start(*flags, run=run)
    assert status == 2 and "24 of the 24 test images" in told
    assert set(tmp_path.rglob("*")) == before | {tmp_path / "bad.pth"}


def test_a_pre_training_does_not_go_on_from_one_that_knows_the_fold(start, tmp_path, named_npz):
    flags = "--data", named_npz, *SMALL, *CHEAP
    assert start(*flags, "--name", "all") == (0, "")
    more = "--weights", "trained_models/all_final.pth", "--name", "more"
    status, told = start(*flags, *more, "--exclude-fold", "1/3")
    assert status == 2 and "held-out images" in told
    assert start(*flags, *more) == (0, "")
    state = load_checkpoint(tmp_path / "trained_models/more_final.pth")
    assert state["starting_weights"]["source"] == "all_final.pth"


def test_of_a_source_without_names_the_images_themselves_are_left_out(phantom_npz):
    two, all_ = (sources.load(str(phantom_npz), findings=f) for f in (False, True))
    for over in ("train", "train+val"):
        part = make_folds(two, 3, over)[0]
        held_out = part.val if part.held_out is None else part.held_out
        own = held_out.index if over == "train" else held_out.index[held_out.origin == "train"]
        rest = pretrain.without(all_.train, held_out, "train")
        assert sorted([*rest.index, *own]) == list(range(len(all_.train)))
        assert len(own) > 5


def test_images_with_the_file_name_of_one_held_out_go_where_names_tell_no_patient(phantom_npz):
    images = sources.load(str(phantom_npz), findings=True).train
    named = dataclasses.replace(images, names=np.array([f"{n % 20}.png" for n in range(70)]))
    held_out = named.take(np.arange(3))
    rest = pretrain.without(named, held_out, "train")
    assert list(rest.index) == [n for n in range(70) if n % 20 > 2]


def test_unknown_patients_are_told_where_all_folds_are_left_out(start, phantom_npz):
    _, told = start("--data", phantom_npz, *SMALL, *CHEAP, "--exclude-fold", "all")
    assert "among those that --related on and pre-training add" in told


def test_of_the_real_images_every_patient_of_a_fold_goes(real_npz):
    two, all_ = (sources.load(str(real_npz), findings=f) for f in (False, True))
    for part in make_folds(two, 5, "train+val"):
        rest = pretrain.without(all_.train, part.val, "train")
        gone = len(all_.train) - len(rest)
        assert not set(rest.patients) & set(part.val.patients)
        assert gone > 3 * len(part.val)  # many have images with other findings or none
        assert set(rest.patients) == set(all_.train.patients) - set(part.val.patients)


# A pre-training is not lost.


def interrupt_in(monkeypatch, epoch):
    run_epoch = Trainer.run_epoch

    def stopped(self):
        if len(self.history) == epoch - 1:
            raise Interrupted(signal.SIGINT)
        return run_epoch(self)

    monkeypatch.setattr(Trainer, "run_epoch", stopped)


@pytest.mark.parametrize("objective", ["findings", "simclr"])
def test_it_goes_on_as_if_it_had_not_been_stopped(
    start, tmp_path, phantom_npz, monkeypatch, objective
):
    flags = "--data", phantom_npz, *SMALL, *RANDOM, "--epochs", 3, "--objective", objective
    assert start(*flags, "--name", "whole")[0] == 0
    with monkeypatch.context() as patch:
        interrupt_in(patch, 3)
        status, told = start(*flags, "--name", "halves")
    assert status == 130
    assert told == "interrupted after epoch 2: the same command with --resume goes on\n"
    assert not (tmp_path / "trained_models/halves_final.pth").exists()
    status, told = start(*flags, "--name", "halves")
    assert status == 2 and "--resume" in told and "--overwrite" in told
    status, told = start(*flags, "--name", "halves", "--resume", "--lr", 0.1)
    assert status == 2 and "recipe lr" in told
    assert start(*flags, "--name", "halves", "--resume")[0] == 0
    whole, halves = (
        load_checkpoint(tmp_path / f"trained_models/{name}_final.pth")
        for name in ("whole", "halves")
    )
    assert all(torch.equal(v, halves["weights"][k]) for k, v in whole["weights"].items())
    folders = [tmp_path / "results/pretraining" / name for name in ("whole", "halves")]
    assert history(folders[0]) == history(folders[1])
    written = (tmp_path / "trained_models/halves_final.pth").stat().st_mtime_ns
    assert start(*flags, "--name", "halves", "--resume")[0] == 0  # nothing to do
    assert (tmp_path / "trained_models/halves_final.pth").stat().st_mtime_ns == written


def test_a_finished_one_stays_until_its_successor_is_finished(
    start, tmp_path, phantom_npz, monkeypatch
):
    flags = "--data", phantom_npz, *SMALL, *CHEAP, "--name", "one"
    path = tmp_path / "trained_models/one_final.pth"
    assert start(*flags)[0] == 0
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        interrupt_in(patch, 2)
        assert start(*flags, "--seed", 1)[0] == 2
        assert start(*flags, "--seed", 1, "--overwrite")[0] == 130
    assert path.read_bytes() == before
    assert start(*flags, "--seed", 1, "--resume")[0] == 0
    assert path.read_bytes() != before
    left = sorted(path.name for path in (tmp_path / "trained_models").iterdir())
    assert left == ["one.lock", "one_final.pth", "one_last.pth"]


# Several processes.


def torchrun(cwd, *flags):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", 2]
    command += ["--standalone", "-m", "studies.pretrain", *flags]
    return subprocess.Popen(
        list(map(str, command)),
        cwd=cwd,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": str(ROOT),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["findings", "simclr"])
def test_two_processes_have_the_losses_of_one(start, tmp_path, phantom_npz, objective):
    flags = "--data", phantom_npz, *SMALL, *RANDOM, "--amp", "off", "--objective", objective
    process = torchrun(tmp_path, *flags, "--name", "two")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert out.count("epoch 1/2") == 1 and "2 processes" in out
    assert start(*flags, "--name", "one")[0] == 0
    folders = [tmp_path / "results/pretraining" / name for name in ("one", "two")]
    assert history(folders[1]) == pytest.approx(history(folders[0]), rel=1e-4)
    one, two = (load_checkpoint(tmp_path / f"trained_models/{n}_final.pth") for n in ("one", "two"))
    values = [torch.cat([v.flatten().float() for v in s["weights"].values()]) for s in (one, two)]
    assert (values[0] - values[1]).norm() < 1e-3 * values[0].norm()
    assert one["seen"] == two["seen"]
    assert json.loads((folders[1] / "metrics.json").read_text())["processes"] == 2


@posix
@pytest.mark.slow
@pytest.mark.parametrize("who", ["everyone", "the first", "the second"])
def test_when_one_process_ends_the_others_do_and_the_run_goes_on(start, tmp_path, phantom_npz, who):
    flags = "--data", phantom_npz, *SMALL, *CHEAP, "--name", "one"
    process = torchrun(tmp_path, *flags, "--epochs", 500)
    line = ""
    while not line.startswith("epoch 2/"):
        line = process.stdout.readline()
        assert line, process.stderr.read()
    listed = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True
    ).stdout
    pairs = [tuple(map(int, row.split())) for row in listed.splitlines()]
    workers = sorted(pid for pid, parent in pairs if parent == process.pid)
    assert len(workers) == 2
    if who == "everyone":
        os.killpg(process.pid, signal.SIGINT)
    else:
        os.kill(workers[who == "the second"], signal.SIGKILL)
    _, err = process.communicate(timeout=60)  # reads to the end of every process's output
    assert process.returncode != 0
    if who == "everyone":
        assert err.count("the same command with --resume goes on") == 1
    done = len(history(tmp_path / "results/pretraining/one"))
    assert done >= 2
    left = list((tmp_path / "trained_models").iterdir())
    assert {path.name for path in left} == {"one.lock", "one_last.pth"}
    state = load_checkpoint(tmp_path / "trained_models/one_last.pth", sealed=True)
    assert len(state["trainer"]["history"]) in (done, done + 1)
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:  # in one process, for the next epoch
        interrupt_in(patch, len(state["trainer"]["history"]) + 2)
        status, told = start(*flags, "--epochs", 500, "--resume")
    assert status == 130
    assert f"after epoch {len(state['trainer']['history']) + 1}:" in told


@pytest.mark.slow
def test_what_cannot_be_shared_is_told_by_the_first_process_alone(tmp_path, phantom_npz):
    process = torchrun(tmp_path, "--data", phantom_npz, "--batch-size", 3)
    _, err = process.communicate(timeout=120)
    assert process.returncode != 0
    assert err.count("error: --batch-size 3: 2 processes need 4 or more") == 1
    assert not any(tmp_path.iterdir())


def test_the_default_recipes_prepare_images_as_the_networks_own_script_does():
    for net, flags, changes in (
        ("efficientchestnet", [], {}),
        ("mobilenetv3", ["--mean", "0.4"], {"mean": 0.4}),
    ):
        script = network(net).recipe
        own = pretrain.parse(["--net", net, *flags]).recipe
        for name in pretrain_flags.OF_THE_SCRIPT:
            assert getattr(own, name) == changes.get(name, getattr(script, name)), name
    assert pretrain.parse([]).recipe.flip == pretrain_flags.FINDINGS.flip
    own = pretrain.parse(["--net", "plain34", "--device", "cpu"]).recipe
    assert own.image_size == family.CPU_SIZE
    assert pretrain.parse(["--objective", "simclr"]).recipe.batch_size == 256


def test_no_owner_of_a_two_class_image_is_left_where_all_are_excluded(start, tmp_path, named_npz):
    path, arrays = tmp_path / "others.npz", dict(np.load(named_npz))
    two_class = splits.two_class_mask(arrays["train_labels"])
    for row in np.flatnonzero(~two_class)[::2]:  # half of the other images are of other patients
        arrays["train_names"][row] = f"{90_000_000 + row}_000.png"
    np.savez(path, **arrays)
    flags = "--data", path, *SMALL, *CHEAP, "--name", "without", "--exclude-fold", "all"
    assert start(*flags) == (0, "")
    state = load_checkpoint(tmp_path / "trained_models/without_final.pth")
    assert state["data"]["without"] == "all two-class images"
    data = sources.load(str(path))
    owners = {*data.train.patients, *data.val.patients}
    seen = state["seen"]["trained"]["names"]
    assert len(seen) == (~two_class)[np.flatnonzero(~two_class)[::2]].sum()
    assert not any(name[:8] in owners for name in seen)


def test_classes_are_refused_with_what_a_file_must_have(capsys):
    with pytest.raises(SystemExit) as stop:
        pretrain.main(["--classes", "pneumothorax,cardiomegaly"])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and "14 label columns" in error
