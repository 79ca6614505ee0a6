"""The same panes from both engines: the embedded one, and a sliding-window job of Apache Flink's over the same log.

A log of two workers, with requests that come twice and values at the edges of bins, is counted by the embedded engine;
a feed writes its rows for Flink, whose job counts them by minute and in windows of 15 minutes that begin each minute.
Its minutes are held to the embedded engine's panes, its windows to sums of them, count by count. Another feed writes
rows whose labels are due, clicks being reported late, after their window, and twice; their sums are held to the
embedded engine's outcomes. Then the job is killed, Java and all, again and again while it counts, and goes on from its
newest checkpoint. Then the rows stand in many files, which Flink reads in no order: with a watermark that is as far
behind as the log is long, and with one of two minutes, where it drops rows and says nothing.

    python benchmarks/flink_panes.py [--requests N] [--minutes N] [--kills N] [--files N] [--json FILE]
"""

from __future__ import annotations

import argparse
import heapq
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from contenders.findings import Findings
from contenders.flink_run import NO_FLINK, FlinkRun, flink_python
from rankwell.errors import LogError
from rankwell.mitigation.flink_feed import FlinkFeed
from rankwell.mitigation.flink_outcome_feed import FlinkOutcomeFeed
from rankwell.mitigation.folder_watch import FolderWatch
from rankwell.monitoring.flink_files import read_flink_outcomes, read_flink_pane
from rankwell.monitoring.flink_job import FlinkJob
from rankwell.monitoring.outcome_pane import OutcomePane
from rankwell.monitoring.pane import MINUTE_US, Pane
from rankwell.monitoring.pane_layout import CategoricalBins, NumericBins, PaneLayout
from rankwell.monitoring.probability_grid import NUM_BINS
from rankwell.monitoring.watch_counts import WatchCounts
from rankwell.schema import Action, Categorical, Exposure, Numeric, Schema
from rankwell.serving.action_log import ActionLog, ReportedAction
from rankwell.serving.served_log import ServedLog
from rankwell.serving.served_request import ServedRequest
from rankwell.types import MISSING_ID, Features

NUM_SHOWN = 20
WINDOW_MINUTES = 15
BEGIN_US = 1_700_000_000_000_000
SCHEMA = Schema(
    features=(
        Categorical(name="job"),
        Categorical(name="city"),
        Categorical(name="level"),
        Numeric(name="years", on="request"),
        Numeric(name="pay"),
    ),
    actions=(Action(name="click", window_s=60),),
    item="job",
    exposure=Exposure(position="position", propensity="propensity"),
)
LOGITS = NumericBins.of_values("served_logit_click", np.random.default_rng(0).normal(-2, 1, 10_000))
PAY = NumericBins(name="pay", edges=(0.1, 0.2, 1 / 3, 0.5, 0.9), origin=0.5)
LAYOUT = PaneLayout(
    columns=(
        NumericBins(name="years", edges=(1.0, 2.0, 3.0, 5.0, 8.0, 13.0), origin=4.0),
        PAY,
        LOGITS,
        NumericBins(name="served_probability_click", edges=(0.05, 0.1, 0.2, 0.4)),
        CategoricalBins(name="city", top=tuple(range(20)), known=tuple(range(20, 3_000))),
    ),
    segments=CategoricalBins(name="level", top=(0, 1, 2), known=(3,)),
)


