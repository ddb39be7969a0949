"""Pages of HTML that need nothing else: figures inside, no scripts, no network, fit for print and for 1280 pixels.

Everything that comes from data or a user (names, reasons, versions) is escaped here: the functions take plain text.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; color: #1a1a1a; background: #fff;
  max-width: 74rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; margin-bottom: .2rem; } h2 { font-size: 1.25rem; margin-top: 2.2rem; }
p, li, dd { max-width: 48rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .8rem 0; font-size: .92rem; }
th, td { padding: .22rem .55rem; text-align: right; vertical-align: top; }
th { font-weight: 600; } thead th { border-bottom: 2px solid #333; vertical-align: bottom; line-height: 1.25; }
tbody th { font-weight: 400; } tbody tr:nth-child(even) td { background: #f7f7f7; }
th.text, td.text { text-align: left; } td.name, tbody th, .unit, .number { white-space: nowrap; }
.wide td:first-child, .wide th:first-child { position: sticky; left: 0; background: #fff; }
.wide tbody tr:nth-child(even) :first-child { background: #f7f7f7; }
tr.group th { text-align: left; padding-top: .8rem; font-weight: 600; border-bottom: 1px solid #bbb; }
td.best { font-weight: 700; }
caption { text-align: left; padding-bottom: .3rem; color: #444; }
figure { margin: 1.2rem 0; } figure img { max-width: 100%; height: auto; }
figcaption { color: #444; max-width: 48rem; }
dt { font-weight: 600; margin-top: .5rem; } dd { margin-left: 1.2rem; }
.failed { border-left: 4px solid #D55E00; padding-left: .8rem; }
.small { color: #555; font-size: .85rem; } .small td { text-align: left; overflow-wrap: anywhere; }
@media print { body { margin: 0; font-size: 9pt; max-width: none; } figure, tr { break-inside: avoid; }
  .wide { overflow: visible; } th, td { padding: .1rem .3rem; } h2 { break-after: avoid; } }
"""

_NAME = 28  # characters up to which a text stays in one line
_IMAGES = {b"\x89PNG": "image/png"}


def page(title: str, body: str, *, style: str = "") -> str:
    """Return a page that loads nothing and runs nothing.

    Args:
        title: Plain text.
        body: HTML, made by the functions of this module; whoever made it otherwise has escaped what is in it.
        style: More CSS.
    """
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}{style}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "", *, words: int = 1) -> str:
    """Return a table of plain text: headings and cells wrap, numbers and units do not, what is still wider scrolls.

    Args:
        headings: One for each column, with its unit: ``"error / eV"``.
        rows: Cells; an interval or a reference in brackets may go to the next line.
        caption: Above the table.
        words: Number of columns, from the left, that hold words and are set flush left.
    """
    top = "".join(
        f'<th scope="col"{_class("text" if k < words else "")}>{_heading(text)}</th>' for k, text in enumerate(headings)
    )
    body = "\n".join(
        "<tr>" + "".join(_cell(text, is_words=k < words) for k, text in enumerate(row)) + "</tr>" for row in rows
    )
    above = f"<caption>{escape(caption)}</caption>\n" if caption else ""
    return (
        f'<div class="wide" tabindex="0"><table>{above}<thead><tr>{top}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def values_table(values: Mapping[str, Any]) -> str:
    """Return names and values, two columns of plain text."""
    lines = "".join(f"<tr><td>{escape(str(k))}</td><td>{escape(str(v))}</td></tr>" for k, v in values.items())
    return f'<table class="small"><tbody>{lines}</tbody></table>'


def figure(content: bytes, caption: str) -> str:
    """Return a figure inside the page, with its caption.

    Args:
        content: Of an SVG or PNG file; as an image, an SVG runs no script.
        caption: Plain text.
    """
    kind = _IMAGES.get(content[:4], "image/svg+xml")
    data = base64.b64encode(content).decode("ascii")
    text = escape(caption)
    return f'<figure><img alt="{text}" src="data:{kind};base64,{data}"><figcaption>{text}</figcaption></figure>'


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""


def _heading(text: str) -> str:
    """A heading whose unit stays in one piece."""
    name, bar, unit = text.rpartition(" / ")
    return f'{escape(name)} <span class="unit">/ {escape(unit)}</span>' if bar else escape(text)


def _cell(text: str, *, is_words: bool) -> str:
    if is_words:
        return f"<td{_class('text name' if len(text) <= _NAME else 'text')}>{escape(text)}</td>"
    if re.search(r"[^\W\d_]{3}.* ", text):
        return f"<td>{escape(text)}</td>"
    parts = re.split(r" (?=[\[(])", text)
    return "<td>" + " ".join(f'<span class="number">{escape(part)}</span>' for part in parts) + "</td>"
