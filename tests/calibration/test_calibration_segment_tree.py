"""Lines by segment against the truth, their parents, lines fitted apart, and a plain look-up.

Letters in names: C candidates, flat over the sample · G segments · S segment columns.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import softplus

from rankwell.calibration.logistic_minima import LogisticRows
from rankwell.calibration.platt import fit_platt
from rankwell.calibration.segment_levels import halves_of, joined
from rankwell.calibration.segment_tree import SegmentTree, fit_segment_tree
from rankwell.calibration.shrunken_lines import shrunken_lines
from rankwell.errors import CalibrationError

Columns = tuple[Tensor, Tensor, Tensor, Tensor]


def _drawn(
    num: int, seed: int, slopes_G: NDArray[np.float64], offsets_G: NDArray[np.float64]
) -> tuple[Columns, NDArray[np.float64]]:
    """Rows of segments of unequal size, and their true log-odds."""
    numbers = np.random.default_rng(seed)
    sizes_G = np.arange(1, len(slopes_G) + 1) ** 1.5
    segment_C = numbers.choice(len(slopes_G), num, p=sizes_G / sizes_G.sum())
    logits_C = numbers.normal(-2.0, 1.2, num)
    true_C = slopes_G[segment_C] * (logits_C + 2.0) - 2.0 + offsets_G[segment_C]
    labels_C = (numbers.random(num) < 1 / (1 + np.exp(-true_C))).astype(np.float64)
    columns = [torch.from_numpy(column_C) for column_C in (logits_C, labels_C, np.ones(num), segment_C[:, None])]
    return (columns[0], columns[1], columns[2], columns[3]), true_C


def _expected_log_loss(log_odds_C: Tensor, true_C: NDArray[np.float64]) -> float:
    p_C = torch.sigmoid(torch.from_numpy(true_C))
    return float((p_C * softplus(-log_odds_C) + (1 - p_C) * softplus(log_odds_C)).mean())


def _apart(sample: Columns, fresh: Columns) -> Tensor:
    """The log-odds of a line for each segment alone, unshrunk."""
    log_odds_C = torch.empty_like(fresh[0])
    for segment in sample[3].unique():
        of_fit, of_fresh = sample[3][:, 0] == segment, fresh[3][:, 0] == segment
        line = fit_platt(sample[0][of_fit], sample[1][of_fit], sample[2][of_fit], sample[3][of_fit])
        log_odds_C[of_fresh] = line.calibrated_logits(fresh[0][of_fresh], fresh[3][of_fresh])
    return log_odds_C


def test_better_than_its_parent_and_than_lines_apart() -> None:
    numbers = np.random.default_rng(0)
    slopes_G, offsets_G = np.exp(numbers.normal(0.0, 0.2, 40)), numbers.normal(0.0, 0.3, 40)
    sample, _ = _drawn(20_000, 1, slopes_G, offsets_G)
    fresh, true_C = _drawn(50_000, 2, slopes_G, offsets_G)
    best = _expected_log_loss(torch.from_numpy(true_C), true_C)
    shrunk = _expected_log_loss(fit_segment_tree(*sample).calibrated_logits(fresh[0], fresh[3]), true_C) - best
    parent = _expected_log_loss(fit_platt(*sample).calibrated_logits(fresh[0], fresh[3]), true_C) - best
    apart = _expected_log_loss(_apart(sample, fresh), true_C) - best
    assert shrunk < 0.25 * parent
    assert shrunk < 0.75 * apart


def test_where_segments_do_not_differ_they_keep_their_parents_line() -> None:
    kept, worse = 0, []
    for seed in range(20):
        sample, _ = _drawn(4000, seed, np.ones(15), np.zeros(15))
        tree, line = fit_segment_tree(*sample), fit_platt(*sample)
        fresh, true_C = _drawn(4000, 100 + seed, np.ones(15), np.zeros(15))
        of_both = [_expected_log_loss(c.calibrated_logits(fresh[0], fresh[3]), true_C) for c in (tree, line)]
        worse.append(of_both[0] - of_both[1])
        kept += bool((tree.slopes == line.slope).all() and (tree.offsets - line.offset).abs().max() < 1e-12)
    assert kept >= 17
    assert np.mean(worse) < 1e-4


def test_many_rows_have_their_own_line() -> None:
    sample, _ = _drawn(200_000, 3, np.array([0.5, 2.0]), np.array([1.0, -1.0]))
    tree = fit_segment_tree(*sample)
    for segment in range(2):
        rows = sample[3][:, 0] == segment
        alone = fit_platt(sample[0][rows], sample[1][rows], sample[2][rows], sample[3][rows])
        assert tree.slopes[1 + segment].item() == pytest.approx(alone.slope.item(), rel=0.01)
        assert tree.offsets[1 + segment].item() == pytest.approx(alone.offset.item(), abs=0.02)


def test_without_segment_columns_it_is_platt() -> None:
    sample, _ = _drawn(3000, 4, np.ones(3), np.zeros(3))
    tree = fit_segment_tree(*sample[:3], sample[3][:, :0])
    line = fit_platt(*sample)
    assert (tree.slopes.item(), tree.offsets.item()) == (line.slope.item(), line.offset.item())


def test_a_second_level_is_found_beneath_the_first() -> None:
    numbers = np.random.default_rng(5)
    offsets_G = np.repeat(numbers.normal(0.0, 0.6, 6), 5) + numbers.normal(0.0, 0.4, 30)
    sample, _ = _drawn(60_000, 6, np.ones(30), offsets_G)
    fresh, true_C = _drawn(60_000, 7, np.ones(30), offsets_G)
    best, losses = _expected_log_loss(torch.from_numpy(true_C), true_C), []
    for num_columns in range(3):
        trees = [torch.column_stack([column // 5, column % 5])[:, :num_columns] for column in (sample[3], fresh[3])]
        tree = fit_segment_tree(*sample[:3], trees[0])
        losses.append(_expected_log_loss(tree.calibrated_logits(fresh[0], trees[1]), true_C) - best)
    assert losses[1] < 0.6 * losses[0]
    assert losses[2] < 0.1 * losses[1]


def test_how_far_segments_lie_apart_is_estimated() -> None:
    numbers = np.random.default_rng(8)
    num_groups, each = 1000, 200
    x_C, known_C = numbers.normal(0.0, 1.0, num_groups * each), np.full(num_groups * each, -1.0)
    slopes_G, offsets_G = numbers.normal(1.0, 0.25, num_groups), numbers.normal(0.0, 0.5, num_groups)
    log_odds_C = np.repeat(slopes_G, each) * x_C + np.repeat(offsets_G, each) + known_C
    positive_C = numbers.random(num_groups * each) < 1 / (1 + np.exp(-log_odds_C))
    bounds_G = np.arange(num_groups + 1) * each
    rows = LogisticRows(x_C, np.zeros_like(x_C), known_C, positive_C, np.ones_like(x_C), bounds_G)
    lines = shrunken_lines(rows)
    assert lines.prior is not None
    assert lines.prior.slope**-0.5 == pytest.approx(0.25, rel=0.2)
    assert lines.prior.offset**-0.5 == pytest.approx(0.5, rel=0.2)
    assert np.corrcoef(lines.offsets_G, offsets_G)[0, 1] > 0.9


def test_a_segment_with_one_label_takes_its_parents_line_and_is_named() -> None:
    sample, _ = _drawn(20_000, 9, np.ones(6), np.array([-1.0, 1.0, -0.5, 0.5, 0.0, 1.5]))
    segments_CS = torch.column_stack([sample[3] % 2, sample[3]])
    labels_C = torch.where(segments_CS[:, 1] == 3, 0.0, sample[1])
    labels_C = torch.where(segments_CS[:, 1] == 4, 1.0, labels_C)
    tree = fit_segment_tree(sample[0], labels_C, sample[2], segments_CS)
    assert tree.one_class_segments() == [(0, 4), (1, 3)]
    asked = torch.tensor([[0, 4], [0, 77], [0, -5], [1, 3], [1, 77], [1, 2]])  # (1, 2) was not there at the fit
    log_odds_C = tree.calibrated_logits(torch.full((6,), -1.5), asked)
    assert log_odds_C[0] == log_odds_C[1] == log_odds_C[2]
    assert log_odds_C[3] == log_odds_C[4] == log_odds_C[5] != log_odds_C[0]


def test_all_segments_with_one_label_are_all_named() -> None:
    tree = fit_segment_tree(
        torch.zeros(4), torch.tensor([0, 0, 1, 1]), torch.ones(4), torch.tensor([[1], [1], [2], [2]])
    )
    assert tree.one_class_segments() == [(1,), (2,)]
    assert tree(torch.zeros(2), torch.tensor([[1], [2]])).tolist() == [0.5, 0.5]


def test_look_up_equals_a_dictionary() -> None:
    numbers = np.random.default_rng(10)
    segments_CS = torch.from_numpy(numbers.integers(-3, 4, (400, 3)) * 10**15)
    logits_C = torch.from_numpy(numbers.normal(size=400))
    labels_C = torch.from_numpy(numbers.random(400)) < torch.sigmoid(segments_CS[:, 0] / 1e15 + logits_C)
    tree = fit_segment_tree(logits_C, labels_C, torch.ones(400), segments_CS)
    paths: list[tuple[int, ...]] = [()]
    for parent, value in zip(tree.parents[1:].long().tolist(), joined(tree.values)[1:].tolist(), strict=True):
        paths.append((*paths[parent], value))
    places = {path: place for place, path in enumerate(paths)}
    assert len(places) == len(paths) > 250
    for num_columns in range(5):
        asked_CS = torch.from_numpy(numbers.integers(-4, 5, (300, num_columns)) * 10**15)
        found = []
        for row in asked_CS.tolist():
            path: tuple[int, ...] = tuple(row[:3])
            while path not in places:
                path = path[:-1]
            found.append(tree.slopes[places[path]].item() + tree.offsets[places[path]].item())
        assert tree.calibrated_logits(torch.ones(300), asked_CS).tolist() == pytest.approx(found, rel=1e-12)


def test_values_that_float64_cannot_hold_are_told_apart() -> None:
    close = torch.tensor([2**62, 2**62 + 1, -(2**63), 2**63 - 1])
    segments_CS = close.repeat(1000)[:, None]
    labels_C = torch.from_numpy(np.random.default_rng(11).random(4000)) < torch.tensor([0.1, 0.8, 0.3, 0.6]).repeat(
        1000
    )
    tree = fit_segment_tree(torch.zeros(4000), labels_C, torch.ones(4000), segments_CS)
    probabilities_C = SegmentTree.from_state(tree.state_dict())(torch.zeros(4), close[:, None])
    np.testing.assert_allclose(probabilities_C.numpy(), [0.1, 0.8, 0.3, 0.6], atol=0.06)


@pytest.mark.parametrize(
    ("parents", "values"),
    [
        ([1, 0], [0, 1]),  # no root
        ([0, 1], [0, 1]),  # its own parent
        ([0, 0, 0], [0, 2, 1]),  # values out of order
        ([0, 0, 0], [0, 1, 1]),  # a value twice
        ([0, 0, 1, 0], [0, 1, 1, 2]),  # parents out of order
        ([0, -1], [0, 1]),
        ([0, 0.5], [0, 1]),
    ],
)
def test_what_is_no_tree_is_refused(parents: list[float], values: list[int]) -> None:
    ones_N = torch.ones(len(parents))
    halves_N2 = torch.from_numpy(halves_of(np.array(values)))
    with pytest.raises(CalibrationError, match="cannot have these parents and values"):
        SegmentTree(torch.tensor(parents), halves_N2, ones_N, ones_N, ones_N)


@pytest.mark.parametrize("slope", [0.0, -1.0, math.inf])
def test_a_slope_that_would_not_increase_is_refused(slope: float) -> None:
    zero = torch.zeros(1)
    with pytest.raises(CalibrationError, match="SegmentTree cannot have these slopes"):
        SegmentTree(zero, torch.zeros(1, 2), torch.tensor([slope]), zero, zero)


@pytest.mark.parametrize("halves", [[0.5, 0.0], [0.0, 0.5], [0.0, -1.0], [0.0, 2.0**32], [2.0**31, 0.0]])
def test_halves_of_no_whole_number_are_refused(halves: list[float]) -> None:
    zero = torch.zeros(1)
    with pytest.raises(CalibrationError, match="values of segments cannot be these"):
        SegmentTree(zero, torch.tensor([halves], dtype=torch.float64), zero + 1, zero, zero)
