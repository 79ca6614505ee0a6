"""Figures as text: inline SVG that takes its colours from the page, so that it is at home in light, dark and print."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import matplotlib
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ["AFTER", "BEFORE", "FAINT", "INK", "MODEL_COLOURS", "MUTED", "WIDTH", "drawing", "plain_axes", "to_svg"]

# Each role has one hex value, found again in the SVG and replaced by the page's own variable of that name.
INK: Final = "#1b1f24"
MUTED: Final = "#5b6571"
FAINT: Final = "#d3d9e0"
BEFORE: Final = "#c4560b"
AFTER: Final = "#0a66a8"
# After Okabe and Ito, apart in hue and in lightness; the first is the report's own model.
MODEL_COLOURS: Final = (AFTER, "#b9770e", "#127a5b", "#a3507f", "#5f8fb4", "#7d6b5d")
_VARIABLES: Final = {
    INK: "--ink",
    MUTED: "--muted",
    FAINT: "--faint",
    BEFORE: "--before",
    AFTER: "--after",
    **{colour: f"--model-{place}" for place, colour in enumerate(MODEL_COLOURS) if place > 0},
}

WIDTH: Final = 9.4
"""Of every figure, in inches: at the page's width a point is then about a pixel and a half."""

_STYLE: Final[Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a title with two dollar signs is a title, not a formula
    "axes.formatter.use_mathtext": False,
    "axes.unicode_minus": True,
    "font.family": ["DejaVu Sans"],
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8.5,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
}


@contextmanager
def drawing(height: float) -> Iterator[Figure]:
    """An empty figure of this height in inches, in the report's style, without touching the process's own."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        # The browser draws the letters, and has them; matplotlib only measures them.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from", category=UserWarning)
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        figure.patch.set_alpha(0)
        yield figure


def plain_axes(axes: Axes, *, grid: str) -> None:
    """Axes with nothing on them that carries no meaning; `grid` is "x", "y" or "both"."""
    axes.patch.set_alpha(0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(axis=grid)  # type: ignore[arg-type]


def to_svg(figure: Figure, *, name: str, description: str) -> Markup:
    """The figure as an SVG element to stand in a page; call it within `drawing`.

    Args:
        figure: Drawn.
        name: Unique in the page; salts the identifiers of what the figure refers to within itself.
        description: What a reader who cannot see it is told.

    Returns:
        The element; equal figures give equal bytes.
    """
    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        nothing = {"Creator": None, "Date": None, "Format": None, "Type": None}
        figure.savefig(text, format="svg", metadata=nothing)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, count=1, flags=re.DOTALL)  # it would style the page
    svg = re.sub(r'<g id="[a-zA-Z0-9_.]+"', "<g", svg)  # nothing refers to groups, and the next figure has the same
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font: ([0-9.]+px) [^;\"]*", r"font-size: \1", svg)  # the page's letters
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(f": {colour}", f": var({variable})")
    head, _, body = svg.partition(">")
    [view] = re.findall(r'viewBox="[^"]*"', head)
    return Markup(
        f'<svg {view} role="img" aria-label="{escape(description)}" data-figure="{escape(name)}"'
        f' xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">{body}'
    )
