"""The minima of many groups against those of each group alone, and against the first-order condition.

Letters in names: C candidates, sorted by group · G groups.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from rankwell.calibration.logistic_minima import LogisticMinima, LogisticRows, Prior, logistic_minima

ALL = np.ones(3, dtype=np.bool_)


def _rows(sizes: list[int], seed: int) -> LogisticRows:
    numbers = np.random.default_rng(seed)
    num = sum(sizes)
    x_C, y_C, known_C = numbers.normal(size=(3, num))
    return LogisticRows(
        x_C, y_C, known_C, numbers.random(num) < 0.3, numbers.gamma(2.0, 1.0, num), np.cumsum([0, *sizes])
    )


def _part(rows: LogisticRows, group: int) -> LogisticRows:
    part = slice(rows.bounds_G[group], rows.bounds_G[group + 1])
    columns = (rows.x_C, rows.y_C, rows.known_C, rows.positive_C, rows.weights_C)
    x_C, y_C, known_C, positive_C, weights_C = (column_C[part] for column_C in columns)
    return LogisticRows(x_C, y_C, known_C, positive_C, weights_C, np.array([0, part.stop - part.start]))


def _minima(rows: LogisticRows, prior: Prior, free_P: NDArray[np.bool_] = ALL) -> LogisticMinima:
    return logistic_minima(rows, prior, np.tile([1.0, 1.0, 0.0], (len(rows.bounds_G) - 1, 1)), free_P)


def _gradient(rows: LogisticRows, prior: Prior, point_P: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of the cost of one group, by the textbook."""
    a, b, c = point_P
    p_C = 1.0 / (1.0 + np.exp(-(a * rows.x_C + b * rows.y_C + c + rows.known_C)))
    residual_C = rows.weights_C * (p_C - rows.positive_C)
    return np.array(
        [
            residual_C @ rows.x_C + prior.slope * (1.0 - 1.0 / a),
            residual_C @ rows.y_C + prior.slope * (1.0 - 1.0 / b),
            residual_C.sum() + prior.offset * c,
        ]
    )


@pytest.mark.parametrize("prior", [Prior(1e-6, 1e-6), Prior(3.0, 20.0), Prior(1e6, 1e6)])
def test_the_gradient_of_each_group_is_zero(prior: Prior) -> None:
    rows = _rows([1, 2, 50, 4000, 3], seed=0)
    minima = _minima(rows, prior)
    assert minima.found_G.all()
    assert (minima.points_GP[:, :2] > 0).all()
    for group in range(5):
        gradient_P = _gradient(_part(rows, group), prior, minima.points_GP[group])
        assert np.abs(gradient_P * np.append(np.minimum(1.0, minima.points_GP[group, :2]), 1.0)).max() < 1e-7


def test_many_groups_equal_each_alone() -> None:
    rows, prior = _rows([7, 1500, 30, 2], seed=1), Prior(0.5, 0.5)
    minima = _minima(rows, prior)
    for group in range(4):
        alone = _minima(_part(rows, group), prior)
        np.testing.assert_allclose(minima.points_GP[group], alone.points_GP[0], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(minima.curvatures_GPP[group], alone.curvatures_GPP[0], rtol=1e-6, atol=1e-6)


def test_what_is_not_free_stays() -> None:
    minima = _minima(_rows([400, 90], seed=2), Prior(1.0, 1.0), np.array([False, True, False]))
    assert (minima.points_GP[:, [0, 2]] == [1.0, 0.0]).all()
    assert (minima.points_GP[:, 1] != 1.0).all()


def test_a_prior_without_end_leaves_all_where_it_was() -> None:
    minima = _minima(_rows([400, 90], seed=3), Prior(1e15, 1e15))
    np.testing.assert_allclose(minima.points_GP, [[1.0, 1.0, 0.0]] * 2, atol=1e-10)


def test_far_from_the_labels_it_comes_back() -> None:
    rows = _rows([3000], seed=4)
    far = logistic_minima(rows, Prior(1e-6, 1e-6), np.array([[1e-3, 500.0, 900.0]]), ALL)
    assert far.found_G.all()
    np.testing.assert_allclose(far.points_GP, _minima(rows, Prior(1e-6, 1e-6)).points_GP, rtol=1e-7)
