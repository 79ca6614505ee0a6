"""How one served request lies in a segment, and how many of them become rows of the log again.

A record is a row of few blocks, one for each number type of what stands on the request, on a candidate, and on the
events of a sequence, so that writing one costs by its bytes and hardly by its columns. A block is row-major: all
numbers of the first candidate, then those of the second. Missing ids and prices are -1 in it, missing numbers NaN.

Letters: K candidates of a request · R requests · C candidates, flat over them, those in the log alone · n rows of one
request in the log: those shown by position, then, of some requests, all others · H events, flat · A actions · S segment
columns · F columns of a block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rankwell.data.layout import LogColumn, LogLayout
from rankwell.data.served_columns import served_fields, served_logit, served_probability
from rankwell.errors import LogError, SchemaError
from rankwell.schema import Schema
from rankwell.serving.record_blocks import (
    bag_block,
    block_of,
    ids_or_null,
    list_of_block,
    list_offsets,
    plain_array,
)
from rankwell.serving.served_request import ServedRequest
from rankwell.types import MISSING_ID, Column, Ragged

__all__ = ["ServedRecord"]

_MICROS: Final = 1_000_000
_Numbers = NDArray[Any]
_I64: Final = pa.int64()
_F32: Final = pa.float32()
_F64: Final = pa.float64()
_OWN: Final = ("request_id", "member_id", "time", "label", "observed", "position", "propensity", "event_time")
_BESIDE: Final = ("bid", "retrieval", "examination", "weight")


@final
class ServedRecord:
    """The blocks of a schema: packs one request into a record batch, and unpacks many.

    Args:
        schema: Of the log. It must say which columns are the request's id, its time, the item, the position and the
            propensity: without them what was served can't be told from what was not, nor joined with what followed.

    Raises:
        SchemaError: It doesn't, or it has a column of a name that serving needs.
    """

    def __init__(self, schema: Schema) -> None:
        needed = {
            "request_id": schema.request_id,
            "time": schema.time,
            "item": schema.item,
            "exposure.position": schema.exposure.position,
            "exposure.propensity": schema.exposure.propensity,
        }
        missing = [name for name, column in needed.items() if column is None]
        if missing:
            raise SchemaError(
                "the schema doesn't say all that a log of served requests is made of",
                found=f"no {', '.join(missing)}",
                do="declare them: item=…, exposure=Exposure(position=…, propensity=…)",
            )
        self.schema = schema
        self._served = served_fields(schema)
        columns: dict[str, LogColumn] = {}
        for column in LogLayout.of(schema, "requests").columns:
            if column.name not in columns or column.role == "bid":  # a bid that is a feature, too, keeps its micros
                columns[column.name] = column
        self._protected = {attribute.name for attribute in schema.protected} - set(schema.visible_protected)
        given = [column for column in columns.values() if column.role not in _OWN]
        of_request = [c for c in given if c.side == "request"]
        self._request_ids = [c for c in of_request if c.role == "categorical"]
        self._request_numbers = [c for c in of_request if c.role in ("numeric", "vector", "latitude", "longitude")]
        of_candidate = [c for c in given if c.side == "candidate"]
        self._ids = [c for c in of_candidate if c.role in ("categorical", "bid")]
        self._numbers = [c for c in of_candidate if c.role not in ("categorical", "bid", "bag")]
        self._bags = [c for c in given if c.role == "bag"]
        self._num_actions = len(schema.actions)
        self._width_I = len(self._ids) + 2
        self._width_F = sum(c.width or 1 for c in self._numbers)
        self._width_D = 1 + 2 * self._num_actions
        events = [c for c in columns.values() if c.sequence is not None]
        self._event_ids = {s.name: [c for c in events if c.sequence == s.name and c.role == "categorical"]
                           for s in schema.sequences}  # fmt: skip
        self._event_numbers = {s.name: [c for c in events if c.sequence == s.name and c.role == "numeric"]
                               for s in schema.sequences}  # fmt: skip
        self._has_ages = {s.name: s.time is not None for s in schema.sequences}
        self.arrow_schema = self._arrow_schema()
        self._types = [(field.type, getattr(field.type, "value_type", None)) for field in self.arrow_schema]
        self._texts: dict[str | None, pa.Array] = {}

    def _arrow_schema(self) -> pa.Schema:
        fields = [("int64_R", _I64), ("float32_R", _F32), ("int64_C", _I64), ("float32_C", _F32), ("float64_C", _F64)]
        fields += [("segments_CS", _I64)]
        for number in range(len(self._bags)):
            fields += [(f"bag{number}_lengths", _I64), (f"bag{number}", _I64)]
        for number in range(len(self.schema.sequences)):
            fields += [(f"int64_H{number}", _I64), (f"float32_H{number}", _F32)]
        return pa.schema(
            [pa.field(name, pa.list_(kind), nullable=False) for name, kind in fields]
            + [pa.field("bundle_id", pa.string()), pa.field("correction_id", pa.string())],
            metadata={"rankwell.schema": self.schema.to_json()},
        )

    # --- one request into a record

    def packed(self, served: ServedRequest, *, all_candidates: bool) -> pa.RecordBatch:
        """The record of a request: of its shown candidates, or of all.

        Raises:
            LogError: The request doesn't fit the schema.
        """
        try:
            return self._packed(served, all_candidates)
        except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
            raise LogError(
                "a served request does not fit the schema of its log",
                found=f"{type(error).__name__}: {error}",
                allowed="the features of the schema, and one entry for each candidate in every column",
                do="log the features that the model saw, with the schema of its bundle",
            ) from error

    def _packed(self, served: ServedRequest, all_candidates: bool) -> pa.RecordBatch:
        features, audit = served.features, served.audit
        num_K = len(served.item_ids_K)
        shown_n = plain_array(served.places_n)
        num_shown = len(shown_n)
        _check_shown(shown_n, num_K)
        propensities_n = plain_array(served.propensities_n)
        if propensities_n.shape != (num_shown,) or not (propensities_n.min() > 0 and propensities_n.max() <= 1):
            raise ValueError(f"propensities {propensities_n} of {num_shown} that are shown")
        rows_n = shown_n
        if all_candidates:
            unshown_K = np.ones(num_K, bool)
            unshown_K[shown_n] = False
            rows_n = np.concatenate([shown_n, np.flatnonzero(unshown_K)])
        num_n, num_A = len(rows_n), self._num_actions
        logits_KA, probabilities_KA = plain_array(served.logits_KA), plain_array(served.probabilities_KA)
        if logits_KA.shape != (num_K, num_A) or probabilities_KA.shape != (num_K, num_A):
            raise ValueError(f"logits {logits_KA.shape}, probabilities {probabilities_KA.shape}, {num_K} candidates")
        segments_KS = None if served.segments_KS is None else plain_array(served.segments_KS)
        num_S = 0 if segments_KS is None else segments_KS.shape[1]
        ids_R = [served.request_id, served.member_id, served.time_us, int(all_candidates), num_S]
        ids_R += [int(self._of(c, features.context, audit)[0]) for c in self._request_ids]
        if served.request_id < 0 or served.time_us < 0 or served.member_id < MISSING_ID:
            raise ValueError("a negative request id, member id or time")
        numbers_R = [_flat(self._of(c, features.context, audit), c, 1) for c in self._request_numbers]

        ids_nI = np.empty((num_n, self._width_I), np.int64)
        ids_nI[:, 0] = 0
        ids_nI[:num_shown, 0] = np.arange(1, num_shown + 1)
        ids_nI[:, 1] = -1
        if served.prices_micros_n is not None:
            prices_n = plain_array(served.prices_micros_n)
            if prices_n.shape != (num_shown,) or prices_n.min() < 0:
                raise ValueError(f"prices {prices_n} of {num_shown} that are shown")
            ids_nI[:num_shown, 1] = prices_n
        for f, column in enumerate(self._ids, 2):
            ids_nI[:, f] = _of_all(self._of(column, features.candidates, audit), num_K)[rows_n]
        numbers_nF = np.empty((num_n, self._width_F), np.float32)
        f = 0
        for column in self._numbers:
            values = _of_all(self._of(column, features.candidates, audit), num_K)
            if column.width is None:
                numbers_nF[:, f] = _degrees(values, column)[rows_n]
            else:
                numbers_nF[:, f : f + column.width] = values[rows_n]
            f += column.width or 1
        said_nD = np.empty((num_n, self._width_D))
        said_nD[:, 0] = np.nan
        said_nD[:num_shown, 0] = propensities_n
        said_nD[:, 1 : 1 + num_A] = logits_KA[rows_n]
        said_nD[:, 1 + num_A :] = probabilities_KA[rows_n]
        blocks = [
            np.array(ids_R, np.int64),
            np.concatenate(numbers_R) if numbers_R else np.empty(0, np.float32),
            ids_nI,
            numbers_nF,
            said_nD,
            np.empty(0, np.int64) if segments_KS is None else segments_KS[rows_n],
        ]
        for column in self._bags:
            of_request = column.side == "request"
            bag = (features.context if of_request else features.candidates)[column.owner]
            blocks += bag_block(bag, np.zeros(1, np.int64) if of_request else rows_n)
        blocks += self._event_blocks(served)
        arrays = [
            list_of_block(block, list_type, value_type)
            for block, (list_type, value_type) in zip(blocks, self._types[: len(blocks)], strict=True)
        ]
        arrays += [self._text(served.bundle_id), self._text(served.correction_id)]
        return pa.RecordBatch.from_arrays(arrays, schema=self.arrow_schema)

    def _of(self, column: LogColumn, features: Mapping[str, Column], audit: Mapping[str, Any]) -> _Numbers:
        """The column's values where the request has them: among the features, or beside them."""
        values = None if column.role in _BESIDE else features.get(column.owner)
        if values is None:
            values = audit.get(column.owner)
        if values is None and column.role in _BESIDE:
            return np.full(1, 0 if column.role == "bid" else 1)
        if values is None and column.owner in self._protected:
            return np.full(1, MISSING_ID)
        if values is None:
            raise KeyError(f"no {column.owner!r} in the request")
        if isinstance(values, Ragged):
            raise TypeError(f"{column.owner!r} holds lists")
        return plain_array(values)

    def _event_blocks(self, served: ServedRequest) -> Iterator[_Numbers]:
        for name, id_columns in self._event_ids.items():
            events = served.features.history[name]
            ids = [plain_array(events.columns[c.owner]) for c in id_columns]
            numbers = [plain_array(events.columns[c.owner]) for c in self._event_numbers[name]]
            if self._has_ages[name]:
                numbers.append(plain_array(events.columns["age_s"]))
            yield np.stack(ids, axis=1) if ids else np.empty(0, np.int64)
            yield np.stack(numbers, axis=1) if numbers else np.empty(0, np.float32)

    def _text(self, text: str | None) -> pa.Array:
        known = self._texts.get(text)
        if known is None:
            if len(self._texts) > 100:  # bundles come and go; a server lives long
                self._texts.clear()
            known = self._texts[text] = pa.array([text], pa.string())
        return known

    # --- many records into rows

    def request_ids_R(self, records: pa.Table) -> NDArray[np.int64]:
        """The request id of each record."""
        return block_of(records, "int64_R")[0].reshape(len(records), -1)[:, 0]

    def times_us_R(self, records: pa.Table) -> NDArray[np.int64]:
        """The request time of each record."""
        return block_of(records, "int64_R")[0].reshape(len(records), -1)[:, 2]

    def unpacked(self, records: pa.Table) -> pa.Table:
        """The rows of the log that the records are: the schema's columns but for labels, and the served ones."""
        num_R = len(records)
        ids_RI = block_of(records, "int64_R")[0].reshape(num_R, -1)
        numbers_R = block_of(records, "float32_R")[0].reshape(num_R, -1)
        ids, num_ids_R = block_of(records, "int64_C")
        ids_CI, length_R = ids.reshape(-1, self._width_I), num_ids_R // self._width_I
        numbers_CF = block_of(records, "float32_C")[0].reshape(len(ids_CI), -1)
        said_CD = block_of(records, "float64_C")[0].reshape(len(ids_CI), -1)
        offsets_R = list_offsets(length_R)

        def listed(values: Any) -> pa.Array:
            return pa.ListArray.from_arrays(offsets_R, values)

        out: dict[str, pa.Array] = {}
        out[str(self.schema.request_id)] = pa.array(ids_RI[:, 0])
        if self.schema.member_id is not None:
            out[self.schema.member_id] = ids_or_null(ids_RI[:, 1])
        out[str(self.schema.time)] = pa.array(ids_RI[:, 2])
        for f, column in enumerate(self._request_ids, 5):
            out[column.name] = ids_or_null(ids_RI[:, f])
        for column, values in _columns(self._request_numbers, numbers_R):
            out[column.name] = values
        for f, column in enumerate(self._ids, 2):
            out[column.name] = listed(ids_or_null(ids_CI[:, f]))
        for column, values in _columns(self._numbers, numbers_CF):
            out[column.name] = listed(values)
        out[str(self.schema.exposure.position)] = listed(pa.array(ids_CI[:, 0].astype(np.int32)))
        propensity_C = said_CD[:, 0].astype(np.float32)
        out[str(self.schema.exposure.propensity)] = listed(pa.array(propensity_C, mask=np.isnan(propensity_C)))
        for number, column in enumerate(self._bags):
            lengths = block_of(records, f"bag{number}_lengths")[0]
            bags = pa.ListArray.from_arrays(list_offsets(lengths), pa.array(block_of(records, f"bag{number}")[0]))
            out[column.name] = bags if column.side == "request" else listed(bags)
        for number, name in enumerate(self._event_ids):
            out |= self._events(name, records, number, ids_RI[:, 2])
        out |= self._said(records, ids_RI, ids_CI, said_CD, length_R, listed)
        return pa.table(out)

    def _said(
        self,
        records: pa.Table,
        ids_RI: _Numbers,
        ids_CI: _Numbers,
        said_CD: _Numbers,
        length_R: _Numbers,
        listed: Callable[[Any], pa.Array],
    ) -> dict[str, pa.Array]:
        num_A = self._num_actions
        num_S_C = np.repeat(ids_RI[:, 4], length_R)
        segments = pa.ListArray.from_arrays(list_offsets(num_S_C), pa.array(block_of(records, "segments_CS")[0]))
        out = {
            "served_bundle_id": records["bundle_id"].combine_chunks(),
            "served_correction_id": records["correction_id"].combine_chunks(),
            "served_all_candidates": pa.array(ids_RI[:, 3].astype(bool)),
            "served_price_micros": listed(ids_or_null(ids_CI[:, 1])),
            "served_segments": listed(segments),
        }
        for a, action in enumerate(self.schema.actions):
            out[served_logit(action.name)] = listed(pa.array(said_CD[:, 1 + a]))
            out[served_probability(action.name)] = listed(pa.array(said_CD[:, 1 + num_A + a]))
        assert list(out) == [field.name for field in self._served]
        return out

    def _events(self, name: str, records: pa.Table, number: int, times_us_R: _Numbers) -> dict[str, pa.Array]:
        id_columns, number_columns = self._event_ids[name], self._event_numbers[name]
        width_F = len(number_columns) + self._has_ages[name]
        ids, num_ids_R = block_of(records, f"int64_H{number}")
        numbers, num_numbers_R = block_of(records, f"float32_H{number}")
        length_R = num_ids_R // len(id_columns) if id_columns else num_numbers_R // width_F
        num_H = int(length_R.sum())
        offsets = list_offsets(length_R)
        ids_HI, numbers_HF = ids.reshape(num_H, len(id_columns)), numbers.reshape(num_H, width_F)
        out = {c.name: pa.ListArray.from_arrays(offsets, ids_or_null(ids_HI[:, f])) for f, c in enumerate(id_columns)}
        for f, column in enumerate(number_columns):
            out[column.name] = pa.ListArray.from_arrays(offsets, pa.array(numbers_HF[:, f].copy()))
        sequence = next(s for s in self.schema.sequences if s.name == name)
        if sequence.time is not None:
            time_us_H = np.repeat(times_us_R, length_R)
            # Rounded to float32, an age may fall on the delay itself, where no event may stand.
            latest_us_H = time_us_H - round(self.schema.ingest_delay_s * _MICROS) - 1
            happened_us_H = time_us_H - np.rint(numbers_HF[:, -1].astype(np.float64) * _MICROS).astype(np.int64)
            happened_us_H = np.minimum(happened_us_H, latest_us_H)
            out[f"{name}_{sequence.time}"] = pa.ListArray.from_arrays(offsets, pa.array(happened_us_H))
        return out


