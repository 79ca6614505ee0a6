"""One increasing function and offsets of segments: against a slow search, the truth, and by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from rankwell.calibration.binned_isotonic import fit_binned_isotonic
from rankwell.calibration.isotonic import fit_isotonic
from rankwell.calibration.segment_isotonic import SegmentIsotonic, fit_segment_isotonic
from rankwell.calibration.segment_isotonic import _pooled as pooled
from rankwell.calibration.segment_levels import halves_of
from rankwell.calibration.segment_tree import fit_segment_tree
from rankwell.errors import CalibrationError


def _log_loss(probabilities_C: torch.Tensor, true_C: torch.Tensor) -> float:
    return float(-(true_C * probabilities_C.log() + (1 - true_C) * (1 - probabilities_C).log()).mean())


def _bent(num: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits, true probabilities, labels and segments of a truth that bends and has offsets, and depends on both."""
    generator = torch.Generator().manual_seed(seed)
    segment_C = torch.randint(0, 6, (num,), generator=generator)
    logits_C = 1.5 * torch.randn(num, generator=generator) - 1 + 0.3 * segment_C
    offsets_G = torch.tensor([-1.2, -0.5, 0.0, 0.2, 0.6, 1.0])
    p_C = torch.sigmoid(torch.where(logits_C < 0, 0.4 * logits_C, 1.6 * logits_C) - 1 + offsets_G[segment_C]).double()
    return logits_C, p_C, torch.bernoulli(p_C, generator=generator), segment_C[:, None]


def test_levels_are_the_likeliest_increasing_ones() -> None:
    """Against a general optimiser on increments, for random counts of five bins and three offsets."""
    numbers = np.random.default_rng(3)
    offsets_V = np.array([-1.0, 0.25, 2.0])
    for _ in range(10):
        weights_BV = numbers.integers(1, 30, (5, 3)).astype(np.float64)
        positives_B = np.array([numbers.integers(1, total) for total in weights_BV.sum(1).astype(int)], np.float64)
        found = pooled(weights_BV, positives_B, np.arange(5.0) * weights_BV.sum(1), offsets_V)
        means_B, levels_B = found[2] / found[0].sum(1), found[3]
        assert (np.diff(levels_B) > 0).all()
        assert (np.diff(means_B) > 0).all()

        def cost(steps_B: np.ndarray, weights_BV: np.ndarray = weights_BV, k_B: np.ndarray = positives_B) -> float:
            v_B = steps_B[0] + np.append(0.0, np.cumsum(steps_B[1:] ** 2))
            # Σ over rows of ln(1 + e^x) - y·x, where Σ y·β is the same whatever the levels are
            return float((weights_BV * np.logaddexp(0, v_B[:, None] + offsets_V)).sum() - k_B @ v_B)

        best = min(minimize(cost, [start, *[0.3] * 4], method="BFGS").fun for start in (-2.0, 0.0))
        bounds = np.cumsum(np.append(0, [len(list(g)) for _, g in itertools.groupby(_block_of(means_B, weights_BV))]))
        reached = np.repeat(levels_B, np.diff(bounds))
        at_levels = float((weights_BV * np.logaddexp(0, reached[:, None] + offsets_V)).sum() - positives_B @ reached)
        assert at_levels <= best + 1e-6


def _block_of(means_B: np.ndarray, weights_BV: np.ndarray) -> list[int]:
    """Which block each of five bins at 0, 1, … is in, from the blocks' mean places."""
    totals, blocks, start = weights_BV.sum(1), [], 0
    for block, mean in enumerate(means_B):
        for end in range(start + 1, len(totals) + 1):
            if np.isclose(np.average(np.arange(start, end), weights=totals[start:end]), mean):
                blocks += [block] * (end - start)
                start = end
                break
    assert start == len(totals)
    return blocks


