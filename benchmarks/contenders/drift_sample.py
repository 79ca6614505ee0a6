"""The two samples that drift is measured between: columns of float32, all but a few of which have not moved.

This file needs NumPy alone: peers import it, too.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["OUTLIER", "sample"]

OUTLIER = 1e6


def sample(num_rows: int, num_columns: int, *, drifted: bool) -> list[NDArray[np.float32]]:
    """Normal columns of all sorts of scales; where they have drifted, every fifth by half a standard deviation."""
    rng = np.random.default_rng(1 if drifted else 0)
    columns = []
    for number in range(num_columns):
        values_C = rng.standard_normal(num_rows, np.float32)
        if drifted and number % 5 == 0:
            values_C += np.float32(0.5)
        columns.append(values_C * np.float32(10.0 ** (number % 7 - 3)))
    return columns
