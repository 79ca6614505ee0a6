"""A marketplace's requests as a log, and their truth apart from it: in memory or as files.

Letters in names: R requests · C candidates, flat · H history events, flat.
"""

from __future__ import annotations

import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final, final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rankwell.data.pseudonyms import PseudonymKey, pseudonymise, read_key
from rankwell.errors import LogError, RecipeError
from rankwell.simulation.marketplace import CHUNK_REQUESTS, Chunk, Marketplace
from rankwell.simulation.population import Ints
from rankwell.simulation.schema import experience_band
from rankwell.simulation.sessions import hour_of_week
from rankwell.simulation.settings import MarketplaceSettings
from rankwell.simulation.truth import truth_table

__all__ = ["SimulatedPaths", "log_table", "simulate", "simulate_tables"]

_PART_CHUNKS: Final = 16
_WORKERS: Final = 2


@final
@dataclass(frozen=True, slots=True)
class SimulatedPaths:
    """Where a simulation lies: the folders of the log and of its truth, and the file of the pseudonyms' key."""

    log: Path
    truth: Path
    key: Path


def simulate(
    settings: MarketplaceSettings,
    seed: int,
    *,
    num_requests: int,
    directory: str | Path,
    progress: Callable[[int], None] | None = None,
) -> SimulatedPaths:
    """Write a log (``log/``, request layout), its truth (``truth/``) and the members' key (``member.key``).

    The same settings and seed give the same files, and more requests leave the earlier ones as they are. Memory does
    not grow with the log. Both folders appear when they are complete, or not at all.

    Args:
        settings: The marketplace.
        seed: At least 0.
        num_requests: At least 1.
        directory: Created where there is none.
        progress: Called with the number of requests written so far.

    Raises:
        LogError: There is a log or a truth in `directory` already.
        RecipeError: `num_requests` is below 1.
    """
    directory = Path(directory)
    paths = SimulatedPaths(log=directory / "log", truth=directory / "truth", key=directory / "member.key")
    for path in (paths.log, paths.truth):
        if path.exists():
            raise LogError(f"{str(path)!r} exists already", do="simulate into another folder, or remove it")
    directory.mkdir(parents=True, exist_ok=True)
    key = _seeded_key(paths.key, seed)
    partial_log, partial_truth = directory / "log.partial", directory / "truth.partial"
    try:
        for folder in (partial_log, partial_truth):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        marketplace = Marketplace.create(settings, seed)
        log_parts, truth_parts, written = _Parts(partial_log), _Parts(partial_truth), 0
        with log_parts, truth_parts:
            for number, (log, truth) in enumerate(_tables(marketplace, num_requests, key)):
                part = number // _PART_CHUNKS
                log_parts.write(part, log)
                truth_parts.write(part, truth)
                written += log.num_rows
                if progress is not None:
                    progress(written)
        partial_truth.rename(paths.truth)
        partial_log.rename(paths.log)
    finally:
        for folder in (partial_log, partial_truth):
            shutil.rmtree(folder, ignore_errors=True)
    return paths


def simulate_tables(settings: MarketplaceSettings, seed: int, num_requests: int) -> tuple[pa.Table, pa.Table]:
    """The log (request layout, members by their own numbers) and its truth, in memory.

    Args:
        settings: The marketplace.
        seed: At least 0.
        num_requests: At least 1.

    Raises:
        RecipeError: `num_requests` is below 1.

    >>> log, truth = simulate_tables(MarketplaceSettings(num_members=100, num_jobs=50), seed=1, num_requests=10)
    >>> log.num_rows, truth.num_rows, "p_click" in log.column_names
    (10, 10, False)
    """
    logs, truths = zip(*_tables(Marketplace.create(settings, seed), num_requests, key=None), strict=True)
    return pa.concat_tables(logs), pa.concat_tables(truths)


