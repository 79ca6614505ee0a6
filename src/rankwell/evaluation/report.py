"""Every number of one set of predictions, computed together and held together.

Letters: C candidates.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from rich.table import Table

from rankwell.errors import MetricError
from rankwell.evaluation.bins import Bins
from rankwell.evaluation.calibration_error import (
    EceNull,
    ReliabilityCurve,
    debiased_ece_of,
    ece_null_of,
    ece_of,
    reliability_curve_of,
)
from rankwell.evaluation.calibration_ratio import (
    calibration_ratio_interval_of,
    calibration_ratio_of,
    detectable_error,
)
from rankwell.evaluation.discrimination import auc_of, brier_of, gauc_of, log_loss_of, normalized_entropy_of
from rankwell.evaluation.groups import SegmentRow, segment_rows_of
from rankwell.evaluation.intervals import Interval
from rankwell.evaluation.ranking_quality import mrr_of, ndcg_of
from rankwell.evaluation.sample import Column, Sample, Ties, check_whole_number, number_column
from rankwell.evaluation.truth import TruthDistances

__all__ = ["Evaluation", "evaluate"]


@final
@dataclass(frozen=True, slots=True)
class Evaluation:
    """All numbers of one set of predictions; NaN where undefined, None where not asked for.

    Args:
        num_candidates: Rows of positive weight.
        num_requests: Requests among them; None without requests.
        num_positives: Positives among them.
        weight: Σ w.
        mean_predicted: Σ w·p / Σ w.
        mean_observed: Σ w·y / Σ w.
        auc: Over all rows.
        gauc: Within requests; None without a request of two candidates.
        member_gauc: Within members; None without members.
        log_loss: Nats.
        normalized_entropy: Log loss by that of the mean label.
        brier: Mean squared distance.
        ndcg: nDCG@k by k, of gains where they were given; empty without a request of two candidates.
        mrr: MRR by k; empty without a request of two candidates.
        ece: Over bins of equal mass.
        debiased_ece: Less what chance adds.
        ece_null: What true probabilities would show.
        calibration_ratio: Predicted over observed.
        calibration_ratio_interval: Of 95 %, by requests where there are any.
        reliability: The reliability curve.
        segments: The rows of each segment column, by its name.
        truth: Distances to the true probabilities; None where they were not given.
    """

    num_candidates: int
    num_requests: int | None
    num_positives: int
    weight: float
    mean_predicted: float
    mean_observed: float
    auc: float
    gauc: float | None
    member_gauc: float | None
    log_loss: float
    normalized_entropy: float
    brier: float
    ndcg: Mapping[int, float]
    mrr: Mapping[int, float]
    ece: float
    debiased_ece: float
    ece_null: EceNull
    calibration_ratio: float
    calibration_ratio_interval: Interval
    reliability: ReliabilityCurve
    segments: Mapping[str, tuple[SegmentRow, ...]]
    truth: TruthDistances | None

    def numbers(self, prefix: str = "") -> dict[str, float]:
        """The numbers over all rows as one flat dict; segments and the curve stay out of it.

        Args:
            prefix: Put before each name, as ``"tune/"``.

        Returns:
            Name to number; NaN where undefined; no entry for what was not asked for.
        """
        numbers: dict[str, float | None] = {
            "num_candidates": self.num_candidates,
            "num_requests": self.num_requests,
            "num_positives": self.num_positives,
            "mean_predicted": self.mean_predicted,
            "mean_observed": self.mean_observed,
            "auc": self.auc,
            "gauc": self.gauc,
            "member_gauc": self.member_gauc,
            "log_loss": self.log_loss,
            "normalized_entropy": self.normalized_entropy,
            "brier": self.brier,
            **{f"ndcg@{k}": value for k, value in self.ndcg.items()},
            **{f"mrr@{k}": value for k, value in self.mrr.items()},
            "ece": self.ece,
            "debiased_ece": self.debiased_ece,
            "ece_null_mean": self.ece_null.mean,
            "ece_null_p95": self.ece_null.p95,
            "calibration_ratio": self.calibration_ratio,
            "calibration_ratio_low": self.calibration_ratio_interval.low,
            "calibration_ratio_high": self.calibration_ratio_interval.high,
        }
        if self.truth is not None:
            numbers["mean_absolute_error_to_truth"] = self.truth.mean_absolute_error
            numbers["bayes_log_loss"] = self.truth.bayes_log_loss
            numbers["realised_log_loss"] = self.truth.realised_log_loss
            numbers["excess_log_loss"] = self.truth.excess_log_loss
        return {prefix + name: float(value) for name, value in numbers.items() if value is not None}

    def to_json(self) -> dict[str, Any]:
        """Everything as plain dicts, lists, strings and numbers, for `json.dumps`; undefined numbers become None.

        ``"not_asked"`` lists the fields that were None here, so that `from_json` tells them from undefined ones.
        """
        fields: dict[str, Any] = _plain(dataclasses.asdict(self))
        fields["not_asked"] = [field.name for field in dataclasses.fields(self) if getattr(self, field.name) is None]
        return fields

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Evaluation:
        """The evaluation that `to_json` wrote.

        Raises:
            MetricError: A field is missing or unknown.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        if set(document) != known | {"not_asked"}:
            raise MetricError(
                "this is not an evaluation",
                found=sorted(map(str, document)),
                allowed=sorted(known | {"not_asked"}),
                do="evaluate again with this version",
            )
        not_asked = set(document["not_asked"])
        fields: dict[str, Any] = {name: None if name in not_asked else _defined(document[name]) for name in known}
        fields["ndcg"] = {int(k): value for k, value in fields["ndcg"].items()}
        fields["mrr"] = {int(k): value for k, value in fields["mrr"].items()}
        fields["ece_null"] = EceNull(**fields["ece_null"])
        fields["calibration_ratio_interval"] = Interval(**fields["calibration_ratio_interval"])
        curve: dict[str, Any] = fields["reliability"]
        columns = {name: tuple(value) for name, value in curve.items() if name != "level"}
        fields["reliability"] = ReliabilityCurve(**columns, level=curve["level"])
        fields["segments"] = {name: tuple(map(_segment_row, rows)) for name, rows in fields["segments"].items()}
        fields["truth"] = None if fields["truth"] is None else TruthDistances(**fields["truth"])
        return cls(**fields)

    def table(self, title: str = "Evaluation") -> Table:
        """The numbers over all rows as a table for the terminal."""
        table = Table(title=title)
        table.add_column("number")
        table.add_column("value", justify="right")
        table.add_column("beside it")
        of_requests = "" if self.num_requests is None else f"in {self.num_requests:,} requests"
        table.add_row("candidates", f"{self.num_candidates:,}", of_requests)
        table.add_row(
            "positives", f"{self.num_positives:,}", f"mean label {_shown(self.mean_observed)}", end_section=True
        )
        table.add_row("AUC", _shown(self.auc), "")
        if self.gauc is not None:
            table.add_row("GAUC", _shown(self.gauc), "within requests")
        if self.member_gauc is not None:
            table.add_row("GAUC", _shown(self.member_gauc), "within members")
        for k, value in self.ndcg.items():
            table.add_row(f"nDCG@{k}", _shown(value), f"MRR@{k} {_shown(self.mrr[k])}")
        table.add_section()
        table.add_row("log loss", _shown(self.log_loss), "nats")
        table.add_row("normalized entropy", _shown(self.normalized_entropy), "below 1 beats the mean label")
        table.add_row("Brier", _shown(self.brier), "", end_section=True)
        interval, ratio = self.calibration_ratio_interval, self.calibration_ratio
        inverse = 1 / ratio if ratio else math.nan
        table.add_row(
            "calibration ratio",
            _shown(ratio),
            f"{interval.level:.0%} [{_shown(interval.low)}, {_shown(interval.high)}]; "
            f"observed / predicted {_shown(inverse)}; {_percent(detectable_error(interval))} off would be seen",
        )
        null = f"a true model shows {_shown(self.ece_null.mean)}, at most {_shown(self.ece_null.p95)} in 95 %"
        table.add_row("ECE", _shown(self.ece), null)
        table.add_row("debiased ECE", _shown(self.debiased_ece), "", end_section=True)
        if self.truth is not None:
            table.add_row("mean |p − true p|", _shown(self.truth.mean_absolute_error), "")
            realised = f"nats; on these labels {_shown(self.truth.realised_log_loss)}"
            table.add_row("Bayes log loss", _shown(self.truth.bayes_log_loss), realised)
            table.add_row("excess log loss", _shown(self.truth.excess_log_loss), "nats above the truth, in expectation")
        return table

    def segment_table(self, name: str) -> Table:
        """The rows of one segment column as a table for the terminal; "seen" is the error of the ratio that would be.

        Raises:
            MetricError: There is no such segment column.
        """
        if name not in self.segments:
            raise MetricError(f"no segments by {name!r} in this evaluation", found=list(self.segments))
        table = Table(title=f"by {name}")
        table.add_column(name)
        for heading in ("count", "observed", "calibration ratio", "seen", "debiased ECE", "AUC"):
            table.add_column(heading, justify="right", no_wrap=heading in ("count", "calibration ratio", "seen"))
        further = list(self.segments[name][0].metrics) if self.segments[name] else []
        for heading in further:
            table.add_column(heading, justify="right")
        for row in self.segments[name]:
            interval = row.calibration_ratio_interval
            table.add_row(
                str(row.segment),
                f"{row.num_candidates:,}",
                _shown(row.mean_observed),
                f"{_shown(row.calibration_ratio, 3)} [{_shown(interval.low, 2)}, {_shown(interval.high, 2)}]",
                _percent(detectable_error(interval)),
                _shown(row.debiased_ece),
                _shown(row.auc),
                *(_shown(row.metrics[heading]) for heading in further),
            )
        return table


