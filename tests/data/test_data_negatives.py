"""Negatives and the probabilities they were drawn by, counted, and tested by the softmax that they stand for."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rankwell.data.negatives import (
    ItemFrequency,
    MixedNegatives,
    Negatives,
    NegativeSampler,
    WeightedNegatives,
    hard_negatives,
    popularity_negatives,
    sum_shift,
    uniform_negatives,
)
from rankwell.errors import TrainingError
from rankwell.losses.item_softmax import item_softmax

ITEMS_U = torch.tensor([30, 4, 2**62, 11, 0])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


SAMPLERS: dict[str, NegativeSampler] = {
    "weighted": WeightedNegatives(ITEMS_U, torch.tensor([1.0, 0.0, 5.0, 2.0, 0.5])),
    "uniform": uniform_negatives(ITEMS_U),
    "popular": popularity_negatives(ITEMS_U, torch.tensor([100, 1, 10, 5, 0])),
    "hard": hard_negatives(ITEMS_U, torch.tensor([1e3, 1e3 + 1, 999.0, -1e4, 1e3]), temperature=0.5),
    "mixed": MixedNegatives((uniform_negatives(ITEMS_U[:2]), uniform_negatives(ITEMS_U)), (0.3, 0.7)),
}
every_sampler = pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)


@every_sampler
def test_items_come_as_often_as_they_say(sampler: NegativeSampler) -> None:
    num = 60_000
    drawn = sampler.draw(num, generator=generator())
    assert len(drawn) == num
    torch.testing.assert_close(drawn.log_q_n, sampler.log_probability(drawn.item_ids_n))
    expected_U = sampler.log_probability(ITEMS_U).exp()
    assert float(expected_U.sum()) == pytest.approx(1.0)
    share_U = torch.stack([(drawn.item_ids_n == item).double().mean() for item in ITEMS_U])
    error_U = 5 * (expected_U * (1 - expected_U) / num).sqrt()
    assert bool(((share_U - expected_U).abs() <= error_U).all())
    assert sampler.log_probability(torch.tensor([12345, -1])).exp().tolist() == [0, 0]


@every_sampler
def test_a_seed_gives_the_same_draws_again(sampler: NegativeSampler) -> None:
    first, again = (sampler.draw(50, generator=generator(3)).item_ids_n for _ in range(2))
    assert first.tolist() == again.tolist()
    assert len(sampler.draw(0, generator=generator())) == 0


@settings(max_examples=50)
@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=40).filter(lambda weights: sum(weights) > 0))
def test_aliases_hold_exactly_the_weights(weights: list[int]) -> None:
    sampler = WeightedNegatives(torch.arange(len(weights)), torch.tensor(weights))
    share_U = torch.zeros(len(weights), dtype=torch.float64)
    for column, (keep, alias) in enumerate(zip(sampler._keep_U, sampler._alias_U, strict=True)):
        share_U[column] += keep
        share_U[alias] += 1 - keep
    expected_U = torch.tensor(weights, dtype=torch.float64) / sum(weights) * len(weights)
    torch.testing.assert_close(share_U, expected_U, atol=1e-9, rtol=1e-9)


@every_sampler
def test_a_sample_stands_for_all_items(sampler: NegativeSampler) -> None:
    """Σ c·e^z/(m·q) over draws is Σ e^z over the items that can be drawn, on average."""
    logits_U = torch.linspace(-1, 1, len(ITEMS_U), dtype=torch.float64)
    can_U = sampler.log_probability(ITEMS_U) > -torch.inf
    truth = float(logits_U[can_U].exp().sum())
    item_ids_U, shift_U = sum_shift(sampler.draw(300_000, generator=generator(1)))
    place_U = torch.stack([(item == ITEMS_U).nonzero().squeeze() for item in item_ids_U])
    assert float((logits_U[place_U] + shift_U).exp().sum()) == pytest.approx(truth, rel=0.03)


def _in_batch_gradient(batch_size: int, num_batches: int, *, times: float = 1.0) -> tuple[float, float]:
    """By how much the mean gradient of in-batch negatives misses that of the softmax over all items; and its size.

    `times` is how often ln q is taken off: 1 is right, 0 is no correction, -1 the wrong sign.
    """
    num_items, width = 100, 4
    source = generator(5)
    item_UD = torch.randn(num_items, width, generator=source)
    popularity_U = 1 / torch.arange(5, num_items + 5).double()
    popularity_U /= popularity_U.sum()
    state_D = torch.randn(width, generator=source)
    whole_D, mean_D = torch.zeros(width), torch.zeros(width)
    for _ in range(num_batches):
        targets_B = torch.multinomial(popularity_U, batch_size, replacement=True, generator=source)
        log_q_B = popularity_U.log()[targets_B]
        item_ids_U, shift_U = sum_shift(Negatives(targets_B, log_q_B), num_draws=batch_size - 1)
        shift_U = shift_U + (1 - times) * popularity_U.log()[item_ids_U]
        for items, shifts, into_D in (
            (item_ids_U, shift_U, mean_D),
            (torch.arange(num_items), torch.zeros(num_items), whole_D),
        ):
            state_nD = state_D.expand(batch_size, width).clone().requires_grad_()
            loss = item_softmax(
                state_nD, item_UD[targets_B], item_UD[items], place_n=torch.searchsorted(items, targets_B),
                weights_n=torch.ones(batch_size), shift_U=shifts,
            )  # fmt: skip
            loss.backward()
            assert state_nD.grad is not None
            into_D += state_nD.grad.mean(0) / num_batches
    return float((mean_D - whole_D).norm()), float(whole_D.norm())


def test_the_bias_of_in_batch_negatives_shrinks_with_the_batch_and_needs_its_sign() -> None:
    small, size = _in_batch_gradient(64, 1024)
    large, _ = _in_batch_gradient(4096, 16)
    assert large < small / 3
    assert large < 0.02 * size
    assert _in_batch_gradient(4096, 16, times=0.0)[0] > 5 * large
    assert _in_batch_gradient(4096, 16, times=-1.0)[0] > 0.5 * size


def test_an_accidental_hit_is_masked_and_a_target_is_no_draw_for_itself() -> None:
    batch_B = torch.tensor([8, 3, 8])
    item_ids_U, shift_U = sum_shift(Negatives(batch_B, torch.tensor([0.5, 0.25, 0.5]).log()), num_draws=2)
    item_UD = torch.zeros(2, 1)
    loss = item_softmax(
        torch.zeros(3, 1), torch.zeros(3, 1), item_UD, place_n=torch.searchsorted(item_ids_U, batch_B),
        weights_n=torch.ones(3), shift_U=shift_U,
    )  # fmt: skip
    # the two 8s see one 3, drawn once in two: e^0 / (2 · .25); the 3 sees two 8s: 2·e^0 / (2 · .5)
    assert float(loss) == pytest.approx(2 * math.log(1 + 2) + math.log(1 + 2))


def test_frequencies_follow_the_stream() -> None:
    frequency = ItemFrequency(half_life=20_000)
    truth_U = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
    for step in range(200):
        at_U = truth_U if step < 100 else truth_U.flip(0)  # popularity turns round
        frequency.observe(torch.multinomial(at_U, 2000, replacement=True, generator=generator(step)))
        if step in (99, 199):
            share_U = frequency.log_probability(torch.arange(4)).exp()
            torch.testing.assert_close(share_U, at_U, atol=0.02, rtol=0)
    assert len(frequency) == 4


def test_one_over_q_is_right_on_average_for_rare_items_too() -> None:
    """Of 2,000 items, most come once in a while: Σ 1/q over a batch's draws is to be the number of items."""
    num_items, batch = 2000, 500
    popularity_U = 1 / torch.arange(1, num_items + 1).double()
    frequency, estimates = ItemFrequency(half_life=1e9), []
    for step in range(400):
        targets_B = torch.multinomial(popularity_U, batch, replacement=True, generator=generator(step))
        frequency.observe(targets_B)
        if step >= 200:
            estimates.append(float((-frequency.in_batch(targets_B).log_q_n).exp().mean()))
    assert sum(estimates) / len(estimates) == pytest.approx(num_items, rel=0.05)


