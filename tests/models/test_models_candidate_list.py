"""A list encoder gives each candidate its own answer back, whatever the order, the block or the other requests."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rankwell.errors import RecipeError, RequestError, SchemaError
from rankwell.models.candidate_list import ListEncoder, ListSettings, _order_keys
from rankwell.models.list_attention import AttentionSettings, FullSettings, LinearSettings, LocalSettings
from rankwell.models.padding import ManyLists
from rankwell.schema import Action, Categorical, Numeric, Schema
from rankwell.types import Features

WIDTH = 8
SCHEMA = Schema(
    features=(
        Categorical(name="job"),
        Numeric(name="retrieval_score"),
        Numeric(name="match", missing="indicator"),
        Numeric(name="years", on="request"),
    ),
    actions=(Action(name="click"),),
)
FULL, LOCAL, LINEAR = FullSettings(num_heads=2), LocalSettings(num_heads=2, window=6), LinearSettings(num_heads=2)
BY_SCORE = "retrieval_score"

EVERY_SETTINGS = (
    ListSettings(attention=FULL, num_layers=2),
    ListSettings(attention=LINEAR, num_layers=2),
    ListSettings(attention=FULL, rank=BY_SCORE, rank_encoding="learned"),
    ListSettings(attention=LINEAR, rank=BY_SCORE, rank_encoding="sinusoidal"),
    ListSettings(attention=LOCAL, rank=BY_SCORE, num_layers=2, shares_layers=True),
    ListSettings(attention=LOCAL, rank=BY_SCORE, rank_encoding="sinusoidal"),
)
every_settings = pytest.mark.parametrize(
    "declared", EVERY_SETTINGS, ids=lambda s: "-".join(filter(None, (s.attention.kind, s.rank, s.rank_encoding)))
)


def encoder_of(declared: ListSettings, width: int = WIDTH) -> ListEncoder:
    torch.manual_seed(0)
    return ListEncoder(SCHEMA, declared, width=width).double().eval()


def offsets_of(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0)


def candidates(num: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Vectors, and ranks no two of which are equal."""
    generator = torch.Generator().manual_seed(seed)
    x_CD = torch.randn(num, WIDTH, generator=generator, dtype=torch.float64)
    return x_CD, torch.randperm(num, generator=generator).float()


def encoded(encoder: ListEncoder, x_CD: Tensor, lengths: list[int], rank_C: Tensor) -> Tensor:
    result: Tensor = encoder(x_CD, offsets_of(lengths), rank_C if encoder.rank is not None else None)
    return result


@every_settings
def test_permuted_candidates_get_permuted_results(declared: ListSettings) -> None:
    encoder, lengths = encoder_of(declared), [40, 1, 90]
    x_CD, rank_C = candidates(sum(lengths))
    order = torch.cat([begin + torch.randperm(n) for begin, n in zip([0, 40, 41], lengths, strict=True)])
    assert not torch.equal(order, torch.arange(sum(lengths)))
    before = encoded(encoder, x_CD, lengths, rank_C)
    after = encoded(encoder, x_CD[order], lengths, rank_C[order])
    torch.testing.assert_close(after, before[order], rtol=0, atol=1e-10)


@every_settings
def test_a_request_is_encoded_as_if_alone(declared: ListSettings) -> None:
    encoder, lengths = encoder_of(declared), [3, 0, 700, 1, 90, 65, 2, 5, 5, 0]
    x_CD, rank_C = candidates(sum(lengths))
    together = encoded(encoder, x_CD, lengths, rank_C)
    parts = zip(x_CD.split(lengths), rank_C.split(lengths), lengths, strict=True)
    alone = torch.cat([encoded(encoder, x, [length], rank) for x, rank, length in parts])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-10)


