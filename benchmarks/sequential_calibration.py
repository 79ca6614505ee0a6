"""Looking at calibration all the time: how often is a right model accused, and how soon is a wrong one found?

Runs of panes of 20 requests, 10 candidates each. A candidate is clicked with .1·m; m is the request's own, exponential
with mean 1, so clicks of one request depend on each other and their variance is about twice that of independent ones.
Each run is a segment, so all runs are simulated at once.

Right model: in how many runs is 1 ever outside of the confidence sequence, and of the plain interval of each moment;
after how many panes does the detector accuse it, on average. Wrong model: observed is 10 % above or below predicted,
from the start or after 30 days of 96 quiet panes; how many clicks pass until half of the runs have found it, held
against a test of fixed size with a power of 80 % at the same variance.

    python benchmarks/sequential_calibration.py [--json FILE] [--runs N] [--panes N]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.special import ndtri

from contenders.findings import Findings
from rankwell.evaluation.calibration_detector import CalibrationDetector
from rankwell.evaluation.calibration_sums import CalibrationSums
from rankwell.evaluation.confidence_sequence import RatioSequence
from rankwell.evaluation.intervals import normal_quantile

NUM_REQUESTS, NUM_CANDIDATES, RATE = 20, 10, 0.1
QUIET_PANES = 30 * 96
POWER, LEVEL = 0.8, 0.95


def panes(num_runs: int, num_panes: int, theta: float, seed: int) -> Iterator[CalibrationSums]:
    """Panes of all runs, where clicks are `theta` times as many as predicted."""
    rng = np.random.default_rng(seed)
    shape = (num_runs, NUM_REQUESTS)
    predicted = NUM_CANDIDATES * float(np.mean(np.minimum(RATE * rng.exponential(size=10**6), 1.0)))
    for _ in range(num_panes):
        rates_GQ = np.minimum(RATE * rng.exponential(size=shape), 1.0) * theta
        clicks_GQ = rng.binomial(NUM_CANDIDATES, np.minimum(rates_GQ, 1.0)).astype(np.float64)
        observed_G = clicks_GQ.sum(axis=1)
        all_G = np.full(num_runs, NUM_REQUESTS * predicted)
        yield CalibrationSums(
            all_G, observed_G, all_G * predicted, predicted * observed_G, (clicks_GQ**2).sum(axis=1),
            np.full(num_runs, float(NUM_REQUESTS)),
        )  # fmt: skip


def right_model(findings: Findings, given: argparse.Namespace) -> float:
    """Nothing is wrong; returns the dispersion of clicks."""
    sequence, detector = RatioSequence(LEVEL), CalibrationDetector(given.promise)
    sums, watch = CalibrationSums.nothing(given.runs), detector.started(given.runs)
    ever_left_G, ever_plain_G = np.zeros(given.runs, bool), np.zeros(given.runs, bool)
    accused_at_G = np.full(given.runs, np.inf)
    for number, pane in enumerate(panes(given.runs, given.panes, 1.0, seed=0), start=1):
        sums, watch = sums + pane, detector.after(watch, pane)
        ever_left_G |= sequence.excludes_one(sums)
        reach_G = normal_quantile(LEVEL) * np.sqrt(sums.residual_squared(1.0))
        ever_plain_G |= np.abs(sums.observed_G - sums.predicted_G) > reach_G
        accused_at_G = np.where(detector.alarms(watch) & np.isinf(accused_at_G), number, accused_at_G)
    dispersion = float(np.mean(sums.dispersion_G))
    case = f"right model, {given.panes:,} looks"
    findings.add("variance of clicks / that of independent ones", dispersion)
    findings.add(f"{case}: runs ever outside of the confidence sequence", float(ever_left_G.mean()), at_most=0.05)
    findings.add(f"{case}: runs ever outside of the plain 95 % interval", float(ever_plain_G.mean()))
    # with a constant hazard, time observed / alarms is the mean time between them, runs without an alarm included
    num_alarms = int(np.isfinite(accused_at_G).sum())
    mean_panes = float(np.minimum(accused_at_G, given.panes).sum()) / max(num_alarms, 1)
    findings.add(
        f"right model: panes per false alarm, promised {given.promise:,.0f}", mean_panes, at_least=given.promise
    )
    return dispersion


def wrong_model(findings: Findings, given: argparse.Namespace, dispersion: float, theta: float, quiet: int) -> None:
    """Clicks are `theta` times as many as predicted, after so many panes in which they were not."""
    sequence, detector = RatioSequence(LEVEL), CalibrationDetector(given.promise)
    sums, watch = CalibrationSums.nothing(given.runs), detector.started(given.runs)
    for pane in panes(given.runs, quiet, 1.0, seed=1):
        sums, watch = sums + pane, detector.after(watch, pane)
    # what had alarmed by then was dealt with: such runs start anew
    alarmed_G = detector.alarms(watch)
    watch.log_evidence_AG[:, alarmed_G] = -np.inf
    before_G, never_G = sums.observed_G, np.full(given.runs, np.inf)
    clicks = {"confidence sequence": never_G, "detector": never_G.copy()}
    for number, pane in enumerate(panes(given.runs, given.panes, theta, seed=2), start=1):
        sums, watch = sums + pane, detector.after(watch, pane)
        found = {"confidence sequence": sequence.excludes_one(sums), "detector": detector.alarms(watch)}
        passed_G = sums.observed_G - before_G
        for name, is_found_G in found.items():
            clicks[name] = np.where(is_found_G & np.isinf(clicks[name]), passed_G, clicks[name])
        if number % 50 == 0 and all(np.mean(np.isfinite(c_G)) > 0.9 for c_G in clicks.values()):
            break
    needed = theta * dispersion * ((normal_quantile(LEVEL) + float(ndtri(POWER))) / (theta - 1)) ** 2
    case = f"observed / predicted {theta:.3f}, after {quiet:,} quiet panes"
    findings.add(f"{case}: clicks that a test of fixed size needs", needed)
    for name, clicks_G in clicks.items():
        target = 3.0 if name == "detector" or not quiet else None
        findings.add(
            f"{case}: clicks until the {name} finds it (median) / those",
            float(np.median(clicks_G)) / needed,
            at_most=target,
        )


def main() -> None:
    """Simulate and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--json", type=Path, help="write the numbers to this file")
    arguments.add_argument("--runs", type=int, default=1000)
    arguments.add_argument("--panes", type=int, default=10_000, help="looks at a right model, and most at a wrong one")
    arguments.add_argument(
        "--promise", type=float, default=QUIET_PANES, help="panes per false alarm; 30 days of 15 minutes by default"
    )
    given = arguments.parse_args()
    findings = Findings("calibration watched all the time")
    dispersion = right_model(findings, given)
    for quiet in (0, QUIET_PANES):
        for theta in (1.1, 1 / 1.1):
            wrong_model(findings, given, dispersion, theta, quiet)
    findings.print()
    findings.write(given.json)


if __name__ == "__main__":
    main()
