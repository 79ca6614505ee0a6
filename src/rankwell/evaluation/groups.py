"""The same numbers for each segment of the rows.

Letters: C candidates · G segments · B bins, flat over the segments.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import numpy as np

from rankwell.errors import UndefinedMetricWarning
from rankwell.evaluation.bins import Bins
from rankwell.evaluation.calibration_ratio import calibration_ratios_by_group
from rankwell.evaluation.discrimination import auc_by_group, row_log_losses
from rankwell.evaluation.intervals import Interval
from rankwell.evaluation.sample import (
    Column,
    Floats,
    Groups,
    Metric,
    Sample,
    Ties,
    check_whole_number,
    number_column,
    probability_column,
    weight_column,
)

__all__ = ["SegmentRow", "by_segment", "segment_rows_of"]


@final
@dataclass(frozen=True, slots=True)
class SegmentRow:
    """What is known of one segment.

    Args:
        segment: Its value in the segment column.
        num_candidates: Rows of positive weight.
        num_positives: Positives among them.
        weight: Σ w.
        mean_predicted: Σ w·p / Σ w.
        mean_observed: Σ w·y / Σ w.
        calibration_ratio: Predicted over observed; NaN without a positive.
        calibration_ratio_interval: Its interval; NaN at both ends where undefined.
        log_loss: Nats.
        ece: Over bins of equal mass within the segment.
        debiased_ece: Less what chance adds: the number to compare segments of unequal size by.
        auc: NaN where the segment has one class.
        metrics: The metrics asked for, by name.
    """

    segment: int | str | bool
    num_candidates: int
    num_positives: int
    weight: float
    mean_predicted: float
    mean_observed: float
    calibration_ratio: float
    calibration_ratio_interval: Interval
    log_loss: float
    ece: float
    debiased_ece: float
    auc: float
    metrics: Mapping[str, float]


def by_segment(
    metric_map: Mapping[str, Metric],
    probabilities_C: Column,
    labels_C: Column,
    weights_C: Column,
    segment_C: Column,
    *,
    request_C: Column | None = None,
    min_count: int = 1,
    num_bins: int = 15,
    level: float = 0.95,
) -> list[SegmentRow]:
    """Counts, calibration, log loss and AUC of each segment, and any further metrics.

    The numbers of a `SegmentRow` come from one pass over all segments. A metric of `metric_map` is called once a
    segment on all rows, with weight 0 outside the segment, so that one bound to a column of the rows
    (``partial(gauc, request_C=request_C)``) works as it is.

    Args:
        metric_map: Further metrics by name; may be empty.
        probabilities_C: In [0, 1].
        labels_C: 0 or 1.
        weights_C: At least 0.
        segment_C: Integers, booleans or strings.
        request_C: What is independent of each other, for the intervals; None where each row is.
        min_count: Segments of fewer candidates (of positive weight) are left out.
        num_bins: Of the ECE.
        level: Of the intervals, in (0, 1).

    Returns:
        One row a segment, ascending by its value. Numbers undefined in a segment are NaN, with one
        `UndefinedMetricWarning` that names them all.

    Raises:
        MetricError: The columns cannot be evaluated.

    >>> rows = by_segment({}, [.2, .4, .5, .5], [0, 1, 1, 0], [1, 1, 1, 1], ["a", "a", "b", "b"], num_bins=1)
    >>> [(row.segment, row.num_candidates, round(row.calibration_ratio, 3), row.auc) for row in rows]
    [('a', 2, 0.6, 1.0), ('b', 2, 1.0, 0.5)]
    """
    sample = Sample.of(probabilities_C, labels_C, weights_C)
    segments = sample.groups("segment_C", segment_C)
    clusters = None if request_C is None else sample.groups("request_C", request_C)
    metrics_G: list[dict[str, float]] = [{} for _ in range(len(segments))]
    if metric_map:
        checked_C, label_C = probability_column("probabilities_C", probabilities_C), number_column("labels_C", labels_C)
        weight_C = weight_column("weights_C", weights_C)
        kept_C = np.flatnonzero(weight_C > 0)
        for place in np.flatnonzero(np.bincount(segments.index_C) >= min_count):
            inside_C = kept_C[segments.index_C == place]
            only_C = np.zeros(len(weight_C))
            only_C[inside_C] = weight_C[inside_C]
            metrics_G[place] = {name: metric(checked_C, label_C, only_C) for name, metric in metric_map.items()}
    return segment_rows_of(
        sample, segments, clusters, metrics_G=metrics_G, min_count=min_count, num_bins=num_bins, level=level
    )


def segment_rows_of(
    sample: Sample,
    segments: Groups,
    clusters: Groups | None = None,
    *,
    metrics_G: list[dict[str, float]] | None = None,
    min_count: int = 1,
    num_bins: int = 15,
    level: float = 0.95,
) -> list[SegmentRow]:
    """`by_segment` of a sample, its segments and its clusters, with further metrics already computed."""
    min_count = check_whole_number("min_count", min_count, at_least=1)
    num_segments, place_C, weight_C = len(segments), segments.index_C, sample.weights_C

    def total(values_C: Floats) -> Floats:
        return np.bincount(place_C, values_C, minlength=num_segments).astype(np.float64, copy=False)

    count_G = np.bincount(place_C, minlength=num_segments)
    positives_G, weight_G = total(sample.labels_C), total(weight_C)
    predicted_G, observed_G = total(weight_C * sample.probabilities_C), total(weight_C * sample.labels_C)
    loss_G = total(weight_C * row_log_losses(sample.probabilities_C, sample.labels_C))
    ratio_G, low_G, high_G = calibration_ratios_by_group(sample, segments, clusters, level=level)
    ties = Ties.within(segments, sample.ranks_C)
    area_G, bins = auc_by_group(sample, ties), Bins.of(sample, ties, num_bins)
    gap_G = bins.gap_B.reshape(num_segments, num_bins).sum(axis=1)
    chance_G = bins.expected_gap_B.reshape(num_segments, num_bins).sum(axis=1)
    rows = [
        SegmentRow(
            segment=segments.values_G[g].item(),
            num_candidates=int(count_G[g]),
            num_positives=int(positives_G[g]),
            weight=float(weight_G[g]),
            mean_predicted=float(predicted_G[g] / weight_G[g]),
            mean_observed=float(observed_G[g] / weight_G[g]),
            calibration_ratio=float(ratio_G[g]),
            calibration_ratio_interval=Interval(float(low_G[g]), float(high_G[g]), level),
            log_loss=float(loss_G[g] / weight_G[g]),
            ece=float(gap_G[g] / weight_G[g]),
            debiased_ece=float((gap_G[g] - chance_G[g]) / weight_G[g]),
            auc=float(area_G[g]),
            metrics=metrics_G[g] if metrics_G is not None else {},
        )
        for g in np.flatnonzero(count_G >= min_count)
    ]
    _warn_of_undefined(rows)
    return rows


def _warn_of_undefined(rows: list[SegmentRow]) -> None:
    names = {"AUC": "auc", "calibration ratio": "calibration_ratio"}
    missing = {name: [row.segment for row in rows if np.isnan(getattr(row, field))] for name, field in names.items()}
    missing["its interval"] = [row.segment for row in rows if np.isnan(row.calibration_ratio_interval.low)]
    told = "; ".join(f"{name} in {len(where)}, as in {where[:3]}" for name, where in missing.items() if where)
    if told:
        warnings.warn(f"undefined in some segments and returned as NaN: {told}", UndefinedMetricWarning, stacklevel=4)
