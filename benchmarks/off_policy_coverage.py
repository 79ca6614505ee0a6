"""Off-policy values on the marketplace, log after log, against the truth: bias, RMSE, coverage and width.

Requests of the simulated marketplace are drawn once, with all that retrieval let through and the true p(click) of each
candidate in each slot. A log draws requests from them with replacement, fills the exploration slots by the logging
policy (ε = .25), and draws clicks; what stands elsewhere no policy here can move, and is left out. The target policy
puts into the slots what is most relevant by a model (item and position, by EM, fitted on one log of its own), and fills
them at random with probability .3. Its true value is a sum over all requests, slots and candidates. The model of the
direct method and of the doubly robust ones is the same.

    python benchmarks/off_policy_coverage.py [--logs N] [--impressions N] [--seed N] [--json FILE]
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

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
from rankwell.simulation.marketplace import Marketplace
from rankwell.simulation.preference import click_parts, pair_parts, sigmoid
from rankwell.simulation.retrieval import offer_jobs, retrieve
from rankwell.simulation.settings import MarketplaceSettings
from rankwell.training.propensity import examination_by_em

ESTIMATORS: dict[str, ValueEstimator] = {
    "IPW": InversePropensity(),
    "IPW clipped at 20": InversePropensity(clip=20.0),
    "SNIPS": SelfNormalised(),
    "DM": DirectMethod(),
    "DR": DoublyRobust(),
    "SWITCH-DR at 20": SwitchDoublyRobust(threshold=20.0),
}
TARGET_RATE, LEAST_COVERAGE, LEAST_EFFECTIVE = 0.3, 0.93, 1_000.0


@dataclass(frozen=True)
class Pool:
    """Requests, their slots and what could fill these: R requests, S slots of one (a rectangle), J that may fill them.

    Of the J, the first as many as there are slots are what production puts there.
    """

    job_RJ: NDArray[np.int64]
    click_RSJ: NDArray[np.float64]
    slot_S: NDArray[np.int64]
    num_slots_R: NDArray[np.int64]
    num_fillers_R: NDArray[np.int64]
    rate: float


def pool_of(seed: int, num_chunks: int = 4) -> Pool:
    marketplace = Marketplace.create(MarketplaceSettings(), seed)
    parts = [pool_of_chunk(marketplace, number) for number in range(num_chunks)]
    joined = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("job_RJ", "click_RSJ", "num_slots_R", "num_fillers_R")
    }
    return Pool(**joined, slot_S=parts[0].slot_S, rate=parts[0].rate)


def pool_of_chunk(marketplace: Marketplace, number: int) -> Pool:
    settings, population = marketplace.settings, marketplace.population
    sessions, rng = marketplace.chunk(number).sessions, np.random.default_rng([marketplace.seed, 7, number])
    offers = offer_jobs(settings, population, sessions, rng)
    retrieved = retrieve(
        offers, threshold=marketplace.retrieval_threshold, noise=settings.retrieval_noise, rng=rng
    )  # fmt: skip
    num_requests, width = retrieved.job_RP.shape
    production_RP = retrieved.score_RP + settings.production_noise * rng.standard_normal(retrieved.score_RP.shape)
    order_RP = np.argsort(np.where(retrieved.passed_RP, -production_RP, np.inf), axis=1)
    job_RP = np.take_along_axis(retrieved.job_RP, order_RP, axis=1)
    request_C = np.repeat(np.arange(num_requests), width)
    pairs = pair_parts(settings, population, sessions.member_R[request_C], job_RP.ravel())
    parts = click_parts(settings, population, sessions, request_C, job_RP.ravel(), pairs)
    logit_C = np.sum(list(parts.values()), axis=0) + marketplace.intercepts["click"]
    click_RP = sigmoid(logit_C.astype(np.float64)).reshape(num_requests, width)

    retrieved_R = retrieved.passed_RP.sum(axis=1)
    length_R = np.minimum(retrieved_R, rng.integers(settings.min_slots, settings.max_slots + 1, num_requests))
    slot_S = np.array(settings.exploration_slots)
    num_slots_R = np.searchsorted(slot_S, length_R, side="right")
    # what may fill slots: what production puts there, then what it does not show
    rank_J = np.arange(width)
    padded = np.concatenate([slot_S - 1, np.zeros(width, np.int64)])
    behind = length_R[:, None] + rank_J - num_slots_R[:, None]
    rank_RJ = np.where(rank_J < num_slots_R[:, None], padded[rank_J], np.minimum(behind, width - 1))
    examination_S = slot_S.astype(np.float64) ** -settings.examination_decay
    return Pool(
        job_RJ=np.take_along_axis(job_RP, rank_RJ, axis=1),
        click_RSJ=examination_S[:, None] * np.take_along_axis(click_RP, rank_RJ, axis=1)[:, None, :],
        slot_S=slot_S,
        num_slots_R=num_slots_R,
        num_fillers_R=num_slots_R + retrieved_R - length_R,
        rate=settings.exploration_rate,
    )


def filled(pool: Pool, request_N: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """What the logging policy puts into each slot of N requests, an index among those that may (N × S)."""
    num_slots = len(pool.slot_S)
    choice_NS = np.tile(np.arange(num_slots), (len(request_N), 1))
    explored = np.flatnonzero(rng.random(len(request_N)) < pool.rate)
    shuffled = np.tile(np.arange(pool.job_RJ.shape[1]), (len(explored), 1))
    rows = np.arange(len(explored))
    for place in range(num_slots):  # the first swaps of a shuffle
        left = np.maximum(pool.num_fillers_R[request_N[explored]] - place, 1)
        other = np.minimum(place + (rng.random(len(explored)) * left).astype(np.int64), shuffled.shape[1] - 1)
        here = shuffled[rows, place].copy()
        shuffled[rows, place], shuffled[rows, other] = shuffled[rows, other], here
    choice_NS[explored] = shuffled[:, :num_slots]
    return choice_NS


@dataclass(frozen=True)
class Target:
    """The target policy: its order, the model's estimates, what both come to, and the truth."""

    best_RS: NDArray[np.int64]
    model_RSJ: NDArray[np.float64]
    model_value_RS: NDArray[np.float64]
    value: float