def test_forgotten_missing_and_unseen_items() -> None:
    frequency = ItemFrequency(half_life=1.0)
    assert frequency.log_probability(torch.tensor([1])).exp().tolist() == [0]
    frequency.observe(torch.tensor([-1, -1]))
    assert len(frequency) == 0
    frequency.observe(torch.tensor([1]))
    frequency.observe(torch.full((40,), 2))
    assert frequency.log_probability(torch.tensor([1, 2])).exp().tolist() == [0, pytest.approx(1.0)]
    assert frequency.in_batch(torch.tensor([2, -1])).item_ids_n.tolist() == [2]


def test_nothing_drawn_stands_for_nothing() -> None:
    item_ids_U, shift_U = sum_shift(Negatives(torch.empty(0, dtype=torch.int64), torch.empty(0)))
    assert len(item_ids_U) == len(shift_U) == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: WeightedNegatives(torch.tensor([1, 1]), torch.ones(2)),
        lambda: WeightedNegatives(torch.tensor([1, 2]), torch.tensor([0.0, 0.0])),
        lambda: WeightedNegatives(torch.tensor([1, 2]), torch.tensor([1.0, -1.0])),
        lambda: WeightedNegatives(torch.tensor([1, 2]), torch.tensor([1.0, torch.nan])),
        lambda: WeightedNegatives(torch.tensor([1, 2]), torch.ones(3)),
        lambda: uniform_negatives(torch.empty(0, dtype=torch.int64)),
        lambda: popularity_negatives(ITEMS_U, torch.ones(5), power=-1),
        lambda: hard_negatives(ITEMS_U, torch.ones(5), temperature=0),
        lambda: MixedNegatives((uniform_negatives(ITEMS_U),), (0.5,)),
        lambda: MixedNegatives((), ()),
        lambda: ItemFrequency(half_life=0),
        lambda: sum_shift(Negatives(torch.tensor([1]), torch.tensor([-torch.inf]))),
        lambda: sum_shift(Negatives(torch.tensor([1]), torch.tensor([torch.nan]))),
        lambda: sum_shift(Negatives(torch.tensor([1]), torch.tensor([0.0])), num_draws=0),
    ],
)
def test_bad_input_is_refused(make: object) -> None:
    with pytest.raises(TrainingError):
        make()  # type: ignore[operator]
