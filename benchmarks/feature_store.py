"""Features by id: what a request of 500 candidates waits for, from files that are mapped and from Redis.

An item has five ids, three numbers, a place and a bag of 0 … 5 ids: ten columns. A member has five ids, three numbers
and a history of 60 events of two fields, of which 50 are read. Each request asks for a member and candidates of its
own, drawn evenly from all, so that hardly anything it reads is in the processor's caches. Redis is a server of the
benchmark's own on the same machine, where there is a `redis-server`; there a request is one round trip.

    python benchmarks/feature_store.py [--json FILE] [--items N] [--members N] [--requests N]
"""

from __future__ import annotations

import argparse
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from contenders.findings import Findings
from rankwell.schema import Action, Bag, Categorical, Numeric, Place, Schema, Sequence
from rankwell.serving.feature_defaults import FeatureDefaults
from rankwell.serving.feature_store import FeatureStore
from rankwell.serving.feature_table import FeatureTable, write_feature_table
from rankwell.serving.redis_features import RedisFeatures
from rankwell.serving.redis_rows import write_redis_features
from rankwell.serving.stored_columns import StoredColumns

NUM_CANDIDATES, NUM_EVENTS, NOW_US = 500, 60, 1_700_000_000_000_000
HISTORY = Sequence(
    name="history", fields=(Categorical(name="item", on="event"), Categorical(name="kind", on="event")), max_length=50
)
SCHEMA = Schema(
    features=(
        Categorical(name="job"),
        *(Categorical(name=f"id_{i}", num_ids=100) for i in range(5)),
        *(Numeric(name=f"number_{i}") for i in range(3)),
        Place(name="office"),
        Bag(name="skills"),
        *(Categorical(name=f"member_id_{i}", on="request", num_ids=100) for i in range(5)),
        *(Numeric(name=f"member_number_{i}", on="request") for i in range(3)),
    ),
    actions=(Action(name="click"),),
    sequences=(HISTORY,),
    item="job",
)
STORED = StoredColumns(SCHEMA)
NUMBERS = [feature.name for feature in SCHEMA.features if isinstance(feature, Numeric)]
DEFAULTS = FeatureDefaults(SCHEMA, declared={**dict.fromkeys(NUMBERS, 0.0), "office": (0.0, 0.0)})


def items(num_items: int, rng: np.random.Generator) -> dict[str, Any]:
    """Items of ids far apart."""
    ends = np.concatenate([[0], np.cumsum(rng.integers(0, 6, num_items))])
    return {
        "job": rng.choice(2**40, num_items, replace=False),
        **{f"id_{i}": rng.integers(0, 100, num_items) for i in range(5)},
        **{f"number_{i}": rng.random(num_items, dtype=np.float32) for i in range(3)},
        "office_lat": rng.uniform(-60, 60, num_items),
        "office_lon": rng.uniform(-180, 180, num_items),
        "skills": pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(rng.integers(0, 100, ends[-1]))),
    }


def members(num_members: int, rng: np.random.Generator) -> dict[str, Any]:
    """Members 0 … n - 1."""
    ends = pa.array(np.arange(num_members + 1) * NUM_EVENTS, pa.int32())
    ages_us = np.sort(rng.integers(1, 10**12, (num_members, NUM_EVENTS)), axis=1)[:, ::-1]

    def lists(values: np.ndarray) -> pa.Array:
        return pa.ListArray.from_arrays(ends, pa.array(values.ravel()))

    return {
        "member_id": np.arange(num_members),
        **{f"member_id_{i}": rng.integers(0, 100, num_members) for i in range(5)},
        **{f"member_number_{i}": rng.random(num_members, dtype=np.float32) for i in range(3)},
        "history_item": lists(rng.integers(0, 2**40, ages_us.shape)),
        "history_kind": lists(rng.integers(0, 3, ages_us.shape)),
        "history_time_us": lists(NOW_US - ages_us),
    }


