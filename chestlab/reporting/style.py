"""Colours, sizes and habits that all figures share.

A figure is white and opaque, so that it reads the same on a dark page. From the top: a heading that
says what is seen, the lines that say whose it is and on which data, the panels, the legend, and
notes in small type. No text is smaller than `SMALL`, which is 10 px high when a picture is shown at
half its size.
"""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.transforms import ScaledTranslation
from PIL import Image

from chestlab.data.phantom import PHANTOM_MARK
from chestlab.evaluation.tasks import GOAL
from chestlab.files.atomic import atomic_write

GOAL_PERCENT = round(100 * GOAL)

# Okabe and Ito's palette (https://jfly.uni-koeln.de/color/), told apart with any colour vision.
BLUE, ORANGE, GREEN, VERMILLION = "#0072B2", "#E69F00", "#009E73", "#D55E00"

PURPLE = "#CC79A7"

INK, GREY, PALE = "#222222", "#666666", "#E4E4E4"

WIDTH = 8.3  # inches; a code host shows about 830 px, so 10 pt text is about 14 px high there

DPI = 150

SMALL, NORMAL, HEADING, LARGE = 9.5, 10.5, 13, 22  # points

MAX_BYTES = 300_000  # of a picture

MAX_SIDE = 64  # px; larger images are averaged down, which keeps the picture under `MAX_BYTES`

NO_BREAK = "\u00a0"  # space at which no line ends

MARGIN = 0.12  # inches between a text and the edge of the figure


def titled_figure(title: str, body_height: float, width: float = WIDTH) -> Figure:
    """An empty figure that leaves ``body_height`` inches below its title.

    Args:
        title: its first line is the heading, which says what is seen; the others say of what
            network and data. All are wrapped to the width.
        body_height: of the panels, in inches; title, notes and legend are added to it.
        width: in inches.
    """
    figure = Figure(figsize=(width, body_height), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    set_padding(figure, w_pad=0.1, h_pad=0.1)
    phantom = PHANTOM_MARK in title
    color = VERMILLION if phantom else INK
    heading, _, rest = title.partition("\n")
    used = MARGIN
    for text, fontsize, weight in (
        (heading, HEADING, "bold"),
        (rest, NORMAL, "bold" if phantom else "normal"),
    ):
        if text:
            style = {"fontsize": fontsize, "weight": weight, "color": color, "linespacing": 1.3}
            used += 0.05 + _write(figure, text, used, style)
    _reserve(figure, top=used)
    return figure


def set_padding(figure: Figure, **padding: Any) -> None:
    """Change paddings of a `titled_figure`; see matplotlib's `ConstrainedLayoutEngine.set`."""
    _layout(figure).set(**padding)


def _layout(figure: Figure) -> ConstrainedLayoutEngine:
    engine = figure.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine)  # of a `titled_figure`
    return engine


def _write(figure: Figure, text: str, down: float, style: dict[str, Any]) -> float:
    """Write wrapped lines ``down`` inches below the top edge; returns their height in inches."""
    place = figure.transFigure + ScaledTranslation(MARGIN, -down, figure.dpi_scale_trans)
    lines = wrapped(figure, text, style["fontsize"], style["weight"])
    written = figure.text(0, 1, lines, transform=place, va="top", parse_math=False, **style)
    return written.get_window_extent().height / DPI


def _reserve(figure: Figure, top: float = 0, bottom: float = 0) -> None:
    """Make a figure higher by bands, in inches, that its panels keep out of."""
    engine = _layout(figure)
    _, low, _, share = engine.get()["rect"]
    height = figure.get_figheight()
    below, panels = height * low + bottom, height * share
    height += top + bottom
    figure.set_figheight(height)
    engine.set(rect=(0, below / height, 1, panels / height))


def finish(
    figure: Figure,
    path: Path | str,
    handles: Sequence[Artist] = (),
    notes: Sequence[str] = (),
    columns: int = 3,
    height: float | None = None,
    all_colors: bool = False,
) -> None:
    """Add legend and notes below the panels, and save.

    Args:
        figure: a `titled_figure` with its panels.
        path: PNG to write; its folder must exist.
        handles: of the legend, which has ``columns`` columns; none: no legend.
        notes: printed in small type at the bottom; empty ones are left out.
        columns: of the legend.
        height: of the whole figure in inches: its panels are stretched to it.
        all_colors: see `save_figure`.
    """
    write_notes(figure, notes)
    if handles:
        _draw_legend(figure, handles, columns)
    if height is not None:
        _fill(figure, height)
    save_figure(figure, path, all_colors)


