"""A marketplace in which jobs have rivals: the simulated log with its clicks drawn again, and their truth.

In the marketplace as it is, what stands beside a job says next to nothing of its click. Here a job beside better paid
ones of its title is clicked less; and, by senior members alone, one beside better paid ones within 50 miles. Titles are
few, and latent tastes, moods of eagerness and hidden qualities are switched off: what rivals do shows in short logs.

Letters: R requests · C candidates, flat · P pairs of candidates of one request.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.special import expit, logit

from rankwell.simulation.recipe import true_clicks
from rankwell.simulation.settings import MarketplaceSettings
from rankwell.simulation.simulate import simulate
from rankwell.simulation.truth import read_truth
from rankwell.training.trained import TrueProbabilities

__all__ = ["SENIOR", "rival_gaps", "with_rivals"]

SENIOR: Final = 4
"""The seniority from which on members mind what is near."""
_STRENGTH: Final = 1.5
"""What one standard deviation of a gap takes from the logit."""
_NEAR_KM: Final = 80.5
_EARTH_RADIUS_KM: Final = 6371.0088
_QUIET: Final = MarketplaceSettings(
    num_titles=20, taste_strength=0.0, memorised_affinity=0.0, eagerness_strength=0.0, quality_strength=0.0
)
_ROW_GROUP: Final = 4096

Floats = NDArray[np.float64]


@contextmanager
def with_rivals(seed: int, num_requests: int) -> Iterator[tuple[Path, TrueProbabilities]]:
    """A fresh marketplace's log in a folder that goes away, its clicks drawn anew, and their true probabilities.

    ``logit p = logit p₀ - 1.5 · (gap_title / sd_title + [senior] · gap_near / sd_near)``, p₀ that of the simulation,
    the gaps those of `rival_gaps`, their standard deviations over candidates that have such rivals. Actions other than
    clicks stay as they were, and mean nothing any more.

    >>> with with_rivals(seed=1, num_requests=50) as (data, _):
    ...     sorted(path.name for path in data.iterdir() if path.is_dir())
    ['log', 'truth']
    """
    with tempfile.TemporaryDirectory() as folder:
        data, random = Path(folder), np.random.default_rng([seed, 1])
        simulate(_QUIET, seed, num_requests=num_requests, directory=data)
        truth = read_truth(data)
        paths = sorted((data / "log").glob("*.parquet"))
        tables = [pq.read_table(path).combine_chunks() for path in paths]
        gaps = [rival_gaps(table) for table in tables]
        sd_title, sd_near = (np.concatenate(of).std(where=np.concatenate(of) != 0) for of in zip(*gaps, strict=True))
        ids_R = np.concatenate([table["request_id"].to_numpy() for table in tables])
        before, probabilities = truth.of_requests(ids_R), []
        for path, table, (title_C, near_C) in zip(paths, tables, gaps, strict=True):
            of = truth.of_requests(table["request_id"].to_numpy())
            minds_C = np.repeat(table["seniority"].to_numpy() >= SENIOR, np.diff(of.offsets_R))
            taken_C = _STRENGTH * (title_C / sd_title + minds_C * near_C / sd_near)
            p_C = expit(logit(of.probabilities["click"]) - taken_C)
            clicks_C = (random.random(len(p_C)) < p_C).astype(np.int8)
            place = table.schema.get_field_index("click")
            field = table.schema.field(place)
            column = pa.ListArray.from_arrays(pa.array(of.offsets_R, pa.int32()), pa.array(clicks_C)).cast(field.type)
            pq.write_table(table.set_column(place, field, column), path, row_group_size=_ROW_GROUP)
            probabilities.append(p_C)
        yield data, true_clicks(dataclasses.replace(before, probabilities={"click": np.concatenate(probabilities)}))


def rival_gaps(log: pa.Table) -> tuple[Floats, Floats]:
    """By how much the request's other jobs of its title, and those within 50 miles, are better paid than a job.

    Args:
        log: Of the marketplace, in the request layout.

    Returns:
        Two columns of C, in log salaries: the mean of the others less its own; 0 where there is no other.
    """
    lengths_R = log["job_title"].combine_chunks().value_lengths().to_numpy()
    title_C, latitude_C, longitude_C, salary_C = (
        log[name].combine_chunks().flatten().to_numpy().astype(np.float64)
        for name in ("job_title", "job_place_lat", "job_place_lon", "salary")
    )
    latitude_C, longitude_C, pay_C = np.radians(latitude_C), np.radians(longitude_C), np.log(salary_C)
    point_C3 = np.stack(
        [np.cos(latitude_C) * np.cos(longitude_C), np.cos(latitude_C) * np.sin(longitude_C), np.sin(latitude_C)], axis=1
    )
    length_C = np.repeat(lengths_R, lengths_R)
    start_C = np.repeat(np.cumsum(lengths_R) - lengths_R, lengths_R)
    one_P = np.repeat(np.arange(len(length_C)), length_C)
    first_C = np.cumsum(length_C) - length_C
    other_P = start_C[one_P] + np.arange(len(one_P)) - first_C[one_P]
    cosine_P = np.einsum("pi,pi->p", point_C3[one_P], point_C3[other_P])

    def gap(related_P: NDArray[np.bool_]) -> Floats:
        counts_P = (related_P & (one_P != other_P)).astype(np.float64)
        num_C = np.bincount(one_P, counts_P, minlength=len(pay_C))
        total_C = np.bincount(one_P, counts_P * pay_C[other_P], minlength=len(pay_C))
        return np.where(num_C > 0, total_C / np.maximum(num_C, 1) - pay_C, 0.0)

    return gap(title_C[one_P] == title_C[other_P]), gap(cosine_P >= np.cos(_NEAR_KM / _EARTH_RADIUS_KM))
