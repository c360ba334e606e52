"""Pages from the Jinja2 templates in the folder ``templates``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

FOLDER = Path(__file__).with_name("templates")


def render(template: str, folder: Path = FOLDER, **values: Any) -> str:
    """Fill a template and return the page.

    A line that holds nothing but a ``{% %}`` statement leaves no line in the page. Values are
    inserted as they are: what could break a table goes through `page.escaped` first.

    Args:
        template: file in the folder, for example ``family.md.j2``.
        folder: of the templates, by default the one beside this module.
        values: what the template names. `page.markdown_table` is there as ``table``.

    Raises:
        jinja2.UndefinedError: the template names a value that is not given.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # only where a page is written

    from chestlab.reporting.page import markdown_table

    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        undefined=StrictUndefined,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals["table"] = markdown_table
    return environment.get_template(template).render(values)
