"""Distances between the shares of bins, for numbers and ids alike; missing values are a bin as others are.

Letters in names: B bins of a column.
"""

from __future__ import annotations

import numpy as np

from rankwell.monitoring.column_counts import ColumnCounts
from rankwell.monitoring.drift import smoothed_counts, smoothed_shares

__all__ = ["chi_squared", "js_divergence", "kl_divergence", "psi"]


def psi(reference: ColumnCounts, current: ColumnCounts) -> float:
    """The population stability index: both Kullback-Leibler divergences together, in nats.

    ``Σ (q − p)·ln(q / p)``, p the smoothed shares of the reference and q the current ones. With no drift it is
    (bins − 1)(1/n + 1/m) on average, so no fixed limit is right for all n.

    Args:
        reference, current: Counts of the same bins; of any sizes.

    Returns:
        In [0, ∞).

    Raises:
        MonitoringError: Their bins differ.

    >>> from rankwell.monitoring.pane_layout import CategoricalBins
    >>> bins = CategoricalBins(name="city", top=(1, 2))
    >>> then, now = ColumnCounts(bins, np.array([50, 50, 0, 0, 0])), ColumnCounts(bins, np.array([90, 10, 0, 0, 0]))
    >>> round(psi(then, now), 4)
    0.8406

    Source: Lewis 1994, "An Introduction to Credit Scoring"; Jeffreys 1946.
    """
    reference_B, current_B = smoothed_shares(reference, current)
    return float(((current_B - reference_B) * np.log(current_B / reference_B)).sum())


def kl_divergence(reference: ColumnCounts, current: ColumnCounts) -> float:
    """The Kullback-Leibler divergence of the current rows from the reference, in nats.

    ``Σ q·ln(q / p)``: what one loses by taking current rows for rows of the reference.

    Args:
        reference, current: Counts of the same bins; of any sizes.

    Returns:
        In [0, ∞).

    Raises:
        MonitoringError: Their bins differ.

    >>> from rankwell.monitoring.pane_layout import CategoricalBins
    >>> bins = CategoricalBins(name="city", top=(1, 2))
    >>> then, now = ColumnCounts(bins, np.array([50, 50, 0, 0, 0])), ColumnCounts(bins, np.array([90, 10, 0, 0, 0]))
    >>> round(kl_divergence(then, now), 4)
    0.3542

    Source: Kullback and Leibler 1951, "On information and sufficiency".
    """
    reference_B, current_B = smoothed_shares(reference, current)
    return max(float((current_B * np.log(current_B / reference_B)).sum()), 0.0)  # but for rounding


def js_divergence(reference: ColumnCounts, current: ColumnCounts) -> float:
    """The Jensen-Shannon divergence: the mean divergence of both from their middle, in nats.

    ``½ Σ p·ln(p / m) + ½ Σ q·ln(q / m)`` with ``m = (p + q) / 2``.

    Args:
        reference, current: Counts of the same bins; of any sizes.

    Returns:
        In [0, ln 2).

    Raises:
        MonitoringError: Their bins differ.

    >>> from rankwell.monitoring.pane_layout import CategoricalBins
    >>> bins = CategoricalBins(name="city", top=(1, 2))
    >>> then, now = ColumnCounts(bins, np.array([50, 50, 0, 0, 0])), ColumnCounts(bins, np.array([90, 10, 0, 0, 0]))
    >>> round(js_divergence(then, now), 4)
    0.0977

    Source: Lin 1991, "Divergence measures based on the Shannon entropy".
    """
    reference_B, current_B = smoothed_shares(reference, current)
    middle_B = (reference_B + current_B) / 2
    halves_B = reference_B * np.log(reference_B / middle_B) + current_B * np.log(current_B / middle_B)
    return max(float(halves_B.sum()) / 2, 0.0)  # but for rounding


def chi_squared(reference: ColumnCounts, current: ColumnCounts) -> float:
    """Pearson's statistic of the table of both, that they are samples of one population.

    ``Σ (c·√(n/m) − r·√(m/n))² / (c + r)`` over bins, with the smoothed counts r and c and their sums n and m. It grows
    with the sizes as well as with the drift; with no drift, and independent rows, it is (bins − 1) on average.

    Args:
        reference, current: Counts of the same bins; of any sizes.

    Returns:
        In [0, ∞).

    Raises:
        MonitoringError: Their bins differ.

    >>> from rankwell.monitoring.pane_layout import CategoricalBins
    >>> bins = CategoricalBins(name="city", top=(1, 2))
    >>> then, now = ColumnCounts(bins, np.array([50, 50, 0, 0, 0])), ColumnCounts(bins, np.array([90, 10, 0, 0, 0]))
    >>> round(chi_squared(then, now), 2)
    37.58

    Source: Pearson 1900.
    """
    reference_B, current_B = smoothed_counts(reference, current)
    by_size = np.sqrt(reference_B.sum() / current_B.sum())
    return float(((current_B * by_size - reference_B / by_size) ** 2 / (current_B + reference_B)).sum())
