"""The recipes as they were published, by which pages tell what a run did otherwise.

A number that was edited in a script is thus shown like one that was given as a flag.
`published_recipes.json` is written by ``python networks.py``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from chestlab.files.atomic import atomic_write
from chestlab.training.recipe import Recipe, as_dict

FILE = Path(__file__).with_name("published_recipes.json")

BY_DEVICE = "image_size"  # not compared where the script chooses it by the device


def write_published(recipes: Iterable[Recipe], by_device: Iterable[str] = ()) -> None:
    """Write what differs from the defaults of `Recipe`, by the recipe's name.

    Args:
        recipes: of all scripts.
        by_device: names of those whose image size follows the device.
    """
    default, published = as_dict(Recipe(name="")), {}
    for recipe in recipes:
        values = {k: v for k, v in as_dict(recipe).items() if k != "name" and v != default[k]}
        if recipe.name in by_device:
            values[BY_DEVICE] = None
        published[recipe.name] = values
    atomic_write(FILE, json.dumps(published, indent=1) + "\n")


def published_values(named: Recipe) -> dict[str, Any]:
    """The values of a script's recipe as published; one that never was is taken as it is."""
    published = json.loads(FILE.read_text(encoding="utf-8")).get(named.name)
    return as_dict(named) if published is None else as_dict(Recipe(name="")) | published


def changes_from_published(named: Recipe, recipe: Recipe) -> dict[str, Any]:
    """Hyperparameters, the seed aside, that differ from what was published.

    Args:
        named: the script's recipe.
        recipe: what is trained with.
    """
    before = published_values(named)
    return {
        key: value
        for key, value in as_dict(recipe).items()
        if key not in ("name", "seed") and value != before[key] and before[key] is not None
    }
