"""The bundles that a worker process answers with, exchanged between requests.

`poll` is called each second, beside the requests. It loads, checks and warms up what is new, and then puts it in place
by one assignment: a request is answered by the state that it began with. What is refused stays out, is said in
`problems`, and is not looked at again until it changes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, final

import numpy as np

from rankwell.data.pseudonyms import PseudonymKey
from rankwell.data.replay import request_of_batch
from rankwell.errors import RankwellError
from rankwell.serving.correction import CORRECTIONS, CorrectedScorer, Correction, read_correction
from rankwell.serving.example_request import example_request, most_events
from rankwell.serving.feature_store import FeatureStore
from rankwell.serving.loaded_bundle import LoadedBundle, load_bundle
from rankwell.serving.ranker import Ranker
from rankwell.serving.request_reader import RequestReader
from rankwell.serving.rollout import Rollout, RolloutFolder, Trial
from rankwell.serving.scorer import Scorer
from rankwell.tables.hashing import mix64, name_salt
from rankwell.types import MISSING_ID

__all__ = ["LiveBundles", "LiveState", "ServedBundle"]

_CANARY: Final = np.uint64(name_salt("members of a canary"))
_WARM_UPS: Final = 3
_SHADOW: Final = np.uint64(name_salt("requests of a shadow"))
_Signature = tuple[int, int, int] | None


@final
@dataclass(frozen=True, slots=True, eq=False)
class ServedBundle:
    """A bundle with all that turns its requests into answers.

    Args:
        bundle: What was loaded.
        reader: Of its requests.
        ranker: Its own.
        store: That the reader looks features up in.
        corrected: The correction that stands beside it, and the ranker that applies it.
    """

    bundle: LoadedBundle
    reader: RequestReader
    ranker: Ranker
    store: FeatureStore | None
    corrected: tuple[Correction, Ranker] | None = None

    def at(self, now_us: int) -> tuple[Ranker, str | None]:
        """The ranker that answers at a time, and the id of the correction that it applies."""
        if self.corrected is not None:
            correction, ranker = self.corrected
            if correction.applies(bundle_id=self.bundle.id, now_us=now_us):
                return ranker, correction.id
        return self.ranker, None


@final
@dataclass(frozen=True, slots=True, eq=False)
class LiveState:
    """Who answers what, exchanged as one.

    Args:
        current: Answers.
        canary, canary_share: Answers this share of the members in its place.
        shadow, shadow_share: Scores this share of the requests, unseen.
        problems: What was refused, by what it is: a sentence.
    """

    current: ServedBundle
    canary: ServedBundle | None = None
    canary_share: float = 0.0
    shadow: ServedBundle | None = None
    shadow_share: float = 0.0
    problems: Mapping[str, str] = field(default_factory=dict)

    def answering(self, member_id: int, request_id: int) -> ServedBundle:
        """The canary for its share of the members (of the requests, where they have no member), else the current one.

        It is the same for a member each time, on every worker, for as long as the share does not shrink.
        """
        if self.canary is None:
            return self.current
        drawn = member_id if member_id != MISSING_ID else request_id
        return self.canary if _is_drawn(drawn, _CANARY, self.canary_share) else self.current

    def shadowing(self, request_id: int) -> ServedBundle | None:
        """The shadow, where it is to score the request too."""
        return self.shadow if _is_drawn(request_id, _SHADOW, self.shadow_share) else None


def _is_drawn(key: int, salt: np.uint64, share: float) -> bool:
    return int(mix64(np.uint64(key % 2**64) ^ salt)) < round(share * 2**64)


@final
class LiveBundles:
    """Keeps the bundles of a worker up to date with a folder.

    Args:
        source: A `RolloutFolder`'s root, or one bundle, which never changes. A correction file stands in it.
        make_ranker: The ranker of a scorer: policy, utility, limits and seed are its matter.
        open_store: The feature store of a bundle; None where requests carry all features.
        key: Of the members' pseudonyms, where requests carry raw ids.
        num_threads: That one request is worked on by.

    Raises:
        BundleError: Neither the current bundle nor the one before can be served.
    """

    def __init__(
        self,
        source: str | Path,
        *,
        make_ranker: Callable[[Scorer], Ranker],
        open_store: Callable[[LoadedBundle], FeatureStore] | None = None,
        key: PseudonymKey | None = None,
        num_threads: int = 1,
    ) -> None:
        self._source, self._folder = Path(source), RolloutFolder(source)
        self._make_ranker, self._open_store, self._key = make_ranker, open_store, key
        self._num_threads = num_threads
        self._served: dict[Path, ServedBundle] = {}
        self._refused: dict[Path, tuple[_Signature, str]] = {}
        self._correction: tuple[_Signature, Correction | None, str] = (None, None, "")
        self._blended: tuple[str, Scorer] | None = None
        self._retired: list[FeatureStore] = []
        self._lock = threading.Lock()
        self._is_rollout = self._folder.is_there
        self._rollout = self._folder.read() if self._is_rollout else None
        self._state = self._first()

    @property
    def state(self) -> LiveState:
        """What answers now."""
        return self._state

    @property
    def has_key(self) -> bool:
        """Whether member ids of requests are raw."""
        return self._key is not None

    @property
    def folder(self) -> RolloutFolder | None:
        """The folder whose pointer is followed; None where one bundle is served."""
        return self._folder if self._is_rollout else None

    def poll(self) -> bool:
        """Look for what is new, and put it in place.

        Returns:
            Whether something changed.
        """
        with self._lock:
            before = self._state
            problems: dict[str, str] = {}
            current, rollout = before.current, self._read_pointer(problems)
            if rollout is not None:
                current = self._served_or_none(self._folder.path_of(rollout.current), "current", problems) or current
            canary, shadow = (
                self._of_trial(getattr(rollout, role, None), role, problems, current) for role in ("canary", "shadow")
            )
            correction = self._read_correction(problems)
            current = self._corrected(current, correction, problems)
            canary = None if canary is None else self._corrected(canary, correction, problems)
            for served in (current, canary, shadow):
                self._refresh(served, problems)
            self._state = LiveState(
                current,
                canary,
                rollout.canary.share if rollout is not None and rollout.canary is not None else 0.0,
                shadow,
                rollout.shadow.share if rollout is not None and rollout.shadow is not None else 0.0,
                problems,
            )
            self._forget(current, canary, shadow)
            return _names(before) != _names(self._state)

    def close(self) -> None:
        """Give back what the stores hold; nothing may be asked after."""
        with self._lock:
            for store in (*self._retired, *(served.store for served in self._served.values())):
                if store is not None:
                    store.close()

    # --- loading

    def _first(self) -> LiveState:
        problems: dict[str, str] = {}
        if self._rollout is None:
            current = self._load(self._source)
        else:
            try:
                current = self._load(self._folder.path_of(self._rollout.current))
            except RankwellError:
                if self._rollout.previous is None:
                    raise
                current = self._load(self._folder.path_of(self._rollout.previous))
        self._state = LiveState(current, problems=problems)
        self.poll()
        return self._state

    def _load(self, path: Path) -> ServedBundle:
        found = self._served.get(path)
        if found is None:
            bundle = load_bundle(path, num_threads=self._num_threads)
            if hasattr(self, "_state"):
                bundle.check_schema(self._state.current.bundle.schema)
            store = None if self._open_store is None else self._open_store(bundle)
            reader = RequestReader(bundle.schema, store=store, key=self._key)
            found = ServedBundle(bundle, reader, self._make_ranker(bundle.scorer), store)
            _warm_up(found)
            self._served[path] = found
        return found

    def _served_or_none(self, path: Path, role: str, problems: dict[str, str]) -> ServedBundle | None:
        signature = _signature(path / "manifest.json")
        refused = self._refused.get(path)
        if refused is not None and refused[0] == signature:
            problems[role] = refused[1]
            return None
        try:
            return self._load(path)
        except RankwellError as error:
            problems[role] = f"{path.name} is refused: {error}"
            self._refused[path] = signature, problems[role]
            return None

    def _of_trial(
        self, trial: Trial | None, role: str, problems: dict[str, str], current: ServedBundle
    ) -> ServedBundle | None:
        if trial is None:
            return None
        path = self._folder.path_of(trial.bundle_id)
        return current if trial.bundle_id == current.bundle.id else self._served_or_none(path, role, problems)

    def _read_pointer(self, problems: dict[str, str]) -> Rollout | None:
        if self._is_rollout:
            try:
                self._rollout = self._folder.read()
            except RankwellError as error:
                problems["rollout"] = str(error)
        return self._rollout

    def _forget(self, *used: ServedBundle | None) -> None:
        kept = {id(served.bundle) for served in used if served is not None}
        for store in self._retired:  # since the last time, whoever still read from it has ended
            store.close()
        dropped = [served for served in self._served.values() if id(served.bundle) not in kept]
        self._retired = [served.store for served in dropped if served.store is not None]
        self._served = {path: served for path, served in self._served.items() if id(served.bundle) in kept}

    # --- what stands beside a bundle

    def _read_correction(self, problems: dict[str, str]) -> Correction | None:
        path = self._source / CORRECTIONS
        signature = _signature(path)
        if signature != self._correction[0]:
            try:
                self._correction = (signature, None if signature is None else read_correction(path), "")
            except RankwellError as error:
                self._correction = (signature, None, str(error))
        if self._correction[2]:
            problems["correction"] = self._correction[2]
        return self._correction[1]

    def _corrected(self, served: ServedBundle, correction: Correction | None, problems: dict[str, str]) -> ServedBundle:
        if correction is not None and correction.bundle_id not in (None, served.bundle.id):
            correction = None
        if (None if served.corrected is None else served.corrected[0]) == correction:
            return served
        corrected = None
        if correction is not None:
            try:
                other = self._other(correction, served)
                scorer = CorrectedScorer(served.bundle.scorer, correction, other)
                corrected = correction, self._make_ranker(scorer)
            except RankwellError as error:
                problems["correction"] = str(error)
                self._correction = (self._correction[0], None, str(error))
        again = ServedBundle(served.bundle, served.reader, served.ranker, served.store, corrected)
        for path, known in self._served.items():
            if known.bundle is served.bundle:
                self._served[path] = again
        return again

    def _other(self, correction: Correction, served: ServedBundle) -> Scorer | None:
        if correction.blend is None:
            return None
        path = str(self._source / correction.blend.bundle)
        if self._blended is None or self._blended[0] != path:
            bundle = load_bundle(path, num_threads=self._num_threads)
            bundle.check_schema(served.bundle.schema)
            self._blended = path, bundle.scorer
        return self._blended[1]

    def _refresh(self, served: ServedBundle | None, problems: dict[str, str]) -> None:
        if served is not None and served.store is not None:
            try:
                served.store.refresh()
            except RankwellError as error:
                problems["features"] = str(error)


def _warm_up(served: ServedBundle) -> None:
    """Go the way of a request a few times, so that the first one finds everything compiled and in memory."""
    schema, statistics = served.bundle.schema, served.bundle.statistics
    num_events = min(20, most_events(schema))
    for seed in range(_WARM_UPS):
        example = example_request(schema, statistics, num_candidates=50, num_events=num_events, seed=seed)
        with suppress(RankwellError):  # one that is made up may lack what this server asks for: a bid, a member
            served.ranker.rank_batch(served.reader.read(request_of_batch(example, 0, schema)).batch, length=10)
        if served.store is not None:
            served.store.features(seed, example.audit.item_ids_C.numpy())


def _signature(path: Path) -> _Signature:
    """What changes when a file is replaced; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _names(state: LiveState) -> tuple[object, ...]:
    """What tells two states apart to those who look on."""
    correction = None if state.current.corrected is None else state.current.corrected[0].id
    trials = (state.canary, state.canary_share, state.shadow, state.shadow_share)
    named = (one.bundle.id if isinstance(one, ServedBundle) else one for one in trials)
    return (state.current.bundle.id, correction, *named, tuple(sorted(state.problems.items())))