@every_settings
def test_other_requests_get_no_gradient(declared: ListSettings) -> None:
    encoder, lengths = encoder_of(declared), [20, 30, 25]
    x_CD, rank_C = candidates(sum(lengths))
    x_CD.requires_grad_()
    weights = torch.randn(30, WIDTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (encoded(encoder, x_CD, lengths, rank_C)[20:50] * weights).sum().backward()
    assert x_CD.grad is not None
    assert x_CD.grad[20:50].any(dim=1).all()
    assert not x_CD.grad[:20].any()
    assert not x_CD.grad[50:].any()


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.one_of(st.integers(0, 8), st.integers(0, 600)), min_size=1, max_size=6),
    which=st.sampled_from(range(len(EVERY_SETTINGS))),
)
def test_several_blocks_give_what_one_block_gives(lengths: list[int], which: int) -> None:
    encoder = encoder_of(EVERY_SETTINGS[which])
    x_CD, rank_C = candidates(sum(lengths))
    order = torch.arange(sum(lengths))
    if encoder.rank is not None:
        parts = zip(offsets_of(lengths).tolist(), rank_C.split(lengths), strict=False)  # the last offset begins nothing
        order = torch.cat([begin + rank.argsort(descending=True) for begin, rank in parts])
    padding = ManyLists(offsets_of(lengths))
    x_BLD = padding.pad(x_CD[order])
    place = encoder.waves if encoder.place is None else encoder.place
    if place is not None:
        x_BLD = x_BLD + place[: x_BLD.shape[1]]
    expected = torch.empty_like(x_CD)
    expected[order] = padding.unpad(encoder.layers(x_BLD, padding.valid_BL))
    torch.testing.assert_close(encoded(encoder, x_CD, lengths, rank_C), expected, rtol=0, atol=1e-10)


def test_one_long_request_does_not_make_short_ones_long() -> None:
    encoder = encoder_of(EVERY_SETTINGS[0])
    shapes: list[tuple[int, int]] = []
    encoder.layers.register_forward_pre_hook(lambda _, given: shapes.append(tuple(given[0].shape[:2])))
    lengths = [5] * 100 + [2000] + [0] * 10 + [7] * 20 + [40]
    x_CD, rank_C = candidates(sum(lengths))
    encoded(encoder, x_CD, lengths, rank_C)
    assert shapes == [(120, 7), (1, 40), (1, 2000)]
    shapes.clear()
    encoded(encoder, x_CD[:114], [20, 30, 64], rank_C[:114])
    assert shapes == [(3, 64)]  # apart they would not pay


@every_settings
def test_equal_candidates_stay_equal(declared: ListSettings) -> None:
    encoder = encoder_of(declared.model_copy(update={"rank_encoding": None}))
    x_CD = torch.randn(1, WIDTH, dtype=torch.float64).expand(90, WIDTH)
    result = encoded(encoder, x_CD, [90], torch.full((90,), 0.5))
    torch.testing.assert_close(result, result[:1].expand(90, WIDTH), rtol=0, atol=1e-12)


def test_equal_ranks_stand_as_they_came_and_missing_ones_last() -> None:
    declared = ListSettings(attention=FULL, rank="match", rank_encoding="learned")
    encoder = encoder_of(declared)
    x_CD, _ = candidates(6)
    rank_C = torch.tensor([torch.nan, 0.5, -3e38, 0.5, torch.nan, 0.9])
    here = encoder(x_CD, torch.tensor([0, 6]), rank_C)
    order = [5, 1, 3, 2, 0, 4]
    there = encoder(x_CD[order], torch.tensor([0, 6]), torch.arange(6.0).flip(0))
    torch.testing.assert_close(here[order], there, rtol=0, atol=1e-12)


def test_the_rank_decides_who_is_near() -> None:
    encoder = encoder_of(ListSettings(attention=LocalSettings(num_heads=2, window=2), rank=BY_SCORE))
    x_CD, rank_C = candidates(50)
    x_CD.requires_grad_()
    middle = int((rank_C == 25).nonzero())
    encoded(encoder, x_CD, [50], rank_C)[middle].pow(3).sum().backward()
    assert x_CD.grad is not None
    seen = x_CD.grad.any(dim=1).nonzero().squeeze(1)
    assert sorted(rank_C[seen].tolist()) == [24, 25, 26]


@every_settings
def test_a_place_in_the_initial_list_is_known_where_declared(declared: ListSettings) -> None:
    encoder = encoder_of(declared)
    x_CD, rank_C = candidates(5)
    one, other = (encoded(encoder, x_CD, [5], rank) for rank in (rank_C, -rank_C))
    # within a window all five see each other, so that without an encoding their order means nothing
    assert torch.allclose(one, other, atol=1e-10) == (declared.rank_encoding is None)


@every_settings
def test_no_candidates_and_no_requests(declared: ListSettings) -> None:
    encoder = encoder_of(declared)
    for lengths in ([], [0], [0, 0]):
        x_CD, rank_C = candidates(0)
        assert encoded(encoder, x_CD, lengths, rank_C).shape == (0, WIDTH)


@every_settings
def test_one_candidate(declared: ListSettings) -> None:
    encoder = encoder_of(declared)
    x_CD, rank_C = candidates(2)
    result = encoded(encoder, x_CD, [1, 1], rank_C)
    assert result.isfinite().all()
    assert not torch.equal(result[0], result[1])


