"""Reading JSON and CSV files that a person may have edited, with errors that say what and where."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from chestlab.files.errors import InputError

SEPARATORS = {",": "','", ";": "';'", "\t": "a tab"}  # between the columns of a CSV file

BYTE_ORDER_MARKS = b"\xff\xfe", b"\xfe\xff"  # of UTF-16

SHOWN = 40  # characters of a wrong value in a message


def utf8_text(path: Path, content: bytes | None = None) -> str:
    """A file of UTF-8 text, with or without the mark that some programs put in front.

    Args:
        path: of the file.
        content: its bytes, where they have been read (and unpacked) already.

    Raises:
        InputError: the file is missing, empty, or no such text.
    """
    try:
        content = path.read_bytes() if content is None else content
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"'{path}' is missing") from None
    except OSError as error:
        raise InputError(f"'{path}' cannot be read: {error.strerror or error}") from None
    if content.startswith(BYTE_ORDER_MARKS):
        raise InputError(f"'{path}' is UTF-16 text; wanted is UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"'{path}', line {line}: is no text in UTF-8") from None
    if not text.strip():
        raise InputError(f"'{path}' is empty")
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise InputError(f"'{path}', line {line}: is no text, it has a zero byte")
    return text


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; NaN and infinite numbers are refused.

    Raises:
        InputError: the file is missing, empty, cut off, or holds something else.
    """
    text = utf8_text(path)
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        end = error.pos >= len(text.rstrip())
        reason = "it ends early" if end else error.msg[:1].lower() + error.msg[1:]
        raise InputError(f"'{path}', line {error.lineno}: no valid JSON, {reason}") from None
    except (ValueError, RecursionError) as error:
        reason = "too deep" if isinstance(error, RecursionError) else error
        raise InputError(f"'{path}': no valid JSON, {reason}") from None
    if not isinstance(value, dict):
        raise InputError(f"'{path}': wanted is a JSON object, as {{...}}")
    return value


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")


def read_csv(
    path: Path,
    columns: Sequence[str],
    separators: Sequence[str] = (",",),
    content: bytes | None = None,
) -> tuple[list[str], dict[int, list[str]]]:
    """The head of a CSV file and its rows by the number of their (last) line; blank lines left out.

    A row may have another number of cells than the head.

    Args:
        path: of the file.
        columns: that there must be.
        separators: that may stand between the columns, out of `SEPARATORS`.
        content: as of `utf8_text`.

    Raises:
        InputError: it is no CSV text, lacks a column, or has one twice.
    """
    text = utf8_text(path, content)
    heads = {mark: [cell.strip() for cell in _first_row(text, mark)] for mark in SEPARATORS}
    fitting = [mark for mark, head in heads.items() if set(columns) <= set(head)]
    allowed = [mark for mark in separators if mark in fitting]
    if not allowed:
        wanted = " or ".join(SEPARATORS[mark] for mark in separators)
        if fitting:
            raise InputError(
                f"'{path}' has {SEPARATORS[fitting[0]]} between its columns, as spreadsheets save "
                f"it in many languages; wanted is {wanted}"
            )
        head = max((heads[mark] for mark in separators), key=len)
        lacking = next(column for column in columns if column not in head)
        raise InputError(f"'{path}' lacks the column '{lacking}'; needed: {', '.join(columns)}")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=allowed[0], strict=True)
    rows: dict[int, list[str]] = {}
    try:
        next(reader)
        for row in reader:
            if any(row):
                rows[reader.line_num] = row
    except csv.Error as error:
        raise InputError(f"'{path}', line {reader.line_num}: no valid CSV, {error}") from None
    head = heads[allowed[0]]
    twice = next((name for name in head if name and head.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"'{path}' has the column '{shown(twice)}' twice")
    return head, rows


def _first_row(text: str, separator: str) -> list[str]:
    try:
        return next(csv.reader(io.StringIO(text, newline=""), delimiter=separator), [])
    except csv.Error:
        return []


def shown(value: object) -> str:
    """A value in a message: in one line, and not longer than `SHOWN`."""
    text = " ".join(str(value).split())
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
