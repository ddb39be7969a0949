"""How every figure looks: size, colours, grid, ticks, and how it becomes a file.

``matplotlib.figure.Figure`` without pyplot: nothing global is touched, no display is needed. Colours are Okabe and
Ito's, told apart with any colour vision; markers and line styles differ as well, for print.
"""

from __future__ import annotations

import io
from collections.abc import Callable
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

_FONT: dict[Any, Any] = {"font.size": 11, "axes.titlesize": 12, "axes.labelsize": 11, "legend.fontsize": 11}


# the same results give the same file
_UNDATED: dict[str, dict[str, Any]] = {"png": {"Software": None}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def panel(axes: Axes) -> None:
    """A light grid behind the data, no frame above and on the right."""
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
    """The same along x, where numbers stand side by side: few enough not to touch."""
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
    """What a function draws of its content, in the fonts of this module, as the content of a PNG file."""
    return rendered(draw, content, "png")


def rendered(draw: Callable[[Any], Figure], content: Any, kind: str) -> bytes:
    """What a function draws of its content as a file of a kind: png, pdf or svg."""
    import matplotlib

    with matplotlib.rc_context({**_FONT, "svg.hashsalt": "phl"}):
        buffer = io.BytesIO()
        draw(content).savefig(buffer, format=kind, dpi=130, metadata=_UNDATED.get(kind))
    return _in_few_colours(buffer) if kind == "png" else buffer.getvalue()


def _in_few_colours(png: io.BytesIO) -> bytes:
    """A PNG of 256 colours, which looks the same: a report with its figures in it becomes a third as large."""
    from PIL import Image

    found = Image.open(png).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    found.save(smaller := io.BytesIO(), "png", optimize=True)
    return smaller.getvalue()
