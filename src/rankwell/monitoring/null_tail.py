"""How a statistic is distributed when nothing has changed, out to chances of one in a million: three cumulants.

Letters in names: J nodes · leading axes are any.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self, final

import numpy as np
from numpy.polynomial.hermite_e import hermegauss
from numpy.typing import NDArray
from scipy.special import gammaincc, gammainccinv

from rankwell.errors import MonitoringError

__all__ = ["NullTail"]

_LEAST_SKEW: Final = 1e-2
"""Below it a gamma of so large a shape is a normal anyway."""
_NUM_NODES: Final = 7
_NODES_J, _WEIGHTS_J = hermegauss(_NUM_NODES)
_CHANCES_J: Final = _WEIGHTS_J / _WEIGHTS_J.sum()
_NUM_STEPS: Final = 100
_NEAR: Final = 1e-6
"""Of the logarithm of a chance."""
_LEAST_CHANCE: Final = 1e-300

_Floats = NDArray[np.float64]


@final
@dataclass(frozen=True, slots=True, eq=False)
class NullTail:
    """A shifted gamma distribution (Pearson's type III) of given mean, standard deviation and skewness.

    A weighted sum of squared normals, which PSI and its kin are where rows are many, is met by it to a few per cent of
    the chance; so are their distributions where requests are few, whose cumulants are others. Where the scale was
    itself learned from a few windows, the tail is that of a mixture over what the scale may be, as Student's is of the
    normal's.

    Args:
        mean: Arrays of one shape, or numbers.
        deviation: At least 0. Where it is 0, larger values than the mean have no chance.
        skewness: Negative ones are taken as 0.
        scale_error: The relative standard deviation of the scale: 0 where it is known, √(2/k) where the statistic is
            a square and its scale the mean of k squares.

    >>> tail = NullTail(np.array(4.0), np.array(8.0**0.5), np.array(2.0**0.5))  # of χ² with 4 degrees of freedom
    >>> round(float(tail.p_value(18.467)), 5), round(float(tail.limit(0.001)), 3)
    (0.001, 18.467)

    Source: Pearson 1959, "Note on an approximation to the distribution of non-central χ²"; Imhof 1961.
    """

    mean: _Floats
    deviation: _Floats
    skewness: _Floats
    scale_error: _Floats | float = 0.0

    @classmethod
    def of_values(cls, values_R: _Floats) -> Self:
        """That of drawn values, on the last axis.

        Args:
            values_R: At least 3 of each; 1,000 know the skewness to ± .15 or so.

        Raises:
            MonitoringError: There are fewer.

        >>> tail = NullTail.of_values(np.random.default_rng(0).chisquare(4, 20_000))
        >>> abs(float(tail.mean) - 4) < 0.05
        True
        """
        if values_R.shape[-1] < 3:
            raise MonitoringError("three cumulants take three values", found=values_R.shape[-1], allowed="≥ 3")
        mean = values_R.mean(axis=-1)
        centred_R = values_R - mean[..., None]
        variance = (centred_R**2).mean(axis=-1)
        cubed = (centred_R**3).mean(axis=-1)
        return cls(mean, np.sqrt(variance), _ratio(cubed, variance**1.5))

    @classmethod
    def joined(cls, tails: Sequence[Self]) -> Self:
        """One behind the other, each broadcast to its own mean: what is asked of all is asked once.

        Args:
            tails: Of one axis each.
        """
        each = [np.broadcast_arrays(tail.mean, tail.deviation, tail.skewness, tail.scale_error) for tail in tails]
        return cls(*(np.concatenate(values) for values in zip(*each, strict=True)))

    def p_value(self, value: _Floats | float) -> _Floats:
        """The chance of a value as large or larger."""
        scales_J, chances_J = self._scales()
        over = (np.asarray(value)[..., None] / scales_J - self.mean[..., None]) / _above_0(self.deviation)[..., None]
        p = (self._survival(over) * chances_J).sum(axis=-1)
        return np.asarray(np.where(self.deviation > 0, p, np.asarray(value) <= self.mean))

    def limit(self, p: _Floats | float) -> _Floats:
        """The value that is passed with chance `p`.

        Args:
            p: In (0, 1).

        Raises:
            MonitoringError: It is no chance.
        """
        if not (np.all(np.asarray(p) > 0) and np.all(np.asarray(p) < 1)):
            raise MonitoringError("this is no chance", found=p, allowed="numbers in (0, 1)")
        shape = 4 / self._skew() ** 2
        over = (gammainccinv(shape, p) - shape) / np.sqrt(shape)
        low = self.mean + self.deviation * over
        if not np.any(np.asarray(self.scale_error) > 0):
            return np.asarray(low)
        high = low + np.abs(low) * (np.exp(8 * np.asarray(self.scale_error)) - 1)
        found = self._between(np.minimum(low, self.mean), high, np.log(p))
        return np.asarray(np.where(self.deviation > 0, found, self.mean))

    def _between(self, low: _Floats, high: _Floats, log_p: _Floats) -> _Floats:
        """Where the logarithm of the chance is `log_p`: by the rule of false position, as the Illinois algorithm."""
        low, high = np.broadcast_arrays(low, high)

        def away(value: _Floats) -> _Floats:
            return np.asarray(np.log(np.maximum(self.p_value(value), _LEAST_CHANCE)) - log_p)

        over, under = np.maximum(away(low), 0.0), np.minimum(away(high), 0.0)
        middle = low
        for _ in range(_NUM_STEPS):
            span = over - under
            middle = low + (high - low) * np.divide(over, span, out=np.zeros_like(span), where=span > 0)
            at = away(middle)
            if np.all((np.abs(at) < _NEAR) | (self.deviation <= 0)):
                break
            is_beyond = at > 0
            # What stays where it was for a second time counts half, or one end would never move.
            low, high = np.where(is_beyond, middle, low), np.where(is_beyond, high, middle)
            over, under = np.where(is_beyond, at, over / 2), np.where(is_beyond, under / 2, at)
        return np.asarray(middle)

    def _skew(self) -> _Floats:
        return np.maximum(self.skewness, _LEAST_SKEW)

    def _survival(self, over: _Floats) -> _Floats:
        shape = np.broadcast_to((4 / self._skew() ** 2)[..., None], over.shape)
        return np.asarray(gammaincc(shape, np.maximum(shape + np.sqrt(shape) * over, 0.0)))

    def _scales(self) -> tuple[_Floats, _Floats]:
        """What the scale may be, over what it is thought to be, and the chance of each."""
        if not np.any(np.asarray(self.scale_error) > 0):
            return np.ones(1), np.ones(1)
        return np.exp(np.asarray(self.scale_error)[..., None] * _NODES_J), _CHANCES_J


def _ratio(over: _Floats, under: _Floats) -> _Floats:
    return np.divide(over, under, out=np.zeros_like(over), where=under > 0)


def _above_0(values: _Floats) -> _Floats:
    return np.where(values > 0, values, 1.0)
