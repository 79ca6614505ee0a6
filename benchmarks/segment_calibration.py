"""Calibration of 150 segments: ours beside MCGrad and its Platt scaling for each segment, in time and on fresh rows.

Each segment distorts the log-odds by a slope, exp of a normal number of deviation .2, about the model's mean logit, and
an offset, normal of deviation .3; its share of the rows is of a flat Dirichlet distribution. Log loss, in nats, is of a
million fresh rows, beside that of the true probabilities. Segments whose calibration ratio lies outside its interval
are counted on the first 100,000 of them, a fifth of the rows of the fit, and on the first 500,000, where the error of
the fit is as large as the noise of the rows: even the likeliest lines are then outside more often than 1 in 20.

Where segments do not differ a tree can only lose to the one line of all. How often it leaves it, and what that costs in
expected log loss, is counted over small samples without slopes and offsets.

    python benchmarks/segment_calibration.py [--json FILE] [--without-peers] [--rows N] [--seeds N] [--samples N]
                                             [--threads N]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from contenders.environment import python_of
from contenders.findings import Findings
from contenders.turns import Contender, Figures, take_turns
from rankwell.calibration.platt import fit_platt
from rankwell.calibration.segment_tree import fit_segment_tree
from rankwell.evaluation.calibration_ratio import calibration_ratios_by_group
from rankwell.evaluation.sample import Groups, Sample

NUM_SEGMENTS, NUM_FRESH, MEAN_LOGIT = 150, 10**6, -2.5
JUDGED = (100_000, 500_000)
Columns = Mapping[str, NDArray[np.generic]]


def drawn(rng: np.random.Generator, num: int, of_segments: Mapping[str, NDArray[np.float64]]) -> Columns:
    """Rows: float32 logits of the model, labels, segments and true probabilities."""
    segment_C = rng.choice(NUM_SEGMENTS, num, p=of_segments["shares"])
    logits_C = rng.normal(MEAN_LOGIT, 1.2, num).astype(np.float32)
    true_C = of_segments["slopes"][segment_C] * (logits_C - MEAN_LOGIT) + MEAN_LOGIT + of_segments["offsets"][segment_C]
    p_C = 1 / (1 + np.exp(-true_C))
    labels_C = (rng.random(num) < p_C).astype(np.float32)
    return {"logits": logits_C, "labels": labels_C, "segments": segment_C, "true": p_C}


def log_loss(p_C: NDArray[np.float64], labels_C: NDArray[np.generic]) -> float:
    p_C = np.clip(p_C, 1e-15, 1 - 1e-15)
    return float(-np.log(np.where(labels_C == 1, p_C, 1 - p_C)).mean())


def outside(p_C: NDArray[np.float64], fresh: Columns, num: int, level: float) -> int:
    """How many segments' calibration ratio is not 1, at this level, on the first rows; none where it is undefined."""
    part = slice(0, num)
    sample = Sample.of(p_C[part], fresh["labels"][part], np.ones(num))
    groups = Groups(np.arange(NUM_SEGMENTS), fresh["segments"][part].astype(np.int64))
    _, low_G, high_G = calibration_ratios_by_group(sample, groups, level=level)
    return int(((low_G > 1) | (high_G < 1)).sum())


def compare(seed: int, given: argparse.Namespace, folder: Path) -> tuple[Columns, dict[str, Figures], dict[str, str]]:
    """One generator's rows, the contenders' times on them, and where their predictions are."""
    rng = np.random.default_rng(seed)
    of_segments = {
        "shares": rng.dirichlet(np.ones(NUM_SEGMENTS)),
        "slopes": np.exp(rng.normal(0.0, 0.2, NUM_SEGMENTS)),
        "offsets": rng.normal(0.0, 0.3, NUM_SEGMENTS),
    }
    rows, fresh = drawn(rng, given.rows, of_segments), drawn(rng, NUM_FRESH, of_segments)
    asked = {"rows": str(folder / f"rows{seed}.npz"), "fresh": str(folder / f"fresh{seed}.npz")}
    np.savez(asked["rows"], **rows)
    np.savez(asked["fresh"], **fresh)
    methods = [("rankwell_segments", method) for method in ("segment tree", "multicalibrated", "Platt")]
    if not given.without_peers and seed == 0:
        methods += [("mcgrad_segments", method) for method in ("MCGrad", "MCGrad's segmentwise Platt")]
    contenders, predictions = [], {}
    for module, method in methods:
        predictions[method] = str(folder / f"{method}{seed}.npy")
        settings = {**asked, "method": method, "predictions": predictions[method]}
        python = python_of("mcgrad") if module.startswith("mcgrad") else None
        contenders.append(Contender(method, module, settings, threads=given.threads, python=python))
    return fresh, take_turns(contenders, rounds=given.rounds, num_steps=1, warm_up=1), predictions


