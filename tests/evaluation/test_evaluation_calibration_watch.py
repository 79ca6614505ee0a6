"""Sums of spans, confidence sequences and the detector, held to their definitions and to simulated truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankwell.errors import MetricError
from rankwell.evaluation.calibration_detector import CalibrationDetector
from rankwell.evaluation.calibration_ratio import calibration_ratio_interval
from rankwell.evaluation.calibration_sums import CalibrationSums
from rankwell.evaluation.confidence_sequence import RatioSequence, is_off, minimum_detectable_error

NAMES = CalibrationSums.__dataclass_fields__


def rows(num: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "probabilities_C": rng.uniform(0, 0.3, num),
        "labels_C": rng.integers(0, 2, num),
        "weights_C": rng.integers(0, 4, num),
        "request_C": rng.integers(0, max(num // 4, 1), num),
        "segment_C": rng.integers(0, 3, num),
    }


def poisson_panes(num_panes: int, theta: float, num_segments: int, seed: int) -> list[CalibrationSums]:
    """20 clicks expected a pane, each a request of its own, `theta` times as many seen."""
    rng = np.random.default_rng(seed)
    panes = []
    for _ in range(num_panes):
        observed_G = rng.poisson(20 * theta, num_segments).astype(float)
        predicted_G = np.full(num_segments, 20.0)
        panes.append(
            CalibrationSums(predicted_G, observed_G, predicted_G * 0, predicted_G * 0, observed_G, predicted_G * 50)
        )
    return panes


@given(st.integers(0, 60), st.integers(0, 10**6))
def test_sums_are_those_of_a_plain_loop(num: int, seed: int) -> None:
    column = rows(num, seed)
    sums = CalibrationSums.of(**column, num_segments=3)
    for segment in range(3):
        of_request: dict[int, list[float]] = {}
        for p, y, w, q, s in zip(*column.values(), strict=True):
            if s == segment and w > 0:
                pair = of_request.setdefault(q, [0.0, 0.0])
                pair[0] += w * p
                pair[1] += w * y
        pairs = list(of_request.values())
        assert sums.num_requests_G[segment] == len(pairs)
        assert sums.predicted_G[segment] == pytest.approx(sum(p for p, _ in pairs))
        assert sums.observed_G[segment] == sum(y for _, y in pairs)
        for theta in (0.0, 0.5, 1.0, 3.0):
            expected = sum((y - theta * p) ** 2 for p, y in pairs)
            assert sums.residual_squared(theta)[segment] == pytest.approx(expected, abs=1e-9)


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 10**6))
def test_two_spans_add_up_to_the_whole(first: int, second: int, seed: int) -> None:
    one, other = rows(first, seed), rows(second, seed + 1)
    other["request_C"] = other["request_C"] + 1000  # whole requests
    both = {name: np.concatenate([one[name], other[name]]) for name in one}
    total = CalibrationSums.of(**one, num_segments=3) + CalibrationSums.of(**other, num_segments=3)
    whole = CalibrationSums.of(**both, num_segments=3)
    for name in NAMES:
        np.testing.assert_allclose(getattr(total, name), getattr(whole, name), atol=1e-9)


def test_nothing_adds_nothing_and_knows_nothing() -> None:
    sums = CalibrationSums.of(**rows(30, 0), num_segments=3)
    total = sums + CalibrationSums.nothing(3)
    assert all((getattr(total, name) == getattr(sums, name)).all() for name in NAMES)
    nothing = CalibrationSums.nothing(2)
    low_G, high_G = RatioSequence().bounds(nothing)
    assert low_G.tolist() == [0, 0]
    assert high_G.tolist() == [np.inf, np.inf]
    assert not RatioSequence().excludes_one(nothing).any()
    assert not is_off(nothing, low_G, high_G).any()
    assert np.isnan(nothing.ratio_G).all()
    assert np.isnan(nothing.dispersion_G).all()
    assert np.isinf(minimum_detectable_error(nothing)).all()
    assert np.isinf(RatioSequence().minimum_detectable_error(nothing)).all()


def test_sums_of_other_segments_and_rows_of_none_are_refused() -> None:
    with pytest.raises(MetricError, match="do not add up"):
        CalibrationSums.nothing(2) + CalibrationSums.nothing(3)
    with pytest.raises(MetricError, match="lies in no segment"):
        CalibrationSums.of([0.5], [1], [1], request_C=[0], segment_C=[3], num_segments=3)
    CalibrationSums.of([0.5], [1], [0], request_C=[0], segment_C=[3], num_segments=3)  # weight 0: absent


def test_the_boundary_is_robbins_and_tightest_where_it_is_told_to_be() -> None:
    sequence = RatioSequence(level=0.9, tightest_at=200)
    width = [float(sequence.boundary(np.array([v]))[0] / math.sqrt(v)) for v in (150, 200, 260)]
    assert width[1] < width[0]
    assert width[1] < width[2]
    # at its tightest a boundary for all times is about 1.65 times the interval for one: z = 1.645
    assert 1.5 < width[1] / 1.645 < 1.8


@pytest.mark.parametrize("theta", [0.3, 1.0, 2.5])
def test_the_ends_of_the_interval_are_where_the_boundary_is_met(theta: float) -> None:
    [pane] = poisson_panes(1, 60 * theta, 4, seed=1)
    sequence = RatioSequence()
    low_G, high_G = sequence.bounds(pane)
    assert (low_G < pane.ratio_G).all()
    assert (pane.ratio_G < high_G).all()
    for end_G in (low_G, high_G):
        residual_G = np.abs(pane.observed_G - pane.predicted_G / end_G)
        np.testing.assert_allclose(residual_G, sequence.boundary(pane.residual_squared(1 / end_G)), rtol=1e-6)
    assert (sequence.excludes_one(pane) == ((low_G > 1) | (high_G < 1))).all()


def test_the_sequence_is_wider_than_the_interval_of_one_look_but_not_twice() -> None:
    rng = np.random.default_rng(3)
    probabilities_C, request_C = rng.uniform(0.02, 0.2, 20_000), np.arange(20_000) // 10
    labels_C = rng.random(20_000) < probabilities_C
    sums = CalibrationSums.of(probabilities_C, labels_C, np.ones(20_000), request_C=request_C)
    low_G, high_G = RatioSequence(tightest_at=2000).bounds(sums)
    one_look = calibration_ratio_interval(probabilities_C, labels_C, np.ones(20_000), request_C=request_C)
    assert low_G[0] < one_look.low < one_look.high < high_G[0]
    assert 1.4 < (high_G[0] - low_G[0]) / one_look.width < 1.8


def test_minimum_detectable_error_shrinks_with_the_root_and_is_greater_for_many_looks() -> None:
    [pane] = poisson_panes(1, 50, 1, seed=5)
    four = pane + pane + pane + pane
    assert minimum_detectable_error(four)[0] == pytest.approx(minimum_detectable_error(pane)[0] / 2)
    assert RatioSequence().minimum_detectable_error(pane)[0] > minimum_detectable_error(pane)[0]


def test_an_alarm_needs_both_size_and_significance() -> None:
    few, many = poisson_panes(1, 1.0, 1, seed=0)[0], poisson_panes(4000, 1.05, 1, seed=0)
    lucky = CalibrationSums(
        few.predicted_G, np.array([26.0]), few.product_G, few.product_G, np.array([26.0]), few.predicted_G
    )
    sequence = RatioSequence()
    assert not is_off(lucky, *sequence.bounds(lucky))[0]  # 30 % off, by chance
    total = sum(many[1:], start=many[0])
    assert sequence.excludes_one(total)[0]
    assert not is_off(total, *sequence.bounds(total))[0]  # surely off, by 5 %
    assert is_off(total, *sequence.bounds(total), tolerance=0.02)[0]


def test_few_right_runs_ever_leave_the_sequence() -> None:
    num_runs, sequence = 400, RatioSequence()
    sums, ever_G = CalibrationSums.nothing(num_runs), np.zeros(num_runs, bool)
    for pane in poisson_panes(400, 1.0, num_runs, seed=7):
        sums = sums + pane
        ever_G |= sequence.excludes_one(sums)
    assert ever_G.sum() <= 30  # 20 expected at the very most; 30 has a chance of 1 %


def test_the_detector_is_its_recursion() -> None:
    detector = CalibrationDetector(1000, errors=(0.2, 0.5))
    panes = poisson_panes(12, 1.3, 1, seed=2)
    watch, sums = detector.started(), CalibrationSums.nothing()
    evidence = dict.fromkeys((1.2, 1.5, 1 / 1.2, 1 / 1.5), 0.0)
    for pane in panes:
        if sums.predicted_G[0] >= 30:
            spread = max(float(sums.dispersion_G[0]), 1.0)
            for theta in evidence:
                ratio = pane.observed_G[0] * math.log(theta) - (theta - 1) * pane.predicted_G[0]
                evidence[theta] = (evidence[theta] + 1) * math.exp(ratio / spread)
        watch, sums = detector.after(watch, pane), sums + pane
    assert detector.log_evidence(watch)[0] == pytest.approx(math.log(np.mean(list(evidence.values()))))
    assert detector.likeliest_error(watch)[0] == pytest.approx(max(evidence, key=lambda theta: evidence[theta]) - 1)


def test_an_empty_pane_changes_the_evidence_by_one_new_start_only() -> None:
    detector = CalibrationDetector(1000)
    watch = detector.started()
    for pane in poisson_panes(5, 1.0, 1, seed=2):
        watch = detector.after(watch, pane)
    after = detector.after(watch, CalibrationSums.nothing())
    np.testing.assert_allclose(np.exp(after.log_evidence_AG), np.exp(watch.log_evidence_AG) + 1)


def test_the_detector_keeps_its_promise_and_finds_both_ways_after_a_long_quiet() -> None:
    detector, num_runs = CalibrationDetector(500), 300
    watch, alarmed_G = detector.started(num_runs), np.zeros(num_runs, bool)
    for pane in poisson_panes(500, 1.0, num_runs, seed=4):
        watch = detector.after(watch, pane)
        alarmed_G |= detector.alarms(watch)
    assert alarmed_G.mean() < 0.63  # were the mean time to a false alarm 500 panes, 1 − 1/e would have had one
    for theta in (1.2, 1 / 1.2):
        late = watch
        for pane in poisson_panes(60, theta, num_runs, seed=6):
            late = detector.after(late, pane)
        assert detector.alarms(late).mean() > 0.98
        assert ((detector.likeliest_error(late) > 0) == (theta > 1)).mean() > 0.99


@pytest.mark.parametrize(
    "make",
    [
        lambda: RatioSequence(level=1.0),
        lambda: RatioSequence(tightest_at=0),
        lambda: CalibrationDetector(1),
        lambda: CalibrationDetector(100, errors=()),
        lambda: CalibrationDetector(100, errors=(0.1, -0.2)),
        lambda: CalibrationSums.nothing(0),
        lambda: is_off(CalibrationSums.nothing(), np.zeros(1), np.ones(1), tolerance=-1),
        lambda: minimum_detectable_error(CalibrationSums.nothing(), power=1),
    ],
)
def test_impossible_settings_are_refused(make: object) -> None:
    with pytest.raises(MetricError):
        make()  # type: ignore[operator]
