"""The lists are what they say; what is measured is what runs; the study finds what must be so."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.special import expit

from rankwell.app.study_page import render_study
from rankwell.models.candidate_list import ListSettings
from rankwell.models.list_attention import FullSettings
from rankwell.studies.attention import seen_by_all, study_attention
from rankwell.studies.attention_result import ALONE, KINDS, LIMITS, Cost, Seen, cost_result, seen_result
from rankwell.studies.list_cost import RANK, encoder_pass, peak_mib, times_in_turns
from rankwell.studies.long_lists import LIST_SCHEMA, REACH, draw_long_lists


def test_the_truth_of_long_lists_is_as_stated() -> None:
    lists = draw_long_lists(4, 120, seed=0)
    for r, k in itertools.product(range(4), (0, 1, 60, 118, 119)):
        near = slice(max(k - REACH, 0), k + REACH + 1)
        contrast = 1.6 * (lists.worth_RK[r, k] - lists.worth_RK[r, near].mean())
        share = (lists.category_RK[r] == lists.category_RK[r, k]).mean()
        assert lists.contrast_RK[r, k] == pytest.approx(contrast)
        assert lists.crowding_RK[r, k] == pytest.approx(-6 * (share - 0.5))
        logit = contrast - 6 * (share - 0.5) + np.log(0.02 / 0.98)
        assert lists.probability_RK[r, k] == pytest.approx(expit(logit))


def test_labels_are_drawn_by_the_truth_and_logs_differ() -> None:
    lists = draw_long_lists(300, 200, seed=1)
    assert lists.labels_RK.mean() == pytest.approx(lists.probability_RK.mean(), rel=0.05)
    assert lists.worth_RK.var() == pytest.approx(3.25, rel=0.1)
    again, fresh = draw_long_lists(300, 200, seed=1), draw_long_lists(300, 200, seed=1, fresh=1)
    assert np.array_equal(lists.labels_RK, again.labels_RK)
    assert not np.array_equal(lists.worth_RK, fresh.worth_RK)


def test_who_sees_more_guesses_better() -> None:
    lists = draw_long_lists(200, 300, seed=2)
    truth_RK = lists.contrast_RK + lists.crowding_RK

    def missed(guess_RK: np.ndarray) -> float:
        return float((truth_RK - guess_RK - (truth_RK - guess_RK).mean()).var())

    alone, near, make_up = map(missed, (lists.best_alone(), lists.best_nearby(), lists.best_overall()))
    assert 0 < near < alone
    assert 0 < make_up < alone


def test_a_long_list_is_a_log_of_its_schema() -> None:
    table = draw_long_lists(3, 40, seed=0).table()
    assert table.column_names == ["request_id", *(feature.name for feature in LIST_SCHEMA.features), "click"]
    scores_K = table["retrieval_score"].to_pylist()[1]
    assert scores_K == sorted(scores_K, reverse=True)
    assert len(set(scores_K)) == 40


def test_steps_take_turns() -> None:
    ran: list[str] = []
    clock = itertools.count().__next__
    seconds = times_in_turns({name: lambda name=name: ran.append(name) for name in "ab"}, rounds=2, clock=clock)  # type: ignore[misc]
    assert seconds == {"a": [1, 1], "b": [1, 1]}
    assert "".join(ran) == "aabbbbaaaabb"  # each twice, the first of them uncounted; the first round not at all


@pytest.mark.parametrize("which", ["forward", "training"])
def test_memory_grows_with_what_is_kept(which: str) -> None:
    settings = ListSettings(attention=FullSettings(num_heads=2), rank=RANK)
    small, large = (peak_mib(encoder_pass(settings, which, size=n, width=16)) for n in (64, 256))  # type: ignore[arg-type]
    assert 2 < large / small < 6


def test_what_stood_before_is_not_counted() -> None:
    held = torch.zeros(2**18)

    def add_in_place() -> None:
        held.add_(1)

    assert peak_mib(add_in_place) < 0.01


def test_costs_are_told_by_length_and_kind() -> None:
    costs = {
        size: {
            kind: Cost({"forward": size / 100, "training": size / 50}, {"forward": 1.0, "training": 2.0})
            for kind in KINDS
        }
        for size in (500, 2_000)
    }
    result = cost_result(costs, width=8, num_heads=2)
    assert result.numbers["full/training_ms/times_from_500_to_2000"] == 4
    assert result.numbers["local/500/forward_ms"] == 5
    assert "full: 40 ms, 2 MiB" in result.finding


def test_the_verdict_tells_sure_differences_and_runs_that_did_not_look() -> None:
    ndcg = {ALONE: 0.2, "full": 0.5, "local": 0.4, "linear": 0.4} | dict.fromkeys(LIMITS, 0.6)
    shifts = {name: (0.0, 0.1) if name == "linear" else (0.05, 0.05) for name in ndcg}
    excess = {name: (0.1, 0.1) if name == ALONE else (0.02, 0.03) for name in ndcg} | {"linear": (0.09, 0.05)}
    found = {
        100: {
            name: [Seen(value + shift, lack) for shift, lack in zip(shifts[name], excess[name], strict=True)]
            for name, value in ndcg.items()
        }
    }
    result = seen_result(found)
    assert "all runs counted: full over local at 100 (+0.1000 [+0.1000, +0.1000])." in result.finding
    assert "full in 2, local in 2, linear in 1." in result.finding
    assert "linear 0.500, where" in result.finding  # of the run that looked alone
    assert result.numbers["full_over_local/100/mean"] == pytest.approx(0.1)
    assert "<svg" in render_study(result)


@pytest.mark.slow
def test_all_models_and_limits_are_judged_on_one_log() -> None:
    seen = seen_by_all(0, 30, 2, test_candidates=0)
    assert set(seen) == {ALONE, *KINDS, *LIMITS}
    assert max(seen, key=lambda name: seen[name].ndcg) == LIMITS[-1]
    assert all(seen[name].excess > 0 for name in (ALONE, *KINDS))


@pytest.mark.slow
def test_the_attention_study_runs() -> None:
    result = study_attention(seeds=(0, 1), num_requests=300, sizes=(50, 200))
    numbers = result.numbers
    assert numbers["seen/local/200/ndcg@10"] > numbers[f"seen/{ALONE}/200/ndcg@10"]
    assert min(numbers[f"cost/{kind}/200/training_ms"] for kind in KINDS) > 0
