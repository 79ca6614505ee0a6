"""Batches of whole requests, streamed from a log in bounded memory, shuffled by a seed, resumable to the batch.

R requests.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final, final

import numpy as np
import numpy.typing as npt

from rankwell.data.blocks import Block
from rankwell.data.chunk import Chunk
from rankwell.data.down_sampling import DownSampling
from rankwell.data.log import LogReader, RequestLog
from rankwell.data.split import PARTS, Part, Split, count_requests, part_code
from rankwell.errors import CheckpointError, LogError
from rankwell.types import Batch

__all__ = ["Batches", "Position"]

_ORDER_OF_ROW_GROUPS: Final = 0
_ORDER_IN_BUFFER: Final = 1
_LEAST_BUFFER: Final = 16_384
_LEAST_BATCHES: Final = 4


@final
@dataclass(frozen=True, slots=True)
class Position:
    """A place in the stream of batches: the batch that comes next.

    Args:
        epoch: The epoch, from 0.
        buffer: The buffer in the epoch's plan; the number of buffers at the epoch's end.
        batch: The batch in the buffer.
    """

    epoch: int
    buffer: int = 0
    batch: int = 0


@final
class Batches:
    """The batches of one split of a log.

    The order depends on (seed, epoch) alone. Row groups are shuffled, several of them are read into a buffer, and the
    requests of the buffer are shuffled by one gather a column; batches are then views. A buffer of n requests is cut
    into ⌈n / num_requests⌉ batches that differ by at most one request, so there is never a tiny last batch. Memory is
    bounded by the buffer, whatever the log's length; a split that fits one buffer is decoded once and kept.

    Args:
        log: The log.
        split: How it is split.
        part: Which split is read.
        num_requests: The most requests in a batch, ≥ 1.
        seed: The seed of the order; None for file order.
        buffer_requests: About how many requests are shuffled together, and the most that are kept.
        buffer_candidates: About how many candidates at most, where requests hold many.
        sampling: Which candidates are left out, or weigh nothing; None for none. A batch holds what is left of its
            requests, so that there are as many batches.

    Raises:
        LogError: There is no such part, or the log cannot be split so.

    >>> import pyarrow as pa
    >>> from rankwell.data.log import log_from_table
    >>> from rankwell.data.split import WholeLog
    >>> from rankwell.schema import Action, Categorical, Schema
    >>> schema = Schema(features=(Categorical(name="job"),), actions=(Action(name="click"),),
    ...                 request_id=None, member_id=None, time=None)
    >>> log = log_from_table(pa.table({"job": [5, 6, 7], "click": [0, 1, 0]}), schema)
    >>> batches = Batches(log, WholeLog("train"), "train", num_requests=2, seed=None)
    >>> [batch.features.candidates["job"].tolist() for batch in batches]
    [[5], [6, 7]]
    """

    def __init__(
        self,
        log: RequestLog,
        split: Split,
        part: Part,
        *,
        num_requests: int,
        seed: int | None,
        buffer_requests: int = 262_144,
        buffer_candidates: int = 1_048_576,
        sampling: DownSampling | None = None,
    ) -> None:
        if min(num_requests, buffer_requests, buffer_candidates) < 1:
            raise LogError(
                "a batch or buffer of no requests",
                found=[num_requests, buffer_requests, buffer_candidates],
                allowed="≥ 1",
            )
        if seed is not None and seed < 0:
            raise LogError("negative seed", found=seed, allowed="None or 0 and more")
        self._log, self._split, self._part = log, split.resolve(log), part
        self._code = part_code(part)
        self._num_requests, self._seed = num_requests, seed
        self._buffer_requests, self._buffer_candidates = buffer_requests, buffer_candidates
        self._sampling = sampling
        self._counts_of_block: npt.NDArray[np.int64] | None = None
        self._num_candidates: int | None = None
        self._kept: Chunk | None = None

    @property
    def fingerprint(self) -> str:
        """A hash of all that the order of batches depends on: schema, rows of each block, split, seed, sizes.

        It is the same in every process and wherever the log stands. Of the rows it knows number and times, not values.
        """
        log = self._log
        blocks = [(b.source, b.start, b.stop, b.row_group, b.num_requests, b.times_us) for b in log.blocks]
        sizes = (self._num_requests, self._buffer_requests, self._buffer_candidates)
        stream = (log.schema.to_json(), log.layout.kind, blocks, self._split, self._part, sizes, self._seed)
        sampled = () if self._sampling is None else (self._sampling,)
        return hashlib.sha256(repr(stream + sampled).encode()).hexdigest()[:16]

    @property
    def num_requests_total(self) -> int:
        """The number of requests of an epoch; ids or times are read for it where the metadata doesn't say."""
        return int(self._counts().sum())

    @property
    def num_candidates_total(self) -> int | None:
        """The number of candidates of an epoch, or None where it isn't known before the first epoch has ended."""
        if self._num_candidates is None and self.num_requests_total == self._log.num_requests:
            return self._log.num_candidates
        return self._num_candidates

    def num_batches(self, epoch: int) -> int:
        """The number of batches of an epoch."""
        return sum(self._num_cuts(_count(buffer)) for buffer in self._plan(epoch))

    def __iter__(self) -> Iterator[Batch]:
        """The batches of epoch 0, for whoever reads a split once and from the start."""
        return (batch for _, batch in self.epoch(0))

    def epoch(self, epoch: int, *, start: Position | None = None) -> Iterator[tuple[Position, Batch]]:
        """The batches of an epoch in order, each with the position that comes after it.

        Args:
            epoch: Which epoch, from 0.
            start: Where to go on: a position that this epoch gave. What lies before it isn't decoded.

        Raises:
            LogError: The split is empty, or a value does not keep the schema.
            CheckpointError: `start` is not a position of this epoch.
        """
        plan = self._plan(epoch)
        if not plan:
            raise LogError(
                f"split {self._part!r} holds no request",
                found=dict(zip(PARTS, count_requests(self._log, self._split).sum(axis=0).tolist(), strict=True)),
                do="give it a larger fraction, or other boundaries",
            )
        first = Position(epoch) if start is None else start
        if first.epoch != epoch or not 0 <= first.buffer <= len(plan) or first.batch < 0:
            raise CheckpointError(
                "no such position in this epoch", found=first, allowed=f"epoch {epoch}, buffers 0 to {len(plan)}"
            )
        num_candidates = 0
        with self._log.reader() as reader:
            for index in range(first.buffer, len(plan)):
                chunk = self._buffer(reader, plan[index], len(plan) == 1)
                if self._seed is not None:
                    order = np.random.default_rng([self._seed, epoch, _ORDER_IN_BUFFER, index])
                    chunk = chunk.take(order.permutation(chunk.num_requests))
                num_candidates += chunk.num_candidates
                num_cuts = self._num_cuts(chunk.num_requests)
                if self._sampling is not None:
                    chunk = self._sampling.sampled(chunk, epoch=epoch)
                    num_cuts = min(num_cuts, max(chunk.num_requests, 1))
                cuts = [chunk.num_requests * i // num_cuts for i in range(num_cuts + 1)]
                skipped = first.batch if index == first.buffer else 0
                if skipped >= num_cuts:
                    raise CheckpointError(
                        "no such position in this epoch", found=first, allowed=f"batches 0 to {num_cuts - 1}"
                    )
                for batch_index, batch in enumerate(chunk.split(cuts[skipped:]), skipped + 1):
                    last = batch_index == num_cuts
                    yield Position(epoch, index + last, 0 if last else batch_index), batch
        if first == Position(epoch):
            self._num_candidates = num_candidates

    def _counts(self) -> npt.NDArray[np.int64]:
        if self._counts_of_block is None:
            self._counts_of_block = count_requests(self._log, self._split)[:, self._code]
        return self._counts_of_block

    def _num_cuts(self, num_requests: int) -> int:
        return math.ceil(num_requests / self._num_requests)

    def _plan(self, epoch: int) -> list[list[tuple[Block, int]]]:
        """The buffers of an epoch: blocks with the number of their requests that belong to the split."""
        groups: dict[tuple[int, int], list[tuple[Block, int]]] = {}
        for block, count in zip(self._log.blocks, self._counts().tolist(), strict=True):
            if count:
                groups.setdefault((block.source, block.row_group), []).append((block, count))
        ordered = list(groups.values())
        if self._seed is not None:
            order = np.random.default_rng([self._seed, epoch, _ORDER_OF_ROW_GROUPS]).permutation(len(ordered))
            ordered = [ordered[i] for i in order]
        return self._buffers([selection for group in ordered for selection in group])

    def _buffers(self, selections: Sequence[tuple[Block, int]]) -> list[list[tuple[Block, int]]]:
        """About equally large runs of blocks; what is too small for a batch joins the run before it."""
        sizes = [self._share_of_buffer(block, count) for block, count in selections]
        total = sum(sizes)
        num_buffers = max(1, math.ceil(total - 1e-9))
        if num_buffers > 1 and self._seed is None:
            # Nothing is mixed, so buffers need be no larger than makes equal batches; one block each costs no copy.
            enough = max(_LEAST_BUFFER, _LEAST_BATCHES * self._num_requests)
            num_buffers = max(num_buffers, _count(selections) // enough)
        buffers: list[list[tuple[Block, int]]] = []
        last = -1
        for selection, size_after, size in zip(selections, accumulate(sizes), sizes, strict=True):
            index = int((size_after - size) / total * num_buffers + 1e-9)
            if index != last and (not buffers or _count(buffers[-1]) >= self._num_requests):
                buffers.append([])
                last = index
            buffers[-1].append(selection)
        if len(buffers) > 1 and _count(buffers[-1]) < self._num_requests:
            buffers[-2].extend(buffers.pop())
        return buffers

    def _share_of_buffer(self, block: Block, count: int) -> float:
        share = count / self._buffer_requests
        if block.num_candidates is None:
            return share
        return max(share, block.num_candidates * (count / block.num_requests) / self._buffer_candidates)

    def _buffer(self, reader: LogReader, selections: Sequence[tuple[Block, int]], keep: bool) -> Chunk:
        if self._kept is not None:
            return self._kept
        chunk = Chunk.concatenated([self._selected(reader.read(block), count) for block, count in selections])
        if keep:
            self._kept = chunk
        return chunk

    def _selected(self, chunk: Chunk, count: int) -> Chunk:
        if count == chunk.num_requests:
            return chunk
        audit = chunk.whole.audit
        codes = self._split.assign(audit.times_us_R.numpy(), audit.request_ids_R.numpy())
        return chunk.take(np.flatnonzero(codes == self._code))


def _count(selections: Sequence[tuple[Block, int]]) -> int:
    return sum(count for _, count in selections)
