"""The 34-layer family: networks against torchvision, scripts, comparison, findings, verdicts."""

import csv
import dataclasses
import json
import math
import runpy
import signal
import sys
from functools import partial

import numpy as np
import pytest
import torch
from conftest import ROOT
from torch import nn

from chestlab.data import sources, splits
from chestlab.data.phantom import make_phantom
from chestlab.evaluation import verdicts
from chestlab.evaluation.metrics import bootstrap_weights, evaluate_findings, roc_auc, weighted_auc
from chestlab.files.errors import InputError
from chestlab.files.progress import Interrupted
from chestlab.reporting import family_report
from chestlab.runs.family import RECIPES, recipes_for
from chestlab.training.diagnostics import gradient_norms, silent_units
from chestlab.training.inference import load_model
from chestlab.training.layers import parameter_count
from chestlab.training.optimizer import PER_STEP, make_scheduler
from chestlab.training.recipe import Recipe
from chestlab.training.trainer import Trainer
from networks import network_class
from resnet_mish import MishResNet34
from resnet_modified import ModifiedResNet34
from resnet_plain import Plain34, ResNet34
from resnet_se import SEResNet34
from resnet_se_mish import SEMishResNet34

NETWORKS = {
    Plain34: 21_105_089,
    ResNet34: 21_278_913,
    SEResNet34: 21_440_109,
    MishResNet34: 21_278_913,
    SEMishResNet34: 21_440_109,
    ModifiedResNet34: 21_438_445,
}


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.__name__)
def test_parameters_are_those_of_the_papers_networks_with_grey_stem_and_one_logit(network):
    assert parameter_count(network()) == NETWORKS[network]


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.__name__)
def test_logits_have_one_column_per_output_and_none_for_a_single_one(network):
    x = torch.randn(2, 1, 40, 32)
    assert network(width=4)(x).shape == (2,)
    assert network(outputs=14, width=4)(x).shape == (2, 14)


def test_resnet_34_with_torchvisions_weights_gives_torchvisions_features():
    from torchvision.models import resnet34

    torch.manual_seed(0)
    theirs = resnet34(weights=None)
    with torch.no_grad():
        for name, value in theirs.named_buffers():  # as after a training, and not 0 and 1
            if "running_mean" in name:
                value.normal_(std=0.1)
            elif "running_var" in name:
                value.uniform_(0.5, 1.5)
    state = theirs.state_dict()
    ours = ResNet34().double()  # rounding alone is 2e-5 in single precision
    theirs.double()
    mine = ours.state_dict()
    for name in ("conv1.weight", "fc.weight", "fc.bias"):
        state[name] = mine[name]
    ours.load_state_dict(state)
    state["conv1.weight"] = mine["conv1.weight"].repeat(1, 3, 1, 1) / 3
    theirs.fc = nn.Identity()
    theirs.load_state_dict({k: v for k, v in state.items() if not k.startswith("fc.")})
    x = torch.randn(2, 1, 64, 64, dtype=torch.float64)
    with torch.inference_mode():
        features = ours.eval().features(x).mean((2, 3))
        torch.testing.assert_close(
            features, theirs.eval()(x.repeat(1, 3, 1, 1)), rtol=1e-5, atol=1e-5
        )
        assert features.std() > 1e-2


def test_plain_34_is_resnet_34_without_shortcuts_and_starts_from_the_same_distribution():
    torch.manual_seed(0)
    plain, residual = Plain34(), ResNet34()
    assert set(residual.state_dict()) - set(plain.state_dict()) == {
        name for name in residual.state_dict() if "downsample" in name
    }
    for name, a in plain.named_parameters():
        b = residual.get_parameter(name)
        if a.dim() == 4:
            fan_out = a.shape[0] * a.shape[2] * a.shape[3]
            for weight in (a, b):
                assert weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05), name
        elif "bn" in name:
            assert torch.equal(a, b)
    block = plain.layer1[0].eval()
    nn.init.zeros_(block.bn2.weight)
    nn.init.zeros_(residual.layer1[0].eval().bn2.weight)
    x = torch.rand(1, 64, 8, 8)
    assert not block(x).any()
    assert torch.equal(residual.layer1[0](x), x)