def microseconds(step: Callable[[int], object], num_requests: int) -> np.ndarray:
    """What each request takes; those of a warm-up before are not counted."""
    taken = np.zeros(num_requests)
    for i in range(-min(50, num_requests), num_requests):
        started = time.perf_counter()
        step(i)
        if i >= 0:
            taken[i] = 1e6 * (time.perf_counter() - started)
    return taken


def ask(findings: Findings, name: str, store: FeatureStore, item_ids: np.ndarray, given: argparse.Namespace) -> None:
    """Requests one after the other; of each kind its median, P95 and P99."""
    rng = np.random.default_rng(1)
    asked = rng.choice(item_ids, (given.requests, NUM_CANDIDATES))
    asking = rng.integers(0, given.members, given.requests).tolist()

    def history(i: int) -> object:
        return store.member(asking[i]).history["history"].at(NOW_US, HISTORY, ingest_delay_s=0.0)

    def whole(i: int) -> object:
        member, _ = store.features(asking[i], asked[i])
        return member.history["history"].at(NOW_US, HISTORY, ingest_delay_s=0.0)

    kinds: tuple[tuple[str, Callable[[int], object], float | None], ...] = (
        (
            f"{NUM_CANDIDATES} candidates × 10 columns",
            lambda i: store.candidates(asked[i]),
            1_000.0 if name == "files" else None,
        ),
        ("a member and the history", history, None),
        ("both at once", whole, None),
    )
    for kind, step, at_most in kinds:
        taken = microseconds(step, given.requests)
        findings.add(f"{name}: {kind}, median", float(np.median(taken)), "µs", at_most=at_most)
        findings.add(f"{name}: {kind}, P95", float(np.percentile(taken, 95)), "µs")
        findings.add(f"{name}: {kind}, P99", float(np.percentile(taken, 99)), "µs")
    assert store.counts.items.num_missing == store.counts.items.num_failed == store.counts.items.num_late == 0


def from_redis(findings: Findings, binary: str, folder: str, rows: dict[str, Any], given: argparse.Namespace) -> None:
    """The same from a server of our own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", folder]
    server = subprocess.Popen([binary, *options], stdout=subprocess.DEVNULL)
    try:
        for _ in range(500):
            time.sleep(0.01)
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
        url = f"redis://127.0.0.1:{port}"
        started = time.perf_counter()
        num_rows = write_redis_features(url, STORED, **rows)
        findings.add("Redis: rows written a second", num_rows / (time.perf_counter() - started))
        with RedisFeatures(url, STORED, DEFAULTS, deadline_ms=1_000) as store:
            ask(findings, "Redis", store, rows["items"]["job"], given)
    finally:
        server.terminate()
        server.wait()


def main() -> None:
    """Fill both, ask both, print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--json", type=Path, help="write the numbers to this file")
    arguments.add_argument("--items", type=int, default=10**6)
    arguments.add_argument("--members", type=int, default=10**5)
    arguments.add_argument("--requests", type=int, default=3_000)
    given = arguments.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    rows = {"items": items(given.items, rng), "members": members(given.members, rng)}
    findings = Findings(f"features by id: {given.items:,} items, {given.members:,} members, one thread")
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        version = write_feature_table(folder, STORED, **rows)
        findings.add("files: rows written a second", (given.items + given.members) / (time.perf_counter() - started))
        findings.add("files: size", sum(file.stat().st_size for file in version.iterdir()) / 2**20, "MiB")
        started = time.perf_counter()
        with FeatureTable(folder, STORED, DEFAULTS) as store:
            findings.add("files: a version checked and opened", time.perf_counter() - started, "s")
            ask(findings, "files", store, rows["items"]["job"], given)
        binary = shutil.which("redis-server")
        if binary is not None:
            from_redis(findings, binary, folder, rows, given)
    findings.print()
    findings.write(given.json)


if __name__ == "__main__":
    main()
