"""What makes a picture right: points at their values, readable text, colours that all can tell."""

import dataclasses
import math
import re
from itertools import combinations

import drawing
import numpy as np
import pytest
from drawing import (
    CURVES,
    PICTURES,
    assert_good_file,
    assert_nothing_clipped,
    make_curve,
    make_history,
    make_predictions,
    make_runs,
    texts,
    title_lines,
)
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from PIL import Image

from chestlab.evaluation.metrics import calibration
from chestlab.evaluation.verdicts import Estimate
from chestlab.reporting import (
    comparison_plots,
    evaluation_plots,
    family_page,
    family_plots,
    family_report,
    front_plots,
    gradcam_plots,
    prediction_grids,
    study_plots,
    style,
)
from chestlab.reporting.numbers import readable_number, short_number
from chestlab.reporting.page import Wording

drawn = drawing.drawn  # the fixture


def family_runs(networks, seeds=2, epochs=6):
    """Runs of some networks as `stored_runs.read_run` gives them."""
    runs = {}
    for number, name in enumerate(networks):
        runs[name] = []
        for seed in range(seeds):
            rows = make_history(epochs)
            history = {key: [row[key] + 0.01 * number for row in rows] for key in rows[0]}
            runs[name].append(
                {
                    "history": history,
                    "best_epoch": 3 + seed,
                    "threshold": 0.5,
                    "seed": seed,
                    "recipe": {"image_size": 64},
                    "recipe_name": "cosine",
                    "data": {"source": "small.npz"},
                    "train": {"n": 11831},
                    "val": {"n": 58, "accuracy": 0.7 + 0.02 * number},
                    "test": {"n": 107, "accuracy": 0.65},
                }
            )
    return runs


def estimate(value):
    names = {field.name for field in dataclasses.fields(Estimate)}
    known = {"value": value, "low": value - 0.05, "high": value + 0.05}
    return Estimate(**{name: known.get(name, 0.01) for name in names})


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1, "1"),
        (6.284, "6.28"),
        (53.94, "53.9"),
        (374.2, "374"),
        (999.6, "1,000"),
        (1896.3, "1,896"),
        (25471.6, "25,472"),
        (-25471.6, "-25,472"),
        (38_019_845, "38,019,845"),
        (0.0172, "0.0172"),
        (0.00153, "0.00153"),
        (2.9e-5, "0.000029"),
        (None, "n/a"),
        (float("nan"), "n/a"),
        (float("inf"), "n/a"),
    ],
)
def test_a_number_is_written_without_exponent_and_with_thousands_apart(value, text):
    assert readable_number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.1, "0.1"),
        (10, "10"),
        (999, "999"),
        (999.6, "1k"),
        (1541, "1.54k"),
        (999_600, "1M"),
        (38_019_845, "38M"),
        (1.9e9, "1.9G"),
    ],
)
def test_a_tick_is_short(value, text):
    assert short_number(value) == text


def test_pages_write_numbers_without_exponent_in_either_language():
    million = [Wording(language).number(1900.3, ".3g") for language in ("en", "id")]
    assert million == ["1,900", "1.900"]
    assert Wording("id").number(0.01725, ".2g") == "0,017"
    assert Wording("en").number(25471.6, ".3g") == "25,472"


def points_of(axes):
    """x of every marker by its row, from the artists."""
    return {
        float(line.get_ydata()[0]): float(line.get_xdata()[0])
        for line in axes.lines
        if len(line.get_xdata()) == 1 and line.get_marker() not in ("None", "", None)
    }


@pytest.mark.parametrize("count", [1, 2, 12, 40])
def test_comparison_draws_every_point_at_its_value(drawn, count):
    runs = make_runs(count)
    for run in runs[3:9]:  # several of the same size and accuracy, as on the page of results
        run |= {"parameters": 38_019_845, "accuracy": 0.86}
    figure = drawn(comparison_plots.draw_comparison, runs, title="small.npz · test n = 107")
    keys = {"accuracy": 100, "auc": 1, "parameters": 1}
    for axes, (key, scale) in zip(figure.axes, keys.items(), strict=True):
        expected = {row: scale * run[key] for row, run in enumerate(runs) if run[key] is not None}
        assert points_of(axes) == pytest.approx(expected)
        low, high = axes.get_xlim()
        assert all(low < x < high for x in points_of(axes).values())
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == [f"run_{n}  {n}" for n in range(1, count + 1)]
    assert texts(figure.axes[1]).count("undefined") == (count >= 3)
    assert_nothing_clipped(figure)


