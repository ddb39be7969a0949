"""Pages of HTML that need nothing else: figures inside, no scripts, no network, fit for print and for 1280 pixels.

They are made of Jinja templates with autoescape: whatever comes from data or a user (names, reasons, versions) is text.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import groupby
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

_IMAGES = {b"\x89PNG": "image/png"}


def render(template: str, *, package: str = "phl_ase", **values: Any) -> str:
    """Return a page that loads nothing and runs nothing.

    Args:
        template: Its template, which extends ``page.html``.
        package: Where the template is, in the folder ``templates``.
        **values: What it shows; everything but ``Markup`` is escaped.
    """
    return _environment(package).get_template(template).render(**values)


def page(title: str, body: str, *, style: str = "") -> str:
    """Return a page of parts that were made by the functions of this module.

    Args:
        title: Plain text.
        body: HTML.
        style: More CSS.
    """
    from markupsafe import Markup

    return render("page.html", title=title, body=Markup(body), style=Markup(style))


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "", *, words: int = 1) -> Markup:
    """Return a table of plain text: headings and cells wrap, numbers and units do not, what is still wider scrolls.

    Args:
        headings: One for each column, with its unit: ``"error / eV"``.
        rows: Cells; an interval or a reference in brackets may go to the next line.
        caption: Above the table.
        words: Number of columns, from the left, that hold words and are set flush left.
    """
    return _part("table", headings, rows, caption, words)


def values_table(values: Mapping[str, Any]) -> Markup:
    """Return names and values, two columns of plain text."""
    return _part("values_table", values)


def figure(content: bytes, caption: str) -> Markup:
    """Return a figure inside the page, with its caption.

    Args:
        content: Of an SVG or PNG file; as an image, an SVG runs no script.
        caption: Plain text.
    """
    kind = _IMAGES.get(content[:4], "image/svg+xml")
    return _part("figure", kind, base64.b64encode(content).decode("ascii"), caption)


def _part(macro: str, *arguments: Any) -> Markup:
    return getattr(_environment("phl_ase").get_template("parts.html").module, macro)(*arguments)


@cache
def _environment(package: str) -> Environment:
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    packages = dict.fromkeys((package, "phl_ase"))
    made = Environment(
        loader=ChoiceLoader([PackageLoader(name) for name in packages]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"name_and_unit": _name_and_unit, "pieces": _pieces, "neighbours": _neighbours}
    made.globals["figure"] = figure
    return made


def _name_and_unit(heading: str) -> tuple[str, str]:
    """Split a heading into its name and its unit, which stays in one piece."""
    name, bar, unit = heading.rpartition(" / ")
    return (name, unit) if bar else (heading, "")


def _pieces(cell: str) -> list[tuple[str, bool]]:
    """Split a cell into pieces and whether each is a number, which is not broken."""
    if re.search(r"[^\W\d_]{3}.* ", cell):
        return [(cell, False)]
    return [(part, True) for part in re.split(r" (?=[\[(])", cell)]


def _neighbours(items: Sequence[Any], attribute: str) -> list[tuple[Any, list[Any]]]:
    """Group neighbours with the same attribute, in their order; Jinja's own filter sorts."""
    return [(name, list(group)) for name, group in groupby(items, lambda item: getattr(item, attribute))]
