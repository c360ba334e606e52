"""Degraded images against Pillow's resampling; what is drawn, how often and how much."""

import numpy as np
import pytest
import torch
from PIL import Image

from chestlab.training.augment import to_input
from chestlab.training.degrade import LARGEST_BORDER, LARGEST_NOISE, _resampling, degrade
from chestlab.training.recipe import Recipe

N = 2000


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def grey(shape, value=0.5):
    return torch.full(shape, value)


@pytest.mark.parametrize("left", [28, 24, 20, 14])  # others have pixels equally near
@pytest.mark.parametrize("smooth", [True, False])
def test_resampling_is_pillows(left, smooth):
    pixels = np.random.default_rng(0).integers(0, 256, (28, 28)).astype(np.uint8)
    matrix = _resampling(28, torch.tensor([left / 28]), torch.tensor([smooth]))[0]
    found = matrix @ torch.from_numpy(pixels).float() @ matrix.T
    chosen = Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST
    expected = Image.fromarray(pixels).resize((left, left), chosen).resize((28, 28), chosen)
    rounding = 2 if smooth else 0  # Pillow rounds to whole grey levels twice
    assert np.abs(found.numpy() - np.asarray(expected)).max() <= rounding


def test_how_often_and_how_much():
    """A grey image shows noise and border alone, each in its share of the images."""
    x = degrade(grey((N, 1, 28, 28)), 0.3, generator())
    framed = (x[:, 0, 0] == 0).all(1) | (x[:, 0, -1] == 0).all(1)
    noisy = x[:, 0, 8:20, 8:20].flatten(1).std(1) > 1e-5
    for share in (framed, noisy):
        assert share.float().mean().item() == pytest.approx(0.3, abs=0.04)
    assert (framed & noisy).float().mean().item() == pytest.approx(0.09, abs=0.03)
    widths = (x[:, 0, :, 14] == 0).float()[:, :14].sum(1)
    assert widths.max() == round(LARGEST_BORDER * 28) and (widths[framed] < 4).any()
    sd = x[noisy][:, 0, 8:20, 8:20].flatten(1).std(1)
    assert sd.max() < 1.3 * LARGEST_NOISE and sd.mean().item() == pytest.approx(
        LARGEST_NOISE / 2, rel=0.1
    )


def test_the_share_that_gets_coarser():
    checks = (torch.arange(28)[:, None] + torch.arange(28)) % 2
    x = degrade(checks.float().expand(N, 1, 28, 28), 0.3, generator())
    middle = x[:, 0, 8:20, 8:20]
    distant = (middle - checks[8:20, 8:20]).abs().amax((1, 2)) > 0.5  # more than noise does
    assert distant.float().mean().item() == pytest.approx(0.3, abs=0.04)


def test_images_stay_as_they_are_at_probability_zero_and_differ_from_each_other():
    x = torch.rand(4, 1, 28, 20, generator=generator())
    torch.testing.assert_close(degrade(x, 0.0, generator()), x)
    same = x[:1].expand(64, 1, 28, 20)
    changed = degrade(same, 1.0, generator())
    assert changed.shape == same.shape and changed.min() >= 0 and changed.max() <= 1
    assert len({image.numpy().tobytes() for image in changed}) == 64
    assert torch.equal(changed, degrade(same, 1.0, generator()))


def test_a_degraded_image_is_normalised_by_its_own_grey_levels():
    images = torch.randint(0, 256, (16, 1, 28, 28), dtype=torch.uint8, generator=generator())
    recipe = Recipe(name="r", normalize="per-image", degrade=1.0)
    x = to_input(images, recipe, generator())
    torch.testing.assert_close(x.mean((1, 2, 3)), torch.zeros(16), atol=1e-5, rtol=0)
    assert not torch.equal(x, to_input(images, recipe))
    as_they_are = to_input(images, Recipe(name="r", normalize="per-image"))
    assert torch.equal(to_input(images, recipe), as_they_are)  # in evaluation
