"""How the 34-layer family is trained: its scripts, their flags and the reports' recipes."""

import dataclasses
from functools import partial

import pytest
import torch
from small_runs import SMALL, read_metrics
from torch import nn

from chestlab.runs.family import RECIPES, recipes_for
from chestlab.training.layers import parameter_count
from chestlab.training.optimizer import PER_STEP, make_scheduler
from chestlab.training.trainer import Trainer
from resnet_modified import ModifiedResNet34
from resnet_plain import Plain34, ResNet34


def test_plain_and_residual_are_trained_on_the_same_data_in_the_same_order(
    script, tmp_path, phantom_npz
):
    script("resnet_plain.py", "--data", phantom_npz, *SMALL, "--name", "pair", "--lr", 1e-9)
    for name, model in (("pair_plain34", "Plain34"), ("pair_resnet34", "ResNet34")):
        metrics = read_metrics(tmp_path / "results" / name)
        assert metrics["model"] == model
        assert metrics["model_arguments"] == {"width": 8}
        assert (metrics["seed"], metrics["recipe"]["lr"]) == (42, 1e-9)
        assert metrics["recipe_name"] == "cosine"
    assert (tmp_path / "results/pair_plain34_vs_pair_resnet34.png").exists()
    orders = []
    for network in (Plain34, ResNet34):
        data = torch.zeros(20, 1, 28, 28, dtype=torch.uint8), torch.zeros(20)
        recipe = dataclasses.replace(RECIPES["cosine"], image_size=32, amp="off")
        trainer = Trainer(partial(network, width=8), recipe, data, data)
        orders.append(torch.randperm(20, generator=trainer.shuffle))
    assert torch.equal(*orders)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "model", "arguments"),
    [
        ("resnet_se.py", "SEResNet34", {"width": 8, "reduction": 16}),
        ("resnet_mish.py", "MishResNet34", {"width": 8}),
        ("resnet_se_mish.py", "SEMishResNet34", {"width": 8, "reduction": 16}),
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
    arguments = {"order": "post", "reduction": 0, "dropout": 0.3, "activation": "gelu", "width": 8}
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
    [
        ("--activation", "tanh"),
        ("--dropout", "1"),
        ("--order", "both"),
        ("--task", "three-class"),
        ("--width", "7"),
    ],
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
    assert next(iter(RECIPES)) == "cosine"  # the default
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