def test_mish_replaces_every_relu_in_the_attention_too():
    for network in (MishResNet34, SEMishResNet34):
        kinds = [type(module) for module in network(width=4).modules()]
        assert nn.ReLU not in kinds
        assert kinds.count(nn.Mish) == 33 + 16 * (network is SEMishResNet34)


def test_attention_scales_the_residual_branch_by_what_it_says():
    block = SEResNet34(width=4, reduction=2).layer1[0].eval()
    plain = ResNet34(width=4).layer1[0].eval()
    plain.load_state_dict(
        {k: v for k, v in block.state_dict().items() if not k.startswith("attention")}
    )
    nn.init.zeros_(block.attention.expand.weight)
    nn.init.constant_(block.attention.expand.bias, 100.0)  # a gate that is fully open
    x = torch.rand(2, 4, 8, 8)
    torch.testing.assert_close(block(x), plain(x))
    nn.init.constant_(block.attention.expand.bias, -100.0)
    torch.testing.assert_close(block(x), torch.relu(x))


@pytest.mark.parametrize(
    ("choice", "value", "change"),
    [("reduction", 0, -161_196), ("dropout", 0.0, 0), ("activation", "gelu", 0)],
)
def test_each_change_of_the_modified_network_can_be_switched_off_alone(choice, value, change):
    network = ModifiedResNet34(**{choice: value})
    assert parameter_count(network) == NETWORKS[ModifiedResNet34] + change
    kinds = {type(module) for module in network.modules()}
    assert (nn.GELU in kinds) == (choice == "activation")
    assert (nn.SiLU in kinds) == (choice != "activation")
    assert (network.layer1[0].dropout.p == 0) == (choice == "dropout")


def test_the_modified_network_with_all_changes_off_is_resnet_34():
    torch.manual_seed(0)
    off = ModifiedResNet34(width=4, order="post", reduction=0, dropout=0, activation="relu")
    torch.manual_seed(0)
    plain = ResNet34(width=4)
    x = torch.randn(4, 1, 32, 32)
    assert torch.equal(off(x), plain(x))


def test_in_pre_activation_order_the_input_reaches_the_end_of_a_stage_unchanged():
    stage = ModifiedResNet34(width=4).layer1.eval()
    for block in stage:
        nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 4, 8, 8)
    assert torch.equal(stage(x), x)


def read_metrics(folder):
    return json.loads((folder / "metrics.json").read_text())


@pytest.fixture
def script(tmp_path, monkeypatch):
    """Runs a script of the project in this process, which spares importing torch each time."""
    monkeypatch.chdir(tmp_path)

    def run(name, *flags):
        monkeypatch.setattr(sys, "argv", [name, *map(str, flags)])
        return runpy.run_path(str(ROOT / name), run_name="__main__")

    return run


SMALL = ("--image-size", 32, "--width", 4, "--epochs", 2, "--device", "cpu", "--amp", "off")


def test_plain_and_residual_are_trained_on_the_same_data_in_the_same_order(
    script, tmp_path, phantom_npz
):
    script("resnet_plain.py", "--data", phantom_npz, *SMALL, "--name", "pair", "--lr", 1e-9)
    for name, model in (("pair_plain34", "Plain34"), ("pair_resnet34", "ResNet34")):
        metrics = read_metrics(tmp_path / "results" / name)
        assert metrics["model"] == model
        assert metrics["model_arguments"] == {"width": 4}
        assert (metrics["seed"], metrics["recipe"]["lr"]) == (42, 1e-9)
        assert metrics["recipe_name"] == "cosine"
    assert (tmp_path / "results/pair_plain34_vs_pair_resnet34.png").exists()
    orders = []
    for network in (Plain34, ResNet34):
        data = torch.zeros(20, 1, 28, 28, dtype=torch.uint8), torch.zeros(20)
        recipe = dataclasses.replace(RECIPES["cosine"], image_size=32, amp="off")
        trainer = Trainer(partial(network, width=4), recipe, data, data)
        orders.append(torch.randperm(20, generator=trainer.shuffle))
    assert torch.equal(*orders)


