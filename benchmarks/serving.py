"""Requests over HTTP, under load that does not wait for answers: `rankwell serve` beside a FastAPI handler in PyTorch.

500 candidates by id, a member by id, both found in the feature store, 50 events, 2 layers of width 64, 2 actions;
candidates that do not see each other ("history"), that all do ("full"), and 2,000 of which each sees the nearest 50
("local"). The best 50 come back with both probabilities, and our answers are logged. The server has one core and the
client another. Requests are due at random moments (Poisson), so that some wait for others; beside it, P95 where they
come evenly spaced. Latencies count from the moment a request was due; a figure is the median over runs. The highest
rate is the last of a bisection at which P99 stays within 50 ms and every request is answered. FastAPI runs in an
environment of its own under out/peers, built at the first call, on a core of its own at a time of its own.

    python benchmarks/serving.py [--json FILE] [--requests N] [--runs N] [--cases history full local]
        [--products float32|int8] [--without-peers] [--overload-s 60]

With `--products int8` the graphs are those that `rankwell fit-budget` tries and keeps where they are faster and cost no
accuracy: weights of products as int8, activations scaled as they come.


A figure from 10,000 requests at 20 a second takes 8 minutes; --requests and --runs make it shorter, and say less of
P99. A server that cannot answer one request by itself within 50 ms holds no rate; what it answers in a second, however
late, stands in its place.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import numpy as np

from contenders.environment import python_of
from contenders.findings import Findings
from contenders.open_loop import Load, drive
from contenders.serving_world import NOW_US, bundle_of, write_store
from rankwell.serving.bundle import write_bundle
from rankwell.serving.deployment import write_deployment
from rankwell.serving.quantised_graph import dynamic_int8_graph
from rankwell.serving.request_graph import request_graph
from rankwell.tables.native import native

NUM_ITEMS, NUM_MEMBERS = 100_000, 20_000
CASES = {"history": (500, 5.0, 10.0), "full": (500, 15.0, None), "local": (2000, 35.0, None)}
"""Candidates, and the P95 and P99 that are asked for at 20 requests a second, in ms."""
RATE, P99_MS, NUM_SHOWN = 20.0, 50.0, 50
NAMES = {"once": "once a request", "per_candidate": "once a candidate"}
HERE = Path(__file__).parent
SERVER_CORE, CLIENT_CORE = 0, 1


def bodies(num: int, num_candidates: int) -> list[bytes]:
    """Requests by ids alone."""
    rng = np.random.default_rng(1)
    return [
        json.dumps(
            {
                "member_id": int(rng.integers(NUM_MEMBERS)),
                "time_us": NOW_US,
                "candidates": {"job": rng.choice(NUM_ITEMS, num_candidates, replace=False).tolist()},
                "length": NUM_SHOWN,
            }
        ).encode()
        for _ in range(num)
    ]


@contextmanager
def serving(command: Sequence[str], port: int, ready: str, environment: dict[str, str]) -> Iterator[int]:
    """A server on its core, until it answers; its process id."""
    command = ["taskset", "-c", str(SERVER_CORE), *command]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1", **environment})
    try:
        for _ in range(1200):
            time.sleep(0.1)
            if process.poll() is not None:
                raise SystemExit(f"the server ended with {process.returncode}: {' '.join(command)}")
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}{ready}", timeout=1) as answer:
                    if answer.status == 200:
                        break
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                continue
        yield process.pid
    finally:
        process.terminate()
        process.wait(timeout=60)


@contextmanager
def ours(folder: Path, kind: str) -> Iterator[tuple[int, int]]:
    """`rankwell serve` of a case; the port, and the process."""
    port = free_port()
    command = [
        str(Path(sys.executable).parent / "rankwell"), "serve", str(folder / kind), "--port", str(port),
        "--features", str(folder / "features"), "--log", str(folder / f"log-{kind}-{port}"), "--max-candidates", "2000",
        "--deadline-ms", "50",
    ]  # fmt: skip
    with serving(command, port, "/v2/health/ready", {}) as process:
        yield port, process


@contextmanager
def theirs(folder: Path, way: str) -> Iterator[int]:
    """FastAPI with the same model; the port."""
    port = free_port()
    command = [str(python_of("fastapi")), str(HERE / "contenders" / "fastapi_server.py"), str(folder / "bundle"), way]
    # the project's own build of the tables' extension: the peer is to be slow for reasons of its own alone
    environment = {"PYTHONPATH": str(HERE.parent / "src"), "RANKWELL_NATIVE": getattr(native, "__file__", "0")}
    with serving([*command, str(port)], port, "/openapi.json", environment):
        yield port


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def highest_rate(port: int, asked: Sequence[bytes], *, start: float, num: int) -> float:
    """The highest rate that is held; found by doubling and then halving the gap, to 5 %."""

    def holds(rate: float) -> bool:
        load = drive(port, asked, rate=rate, num=min(num, max(100, int(rate * 10))), seed=int(rate * 10))
        print(f"  {rate:.1f}/s: P99 {load.percentile(99):.1f} ms, {dict(load.statuses)}", file=sys.stderr, flush=True)
        return load.statuses[200] == sum(load.statuses.values()) and load.percentile(99) <= P99_MS

    low, high = 0.0, start
    while holds(high):
        low, high = high, high * 2
    while high - low > max(0.05 * high, 0.5):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def measure_latency(
    findings: Findings, name: str, port: int, asked: Sequence[bytes], case: str, given: argparse.Namespace
) -> None:
    """P50, P95 and P99 at 20 requests a second."""
    _, p95_ms, p99_ms = CASES[case]
    runs: list[Load] = [drive(port, asked, rate=RATE, num=given.requests, seed=run) for run in range(given.runs)]
    failed = sum(sum(run.statuses.values()) - run.statuses[200] for run in runs)
    print(f"{name}: P95 {[round(run.percentile(95), 2) for run in runs]}", file=sys.stderr, flush=True)
    for q, at_most in ((50, None), (95, p95_ms), (99, p99_ms)):
        findings.add(f"{name}: P{q} at 20/s", median(run.percentile(q) for run in runs), "ms", at_most=at_most)
    even = drive(port, asked, rate=RATE, num=given.requests, seed=None)
    findings.add(f"{name}: P95 at 20/s, evenly spaced", even.percentile(95), "ms")
    findings.add(f"{name}: requests not answered", failed, at_most=0)
    findings.add(f"{name}: the client's own lateness, P99", median(run.lateness_ms for run in runs), "ms")


def memory_mib(process: int) -> float:
    """What a server and its workers hold, each for itself, in MiB: rows that are mapped from files are not in it."""
    found = [process, *map(int, Path(f"/proc/{process}/task/{process}/children").read_text().split())]
    lines = [line for one in found for line in Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Dirty", "Private_Clean"))) / 1024


def overload(findings: Findings, port: int, process: int, asked: Sequence[bytes], rate: float, seconds: float) -> None:
    """Ten times what it holds: a third of the time, and then the rest, in which memory is to grow no more."""
    drive(port, asked, rate=10 * rate, num=int(10 * rate * seconds / 3), seed=5)
    before = memory_mib(process)
    load = drive(port, asked, rate=10 * rate, num=int(10 * rate * seconds * 2 / 3), seed=3)
    findings.add("10 × overload: memory at a third of it", before, "MiB")
    findings.add("10 × overload: memory at its end", memory_mib(process), "MiB", at_most=1.05 * before)
    num = sum(load.statuses.values())
    findings.add("10 × overload: accepted", load.statuses[200] / num)
    findings.add("10 × overload: P99 of those accepted", load.percentile(99), "ms", at_most=2 * P99_MS)
    shed = load.statuses[503] + load.statuses[429]
    findings.add("10 × overload: shed (429, 503)", shed / num)
    findings.add("10 × overload: neither", (num - shed - load.statuses[200]) / num, at_most=0)
    time.sleep(2)
    after = drive(port, asked, rate=RATE, num=200, seed=4)
    findings.add("2 s after overload: P95 at 20/s", after.percentile(95), "ms", at_most=CASES["history"][1] * 2)
    findings.add("2 s after overload: not answered", 200 - after.statuses[200], at_most=0)


def main() -> None:
    """Write what is served, serve it, ask, print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--json", type=Path, help="write the numbers to this file")
    arguments.add_argument("--requests", type=int, default=10_000)
    arguments.add_argument("--runs", type=int, default=5)
    arguments.add_argument("--cases", nargs="*", choices=list(CASES), default=list(CASES))
    arguments.add_argument("--products", choices=["float32", "int8"], default="float32", help="of our graphs")
    arguments.add_argument("--without-peers", action="store_true", help="no FastAPI")
    arguments.add_argument("--overload-s", type=float, default=60.0)
    given = arguments.parse_args()
    os.sched_setaffinity(0, {CLIENT_CORE % (os.cpu_count() or 1)})
    findings = Findings(f"ranking over HTTP, one core for the server and one for the client; {given.products} products")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_store(folder / "features", NUM_ITEMS, NUM_MEMBERS)
        rates = {}
        for case in given.cases:
            bundle = bundle_of(case)
            graph = request_graph(bundle)
            write_deployment(
                bundle, folder / case, graph=dynamic_int8_graph(graph) if given.products == "int8" else graph
            )
            asked = bodies(200, CASES[case][0])
            with ours(folder, case) as (port, process):
                drive(port, asked, rate=RATE, num=100)
                measure_latency(findings, case, port, asked, case, given)
                rates[case] = highest_rate(port, asked, start=50.0, num=given.requests)
                findings.add(f"{case}: highest rate held at P99 ≤ 50 ms", rates[case], "/s")
                if case == "history":
                    overload(findings, port, process, asked, rates[case], given.overload_s)
            if case == "history" and not given.without_peers:
                write_bundle(bundle, folder / "bundle")
                for way, at_least in (("per_candidate", 20.0), ("once", 3.0)):
                    with theirs(folder, way) as port:
                        alone = drive(port, asked, rate=1.0, num=10).percentile(50)
                        held = highest_rate(port, asked, start=8.0, num=given.requests) if alone < P99_MS else 0.0
                        if not held:
                            held = 40 / drive(port, asked, rate=1e6, num=40).seconds
                        findings.add(f"FastAPI, history {NAMES[way]}: one by itself", alone, "ms")
                    what = NAMES[way]
                    findings.add(f"FastAPI, history {what}: rate", held, "/s")
                    findings.add(
                        f"ours / FastAPI, history {what}",
                        rates[case] / held if held else float("inf"),
                        at_least=at_least,
                    )
    findings.print()
    findings.write(given.json)


if __name__ == "__main__":
    main()