def answer(request_id: int, time_us: int) -> ServedRequest:
    """One answer, of drawn numbers; one in ten is at an edge, beside one, missing, or infinite."""
    rng = np.random.default_rng(request_id)
    edges_E = np.array(PAY.edges, np.float32)
    odd = np.concatenate([edges_E, np.nextafter(edges_E, np.float32(0)), np.array([np.nan, np.inf], np.float32)])
    pay_K = np.where(rng.random(NUM_SHOWN) < 0.1, rng.choice(odd, NUM_SHOWN), rng.random(NUM_SHOWN, np.float32))
    logits_KA = torch.from_numpy(rng.normal(-2, 1, (NUM_SHOWN, 1)))
    items_K = torch.arange(NUM_SHOWN)
    features = Features(
        context={"years": torch.tensor([float(rng.integers(20)) if rng.random() < 0.95 else np.nan])},
        history={},
        candidates={
            "job": items_K,
            "city": torch.from_numpy(np.minimum(rng.geometric(0.01, NUM_SHOWN), 4_000) - 2),
            "level": torch.from_numpy(rng.integers(-1, 6, NUM_SHOWN)),
            "pay": torch.from_numpy(pay_K.astype(np.float32)),
        },
        offsets=torch.tensor([0, NUM_SHOWN]),
        request_C=torch.zeros(NUM_SHOWN, dtype=torch.int64),
    )
    return ServedRequest(
        request_id=request_id, member_id=MISSING_ID, time_us=time_us, features=features, item_ids_K=items_K,
        places_n=np.arange(NUM_SHOWN), propensities_n=np.where(rng.random(NUM_SHOWN) < 0.2, rng.uniform(0.01, 1), 1),
        logits_KA=logits_KA, probabilities_KA=logits_KA.sigmoid(), bundle_id="b",
        prices_micros_n=rng.integers(0, 2_000_000, NUM_SHOWN),
    )  # fmt: skip


def clicks(served: ServedRequest) -> list[tuple[int, ReportedAction]]:
    """When each click on an answer is reported: minutes after it, some twice, and some after their window."""
    rng = np.random.default_rng(served.request_id + 2**40)
    p_K = np.asarray(served.probabilities_KA)[:, 0]
    reported = []
    for item in np.flatnonzero(rng.random(NUM_SHOWN) < p_K).tolist():
        time_us = served.time_us + round(rng.exponential(15e6))
        for key in ("once", "twice")[: 1 + (rng.random() < 0.05)]:
            action = ReportedAction(served.request_id, item, "click", time_us, key=f"{served.request_id} {item} {key}")
            reported.append((time_us + round(rng.uniform(0, 60e6)), action))
    return reported


def fail(error: LogError) -> None:
    """No damage is expected."""
    raise error


@dataclass(frozen=True)
class Written:
    """A log, and its rows, and those whose labels are due, as one file and as many."""

    log: Path
    one_file: Path
    many_files: Path
    num_rows: int
    end_us: int
    one_file_s: float
    outcomes_s: float