def test_comparison_says_that_no_run_reaches_the_goal(drawn):
    runs = make_runs(6)

    def heading():
        figure = drawn(comparison_plots.draw_comparison, runs, title="x")
        return " ".join(title_lines(figure)[0].get_text().split())

    start = "Test accuracy: "
    missed = "no run reaches 90 %; the highest is 84.0 %, of run_4 (70.0 to 90.0)"
    assert heading() == start + missed
    runs[1]["accuracy"] = runs[3]["accuracy"]
    assert "the highest is 84.0 %, of run_2 (70.0 to 90.0) and run_4 (70.0 to 90.0)" in heading()
    runs[1]["accuracy"] = 0.9
    assert heading() == start + "the highest is 90.0 %, of run_2 (70.0 to 90.0)"


def test_reliability_diagram_has_counts_and_intervals_of_each_bin(drawn):
    curve = make_curve(107, 3)
    figure = drawn(
        evaluation_plots.draw_calibration, {"test (held out)": curve}, title="run", threshold=0.4
    )
    diagram, histogram = figure.axes
    bins = calibration(curve["labels"], curve["probabilities"])["bins"]
    (container,) = diagram.containers
    assert container.lines[0].get_xdata() == pytest.approx([b["probability"] for b in bins])
    assert container.lines[0].get_ydata() == pytest.approx([b["share"] for b in bins])
    bars = container.lines[2][0].get_segments()
    for of_bin, ((_, low), (_, high)) in zip(bins, bars, strict=True):
        expected = evaluation_plots.share_interval(of_bin["share"], of_bin["n"])
        assert (low, high) == pytest.approx(expected)
    assert [int(text.get_text()) for text in histogram.texts] == [b["n"] for b in bins]


def test_interval_of_a_share_is_wilsons():
    # Newcombe, Statistics in Medicine 17:857 (1998), table I
    for right, n, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605)):
        assert evaluation_plots.share_interval(right / n, n) == pytest.approx((low, high), abs=1e-4)
    assert evaluation_plots.share_interval(0, 20) == pytest.approx((0, 0.1611), abs=1e-4)


@pytest.mark.parametrize("skewed", [False, True])
def test_legend_and_numbers_cover_no_bar(drawn, skewed):
    curves = {name: dict(curve) for name, curve in CURVES.items()}
    if skewed:  # all in one bin, which is then as high as the panel
        for curve in curves.values():
            curve["probabilities"] = np.full(len(curve["labels"]), 0.55)
    figure = drawn(evaluation_plots.draw_calibration, curves, title="run", threshold=0.5)
    renderer = figure.canvas.get_renderer()
    legends = [legend.get_window_extent(renderer) for legend in figure.legends]
    for axes in figure.axes:
        assert axes.get_legend() is None
        bars = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
        boxes = [bar.get_window_extent(renderer) for bar in bars]
        written = [text.get_window_extent(renderer) for text in axes.texts]
        frame = axes.get_window_extent(renderer)
        for box in written:
            assert frame.x0 <= box.x0 and box.x1 <= frame.x1 and box.y1 <= frame.y1
        for bar in boxes:
            assert bar.y1 <= frame.y1
            assert not any(bar.overlaps(box) for box in (*legends, *written))


MEASURES = ("auc", "accuracy")


def test_pictures_of_families_maps_and_studies_are_opaque_white_and_small(tmp_path):
    images, labels, probabilities, indices = make_predictions(30)
    maps = np.random.default_rng(0).random((30, 28, 28))
    path = tmp_path / "picture.png"
    notes = {"threshold": 0.4, "title": "run", "notes": ["X-rays: somebody"]}
    gradcam_plots.draw_gradcam(images, maps, labels, probabilities, indices, path, **notes)
    assert_good_file(path.read_bytes())
    family_plots.draw_side_by_side(family_runs("abcdef"), path)
    assert_good_file(path.read_bytes())
    refuted = ("refuted", "refuted")
    rows = [("rotate (on in the base)", refuted, dict.fromkeys(MEASURES, estimate(-0.1)))]
    study_plots.draw_gains(rows, path, title="small.npz", caption="bars")
    assert_good_file(path.read_bytes())


