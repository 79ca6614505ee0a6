"""The page of a watch: drawn by the server after each round, and brought up to date in the browser as it changes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Final, final

from jinja2 import Environment, StrictUndefined, Template

from rankwell.app.dashboard_chart import HEIGHT, WIDTH, latency_chart, ratio_charts, spend_chart
from rankwell.app.number_format import number
from rankwell.app.server_latency import ServerLatency
from rankwell.app.time_text import clock_text, span_text
from rankwell.mitigation.watch_view import WatchView, segment_text
from rankwell.monitoring.pane_layout import ALL_ROWS
from rankwell.monitoring.reading import Reading
from rankwell.monitoring.trial_readings import bundle_on_trial

__all__ = ["Dashboard"]

_STALE_US: Final = 20 * 60_000_000
_MOST_BARS: Final = 12
_MARK: Final = 60.0
"""Where on a bar's track its limit stands, in percent."""


@final
@dataclass(frozen=True, slots=True)
class _Bar:
    where: str
    statistic: str
    value: str
    limit: str
    times: str
    share: float
    is_alarm: bool
    kl: str | None
    kl_share: float


@final
@dataclass(frozen=True, slots=True)
class _Trial:
    bundle_id: str
    seen: float
    expected: float
    spend_micros: int
    accused: str


@final
class Dashboard:
    """What is shown of a watch; a sink of its rounds.

    Args:
        name: Of what is watched, as the page's head has it.
        now_us: UTC microseconds; None: time stands still between rounds.
        latency: The server's; None: it isn't asked for it.
    """

    def __init__(
        self, name: str, *, now_us: Callable[[], int] | None = None, latency: ServerLatency | None = None
    ) -> None:
        self._name, self._now_us, self._latency = name, now_us, latency
        self._view: WatchView | None = None
        self._drawn: dict[str, object] = {}
        self._problem: str | None = None

    def tell(self, view: WatchView) -> None:
        """See `AlarmSink`."""
        drawn: dict[str, object] = {
            "ratios": ratio_charts(view),
            "spend": spend_chart(view),
            "bars": _bars(view),
            "trials": _trials(view),
            "num_unjudged": sum(not math.isfinite(one.limit) for one in _drift(view)),
            "num_drift": len(_drift(view)),
        }
        self._view, self._drawn = view, drawn

    def close(self) -> None:
        """See `AlarmSink`."""

    def problem(self, text: str | None) -> None:
        """Say why nothing is looked at; None: all is well again."""
        self._problem = text

    def page(self) -> bytes:
        """The whole page."""
        return _template("dashboard.html.jinja").render(name=self._name, content=self.content().decode()).encode()

    def content(self) -> bytes:
        """What changes of it, as HTML; equal bytes where nothing has."""
        view = self._view
        now_us = self._now_us() if self._now_us is not None else 0 if view is None else view.now_us
        return (
            _template("dashboard_content.html.jinja")
            .render(
                name=self._name,
                view=view,
                problem=self._problem,
                is_stale=view is not None and now_us - view.now_us > _STALE_US,
                correction=None if view is None else _correction(view, now_us),
                alarms=[] if view is None else _alarms(view, now_us),
                why=None if view is None else view.report.explanation,
                latency=None if self._latency is None else self._latency.shown(),
                latencies=None if self._latency is None else latency_chart(self._latency.points()),
                width=WIDTH,
                height=HEIGHT,
                mark=_MARK,
                clock=clock_text,
                ago=span_text,
                number=number,
                segment=lambda value: segment_text("" if view is None else view.feature, value),
                now_us=now_us,
                **self._drawn,
            )
            .encode()
        )


def _drift(view: WatchView) -> list[Reading]:
    """All but calibration, and KL, which stands beside PSI."""
    return [one for one in view.report.readings if not one.name.startswith("calibration") and one.name != "kl"]


