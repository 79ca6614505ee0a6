"""Is what was served as well calibrated as what was scored? Plain isotonic beside the correction of the winner's curse.

Requests of 50 to 500 candidates, items seen 30 to 3,000 times, whose logits err by 10, 20 and 30 % in the odds (of an
item seen 300 times; more for rarer ones), and bids that know half of the error. Both are fitted on the labels of all
candidates scored in some requests, then choose the best by bid × p̂ in others; what they promised is held against the
true probabilities. "Bids that know nothing" leaves only the unequal uncertainty.

    python benchmarks/winners_curse.py [--json FILE] [--requests N] [--seeds N]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from contenders.findings import Findings
from rankwell.calibration.isotonic import fit_isotonic
from rankwell.evaluation.served import best_of_each
from rankwell.ranking.winners_curse import fit_winners_curse
from rankwell.simulation.winners_curse import CursedRequests, CurseSettings, cursed_requests

NOISES, SLOTS = (0.1, 0.2, 0.3), (1, 10)


def ratios(probabilities_C: Tensor, requests: CursedRequests) -> dict[str, float]:
    """Predicted over true, of all that is scored and of the best few by bid × p̂."""
    chosen = {"scored": torch.ones(len(probabilities_C), dtype=torch.bool)}
    for k in SLOTS:
        best_C = best_of_each(probabilities_C * requests.bids_C, requests.request_C, k=k)
        chosen[f"served, best {k}"] = torch.from_numpy(best_C)
    return {
        name: float(probabilities_C[rows].sum() / requests.true_probabilities_C[rows].sum())
        for name, rows in chosen.items()
    }


def one(settings: CurseSettings, num_requests: int, seed: int) -> tuple[dict[tuple[str, str], float], float]:
    """The ratios of both, and the seconds that the correction took to fit."""
    sample = cursed_requests(settings, num_requests, seed=2 * seed)
    fresh = cursed_requests(settings, num_requests, seed=2 * seed + 1)
    ones_C, nowhere_C = torch.ones(len(sample.logits_C)), torch.zeros(len(sample.logits_C), 0)
    isotonic = fit_isotonic(sample.logits_C, sample.labels_C, ones_C, nowhere_C)
    began = time.perf_counter()
    correction = fit_winners_curse(
        sample.logits_C, sample.labels_C, ones_C, uncertainty_C=sample.uncertainty_C, bids_C=sample.bids_C,
        request_C=sample.request_C,
    )  # fmt: skip
    seconds = time.perf_counter() - began
    corrected_C = correction.corrected_logits(fresh.logits_C, fresh.uncertainty_C, fresh.bids_C, fresh.request_C)
    found = {}
    for name, p_C in {
        "isotonic": isotonic(fresh.logits_C, torch.zeros(len(fresh.logits_C), 0)),
        "corrected": torch.sigmoid(corrected_C),
    }.items():
        found.update({(name, where): ratio for where, ratio in ratios(p_C, fresh).items()})
    return found, seconds


def main() -> None:
    """Simulate and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--json", type=Path, help="write the numbers to this file")
    arguments.add_argument("--requests", type=int, default=8000, help="to fit on, and as many to judge by")
    arguments.add_argument("--seeds", type=int, default=3)
    given = arguments.parse_args()
    findings = Findings("calibration ratios of what is served, mean of seeds")
    seconds = []
    for correlation, bids in ((0.5, "bids that know half"), (0.0, "bids that know nothing")):
        for noise in NOISES:
            settings = CurseSettings(noise=noise, bid_correlation=correlation)
            found = [one(settings, given.requests, seed) for seed in range(given.seeds)]
            seconds += [took for _, took in found]
            for key in found[0][0]:
                values = [ratio for of_seed, _ in found for ratio in (of_seed[key],)]
                name = f"{bids}, noise {noise:.0%}: {key[0]}, {key[1]}"
                findings.add(name, float(np.mean(values)))
                if key[0] == "corrected" and key[1] != "scored":
                    findings.add(f"{name}: farthest of all seeds from 1", max(abs(v - 1) for v in values), at_most=0.02)
    findings.add("seconds to fit the correction", float(np.median(seconds)), "s")
    findings.print()
    findings.write(given.json)


if __name__ == "__main__":
    main()
