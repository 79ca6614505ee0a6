"""What `rankwell inspect` prints and draws.

Letters: n rows · B bins of sightings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullLocator, PercentFormatter
from rich.box import SIMPLE_HEAD
from rich.table import Table

from rankwell.app.drawing import AFTER, BEFORE, FAINT, MUTED, drawing, plain_axes
from rankwell.app.number_format import count, memory, number, percent
from rankwell.serving.inspection import BundleInspection, TableInspection

__all__ = ["draw_inspection", "inspection_tables"]


def inspection_tables(inspection: BundleInspection) -> tuple[Table, Table]:
    """How much of each table is stored, and what its rows are like."""
    total = inspection.numbers()
    stored = _table(
        f"{inspection.path}: {inspection.model.rpartition(':')[2]}, written by rankwell {inspection.library_version}",
        f"{memory(inspection.num_bytes)} in all. Saved is what zero rows would take, less what their ids take; state "
        "is what FTRL needs to go on, and part of the bytes.",
    )
    for heading in ("part", "table", "ids", "type"):
        stored.add_column(heading, overflow="fold")
    for heading in ("rows", "zero", "", "bytes", "of them state", "saved"):
        stored.add_column(heading, justify="right")
    for t, part in zip(inspection.tables, _first_of_each(inspection), strict=True):
        stored.add_row(
            part, t.name, t.addressing, f"{t.width} × {t.dtype}", count(t.num_rows), count(t.num_zeros),
            percent(t.num_zeros / t.num_rows if t.num_rows else None), memory(t.num_bytes), memory(t.state_bytes),
            _saved(t.bytes_saved),
        )  # fmt: skip
    stored.add_section()
    rows, zeros = int(total["total/rows"]), int(total["total/zero_rows"])
    stored.add_row(
        "total", "", "", "", count(rows), count(zeros), percent(zeros / rows if rows else None),
        memory(int(total["total/bytes_of_tables"])), memory(sum(t.state_bytes for t in inspection.tables)),
        _saved(int(total["total/bytes_saved"])),
    )  # fmt: skip
    said = _table("What the rows are like", "Norms are Euclidean. Ids that training never saw read the default row.")
    for heading in ("part", "table"):
        said.add_column(heading, overflow="fold")
    for heading in ("sightings 10 %", "50 %", "90 %", "norm 10 %", "50 %", "90 %", "default row", "missing row"):
        said.add_column(heading, justify="right")
    for t, part in zip(inspection.tables, _first_of_each(inspection), strict=True):
        seen = (count(int(q)) if t.num_rows else "–" for q in t.quantiles(t.sightings_n))
        norms = (number(q, 3) if t.num_rows else "–" for q in t.quantiles(t.norms_n))
        said.add_row(part, t.name, *seen, *norms, number(t.default_norm, 3), number(t.missing_norm, 3))
    return stored, said


def draw_inspection(inspection: BundleInspection, path: Path) -> None:
    """Draw, part by part, norms and the share of zero rows against how often training saw an id.

    Args:
        inspection: At least one row in it.
        path: Of the picture; its ending says the format. The folder is made.
    """
    parts = list(dict.fromkeys(table.part for table in inspection.tables if table.num_rows))
    path.parent.mkdir(parents=True, exist_ok=True)
    with drawing(4.6) as figure:
        axes = figure.subplots(
            2, max(len(parts), 1), sharex="col", squeeze=False, gridspec_kw={"height_ratios": [3, 2], "hspace": 0.04}
        )
        for place, part in enumerate(parts):
            _draw_part([table for table in inspection.tables if table.part == part], axes[0][place], axes[1][place])
            axes[0][place].set_title(part)
        axes[0][0].set_ylabel("norm of rows that are not zero\n(median, 10 to 90 %)")
        axes[1][0].set_ylabel("rows that are zero,\nof those above the bars")
        figure.supxlabel("times that training saw the id", color=MUTED, fontsize=8.5)
        figure.savefig(path, dpi=160, facecolor="white")


def _draw_part(tables: Sequence[TableInspection], upper: Axes, lower: Axes) -> None:
    sightings_n = np.concatenate([table.sightings_n for table in tables])
    norms_n = np.concatenate([table.norms_n for table in tables])
    last = max(1, int(np.ceil(np.log2(max(sightings_n.max(), 1) + 1))))
    edges = 2.0 ** np.arange(last + 1)
    bin_n = np.clip(np.digitize(sightings_n, edges) - 1, 0, last - 1)
    middle_B = np.sqrt(edges[:-1] * edges[1:])
    num_B = np.bincount(bin_n, minlength=last)
    zeros_B = np.bincount(bin_n[norms_n == 0], minlength=last)
    low_B, median_B, high_B = (np.full(last, np.nan) for _ in range(3))
    for b in range(last):
        norms = norms_n[(bin_n == b) & (norms_n > 0)]
        if len(norms):
            low_B[b], median_B[b], high_B[b] = np.quantile(norms, (0.1, 0.5, 0.9))
    for axes in (upper, lower):
        plain_axes(axes, grid="y")
        axes.set_xscale("log", base=2)
    upper.vlines(middle_B, low_B, high_B, color=AFTER, linewidth=5, alpha=0.3)
    upper.plot(middle_B, median_B, "o-", color=AFTER, markersize=4, linewidth=1)
    upper.set_ylim(bottom=0)
    seen = num_B > 0
    share_B = np.divide(zeros_B, num_B, out=np.zeros(last), where=seen)
    lower.bar(edges[:-1][seen], 1.0, width=np.diff(edges)[seen], align="edge", color=FAINT, alpha=0.5, linewidth=0)
    lower.bar(edges[:-1], share_B, width=np.diff(edges), align="edge", color=BEFORE, edgecolor="white", linewidth=0.6)
    for b in np.flatnonzero(seen).tolist():
        lower.text(middle_B[b], 1.03, _short(int(num_B[b])), ha="center", va="bottom", fontsize=6.5, color=MUTED,
                   rotation=90)  # fmt: skip
    lower.set_ylim(0, 1.4)
    lower.set_yticks([0, 0.5, 1])
    lower.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    lower.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _short(round(x))))
    lower.xaxis.set_minor_locator(NullLocator())


def _first_of_each(inspection: BundleInspection) -> Iterator[str]:
    """The part of each table where it begins, and nothing where it goes on."""
    before = ""
    for table in inspection.tables:
        yield "" if table.part == before else table.part
        before = table.part


def _short(value: int) -> str:
    for size, letter in ((10**6, "M"), (10**3, "k")):
        if value >= size:
            return f"{value / size:.2g}{letter}" if value < 10 * size else f"{value / size:.0f}{letter}"
    return str(value)


def _saved(num_bytes: int) -> str:
    return memory(num_bytes) if num_bytes >= 0 else f"−{memory(-num_bytes)}"


def _table(title: str, caption: str) -> Table:
    return Table(title=title, caption=caption, box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
