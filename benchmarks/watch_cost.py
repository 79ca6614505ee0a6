"""What watching costs a server: `rankwell serve` under steady load, with and without a watch of its folder, in turns.

A bundle of benchmarks/serving.py ("history": 500 candidates by id, the best 50 answered and logged), 40 requests a
second at random moments, one worker on a core of its own. Before that the server is asked the same with times of the 25
hours before, so that each round of the watch judges a full baseline. Turns are short and come in pairs, in one of which
the watch stands still (SIGSTOP), in an order that is drawn; a figure of the server is the CPU time of its worker, in
nanoseconds by the kernel's scheduler, divided by the requests that were answered.

    python benchmarks/watch_cost.py [--json FILE] [--pairs 20] [--seconds 8] [--round-s 2] [--day 2000]

In earnest the watch makes a round each quarter-hour. Here it makes one each 2 s, 450 times as often, or as often as it
can, so the server's added time is that of a busier watch; what the watch itself takes in earnest is reckoned from a
round without news and from what a request adds. The watch has the last core, which the client shares where there are
but two: then latencies are the client's as well, and CPU time is what to go by.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from scipy import stats

from contenders.findings import Findings
from contenders.live_server import LiveServer
from contenders.open_loop import Load, drive
from contenders.serving_world import bundle_of, write_store
from rankwell.serving.deployment import write_deployment

NUM_ITEMS, NUM_MEMBERS, NUM_CANDIDATES, NUM_SHOWN = 20_000, 5_000, 500, 50
RATE, SEGMENT, TICK_S = 40.0, "job_title", 900
NUM_CATCH_UPS, CATCH_UP = 3, 400
"""Requests that a standing watch has to catch up with, to tell what each costs it."""
DAY_US = 25 * 3_600_000_000
HERE = Path(__file__).parent
NUM_CORES = os.cpu_count() or 1
SERVER_CORE, WATCH_CORE, CLIENT_CORE = 0, NUM_CORES - 1, 1 % NUM_CORES


@dataclass(frozen=True, slots=True)
class Turn:
    """Some seconds of load: what it came to, and the CPU time of the worker for each request."""

    load: Load
    cpu_ms: float


Pair = tuple[Turn, Turn]


def body(rng: np.random.Generator, time_us: int | None = None) -> bytes:
    """A request by ids alone, at a time or at the server's own."""
    asked = {
        "member_id": int(rng.integers(NUM_MEMBERS)),
        "candidates": {"job": rng.choice(NUM_ITEMS, NUM_CANDIDATES, replace=False).tolist()},
        "length": NUM_SHOWN,
        "time_us": time.time_ns() // 1_000 if time_us is None else time_us,
    }
    return json.dumps(asked).encode()


def day_before(port: int, num: int) -> None:
    """So many requests of the 25 hours until now, one after the other."""
    rng = np.random.default_rng(0)
    times_us = time.time_ns() // 1_000 - DAY_US + np.arange(num) * (DAY_US // num)
    for first in range(0, num, 200):
        asked = [body(rng, int(time_us)) for time_us in times_us[first : first + 200]]
        load = drive(port, asked, rate=80.0, num=len(asked), seed=first)
        print(f"  the day before: {first + len(asked):,}, {dict(load.statuses)}", file=sys.stderr, flush=True)


def cpu_s(pid: int) -> float:
    """CPU time of a process, all threads that are there."""
    of_threads = [path.read_text().split()[0] for path in Path(f"/proc/{pid}/task").glob("*/schedstat")]
    return sum(map(int, of_threads)) / 1e9


def turn(server: LiveServer, seconds: float, seed: int) -> Turn:
    """Load, and what it took."""
    rng = np.random.default_rng(1_000 + seed)
    asked, num = [body(rng) for _ in range(100)], round(RATE * seconds)
    (worker,) = server.workers()
    before_s = cpu_s(worker)
    load = drive(server.port, asked, rate=RATE, num=num, seed=seed)
    return Turn(load, 1e3 * (cpu_s(worker) - before_s) / max(load.statuses[200], 1))


