"""Requests by ids whose right answers are computed beforehand, and answers held against them.

Letters: K candidates of a request · A actions.
"""

from __future__ import annotations

import json
from collections.abc import Set
from pathlib import Path
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

from contenders.serving_world import NOW_US, feature_rows, served_schema
from rankwell.serving.correction import CorrectedScorer, Correction
from rankwell.serving.feature_defaults import FeatureDefaults
from rankwell.serving.feature_table import FeatureTable, write_feature_table
from rankwell.serving.loaded_bundle import load_bundle
from rankwell.serving.ranker import Ranker
from rankwell.serving.redis_features import RedisFeatures
from rankwell.serving.request_reader import RequestReader
from rankwell.serving.stored_columns import StoredColumns

__all__ = ["NOT_STORED", "KnownAnswers", "Live"]

NOT_STORED: Final = ("home", "job_place")
"""Places have no default unless one is declared, which Redis has no word for: requests bring them."""

Live = tuple[str, str | None, bool]
"""What an answer was made with: bundle, correction, and whether features were found (else all were defaults)."""

_TOLERANCE: Final = 1e-6
_NOBODY: Final = "redis://127.0.0.1:1"


@final
class KnownAnswers:
    """Requests, and what each bundle answers by the library alone: no server, no HTTP.

    Args:
        folder: Where the feature table is written.
        num: Requests.
        num_candidates: Of each.
        num_items, num_members: That the store knows.
    """

    def __init__(
        self, folder: Path, *, num: int, num_candidates: int, num_items: int = 5_000, num_members: int = 500
    ) -> None:
        self.features, self.stored = folder, StoredColumns(served_schema(), NOT_STORED)
        places = {f"{name}_{axis}" for name in NOT_STORED for axis in ("lat", "lon")}
        self.rows = {
            of: {name: values for name, values in table.items() if name not in places}
            for of, table in feature_rows(num_items, num_members).items()
        }
        write_feature_table(folder, self.stored, **self.rows)
        rng = np.random.default_rng(0)
        self.requests: list[dict[str, Any]] = [
            {
                "member_id": int(rng.integers(num_members)),
                "time_us": NOW_US,
                "context": {"home": [52.5, 13.4]},
                "candidates": {
                    "job": rng.choice(num_items, num_candidates, replace=False).tolist(),
                    "job_place": rng.uniform(-60, 60, (num_candidates, 2)).round(3).tolist(),
                },
            }
            for _ in range(num)
        ]
        self._right: dict[Live, list[NDArray[np.float64]]] = {}
        self.actions = [action.name for action in served_schema().actions]

    def body(self, number: int, request_id: int) -> bytes:
        """A request as JSON, under an id."""
        return json.dumps({"request_id": request_id, **self.requests[number]}).encode()

    def learn(self, deployment: Path, correction: Correction | None = None) -> str:
        """Compute what a deployment answers, with features and with defaults alone; its id."""
        bundle = load_bundle(deployment)
        ranker = Ranker(bundle.scorer if correction is None else CorrectedScorer(bundle.scorer, correction))
        defaults = FeatureDefaults(bundle.schema, bundle.statistics)
        stores = {
            True: FeatureTable(self.features, self.stored, defaults),
            False: RedisFeatures(_NOBODY, self.stored, defaults, deadline_ms=1.0),
        }
        for is_found, store in stores.items():
            with store:
                reader = RequestReader(bundle.schema, store=store)
                self._right[bundle.id, None if correction is None else correction.id, is_found] = [
                    ranker.rank_batch(reader.read({"request_id": 1, **request}).batch).scores.probabilities_CA.numpy()
                    for request in self.requests
                ]
        return bundle.id

    def live(self, answer: dict[str, Any]) -> Live:
        """What an answer says that it was made with."""
        found = answer["num_missing"] == {"items": 0, "member": 0}
        return answer["bundle_id"], answer["correction_id"], found

    def fault(self, number: int, request_id: int, content: bytes, live: Set[Live] | None = None) -> str | None:
        """What is wrong with an answer of status 200; None where it is right.

        Args:
            number, request_id: Of the request.
            content: The answer.
            live: What may have answered; None: anything that was learned.
        """
        try:
            answer = json.loads(content)
            right = self._right.get(self.live(answer))
            if right is None or (live is not None and self.live(answer) not in live):
                return f"by what was not live: {self.live(answer)}"
            items, asked_K = answer["items"], self.requests[number]["candidates"]["job"]
            if answer["request_id"] != request_id:
                return f"it is of request {answer['request_id']}"
            if not self.live(answer)[2] and answer["num_missing"] != {"items": len(asked_K), "member": 1}:
                return f"some features, and not others: {answer['num_missing']}"
            places_K = np.array(items["place"])
            if sorted(items["place"]) != list(range(len(asked_K))):
                return "it is no order of the candidates"
            if [asked_K[place] for place in items["place"]] != items["item_id"]:
                return "its items are not those at its places"
            found_KA = np.array([items["probability"][action] for action in self.actions]).T
            apart = float(np.abs(found_KA - right[number][places_K]).max())
        except (ValueError, KeyError, TypeError, IndexError) as error:
            return f"it is no answer: {error!r}"
        return None if apart <= _TOLERANCE else f"probabilities {apart:.2g} apart"
