"""A marketplace's requests as a log, and their truth apart from it: in memory or as files.

Letters in names: R requests · C candidates, flat · H history events, flat.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final, final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rankwell.data.pseudonyms import PseudonymKey, read_key
from rankwell.data.writer import LogWriter
from rankwell.errors import LogError, RecipeError
from rankwell.simulation.marketplace import CHUNK_REQUESTS, Chunk, Marketplace
from rankwell.simulation.population import Ints
from rankwell.simulation.schema import experience_band, marketplace_schema
from rankwell.simulation.sessions import hour_of_week
from rankwell.simulation.settings import MarketplaceSettings
from rankwell.simulation.truth import truth_table

__all__ = ["SimulatedPaths", "log_table", "simulate", "simulate_marketplace", "simulate_tables"]

_PART_CHUNKS: Final = 8
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
    marketplace = Marketplace.create(settings, seed)
    return simulate_marketplace(marketplace, num_requests=num_requests, directory=directory, progress=progress)


def simulate_marketplace(
    marketplace: Marketplace,
    *,
    num_requests: int,
    directory: str | Path,
    progress: Callable[[int], None] | None = None,
) -> SimulatedPaths:
    """`simulate` for a marketplace that was made before, such as one that exposes uniformly.

    Args:
        marketplace: Whose requests are written.
        num_requests, directory, progress: As of `simulate`.

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
    key = _seeded_key(paths.key, marketplace.seed)
    partial = SimulatedPaths(log=directory / "log.partial", truth=directory / "truth.partial", key=paths.key)
    try:
        for folder in (partial.log, partial.truth):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        _write_parts(marketplace, num_requests, partial, key, progress)
        partial.truth.rename(paths.truth)
        partial.log.rename(paths.log)
    finally:
        for folder in (partial.log, partial.truth):
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
    marketplace, numbers = Marketplace.create(settings, seed), range(_num_chunks(num_requests))
    with ThreadPoolExecutor(_WORKERS) as pool:
        tables = list(pool.map(lambda number: _tables(marketplace, number, num_requests), numbers))
    logs, truths = zip(*tables, strict=True)
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


def _num_chunks(num_requests: int) -> int:
    if num_requests < 1:
        raise RecipeError("a simulated log needs requests", found=num_requests, allowed="at least 1")
    return -(-num_requests // CHUNK_REQUESTS)


def _tables(marketplace: Marketplace, number: int, num_requests: int) -> tuple[pa.Table, pa.Table]:
    """Log and truth of a chunk; the last is drawn whole and cut, so that a longer log begins with the same requests."""
    chunk = marketplace.chunk(number)
    size = min(CHUNK_REQUESTS, num_requests - number * CHUNK_REQUESTS)
    return log_table(marketplace, chunk).slice(0, size), truth_table(chunk).slice(0, size)


def _write_parts(
    marketplace: Marketplace,
    num_requests: int,
    folders: SimulatedPaths,
    key: PseudonymKey,
    progress: Callable[[int], None] | None,
) -> None:
    """Parts are drawn and written side by side: numpy and Arrow let go of the interpreter's lock."""
    num_chunks = _num_chunks(num_requests)
    schema = marketplace_schema(marketplace.settings)

    def write(first: int) -> int:
        name, written, truth_file = f"part-{first // _PART_CHUNKS:05d}.parquet", 0, None
        with ExitStack() as files:
            log_file = files.enter_context(LogWriter(str(folders.log / name), schema, key=key))
            for number in range(first, min(first + _PART_CHUNKS, num_chunks)):
                log, truth = _tables(marketplace, number, num_requests)
                log_file.write(log)
                # Dictionaries of numbers that hardly repeat would be most of the time and the size.
                truth_file = truth_file or files.enter_context(
                    pq.ParquetWriter(folders.truth / name, truth.schema, use_dictionary=False)
                )
                truth_file.write_table(truth)
                written += log.num_rows
        return written

    total = 0
    with ThreadPoolExecutor(_WORKERS) as pool:
        for written in pool.map(write, range(0, num_chunks, _PART_CHUNKS)):
            total += written
            if progress is not None:
                progress(total)


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