@contextmanager
def watched(log: Path, round_s: float, rounds: list[dict[str, float]]) -> Iterator[subprocess.Popen[str]]:
    """A watch of the folder, which has caught up; its rounds since then."""
    words = [str(HERE / "contenders" / "paced_watch.py"), str(log), SEGMENT, str(round_s)]
    command = ["taskset", "-c", str(WATCH_CORE), sys.executable, *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        if not process.stdout.readline():
            raise SystemExit("the watch ended; its own words stand above")
        try:
            yield process
        finally:
            process.send_signal(signal.SIGCONT)
            process.terminate()
            rounds += [json.loads(line) for line in process.stdout.read().splitlines()]


def in_turns(server: LiveServer, watch: subprocess.Popen[str], num_pairs: int, seconds: float) -> list[Pair]:
    """Pairs of turns: the watch stands still, and it goes."""
    pairs: list[Pair] = []
    order = np.random.default_rng(0)
    for number in range(num_pairs):
        turns: dict[bool, Turn] = {}
        for is_watched in (False, True) if order.integers(2) else (True, False):
            watch.send_signal(signal.SIGCONT if is_watched else signal.SIGSTOP)
            turns[is_watched] = turn(server, seconds, seed=number)
        pairs.append((turns[False], turns[True]))
        shown = ", ".join(f"{one.cpu_ms:.3f}" for one in pairs[-1])
        print(f"  CPU a request alone and watched, ms: {shown}", file=sys.stderr, flush=True)
    return pairs


def own_cost(server: LiveServer, log: Path) -> tuple[float, float]:
    """CPU time of a round of the watch without news, and what each request adds to one; nothing is asked meanwhile."""
    rounds: list[dict[str, float]] = []
    with watched(log, 0.2, rounds) as watch:
        for number in range(NUM_CATCH_UPS):
            time.sleep(5.0)
            watch.send_signal(signal.SIGSTOP)
            turn(server, CATCH_UP / RATE, seed=20_000 + number)
            watch.send_signal(signal.SIGCONT)
        time.sleep(5.0)
    fixed_s = median(one["cpu_s"] for one in rounds if not one["rows"])
    added = [(one["cpu_s"] - fixed_s) / one["rows"] for one in rounds if one["rows"]]
    return fixed_s, median(added) if added else float("nan")


def report(findings: Findings, pairs: list[Pair]) -> None:
    """The server's side."""
    added = np.array([busy.cpu_ms / alone.cpu_ms - 1 for alone, busy in pairs]) * 100
    half = stats.t.ppf(0.975, len(added) - 1) * added.std(ddof=1) / len(added) ** 0.5 if len(added) > 1 else np.nan
    names = "the server alone", "with a watch"
    for name, turns in zip(names, zip(*pairs, strict=True), strict=True):
        findings.add(f"{name}: CPU a request", median(one.cpu_ms for one in turns), "ms")
        latencies_ms = np.concatenate([one.load.latencies_ms for one in turns])
        for q in (50, 95):
            findings.add(f"{name}: P{q}", float(np.percentile(latencies_ms, q)), "ms")
        lost = sum(sum(one.load.statuses.values()) - one.load.statuses[200] for one in turns)
        findings.add(f"{name}: requests not answered", lost, at_most=0)
        findings.add(f"{name}: the client's own lateness, P99", median(one.load.lateness_ms for one in turns), "ms")
    findings.add("CPU a request that watching adds, mean of pairs", added.mean(), "%", at_most=1.0)
    findings.add("CPU a request that watching adds, ± of 95 %", float(half), "%")


def main() -> None:
    """Serve, be watched, print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--json", type=Path, help="write the numbers to this file")
    arguments.add_argument("--pairs", type=int, default=20)
    arguments.add_argument("--seconds", type=float, default=8.0, help="of a turn")
    arguments.add_argument("--round-s", type=float, default=2.0, help="from a round of the watch to the next")
    arguments.add_argument("--day", type=int, default=2_000, help="requests of the day before")
    given = arguments.parse_args()
    findings = Findings("a server that is watched, a round each few seconds in place of each quarter-hour")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_store(folder / "features", NUM_ITEMS, NUM_MEMBERS)
        write_deployment(bundle_of("history"), folder / "bundle")
        words = [str(folder / "bundle"), "--features", str(folder / "features"), "--log", str(folder / "log")]
        os.sched_setaffinity(0, {SERVER_CORE})  # the server's processes inherit it
        with LiveServer([*words, "--deadline-ms", "1000"], stderr=folder / "said.txt") as server:
            os.sched_setaffinity(0, {CLIENT_CORE})
            day_before(server.port, given.day)
            rounds: list[dict[str, float]] = []
            with watched(folder / "log", given.round_s, rounds) as watch:
                turn(server, given.seconds, seed=10_000)  # what is done for the first time is no turn's
                pairs = in_turns(server, watch, given.pairs, given.seconds)
            report(findings, pairs)
            fixed_s, request_s = own_cost(server, folder / "log")
    findings.add(
        "the watch: from a round to the next, under load", given.pairs * given.seconds / max(len(rounds), 1), "s"
    )
    findings.add("the watch: a round without news, CPU", 1e3 * fixed_s, "ms")
    findings.add("the watch: what 1,000 requests add, CPU", 1e6 * request_s, "ms")
    in_earnest = (fixed_s + RATE * TICK_S * request_s) / TICK_S
    findings.add("the watch in earnest, a round each quarter-hour: share of a core", 100 * in_earnest, "%")
    findings.print()
    findings.write(given.json)


if __name__ == "__main__":
    main()
