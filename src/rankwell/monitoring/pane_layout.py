"""What panes count, fixed from a reference once: panes of one layout add up, wherever and whenever they were counted.

Letters in names: C rows · E edges between bins · T values counted one by one · V values of the reference.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, Final, Literal, Self, final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, ValidationError, field_validator, model_validator

from rankwell.data.statistics import ColumnStatistics
from rankwell.errors import MonitoringError
from rankwell.schema.transforms import Declaration, as_schema_error

__all__ = ["ALL_ROWS", "MISSING", "NEVER_SEEN", "OTHER", "CategoricalBins", "NumericBins", "PaneLayout"]

MISSING: Final = -1
"""Rows whose segment is null."""
OTHER: Final = -2
"""Rows whose segment is a value of the reference that is not counted by itself."""
NEVER_SEEN: Final = -3
"""Rows whose segment is no value of the reference: new, or mistaken."""
ALL_ROWS: Final = -4
"""The one segment of a layout without segments."""

_NUM_BINS: Final = 16
_NUM_TOP: Final = 20


@final
class NumericBins(Declaration):
    """Bins of a numeric column, or of logits, or probabilities; two ends are open, and one bin is for missing values.

    Args:
        name: The column.
        edges: Between bins, strictly ascending: bin k holds edge k−1 ≤ v < edge k. They are rounded to float32, so that
            a value falls into one bin whether it is read as float32 or as float64.
        origin: A number near the mean of the reference: panes keep Σ (v − origin).

    >>> NumericBins.of_values("years", [1.0, 2.0, 3.0, 4.0], num_bins=2).edges
    (2.5,)
    """

    kind: Literal["numeric"] = "numeric"
    name: str
    edges: tuple[float, ...]
    origin: float = 0.0

    @field_validator("edges")
    @classmethod
    def _rounded(cls, edges: tuple[float, ...]) -> tuple[float, ...]:
        with np.errstate(over="ignore"):  # too large a number becomes infinite, and is refused as that
            rounded = tuple(float(np.float32(edge)) for edge in edges)
        if any(low >= high for low, high in pairwise(rounded)) or not all(map(np.isfinite, rounded)):
            raise ValueError("edges ascend strictly, as finite float32 numbers")
        return rounded

    @property
    def num_bins(self) -> int:
        """With the one for missing values, which is the last."""
        return len(self.edges) + 2

    @classmethod
    def of_values(cls, name: str, values_C: ArrayLike, *, num_bins: int = _NUM_BINS) -> Self:
        """Bins that hold equal shares of a reference, as far as its ties allow.

        Args:
            name: The column.
            values_C: The reference, or a sample of it; what is not finite is left out. Without any value there is one
                edge, 0.
            num_bins: At least 2. With no drift PSI is (num_bins − 1)(1/n + 1/m) on average: few rows want few bins.

        Raises:
            MonitoringError: Fewer than 2 bins.
        """
        given_C = np.asarray(values_C, np.float64)
        known_C = given_C[np.isfinite(given_C)]
        _check_num_bins(num_bins)
        if not len(known_C):
            return cls(name=name, edges=(0.0,))
        shares = np.arange(1, num_bins) / num_bins
        return cls(name=name, edges=_edges(np.quantile(known_C, shares), known_C.min()), origin=float(known_C.mean()))

    @classmethod
    def of_statistics(cls, name: str, statistics: ColumnStatistics, *, num_bins: int = _NUM_BINS) -> Self:
        """The same from what training measured of a column (`measure_numerics`), as a bundle holds it.

        Raises:
            MonitoringError: Fewer than 2 bins.
        """
        _check_num_bins(num_bins)
        if not statistics.num_values:
            return cls(name=name, edges=(0.0,))
        quantiles = np.asarray(statistics.quantiles)
        shares = np.arange(1, num_bins) / num_bins
        at_shares = np.interp(shares, np.linspace(0.0, 1.0, len(quantiles)), quantiles)
        return cls(name=name, edges=_edges(at_shares, quantiles[0]), origin=statistics.mean)


@final
class CategoricalBins(Declaration):
    """Bins of ids: one for each of the most frequent values, for other values, for those never seen, and for missing.

    Args:
        name: The column.
        top: The values that are counted one by one, in the order of their bins.
        known: Further values of the reference.

    >>> CategoricalBins.of_values("city", [3, 3, 3, 5, 5, 8, -1], num_top=2)
    CategoricalBins(kind='categorical', name='city', top=(3, 5), known=(8,))
    """

    kind: Literal["categorical"] = "categorical"
    name: str
    top: tuple[Annotated[int, Field(ge=0)], ...]
    known: tuple[Annotated[int, Field(ge=0)], ...] = ()

    @model_validator(mode="after")
    def _check_distinct(self) -> Self:
        if len({*self.top, *self.known}) != len(self.top) + len(self.known):
            raise ValueError("each value stands once, in `top` or in `known`")
        return self

    @property
    def num_bins(self) -> int:
        """With those for other values, for values never seen and for missing ones, in this order at the end."""
        return len(self.top) + 3

    @classmethod
    def of_values(cls, name: str, ids_C: ArrayLike, *, num_top: int = _NUM_TOP) -> Self:
        """The most frequent values of a reference, ties by value, and all its others as known.

        Args:
            name: The column.
            ids_C: Ids of the reference; −1 where missing.
            num_top: How many values are counted one by one, at least 1.

        Raises:
            MonitoringError: None is to be counted by itself.
        """
        if num_top < 1:
            raise MonitoringError("no value would be counted by itself", found=num_top, allowed="num_top ≥ 1")
        values_V, counts_V = np.unique(np.asarray(ids_C, np.int64), return_counts=True)
        is_id_V = values_V >= 0
        values_V, counts_V = values_V[is_id_V], counts_V[is_id_V]
        ordered_V = values_V[np.lexsort((values_V, -counts_V))]
        return cls(
            name=name, top=tuple(ordered_V[:num_top].tolist()), known=tuple(sorted(ordered_V[num_top:].tolist()))
        )


@final
class PaneLayout(Declaration):
    """The columns that are counted, and the segments by which they are.

    Args:
        columns: Of one sort of rows: all on requests, or all on candidates (`FlatRows` says which).
        segments: The column by whose values rows are told apart: one segment for each of its `top`, and `OTHER`,
            `NEVER_SEEN` and `MISSING`, so that no mistaken column makes a million of them. None: `ALL_ROWS`.

    >>> layout = PaneLayout(columns=(NumericBins(name="years", edges=(2.0, 5.0)),))
    >>> PaneLayout.from_json(layout.to_json()) == layout
    True
    """

    columns: tuple[Annotated[NumericBins | CategoricalBins, Field(discriminator="kind")], ...]
    segments: CategoricalBins | None = None

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        names = [column.name for column in self.columns]
        if len(set(names)) != len(names):
            raise ValueError("each column stands once")
        return self

    def column(self, name: str) -> NumericBins | CategoricalBins:
        """The bins of a column.

        Raises:
            MonitoringError: It is not counted.
        """
        for column in self.columns:
            if column.name == name:
                return column
        raise MonitoringError(
            "this column is not counted", found=name, allowed=[column.name for column in self.columns]
        )

    def to_json(self) -> str:
        """For a file, or the metadata of one."""
        return self.model_dump_json()

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What `to_json` wrote.

        Raises:
            SchemaError: It is something else.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise as_schema_error(error) from None


def _check_num_bins(num_bins: int) -> None:
    if num_bins < 2:
        raise MonitoringError("one bin shows no drift", found=num_bins, allowed="num_bins ≥ 2")


def _edges(quantiles: NDArray[np.float64], least: Any) -> tuple[float, ...]:
    """The distinct ones as float32 numbers; an edge at the least value would leave the first bin empty."""
    limit = float(np.finfo(np.float32).max)
    rounded = np.unique(np.clip(quantiles, -limit, limit).astype(np.float32))
    above = rounded[rounded > np.float32(np.clip(least, -limit, limit))]
    # Where all values are equal: the edge just above them tells what grows, and one at them what shrinks.
    if not len(above):
        value = np.float32(np.clip(least, -limit / 2, limit / 2))
        above = np.array([value, np.nextafter(value, np.float32(np.inf))])
    return tuple(above.astype(np.float64).tolist())
