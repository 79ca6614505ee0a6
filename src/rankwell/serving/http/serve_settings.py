"""What a server is started with."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from rankwell.data.pseudonyms import read_key
from rankwell.ranking.policies import Policy, greedy
from rankwell.ranking.slot_exploration import SlotExploration
from rankwell.ranking.utility import Utility
from rankwell.serving.feature_defaults import FeatureDefaults
from rankwell.serving.feature_store import FeatureStore
from rankwell.serving.feature_table import open_feature_table
from rankwell.serving.http.server_state import ServerLimits
from rankwell.serving.http.tokens import Tokens
from rankwell.serving.live_bundles import LiveBundles
from rankwell.serving.loaded_bundle import LoadedBundle
from rankwell.serving.ranker import Ranker
from rankwell.serving.redis_features import RedisFeatures
from rankwell.serving.scorer import Scorer
from rankwell.serving.stored_columns import StoredColumns

__all__ = ["ServeSettings", "StoreSettings"]


@final
@dataclass(frozen=True, slots=True)
class StoreSettings:
    """Where features are looked up.

    Args:
        where: The folder of a feature table, or the URL of a Redis server.
        not_stored: Of Redis alone, as it was written; a table says so itself.
        deadline_ms: Of Redis alone.
    """

    where: str
    not_stored: tuple[str, ...] = ()
    deadline_ms: float = 3.0

    def open(self, bundle: LoadedBundle) -> FeatureStore:
        """The store of a bundle.

        Raises:
            FeatureStoreError: There is none, or it was written for another schema.
            SchemaError: A stored feature has no default.
        """
        if "://" not in self.where:
            return open_feature_table(self.where, bundle.schema, bundle.statistics)
        stored = StoredColumns(bundle.schema, self.not_stored)
        defaults = FeatureDefaults(bundle.schema, bundle.statistics)
        return RedisFeatures(self.where, stored, defaults, deadline_ms=self.deadline_ms)


@final
@dataclass(frozen=True, slots=True)
class ServeSettings:
    """All of it.

    Args:
        source: A `RolloutFolder`'s root, a deployment, or a bundle.
        host, port: Listened at; port 0: a free one.
        num_workers: Processes.
        num_threads: That one request is worked on by.
        store: Of features; None where requests carry all of them.
        log: Folder of what was served and of what followed; None: nothing is logged.
        log_sync_s: See `ServedLog`.
        tokens: Of clients.
        member_key: File of the pseudonyms' key, where requests carry raw member ids.
        action: That is ranked for; by default the schema's first.
        utility: What lists are sorted by; by default the probability of the action.
        exploration: The policy where there is a log to learn from; without one, lists are greedy.
        heads: A bundle whose heads of attention the page looks into, the one that is served; None for nothing.
        seed: Of what is drawn.
        limits: Of requests.
    """

    source: Path
    host: str = "127.0.0.1"
    port: int = 8000
    num_workers: int = 1
    num_threads: int = 1
    store: StoreSettings | None = None
    log: Path | None = None
    log_sync_s: float | None = None
    tokens: Tokens = field(default_factory=lambda: Tokens([]))
    member_key: Path | None = None
    action: str | None = None
    utility: Utility | None = None
    exploration: SlotExploration = field(default_factory=SlotExploration)
    heads: Path | None = None
    seed: int = 0
    limits: ServerLimits = field(default_factory=ServerLimits)

    @property
    def policy(self) -> Policy:
        """What makes lists."""
        return greedy if self.log is None else self.exploration

    def ranker(self, scorer: Scorer) -> Ranker:
        """The ranker of a scorer."""
        return Ranker(
            scorer, action=self.action, utility=self.utility, policy=self.policy, seed=self.seed,
            max_candidates=self.limits.max_candidates,
        )  # fmt: skip

    def live_bundles(self) -> LiveBundles:
        """What a worker answers with.

        Raises:
            RankwellError: A bundle, a store or a key cannot be read.
        """
        return LiveBundles(
            self.source,
            make_ranker=self.ranker,
            open_store=None if self.store is None else self.store.open,
            key=None if self.member_key is None else read_key(self.member_key),
            num_threads=self.num_threads,
        )
