"""The page on inverted images and on images that are no X-rays: that it measures what it says."""

import re

import numpy as np
import pytest

from benchmarks import odd_images, unlike
from chestlab.data.phantom import make_phantom


def test_the_page_is_written_with_every_kind_and_counts_of_the_files_images(phantom_npz, tmp_path):
    unlike.main([str(phantom_npz), "--out", str(tmp_path / "page.md")])
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    with np.load(phantom_npz) as arrays:
        number = len(arrays["test_images"])
    rows = re.findall(rf"below -0.1: the rule \| 0 of {number} .* \| 0 of {number} ", page)
    assert len(rows) == 1
    assert re.search(r"\| noise, uniform \| 60 \| 100% \| - \|", page)
    assert re.search(r"\| CT slices, drawn \| 60 \| \d+% \| - \|", page)
    assert "None" not in page and "{{" not in page


def test_border_and_corners_are_measured_where_they_are():
    image = np.zeros((1, 24, 24), np.uint8)
    image[:, 3:-3, 3:-3] = 100
    score = unlike.border_minus_centre(image)
    assert score == pytest.approx(100 / (image.std() + 1))
    assert unlike.upper_corners(image) > 0 > unlike.upper_corners(255 - image)


def test_kinds_are_of_the_size_that_is_asked_for():
    xrays = make_phantom(32, train=2, val=2, test=4)["test_images"]
    for kinds in (odd_images.changed_xrays(xrays), odd_images.usable_xrays(xrays)):
        for name, images in kinds:
            assert images.shape == (len(xrays), 32, 32) and images.dtype == np.uint8, name