@pytest.mark.parametrize(
    ("file", "model", "arguments"),
    [
        ("resnet_se.py", "SEResNet34", {"width": 4, "reduction": 16}),
        ("resnet_mish.py", "MishResNet34", {"width": 4}),
        ("resnet_se_mish.py", "SEMishResNet34", {"width": 4, "reduction": 16}),
    ],
)
def test_each_member_is_a_script(script, tmp_path, phantom_npz, file, model, arguments):
    flags = ("--data", phantom_npz, *SMALL, "--epochs", 1, "--recipe", "adamw", "--name", "one")
    script(file, *flags)
    metrics = read_metrics(tmp_path / "results/one")
    assert (metrics["model"], metrics["model_arguments"]) == (model, arguments)
    assert metrics["recipe"]["lr"] == 1e-3


def test_a_networks_flags_reach_its_constructor_and_are_kept(script, tmp_path, phantom_npz):
    flags = ("--order", "post", "--reduction", 0, "--dropout", 0.3, "--activation", "gelu")
    script("resnet_modified.py", "--data", phantom_npz, *SMALL, *flags, "--name", "one")
    metrics = read_metrics(tmp_path / "results/one")
    arguments = {"order": "post", "reduction": 0, "dropout": 0.3, "activation": "gelu", "width": 4}
    assert metrics["model_arguments"] == arguments
    assert metrics["parameters"] == parameter_count(ModifiedResNet34(**arguments))
    weights = torch.load(tmp_path / "trained_models/one_best.pth", weights_only=True)["weights"]
    ModifiedResNet34(**arguments).load_state_dict(weights)


def test_findings_have_no_ensembles(script, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        script("resnet_plain.py", "--task", "findings", "--members", 2)
    assert end.value.code == 2
    assert "--members" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flag", "value"),
    [("--activation", "tanh"), ("--dropout", "1"), ("--order", "both"), ("--task", "three-class")],
)
def test_a_wrong_choice_is_one_line_and_status_2(script, tmp_path, capsys, flag, value):
    with pytest.raises(SystemExit) as end:
        script("resnet_modified.py", flag, value)
    assert end.value.code == 2
    message = capsys.readouterr().err.strip()
    assert len(message.splitlines()) == 1
    assert flag in message
    assert not list(tmp_path.iterdir())


def test_the_recipes_are_the_reports_and_their_warm_up_is_one_epoch():
    assert list(RECIPES)[-1] == "cosine"  # the default
    rates = {name: learning_rates(recipe, steps=7) for name, recipe in RECIPES.items()}
    assert rates["adamw"] == [1e-3] * 10
    assert rates["step"][::5] == pytest.approx([6e-4 * 0.1**k for k in range(6)])
    assert len(rates["step"]) == 30
    assert len(rates["cosine"]) == 10
    assert rates["cosine"][1] == 3e-4  # at its highest when the second epoch begins
    assert rates["cosine"][-1] < 3e-5
    smoothing = {name: recipe.label_smoothing for name, recipe in RECIPES.items()}
    assert smoothing == {"adamw": 0, "step": 0.05, "cosine": 0.1}
    for name, recipe in RECIPES.items():
        assert (recipe.weight_decay, recipe.batch_size) == (1e-4, 32)
        assert (recipe.patience >= recipe.epochs) == (name != "step")


def learning_rates(recipe, steps):
    """At the first step of every epoch."""
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=recipe.lr)
    scheduler = make_scheduler(optimizer, recipe, steps)
    rates = []
    for _ in range(recipe.epochs):
        rates.append(optimizer.param_groups[0]["lr"])
        for _ in range(steps if recipe.schedule in PER_STEP else 1):
            optimizer.step()
            scheduler.step()
    return rates


