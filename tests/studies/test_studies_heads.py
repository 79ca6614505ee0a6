"""Rivals take the clicks that they are said to take, times are times, and the study's gains are those of its levels."""

from __future__ import annotations

import math

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from rankwell.models.candidate_list import ListEncoder
from rankwell.models.specialised_attention import SpecialisedAttention
from rankwell.simulation.truth import read_truth
from rankwell.studies.head_result import HeadFindings, Outcome, result_of
from rankwell.studies.head_variants import GATED, SEGMENT_GATED, VARIANTS, recipe_of
from rankwell.studies.heads import encoder_times, study_heads
from rankwell.studies.rivals import rival_gaps, with_rivals
from rankwell.training.predictions import Predictions


def kilometres(one: tuple[float, float], other: tuple[float, float]) -> float:
    (a, b), (c, d) = ((math.radians(x) for x in place) for place in (one, other))
    chord = math.sin((c - a) / 2) ** 2 + math.cos(a) * math.cos(c) * math.sin((d - b) / 2) ** 2
    return 2 * 6371.0088 * math.asin(math.sqrt(chord))


def test_clicks_are_drawn_by_what_stands_beside() -> None:
    with with_rivals(seed=3, num_requests=300) as (data, truth):
        log = pq.read_table(data / "log")
        before = read_truth(data)
    title_C, near_C = rival_gaps(log)
    rows = log.to_pylist()
    expected = []
    for row in rows:
        places = list(zip(row["job_place_lat"], row["job_place_lon"], strict=True))
        pay = [math.log(salary) for salary in row["salary"]]
        for i, title in enumerate(row["job_title"]):
            others = [k for k in range(len(places)) if k != i]
            same = [pay[k] - pay[i] for k in others if row["job_title"][k] == title]
            near = [pay[k] - pay[i] for k in others if kilometres(places[i], places[k]) <= 80.5]
            expected.append([sum(gaps) / len(gaps) if gaps else 0.0 for gaps in (same, near)])
    assert np.stack([title_C, near_C], axis=1) == pytest.approx(np.array(expected), abs=1e-9)
    lengths = [len(row["click"]) for row in rows]
    ids_C = torch.tensor([row["request_id"] for row in rows]).repeat_interleave(torch.tensor(lengths))
    request_C, nothing = torch.arange(len(rows)).repeat_interleave(torch.tensor(lengths)), torch.zeros(len(ids_C))
    p_C = truth(Predictions(nothing[:, None], nothing[:, None], nothing, request_C, ids_C, ids_C, {}))
    was_C = before.of_requests(np.array([row["request_id"] for row in rows])).probabilities["click"]
    senior_C = np.repeat([row["seniority"] >= 4 for row in rows], lengths)
    sd_title, sd_near = (gap[gap != 0].std() for gap in (title_C, near_C))
    taken_C = np.log(was_C / (1 - was_C)) - np.log(p_C / (1 - p_C))
    strength = 1.5 * (title_C / sd_title + senior_C * near_C / sd_near)
    assert taken_C == pytest.approx(strength, abs=1e-6)
    clicks_C = np.array([click for row in rows for click in row["click"]])
    for of in (strength > 1, strength < -1, strength == 0):
        assert clicks_C[of].sum() == pytest.approx(p_C[of].sum(), abs=4 * math.sqrt((p_C * (1 - p_C))[of].sum()))


@pytest.mark.parametrize("variant", [GATED, SEGMENT_GATED], ids=lambda variant: variant.name)
def test_what_is_timed_is_the_encoder_without_the_heads_that_are_closed(variant: object) -> None:
    assert variant in (GATED, SEGMENT_GATED)
    settings = GATED.settings if variant is GATED else SEGMENT_GATED.settings
    assert settings.list is not None
    layout = {group.name: group.width for group in settings.groups}
    encoder = ListEncoder(recipe_of(GATED).schema, settings.list, width=settings.width, layout=layout).eval()
    (attention,) = encoder.layers.attentions
    assert isinstance(attention, SpecialisedAttention)
    assert attention.gates is not None
    with torch.no_grad():
        for location in attention.gates.parameters():
            location.sub_(9.0)
    assert attention.num_heads == 4
    for segment in (0, 7):  # how much faster that is stands in the study: a test can't tell on a busy machine
        (left,) = encoder.pruned(segment).layers.attentions
        assert left.num_heads == 0
    assert min(encoder_times(encoder, {0: 0.5, 7: 0.5}, rounds=1)) > 0


def findings(*, gates: dict[int, tuple[float, ...]], named: dict[int, float]) -> HeadFindings:
    return HeadFindings(
        reads=("fed a", "fed b"), named=named, strongest=(3.0, 2.0), overlap=0.5, gates=gates,
        shares={0: 0.75, 6: 0.25}, auc_lost=(0.01, 0.0), uncut_time=1.0, cut_time=0.5,
    )  # fmt: skip


def test_gates_are_told_in_the_mean_over_requests() -> None:
    of = findings(gates={0: (0.8, 0.0), 6: (0.4, 0.2)}, named={})
    assert of.num_open == pytest.approx(0.75 * 1 + 0.25 * 2)
    assert of.gate(0) == pytest.approx(0.7)
    assert (of.gate(1, seniors=True), of.gate(1, seniors=False)) == (0.2, 0.0)


def test_numbers_of_the_result() -> None:
    def outcome(loss: float) -> Outcome:
        heads = findings(gates={0: (1.0, 0.0), 6: (1.0, 0.0)}, named={0: 3.0, 1: 1.0})
        return Outcome(log_loss=loss, auc=0.7, ndcg=0.5, bayes_log_loss=0.2, heads=heads)

    found = {variant.name: [outcome(0.3), outcome(0.32)] for variant in VARIANTS}
    found["fixed"] = [outcome(0.29), outcome(0.31)]
    found["no list"] = [Outcome(log_loss=0.35, auc=0.6, ndcg=0.4, bayes_log_loss=0.2, heads=None)] * 2
    result = result_of("of two", found)
    numbers = result.numbers
    assert numbers["fixed/gain/log_loss/mean"] == pytest.approx(0.01)
    assert numbers["no list/gain/auc/mean"] == pytest.approx(-0.1)
    assert (numbers["fixed/named"], numbers["gated/num_open"], numbers["fed b/gate"]) == (2.0, 1.0, 0.0)
    assert "surely saved or lost by fixed +0.0100" in result.finding
    assert "without the others the list encoder saves 50%, and against the fixed ones -0.0100" in result.finding
    assert "cut out: a 0.0100, b 0.0000" in result.finding
    assert [len(panel.lines) for panel in result.charts[0].panels] == [7, 2, 1, 2]


@pytest.mark.slow
def test_the_study_runs() -> None:
    result = study_heads(seeds=(0, 1), num_requests=400)
    for marketplace in ("as it is", "with rivals"):
        for variant in VARIANTS:
            assert 0 < result.numbers[f"{marketplace}/{variant.name}/log_loss"] < 1
    assert len(result.tables) == 9
    assert [len(chart.panels) for chart in result.charts] == [4, 4]
