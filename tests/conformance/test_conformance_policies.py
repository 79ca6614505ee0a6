"""Every public policy keeps the contract of `rankwell.ranking.policies.Policy`; a new file is found with no edit here.

Letters in names: K candidates of one request.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
from collections import Counter
from collections.abc import Iterator
from typing import cast

import pytest
import torch
from torch import Tensor

import rankwell.ranking
from rankwell.errors import RequestError
from rankwell.ranking.policies import Policy
from rankwell.types import RankedList

PARAMETERS = list(inspect.signature(Policy.__call__).parameters)[1:]

ITEM_IDS_K = torch.tensor([50, 2**62, 7, 31, 8, 0])
UTILITIES_K = torch.tensor([0.30, 0.25, 0.25, 0.10, 0.25, 0.02], dtype=torch.float64)
LOGITS_K = torch.tensor([-0.8, -1.0, -1.1, -2.2, -1.1, -3.9], dtype=torch.float64)  # 7 and 8 tie in both
PROBABILITIES_K = torch.tensor([0.31, 0.26, 0.24, 0.11, 0.23, 0.03], dtype=torch.float64)
SEEDS = range(20)
NUM_DRAWS = 2_000


def _public_members() -> Iterator[tuple[str, object]]:
    for found in pkgutil.iter_modules(rankwell.ranking.__path__, "rankwell.ranking."):
        module = importlib.import_module(found.name)
        for name in module.__all__:
            yield f"{found.name.rpartition('.')[2]}.{name}", getattr(module, name)


def _is_policy(member: object) -> bool:
    if inspect.isfunction(member):
        return list(inspect.signature(member).parameters)[:2] == PARAMETERS[:2]
    if inspect.isclass(member) and dataclasses.is_dataclass(member) and "__call__" in vars(member):
        return list(inspect.signature(vars(member)["__call__"]).parameters)[1:3] == PARAMETERS[:2]
    return False


POLICIES = {name: member for name, member in _public_members() if _is_policy(member)}


@pytest.fixture(params=POLICIES, name="policy")
def _policy(request: pytest.FixtureRequest) -> Policy:
    member = POLICIES[request.param]
    return cast(Policy, member() if inspect.isclass(member) else member)


def ranked(
    policy: Policy, rows: Tensor | None = None, *, utilities_K: Tensor = UTILITIES_K, length: int = 100, seed: int = 0
) -> RankedList:
    rows = torch.arange(len(ITEM_IDS_K)) if rows is None else rows
    return policy(
        ITEM_IDS_K[rows],
        utilities_K[rows],
        logits_K=LOGITS_K[rows],
        probabilities_K=PROBABILITIES_K[rows],
        length=length,
        seed=seed,
    )


def test_the_search_finds_policies() -> None:
    assert "policies.greedy" in POLICIES
    assert "policies.Policy" not in POLICIES


def test_signature(policy: Policy) -> None:
    parameters = inspect.signature(policy).parameters
    assert list(parameters) == PARAMETERS
    both, keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    assert [parameter.kind for parameter in parameters.values()] == [both] * 2 + [keyword] * 4


def test_the_order_of_the_candidates_means_nothing(policy: Policy) -> None:
    generator = torch.Generator().manual_seed(0)
    for seed in SEEDS:
        rows = torch.randperm(len(ITEM_IDS_K), generator=generator)
        given, shuffled = ranked(policy, seed=seed, length=4), ranked(policy, rows, seed=seed, length=4)
        for field in dataclasses.fields(RankedList):
            assert torch.equal(getattr(given, field.name), getattr(shuffled, field.name)), field.name


@pytest.mark.parametrize("length", [1, 4, 6, 7, 1000])
def test_each_item_stands_once_in_a_list_of_the_length_asked_for(policy: Policy, length: int) -> None:
    for seed in SEEDS:
        items = ranked(policy, length=length, seed=seed).item_ids.tolist()
        assert len(items) == len(set(items)) == min(length, len(ITEM_IDS_K))
        assert set(items) <= set(ITEM_IDS_K.tolist())


def test_each_item_keeps_its_numbers(policy: Policy) -> None:
    of_item = dict(zip(ITEM_IDS_K.tolist(), zip(PROBABILITIES_K, UTILITIES_K, strict=True), strict=True))
    for seed in SEEDS:
        given = ranked(policy, seed=seed)
        assert given.item_ids.dtype == torch.int64
        assert given.probabilities.dtype == given.utilities.dtype == given.propensities.dtype == torch.float64
        for item, probability, utility in zip(
            given.item_ids.tolist(), given.probabilities, given.utilities, strict=True
        ):
            assert (probability, utility) == of_item[item]


def test_no_candidates_are_an_empty_list(policy: Policy) -> None:
    empty = ranked(policy, torch.zeros(0, dtype=torch.int64))
    for field in dataclasses.fields(RankedList):
        assert getattr(empty, field.name).shape == (0,), field.name


def test_one_candidate_is_certain(policy: Policy) -> None:
    one = ranked(policy, torch.tensor([3]), length=1)
    assert one.item_ids.tolist() == [31]
    assert one.propensities.tolist() == [1.0]


def test_what_has_no_number_is_refused(policy: Policy) -> None:
    with pytest.raises(RequestError):
        ranked(policy, utilities_K=UTILITIES_K.index_fill(0, torch.tensor(2), float("nan")))


@pytest.mark.parametrize("length", [0, -1])
def test_a_length_below_one_is_refused(policy: Policy, length: int) -> None:
    with pytest.raises(RequestError):
        ranked(policy, length=length)


def test_an_item_that_stands_twice_is_refused(policy: Policy) -> None:
    with pytest.raises(RequestError, match="twice"):
        ranked(policy, torch.tensor([3, 0, 3]))


def test_propensities_are_the_frequencies_over_seeds(policy: Policy) -> None:
    """Each is the same whatever the seed that drew it, and within five standard errors of how often it is drawn."""
    drawn: Counter[tuple[int, int]] = Counter()
    propensities: dict[tuple[int, int], float] = {}
    for seed in range(NUM_DRAWS):
        given = ranked(policy, length=3, seed=seed)
        entries = zip(given.item_ids.tolist(), given.propensities.tolist(), strict=True)
        for position, (item, propensity) in enumerate(entries, 1):
            assert 0.0 < propensity <= 1.0
            assert propensities.setdefault((position, item), propensity) == pytest.approx(propensity, rel=1e-9)
            drawn[position, item] += 1
    for place, propensity in propensities.items():
        error = (propensity * (1.0 - propensity) / NUM_DRAWS) ** 0.5
        assert drawn[place] / NUM_DRAWS == pytest.approx(propensity, abs=5 * error + 1e-12), place


def test_a_seed_gives_its_list_again(policy: Policy) -> None:
    for seed in SEEDS:
        once, again = ranked(policy, seed=seed), ranked(policy, seed=seed)
        assert torch.equal(once.item_ids, again.item_ids)


def test_arguments_are_left_as_they_were(policy: Policy) -> None:
    originals = [column.clone() for column in (ITEM_IDS_K, UTILITIES_K, LOGITS_K, PROBABILITIES_K)]
    policy(ITEM_IDS_K, UTILITIES_K, logits_K=LOGITS_K, probabilities_K=PROBABILITIES_K, length=3, seed=1)
    for column, original in zip((ITEM_IDS_K, UTILITIES_K, LOGITS_K, PROBABILITIES_K), originals, strict=True):
        assert torch.equal(column, original)
