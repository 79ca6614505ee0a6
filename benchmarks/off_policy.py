"""Time and memory of every off-policy estimator by the number of impressions, and the value of a known log.

A log of n impressions in requests of 10, three choices, propensities and targets at random; each estimator gets columns
and gives value and interval: the check of the columns is timed once, on its own, and with each estimator together it is
the whole way. Each size runs in a process of its own; memory is that process's peak above what the columns themselves
take. An exponent of time is of the whole way: from the smallest size to the largest, and over the two largest; 1 is
linear. Between them the columns outgrow the caches and what the allocator keeps, which costs a row twice the time.

With --data, the folder of Open Bandit's sample (random_all.parquet, bts_action_dist_all.parquet): the value of
Bernoulli Thompson sampling from the log of the random policy, of which .004553 by inverse propensities is published.
The model of the others is the click rate of an item without the row itself, drawn to the mean by 100 impressions; it is
not the one that published values by a model were found with.

    python benchmarks/off_policy.py [--rows N …] [--repeats N] [--data DIR] [--json FILE]
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import resource
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from contenders.findings import Findings
from rankwell.evaluation.logged_feedback import LoggedFeedback
from rankwell.evaluation.off_policy import (
    DirectMethod,
    DoublyRobust,
    InversePropensity,
    SelfNormalised,
    SwitchDoublyRobust,
    ValueEstimator,
)

ESTIMATORS: dict[str, ValueEstimator] = {
    "IPW": InversePropensity(),
    "SNIPS": SelfNormalised(),
    "DM": DirectMethod(),
    "DR": DoublyRobust(),
    "SWITCH-DR": SwitchDoublyRobust(threshold=2.0),
}
PUBLISHED_IPW, MOST_SECONDS, PER_REQUEST, PRIOR = 0.004553, 10.0, 10, 100.0


def columns_of(num_rows: int) -> dict[str, np.ndarray]:
    """Columns as a log would give them: float64 and int64, shuffled in nothing."""
    generator = np.random.default_rng(0)
    propensity_C = generator.uniform(0.1, 0.9, num_rows)
    return {
        "rewards_C": (generator.random(num_rows) < 0.1).astype(np.float64),
        "propensities_C": propensity_C,
        "target_C": np.minimum(propensity_C * generator.uniform(0.5, 1.5, num_rows), 1.0),
        "estimates_C": generator.uniform(0.0, 0.2, num_rows),
        "target_estimates_C": generator.uniform(0.0, 0.2, num_rows),
        "request_C": np.arange(num_rows) // PER_REQUEST,
    }


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measured(num_rows: int, repeats: int) -> dict[str, float]:
    """Least seconds of the check and of each estimator, and the peak of memory above the columns."""
    columns = columns_of(num_rows)
    before = peak_bytes()
    best = dict.fromkeys(("check", *ESTIMATORS), math.inf)
    for _ in range(repeats):
        started = time.perf_counter()
        feedback = LoggedFeedback.of(**columns, most_off_support=0.5)
        best["check"] = min(best["check"], time.perf_counter() - started)
        for name, estimator in ESTIMATORS.items():
            started = time.perf_counter()
            estimator(feedback)
            best[name] = min(best[name], time.perf_counter() - started)
        del feedback
    return best | {"bytes a row": (peak_bytes() - before) / num_rows}


def open_bandit(folder: Path, findings: Findings) -> None:
    log = pq.read_table(folder / "random_all.parquet")
    policy = pq.read_table(folder / "bts_action_dist_all.parquet")
    items, positions = policy["item_id"].to_numpy(), policy["position"].to_numpy()
    target_IK = np.zeros((items.max() + 1, positions.max() + 1))
    target_IK[items, positions] = policy["prob_bts"].to_numpy()
    item, click = log["item_id"].to_numpy(), log["click"].to_numpy().astype(np.float64)
    target_CI = target_IK[:, log["position"].to_numpy()].T
    target = target_CI[np.arange(len(item)), item]
    shown_I, clicks_I = np.bincount(item), np.bincount(item, click)
    rate_I = (clicks_I + PRIOR * click.mean()) / (shown_I + PRIOR)
    without_own = (clicks_I[item] - click + PRIOR * click.mean()) / (shown_I[item] - 1 + PRIOR)
    feedback = LoggedFeedback.of(
        click, log["propensity_score"].to_numpy(), target, estimates_C=without_own,
        target_estimates_C=target_CI @ rate_I + target * (without_own - rate_I[item]),
    )  # fmt: skip
    for name, estimator in ESTIMATORS.items():
        value = estimator(feedback)
        print(f"Open Bandit, random/all, {name}: {value}")
        findings.add(f"open bandit/{name}", value.value)
        findings.add(f"open bandit/{name}/low", value.interval.low)
        findings.add(f"open bandit/{name}/high", value.interval.high)
    off = abs(round(ESTIMATORS["IPW"](feedback).value, 6) - PUBLISHED_IPW)
    findings.add("open bandit/IPW off the published, to its 6 places", off, at_most=0.0)
    findings.add("open bandit/effective sample size", feedback.effective_sample_size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10**5, 10**6, 5 * 10**6, 10**7])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    findings = Findings("off-policy values")
    found = {}
    for num_rows in given.rows:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found[num_rows] = pool.apply(measured, (num_rows, given.repeats))
        for name, figure in found[num_rows].items():
            is_bytes = name == "bytes a row"
            findings.add(f"{num_rows} rows/{name}", figure if is_bytes else figure * 1e3, "" if is_bytes else "ms")
    sizes = sorted(given.rows)
    largest = sizes[-1]
    for name in ESTIMATORS:
        whole = {num_rows: figures["check"] + figures[name] for num_rows, figures in found.items()}
        findings.add(f"{largest} rows/check and {name}", whole[largest], "s", at_most=MOST_SECONDS)
        for size in sorted({sizes[0], sizes[-2]} if len(sizes) > 1 else set()):
            exponent = math.log(whole[largest] / whole[size]) / math.log(largest / size)
            most = 1.1 if size == sizes[-2] else None
            findings.add(f"exponent of time/{name} from {size} rows", exponent, at_most=most)
    if len(sizes) > 1:
        growth = found[largest]["bytes a row"] / found[sizes[-2]]["bytes a row"]
        findings.add("memory a row, largest by the one before", growth, at_most=1.1)
    if given.data is not None:
        open_bandit(given.data, findings)
    findings.print()
    findings.write(given.json)


if __name__ == "__main__":
    main()
