"""What studies share: a marketplace a seed to begin with; tables, numbers and a finding to end with."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import final

from rich.table import Table

from rankwell.simulation.recipe import true_clicks
from rankwell.simulation.settings import MarketplaceSettings
from rankwell.simulation.simulate import simulate
from rankwell.simulation.truth import read_truth
from rankwell.training.trained import TrueProbabilities

__all__ = ["StudyResult", "simulated"]


@final
@dataclass(frozen=True, slots=True)
class StudyResult:
    """The outcome of a study.

    Args:
        name: Of the study.
        tables: To be printed in this order.
        finding: One or two sentences on what the numbers say.
        numbers: Flat names to numbers, for ``--json``.
    """

    name: str
    tables: tuple[Table, ...]
    finding: str
    numbers: Mapping[str, float]


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
