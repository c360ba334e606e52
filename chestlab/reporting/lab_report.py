"""The lab report of a run, ``README.md`` and ``README.id.md`` in its folder.

Written from the run's stored files alone, at its end and again by ``python visualize.py``. The page
is `templates/lab.md.j2`. Its sentences are in `lab_rules`, `lab_verdicts` and `lab_conclusions`,
each with the rule by which the run's numbers choose it; question and hypothesis in
`lab_experiments`.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from chestlab.data.phantom import PHANTOM_MARK
from chestlab.evaluation.looks import Look
from chestlab.files.atomic import atomic_write
from chestlab.reporting import lab_conclusions, lab_experiments, lab_rules, lab_tables, lab_verdicts
from chestlab.reporting.lab_facts import History, Patients, facts_of, final_split, patients_of
from chestlab.reporting.lab_stages import stage_note, stage_table
from chestlab.reporting.lab_warnings import in_indonesian
from chestlab.reporting.lab_wording import LabWording
from chestlab.reporting.look_tables import all_looks, look_count, looks_at_images_of
from chestlab.reporting.messages import LANGUAGES, MESSAGES
from chestlab.reporting.page import escaped, link, render
from chestlab.reporting.stored_runs import (
    StoredRun,
    kind_of_average,
    networks_of,
    read_history,
    read_two_class_run,
    start_of,
    start_source,
)
from chestlab.training.network_names import network_name

EXTRAS = "report"  # folder, in that of a run, of what the report alone needs

ENVIRONMENT = f"{EXTRAS}/environment.json"

PAGES = {code: "README.md" if code == "en" else f"README.{code}.md" for code in LANGUAGES}

Blocks = Sequence[Mapping[str, Any]]


@contextlib.contextmanager
def note_failure(folder: Path) -> Iterator[None]:
    """Context in which a report is written: whatever fails is one line on stderr.

    No fault of a page may end a run, whose results are worth more.
    """
    try:
        yield
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        print(
            f"NOTE: the lab report in '{folder}' is not complete ({reason}); the results are, and "
            "python visualize.py writes the report again",
            file=sys.stderr,
        )


def report_on(folder: Path, results_dir: Path) -> None:
    """Write the reports of a run that has just finished; a failure is one line on stderr.

    Args:
        folder: of the run.
        results_dir: has the table of looks at test and the lists of names.
    """
    with note_failure(folder):
        run = read_two_class_run(folder / "metrics.json")
        if run is None:  # of the 14 findings
            metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
            run = StoredRun(folder, metrics, {})
        write_lab_report(run, results_dir, all_looks(results_dir))


def write_lab_report(
    run: StoredRun,
    results_dir: Path,
    looks: Sequence[Look],
    find_blocks: Callable[[Mapping[str, Any]], Blocks | None] = lambda metrics: None,
) -> list[Path]:
    """Write a run's report in both languages.

    Args:
        run: finished.
        results_dir: of the run or of the ensemble that it belongs to.
        looks: at any test images.
        find_blocks: gives the blocks of a network whose ``metrics.json`` does not hold them, or
            None where the code of today builds another one.

    Returns:
        The pages.

    Raises:
        OSError: one cannot be written.
    """
    paths = []
    history, environment = read_history(run.folder), _environment(run.folder)
    patients = {
        split: patients_of(run, results_dir, split)
        for split in ("val", "oof", "test")
        if run.metrics.get(split)
    }
    blocks = run.metrics.get("architecture") or find_blocks(run.metrics)
    counted = look_count(run, looks_at_images_of([run], looks)) if looks else None
    facts = facts_of(run, history, patients[final_split(run.metrics)], counted)
    for language in LANGUAGES:
        page = _Page(LabWording(language), run, results_dir, patients, facts)
        paths.append(run.folder / PAGES[language])
        atomic_write(paths[-1], page.text(history, environment, blocks))
    return paths


def _environment(folder: Path) -> dict[str, Any]:
    """What the run was made with; empty for one of an older version."""
    try:
        return json.loads((folder / ENVIRONMENT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


class _Page:
    """The page of one run in one language; counts its sections, figures and tables."""

    def __init__(
        self,
        wording: LabWording,
        run: StoredRun,
        results_dir: Path,
        patients: Mapping[str, Patients | None],
        facts: Mapping[str, Any],
    ) -> None:
        self.wording, self.run, self.metrics = wording, run, run.metrics
        self.results_dir, self.patients = results_dir, patients
        self.facts = {**facts, **_words(wording, run.metrics)}
        experiment = lab_experiments.experiment_of(run.metrics)
        self.facts["title"] = wording.fill(experiment.title, self.facts)
        self.sections = self.figures = self.tables = 0

    def text(self, history: History, environment: Mapping[str, Any], blocks: Blocks | None) -> str:
        """The whole page."""
        say, metrics, run = self.wording.say, self.metrics, self.run
        command = " ".join(environment.get("command", "").split())
        text = render(
            "lab.md.j2",
            say=say,
            heading=self._heading,
            subheading=self._subheading,
            figure=self._figure,
            tabled=self._tabled,
            title=self._title(),
            top=self._top(environment),
            phantom=run.phantom,
            phantom_mark=PHANTOM_MARK,
            warnings=[self._warning(warning) for warning in metrics["warnings"]],
            in_short=self._said(lab_verdicts.RESULT),
            question=self._question(),
            hypothesis=self._hypothesis(),
            source=self._source(),
            data=self._said(lab_rules.DATA),
            counts=lab_tables.count_table(self.wording, metrics),
            patients=self._patients(),
            network=self._network(blocks),
            blocks=lab_tables.block_table(self.wording, blocks or []),
            recipe=lab_tables.recipe_table(self.wording, metrics),
            recipe_of=self._recipe(),
            training=self._sentences(lab_rules.TRAINING),
            unit=self._unit(),
            figures=lab_tables.figure_table(self.wording, metrics),
            evaluation=self._sentences(lab_verdicts.EVALUATION),
            stages=stage_table(self.wording, run),
            of_stages=stage_note(self.wording, run, self.facts),
            findings=lab_tables.finding_table(self.wording, metrics),
            confusion=self._said(lab_verdicts.CONFUSION),
            classes=lab_tables.class_table(self.wording, metrics),
            roc=self._said(lab_verdicts.ROC),
            calibration=self._said(lab_verdicts.CALIBRATION),
            single_networks=self._said(lab_verdicts.SINGLE_NETWORKS),
            single_network_table=lab_tables.single_network_table(self.wording, metrics),
            examples=self._said(lab_verdicts.EXAMPLES),
            errors=lab_tables.error_table(self.wording, run),
            mistakes=(run.folder / "mistakes.md").exists(),
            members=lab_tables.member_table(self.wording, metrics),
            average=self._sentences(lab_verdicts.AVERAGE),
            members_text=self._of_members(),
            below_members=self._below_members(),
            cost=lab_tables.cost_table(self.wording, metrics, history),
            environment=lab_tables.environment_table(self.wording, metrics, environment),
            command=command,
            resumed="--resume" in command.split(),
            limits=self._sentences(lab_conclusions.LIMITS),
            conclusion=self._sentences(lab_conclusions.CONCLUSION),
            files=self._files(),
        )
        return re.sub(r"\n{3,}", "\n\n", text)

    def _sentences(self, topics: Mapping[str, lab_rules.Topic]) -> list[str]:
        return self.wording.sentences(topics, self.facts)

    def _said(self, topics: Mapping[str, lab_rules.Topic]) -> str:
        return " ".join(self._sentences(topics))

    def _heading(self, key: str) -> str:
        """A numbered heading, with the mark of the phantoms."""
        self.sections += 1
        return f"## {self.sections}. {self.wording.say(key)}{self._mark()}"

    def _subheading(self, key: str, content: str) -> str:
        """A heading below, empty where there is nothing under it."""
        return f"### {self.wording.say(key)}{self._mark()}" if content else ""

    def _mark(self) -> str:
        return f" ({PHANTOM_MARK})" if self.run.phantom else ""

    def _figure(self, name: str) -> str:
        """A numbered picture with its caption; empty where the run has none of the name."""
        if not (self.run.folder / f"{name}.png").exists():
            return ""
        self.figures += 1
        caption = self.wording.say(f"figure_{Path(name).name}")
        caption = self.wording.say("figure", number=self.figures, caption=caption) + self._mark()
        return f"![{caption}]({name}.png)\n\n*{caption}*"

    def _tabled(self, name: str, table: str) -> str:
        """A table below its numbered caption; empty where there is none."""
        if not table:
            return ""
        self.tables += 1
        key = f"table_{name}"
        if name == "counts" and "threshold" not in self.metrics:
            key = "table_finding_counts"
        if name == "cost" and "members" in self.metrics:
            key = "table_cost_average"
        of_folds = self.metrics.get("calibration_out_of_fold") or {}
        words = {
            "size": self._input_size(),
            "final": self.wording.say(self.facts["final"]),
            "n": self.wording.number(of_folds.get("n"), ","),
        }
        caption = self.wording.say(key, **words)
        caption = self.wording.say("table", number=self.tables, caption=caption) + self._mark()
        return f"*{caption}*\n\n{table}"

    def _input_size(self) -> int | None:
        return (self.metrics.get("costs") or {}).get("input_size")

    def _title(self) -> str:
        say, metrics = self.wording.say, self.metrics
        experiment = lab_experiments.experiment_of(metrics)
        title = self.facts["title"]
        if "members" in metrics:
            title = say(f"title_{kind_of_average(metrics)}", title=title, **self._counts())
        if metrics.get("recipe_name") in lab_experiments.RECIPES:
            key = "title_changed_recipe" if metrics.get("recipe_changes") else "title_recipe"
            title = say(key, title=title, recipe=metrics["recipe_name"])
        if experiment.number:
            text = say("title_of_experiment", number=experiment.number, title=title)
        else:
            text = say("title", title=title)
        return text + self._mark()

    def _top(self, environment: Mapping[str, Any]) -> str:
        """The run's name, its date, and links to the other language and to all results."""
        say = self.wording.say
        parts = [f"{say('run')} `{self.run.name}`"]
        if finished := environment.get("finished"):
            parts[0] += f", {say('finished', date=finished[:10])}"
        parts += [
            f"[{MESSAGES['language'][column]}]({PAGES[code]})"
            for column, code in enumerate(LANGUAGES)
            if code != self.wording.language
        ]
        overview = self.results_dir / PAGES[self.wording.language]
        if overview.exists():
            parts.append(f"[{say('all_results')}]({link(self.run.folder, overview)})")
        return " · ".join(parts)

    def _warning(self, text: str) -> str:
        if self.wording.language == "id":
            translated = in_indonesian(text)
            if translated is None:
                return self.wording.say("warning_untranslated", text=escaped(text))
            text = translated
        return self.wording.say("warning", text=escaped(text))

    def _question(self) -> str:
        experiment = lab_experiments.experiment_of(self.metrics)
        texts = experiment.question
        if start_of(self.metrics):
            texts = lab_experiments.FROM_FILE[0]
        if "members" in self.metrics:
            texts = lab_experiments.AVERAGES[kind_of_average(self.metrics)][0]
        return self.wording.texts(texts, self.facts)

    def _hypothesis(self) -> str:
        """The reason, what every run can answer, and a claim of the reports."""
        metrics, experiment = self.metrics, lab_experiments.experiment_of(self.metrics)
        if experiment is lab_experiments.BASELINE:
            return self.wording.texts(experiment.reason, self.facts)
        texts = experiment.reason
        if experiment.pretrained and start_source(metrics) == "imagenet":
            texts = experiment.pretrained
        if start_of(metrics):
            texts = lab_experiments.FROM_FILE[1]
        if "members" in metrics:
            texts = lab_experiments.AVERAGES[kind_of_average(metrics)][1]
        common = lab_experiments.COMMON
        if self.run.phantom:
            common = lab_experiments.COMMON_PHANTOM
        if "threshold" not in metrics:
            common = lab_experiments.COMMON_FINDINGS
        parts = [self.wording.texts(part, self.facts) for part in (texts, common)]
        if experiment.claim and "threshold" in metrics and not self.run.phantom:
            claim = self.wording.texts(experiment.claim, self.facts)
            parts.append(self.wording.say("claim", claim=claim))
        return " ".join(parts)

    def _source(self) -> str:
        size, source = self.metrics["data"].get("size"), self.run.source
        source = source.replace("`", "'")
        if size is None:
            return self.wording.say("source_without_size", source=source)
        return self.wording.say("source", source=source, size=size)

    def _patients(self) -> list[str]:
        """A sentence for each evaluated split whose patients are known."""
        return [
            self.wording.say(
                "patients_of_split",
                n=self.wording.number(self.metrics[split]["n"], ","),
                split=self.wording.say(f"split_{split}"),
                patients=self.wording.number(of_split.number, ","),
                effective=self.wording.number(of_split.effective, ",.0f"),
                most=self.wording.number(of_split.most, ","),
            )
            for split, of_split in self.patients.items()
            if of_split is not None
        ]

    def _network(self, blocks: Blocks | None) -> str:
        """Its parameters and what it starts from; empty for baselines."""
        if self.run.kind == "baseline":
            return ""
        say, facts = self.wording.say, self.facts
        values = {key: facts[key] for key in ("parameters", "start")}
        if "members" not in self.metrics:
            parts = [say("network", model=escaped(network_name(self.metrics)), **values)]
        else:
            of_runs = "_of_runs" if kind_of_average(self.metrics) == "runs" else ""
            parts = [say(f"network_average{of_runs}", **self._counts(), **values)]
            parts.append(self._starts_of_members())
        if (self.metrics.get("starting_weights") or {}).get("note"):
            parts.append(say("not_pretrained"))
        if blocks is None and not self.metrics.get("blend"):
            parts.append(say("no_blocks"))
        elif "members" in self.metrics and blocks is not None:
            parts.append(say("blocks_of_one"))
        return " ".join(parts)

    def _starts_of_members(self) -> str:
        """What the networks of an average start from: of averages of runs, each may differ."""
        say, networks = self.wording.say, Counter[str]()
        for member in self.metrics["members"] if self.metrics.get("blend") else ():
            known = member if member.get("starting_weights") else self.metrics
            text = _start_in_words(self.wording, start_source(known))
            networks[text] += member.get("networks", 1)
        if len(networks) < 2:
            return say("start_of_each", start=self.facts["start"])
        parts = [say("start_of_some", n=n, start=start) for start, n in networks.items()]
        return say("starts_of_networks", starts=self.wording.listed(parts))

    def _counts(self) -> dict[str, Any]:
        """Members of an average, and networks of an average of averages."""
        networks = networks_of(self.metrics) or self.wording.say("several")
        return {"members": len(self.metrics["members"]), "networks": networks}

    def _recipe(self) -> str:
        """Which recipe it is, and what was changed from the published one or that of a script."""
        say, name = self.wording.say, self.metrics.get("recipe_name", "")
        parts = []
        if name in lab_experiments.RECIPES:
            recipe = self.wording.texts(lab_experiments.RECIPES[name], self.facts)
            parts.append(say("recipe_of", recipe=recipe))
        changes = self.metrics.get("recipe_changes")
        of = "_own" if lab_experiments.is_own(self.metrics) else ""
        if changes:
            published = self.metrics.get("recipe_published") or {}
            texts = (
                say(f"change{of}", option=key, value=value, published=published[key])
                if key in published
                else say("change_without", option=key, value=value)
                for key, value in changes.items()
            )
            parts.append(say("changed", changes=", ".join(texts)))
        elif changes is not None:
            parts.append(say(f"unchanged{of}"))
        return " ".join(parts)

    def _unit(self) -> str:
        """What intervals resample, which class is positive, and how images were predicted."""
        say, metrics = self.wording.say, self.metrics
        values = {
            "unit": say(self.facts["unit"]),
            "view": say(f"view_{metrics['tta']}") if metrics.get("tta") else "",
        }
        if "threshold" not in metrics:
            return say("unit_of_findings", **values).strip()
        text = say("unit_of_intervals", threshold=self._threshold(), **values).strip()
        if self.run.val_out_of_fold:
            return f"{text} {say('val_out_of_fold')}"
        if self.run.kind != "baseline" or not metrics.get("oof"):
            return text
        threshold = metrics.get("oof_threshold")  # older versions chose one on these images
        if threshold is None:
            return f"{text} {say('oof_threshold_chosen')}"
        return f"{text} {say('oof_threshold', threshold=self.wording.number(threshold, '.2f'))}"

    def _threshold(self) -> str:
        """With its interval; an older version stored none."""
        interval = self.wording.interval(self.metrics.get("threshold_ci95"), ".2f")
        return f"{self.wording.number(self.metrics['threshold'], '.2f')} {interval}".strip()

    def _of_members(self) -> str:
        """What was averaged; empty for a single network."""
        metrics, say = self.metrics, self.wording.say
        if "members" not in metrics:
            return ""
        return say(
            "members",
            averaged=say(f"averaged_{metrics.get('averaged', 'probabilities')}"),
            threshold=self._threshold(),
            chosen_on=say(f"chosen_on_{metrics['threshold_chosen_on']}"),
        )

    def _below_members(self) -> str:
        """Which member is the best; empty for a single network."""
        if "members" not in self.metrics:
            return ""
        best = self.metrics["best_member"]
        if kind_of_average(self.metrics) == "folds":  # each was judged on images of its own
            return self.wording.say("below_folds", name=best["name"])
        split = "val" if best["chosen_on"].endswith("val") else "held_out"
        shown = self.wording.say(f"split_{lab_tables.shown_split(self.metrics, split)}")
        return self.wording.say("below_members", name=best["name"], split=shown)

    def _files(self) -> str:
        """Links to the files that the figures come from."""
        splits = [split for split in ("val", "test", "oof") if self.metrics.get(split)]
        names = ["metrics.json", "history.csv"]
        names += [f"{split}_probabilities.csv" for split in splits]
        present = [name for name in names if (self.run.folder / name).exists()]
        return ", ".join(f"[{name}]({name})" for name in present)


def _start_in_words(wording: LabWording, start: str) -> str:
    known = {"none": "start_random", "imagenet": "start_imagenet"}
    return wording.say(known.get(start, "start_file"), source=start)


def _words(wording: LabWording, metrics: Mapping[str, Any]) -> dict[str, str]:
    """Facts in words: parameters, what the network starts from, torchvision's name of it."""
    return {
        "parameters": wording.number(metrics.get("parameters"), ","),
        "start": _start_in_words(wording, start_source(metrics)),
        "arch": (metrics.get("model_arguments") or {}).get("arch", metrics["model"]),
    }
