"""The ranking Transformer: its parts where settings put them, groups that heads are fed with, gates, watched heads."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from every_kind_log import EVERY_KIND, every_kind_table
from rankwell.data.batches import Batches
from rankwell.data.log import log_from_table
from rankwell.data.split import WholeLog
from rankwell.data.statistics import NumericStatistics, measure_numerics
from rankwell.errors import RecipeError, RequestError, SchemaError
from rankwell.models.action_heads import MMoE, MMoESettings
from rankwell.models.candidate_list import ListSettings
from rankwell.models.feature_groups import FeatureGroup
from rankwell.models.head_gates import SegmentGateSettings, StaticGateSettings
from rankwell.models.head_watch import HeadWatch, Near, SameValue
from rankwell.models.history import HistorySettings
from rankwell.models.list_attention import LinearSettings, LocalSettings
from rankwell.models.specialised_attention import FedHead, LearnedHead, SpecialisedAttention, SpecialisedSettings
from rankwell.models.transformer import RankingTransformer, TransformerSettings
from rankwell.training.dense_optimizers import DenseAdamW
from rankwell.training.head_objective import HeadObjective
from rankwell.training.objectives import PointwiseObjective
from rankwell.training.optimizers import OptimizerPlan
from rankwell.types import Batch, Column, Events, Features, Ragged

TITLE = FeatureGroup(name="title", features=("job_title", "job"), width=6)
PLACE = FeatureGroup(name="place", features=("office",), width=4)
HEADS = (FedHead(group="title"), FedHead(group="place"), LearnedHead(), LearnedHead())
SMALL = HistorySettings(width=16, num_layers=1)
WATCH = HeadWatch(relations=(SameValue(name="title", feature="job_title"), Near(name="near", place="office", km=3000)))
FED = TransformerSettings(
    width=32, history=SMALL, groups=(TITLE, PLACE),
    list=ListSettings(attention=SpecialisedSettings(heads=HEADS), num_layers=2),
)  # fmt: skip


def batch_of(num_requests: int, **shape: int) -> Batch:
    log = log_from_table(every_kind_table(num_requests, 1, **shape), EVERY_KIND, layout="requests")
    ((_, batch),) = Batches(log, WholeLog("train"), "train", num_requests=num_requests, seed=None).epoch(0)
    return batch


@pytest.fixture(scope="module")
def statistics() -> NumericStatistics:
    return measure_numerics([batch_of(100)], EVERY_KIND)


def model_of(settings: TransformerSettings, statistics: NumericStatistics) -> RankingTransformer:
    return RankingTransformer(EVERY_KIND, statistics, settings, seed=0)


def trained(settings: TransformerSettings, statistics: NumericStatistics, batch: Batch) -> RankingTransformer:
    model = model_of(settings, statistics).train()
    objective = PointwiseObjective(EVERY_KIND)
    optimizers = OptimizerPlan(dense=DenseAdamW(learning_rate=0.02)).start(model, objective)
    for _ in range(5):
        encoded = model.encode(batch.features)
        loss, count = objective(encoded, model.head(encoded), batch)
        (loss / count).backward()
        optimizers.step()
    return model.eval()


def only(features: Features, keep_C: Tensor) -> Features:
    """The same requests with some of their candidates."""

    def kept(column: Column) -> Column:
        if isinstance(column, Tensor):
            return column[keep_C]
        lists = [column.values[column.offsets[c] : column.offsets[c + 1]] for c in index_C]
        return Ragged(torch.cat(lists), torch.tensor([0, *map(len, lists)]).cumsum(0))

    index_C = torch.arange(features.num_candidates)[keep_C]
    request_C = features.request_C[keep_C]
    counts = torch.bincount(request_C, minlength=features.num_requests)
    return dataclasses.replace(
        features, candidates={name: kept(column) for name, column in features.candidates.items()},
        request_C=request_C, offsets=torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
    )  # fmt: skip


@pytest.mark.parametrize(
    "settings",
    [
        TransformerSettings(width=16, history=None, list=None, wide=None),
        TransformerSettings(width=16, history=HistorySettings(width=16, num_layers=2, shares_layers=True)),
        TransformerSettings(width=16, list=ListSettings(attention=LocalSettings(window=2), rank="match")),
        TransformerSettings(width=16, list=ListSettings(attention=LinearSettings(), rank="match",
                                                        rank_encoding="learned", max_candidates=8)),
        TransformerSettings(width=16, actions=MMoESettings(num_experts=2)),
        FED,
    ],
)  # fmt: skip
def test_settings_make_models_that_learn_and_keep_requests_apart(
    settings: TransformerSettings, statistics: NumericStatistics
) -> None:
    batch = batch_of(20)
    model = trained(settings, statistics, batch)
    assert TransformerSettings.model_validate_json(settings.model_dump_json()) == settings
    logits_CA = model(batch.features)
    assert logits_CA.isfinite().all()
    own_C = batch.features.request_C == 3
    torch.testing.assert_close(model(only(batch.features, own_C)), logits_CA[own_C], atol=1e-5, rtol=1e-5)


def test_a_candidate_sees_what_stands_beside_it_where_there_is_a_list(statistics: NumericStatistics) -> None:
    batch = batch_of(20)
    first_C = batch.features.request_C.diff(prepend=torch.tensor([-1])) != 0
    among = trained(TransformerSettings(width=16, history=SMALL), statistics, batch)
    alone = trained(TransformerSettings(width=16, history=SMALL, list=None), statistics, batch)
    single = only(batch.features, first_C)
    torch.testing.assert_close(alone(single), alone(batch.features)[first_C], atol=1e-5, rtol=1e-5)
    assert (among(single) - among(batch.features)[first_C]).abs().max() > 1e-3


def test_histories_of_0_and_of_1_event(statistics: NumericStatistics) -> None:
    batch = batch_of(6)
    model = trained(TransformerSettings(width=16, history=SMALL), statistics, batch)
    events = batch.features.history["history"]
    for num in (0, 1):
        cut = {name: column[: 6 * num] for name, column in events.columns.items()}
        history = {"history": Events(cut, torch.arange(7) * num)}
        assert model(dataclasses.replace(batch.features, history=history)).isfinite().all()


def test_candidates_that_are_all_equal_have_equal_logits(statistics: NumericStatistics) -> None:
    batch = batch_of(1, longest=6)
    model = trained(TransformerSettings(width=16, history=SMALL), statistics, batch_of(20))
    equal = only(batch.features, torch.zeros(5, dtype=torch.int64))
    logits_CA = model(equal)
    torch.testing.assert_close(logits_CA, logits_CA[:1].expand(5, -1))


def test_a_list_of_2001_is_refused(statistics: NumericStatistics) -> None:
    model = model_of(TransformerSettings(width=16, history=SMALL), statistics).eval()
    features = batch_of(1).features
    assert model(only(features, torch.zeros(2000, dtype=torch.int64))).isfinite().all()
    with pytest.raises(RequestError, match="too many candidates") as caught:
        model(only(features, torch.zeros(2001, dtype=torch.int64)))
    assert caught.value.found == "2,001 candidates"


def test_a_fed_head_sees_its_group_and_nothing_else(statistics: NumericStatistics) -> None:
    batch = batch_of(20)
    model = trained(FED.model_copy(update={"watch": WATCH}), statistics, batch)
    before = model.encode(batch.features).attention
    salary_C = batch.features.candidates["salary"]
    assert isinstance(salary_C, Tensor)
    changed = {**batch.features.candidates, "salary": salary_C.flip(0), "given": torch.randn(len(salary_C), 3)}
    after = model.encode(dataclasses.replace(batch.features, candidates=changed)).attention
    for layer in ("list.0", "list.1"):
        one, other = before[f"{layer}.maps"], after[f"{layer}.maps"]
        torch.testing.assert_close(one[:, :2], other[:, :2])
        assert (one[:, 2:] - other[:, 2:]).abs().max() > 1e-4


def test_the_place_in_the_initial_list_is_in_no_group(statistics: NumericStatistics) -> None:
    batch = batch_of(20)
    assert FED.list is not None
    ranked = FED.list.model_copy(update={"rank": "match", "rank_encoding": "learned"})
    model = model_of(FED.model_copy(update={"list": ranked, "watch": WATCH}), statistics).eval()
    before = model.encode(batch.features).attention["list.0.maps"]
    with torch.no_grad():
        assert model.among is not None
        assert model.among.place is not None
        assert model.among.place.shape[1] == 32 - 10
        model.among.place += 3 * torch.randn_like(model.among.place)
    after = model.encode(batch.features).attention["list.0.maps"]
    torch.testing.assert_close(before[:, :2], after[:, :2])
    assert (before[:, 2:] - after[:, 2:]).abs().max() > 1e-4


def test_watched_heads_of_list_and_history_reach_the_objective(statistics: NumericStatistics) -> None:
    batch = batch_of(20)
    model = model_of(FED.model_copy(update={"watch": WATCH}), statistics).train()
    objective = HeadObjective(EVERY_KIND, alignment={"list.0.2": ("near", 1.0)}, orthogonality=0.1)
    OptimizerPlan().start(model, objective)
    encoded = model.encode(batch.features)
    assert {"list.1.maps", "list.relation.title", "list.relation.near", "history.0.maps"} <= set(encoded.attention)
    loss, _ = objective(encoded, model.head(encoded), batch)
    loss.backward()
    assert model.among is not None
    layer = next(m for m in model.among.modules() if isinstance(m, SpecialisedAttention))
    assert layer.weight.grad is not None
    assert layer.weight.grad[0, 2].any()


def test_without_a_watch_no_map_is_made(statistics: NumericStatistics) -> None:
    assert not model_of(FED, statistics).eval().encode(batch_of(3).features).attention


def gated(gates: StaticGateSettings | SegmentGateSettings) -> TransformerSettings:
    attention = SpecialisedSettings(heads=HEADS, gates=gates)
    return FED.model_copy(update={"list": ListSettings(attention=attention, num_layers=1)})


def test_closed_heads_are_cut_out_and_change_nothing(statistics: NumericStatistics) -> None:
    batch = batch_of(20)
    model = trained(gated(StaticGateSettings()), statistics, batch)
    assert model.among is not None
    layer = next(m for m in model.among.modules() if isinstance(m, SpecialisedAttention))
    assert layer.gates is not None
    with torch.no_grad():
        layer.gates.location[1:3] = -4.0  # type: ignore[union-attr, operator]
    logits_CA = model(batch.features)
    model.among = model.among.pruned()
    (cut,) = (m for m in model.among.modules() if isinstance(m, SpecialisedAttention))
    assert cut.num_heads == 2
    torch.testing.assert_close(model(batch.features), logits_CA, atol=1e-5, rtol=1e-5)


def test_gates_follow_the_segment_of_each_request_and_each_segment_has_its_graph(statistics: NumericStatistics) -> None:
    batch = batch_of(30)
    model = trained(gated(SegmentGateSettings(segment="title", num_segments=6)), statistics, batch)
    assert model.among is not None
    layer = next(m for m in model.among.modules() if isinstance(m, SpecialisedAttention))
    with torch.no_grad():
        layer.gates.own[2, :3] = -9.0  # type: ignore[union-attr, index, operator]
    logits_CA = model(batch.features)
    title_R = batch.features.context["title"]
    assert isinstance(title_R, Tensor)
    whole, sizes = model.among, set()
    for segment in title_R.unique().tolist():
        model.among = whole.pruned(segment if segment >= 0 else None)
        (cut,) = (m for m in model.among.modules() if isinstance(m, SpecialisedAttention))
        sizes.add(cut.num_heads)
        own_C = (title_R == segment)[batch.features.request_C]
        torch.testing.assert_close(model(batch.features)[own_C], logits_CA[own_C], atol=1e-5, rtol=1e-5)
    assert sizes == {1, 4}


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"groups": (TITLE.model_copy(update={"width": 32}),)}, RecipeError),
        ({"groups": (TITLE,)}, SchemaError),
        ({"groups": (TITLE, FeatureGroup(name="place", features=("home",)))}, SchemaError),
        ({"watch": HeadWatch(relations=(SameValue(name="x", feature="title"),))}, SchemaError),
        ({"list": gated(SegmentGateSettings(segment="years", num_segments=3)).list}, SchemaError),
        ({"width": 30}, RecipeError),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    changed: dict[str, object], error: type[Exception], statistics: NumericStatistics
) -> None:
    with pytest.raises(error):
        model_of(FED.model_copy(update=changed), statistics)


def test_heads_of_actions_are_those_of_the_settings(statistics: NumericStatistics) -> None:
    assert isinstance(model_of(TransformerSettings(actions=MMoESettings()), statistics).heads, MMoE)
