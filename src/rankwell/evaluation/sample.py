"""Predictions checked at the door and sorted once: what every number of this room is computed from.

Letters: C candidates · G groups (requests, members or segments) · T ties: the distinct probabilities of a group.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rankwell.errors import MetricError, UndefinedMetricWarning

__all__ = [
    "Column",
    "Floats",
    "Groups",
    "Ints",
    "Metric",
    "Sample",
    "Ties",
    "category_column",
    "check_whole_number",
    "clipped_inside",
    "group_rows",
    "number_column",
    "probability_column",
    "undefined",
    "weight_column",
]

Column = npt.ArrayLike | Tensor
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class Metric(Protocol):
    """One number about predictions: order-free; weight 0 means absent, weight 2 means twice; NaN where undefined."""

    def __call__(self, probabilities_C: Floats, labels_C: Floats, weights_C: Floats, /) -> float:
        """The metric over all rows of a set, never over one batch of it."""


def undefined(metric: str, why: str) -> float:
    """NaN, after an `UndefinedMetricWarning` that says why."""
    warnings.warn(f"{metric} is undefined and was returned as NaN: {why}", UndefinedMetricWarning, stacklevel=3)
    return float("nan")


def check_whole_number(name: str, number: int, *, at_least: int) -> int:
    """The number itself, as an int.

    Raises:
        MetricError: It is not a whole number, or too small.
    """
    if isinstance(number, bool) or not isinstance(number, int | np.integer) or number < at_least:
        raise MetricError(f"`{name}` is not a usable whole number", found=number, allowed=f"an int >= {at_least}")
    return int(number)


def number_column(name: str, column: Column, *, like: tuple[str, int] | None = None) -> Floats:
    """The column as finite float64 of one dimension; no copy where it already is that.

    Args:
        name: The argument's name, for the message.
        column: A tensor or array of floats, integers or booleans.
        like: Name and length of the column that it has to match.

    Raises:
        MetricError: Not numbers, not one dimension, NaN or infinite, or of another length.
    """
    array = column.detach().cpu().to(torch.float64).numpy() if isinstance(column, Tensor) else np.asarray(column)
    if array.dtype.kind not in "fiub":
        raise MetricError(f"`{name}` does not hold numbers", found=str(array.dtype), allowed="floats, ints or bools")
    _check_shape(name, array, like)
    numbers = array.astype(np.float64, copy=False)
    _refuse(name, numbers, ~np.isfinite(numbers), "finite numbers", "drop the rows without a value before evaluating")
    return numbers


def probability_column(name: str, column: Column, *, like: tuple[str, int] | None = None) -> Floats:
    """The column as float64 in [0, 1]; raises `MetricError` for anything else."""
    numbers = number_column(name, column, like=like)
    _refuse(name, numbers, (numbers < 0) | (numbers > 1), "probabilities in [0, 1]", "turn logits into probabilities")
    return numbers


def weight_column(name: str, column: Column, *, like: tuple[str, int] | None = None) -> Floats:
    """The column as float64 of at least 0; raises `MetricError` for anything else."""
    numbers = number_column(name, column, like=like)
    _refuse(name, numbers, numbers < 0, "numbers >= 0", "a row that shall not count has weight 0")
    return numbers


def clipped_inside(probabilities_C: Floats) -> Floats:
    """The probabilities, with 0 and 1 moved to their nearest neighbours in float64: 4.9e-324 and 1 − 2⁻⁵³."""
    return np.clip(probabilities_C, np.nextafter(0, 1), np.nextafter(1, 0))


def category_column(name: str, column: Column, *, like: tuple[str, int] | None = None) -> npt.NDArray[np.generic]:
    """The column as integers, booleans or strings of one dimension; raises `MetricError` for anything else."""
    array = column.detach().cpu().numpy() if isinstance(column, Tensor) else np.asarray(column)
    if array.dtype.kind == "O" and all(isinstance(entry, str) for entry in array.flat):
        array = array.astype(np.str_)
    if array.size and array.dtype.kind not in "iubUS":
        raise MetricError(
            f"`{name}` does not hold groups",
            found=str(array.dtype),
            allowed="integers, booleans or strings",
            do="cut a number into buckets first, and give missing values an id of their own",
        )
    _check_shape(name, array, like)
    return array


@final
@dataclass(frozen=True, slots=True, eq=False)
class Groups:
    """Which rows belong together.

    Args:
        values_G: The distinct values, ascending.
        index_C: int64, for each row the place of its value in `values_G`.
    """

    values_G: npt.NDArray[np.generic]
    index_C: Ints

    def __len__(self) -> int:
        return len(self.values_G)


def group_rows(value_C: npt.NDArray[Any]) -> Groups:
    """The distinct values of a column and where each row's value stands among them.

    >>> groups = group_rows(np.array([7, 3, 7]))
    >>> groups.values_G.tolist(), groups.index_C.tolist()
    ([3, 7], [1, 0, 1])
    """
    if value_C.dtype.kind in "iu" and len(value_C):
        if bool(np.greater_equal(value_C[1:], value_C[:-1]).all()):  # a log in request order: no sort needed
            is_first_C = np.ones(len(value_C), dtype=np.bool_)
            is_first_C[1:] = value_C[1:] != value_C[:-1]
            return Groups(value_C[is_first_C], np.cumsum(is_first_C) - 1)
        lowest, highest = int(value_C.min()), int(value_C.max())
        if highest - lowest < 4 * len(value_C):  # small codes: counting beats sorting
            code_C = value_C.astype(np.int64) - lowest if lowest else value_C.astype(np.int64, copy=False)
            is_used = np.bincount(code_C) > 0
            used = np.flatnonzero(is_used)
            return Groups((used + lowest).astype(value_C.dtype), (np.cumsum(is_used) - 1)[code_C])
    values_G, index_C = np.unique(value_C, return_inverse=True)
    return Groups(values_G, index_C.astype(np.int64, copy=False))


@final
@dataclass(frozen=True, slots=True, eq=False)
class Ties:
    """Rows collapsed into ties: one entry for each distinct value within a group, ascending within the group.

    Args:
        order_C: int64, the rows sorted by group, then by value.
        starts_T: int64, where each tie begins in `order_C`.
        group_T: int64, the group of each tie, ascending.
        num_groups: G.
    """

    order_C: Ints
    starts_T: Ints
    group_T: Ints
    num_groups: int

    @classmethod
    def of(cls, values_C: npt.NDArray[np.generic]) -> Ties:
        """The ties of a column over all rows.

        >>> ties = Ties.of(np.array([.5, .1, .5, .9]))
        >>> ties.count_T.tolist(), ties.ranks_C.tolist()
        ([1, 2, 1], [1, 0, 1, 2])
        """
        order_C = np.argsort(values_C)
        sorted_C = values_C[order_C]
        is_start_C = np.ones(len(sorted_C), dtype=np.bool_)
        is_start_C[1:] = sorted_C[1:] != sorted_C[:-1]
        starts_T = np.flatnonzero(is_start_C)
        return cls(order_C, starts_T, np.zeros(len(starts_T), dtype=np.int64), 1)

    @classmethod
    def within(cls, groups: Groups, ranks_C: Ints) -> Ties:
        """The ties within groups of a column given by its `ranks_C`; every group has a row."""
        ties = cls.of(groups.index_C * (int(ranks_C.max(initial=0)) + 1) + ranks_C)  # one integer sort, not two sorts
        return cls(ties.order_C, ties.starts_T, groups.index_C[ties.order_C[ties.starts_T]], len(groups))

    @property
    def ranks_C(self) -> Ints:
        """int64, for each row the number of ties below its own: equal values have equal ranks."""
        ranks_C = np.empty(len(self.order_C), dtype=np.int64)
        ranks_C[self.order_C] = np.repeat(np.arange(len(self.starts_T)), self.count_T)
        return ranks_C

    @property
    def count_T(self) -> Ints:
        """int64, the number of rows of each tie."""
        return np.diff(self.starts_T, append=len(self.order_C))

    def total(self, values_C: Floats) -> Floats:
        """The sum of a column over each tie."""
        return np.add.reduceat(values_C[self.order_C], self.starts_T) if len(self.starts_T) else np.zeros(0)

    def first(self, values_C: Floats) -> Floats:
        """The first entry of a column in each tie: the value itself, for a column that is constant within ties."""
        return values_C[self.order_C[self.starts_T]]

    def by_group(self, mass_T: npt.NDArray[np.generic]) -> Floats:
        """The sum over the ties of each group (G)."""
        return np.bincount(self.group_T, mass_T, minlength=self.num_groups).astype(np.float64, copy=False)

    def below(self, mass_T: Floats) -> Floats:
        """The mass of the same group that lies strictly below each tie."""
        before_T = np.cumsum(mass_T) - mass_T
        first_T = np.searchsorted(self.group_T, np.arange(self.num_groups))  # a group's first tie; each group has one
        return np.maximum(before_T - before_T[first_T][self.group_T], 0) if len(mass_T) else before_T


@final
@dataclass(frozen=True, eq=False)
class Sample:
    """Predictions and labels that have passed the door: checked, rows of weight 0 gone, sorted at most once.

    To compute several numbers of the same rows, build one sample and hand it to the functions named ``…_of``.

    Args:
        probabilities_C: float64 in [0, 1].
        labels_C: float64, 0 or 1; or gains, at least 0, where built by `with_gains`.
        weights_C: float64, above 0.
        num_given: How many rows there were at the door, those of weight 0 included.
        kept_C: bool, which of the given rows are kept; None where all are.

    >>> sample = Sample.of([.2, .7, .7], [0, 1, 0], [1, 1, 0])
    >>> sample.probabilities_C.tolist(), sample.total_weight
    ([0.2, 0.7], 2.0)
    """

    probabilities_C: Floats
    labels_C: Floats
    weights_C: Floats
    num_given: int
    kept_C: npt.NDArray[np.bool_] | None

    @classmethod
    def of(cls, probabilities_C: Column, labels_C: Column, weights_C: Column) -> Sample:
        """The sample of binary labels.

        Raises:
            MetricError: Unequal lengths, NaN or infinite values (in rows of weight 0 too), a probability outside
                [0, 1], a label outside {0, 1} or a negative weight.
        """
        sample = cls.with_gains(probabilities_C, labels_C, weights_C, name="labels_C")
        labels_C = sample.labels_C
        _refuse("labels_C", labels_C, (labels_C != 0) & (labels_C != 1), "0 or 1", "cut graded labels at a threshold")
        return sample

    @classmethod
    def with_gains(
        cls, probabilities_C: Column, gains_C: Column, weights_C: Column, *, name: str = "gains_C"
    ) -> Sample:
        """The sample of graded labels, as gains of at least 0; raises `MetricError` as `of` does."""
        checked_C = probability_column("probabilities_C", probabilities_C)
        like = ("probabilities_C", len(checked_C))
        labels_C = number_column(name, gains_C, like=like)
        _refuse(name, labels_C, labels_C < 0, "numbers >= 0", "shift the gains so that the lowest is 0")
        positive_C = weight_column("weights_C", weights_C, like=like)
        kept_C = positive_C > 0
        if kept_C.all():
            return cls(checked_C, labels_C, positive_C, len(checked_C), None)
        return cls(checked_C[kept_C], labels_C[kept_C], positive_C[kept_C], len(checked_C), kept_C)

    def __len__(self) -> int:
        return len(self.probabilities_C)

    @cached_property
    def total_weight(self) -> float:
        """Σ w."""
        return float(self.weights_C.sum())

    @cached_property
    def ranks_C(self) -> Ints:
        """int64, for each row the number of distinct probabilities below its own."""
        return self.ties.ranks_C

    @cached_property
    def ties(self) -> Ties:
        """The distinct probabilities of all rows."""
        return Ties.of(self.probabilities_C)

    def mean(self, values_C: Floats) -> float:
        """Σ w·v / Σ w of a column of the kept rows."""
        return float((self.weights_C * values_C).sum() / self.total_weight)

    def groups(self, name: str, group_C: Column) -> Groups:
        """The groups of the kept rows by a column that has one entry for each row given.

        Raises:
            MetricError: Another length, or neither integers, booleans nor strings.
        """
        value_C = category_column(name, group_C, like=("probabilities_C", self.num_given))
        return group_rows(value_C if self.kept_C is None else value_C[self.kept_C])

    def kept(self, values_C: Floats) -> Floats:
        """Those entries of a column of the given rows that belong to kept rows."""
        return values_C if self.kept_C is None else values_C[self.kept_C]

    def ordered_by(self, ranks_C: Ints) -> Sample:
        """The same rows in another order of preference: probabilities stand for ranks, and for nothing else.

        Args:
            ranks_C: Whole numbers from 0, one a kept row; higher stands above.
        """
        stand_in_C = ranks_C / max(int(ranks_C.max(initial=0)), 1)
        return Sample(stand_in_C, self.labels_C, self.weights_C, self.num_given, self.kept_C)


def _check_shape(name: str, array: npt.NDArray[np.generic], like: tuple[str, int] | None) -> None:
    if array.ndim != 1:
        raise MetricError(f"`{name}` is not one column", found=f"shape {array.shape}", allowed="one dimension")
    if like is not None and len(array) != like[1]:
        raise MetricError(
            f"`{name}` has another length than `{like[0]}`",
            found=f"{len(array)} entries",
            allowed=f"{like[1]} entries, one a candidate",
        )


def _refuse(name: str, numbers: Floats, is_wrong_C: npt.NDArray[np.bool_], allowed: str, do: str) -> None:
    if is_wrong_C.any():
        row = int(np.argmax(is_wrong_C))
        raise MetricError(
            f"`{name}` holds a value that no metric can take",
            found=f"{numbers[row]} at row {row} and {int(is_wrong_C.sum()) - 1} more such rows",
            allowed=allowed,
            do=do,
        )
