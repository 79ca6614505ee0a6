"""What is added for heads is what the formulas say, adds up over shards, and moves heads where it should."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from rankwell.errors import RecipeError
from rankwell.models.attention import SelfAttention
from rankwell.models.head_gates import StaticGates
from rankwell.models.head_watch import HeadWatch, SameValue
from rankwell.models.layers import LayerStack, PreNormLayer
from rankwell.models.padding import ManyLists
from rankwell.models.specialised_attention import FedHead, LearnedHead, SpecialisedAttention
from rankwell.schema import Action, Categorical, Schema
from rankwell.training.head_objective import HeadObjective, alignment_loss, orthogonality_loss
from rankwell.training.objectives import PointwiseObjective
from rankwell.types import Audit, Batch, Encoded, Features, Targets

SCHEMA = Schema(actions=(Action(name="click"),), features=(Categorical(name="title", num_ids=9),))
OFFSETS = torch.tensor([0, 4, 5, 8, 12])
NUM = 12
TITLES = torch.tensor([0, 1, 0, 1, 2, 3, 4, 5, 6, 6, 6, 7])
WATCH = HeadWatch(relations=(SameValue(name="title", feature="title"),))
WIDTH = 8


def batch_of(requests: list[int], weights: Tensor | None = None) -> Batch:
    rows = torch.cat([torch.arange(int(OFFSETS[r]), int(OFFSETS[r + 1])) for r in requests])
    lengths = OFFSETS.diff()[requests]
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    generator = torch.Generator().manual_seed(5)
    labels_CA = (torch.rand(NUM, 1, generator=generator) < 0.4).float()[rows]
    weights_C = (torch.rand(NUM, generator=generator) + 0.5 if weights is None else weights)[rows]
    ids_C = torch.zeros(len(rows), dtype=torch.int64)
    return Batch(
        Features({}, {}, {"title": TITLES[rows]}, offsets, torch.arange(len(requests)).repeat_interleave(lengths)),
        Targets(labels_CA, torch.ones_like(labels_CA, dtype=torch.bool), weights_C, ids_C, torch.ones(len(rows))),
        Audit(ids_C, ids_C, ids_C, ids_C, {}),
    )


def stack(num_layers: int = 1) -> LayerStack:
    torch.manual_seed(0)
    return LayerStack(
        lambda: PreNormLayer(
            SpecialisedAttention(WIDTH, heads=(LearnedHead(),) * 2, layout={}, gates=StaticGates(2)),
            width=WIDTH, hidden=8, dropout=0.0,
        ),
        num_layers, width=WIDTH,
    )  # fmt: skip


def encoded_by(layers: LayerStack, batch: Batch, x_CD: Tensor) -> Encoded:
    padding = ManyLists(batch.features.offsets)
    seen = WATCH.begin("list", batch.features.candidates)
    with seen.over(layers, padding, request_B=torch.arange(batch.features.num_requests)):
        candidate_CD = padding.unpad(layers(padding.pad(x_CD), padding.valid_BL))
    return Encoded(torch.zeros(batch.features.num_requests, 0), candidate_CD, seen.tensors())


def entries(requests: list[int]) -> Tensor:
    x_CD = torch.randn(NUM, WIDTH, generator=torch.Generator().manual_seed(1))
    return torch.cat([x_CD[int(OFFSETS[r]) : int(OFFSETS[r + 1])] for r in requests])


EVERY_TERM = HeadObjective(SCHEMA, alignment={"list.0.1": ("title", 0.7)}, orthogonality=0.3, sparsity=0.05)
ALL = [0, 1, 2, 3]


def added(objective: HeadObjective, requests: list[int], weights: Tensor | None = None) -> tuple[float, float]:
    batch = batch_of(requests, weights)
    encoded = encoded_by(stack().eval(), batch, entries(requests))
    logits_CA = torch.zeros(len(encoded.candidate_CD), 1)
    loss, count = objective(encoded, logits_CA, batch)
    inner, same = PointwiseObjective(SCHEMA)(encoded, logits_CA, batch)
    assert count == same
    return (loss - inner).item(), count.item()


def test_terms_are_the_formulas_by_hand() -> None:
    batch = batch_of(ALL)
    encoded = encoded_by(stack().eval(), batch, entries(ALL))
    maps = encoded.attention["list.0.maps"].detach().double()
    total = 0.0
    for r in ALL:
        start, stop = int(OFFSETS[r]), int(OFFSETS[r + 1])
        weight, titles = float(batch.targets.weights_C[start:stop].sum()), TITLES[start:stop]
        pulls, overlaps = [], []
        for q in range(stop - start):
            alike = [m for m in range(stop - start) if titles[m] == titles[q]]
            if len(alike) > 1:
                pulls.append(-sum(math.log(maps[r, 1, q, m]) for m in alike) / len(alike))
            if stop - start > 1:
                one, other = maps[r, :, q]
                overlaps.append(float(one @ other / one.norm() / other.norm()) ** 2)
        total += 0.7 * weight * (sum(pulls) / len(pulls) if pulls else 0.0)
        total += 0.3 * weight * (sum(overlaps) / len(overlaps) if overlaps else 0.0)
        total += 0.05 * weight * 2 * 0.95
    assert added(EVERY_TERM, ALL)[0] == pytest.approx(total, rel=1e-5)


def test_shards_add_up_and_weight_zero_is_absent() -> None:
    whole, parts = added(EVERY_TERM, ALL), [added(EVERY_TERM, [0, 2]), added(EVERY_TERM, [1, 3])]
    for index in range(2):
        assert whole[index] == pytest.approx(parts[0][index] + parts[1][index], rel=1e-5)
    without_2 = torch.ones(NUM).index_fill(0, torch.arange(5, 8), 0.0)
    masked, absent = added(EVERY_TERM, ALL, without_2), added(EVERY_TERM, [0, 1, 3], without_2)
    assert masked[0] == pytest.approx(absent[0], rel=1e-5)
    twice = added(EVERY_TERM, ALL, 2 * torch.ones(NUM))[0]
    assert twice == pytest.approx(2 * added(EVERY_TERM, ALL, torch.ones(NUM))[0], rel=1e-5)


def test_overlap_and_gates_are_summed_over_layers() -> None:
    batch = batch_of(ALL)
    layers = stack(3).eval()
    encoded = encoded_by(layers, batch, entries(ALL))
    one_layer = dataclasses.replace(
        encoded, attention={k: v for k, v in encoded.attention.items() if k[:6] not in ("list.1", "list.2")}
    )
    objective, logits_CA = HeadObjective(SCHEMA, sparsity=1.0), torch.zeros(NUM, 1)
    inner, count = PointwiseObjective(SCHEMA)(encoded, logits_CA, batch)
    three, one = ((objective(e, logits_CA, batch)[0] - inner).item() for e in (encoded, one_layer))
    assert one == pytest.approx(2 * 0.95 * float(count), rel=1e-5)
    assert three == pytest.approx(3 * one, rel=1e-5)


def test_what_has_no_other_related_entry_is_left_out() -> None:
    maps = torch.tensor([[[0.2, 0.8], [0.5, 0.5]]])
    alone = torch.eye(2, dtype=torch.bool).unsqueeze(0)
    asks = torch.ones(1, 2, dtype=torch.bool)
    assert alignment_loss(maps, alone, asks).tolist() == [0.0]
    half = alone.clone()
    half[0, 0, 1] = True
    expected = -(math.log(0.2) + math.log(0.8)) / 2
    assert alignment_loss(maps, half, asks).item() == pytest.approx(expected, rel=1e-6)
    assert alignment_loss(maps, half, torch.tensor([[False, True]])).tolist() == [0.0]


def test_shares_of_zero_are_finite_and_have_finite_gradients() -> None:
    logits = torch.tensor([[[0.0, 200.0]]], requires_grad=True)
    loss = alignment_loss(logits.softmax(2), torch.ones(1, 1, 2, dtype=torch.bool), torch.ones(1, 1, dtype=torch.bool))
    loss.sum().backward()
    assert loss.isfinite().all()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    padded = torch.zeros(1, 2, 1, 3, requires_grad=True)  # what blocks of unequal width leave
    orthogonality_loss(padded, torch.zeros(1, 1, dtype=torch.bool)).sum().backward()
    assert padded.grad is not None
    assert padded.grad.isfinite().all()


def trained(objective: HeadObjective, *, steps: int) -> tuple[Encoded, Encoded]:
    """What is watched before and after a few steps."""
    torch.manual_seed(0)
    x_CD = torch.eye(WIDTH)[TITLES] + 0.1 * torch.randn(NUM, WIDTH)
    layers = LayerStack(
        lambda: PreNormLayer(
            SelfAttention(WIDTH, num_heads=2, is_causal=False), width=WIDTH, hidden=8, dropout=0.0
        ),
        1, width=WIDTH,
    )  # fmt: skip
    batch = batch_of(ALL)
    optimizer = torch.optim.Adam(layers.parameters(), lr=0.02)
    before = encoded_by(layers, batch, x_CD)
    for _ in range(steps):
        optimizer.zero_grad()
        loss, count = objective(encoded_by(layers, batch, x_CD), torch.zeros(NUM, 1), batch)
        (loss / count).backward()
        optimizer.step()
    return before, encoded_by(layers, batch, x_CD)


def mass(encoded: Encoded, head: int) -> float:
    related, maps = encoded.attention["list.relation.title"], encoded.attention["list.0.maps"][:, head]
    rows = related.sum(2) > 1
    return (maps * related).sum(2)[rows].mean().item()


def test_alignment_pulls_a_head_to_its_relation() -> None:
    before, after = trained(HeadObjective(SCHEMA, alignment={"list.0.1": ("title", 1.0)}), steps=60)
    assert mass(before, 1) < 0.7
    assert mass(after, 1) > 0.95
    assert abs(mass(after, 0) - mass(before, 0)) < 0.05  # the other head is left alone


def test_orthogonality_drives_heads_apart() -> None:
    before, after = trained(HeadObjective(SCHEMA, orthogonality=1.0), steps=60)
    overlap = [
        orthogonality_loss(e.attention["list.0.maps"], e.attention["list.asks"]).sum().item() / 3
        for e in (before, after)
    ]
    assert overlap[0] > 0.6
    assert overlap[1] < 0.3


def test_what_the_model_does_not_watch_is_named() -> None:
    batch, logits_CA = batch_of(ALL), torch.zeros(NUM, 1)
    encoded = encoded_by(stack(), batch, entries(ALL))
    nothing = dataclasses.replace(encoded, attention={})
    for objective, name in (
        (HeadObjective(SCHEMA, sparsity=0.1), "list.0.gates"),
        (HeadObjective(SCHEMA, orthogonality=0.1), "list.0.maps"),
        (HeadObjective(SCHEMA, alignment={"history.1.0": ("near", 1.0)}), "history.1.maps"),
    ):
        with pytest.raises(RecipeError, match=name):
            objective(nothing, logits_CA, batch)
    with pytest.raises(RecipeError, match=r"list\.relation\.near"):
        HeadObjective(SCHEMA, alignment={"list.0.0": ("near", 1.0)})(encoded, logits_CA, batch)
    with pytest.raises(RecipeError, match="no head 2"):
        HeadObjective(SCHEMA, alignment={"list.0.2": ("title", 1.0)})(encoded, logits_CA, batch)
    for name in ("list.0", "0.1", "list.first.1", ""):
        with pytest.raises(RecipeError, match="no head has such a name"):
            HeadObjective(SCHEMA, alignment={name: ("title", 1.0)})
    for strength in (-1.0, math.nan):
        with pytest.raises(RecipeError, match="strengths"):
            HeadObjective(SCHEMA, orthogonality=strength)


def test_without_strengths_it_is_what_it_wraps_and_a_change_shows_in_its_str() -> None:
    batch, logits_CA = batch_of(ALL), torch.randn(NUM, 1)
    nothing = Encoded(torch.zeros(4, 0), torch.zeros(NUM, 0), {})
    mine, other = (
        HeadObjective(SCHEMA)(nothing, logits_CA, batch),
        PointwiseObjective(SCHEMA)(nothing, logits_CA, batch),
    )
    assert [float(x) for x in mine] == [float(x) for x in other]
    assert (
        len({str(objective) for objective in (EVERY_TERM, HeadObjective(SCHEMA), HeadObjective(SCHEMA, sparsity=1.0))})
        == 3
    )


def test_the_gradient_of_an_alignment_reaches_a_fed_head_alone() -> None:
    attention = SpecialisedAttention(
        WIDTH, heads=(FedHead(group="title"), LearnedHead()), layout={"title": 4}, gates=StaticGates(2)
    )
    layers = LayerStack(lambda: PreNormLayer(attention, width=WIDTH, hidden=8, dropout=0.0), 1, width=WIDTH)
    batch = batch_of(ALL)
    encoded = encoded_by(layers, batch, entries(ALL))
    objective = HeadObjective(SCHEMA, alignment={"list.0.0": ("title", 1.0)})
    objective(encoded, torch.zeros(NUM, 1), batch)[0].backward()
    assert attention.weight.grad is not None
    assert attention.weight.grad[:2, 0, :4].any()
    assert not attention.weight.grad[:, 1].any()
    assert not attention.weight.grad[2].any()
