"""Colours, sizes and habits that all figures share."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from chestlab.data.phantom import PHANTOM_MARK
from chestlab.evaluation.tasks import GOAL
from chestlab.files.atomic import atomic_write

GOAL_PERCENT = round(100 * GOAL)

BLUE, ORANGE, GREEN, VERMILLION = "#0072B2", "#E69F00", "#009E73", "#D55E00"

INK, GREY, PALE = "#222222", "#666666", "#E4E4E4"

WIDTH = 8.3  # inches; a code host shows about 830 px, so 10 pt text is about 14 px high there

DPI = 150

SMALL, NORMAL, LARGE = 9, 10.5, 22  # points

MAX_SIDE = 64  # px; larger images are averaged down, which keeps the picture under 300 kB


def short_number(value: float) -> str:
    """Three digits with k, M or G, for the ticks of an axis."""
    for factor, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.999 * factor:
            return f"{value / factor:.3g}{letter}"
    return f"{value:.3g}"


def titled_figure(title: str, body_height: float, width: float = WIDTH) -> Figure:
    """Return an empty figure whose height, in inches, leaves room for the wrapped title."""
    figure = Figure(figsize=(width, body_height), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    set_padding(figure, w_pad=0.1, h_pad=0.1)
    fontsize, weight, color = 11.5, "normal", INK
    if PHANTOM_MARK in title:
        fontsize, weight, color = 12.5, "bold", VERMILLION
    text = wrapped(figure, title, fontsize, weight)
    style = {"fontsize": fontsize, "weight": weight, "color": color, "linespacing": 1.3}
    heading = figure.suptitle(text, parse_math=False, **style)
    figure.set_figheight(body_height + heading.get_window_extent().height / DPI)
    return figure


def set_padding(figure: Figure, **padding: float) -> None:
    """Change paddings of a `titled_figure`; see matplotlib's `ConstrainedLayoutEngine.set`."""
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.set(**padding)


def wrapped(figure: Figure, text: str, fontsize: float, weight: str = "normal") -> str:
    """Break lines so that the drawn text fits the figure, in as few and as even lines as it can."""
    room = 0.95 * figure.get_figwidth() * DPI
    probe = figure.text(0, 0, "", fontsize=fontsize, weight=weight, parse_math=False)
    lines = []
    for line in text.replace(" · ", "\u00a0· ").splitlines():  # no line starts with the dot
        best = None
        for characters in range(min(len(line), 150), 0, -1):
            pieces = textwrap.wrap(line, characters)
            if best is not None and len(pieces) > len(best):
                break
            probe.set_text("\n".join(pieces))
            if best is not None or probe.get_window_extent().width <= room:
                best = pieces
        lines += best or [""]
    probe.remove()
    return "\n".join(lines).replace("\u00a0", " ")


def write_notes(figure: Figure, notes: Sequence[str]) -> None:
    """Print lines at the bottom of a figure, each wrapped; empty ones are left out."""
    text = "\n".join(wrapped(figure, note, SMALL) for note in notes if note)
    figure.supxlabel(text, fontsize=SMALL, color=INK, parse_math=False)


def tidy(axes: Axes, xlabel: str, ylabel: str) -> None:
    """Label the axes, draw a pale grid below the data and leave out the frame's other sides."""
    axes.set_xlabel(xlabel, fontsize=NORMAL)
    axes.set_ylabel(ylabel, fontsize=NORMAL)
    axes.tick_params(labelsize=SMALL + 0.5)
    axes.grid(color=PALE, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def save_figure(figure: Figure, path: Path | str) -> None:
    """Write a PNG of 256 colours by write-then-rename; the same figure gives the same bytes."""
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)  # of a `titled_figure`
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    # 256 colours halve the file; Pillow writes no date or version, so the bytes are reproducible
    picture = Image.fromarray(pixels).quantize(256, dither=Image.Dither.NONE)
    png = io.BytesIO()
    picture.save(png, format="PNG")
    atomic_write(Path(path), png.getvalue())


def reduced(image: np.ndarray) -> np.ndarray:
    """(H, W) averaged down in whole blocks until no side is longer than `MAX_SIDE`."""
    step = math.ceil(max(image.shape) / MAX_SIDE)
    height, width = (side // step for side in image.shape)
    blocks = image[: height * step, : width * step].reshape(height, step, width, step)
    return blocks.mean(axis=(1, 3))


def number(value: float | None, form: str) -> str:
    """The formatted value; ``n/a`` where there is none or it is not finite."""
    return format(value, form) if value is not None and math.isfinite(value) else "n/a"


def percent(part: int, whole: int) -> str:
    """A share in percent; ``n/a`` of nothing."""
    return f"{100 * part / whole:.1f} %" if whole else "n/a"
