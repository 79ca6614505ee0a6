"""What answers in a drill without a server: the same scorer, policy, prices and log, in this process, batch by batch.

Letters in names: R requests · C candidates, flat · K candidates of one request · A actions · n shown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import ClassVar, Final, final

import numpy as np
import torch
from numpy.typing import NDArray

from rankwell.monitoring.pane import MINUTE_US
from rankwell.monitoring.tick_history import TICK_US
from rankwell.ranking.policies import Policy
from rankwell.ranking.slot_exploration import SlotExploration
from rankwell.schema import Schema
from rankwell.serving.action_log import ActionLog, ReportedAction
from rankwell.serving.bundle import read_bundle
from rankwell.serving.correction import CORRECTIONS, CorrectedScorer, read_correction
from rankwell.serving.rollout import RolloutFolder
from rankwell.serving.scorer import EagerScorer, Scorer
from rankwell.serving.served_log import ServedLog
from rankwell.serving.served_request import ServedRequest
from rankwell.studies.drill_service import Answered, DrillService
from rankwell.studies.drill_world import Asked, batches_of
from rankwell.types import Column, Events, Features, Ragged

__all__ = ["DrillDesk", "append_answers", "append_clicks"]

_WORKER: Final = "desk"
_MOST: Final = 10_000
_SEGMENT_S: Final = 900.0


@final
class DrillDesk(DrillService):
    """Serves in the place of `DrillServer`, some ten times as fast.

    Args:
        root: Of the `RolloutFolder` that it follows.
        log: Folder of what is served and of what follows.
        schema: Of the bundles.
        now_us: The time at the beginning, UTC microseconds.
    """

    piece_us: ClassVar[int] = TICK_US

    def __init__(self, root: Path, log: Path, schema: Schema, *, now_us: int) -> None:
        self._rollout, self._log, self._schema, self._time_us = RolloutFolder(root), log, schema, now_us
        self._scorers: dict[str, Scorer] = {}
        self._bundle_id = ""
        self._correction_id: str | None = None
        self._open = ExitStack()

    def start(self) -> None:
        """See `DrillService`."""
        self._served = self._open.enter_context(
            ServedLog(self._log, self._schema, worker=_WORKER, seed=0, now_us=self.now_us, segment_s=_SEGMENT_S)
        )
        self._actions = self._open.enter_context(
            ActionLog(self._log, self._schema, worker=_WORKER, now_us=self.now_us, segment_s=_SEGMENT_S)
        )
        self.wait_for(bundle_id=self._rollout.read().current, correction_id=None)

    def now_us(self) -> int:
        """See `DrillService`."""
        return self._time_us

    def set_time(self, now_us: int) -> None:
        """See `DrillService`."""
        self._time_us = now_us

    def wait_for(self, *, bundle_id: str, correction_id: str | None) -> float:
        """See `DrillService`; it follows at once."""
        if bundle_id not in self._scorers:
            self._scorers[bundle_id] = EagerScorer(read_bundle(self._rollout.path_of(bundle_id)))
        scorer = self._scorers[bundle_id]
        if correction_id is not None:
            scorer = CorrectedScorer(scorer, read_correction(self._rollout.root / CORRECTIONS))
        self._scorer, self._bundle_id, self._correction_id = scorer, bundle_id, correction_id
        return 0.0

    def answered(self, sent: Asked) -> Answered:
        """See `DrillService`."""
        return append_answers(
            self._served, sent, self._scorer, bundle_id=self._bundle_id, correction_id=self._correction_id,
            policy=SlotExploration(), set_time=self.set_time,
        )  # fmt: skip

    def report(self, clicks: NDArray[np.int64]) -> None:
        """See `DrillService`; minute by minute."""
        minutes = clicks[:, 3] // MINUTE_US
        for minute in np.unique(minutes).tolist():
            self.set_time((minute + 1) * MINUTE_US - 1)
            append_clicks(self._actions, clicks[minutes == minute, :3])

    def close(self) -> None:
        """See `DrillService`."""
        self._open.close()


def append_answers(
    log: ServedLog, asked: Asked, scorer: Scorer, *, bundle_id: str, correction_id: str | None, policy: Policy,
    set_time: Callable[[int], None],
) -> Answered:  # fmt: skip
    """Answer requests and write them down, as a server does.

    Args:
        log: Where.
        asked: Requests.
        scorer: Of the bundle, with its correction.
        bundle_id, correction_id: As the log names them.
        policy: That makes lists.
        set_time: Told the time of each request.
    """
    rows, promised, first = [], [], 0
    for batch in batches_of(asked.table, scorer.schema):
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
            set_time(time_us)
            log.append(
                ServedRequest(
                    request_id=request_id, member_id=int(batch.audit.member_ids_R[r]), time_us=time_us,
                    features=features, item_ids_K=items_K, places_n=places_n, propensities_n=ranked.propensities,
                    logits_KA=logits_KA, probabilities_KA=p_KA, bundle_id=bundle_id, correction_id=correction_id,
                    prices_micros_n=utilities_K[places_n].round().long(), audit={"bid_micros": bids_K},
                )
            )  # fmt: skip
            rows.append(first + places_n.numpy())
            promised.append(p_KA[places_n, 0].numpy())
            first += len(items_K)
    ids = frozenset() if correction_id is None else frozenset({correction_id})
    return Answered(np.concatenate(rows), np.concatenate(promised), ids)


def append_clicks(log: ActionLog, clicks: NDArray[np.int64]) -> None:
    """Write down clicks, as a server does.

    Args:
        log: Where.
        clicks: A row each: request, item, and when it was.
    """
    actions = [ReportedAction(request, item, "click", time_us) for request, item, time_us in clicks.tolist()]
    for begin in range(0, len(actions), _MOST):
        log.append(actions[begin : begin + _MOST])


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
