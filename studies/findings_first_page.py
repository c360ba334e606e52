"""Tables, pictures and pages of `studies.findings_first`, made of what it has stored."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from chestlab.evaluation.out_of_fold import NETWORK_KIND
from chestlab.reporting.page import Wording
from studies import start_tables
from studies.learned_findings import Starts, findings_values, write_findings
from studies.stored_results import read_results

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
    read = summary, _ = read_results(folder, "findings_first", "configurations")
    starts = starts_in(summary)
    pairs, findings = comparisons(starts), write_findings(folder, summary, starts)

    def own(wording: Wording) -> dict[str, Any]:
        told = findings_values(wording, starts, findings)
        return {"starts": starts, "short": SHORT, "probe": PROBE, **told}

    heading, wanted = "From random numbers and from the 14 findings", dict.fromkeys(chain(*pairs))
    start_tables.write_page(folder, "findings_first", read, heading, list(wanted), pairs, own)
