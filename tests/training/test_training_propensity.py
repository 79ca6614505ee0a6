"""Looks and exposure against models that data was drawn from, and weights against arithmetic by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rankwell.errors import MetricError, RecipeError, TrainingError
from rankwell.schema import Action, Schema
from rankwell.training.examination_objective import ExaminationObjective, examined_logits
from rankwell.training.objectives import PointwiseObjective
from rankwell.training.propensity import (
    examination_by_em,
    examination_by_regression,
    examination_given_relevance,
    exposure_rates,
    inverse_weights,
)
from rankwell.training.propensity_objective import PropensityObjective
from rankwell.types import Audit, Batch, Encoded, Features, Targets

THETA = np.arange(1, 7) ** -0.7
SCHEMA = Schema(actions=(Action(name="click"),), features=())


def drawn(num: int, seed: int) -> dict[str, np.ndarray]:
    """Impressions of a position-based model; better items stand higher more often, but anywhere."""
    generator = np.random.default_rng(seed)
    gamma_I = generator.uniform(0.1, 0.9, 30)
    item_C = generator.integers(30, size=num)
    place_C = np.clip(np.round((1 - gamma_I[item_C]) * 5 + generator.normal(0, 1.5, num)), 0, 5).astype(int)
    relevance_C = gamma_I[item_C]
    click_C = generator.random(num) < THETA[place_C] * relevance_C
    return {"clicks_C": click_C, "positions_C": place_C + 1, "items_C": item_C * 11, "relevance_C": relevance_C}


@pytest.mark.parametrize("estimate", [examination_by_em, examination_by_regression])
def test_looks_are_found_though_better_items_stand_higher(estimate: type(examination_by_em)) -> None:  # type: ignore[valid-type]
    log = drawn(200_000, 0)
    model = estimate(log["clicks_C"], log["positions_C"], log["items_C"])
    assert np.abs(model.examination_K / THETA - 1).max() < 0.05
    by_position = [log["clicks_C"][log["positions_C"] == k].mean() for k in range(1, 7)]
    assert by_position[5] / by_position[0] < 0.7 * THETA[5]  # the naive share is far too steep
    place_C = model.click(log["items_C"][:5], log["positions_C"][:5])
    assert place_C == pytest.approx(THETA[log["positions_C"][:5] - 1] * log["relevance_C"][:5], rel=0.1)
    with pytest.raises(MetricError, match="not in the model"):
        model.click([5], [1])


def test_looks_are_found_given_relevance_up_to_a_factor() -> None:
    log = drawn(200_000, 1)
    for factor in (1.0, 0.3):
        model = examination_given_relevance(log["clicks_C"], log["positions_C"], factor * log["relevance_C"])
        assert np.abs(model.examination_K / THETA - 1).max() < 0.05


def test_em_climbs_to_a_point_that_no_neighbour_beats() -> None:
    log = drawn(2_000, 2)

    def likelihood(theta_K: np.ndarray, gamma_I: np.ndarray) -> float:
        chance_C = theta_K[log["positions_C"] - 1] * gamma_I[log["items_C"] // 11]
        return float(np.log(np.where(log["clicks_C"], chance_C, 1 - chance_C)).sum())

    model = examination_by_em(log["clicks_C"], log["positions_C"], log["items_C"])
    theta_K, gamma_I = model.examination_K, model.relevance_I
    best = likelihood(theta_K, gamma_I)
    for step in (0.97, 1.03):
        for place in range(1, 6):
            assert likelihood(np.where(np.arange(6) == place, step, 1) * theta_K, gamma_I) < best
        for item in range(30):
            moved_I = np.where(np.arange(30) == item, step, 1) * gamma_I
            assert moved_I.max() >= 1 or likelihood(theta_K, moved_I) < best


def test_weights_count_rows() -> None:
    log = drawn(3_000, 3)
    twice = np.random.default_rng(0).random(3_000) < 0.5
    columns = [log[name] for name in ("clicks_C", "positions_C", "items_C")]
    weighted = examination_by_em(*columns, np.where(twice, 2.0, 1.0))
    repeated = examination_by_em(*[np.concatenate([column, column[twice]]) for column in columns])
    np.testing.assert_allclose(weighted.examination_K, repeated.examination_K, atol=1e-5)
    nothing = examination_by_em(*columns, np.where(log["positions_C"] == 4, 0.0, 1.0))
    assert math.isnan(nothing.examination_K[3])
    assert np.isfinite(np.delete(nothing.examination_K, 3)).all()


def test_what_no_look_can_be_estimated_from_is_refused() -> None:
    with pytest.raises(TrainingError, match="nothing was clicked there"):
        examination_by_em([0, 1], [1, 2], [3, 3])
    with pytest.raises(TrainingError, match="nothing was clicked there"):
        examination_given_relevance([], [], [])
    with pytest.raises(MetricError, match="no position"):
        examination_by_regression([1, 0], [1, 0], [3, 3])
    with pytest.raises(MetricError, match="no click"):
        examination_by_em([0.5, 1], [1, 2], [3, 3])


def test_exposure_is_the_share_of_requests_drawn_to_the_items_own() -> None:
    generator = np.random.default_rng(4)
    segment_R = generator.choice(3, 9_000, p=[0.6, 0.39, 0.01])
    truth_SI = np.array([[0.9, 0.1], [0.2, 0.3], [0.9, 0.1]])
    shown_RI = generator.random((9_000, 2)) < truth_SI[segment_R]
    request_C, item_C = np.nonzero(shown_RI)
    seen_R = np.isin(np.arange(9_000), request_C)
    rates = exposure_rates(item_C, segment_R[request_C], request_C)
    share_S = [(shown_RI[seen_R & (segment_R == s)]).mean(0) for s in range(3)]
    np.testing.assert_allclose(rates.rates_SI[:2], share_S[:2], atol=0.01)
    own = shown_RI[seen_R].mean(0)
    for item in range(2):  # the small segment lies between its own share and all segments'
        assert min(own[item], share_S[2][item]) < rates.rates_SI[2, item] < max(own[item], share_S[2][item])
    assert rates.of([1, 0], [0, 2]).tolist() == [rates.rates_SI[0, 1], rates.rates_SI[2, 0]]
    with pytest.raises(MetricError, match="`items_C`"):
        rates.of([5], [0])
    with pytest.raises(MetricError, match="negative"):
        exposure_rates([0], [0], [0], strength=-1)


def test_weights_are_inverse_clipped_and_normalised() -> None:
    assert inverse_weights([0.5, 0.1, 1.0]).tolist() == [2, 10, 1]
    assert inverse_weights([0.5, 0.1, 1.0], clip=5).tolist() == [2, 5, 1]
    assert inverse_weights([0.5, 0.1, 1.0], clip=5, self_normalised=True) == pytest.approx([0.75, 1.875, 0.375])
    with pytest.raises(TrainingError, match="2 of 3 rows have no propensity"):
        inverse_weights([0.5, 0.0, math.nan])
    with pytest.raises(TrainingError, match="no weight"):
        inverse_weights([0.5], clip=0)


def batch_of(labels: list[float], positions: list[int], propensities: list[float]) -> Batch:
    num = len(labels)
    labels_CA = torch.tensor(labels)[:, None]
    features = Features({}, {}, {}, torch.tensor([0, num]), torch.zeros(num, dtype=torch.int64))
    targets = Targets(
        labels_CA, ~labels_CA.isnan(), torch.ones(num), torch.tensor(positions), torch.tensor(propensities)
    )
    ids = torch.zeros(1, dtype=torch.int64)
    return Batch(features, targets, Audit(ids, ids, ids, torch.zeros(num, dtype=torch.int64), {}))


NOTHING = Encoded(torch.zeros(1, 0), torch.zeros(3, 0), {})


def test_a_propensity_is_a_weight_of_the_loss_and_not_of_the_count() -> None:
    batch = batch_of([1.0, 0.0, math.nan], [1, 1, 1], [0.5, 0.05, 0.5])
    logits_CA = torch.tensor([[0.0], [1.0], [3.0]])
    loss, count = PropensityObjective(SCHEMA, clip=10.0, mean_ratio=2.0)(NOTHING, logits_CA, batch)
    assert loss.item() == pytest.approx((2 * math.log(2) + 10 * math.log(1 + math.e)) / 2)
    assert count.item() == 2
    plain, plain_count = PointwiseObjective(SCHEMA)(NOTHING, logits_CA, batch)
    one = PropensityObjective(SCHEMA)(NOTHING, logits_CA, batch_of([1.0, 0.0, math.nan], [1] * 3, [1.0] * 3))
    assert (one[0].item(), one[1].item()) == (plain.item(), plain_count.item())
    with pytest.raises(TrainingError, match="no weight"):
        PropensityObjective(SCHEMA, clip=-1.0)
    with pytest.raises(RecipeError, match="mean_ratio"):
        PropensityObjective(SCHEMA, mean_ratio=0.0)


def test_a_click_is_a_look_times_relevance_in_both_forms() -> None:
    batch, logits_CA = batch_of([1.0, 1.0, 0.0], [1, 0, 2], [1.0] * 3), torch.tensor([[0.3], [-0.2], [1.0]])
    sigma = torch.sigmoid
    known = ExaminationObjective(SCHEMA, examination=(0.8, 0.2))
    loss, count = known(NOTHING, logits_CA, batch)
    seen = -(sigma(logits_CA[0]).log() + sigma(logits_CA[1]).log() + (1 - 0.25 * sigma(logits_CA[2])).log())
    assert loss.item() == pytest.approx(seen.item(), rel=1e-5)
    assert count.item() == 3
    assert not list(known.parameters())
    logit = ExaminationObjective(SCHEMA, form="logit", num_positions=2)
    with torch.no_grad():
        logit.logits_KA.fill_(-1.0)
    loss, _ = logit(NOTHING, logits_CA, batch)
    seen = -(sigma(logits_CA[0]).log() + sigma(logits_CA[1]).log() + (1 - sigma(logits_CA[2] - 1)).log())
    assert loss.item() == pytest.approx(seen.item(), rel=1e-5)
    beyond, last = (logit(NOTHING, logits_CA, batch_of([1.0, 1.0, 0.0], [1, 0, k], [1.0] * 3))[0] for k in (9, 2))
    assert beyond.item() == last.item()


def test_log_odds_of_a_product_are_exact_and_finite() -> None:
    for e, z in ((0.0, 0.0), (-3.0, 2.0), (8.0, -5.0)):
        chance = 1 / (1 + math.exp(-e)) / (1 + math.exp(-z))
        found = examined_logits(torch.tensor(e, dtype=torch.float64), torch.tensor(z, dtype=torch.float64))
        assert found.item() == pytest.approx(math.log(chance / (1 - chance)))
    for e, z in ((1e4, 1e4), (-1e4, 1e4), (-1e4, -1e4)):
        leaves = [torch.tensor(value, requires_grad=True) for value in (e, z)]
        found = examined_logits(*leaves)
        assert found.isfinite()
        assert all(gradient.isfinite() for gradient in torch.autograd.grad(found, leaves))


@pytest.mark.parametrize("form", ["product", "logit"])
def test_looks_are_learned_with_relevance(form: str) -> None:
    generator = np.random.default_rng(5)
    num, look = 40_000, torch.tensor([1.0, 0.6, 0.3])
    group_C, position_C = (
        torch.from_numpy(generator.integers(4, size=num)),
        torch.from_numpy(generator.integers(1, 4, size=num)),
    )
    true_G = torch.tensor([-2.0, -1.0, 0.0, 1.0])
    chance_C = true_G.sigmoid()[group_C] * look[position_C - 1]
    if form == "logit":
        chance_C = (true_G[group_C] + look[position_C - 1].log()).sigmoid()
    label_C = torch.from_numpy(generator.random(num)) < chance_C
    batch = batch_of(label_C.float().tolist(), position_C.tolist(), [1.0] * num)
    objective = ExaminationObjective(SCHEMA, form=form, num_positions=3)  # type: ignore[arg-type]
    logit_G = torch.zeros(4, requires_grad=True)
    optimizer = torch.optim.LBFGS([logit_G, *objective.parameters()], max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss, count = objective(NOTHING, logit_G[group_C][:, None], batch)
        (loss / count).backward()
        return loss / count

    optimizer.step(closure)
    learned_K = objective.learned[:, 0].sigmoid() if form == "product" else objective.learned[:, 0].exp()
    torch.testing.assert_close(learned_K, look[1:], atol=0.04, rtol=0)
    torch.testing.assert_close(logit_G.detach(), true_G, atol=0.12, rtol=0)


def test_an_examination_that_is_none_is_refused() -> None:
    for wrong in ((0.5, 0.0), (1.5,), ()):
        with pytest.raises(RecipeError):
            ExaminationObjective(SCHEMA, examination=wrong)
    with pytest.raises(RecipeError, match="no such form"):
        ExaminationObjective(SCHEMA, form="sum")  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="no such form"):
        ExaminationObjective(SCHEMA, form="logit", examination=(1.0, 0.5))
    # a position that is looked at more than the first counts as certain
    more = ExaminationObjective(SCHEMA, examination=(0.5, 1.0))
    assert more.learned.sigmoid().item() == pytest.approx(1)
