"""What a study has to show, as data: panels of lines, marks and contours. Drawing them is another room's affair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, final

__all__ = ["Chart", "Contours", "Line", "Panel"]


@final
@dataclass(frozen=True, kw_only=True)
class Line:
    """Points in their order.

    Args:
        name: As the legend has it; "" stands in no legend. Lines of one name have one colour throughout a chart.
        x, y: Of the points.
        low, high: Ends of their intervals; both or neither.
        style: How it is drawn; "outline" is closed and unfilled, in the colour of ink.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    style: Literal["line", "dashed", "dots", "outline"] = "line"


@final
@dataclass(frozen=True, kw_only=True)
class Contours:
    """A surface: z[i][j] at y[i] and x[j], and the heights at which it is cut."""

    x: Sequence[float]
    y: Sequence[float]
    z: Sequence[Sequence[float]]
    levels: Sequence[float]


@final
@dataclass(frozen=True, kw_only=True)
class Panel:
    """One pair of axes.

    Args:
        title: Says what is seen.
        x_label, y_label: With their units.
        lines: In the order of the legend.
        is_log_x, is_log_y: Whether an axis is logarithmic.
        is_square: Whether a unit is as long across as up.
        x_names, y_names: What places on an axis are called, where they are no numbers; a y axis of names is read
            downwards.
        contours: Beneath the lines.
        upright: Where a thin upright line stands, if anywhere.
    """

    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    is_log_x: bool = False
    is_log_y: bool = False
    is_square: bool = False
    x_names: Mapping[float, str] = field(default_factory=dict)
    y_names: Mapping[float, str] = field(default_factory=dict)
    contours: Contours | None = None
    upright: float | None = None


@final
@dataclass(frozen=True, kw_only=True)
class Chart:
    """Panels side by side, under one legend.

    Args:
        name: Unique in a study.
        title: A heading.
        caption: How to read it.
        description: What a reader who cannot see it is told.
        panels: From left to right.
        height: In inches, of 9.4 in width.
    """

    name: str
    title: str
    caption: str
    description: str
    panels: tuple[Panel, ...]
    height: float = 3.6
