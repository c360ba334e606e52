"""What stands in `results/`, as pages that a code host renders.

`python visualize.py` calls this room: it reads the folder of every finished run and writes
`results/README.md` (or `README.id.md`), a page about the mistakes of a run, or a list of image
names. It reads numbers and asks `visualize` for pictures; it trains and predicts nothing.
"""

from __future__ import annotations

import csv
import html
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from chestlab.data.phantom import PHANTOM_MARK
from chestlab.data.splits import CLASS_NAMES
from chestlab.evaluation.tasks import GOAL, SPLIT_TITLES
from chestlab.files.atomic import atomic_write
from chestlab.reporting import comparison_plots, evaluation_plots
from chestlab.reporting.messages import LANGUAGES, MESSAGES
from chestlab.reporting.page import NOTHING, Page, escaped, link
from chestlab.reporting.pairs import add_pairs, difference, two_lines
from chestlab.reporting.stored_runs import StoredRun, read_patients, read_runs
from chestlab.training.recipe import in_words

WARNING = "Look at the test images only after the recipe is final."


GALLERY = (
    "training_curves",
    "confusion_matrix",
    "roc_curve",
    "calibration",
    "val_predictions",
    "gradcam",
    "members",
)


def write_report(results_dir: Path, language: str = "en") -> Path:
    """Write ``README.md`` (or ``README.id.md``) and the pictures it needs into ``results_dir``.

    Raises:
        InputError: there is no finished run.
        OSError: a file cannot be written.
    """
    runs = read_runs(results_dir)
    page = Page(language)
    names = {code: "README.md" if code == "en" else f"README.{code}.md" for code in LANGUAGES}
    page.add(f"# {page.say('title')}")
    for code in LANGUAGES:
        if code != language and (results_dir / names[code]).exists():
            page.add(f"[{MESSAGES['language'][LANGUAGES.index(code)]}]({names[code]})")
    page.add(page.say("intro"))
    page.add(f"## {page.say('protocol_title')}")
    page.add(page.say("protocol"))
    page.add(page.say("reading"))
    own_pages = [  # of comparisons, whose runs lie deeper
        path
        for path in sorted(results_dir.glob("*/README.md"))
        if not (path.parent / "metrics.json").exists()
    ]
    if own_pages:
        links = (f"- [{_heading(p)}]({link(results_dir, p)})" for p in own_pages)
        page.add("\n".join([f"{page.say('own_pages')}\n", *links]))
    groups: dict[tuple[bool, str], list[StoredRun]] = {}
    for run in runs:
        key = run.phantom, run.metrics["data"]["sha256"]
        groups.setdefault(key, []).append(run)
    real = sorted(
        (group for (phantom, _), group in groups.items() if not phantom),
        key=lambda group: group[0].source,
    )
    stems = Counter(group[0].stem for group in groups.values())

    def add(group: list[StoredRun], level: str) -> None:
        source, sha256 = group[0].source, group[0].metrics["data"]["sha256"]
        suffix = f"_{sha256[:6]}" if stems[group[0].stem] > 1 else ""  # files of the same name
        about = f" (SHA-256 {sha256[:6]})" if suffix else ""
        _add_source(page, results_dir, group, f"{level} {escaped(source)}{about}", suffix)

    for group in real:
        add(group, "##")
    for path in sorted(results_dir.glob("*/ablation.json")):
        _add_ablation(page, results_dir, path.parent)
    phantoms = [group for (phantom, _), group in groups.items() if phantom]
    if phantoms:
        page.add(f"## {page.say('phantom_title')}")
        page.add(f"**{PHANTOM_MARK}.** {page.say('phantom')}")
    for group in phantoms:
        add(group, "###")
    path = results_dir / names[language]
    atomic_write(path, page.text())
    return path


def _heading(page: Path) -> str:
    """What a page calls itself, and its folder, which tells two of the same name apart."""
    with page.open(encoding="utf-8", errors="replace") as file:
        first = file.readline().lstrip("# ").strip()
    return f"{escaped(first)} ({escaped(page.parent.name)})"


