"""Objectives: what counts, how much, and that shards add up.

Letters: C candidates, flat · A actions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from every_kind_log import EVERY_KIND, every_kind_table
from rankwell.data.batches import Batches
from rankwell.data.log import log_from_table
from rankwell.data.split import WholeLog
from rankwell.errors import LogError, RecipeError, SchemaError
from rankwell.losses.pointwise import SmoothedBinaryCrossEntropy, binary_cross_entropy
from rankwell.schema import Action, Schema
from rankwell.training.objectives import ActionObjective, LossTerm, Objective, PointwiseObjective, binary_labels
from rankwell.types import Audit, Batch, Encoded, Features, Targets

NAN = math.nan
STARS = Action(name="stars", kind="graded", threshold=3)
SCHEMA = Schema(features=(), actions=(Action(name="click"), STARS))
NOTHING = Encoded(torch.zeros(0, 0), torch.zeros(0, 0), {})


def batch_of(
    labels_CA: Tensor, observed_CA: Tensor, weights_C: Tensor, lengths_R: Sequence[int] | None = None
) -> Batch:
    """Requests without features, by default each of one candidate."""
    num = len(weights_C)
    ids_C = torch.arange(num)
    lengths = torch.tensor([1] * num if lengths_R is None else lengths_R)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    return Batch(
        Features({}, {}, {}, offsets, torch.arange(len(lengths)).repeat_interleave(lengths)),
        Targets(labels_CA.float(), observed_CA, weights_C.float(), torch.zeros(num), torch.ones(num)),
        Audit(ids_C, ids_C, ids_C, ids_C, {}),
    )


def cross_entropy(logit: float, label: float) -> float:
    return math.log1p(math.exp(-logit)) if label else math.log1p(math.exp(logit))


def by_hand(logits: Tensor, batch: Batch, shares: tuple[float, float]) -> tuple[float, float]:
    """Candidate by candidate, action by action."""
    targets, total, count = batch.targets, 0.0, 0.0
    for c in range(len(targets.weights_C)):
        weight, counts = float(targets.weights_C[c]), False
        for a, share in enumerate(shares):
            if share and targets.observed_CA[c, a]:
                label = float(targets.labels_CA[c, a])
                label = label if a == 0 else float(label >= 3)
                total += share * weight * cross_entropy(float(logits[c, a]), label)
                counts = True
        count += weight if counts else 0.0
    return total, count


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    num = draw(st.integers(1, 6))
    grades = draw(st.lists(st.sampled_from([0, 1, 2, 3, 4, NAN]), min_size=num, max_size=num))
    clicks = draw(st.lists(st.sampled_from([0, 1, NAN]), min_size=num, max_size=num))
    labels_CA = torch.tensor([clicks, grades]).T
    weights_C = torch.tensor(draw(st.lists(st.sampled_from([0.0, 0.5, 1.0, 3.0]), min_size=num, max_size=num)))
    return batch_of(labels_CA, ~labels_CA.isnan(), weights_C)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(batches(), st.sampled_from([(1.0, 1.0), (0.25, 2.0), (0.0, 1.0), (1.0, 0.0)]), st.integers(0, 99))
def test_sum_and_count_are_those_by_hand(batch: Batch, shares: tuple[float, float], seed: int) -> None:
    logits_CA = torch.randn(len(batch.targets.weights_C), 2, generator=torch.Generator().manual_seed(seed)) * 3
    loss, count = PointwiseObjective(SCHEMA, shares=shares)(NOTHING, logits_CA, batch)
    expected_loss, expected_count = by_hand(logits_CA, batch, shares)
    assert float(loss) == pytest.approx(expected_loss, rel=1e-5, abs=1e-6)
    assert float(count) == expected_count


def test_what_was_not_observed_counts_nothing() -> None:
    """As good as absent: in the sum, in the gradient, and in what the sum is divided by."""
    labels_CA = torch.tensor([[1.0, 4.0], [NAN, NAN], [0.0, NAN]])
    whole = batch_of(labels_CA, ~labels_CA.isnan(), torch.tensor([1.0, 5.0, 2.0]))
    known = batch_of(labels_CA[[0, 2]], ~labels_CA[[0, 2]].isnan(), torch.tensor([1.0, 2.0]))
    logits_CA = torch.tensor([[0.5, -1.0], [2.0, 2.0], [0.3, 0.7]], requires_grad=True)
    objective = PointwiseObjective(SCHEMA)
    loss, count = objective(NOTHING, logits_CA, whole)
    alone, alone_count = objective(NOTHING, logits_CA[[0, 2]], known)
    assert (float(loss.detach()), float(count)) == (float(alone.detach()), float(alone_count))
    assert float(count) == 3
    (gradient_CA,) = torch.autograd.grad(loss, logits_CA)
    assert gradient_CA[1].tolist() == [0.0, 0.0]
    assert gradient_CA[2, 1] == 0
    assert gradient_CA[2, 0] == pytest.approx(2 * torch.sigmoid(torch.tensor(0.3)).item())


def test_a_graded_label_counts_from_its_threshold() -> None:
    assert binary_labels(STARS, torch.tensor([0.0, 2.0, 3.0, 5.0, NAN])).nan_to_num(nan=-1).tolist() == [0, 0, 1, 1, -1]
    assert binary_labels(Action(name="click"), torch.tensor([1.0, 0.0])).tolist() == [1, 0]


def test_shards_add_up_to_the_batch() -> None:
    """The loss of two halves, summed and divided by the summed count, is the mean of the whole; so is the gradient."""
    log = log_from_table(every_kind_table(40, 3), EVERY_KIND, layout="requests")

    def read(num_requests: int) -> list[Batch]:
        whole = Batches(log, WholeLog("train"), "train", num_requests=num_requests, seed=None)
        return [batch for _, batch in whole.epoch(0)]

    (whole,), parts = read(40), read(16)
    assert len(parts) == 3
    num = whole.features.num_candidates
    logits_CA = torch.randn(num, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    objective = PointwiseObjective(EVERY_KIND, shares=(1.0, 0.5))
    loss, count = objective(NOTHING, logits_CA, whole)
    (expected_CA,) = torch.autograd.grad(loss / count, logits_CA)
    losses, counts, start = [], [], 0
    for part in parts:
        stop = start + part.features.num_candidates
        given_loss, given_count = objective(NOTHING, logits_CA[start:stop], part)
        losses.append(given_loss)
        counts.append(given_count)
        start = stop
    assert start == num
    (gradient_CA,) = torch.autograd.grad(sum(losses) / sum(counts), logits_CA)
    torch.testing.assert_close(gradient_CA, expected_CA, rtol=1e-6, atol=1e-12)
    assert float(sum(counts)) == float(count) == num


def test_order_of_candidates_means_nothing() -> None:
    labels_CA = torch.tensor([[1.0, 4.0], [0.0, 1.0], [0.0, NAN]], dtype=torch.float64)
    weights_C, logits_CA = torch.tensor([1.0, 5.0, 2.0]), torch.tensor([[0.5, -1.0], [2.0, 2.0], [0.3, 0.7]])
    order = torch.tensor([2, 0, 1])
    objective = PointwiseObjective(SCHEMA)
    one, _ = objective(NOTHING, logits_CA, batch_of(labels_CA, ~labels_CA.isnan(), weights_C))
    turned = batch_of(labels_CA[order], ~labels_CA[order].isnan(), weights_C[order])
    other, _ = objective(NOTHING, logits_CA[order], turned)
    assert float(one) == pytest.approx(float(other), rel=1e-6)


@pytest.mark.parametrize("shares", [(1.0,), (1.0, 1.0, 1.0)])
def test_as_many_shares_as_actions(shares: tuple[float, ...]) -> None:
    with pytest.raises(RecipeError, match=rf"differ in number; found: {len(shares)}; allowed: 2"):
        PointwiseObjective(SCHEMA, shares=shares)


@pytest.mark.parametrize("shares", [(0.0, 0.0), (-1.0, 1.0), (NAN, 1.0), (math.inf, 1.0)])
def test_shares_that_make_no_sense(shares: tuple[float, float]) -> None:
    with pytest.raises(RecipeError, match="cannot use this share|nothing to minimise"):
        PointwiseObjective(SCHEMA, shares=shares)


def test_str_tells_objectives_apart() -> None:
    several = [
        PointwiseObjective(SCHEMA), PointwiseObjective(SCHEMA, shares=(1.0, 0.5)),
        PointwiseObjective(SCHEMA, SmoothedBinaryCrossEntropy(0.1)),
        PointwiseObjective(SCHEMA, SmoothedBinaryCrossEntropy(0.2)),
        ActionObjective(SCHEMA), ActionObjective(SCHEMA, (CLICK,)), ActionObjective(SCHEMA, (CLICK, CLICK)),
        *(ActionObjective(SCHEMA, (CLICK, LossTerm("stars", loss, share, labels)))
          for loss in (squared, list_cross_entropy) for share in (0.1, 1.0)
          for labels in ("binary", "grades", "gains")),
    ]  # fmt: skip
    assert len({str(objective) for objective in several}) == len(several) == 19
    assert not any("0x" in str(objective) for objective in several)  # no address, which the next process would not have
    assert str(several[0]) == str(PointwiseObjective(SCHEMA))


# --- each action with losses of its own

CLICK = LossTerm("click")


def squared(logits_C: Tensor, labels_C: Tensor, *, request_C: Tensor, weights_C: Tensor) -> Tensor:
    """Σ w·(z - y)²: it shows which labels it was given."""
    return (weights_C * (logits_C - labels_C.masked_fill(weights_C == 0, 0.0)) ** 2).sum()


def list_cross_entropy(logits_C: Tensor, labels_C: Tensor, *, request_C: Tensor, weights_C: Tensor) -> Tensor:
    """Σ over requests of -Σ w·y·ln softmax(z), over those that have weight."""
    total = logits_C.new_zeros(())
    for request in range(int(request_C.max()) + 1):
        present_C = (request_C == request) & (weights_C > 0)
        mass_C = weights_C[present_C] * labels_C[present_C]
        if mass_C.sum() > 0:
            total = total - (mass_C * logits_C[present_C].log_softmax(0)).sum()
    return total


@settings(max_examples=40, deadline=None, derandomize=True)
@given(batches(), st.sampled_from([(1.0, 1.0), (0.25, 2.0), (0.0, 1.0)]), st.integers(0, 99))
def test_one_loss_for_all_is_a_case_of_a_loss_for_each(batch: Batch, shares: tuple[float, float], seed: int) -> None:
    logits_CA = torch.randn(len(batch.targets.weights_C), 2, generator=torch.Generator().manual_seed(seed)) * 3
    one = PointwiseObjective(SCHEMA, shares=shares)
    each = ActionObjective(SCHEMA, [LossTerm(a.name, share=s) for a, s in zip(SCHEMA.actions, shares, strict=True)])
    assert each.terms == one.terms
    for mine, theirs in zip(each(NOTHING, logits_CA, batch), one(NOTHING, logits_CA, batch), strict=True):
        assert torch.equal(mine, theirs)


def test_a_loss_for_each_action_by_hand() -> None:
    schema = SCHEMA.model_copy(
        update={"actions": (SCHEMA.actions[0], STARS.model_copy(update={"gains": (0.0, 1.0, 1.5, 4.0, 9.0)}))}
    )
    labels_CA = torch.tensor([[1.0, 4.0], [0.0, 2.0], [NAN, 3.0], [1.0, NAN]])
    batch = batch_of(labels_CA, ~labels_CA.isnan(), torch.tensor([1.0, 2.0, 0.5, 1.0]), lengths_R=(3, 1))
    logits_CA = torch.tensor([[0.3, 1.0], [-1.0, 0.5], [9.0, 2.0], [0.7, 9.0]])
    clicks = cross_entropy(0.3, 1) + 2 * cross_entropy(-1.0, 0) + cross_entropy(0.7, 1)
    of_stars = {
        "binary": 1.0 * (1 - 1) ** 2 + 2 * (0.5 - 0) ** 2 + 0.5 * (2 - 1) ** 2,
        "grades": 1.0 * (1 - 4) ** 2 + 2 * (0.5 - 2) ** 2 + 0.5 * (2 - 3) ** 2,
        "gains": 1.0 * (1 - 9) ** 2 + 2 * (0.5 - 1.5) ** 2 + 0.5 * (2 - 4) ** 2,
    }
    for labels, expected in of_stars.items():
        terms = (LossTerm("stars", squared, 0.25, labels), CLICK)  # type: ignore[arg-type]
        loss, count = ActionObjective(schema, terms)(NOTHING, logits_CA, batch)
        assert float(loss) == pytest.approx(0.25 * expected + clicks, rel=1e-6)
        assert float(count) == 4.5
    # without declared gains, those of nDCG: 2^grade - 1
    loss, _ = ActionObjective(SCHEMA, (LossTerm("stars", squared, labels="gains"),))(NOTHING, logits_CA, batch)
    assert float(loss) == pytest.approx((1 - 15) ** 2 + 2 * (0.5 - 3) ** 2 + 0.5 * (2 - 7) ** 2, rel=1e-6)


def test_an_action_may_have_two_losses_and_counts_once() -> None:
    labels_CA = torch.tensor([[1.0, NAN], [0.0, NAN], [0.0, 2.0]])
    batch = batch_of(labels_CA, ~labels_CA.isnan(), torch.tensor([1.0, 2.0, 4.0]), lengths_R=(2, 1))
    logits_CA = torch.tensor([[0.3, 1.0], [-1.0, 0.5], [0.2, 0.2]], requires_grad=True)
    both = ActionObjective(SCHEMA, (CLICK, LossTerm("click", list_cross_entropy, 3.0)))
    loss, count = both(NOTHING, logits_CA, batch)
    expected = cross_entropy(0.3, 1) + 2 * cross_entropy(-1, 0) + 4 * cross_entropy(0.2, 0)
    expected += 3 * math.log1p(math.exp(-1.3))
    assert (float(loss.detach()), float(count)) == (pytest.approx(expected, rel=1e-6), 7.0)
    (gradient_CA,) = torch.autograd.grad(loss, logits_CA)
    assert not gradient_CA[:, 1].any()  # no term, no gradient


@pytest.mark.parametrize("labels", ["binary", "grades", "gains"])
def test_lists_of_one_and_lists_without_a_positive_cost_a_list_loss_nothing(labels: str) -> None:
    labels_CA = torch.tensor([[NAN, 4.0], [NAN, 0.0], [NAN, 0.0], [NAN, NAN], [NAN, NAN]])
    batch = batch_of(labels_CA, ~labels_CA.isnan(), torch.ones(5), lengths_R=(1, 2, 2))
    logits_CA = torch.randn(5, 2, requires_grad=True)
    objective = ActionObjective(SCHEMA, (LossTerm("stars", list_cross_entropy, labels=labels),))  # type: ignore[arg-type]
    loss, count = objective(NOTHING, logits_CA, batch)
    assert (float(loss.detach()), float(count)) == (0.0, 3.0)
    (gradient_CA,) = torch.autograd.grad(loss, logits_CA)
    assert not gradient_CA.any()


def test_a_candidate_that_lacks_a_label_is_absent_from_that_actions_lists() -> None:
    labels_CA = torch.tensor([[1.0, 4.0], [0.0, NAN], [0.0, 1.0]])
    terms = [LossTerm(action, list_cross_entropy, labels="grades") for action in ("click", "stars")]
    logits_CA = torch.tensor([[0.3, 1.0], [-1.0, 0.5], [0.2, 0.2]])
    objective = ActionObjective(SCHEMA, terms)
    loss, _ = objective(NOTHING, logits_CA, batch_of(labels_CA, ~labels_CA.isnan(), torch.ones(3), lengths_R=(3,)))
    clicks = -float(logits_CA[:, 0].log_softmax(0)[0])
    stars = -4 * float(torch.tensor([1.0, 0.2]).log_softmax(0)[0]) - float(torch.tensor([1.0, 0.2]).log_softmax(0)[1])
    assert float(loss) == pytest.approx(clicks + stars, rel=1e-6)


def test_terms_that_make_no_sense() -> None:
    with pytest.raises(SchemaError, match=r"no action 'buy' in the schema; found: \['click', 'stars'\]"):
        ActionObjective(SCHEMA, (CLICK, LossTerm("buy")))
    for terms in ((), (LossTerm("click", share=0.0),)):
        with pytest.raises(RecipeError, match="nothing to minimise"):
            ActionObjective(SCHEMA, terms)
    for share in (-1.0, NAN, math.inf):
        with pytest.raises(RecipeError, match=rf"share of action 'click'; found: {share}"):
            LossTerm("click", share=share)


def test_a_grade_without_a_gain_is_noticed() -> None:
    schema = SCHEMA.model_copy(update={"actions": (STARS.model_copy(update={"gains": (0.0, 1.0, 2.0, 3.0)}),)})
    batch = batch_of(torch.tensor([[4.0]]), torch.ones(1, 1, dtype=torch.bool), torch.ones(1))
    with pytest.raises(LogError, match="'stars': a grade has no gain; found: 4"):
        ActionObjective(schema, (LossTerm("stars", squared, labels="gains"),))(NOTHING, torch.zeros(1, 1), batch)


def test_objectives_of_others_have_no_terms() -> None:
    class Mine(Objective):
        def forward(self, encoded: Encoded, logits_CA: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
            return logits_CA.sum(), torch.ones(())

    assert Mine().terms == ()
    assert ActionObjective(SCHEMA).terms == (LossTerm("click", binary_cross_entropy, 1.0, "binary"), LossTerm("stars"))
