"""The figures of the report.

Letters: B bins.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from rankwell.app.drawing import AFTER, BEFORE, FAINT, INK, MODEL_COLOURS, MUTED, drawing, plain_axes, to_svg
from rankwell.app.number_format import count, duration, percent
from rankwell.app.verdict import RATIO_BOUNDS
from rankwell.evaluation.calibration_error import ReliabilityCurve
from rankwell.evaluation.groups import SegmentRow
from rankwell.training.history import TrainingHistory

__all__ = ["MOST_SEGMENTS", "reliability_figure", "segment_figure", "stage_figure", "training_figure"]

MOST_SEGMENTS: Final = 16
"""How many segments of one column are drawn: those with the most candidates."""

_LOG_FROM: Final = 20.0  # highest by lowest mean prediction from which a linear axis would hide most bins
_WIDEST_RATIO: Final = 2.0


def reliability_figure(before: ReliabilityCurve, after: ReliabilityCurve, *, actions: str) -> Markup | None:
    """Observed against predicted rate before and after calibration, over where the candidates are; None if empty."""
    if not len(before) or not len(after):
        return None
    predicted = [*before.mean_predicted, *after.mean_predicted]
    is_log = min(predicted) > 0 and max(predicted) / min(predicted) > _LOG_FROM
    low, high = _rate_limits([before, after], is_log=is_log)
    with drawing(5.0) as figure:
        axes = figure.subplots(
            2, 2, sharex=True, sharey="row", gridspec_kw={"height_ratios": [4, 1], "hspace": 0.04, "wspace": 0.05}
        )
        tallest = 0.0
        for place, (curve, title, colour) in enumerate(
            [(before, "Before calibration", BEFORE), (after, "After calibration", AFTER)]
        ):
            upper, lower = axes[0][place], axes[1][place]
            plain_axes(upper, grid="both")
            plain_axes(lower, grid="x")
            upper.set_title(title)
            upper.plot([low, high], [low, high], color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
            _draw_curve(upper, curve, colour, low)
            tallest = max(tallest, _draw_mass(lower, curve, colour, is_log=is_log))
            lower.set_xlabel(f"predicted rate of {actions}")
            if is_log:
                upper.set_xscale("log")
                upper.set_yscale("log")
            upper.set_xlim(low, high)
            upper.set_ylim(low, high)
            for axis in (upper.xaxis, upper.yaxis, lower.xaxis):
                _mark_rates(axis, low, high, is_log=is_log)
            lower.yaxis.set_major_locator(NullLocator())
            lower.spines["left"].set_visible(False)
        axes[1][0].set_ylim(0, tallest * 1.05)
        axes[0][0].set_ylabel(f"observed rate of {actions}")
        axes[1][0].set_ylabel("candidates", labelpad=22)
        for at, side, words in (((0.03, 0.96), "left", "above the line: under-confident"),
                                ((0.97, 0.04), "right", "below the line: over-confident")):  # fmt: skip
            axes[0][0].text(*at, words, transform=axes[0][0].transAxes, color=MUTED, fontsize=8, ha=side,
                            va="top" if side == "left" else "bottom")  # fmt: skip
        return to_svg(
            figure,
            name="reliability",
            description=f"Reliability curves with {before.level:.0%} intervals: observed against predicted rate of "
            f"{actions} in {len(before)} bins before and {len(after)} after calibration, above the distribution of "
            "predictions. Points on the diagonal are right.",
        )


def _rate_limits(curves: Sequence[ReliabilityCurve], *, is_log: bool) -> tuple[float, float]:
    rates = [rate for curve in curves for rates in (curve.mean_predicted, curve.mean_observed) for rate in rates]
    highest = max([*rates, *(high for curve in curves for high in curve.high)])
    if not is_log:
        return 0.0, min(max(highest * 1.04, 1e-6), 1.0)
    lowest = min(rate for rate in rates if rate > 0)
    return lowest / 1.5, min(highest * 1.25, 1.0)


def _draw_curve(axes: Axes, curve: ReliabilityCurve, colour: str, floor: float) -> None:
    predicted_B, observed_B = np.array(curve.mean_predicted), np.array(curve.mean_observed)
    low_B, high_B = np.maximum(curve.low, floor), np.array(curve.high)
    is_inside_B = observed_B > floor  # on a log axis a rate of 0 has no place: its interval says what is known
    axes.vlines(predicted_B, low_B, high_B, color=colour, linewidth=1.3)
    axes.plot(predicted_B[is_inside_B], observed_B[is_inside_B], color=colour, linewidth=0.8, alpha=0.6)
    axes.plot(predicted_B[is_inside_B], observed_B[is_inside_B], "o", color=colour, markersize=4.2)


def _draw_mass(axes: Axes, curve: ReliabilityCurve, colour: str, *, is_log: bool) -> float:
    """Draw each bin as wide as its predictions and with an area of its mass; return the tallest."""
    scale = np.log10 if is_log else np.asarray
    lowest_B, highest_B = np.array(curve.lowest), np.array(curve.highest)
    if is_log:
        smallest = min(curve.mean_predicted) / 10
        lowest_B, highest_B = np.maximum(lowest_B, smallest), np.maximum(highest_B, smallest)
    lowest_B, highest_B = scale(lowest_B), scale(highest_B)
    edges = np.concatenate(([lowest_B[0]], (highest_B[:-1] + lowest_B[1:]) / 2, [highest_B[-1]]))
    least = max((edges[-1] - edges[0]) / 400, 1e-9)
    # Predictions that are all alike have no width: they get a thin bar instead of an endless one.
    edges = np.maximum.accumulate(edges + least * np.arange(len(edges)))
    height_B = np.array(curve.weight) / sum(curve.weight) / np.diff(edges)
    axes.stairs(height_B, 10**edges if is_log else edges, fill=True, color=colour, alpha=0.35, linewidth=0)
    return float(height_B.max())


def _mark_rates(axis: object, low: float, high: float, *, is_log: bool) -> None:
    locator = LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 300 else (1.0,)) if is_log else MaxNLocator(6)
    axis.set_major_locator(locator)  # type: ignore[attr-defined]
    axis.set_minor_locator(NullLocator())  # type: ignore[attr-defined]
    axis.set_major_formatter(FuncFormatter(lambda rate, _: percent(float(rate))))  # type: ignore[attr-defined]


def segment_figure(
    before: Mapping[str, Sequence[SegmentRow]],
    after: Mapping[str, Sequence[SegmentRow]],
    *,
    names: Mapping[str, Mapping[int | str | bool, str]],
) -> Markup | None:
    """The calibration ratio of each segment before and after calibration, with its interval; None without segments.

    Args:
        before: Segment column to its rows, before calibration.
        after: The same after.
        names: Segment column to what its values are called; a value without a name is shown as it is.
    """
    drawn = {column: _largest(rows) for column, rows in after.items() if rows}
    if not drawn:
        return None
    before_rows = {column: {row.segment: row for row in rows} for column, rows in before.items()}
    shown = [row for rows in drawn.values() for row in rows]
    shown += [
        before_rows[column][row.segment]
        for column, rows in drawn.items()
        for row in rows
        if row.segment in before_rows.get(column, {})
    ]
    low, high = _ratio_limits(shown)
    heights = [len(rows) + 0.6 for rows in drawn.values()]
    with drawing(0.75 + 0.235 * sum(heights) + 0.28 * len(heights)) as figure:
        panels = figure.subplots(len(drawn), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights})
        for axes, (column, rows) in zip(panels[:, 0], drawn.items(), strict=True):
            plain_axes(axes, grid="x")
            axes.spines["left"].set_visible(False)
            axes.set_title(f"by {column}")
            axes.axvspan(*RATIO_BOUNDS, color=FAINT, alpha=0.55, linewidth=0)
            axes.axvline(1, color=INK, linewidth=0.9)
            called = names.get(column, {})
            for place, row in enumerate(rows):
                earlier = before_rows.get(column, {}).get(row.segment)
                if earlier is not None:
                    _draw_ratio(axes, earlier, place - 0.17, BEFORE, (low, high), is_filled=False)
                _draw_ratio(axes, row, place + 0.17, AFTER, (low, high), is_filled=True)
            axes.set_ylim(len(rows) - 0.4, -0.6)
            labels = [f"{called.get(row.segment, str(row.segment))} ({count(row.num_candidates)})" for row in rows]
            axes.set_yticks(range(len(rows)), labels)
            axes.tick_params(axis="y", length=0, labelcolor=INK)
            axes.set_xlim(low, high)
        last = panels[-1, 0]
        last.set_xlabel("calibration ratio: predicted / observed (left: under-confident, right: over-confident)")
        _legend(panels[0, 0], [("before calibration", BEFORE, "o", "none"), ("after calibration", AFTER, "o", AFTER)])
        return to_svg(
            figure,
            name="segments",
            description="Calibration ratio with its 95 % interval for each segment before and after calibration: "
            + ", ".join(f"{len(rows)} segments by {column}" for column, rows in drawn.items()),
        )


def _largest(rows: Sequence[SegmentRow]) -> list[SegmentRow]:
    kept = sorted(range(len(rows)), key=lambda place: -rows[place].num_candidates)[:MOST_SEGMENTS]
    return [rows[place] for place in sorted(kept)]


def _ratio_limits(rows: Sequence[SegmentRow]) -> tuple[float, float]:
    """Limits around 1 that hold the ratios, and their intervals where these are not wild."""
    ends = [
        end
        for row in rows
        for end in (row.calibration_ratio_interval.low, row.calibration_ratio, row.calibration_ratio_interval.high)
        if not math.isnan(end)
    ]
    reach = max([0.08, *(abs(end - 1) for end in ends)]) * 1.08
    return max(1 - reach, 1 / _WIDEST_RATIO), min(1 + reach, _WIDEST_RATIO)


def _draw_ratio(
    axes: Axes, row: SegmentRow, height: float, colour: str, limits: tuple[float, float], *, is_filled: bool
) -> None:
    low, high = limits
    ratio, interval = row.calibration_ratio, row.calibration_ratio_interval
    if math.isnan(ratio):
        if is_filled:
            axes.text(1, height - 0.17, " undefined: none observed", color=MUTED, va="center", fontsize=7.5)
        return
    if not math.isnan(interval.low):
        ends = np.clip([interval.low, interval.high], low, high)
        axes.hlines(height, ends[0], ends[1], color=colour, linewidth=1.6 if is_filled else 1.0)
    marker = "<" if ratio < low else ">" if ratio > high else "o"  # beyond the edge: an arrow at the edge
    axes.plot(
        [min(max(ratio, low), high)], [height], marker, color=colour, markersize=4.6, clip_on=False, zorder=3,
        markerfacecolor=colour if is_filled else "none", markeredgewidth=1.1,
    )  # fmt: skip


def training_figure(histories: Mapping[str, TrainingHistory]) -> Markup | None:
    """What is minimised on train, and log loss and AUC on tune, by epoch; one line a model; None without training."""
    trained = {name: history for name, history in histories.items() if history.epochs}
    if not trained:
        return None
    colours = {name: MODEL_COLOURS[place % len(MODEL_COLOURS)] for place, name in enumerate(histories)}
    with drawing(3.5) as figure:
        panels = figure.subplots(1, 3, gridspec_kw={"wspace": 0.08})
        longest = max(len(history.epochs) for history in trained.values())
        titles = ("Train: what is minimised", "Tune: log loss in nats", "Tune: AUC")
        for axes, title in zip(panels, titles, strict=True):
            plain_axes(axes, grid="y")
            axes.set_title(title)
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(FixedLocator([1]) if longest == 1 else MaxNLocator(8, integer=True))
        for name, history in trained.items():
            epoch = [record.epoch + 1 for record in history.epochs]
            columns = (
                [record.train_loss for record in history.epochs],
                [record.tune_log_loss for record in history.epochs],
                [record.tune_auc for record in history.epochs],
            )
            best = [record.epoch == history.best_epoch for record in history.epochs]
            # annealing lowers the rate a little every epoch, which is no event; a drop on a plateau is one
            pairs = pairwise(history.epochs)
            dropped = [False, *(now.learning_rate < 0.4 * last.learning_rate for last, now in pairs)]
            for axes, value in zip(panels, columns, strict=True):
                axes.plot(epoch, value, color=colours[name], marker=".", markersize=4.0, linewidth=1.5)
                _mark_where(axes, epoch, value, best, "o", colours[name])
                _mark_where(axes, epoch, value, dropped, "v", colours[name])
        handles = [Line2D([], [], color=colours[name], linewidth=2.5, label=name) for name in trained]
        handles += [
            Line2D([], [], color=MUTED, marker="o", markerfacecolor="none", markersize=7, linewidth=0, label="kept"),
            Line2D([], [], color=MUTED, marker="v", markersize=5, linewidth=0, label="learning rate dropped"),
        ]
        figure.legend(
            handles=handles, loc="outside upper left", ncols=len(handles), columnspacing=1.4, handlelength=1.6
        )
        return to_svg(
            figure,
            name="training",
            description="Training curves: training loss, and log loss and AUC on the tune split, by epoch, of "
            + ", ".join(f"{name} ({len(history.epochs)} epochs)" for name, history in trained.items()),
        )


def _mark_where(
    axes: Axes, xs: Sequence[float], ys: Sequence[float], is_marked: Sequence[bool], marker: str, colour: str
) -> None:
    size, face = (8.5, "none") if marker == "o" else (5.5, colour)
    for x, y, marked in zip(xs, ys, is_marked, strict=True):
        if marked:
            axes.plot([x], [y], marker, color=colour, markersize=size, markerfacecolor=face)


def stage_figure(stage_seconds: Mapping[str, float]) -> Markup | None:
    """How long each stage took, as bars in the order they ran; None where nothing was timed."""
    if not stage_seconds:
        return None
    names, seconds = list(stage_seconds), list(stage_seconds.values())
    slowest, total = max(seconds), sum(seconds)
    with drawing(0.35 + 0.25 * len(names)) as figure:
        axes = figure.subplots()
        plain_axes(axes, grid="x")
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.grid(visible=False)
        colours = [BEFORE if second == slowest else AFTER for second in seconds]
        axes.barh(range(len(names)), seconds, color=colours, height=0.62)
        for place, second in enumerate(seconds):
            share = f" · {second / total:.0%}".replace("%", " %") if second >= 0.005 * total > 0 else ""
            axes.annotate(
                f"{duration(second)}{share}", (second, place), xytext=(5, 0), textcoords="offset points", va="center"
            )
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_xlim(0, max(slowest, 1e-9) * 1.18)
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.xaxis.set_major_locator(NullLocator())
        return to_svg(
            figure,
            name="stages",
            description="Seconds of each stage: "
            + ", ".join(f"{name} {duration(second)}" for name, second in stage_seconds.items()),
        )


def _legend(axes: Axes, entries: Sequence[tuple[str, str, str, str]]) -> None:
    """A legend in one row above the axes, at the right: (label, colour, marker or line style, face colour)."""
    handles = [
        axes.plot([], [], mark, color=colour, markerfacecolor=face, label=label, markersize=5, linewidth=1)[0]
        for label, colour, mark, face in entries
    ]
    axes.legend(
        handles=handles, loc="lower right", bbox_to_anchor=(1.0, 0.985), ncols=len(entries), borderaxespad=0.2,
        handletextpad=0.3, columnspacing=1.2,
    )  # fmt: skip
