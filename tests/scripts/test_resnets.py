"""The 34-layer networks: against torchvision, and against each other with changes off."""

import pytest
import torch
from torch import nn

from chestlab.training.layers import parameter_count
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
    assert network(width=8)(x).shape == (2,)
    assert network(outputs=14, width=8)(x).shape == (2, 14)


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
        kinds = [type(module) for module in network(width=8).modules()]
        assert nn.ReLU not in kinds
        assert kinds.count(nn.Mish) == 33 + 16 * (network is SEMishResNet34)


def test_attention_scales_the_residual_branch_by_what_it_says():
    block = SEResNet34(width=8, reduction=2).layer1[0].eval()
    plain = ResNet34(width=8).layer1[0].eval()
    plain.load_state_dict(
        {k: v for k, v in block.state_dict().items() if not k.startswith("attention")}
    )
    nn.init.zeros_(block.attention.expand.weight)
    nn.init.constant_(block.attention.expand.bias, 100.0)  # a gate that is fully open
    x = torch.rand(2, 8, 8, 8)
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
    off = ModifiedResNet34(width=8, order="post", reduction=0, dropout=0, activation="relu")
    torch.manual_seed(0)
    plain = ResNet34(width=8)
    x = torch.randn(4, 1, 32, 32)
    assert torch.equal(off(x), plain(x))


def test_in_pre_activation_order_the_input_reaches_the_end_of_a_stage_unchanged():
    stage = ModifiedResNet34(width=8).layer1.eval()
    for block in stage:
        nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 8, 8, 8)
    assert torch.equal(stage(x), x)
