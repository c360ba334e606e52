"""What the slow tests counted, kept in ``tests/README.md``.

A slow test asks for the fixture ``record_figure`` and gives it a line and a number once what the
number stands for has been checked. Its table is written when the session ends; a line it does not
renew stays. In a fast test the fixture does nothing, so the fast suite leaves the checkout clean.

Use it with ``pytest_plugins = ["figures"]`` in a test module or in ``conftest.py``.
"""

from __future__ import annotations

import datetime
import platform
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

TABLE = Path(__file__).with_name("README.md")
TITLE = "# What the slow tests counted"
HEAD = f"""\
{TITLE}

Written by `python -m pytest -m slow`; a line is as old as its date. Each number is that of a
passing test: every kill, fault or mutation in it ended as the test demands.

| what | number | date | Python | PyTorch |
|---|---:|---|---|---|
"""
ROW = re.compile(r"^\| (?P<what>.+?) \| (?P<number>\S+) \| .+ \|$", re.MULTILINE)

_figures: dict[str, int] = {}


@pytest.fixture
def record_figure(request: pytest.FixtureRequest) -> Callable[[str, int], None]:
    """A function of a line's text and its number; lines of the same text are added up."""

    def record(what: str, number: int) -> None:
        if request.node.get_closest_marker("slow"):
            _figures[what] = _figures.get(what, 0) + number

    return record


def merged(table: str, figures: dict[str, int]) -> str:
    """``table`` with the lines of ``figures`` renewed or added, in alphabetical order.

    What stands above it is kept.
    """
    about = f"{datetime.date.today()} | {platform.python_version()} | {torch.__version__}"
    lines = {
        match["what"]: match[0] for match in ROW.finditer(table) if match["number"] != "number"
    }
    lines |= {what: f"| {what} | {number:,} | {about} |" for what, number in figures.items()}
    return table.partition(TITLE)[0] + HEAD + "".join(lines[what] + "\n" for what in sorted(lines))


def pytest_sessionfinish() -> None:
    if _figures:
        table = TABLE.read_text(encoding="utf-8") if TABLE.exists() else ""
        TABLE.write_text(merged(table, _figures), encoding="utf-8", newline="\n")