def without_differences(findings: Findings, given: argparse.Namespace) -> None:
    """Samples whose segments do not differ: what the tree loses to the line of all rows."""
    nothing_G = {"slopes": np.ones(NUM_SEGMENTS), "offsets": np.zeros(NUM_SEGMENTS)}
    for num in (5_000, 50_000):
        lost = []
        for seed in range(given.samples):
            rng = np.random.default_rng(seed)
            of_segments = {"shares": rng.dirichlet(np.ones(NUM_SEGMENTS)), **nothing_G}
            rows, fresh = drawn(rng, num, of_segments), drawn(rng, 20_000, of_segments)
            columns = (rows["logits"], rows["labels"], np.ones(num), rows["segments"][:, None])
            logits_C, labels_C, weights_C, segments_CS = map(torch.from_numpy, columns)
            expected = []
            for fit in (fit_segment_tree, fit_platt):
                calibrator = fit(logits_C, labels_C, weights_C, segments_CS)
                asked = torch.from_numpy(fresh["logits"]), torch.from_numpy(fresh["segments"])[:, None]
                p_C = calibrator(*asked).numpy()
                expected.append(-(fresh["true"] * np.log(p_C) + (1 - fresh["true"]) * np.log(1 - p_C)).mean())
            lost.append(expected[0] - expected[1])
        case = f"no differences, {num:,} rows"
        findings.add(
            f"{case}: samples of {given.samples} that leave the common line", sum(abs(d) > 1e-12 for d in lost)
        )
        findings.add(f"{case}: log loss above that of the common line, mean", float(np.mean(lost)), "nats")
        findings.add(f"{case}: log loss above that of the common line, most", max(lost), "nats")


def main() -> None:
    """Measure all seeds and print them."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--json", type=Path, help="write the numbers to this file")
    arguments.add_argument("--without-peers", action="store_true", help="no MCGrad, and no environment for it")
    arguments.add_argument("--rows", type=int, default=500_000, help="to fit on")
    arguments.add_argument("--seeds", type=int, default=5, help="generators; MCGrad sees the first one only")
    arguments.add_argument("--samples", type=int, default=100, help="without differences")
    arguments.add_argument("--threads", type=int, default=1, help="of each contender")
    arguments.add_argument(
        "--rounds", type=int, default=1, help="of which the median is printed, after one that does not count"
    )
    given = arguments.parse_args()
    findings = Findings(f"{NUM_SEGMENTS} segments, {given.rows:,} rows")
    bonferroni = 1 - 0.05 / NUM_SEGMENTS
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(given.seeds):
            fresh, figures, predictions = compare(seed, given, Path(folder))
            p_by_name = {"truth": fresh["true"], **{name: np.load(path) for name, path in predictions.items()}}
            best = log_loss(p_by_name["truth"], fresh["labels"])
            for name, p_C in p_by_name.items():
                case = f"generator {seed}/{name}"
                is_tree = name == "segment tree"
                findings.add(f"{case}/log loss", log_loss(p_C, fresh["labels"]), "nats")
                findings.add(f"{case}/log loss above the truth's", log_loss(p_C, fresh["labels"]) - best, "nats")
                if name in figures:
                    findings.add(f"{case}/fit", figures[name].wall_ms / 1000, "s")
                for num in JUDGED:
                    target = is_tree and num == JUDGED[0]
                    found = outside(p_C, fresh, num, 0.95)
                    findings.add(f"{case}/outside 95 %, {num:,} rows", found, at_most=14 if target else None)
                    found = outside(p_C, fresh, num, bonferroni)
                    findings.add(f"{case}/outside Bonferroni's, {num:,} rows", found, at_most=0 if target else None)
            for peer in [name for name in figures if name.startswith("MCGrad")]:
                difference = log_loss(p_by_name["segment tree"], fresh["labels"]) - log_loss(
                    p_by_name[peer], fresh["labels"]
                )
                findings.add(f"segment tree's log loss less {peer}'s", difference, "nats", at_most=0)
                ratio = figures["segment tree"].wall_ms / figures[peer].wall_ms
                findings.add(f"segment tree's time / {peer}'s", ratio, at_most=1 / 20)
    without_differences(findings, given)
    findings.print()
    findings.write(given.json)


if __name__ == "__main__":
    main()