def test_text_is_readable_at_half_size(drawn):
    for name in ("curves", "calibration", "confusion", "roc", "comparison", "predictions"):
        function, arguments, options = PICTURES[name]
        figure = drawn(function, *arguments, title="run", **options)
        sizes = [text.get_fontsize() for text in figure.findobj(Text) if text.get_text()]
        pixels = min(sizes) / 72 * figure.dpi / 2
        assert pixels >= 9.5, name


def test_side_by_side_fits_one_screen(drawn, tmp_path):
    runs = family_runs(["Plain-34", "ResNet-34", "SE-ResNet-34", "Mish-ResNet-34", "e", "f"])
    family_plots.draw_side_by_side(runs, tmp_path / "side.png")
    with Image.open(tmp_path / "side.png") as picture:
        assert picture.size == (1280, 720)
    figure = drawn(family_plots.draw_side_by_side, runs)
    assert_nothing_clipped(figure)
    heading, rest = (text.get_text() for text in title_lines(figure))
    assert heading == "6 networks: validation accuracy 70.0 % (Plain-34) to 80.0 % (f)"
    assert rest.startswith("small.npz · train n = 11,831, val n = 58 · 64 px")
    assert len(figure.axes) == 12
    top = figure.axes[1]
    assert top.get_title().split("\n") == ["ResNet-34", "val 72.0 %", "test 65.0 %"]
    own = [line for line in figure.axes[7].lines if line.get_label() == "validation"]
    expected = 100 * np.mean([run["history"]["val_accuracy"] for run in runs["ResNet-34"]], axis=0)
    assert own[0].get_ydata() == pytest.approx(expected)


def test_side_by_side_says_that_smoothed_labels_raise_the_training_loss(drawn):
    runs = family_runs("ab")
    assert "smoothing" not in drawing.notes_of(drawn(family_plots.draw_side_by_side, runs))
    for of_name in runs.values():
        for run in of_name:
            run["recipe"]["label_smoothing"] = 0.1
    figure = drawn(family_plots.draw_side_by_side, runs)
    said = "Label smoothing (0.1) in the training loss alone."
    assert said in " ".join(drawing.notes_of(figure).split())
    assert_nothing_clipped(figure)


def reductions(*p_values):
    """Rows of ``se_ablation.csv``; the first is without SE."""
    rows = []
    for place, p_holm in enumerate((math.nan, *p_values)):
        row = {"reduction": 2 ** (6 - place) if place else "no SE", "parameters": 21_000_000}
        row |= {
            f"{split}_auc{end}": 0.7 + d for split in ("val", "test") for end, d in ENDS.items()
        }
        rows.append(row | {"gain_over_no_se_p_holm": p_holm})
    return rows


@pytest.mark.parametrize(
    ("p_values", "finding"),
    [
        ((0.9, 0.051), "No difference from no SE is shown (Holm's correction for 2)."),
        ((0.9, 0.04), "r = 16: differs from no SE (Holm's correction for 2)."),
        ((math.nan, math.nan), "No difference from no SE was tested."),
    ],
)
def test_the_picture_of_reductions_says_whether_a_difference_is_shown(drawn, p_values, finding):
    about = {"counts": {"val": 58, "test": 107}, "seeds": [42, 123], "source": "small.npz"}
    about |= {"recipe": {"image_size": 64}, "bootstrap_unit": "patient"}
    figure = drawn(family_page._draw_reductions, about, reductions(*p_values))
    heading = " ".join(title_lines(figure)[0].get_text().split())
    assert heading == f"Reduction of the attention: test AUC from 0.700 to 0.700. {finding}"
    assert_nothing_clipped(figure)


def test_the_curves_of_a_family_say_which_hypotheses_are_decided(drawn):
    row = {"images": "test", "measure": "auc", "note": "", "verdict_holm": "undecided"}
    rows = [row | {"hypothesis": name} for name in ("SE", "Mish", "Plain")]
    rows[2]["note"] = "one seed"
    note = family_report.decided_note(rows)
    figure = drawn(family_plots.draw_side_by_side, family_runs("ab"), note=note)
    correction = "Hypotheses on differences, after Holm's correction for 2: "
    assert correction + "no difference is shown." in " ".join(" ".join(texts(figure)).split())
    rows[1]["verdict_holm"] = "supported"
    assert family_report.decided_note(rows) == correction + "Mish (test AUC): supported."
    assert "could be tested" in family_report.decided_note(rows[2:])


