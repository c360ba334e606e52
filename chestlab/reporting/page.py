"""A page of text and tables in one of two languages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from chestlab.reporting.messages import LANGUAGES, MESSAGES

NOTHING = "-"  # in a cell without a number


class Page:
    """Text in one language.

    Args:
        language: ``en`` or ``id``.
    """

    def __init__(self, language: str) -> None:
        self.column = LANGUAGES.index(language)
        self.blocks: list[str] = []

    def say(self, key: str, **values: Any) -> str:
        return MESSAGES[key][self.column].format(**values)

    def add(self, text: str) -> None:
        self.blocks.append(text)

    def number(self, value: float | None, form: str = ".3f") -> str:
        """With the language's decimal mark; a dash where there is no number."""
        if value is None or not np.isfinite(value):
            return NOTHING
        text = format(value, form)
        return text.translate(str.maketrans(".,", ",.")) if self.column else text

    def percent(self, value: float) -> str:
        return f"{self.number(100 * value, '.1f')} %"

    def interval(self, ends: Sequence[float] | None, form: str = ".3f", factor: float = 1) -> str:
        if not ends:
            return ""
        low, high = (self.number(factor * end, form) for end in ends)
        return self.say("interval", low=low, high=high)

    def table(self, heads: Sequence[str], rows: Sequence[Sequence[str]], left: int = 2) -> None:
        """Add a table whose first ``left`` columns are flush left."""
        self.add(markdown_table(heads, rows, left))

    def text(self) -> str:
        return "\n\n".join(self.blocks) + "\n"


def markdown_table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], left: int | None = None
) -> str:
    """A table whose first ``left`` columns are flush left, the others right; None: all left."""
    left = len(heads) if left is None else left
    rules = ["---"] * left + ["---:"] * (len(heads) - left)
    return "\n".join(f"| {' | '.join(line)} |" for line in [heads, rules, *rows])


def link(results_dir: Path, folder: Path) -> str:
    return folder.relative_to(results_dir).as_posix()


def escaped(text: str) -> str:
    """Text that cannot break a table or become markup."""
    return re.sub(r"([\\`*\[\]|<>])", r"\\\1", text)
