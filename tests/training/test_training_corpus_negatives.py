"""Every kind of negatives stands for the corpus, and goes on from its state."""

from __future__ import annotations

import pytest
import torch

from rankwell.errors import RecipeError
from rankwell.training.corpus_negatives import CorpusNegatives, InBatchItems, MetItems, PopularItems

KINDS = {
    "all": lambda: MetItems(),
    "uniform": lambda: MetItems(20),
    "popular": lambda: PopularItems(400),
    "in batch": lambda: InBatchItems(),
}
every_kind = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
POPULARITY_U = 1 / torch.arange(1, 61).double()


def batch(seed: int, num: int = 600) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.multinomial(POPULARITY_U, num, replacement=True, generator=generator) + 5


@every_kind
def test_sums_over_what_is_drawn_are_those_over_all(make: type[CorpusNegatives]) -> None:
    torch.manual_seed(0)
    negatives, logits_U = make(), torch.linspace(-1, 1, 70, dtype=torch.float64)
    sums = []
    for step in range(120):
        targets_n = batch(step)
        item_ids_U, shift_U = negatives.step(torch.cat([targets_n, torch.tensor([-1])]), targets_n)
        assert (item_ids_U.diff() > 0).all()
        assert (item_ids_U >= 5).all()
        sums.append(float((logits_U[item_ids_U] + shift_U).exp().sum()))
    truth = float(logits_U[5:65].exp().sum())
    assert sum(sums[20:]) / len(sums[20:]) == pytest.approx(truth, rel=0.04)


@every_kind
def test_it_goes_on_from_its_state(make: type[CorpusNegatives]) -> None:
    first, second = make(), make()
    for step in range(3):
        first.step(batch(step), batch(step))
    second.load_state_dict(first.state_dict())
    outcomes = []
    for one in (first, second):
        torch.manual_seed(7)
        outcomes.append(one.step(batch(9), batch(9)))
    assert outcomes[0][0].tolist() == outcomes[1][0].tolist()
    assert outcomes[0][1].tolist() == outcomes[1][1].tolist()


@every_kind
def test_a_step_without_targets_stands_for_nothing(make: type[CorpusNegatives]) -> None:
    nothing_n = torch.empty(0, dtype=torch.int64)
    item_ids_U, shift_U = make().step(nothing_n, nothing_n)
    assert len(item_ids_U) == len(shift_U) == 0


def test_a_single_target_has_no_other_to_be_held_against() -> None:
    one_n = torch.tensor([4])
    item_ids_U, shift_U = InBatchItems().step(one_n, one_n)
    assert item_ids_U.tolist() == [4]
    assert shift_U.isfinite().all()


@pytest.mark.parametrize(
    "make", [lambda: MetItems(0), lambda: PopularItems(0), lambda: PopularItems(5, uniform_share=1.0)]
)
def test_bad_settings_are_refused(make: object) -> None:
    with pytest.raises(RecipeError):
        make()  # type: ignore[operator]
