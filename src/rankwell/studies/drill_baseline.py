"""The day before an incident, written into the log by the scorer that serves, without a server.

Letters in names: R requests · C candidates, flat · A actions · n shown.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rankwell.calibration.segment_isotonic import fit_segment_isotonic
from rankwell.losses.label_smoothing import undo_label_smoothing
from rankwell.ranking.policies import Policy
from rankwell.serving.action_log import ActionLog, ReportedAction
from rankwell.serving.bundle import Bundle
from rankwell.serving.scorer import EagerScorer
from rankwell.serving.served_log import ServedLog
from rankwell.serving.served_request import ServedRequest
from rankwell.studies.drill_world import Asked, batches_of
from rankwell.types import Batch, Column, Events, Features, Ragged

__all__ = ["SEGMENT", "calibrated_to", "click_delays_s", "scored", "write_day"]

SEGMENT: Final = "job_seniority"
"""The feature by whose values a drill calibrates, watches and corrects."""
_MEAN_DELAY_S: Final = 90.0
_LONGEST_DELAY_S: Final = 1_500.0


def calibrated_to(bundle: Bundle, asked: Asked, clicked_C: NDArray[np.bool_]) -> Bundle:
    """The bundle with its clicks calibrated to the drill's world, by segment: what is right until the incident.

    Args:
        bundle: Of the marketplace's schema.
        asked, clicked_C: Requests and what came of them.
    """
    batches = list(batches_of(asked.table, bundle.schema))
    with torch.inference_mode():
        logits_C = torch.cat([bundle.model.eval()(batch.features)[:, 0] for batch in batches])
    unsmoothed_C = undo_label_smoothing(logits_C, bundle.label_smoothing)
    segments_CS = torch.cat([_ids(batch, SEGMENT) for batch in batches])[:, None]
    labels_C = torch.from_numpy(clicked_C.astype(np.float32))
    fitted = fit_segment_isotonic(unsmoothed_C, labels_C, torch.ones_like(labels_C), segments_CS)
    return dataclasses.replace(
        bundle, calibrators={**bundle.calibrators, "click": fitted}, calibrate_by=(SEGMENT,), metrics={}
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


def write_day(
    asked: Asked, bundle: Bundle, folder: Path, *, bundle_id: str, policy: Policy, rng: np.random.Generator
) -> int:
    """Serve requests into a log as the server would, and report their clicks.

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
    scorer, schema, offsets_R = EagerScorer(bundle), bundle.schema, asked.offsets_R
    clicked_C, first, num_shown = asked.clicks(rng), 0, 0
    clock = [0]
    actions: list[ReportedAction] = []
    with ServedLog(folder, schema, worker="day", seed=0, now_us=lambda: clock[0], all_candidates_rate=0.0) as log:
        for batch in batches_of(asked.table, schema):
            scores = scorer.score(batch)
            for r, features in enumerate(_single(batch.features)):
                bounds = slice(int(batch.features.offsets[r]), int(batch.features.offsets[r + 1]))
                p_KA, logits_KA = scores.probabilities_CA[bounds], scores.logits_CA[bounds]
                items_K, bids_K = batch.audit.item_ids_C[bounds], batch.audit.columns["bid_micros"][bounds]
                utilities_K = bids_K.double() * p_KA[:, 0]
                time_us, request_id = int(batch.audit.times_us_R[r]), int(batch.audit.request_ids_R[r])
                ranked = policy(
                    items_K, utilities_K, logits_K=logits_KA[:, 0], probabilities_K=p_KA[:, 0], length=len(items_K),
                    seed=request_id,
                )  # fmt: skip
                sorted_K, order_K = torch.sort(items_K)
                places_n = order_K[torch.searchsorted(sorted_K, ranked.item_ids)]
                clock[0] = time_us
                log.append(
                    ServedRequest(
                        request_id=request_id, member_id=int(batch.audit.member_ids_R[r]), time_us=time_us,
                        features=features, item_ids_K=items_K, places_n=places_n, propensities_n=ranked.propensities,
                        logits_KA=logits_KA, probabilities_KA=p_KA, bundle_id=bundle_id,
                        prices_micros_n=utilities_K[places_n].round().long(),
                        audit={"bid_micros": bids_K},
                    )
                )  # fmt: skip
                num_shown += len(places_n)
                begin, end = offsets_R[first], offsets_R[first + 1]
                chosen = np.flatnonzero(clicked_C[begin:end])
                delays_us = (click_delays_s(rng, len(chosen)) * 1e6).astype(np.int64)
                actions += [
                    ReportedAction(request_id, int(items_K[k]), "click", time_us + int(delay_us))
                    for k, delay_us in zip(chosen.tolist(), delays_us, strict=True)
                ]
                first += 1
    with ActionLog(folder, schema, worker="day", now_us=lambda: clock[0]) as reported:
        for begin in range(0, len(actions), 10_000):
            reported.append(actions[begin : begin + 10_000])
    return num_shown


def _single(features: Features) -> list[Features]:
    """The features of each request by itself."""
    found = []
    for r in range(features.num_requests):
        begin, end = int(features.offsets[r]), int(features.offsets[r + 1])
        found.append(
            Features(
                context=_cut(features.context, r, r + 1),
                history={name: _events_of(events, r) for name, events in features.history.items()},
                candidates=_cut(features.candidates, begin, end),
                offsets=torch.tensor([0, end - begin]),
                request_C=torch.zeros(end - begin, dtype=torch.int64),
            )
        )
    return found


def _cut(columns: Mapping[str, Column], begin: int, end: int) -> dict[str, Column]:
    return {name: column[begin:end] for name, column in columns.items() if not isinstance(column, Ragged)}


def _events_of(events: Events, r: int) -> Events:
    begin, end = int(events.offsets[r]), int(events.offsets[r + 1])
    columns = {name: column[begin:end] for name, column in events.columns.items()}
    return Events(columns, torch.tensor([0, end - begin]))


def _ids(batch: Batch, name: str) -> Tensor:
    column = batch.features.candidates[name]
    assert isinstance(column, Tensor)
    return column
