"""Tables, picture and pages of `studies.fresh_folds`, made of what it has stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from chestlab.evaluation.looks import FILE_NAME, read_looks
from chestlab.evaluation.out_of_fold import (
    AVERAGE_KIND,
    BASELINE_KIND,
    MEASURES,
    NESTED_ACCURACY,
    NETWORK_KIND,
    OutOfFold,
)
from chestlab.evaluation.verdicts import verdicts
from chestlab.files.run_files import results_dir_of
from chestlab.reporting.page import NOTHING, Wording
from chestlab.training.recipe import in_words
from studies import frozen_recipes
from studies.frozen_recipes import (
    AVERAGED,
    BASELINES,
    DECIDED_HERE,
    LOOK_KIND,
    TRANSFERRED,
    comparisons_for,
    of_smaller,
)
from studies.imagenet_chests import CHESTS
from studies.network_names import spellings
from studies.stored_configurations import ESTIMATED, known_first
from studies.stored_results import read_results
from studies.study import interval_cell, interval_columns, p_cell, write_readmes, write_table

ALL_REPEATS = "_all_repeats"  # after the name of a row with the mean of the repeats' networks


def order(names: Collection[str]) -> list[str]:
    """The names of rows as the table has them; at its end those that are frozen no more."""
    frozen = [of.name for of in frozen_recipes.FROZEN]
    networks = [name + end for name in frozen for end in ("", ESTIMATED)]
    smaller = map(of_smaller, (*frozen, *frozen_recipes.AVERAGES))
    return known_first(names, (*networks, *smaller, *frozen_recipes.AVERAGES, *BASELINES))


def table(summary: Mapping[str, Any], oof: OutOfFold) -> list[dict[str, Any]]:
    """A row per configuration with its figures."""
    rows = []
    for name in order(summary["configurations"]):
        about = summary["configurations"][name]
        row = {"configuration": name, "kind": about["kind"], "model": about["model"]}
        recipe = about.get("recipe_name")
        row["recipe"] = in_words(recipe, about["recipe_changes"]) if recipe else ""
        for measure in (*MEASURES, NESTED_ACCURACY):
            row |= interval_columns(measure, oof.estimate(name, measure))
        row["images_seen"] = about.get("images", 0) * (about.get("best_epoch") or 0) or ""
        rows.append(row)
    return rows


def comparison_table(
    oof: OutOfFold, comparisons: Sequence[tuple[str, str]]
) -> list[dict[str, Any]]:
    """A row per pair whose two sides were measured; the first is claimed to have the higher AUC."""
    pairs = [pair for pair in comparisons if set(pair) <= set(oof.logits)]
    gains = [{measure: oof.gain(*pair, measure) for measure in MEASURES} for pair in pairs]
    of_auc = [gain["auc"] for gain in gains]
    rows = []
    for pair, gain, verdict in zip(
        pairs, gains, verdicts(of_auc, [(0, np.inf)] * len(pairs)), strict=True
    ):
        row = dict(zip(("configuration", "over"), pair, strict=True))
        for measure in MEASURES:
            row |= interval_columns(f"{measure}_gain", gain[measure])
        row |= {"detectable": gain["auc"].detectable, "p": verdict.p, "p_holm": verdict.p_holm}
        rows.append(row | {"verdict": verdict.raw, "verdict_holm": verdict.holm})
    return rows


def means_over_repeats(summary: Mapping[str, Any], oof: OutOfFold) -> list[dict[str, Any]]:
    """A row per member of `frozen_recipes.AVERAGES`, and per average, with all repeats' networks.

    An image's logit is the mean of those that the networks of all repeats give it. In each repeat
    another network has it in its fold left out, so that none of them knows it.

    Args:
        summary: of the results.
        oof: gets the means as configurations.

    Returns:
        Figures, and the ``gain`` of the AUC over single networks. Empty with a single repeat.
    """
    repeats = len(oof.folds)
    known = dict.fromkeys((*chain(*frozen_recipes.AVERAGES.values()), *frozen_recipes.AVERAGES))
    names = [name for name in known if name in oof.logits and repeats > 1]
    entries = {name + ALL_REPEATS: {"kind": AVERAGE_KIND} for name in names}
    for name in names:
        oof.add(name + ALL_REPEATS, np.tile(oof.logits[name].mean(0), (repeats, 1)))
    oof.describe({**summary["configurations"], **entries})
    rows = []
    for name in names:
        members = repeats * len(frozen_recipes.AVERAGES.get(name, [name]))
        row: dict[str, Any] = {"configuration": name, "networks": members}
        for measure in MEASURES:
            row |= interval_columns(measure, oof.estimate(name + ALL_REPEATS, measure))
        gain = oof.gain(name + ALL_REPEATS, name, "auc")
        rows.append(row | interval_columns("auc_gain", gain))
    return rows


def write_page(folder: Path) -> None:
    """Write ``table.csv``, ``means.csv``, ``comparisons.csv``, a picture and the pages.

    Raises:
        InputError: ``oof.csv`` or ``fresh_folds.json`` is missing or damaged.
    """
    from chestlab.reporting.study_plots import draw_estimates

    summary, oof = read_results(folder, "fresh_folds", "configurations")
    pairs = comparisons_for(summary["data"]["size"])
    rows, compared = table(summary, oof), comparison_table(oof, pairs)
    write_table(folder / "table.csv", rows)
    write_table(folder / "comparisons.csv", compared)
    draw_estimates(
        rows,
        folder / "fresh_folds.png",
        title=f"Frozen recipes on fresh folds\n{summary['data']['source']} · train + val "
        f"n = {len(oof.labels)}, {summary['repeats']} x {summary['folds']} folds",
        caption="Each point is the mean of single networks, except the averages. Bars: 95 % "
        "intervals over patients and repeats. Accuracy at a probability of 0.5.",
    )
    means = means_over_repeats(summary, oof)
    if means:
        write_table(folder / "means.csv", means)
    uses, told = _uses(folder, summary), _told(summary, oof, pairs)
    write_readmes(
        folder,
        "fresh_folds",
        summary,
        oof,
        lambda wording: {
            **told,
            "best": _best(wording, rows),
            "rows": [_cells(wording, row, uses) for row in rows],
            "means": [_mean_cells(wording, row) for row in means],
            "compared": [comparison_cells(wording, row) for row in compared],
            "comparisons": len(compared),
            "number": wording.number,
        },
    )


def _told(
    summary: Mapping[str, Any], oof: OutOfFold, pairs: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    """What the page says of its rows in either language.

    Args:
        summary, oof: of the results.
        pairs: comparisons that these images can have.
    """
    entries = summary["configurations"]
    taken = {name for name, of in entries.items() if "data" in of}
    networks = {name: of for name, of in entries.items() if of["kind"] == NETWORK_KIND}
    frozen = (of for of in frozen_recipes.FROZEN if of.is_for(summary["data"]["size"]))
    lacking = [of for of in frozen if not {of.name, of_smaller(of.name)} & {*entries}]
    averages = {name: of for name, of in frozen_recipes.AVERAGES.items() if name in entries}
    with_both = {name: of for name, of in averages.items() if {*of} >= AVERAGED}
    return {
        "started": any("start" in of for of in entries.values()),
        "lowered": {TRANSFERRED, of_smaller(TRANSFERRED)} & {*entries},
        "missing": [of.name for of in lacking],
        "of_a_file": [of.name for of in lacking if of.weights in CHESTS.values()],
        "related": [name for name, of in networks.items() if of["recipe_changes"].get("related")],
        "decided_here": [name for name in DECIDED_HERE if name in entries],
        "besides": {name: others for name, (_, _, *others) in with_both.items() if others},
        "of_sizes": {name: of for name, of in averages.items() if taken & {*of}},
        "taken": taken,
        "fixed": len(pairs),
        "late": any(over in taken for _, over in pairs),
        "failed": [name for name in oof.logits if oof.failed(name)],
    }


def _uses(folder: Path, summary: Mapping[str, Any]) -> dict[str, int]:
    """How often each network was evaluated on the fresh folds, by this study and all others.

    Counted in the table of looks: lines of the same data, network and recipe, also where its
    pictures were changed, or its weights pruned or quantised. A network may have either of its
    `network_names.spellings` there.
    """
    results_dir = results_dir_of(folder)
    looks = read_looks(results_dir / FILE_NAME) + read_looks(results_dir / "phantom" / FILE_NAME)
    counts = Counter(
        (look.data, look.network, look.recipe) for look in looks if look.kind == LOOK_KIND
    )
    known = {"data": summary["data"]["sha256"]}  # of rows that were not taken over
    return {
        name: sum(counts[of["data"], network, of["recipe"]] for network in spellings(of["model"]))
        for name, of in ((name, known | of) for name, of in summary["configurations"].items())
        if of["kind"] == NETWORK_KIND
    }


def _best(wording: Wording, rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The configuration and the baseline with the highest AUC, with their figures in words."""
    texts = {}
    for kind, of_baselines in (("network", False), ("baseline", True)):
        known = [row for row in rows if (row["kind"] == BASELINE_KIND) == of_baselines]
        if known:
            highest = max(known, key=lambda row: row["auc"])
            figures = [interval_cell(wording, highest, measure) for measure in MEASURES]
            texts[kind] = f"`{highest['configuration']}`"
            texts |= dict(zip((f"{kind}_auc", f"{kind}_accuracy"), figures, strict=True))
    return texts


