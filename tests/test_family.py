"""The 34-layer family: networks against torchvision, scripts, comparison, findings, verdicts."""

import dataclasses
import json
import runpy
import sys
from functools import partial

import pytest
import torch
from conftest import ROOT
from torch import nn

from engine import PER_STEP, Trainer, make_scheduler, parameter_count
from family import RECIPES, recipes_for
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
