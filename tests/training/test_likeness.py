"""The distance to the training images: its value, its limit, and what a checkpoint keeps of it."""

import dataclasses

import numpy as np
import pytest
import torch

from chestlab.data import sources
from chestlab.data.phantom import make_phantom
from chestlab.files.checkpoint import load_checkpoint, save_checkpoint
from chestlab.files.errors import InputError
from chestlab.training import likeness as module
from chestlab.training.inference import load_model
from chestlab.training.likeness import Likeness, doubts
from networks import network_class


@pytest.fixture(scope="module")
def phantoms():
    arrays = make_phantom(28, train=150, val=100, test=100, seed=3)
    return {name: images[:100] for name, images in arrays.items() if name.endswith("_images")}


@pytest.fixture(scope="module")
def fitted(phantoms):
    return Likeness.fit(phantoms["train_images"], phantoms["val_images"])


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def unlike(fitted, images):
    return (fitted.distances(images) > fitted.limit).mean()


def test_the_limit_is_the_99th_percentile_of_the_validation_images(fitted, phantoms):
    assert fitted.limit == np.percentile(fitted.distances(phantoms["val_images"]), 99)
    assert fitted.val_images == 100
    assert unlike(fitted, phantoms["test_images"]) <= 0.1


def test_noise_stripes_gradients_and_turned_images_are_unlike(fitted, phantoms):
    y, x = np.mgrid[0:28, 0:28]
    test = phantoms["test_images"]
    assert unlike(fitted, noise(20, 28, 28)) == 1
    assert unlike(fitted, (noise(20, 28, 28) // 16 + 120).astype(np.uint8)) == 1
    assert unlike(fitted, np.stack([9 * x, 9 * y, 255 - 9 * y]).astype(np.uint8)) == 1
    assert unlike(fitted, np.stack([x // 4 % 2, y // 7 % 2]).astype(np.uint8) * 255) == 1
    assert unlike(fitted, 255 - test) > 0.95
    assert unlike(fitted, np.rot90(test, axes=(1, 2))) > 0.95


def test_the_distance_is_in_standard_deviations_of_the_training_images(fitted, phantoms):
    """The squares of 14 numbers of mean 0 and variance 1 have the sum 14 on average."""
    assert np.mean(fitted.distances(phantoms["train_images"]) ** 2) == pytest.approx(14, abs=0.01)
    assert np.allclose(fitted.components @ fitted.components.T, np.eye(12), atol=1e-5)


def test_the_distance_does_not_depend_on_exposure_contrast_or_neighbours(fitted, phantoms):
    test = phantoms["test_images"]
    distances = fitted.distances(test)
    assert np.allclose(fitted.distances(test // 2 + 60), distances, atol=1.5)
    assert np.allclose(fitted.distances(test[:1]), distances[:1])


def test_larger_images_are_reduced(phantoms):
    large = make_phantom(64, train=60, val=40, test=40, seed=3)
    fitted = Likeness.fit(large["train_images"], large["val_images"])
    assert fitted.mean.shape == (28, 28)
    assert unlike(fitted, large["test_images"]) <= 0.2
    assert unlike(fitted, noise(20, 64, 64)) == 1


def test_too_few_images_describe_nothing_and_of_very_many_a_part_is_used(phantoms, monkeypatch):
    train, val = phantoms["train_images"], phantoms["val_images"]
    assert Likeness.fit(train[: module.LEAST_IMAGES - 1], val) is None
    assert Likeness.fit(train, val[:0]) is None
    monkeypatch.setattr(module, "MOST_IMAGES", 75)
    part = Likeness.fit(train, val)
    assert np.array_equal(
        part.mean, Likeness.fit(train[np.linspace(0, 99, 75).astype(int)], val).mean
    )


def test_training_images_that_are_all_the_same_do_not_break_it():
    same = np.repeat(noise(1, 28, 28), 40, 0)
    fitted = Likeness.fit(same, same[:1] // 2)
    assert np.isfinite(fitted.distances(noise(3, 28, 28, seed=1))).all()
    flat = Likeness.fit(np.full((40, 28, 28), 7, np.uint8), same[:2])
    assert np.isfinite(flat.distances(same)).all()


def test_a_checkpoint_gives_back_the_same_distances(fitted, phantoms, tmp_path):
    save_checkpoint(tmp_path / "x.pth", {"likeness": fitted.state()})
    assert (tmp_path / "x.pth").stat().st_size < 50_000
    again = Likeness.from_state(load_checkpoint(tmp_path / "x.pth", sealed=True)["likeness"])
    test = phantoms["test_images"]
    assert np.array_equal(again.distances(test), fitted.distances(test))
    assert again.limit == fitted.limit


def test_the_sentences_name_distance_limit_and_correlation(fitted, phantoms):
    test = phantoms["test_images"]
    typical = test[fitted.distances(test) <= fitted.limit][:1]
    images = np.concatenate([typical, 255 - typical, noise(1, 28, 28)])
    upright, inverted, random = doubts(images, fitted, "auto")
    assert upright == ()
    (sentence,) = inverted
    assert "looks inverted (correlation -" in sentence and sentence.endswith("--invert yes?")
    distance = fitted.distances(images)[2]
    (sentence,) = random
    assert sentence == (
        f"unlike the training images (distance {distance:.1f}; 99 % of 100 validation images are "
        f"below {fitted.limit:.1f})"
    )
    (sentence,) = doubts(images, fitted, "no")[1]
    assert sentence.startswith("unlike the training images")
    (sentence,) = doubts(images, fitted, "yes")[1]
    assert sentence.startswith("looks inverted now") and sentence.endswith("--invert no?")
    assert [len(found) for found in doubts(images, None, "auto")][:2] == [0, 1]


def test_a_run_keeps_the_statistics_of_its_own_images(run_of_one_epoch):
    folder, data = run_of_one_epoch
    trained = load_model(folder / "trained_models" / "one_best.pth", network_class)
    loaded = sources.load(str(data))
    expected = Likeness.fit(loaded.train.images, loaded.val.images)
    for field in dataclasses.fields(Likeness):
        stored, fresh = (getattr(x, field.name) for x in (trained.likeness, expected))
        assert np.array_equal(stored, fresh), field.name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean": None}, "'mean' is missing or not of shape (28, 28)"),
        ({"mean": torch.zeros(3)}, "'mean' is missing or not of shape (28, 28)"),
        ({"components": "many"}, "'components' is missing"),
        ({"centre": torch.full((14,), torch.nan)}, "'centre' is not finite"),
        ({"spread": torch.zeros(14)}, "'spread' is not positive"),
        ({"limit": float("inf")}, "'limit' or 'val_images'"),
        ({"limit": "far"}, "'limit' or 'val_images'"),
        ({"val_images": None}, "'limit' or 'val_images'"),
        (None, "'mean' is missing"),
    ],
    ids=str,
)
def test_damaged_statistics_are_told_in_one_line(change, message, run_of_one_epoch, tmp_path):
    state = load_checkpoint(run_of_one_epoch[0] / "trained_models" / "one_best.pth", sealed=True)
    state["likeness"] = "nothing" if change is None else {**state["likeness"], **change}
    path = tmp_path / "one_best.pth"
    save_checkpoint(path, state)
    with pytest.raises(InputError) as refused:
        load_model(path, network_class)
    text = str(refused.value)
    assert message in text and "damaged" in text and len(text.splitlines()) == 1


def test_a_checkpoint_of_an_older_version_has_none(run_of_one_epoch, tmp_path):
    state = load_checkpoint(run_of_one_epoch[0] / "trained_models" / "one_best.pth", sealed=True)
    del state["likeness"]
    save_checkpoint(tmp_path / "one_best.pth", state)
    assert load_model(tmp_path / "one_best.pth", network_class).likeness is None
