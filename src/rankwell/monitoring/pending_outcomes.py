"""Requests that wait for their labels, and the actions that came so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Self, final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rankwell.data.arrow_values import as_times_us, whole_array
from rankwell.data.attribution import attribute
from rankwell.data.check import Where
from rankwell.data.layout import LogLayout
from rankwell.data.served_columns import served_probability
from rankwell.errors import MonitoringError
from rankwell.monitoring.flat_rows import FlatRows
from rankwell.monitoring.outcome_pane import OutcomePane
from rankwell.monitoring.pane_layout import CategoricalBins
from rankwell.monitoring.report_gap import ReportGap
from rankwell.monitoring.version_pane import VersionPane
from rankwell.schema import Schema

__all__ = ["PendingOutcomes", "Settling"]

_NONE: Final = np.zeros(0, np.int64)
_NO_ROWS: Final = FlatRows(
    _NONE, dict.fromkeys(("request", "segment", "probability", "label", "propensity", "price_micros"), _NONE)
)

_PRICE: Final = "served_price_micros"
_BUNDLE: Final = "served_bundle_id"
_US: Final = 1e6
_SLACK_PARTS: Final = 6
"""Of an action's window, so long most of them take at most."""


@final
@dataclass(frozen=True, slots=True)
class Settling:
    """What a step settles.

    Args:
        reported_until_us: Until when actions are reported.
        from_us: What is older came too late.
        settled_us: Outcomes of requests before it are counted afterwards.
    """

    reported_until_us: int
    from_us: int
    settled_us: int