def log_table(marketplace: Marketplace, chunk: Chunk) -> pa.Table:
    """A chunk's log: one row a request, candidates and events as lists, no truth. Members by their own numbers."""
    members, jobs = marketplace.population.members, marketplace.population.jobs
    sessions, pages, activity = chunk.sessions, chunk.pages, chunk.activity
    member_R, job_C = sessions.member_R, pages.job_C
    requests: dict[str, NDArray[Any]] = {
        "request_id": sessions.request_id_R,
        "member_id": member_R,
        "time_us": sessions.time_us_R,
        "title": members.title_M[member_R],
        "seniority": members.seniority_M[member_R],
        "industry": members.industry_M[member_R],
        "experience_years": members.experience_years_M[member_R],
        "home_city": members.city_M[member_R],
        "home_lat": members.lat_M[member_R],
        "home_lon": members.lon_M[member_R],
        "hour_of_week": hour_of_week(sessions.time_us_R),
        "gender": members.gender_M[member_R],
        "experience_band": experience_band(members.experience_years_M[member_R]),
    }
    candidates: dict[str, NDArray[Any]] = {
        "job_id": job_C,
        "job_title": jobs.title_J[job_C],
        "job_seniority": jobs.seniority_J[job_C],
        "job_industry": jobs.industry_J[job_C],
        "job_city": jobs.city_J[job_C],
        "job_place_lat": jobs.lat_J[job_C],
        "job_place_lon": jobs.lon_J[job_C],
        "min_experience": jobs.min_experience_J[job_C],
        "salary": jobs.salary_J[job_C],
        "retrieval_score": pages.retrieval_score_C,
        **chunk.responses.labels,
        "position": pages.position_C.astype(np.int32),
        "slot_propensity": pages.slot_propensity_C,
        "retrieval_exposure": pages.retrieval_exposure_C,
        "examination": pages.examination_C,
        "bid_micros": jobs.bid_micros_J[job_C],
    }
    events: dict[str, NDArray[Any]] = {
        "history_item": activity.job_H,
        "history_industry": jobs.industry_J[activity.job_H],
        "history_action": activity.action_H,
        "history_time_us": activity.time_us_H,
    }
    columns: dict[str, Any] = {name: pa.array(values) for name, values in requests.items()}
    offsets_R = np.concatenate([[0], np.cumsum(pages.length_R)])
    columns |= {name: _lists(offsets_R, values) for name, values in candidates.items()}
    columns |= {name: _lists(activity.offsets_R, values) for name, values in events.items()}
    return pa.table(columns)


def _tables(
    marketplace: Marketplace, num_requests: int, key: PseudonymKey | None
) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Log and truth, chunk by chunk in order; a few chunks are drawn ahead by threads (numpy works without the GIL)."""
    if num_requests < 1:
        raise RecipeError("a simulated log needs requests", found=num_requests, allowed="at least 1")

    def draw(number: int) -> tuple[pa.Table, pa.Table]:
        chunk = marketplace.chunk(number)
        log = log_table(marketplace, chunk)
        if key is not None:
            place = log.schema.get_field_index("member_id")
            log = log.set_column(place, "member_id", pseudonymise(log["member_id"], key))
        size = min(CHUNK_REQUESTS, num_requests - number * CHUNK_REQUESTS)
        return log.slice(0, size), truth_table(chunk).slice(0, size)

    numbers = iter(range(-(-num_requests // CHUNK_REQUESTS)))
    ahead: deque[Future[tuple[pa.Table, pa.Table]]] = deque()
    with ThreadPoolExecutor(_WORKERS) as pool:
        for number in numbers:
            ahead.append(pool.submit(draw, number))
            if len(ahead) > _WORKERS:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


@final
class _Parts:
    """The Parquet files of one folder, one open at a time; one row group a chunk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number = -1
        self._writer: Any = None

    def write(self, number: int, table: pa.Table) -> None:
        if number != self._number:
            self._close()
            self._number = number
            self._writer = pq.ParquetWriter(self._folder / f"part-{number:05d}.parquet", table.schema)
        self._writer.write_table(table)

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        self._close()


def _seeded_key(path: Path, seed: int) -> PseudonymKey:
    """The key in the file, which is made where there is none.

    Simulated members are nobody, so the key comes from the seed: one seed gives one log, byte for byte.
    """
    if not path.exists():
        secret = blake2b(f"simulated members {seed}".encode(), digest_size=32).digest()
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secret)
    return read_key(path)


def _lists(offsets_R: Ints, values: NDArray[Any]) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(offsets_R, pa.int32()), pa.array(values))
