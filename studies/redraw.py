"""``--redraw FOLDER``: a study's page, tables and pictures, written again from its results."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chestlab.files.atomic import check_writable, written_together
from chestlab.files.errors import InputError
from studies.stored_results import RESTORE


class _Redraw(argparse.Action):
    """Writes the page in a folder again and ends the program, as ``--help`` does."""

    def __init__(self, *args: Any, write_page: Callable[[Path], None], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.write_page = write_page

    def __call__(
        self, parser: argparse.ArgumentParser, options: Any, values: Any, option: Any = None
    ) -> None:
        from chestlab.reporting.overview import PAGES

        redraw(values, self.write_page)
        print(*(values / page for page in PAGES.values()), sep="\n", flush=True)
        parser.exit()


def redraw(folder: Path, write_page: Callable[[Path], None]) -> None:
    """Write a page and its tables and pictures again, all of them or none.

    Raises:
        InputError: the folder may not be written, or its files lack what the page shows.
    """
    from jinja2 import TemplateError

    if folder.is_dir():  # else ``write_page`` tells which file is missing
        check_writable(folder, "--redraw")
    try:
        with written_together():
            write_page(folder)
    except (InputError, OSError):
        raise
    except KeyError as error:
        what = f"its files lack {error}"
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        what = f"its files hold a value of another kind than the page shows: {error}"
    except TemplateError as error:
        what = f"its files lack what the page shows: {error}"
    else:
        return
    raise InputError(f"--redraw '{folder}': {' '.join(what.split())}: {RESTORE}")


def add_redraw(
    parser: argparse.ArgumentParser,
    write_page: Callable[[Path], None],
    what: str = "table, picture and page",
) -> None:
    """Add ``--redraw FOLDER``, which calls ``write_page`` and writes ``what`` again."""
    parser.add_argument(
        "--redraw",
        type=Path,
        action=_Redraw,
        write_page=write_page,
        metavar="FOLDER",
        help=f"train nothing; write {what} of these results again",
    )
