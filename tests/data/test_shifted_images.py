"""Made-up shifts of pictures: what each does to known images."""

import numpy as np
import pytest

from chestlab.data.shifts import LETTERS, SHIFTS, shifted

FLAT = np.full((2, 28, 28), 100, np.uint8)
LEAVE_FLAT = {
    name
    for name, (kind, _) in SHIFTS.items()
    if kind in ("resample", "blur", "sharpen", "jpeg", "tilt")
}


@pytest.fixture
def images():
    """Smooth images of full range."""
    y, x = np.mgrid[:28, :28] / 27
    planes = np.stack([x, y, (x + y) / 2, (1 - x + y) / 2])
    return np.rint(255 * planes).astype(np.uint8)


@pytest.mark.parametrize("name", SHIFTS)
@pytest.mark.parametrize("size", [28, 32, 64])
def test_a_shift_changes_images_repeatably_and_leaves_its_input(name, size):
    images = np.random.default_rng(1).integers(0, 256, (6, size, size), dtype=np.uint8)
    before = images.copy()
    result = shifted(images, name)
    assert result.shape == images.shape and result.dtype == np.uint8
    assert np.array_equal(images, before) and not np.array_equal(result, images)
    assert np.array_equal(shifted(images, name), result)
    assert (name in ("noise", "tilt_2", "tilt_4")) == (
        not np.array_equal(shifted(images, name, seed=3), result)
    )


@pytest.mark.parametrize("name", sorted(LEAVE_FLAT))
def test_what_moves_or_mixes_pixels_leaves_an_even_image(name):
    rounding = 3 if name.startswith("jpeg") else 0  # of a block's mean, by the quality
    assert np.abs(shifted(FLAT, name).astype(int) - 100).max() <= rounding


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("gamma_07", 255 * (100 / 255) ** 0.7),
        ("gamma_14", 255 * (100 / 255) ** 1.4),
        ("contrast_07", 127.5 - 0.7 * 27.5),
        ("contrast_13", 127.5 - 1.3 * 27.5),
        ("darker", 60),
        ("brighter", 140),
        ("inverted", 155),
    ],
)
def test_grey_levels(name, value):
    assert np.abs(shifted(FLAT, name) - value).max() <= 0.5


def test_brightness_ends_at_black_and_white(images):
    assert np.array_equal(shifted(images, "darker"), np.maximum(images.astype(int) - 40, 0))
    assert np.array_equal(shifted(images, "brighter"), np.minimum(images.astype(int) + 40, 255))


def test_windowing_fills_the_range_of_each_image(images):
    dull = 60 + images // 4
    result = shifted(dull, "window")
    assert (result.min((1, 2)) == 0).all() and (result.max((1, 2)) == 255).all()
    assert np.array_equal(result[:2], shifted(dull[:2], "window"))


def test_borders_are_black_and_of_the_width_told(images):
    bright = np.maximum(images, 1)
    for name, width, size in (("border_2", 2, 28), ("border_4", 4, 28), ("border_2", 4, 56)):
        picture = bright.repeat(size // 28, 1).repeat(size // 28, 2)
        result = shifted(picture, name)
        inside = np.zeros((size, size), bool)
        inside[width:-width, width:-width] = True
        assert not result[:, ~inside].any()
        assert np.array_equal(result[:, inside], picture[:, inside])


@pytest.mark.parametrize(("name", "left"), [("letter_l", 23), ("letter_r", 1)])
def test_letters_are_in_the_upper_corner_of_their_side(name, left):
    result = shifted(FLAT, name)
    shape = np.array([[c == "#" for c in row] for row in LETTERS[name[-1].upper()][0]])
    assert np.array_equal(result[0, 1:6, left : left + 4] == 255, shape)
    changed = result != FLAT
    assert changed[0].sum() == shape.sum() and (result[changed] == 255).all()


def test_half_of_the_images_is_tilted_to_each_side_by_the_angle_told():
    x = np.arange(64) - 31.5
    ramp = np.rint(127.5 + 3 * x[None, None] + np.zeros((40, 64, 1))).astype(np.uint8)
    for name, degrees in (("tilt_2", 2), ("tilt_4", 4)):
        middle = shifted(ramp, name)[:, 20:44, 20:44].astype(float)
        slope = (middle[:, -1] - middle[:, 0]).mean(-1) / 23 / 3
        assert np.abs(slope) == pytest.approx(
            np.sin(np.radians(degrees)), abs=0.016
        )  # grey levels are whole
        assert 10 <= (slope > 0).sum() <= 30


def test_noise_has_its_standard_deviation():
    change = shifted(np.full((20, 28, 28), 128, np.uint8), "noise").astype(float) - 128
    assert change.std() == pytest.approx(10, rel=0.03) and abs(change.mean()) < 0.3


def test_blur_smooths_sharpening_adds_and_a_smaller_side_loses_more():
    images = np.random.default_rng(2).integers(60, 190, (8, 28, 28), dtype=np.uint8)
    detail = {
        name: np.diff(shifted(images, name).astype(float), axis=2).std()
        for name in ("blur_half", "blur_one", "sharpen", "bilinear_20", "bilinear_14")
    }
    own = np.diff(images.astype(float), axis=2).std()
    assert detail["blur_one"] < detail["blur_half"] < own < detail["sharpen"]
    assert detail["bilinear_14"] < detail["bilinear_20"] < own


def test_equalizing_makes_dark_and_bright_pixels_equally_many(images):
    dark = (images.astype(int) ** 2 // 255).astype(np.uint8)
    assert np.median(dark[0]) < 80
    assert np.median(shifted(dark, "equalized")[0]) == pytest.approx(128, abs=12)