def test_the_image_size_goes_with_the_device_and_is_said(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for argv, size in (
        ([], 224),
        (["--device", "cpu"], 64),
        (["--device=cpu"], 64),
        (["--device", "cuda"], 224),
    ):
        assert {r.image_size for r in recipes_for("x", argv).values()} == {size}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert recipes_for("x", ["--device", "auto"])["cosine"].image_size == 64


# All 14 findings.


def findings_arrays(rng, sizes, names=True):
    """Labels of every kind: none, one, several; hernia in no image but the first of train."""
    arrays = {}
    for split, n in zip(splits.SPLITS, sizes, strict=True):
        labels = (rng.random((n, 14)) < 0.3).astype(np.uint8)
        labels[:, 13] = 0
        labels[0] = split == "train"
        labels[1] = 0
        labels[2], labels[3] = np.eye(14, dtype=np.uint8)[[1, 7]]
        arrays[f"{split}_images"] = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        arrays[f"{split}_labels"] = labels
        if names:
            numbers = [f"{k // 3:08d}_{k % 3:03d}.png" for k in range(n)]  # three per patient
            arrays[f"{split}_names"] = np.array(numbers)
    return arrays


@pytest.fixture(scope="module")
def findings_npz(tmp_path_factory):
    path = tmp_path_factory.mktemp("findings") / "all.npz"
    np.savez(path, **findings_arrays(np.random.default_rng(1), (64, 40, 60)))
    return path


def test_the_findings_are_medmnists_in_its_order():
    medmnist = pytest.importorskip("medmnist")
    labels = medmnist.INFO["chestmnist"]["label"]
    for number, name in enumerate(splits.FINDINGS):
        assert name.split()[0] == labels[str(number)].split("_")[0]


def test_findings_are_read_with_every_image_label_and_name(findings_npz):
    data = sources.load(str(findings_npz), findings=True)
    with np.load(findings_npz) as source:
        for split in splits.SPLITS:
            part = getattr(data, split)
            for key in ("images", "labels", "names"):
                assert np.array_equal(getattr(part, key), source[f"{split}_{key}"])
            assert part.index.tolist() == list(range(len(part)))
            assert list(data.counts()[split].values()) == source[f"{split}_labels"].sum(0).tolist()
    images, labels = data.val.to(torch.device("cpu"))
    assert (images.shape, images.dtype) == ((40, 1, 28, 28), torch.uint8)
    assert (labels.shape, labels.dtype) == ((40, 14), torch.float32)
    assert data.val.patients[3] == "00000001"
    assert list(findings_npz.parent.iterdir()) == [findings_npz]  # no second copy of it all
    two = sources.load(str(findings_npz))
    assert isinstance(two, splits.TwoClassData)
    assert len(two.train) < len(data.train)
    again = sources.load(str(findings_npz), findings=True)  # past the cache of the two classes
    assert np.array_equal(again.test.labels, data.test.labels)
    assert again.sha256 == two.sha256


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: a["val_labels"].fill(0), "no finding that some images have"),
        (lambda a: a["val_labels"].__setitem__((5, 3), 2), "allowed are 0 and 1"),
        (lambda a: a.__setitem__("test_labels", a["test_labels"][:, :13]), "wanted is uint8"),
    ],
)
def test_findings_that_cannot_be_learned_are_refused(tmp_path, change, words):
    arrays = findings_arrays(np.random.default_rng(2), (9, 9, 9))
    change(arrays)
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(InputError, match=words):
        sources.load(str(tmp_path / "bad.npz"), findings=True)


def test_phantoms_have_findings_too(monkeypatch):
    source = make_phantom(train=100, val=20, test=20)
    monkeypatch.setattr("phantom.make_phantom", lambda size: source)
    data = sources.load("phantom", findings=True)
    assert data.phantom
    assert data.train.labels.sum(1).max() > 1
    assert np.array_equal(data.val.labels, source["val_labels"])


