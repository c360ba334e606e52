"""The page of a comparison of the 34-layer family, written from the files of its folder.

``family.json`` holds what the tables do not: data, recipe, seeds, machine, warnings, gradients.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chestlab.evaluation.tasks import GOAL
from chestlab.evaluation.verdicts import ALPHA
from chestlab.files.atomic import atomic_write
from chestlab.files.errors import InputError
from chestlab.reporting import family_plots
from chestlab.reporting.family_messages import FAMILY_MESSAGES
from chestlab.reporting.family_tables import CATCH_UP_EPOCHS, CATCH_UP_MARGIN
from chestlab.reporting.lab_warnings import warning_in
from chestlab.reporting.numbers import MISSING
from chestlab.reporting.overview import PAGES
from chestlab.reporting.page import Wording, markdown_table, render
from chestlab.training.diagnostics import SILENT_SLOPE
from chestlab.training.recipe import in_words

FILE = "family.json"

Rows = Sequence[Mapping[str, Any]]

HYPOTHESES = tuple(key for key in FAMILY_MESSAGES if key.startswith("hypothesis_"))

NOTES = tuple(key for key in FAMILY_MESSAGES if key.startswith("note_"))


def write_pages(folder: Path) -> None:
    """Write the pictures of stored values, if there are any, and the page in both languages.

    The pictures are ``gradients.png`` and ``se_ablation.png``.

    Raises:
        InputError: ``family.json`` or a table is missing or damaged.
    """
    try:
        about = json.loads((folder / FILE).read_text(encoding="utf-8"))
        if about.get("gradients"):
            _draw_gradients(about, folder / "gradients.png")
        if reductions := _read_rows(folder / "se_ablation.csv"):
            _draw_reductions(about, reductions, folder / "se_ablation.png")
        texts = {
            page: _Page(Wording(language), folder, about).text() for language, page in PAGES.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise InputError(f"'{folder}': {FILE} or a table is missing or damaged: {error}") from None
    for page, text in texts.items():
        atomic_write(folder / page, text)


def picture_title(about: Mapping[str, Any], subject: str, *splits: str) -> str:
    """A picture's title: its subject, the seeds, the data and the number of images."""
    n = ", ".join(f"{split} n = {about['counts'][split]}" for split in splits)
    seeds = ", ".join(map(str, about["seeds"]))
    size = about["recipe"]["image_size"]
    return f"{subject}, seeds {seeds}, {size} px\n{about['source']} · {n}"


def _draw_gradients(about: Mapping[str, Any], path: Path) -> None:
    english = Wording("en")
    family_plots.draw_gradients(
        {english.say(f"gradients_{moment}"): of for moment, of in about["gradients"].items()},
        path,
        title=picture_title(about, "Gradient at every depth", "train"),
        caption=(
            "Euclidean norm of the loss's gradient in each 7x7 and 3x3 convolution, mean over "
            f"batches of the first {about['gradient_images']} training images, batch norm in "
            f"training mode. After training: weights of the best epoch. {family_plots.RANGE}"
        ),
    )


def _draw_reductions(about: Mapping[str, Any], rows: Rows, path: Path) -> None:
    family_plots.draw_ablation(
        rows,
        path,
        finding=_reduction_finding(Wording("en"), rows),
        title=picture_title(about, "SE-ResNet-34: reduction of the attention", "val", "test"),
        caption=f"Bars: 95 % intervals over seeds and {about['bootstrap_unit']}s.",
    )


def _reduction_finding(wording: Wording, rows: Rows) -> str:
    """Which reductions differ from no SE after Holm's correction for all that are tested."""
    p_values = {row["reduction"]: row.get("gain_over_no_se_p_holm", math.nan) for row in rows}
    tested = [reduction for reduction, p in p_values.items() if math.isfinite(p)]
    if not tested:
        return wording.say("reduction_untested")
    differing = [f"r = {reduction}" for reduction in tested if p_values[reduction] <= ALPHA]
    key = "reduction_differs" if differing else "reduction_alike"
    return wording.say(key, n=len(tested), reductions=", ".join(differing))


