"""Which images are taken for negatives."""

import os

import numpy as np
import pytest
from conftest import REAL_DATA

from chestlab.data.inverted import CORRELATION_LIMIT, FRONTAL, correlations
from chestlab.data.phantom import make_phantom


@pytest.fixture(scope="module", params=[28, 64])
def phantoms(request):
    return make_phantom(request.param, train=2, val=2, test=40, seed=7)["test_images"]


def looks_inverted(images, mean=FRONTAL):
    return correlations(images, mean) < CORRELATION_LIMIT


def test_phantoms_are_upright_and_their_negatives_are_not(phantoms):
    assert looks_inverted(phantoms).sum() == 0
    assert looks_inverted(255 - phantoms).sum() == len(phantoms)


def test_an_image_and_its_negative_have_opposite_correlations_whatever_the_exposure(phantoms):
    r = correlations(phantoms)
    assert np.allclose(correlations(255 - phantoms), -r, atol=0.005)  # fields are rounded
    assert np.allclose(correlations(phantoms // 2 + 80), r, atol=0.02)
    assert np.abs(r).max() < 1


def test_it_is_pearsons_correlation_with_the_mean_image_that_is_given():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 28, 28), dtype=np.uint8)
    mean = rng.normal(size=(28, 28))
    expected = [np.corrcoef(image.ravel(), mean.ravel())[0, 1] for image in images]
    assert np.allclose(correlations(images, mean), expected)


def test_an_image_without_contrast_correlates_with_nothing():
    flat = np.full((1, 28, 28), 200, np.uint8)
    assert correlations(flat) == 0 and not looks_inverted(flat)
    assert correlations(flat, np.zeros((28, 28))) == 0


def test_noise_is_hardly_ever_taken_for_a_negative():
    noise = np.random.default_rng(0).integers(0, 256, (500, 28, 28), dtype=np.uint8)
    mean = np.kron(FRONTAL, np.ones((4, 4)))
    assert looks_inverted(noise, mean).mean() < 0.01


@pytest.mark.skipif(not os.environ.get(REAL_DATA), reason=f"no real X-rays: {REAL_DATA} is not set")
def test_of_real_validation_images_few_are_told_wrongly(real_npz):
    with np.load(real_npz) as data:
        images = data["val_images"]
    assert looks_inverted(images).mean() < 0.005
    assert looks_inverted(255 - images).mean() > 0.99
    assert CORRELATION_LIMIT < 0