def test_it_finds_a_bend_and_offsets_where_neither_lines_nor_one_curve_do() -> None:
    logits_C, _, labels_C, segments_CS = _bent(60_000, 1)
    sample = (logits_C, labels_C, torch.ones(len(logits_C)), segments_CS)
    fresh_C, p_C, _, fresh_CS = _bent(60_000, 2)
    floor = _log_loss(p_C, p_C)
    lost = {fit.__name__: _log_loss(fit(*sample)(fresh_C, fresh_CS), p_C) - floor
            for fit in (fit_segment_isotonic, fit_segment_tree, fit_isotonic)}  # fmt: skip
    assert lost["fit_segment_isotonic"] < 0.001
    assert lost["fit_segment_isotonic"] < 0.2 * min(lost["fit_segment_tree"], lost["fit_isotonic"])


def test_where_segments_do_not_differ_it_is_isotonic_calibration() -> None:
    generator = torch.Generator().manual_seed(4)
    logits_C = torch.randn(20_000, generator=generator)
    labels_C = torch.bernoulli(torch.sigmoid(logits_C - 1), generator=generator)
    segments_CS = torch.randint(0, 4, (20_000, 1), generator=generator)
    fitted = fit_segment_isotonic(logits_C, labels_C, torch.ones(20_000), segments_CS)
    one = fit_binned_isotonic(logits_C, labels_C, torch.ones(20_000), segments_CS)
    assert fitted.offsets.tolist() == [0.0] * 4
    inside_C = torch.linspace(-2.0, 2.0, 401)  # at the ends, half a row besides is pooled in another order
    none_CS = torch.zeros(401, 1, dtype=torch.int64)
    torch.testing.assert_close(fitted(inside_C, none_CS), one(inside_C, none_CS), rtol=0, atol=1e-9)


def test_without_columns_it_is_isotonic_calibration() -> None:
    logits_C, labels_C = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0]), torch.tensor([0, 0, 1, 0, 1])
    sample = (logits_C, labels_C, torch.ones(5), torch.zeros(5, 0, dtype=torch.int64))
    fitted, one = fit_segment_isotonic(*sample), fit_binned_isotonic(*sample)
    assert len(fitted.offsets) == 0
    torch.testing.assert_close(fitted(logits_C, sample[3]), one(logits_C, sample[3]), rtol=0, atol=1e-9)


def test_a_segment_of_one_label_keeps_the_function_of_all() -> None:
    logits_C, _, labels_C, segments_CS = _bent(20_000, 5)
    labels_C = torch.where(segments_CS[:, 0] == 2, 0.0, labels_C)
    fitted = fit_segment_isotonic(logits_C, labels_C, torch.ones(20_000), segments_CS)
    assert fitted.offsets[2] == 0.0
    assert fitted.offsets[0] != 0.0


def test_words_are_segments_and_an_unknown_one_has_no_offset() -> None:
    logits_C, _, labels_C, segments_CS = _bent(20_000, 6)
    fitted = fit_segment_isotonic(logits_C, labels_C, torch.ones(20_000), segments_CS + 2**62)
    plain = fit_segment_isotonic(logits_C, labels_C, torch.ones(20_000), segments_CS)
    torch.testing.assert_close(
        fitted(logits_C, segments_CS + 2**62), plain(logits_C, segments_CS), rtol=0, atol=0
    )  # nothing is lost above 2^53
    unknown_CS = torch.full_like(segments_CS, 77)
    expected_C = torch.from_numpy(np.interp(logits_C, plain.knot_logits_B, plain.knot_log_odds_B))
    torch.testing.assert_close(plain.calibrated_logits(logits_C, unknown_CS), expected_C)


@pytest.mark.parametrize("values", [[9, 7], [7, 7]])
def test_values_that_do_not_ascend_are_refused(values: list[int]) -> None:
    with pytest.raises(CalibrationError, match="these values"):
        SegmentIsotonic(torch.zeros(1), torch.zeros(1), torch.from_numpy(halves_of(np.array(values))), torch.zeros(2))


def test_as_many_offsets_as_values() -> None:
    with pytest.raises(CalibrationError, match="offsets"):
        SegmentIsotonic(torch.zeros(1), torch.zeros(1), torch.from_numpy(halves_of(np.array([7]))), torch.zeros(2))