class _Page:
    """The page in one language.

    Args:
        wording: its language.
        folder: of the comparison.
        about: its ``family.json``.
    """

    def __init__(self, wording: Wording, folder: Path, about: Mapping[str, Any]) -> None:
        self.wording, self.folder, self.about = wording, folder, about
        self.measures = ("auc",) if about["findings"] else ("accuracy", "auc")

    def text(self) -> str:
        """Its Markdown."""
        say, about, folder = self.wording.say, self.about, self.folder
        networks = _read_rows(folder / "table.csv")
        verdicts = _read_rows(folder / "verdicts.csv")
        reductions = _read_rows(folder / "se_ablation.csv")
        recipe = about["recipe"]
        return render(
            f"family.{self.wording.language}.md.j2",
            about=about,
            task=say("family_findings" if about["findings"] else "family_two_class"),
            tested=sum(not row["note"] for row in verdicts),
            decided=self._decided(verdicts),
            recipe_text=in_words(recipe["name"], recipe["changes"]),
            seeds=", ".join(map(str, about["seeds"])),
            unit=say("patient" if about["bootstrap_unit"] == "patient" else "image"),
            overlay=(folder / "validation_curves.png").exists(),
            networks=self._network_table(networks),
            warnings=[
                f"{name}, seed {seed}: {warning_in(self.wording.language, text)}"
                for name, seed, text in about["warnings"]
            ],
            left_out=self._left_out(),
            constant=self._constant_outputs(),
            goal=f"{GOAL:.0%}",
            reached=self._reached(),
            verdicts=self._verdict_table(verdicts) if verdicts else "",
            margin=f"{CATCH_UP_MARGIN:g}",
            catch_up_epochs=CATCH_UP_EPOCHS,
            reductions=self._reduction_table(reductions) if reductions else "",
            reduction_finding=_reduction_finding(self.wording, reductions),
            diagnostics=self._diagnostics(),
        )

    def _network_table(self, rows: Rows) -> str:
        number = self.wording.number
        first = {"measure": self.wording.say("mean_auc" if self.about["findings"] else "accuracy")}
        keys = ["train", "val", "gap", "test"] + ["test_auc"] * (len(self.measures) - 1)
        heads = [self.wording.say("family_network"), self.wording.say("head_parameters")]
        heads += [self.wording.say(f"family_{key}", **first) for key in keys]
        heads += [self.wording.say(f"family_{key}") for key in ("macs", "memory")]
        measure, cells = self.measures[0], []
        for row in rows:
            memory = row["peak_memory_bytes"]
            cells.append(
                [
                    row["network"],
                    number(row["parameters"], ","),
                    self._figure(measure, row[f"train_{measure}"]),
                    self._figure(measure, row[f"val_{measure}_as_selected"]),
                    self.wording.say("points", n=number(100 * row["gap"], ".1f")),
                    *(self._with_interval(row, f"test_{m}", m) for m in self.measures),
                    f"{number(row['multiply_accumulates'] / 1e6, ',.1f')} M",
                    f"{number(memory / 2**20, ',.0f')} MiB" if memory else MISSING,
                ]
            )
        return markdown_table(heads, cells)

    def _figure(self, measure: str, value: float) -> str:
        if math.isnan(value):
            return MISSING
        return self.wording.percent(value) if measure == "accuracy" else self.wording.number(value)

    def _with_interval(self, row: Mapping[str, Any], key: str, measure: str) -> str:
        ends = (row[f"{key}{end}"] for end in ("", "_low", "_high"))
        value, low, high = (self._figure(measure, end) for end in ends)
        return f"{value} {self.wording.say('interval', low=low, high=high)}"

    def _points(self, row: Mapping[str, Any], key: str = "", factor: float = 1) -> str:
        """A gain with its interval; ``n/a`` where there is none."""
        names = ("value", "low", "high") if not key else (key, f"{key}_low", f"{key}_high")
        value, *ends = (factor * row[name] for name in names)
        if not math.isfinite(value):
            return MISSING
        return self.wording.with_interval(value, ends, "+.1f")

    def _if_known(self, value: float, form: str) -> str:
        return self.wording.number(value, form) if math.isfinite(value) else MISSING

    def _left_out(self) -> str:
        """The findings without an AUC, by split."""
        return "; ".join(
            f"{self.wording.say(split)} {', '.join(names) or self.wording.say('none')}"
            for split, names in self.about.get("left_out", {}).items()
        )

    def _constant_outputs(self) -> str:
        """The runs that give all images the same output for a finding, by split; often empty."""
        say = self.wording.say
        return "; ".join(
            f"{say(split)} "
            + ", ".join(
                f"{finding} ({say('with_seed', name=name, seed=seed)})"
                for finding, name, seed in outputs
            )
            for split, outputs in self.about.get("constant_outputs", {}).items()
        )

    def _reached(self) -> str:
        """The runs whose validation accuracy is at least the goal; empty of phantoms."""
        runs = self.about.get("reached")
        if runs is None:
            return ""
        names = [self.wording.say("with_seed", name=name, seed=seed) for name, seed in runs]
        return ", ".join(names) or self.wording.say("none")

    def _hypothesis(self, row: Mapping[str, Any]) -> tuple[str, str]:
        """What a row claims, and the figure that it is measured by."""
        wording = self.wording
        images = wording.translated(row["images"], "test", "after_epoch")
        measure = wording.say(row["measure"])
        text = wording.translated(row["hypothesis"], *HYPOTHESES)
        return text, wording.say("measured", images=images, measure=measure)

    def _decided(self, rows: Rows) -> list[str]:
        """The hypotheses that are decided after Holm's correction."""
        decided = []
        for row in rows:
            if row["note"] or row["verdict_holm"] == "undecided":
                continue
            text, figure = self._hypothesis(row)
            values = {"hypothesis": f"{text} ({figure})", "gain": self._points(row)}
            values["verdict"] = self._verdict(row["verdict_holm"])
            decided.append(self.wording.say("family_decided", **values))
        return decided

    def _verdict_table(self, rows: Rows) -> str:
        heads = ("hypothesis", "measured_on", "gain_points", "smallest", "p", "p_holm")
        heads += ("verdict", "verdict_holm")
        cells = []
        for row in rows:
            raw, holm = (self._verdict(row[key]) for key in ("verdict", "verdict_holm"))
            note = f": {self.wording.translated(row['note'], *NOTES)}" if row["note"] else ""
            cells.append(
                (
                    *self._hypothesis(row),
                    self._points(row),
                    self._if_known(row["detectable"], ".1f"),
                    *(self._if_known(row[key], ".3f") for key in ("p", "p_holm")),
                    f"**{raw}**{note}",
                    holm,
                )
            )
        return markdown_table([self._head(head) for head in heads], cells)

    def _verdict(self, verdict: str) -> str:
        return self.wording.say(f"verdict_{verdict}")

    def _head(self, name: str) -> str:
        return name if name == "p" else self.wording.say(f"head_{name}")

    def _reduction_table(self, rows: Rows) -> str:
        say = self.wording.say
        heads = [say("head_reduction"), say("head_parameters"), say("head_val_auc_selected")]
        heads += [say("family_test_auc"), say("head_gain_over_no_se"), say("head_smallest")]
        heads += ["p", say("head_p_holm")]
        cells = []
        for row in rows:
            gain = self._points(row, "gain_over_no_se", 100)
            tested = [self._if_known(100 * row["gain_over_no_se_detectable"], ".1f")]
            p_values = (row.get(f"gain_over_no_se_{key}", math.nan) for key in ("p", "p_holm"))
            tested += [self._if_known(p, ".3f") for p in p_values]
            cells.append(
                [
                    self.wording.translated(str(row["reduction"]), "no_se"),
                    self.wording.number(row["parameters"], ","),
                    *(self._with_interval(row, f"{split}_auc", "auc") for split in ("val", "test")),
                    *([""] * 4 if gain == MISSING else (gain, *tested)),
                ]
            )
        return markdown_table(heads, cells)

    def _diagnostics(self) -> list[tuple[str, str]]:
        """Pictures, or "" where there is none, with their sentences."""
        sentences = {"gradients.png": self._gradients(), "silent_units.png": self._silent()}
        return [
            (name if (self.folder / name).exists() else "", sentence)
            for name, sentence in sentences.items()
            if sentence
        ]

    def _gradients(self) -> str:
        moments = self.about.get("gradient_ratios") or {}
        ratios = "; ".join(
            f"{self.wording.say(f'gradients_{moment}')} "
            + ", ".join(f"{name} {self.wording.number(of, '.3g')}" for name, of in ratios.items())
            for moment, ratios in moments.items()
        )
        return self.wording.say("gradient_ratios", ratios=ratios) if ratios else ""

    def _silent(self) -> str:
        shares, say = self.about.get("silent"), self.wording.say
        if not shares:
            return ""
        if any(shares.values()):
            means = ", ".join(
                f"{name} {self.wording.number(100 * share, '.2f')}%"
                for name, share in shares.items()
            )
            return say("silent_means", means=means)
        meaning = say("silent_meaning", slope=self.wording.number(SILENT_SLOPE, "g"))
        return f"{say('silent_none', names=say('or').join(shares))} {meaning}"


def _read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a table, its numbers as numbers; none where there is no such table."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [{key: _value(cell) for key, cell in row.items()} for row in csv.DictReader(file)]


def _value(cell: str) -> Any:
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            continue
    return cell
