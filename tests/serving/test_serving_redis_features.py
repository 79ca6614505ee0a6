from __future__ import annotations

import multiprocessing
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from feature_example import (
    DEFAULTS,
    NOW_US,
    SCHEMA,
    STATISTICS,
    STORED,
    assert_equal_columns,
    assert_equal_features,
    features_by_id,
    items_table,
    members_table,
    plain_features,
)
from redis_server import RedisServer, needs_redis

from rankwell.errors import FeatureStoreError, LogError, MissingExtraError
from rankwell.schema import Numeric
from rankwell.serving.feature_counts import LookUps
from rankwell.serving.feature_defaults import FeatureDefaults
from rankwell.serving.feature_table import FeatureTable, write_feature_table
from rankwell.serving.redis_connection import RedisAddress
from rankwell.serving.redis_features import RedisFeatures
from rankwell.serving.redis_rows import write_redis_features
from rankwell.serving.stored_columns import StoredColumns
from rankwell.types import MISSING_ID

pytestmark = needs_redis

ITEMS, MEMBERS = items_table(300, seed=1), members_table(80, seed=2)
ITEM_IDS = np.array(ITEMS["job"].to_pylist())
MEMBER_ID = MEMBERS["member_id"][0].as_py()
LONG_MS = 5_000.0
"""A deadline that nothing misses but what never comes."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Filled; tests leave it as it is."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    assert write_redis_features(server.url, STORED, items=ITEMS, members=MEMBERS) == 380
    yield server
    server.kill()


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[RedisServer]:
    """Filled; to be stopped and killed."""
    server = RedisServer(tmp_path)
    write_redis_features(server.url, STORED, items=ITEMS, members=MEMBERS)
    yield server
    server.kill()


@pytest.fixture
def store(server: RedisServer) -> Iterator[RedisFeatures]:
    with RedisFeatures(server.url, STORED, DEFAULTS, deadline_ms=LONG_MS) as store:
        yield store


def assert_all_defaults(store: RedisFeatures, item_ids_K: np.ndarray) -> None:
    member, candidates = store.features(MEMBER_ID, item_ids_K)
    assert member.is_missing
    assert candidates.is_missing_K.all()
    assert candidates.columns["job"].tolist() == item_ids_K.tolist()
    assert candidates.columns["age"].tolist() == [7.25] * len(item_ids_K)
    assert member.context["home"].tolist() == [[52.5, 13.25]]
    assert member.history["history"].at(NOW_US, SCHEMA.sequences[0], ingest_delay_s=2.5).offsets.tolist() == [0, 0]


def assert_all_found(store: RedisFeatures) -> None:
    member, candidates = store.features(MEMBER_ID, ITEM_IDS)
    assert not member.is_missing
    assert not candidates.is_missing_K.any()


@pytest.mark.parametrize("seed", range(20))
def test_a_request_of_ids_is_the_request_with_all_features(store: RedisFeatures, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, ITEMS.num_rows, seed)
    items, member = ITEMS.take(pa.array(rows, pa.int64())).to_pylist(), MEMBERS.slice(seed, 1).to_pylist()[0]
    match = rng.random(len(rows)).tolist()
    expected = plain_features(member, items, match)
    item_ids_K = np.array([item["job"] for item in items], np.int64)
    assert_equal_features(features_by_id(store, member["member_id"], item_ids_K, match), expected)


def test_it_gives_what_a_feature_table_gives(store: RedisFeatures, tmp_path: Path) -> None:
    write_feature_table(tmp_path, STORED, items=ITEMS, members=MEMBERS)
    table = FeatureTable(tmp_path, STORED, DEFAULTS)
    item_ids_K = np.concatenate([ITEM_IDS[::3], [5, 6], ITEM_IDS[:2]])  # some missing, some twice
    found, expected = store.candidates(item_ids_K), table.candidates(item_ids_K)
    assert found.is_missing_K.tolist() == expected.is_missing_K.tolist()
    assert found.columns.keys() == expected.columns.keys()
    for name, column in expected.columns.items():
        assert_equal_columns(found.columns[name], column, name)
    for member_id in (MEMBER_ID, 5, MISSING_ID):
        member, expected_member = store.member(member_id), table.member(member_id)
        assert member.is_missing == expected_member.is_missing
        for name, column in expected_member.context.items():
            assert_equal_columns(member.context[name], column, name)
    for counts in (store.counts, table.counts):
        assert counts.items == LookUps(104, num_missing=2)
        assert counts.members == LookUps(2, num_missing=1)


def test_nothing_asked_is_nothing_sent(tmp_path: Path) -> None:
    with RedisFeatures("redis://127.0.0.1:1", STORED, DEFAULTS, deadline_ms=50) as store:  # nobody is there
        member, candidates = store.features(MISSING_ID, np.zeros(0, np.int64))
        assert member.is_missing
        assert candidates.columns["given"].shape == (0, 3)
        assert store.counts.items == store.counts.members == LookUps()


def test_a_request_without_a_member_still_has_its_items(store: RedisFeatures) -> None:
    member, candidates = store.features(MISSING_ID, ITEM_IDS[:3])
    assert member.is_missing
    assert not candidates.is_missing_K.any()


def test_rows_of_another_schema_are_missing_and_never_misread(server: RedisServer) -> None:
    features = tuple(
        feature.model_copy(update={"name": "wage"}) if feature.name == "salary" else feature
        for feature in SCHEMA.features
    )
    other = SCHEMA.model_copy(update={"features": features})  # of one width with it, but for the name
    defaults = FeatureDefaults(other, STATISTICS, {"home": (0, 0), "office": (0, 0)})
    wider = SCHEMA.model_copy(update={"features": (*SCHEMA.features, Numeric(name="more", missing="indicator"))})
    for schema, default in (
        (other, defaults),
        (wider, FeatureDefaults(wider, STATISTICS, {"home": (0, 0), "office": (0, 0)})),
    ):
        with RedisFeatures(server.url, StoredColumns(schema, ("match",)), default, deadline_ms=LONG_MS) as store:
            assert store.candidates(ITEM_IDS[:4]).is_missing_K.all()
            assert store.counts.items == LookUps(4, num_missing=4)
            assert not store.member(MEMBER_ID).is_missing  # of which nothing was changed


def test_damaged_values_fail_by_themselves(own_server: RedisServer) -> None:
    def key_of(i: int) -> str:
        return f"rankwell:i:{ITEM_IDS[i]:016x}"

    with_list = next(i for i in range(8, 300) if ITEMS["wanted"][i].as_py())
    asked = [0, 1, 2, 3, 4, with_list, 6, 7]
    whole = {i: own_server.ask("GET", key_of(i)) for i in asked}
    damages = {
        0: lambda value: value[:-3],
        1: lambda value: value[:16],
        2: lambda value: value + bytes(8),
        3: lambda value: b"",
        4: lambda value: b"\xff" * len(value),
        with_list: lambda value: value[:-8],
    }
    for i, damage in damages.items():
        own_server.ask("SET", key_of(i), damage(whole[i]))
    with RedisFeatures(own_server.url, STORED, DEFAULTS, deadline_ms=LONG_MS) as store:
        found = store.candidates(ITEM_IDS[asked])
        assert found.is_missing_K.tolist() == [True] * 6 + [False] * 2
        assert found.columns["age"].tolist()[6:] == np.float32(ITEMS["age"].to_numpy()[6:8]).tolist()
        assert store.counts.items == LookUps(8, num_missing=2, num_failed=4)  # 3 and 4 have not the head of ours


def test_rows_are_forgotten_after_their_lifetime(own_server: RedisServer) -> None:
    write_redis_features(own_server.url, STORED, items=ITEMS.slice(0, 1), lifetime_s=77)
    assert own_server.ask("TTL", f"rankwell:i:{ITEM_IDS[0]:016x}") in (76, 77)
    assert own_server.ask("TTL", f"rankwell:i:{ITEM_IDS[1]:016x}") == -1


# --- a server that is slow, lost, or back ---


def test_a_stopped_server_is_late_and_waited_for_no_longer_than_the_deadline(own_server: RedisServer) -> None:
    with RedisFeatures(own_server.url, STORED, DEFAULTS, deadline_ms=40) as store:
        store.features(MEMBER_ID, ITEM_IDS[:1])  # connected
        own_server.stop()
        try:
            started = time.monotonic()
            for _ in range(3):
                assert_all_defaults(store, ITEM_IDS)
            waited_s = time.monotonic() - started
        finally:
            own_server.resume()
        assert waited_s < 3  # not the test's own time limit: a wait without an end
        assert (store.counts.items.num_late, store.counts.members.num_late) == (900, 3)
        assert store.counts.items.num_missing == store.counts.items.num_failed == 0


def test_a_paused_server_is_late_and_then_answers_the_request_that_asks(own_server: RedisServer) -> None:
    with RedisFeatures(own_server.url, STORED, DEFAULTS, deadline_ms=30) as hasty:
        hasty.candidates(ITEM_IDS[:1])
        own_server.ask("CLIENT", "PAUSE", "400", "ALL")
        assert_all_defaults(hasty, ITEM_IDS[:5])  # its answer comes late, and must not be taken for the next one's
        assert hasty.counts.items.num_late == 5
        with RedisFeatures(own_server.url, STORED, DEFAULTS, deadline_ms=LONG_MS) as patient:
            assert_all_found(patient)
        found = hasty.candidates(ITEM_IDS[10:13])
        if not found.is_missing_K.any():  # on a crowded machine 30 ms may be too short
            assert found.columns["age"].tolist() == np.float32(ITEMS["age"].to_numpy()[10:13]).tolist()


def test_a_server_that_trickles_is_late(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stop = threading.Event()

        def trickle() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1 << 16)
                while not stop.is_set():
                    try:
                        connection.sendall(b"*1" if not stop.wait(0.005) else b"")
                    except OSError:
                        return

        thread = threading.Thread(target=trickle)
        thread.start()
        url = f"redis://127.0.0.1:{listener.getsockname()[1]}"
        with RedisFeatures(url, STORED, DEFAULTS, deadline_ms=50) as store:
            assert store.candidates(ITEM_IDS[:2]).is_missing_K.all()
            assert store.counts.items == LookUps(2, num_late=2)
        stop.set()
        thread.join()


def test_a_server_that_does_not_speak_redis_fails(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        url = f"redis://127.0.0.1:{listener.getsockname()[1]}"
        with RedisFeatures(url, STORED, DEFAULTS, deadline_ms=LONG_MS) as store:
            assert store.candidates(ITEM_IDS[:2]).is_missing_K.all()
            assert store.counts.items == LookUps(2, num_failed=2)
        thread.join()


def test_a_killed_server_fails_and_a_restarted_one_is_found_again(own_server: RedisServer) -> None:
    now_us = [0]
    with RedisFeatures(own_server.url, STORED, DEFAULTS, deadline_ms=LONG_MS, now_us=lambda: now_us[0]) as store:
        assert_all_found(store)
        own_server.kill()
        for _ in range(3):
            assert_all_defaults(store, ITEM_IDS)
        assert (store.counts.items.num_failed, store.counts.members.num_failed) == (900, 3)
        own_server.start()
        write_redis_features(own_server.url, STORED, items=ITEMS, members=MEMBERS)
        assert_all_defaults(store, ITEM_IDS)  # nobody tries again so soon
        assert not store.refresh()
        now_us[0] += 100_001
        assert_all_found(store)


def test_a_restart_between_two_requests_is_not_noticed(own_server: RedisServer) -> None:
    with RedisFeatures(own_server.url, STORED, DEFAULTS, deadline_ms=LONG_MS) as store:
        assert_all_found(store)
        own_server.kill()
        own_server.start()
        write_redis_features(own_server.url, STORED, items=ITEMS, members=MEMBERS)
        assert_all_found(store)
        assert store.counts.items.num_failed == 0


def test_a_store_may_be_made_before_its_server_is(own_server: RedisServer) -> None:
    own_server.kill()
    now_us = [0]
    with RedisFeatures(own_server.url, STORED, DEFAULTS, deadline_ms=LONG_MS, now_us=lambda: now_us[0]) as store:
        assert_all_defaults(store, ITEM_IDS[:2])
        own_server.start()
        write_redis_features(own_server.url, STORED, items=ITEMS, members=MEMBERS)
        now_us[0] += 100_001
        assert_all_found(store)


def test_passwords_are_asked_for_and_never_shown(tmp_path: Path) -> None:
    server = RedisServer(tmp_path, "--requirepass", "hush")
    try:
        with RedisFeatures(server.url, STORED, DEFAULTS, deadline_ms=LONG_MS) as store:
            assert_all_defaults(store, ITEM_IDS[:2])
            assert store.counts.items.num_failed == 2
        url = server.url.replace("redis://", "redis://default:hush@")
        write_redis_features(url, STORED, items=ITEMS, members=MEMBERS)
        with RedisFeatures(url, STORED, DEFAULTS, deadline_ms=LONG_MS) as store:
            assert_all_found(store)
        with pytest.raises(FeatureStoreError) as caught:
            write_redis_features(url.replace("hush", "shout"), STORED, items=ITEMS)
        assert "shout" not in str(caught.value)
        with pytest.raises(FeatureStoreError):
            write_redis_features(server.url, STORED, items=ITEMS)
    finally:
        server.kill()
    assert "hush" not in repr(RedisAddress.of(url))


# --- threads and processes ---


def test_threads_get_their_own_answers(store: RedisFeatures) -> None:
    age_of = dict(zip(ITEM_IDS.tolist(), np.float32(ITEMS["age"].to_numpy()).tolist(), strict=True))
    wrong: list[int] = []

    def ask(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(40):
            asked = rng.choice(ITEM_IDS, 20)
            if store.candidates(asked).columns["age"].tolist() != [age_of[item] for item in asked.tolist()]:
                wrong.append(seed)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert store.counts.items == LookUps(6 * 40 * 20)


def test_a_fork_asks_by_connections_of_its_own(store: RedisFeatures) -> None:
    age_of = dict(zip(ITEM_IDS.tolist(), np.float32(ITEMS["age"].to_numpy()).tolist(), strict=True))
    store.candidates(ITEM_IDS[:1])

    def ask(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(30):
            asked = rng.choice(ITEM_IDS, 5)
            if store.candidates(asked).columns["age"].tolist() != [age_of[item] for item in asked.tolist()]:
                sys.exit(1)

    context = multiprocessing.get_context("fork")
    children = [context.Process(target=ask, args=(seed,)) for seed in range(3)]
    for child in children:
        child.start()
    ask(9)
    for child in children:
        child.join()
        assert child.exitcode == 0


# --- bad input ---


@pytest.mark.parametrize(
    "url", ["http://a", "redis://", "redis://a:b", "redis://a:99999", "redis://a/x", "unix://", ""]
)
def test_urls_that_are_none_are_refused(url: str) -> None:
    with pytest.raises(FeatureStoreError, match="no address"):
        RedisAddress.of(url)


@pytest.mark.parametrize("deadline_ms", [0.0, -1.0, float("nan"), float("inf")])
def test_deadlines_that_are_none_are_refused(server: RedisServer, deadline_ms: float) -> None:
    with pytest.raises(FeatureStoreError, match="deadline"):
        RedisFeatures(server.url, STORED, DEFAULTS, deadline_ms=deadline_ms)


def test_items_that_stand_twice_are_refused_before_anything_is_written(own_server: RedisServer) -> None:
    own_server.ask("FLUSHALL")
    with pytest.raises(LogError, match="twice"):
        write_redis_features(own_server.url, STORED, items=pa.concat_tables([ITEMS, ITEMS]))
    assert own_server.ask("DBSIZE") == 0


def test_nobody_to_write_to(own_server: RedisServer) -> None:
    own_server.kill()
    with pytest.raises(FeatureStoreError, match="cannot be written"):
        write_redis_features(own_server.url, STORED, items=ITEMS, timeout_s=1.0)


def test_without_the_client_the_error_says_what_to_install(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "hiredis", None)
    with pytest.raises(MissingExtraError, match=r"rankwell\[stores\]"):
        RedisFeatures(server.url, STORED, DEFAULTS, deadline_ms=1.0)