@every_settings
def test_gradient_reaches_every_parameter(declared: ListSettings) -> None:
    encoder = encoder_of(declared).train()
    x_CD, rank_C = candidates(12)
    encoded(encoder, x_CD, [9, 3], rank_C).pow(3).sum().backward()
    assert not [n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.any()]


def test_2001_candidates_are_refused_by_name_and_number() -> None:
    encoder = encoder_of(ListSettings(attention=LINEAR))
    x_CD, _ = candidates(2003)
    with pytest.raises(RequestError, match=r"request 1 .* found: 2,001 candidates; allowed: at most 2,000"):
        encoder(x_CD, torch.tensor([0, 2, 2003]), None)
    assert encoder(x_CD[:2002], torch.tensor([0, 2, 2002]), None).isfinite().all()


def test_what_needs_a_rank_is_refused_without() -> None:
    with pytest.raises(RecipeError, match="local attention needs an initial ranking"):
        ListSettings(attention=LOCAL)
    with pytest.raises(RecipeError, match="an encoding of the rank needs an initial ranking"):
        ListSettings(attention=FULL, rank_encoding="sinusoidal")


@pytest.mark.parametrize(
    ("rank", "found"), [("bm25", "no feature"), ("job", "a categorical"), ("years", "a numeric on the request")]
)
def test_a_rank_is_a_numeric_of_candidates(rank: str, found: str) -> None:
    with pytest.raises(SchemaError, match=f"rank '{rank}' cannot order candidates; found: {found}"):
        ListEncoder(SCHEMA, ListSettings(rank=rank), width=WIDTH)


def test_the_rank_is_read_from_the_features_and_must_be_given() -> None:
    x_CD, rank_C = candidates(3)
    offsets = torch.tensor([0, 3])
    features = Features({}, {}, {BY_SCORE: rank_C}, offsets, torch.zeros(3, dtype=torch.int64))
    encoder, unordered = encoder_of(ListSettings(rank=BY_SCORE)), encoder_of(ListSettings())
    assert encoder.rank_values(features) is rank_C
    assert unordered.rank_values(features) is None
    with pytest.raises(SchemaError, match="found: no values"):
        encoder(x_CD, offsets, None)
    with pytest.raises(SchemaError, match="found: values, and rank=None"):
        unordered(x_CD, offsets, rank_C)


@every_settings
def test_settings_travel_as_json(declared: ListSettings) -> None:
    assert ListSettings.model_validate_json(declared.model_dump_json()) == declared


def test_a_kind_of_attention_that_is_not_known_is_refused() -> None:
    with pytest.raises(SchemaError, match=r"ListSettings\.attention"):
        ListSettings(attention={"kind": "sparse"})  # type: ignore[arg-type]


@pytest.mark.parametrize("attention", [FULL, LOCAL, LINEAR], ids=lambda kind: kind.kind)
def test_dropout_is_of_training_alone(attention: AttentionSettings) -> None:
    encoder = encoder_of(ListSettings(attention=attention, rank=BY_SCORE, dropout=0.5))
    x_CD, rank_C = candidates(30)
    assert torch.equal(encoded(encoder, x_CD, [30], rank_C), encoded(encoder, x_CD, [30], rank_C))
    encoder.train()
    assert not torch.equal(encoded(encoder, x_CD, [30], rank_C), encoded(encoder, x_CD, [30], rank_C))


def test_keys_sort_as_a_stable_sort_does_and_are_never_alike() -> None:
    tiny = 2.0**-149
    nearest = torch.tensor([1.0, 1.0 - 2.0**-24, 1.0 + 2.0**-23, -1.0, -1.0 - 2.0**-23, 3.4028235e38, -3.4028235e38])
    odd = torch.tensor([0.0, -0.0, tiny, -tiny, 2.0**-126, torch.inf, -torch.inf, torch.nan])
    random = torch.from_numpy(
        np.random.default_rng(3).integers(0, 2**32, 4000, dtype=np.uint32).view(np.float32).copy()
    )
    for rank_C in (nearest.repeat(40), odd.repeat(40), torch.cat([odd, nearest, random]).repeat(5), random[:0]):
        keys_C = _order_keys(rank_C)
        known_C = torch.where(rank_C.isnan(), -torch.inf, rank_C)
        expected = known_C.argsort(descending=True, stable=True)
        assert keys_C.unique().shape == keys_C.shape
        assert keys_C.argsort(descending=True).tolist() == expected.tolist()
