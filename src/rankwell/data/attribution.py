"""Actions find their impressions, point-in-time: what was known at `now_us`, and nothing that came later.

An action belongs to the latest impression of the same item, in the same request (or, where it names no request, to the
same member), that was at or before it. It counts when it came within the action's window. The outcome depends on the
set of actions and on nothing else: not on their order, nor on how they are spread over files.

Letters: R requests · C candidates, flat · E events (actions that happened) · J labels that actions made, one
a candidate and kind.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import final

import numpy as np
import pyarrow as pa

from rankwell.data.actions import Actions, read_action_files
from rankwell.data.files import broken_file, open_parquet
from rankwell.data.impression_join import AttributionPlan, ImpressionJoin, RequestKeys
from rankwell.data.layout import LogLayout
from rankwell.data.point_in_time import Int64s
from rankwell.data.pseudonyms import PseudonymKey
from rankwell.data.stored_schema import check_stored_schema
from rankwell.data.writer import LogWriter
from rankwell.schema import Schema
from rankwell.types import MISSING_ID

__all__ = ["AttributionReport", "attribute", "attribute_files"]


@final
@dataclass(frozen=True, slots=True)
class AttributionReport:
    """What became of every action: all counts but the first add up to the first.

    Args:
        num_actions: Rows that came in.
        num_joined: Became a label.
        num_duplicates: Fell on a label that another action had made (a graded label takes the highest grade).
        num_late: Came after the window of their impression had closed.
        num_early: Came before every impression of their item.
        num_unshown: Named a candidate that was not shown (its position is null or 0).
        num_unknown_item: Named a known request (or member) that never had this item.
        num_unknown_request: Named a request (or member) that is not in the log, or none at all.
        num_unknown_action: Had a name that the schema doesn't have.
        num_not_yet_known: Happened or arrived after `now_us`.
    """

    num_actions: int
    num_joined: int
    num_duplicates: int
    num_late: int
    num_early: int
    num_unshown: int
    num_unknown_item: int
    num_unknown_request: int
    num_unknown_action: int
    num_not_yet_known: int


def attribute(
    requests: pa.Table, actions: pa.Table, schema: Schema, *, now_us: int, key: PseudonymKey | None = None
) -> tuple[pa.Table, AttributionReport]:
    """The requests with a label and an `<action>_observed` column for each action of the schema.

    With impression time t, action time s and window w, at the time now::

        label    = highest grade of the known actions with t ≤ s ≤ t + w (binary: 1), or 0 when there is none
        observed = there is one, or now ≥ t + w

    and the label is null where it is not observed. A candidate that was not shown (position null or 0) is never
    observed. Of two candidates of one request with the same item the first takes the action.

    Args:
        requests: In request layout; label columns that it has already are replaced.
        actions: See `rankwell.data.actions`.
        schema: Every action must declare its `window_s`.
        now_us: UTC microseconds; what happened or arrived later is invisible.
        key: Where given, the actions' member ids are raw and pseudonymised with it.

    Raises:
        SchemaError: An action has no window, or the schema has no time or no item.
        LogError: A column is missing or of a wrong type, or a value is null where it may not be.

    >>> from rankwell.schema import Action, Categorical
    >>> schema = Schema(features=(Categorical(name="job"),), actions=(Action(name="click", window_s=60),),
    ...                 item="job", member_id=None)
    >>> requests = pa.table({"request_id": [1, 2], "time_us": [0, 50_000_000], "job": [[7, 8], [7, 9]]})
    >>> actions = pa.table({"request_id": [1], "item_id": [8], "action": ["click"], "time_us": [5_000_000]})
    >>> labelled, report = attribute(requests, actions, schema, now_us=70_000_000)
    >>> labelled["click"].to_pylist(), labelled["click_observed"].to_pylist()
    ([[0, 1], [None, None]], [[True, True], [False, False]])
    >>> report.num_joined
    1
    """
    plan = AttributionPlan.of(schema)
    attribution = _Attribution(Actions.of(actions, schema, key=key), plan, now_us)
    impressions = RequestKeys.of(requests, plan)
    attribution.see(impressions)
    report = attribution.settle()
    return attribution.label(requests, impressions), report


def attribute_files(
    log_path: str,
    action_paths: Iterable[str],
    out_path: str,
    schema: Schema,
    *,
    now_us: int,
    key: PseudonymKey | None = None,
) -> AttributionReport:
    """`attribute`, from files to a file: the log is streamed twice, row group by row group, the actions are held.

    Memory follows the actions and the longest row group, not the log. `out_path` may be `log_path`: the new log takes
    the old one's place only when it is whole.

    Args:
        log_path, out_path: Local paths or fsspec URLs of logs in request layout.
        action_paths: Local paths or fsspec URLs of Parquet files of actions, in any order.
        schema, now_us, key: As for `attribute`.

    Raises:
        SchemaError, LogError: As `attribute`; or a file can't be read.
    """
    plan = AttributionPlan.of(schema)
    attribution = _Attribution(Actions.of(read_action_files(action_paths), schema, key=key), plan, now_us)
    with open_parquet(str(log_path)) as log:
        check_stored_schema(str(log_path), log.schema_arrow, schema, LogLayout.of(schema, "requests"))

        def row_groups(columns: list[str] | None) -> Iterator[pa.Table]:
            for group in range(log.num_row_groups):
                try:
                    yield log.read_row_group(group, columns=columns)
                except (pa.ArrowInvalid, OSError) as error:
                    raise broken_file(str(log_path), error) from error

        for requests in row_groups([name for name in plan.key_columns if name in log.schema_arrow.names]):
            attribution.see(RequestKeys.of(requests, plan))
        report = attribution.settle()
        with LogWriter(out_path, schema, key=None, member_ids="already_pseudonyms") as writer:
            for requests in row_groups(None):
                writer.write(attribution.label(requests, RequestKeys.of(requests, plan)))
    return report


@final
class _Attribution:
    """See all impressions, settle, then label them in the same order."""

    def __init__(self, actions: Actions, plan: AttributionPlan, now_us: int) -> None:
        known = actions.known_us_E <= now_us
        named = actions.kinds_E >= 0
        self._counts = {
            "num_actions": len(actions),
            "num_not_yet_known": int((~known).sum()),
            "num_unknown_action": int((known & ~named).sum()),
        }
        usable = actions.where(known & named)
        by_request = usable.request_ids_E != MISSING_ID
        self._plan, self._now_us = plan, now_us
        self._parts = (usable.where(by_request), usable.where(~by_request))
        self._joins = (
            ImpressionJoin(self._parts[0].request_ids_E, self._parts[0].item_ids_E, self._parts[0].times_us_E),
            ImpressionJoin(self._parts[1].member_ids_E, self._parts[1].item_ids_E, self._parts[1].times_us_E),
        )
        self._num_seen = self._num_labelled = 0

    def see(self, impressions: RequestKeys) -> None:
        for join, owners_R in zip(self._joins, impressions.owners_R, strict=True):
            if owners_R is not None:
                # A request without an owner is nobody's: its null must not meet the null of an action.
                join.see(np.where(owners_R == MISSING_ID, MISSING_ID - 1, owners_R), impressions, self._num_seen)
        self._num_seen += len(impressions.items_C)

    def settle(self) -> AttributionReport:
        kinds_E = np.concatenate([part.kinds_E for part in self._parts])
        times_us_E = np.concatenate([part.times_us_E for part in self._parts])
        grades_E = np.concatenate([part.grades_E for part in self._parts])
        candidate_E = np.concatenate([join.candidate_E for join in self._joins])
        impression_us_E = np.concatenate([join.impression_us_E for join in self._joins])
        owner_seen_E = np.concatenate([join.owner_seen_E for join in self._joins])
        shown_E = np.concatenate([join.shown_E for join in self._joins])
        unshown_E = np.concatenate([join.unshown_E for join in self._joins])
        placed_E = candidate_E >= 0
        in_window_E = placed_E.copy()
        in_window_E[placed_E] = (
            times_us_E[placed_E] - impression_us_E[placed_E] <= self._plan.windows_us[kinds_E[placed_E]]
        )

        label_E = kinds_E[in_window_E] * self._num_seen + candidate_E[in_window_E]
        labels_J, label_E = np.unique(label_E, return_inverse=True)
        self._kinds_J, self._candidate_J = np.divmod(labels_J, max(self._num_seen, 1))
        self._grades_J = np.zeros(len(labels_J), np.int64)
        np.maximum.at(self._grades_J, label_E, grades_E[in_window_E])
        return AttributionReport(
            **self._counts,
            num_joined=len(labels_J),
            num_duplicates=int(in_window_E.sum()) - len(labels_J),
            num_late=int((placed_E & ~in_window_E).sum()),
            num_early=int((shown_E & ~placed_E).sum()),
            num_unshown=int(unshown_E.sum()),
            num_unknown_item=int((owner_seen_E & ~shown_E & ~unshown_E).sum()),
            num_unknown_request=int((~owner_seen_E).sum()),
        )

    def label(self, requests: pa.Table, impressions: RequestKeys) -> pa.Table:
        num_C = len(impressions.items_C)
        age_us_C = (self._now_us - impressions.times_us_R)[impressions.request_C]
        for kind, (label, observed) in enumerate(self._plan.label_columns):
            of_kind = slice(*np.searchsorted(self._kinds_J, [kind, kind + 1]))
            candidate_J = self._candidate_J[of_kind]
            here = slice(*np.searchsorted(candidate_J, [self._num_labelled, self._num_labelled + num_C]))
            hit = candidate_J[here] - self._num_labelled
            grades_C = np.zeros(num_C, np.int64)
            grades_C[hit] = self._grades_J[of_kind][here]
            observed_C = impressions.shown_C & (age_us_C >= self._plan.windows_us[kind])
            observed_C[hit] = True
            labels = pa.array(grades_C, mask=~observed_C).cast(label.written_as.value_type)
            requests = _with_lists(requests, label.name, labels, impressions.offsets)
            requests = _with_lists(requests, observed.name, pa.array(observed_C), impressions.offsets)
        self._num_labelled += num_C
        return requests


def _with_lists(table: pa.Table, name: str, values: pa.Array, offsets: Int64s) -> pa.Table:
    lists = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)
    if name in table.column_names:
        return table.set_column(table.column_names.index(name), name, lists)
    return table.append_column(name, lists)