def test_a_standard_deviation_is_not_drawn_as_an_interval(drawn):
    of = {"label": "x", "missing": "", "left": (0.8, 0.75, 0.85)}
    points = [
        front_plots.Point(**of, kinds=("network", kind), right=(70, 65, 75))
        for kind in ("network", "seeds", "baseline")
    ]
    words = dict.fromkeys(("network", "average", "baseline", "best", "goal"), "w")
    options = {"axis": ("AUC", "accuracy"), "goal": True, "title": "t\nsmall.npz"}
    words["seeds"] = Wording("en").say("legend_seeds")
    figure = drawn(front_plots.draw_front, points, words=words, decimal_mark=",", **options)
    left, right = figure.axes
    styles = [
        [line.get_linestyle() for line in axes.lines if list(line.get_ydata()) in ([0, 0], [1, 1])]
        for axes in (left, right)
    ]
    assert styles == [["-", "-"], ["-", ":"]]
    (legend,) = figure.legends
    shown = {
        text.get_text(): line for text, line in zip(legend.texts, legend.get_lines(), strict=True)
    }
    assert shown["mean of seeds, line: ± sd, no interval"].get_linestyle() == ":"
    ticks = [label.get_text() for label in left.get_xticklabels()]
    assert "0,80" in ticks and not any("." in tick for tick in ticks)
    assert_nothing_clipped(figure)


def test_the_average_row_of_folds_is_said_to_be_out_of_fold_and_no_member_chosen(drawn):
    figures = {"accuracy": 0.8, "auc": 0.9, "accuracy_ci95": [0.7, 0.9], "auc_ci95": [0.8, 0.95]}
    members = [{"name": name, "held_out": figures, "test": figures} for name in ("a_28", "b_28")]
    best = {"name": "b_28", "chosen_on": "accuracy, then AUC, on its held-out fold"}
    average = {"members": members, "best_member": best, "oof": figures, "test": figures}

    def shown(**about):
        figure = drawn(comparison_plots.draw_members, {**average, **about}, title="t\nsmall.npz")
        assert_nothing_clipped(figure)
        names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
        legend = [text.get_text() for text in figure.legends[0].texts]
        return names, legend, drawing.notes_of(figure).replace("\n", " ")

    names, legend, note = shown(kind="2 folds over train+val")
    assert names == ["a", "b", "average of all"] and "Best" not in note
    assert legend[0] == "held-out fold; last row: out of fold"
    assert "each image only by networks that did not train on it, not by the average" in note
    names, legend, note = shown(kind="2 runs", blend=["a_28", "b_28"])
    assert names == ["a", "b (best)", "average of all"] and legend[0] == "out of fold"
    assert note.endswith("Best: the member that leads by accuracy, then AUC, out of fold.")


def test_gains_say_in_which_direction_a_switch_helps(drawn):
    rows = [
        (name, (after_holm, without), dict.fromkeys(MEASURES, estimate(gain)))
        for name, after_holm, without, gain in (
            ("last (on in the base)", "supported", "supported", 0.09),
            ("rotate (on in the base)", "undecided", "undecided", -0.019),
            ("erase", "undecided", "refuted", -0.062),
            ("cutmix", "refuted", "refuted", -0.143),
        )
    ]
    figure = drawn(study_plots.draw_gains, rows, title="small.npz", caption="Bars: intervals.")
    heading = title_lines(figure)[0].get_text()
    assert heading == ("Effect of 4 switches on the AUC, after Holm: helps 1, hurts 1, undecided 2")
    for axes in figure.axes:
        hurts, helps = re.search("hurts(.*)helps", axes.get_xlabel()).span()
        assert hurts < helps and axes.get_xlim()[0] < 0 < axes.get_xlim()[1]
        drawn_at = [float(container.lines[0].get_xdata()[0]) for container in axes.containers]
        assert drawn_at == pytest.approx([0.09, -0.019, -0.062, -0.143])
        faces = [c.lines[0].get_markerfacecolor() for c in axes.containers]
        assert [face == "white" for face in faces] == [False, True, True, False]
    assert_nothing_clipped(figure)