def _fill(figure: Figure, height: float) -> None:
    engine = _layout(figure)
    _, low, _, share = engine.get()["rect"]
    added = height - figure.get_figheight()
    panels, below = share * figure.get_figheight() + added, low * figure.get_figheight()
    figure.set_figheight(height)
    engine.set(rect=(0, below / height, 1, panels / height))


def wrapped(figure: Figure, text: str, fontsize: float, weight: str = "normal") -> str:
    """Break lines so that the drawn text fits the width of the figure."""
    room = (figure.get_figwidth() - 2.5 * MARGIN) * DPI
    probe = figure.text(0, 0, "", fontsize=fontsize, weight=weight, parse_math=False)
    lines: list[str] = []
    for line in re.sub(" (?=[·%])", NO_BREAK, text).splitlines():
        pieces = [line]
        measured = None
        for characters in range(min(len(line), 200), 0, -1):
            pieces = textwrap.wrap(line, characters, break_on_hyphens=False)
            if pieces == measured:  # breaks at the same words as before
                continue
            measured = pieces
            probe.set_text("\n".join(pieces))
            if probe.get_window_extent().width <= room:
                break
        lines += pieces
    probe.remove()
    return "\n".join(lines).replace(NO_BREAK, " ")


def write_notes(figure: Figure, notes: Sequence[str]) -> None:
    """Print notes in small grey type at the bottom, each wrapped; empty ones are left out."""
    text = "\n".join(wrapped(figure, note, SMALL) for note in notes if note)
    if not text:
        return
    place = figure.transFigure + ScaledTranslation(MARGIN, MARGIN, figure.dpi_scale_trans)
    style: dict[str, Any] = {"fontsize": SMALL, "color": GREY, "linespacing": 1.25}
    written = figure.text(0, 0, text, transform=place, va="bottom", parse_math=False, **style)
    _reserve(figure, bottom=written.get_window_extent().height / DPI + 1.6 * MARGIN)


def _draw_legend(figure: Figure, handles: Sequence[Artist], columns: int) -> None:
    """Put the legend below the panels and above the notes, in as many columns as fit."""
    bottom = max(_layout(figure).get()["rect"][1] * figure.get_figheight(), MARGIN / 2)
    place = figure.transFigure + ScaledTranslation(0, bottom, figure.dpi_scale_trans)
    style: dict[str, Any] = {"handlelength": 2.8, "fontsize": SMALL + 0.5, "frameon": False}
    for fewer in range(columns, 0, -1):
        legend = figure.legend(
            handles=list(handles),
            loc="lower center",
            bbox_to_anchor=(0.5, 0),
            bbox_transform=place,
            borderaxespad=0,
            ncols=fewer,
            **style,
        )
        box = legend.get_window_extent()
        if box.width <= (figure.get_figwidth() - 2 * MARGIN) * DPI or fewer == 1:
            break
        legend.remove()
    _reserve(figure, bottom=box.height / DPI + MARGIN / 2)


def tidy(axes: Axes, xlabel: str, ylabel: str) -> None:
    """Label the axes, draw a pale grid below the data and leave out the frame's other sides."""
    axes.set_xlabel(xlabel, fontsize=NORMAL)
    axes.set_ylabel(ylabel, fontsize=NORMAL)
    axes.tick_params(labelsize=SMALL)
    axes.grid(color=PALE, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def save_figure(figure: Figure, path: Path | str, all_colors: bool = False) -> None:
    """Write a PNG by write-then-rename; the same figure gives the same bytes.

    Args:
        figure: a `titled_figure`.
        path: of the PNG; its folder must exist.
        all_colors: keep all colours, if the file stays below `MAX_BYTES`; else there are 256, which
            halve the file but draw a colour map in steps, or as many as keep it below.
    """
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)  # of a `titled_figure`
    canvas.draw()
    # without transparency: a dark page would shine through
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
    png = _encoded(picture) if all_colors else b""
    for colors in (256, 64, 16):
        if 0 < len(png) < MAX_BYTES:
            break
        png = _encoded(picture.quantize(colors, dither=Image.Dither.NONE))
    atomic_write(Path(path), png)


def _encoded(picture: Image.Image) -> bytes:
    """A PNG; Pillow writes no date or version, so the bytes are reproducible."""
    png = io.BytesIO()
    picture.save(png, format="PNG", optimize=picture.mode == "RGB")
    return png.getvalue()


def reduced(image: np.ndarray) -> np.ndarray:
    """(H, W) averaged down in whole blocks until no side is longer than `MAX_SIDE`."""
    step = math.ceil(max(image.shape) / MAX_SIDE)
    height, width = (side // step for side in image.shape)
    blocks = image[: height * step, : width * step].reshape(height, step, width, step)
    return blocks.mean(axis=(1, 3))
