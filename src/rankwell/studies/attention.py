"""Full, local and linear attention among a request's candidates: what each costs, and what each can see.

Letters: C candidates, flat · R requests · K candidates of one request.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from rankwell.data.batches import Batches
from rankwell.data.log import log_from_table
from rankwell.data.split import Part, WholeLog
from rankwell.data.statistics import measure_numerics
from rankwell.evaluation.ranking_quality import ndcg_at_k
from rankwell.evaluation.truth import excess_log_loss
from rankwell.models.candidate_list import ListSettings
from rankwell.models.list_attention import AttentionSettings, FullSettings, LinearSettings, LocalSettings
from rankwell.models.transformer import RankingTransformer, TransformerSettings
from rankwell.studies.attention_result import ALONE, LIMITS, PASSES, Cost, Seen, cost_result, seen_result
from rankwell.studies.list_cost import RANK, encoder_pass, median_ms, peak_mib, times_in_turns
from rankwell.studies.long_lists import LIST_SCHEMA, REACH, LongLists, draw_long_lists
from rankwell.studies.study import StudyResult, joined
from rankwell.tables.adagrad import RowWiseAdaGrad
from rankwell.training.dense_optimizers import DenseAdamW
from rankwell.training.loop import LoopSettings, fit
from rankwell.training.objectives import PointwiseObjective
from rankwell.training.optimizers import OptimizerPlan
from rankwell.training.predictions import predict

__all__ = ["seen_by_all", "study_attention"]

Floats = NDArray[np.float64]

_SIZES: Final = (100, 500, 1_000, 2_000)
_WIDTH: Final = 64
_HEADS: Final = 8
_LEAST_CANDIDATES: Final = 500
"""In a step; shorter lists come several at once."""
_TEST_CANDIDATES: Final = 100_000
_LEAST_TEST_REQUESTS: Final = 100
_NUM_TUNE: Final = 8
_ROUNDS: Final = 9
_PARTS: Final[tuple[Part, ...]] = ("train", "tune", "test")
_PLAN: Final = OptimizerPlan(dense=DenseAdamW(learning_rate=5e-3), default_rows=RowWiseAdaGrad(learning_rate=0.2))
_LOOP: Final = LoopSettings(max_epochs=1, patience=1, anneal_to=0.1)
_ATTENTION: Final[Mapping[str, AttentionSettings]] = {
    "full": FullSettings(num_heads=_HEADS),
    "local": LocalSettings(num_heads=_HEADS, window=2 * REACH),
    "linear": LinearSettings(num_heads=_HEADS),
}


def study_attention(
    *,
    seeds: Sequence[int],
    num_requests: int = 800,
    sizes: Sequence[int] = _SIZES,
    say: Callable[[str], None] = lambda _: None,
) -> StudyResult:
    """Time and memory of each kind of attention by the length of the list, and nDCG@10 where neighbours matter.

    The candidates are those of `rankwell.studies.long_lists`: part of a click's logit depends on what stands near in
    the initial ranking, part on what the whole list is made of. All models are of one size, see the initial ranking as
    a feature, and take as many steps.

    Args:
        seeds: One truth's log each; two or more for intervals.
        num_requests: Requests to train on, one a step; of lists shorter than 500 as many more as make up for it.
        sizes: Lengths of the lists, ascending.
        say: Told what is going on.
    """
    costs = cost_result(_costs(sizes), width=_WIDTH, num_heads=_HEADS)
    say("time and memory are measured")
    found: dict[int, dict[str, list[Seen]]] = {size: {} for size in sizes}
    for seed in seeds:
        for size in sizes:
            for name, seen in seen_by_all(seed, size, num_requests).items():
                found[size].setdefault(name, []).append(seen)
            say(f"seed {seed}: lists of {size:,}")
    return joined("attention", [costs, seen_result(found)])


def _list_settings(attention: AttentionSettings) -> ListSettings:
    return ListSettings(attention=attention, num_layers=1, feed_forward=1, rank=RANK)


def _costs(sizes: Sequence[int]) -> dict[int, dict[str, Cost]]:
    """Of the layer that the models have, all cases in turns."""
    steps = {
        (size, kind, which): encoder_pass(_list_settings(settings), which, size=size, width=_WIDTH)
        for size in sizes
        for kind, settings in _ATTENTION.items()
        for which in PASSES
    }
    ms = median_ms(times_in_turns(steps, rounds=_ROUNDS))
    return {
        size: {
            kind: Cost(
                {which: ms[size, kind, which] for which in PASSES},
                {which: peak_mib(steps[size, kind, which]) for which in PASSES},
            )
            for kind in _ATTENTION
        }
        for size in sizes
    }


def seen_by_all(seed: int, size: int, num_requests: int, *, test_candidates: int = _TEST_CANDIDATES) -> dict[str, Seen]:
    """Every model and every limit on one log of lists of one length.

    Args:
        seed: Of the log and the models.
        size: K.
        num_requests: See `study_attention`.
        test_candidates: Of the test log, but 100 requests at least.
    """
    at_once = -(-_LEAST_CANDIDATES // size)
    logs = [
        draw_long_lists(number, size, seed=seed, fresh=fresh)
        for fresh, number in enumerate(
            (num_requests * at_once, _NUM_TUNE, max(_LEAST_TEST_REQUESTS, test_candidates // size))
        )
    ]
    train, tune, test = (
        Batches(
            log_from_table(lists.table(), LIST_SCHEMA, layout="requests"), WholeLog(part), part,
            num_requests=at_once, seed=seed if part == "train" else None,
        )
        for lists, part in zip(logs, _PARTS, strict=True)
    )  # fmt: skip
    statistics = measure_numerics(train, LIST_SCHEMA)
    settings = {kind: _list_settings(attention) for kind, attention in _ATTENTION.items()}
    found = {name: Seen(_ndcg(utility_RK, logs[2]), np.nan) for name, utility_RK in _limits(logs[2]).items()}
    for name, among in {ALONE: None, **settings}.items():
        model = RankingTransformer(
            LIST_SCHEMA, statistics,
            TransformerSettings(
                row_width=8, width=_WIDTH, hidden=(_WIDTH,), history=None, list=among, wide=None, init_scale=1.0,
                default_rate=0.0,
            ),
            seed=seed,
        )  # fmt: skip
        fit(model, PointwiseObjective(LIST_SCHEMA), _PLAN, train, tune, _LOOP, seed=seed)
        logits_RK = predict(model, test).logits_CA.double().numpy().reshape(logs[2].labels_RK.shape)
        truth_C = logs[2].probability_RK.ravel()
        excess = excess_log_loss(expit(logits_RK).ravel(), truth_C, np.ones(len(truth_C)))
        found[name] = Seen(_ndcg(logits_RK, logs[2]), excess)
    return found


def _limits(lists: LongLists) -> dict[str, Floats]:
    """By what each would rank who knows the truth, and sees so much."""
    seen = (lists.best_alone(), lists.best_nearby(), lists.best_overall(), lists.contrast_RK + lists.crowding_RK)
    return dict(zip(LIMITS, seen, strict=True))


def _ndcg(utility_RK: Floats, lists: LongLists) -> float:
    num_requests, length = lists.labels_RK.shape
    request_C = np.repeat(np.arange(num_requests), length)
    labels_C = lists.labels_RK.ravel()
    return ndcg_at_k(expit(utility_RK).ravel(), labels_C, np.ones(len(labels_C)), request_C=request_C, k=10)
