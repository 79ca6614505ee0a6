"""One request in plain data into its answer in plain data, logged on the way; what a server does, without the server.

Letters: K candidates of the request · n ranked · A actions · S segment columns.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

from rankwell.calibration.segment_columns import segments_of
from rankwell.losses.label_smoothing import undo_label_smoothing
from rankwell.serving.live_bundles import LiveBundles, ServedBundle
from rankwell.serving.ranker import Ranking
from rankwell.serving.request_reader import ReadRequest
from rankwell.serving.served_log import ServedLog
from rankwell.serving.served_request import ServedRequest
from rankwell.serving.server_clock import ServerClock
from rankwell.types import Audit, Batch

__all__ = ["Answer", "RankService"]

_ID_BITS: Final = 53
"""Of request ids that are made here: JavaScript holds whole numbers up to 2^53."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What a request is answered with.

    Args:
        request_id, bundle_id, correction_id: Of the answer.
        is_logged: Whether the log holds it, whatever happens to this process; False, too, where nothing is logged.
        action: That was ranked for.
        ranking: The list, and the scores of all candidates.
        read: The request.
        bundle: That answered.
        seconds: By stage: read, score, rank, log.
    """

    request_id: int
    bundle_id: str
    correction_id: str | None
    is_logged: bool
    action: str
    ranking: Ranking
    read: ReadRequest
    bundle: ServedBundle
    seconds: Mapping[str, float]

    def columns(self) -> dict[str, Any]:
        """The list as columns of plain numbers, best first."""
        schema, ranked, places_n = self.bundle.bundle.schema, self.ranking.ranked, self.ranking.places_n
        p_nA = self.ranking.scores.probabilities_CA.numpy()[places_n]
        columns: dict[str, Any] = {
            "item_id": ranked.item_ids.tolist(),
            "place": places_n.tolist(),
            "position": list(range(1, len(places_n) + 1)),
            "propensity": ranked.propensities.tolist(),
            "utility": ranked.utilities.tolist(),
            "probability": {action.name: p_nA[:, a].tolist() for a, action in enumerate(schema.actions)},
        }
        bids_K = None if schema.bid is None else self.read.batch.audit.columns.get(schema.bid)
        if bids_K is not None:
            p_n = p_nA[:, schema.action_index(self.action)]
            columns["evc_micros"] = (bids_K.numpy()[places_n] * p_n).tolist()
        return columns

    def plain(self) -> dict[str, Any]:
        """All of it as plain data."""
        return {
            "request_id": self.request_id,
            "bundle_id": self.bundle_id,
            "correction_id": self.correction_id,
            "is_logged": self.is_logged,
            "action": self.action,
            "items": self.columns(),
            "num_missing": {"items": self.read.num_missing_items, "member": int(self.read.is_member_missing)},
            "num_cut_events": dict(self.ranking.num_cut_events),
        }


@final
class RankService:
    """Reads, ranks and logs requests, one at a time.

    Args:
        live: The bundles that answer.
        clock: When a request without a time was asked, and how long each stage took.
        log: Where answers are logged; None: nowhere.
    """

    def __init__(self, live: LiveBundles, *, clock: ServerClock, log: ServedLog | None = None) -> None:
        self.live, self._clock, self._log = live, clock, log

    def rank(self, request: Mapping[str, Any], *, length: int | None = None) -> Answer:
        """The answer to a request.

        Args:
            request: As `batch_from_request` takes it, less what the feature store knows. Without an id it gets one that
                was never used, without a time the present.
            length: How many to rank; by default all candidates.

        Raises:
            RequestError: It cannot be ranked.
        """
        started = self._clock.elapsed_s()
        now_us = self._clock.now_us()
        given = dict(request) if isinstance(request, Mapping) else request
        if isinstance(given, dict):
            if given.get("request_id") is None:
                given["request_id"] = secrets.randbits(_ID_BITS)
            if given.get("time_us") is None:
                given["time_us"] = now_us
        state = self.live.state
        read = state.current.reader.read(given)
        audit = read.batch.audit
        request_id, member_id = int(audit.request_ids_R[0]), int(audit.member_ids_R[0])
        served = state.answering(member_id, request_id)
        if served is not state.current and served.reader is not state.current.reader:
            read = served.reader.read(given)  # another bundle has other defaults
        was_read = self._clock.elapsed_s()
        ranker, correction_id = served.at(now_us)
        ranking = ranker.rank_batch(read.batch, length=length)
        was_ranked = self._clock.elapsed_s()
        is_logged = self._log is not None and self._log.append(
            _served_request(read.batch, ranking, served, correction_id)
        )
        was_logged = self._clock.elapsed_s()
        seconds = {"read": was_read - started, "rank": was_ranked - was_read, "log": was_logged - was_ranked}
        return Answer(
            request_id, served.bundle.id, correction_id, is_logged, ranker.action, ranking, read, served,
            seconds,
        )  # fmt: skip

    def shadow(self, answer: Answer) -> tuple[str, float] | None:
        """Score an answered request with the shadow, where it is drawn for that.

        Returns:
            The shadow's id, and the mean absolute difference of the probabilities of the action that was ranked for.
            None where there is no shadow for it.
        """
        served = self.live.state.shadowing(answer.request_id)
        if served is None:
            return None
        scores = served.bundle.scorer.score(answer.read.batch)
        a = served.bundle.schema.action_index(answer.action)
        apart_C = scores.probabilities_CA[:, a] - answer.ranking.scores.probabilities_CA[:, a]
        return served.bundle.id, float(apart_C.abs().mean())


def _prices(ranking: Ranking, served: ServedBundle, audit: Audit) -> NDArray[np.int64] | None:
    """The first price, bid × p, of what is listed where lists are sorted by bids; else nothing is sold."""
    utility, schema = served.ranker.utility, served.bundle.schema
    if utility is None or utility.bid_on is None or schema.bid is None:
        return None
    p_K = ranking.scores.probabilities_CA[:, schema.action_index(utility.bid_on)]
    evc_K = audit.columns[schema.bid].double() * p_K
    return np.asarray(evc_K.numpy()[ranking.places_n].round().astype(np.int64))


def _served_request(batch: Batch, ranking: Ranking, served: ServedBundle, correction_id: str | None) -> ServedRequest:
    audit, calibrate_by = batch.audit, served.bundle.scorer.calibrate_by
    return ServedRequest(
        request_id=int(audit.request_ids_R[0]),
        member_id=int(audit.member_ids_R[0]),
        time_us=int(audit.times_us_R[0]),
        features=batch.features,
        item_ids_K=audit.item_ids_C,
        places_n=ranking.places_n,
        propensities_n=ranking.ranked.propensities,
        logits_KA=undo_label_smoothing(ranking.scores.logits_CA, served.bundle.label_smoothing),
        probabilities_KA=ranking.scores.probabilities_CA,
        bundle_id=served.bundle.id,
        correction_id=correction_id,
        segments_KS=segments_of(batch, calibrate_by) if calibrate_by else None,
        prices_micros_n=_prices(ranking, served, audit),
        audit=audit.columns,
    )
