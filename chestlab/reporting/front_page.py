"""The first page of results: the answer in sentences, one table, one picture."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from chestlab.evaluation.looks import NETWORKS_BETWEEN
from chestlab.evaluation.tasks import GOAL
from chestlab.evaluation.verdicts import Estimate
from chestlab.reporting.fresh_results import FreshFolds, Lead, Seeds
from chestlab.reporting.front_gains import Gains
from chestlab.reporting.front_notes import (
    data_note,
    other_sizes,
    size_notes,
    table_notes,
)
from chestlab.reporting.front_plots import Interval, Point, draw_front
from chestlab.reporting.front_rows import (
    Row,
    averaged,
    number_of,
    page_of,
    study_page,
    table_rows,
    title_of,
)
from chestlab.reporting.page import (
    NOTHING,
    Wording,
    escaped,
    markdown_table,
    unbroken,
)
from chestlab.reporting.run_tables import best_on_test, model_name
from chestlab.reporting.stored_runs import StoredRun, networks_of, read_patients, start_of

MOST_ROWS = 24  # of networks; more are on the page of all runs

COLUMNS = ("experiment", "fresh_auc", "fresh_accuracy", "val_selected", "test_acc", "test_auc")


class FrontPage:
    """What the first page says of runs on the same images.

    Args:
        wording: language of the page.
        results_dir: has the lists of names.
        page_dir: folder of the page.
        runs: on the same images, in whatever size; one or more.
        fresh: study on fresh folds of them, or None.
        others: studies on these folds of the same X-rays in other sizes.
        seeds: studies of several seeds on them.
        ablations: folders of studies of switches on them.
        looks: how often networks were evaluated on their test images.
    """

    def __init__(
        self,
        wording: Wording,
        results_dir: Path,
        page_dir: Path,
        runs: Sequence[StoredRun],
        fresh: FreshFolds | None,
        others: Sequence[FreshFolds],
        seeds: Sequence[Seeds],
        ablations: Sequence[Path],
        looks: int,
    ) -> None:
        self.looks = looks
        self.wording, self.results_dir, self.page_dir = wording, results_dir, page_dir
        self.runs, self.fresh, self.ablations = runs, fresh, ablations
        self.others = others
        rows = table_rows(wording, page_dir, runs, fresh, seeds)
        networks = [row for row in rows if row.kind in ("network", "seeds")]
        self.left_out = max(0, len(networks) - MOST_ROWS)
        hidden = networks[MOST_ROWS:]
        self.rows = [row for row in rows if not any(row is other for other in hidden)]
        self.warned = [self._warned(row) for row in self.rows]
        self.main = self._main_run(runs)
        self.bold = self._bold()

    def _main_run(self, runs: Sequence[StoredRun]) -> StoredRun:
        """A run on the file that most is measured on, for what its images are."""
        of_fresh = [
            r for r in runs if self.fresh and r.metrics["data"]["sha256"] == self.fresh.sha256
        ]
        shown = [row.run for row in self.rows if row.run is not None and row.kind == "network"]
        candidates = of_fresh or shown or list(runs)
        return max(candidates, key=lambda run: len(run.predictions))

    # sentences

    def data(self) -> str:
        """What the images are, see `data_note`."""
        return data_note(self.wording, self.page_dir, self.main)

    def sentences(self) -> list[str]:
        """The answer: best network, and the goal on val and test."""
        goals = () if self.main.phantom else (self._goal_on_val(), self._goal_on_test())
        sizes = other_sizes(self.wording, self.page_dir, self.others)
        return [line for line in (self._best(), *sizes, *goals) if line]

    def _best(self) -> str:
        say, fresh = self.wording.say, self.fresh
        best = self._best_measured()
        if fresh is None or best is None:
            known = [(row, row.run) for row in self.rows if row.run and row.kind != "baseline"]
            if not known:
                return ""
            highest, run = max(known, key=lambda pair: pair[1].ordering_auc("val"))
            auc = self._auc_cell(run.metrics["val"])
            source = escaped(self.main.source)
            return say(
                "best_val", best=self._name(highest), auc=auc, of=self._images("val"), source=source
            )
        text = say(
            "best_fresh",
            best=self._name(best),
            auc=self._fresh_text(best, "auc"),
            accuracy=self._fresh_text(best, "accuracy"),
            of=self._count(len(fresh.oof.labels), fresh.patients),
            source=escaped(fresh.summary["data"]["source"]),
            repeats=fresh.summary["repeats"],
            folds=fresh.summary["folds"],
            rows=sum(row.fresh is not None for row in self.rows),
            measured=len(fresh.configurations),
            page=study_page(self.wording, self.page_dir, fresh.folder),
        )
        leads = self._leads(best)
        for key, certain in (("lead_certain", True), ("lead_uncertain", False)):
            rows = [row for row, lead in leads if lead.certain == certain]
            if rows:
                names = self.wording.listed(map(self._name, rows))
                text += f" {say(key, others=names, n=len(leads))}"
        if best.fresh and fresh.configurations[best.fresh].get("decided_here"):
            text += f" {say('decided_there')}"
        unmeasured = sum(row.fresh is None and row.kind == "network" for row in self.rows)
        return f"{text} {say('unmeasured', n=unmeasured)}" if unmeasured else text

    def _name(self, row: Row) -> str:
        """What a row is called in a sentence."""
        if row.kind == "seeds":
            return self.wording.say("seeds_in_sentence", number=number_of(row.metrics))
        number, _, name = re.sub(r", \d+ px$", "", row.label).partition(" ")
        if number.isdecimal():
            if row.without_imagenet:
                name = self.wording.say("random_start_in_sentence", name=name)
            return self.wording.say("experiment_in_sentence", number=number, name=name)
        if row.kind != "average":
            return row.label
        if self.fresh is None or row.fresh is None:
            assert row.run is not None  # else it would have no row
            return self._in_sentence(row.run)
        about = self.fresh.configurations[row.fresh]
        models = about["model"].split(NETWORKS_BETWEEN)
        return self._average(models, len(models), start_of(about))

    def _average(self, models: Sequence[str], networks: int | None, start: str = "") -> str:
        """What an average is called, with the number of its networks where that is known."""
        of = averaged(self.wording, models, start)
        key = "average_of_networks" if networks else "average_in_sentence"
        return self.wording.say(key, of=of, n=networks)

    def _goal_on_val(self) -> str:
        say, of = self.wording.say, self._images("val")
        reached, best = self._by_accuracy("val")
        key = "goal_reached" if reached else "goal_missed"
        text = say(key, goal=self._goal(), names=reached, name=best, of=of)
        n = len(self._sorted_by_accuracy("val"))
        return f"{text} {say('best_of_runs', n=n)}" if reached and n > 1 else text

    def _goal_on_test(self) -> str:
        if not any("test" in run.predictions for run in self.runs):
            return ""
        reached, best = self._by_accuracy("test")
        key, of = "test_reached" if reached else "test_missed", self._images("test")
        known = [run.metrics["test"] for run in self._sorted_by_accuracy("test")]
        values = {"goal": self._goal(), "names": reached, "name": best, "of": of}
        looks = self.wording.say("looks_in_sentence", n=self.looks)
        text = self.wording.say(key, **values, n=len(known), looks=looks)
        if reached and len(known) > 1:
            text += f" {self.wording.say('best_of_runs', n=len(known))}"
        highest = [of for of in known if of["accuracy"] == known[0]["accuracy"]]
        if reached or not all(of.get("accuracy_ci95") for of in highest):
            return text
        inside = any(of["accuracy_ci95"][1] >= GOAL for of in highest)
        open_or_not = "goal_inside" if inside else "goal_above"
        return f"{text} {self.wording.say(open_or_not, goal=self._goal())}"

    def _by_accuracy(self, split: str) -> tuple[str, str]:
        """The runs whose accuracy reaches the goal, and those with the highest, in words."""
        known = self._sorted_by_accuracy(split)
        names = [
            self.wording.say(
                "with_accuracy",
                name=f"[{self._on_split(run, split)}]({page_of(self.wording, self.page_dir, run)})",
                accuracy=self._accuracy_text(run.metrics[split]),
            )
            for run in known
        ]
        reached = sum(run.metrics[split]["accuracy"] >= GOAL for run in known)
        first = known[0].metrics[split]["accuracy"]
        highest = sum(run.metrics[split]["accuracy"] == first for run in known)
        listed = self.wording.listed
        return listed(names[:reached]) if reached else "", listed(names[:highest])

    def _sorted_by_accuracy(self, split: str) -> list[StoredRun]:
        known = [run for run in self.runs if split in run.predictions]
        return sorted(
            known, key=lambda run: (-run.metrics[split]["accuracy"], -run.ordering_auc("val"))
        )

    def _on_split(self, run: StoredRun, split: str) -> str:
        """What a run is called in a sentence on its accuracy on a split.

        Of networks whose validation images are out of fold no number is told there: each image is
        predicted by some of them.
        """
        if split != "val" or not run.val_out_of_fold:
            return self._in_sentence(run)
        name = title_of(run.metrics)
        if run.metrics.get("blend"):
            name = self._average(run.metrics["model"].split(" + "), None)
        return self.wording.say("out_of_fold_in_sentence", name=name)

    def _in_sentence(self, run: StoredRun) -> str:
        """What a run is called in a sentence."""
        if run.metrics.get("blend"):
            return self._average(run.metrics["model"].split(" + "), networks_of(run.metrics))
        if run.kind == "ensemble":
            n, name = len(run.metrics["members"]), title_of(run.metrics)
            return self.wording.say("folds_in_sentence", name=name, n=n)
        return model_name(self.wording, run) if run.kind == "baseline" else title_of(run.metrics)

    def helped(self) -> str:
        """What has a gain after Holm's correction, see `Gains`."""
        return Gains(self.wording, self.fresh, self.ablations).sentence()

    # table

    def table(self) -> str:
        """A row per experiment, average and baseline."""
        say = self.wording.say
        columns = [c for c in COLUMNS if self.fresh is not None or not c.startswith("fresh")]
        rows = []
        for row, warned in zip(self.rows, self.warned, strict=True):
            mark = " (!)" if warned else ""
            start = f", {say('random_start_mark')}" if row.without_imagenet else ""
            cells = {"experiment": f"[{escaped(row.label)}]({row.address}){start}{mark}"}
            cells |= self._fresh_cells(row) | self._run_cells(row)
            rows.append([unbroken(cells[column]) for column in columns])
        return markdown_table([say(f"head_{column}") for column in columns], rows, left=1)

    def _warned(self, row: Row) -> bool:
        """Whether something is suspect about the row's run or its networks on the fresh folds."""
        if row.run is not None and row.run.metrics["warnings"]:
            return True
        return bool(self.fresh and row.fresh and self.fresh.oof.alarms_of(row.fresh))

    def _fresh_cells(self, row: Row) -> dict[str, str]:
        if row.fresh is None and self.fresh is not None and row.run and is_majority(row.run):
            positive = float(np.mean(self.fresh.oof.labels))
            share = self.wording.percent(max(positive, 1 - positive))
            return {"fresh_auc": NOTHING, "fresh_accuracy": share}
        if row.fresh is None:
            return {"fresh_auc": self.wording.say("not_measured"), "fresh_accuracy": NOTHING}
        auc = self._fresh_text(row, "auc", "<br>")
        accuracy = self._fresh_text(row, "accuracy", "<br>")
        if ("fresh", row.fresh) in self.bold:
            value, _, interval = auc.partition("<br>")
            auc = f"**{value}**<br>{interval}"
        return {"fresh_auc": auc, "fresh_accuracy": accuracy}

    def _run_cells(self, row: Row) -> dict[str, str]:
        if row.seeds is not None:
            return {
                "val_selected": self._mean_and_sd(row.seeds, "val", "accuracy"),
                "test_acc": self._mean_and_sd(row.seeds, "test", "accuracy"),
                "test_auc": self._mean_and_sd(row.seeds, "test", "auc"),
            }
        if row.run is None:
            return dict.fromkeys(("val_selected", "test_acc", "test_auc"), NOTHING)
        cells = {"val_selected": self._accuracy_text(row.run.metrics["val"], "<br>")}
        test = row.run.metrics["test"]
        if test is None:
            return cells | dict.fromkeys(("test_acc", "test_auc"), NOTHING)
        cells |= {
            "test_acc": self._accuracy_text(test, "<br>"),
            "test_auc": self._auc_cell(test, "<br>"),
        }
        for column, key in (("test_acc", "accuracy"), ("test_auc", "auc")):
            if (key, row.run.name) in self.bold:
                value, _, interval = cells[column].partition("<br>")
                cells[column] = f"**{value}**<br>{interval}"
        return cells

    def notes(self) -> list[str]:
        """What a reader of the table has to know of single rows."""
        return table_notes(self.wording, self.rows, bool(self.bold), any(self.warned))

    def _bold(self) -> set[tuple[str, str]]:
        """Figures that are clearly above every other row's: measure and configuration or run."""
        bold = set()
        if self.fresh is not None:
            measured = [row for row in self.rows if row.fresh]
            if len(measured) > 1:
                best = max(measured, key=self._fresh_auc)
                if all(lead.certain for _, lead in self._leads(best)):
                    bold.add(("fresh", best.fresh))
        tested = [row.run for row in self.rows if row.run and "test" in row.run.predictions]
        tested = [
            run
            for run in tested
            if run.predictions["test"].same_images(tested[0].predictions["test"])
        ]
        if len(tested) > 1:
            patients = read_patients(self.results_dir, tested[0], "test")
            for key in ("accuracy", "auc"):
                best, unclear = best_on_test(tested, key, patients)
                if not unclear:
                    bold.add((key, best.name))
        return bold

    def _best_measured(self) -> Row | None:
        """The row, baselines aside, with the highest AUC on fresh folds; None without any."""
        measured = [row for row in self.rows if row.fresh and row.kind != "baseline"]
        return max(measured, key=self._fresh_auc, default=None)

    def _leads(self, best: Row) -> list[tuple[Row, Lead]]:
        """The other rows with an AUC on fresh folds, and by how much the best one's is above."""
        assert self.fresh is not None
        others = [row for row in self.rows if row.fresh and row.fresh != best.fresh]
        leads = self.fresh.leads(str(best.fresh), [str(row.fresh) for row in others])
        return [(row, leads[str(row.fresh)]) for row in others]

    def leads(self) -> str:
        """A table of what `sentences` says of the best row's lead; empty where there is none."""
        best = self._best_measured()
        leads = [] if best is None else self._leads(best)
        number = self.wording.number
        rows = [
            [
                escaped(row.label),
                f"{number(lead.gain.value, '+.3f')} "
                f"{self.wording.interval((lead.gain.low, lead.gain.high), '+.3f')}",
                self.wording.p_value(lead.p),
                self.wording.p_value(lead.p_holm),
            ]
            for row, lead in leads
        ]
        say = self.wording.say
        heads = [say("head_lead_over"), say("head_lead"), "p", say("head_p_holm")]
        return markdown_table(heads, rows, left=1) if rows else ""

    # picture

    def draw(self, path: Path) -> None:
        """Draw every row of the table that has a figure."""
        say, main = self.wording.say, self.main
        points = [
            Point(
                row.label,
                self._kinds(row),
                self._left(row),
                self._right(row),
                self._missing(row),
            )
            for row in self.rows
        ]
        points = [point for point in points if point.left or point.right]
        counts = [say("counts_test", n=main.metrics["test"]["n"])] if main.metrics["test"] else []
        if self.fresh is not None:
            counts.insert(0, say("counts_fresh", n=len(self.fresh.oof.labels)))
        else:
            counts.insert(0, say("counts_val", n=main.metrics["val"]["n"]))
        kinds = {"network": "network", "seeds": "seeds", "average": "average"}
        words = {kind: say(f"legend_{key}") for kind, key in kinds.items()}
        words |= {"baseline": say("legend_classical"), "best": say("legend_baseline")}
        words["goal"] = say("legend_goal", goal=round(100 * GOAL))
        left = "axis_fresh_auc" if self.fresh is not None else "axis_val_auc"
        draw_front(
            points,
            path,
            title=say("title_front", source=main.source, counts=", ".join(counts)),
            axis=(say(left), say("axis_test_accuracy")),
            words=words,
            goal=not main.phantom,
            notes=[f"{note}." for note in size_notes(self.wording, self.rows)],
            decimal_mark=self.wording.number(0.5, ".1f")[1],
        )

    def _kinds(self, row: Row) -> tuple[str, str]:
        """How both values are drawn: on fresh folds seeds have an interval like other networks."""
        of_network = self.fresh is not None and row.kind == "seeds"
        return "network" if of_network else row.kind, row.kind

    def _left(self, row: Row) -> Interval | None:
        if self.fresh is not None:
            if row.fresh is None:
                return None
            found = self._estimate(row, "auc")
            return found.value, found.low, found.high
        if row.seeds is not None:
            return _mean_and_ends(row.seeds, "val", "auc", 1)
        return None if row.run is None else _interval(row.run.metrics["val"], "auc")

    def _missing(self, row: Row) -> str:
        """Why a row has no value in the left panel."""
        unmeasured = self.fresh is not None and row.fresh is None
        if row.run is not None and is_majority(row.run):
            unmeasured = False  # all images get the same probability
        return self.wording.say("not_measured" if unmeasured else "undefined")

    def _right(self, row: Row) -> Interval | None:
        if row.seeds is not None:
            return _mean_and_ends(row.seeds, "test", "accuracy", 100)
        if row.run is None or row.run.metrics["test"] is None:
            return None
        found = _interval(row.run.metrics["test"], "accuracy")
        return None if found is None else (100 * found[0], 100 * found[1], 100 * found[2])

    # texts of figures

    def _goal(self) -> str:
        return f"{round(100 * GOAL)} %"

    def _fresh_auc(self, row: Row) -> float:
        return self._estimate(row, "auc").value

    def _estimate(self, row: Row, measure: str) -> Estimate:
        assert self.fresh is not None and row.fresh is not None
        return self.fresh.oof.estimate(row.fresh, measure)

    def _fresh_text(self, row: Row, measure: str, between: str = " ") -> str:
        found = self._estimate(row, measure)
        ends = found.low, found.high
        if measure == "accuracy":
            return self.wording.percent_with_interval(found.value, ends, between)
        return f"{self.wording.number(found.value)}{between}{self.wording.interval(ends)}"

    def _accuracy_text(self, figures: Mapping[str, Any], between: str = " ") -> str:
        ends = figures.get("accuracy_ci95")
        return self.wording.percent_with_interval(figures["accuracy"], ends, between)

    def _auc_cell(self, figures: Mapping[str, Any], between: str = " ") -> str:
        ends = figures.get("auc_ci95")
        interval = self.wording.interval(ends)
        return f"{self.wording.number(figures['auc'])}{between if ends else ''}{interval}"

    def _mean_and_sd(self, seeds: Seeds, split: str, measure: str) -> str:
        mean, sd = seeds.mean_and_sd(split, measure)
        if math.isnan(mean):
            return NOTHING
        if measure == "auc":
            return f"{self.wording.number(mean)}<br>± {self.wording.number(sd)}"
        return f"{self.wording.percent(mean)}<br>± {self.wording.number(100 * sd, '.1f')}"

    def _images(self, split: str) -> str:
        """Number of images of a split, and of their patients where they are known."""
        run = self.main if split in self.main.predictions else None
        if run is None:
            run = next(row.run for row in self.rows if row.run and split in row.run.predictions)
        patients = read_patients(self.results_dir, run, split)
        known = None if patients is None else len(np.unique(patients))
        return self._count(run.metrics[split]["n"], known)

    def _count(self, images: int, patients: int | None) -> str:
        n = self.wording.number(images, ",")
        if patients is None:
            return self.wording.say("images_only", n=n)
        known = self.wording.number(patients, ",")
        return self.wording.say("images_of_patients", n=n, patients=known)


def _mean_and_ends(seeds: Seeds, split: str, measure: str, factor: float) -> Interval | None:
    """Mean over seeds, less and plus their standard deviation."""
    mean, sd = (factor * value for value in seeds.mean_and_sd(split, measure))
    return None if math.isnan(mean) else (mean, mean - sd, mean + sd)


def _interval(figures: Mapping[str, Any], measure: str) -> Interval | None:
    value, ends = figures.get(measure), figures.get(f"{measure}_ci95")
    return None if value is None or not ends else (value, ends[0], ends[1])


def is_majority(run: StoredRun) -> bool:
    """Whether a run is the baseline that gives every image the same probability."""
    return run.kind == "baseline" and (run.metrics.get("recipe") or {}).get("name") == "majority"