def test_weighted_areas_are_scikit_learns_ties_included():
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(3)
    labels = rng.integers(0, 2, 80)
    scores = rng.integers(0, 12, 80) / 12
    weights = bootstrap_weights(80, np.arange(80) // 4, 40)
    assert weights.sum(1).tolist() == [80] * 40
    expected = [roc_auc_score(labels, scores, sample_weight=row) for row in weights]
    np.testing.assert_allclose(weighted_auc(labels, scores, weights), expected)
    assert np.isnan(weighted_auc(np.ones(80), scores, weights)).all()


def test_figures_of_findings_leave_out_what_all_images_agree_on():
    from sklearn.metrics import log_loss, roc_auc_score

    rng = np.random.default_rng(4)
    labels = rng.integers(0, 2, (200, 3))
    labels[:, 1] = 0
    logits = rng.normal(size=(200, 3)) + labels
    found = evaluate_findings(labels, logits, ("a", "b", "c"), np.arange(200) // 5)
    areas = {"a": roc_auc_score(labels[:, 0], logits[:, 0]), "b": None}
    areas["c"] = roc_auc_score(labels[:, 2], logits[:, 2])
    assert found["auc_per_finding"] == pytest.approx(areas)
    assert found["auc"] == pytest.approx((areas["a"] + areas["c"]) / 2)
    assert found["auc_ci95_per_finding"]["b"] is None
    assert found["positives_per_finding"]["b"] == 0
    for area, (low, high) in (
        (found["auc"], found["auc_ci95"]),
        (areas["a"], found["auc_ci95_per_finding"]["a"]),
    ):
        assert low < area < high
    alone = np.diff(found["auc_ci95_per_finding"]["a"])
    assert np.diff(found["auc_ci95"]) < alone  # a mean of two is known better than one
    probabilities = 1 / (1 + np.exp(-logits))
    losses = [log_loss(labels[:, k], probabilities[:, k], labels=[0, 1]) for k in range(3)]
    assert found["loss"] == pytest.approx(np.mean(losses))


def test_a_run_on_all_findings_leaves_figures_that_can_be_recomputed(
    script, tmp_path, findings_npz
):
    script("resnet_se.py", "--data", findings_npz, *SMALL, "--task", "findings")
    folder = tmp_path / "results/seresnet34_findings_all"
    assert {path.name for path in folder.iterdir()} == {
        "metrics.json",
        "history.csv",
        "val_probabilities.csv",
        "test_probabilities.csv",
        "training_curves.png",
        "finding_aucs.png",
    }
    metrics = read_metrics(folder)
    assert metrics["model_arguments"]["outputs"] == 14
    assert metrics["recipe"]["monitor"] == "val_auc"
    assert metrics["bootstrap_unit"] == "patient"
    assert "threshold" not in metrics
    assert metrics["data"]["counts"]["train"]["hernia"] == 1
    for split in ("val", "test"):
        with (folder / f"{split}_probabilities.csv").open(newline="") as file:
            header, *rows = csv.reader(file)
        assert header == ["index", "labels", *splits.FINDINGS]
        labels = np.array([[int(digit) for digit in row[1]] for row in rows])
        with np.load(findings_npz) as source:
            assert np.array_equal(labels, source[f"{split}_labels"])
        probabilities = np.array([row[2:] for row in rows], float)
        assert metrics[split]["auc"] == pytest.approx(roc_auc(labels, probabilities), abs=1e-12)
        assert metrics[split]["auc_per_finding"]["hernia"] is None
        assert metrics[split]["n"] == len(rows)
    with (folder / "history.csv").open(newline="") as file:
        history = list(csv.DictReader(file))
    best = history[metrics["best_epoch"] - 1]
    assert metrics["val"]["auc"] == pytest.approx(float(best["val_auc"]))
    assert 0 <= float(best["train_accuracy"]) <= 1
    checkpoint = tmp_path / "trained_models/seresnet34_findings_all_best.pth"
    with pytest.raises(InputError, match="--task findings"):
        load_model(checkpoint, network_class)


def stop_at_epoch(monkeypatch, number):
    """Ctrl-C in the ``number``-th epoch of this process."""
    epochs = []
    run_epoch = Trainer.run_epoch

    def counted(self):
        epochs.append(1)
        if len(epochs) == number:
            raise Interrupted(signal.SIGINT)
        return run_epoch(self)

    monkeypatch.setattr(Trainer, "run_epoch", counted)
    return epochs


def test_a_run_on_all_findings_that_was_interrupted_ends_as_one_that_was_not(
    script, tmp_path, findings_npz, monkeypatch
):
    flags = ("--data", findings_npz, *SMALL, "--task", "findings")
    script("resnet_modified.py", *flags, "--name", "whole")
    with monkeypatch.context() as patch:
        stop_at_epoch(patch, 2)
        with pytest.raises(SystemExit) as end:
            script("resnet_modified.py", *flags, "--name", "halves")
        assert end.value.code == 130
    script("resnet_modified.py", *flags, "--name", "halves", "--resume")
    whole, halves = (tmp_path / "results" / name for name in ("whole", "halves"))
    name = "test_probabilities.csv"
    assert (whole / name).read_bytes() == (halves / name).read_bytes()
    with pytest.raises(SystemExit) as end:  # another task is another run
        script("resnet_modified.py", *flags[:-2], "--name", "halves", "--resume")
    assert end.value.code == 2


# What happens inside.


def test_gradient_norms_are_those_of_the_loss_and_leave_the_network_alone():
    torch.manual_seed(0)
    model = ResNet34(width=4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = torch.randint(0, 256, (8, 1, 32, 32), dtype=torch.uint8)
    labels = torch.tensor([0.0, 1.0] * 4)
    recipe = Recipe(name="x", batch_size=8)
    norms = gradient_norms(model, images, labels, recipe)
    assert len(norms) == 33  # the stem and two in each of 16 blocks
    assert list(norms)[:2] == ["conv1", "layer1.0.conv1"]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    logits = model.train()((images / 255 - 0.5) / 0.5)
    loss = nn.functional.binary_cross_entropy_with_logits(logits, labels)
    loss.backward()
    assert norms["conv1"] == pytest.approx(model.conv1.weight.grad.norm().item(), rel=1e-4)


@pytest.mark.parametrize("network", [ResNet34, MishResNet34])
def test_silent_units_are_those_that_were_silenced(network):
    torch.manual_seed(0)
    model = network(width=8)
    images = torch.randint(0, 256, (4, 1, 64, 64), dtype=torch.uint8)
    recipe = Recipe(name="x")
    with torch.no_grad():
        model.layer2[0].bn1.weight.zero_()
        model.layer2[0].bn1.bias.copy_(torch.tensor([-9.0] * 3 + [-0.5] + [0.5] * 12))
    shares = silent_units(model, images, recipe)
    assert len(shares) == 33
    # at -0.5 ReLU has no slope, Mish has
    assert shares["layer2.0.act1"] == (4 / 16 if network is ResNet34 else 3 / 16)
    if network is MishResNet34:
        assert sum(share > 0 for share in shares.values()) == 1


# Verdicts.


def crossed_runs(rng, gain, seeds=3, patients=60, images=3, patient_sd=0.1, seed_sd=0.03):
    """Runs of two networks whose true accuracies differ by ``gain``, and the patients.

    Patients differ in how hard they are for both networks and for their difference; so do seeds.
    """
    groups = np.repeat(np.arange(patients), images)
    labels = rng.integers(0, 2, len(groups)).astype(np.uint8)
    ease = 0.7 + patient_sd * rng.standard_normal(patients)[groups]
    other = patient_sd * rng.standard_normal(patients)[groups]
    networks = []
    for better, tilt in ((gain / 2, other / 2), (-gain / 2, -other / 2)):
        of_network = []
        for _ in range(seeds):
            right = rng.random(len(groups)) < ease + tilt + better + seed_sd * rng.normal()
            probabilities = np.where(right, labels, 1 - labels).astype(float)
            of_network.append(verdicts.Scored(labels, probabilities, 0.5))
        networks.append(of_network)
    return *networks, groups


def test_intervals_over_seeds_and_patients_hold_the_truth_as_often_as_they_say(monkeypatch):
    monkeypatch.setattr(verdicts, "BOOTSTRAP_RESAMPLES", 200)
    rng = np.random.default_rng(5)
    held = 0
    for _ in range(200):
        first, second, groups = crossed_runs(rng, gain=0.05)
        found = verdicts.difference(first, second, "accuracy", groups)
        held += found.low <= 0.05 <= found.high
    assert 0.91 <= held / 200 <= 1  # three seeds: a plain bootstrap of both holds it in fewer


def test_the_smallest_difference_to_be_seen_is_seen_in_about_80_percent(monkeypatch):
    monkeypatch.setattr(verdicts, "BOOTSTRAP_RESAMPLES", 200)
    rng = np.random.default_rng(6)
    # many seeds, so that the errors are known well
    arguments = {"seeds": 8, "patients": 80, "seed_sd": 0.02}
    least = np.mean(
        [
            verdicts.difference(*runs[:2], "accuracy", runs[2]).detectable
            for runs in (crossed_runs(rng, 0.0, **arguments) for _ in range(20))
        ]
    )
    seen = 0
    for _ in range(100):
        first, second, groups = crossed_runs(rng, least, **arguments)
        seen += verdicts.difference(first, second, "accuracy", groups).low > 0
    assert 0.65 <= seen / 100 <= 0.95


def test_a_difference_is_that_of_the_figures_and_pairing_narrows_it():
    rng = np.random.default_rng(7)
    labels = rng.integers(0, 2, 300).astype(np.uint8)
    scores = rng.normal(size=300) + labels
    first = [verdicts.Scored(labels, scores + 0.1 * rng.normal(size=300)) for _ in range(3)]
    second = [verdicts.Scored(labels, scores + 0.1 * rng.normal(size=300)) for _ in range(3)]
    found = verdicts.difference(first, second, "auc", None)
    areas = [
        np.mean([roc_auc(run.labels, run.probabilities) for run in runs])
        for runs in (first, second)
    ]
    assert found.value == pytest.approx(areas[0] - areas[1])
    own = verdicts.estimate(*verdicts.score(first, "auc", None))
    assert own.value == pytest.approx(areas[0])
    assert found.error < own.error / 2
    with pytest.raises(ValueError, match="same images"):
        other = dataclasses.replace(second[0], labels=1 - labels)
        verdicts.difference(first, [other], "auc", None)


def test_more_seeds_and_their_agreement_narrow_the_interval():
    resampled = np.random.default_rng(8).normal(0.05, 0.01, (500, 1))
    apart = verdicts.estimate([0.0, 0.05, 0.1], resampled, 50, least=-1)
    close = verdicts.estimate([0.049, 0.05, 0.051], resampled, 50, least=-1)
    many = verdicts.estimate([0.0, 0.05, 0.1] * 4, resampled, 50, least=-1)
    width = {
        name: one.high - one.low
        for name, one in locals().items()
        if name in ("apart", "close", "many")
    }
    assert width["close"] < width["many"] < width["apart"]
    assert apart.low < 0 < close.low
    # two degrees of freedom, nearly: the seeds make most of the error
    assert apart.high - apart.value > 3.5 * apart.error
    assert close.detectable == pytest.approx(2.86 * close.error, rel=0.02)


@pytest.mark.parametrize(
    ("low", "high", "claim", "seeds", "said"),
    [
        (0.5, 2.5, (1, 3), 3, "supported"),
        (0.1, 1.5, (1, 3), 3, "supported"),
        (0.1, 0.9, (1, 3), 3, "refuted"),  # a gain, but less than claimed
        (3.5, 5.0, (1, 3), 3, "refuted"),  # more than claimed
        (-4.0, 0.5, (1, 3), 3, "refuted"),
        (-1.0, 2.0, (1, 3), 3, "undecided"),
        (-9.0, 9.0, (1, 3), 3, "undecided"),
        (0.5, 2.5, (1, 3), 1, "undecided"),
        (0.2, 9.0, (0, math.inf), 3, "supported"),
        (-0.2, 9.0, (0, math.inf), 3, "undecided"),
        (-5.0, -0.1, (0, math.inf), 3, "refuted"),
        (-0.9, 2.0, (-1, math.inf), 3, "supported"),
        (-1.1, 2.0, (-1, math.inf), 3, "undecided"),
        (-9.0, -1.1, (-1, math.inf), 3, "refuted"),
        (math.nan, math.nan, (1, 3), 3, "undecided"),
    ],
)
def test_a_verdict_follows_from_interval_and_claim(low, high, claim, seeds, said):
    found = verdicts.Estimate((low + high) / 2, low, high, 1.0, 2.8, seeds)
    assert verdicts.verdict(found, *claim) == said


# The comparison.

MEMBERS = ("plain34", "resnet34", "seresnet34", "mishresnet34", "seresnet34_r4")


def read_table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("task", ["two-class", "findings"])
def test_a_comparison_that_was_interrupted_goes_on_and_ends_as_one_that_was_not(
    script, tmp_path, findings_npz, monkeypatch, task
):
    flags = ["--data", findings_npz, *SMALL, "--epochs", 1, "--task", task, "--seeds", 1, 2]
    members = MEMBERS if task == "two-class" else MEMBERS[:2]
    everything = [*flags, "--networks", *members, "--name", "whole"]
    with monkeypatch.context() as patch:
        stop_at_epoch(patch, 3)
        with pytest.raises(SystemExit) as end:
            script("compare_family.py", *everything)
        assert end.value.code == 130
    assert not (tmp_path / "results/whole/README.md").exists()
    with monkeypatch.context() as patch:
        epochs = stop_at_epoch(patch, None)
        script("compare_family.py", *everything)
        assert len(epochs) == 2 * len(members) - 2  # two runs were through
        script("compare_family.py", *everything)
        assert len(epochs) == 2 * len(members) - 2  # nothing is left to do

    folder = tmp_path / "results/whole"
    measure = "acc" if task == "two-class" else "auc"
    pictures = {f"{measure}_curve.png", "loss_curve.png"}
    pictures |= {"confusion_matrix.png"} if task == "two-class" else set()
    for member in members:
        assert {path.name for path in (folder / member).iterdir()} == pictures
    for path in folder.rglob("*.png"):
        assert path.stat().st_size < 300_000
    for name in ("validation_curves", "gradients", "silent_units"):
        assert (folder / f"{name}.png").exists()
    assert (folder / "se_ablation.png").exists() == (task == "two-class")
    text = (folder / "README.md").read_text()
    assert "all.npz" in text
    table = read_table(folder / "table.csv")
    assert [row["network"] for row in table][:2] == ["Plain-34", "ResNet-34"]
    for row, member in zip(table, members, strict=True):
        runs = [read_metrics(folder / "runs" / f"{member}_seed{seed}") for seed in (1, 2)]
        area = np.mean([run["test"]["auc"] for run in runs])
        assert float(row["test_auc"]) == pytest.approx(area)
        assert float(row["test_auc_low"]) <= area <= float(row["test_auc_high"])
        assert f"{int(row['parameters']):,}" in text
    verdict_rows = read_table(folder / "verdicts.csv")
    for row in verdict_rows:
        assert row["verdict"] in ("supported", "refuted", "undecided")
        if row["hypothesis"].startswith("Plain"):
            assert (row["verdict"], row["note"]) == ("undecided", "run for 1 epochs only")
            assert math.isfinite(float(row["value"]))

    script("compare_family.py", *flags, "--networks", *members[:2], "--name", "part")
    for row, other in zip(table, read_table(tmp_path / "results/part/table.csv"), strict=False):
        times = ("_ms", "seconds")
        for key in (key for key in row if not key.endswith(times)):
            assert row[key] == other[key], key


def test_a_comparison_of_phantoms_lies_with_the_phantoms(script, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "phantom.make_phantom", lambda size: make_phantom(size, train=16, val=8, test=8)
    )
    flags = ("--data", "phantom", *SMALL, "--epochs", 1, "--seeds", 1, "--networks", "resnet34")
    script("compare_family.py", *flags)
    folder = tmp_path / "results/phantom/resnet34_family"
    text = (folder / "README.md").read_text()
    assert "PHANTOM DATA, not ChestMNIST" in text
    assert (folder / "runs/resnet34_seed1/metrics.json").exists()
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["phantom"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--seeds", "-1"), "--seeds"),
        (("--seeds", "many"), "--seeds"),
        (("--networks", "resnet50"), "--networks"),
        (("--no-test",), "--no-test"),
        (("--epochs", "0"), "--epochs"),
    ],
)
def test_a_wrong_flag_of_a_comparison_is_one_line_and_status_2(
    script, tmp_path, capsys, flags, words
):
    with pytest.raises(SystemExit) as end:
        script("compare_family.py", *flags)
    assert end.value.code == 2
    message = capsys.readouterr().err.strip()
    assert len(message.splitlines()) == 1
    assert words in message
    assert not list(tmp_path.iterdir())


def test_the_page_says_what_was_done_otherwise_than_the_recipe() -> None:
    named = RECIPES["cosine"]
    told = dataclasses.replace(named, name="x", seed=7, epochs=3, image_size=32)
    assert family_report._changes(told, named) == {}
    changed = dataclasses.replace(told, batch_size=128)
    assert family_report._changes(changed, named) == {"batch_size": 128}
