"""A lab report as one HTML file with its pictures in it, to hand in or to print as PDF."""

from __future__ import annotations

import base64
import re
from pathlib import Path

from chestlab.files.atomic import atomic_write
from chestlab.files.errors import InputError
from chestlab.reporting.lab_report import EXTRAS, PAGES

STYLE = """
body { max-width: 860px; margin: 2em auto; padding: 0 1em; color: #222; background: #fff;
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, sans-serif; }
h1, h2, h3 { line-height: 1.25; break-after: avoid; }
h2 { margin-top: 2em; border-bottom: 1px solid #ddd; }
img { max-width: 100%; height: auto; display: block; margin: 0 auto; }
table { border-collapse: collapse; display: block; overflow-x: auto; font-size: 0.9em; }
th, td { border: 1px solid #ccc; padding: 0.25em 0.6em; vertical-align: top; }
th { background: #f3f3f3; }
blockquote { margin: 1em 0; padding: 0.1em 1em; border-left: 5px solid #D55E00;
  background: #fdf3ec; }
code { background: #f3f3f3; padding: 0 0.2em; overflow-wrap: anywhere; }
td code { white-space: nowrap; }
pre { background: #f3f3f3; padding: 0.6em; white-space: pre-wrap; }
@media print { body { max-width: none; margin: 0; } img { max-height: 22cm; }
  tr, img { break-inside: avoid; } }
"""

OTHER_PAGE = re.compile(r' · <a href="[^"]*README[^"]*">.*?</a>')

LINK = re.compile(r'<a href="([^"]*)">(.*?)</a>', re.DOTALL)

PICTURE = re.compile(r'<img src="([^"]*)"')


def write_html(folder: Path) -> list[Path]:
    """Write a run's lab reports as HTML, ``report/<name>.html`` and ``<name>.id.html``.

    Links to other files of the run become plain text, since the file is read without them.

    Args:
        folder: of the run, with ``README.md`` and ``README.id.md``.

    Raises:
        InputError: markdown-it-py is not installed.
        OSError: a page is missing, or the file cannot be written.
    """
    try:
        from markdown_it import MarkdownIt
    except ImportError:
        raise InputError("--format html needs markdown-it-py: pip install markdown-it-py") from None
    converter = MarkdownIt("commonmark").enable("table")
    (folder / EXTRAS).mkdir(exist_ok=True)
    paths = []
    for language, page in PAGES.items():
        body = converter.render((folder / page).read_text(encoding="utf-8"))
        title = re.sub("<[^>]+>", "", body.partition("</h1>")[0]).strip()
        text = _complete(body, title, language, folder)
        path = folder / EXTRAS / page.replace("README", folder.name).replace(".md", ".html")
        atomic_write(path, text)
        paths.append(path)
    return paths


def _complete(body: str, title: str, language: str, folder: Path) -> str:
    """A whole HTML page around a body."""
    body = PICTURE.sub(lambda match: f'<img src="{_embedded(folder / match[1])}"', body)
    body = OTHER_PAGE.sub("", body)
    body = LINK.sub(lambda match: match[0] if "://" in match[1] else match[2], body)
    return (
        f'<!DOCTYPE html>\n<html lang="{language}">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n"
    )


def _embedded(path: Path) -> str:
    """The address of a PNG that holds the picture itself."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
