"""Tables, pictures and pages of `studies.findings_first`, made of what it has stored."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chestlab.evaluation.out_of_fold import NETWORK_KIND
from chestlab.reporting.page import Wording
from studies.fresh_folds import comparison_cells, comparison_table
from studies.learned_findings import Starts, findings_values, write_findings
from studies.start_tables import cells, draw, in_words, table
from studies.stored_results import read_results
from studies.study import write_readmes, write_table

SHORT = "_short"  # after the name of a row with fewer epochs at a lower rate

PROBE = "_probe"  # after the name of a row of logistic regression on features


def starts_in(summary: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The record of each file that rows start from, by ``<network>_<objective>``."""
    found = {}
    for about in summary["configurations"].values():
        if about.get("start") and about["kind"] == NETWORK_KIND:
            found.setdefault(f"{about['model']}_{about['start']['learned']}", about["start"])
    return found


def comparisons(starts: Starts) -> list[tuple[str, str]]:
    """Pairs of rows, of which the first is claimed to have the higher AUC; fixed before training.

    With what was learned first against without, by the whole recipe and by the short one; and
    fine-tuned against features alone.
    """
    pairs = []
    for name in starts:
        network = name.rpartition("_")[0]
        pairs += [(name, network), (name + SHORT, network), (name, name + PROBE)]
    return pairs


def write_page(folder: Path) -> None:
    """Write tables, pictures and the page in two languages.

    Raises:
        InputError: ``oof.csv`` or ``findings_first.json`` is missing or damaged.
    """
    summary, oof = read_results(folder, "findings_first", "configurations")
    rows, starts = table(summary, oof, list(summary["configurations"])), starts_in(summary)
    compared = comparison_table(oof, comparisons(starts))
    write_table(folder / "table.csv", rows)
    if compared:
        write_table(folder / "comparisons.csv", compared)
    heading = "From random numbers and from the 14 findings"
    draw(rows, folder / "findings_first.png", heading, summary, oof)
    findings = write_findings(folder, summary, starts)

    wanted = [row for pair in comparisons(starts) for row in pair]
    missing = [name for name in dict.fromkeys(wanted) if name not in oof.logits]

    def values(wording: Wording) -> dict[str, Any]:
        return {
            "starts": starts,
            "missing": missing,
            "short": SHORT,
            "probe": PROBE,
            "rows": [cells(wording, row) for row in rows],
            "compared": [comparison_cells(wording, row) for row in compared],
            "comparisons": len(compared),
            "fixed": len(comparisons(starts)),
            "number": wording.number,
            **findings_values(wording, starts, findings),
            **in_words(wording, rows, compared, summary["repeats"]),
        }

    write_readmes(folder, "findings_first", summary, oof, values)
