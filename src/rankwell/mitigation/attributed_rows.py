"""Rows whose labels are known, by the keys of the linear part of the model that answered: for a wide update.

Letters: R requests · C candidates, flat · n rows · F columns of keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self, final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from rankwell.data.attribution import attribute
from rankwell.data.decode import decode
from rankwell.data.layout import LogLayout
from rankwell.data.served_columns import served_probability
from rankwell.mitigation.newest_records import newest_actions, newest_served
from rankwell.models.ensemble import TransformerEnsemble
from rankwell.models.model import Model
from rankwell.schema import Schema
from rankwell.serving.bundle_files import BundleFiles
from rankwell.serving.changed_rows import row_keys
from rankwell.serving.log_folder import LogFolder
from rankwell.serving.manifest import DEPLOYMENT, is_deployment, read_manifest
from rankwell.serving.request_graph import row_lookups
from rankwell.serving.rollout import RolloutFolder
from rankwell.types import Features

__all__ = ["AttributedLog", "AttributedRows", "RowChanges"]

_MOST_ROWS: Final = 200_000
_MOST_REQUESTS: Final = 50_000
_MOST_SEGMENTS: Final = 200
"""Of each stream: they are sealed each minute."""
_LATE_US: Final = 120_000_000

_Floats = NDArray[np.float64]
_Ints = NDArray[np.int64]
RowChanges = Mapping[str, Mapping[str, Mapping[str, tuple[float, ...]]]]
"""As `Correction.wide_changes`: by part, table and key, one number an action."""


@final
@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class AttributedRows:
    """Candidates that were shown by one bundle, whose labels are known, oldest first.

    Args:
        parts: Of the model, of each column of keys.
        tables: That each column reads.
        keys_nF: int64, as `rankwell.serving.changed_rows.row_keys` has them; −1: none.
        times_us_n: Of the requests, UTC microseconds.
        requests_n: Their ids.
        corrections_n: The id of the correction that was applied; "": none.
        logits_n: ln(p / (1 − p)) of the calibrated probability p as it was served.
        labels_n: 0 or 1.
        action: Its place among the schema's.
        num_actions: Of the schema.
    """

    parts: tuple[str, ...]
    tables: tuple[str, ...]
    keys_nF: _Ints
    times_us_n: _Ints
    requests_n: _Ints
    corrections_n: NDArray[np.str_]
    logits_n: _Floats
    labels_n: _Floats
    action: int
    num_actions: int

    def __len__(self) -> int:
        return len(self.logits_n)

    def kept(self, where_n: NDArray[Any] | slice) -> Self:
        """Some of the rows."""
        columns = ("keys_nF", "times_us_n", "requests_n", "corrections_n", "logits_n", "labels_n")
        return replace(self, **{name: getattr(self, name)[where_n] for name in columns})

    def added_by(self, changes: RowChanges) -> _Floats:
        """What changes of rows add to the log-odds of each row."""
        added_n = np.zeros(len(self))
        for f, (part, table) in enumerate(zip(self.parts, self.tables, strict=True)):
            rows = changes.get(part, {}).get(table, {})
            for key, row in rows.items():
                added_n += row[self.action] * (self.keys_nF[:, f] == int(key))
        return added_n


@final
class AttributedLog:
    """Reads such rows again from the folder that servers log to.

    Only an exported deployment serves changes of rows (`rankwell export`); of one whose model has a linear part it
    gives rows, of anything else none. Of a segment that was compacted it knows no more.

    Args:
        folder: That a server logs to.
        deployed: The root of the `RolloutFolder` that the servers follow.
        action: Of the log's schema.
        most_rows: The newest; what is older is left out.
    """

    def __init__(self, folder: str | Path, deployed: str | Path, action: str, *, most_rows: int = _MOST_ROWS) -> None:
        self._folder, self._rollout = Path(folder), RolloutFolder(deployed)
        self._action, self._most_rows = action, most_rows
        self._known: tuple[str, Model | None] = "", None

    def read(self, bundle_id: str, *, since_us: int, until_us: int, now_us: int) -> AttributedRows | None:
        """The rows of a time; None where nothing of the bundle can be changed, or it answered nothing.

        Args:
            bundle_id: That answered.
            since_us, until_us: UTC microseconds; labels of requests before the second are all known.
            now_us: UTC microseconds: actions after it are not known yet.

        Raises:
            LogError: There is no such log, or a row does not keep its schema.
            BundleError: The bundle is damaged.
        """
        model = self._changeable(bundle_id)
        if model is None:
            return None
        log = LogFolder(self._folder / "served", "served")
        schema = log.schema()
        declared = schema.actions[schema.action_index(self._action)]
        one = schema.model_copy(update={"actions": (declared,), "member_id": None})  # actions name their requests
        requests = self._requests(log, schema, bundle_id, since_us, until_us)
        if requests is None:
            return None
        window_us = round((declared.window_s or 0.0) * 1e6) + _LATE_US
        labelled, _ = attribute(
            requests,
            self._actions(requests[str(schema.request_id)], since_us, until_us + window_us),
            one,
            now_us=now_us,
        )
        layout = LogLayout.of(one, "requests")
        present = replace(layout, columns=tuple(c for c in layout.columns if c.name in labelled.column_names))
        batch = decode(labelled, one, present, file="the served log", first_row=0, row_number=0).whole
        parts, tables, keys_CF = _keys(model, batch.features)
        request_C = batch.features.request_C.numpy()
        p_C = pc.list_flatten(labelled[served_probability(self._action)]).to_numpy()
        corrections_R = pc.fill_null(labelled["served_correction_id"], "").to_numpy().astype(str)
        labels_C = batch.targets.labels_CA[:, 0].numpy()
        rows = AttributedRows(
            parts=parts, tables=tables, keys_nF=keys_CF, times_us_n=batch.audit.times_us_R.numpy()[request_C],
            requests_n=batch.audit.request_ids_R.numpy()[request_C], corrections_n=corrections_R[request_C],
            logits_n=np.log(p_C) - np.log1p(-p_C), labels_n=(labels_C > 0).astype(np.float64),
            action=schema.action_index(self._action), num_actions=len(schema.actions),
        )  # fmt: skip
        return rows.kept(batch.targets.observed_CA[:, 0].numpy() & (batch.targets.position_C.numpy() > 0))

    def _changeable(self, bundle_id: str) -> Model | None:
        """The model of a bundle, without its rows, if it is served as a graph and has rows that may be changed."""
        if self._known[0] != bundle_id:
            path, model = self._rollout.path_of(bundle_id), None
            if is_deployment(path):
                model = BundleFiles(path, read_manifest(path, kind=DEPLOYMENT)).empty_model()
                if not model.linear_parts or isinstance(model, TransformerEnsemble):  # its members' rows are averaged
                    model = None
            self._known = bundle_id, model
        return self._known[1]

    def _requests(self, log: LogFolder, schema: Schema, bundle_id: str, since_us: int, until_us: int) -> Any:
        """The newest requests that the bundle answered, each once, by time; None where there is none."""
        tables = [
            served.filter(pc.equal(served["served_bundle_id"], bundle_id))
            for served in newest_served(
                log, schema, since_us, until_us, most_segments=_MOST_SEGMENTS, most_rows=_MOST_REQUESTS
            )
        ]
        if not sum(map(len, tables)):
            return None
        requests = pa.concat_tables(tables, promote_options="default").combine_chunks()
        ids, times = (requests[name].cast(pa.int64()).to_numpy() for name in (schema.request_id, schema.time))
        first_R = np.unique(ids, return_index=True)[1]
        first_R = first_R[np.argsort(times[first_R], kind="stable")]
        position = LogLayout.of(schema, "requests").of_role("position")
        assert position is not None  # no served log is without one
        num_R = pc.list_value_length(requests[position.name]).to_numpy()[first_R]
        is_newest_R = np.cumsum(num_R[::-1])[::-1] <= self._most_rows
        return requests.take(pa.array(first_R[is_newest_R])) if is_newest_R.any() else None

    def _actions(self, request_ids: Any, since_us: int, until_us: int) -> Any:
        log = LogFolder(self._folder / "actions", "actions")
        names = {"request_id": pa.int64(), "item_id": pa.int64(), "action": pa.string(), "time_us": pa.int64()}
        tables = [pa.schema(names).empty_table()]
        for actions in newest_actions(log, since_us, until_us) if log.path.is_dir() else ():
            is_of_them = pc.is_in(actions["request_id"], value_set=request_ids)
            tables.append(actions.filter(pc.and_(is_of_them, pc.equal(actions["action"], self._action))))
        return pa.concat_tables(tables, promote_options="default")


def _keys(model: Model, features: Features) -> tuple[tuple[str, ...], tuple[str, ...], _Ints]:
    """Each candidate by the keys of its one-id columns, those of its request among them; lists are left out."""
    parts: list[str] = []
    tables: list[str] = []
    keys: list[_Ints] = []
    request_C = features.request_C.numpy()
    for part in sorted(model.linear_parts):
        for lookup in row_lookups(model).values():
            if lookup.table is not model.tables[part]:
                continue
            specs = {spec.name: spec for spec in lookup.columns.specs}
            for on in ("request", "candidate"):
                for column in lookup.columns.single(features, on):
                    if specs[column.table].num_remainders is None:  # rows that are composed have no key of their own
                        keys_n = row_keys(specs[column.table], column.ids.numpy())
                        parts.append(part)
                        tables.append(column.table)
                        keys.append(keys_n[request_C] if on == "request" else keys_n)
    keys_CF = np.stack(keys, axis=1) if keys else np.zeros((len(request_C), 0), np.int64)
    return tuple(parts), tuple(tables), keys_CF
