"""The page of all studies: a link to each, its files, and the tables of the ablations."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chestlab.data.phantom import PHANTOM_MARK
from chestlab.evaluation.out_of_fold import OutOfFold
from chestlab.files.errors import InputError
from chestlab.files.run_files import STUDIES
from chestlab.reporting.details import file_links
from chestlab.reporting.lab_messages import LAB_MESSAGES
from chestlab.reporting.lab_warnings import warning_in
from chestlab.reporting.look_tables import recipe_text
from chestlab.reporting.page import (
    Wording,
    escaped,
    in_language,
    link,
    markdown_table,
    render,
)


def study_folders(results_dir: Path) -> list[Path]:
    """Every folder of a study with a page of its own, phantoms' included; runs have `metrics.json`.

    Earlier versions wrote studies beside the runs.
    """
    places = (f"{STUDIES}/", "", f"phantom/{STUDIES}/", "phantom/")
    pages = [page for place in places for page in results_dir.glob(f"{place}*/README.md")]
    apart = (results_dir / "phantom", results_dir / STUDIES, results_dir / "phantom" / STUDIES)
    return sorted(
        page.parent
        for page in pages
        if page.parent not in apart and not (page.parent / "metrics.json").exists()
    )


def is_of_phantoms(folder: Path) -> bool:
    """A study's page says that its images are phantoms."""
    text = (folder / "README.md").read_text(encoding="utf-8", errors="replace")
    return PHANTOM_MARK in text


def studies_page(
    wording: Wording, page_dir: Path, folders: Sequence[Path], pages: Mapping[str, str]
) -> str:
    """The text of the page.

    Args:
        wording: language of the page.
        page_dir: where it lies.
        folders: of the studies.
        pages: addresses of other pages: ``front``, and ``translation`` where there is one.
    """
    ablations = [folder for folder in folders if (folder / "ablation.json").exists()]
    sections = [_ablation_section(wording, page_dir, folder) for folder in ablations]
    return render(
        "studies.md.j2",
        say=wording.say,
        pages=pages,
        studies=_entries(wording, page_dir, folders),
        files=[(escaped(folder.name), file_links(page_dir, folder)) for folder in folders],
        ablations=[section for section in sections if section is not None],
    )


def _entries(
    wording: Wording, page_dir: Path, folders: Sequence[Path]
) -> list[tuple[str, str, str]]:
    """Each study's heading, the address of its page and what that says in short.

    The page is the one in this language if there is one.
    """
    pages = [in_language(wording, folder / "README.md") for folder in folders]
    headings = [_heading(page) for page in pages]
    entries = []
    for folder, page, heading in zip(folders, pages, headings, strict=True):
        name = heading if headings.count(heading) == 1 else f"{heading} ({escaped(folder.name)})"
        if wording.language != "en" and page.name == "README.md":
            name += f" ({wording.say('english_page')})"
        entries.append((name, link(page_dir, page), _in_short(page)))
    return entries


def _heading(page: Path) -> str:
    with page.open(encoding="utf-8", errors="replace") as file:
        return escaped(file.readline().lstrip("# ").strip())


def _in_short(page: Path) -> str:
    """The answer that a page begins with, in one line; empty where there is none."""
    text = page.read_text(encoding="utf-8", errors="replace")
    answers = "|".join(map(re.escape, LAB_MESSAGES["in_short"]))
    found = re.search(rf"^\*\*(?:{answers})\.\*\*\s+(.+?)\n\n", text, re.DOTALL | re.MULTILINE)
    return " ".join(found[1].split()) if found else ""


def _ablation_section(wording: Wording, page_dir: Path, folder: Path) -> dict[str, Any] | None:
    """What the page shows of an ablation; None if it is damaged or has one repeat."""
    try:
        about = json.loads((folder / "ablation.json").read_text(encoding="utf-8"))
        with (folder / "table.csv").open(encoding="utf-8", newline="") as file:
            compared = [row for row in csv.DictReader(file) if row["verdict"]]
        rows = [_ablation_row(wording, row) for row in compared]
        if about["repeats"] == 1:  # a single repeat decides nothing, see `verdicts`
            return None
        values = {key: about[key] for key in ("repeats", "folds", "net")}
        text = wording.say(
            "ablation",
            source=escaped(about["data"]["source"]),
            recipe_name=recipe_text(about),
            comparisons=len(compared),
            **values,
        )
        net, recipe = escaped(about["net"]), escaped(about["recipe_name"])
        oof = OutOfFold.read(folder / "oof.csv")
        oof.describe(about["configurations"])
        warnings = oof.alarms()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, InputError) as error:
        print(f"NOTE: '{folder}' is left out, it is damaged: {error!r}", file=sys.stderr)
        return None
    page = in_language(wording, folder / "README.md")
    heads = ("switch", "gain_auc", "detectable", "gain_accuracy", "images_seen")
    heads += ("verdict", "verdict_holm")
    return {
        "heading": wording.say("ablation_title", net=net, recipe=recipe),
        "text": f"{text} [{escaped(folder.name)}]({link(page_dir, page)})",
        "rows": markdown_table([wording.say(head) for head in heads], rows, 1) if rows else "",
        "warnings": [
            wording.say("warning", text=warning_in(wording.language, text)) for text in warnings
        ],
    }


def _ablation_row(wording: Wording, row: Mapping[str, str]) -> tuple[str, ...]:
    gains = []
    for measure in ("auc", "accuracy"):
        value, *ends = (float(row[f"{measure}_gain{end}"]) for end in ("", "_low", "_high"))
        gains.append(wording.with_interval(value, ends, "+.3f"))
    name, kind = row["configuration"], row["kind"]
    if kind in ("added", "removed"):  # named as the switch: a sign would be read with the gain
        name = name[2:]
    name = wording.say("all_winners") if kind == "together" else f"`{escaped(name)}`"
    name += f" ({wording.say('on_in_base')})" if kind == "removed" else ""
    ratio = f"x {wording.number(float(row['images_ratio']), '.2f')}"
    detectable = wording.number(float(row["auc_gain_detectable"]))
    decided = (wording.say(f"verdict_{row[key]}") for key in ("verdict", "verdict_holm"))
    return name, gains[0], detectable, gains[1], ratio, *decided