def target_of(pool: Pool, num_requests: int, rng: np.random.Generator) -> Target:
    request_N = rng.integers(len(pool.num_slots_R), size=num_requests)
    row_C, slot_C, choice_C = impressions(pool, request_N, filled(pool, request_N, rng))
    request_C = request_N[row_C]
    click_C = rng.random(len(row_C)) < pool.click_RSJ[request_C, slot_C, choice_C]
    model = examination_by_em(click_C, pool.slot_S[slot_C], pool.job_RJ[request_C, choice_C])
    relevance_I = np.full(int(pool.job_RJ.max()) + 1, float(np.median(model.relevance_I)))
    relevance_I[model.items_I.astype(np.int64)] = model.relevance_I
    relevance_RJ = relevance_I[pool.job_RJ]
    model_RSJ = model.examination_K[pool.slot_S - 1][:, None] * relevance_RJ[:, None, :]

    may_RJ = np.arange(pool.job_RJ.shape[1]) < pool.num_fillers_R[:, None]
    best_RS = np.argsort(np.where(may_RJ, -relevance_RJ, np.inf), axis=1, kind="stable")[:, : len(pool.slot_S)]
    slots_RS = np.arange(len(pool.slot_S)) < pool.num_slots_R[:, None]

    def value_RS(worth_RSJ: NDArray[np.float64]) -> NDArray[np.float64]:
        at_random = (worth_RSJ * may_RJ[:, None, :]).sum(2) / np.maximum(pool.num_fillers_R, 1)[:, None]
        best = np.take_along_axis(worth_RSJ, best_RS[:, :, None], axis=2)[:, :, 0]
        return TARGET_RATE * at_random + (1 - TARGET_RATE) * best

    truth = float(value_RS(pool.click_RSJ)[slots_RS].sum() / slots_RS.sum())
    return Target(best_RS, model_RSJ, value_RS(model_RSJ), truth)


