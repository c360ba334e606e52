"""The pictures of a run: their text, their robustness and that they fit on a page."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.text import Text
from PIL import Image

import chestlab.reporting
from chestlab.data.splits import CLASS_NAMES
from chestlab.evaluation.metrics import calibration
from chestlab.reporting import (
    comparison_plots,
    evaluation_plots,
    prediction_grids,
    style,
)
from chestlab.reporting.curves import draw_training_curves

REPORTING = Path(chestlab.reporting.__file__).parent

LONG_TITLE = (
    "efficientchestnet_report_chestmnist_nih_subset_28 · EfficientChestNet · "
    "chestmnist_nih_subset_28.npz (an npz in ChestMNIST's layout) · val n=58, test n=107"
)
PHANTOM_TITLE = "PHANTOM DATA, not ChestMNIST\n" + LONG_TITLE
CREDIT = "Images: a source with a long name, its authors and its licence. " * 4


def make_history(epochs, **changes):
    """Return a plausible history; ``changes`` maps e.g. ``val_loss`` to {epoch: value}."""
    rng = np.random.default_rng(0)
    history = []
    for epoch in range(1, epochs + 1):
        decay, noise = np.exp(-epoch / 15), rng.normal(0, 0.01)
        entry = {
            "epoch": epoch,
            "train_loss": 0.3 + 0.4 * decay,
            "val_loss": 0.4 + 0.3 * decay + noise,
            "train_accuracy": 0.92 - 0.3 * decay,
            "val_accuracy": 0.88 - 0.3 * decay - noise,
            "val_auc": 0.93 - 0.3 * decay,
            "lr": 1e-3,
            "seconds": 1.5,
        }
        for key, values in changes.items():
            entry[key] = values.get(epoch, entry[key])
        history.append(entry)
    return history


def make_predictions(count, side=28):
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, count)
    probabilities = np.clip(0.5 + 0.3 * (2 * labels - 1) + rng.normal(0, 0.35, count), 0, 1)
    images = rng.integers(0, 256, (count, side, side)).astype(np.uint8)
    return images, labels, probabilities, 1000 + np.arange(count)


def make_curve(count, decimals=1):
    _, labels, probabilities, _ = make_predictions(count)
    probabilities = probabilities.round(decimals)
    return {"labels": labels, "probabilities": probabilities, "auc": 0.9, "auc_ci95": [0.8, 0.97]}


def make_runs(count):
    rng = np.random.default_rng(0)
    return [
        {
            "number": number,
            "kind": list(comparison_plots.KINDS)[number % 3],
            "accuracy": 0.8 + 0.01 * (number % 5),
            "interval": (0.7, 0.9),
            "parameters": None if number == 2 else 10 ** rng.uniform(3, 7),
            "seconds": 60.0,
        }
        for number in range(1, count + 1)
    ]


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Return a function that calls a draw function and gives back the figure it would save."""

    def draw(function, *arguments, **options):
        figures = []
        module = sys.modules[function.__module__]
        monkeypatch.setattr(module, "save_figure", lambda figure, path: figures.append(figure))
        function(*arguments, tmp_path / "unused.png", **options)
        figures[0].canvas.draw()
        return figures[0]

    return draw


def texts(figure):
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def assert_nothing_clipped(figure):
    page = figure.bbox
    renderer = figure.canvas.get_renderer()
    body = [axes.get_tightbbox(renderer) for axes in figure.axes if axes.axison]
    body += [legend.get_window_extent(renderer) for legend in figure.legends]
    title = figure._suptitle.get_window_extent(renderer)
    for box in [title, *body]:
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= page.x1 and box.y1 <= page.y1
    assert title.y0 >= max(box.y1 for box in body)
    if figure._supxlabel is not None:
        note = figure._supxlabel.get_window_extent(renderer)
        assert note.x0 >= 0 and note.y0 >= 0 and note.x1 <= page.x1
        assert note.y1 <= min(box.y0 for box in body)
    if figure.legends:
        legend = figure.legends[0].get_window_extent(renderer)
        assert legend.y1 <= min(axes.get_tightbbox(renderer).y0 for axes in figure.axes)


CONFUSIONS = {
    "validation (as selected)": [[23, 5], [6, 24]],
    "test (held out)": [[40, 11], [9, 47]],
}
CURVES = {"validation (as selected)": make_curve(58), "test (held out)": make_curve(107, 3)}
PICTURES = {
    "curves": (draw_training_curves, [make_history(60)], {"best_epoch": 40}),
    "predictions": (
        prediction_grids.draw_predictions,
        make_predictions(58, side=64),
        {"threshold": 0.4, "credit": CREDIT},
    ),
    "large images": (
        prediction_grids.draw_predictions,
        make_predictions(30, side=224),
        {"threshold": 0.5, "credit": ""},
    ),
    "confusion": (evaluation_plots.draw_confusion_matrix, [CONFUSIONS], {}),
    "roc": (evaluation_plots.draw_roc_curve, [CURVES], {"threshold": 0.4}),
    "calibration": (evaluation_plots.draw_calibration, [CURVES], {"threshold": 0.4}),
    "comparison": (comparison_plots.draw_comparison, [make_runs(12)], {}),
    "mistakes": (
        prediction_grids.draw_mistakes,
        [{f"group {k}": list(zip(*make_predictions(5 - k), strict=True)) for k in range(4)}],
        {"threshold": 0.4, "notes": ["A warning.", "X-rays: somebody"]},
    ),
}