def _cells(wording: Wording, row: Mapping[str, Any], uses: Mapping[str, int]) -> list[str]:
    figures = [interval_cell(wording, row, measure) for measure in (*MEASURES, NESTED_ACCURACY)]
    seen = wording.number(row["images_seen"], ",.0f") if row["images_seen"] else NOTHING
    used = wording.number(uses.get(row["configuration"]), "d")
    of_what = wording.say(f"judged_{row['kind']}")
    recipe = row["recipe"] or NOTHING
    return [f"`{row['configuration']}`", recipe, of_what, *figures, seen, used]


def _mean_cells(wording: Wording, row: Mapping[str, Any]) -> list[str]:
    figures = [interval_cell(wording, row, measure) for measure in MEASURES]
    gain = interval_cell(wording, row, "auc_gain", "+.3f")
    return [f"`{row['configuration']}`", wording.number(row["networks"], "d"), *figures, gain]


def comparison_cells(wording: Wording, row: Mapping[str, Any]) -> list[str]:
    gains = [interval_cell(wording, row, f"{measure}_gain", "+.3f") for measure in MEASURES]
    decimals = [
        wording.number(row["detectable"]),
        *(p_cell(row[key], wording) for key in ("p", "p_holm")),
    ]
    verdict = wording.say(f"verdict_{row['verdict_holm']}")
    return [f"`{row['configuration']}`", f"`{row['over']}`", *gains, *decimals, f"**{verdict}**"]
