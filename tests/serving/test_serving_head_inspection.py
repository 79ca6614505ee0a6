"""What is told of heads is what they do: against counts by hand, weights zeroed by hand, and heads known beforehand."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from every_kind_log import EVERY_KIND, every_kind_table
from rankwell.data.batches import Batches
from rankwell.data.log import log_from_table
from rankwell.data.split import WholeLog
from rankwell.data.statistics import NumericStatistics, measure_numerics
from rankwell.errors import RecipeError, RequestError
from rankwell.evaluation.attention_maps import AttentionMaps
from rankwell.evaluation.discrimination import auc
from rankwell.models.attention import SelfAttention
from rankwell.models.candidate_list import ListSettings
from rankwell.models.feature_groups import FeatureGroup
from rankwell.models.head_gates import SegmentGates, SegmentGateSettings, StaticGates, StaticGateSettings
from rankwell.models.head_watch import HeadWatch
from rankwell.models.history import HistorySettings
from rankwell.models.list_attention import FullSettings, LinearSettings
from rankwell.models.specialised_attention import (
    FedHead,
    LearnedHead,
    PrimedHead,
    SpecialisedAttention,
    SpecialisedSettings,
)
from rankwell.models.transformer import RankingTransformer, TransformerSettings
from rankwell.models.wide_deep import Logistic
from rankwell.serving import head_inspection
from rankwell.serving.head_inspection import HeadInspection, inspect_heads
from rankwell.training.dense_optimizers import DenseAdamW
from rankwell.training.objectives import PointwiseObjective
from rankwell.training.optimizers import OptimizerPlan
from rankwell.training.predictions import predict

GROUPS = (FeatureGroup(name="title", features=("job_title",), width=6),)
HEADS = (FedHead(group="title", sharpness=100.0), PrimedHead(group="title"), LearnedHead())
HISTORY = HistorySettings(width=8, num_layers=1, num_heads=2)


def batches(num: int = 60, *, longest: int = 6) -> Batches:
    log = log_from_table(every_kind_table(num, 1, longest=longest), EVERY_KIND, layout="requests")
    return Batches(log, WholeLog("train"), "train", num_requests=20, seed=None)


@pytest.fixture(scope="module")
def statistics() -> NumericStatistics:
    return measure_numerics(batches(), EVERY_KIND)


def model_of(
    statistics: NumericStatistics,
    of_list: ListSettings | None = None,
    *,
    gates: StaticGateSettings | SegmentGateSettings | None = None,
    history: HistorySettings | None = HISTORY,
) -> RankingTransformer:
    specialised = ListSettings(attention=SpecialisedSettings(heads=HEADS, head_width=6, gates=gates))
    settings = TransformerSettings(row_width=4, width=16, groups=GROUPS, history=history, list=of_list or specialised)
    model = RankingTransformer(EVERY_KIND, statistics, settings, seed=0).train()
    objective = PointwiseObjective(EVERY_KIND)
    optimizers = OptimizerPlan(dense=DenseAdamW(learning_rate=0.01)).start(model, objective)
    for batch in batches():  # what training has not seen has no row of its own
        encoded = model.encode(batch.features)
        loss, count = objective(encoded, model.head(encoded), batch)
        (loss / count).backward()
        optimizers.step()
    return model.eval()


def attention_of(model: RankingTransformer) -> SpecialisedAttention:
    assert model.among is not None
    (attention,) = model.among.layers.attentions
    assert isinstance(attention, SpecialisedAttention)
    return attention


def layer(found: HeadInspection, name: str) -> head_inspection.LayerInspection:
    return next(layer for layer in found.layers if layer.name == name)


def titles(of: Batches) -> list[list[int]]:
    """By request."""
    found = []
    for batch in of:
        title_C = batch.features.candidates["job_title"]
        assert isinstance(title_C, Tensor)
        ends = batch.features.offsets.tolist()
        found += [title_C[start:end].tolist() for start, end in pairwise(ends)]
    return found


def test_a_sharp_head_and_an_even_one_against_counts_by_hand(statistics: NumericStatistics) -> None:
    model = model_of(statistics)
    with torch.no_grad():
        attention_of(model).weight[:2, 2] = 0.0  # the learned head sees all alike
    found = layer(inspect_heads(model, batches()), "list.0")
    lists = titles(batches())
    sharp, even, entropy = [], [], []
    for title in lists:
        for one in title:
            others = title.count(one) - 1
            if len(title) > 1:
                entropy.append(math.log(len(title)))
            if others:
                sharp.append(others / (others + 1))
                even.append(others / len(title))
    fed, _, alike = found.rows
    assert found.reads == ("fed title", "primed title", "learned")
    assert fed.mass_on["job_title"] == pytest.approx(np.mean(sharp), abs=0.02)
    assert alike.mass_on["job_title"] == pytest.approx(np.mean(even), rel=1e-5)
    assert alike.even_mass_on["job_title"] == pytest.approx(np.mean(even), rel=1e-9)
    assert alike.entropy == pytest.approx(np.mean(entropy), rel=1e-5)
    assert alike.by_distance == pytest.approx(alike.even_by_distance, rel=1e-5)
    assert fed.entropy < alike.entropy
    assert set(found.relations) <= {"job_title", "office"}
    assert found.overlap_JJ.diagonal() == pytest.approx([1, 1, 1])
    assert (found.gates, inspect_heads(model, batches()).segment) == ({}, None)


def test_auc_lost_is_what_zeroed_weights_lose(statistics: NumericStatistics) -> None:
    model = model_of(statistics)

    def now() -> float:
        logits_C, labels_C, weights_C, _ = predict(model, batches()).of_action(0)
        return auc(logits_C.double().sigmoid(), labels_C, weights_C)

    found = inspect_heads(model, batches())
    assert (found.num_requests, found.action) == (60, "click")
    assert found.auc == pytest.approx(now())
    whole, out = now(), attention_of(model).out
    for j, lost in enumerate(layer(found, "list.0").auc_lost):
        kept = out[j].detach().clone()
        with torch.no_grad():
            out[j] = 0.0
            assert lost.value == pytest.approx(whole - now(), abs=1e-12)
            out[j] = kept
        assert lost.interval.low <= lost.value <= lost.interval.high
    (history,) = model.encoders["history"].layers.attentions
    assert isinstance(history, SelfAttention)
    with torch.no_grad():
        history.out.weight[:, 4:] = 0.0
    assert layer(found, "history.0").auc_lost[1].value == pytest.approx(whole - now(), abs=1e-12)


def test_the_model_is_left_as_it_was(statistics: NumericStatistics) -> None:
    model = model_of(statistics).train()
    model.watch = own = HeadWatch(num_places=2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    drawn = torch.get_rng_state()
    inspect_heads(model, batches())
    assert (model.watch, model.training) == (own, True)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_static_gates_and_those_of_each_segment(statistics: NumericStatistics) -> None:
    model = model_of(statistics, gates=StaticGateSettings())
    gates = attention_of(model).gates
    assert isinstance(gates, StaticGates)
    with torch.no_grad():
        gates.location[1] = -9.0
    found = layer(inspect_heads(model, batches()), "list.0")
    assert found.gates[None][1] == 0
    assert found.auc_lost[1].value == 0  # it is closed already
    assert found.numbers()["list.0.0/gate"] == found.gates[None][0]
    model = model_of(statistics, gates=SegmentGateSettings(segment="title", num_segments=3))
    of_segments = attention_of(model).gates
    assert isinstance(of_segments, SegmentGates)
    with torch.no_grad():
        of_segments.own[2, 0] = -9.0
    inspected = inspect_heads(model, batches())
    by_segment = layer(inspected, "list.0").gates
    assert inspected.segment == "title"
    assert list(by_segment) == [-1, 0, 1, 2, 3, 4, 5]  # those that occur; -1 is the missing one
    assert by_segment[2][0] == 0
    assert by_segment[5] == by_segment[-1]  # nothing is known of either
    assert inspected.numbers()["list.0.0/gate/2"] == 0


def test_histories_have_relations_of_their_own(statistics: NumericStatistics) -> None:
    found = layer(inspect_heads(model_of(statistics), batches(200)), "history.0")
    assert found.reads == ("learned", "learned")
    assert set(found.rows[0].mass_on) == {"item", "kind"}
    for row in found.rows:
        assert sum(row.by_recency) == pytest.approx(1)
        assert row.by_recency != pytest.approx(row.even_by_recency, rel=1e-3)


def test_layers_without_maps_and_layers_that_are_shared(statistics: NumericStatistics) -> None:
    linear = model_of(statistics, ListSettings(attention=LinearSettings(num_heads=2)), history=None)
    (found,) = inspect_heads(linear, batches()).layers
    assert (found.rows, found.relations, found.overlap_JJ.size) == ((), (), 0)
    assert all(lost.value for lost in found.auc_lost)
    assert set(found.numbers()) == {f"list.0.{j}/auc_lost{end}" for j in range(2) for end in ("", "_low", "_high")}
    shared = ListSettings(attention=FullSettings(num_heads=2), num_layers=2, shares_layers=True)
    first, second = inspect_heads(model_of(statistics, shared, history=None), batches()).layers
    assert [first.name, second.name] == ["list.0", "list.1"]
    assert first.auc_lost == second.auc_lost
    assert first.rows[0].entropy != second.rows[0].entropy


def test_few_entries_ask_where_lists_are_long(statistics: NumericStatistics, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(statistics, history=None)
    asked = []

    class Counting:
        of = staticmethod(AttentionMaps.of)

        @staticmethod
        def joined(parts: list[AttentionMaps]) -> AttentionMaps:
            asked.append(sum(len(part.maps_nJL) for part in parts))
            return AttentionMaps.joined(parts)

    monkeypatch.setattr(head_inspection, "AttentionMaps", Counting)
    whole = inspect_heads(model, batches(longest=30)).layers[0]
    monkeypatch.setattr(head_inspection, "_MOST_SHARES", 60 * 31 * 3 * 2)  # lists, places, heads: two of each list
    few, again = (inspect_heads(model, batches(longest=30)).layers[0] for _ in range(2))
    num_alone = sum(len(title) == 1 for title in titles(batches(longest=30)))
    assert asked[0] == sum(len(title) for title in titles(batches(longest=30)) if len(title) > 1)
    assert asked[1] == 2 * (60 - num_alone)
    assert few.numbers() == pytest.approx(again.numbers(), rel=0, abs=0, nan_ok=True)  # drawn by the seed
    assert few.rows[0].mass_on["job_title"] == pytest.approx(whole.rows[0].mass_on["job_title"], abs=0.15)


def test_whole_batches_are_read_until_there_are_enough(statistics: NumericStatistics) -> None:
    found = inspect_heads(model_of(statistics, history=None), batches(), num_requests=21)
    assert found.num_requests == 40
    numbers = found.numbers()
    assert (numbers["requests"], numbers["candidates"]) == (40, found.num_candidates)
    assert all(isinstance(value, int | float) for value in numbers.values())


def test_what_has_no_heads_is_refused(statistics: NumericStatistics) -> None:
    with pytest.raises(RecipeError, match="no heads") as caught:
        inspect_heads(Logistic(EVERY_KIND, statistics, seed=0), batches())
    assert caught.value.found == "Logistic"
    with pytest.raises(RecipeError, match="no heads"):
        inspect_heads(model_of(statistics, ListSettings(num_layers=0), history=None), batches())
    with pytest.raises(RequestError, match="there is none"):
        inspect_heads(model_of(statistics), [])
