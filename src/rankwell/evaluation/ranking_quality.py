"""How good the order within a request is: nDCG@k and MRR.

Ties are not broken: each number is its expectation over all orders of equal probabilities, so that neither the order
of the log nor a coarse calibrator moves it.

Letters: C candidates · G requests · T ties: the distinct probabilities of a request.
"""

from __future__ import annotations

import numpy as np
from scipy.special import gammaln

from rankwell.evaluation.sample import Column, Floats, Ints, Sample, Ties, check_whole_number, undefined

__all__ = ["mrr", "mrr_of", "ndcg_at_k", "ndcg_of"]


def ndcg_at_k(probabilities_C: Column, gains_C: Column, weights_C: Column, *, request_C: Column, k: int) -> float:
    """The discounted gain of the first k positions, as a share of the best that the request allows.

    ``DCG = Σ_{j ≤ k} gain_j / log₂(j + 1)``, ``nDCG = DCG / DCG of the order by gain``, averaged over the requests
    that have a gain above 0. Equal probabilities share the mean gain of their positions (the expected DCG).

    Args:
        probabilities_C: In [0, 1]; what is ranked by.
        gains_C: At least 0, linear: pass ``2**grade - 1`` for the exponential form. Labels of 0 and 1 are gains.
        weights_C: At least 0. A candidate of weight 0 is absent; a request's weight is the mean of its candidates'.
        request_C: The request of each candidate. Any order.
        k: How many positions count, at least 1.

    Returns:
        A number in [0, 1]; NaN with `UndefinedMetricWarning` where no request has a gain.

    Raises:
        MetricError: The columns cannot be evaluated.

    >>> round(ndcg_at_k([.9, .8, .1], [0, 1, 0], [1, 1, 1], request_C=[5, 5, 5], k=2), 6)  # 1 / log₂ 3
    0.63093

    Source: Järvelin and Kekäläinen, 2002, "Cumulated gain-based evaluation of IR techniques"; McSherry and Najork,
    2008, "Computing information retrieval performance measures efficiently in the presence of tied scores".
    """
    sample = Sample.with_gains(probabilities_C, gains_C, weights_C)
    requests = sample.groups("request_C", request_C)
    gain_ties = Ties.within(requests, Ties.of(sample.labels_C).ranks_C)
    return ndcg_of(sample, Ties.within(requests, sample.ranks_C), gain_ties, k)


def ndcg_of(sample: Sample, ties: Ties, gain_ties: Ties, k: int) -> float:
    """`ndcg_at_k` of a sample, its ties within requests, and the same of its gains: the best order there is."""
    k = check_whole_number("k", k, at_least=1)
    ideal_G = _discounted_gains(gain_ties, sample.labels_C, k)
    has_gain_G = ideal_G > 0
    if not has_gain_G.any():
        return undefined(f"nDCG@{k}", "no request has a gain above 0")
    dcg_G = _discounted_gains(ties, sample.labels_C, k)
    ratio_G = np.minimum(dcg_G[has_gain_G] / ideal_G[has_gain_G], 1.0)
    return float(np.average(ratio_G, weights=_request_weights(sample, ties)[has_gain_G]))


def mrr(probabilities_C: Column, labels_C: Column, weights_C: Column, *, request_C: Column, k: int) -> float:
    """The mean of 1 / (position of the first positive), counting 0 where that is beyond k.

    ``MRR = Σ_g W_g · [j_g ≤ k] / j_g / Σ_g W_g`` over the requests that have a positive, j_g its best position.
    Among equal probabilities the expectation over their orders is taken.

    Args:
        probabilities_C: In [0, 1]; what is ranked by.
        labels_C: 0 or 1.
        weights_C: At least 0. A candidate of weight 0 is absent; a request's weight is the mean of its candidates'.
        request_C: The request of each candidate. Any order.
        k: How many positions count, at least 1.

    Returns:
        A number in [0, 1]; NaN with `UndefinedMetricWarning` where no request has a positive.

    Raises:
        MetricError: The columns cannot be evaluated.

    >>> mrr([.9, .8, .3, .3], [0, 1, 1, 0], [1, 1, 1, 1], request_C=[0, 0, 1, 1], k=5)  # (1/2 + (1 + 1/2)/2) / 2
    0.625

    Source: Voorhees, 1999, "The TREC-8 question answering track report".
    """
    sample = Sample.of(probabilities_C, labels_C, weights_C)
    return mrr_of(sample, Ties.within(sample.groups("request_C", request_C), sample.ranks_C), k)


