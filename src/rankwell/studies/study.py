"""What studies share: a marketplace a seed to begin with; tables, numbers and a finding to end with."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import final

from rich.table import Table

from rankwell.evaluation.intervals import mean_and_sd, paired_interval
from rankwell.simulation.recipe import true_clicks
from rankwell.simulation.settings import MarketplaceSettings
from rankwell.simulation.simulate import simulate
from rankwell.simulation.truth import read_truth
from rankwell.studies.chart import Chart
from rankwell.training.trained import TrueProbabilities

__all__ = ["Gain", "StudyResult", "gain_of", "joined", "shown", "simulated"]


@final
@dataclass(frozen=True, slots=True)
class StudyResult:
    """The outcome of a study.

    Args:
        name: Of the study.
        tables: To be printed in this order.
        finding: One or two sentences on what the numbers say.
        numbers: Flat names to numbers, for ``--json``.
        charts: For the page, in this order.
    """

    name: str
    tables: tuple[Table, ...]
    finding: str
    numbers: Mapping[str, float]
    charts: tuple[Chart, ...] = ()


def joined(name: str, parts: Sequence[StudyResult]) -> StudyResult:
    """Studies one after the other as one study; the numbers of each stand under its name."""
    return StudyResult(
        name,
        tuple(table for part in parts for table in part.tables),
        "\n".join(part.finding for part in parts),
        {f"{part.name}/{key}": value for part in parts for key, value in part.numbers.items()},
        tuple(chart for part in parts for chart in part.charts),
    )


@final
@dataclass(frozen=True, slots=True)
class Gain:
    """A mean difference paired by seed, with its 95 % interval."""

    mean: float
    low: float
    high: float

    @property
    def is_sure(self) -> bool:
        """Whether the whole interval lies on one side of 0."""
        return self.low > 0 or self.high < 0

    def numbers(self) -> dict[str, float]:
        """By name, for ``--json``."""
        return {"mean": self.mean, "low": self.low, "high": self.high}

    def __str__(self) -> str:
        return f"{self.mean:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"


def gain_of(values_S: Sequence[float], over_S: Sequence[float]) -> Gain:
    """What one has over another, seed by seed.

    >>> print(gain_of([3.0, 4.0, 5.0], [2.0, 3.0, 4.0]))
    +1.0000 [+1.0000, +1.0000]
    """
    differences = [a - b for a, b in zip(values_S, over_S, strict=True)]
    interval = paired_interval(differences)
    return Gain(sum(differences) / len(differences), interval.low, interval.high)


def shown(values_S: Sequence[float], digits: int = 4) -> str:
    """Mean ± sd over seeds; of one seed the value.

    >>> shown([0.1, 0.2]), shown([0.1])
    ('0.1500 ± 0.0707', '0.1000')
    """
    if len(values_S) == 1:
        return f"{values_S[0]:.{digits}f}"
    summary = mean_and_sd(values_S)
    return f"{summary.mean:.{digits}f} ± {summary.sd:.{digits}f}"


@contextmanager
def simulated(seed: int, num_requests: int) -> Iterator[tuple[Path, TrueProbabilities]]:
    """A fresh marketplace's log in a folder that goes away, and its true clicks.

    >>> with simulated(seed=1, num_requests=50) as (data, _):
    ...     sorted(path.name for path in data.iterdir() if path.is_dir())
    ['log', 'truth']
    """
    with tempfile.TemporaryDirectory() as folder:
        paths = simulate(MarketplaceSettings(), seed, num_requests=num_requests, directory=folder)
        yield Path(folder), true_clicks(read_truth(paths.truth))
