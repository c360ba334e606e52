"""How often each network was evaluated on test, as the pages of `results/` say it."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from chestlab.evaluation.looks import (
    FILE_NAME,
    NETWORKS_BETWEEN,
    Look,
    names_key,
    read_looks,
    run_label,
)
from chestlab.files.run_files import UNFINISHED, results_dir_of
from chestlab.reporting.page import NOTHING, Wording, escaped, markdown_table
from chestlab.reporting.stored_runs import StoredRun, names_path
from chestlab.training.network_names import network_name
from chestlab.training.recipe import in_words, recipe_hash

RECONSTRUCTED = "reconstructed"

KINDS = ("run", "member", "stage", "average", "blend", "baseline", "explain", "mistakes")


def all_looks(results_dir: Path) -> list[Look]:
    """Every look at test: those written down, and those that only stored figures tell of.

    The latter are of runs from before `looks.FILE_NAME` existed, of which it has no line. A line
    whose run is not there any more stands for a folder without a line of the same network, recipe
    and data: the folder was moved or renamed since.

    Args:
        results_dir: of the X-rays' runs; the phantoms' folder below is read, too.
    """
    folders = (results_dir, results_dir / "phantom")
    looks = [look for folder in folders for look in read_looks(folder / FILE_NAME)]
    stored = [look for folder in folders for look in reconstructed(folder)]
    names = {(look.run, look.kind): look.network for look in stored}
    looks = [  # older lines name a network by a class that it shares
        dataclasses.replace(look, network=names.get((look.run, look.kind), look.network))
        for look in looks
    ]
    written, there = {(look.run, look.kind) for look in looks}, set(names)
    moved = Counter(_subject(look) for look in looks if (look.run, look.kind) not in there)
    for look in stored:
        if (look.run, look.kind) in written:
            continue
        if moved[_subject(look)]:
            moved[_subject(look)] -= 1
        else:
            looks.append(look)
    return looks


def _subject(look: Look) -> tuple[str, ...]:
    """What a look was at, whatever its run is called."""
    return look.kind, look.network, look.recipe, look.data


def reconstructed(folder: Path) -> Iterator[Look]:
    """The looks that the ``metrics.json`` with test figures below a folder tell of."""
    for path in sorted(folder.rglob("metrics.json")):
        name = run_label(path.parent.relative_to(folder))
        if name.startswith("phantom/") or UNFINISHED in name:
            continue
        try:
            metrics = json.loads(path.read_text(encoding="utf-8"))
            yield from looks_of(metrics, name, image_set_of(folder, metrics))
            if metrics["test"] and (path.parent / "mistakes.md").exists():
                yield _look(metrics, name, "mistakes", image_set_of(folder, metrics))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue  # `read_runs` names damaged ones


def looks_of(metrics: Mapping[str, Any], name: str, images: str) -> Iterator[Look]:
    """The looks that one ``metrics.json`` tells of: its figures of test, and those of its stages.

    Args:
        metrics: of a run, an average or a baseline.
        name: of its folder below that of the results.
        images: as `looks.image_set`.
    """
    if metrics["test"] is None:
        return
    kind = "average" if "members" in metrics else "run"
    kind = "blend" if metrics.get("blend") else "baseline" if metrics.get("yardstick") else kind
    for stage, figures in (metrics.get("ladder") or {}).items():
        if "test" in figures and stage != "threshold":  # which is the run itself
            yield _look(metrics, name, "stage", images, stage)
    yield _look(metrics, name, kind, images)


def networks_of(metrics: Mapping[str, Any]) -> list[str]:
    """The names of a run's networks; several of a blend, which names them as people do."""
    if not metrics.get("blend"):
        return [network_name(metrics)]
    members = metrics.get("members", ())
    stored = dict.fromkeys(member["model"] for member in members if "model" in member)
    return list(stored) or metrics["model"].split(" + ")


def _look(
    metrics: Mapping[str, Any], name: str, kind: str, images: str, evaluation: str = ""
) -> Look:
    return Look(
        run=name,
        kind=kind,
        network=NETWORKS_BETWEEN.join(networks_of(metrics)),
        recipe_name=recipe_text(metrics),
        recipe=recipe_hash(metrics.get("recipe") or {}),
        data=metrics["data"]["sha256"],
        images=images,
        evaluation=evaluation,
        note=RECONSTRUCTED,
    )


