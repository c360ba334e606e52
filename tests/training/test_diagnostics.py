"""Gradient norms and silent units of a network."""

import pytest
import torch
from torch import nn

from chestlab.training.diagnostics import gradient_norms, silent_units
from chestlab.training.recipe import Recipe
from resnet_mish import MishResNet34
from resnet_plain import ResNet34


def test_gradient_norms_are_those_of_the_loss_and_leave_the_network_alone():
    torch.manual_seed(0)
    model = ResNet34(width=8)
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