def written(folder: Path, *, num_requests: int, num_minutes: int, num_files: int) -> Written:
    """Two workers log answers, of which one in a hundred twice; two feeds follow, two come when all is over."""
    log, times_us = folder / "log", BEGIN_US + np.arange(num_requests) * num_minutes * MINUTE_US // num_requests
    clock = [BEGIN_US]
    workers = [ServedLog(log, SCHEMA, worker=f"w{n}", server="s", seed=0, now_us=lambda: clock[0]) for n in range(2)]
    end_us = BEGIN_US + (num_minutes + 1) * MINUTE_US
    actions = ActionLog(log, SCHEMA, worker="w0", server="s", now_us=lambda: clock[0])
    reported: list[tuple[int, int, ReportedAction]] = []
    many = feeds(log, folder / "many")
    for number, time_us in enumerate(times_us.tolist()):
        while reported and reported[0][0] <= time_us:
            clock[0], _, action = heapq.heappop(reported)
            actions.append([action])
        clock[0] = time_us
        served = answer(number, time_us)
        workers[number % 2].append(served)
        if number % 100 == 0:
            workers[1].append(served)
        for place, (at_us, action) in enumerate(clicks(served)):
            heapq.heappush(reported, (at_us, number * 2 * NUM_SHOWN + place, action))
        if number % (num_requests // num_files) == 0:
            for feed in many:
                feed.step(now_us=time_us)
    for writer in (*workers, actions):
        writer.close()
    seconds = []
    one = feeds(log, folder / "one")
    for feed in (*many, *one):
        started = time.perf_counter()
        feed.step(now_us=end_us)
        seconds.append(time.perf_counter() - started)
    assert one[0].num_rows == many[0].num_rows == num_requests * NUM_SHOWN
    assert one[1].num_rows == many[1].num_rows > 0
    return Written(log, folder / "one", folder / "many", one[0].num_rows, end_us, *seconds[2:])


def feeds(log: Path, folder: Path) -> tuple[FlinkFeed, FlinkOutcomeFeed]:
    """Of rows, and of outcomes."""
    return (
        FlinkFeed(log, SCHEMA, LAYOUT, folder / "rows", on_damage=fail),
        FlinkOutcomeFeed(log, SCHEMA, "click", LAYOUT.segments, folder / "outcomes", on_damage=fail),
    )


def num_unequal(read: Pane, pane: Pane) -> int:
    """How many counts of two panes differ."""
    both = read + pane  # all cells
    parts = []
    for one in (read, pane):
        none = {name: np.zeros_like(counts) for name, counts in both.counts.items()}
        sums = {name: np.zeros_like(sums) for name, sums in both.sums.items()}
        parts.append(one + replace(both, counts=none, sums=sums))
    return sum(int((parts[0].counts[name] != parts[1].counts[name]).sum()) for name in both.counts)


def outcomes_apart(read: OutcomePane, pane: OutcomePane) -> tuple[int, float]:
    """How many counts of two panes differ, and by how much of itself a sum does at most."""
    both = read + pane  # all cells
    nothing = replace(
        both,
        sums_NV6=np.zeros_like(both.sums_NV6),
        spend_micros_N=np.zeros_like(both.spend_micros_N),
        grid_NB2=np.zeros_like(both.grid_NB2),
    )
    counts, sums = [], []
    for one in (read + nothing, pane + nothing):
        counted = one.sums_NV6[:, :, 5], one.spend_micros_N, one.grid_NB2[:, :, 0]
        counts.append(np.concatenate([part.reshape(-1) for part in counted]))
        sums.append(np.concatenate([one.sums_NV6[:, :, :5].reshape(-1), one.grid_NB2[:, :, 1].reshape(-1)]))
    larger = np.maximum(np.abs(sums[0]), np.abs(sums[1]))
    apart = np.divide(np.abs(sums[0] - sums[1]), larger, out=np.zeros_like(larger), where=larger > 0)
    return int((counts[0] != counts[1]).sum()), float(apart.max(initial=0.0))


def sliding(pane: Pane) -> Pane:
    """For each minute that a window begins with, the sum of the window's minutes."""
    total = pane
    for minutes in range(1, WINDOW_MINUTES):
        total = total + replace(pane, minutes_N=pane.minutes_N - minutes)
    return total


def num_counted(folder: Path) -> int:
    """How many rows Flink has counted and committed, by minute."""
    return int(read_flink_pane(LAYOUT, folder).counts["years"].sum()) if folder.exists() else 0


def counted_under_fire(run: FlinkRun, minutes: Path, *, num_kills: int, num_rows: int) -> list[float]:
    """Kill the job when it has committed another part of the rows, start it again, and let it end at last.

    Returns:
        The share of the rows that was committed at each kill.
    """
    shares: list[float] = []
    run.start()
    for number in range(1, num_kills + 1):
        while run.is_running() and num_counted(minutes) < num_rows * number / (num_kills + 1):
            time.sleep(0.2)
        if run.is_running():
            run.kill()
            shares.append(num_counted(minutes) / num_rows)
            run.start()
    run.wait()
    return shares


def main() -> None:
    """Measure all of it and print it."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--json", type=Path, help="write the numbers to this file")
    arguments.add_argument("--without-peers", action="store_true", help="no Flink: the embedded engine and the feed")
    arguments.add_argument("--requests", type=int, default=20_000, help=f"of {NUM_SHOWN} rows each")
    arguments.add_argument("--minutes", type=int, default=180, help="that they are spread over")
    arguments.add_argument("--kills", type=int, default=3)
    arguments.add_argument("--files", type=int, default=60, help="where rows stand in many")
    given = arguments.parse_args()
    torch.set_num_threads(1)
    findings = Findings(f"both engines, {given.requests:,} requests × {NUM_SHOWN} rows in {given.minutes} minutes")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        log = written(folder, num_requests=given.requests, num_minutes=given.minutes, num_files=given.files)
        counts = WatchCounts(SCHEMA, LAYOUT, "click")
        started = time.perf_counter()
        FolderWatch(log.log, counts, folder / "watch", on_damage=fail).step(now_us=log.end_us)
        findings.add("embedded engine", time.perf_counter() - started, "s")
        findings.add("feed of rows, one file", log.one_file_s, "s")
        findings.add("feed of outcomes, one file", log.outcomes_s, "s")
        findings.add("rows whose labels are due", int(counts.outcomes.num_rows_N.sum()), at_least=1)
        findings.add("of them acted on", int(counts.outcomes.observed_N.sum()), at_least=1)
        findings.add("rows that the embedded engine did not count", log.num_rows - counts.pane.counts["years"].sum())
        python = None if given.without_peers else flink_python()
        if python is not None:
            with_flink(findings, python, folder, log, counts, num_kills=given.kills, num_minutes=given.minutes)
        elif not given.without_peers:
            print(NO_FLINK)
    findings.print()
    findings.write(given.json)


def with_flink(
    findings: Findings,
    python: Path,
    folder: Path,
    log: Written,
    counted: WatchCounts,
    *,
    num_kills: int,
    num_minutes: int,
) -> None:
    """Flink's part."""

    def job(name: str, rows: Path, late_s: float) -> tuple[FlinkRun, Path]:
        asked = FlinkJob(
            LAYOUT, rows=f"file://{rows}/rows", counts=f"file://{folder / name}/counts", late_s=late_s,
            window_minutes=WINDOW_MINUTES, outcomes=f"file://{rows}/outcomes",
        )  # fmt: skip
        return FlinkRun(python, asked, folder / name), folder / name / "counts"

    pane, windows = counted.pane, sliding(counted.pane)

    def hold(name: str, counts: Path) -> None:
        minutes = read_flink_pane(LAYOUT, counts / "minutes")
        findings.add(f"{name}: counts of minutes that differ", num_unequal(minutes, pane), at_most=0)
        slid = read_flink_pane(LAYOUT, counts / "windows")
        findings.add(f"{name}: counts of windows that differ", num_unequal(slid, windows), at_most=0)
        num, apart = outcomes_apart(read_flink_outcomes("click", counts / "outcomes"), counted.outcomes)
        findings.add(f"{name}: counts of outcomes that differ", num, at_most=0)
        findings.add(f"{name}: sums of outcomes, largest relative difference", apart, at_most=1e-9)

    findings.add("counts of minutes", sum(counts.size for counts in pane.counts.values()))
    findings.add("counts of windows", sum(counts.size for counts in windows.counts.values()))
    findings.add("counts of outcomes", len(counted.outcomes) * (2 + 1 + NUM_BINS))
    run, counts = job("one file", log.one_file, 120.0)
    with run:
        findings.add("one file: Flink, with its start", run.run(), "s")
    hold("one file", counts)
    run, counts = job("killed", log.one_file, 120.0)
    with run:
        shares = counted_under_fire(run, counts / "minutes", num_kills=num_kills, num_rows=log.num_rows)
    findings.add("killed: times", len(shares), at_least=num_kills)
    for number, share in enumerate(shares):
        findings.add(f"killed: rows committed at kill {number + 1}", 100 * share, "%")
    hold("killed", counts)
    run, counts = job("many files", log.many_files, 60.0 * num_minutes)
    with run:
        run.run()
    hold("many files", counts)
    run, counts = job("many files, 2 minutes", log.many_files, 120.0)
    with run:
        run.run()
    lost = 1 - num_counted(counts / "minutes") / log.num_rows
    findings.add("many files, watermark 2 minutes behind: rows dropped", 100 * lost, "%")


if __name__ == "__main__":
    main()