def recipe_text(metrics: Mapping[str, Any]) -> str:
    """The recipe's name and the hyperparameters that differ from it."""
    named = in_words(metrics.get("recipe_name") or "", metrics.get("recipe_changes") or {})
    return named.replace("`", "")


def image_set_of(results_dir: Path, metrics: Mapping[str, Any]) -> str:
    """As `looks.image_set`, from the list of the source's file names where there is one."""
    about = metrics["data"]
    try:
        path = names_path(results_dir, about["source"])
        with path.open(encoding="utf-8", newline="") as file:
            names = [row["name"] for row in csv.DictReader(file) if row["split"] == "test"]
    except (OSError, ValueError, KeyError):
        return about["sha256"]
    two_classes = len(names) == sum(about["counts"]["test"].values()) and all(names)
    return names_key(names) if two_classes else about["sha256"]


def looks_at_images_of(group: Sequence[StoredRun], looks: Sequence[Look]) -> list[Look]:
    """The looks at the test images that runs on one source have, in whatever size."""
    names = {run.name for run in group}
    sha256 = group[0].metrics["data"]["sha256"]
    images = {look.images for look in looks if look.data == sha256 and look.run in names}
    images = images or {image_set_of(results_dir_of(group[0].folder), group[0].metrics)}
    return [look for look in looks if look.images in images]


def looks_at_others(sha256: str, looks: Sequence[Look], shown: Sequence[Look]) -> int:
    """How many looks are at other test images of a source than those ``shown``: all 14 findings'.

    Args:
        sha256: of the source.
        looks: at any test images.
        shown: those of `looks_at_images_of`.
    """
    images = {look.images for look in shown}
    of_source = [look for look in looks if look.data == sha256 and look.kind in KINDS]
    return sum(look.images not in images for look in of_source)


def look_count(run: StoredRun, looks: Sequence[Look]) -> int:
    """How many of the looks were at a run's network or networks, by any recipe and seed."""
    networks = set(networks_of(run.metrics))
    return sum(bool(networks & look.networks) for look in looks)


def _full_name(look: Look, looks: Sequence[Look]) -> str:
    """The recipe's name with its changes, which looks of an older version left out.

    A look at the same network with the very same hyperparameters tells them.
    """
    same = [other.recipe_name for other in looks if _recipe_of(other) == _recipe_of(look)]
    return max(same, key=lambda name: (len(name), name)) if look.recipe else look.recipe_name


def _recipe_of(look: Look) -> tuple[str, str, str]:
    """Network, hash of the hyperparameters, and the name without its changes."""
    return look.network, look.recipe, look.recipe_name.partition(", ")[0]


def look_table(wording: Wording, looks: Sequence[Look]) -> str:
    """A row per network and recipe: how many looks, of what kind, by how many versions of it.

    Empty where there are none.
    """
    rows = []
    by_recipe: dict[tuple[str, str], list[Look]] = defaultdict(list)
    for look in looks:
        by_recipe[look.network, _full_name(look, looks)].append(look)
    for (network, recipe_name), shown in sorted(by_recipe.items()):
        kinds = Counter(
            "member" if look.kind == "run" and "/" in look.run else look.kind for look in shown
        )
        versions = len({look.recipe for look in shown})
        rows.append(
            [
                escaped(wording.baseline(network)),
                escaped(recipe_name) or NOTHING,
                wording.number(len(shown), "d"),
                ", ".join(
                    f"{wording.say(f'look_{kind}')} {wording.number(kinds[kind], 'd')}"
                    for kind in KINDS
                    if kinds[kind]
                ),
                wording.say("versions_changed", n=versions) if versions > 1 else str(versions),
                wording.number(sum(look.note == RECONSTRUCTED for look in shown), "d"),
            ]
        )
    heads = ("network", "recipe", "looks_of_recipe", "kinds", "versions", "reconstructed")
    return markdown_table([wording.say(f"head_{head}") for head in heads], rows, 2) if rows else ""
