"""The members of a drill: who asks when, with which candidates, and what they truly want of them.

Letters in names: R requests · C candidates, flat.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final, Self, final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.special import expit, logit

from rankwell.data.batches import Batches
from rankwell.data.log import log_from_table
from rankwell.data.split import WholeLog
from rankwell.schema import Schema
from rankwell.simulation.marketplace import CHUNK_REQUESTS, Marketplace, MarketplaceSettings
from rankwell.simulation.sessions import open_sessions
from rankwell.simulation.simulate import log_table
from rankwell.types import Batch

__all__ = ["Asked", "DrillWorld", "batches_of"]

_BATCH: Final = 256
_ELIGIBLE: Final = 120
"""Jobs the index offers to a request, of which half come through: a feed, some forty jobs long."""
_HOUR_OF_WEEK: Final = 58
"""That all requests are sent with, since the hour changes nothing."""
_FURTHER_IDS: Final = 1_000_000_000


@final
@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """Requests with all their candidates, and the truth.

    Args:
        table: In the columns of a log, one row a request, by time.
        click_logits_C: The logit of p(click | looked at).
    """

    table: pa.Table
    click_logits_C: NDArray[np.float64]

    @property
    def offsets_R(self) -> NDArray[np.int64]:
        """The candidates of request r are ``offsets_R[r]:offsets_R[r + 1]``."""
        lengths_R = pc.list_value_length(self.table["job_id"]).to_numpy()
        return np.concatenate([[0], np.cumsum(lengths_R, dtype=np.int64)])

    def of_candidates(self, name: str) -> NDArray[Any]:
        """A column of candidates, flat."""
        values: NDArray[Any] = self.table[name].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return values

    def between(self, from_us: int, until_us: int) -> Asked:
        """The requests of a stretch of time, which may be none."""
        first, last = np.searchsorted(self.table["time_us"].to_numpy(), [from_us, until_us]).tolist()
        begin, end = self.offsets_R[[first, last]].tolist()
        return Asked(self.table.slice(first, last - first), self.click_logits_C[begin:end])

    def clicks(self, rng: np.random.Generator) -> NDArray[np.bool_]:
        """What members do, drawn once for each candidate."""
        drawn: NDArray[np.bool_] = rng.random(len(self.click_logits_C)) < expit(self.click_logits_C)
        return drawn


@final
@dataclass(frozen=True, slots=True)
class DrillWorld:
    """A marketplace whose lists are read to their end, so that a click depends on the job and not on its place.

    With lists that are skimmed, whatever a correction moves up is looked at more: corrections would chase what they
    themselves have moved, by labels that are half an hour old. That, and tastes that change with the hour, which no
    model of a few weeks' log knows well, are left out: until the onset the bundle is right, and after it what is wrong
    is the incident's.

    Args:
        marketplace: With pages so long that they hold all that retrieval gives.
    """

    marketplace: Marketplace

    @classmethod
    def create(cls, seed: int) -> Self:
        """The population of `simulate`'s marketplace of this seed.

        Args:
            seed: At least 0.
        """
        settings = MarketplaceSettings(examination_decay=0.0, time_strength=0.0, num_eligible=_ELIGIBLE)
        made = Marketplace.create(settings, seed)
        whole = replace(settings, min_slots=settings.num_eligible, max_slots=settings.num_eligible)
        return cls(replace(made, settings=whole))

    @property
    def start_us(self) -> int:
        """A Monday's midnight."""
        return self.marketplace.settings.start_us

    def asked(self, from_us: int, until_us: int, *, requests_per_day: int, stream: int) -> Asked:
        """What is asked in a stretch of time, with the cycles of day and week.

        Args:
            from_us, until_us: UTC microseconds, from `start_us` on.
            requests_per_day: On average over the week.
            stream: Of the draws; two streams share no request id.
        """
        settings = replace(self.marketplace.settings, requests_per_day=requests_per_day)
        market = replace(self.marketplace, settings=settings, seed=self.marketplace.seed * 1_000 + stream)
        tables, logits = [], []
        for number in _chunks(market, from_us, until_us):
            chunk = market.chunk(number)
            times_us_R = chunk.sessions.time_us_R
            is_in_R = (times_us_R >= from_us) & (times_us_R < until_us)
            is_in_C = is_in_R[chunk.pages.request_C]
            tables.append(log_table(market, chunk).filter(pa.array(is_in_R)))
            logits.append(logit(chunk.responses.click_examined_C.astype(np.float64))[is_in_C])
        table = pa.concat_tables(tables).combine_chunks()
        table = replaced(table, "request_id", pc.add(table["request_id"], stream * _FURTHER_IDS))
        table = replaced(table, "hour_of_week", pa.array(np.full(len(table), _HOUR_OF_WEEK)))
        return Asked(table, np.concatenate(logits))


def replaced(table: pa.Table, name: str, values: Any) -> pa.Table:
    """A table with another column of the same name."""
    return table.set_column(table.schema.get_field_index(name), name, values)


def batches_of(table: pa.Table, schema: Schema) -> Iterator[Batch]:
    """Requests as models take them, in their order."""
    log = log_from_table(table, schema, layout="requests")
    yield from Batches(log, WholeLog("test"), "test", num_requests=_BATCH, seed=None)


def _chunks(market: Marketplace, from_us: int, until_us: int) -> range:
    def first_us(number: int) -> int:
        rng = np.random.default_rng(0)
        sessions = open_sessions(market.settings, market.population, number * CHUNK_REQUESTS, 1, rng)
        return int(sessions.time_us_R[0])

    number = 0
    while first_us(number + 1) < from_us:
        number += 1
    last = number + 1
    while first_us(last) < until_us:
        last += 1
    return range(number, last)
