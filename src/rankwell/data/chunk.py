"""Chunks: many requests as flat columns with offsets, from which batches are gathered or cut as views.

R requests · C candidates, flat · H history events, flat · A actions.

Gathers and joins are NumPy's: one thread at the speed of memory. PyTorch would spread them over its threads, which on
busy cores wait for each other longer than the copy takes (measured: six times the processor time).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rankwell.types import Audit, Batch, Column, Events, Features, Ragged, Targets

__all__ = ["Chunk", "constant", "ragged_rows"]

Ints = npt.NDArray[np.int64]

_VIEWS_AT_ONCE: Final = 256


def constant(value: float, length: int, dtype: torch.dtype) -> Tensor:
    """A column of one value that takes no memory until it is handed out."""
    return torch.full((1,), value, dtype=dtype).expand(length)


def _is_constant(column: Tensor) -> bool:
    return column.stride(0) == 0 and len(column) > 1


def ragged_rows(offsets: Ints, wanted: Ints) -> tuple[Ints, Ints]:
    """Where the entries of the wanted lists stand, and the offsets of the lists that they make.

    >>> ragged_rows(np.array([0, 2, 2, 5]), np.array([2, 0]))
    (array([2, 3, 4, 0, 1]), array([0, 3, 5]))
    """
    starts = offsets[wanted]
    lengths = offsets[wanted + 1] - starts
    new_offsets = np.zeros(len(wanted) + 1, np.int64)
    np.cumsum(lengths, out=new_offsets[1:])
    rows = np.repeat(starts - new_offsets[:-1], lengths)
    rows += np.arange(len(rows))
    return rows, new_offsets


@final
@dataclass(frozen=True, slots=True)
class Chunk:
    """Requests whose columns are flat, with the ways to take some of them.

    Columns that the log doesn't have are constants that take no memory.

    Args:
        whole: All its requests as one batch.
        on_request: The names among ``whole.audit.columns`` with one entry a request.
        single: Whether each request has exactly one candidate, as in a flat log without request ids.
    """

    whole: Batch
    on_request: frozenset[str]
    single: bool

    @property
    def num_requests(self) -> int:
        """R."""
        return self.whole.features.num_requests

    @property
    def num_candidates(self) -> int:
        """C."""
        return self.whole.features.num_candidates

    def take(self, requests: Ints) -> Chunk:
        """The requests of these numbers, in this order: one gather a column."""
        features = self.whole.features
        if self.single:
            rows, new_offsets = requests, np.arange(len(requests) + 1)
        else:
            rows, new_offsets = ragged_rows(features.offsets.numpy(), requests)
        history = {}
        for name, events in features.history.items():
            events_rows, event_offsets = ragged_rows(events.offsets.numpy(), requests)
            columns = {field: _gathered(column, events_rows) for field, column in events.columns.items()}
            cut_R = None if events.num_cut_R is None else _gathered(events.num_cut_R, requests)
            history[name] = Events(columns, torch.from_numpy(event_offsets), cut_R)
        return self._mapped(
            lambda column: _gathered_column(column, requests),
            lambda column: _gathered_column(column, rows),
            history,
            torch.from_numpy(new_offsets),
        )

    def keep(self, kept_C: npt.NDArray[np.bool_]) -> Chunk:
        """These candidates alone, in their order; requests that none is left of are gone."""
        if self.single:
            return self.take(np.flatnonzero(kept_C))
        whole = self.whole
        num_before = np.concatenate([[0], np.cumsum(kept_C, dtype=np.int64)])
        offsets = num_before[whole.features.offsets.numpy()]
        rows = np.flatnonzero(kept_C)
        fewer = self._mapped(
            lambda column: column,
            lambda column: _gathered_column(column, rows),
            whole.features.history,
            torch.from_numpy(offsets),
        )
        is_left_R = np.diff(offsets) > 0
        return fewer if is_left_R.all() else fewer.take(np.flatnonzero(is_left_R))

    def weighed(self, weights_C: Tensor) -> Chunk:
        """The same with other weights."""
        targets = dataclasses.replace(self.whole.targets, weights_C=weights_C)
        return dataclasses.replace(self, whole=dataclasses.replace(self.whole, targets=targets))

    def slice(self, start: int, stop: int) -> Batch:
        """Requests `start` to `stop` as a batch of views."""
        return next(self.split([start, stop]))

    def split(self, cuts: Sequence[int]) -> Iterator[Batch]:
        """The batches between ascending request numbers, as views: no value is copied.

        Args:
            cuts: Request numbers, at least two.
        """
        for first in range(0, len(cuts) - 1, _VIEWS_AT_ONCE):
            yield from self._split(np.asarray(cuts[first : first + _VIEWS_AT_ONCE + 1], np.int64))

    def _split(self, cuts_R: Ints) -> Iterator[Batch]:
        features, targets, audit = self.whole.features, self.whole.targets, self.whole.audit
        offsets = features.offsets.numpy()
        cuts_C = cuts_R if self.single else offsets[cuts_R]
        requests, candidates = _Views(cuts_R), _Views(cuts_C)
        context = [(name, requests.of(column)) for name, column in features.context.items()]
        of_candidates = [(name, candidates.of(column)) for name, column in features.candidates.items()]
        history = [(name, _event_views(events, cuts_R)) for name, events in features.history.items()]
        audited = [
            (name, (requests if name in self.on_request else candidates).of(column))
            for name, column in audit.columns.items()
        ]
        if self.single:
            counting = torch.arange(int(np.diff(cuts_R).max(initial=0)) + 1)
            made = {length: (counting[: length + 1], counting[:length]) for length in set(requests.lengths)}
            offset_views = [made[length][0] for length in requests.lengths]
            request_views = [made[length][1] for length in requests.lengths]
        else:
            offset_views = [
                torch.from_numpy(offsets[start : stop + 1] - offsets[start])
                for start, stop in pairwise(cuts_R.tolist())
            ]
            request_views = [
                view - start
                for view, start in zip(candidates.of(features.request_C), cuts_R[:-1].tolist(), strict=True)
            ]
        five = [
            candidates.of(column)
            for column in (
                targets.labels_CA,
                targets.observed_CA,
                targets.weights_C,
                targets.position_C,
                targets.propensity_C,
            )
        ]
        keys = [requests.of(column) for column in (audit.request_ids_R, audit.member_ids_R, audit.times_us_R)]
        items = candidates.of(audit.item_ids_C)
        for i in range(len(cuts_R) - 1):
            yield Batch(
                Features(
                    {name: views[i] for name, views in context},
                    {name: views[i] for name, views in history},
                    {name: views[i] for name, views in of_candidates},
                    offset_views[i],
                    request_views[i],
                ),
                Targets(five[0][i], five[1][i], five[2][i], five[3][i], five[4][i]),
                Audit(keys[0][i], keys[1][i], keys[2][i], items[i], {name: views[i] for name, views in audited}),
            )

    @staticmethod
    def concatenated(chunks: Sequence[Chunk]) -> Chunk:
        """The requests of all chunks (of one log), one after the other."""
        if len(chunks) == 1:
            return chunks[0]
        wholes = [chunk.whole for chunk in chunks]
        features = [whole.features for whole in wholes]
        single = all(chunk.single for chunk in chunks)

        def joined(columns: Callable[[Batch], Mapping[str, Column]]) -> dict[str, Any]:
            return {name: _joined([columns(whole)[name] for whole in wholes]) for name in columns(wholes[0])}

        history = {
            name: Events(
                {
                    field: _joined_tensors([part.history[name].columns[field] for part in features])
                    for field in features[0].history[name].columns
                },
                _joined_offsets([part.history[name].offsets for part in features]),
                _joined_counts([part.history[name].num_cut_R for part in features]),
            )
            for name in features[0].history
        }
        offsets = _joined_offsets([part.offsets for part in features])
        targets, audits = [whole.targets for whole in wholes], [whole.audit for whole in wholes]
        whole = Batch(
            Features(
                joined(lambda batch: batch.features.context),
                history,
                joined(lambda batch: batch.features.candidates),
                offsets,
                _requests_of(offsets, single),
            ),
            Targets(
                _joined_tensors([part.labels_CA for part in targets]),
                _joined_tensors([part.observed_CA for part in targets]),
                _joined_tensors([part.weights_C for part in targets]),
                _joined_tensors([part.position_C for part in targets]),
                _joined_tensors([part.propensity_C for part in targets]),
            ),
            Audit(
                _joined_tensors([part.request_ids_R for part in audits]),
                _joined_tensors([part.member_ids_R for part in audits]),
                _joined_tensors([part.times_us_R for part in audits]),
                _joined_tensors([part.item_ids_C for part in audits]),
                joined(lambda batch: batch.audit.columns),
            ),
        )
        return Chunk(whole, chunks[0].on_request, single)

    def _mapped(
        self,
        of_request: Callable[[Any], Any],
        of_candidate: Callable[[Any], Any],
        history: Mapping[str, Events],
        offsets: Tensor,
    ) -> Chunk:
        features, targets, audit = self.whole.features, self.whole.targets, self.whole.audit
        whole = Batch(
            Features(
                {name: of_request(column) for name, column in features.context.items()},
                history,
                {name: of_candidate(column) for name, column in features.candidates.items()},
                offsets,
                _requests_of(offsets, self.single),
            ),
            Targets(
                of_candidate(targets.labels_CA),
                of_candidate(targets.observed_CA),
                of_candidate(targets.weights_C),
                of_candidate(targets.position_C),
                of_candidate(targets.propensity_C),
            ),
            Audit(
                of_request(audit.request_ids_R),
                of_request(audit.member_ids_R),
                of_request(audit.times_us_R),
                of_candidate(audit.item_ids_C),
                {
                    name: (of_request if name in self.on_request else of_candidate)(column)
                    for name, column in audit.columns.items()
                },
            ),
        )
        return Chunk(whole, self.on_request, self.single)


def _requests_of(offsets: Tensor, single: bool) -> Tensor:
    if single:
        return torch.from_numpy(np.arange(len(offsets) - 1))
    return torch.from_numpy(np.repeat(np.arange(len(offsets) - 1), np.diff(offsets.numpy())))


def _gathered(column: Tensor, rows: Ints) -> Tensor:
    if _is_constant(column):
        return column[:1].expand(len(rows), *column.shape[1:])
    return torch.from_numpy(column.numpy().take(rows, axis=0))


def _gathered_column(column: Column, rows: Ints) -> Column:
    if isinstance(column, Tensor):
        return _gathered(column, rows)
    value_rows, offsets = ragged_rows(column.offsets.numpy(), rows)
    return Ragged(_gathered(column.values, value_rows), torch.from_numpy(offsets))


def _joined_tensors(parts: Sequence[Tensor]) -> Tensor:
    first = parts[0]
    if all(part.stride(0) == 0 and torch.equal(part[:1], first[:1]) for part in parts):
        return first[:1].expand(sum(len(part) for part in parts), *first.shape[1:])
    return torch.from_numpy(np.concatenate([part.numpy() for part in parts]))


def _joined_counts(parts: Sequence[Tensor | None]) -> Tensor | None:
    known = [part for part in parts if part is not None]
    return _joined_tensors(known) if len(known) == len(parts) else None


def _joined_offsets(parts: Sequence[Tensor]) -> Tensor:
    lengths = [np.diff(part.numpy()) for part in parts]
    offsets = np.zeros(sum(len(part) for part in lengths) + 1, np.int64)
    np.cumsum(np.concatenate(lengths), out=offsets[1:])
    return torch.from_numpy(offsets)


def _joined(parts: Sequence[Column]) -> Column:
    tensors = [part for part in parts if isinstance(part, Tensor)]
    if len(tensors) == len(parts):
        return _joined_tensors(tensors)
    ragged = [part for part in parts if isinstance(part, Ragged)]
    return Ragged(_joined_tensors([part.values for part in ragged]), _joined_offsets([part.offsets for part in ragged]))


@final
class _Views:
    """Views of columns between cuts; constants of one length are made once."""

    def __init__(self, cuts: Ints) -> None:
        self._cuts = cuts
        self.lengths: list[int] = np.diff(cuts).tolist()

    def of(self, column: Column) -> Sequence[Any]:
        if isinstance(column, Ragged):
            return _ragged_views(column, self._cuts)
        if _is_constant(column):
            made = {length: column[:length].contiguous() for length in set(self.lengths)}
            return [made[length] for length in self.lengths]
        views: Sequence[Tensor] = torch.split(column[self._cuts[0] : self._cuts[-1]], self.lengths)
        return views


def _ragged_views(column: Ragged, cuts: Ints) -> list[Ragged]:
    offsets = column.offsets.numpy()
    value_views = _Views(offsets[cuts]).of(column.values)
    return [
        Ragged(values, torch.from_numpy(offsets[start : stop + 1] - offsets[start]))
        for values, (start, stop) in zip(value_views, pairwise(cuts.tolist()), strict=True)
    ]


def _event_views(events: Events, cuts: Ints) -> list[Events]:
    offsets = events.offsets.numpy()
    views = _Views(offsets[cuts])
    fields = [(name, views.of(column)) for name, column in events.columns.items()]
    counts = None if events.num_cut_R is None else _Views(cuts).of(events.num_cut_R)
    return [
        Events(
            {name: columns[i] for name, columns in fields},
            torch.from_numpy(offsets[start : stop + 1] - offsets[start]),
            None if counts is None else counts[i],
        )
        for i, (start, stop) in enumerate(pairwise(cuts.tolist()))
    ]