def mrr_of(sample: Sample, ties: Ties, k: int) -> float:
    """`mrr` of a sample and its ties within requests."""
    k = check_whole_number("k", k, at_least=1)
    positives_T = ties.total(sample.labels_C)
    holds_T = np.flatnonzero(positives_T > 0)
    if not len(holds_T):
        return undefined("MRR", "no request has a positive")
    group_T = ties.group_T[holds_T]
    is_best_T = np.append(group_T[1:] != group_T[:-1], True)  # ties ascend, so the last of a request stands highest
    best_T, group_G = holds_T[is_best_T], group_T[is_best_T]
    above_T, count_T = _above(ties)[best_T], ties.count_T[best_T]
    reciprocal_G = _expected_reciprocals(above_T, count_T, positives_T[best_T], k)
    return float(np.average(reciprocal_G, weights=_request_weights(sample, ties)[group_G]))


def _above(ties: Ties) -> Ints:
    """How many rows of the same group stand above each tie."""
    below_T = ties.below(ties.count_T.astype(np.float64)).astype(np.int64)
    size_G = ties.by_group(ties.count_T).astype(np.int64)
    return size_G[ties.group_T] - below_T - ties.count_T


def _discounted_gains(ties: Ties, gains_C: Floats, k: int) -> Floats:
    count_T, above_T = ties.count_T, _above(ties)
    longest = int(np.max(above_T + count_T, initial=0))
    position = np.arange(1, longest + 1)
    discount_before = np.concatenate(([0.0], np.cumsum(np.where(position <= k, 1 / np.log2(position + 1), 0.0))))
    discount_T = discount_before[above_T + count_T] - discount_before[above_T]
    return ties.by_group(ties.total(gains_C) / count_T * discount_T)


def _expected_reciprocals(above_T: Ints, count_T: Ints, positives_T: Floats, k: int) -> Floats:
    """E[[j ≤ k] / j] for the first of m positives in a tie of n rows with `above_T` rows above it.

    The first of the m stands i-th of the n with probability C(n − i, m − 1) / C(n, m).
    """
    num_places_T = count_T - positives_T.astype(np.int64) + 1
    tie_P = np.repeat(np.arange(len(count_T)), num_places_T)  # P: one entry for each place that the first can take
    place_P = np.arange(len(tie_P)) - (np.cumsum(num_places_T) - num_places_T)[tie_P] + 1
    n_P, m_P, position_P = count_T[tie_P], positives_T[tie_P], above_T[tie_P] + place_P
    chance_P = np.exp(_log_choose(n_P - place_P, m_P - 1) - _log_choose(n_P, m_P))
    worth_P: Floats = np.where(position_P <= k, chance_P / position_P, 0.0)
    reciprocal_T: Floats = np.bincount(tie_P, worth_P, minlength=len(count_T)).astype(np.float64, copy=False)
    return reciprocal_T


def _log_choose(n: Floats | Ints, m: Floats) -> Floats:
    chosen: Floats = gammaln(n + 1) - gammaln(m + 1) - gammaln(n - m + 1)
    return chosen


def _request_weights(sample: Sample, ties: Ties) -> Floats:
    return ties.by_group(ties.total(sample.weights_C)) / ties.by_group(ties.count_T)