def _check_shown(shown_n: _Numbers, num_K: int) -> None:
    known = len(shown_n) > 0 and shown_n.min() >= 0 and shown_n.max() < num_K
    if not known or np.bincount(shown_n, minlength=num_K).max() > 1:
        raise ValueError("no candidate is shown, or one twice, or one that there isn't")


def _of_all(values: _Numbers, num_K: int) -> _Numbers:
    if len(values) == num_K:
        return values
    if len(values) != 1:
        raise ValueError(f"{len(values)} entries in a column of {num_K} candidates")
    return np.broadcast_to(values, (num_K, *values.shape[1:]))


def _degrees(values: _Numbers, column: LogColumn) -> _Numbers:
    match column.role:
        case "latitude":
            return values[:, 0]
        case "longitude":
            return values[:, 1]
        case _:
            return values


def _flat(values: _Numbers, column: LogColumn, num: int) -> _Numbers:
    if len(values) != num:
        raise ValueError(f"{len(values)} entries of {column.owner!r} in one request")
    return np.asarray(_degrees(values, column), np.float32).reshape(-1)


def _columns(columns: list[LogColumn], numbers_CF: _Numbers) -> Iterator[tuple[LogColumn, pa.Array]]:
    f = 0
    for column in columns:
        if column.width is None:
            yield column, pa.array(numbers_CF[:, f].copy())
        else:
            flat = pa.array(numbers_CF[:, f : f + column.width].reshape(-1))
            yield column, pa.FixedSizeListArray.from_arrays(flat, column.width)
        f += column.width or 1