def evaluate(
    probabilities_C: Column,
    logits_C: Column | None,
    labels_C: Column,
    weights_C: Column,
    *,
    request_C: Column | None,
    gains_C: Column | None = None,
    segments: Mapping[str, Column] | None = None,
    true_probabilities_C: Column | None = None,
    member_C: Column | None = None,
    k: Sequence[int] = (5, 10),
    num_bins: int = 15,
    min_segment_count: int = 100,
    num_null_draws: int = 400,
    seed: int = 0,
) -> Evaluation:
    """All numbers of one set of predictions, over the whole set at once.

    Numbers about probabilities (log loss, Brier, calibration) are computed from the probabilities. Numbers about order
    (AUC, GAUC, nDCG, MRR) rank as the ranker does: by probability, and equal probabilities by logit where logits are
    given, so that a calibrator with steps loses nothing of the model's order.

    Args:
        probabilities_C: Calibrated, in [0, 1].
        logits_C: The model's log-odds, to break ties by; None where ties stay ties.
        labels_C: 0 or 1.
        weights_C: At least 0.
        request_C: The request of each candidate; None leaves out what is within requests. It is left out too where no
            request has two candidates: one candidate has no order.
        gains_C: What nDCG counts, at least 0; by default the labels.
        segments: Segment columns by name: integers, booleans or strings.
        true_probabilities_C: What a simulator knows.
        member_C: The member of each candidate, for the GAUC within members.
        k: How many positions nDCG and MRR count.
        num_bins: Of ECE and reliability curve.
        min_segment_count: Segments of fewer candidates are left out.
        num_null_draws: Draws for the null of ECE.
        seed: Of these draws.

    Returns:
        The evaluation; NaN with `UndefinedMetricWarning` for each number that is undefined on this sample.

    Raises:
        MetricError: The columns cannot be evaluated.

    >>> evaluation = evaluate([.1, .8, .3, .6], None, [0, 1, 0, 1], [1] * 4, request_C=[0, 0, 1, 1], k=[5])
    >>> numbers = evaluation.numbers("tune/")
    >>> numbers["tune/auc"], numbers["tune/ndcg@5"], round(numbers["tune/calibration_ratio"], 3)
    (1.0, 1.0, 0.9)
    """
    sample = Sample.of(probabilities_C, labels_C, weights_C)
    like = ("probabilities_C", sample.num_given)
    ordered = sample
    if logits_C is not None:
        logit_ranks_C = Ties.of(sample.kept(number_column("logits_C", logits_C, like=like))).ranks_C
        key_C = sample.ranks_C * (int(logit_ranks_C.max(initial=0)) + 1) + logit_ranks_C
        ordered = sample.ordered_by(Ties.of(key_C).ranks_C)
    requests = None if request_C is None else sample.groups("request_C", request_C)
    members = None if member_C is None else sample.groups("member_C", member_C)
    has_lists = requests is not None and len(requests) < len(sample)
    lists = Ties.within(requests, ordered.ranks_C) if requests is not None and has_lists else None
    graded = sample if gains_C is None else Sample.with_gains(probabilities_C, gains_C, weights_C)
    best = Ties.within(requests, Ties.of(graded.labels_C).ranks_C) if requests is not None and has_lists else None
    bins = Bins.of(sample, sample.ties, num_bins)
    positions = [check_whole_number("k", number, at_least=1) for number in k]
    return Evaluation(
        num_candidates=len(sample),
        num_requests=None if requests is None else len(requests),
        num_positives=int(sample.labels_C.sum()),
        weight=sample.total_weight,
        mean_predicted=sample.mean(sample.probabilities_C) if len(sample) else math.nan,
        mean_observed=sample.mean(sample.labels_C) if len(sample) else math.nan,
        auc=auc_of(ordered),
        gauc=None if lists is None else gauc_of(ordered, lists),
        member_gauc=None if members is None else gauc_of(ordered, Ties.within(members, ordered.ranks_C)),
        log_loss=log_loss_of(sample),
        normalized_entropy=normalized_entropy_of(sample),
        brier=brier_of(sample),
        ndcg={}
        if lists is None or best is None
        else {number: ndcg_of(graded, lists, best, number) for number in positions},
        mrr={} if lists is None else {number: mrr_of(ordered, lists, number) for number in positions},
        ece=ece_of(bins),
        debiased_ece=debiased_ece_of(bins),
        ece_null=ece_null_of(sample, num_bins, num_draws=num_null_draws, seed=seed),
        calibration_ratio=calibration_ratio_of(sample),
        calibration_ratio_interval=calibration_ratio_interval_of(sample, requests),
        reliability=reliability_curve_of(bins),
        segments={
            name: tuple(
                segment_rows_of(
                    sample,
                    sample.groups(f"segments[{name!r}]", segment_C),
                    requests,
                    min_count=min_segment_count,
                    num_bins=num_bins,
                )
            )
            for name, segment_C in (segments or {}).items()
        },
        truth=None
        if true_probabilities_C is None
        else TruthDistances.of(
            sample, sample.kept(number_column("true_probabilities_C", true_probabilities_C, like=like))
        ),
    )


def _segment_row(fields: Mapping[str, Any]) -> SegmentRow:
    return SegmentRow(**{**fields, "calibration_ratio_interval": Interval(**fields["calibration_ratio_interval"])})


def _percent(error: float) -> str:
    return "–" if math.isnan(error) else f"{error:.0%}"


def _shown(number: float, digits: int = 4) -> str:
    return "undefined" if math.isnan(number) else f"{number:.{digits}f}"


def _plain(thing: Any) -> Any:
    if isinstance(thing, Mapping):
        return {str(name): _plain(value) for name, value in thing.items()}
    if isinstance(thing, list | tuple):
        return [_plain(value) for value in thing]
    return None if isinstance(thing, float) and math.isnan(thing) else thing


def _defined(thing: Any) -> Any:
    if isinstance(thing, Mapping):
        return {name: _defined(value) for name, value in thing.items()}
    if isinstance(thing, list):
        return [_defined(value) for value in thing]
    return np.nan if thing is None else thing