@final
class PendingOutcomes:
    """Counts what became of a request once: when the window of its action has closed, and late actions have come.

    A click counts as soon as it is there, and its absence only when the window has closed: who counted what is known
    at any moment would see too many clicks. So a request waits, whole, and is then counted for good.

    Args:
        schema: The log's; it says the time, the item, the position and the propensity.
        action: Of the schema, with a window.
        segments: The column by whose values outcomes are told apart; None: all are `ALL_ROWS`.
        late_s: How long after its window's end an action may arrive.

    Raises:
        MonitoringError: The action has no window, or the schema does not say what was shown.
    """

    def __init__(self, schema: Schema, action: str, segments: CategoricalBins | None, *, late_s: float = 0.0) -> None:
        declared = schema.actions[schema.action_index(action)]
        layout = LogLayout.of(schema, "requests")
        columns = {
            "request_id": layout.of_role("request_id"),
            "time": layout.of_role("time"),
            "item": next((c for c in layout.columns if schema.item is not None and c.name == _item(schema)), None),
            "position": layout.of_role("position"),
            "propensity": layout.of_role("propensity"),
        }
        lacking = [role for role, column in columns.items() if column is None]
        if declared.window_s is None or lacking or not late_s >= 0:
            raise MonitoringError(
                f"outcomes of {action!r} cannot be watched",
                found=f"window_s={declared.window_s}, late_s={late_s}, no column for {lacking}",
                allowed="an action with a window, late_s ≥ 0, and columns for all of those",
                do="declare them in the schema",
            )
        self.action, self.segments = action, segments
        # Actions name their requests, so no member is kept.
        self._schema = schema.model_copy(update={"actions": (declared,), "member_id": None})
        self._waits_us = round((declared.window_s + late_s) * _US)
        names = {role: column.name for role, column in columns.items() if column is not None}
        self._time, self._request = columns["time"], names["request_id"]
        self._position, self._propensity = names["position"], names["propensity"]
        self._kept = [*names.values(), served_probability(action), _PRICE, _BUNDLE]
        self._kept += [segments.name] if segments is not None else []
        self._gap = ReportGap(slack_s=declared.window_s / _SLACK_PARTS)
        self._requests: Any = None
        self._actions: Any = None
        self.num_late = 0
        """Requests that came after their labels were due: they are not counted."""

    @property
    def num_pending(self) -> int:
        """Requests that wait."""
        return 0 if self._requests is None else len(self._requests)

    def add(self, served: Any) -> None:
        """Requests, as the log of served requests gives them; each must come once (`Arrivals`)."""
        self._requests = _joined(self._requests, served.select(list(dict.fromkeys(self._kept))))

    def add_actions(self, actions: Any) -> None:
        """Actions, as `rankwell.data.actions` has them, in any order, before their requests or after, and repeated."""
        of_kind = actions.filter(pc.equal(actions["action"], self.action))
        self._actions = _joined(self._actions, of_kind)

    def settled(
        self, versions: VersionPane, *, now_us: int, from_us: int = 0, reported_until_us: int | None = None
    ) -> tuple[OutcomePane, dict[str, OutcomePane]]:
        """The pane of `settled_rows`, and apart from it what bundles answered that were on trial, by their ids.

        Args:
            versions: Who answered the requests; see `VersionPane.trials`.
            now_us, from_us, reported_until_us: As of `settled_rows`.
        """
        closed = self._closed(now_us, from_us, reported_until_us)
        if closed is None:
            return OutcomePane.nothing(self.action), {}
        ids_R = closed[_BUNDLE].cast(pa.string()).to_pylist()
        trial_R = np.array(versions.trials(ids_R, self._times_us(closed)), object)
        panes = {
            trial: self._pane(self._labelled(closed.filter(pa.array(trial_R == trial)), now_us))
            for trial in dict.fromkeys([None, *trial_R])
        }
        self._forget_actions(now_us, reported_until_us)
        outcomes = panes.pop(None)
        return outcomes, {str(trial): pane for trial, pane in panes.items()}

    def settled_rows(self, *, now_us: int, from_us: int = 0, reported_until_us: int | None = None) -> FlatRows:
        """What became of the requests that need not wait any longer, a row for each that was shown; they are forgotten.

        Columns are "request", "segment", "probability", "label" (bool), "propensity" and "price_micros", as the
        arguments of `OutcomePane.of`.

        Args:
            now_us: UTC microseconds. A clock that jumps back settles nothing; one that jumps ahead settles too early.
            from_us: What is older came after `settled` had passed it, its actions being forgotten: it is left out, and
                counted in `num_late`.
            reported_until_us: Until when actions are reported, see there; by default until now.
        """
        closed = self._closed(now_us, from_us, reported_until_us)
        rows = _NO_ROWS if closed is None else self._labelled(closed, now_us)
        self._forget_actions(now_us, reported_until_us)
        return rows

    def settling(self, *, now_us: int, stepped_us: int, settled_us: int, keep_us: int) -> Settling:
        """What is due in a step; where reports of actions are missing, outcomes are due no sooner than the reports.

        Args:
            now_us, stepped_us: UTC microseconds of this step and of the one before. A clock that was ahead has settled
                too early: what comes now must not be late until it is right again.
            settled_us: Outcomes of requests before it were counted, as the step before left it.
            keep_us: Where reports are missing, so long requests wait for them at most.
        """
        reported_until_us = max(self.reported_until_us(now_us), now_us - keep_us)
        due_us = self.due_us(reported_until_us)
        from_us = min(settled_us, due_us) if now_us < stepped_us else settled_us
        return Settling(reported_until_us, from_us, max(from_us, due_us))

    def due_us(self, now_us: int) -> int:
        """Requests before it need not wait any longer."""
        return now_us - self._waits_us

    def reported_until_us(self, now_us: int) -> int:
        """Until when actions are reported as far as those expected of the requests that wait tell; `now_us` at most."""
        if self._requests is None or not len(self._requests):
            return now_us
        requests, names = self._requests, (served_probability(self.action), self._position)
        p_C, position_C = (requests[name].combine_chunks() for name in names)
        lengths_R = pc.list_value_length(p_C).to_numpy()
        shown_C = np.where(position_C.flatten().to_numpy() > 0, p_C.flatten().to_numpy(), 0.0)
        request_C = np.repeat(np.arange(len(requests)), lengths_R)
        expected_R = np.bincount(request_C, shown_C, minlength=len(requests)).astype(np.float64)
        actions = np.zeros(0, np.int64) if self._actions is None else self._actions["time_us"].to_numpy()
        begins_us = self._gap.begins_us(self._times_us(requests), expected_R, actions, now_us=now_us)
        return now_us if begins_us is None else begins_us

    def tables(self) -> tuple[Any, Any]:
        """Requests and actions that are kept, for a checkpoint; None where none ever came."""
        return self._requests, self._actions

    def with_tables(self, requests: Any, actions: Any) -> Self:
        """As it was when `tables` gave these."""
        self._requests, self._actions = requests, actions
        return self

    def _closed(self, now_us: int, from_us: int, reported_until_us: int | None) -> Any | None:
        """The requests that need not wait any longer, taken out of those that do; None if there are none."""
        if self._requests is None or not len(self._requests):
            return None
        times_us_R = self._times_us(self._requests)
        is_late_R = times_us_R < from_us
        is_due_R = times_us_R < self.due_us(now_us if reported_until_us is None else reported_until_us)
        self.num_late += int(is_late_R.sum())
        closed = self._requests.filter(pa.array(is_due_R & ~is_late_R))
        self._requests = self._requests.filter(pa.array(~is_due_R & ~is_late_R))
        return closed if len(closed) else None

    def _forget_actions(self, now_us: int, reported_until_us: int | None) -> None:
        if self._actions is not None:
            due_us = self.due_us(now_us if reported_until_us is None else reported_until_us)
            self._actions = self._actions.filter(pc.greater_equal(self._actions["time_us"], due_us))

    def _pane(self, rows: FlatRows) -> OutcomePane:
        return OutcomePane.of(
            self.action,
            times_us_C=rows.times_us_C,
            request_C=rows.columns["request"],
            segment_C=rows.columns["segment"],
            probabilities_C=rows.columns["probability"],
            labels_C=rows.columns["label"],
            propensity_C=rows.columns["propensity"],
            price_micros_C=rows.columns["price_micros"],
        )

    def _times_us(self, requests: Any) -> Any:
        assert self._time is not None
        return as_times_us(whole_array(requests, self._time), Where(self._time.name, "the table", 0))

    def _labelled(self, requests: Any, now_us: int) -> FlatRows:
        actions = self._actions if self._actions is not None else _no_actions()
        labelled, _ = attribute(requests, actions, self._schema, now_us=now_us)
        names = [self._request, self._propensity, self._position, served_probability(self.action), _PRICE, self.action]
        names += [self.segments.name] if self.segments is not None else []
        rows = FlatRows.of_table(labelled, self._schema, names, rows="shown")
        labels_C = rows.columns[self.action]
        rows = rows.kept(np.isfinite(labels_C) & (labels_C >= 0))
        columns = {
            "request": rows.columns[self._request],
            "segment": rows.segments(self.segments),
            "probability": rows.columns[served_probability(self.action)],
            "label": rows.columns[self.action] > 0,
            "propensity": rows.columns[self._propensity],
            "price_micros": rows.columns[_PRICE],
        }
        return FlatRows(rows.times_us_C, columns)


def _item(schema: Schema) -> str:
    feature = schema.feature(str(schema.item))
    return getattr(feature, "column", None) or feature.name


def _joined(before: Any, more: Any) -> Any:
    more = more.replace_schema_metadata(None)
    return more if before is None else pa.concat_tables([before, more], promote_options="default").combine_chunks()


def _no_actions() -> Any:
    return pa.table(
        {
            "request_id": pa.array([], pa.int64()), "item_id": pa.array([], pa.int64()),
            "action": pa.array([], pa.string()), "time_us": pa.array([], pa.int64()),
        }
    )  # fmt: skip
