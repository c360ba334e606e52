"""What the tests of pictures share: things to draw, and a look at what was drawn."""

import io
from itertools import pairwise

import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from chestlab.reporting import comparison_plots, evaluation_plots, prediction_grids, style
from chestlab.reporting.curves import draw_training_curves

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
            "name": f"run_{number}",
            "kind": list(comparison_plots.KINDS)[number % 3],
            "accuracy": 0.8 + 0.01 * (number % 5),
            "interval": (0.7, 0.9),
            "auc": None if number == 3 else 0.75 + 0.01 * number % 0.2,
            "auc_interval": None if number == 3 else (0.7, 0.97),
            "parameters": None if number == 2 else 10 ** rng.uniform(3, 7),
        }
        for number in range(1, count + 1)
    ]


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Return a function that calls a draw function and gives back the figure it would save."""

    def draw(function, *arguments, **options):
        figures = []
        monkeypatch.setattr(style, "save_figure", lambda figure, *_: figures.append(figure))
        function(*arguments, tmp_path / "unused.png", **options)
        figures[0].canvas.draw()
        return figures[0]

    return draw


def texts(figure):
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def title_lines(figure):
    """The texts of the title: the heading, and what stands below it."""
    return [text for text in figure.texts if text.get_va() == "top"]


def notes_of(figure):
    """The text at the bottom of a figure; empty where there is none."""
    return "".join(text.get_text() for text in figure.texts if text.get_va() == "bottom")


def assert_good_file(content):
    """A PNG is small, opaque, and white at its corners, so that it reads on a dark page, too."""
    assert len(content) < style.MAX_BYTES == 300_000
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.mode in ("P", "RGB") and "transparency" not in picture.info
        pixels = np.asarray(picture.convert("RGB"))
    assert (pixels[[0, 0, -1, -1], [0, -1, 0, -1]] == 255).all()


def assert_nothing_clipped(figure):
    """Everything is on the page; title, panels, legend and notes do not overlap."""
    page, renderer = figure.bbox, figure.canvas.get_renderer()
    body = [axes.get_tightbbox(renderer) for axes in figure.axes if axes.axison]
    legends = [legend.get_window_extent(renderer) for legend in figure.legends]
    title = [text.get_window_extent(renderer) for text in title_lines(figure)]
    notes = [text.get_window_extent(renderer) for text in figure.texts if text.get_va() == "bottom"]
    for box in [*title, *body, *legends, *notes]:
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= page.x1 and box.y1 <= page.y1
    bands = [band for band in (title, body, legends, notes) if band]
    for above, below in pairwise(bands):
        assert min(box.y0 for box in above) >= max(box.y1 for box in below)


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
