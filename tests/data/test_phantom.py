import numpy as np
import pytest
from conftest import run_script
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from chestlab.data import phantom
from chestlab.files.errors import InputError

PROGRAM = "-m chestlab.data.phantom"
SMALL = {"size": 28, "train": 30, "val": 2, "test": 10}


@pytest.fixture(scope="module")
def default() -> dict[str, np.ndarray]:
    return phantom.make_phantom()


def two_classes(data, split):
    """Images (N, H, W) and targets (N,), 1 for pneumothorax, of the single-label images."""
    labels = data[f"{split}_labels"]
    keep = (labels.sum(1) == 1) & labels[:, [1, 7]].any(1)
    return data[f"{split}_images"][keep], labels[keep, 7]


def parameters(label, count):
    labels = np.zeros((count, 14), np.uint8)
    labels[:, label] = 1
    return phantom.sample_parameters(labels, [np.random.default_rng(i) for i in range(count)])


def test_default_has_the_layout_and_the_official_counts(default):
    assert str(default["phantom"]) == "PHANTOM DATA, not ChestMNIST"
    assert default["phantom"].shape == () and default["phantom"].dtype.kind == "U"
    for split, counts in {"train": (754, 1552), "val": (97, 208), "test": (243, 439)}.items():
        images, labels = default[f"{split}_images"], default[f"{split}_labels"]
        assert images.shape == (len(labels), 28, 28) and labels.shape[1] == 14
        assert images.dtype == labels.dtype == np.uint8 and set(np.unique(labels)) == {0, 1}
        assert images.flags.c_contiguous
        target = two_classes(default, split)[1]
        assert ((target == 0).sum(), (target == 1).sum()) == counts
        others = len(labels) - sum(counts)
        assert 0.09 < others / sum(counts) < 0.11
        several = labels.sum(1) > 1
        assert (several & (labels[:, 1] == 1)).any() and (several & (labels[:, 7] == 1)).any()
        assert (labels.sum(1) == 0).sum() >= others // 3
        assert 0.1 < target[: len(target) // 4].mean() < 0.9  # shuffled


def test_images_use_the_grey_range_and_differ(default):
    images = default["train_images"].astype(np.float32)
    assert 90 < images.mean() < 160 and images.std() > 40
    assert images.std((1, 2)).min() > 15
    assert len(np.unique(default["train_images"].reshape(len(images), -1), axis=0)) == len(images)


def test_same_seed_same_arrays_and_another_seed_others():
    first, again = phantom.make_phantom(**SMALL, seed=3), phantom.make_phantom(**SMALL, seed=3)
    other = phantom.make_phantom(**SMALL, seed=4)
    assert first.keys() == again.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])
    for split in ("train", "val", "test"):
        assert (first[f"{split}_images"] != other[f"{split}_images"]).any()


def test_an_image_does_not_depend_on_the_counts():
    few, many = phantom.make_phantom(**SMALL), phantom.make_phantom(**(SMALL | {"train": 60}))
    pixels = {image.tobytes() for image in many["train_images"]}
    assert all(image.tobytes() in pixels for image in few["train_images"])
    np.testing.assert_array_equal(few["test_images"], many["test_images"])


@pytest.mark.parametrize("size", [16, 33, 128, 130])
def test_sizes(size):
    data = phantom.make_phantom(size, 2, 3, 2)
    assert data["val_images"].shape == (6, size, size)
    for split in ("train", "val", "test"):
        assert set(two_classes(data, split)[1]) == {0, 1}


def test_heart_is_wider_than_half_the_thorax_with_cardiomegaly_alone():
    enlarged, normal = parameters(1, 500).ratio, parameters(7, 500).ratio
    assert enlarged.min() > 0.5 and np.median(enlarged) > 0.54
    assert np.median(normal) < 0.48 and 0.5 < normal.max() < 0.56  # the two overlap