def _trials(view: WatchView) -> list[_Trial]:
    """What became of the last day's requests that bundles on trial answered."""
    accused: dict[str, list[str]] = {}
    for reading in view.report.readings:
        bundle_id = bundle_on_trial(reading)
        if bundle_id is not None and reading.is_alarm:
            accused.setdefault(bundle_id, []).append(segment_text(view.feature, reading.segment))
    found = []
    for bundle_id, pane in view.trials.items():
        sums, spend_G = pane.sums("served", pane.segments), pane.spend_micros(pane.segments)
        found.append(
            _Trial(
                bundle_id, float(sums.observed_G.sum()), float(sums.predicted_G.sum()), int(spend_G.sum()),
                ", ".join(accused.get(bundle_id, [])),
            )
        )  # fmt: skip
    return found


def _bars(view: WatchView) -> list[_Bar]:
    """Those nearest to their limits, each statistic, column and segment once, by the window that is nearer."""
    nearest: dict[tuple[str, str, int], tuple[float, Reading]] = {}
    for reading in _drift(view):
        if math.isfinite(reading.value) and math.isfinite(reading.limit) and reading.limit > 0:
            key, share = reading.key, reading.value / reading.limit
            if key not in nearest or share > nearest[key][0]:
                nearest[key] = share, reading
    ordered = sorted(nearest.values(), key=lambda pair: (not pair[1].is_alarm, -pair[0]))
    kl = {(one.column, one.segment, one.window_s): one for one in view.report.readings if one.name == "kl"}
    return [
        _bar(view, one, kl.get((one.column, one.segment, one.window_s)) if one.name == "psi" else None)
        for _, one in ordered[:_MOST_BARS]
    ]


def _bar(view: WatchView, one: Reading, kl: Reading | None) -> _Bar:
    share = one.value / one.limit
    kl_share = kl.value / kl.limit if kl is not None and kl.limit > 0 else math.nan
    return _Bar(
        where=f"{one.column} · {segment_text(view.feature, one.segment)}",
        statistic=f"{one.name.replace('_', ' ')}, {'hour' if one.window_s > 900 else 'quarter-hour'}",
        value=f"{one.value:.3g}", limit=f"{one.limit:.3g}", times=f"{share:.2g}", share=_percent(share),
        is_alarm=one.is_alarm,
        kl=None if kl is None or not math.isfinite(kl_share) else f"{kl.value:.3g} = {kl_share:.2g} × {kl.limit:.3g}",
        kl_share=_percent(kl_share) if math.isfinite(kl_share) else 0.0,
    )  # fmt: skip


def _percent(share: float) -> float:
    return round(min(share * _MARK, 100.0), 2)


def _alarms(view: WatchView, now_us: int) -> list[tuple[str, str, str, str]]:
    """What, where, since when and for how long: calibration first, then segments before all rows, the newest first."""
    ordered = sorted(
        view.standing,
        key=lambda run: (not run.name.startswith("calibration"), run.segment == ALL_ROWS, -run.since_us),
    )
    return [
        (
            f"{run.name.replace('_', ' ')}: {run.column}", segment_text(view.feature, run.segment),
            clock_text(run.since_us).removesuffix(" UTC"), span_text(now_us - run.since_us),
        )
        for run in ordered
    ]  # fmt: skip


def _correction(view: WatchView, now_us: int) -> dict[str, object] | None:
    """The one in force, as long as it is; a page that stays open sees it end."""
    one = view.correction
    if one is None or now_us >= one.expires_us:
        return None
    offsets = [
        (f"{action}, {feature} {value}", f"{offset:+.3f}", f"× {math.exp(offset):.2f}")
        for action, features in one.log_odds_offsets.items()
        for feature, values in features.items()
        for value, offset in sorted(values.items(), key=lambda pair: int(pair[0]))
    ]
    return {
        "id": one.id, "reason": one.reason, "offsets": offsets, "until": clock_text(one.expires_us),
        "left": span_text(one.expires_us - now_us), "blend": None if one.blend is None else one.blend.weight,
        "num_rows": sum(len(rows) for tables in one.wide_changes.values() for rows in tables.values()),
    }  # fmt: skip


@lru_cache
def _template(name: str) -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(resources.files("rankwell.app").joinpath(name).read_text("utf-8"))
