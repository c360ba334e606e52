"""The warp against torchvision's, image by image; randomness per image; normalisation."""

import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as reference

from chestlab.training.augment import Warp, affine, augment, to_input
from chestlab.training.recipe import Recipe

RANDOM = Recipe(name="r", rotate=15, translate=0.1, scale=0.1, flip=0.5)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("shape", [(5, 1, 28, 28), (5, 1, 32, 48)])
def test_affine_is_torchvisions_per_image(shape):
    x = torch.rand(shape, generator=generator())
    angles = [0.0, 10.0, -15.0, 33.0, 180.0]
    scales = [1.0, 0.9, 1.1, 1.3, 0.7]
    shifts = [(0, 0), (2, -3), (-1, 4), (3, 3), (0, 5)]  # pixels right and down
    flips = [False, True, False, True, True]
    height, width = shape[-2:]
    warped = affine(
        x,
        torch.tensor(angles),
        torch.tensor([[right / width, down / height] for right, down in shifts]),
        torch.tensor(scales),
        torch.tensor(flips),
    )
    for i in range(len(x)):
        expected = reference.affine(
            x[i], angles[i], list(shifts[i]), scales[i], [0.0, 0.0], InterpolationMode.BILINEAR
        )
        if flips[i]:
            expected = expected.flip(-1)
        torch.testing.assert_close(warped[i], expected, atol=2e-5, rtol=0)


def test_what_comes_from_outside_is_black_before_normalisation():
    x = torch.ones(1, 1, 28, 28)
    shift = torch.tensor([[0.5, 0.0]])
    warped = affine(x, torch.zeros(1), shift, torch.ones(1), torch.tensor([False]))
    assert (warped[..., :13] == 0).all()
    torch.testing.assert_close(warped[..., 15:], torch.ones(1, 1, 28, 13))
    white = torch.full((1, 1, 28, 28), 255, dtype=torch.uint8)
    moved = Recipe(name="r", translate=0.9)
    assert to_input(white, moved, generator()).min() == (0 - 0.5) / 0.5


def test_every_image_of_a_batch_is_moved_differently():
    batch = torch.rand(1, 1, 28, 28, generator=generator()).expand(16, 1, 28, 28)
    moved = augment(batch, RANDOM, generator(1))
    assert len({tuple(image.flatten().tolist()) for image in moved}) == 16


def test_flip_probability_and_flip_only_mirrors():
    image = torch.rand(1, 1, 8, 8, generator=generator())
    batch = image.expand(2000, 1, 8, 8)
    flipped = augment(batch, Recipe(name="r", flip=0.25), generator(1))
    mirrored = (flipped == image.flip(-1)).all((1, 2, 3))
    kept = (flipped == image).all((1, 2, 3))
    assert (mirrored | kept).all()
    assert mirrored.float().mean().item() == pytest.approx(0.25, abs=0.04)


def test_parameters_stay_within_the_recipes_limits(monkeypatch):
    seen = {}

    def spy(x, angle, translate, scale, flip):
        seen.update(angle=angle, translate=translate, scale=scale)
        return x

    monkeypatch.setattr("chestlab.training.augment.affine", spy)
    augment(torch.zeros(4000, 1, 4, 4), RANDOM, generator())
    for name, centre, limit in (("angle", 0, 15), ("translate", 0, 0.1), ("scale", 1, 0.1)):
        offset = (seen[name] - centre).abs()
        assert offset.max() <= limit * 1.0001
        assert offset.max() > 0.99 * limit  # the whole range is used
        assert seen[name].mean().item() == pytest.approx(centre, abs=0.05 * limit)


def test_same_generator_state_same_images_and_none_means_untouched():
    images = torch.randint(0, 256, (8, 1, 28, 28), dtype=torch.uint8, generator=generator())
    assert torch.equal(
        to_input(images, RANDOM, generator(4)), to_input(images, RANDOM, generator(4))
    )
    assert not torch.equal(
        to_input(images, RANDOM, generator(4)), to_input(images, RANDOM, generator(5))
    )
    plain = to_input(images, RANDOM)
    torch.testing.assert_close(plain, (images / 255 - 0.5) / 0.5)


def test_per_image_standardisation_and_constant_images():
    images = 2 * torch.randint(0, 64, (4, 1, 9, 9), dtype=torch.uint8, generator=generator())
    recipe = Recipe(name="r", normalize="per-image")
    y = to_input(images, recipe)
    torch.testing.assert_close(y.mean((1, 2, 3)), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.std((1, 2, 3), correction=0), torch.ones(4), atol=1e-4, rtol=0)
    # Exposure and contrast no longer matter, which is what it is for.
    torch.testing.assert_close(to_input(images // 2 + 50, recipe), y, atol=1e-4, rtol=0)
    assert (to_input(torch.full((1, 1, 9, 9), 178, dtype=torch.uint8), recipe).abs() < 0.2).all()


def test_the_black_border_of_a_warp_does_not_change_the_normalisation_of_an_image():
    """Otherwise the network is trained on other grey values than it is evaluated on."""
    recipe = Recipe(name="r", normalize="per-image", translate=0.2, rotate=20)
    images = torch.randint(30, 256, (8, 1, 20, 20), dtype=torch.uint8, generator=generator())
    plain = to_input(images, recipe)
    right = Warp(torch.zeros(1), torch.tensor([[0.25, 0.0]]), torch.ones(1), torch.tensor([False]))
    moved = to_input(images, recipe, warp=right)
    torch.testing.assert_close(moved[..., 5:], plain[..., :-5], atol=1e-5, rtol=0)
    mean, std = images.float().mean((1, 2, 3)), images.float().std((1, 2, 3), correction=0)
    black = (-mean / std)[:, None, None, None].expand(8, 1, 20, 5)
    torch.testing.assert_close(moved[..., :5], black, atol=1e-3, rtol=0)
    augmented = to_input(images, recipe, generator())
    torch.testing.assert_close(augmented.amin((1, 2, 3)), -mean / std, atol=1e-3, rtol=0)


def test_the_border_of_a_constant_image_stays_moderate():
    recipe = Recipe(name="r", normalize="per-image", translate=0.5)
    images = torch.full((8, 1, 20, 20), 200, dtype=torch.uint8)
    assert 1 < to_input(images, recipe, generator()).abs().max() < 256


@pytest.mark.parametrize("side", [16, 28, 64])
def test_resizing_keeps_a_flat_image_flat_and_has_the_wanted_side(side):
    images = torch.full((2, 1, 28, 28), 100, dtype=torch.uint8)
    x = to_input(images, Recipe(name="r", image_size=side))
    assert x.shape == (2, 1, side, side)
    torch.testing.assert_close(x, torch.full_like(x, (100 / 255 - 0.5) / 0.5))
