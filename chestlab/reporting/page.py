"""Pages of text and tables: sentences and numbers in two languages, Markdown, templates."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from chestlab.evaluation.tasks import GOAL
from chestlab.evaluation.verdicts import ALPHA
from chestlab.reporting.messages import LANGUAGES, MESSAGES
from chestlab.reporting.numbers import readable_number

if TYPE_CHECKING:
    import jinja2

NOTHING = "-"  # in a cell without a number

TEMPLATES = Path(__file__).with_name("templates")


class Wording:
    """Sentences and numbers in one language.

    Args:
        language: ``en`` or ``id``.
    """

    def __init__(self, language: str) -> None:
        self.language = language
        self.column = LANGUAGES.index(language)

    def say(self, key: str, **values: Any) -> str:
        """The sentence of `messages.MESSAGES` under ``key``, with its values filled in."""
        return MESSAGES[key][self.column].format(**values)

    def listed(self, items: Iterable[str]) -> str:
        """One or more words as ``a``, ``a and b`` or ``a, b and c``."""
        *first, last = items
        return f"{', '.join(first)}{self.say('and')}{last}" if first else last

    def translated(self, english: str, *keys: str) -> str:
        """What a file holds in English, by the first of these messages that says the same.

        Names in braces stand for any text of the file, which is taken over; a text that no message
        says stays as it is.
        """
        for key in keys:
            pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>.+)", re.escape(MESSAGES[key][0]))
            if match := re.fullmatch(pattern, english):
                return self.say(key, **match.groupdict())
        return english

    def baseline(self, model: str) -> str:
        """The name of a baseline in the page's language, of another model as it is."""
        return self.translated(model, *(key for key in MESSAGES if key.startswith("baseline_")))

    def number(self, value: float | None, form: str = ".3f") -> str:
        """With the language's decimal mark; a dash where there is no number.

        Of a form such as ``.3g`` the number of digits holds: exponents are never written.
        """
        if value is None or not np.isfinite(value):
            return NOTHING
        digits = re.fullmatch(r"\.(\d+)g", form)
        text = readable_number(value, int(digits[1])) if digits else format(value, form)
        return text.translate(str.maketrans(".,", ",.")) if self.column else text

    def p_value(self, p: float) -> str:
        """With three decimals, or as many more as show on which side of `ALPHA` it lies."""
        if p < 0.001:
            return f"< {self.number(0.001)}"
        decimals = 3
        while (round(p, decimals) <= ALPHA) != (p <= ALPHA):
            decimals += 1
        return self.number(p, f".{decimals}f")

    def percent(self, value: float, decimals: int = 1) -> str:
        """A fraction in 0..1 in percent, with more decimals if they tell which side of `GOAL`."""
        while np.isfinite(value) and (round(100 * value, decimals) >= 100 * GOAL) != (
            value >= GOAL
        ):
            decimals += 1
        return f"{self.number(100 * value, f'.{decimals}f')} %"

    def interval(self, ends: Sequence[float] | None, form: str = ".3f", factor: float = 1) -> str:
        """``(low to high)``, both times ``factor``; empty where there is no interval."""
        if not ends:
            return ""
        low, high = (self.number(factor * end, form) for end in ends)
        return self.say("interval", low=low, high=high)

    def with_interval(self, value: float, ends: Sequence[float] | None, form: str = ".3f") -> str:
        """A value with its interval behind it, as ``0.912 (0.880 to 0.945)``."""
        return f"{self.number(value, form)} {self.interval(ends, form)}"

    def percent_with_interval(
        self, value: float, ends: Sequence[float] | None, between: str = " "
    ) -> str:
        """A fraction in percent, behind ``between`` its interval if there is one."""
        interval = self.interval(ends, ".1f", 100)
        return f"{self.percent(value)}{between if interval else ''}{interval}"

    def above_interval(
        self, text: str, ends: Sequence[float] | None, form: str, factor: float = 1
    ) -> str:
        """A table cell of two lines: ``text``, and below it the interval if there is one."""
        return f"{text}<br>{self.interval(ends, form, factor)}" if ends else text


def markdown_table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], left: int | None = None
) -> str:
    """A table whose first ``left`` columns are flush left, the others right; None: all left."""
    left = len(heads) if left is None else left
    rules = ["---"] * left + ["---:"] * (len(heads) - left)
    return "\n".join(f"| {' | '.join(line)} |" for line in [heads, rules, *rows])


def render(template: str, folder: Path = TEMPLATES, **values: Any) -> str:
    """Fill a Jinja2 template and return the page, which ends with one newline.

    A line that holds nothing but a ``{% %}`` statement leaves no line in the page. Values are
    inserted as they are: pass what could break a table through `escaped` first.

    Args:
        template: file in ``folder``, for example ``family.md.j2``.
        folder: of the templates, by default the one beside this module.
        values: what the template names; `markdown_table` is always there as ``table``.

    Raises:
        jinja2.UndefinedError: the template names a value that is not given.
    """
    return _environment(folder).get_template(template).render(values).rstrip("\n") + "\n"


@functools.cache
def _environment(folder: Path) -> jinja2.Environment:
    """Jinja2 on the templates of a folder, which are compiled once."""
    import jinja2  # here, because only a program that writes a page needs it

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        undefined=jinja2.StrictUndefined,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals["table"] = markdown_table
    return environment


def link(page_dir: Path, path: Path) -> str:
    """The address of a file or folder in a page that lies in the folder ``page_dir``."""
    return Path(os.path.relpath(path, page_dir)).as_posix()


def in_language(wording: Wording, page: Path) -> Path:
    """A page such as ``README.md`` in the language of the wording, where there is such a file."""
    own = page.with_suffix(f".{wording.language}.md")
    return own if own.exists() else page


def unbroken(cell: str) -> str:
    """A cell of `Wording.above_interval` whose interval stays in one line."""
    value, newline, interval = cell.partition("<br>")
    return value + newline + interval.replace(" ", "\u00a0")


def escaped(text: str) -> str:
    """Text that cannot break a table or become markup."""
    return re.sub(r"([\\`*\[\]|<>])", r"\\\1", text)