def test_the_output_of_a_dead_network_is_said_once_with_the_alarm(drawn):
    images, labels, _, indices = make_predictions(58)
    options = {"threshold": 0.5, "title": "run\nsmall.npz", "credit": ""}
    arguments = images, labels, np.full(58, 0.599), indices
    figure = drawn(prediction_grids.draw_predictions, *arguments, **options)
    shown = " ".join(texts(figure))
    assert shown.count("p = 0.60") == 1 and shown.count("WARNING") == 1
    assert "outputs are nearly constant" in " ".join(shown.split())
    assert_nothing_clipped(figure)
    sound = drawn(prediction_grids.draw_predictions, *make_predictions(58), **options)
    assert " ".join(texts(sound)).count("p = ") == 20 and "WARNING" not in " ".join(texts(sound))


def test_learning_curves_and_searches_draw_points_at_their_values(drawn):
    rows = [
        {
            **{"name": name, "kind": kind, "images": images, "extrapolated": False},
            **{f"{m}{end}": 0.8 + d for m in MEASURES for end, d in ENDS.items()},
        }
        for name, kind in (("net", "network"), ("HOG", "yardstick"))
        for images in (92, 172, 256, 332)
    ]
    figure = drawn(study_plots.draw_learning_curves, rows, title="small.npz", caption="")
    for axes in figure.axes:
        assert [container.lines[0].get_xdata().tolist() for container in axes.containers] == [
            [92, 172, 256, 332]
        ] * 2
        assert [tick.get_text() for tick in axes.get_xticklabels()] == ["92", "172", "256", "332"]
        shown_at = [c.lines[0].get_transform().transform((92, 0.8))[0] for c in axes.containers]
        assert shown_at[1] - shown_at[0] == pytest.approx(study_plots.ASIDE / 72 * figure.dpi)
    assert_nothing_clipped(figure)
    trials = [
        {"trial": n, "state": state, "auc": 0.8 + n / 100, "lr": 2e-5 * 4**n, "weight_decay": 0.01}
        for n, state in enumerate(["complete", "pruned", "complete"])
    ]
    figure = drawn(study_plots.draw_trials, trials, title="small.npz")
    assert "Best of 3 trials: AUC 0.820 in trial 2" in texts(figure)
    assert not any("e-0" in text for text in texts(figure))
    assert_nothing_clipped(figure)


ENDS = {"": 0.0, "_low": -0.05, "_high": 0.05}


# Machado, Oliveira and Fernandes, IEEE TVCG 15:1291 (2009), severity 1.0, for linear RGB
COLOUR_BLINDNESS = {
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
    "none": np.eye(3),
}


def lab(linear):
    """CIE L*a*b* (D65) of linear sRGB (3,)."""
    to_xyz = [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
    ratio = to_xyz @ np.clip(linear, 0, 1) / [0.95047, 1.0, 1.08883]
    f = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def seen(color, kind):
    rgb = np.array(to_rgb(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return lab(np.array(COLOUR_BLINDNESS[kind]) @ linear)


@pytest.mark.parametrize("kind", COLOUR_BLINDNESS)
@pytest.mark.parametrize(
    "colors",
    [
        [style.BLUE, style.ORANGE],  # validation and training, or validation and test
        [style.GREEN, style.VERMILLION],  # right and wrong
        [style.BLUE, style.VERMILLION, style.GREY],  # verdicts, and kinds of runs
        [look[0] for look in family_plots.LOOKS],
    ],
    ids=["splits", "right and wrong", "verdicts", "networks"],
)
def test_colours_that_stand_together_differ_with_any_colour_vision(colors, kind):
    for a, b in combinations(colors, 2):
        distance = np.linalg.norm(seen(a, kind) - seen(b, kind))
        assert distance > 15, (a, b)  # 2.3 is just noticeable


def test_networks_differ_by_line_and_marker_as_well():
    assert len({str(look[1]) for look in family_plots.LOOKS}) >= 5
    assert len({look[2] for look in family_plots.LOOKS}) == len(family_plots.LOOKS)
    assert len({marker for _, marker in comparison_plots.KINDS.values()}) == 3