def _add_ablation(page: Page, results_dir: Path, folder: Path) -> None:
    """The table of an ablation, with a link to its own page."""
    try:
        about = json.loads((folder / "ablation.json").read_text(encoding="utf-8"))
        with (folder / "table.csv").open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["verdict"]]
        cells = [_ablation_row(page, row) for row in rows]
        if about["repeats"] == 1:  # which decides nothing, see `verdicts`
            return
        source = about["data"]["source"]
        values = {key: about[key] for key in ("repeats", "folds", "net")}
        values["recipe_name"] = _recipe(about)
        text = page.say("ablation", source=escaped(source), **values)
        net, recipe = escaped(about["net"]), escaped(about["recipe_name"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"NOTE: '{folder}' is left out, it is damaged: {error!r}", file=sys.stderr)
        return
    page.add(f"## {page.say('ablation_title', net=net, recipe=recipe)}")
    readme = link(results_dir, folder / "README.md")
    page.add(f"{text} [{escaped(folder.name)}]({readme})")
    if cells:
        heads = ("switch", "gain_auc", "gain_accuracy", "images_seen", "verdict")
        page.table([page.say(head) for head in heads], cells, left=1)


def _ablation_row(page: Page, row: Mapping[str, str]) -> tuple[str, ...]:
    gains = []
    for measure in ("auc", "accuracy"):
        value, *ends = (float(row[f"{measure}_gain{end}"]) for end in ("", "_low", "_high"))
        gains.append(f"{page.number(value, '+.3f')} {page.interval(ends, '+.3f')}")
    together = row["kind"] == "together"
    name = page.say("all_winners") if together else f"`{escaped(row['configuration'])}`"
    ratio = f"x {page.number(float(row['images_ratio']), '.2f')}"
    return name, *gains, ratio, page.say(row["verdict"])


def _add_source(
    page: Page, results_dir: Path, group: list[StoredRun], heading: str, suffix: str
) -> None:
    """Everything about the runs on one source; runs on another never share a table with them."""
    # By validation: an order by test would be a choice made on test.
    group = sorted(group, key=lambda r: (r.kind == "yardstick", -r.metrics["val"]["auc"], r.name))
    sub = "#" * heading.index(" ") + "#"
    page.add(heading)
    counts = group[0].metrics["data"]["counts"]
    page.table(
        [page.say("split"), *(page.say(name) for name in CLASS_NAMES), page.say("together")],
        [
            [page.say(split), *(page.number(n, ",") for n in (*c.values(), sum(c.values())))]
            for split, c in counts.items()
        ],
        left=1,
    )
    if (results_dir / f"{group[0].stem}_names.csv").exists():
        page.add(f"[{page.say('names')}]({group[0].stem}_names.csv)")
    tested = [run for run in group if "test" in run.predictions]
    patients = read_patients(results_dir, tested[0], "test") if tested else None
    best = {key: _best(tested, key, patients) for key in ("accuracy", "auc")}
    page.add(f"{sub} {page.say('table_title')}")
    _add_table(page, results_dir, group, best)
    for key, (run, unclear) in best.items():
        if run is not None and len(tested) > 1:
            values = {
                "figure": page.say(f"test_{key}"),
                "run": f"{group.index(run) + 1} ({run.short_name})",
                "others": ", ".join(str(group.index(other) + 1) for other in unclear),
            }
            page.add(page.say("best_unclear" if unclear else "best_clear", **values))
    if not any(run.kind == "yardstick" for run in group):
        page.add(page.say("no_yardsticks"))
    _add_members(page, group)
    if len(tested) > 1:
        picture = results_dir / f"comparison_{group[0].stem}{suffix}.png"
        _draw_comparison(picture, group)
        page.add(f"![{page.say('comparison_caption')}]({picture.name})")
        page.add(f"*{page.say('comparison_caption')}*")
        page.add(f"{sub} {page.say('pairs_title')}")
        add_pairs(page, group, tested, patients)
    _add_costs(page, group, sub)
    _add_cross_validation(page, results_dir, group, sub)
    page.add(f"{sub} {page.say('gallery_title')}")
    for number, run in enumerate(group, 1):
        _add_gallery(page, results_dir, run, number)


def _best(
    tested: Sequence[StoredRun], key: str, patients: np.ndarray | None
) -> tuple[StoredRun | None, list[StoredRun]]:
    """The run with the highest test figure, and those it is not clearly better than."""
    best = max(tested, key=lambda run: run.metrics["test"][key], default=None)
    others = [run for run in tested if run is not best]
    return best, [run for run in others if difference(best, run, patients)[f"{key}_ci95"][0] <= 0]


def _add_table(
    page: Page,
    results_dir: Path,
    group: Sequence[StoredRun],
    best: Mapping[str, tuple[StoredRun | None, list[StoredRun]]],
) -> None:
    looks = _looks(group)
    rows = []
    for number, run in enumerate(group, 1):
        metrics = run.metrics
        val = metrics["val"]
        about = [_model(page, run)]
        if run.kind == "ensemble":
            words = str(metrics.get("kind")).split()
            kind = next((kind for kind in ("folds", "runs") if kind in words), "seeds")
            about.append(page.say(f"average_of_{kind}", n=len(metrics["members"])))
            about.append(_recipe(metrics))
        elif run.kind == "network":
            about += [_recipe(metrics), page.say("seed", seed=metrics.get("seed"))]
        if run.kind != "yardstick":
            note = (metrics.get("starting_weights") or {}).get("note")
            about += [note] if note else []
        name = f"[{escaped(run.short_name)}]({link(results_dir, run.folder)}/)"
        cells = [
            str(number),
            f"{name}<br>{escaped(' · '.join(part for part in about if part))}",
            two_lines(page.percent(val["accuracy"]), page, val.get("accuracy_ci95"), ".1f", 100),
            page.say("yes" if val["accuracy"] >= GOAL else "no"),
            page.number(val["auc"]),
        ]
        for key, form, factor in (("accuracy", ".1f", 100), ("auc", ".3f", 1)):
            if metrics["test"] is None:
                cells.append(NOTHING)
                continue
            value = metrics["test"][key]
            text = page.percent(value) if key == "accuracy" else page.number(value)
            winner, unclear = best[key]
            if run is winner and not unclear and sum("test" in r.predictions for r in group) > 1:
                text = f"**{text}**"
            ends = metrics["test"].get(f"{key}_ci95")
            cells.append(two_lines(text, page, ends, form, factor))
        costs = metrics.get("costs") or {}
        alone, batch = ((costs.get(f"inference_batch{n}") or {}).get("median_ms") for n in (1, 64))
        cells += [
            page.number(metrics.get("parameters"), ","),
            _time(page, metrics.get("seconds"), metrics.get("device")),
            NOTHING
            if alone is None
            else f"{page.number(alone, '.3g')} / {page.number(batch, '.3g')}",
            page.number(looks[run.group_key], "d"),
        ]
        rows.append(cells)
    heads = ["run", "val_accuracy", "goal", "val_auc", "test_accuracy", "test_auc"]
    heads += ["parameters", "time", "milliseconds", "looks"]
    page.table(["#", *(page.say(f"head_{head}") for head in heads)], rows)
    unit = group[0].metrics.get("bootstrap_unit")
    page.add(page.say("below_table", unit=page.say(unit if unit == "patient" else "image")))


def _add_costs(page: Page, group: Sequence[StoredRun], sub: str) -> None:
    """What each network costs; times and speed ratios only among runs on the same device."""
    rows = []
    for number, run in enumerate(group, 1):
        metrics, costs = run.metrics, run.metrics.get("costs")
        if not costs:
            continue
        same = [r.metrics for r in group if r.metrics.get("device") == metrics.get("device")]
        slowest = max(other["seconds"] for other in same)
        spread = []
        for n in (1, 64):
            times = costs.get(f"inference_batch{n}") or {}
            ends = [times[key] for key in ("low_ms", "high_ms") if key in times]
            text = page.number(times.get("median_ms"), ".3g")
            spread.append(two_lines(text, page, ends, ".3g", 1))
        rows.append(
            [
                str(number),
                escaped(run.short_name),
                page.number(metrics.get("parameters"), ","),
                page.number(_over(costs.get("multiply_accumulates"), 1e6), ".3g"),
                page.percent(metrics["val"]["accuracy"]),
                page.percent(metrics["test"]["accuracy"]) if metrics["test"] else NOTHING,
                _time(page, metrics["seconds"], metrics.get("device")),
                f"{page.number(slowest / metrics['seconds'], '.1f')}x",
                page.number(metrics.get("images_per_second"), ".3g"),
                *spread,
                page.number(_over(costs.get("peak_memory_bytes"), 1e6), ".3g"),
                page.number(_over(costs.get("checkpoint_bytes"), 1e6), ".3g"),
            ]
        )
    if not rows:
        return
    heads = ["run", "parameters", "arithmetic", "val_accuracy", "test_accuracy", "time", "speed"]
    heads += ["training_rate", "alone", "of_64", "memory", "checkpoint"]
    page.add(f"{sub} {page.say('costs_title')}")
    page.table(["#", *(page.say(f"head_{head}") for head in heads)], rows)
    page.add(page.say("below_costs"))


def _over(value: float | None, unit: float) -> float | None:
    return None if value is None else value / unit


def _recipe(metrics: Mapping[str, Any]) -> str:
    """The recipe's name, and what the run does otherwise."""
    named = in_words(metrics.get("recipe_name") or "", metrics.get("recipe_changes") or {})
    return named.replace("`", "")


def _looks(group: Sequence[StoredRun]) -> Counter[str]:
    """How many runs of each recipe were evaluated on test, the members of ensembles included."""
    looks: Counter[str] = Counter()
    for run in group:
        if "test" not in run.predictions:
            continue
        looks[run.group_key] += 1
        if run.kind == "ensemble" and "seeds" in str(run.metrics.get("kind")):
            single = json.dumps([run.recipe_key, "network", None])
            looks[single] += sum("test" in member for member in run.metrics["members"])
    return looks


def _model(page: Page, run: StoredRun) -> str:
    recipe = (run.metrics.get("recipe") or {}).get("name")
    if run.kind == "yardstick" and f"yardstick_{recipe}" in MESSAGES:
        return page.say(f"yardstick_{recipe}")
    return run.metrics["model"]


def _time(page: Page, seconds: float | None, device: str | None) -> str:
    from chestlab.files.progress import duration

    if seconds is None:
        return NOTHING
    text = f"{page.number(seconds, '.1f')} s" if seconds < 60 else duration(seconds)
    return f"{text} ({device})" if device else text


def _add_members(page: Page, group: Sequence[StoredRun]) -> None:
    """How the single networks of the ensembles do, one line for each ensemble."""
    for number, run in enumerate(group, 1):
        figures = (run.metrics.get("mean_and_sd") or {}).get("test")
        if run.kind != "ensemble" or not figures:
            continue
        accuracy, auc = figures["accuracy"], figures["auc"]
        values = {
            "run": f"{number} ({escaped(run.short_name)})",
            "accuracy": f"{page.percent(accuracy['mean'])} ± {page.percent(accuracy['sd'])}",
            "auc": f"{page.number(auc['mean'])} ± {page.number(auc['sd'])}",
        }
        page.add(page.say("members_alone", **values))


def _add_cross_validation(
    page: Page, results_dir: Path, group: Sequence[StoredRun], heading: str
) -> None:
    """The runs that were cross-validated, against the best yardstick and the report's recipe."""
    runs = [run for run in group if "oof" in run.predictions]
    if not runs:
        return
    baselines = [run for run in runs if run.kind == "yardstick"]
    reference = max(baselines, key=lambda run: run.metrics["oof"]["auc"], default=None)
    rows = []
    for run in sorted(runs, key=lambda run: -run.metrics["oof"]["auc"]):
        figures = run.metrics["oof"]
        over = sorted(set(run.predictions["oof"].origin.tolist()))
        reported = [
            other
            for other in runs
            if (other.kind, other.metrics["model"]) == (run.kind, run.metrics["model"])
            and other.metrics.get("recipe_name") == "report"
            and not other.metrics.get("recipe_changes")
        ]
        rows.append(
            [
                f"{group.index(run) + 1} {escaped(run.short_name)}",
                " + ".join(page.say(split) for split in over),
                page.number(figures["n"], ","),
                f"{page.number(figures['auc'])} {page.interval(figures.get('auc_ci95'))}",
                _oof_gain(page, results_dir, run, [reference] if reference else []),
                _oof_gain(page, results_dir, run, reported),
            ]
        )
    page.add(f"{heading} {page.say('cross_validation_title')}")
    heads = [page.say(f"head_{head}") for head in ("run", "divided", "images", "oof_auc")]
    name = "" if reference is None else reference.short_name
    heads += [page.say("head_gain", reference=escaped(name)), page.say("head_gain_report")]
    page.table(heads, rows)
    page.add(page.say("below_cross_validation"))


def _oof_gain(
    page: Page, results_dir: Path, run: StoredRun, references: Sequence[StoredRun]
) -> str:
    """AUC out of fold, less that of the first of the others that was asked for the same images."""
    for other in references:
        if other is not run and run.predictions["oof"].same_images(other.predictions["oof"]):
            patients = read_patients(results_dir, run, "oof")
            compared = difference(run, other, patients, "oof")
            gain = page.number(compared["auc"], "+.3f")
            return f"{gain} {page.interval(compared['auc_ci95'], '+.3f')}"
    return NOTHING


def _draw_comparison(picture: Path, group: Sequence[StoredRun]) -> None:
    chosen: dict[str, StoredRun] = {}
    for run in group:  # in the order of validation AUC
        if "test" in run.predictions:
            chosen.setdefault(run.group_key, run)
    points = [
        {
            "number": number,
            "kind": run.kind,
            "accuracy": run.metrics["test"]["accuracy"],
            "interval": run.metrics["test"]["accuracy_ci95"],
            "parameters": run.metrics.get("parameters"),
            "seconds": run.metrics.get("seconds"),
        }
        for number, run in enumerate(group, 1)
        if chosen.get(run.group_key) is run
    ]
    several = len(chosen) < sum("test" in run.predictions for run in group)
    which = " · of several seeds the one with the highest val AUC" if several else ""
    n = sum(group[0].metrics["data"]["counts"]["test"].values())
    title = f"Test accuracy (held out) with 95 % intervals{which}\n{group[0].source} · test n = {n}"
    comparison_plots.draw_comparison(points, picture, title=title)


def _add_gallery(page: Page, results_dir: Path, run: StoredRun, number: int) -> None:
    if not (run.folder / "calibration.png").exists():  # a run of an older version
        _draw_calibration(run)
    summary = html.escape(f"{number} · {run.short_name} · {_model(page, run)}")
    where = link(results_dir, run.folder)
    lines = [f"<details{' open' if number == 1 else ''}><summary>{summary}</summary>", ""]
    for name in GALLERY:
        if (run.folder / f"{name}.png").exists():
            caption = page.say(f"caption_{name}")
            lines += [f"![{caption}]({where}/{name}.png)", "", f"*{caption}*", ""]
    if (run.folder / "mistakes.md").exists():
        lines += [f"[{page.say('mistakes')}]({where}/mistakes.md)", ""]
    page.add("\n".join([*lines, "</details>"]))


def _shown(run: StoredRun) -> list[str]:
    return [split for split in ("val", "test") if split in run.predictions]


def _draw_calibration(run: StoredRun) -> None:
    splits = _shown(run)
    n = ", ".join(f"{split} n = {run.metrics[split]['n']}" for split in splits)
    curves = {
        SPLIT_TITLES[split]: {
            "labels": run.predictions[split].labels,
            "probabilities": run.predictions[split].probabilities,
        }
        for split in splits
    }
    evaluation_plots.draw_calibration(
        curves,
        run.folder / "calibration.png",
        title=f"{run.name} · {run.metrics['model']}\n{run.source} · {n}",
        threshold=run.metrics["threshold"],
    )
