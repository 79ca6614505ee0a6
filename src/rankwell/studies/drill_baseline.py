"""The day before an incident, written into the log by the scorer that serves, without a server.

Letters in names: R requests · C candidates, flat.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rankwell.calibration.segment_isotonic import fit_segment_isotonic
from rankwell.losses.label_smoothing import undo_label_smoothing
from rankwell.ranking.policies import Policy
from rankwell.serving.action_log import ActionLog
from rankwell.serving.bundle import Bundle
from rankwell.serving.scorer import EagerScorer
from rankwell.serving.served_log import ServedLog
from rankwell.studies.drill_desk import append_answers, append_clicks
from rankwell.studies.drill_world import Asked, batches_of
from rankwell.types import Batch

__all__ = ["calibrated_to", "click_delays_s", "clicks_of", "scored", "write_day"]

_S_US: Final = 1_000_000
_MEAN_DELAY_S: Final = 90.0
_LONGEST_DELAY_S: Final = 1_500.0
_LONG_S: Final = 86_400.0
"""Of a segment: a day of those of a minute would be read in 1,400 pieces."""


def calibrated_to(bundle: Bundle, asked: Asked, clicked_C: NDArray[np.bool_], *, segment_by: str) -> Bundle:
    """The bundle with its clicks calibrated to the drill's world, by segment: what is right until the incident.

    Args:
        bundle: Of the marketplace's schema.
        asked, clicked_C: Requests and what came of them.
        segment_by: A feature of candidates.
    """
    batches = list(batches_of(asked.table, bundle.schema))
    with torch.inference_mode():
        logits_C = torch.cat([bundle.model.eval()(batch.features)[:, 0] for batch in batches])
    unsmoothed_C = undo_label_smoothing(logits_C, bundle.label_smoothing)
    segments_CS = torch.cat([_ids(batch, segment_by) for batch in batches])[:, None]
    labels_C = torch.from_numpy(clicked_C.astype(np.float32))
    fitted = fit_segment_isotonic(unsmoothed_C, labels_C, torch.ones_like(labels_C), segments_CS)
    return dataclasses.replace(
        bundle, calibrators={**bundle.calibrators, "click": fitted}, calibrate_by=(segment_by,), metrics={}
    )


def scored(bundle: Bundle, asked: Asked) -> NDArray[np.float64]:
    """p(click) of all candidates, as a bundle says without a correction."""
    scorer = EagerScorer(bundle)
    batches = batches_of(asked.table, bundle.schema)
    found: NDArray[np.float64] = torch.cat([scorer.score(batch).probabilities_CA[:, 0] for batch in batches]).numpy()
    return found


def click_delays_s(rng: np.random.Generator, num: int) -> NDArray[np.float64]:
    """How long after they were shown jobs are clicked on, seconds: a minute and a half, and at most 25 minutes."""
    delays: NDArray[np.float64] = np.minimum(rng.exponential(_MEAN_DELAY_S, num), _LONGEST_DELAY_S)
    return delays


def clicks_of(asked: Asked, clicked_C: NDArray[np.bool_], delays_s: NDArray[np.float64]) -> NDArray[np.int64]:
    """Request, item and time of each click.

    Args:
        asked: Requests.
        clicked_C: What came of their candidates.
        delays_s: How long after the request each click is, one a click.
    """
    request_C = np.repeat(np.arange(asked.table.num_rows), np.diff(asked.offsets_R))[clicked_C]
    times_us = asked.table["time_us"].to_numpy()[request_C] + (delays_s * _S_US).astype(np.int64)
    items = asked.of_candidates("job_id")[clicked_C]
    return np.column_stack([asked.table["request_id"].to_numpy()[request_C], items, times_us])


def write_day(
    asked: Asked, bundle: Bundle, folder: Path, *, bundle_id: str, policy: Policy, rng: np.random.Generator
) -> int:
    """Write into a log what a server would have answered, and the clicks that followed.

    Args:
        asked: Requests.
        bundle: That scores.
        folder: Of the log.
        bundle_id: As the log names it.
        policy: That makes lists.
        rng: Of clicks and of their delays.

    Returns:
        How many candidates were shown.
    """
    time_us = 0

    def set_time(now_us: int) -> None:
        nonlocal time_us
        time_us = now_us

    schema = bundle.schema
    with ServedLog(
        folder, schema, worker="day", seed=0, now_us=lambda: time_us, all_candidates_rate=0.0, segment_s=_LONG_S
    ) as log:
        answered = append_answers(
            log, asked, EagerScorer(bundle), bundle_id=bundle_id, correction_id=None, policy=policy, set_time=set_time
        )
    clicked_C = asked.clicks(rng)
    with ActionLog(folder, schema, worker="day", now_us=lambda: time_us) as reported:
        append_clicks(reported, clicks_of(asked, clicked_C, click_delays_s(rng, int(clicked_C.sum()))))
    return len(answered.row_C)


def _ids(batch: Batch, name: str) -> Tensor:
    column = batch.features.candidates[name]
    assert isinstance(column, Tensor)
    return column
