"""The look of every figure: size, colours, grid, ticks; and its file.

``matplotlib.figure.Figure`` without pyplot: nothing global is touched, no display is needed. Colours are Okabe and
Ito's, told apart with any colour vision; markers and line styles differ as well, for print.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STYLES = (
    ("#000000", "o", "-"),
    ("#E69F00", "s", "--"),
    ("#0072B2", "^", "-"),
    ("#D55E00", "D", "-."),
    ("#009E73", "v", "--"),
    ("#CC79A7", "P", "-"),
    ("#56B4E9", "X", ":"),
)
"""(colour, marker, line) of each thing that is compared, in turn; the palette's yellow is too light for lines."""

COMPARED = STYLES[1:]
"""Those of what is compared with a reference, whose own is black."""

MARKERS = (*(marker for _, marker, _ in COMPARED), "<", ">", "h", "p", "*", "d")
"""More of them, where one colour stands for several things."""

SCHEME_STYLES = {
    "E-F": COMPARED[0],
    "E-F-HVP-onehot": COMPARED[1],
    "E-F-HVP-random": COMPARED[2],
    "E-F-HVP": COMPARED[2],
    "E-F-H": COMPARED[3],
}
"""Training scheme -> its style in every figure, whatever it is compared with."""


def styles_of(names: Iterable[str]) -> dict[str, tuple[str, str, str]]:
    """Return (colour, marker, line) of each of several methods, the same in every figure that names them alike.

    A name that begins with a training scheme (``"E-F-H, seed 0"``, ``"E-F-HVP-random fixed K=2"``) has the scheme's
    colour; several of one scheme differ in marker and line. Other names share the colours that are left, in turn.

    Args:
        names: In the order of the legend; black stays the reference's.
    """
    names = list(dict.fromkeys(names))
    schemes = {name: _scheme_of(name) for name in names}
    taken = {SCHEME_STYLES[scheme] for scheme in schemes.values() if scheme}
    free = [style for style in COMPARED if style not in taken] or list(COMPARED)
    lines = list(dict.fromkeys(line for _, _, line in COMPARED))
    found: dict[str, tuple[str, str, str]] = {}
    others = 0
    for name in names:
        scheme = schemes[name]
        if scheme is None:
            colour, marker, line = free[others % len(free)]
            found[name] = (colour, MARKERS[others % len(MARKERS)] if others >= len(free) else marker, line)
            others += 1
            continue
        colour, marker, line = SCHEME_STYLES[scheme]
        variant = sum(SCHEME_STYLES[other] == SCHEME_STYLES[scheme] for n in found if (other := schemes[n]))
        marker = MARKERS[(MARKERS.index(marker) + variant) % len(MARKERS)]
        found[name] = (colour, marker, lines[(lines.index(line) + variant) % len(lines)])
    return found


def _scheme_of(name: str) -> str | None:
    """Return the training scheme that a name begins with, if any."""
    for scheme in sorted(SCHEME_STYLES, key=len, reverse=True):
        # "E-F-H" is not the beginning of "E-F-HVP"; a probe family may follow "E-F-HVP"
        rest = name[len(scheme) :]
        if name.startswith(scheme) and not re.match(r"\w" if scheme == "E-F-HVP" else r"[\w-]", rest):
            return scheme
    return None


_FONT: dict[Any, Any] = {"font.size": 11, "axes.titlesize": 12, "axes.labelsize": 11, "legend.fontsize": 11}


# the same results give the same file
_UNDATED: dict[str, dict[str, Any]] = {"png": {"Software": None}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of so many inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def panel(axes: Axes) -> None:
    """Draw a light grid behind the data, no frame above and on the right."""
    axes.grid(True, color="0.88", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def empty(axes: Axes, text: str = "nothing to show") -> None:
    """Say in the middle of a panel why there is nothing in it."""
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes, color="0.4")


def plain_ticks(axes: Axes) -> None:
    """Numbers and not powers of ten on a logarithmic axis, also where it spans less than a decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    low, high = axes.get_ylim()
    steps = (1.0,) if high / low > 1e3 else (1.0, 3.0) if high / low > 30 else (1.0, 2.0, 5.0)
    axes.yaxis.set_major_locator(LogLocator(subs=steps, numticks=20))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))


def plain_ticks_along(axes: Axes) -> None:
    """Thin the ticks along x, where numbers stand side by side: few enough not to touch."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

    low, high = axes.get_xlim()
    if high / low < 3:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=4, steps=[1, 2, 2.5, 5, 10]))
        axes.xaxis.set_minor_locator(MaxNLocator(nbins=1))
    else:
        steps = (1.0,) if high / low > 100 else (1.0, 3.0) if high / low > 15 else (1.0, 2.0, 5.0)
        axes.xaxis.set_major_locator(LogLocator(subs=steps, numticks=12))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))


def to_png(draw: Callable[[Any], Figure], content: Any) -> bytes:
    """Return what a function draws of its content, in the fonts of this module, as the content of a PNG file."""
    return rendered(draw, content, "png")


def to_svg(draw: Callable[[Any], Figure], content: Any) -> bytes:
    """Return what a function draws of its content as an SVG file: sharp at any size, texts as outlines."""
    return rendered(draw, content, "svg")


def rendered(draw: Callable[[Any], Figure], content: Any, kind: str) -> bytes:
    """Return what a function draws of its content as a file of a kind: png, pdf or svg."""
    import matplotlib

    with matplotlib.rc_context({**_FONT, "svg.hashsalt": "phl"}):
        buffer = io.BytesIO()
        draw(content).savefig(buffer, format=kind, dpi=130, metadata=_UNDATED.get(kind))
    if kind != "png":
        return buffer.getvalue()
    from PIL import Image

    # 256 colours look the same: a report with its figures in it becomes a third as large
    found = Image.open(buffer).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    found.save(smaller := io.BytesIO(), "png", optimize=True)
    return smaller.getvalue()
