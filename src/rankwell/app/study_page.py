"""A study as a page: its verdict, its charts, its tables, in one file that needs no other."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Final

from jinja2 import Environment, StrictUndefined
from rich.table import Table

from rankwell.app.chart_figure import chart_figure
from rankwell.studies.study import StudyResult

__all__ = ["render_study", "write_study"]

_TEMPLATE: Final = "study.html.jinja"


def render_study(result: StudyResult) -> str:
    """The page as text: HTML with its styles and figures inside, without scripts and without any address.

    >>> "&lt;b&gt;" in render_study(StudyResult("of < and >", (), "<b>", {}))
    True
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(resources.files("rankwell.app").joinpath(_TEMPLATE).read_text("utf-8"))
    return template.render(
        name=result.name,
        sentences=[line for line in result.finding.splitlines() if line],
        charts=[(chart, chart_figure(chart)) for chart in result.charts],
        tables=[(str(table.title or ""), _headings(table), _rows(table)) for table in result.tables],
    )


def write_study(result: StudyResult, path: Path) -> Path:
    """Write the page to a file; its absolute path.

    Raises:
        OSError: The file cannot be written.
    """
    path = path.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render_study(result), encoding="utf-8", newline="\n")
    return path


def _headings(table: Table) -> list[str]:
    return [str(column.header) for column in table.columns]


def _rows(table: Table) -> list[tuple[str, ...]]:
    return [tuple(map(str, row)) for row in zip(*(column.cells for column in table.columns), strict=True)]