def impressions(
    pool: Pool, request_N: NDArray[np.int64], choice_NS: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Row, slot and choice of each slot that is on its page."""
    row_C, slot_C = np.nonzero(np.arange(len(pool.slot_S)) < pool.num_slots_R[request_N][:, None])
    return row_C, slot_C, choice_NS[row_C, slot_C]


def drawn(pool: Pool, target: Target, num_requests: int, rng: np.random.Generator) -> LoggedFeedback:
    """One log, as feedback."""
    request_N = rng.integers(len(pool.num_slots_R), size=num_requests)
    row_C, slot_C, choice_C = impressions(pool, request_N, filled(pool, request_N, rng))
    request_C = request_N[row_C]
    fillers_C = pool.num_fillers_R[request_C]
    return LoggedFeedback.of(
        rng.random(len(row_C)) < pool.click_RSJ[request_C, slot_C, choice_C],
        pool.rate / fillers_C + (1 - pool.rate) * (choice_C == slot_C),
        TARGET_RATE / fillers_C + (1 - TARGET_RATE) * (choice_C == target.best_RS[request_C, slot_C]),
        estimates_C=target.model_RSJ[request_C, slot_C, choice_C],
        target_estimates_C=target.model_value_RS[request_C, slot_C],
        request_C=row_C,
        least_effective=LEAST_EFFECTIVE,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logs", type=int, default=1_000)
    parser.add_argument("--impressions", type=int, default=100_000, help="at least so many in a log")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    started = time.perf_counter()
    pool, rng = pool_of(given.seed), np.random.default_rng([given.seed, 1])
    # so many more than the mean asks for that none of a thousand logs is short
    num_requests = int(given.impressions / pool.num_slots_R.mean() * 1.02) + 1
    target = target_of(pool, num_requests, rng)
    values = {name: np.empty((given.logs, 3)) for name in ESTIMATORS}
    sizes = np.empty((given.logs, 2))
    for log in range(given.logs):
        feedback = drawn(pool, target, num_requests, rng)
        sizes[log] = len(feedback), feedback.effective_sample_size
        for name, estimator in ESTIMATORS.items():
            found = estimator(feedback)
            values[name][log] = found.value, found.interval.low, found.interval.high
    findings = Findings(f"off-policy values on {given.logs} logs of the marketplace; the truth is {target.value:.5f}")
    findings.add("true value", target.value)
    findings.add("least impressions of a log", sizes[:, 0].min(), at_least=given.impressions)
    findings.add("least effective sample size", sizes[:, 1].min(), at_least=LEAST_EFFECTIVE)
    for name, (value_L, low_L, high_L) in ((name, found.T) for name, found in values.items()):
        error = float(np.sqrt(((value_L - target.value) ** 2).mean()))
        coverage = float(((low_L <= target.value) & (target.value <= high_L)).mean())
        findings.add(f"{name}/bias in 1e-4", 1e4 * float(value_L.mean() - target.value))
        findings.add(f"{name}/RMSE in 1e-4", 1e4 * error)
        findings.add(f"{name}/mean width in 1e-4", 1e4 * float((high_L - low_L).mean()))
        promised = LEAST_COVERAGE if name in ("IPW", "SNIPS", "DR") else None
        findings.add(f"{name}/coverage of 95 %", coverage, at_least=promised)
    ratio = np.sqrt(
        ((values["DR"][:, 0] - target.value) ** 2).mean() / ((values["IPW"][:, 0] - target.value) ** 2).mean()
    )
    findings.add("RMSE of DR by IPW's", float(ratio), at_most=1.0)
    findings.add("seconds", time.perf_counter() - started)
    findings.print()
    findings.write(given.json)


if __name__ == "__main__":
    main()
