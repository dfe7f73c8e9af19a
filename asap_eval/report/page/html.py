"""The page as HTML: one file that loads nothing from anywhere."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from importlib.resources import files
from itertools import groupby

from jinja2 import Environment, PackageLoader, StrictUndefined

from asap_eval.report.page.content import Page
from asap_eval.report.sheet import Cell, Head, Sheet

NUMBER = re.compile(r"[-+−]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
"""The first number of a cell's text, where no value was given with it."""


def html(page: Page) -> str:
    """The whole file; the same page always gives the same text."""
    environment = Environment(
        loader=PackageLoader("asap_eval.report", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"data": _data, "order": order, "slug": slug}
    environment.globals |= {"bands": bands}
    style, script = _own("page.css"), _own("page.js")
    return environment.get_template("page.html.j2").render(
        page=page,
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
    )


def order(cell: Cell) -> str:
    """What a number column sorts by; empty where the cell holds no number."""
    if cell.value is not None:
        return repr(cell.value)
    found = NUMBER.search(cell.text)
    return found.group().replace("−", "-") if found else ""


def bands(sheet: Sheet) -> list[tuple[str, list[Head]]]:
    """Heads over neighbouring columns; empty where the sheet has none."""
    if not any(head.group for head in sheet.columns):
        return []
    grouped = groupby(sheet.columns, key=lambda head: head.group)
    return [(group, list(heads)) for group, heads in grouped]


def slug(text: str) -> str:
    """Text as an id: letters, digits and dashes alone."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _own(name: str) -> str:
    return files("asap_eval.report.page").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """As the page's policy names a style or script that may run."""
    return "sha256-" + b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _data(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{b64encode(content).decode()}"