def test_cardiothoracic_ratio_is_seen_in_the_image():
    p = parameters(7, 20)
    p.tilt, p.scale = p.tilt * 0, p.scale * 0 + 1
    p.ratio = np.full_like(p.ratio, 0.40)
    narrow = phantom.render(p, 128)
    p.ratio = np.full_like(p.ratio, 0.60)
    change = phantom.render(p, 128) - narrow
    brighter = (change > change.max((1, 2), keepdims=True) / 2).any(1)  # in these columns
    width = 128 - brighter.argmax(1) - brighter[:, ::-1].argmax(1)
    assert np.median(width * 2 / 128 / (2 * p.thorax.ravel())) == pytest.approx(0.60, abs=0.03)


@pytest.mark.parametrize("size, gap", [(28, 0.3), (64, 0.1)])
def test_pneumothorax_darkens_the_lung_edge_on_its_own_side(size, gap):
    p = parameters(1, 40)
    before = phantom.render(p, size)
    p.gap = np.full_like(p.gap, gap)
    darker = (before - phantom.render(p, size)).clip(0)
    position = (darker * np.arange(size)).sum((1, 2)) / darker.sum((1, 2)) * 2 / size - 1
    on_the_left = position > p.shift_u.ravel()
    assert (darker.max((1, 2)) > 3).all()
    assert (on_the_left == (p.side.ravel() > 0)).mean() > 0.9


def test_a_linear_model_on_pixels_sees_little(default):
    (train, target), (test, truth) = two_classes(default, "train"), two_classes(default, "test")
    scaler = StandardScaler().fit(train.reshape(len(train), -1))
    flat = [scaler.transform(x.reshape(len(x), -1)) for x in (train, test)]
    model = LogisticRegression(C=0.01, max_iter=300).fit(flat[0], target)
    assert 0.6 < roc_auc_score(truth, model.decision_function(flat[1])) < 0.82


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 15},
        {"size": 1025},
        {"size": 28.0},
        {"train": 1},
        {"val": 0},
        {"test": -5},
        {"seed": -1},
        {"train": True},
        {"train": 10**12},
    ],
)
def test_wrong_values_are_refused(wrong):
    with pytest.raises(InputError, match=r"^[^\n]+$"):
        phantom.make_phantom(**wrong)


def test_command_line_writes_the_file(tmp_path):
    out = tmp_path / "p.npz"
    counts = "--train", 30, "--val", 2, "--test", 10
    done = run_script(PROGRAM, out, *counts, "--seed", 3, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1 and phantom.PHANTOM_MARK in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["p.npz"]
    expected = phantom.make_phantom(**SMALL, seed=3)
    with np.load(out) as data:
        assert set(data.files) == set(expected)
        for name in data.files:
            np.testing.assert_array_equal(data[name], expected[name])


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["p.npz", "--size", "8"],
        ["p.npz", "--size", "big"],
        ["p.npz", "--train", "1"],
        ["p.npz", "--train", "9" * 30],
        ["p.npz", "--seed", "-1"],
        ["p.npz", "--colour", "red\nblue"],
        ["missing/p.npz"],
        ["."],
        ["n" * 300],
    ],
)
def test_command_line_refuses_in_one_line(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    try:
        status = phantom.main(arguments)
    except SystemExit as end:
        status = end.code
    printed = capsys.readouterr()
    assert status == 2 and printed.out == ""
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_phantom_replaces_a_phantom_but_never_other_data(tmp_path, capsys):
    out = tmp_path / "p.npz"
    few = ["--train", "2", "--val", "2", "--test", "2"]
    assert phantom.main([str(out), *few]) == phantom.main([str(out), *few, "--seed", "1"]) == 0
    np.savez(out, train_images=np.zeros((2, 28, 28), np.uint8))
    before = out.read_bytes()
    assert phantom.main([str(out), *few]) == 2
    assert out.read_bytes() == before and capsys.readouterr().err.count("\n") == 1
