"""What `rankwell fit-budget` shows: who was tried, what became of them, and the frontier as a figure."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final

from matplotlib.axes import Axes
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, NullFormatter
from matplotlib.transforms import Bbox
from rich.table import Table

from rankwell.app.drawing import AFTER, BEFORE, INK, MUTED, drawing, plain_axes
from rankwell.app.number_format import number
from rankwell.serving.budget_fit import TEACHER, Budget, BudgetFit, Quality, Tried

__all__ = ["budget_numbers", "budget_tables", "draw_frontier"]

_MOST_LABELS: Final = 24
"""Heights that a name is tried at."""


def budget_tables(fit: BudgetFit, budget: Budget) -> tuple[Table, ...]:
    """All contenders with time and worth on tune; and what is served, beside its teacher, on test."""
    tried = Table(title=f"P95 of {budget.num_candidates:,} candidates, budget {budget.p95_ms:g} ms; worth on tune")
    tried.add_column("contender")
    for heading in ("P50 ms", "P95 ms", "AUC", "log loss", "ECE"):
        tried.add_column(heading, justify="right")
    tried.add_column("verdict")
    for group in ((fit.teacher,), fit.students, fit.steps):
        for contender in group:
            tried.add_row(*_cells(contender))
        tried.add_section()
    served = Table(title="what it costs: test, calibrated")
    served.add_column("")
    for heading in ("AUC", "log loss", "ECE"):
        served.add_column(heading, justify="right")
    for name, quality in fit.test.items():
        served.add_row(name, *_quality_cells(quality))
    if len(fit.test) > 1:
        first, *_, last = fit.test.values()
        served.add_section()
        lost = (last.auc - first.auc, last.log_loss - first.log_loss, last.ece - first.ece)
        served.add_row("difference", *(f"{difference:+.5f}" for difference in lost))
    return tried, served


def budget_numbers(fit: BudgetFit) -> dict[str, float]:
    """Flat names to numbers, for ``--json``."""
    numbers: dict[str, float] = {}
    for contender in (fit.teacher, *fit.students, *fit.steps):
        of = f"{contender.name}/"
        numbers |= {f"{of}p50_ms": contender.latency.p50_ms, f"{of}p95_ms": contender.latency.p95_ms}
        numbers |= {f"{of}p99_ms": contender.latency.p99_ms, f"{of}is_kept": float(contender.is_kept)}
        numbers |= _quality_numbers(f"{of}tune/", contender.tune)
    for name, quality in fit.test.items():
        numbers |= _quality_numbers(f"{name}/test/", quality)
    return numbers


def draw_frontier(fit: BudgetFit, budget: Budget, path: Path) -> None:
    """Draw accuracy against time: every contender that was judged, the frontier among them, and the budget.

    Args:
        fit: What was found.
        budget: What was asked.
        path: Of the picture; its ending says the format. The folder is made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    judged = [tried for tried in (fit.teacher, *fit.students, *fit.steps) if not math.isnan(tried.tune.auc)]
    best = [by_name for name in fit.frontier() for by_name in judged if by_name.name == name]
    with drawing(4.2) as figure:
        axes = figure.subplots()
        plain_axes(axes, grid="both")
        axes.set_xscale("log")
        axes.plot(
            [tried.latency.p95_ms for tried in best], [tried.tune.auc for tried in best], color=AFTER, linewidth=1.2
        )
        colours = {tried.name: INK if tried.name == TEACHER else AFTER if tried.is_kept else BEFORE for tried in judged}
        for tried in judged:
            axes.plot(tried.latency.p95_ms, tried.tune.auc, "o", color=colours[tried.name], markersize=4.5)
        axes.axvline(budget.p95_ms, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
        axes.margins(x=0.12, y=0.3)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(f"P95 of {budget.num_candidates:,} candidates, ms; dashed: the budget")
        axes.set_ylabel("AUC on tune")
        axes.set_title("Accuracy against time; the line joins those that nothing beats in both")
        figure.draw_without_rendering()  # where labels fall is known once the axes stand
        dots = axes.transData.transform([(tried.latency.p95_ms, tried.tune.auc) for tried in judged])
        taken = [Bbox.from_extents(x - 4, y - 4, x + 4, y + 4) for x, y in dots.tolist()]
        for tried in sorted(judged, key=lambda tried: tried.latency.p95_ms):
            _label(axes, tried.name, (tried.latency.p95_ms, tried.tune.auc), colours[tried.name], taken)
        figure.savefig(path, dpi=160, facecolor="white")


def _label(axes: Axes, text: str, point: tuple[float, float], colour: str, taken: list[Bbox]) -> None:
    """Write a name at the nearest height above or below its point where no other name stands; a line leads there."""

    def written(height: int, line: dict[str, object] | None = None) -> Text:
        return axes.annotate(
            text, point, xytext=(4, height), textcoords="offset points", fontsize=7.5, color=colour, arrowprops=line
        )

    for away in range(_MOST_LABELS):
        height = 6 + 11 * (away // 2) if away % 2 == 0 else -11 - 11 * (away // 2)
        label = written(height)
        place = label.get_window_extent().padded(2)
        if away == _MOST_LABELS - 1 or not any(place.overlaps(other) for other in taken):
            taken.append(place)
            if away > 1:
                label.remove()
                written(height, {"arrowstyle": "-", "color": colour, "linewidth": 0.5})
            return
        label.remove()


def _cells(tried: Tried) -> tuple[str, ...]:
    latency = tried.latency
    return (
        tried.name,
        number(latency.p50_ms, 2),
        number(latency.p95_ms, 2),
        *_quality_cells(tried.tune),
        tried.verdict,
    )


def _quality_cells(quality: Quality) -> tuple[str, ...]:
    return tuple("" if math.isnan(value) else f"{value:.4f}" for value in (quality.auc, quality.log_loss, quality.ece))


def _quality_numbers(of: str, quality: Quality) -> dict[str, float]:
    return {f"{of}auc": quality.auc, f"{of}log_loss": quality.log_loss, f"{of}ece": quality.ece}
