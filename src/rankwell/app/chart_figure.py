"""The charts of studies, drawn in the report's style."""

from __future__ import annotations

from typing import Final

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from rankwell.app.drawing import BEFORE, FAINT, INK, MODEL_COLOURS, MUTED, drawing, plain_axes, to_svg
from rankwell.studies.chart import Chart, Line, Panel

__all__ = ["chart_figure"]

_COLOURS: Final = (*MODEL_COLOURS[:4], BEFORE, MODEL_COLOURS[4], MODEL_COLOURS[5], MUTED)
"""Light neighbours stand apart: an eighth line is the last that one can tell from the others."""
_MOST_IN_A_ROW: Final = 4


def chart_figure(chart: Chart) -> Markup:
    """Panels side by side under one legend; lines of one name have one colour."""
    names = list(dict.fromkeys(line.name for panel in chart.panels for line in panel.lines if line.name))
    colours = {name: _COLOURS[place % len(_COLOURS)] for place, name in enumerate(names)}
    with drawing(chart.height) as figure:
        row = figure.subplots(1, len(chart.panels), squeeze=False, gridspec_kw={"wspace": 0.06})[0]
        for axes, panel in zip(row, chart.panels, strict=True):
            _draw_panel(axes, panel, colours)
        firsts = {line.name: line for panel in reversed(chart.panels) for line in reversed(panel.lines) if line.name}
        handles = [_handle(firsts[name], colours[name]) for name in names]
        figure.legend(
            handles=handles, loc="outside upper left", ncols=min(len(handles), _MOST_IN_A_ROW), columnspacing=1.4,
            handlelength=1.8,
        )  # fmt: skip
        return to_svg(figure, name=chart.name, description=chart.description)


def _handle(line: Line, colour: str) -> Line2D:
    mark = _MARKS[line.style]
    return Line2D([], [], color=INK if line.style == "outline" else colour, label=line.name, **mark)  # type: ignore[arg-type]


_MARKS: Final[dict[str, dict[str, object]]] = {
    "line": {"linewidth": 1.5},
    "dashed": {"linewidth": 1.5, "linestyle": (0, (3, 2))},
    "dots": {"linewidth": 0, "marker": "o", "markersize": 3.2},
    "outline": {"linewidth": 1.2},
}


def _draw_panel(axes: Axes, panel: Panel, colours: dict[str, str]) -> None:
    plain_axes(axes, grid="both" if panel.is_square else "y")
    axes.set_title(panel.title)
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(panel.y_label)
    if panel.contours is not None:
        cut = panel.contours
        axes.contour(cut.x, cut.y, cut.z, levels=sorted(cut.levels), colors=MUTED, linewidths=0.7, alpha=0.7)
        axes.axhline(0, color=FAINT, linewidth=0.9)
        axes.axvline(0, color=FAINT, linewidth=0.9)
        axes.grid(visible=False)
    if panel.is_log_x:
        axes.set_xscale("log")
    if panel.is_log_y:
        axes.set_yscale("log")
    if panel.is_square:
        axes.set_aspect("equal")
    for line in panel.lines:
        colour = INK if line.style == "outline" else colours.get(line.name, INK)
        if line.low and line.style == "dots":  # nothing lies between them that a band could be of
            axes.vlines(line.x, line.low, line.high, color=colour, linewidth=1.2)
        elif line.low:
            axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.15, linewidth=0)
        size = {"markersize": 6.5} if line.style == "dots" and len(line.x) == 1 else {}
        axes.plot(line.x, line.y, color=colour, **{**_MARKS[line.style], **size})  # type: ignore[arg-type]
    if panel.upright is not None:
        axes.axvline(panel.upright, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
    for axis, is_log in ((axes.xaxis, panel.is_log_x), (axes.yaxis, panel.is_log_y)):
        axis.set_minor_locator(NullLocator())
        if is_log:
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    for axis, names in ((axes.xaxis, panel.x_names), (axes.yaxis, panel.y_names)):
        if names:
            axis.set_major_locator(FixedLocator(list(names)))
            axis.set_ticklabels(list(names.values()))
    if panel.y_names:
        axes.invert_yaxis()
