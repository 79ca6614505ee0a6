"""The numbers of a segment are the numbers of its rows alone."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest

from rankwell.errors import MetricError, UndefinedMetricWarning
from rankwell.evaluation.calibration_error import debiased_ece, ece
from rankwell.evaluation.calibration_ratio import calibration_ratio, calibration_ratio_interval
from rankwell.evaluation.discrimination import auc, brier, gauc, log_loss
from rankwell.evaluation.groups import by_segment


def test_each_row_equals_the_metrics_on_its_rows_alone() -> None:
    generator = np.random.default_rng(0)
    r_C = np.repeat(np.arange(100), 4)
    p_C = generator.integers(1, 9, 400) / 10
    y_C = (generator.random(400) < p_C).astype(int)
    w_C = generator.choice([0.0, 1.0, 2.5], 400)
    s_C = generator.choice(["junior", "mid", "senior"], 400)  # a request reaches into several segments
    further = {"brier": brier, "gauc": partial(gauc, request_C=r_C)}
    rows = by_segment(further, p_C, y_C, w_C, s_C, request_C=r_C, num_bins=5)
    assert [row.segment for row in rows] == ["junior", "mid", "senior"]
    for row in rows:
        inside = (s_C == row.segment) & (w_C > 0)
        columns = (p_C[inside], y_C[inside], w_C[inside])
        assert row.num_candidates == inside.sum()
        assert row.num_positives == y_C[inside].sum()
        assert row.weight == pytest.approx(w_C[inside].sum())
        assert row.mean_predicted == pytest.approx(np.average(p_C[inside], weights=w_C[inside]))
        assert row.mean_observed == pytest.approx(np.average(y_C[inside], weights=w_C[inside]))
        assert row.calibration_ratio == pytest.approx(calibration_ratio(*columns))
        interval = calibration_ratio_interval(*columns, request_C=r_C[inside])
        assert row.calibration_ratio_interval.low == pytest.approx(interval.low)
        assert row.calibration_ratio_interval.high == pytest.approx(interval.high)
        assert row.log_loss == pytest.approx(log_loss(*columns))
        assert row.ece == pytest.approx(ece(*columns, num_bins=5))
        assert row.debiased_ece == pytest.approx(debiased_ece(*columns, num_bins=5))
        assert row.auc == pytest.approx(auc(*columns))
        assert row.metrics["brier"] == pytest.approx(brier(*columns))
        assert row.metrics["gauc"] == pytest.approx(gauc(*columns, request_C=r_C[inside]))


def test_small_segments_can_be_left_out() -> None:
    columns = ([0.5] * 5, [0, 1, 0, 1, 1], [1, 1, 1, 1, 1])
    rows = by_segment({"brier": brier}, *columns, [True, True, True, True, False], min_count=2)
    assert [row.segment for row in rows] == [True]
    assert rows[0].metrics == {"brier": 0.25}


def test_what_is_undefined_in_a_segment_is_told_once() -> None:
    with pytest.warns(UndefinedMetricWarning, match=r"AUC in 1, as in \[7\]; calibration ratio in 1") as told:
        rows = by_segment({}, [0.5] * 4, [0, 1, 0, 0], [1] * 4, [3, 3, 7, 7])
    assert len(told) == 1
    assert [math.isnan(row.auc) for row in rows] == [False, True]
    assert [math.isnan(row.calibration_ratio) for row in rows] == [False, True]
    assert rows[1].log_loss == pytest.approx(math.log(2))


def test_no_rows_have_no_segments() -> None:
    assert by_segment({}, [], [], [], []) == []


def test_a_number_is_no_segment() -> None:
    with pytest.raises(MetricError, match=r"segment_C.*(?s:.*)buckets"):
        by_segment({}, [0.5], [1], [1], [0.25])
