"""A served log of a few hours or a day, in which odds of one level may be three times too high from a time on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from rankwell.schema import Action, Categorical, Exposure, Numeric, Schema
from rankwell.serving.action_log import ActionLog, ReportedAction
from rankwell.serving.served_log import ServedLog
from rankwell.serving.served_request import ServedRequest
from rankwell.types import MISSING_ID, Features

TICK_US = 900_000_000
START_US = 1_790_000_100_000_000 // TICK_US * TICK_US
SCHEMA = Schema(
    features=(Categorical(name="job"), Categorical(name="level"), Numeric(name="years", on="request"),
              Numeric(name="unknown", missing="indicator")),
    actions=(Action(name="click", window_s=300),),
    item="job",
    exposure=Exposure(position="position", propensity="propensity"),
)  # fmt: skip


def write_log(
    folder: Path, *, num_ticks: int, per_tick: int, bug_from: int | None = None, start_us: int = START_US,
    first_tick: int = 0, bundle_id: str = "b", canary_id: str | None = None,
) -> None:  # fmt: skip
    """Requests of two candidates of each of two levels, whose clicks are drawn from the truth.

    Args:
        folder: Of the log.
        num_ticks: Quarter-hours.
        per_tick: Requests in each, evenly spread.
        bug_from: From this quarter-hour on level 1 is served odds three times too high.
        start_us: Of quarter-hour 0.
        first_tick: To go on with a log that ends before it.
        bundle_id: That answered.
        canary_id: That answered each fifth request in its place, with odds of level 1 three times too high.
    """
    rng, clock = np.random.default_rng(first_tick), [start_us]
    served = ServedLog(folder, SCHEMA, worker="w0", seed=1, now_us=lambda: clock[0])
    actions = ActionLog(folder, SCHEMA, worker="w0", now_us=lambda: clock[0])
    level_K = np.array([0, 0, 1, 1])
    for tick in range(first_tick, num_ticks):
        bug = np.log(3.0) if bug_from is not None and tick >= bug_from else 0.0
        for place in range(per_tick):
            clock[0] = start_us + tick * TICK_US + place * TICK_US // per_tick
            is_canary = canary_id is not None and place % 5 == 2
            true_K = rng.normal(-1.0, 0.8, 4)
            features = Features(
                context={"years": torch.tensor([float(rng.normal(8.0, 3.0))])}, history={},
                candidates={
                    "job": torch.arange(4) + 1, "level": torch.from_numpy(level_K), "unknown": torch.full((4,), np.nan)
                },
                offsets=torch.tensor([0, 4]), request_C=torch.zeros(4, dtype=torch.int64),
            )  # fmt: skip
            logits_KA = torch.from_numpy(true_K + (np.log(3.0) if is_canary else bug) * (level_K == 1))[:, None]
            request_id = tick * 10_000 + place
            served.append(
                ServedRequest(
                    request_id=request_id, member_id=MISSING_ID, time_us=clock[0], features=features,
                    item_ids_K=torch.arange(4) + 1, places_n=np.arange(4), propensities_n=np.ones(4),
                    logits_KA=logits_KA, probabilities_KA=logits_KA.sigmoid(),
                    bundle_id=str(canary_id) if is_canary else bundle_id,
                    prices_micros_n=(logits_KA.sigmoid()[:, 0].numpy() * 1e6).astype(np.int64),
                )
            )  # fmt: skip
            clicked = np.flatnonzero(rng.random(4) < 1 / (1 + np.exp(-true_K))) + 1
            if len(clicked):
                at_us = clock[0] + 60_000_000
                actions.append([ReportedAction(request_id, int(job), "click", at_us) for job in clicked])
    served.close()
    actions.close()
