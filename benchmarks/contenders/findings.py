"""Measured figures beside their targets: printed as a table, written as flat JSON."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import final

from rich.console import Console
from rich.table import Table as PrintedTable

__all__ = ["Findings"]


@final
class Findings:
    """The figures of one benchmark, in the order they are found.

    A target is for a machine of the kind the benchmark was written on, doing nothing else: it is printed, not asserted.
    """

    def __init__(self, title: str) -> None:
        self._title = title
        self._rows: list[tuple[str, float, str, float | None, float | None]] = []

    def add(
        self, name: str, value: float, unit: str = "", *, at_most: float | None = None, at_least: float | None = None
    ) -> None:
        """One figure; NaN where it could not be measured."""
        self._rows.append((name, float(value), unit, at_most, at_least))

    @property
    def all_met(self) -> bool:
        """Whether no target is missed."""
        return all(_is_met(value, at_most, at_least) for _, value, _, at_most, at_least in self._rows)

    def print(self) -> None:
        """The figures, their targets, and whether they are met."""
        printed = PrintedTable("", "measured", "target", "met", title=self._title)
        for name, value, unit, at_most, at_least in self._rows:
            target = f"≤ {_short(at_most)}" if at_most is not None else ""
            target = f"≥ {_short(at_least)}" if at_least is not None else target
            met = _is_met(value, at_most, at_least)
            verdict = "" if not target or math.isnan(value) else "yes" if met else "no"
            printed.add_row(
                name, f"{_short(value)} {unit}".strip(), f"{target} {unit}".strip() if target else "", verdict
            )
        Console(width=None if Console().is_terminal else 140).print(printed)

    def write(self, path: Path | None) -> None:
        """The figures as JSON, name to number; nowhere if there is no path."""
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({name: value for name, value, *_ in self._rows}, indent=1))


def _is_met(value: float, at_most: float | None, at_least: float | None) -> bool:
    return (at_most is None or value <= at_most) and (at_least is None or value >= at_least)


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