@pytest.mark.parametrize("name", PICTURES)
def test_picture_is_small_and_the_same_every_time(name, tmp_path):
    function, arguments, options = PICTURES[name]
    paths = [tmp_path / "first.png", tmp_path / "second.png"]
    for path in paths:
        assert function(*arguments, path, title=PHANTOM_TITLE, **options) is None
    content = paths[0].read_bytes()
    assert content == paths[1].read_bytes()
    assert len(content) < 300_000
    with Image.open(io.BytesIO(content)) as picture:
        assert 800 <= picture.width <= 1500 and 400 <= picture.height <= 2000
        assert not picture.info.keys() & {"Software", "date"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first.png", "second.png"]


@pytest.mark.parametrize("title", [LONG_TITLE, PHANTOM_TITLE, "W" * 200, r"not math: $\frac$"])
@pytest.mark.parametrize("name", [name for name in PICTURES if name != "large images"])
def test_title_is_complete_and_nothing_is_clipped(name, title, drawn):
    function, arguments, options = PICTURES[name]
    figure = drawn(function, *arguments, title=title, **options)
    shown = figure._suptitle.get_text()
    assert "".join(shown.split()) == "".join(title.split())
    phantom = "PHANTOM DATA" in title
    assert (figure._suptitle.get_weight() == "bold") == phantom
    assert (to_hex(figure._suptitle.get_color()).upper() == style.VERMILLION) == phantom
    assert_nothing_clipped(figure)


def test_importing_does_not_load_pyplot():
    modules = [f"chestlab.reporting.{path.stem}" for path in REPORTING.glob("*.py")]
    code = f"import sys, {', '.join(modules)}; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_training_curves_say_what_they_show(drawn):
    figure = drawn(
        draw_training_curves,
        *[make_history(30)],
        **{"title": "run", "best_epoch": 20, "stage_changes": [6]},
    )
    best = make_history(30)[19]
    assert "90 % goal" in texts(figure)
    assert f"best epoch 20: val loss {best['val_loss']:.3f}" in texts(figure)
    accuracy = f"{100 * best['val_accuracy']:.1f} % at 0.5, AUC {best['val_auc']:.3f}, single pass"
    assert f"best epoch 20: val {accuracy}" in texts(figure)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == [
        *["training", "validation", "validation AUC x 100"],
        *["best epoch", "stage change (epoch 6)"],
    ]


def test_loss_spike_does_not_squash_the_curve(drawn):
    history = make_history(20, val_loss={7: 30.0})
    figure = drawn(draw_training_curves, history, title="run", best_epoch=7)
    assert figure.axes[0].get_ylim()[1] < 1
    assert "loss above the axis (up to 30)" in texts(figure)
    lines = [line for line in figure.axes[0].lines if line.get_marker() == "^"]
    assert [epoch for line in lines for epoch in line.get_xdata()] == [7]
    assert_nothing_clipped(figure)


def test_ordinary_loss_is_never_cut(drawn):
    overfitted = {epoch: 0.4 + 0.05 * epoch for epoch in range(1, 41)}
    history = make_history(40, val_loss=overfitted)
    figure = drawn(draw_training_curves, history, title="run")
    assert figure.axes[0].get_ylim()[1] > max(overfitted.values())
    assert not any("above the axis" in text for text in texts(figure))


def test_single_epoch_has_visible_points(drawn):
    figure = drawn(draw_training_curves, make_history(1), title="run", best_epoch=1)
    drawn_lines = [
        line for axes in figure.axes for line in axes.lines if len(line.get_xdata()) == 1
    ]
    assert len(drawn_lines) >= 5
    assert all(line.get_markersize() >= 5 for line in drawn_lines)
    assert_nothing_clipped(figure)


@pytest.mark.parametrize(
    "history",
    [
        [],
        make_history(1, val_loss={1: float("inf")}, val_auc={1: None}),
        make_history(5, val_loss={2: float("nan"), 5: float("-inf")}, val_auc={3: float("nan")}),
        [{"epoch": 1}, {"epoch": 2}],
        make_history(5, val_loss=dict.fromkeys(range(1, 6), 0.0)),
    ],
    ids=["empty", "inf", "nan", "missing keys", "constant"],
)
def test_unusual_history_is_drawn(history, drawn):
    figure = drawn(
        draw_training_curves,
        *[history],
        **{"title": "run", "best_epoch": 2, "stage_changes": [3, 9]},
    )
    missing = sum(
        not np.isfinite(np.nan if entry.get(key) is None else entry[key])
        for entry in history
        for key in ("train_loss", "val_loss")
    )
    assert (f"losses not finite: {missing}" in texts(figure)) == bool(missing)
    assert_nothing_clipped(figure)


@pytest.mark.parametrize("count", [1, 7, 20, 58])
def test_predictions_state_class_probability_and_errors(count, drawn):
    images, labels, probabilities, indices = make_predictions(count)
    options = {"threshold": 0.3, "title": "run", "credit": "Images: somewhere $x$"}
    arguments = (images, labels, probabilities, indices)
    figure = drawn(prediction_grids.draw_predictions, *arguments, **options)
    shown = [axes for axes in figure.axes if axes.axison]
    assert len(shown) == min(count, 20)
    wrong = 0
    for axes in shown:
        true, predicted, probability, index = axes.get_xlabel().splitlines()
        number = int(index.removeprefix("index ")) - 1000
        positive = probabilities[number] >= 0.3
        assert true == f"true: {CLASS_NAMES[labels[number]]}"
        assert predicted == f"pred: {CLASS_NAMES[int(positive)]}"
        relation = "≥ 0.30" if positive else "< 0.30"
        assert probability == f"p = {probabilities[number]:.2f} {relation}"
        correct = positive == labels[number]
        wrong += not correct
        assert axes.get_title() == ("✓ right" if correct else "✗ WRONG")
        frame = axes.spines["left"]
        color = style.GREEN if correct else style.VERMILLION
        assert to_hex(frame.get_edgecolor()).upper() == color
        assert (frame.get_linestyle() == "-") == correct
    note = figure._supxlabel.get_text()
    assert f"{len(shown) - wrong} right, {wrong} wrong" in note
    assert "probability of pneumothorax" in note.replace("\n", " ") and "0.30" in note
    assert note.endswith("Images: somewhere $x$")
    assert_nothing_clipped(figure)


@pytest.mark.parametrize(
    ("probability", "threshold", "shown"),
    [
        (0.424, 0.38, "p = 0.42 ≥ 0.38"),
        (0.3796, 0.38, "p = 0.3796 < 0.3800"),
        (0.38, 0.38, "p = 0.38 ≥ 0.38"),
        (np.nextafter(0.38, 0), 0.38, "p = 0.3799999999999999"),
        (0.0004, 0.001, "p = 0.000 < 0.001"),
        (1.0, 0.7, "p = 1.00 ≥ 0.70"),
    ],
)
def test_a_probability_is_shown_on_its_side_of_the_threshold(probability, threshold, shown):
    assert prediction_grids.p_text(probability, threshold).startswith(shown)


def test_seed_chooses_the_images(drawn):
    options = {"threshold": 0.5, "title": "run", "credit": ""}

    def shown(seed):
        arguments = make_predictions(200)
        figure = drawn(prediction_grids.draw_predictions, *arguments, seed=seed, **options)
        return [axes.get_xlabel() for axes in figure.axes]

    assert shown(0) == shown(0) != shown(1)


def test_predictions_of_different_lengths_are_refused(tmp_path):
    images, labels, probabilities, indices = make_predictions(5)
    options = {"threshold": 0.5, "title": "run", "credit": ""}
    for arguments in (
        (images, labels[:4], probabilities, indices),
        (images[:0], labels[:0], probabilities[:0], indices[:0]),
    ):
        with pytest.raises(ValueError, match="equal and at least 1"):
            prediction_grids.draw_predictions(*arguments, tmp_path / "no.png", **options)
    assert not list(tmp_path.iterdir())


def test_confusion_matrix_counts_and_rates(drawn):
    figure = drawn(evaluation_plots.draw_confusion_matrix, CONFUSIONS, title="run")
    validation = figure.axes[0]
    assert validation.get_title() == "validation (as selected)"
    cells = [text.get_text() for text in validation.texts]
    assert cells[0::2] == ["23", "5", "6", "24"]
    assert cells[1::2] == [f"{share} % of row" for share in ("82.1", "17.9", "20.0", "80.0")]
    for expected in (
        *("accuracy 81.0 %  (47/58)", "sensitivity 80.0 %  (24/30 pneumothorax)"),
        "specificity 82.1 %  (23/28 cardiomegaly)",
    ):
        assert expected in validation.get_xlabel()
    for labels in (validation.get_xticklabels(), validation.get_yticklabels()):
        assert tuple(label.get_text() for label in labels) == CLASS_NAMES


@pytest.mark.parametrize(
    "confusions",
    [
        {"validation": [[0, 0], [0, 1]]},
        {"validation": [[9, 1], [0, 0]], "test": [[41234, 0], [3, 11234]]},
        {"validation": [[0, 0], [0, 0]]},
    ],
)
def test_unusual_confusion_matrix_is_drawn(confusions, drawn):
    figure = drawn(evaluation_plots.draw_confusion_matrix, confusions, title=LONG_TITLE)
    assert "n/a" in figure.axes[0].get_xlabel()
    assert_nothing_clipped(figure)


def test_roc_operating_points_lie_on_the_curve(drawn):
    figure = drawn(evaluation_plots.draw_roc_curve, CURVES, title="run", threshold=0.4)
    axes = figure.axes[0]
    lines = [set(zip(*line.get_data(), strict=True)) for line in axes.lines[:2]]
    points = [tuple(points.get_offsets()[0]) for points in axes.collections]
    assert len(points) == 4
    for position, point in enumerate(points):
        assert min(np.hypot(*np.subtract(point, other)) for other in lines[position // 2]) < 1e-9
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert "validation (as selected)\nAUC 0.900 (95 % CI 0.800 to 0.970)" in labels[0]
    assert "at 0.5: sens. " in labels[1] and "at 0.4: sens. " in labels[1]
    assert labels[2:] == ["chance (AUC 0.5)", "threshold 0.5", "chosen threshold 0.4"]


@pytest.mark.parametrize("auc", [float("nan"), None])
def test_roc_with_one_class_is_drawn(auc, drawn):
    one_class = {"labels": [1], "probabilities": [0.7], "auc": auc, "auc_ci95": None}
    curves = {"validation": one_class, "test": {**make_curve(9), "auc_ci95": None}}
    figure = drawn(evaluation_plots.draw_roc_curve, curves, title="run", threshold=0.5)
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels[0] == "validation\nno curve: only one class"
    assert labels[1].startswith("test\nAUC 0.900\nat 0.5") and labels[1].count("sens.") == 1
    assert_nothing_clipped(figure)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("splits", [1, 2])
def test_calibration_states_error_and_counts(drawn, splits, threshold):
    rng = np.random.default_rng(0)
    labels, probabilities = rng.integers(0, 2, 90), rng.random(90)
    curve = {"labels": labels, "probabilities": probabilities}
    curves = {name: curve for name in ("validation", "test")[:splits]}
    figure = drawn(evaluation_plots.draw_calibration, curves, title="run", threshold=threshold)
    error = calibration(labels, probabilities)["error"]
    assert f"validation: expected calibration error {error:.3f}" in texts(figure)
    correct = ((probabilities >= threshold) == labels).sum()
    assert texts(figure).count(f"right ({correct})") == splits
    bars = [bar.get_height() for axes in figure.axes[1:] for bar in axes.patches]
    assert sum(bars) == 90 * splits  # none falls outside the bins
    assert texts(figure).count(f"threshold {threshold:.3g}") == splits
    assert not any("confidence" in text for text in texts(figure))
    assert_nothing_clipped(figure)


@pytest.mark.parametrize("count", [1, 2, 12, 40])
def test_comparison_shows_every_run_near_its_place(drawn, count):
    runs = make_runs(count)
    figure = drawn(comparison_plots.draw_comparison, runs, title="runs\nsmall.npz")
    shown = [[text for text in axes.texts if text.get_text().isdigit()] for axes in figure.axes]
    assert [len(numbers) for numbers in shown] == [count - (count >= 2), count]
    for text in shown[0]:
        run = runs[int(text.get_text()) - 1]
        low, high = figure.axes[0].get_xlim()
        moved = abs(text.get_position()[0] - np.log10(run["parameters"])) / (high - low)
        assert moved < 0.1 and text.get_position()[1] == 100 * run["accuracy"]
    assert_nothing_clipped(figure)


def test_points_stand_side_by_side():
    points = np.array([[0.5, 0.5], [0.5, 0.5], [0.5, 0.52], [0.1, 0.5]])
    places = comparison_plots._side_by_side(points, width=0.03, height=0.06)
    assert places[0] == 0.5 and places[3] == 0.1
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert abs(places[a] - places[b]) >= 0.03 - 1e-9


def test_names_lose_the_end_that_all_share_and_nothing_else():
    long = ["efficientchestnet_best_data_folds5", "residualchestnet_best_data_folds5"]
    assert comparison_plots._without_common_end(long) == ["efficientchestnet", "residualchestnet"]
    assert comparison_plots._without_common_end(["seed42", "seed123"]) == ["seed42", "seed123"]
    assert comparison_plots._without_common_end(["a_x", "x"]) == ["a_x", "x"]
    assert comparison_plots._without_common_end(["a_x", "a_x"]) == ["a", "a"]
