"""Four splits of a log: by time, by a hash where a log has no time, or each a log of its own.

R requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal, final

import numpy as np
import numpy.typing as npt

from rankwell.data.blocks import Block
from rankwell.data.log import RequestLog
from rankwell.errors import LeakError, LogError

__all__ = [
    "PARTS",
    "HashSplit",
    "Part",
    "Split",
    "TimeBoundaries",
    "TimeSplit",
    "WholeLog",
    "check_time_order",
    "count_requests",
    "part_code",
    "splitmix64",
]

Part = Literal["train", "tune", "calibrate", "test"]
PARTS: Final[tuple[Part, ...]] = ("train", "tune", "calibrate", "test")

Ints = npt.NDArray[np.int64]
Codes = npt.NDArray[np.uint8]

_BINS: Final = 4096


@final
@dataclass(frozen=True, slots=True)
class TimeSplit:
    """Splits by cumulative fractions of the requests in time order; requests of one time fall on one side.

    Args:
        train, tune, calibrate, test: Fractions ≥ 0 that add up to 1.

    Raises:
        LogError: They don't.

    >>> TimeSplit.at(100, 200, 300).assign(np.array([99, 100, 250, 300]), None).tolist()
    [0, 1, 2, 3]
    """

    train: float = 0.7
    tune: float = 0.1
    calibrate: float = 0.1
    test: float = 0.1

    def __post_init__(self) -> None:
        _check_fractions((self.train, self.tune, self.calibrate, self.test))

    @staticmethod
    def at(tune_us: int, calibrate_us: int, test_us: int) -> TimeBoundaries:
        """The split with these boundaries: each part begins at its time, inclusive."""
        return TimeBoundaries(tune_us, calibrate_us, test_us)

    def resolve(self, log: RequestLog) -> TimeBoundaries:
        """The boundaries that these fractions mean on a log.

        The time column is read a few times, each time in narrower bins; memory doesn't grow with the log.

        Raises:
            LogError: The log has no time.
        """
        if log.schema.time is None:
            raise LogError(
                "a log without time cannot be split by time", do="declare schema.time, or use a HashSplit and say so"
            )
        return log.remembered(self, lambda: self._boundaries(log))

    def _boundaries(self, log: RequestLog) -> TimeBoundaries:
        first_us, last_us = log.time_range_us()
        fractions = np.cumsum([self.train, self.tune, self.calibrate])
        # A fraction that ends a hair under a whole number, as .7 + .1 + .1 does, means that number.
        ranks = np.floor(fractions * log.num_requests + 1e-6).astype(np.int64)
        boundaries = [
            last_us + 1 if rank >= log.num_requests else _time_of_rank(log, int(rank), first_us, last_us)
            for rank in ranks
        ]
        return TimeBoundaries(*boundaries)


@final
@dataclass(frozen=True, slots=True)
class TimeBoundaries:
    """Splits at fixed times, in UTC microseconds: `train` before `tune_us`, `tune` from there to `calibrate_us`, ….

    Raises:
        LogError: The boundaries go backwards.
    """

    tune_us: int
    calibrate_us: int
    test_us: int

    def __post_init__(self) -> None:
        if not self.tune_us <= self.calibrate_us <= self.test_us:
            raise LogError(
                "the boundaries of a time split go backwards",
                found=[self.tune_us, self.calibrate_us, self.test_us],
                allowed="tune_us ≤ calibrate_us ≤ test_us",
                do="give the times at which tune, calibrate and test begin, in this order",
            )

    def resolve(self, log: RequestLog) -> TimeBoundaries:
        """Itself.

        Raises:
            LogError: The log has no time.
        """
        if log.schema.time is None:
            raise LogError(
                "a log without time cannot be split by time", do="declare schema.time, or use a HashSplit and say so"
            )
        return self

    def assign(self, times_us_R: Ints | None, request_ids_R: Ints | None) -> Codes:
        """The index in `PARTS` of each request.

        Raises:
            LogError: There are no times.
        """
        if times_us_R is None:
            raise LogError("a time split needs times", do="use a HashSplit for a log without time")
        boundaries = np.array([self.tune_us, self.calibrate_us, self.test_us])
        return np.searchsorted(boundaries, times_us_R, side="right").astype(np.uint8)


@final
@dataclass(frozen=True, slots=True)
class HashSplit:
    """Splits by a hash of the request id, or of the row number in the log where there is none.

    The same request falls on the same side in every log; a member's requests don't stay together, and the past isn't
    kept from the future: for logs without time only.

    Args:
        train, tune, calibrate, test: Fractions ≥ 0 that add up to 1.
        seed: Another seed, another split.

    >>> HashSplit(train=0.0, tune=0.4, calibrate=0.2, test=0.4).assign(None, np.arange(8)).tolist()
    [3, 1, 2, 3, 1, 1, 3, 1]
    """

    train: float = 0.7
    tune: float = 0.1
    calibrate: float = 0.1
    test: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        _check_fractions((self.train, self.tune, self.calibrate, self.test))

    def resolve(self, log: RequestLog) -> HashSplit:
        """Itself: it needs nothing of the log."""
        del log
        return self

    def assign(self, times_us_R: Ints | None, request_ids_R: Ints | None) -> Codes:
        """The index in `PARTS` of each request, from 53 bits of splitmix64(request id + seed's hash)."""
        del times_us_R
        assert request_ids_R is not None
        start = splitmix64(np.array([self.seed], np.int64).view(np.uint64))
        uniform = (splitmix64(request_ids_R.view(np.uint64) + start) >> np.uint64(11)) * 2.0**-53
        edges = np.cumsum([self.train, self.tune, self.calibrate])
        codes = np.searchsorted(edges, uniform, side="right")
        # Sums of fractions may fall short of 1 by rounding; a part of fraction 0 stays empty all the same.
        last = max(i for i, fraction in enumerate((self.train, self.tune, self.calibrate, self.test)) if fraction > 0)
        return np.minimum(codes, last).astype(np.uint8)


@final
@dataclass(frozen=True, slots=True)
class WholeLog:
    """All of the log is one part, as where train and valid files are given apart.

    >>> WholeLog("tune").assign(None, np.arange(2)).tolist()
    [1, 1]
    """

    part: Part

    def __post_init__(self) -> None:
        part_code(self.part)

    def resolve(self, log: RequestLog) -> WholeLog:
        """Itself: it needs nothing of the log."""
        del log
        return self

    def assign(self, times_us_R: Ints | None, request_ids_R: Ints | None) -> Codes:
        """The index of the part in `PARTS`, for each request."""
        del times_us_R
        assert request_ids_R is not None
        return np.full(len(request_ids_R), PARTS.index(self.part), np.uint8)


Split = TimeSplit | TimeBoundaries | HashSplit | WholeLog


def part_code(part: Part) -> int:
    """The index of a part in `PARTS`.

    Raises:
        LogError: There is no such part.
    """
    if part not in PARTS:
        raise LogError(f"no split is called {part!r}", allowed=list(PARTS), do="name one of these")
    return PARTS.index(part)


def count_requests(log: RequestLog, split: Split) -> Ints:
    """How many requests of each block (rows) fall into each part (4 columns); asked once for a log and a split.

    A block that the metadata puts on one side of all boundaries isn't read; of the others only ids and times are.
    """
    resolved = split.resolve(log)

    def count() -> Ints:
        counts = np.zeros((len(log.blocks), len(PARTS)), np.int64)
        unknown: list[int] = []
        for i, block in enumerate(log.blocks):
            code = _code_of_block(block, resolved)
            if code is None:
                unknown.append(i)
            else:
                counts[i, code] = block.num_requests
        scanned: Sequence[Block] = [log.blocks[i] for i in unknown]
        for i, keys in zip(unknown, log.scan_keys(scanned), strict=True):
            counts[i] = np.bincount(resolved.assign(keys.times_us_R, keys.request_ids_R), minlength=len(PARTS))
        counts.setflags(write=False)
        return counts

    return log.remembered(("count_requests", resolved), count)


def _code_of_block(block: Block, split: TimeBoundaries | HashSplit | WholeLog) -> int | None:
    if isinstance(split, WholeLog):
        return PARTS.index(split.part)
    if isinstance(split, TimeBoundaries) and block.times_us is not None:
        first, last = split.assign(np.array(block.times_us), None)
        return int(first) if first == last else None
    return None


def check_time_order(
    *,
    train: RequestLog | None = None,
    tune: RequestLog | None = None,
    calibrate: RequestLog | None = None,
    test: RequestLog | None = None,
) -> None:
    """Refuse splits given as separate logs when time goes backwards from one to the next.

    Logs without time are left out: nothing can be said of them.

    Raises:
        LeakError: A split begins before the one that comes before it has ended.
    """
    given = [
        (name, log)
        for name, log in zip(PARTS, (train, tune, calibrate, test), strict=True)
        if log is not None and log.schema.time is not None
    ]
    for (name, log), (later_name, later) in pairwise(given):
        last_us, first_us = log.time_range_us()[1], later.time_range_us()[0]
        if first_us < last_us:
            raise LeakError(
                f"time goes backwards from {name!r} to {later_name!r}: column {later.schema.time!r} of "
                f"{_files_of(later)} against {_files_of(log)}",
                found=f"{later_name!r} begins at {first_us} µs, {(last_us - first_us) / 1e6:g} s before {name!r} ends",
                allowed="each split begins when the one before it has ended, or later",
                do="split one log with TimeSplit, or cut the files at one time",
            )


def _files_of(log: RequestLog) -> str:
    more = len(log.sources) - 1
    return f"{log.sources[0].name!r}" + (f" and {more} more" if more else "")


def _check_fractions(fractions: tuple[float, ...]) -> None:
    if min(fractions) < 0 or not abs(sum(fractions) - 1) < 1e-9:
        raise LogError(
            "the fractions of a split don't add up to 1",
            found=dict(zip(PARTS, fractions, strict=True)),
            allowed="four fractions of at least 0 whose sum is 1",
            do="correct the fractions",
        )


def _time_of_rank(log: RequestLog, rank: int, first_us: int, last_us: int) -> int:
    """The time at `rank` (from 0) in time order, by counting in ever narrower bins."""
    before = 0
    while first_us < last_us:
        width = -(-(last_us - first_us + 1) // _BINS)
        counts = np.zeros(_BINS, np.int64)
        for keys in log.scan_keys():
            assert keys.times_us_R is not None
            times = keys.times_us_R
            inside = times[(times >= first_us) & (times <= last_us)]
            counts += np.bincount((inside - first_us) // width, minlength=_BINS)
        ends = before + np.cumsum(counts)
        chosen = int(np.searchsorted(ends, rank, side="right"))
        before = int(ends[chosen] - counts[chosen])
        first_us += chosen * width
        last_us = min(last_us, first_us + width - 1)
    return first_us


def splitmix64(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """64 mixed bits of each of 64.

    Source: Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators".
    """
    with np.errstate(over="ignore"):
        mixed = values + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))
