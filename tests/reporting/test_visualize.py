"""The pictures of a run: their text, their robustness and that they fit on a page."""

import io
import subprocess
import sys
from pathlib import Path

import drawing
import numpy as np
import pytest
from drawing import (
    CONFUSIONS,
    CURVES,
    LONG_TITLE,
    PHANTOM_TITLE,
    PICTURES,
    assert_good_file,
    assert_nothing_clipped,
    make_curve,
    make_history,
    make_predictions,
    notes_of,
    texts,
    title_lines,
)
from matplotlib.colors import to_hex
from PIL import Image

import chestlab.reporting
import visualize
from chestlab.data.splits import CLASS_NAMES
from chestlab.evaluation.metrics import calibration
from chestlab.reporting import (
    comparison_plots,
    evaluation_plots,
    prediction_grids,
    style,
)
from chestlab.reporting.curves import draw_training_curves, running_mean

drawn = drawing.drawn  # the fixture

REPORTING = Path(chestlab.reporting.__file__).parent


@pytest.mark.parametrize("name", PICTURES)
def test_picture_is_small_and_the_same_every_time(name, tmp_path):
    function, arguments, options = PICTURES[name]
    paths = [tmp_path / "first.png", tmp_path / "second.png"]
    for path in paths:
        assert function(*arguments, path, title=PHANTOM_TITLE, **options) is None
    content = paths[0].read_bytes()
    assert content == paths[1].read_bytes()
    assert_good_file(content)
    with Image.open(io.BytesIO(content)) as picture:
        assert 800 <= picture.width <= 1500 and 400 <= picture.height <= 2000
        assert not picture.info.keys() & {"Software", "date"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first.png", "second.png"]


@pytest.mark.parametrize("title", [LONG_TITLE, PHANTOM_TITLE + r" $\frac$" + "W" * 120])
@pytest.mark.parametrize("name", [name for name in PICTURES if name != "large images"])
def test_title_is_complete_and_nothing_is_clipped(name, title, drawn):
    function, arguments, options = PICTURES[name]
    figure = drawn(function, *arguments, title=title, **options)
    lines = title_lines(figure)
    shown = "".join(text.get_text() for text in lines)
    assert "".join(shown.split()).endswith("".join(title.split()))
    assert lines[0].get_weight() == "bold" and lines[0].get_fontsize() == style.HEADING
    phantom = "PHANTOM DATA" in title
    for text in lines:
        assert (to_hex(text.get_color()).upper() == style.VERMILLION) == phantom
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
    accuracy, auc = f"{100 * best['val_accuracy']:.1f} %", f"{best['val_auc']:.3f}"
    heading = f"Validation accuracy {accuracy}, AUC {auc} (single pass, at 0.5) at the best epoch"
    heading += ", 20 of 30"
    assert " ".join(title_lines(figure)[0].get_text().split()) == heading
    shown = [axes.get_title() for axes in figure.axes]
    assert shown == [f"epoch 20: val {v}" for v in (f"{best['val_loss']:.3f}", accuracy, auc)]
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "accuracy at 0.5 (%)", "AUC"]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == [
        *["training", "validation", "90 % goal"],
        *["best epoch, kept", "stage change (epoch 6)"],
    ]
    goal = [line for line in figure.axes[1].lines if set(line.get_ydata()) == {90}]
    assert len(goal) == 1


def test_curves_show_every_epoch_pale_and_the_mean_of_five_strong(drawn):
    history = make_history(20, val_accuracy={1: 0.5, 2: 0.9})
    figure = drawn(draw_training_curves, history, title="run", stage_changes=[11])
    values = [100 * row["val_accuracy"] for row in history]
    of_val = [line for line in figure.axes[1].lines if line.get_color() == style.BLUE]
    pale, strong = sorted(of_val, key=lambda line: line.get_linewidth())
    assert pale.get_ydata().tolist() == values and pale.get_alpha() < 1 < strong.get_linewidth()
    smoothed = strong.get_ydata()
    assert smoothed[0] == values[0] and smoothed[-1] == values[-1]
    assert smoothed[1] == pytest.approx(np.mean(values[:3]))
    assert smoothed[5] == pytest.approx(np.mean(values[3:8]))
    assert smoothed[9] == values[9] and smoothed[10] == values[10]  # the ends of the two stages
    assert "mean of 5 epochs" in notes_of(figure)


def test_a_mean_leaves_out_what_is_not_finite():
    values = np.array([1.0, np.nan, 3.0, 5.0, 7.0])
    expected = [1.0, np.nan, 4.0, 5.0, 7.0]  # of 3, 5 with nan before; of 3, 5, 7; the last alone
    assert running_mean(values, 3).tolist() == pytest.approx(expected, nan_ok=True)


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
    assert f"{len(shown) - wrong} right, {wrong} wrong" in title_lines(figure)[0].get_text()
    note = notes_of(figure)
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
    assert f"validation\nexpected calibration error {error:.3f}" in texts(figure)
    correct = ((probabilities >= threshold) == labels).sum()
    assert texts(figure).count(f"{correct} right, {90 - correct} wrong") == splits
    bars = [bar.get_height() for axes in figure.axes[splits:] for bar in axes.patches]
    assert sum(bars) == 90 * splits  # none falls outside the bins
    assert texts(figure).count(f"threshold {threshold:.3g}") == 1
    assert_nothing_clipped(figure)


def test_names_lose_the_end_that_all_share_and_nothing_else():
    long = ["efficientchestnet_best_data_folds5", "residualchestnet_best_data_folds5"]
    assert comparison_plots._without_common_end(long) == ["efficientchestnet", "residualchestnet"]
    assert comparison_plots._without_common_end(["seed42", "seed123"]) == ["seed42", "seed123"]
    assert comparison_plots._without_common_end(["a_x", "x"]) == ["a_x", "x"]
    assert comparison_plots._without_common_end(["a_x", "a_x"]) == ["a", "a"]


def test_a_seed_of_the_warps_that_is_none_is_refused_in_one_line(capsys):
    with pytest.raises(SystemExit) as stop:
        visualize.main(["augmentation", "--data", "phantom", "--seed", "-1"])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and len(error.splitlines()) == 1
    assert "--seed: '-1' is not an integer from 0 up to " in error


def test_a_picture_of_warps_replaces_no_file_of_another_kind(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("precious")
    with pytest.raises(SystemExit) as stop:
        visualize.main(["augmentation", "--data", "phantom", "--out", str(tmp_path / "notes.txt")])
    assert stop.value.code == 2 and "ends in .png" in capsys.readouterr().err
    assert (tmp_path / "notes.txt").read_text() == "precious"
