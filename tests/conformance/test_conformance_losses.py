"""Every public loss keeps the contract of `rankwell.losses.loss.Loss`; a new file is found with no edit here.

Letters in names: C candidates, flat over the batch.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import rankwell.losses

LossFunction = Callable[..., Tensor]
PARAMETERS = ["logits_C", "labels_C", "request_C", "weights_C"]

REQUEST_C = torch.tensor([0, 0, 0, 0, 1, 1, 2, 3, 3, 3])
LABELS_C = torch.tensor([1, 0, 0, 1, 0, 1, 1, 0, 0, 0], dtype=torch.float64)
WEIGHTS_C = torch.tensor([1, 0.5, 2, 1, 3, 1, 0.25, 1, 1, 2], dtype=torch.float64)
LOGITS_C = torch.tensor([0.3, -1.2, 2.5, -0.7, 0.0, 1.1, -3.0, 0.3, 0.3, 4.0], dtype=torch.float64)


def _public_members() -> Iterator[tuple[str, object]]:
    for found in pkgutil.iter_modules(rankwell.losses.__path__, "rankwell.losses."):
        module = importlib.import_module(found.name)
        for name in module.__all__:
            yield f"{found.name.rpartition('.')[2]}.{name}", getattr(module, name)


def _signature(member: object) -> inspect.Signature | None:
    if inspect.isfunction(member):
        return inspect.signature(member)
    if inspect.isclass(member) and dataclasses.is_dataclass(member) and "__call__" in vars(member):
        call = inspect.signature(vars(member)["__call__"])
        return call.replace(parameters=list(call.parameters.values())[1:])
    return None


def _is_loss(member: object) -> bool:
    signature = _signature(member)
    return signature is not None and list(signature.parameters)[:2] == PARAMETERS[:2]


LOSSES = {name: member for name, member in _public_members() if _is_loss(member)}


@pytest.fixture(params=LOSSES, name="loss")
def _loss(request: pytest.FixtureRequest) -> LossFunction:
    member = LOSSES[request.param]
    return member() if inspect.isclass(member) else member


def _value_and_gradient(
    loss: LossFunction, logits_C: Tensor, labels_C: Tensor, request_C: Tensor, weights_C: Tensor
) -> tuple[Tensor, Tensor]:
    leaf_C = logits_C.clone().requires_grad_()
    value = loss(leaf_C, labels_C, request_C=request_C, weights_C=weights_C)
    assert value.shape == ()
    (gradient_C,) = torch.autograd.grad(value, leaf_C)
    return value.detach(), gradient_C


def _of_rows(loss: LossFunction, rows: Tensor, weights_C: Tensor = WEIGHTS_C) -> tuple[Tensor, Tensor]:
    """Value and gradient on these rows alone, requests numbered anew in the order in which they come."""
    _, request_C = torch.unique_consecutive(REQUEST_C[rows], return_inverse=True)
    return _value_and_gradient(loss, LOGITS_C[rows], LABELS_C[rows], request_C, weights_C[rows])


EVERY_ROW = torch.arange(len(LOGITS_C))


def test_the_search_finds_losses() -> None:
    expected = {
        "pointwise.binary_cross_entropy", "pointwise.SmoothedBinaryCrossEntropy", "pairwise.LambdaRank",
        "listwise.ListNet", "calibrated.RegressionCompatibleRanking", "distillation.Distillation",
    }  # fmt: skip
    assert expected <= set(LOSSES)


@pytest.mark.parametrize("name", LOSSES)
def test_signature(name: str) -> None:
    signature = _signature(LOSSES[name])
    assert signature is not None
    assert list(signature.parameters) == PARAMETERS
    kinds = [parameter.kind for parameter in signature.parameters.values()]
    both, keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    assert kinds == [both, both, keyword, keyword]


@pytest.mark.parametrize("name", [name for name in LOSSES if inspect.isclass(LOSSES[name])])
def test_a_loss_with_a_setting_is_frozen_and_has_a_default(name: str) -> None:
    loss = LOSSES[name]()  # type: ignore[operator]
    setting = dataclasses.fields(loss)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(loss, setting, getattr(loss, setting))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("extreme", [1e4, -1e4, 88.8, 0.0])
@pytest.mark.parametrize("label", [0.0, 1.0])
def test_finite_at_extreme_logits(loss: LossFunction, extreme: float, label: float, dtype: torch.dtype) -> None:
    logits_C = torch.tensor([extreme, extreme, 0.0, -extreme, extreme], dtype=dtype)
    labels_C = torch.tensor([label, 1 - label, label, label, label], dtype=dtype)
    value, gradient_C = _value_and_gradient(
        loss, logits_C, labels_C, torch.tensor([0, 0, 0, 1, 1]), torch.ones(5, dtype=dtype)
    )
    assert value.isfinite()
    assert value.dtype == dtype
    assert gradient_C.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_finite_on_grades_at_extreme_logits(loss: LossFunction, dtype: torch.dtype) -> None:
    labels_C = torch.tensor([4, 0, 3, 1, 2, 4, 4, 0, 1, 0], dtype=dtype)
    for logits_C in (torch.sign(LOGITS_C) * 1e4, torch.full_like(LOGITS_C, -1e4), torch.linspace(-1e4, 1e4, 10)):
        value, gradient_C = _value_and_gradient(loss, logits_C.to(dtype), labels_C, REQUEST_C, WEIGHTS_C.to(dtype))
        assert value.isfinite()
        assert gradient_C.isfinite().all()


def test_zero_when_nothing_has_weight(loss: LossFunction) -> None:
    value, gradient_C = _value_and_gradient(loss, LOGITS_C, LABELS_C, REQUEST_C, torch.zeros_like(WEIGHTS_C))
    assert value == 0.0
    assert torch.equal(gradient_C, torch.zeros_like(LOGITS_C))


def test_zero_on_no_rows(loss: LossFunction) -> None:
    empty_C = torch.zeros(0)
    value, _ = _value_and_gradient(loss, empty_C, empty_C, torch.zeros(0, dtype=torch.int64), empty_C)
    assert value == 0.0


def test_a_prediction_nearer_to_the_label_costs_less(loss: LossFunction) -> None:
    good, _ = _value_and_gradient(loss, 2 * LABELS_C - 1, LABELS_C, REQUEST_C, WEIGHTS_C)
    bad, _ = _value_and_gradient(loss, 1 - 2 * LABELS_C, LABELS_C, REQUEST_C, WEIGHTS_C)
    assert 0.0 <= good < bad  # a hinge may have nothing left to say


def test_order_means_nothing(loss: LossFunction) -> None:
    rows = torch.tensor([7, 9, 8, 3, 1, 0, 2, 6, 5, 4])  # rows within requests and requests, both in another order
    whole, gradient_C = _of_rows(loss, EVERY_ROW)
    shuffled, shuffled_gradient_C = _of_rows(loss, rows)
    torch.testing.assert_close(shuffled, whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(shuffled_gradient_C, gradient_C[rows], rtol=1e-12, atol=1e-12)


def test_weight_zero_is_absent(loss: LossFunction) -> None:
    absent = torch.tensor([1, 4, 6])  # of a long list, of a short one, and a whole request
    weights_C = WEIGHTS_C.index_fill(0, absent, 0.0)
    rows = torch.tensor([0, 2, 3, 5, 7, 8, 9])
    masked, gradient_C = _of_rows(loss, EVERY_ROW, weights_C)
    left_out, left_out_gradient_C = _of_rows(loss, rows)
    torch.testing.assert_close(masked, left_out, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient_C[rows], left_out_gradient_C, rtol=1e-12, atol=1e-12)
    assert torch.equal(gradient_C[absent], torch.zeros(3, dtype=torch.float64))


def _row_of_weight_two_is_the_row_twice(loss: LossFunction, row: int) -> bool:
    once_C = WEIGHTS_C.index_fill(0, torch.tensor(row), 1.0)
    twice_C = WEIGHTS_C.index_fill(0, torch.tensor(row), 2.0)
    repeated, repeated_gradient_C = _of_rows(
        loss, torch.sort(torch.cat([EVERY_ROW, torch.tensor([row])])).values, once_C
    )
    weighted, weighted_gradient_C = _of_rows(loss, EVERY_ROW, twice_C)
    both = repeated_gradient_C[row] + repeated_gradient_C[row + 1]
    return bool((weighted - repeated).abs() < 1e-12 and (weighted_gradient_C[row] - both).abs() < 1e-12)


def _only_the_mean_weight_counts(loss: LossFunction) -> bool:
    total_R = torch.zeros(4, dtype=torch.float64).index_add(0, REQUEST_C, WEIGHTS_C)
    mean_C = (total_R / torch.bincount(REQUEST_C))[REQUEST_C]
    own, own_gradient_C = _of_rows(loss, EVERY_ROW)
    spread, spread_gradient_C = _of_rows(loss, EVERY_ROW, mean_C)
    return bool((own - spread).abs() < 1e-12 and ((own_gradient_C - spread_gradient_C).abs() < 1e-12).all())


def test_weights_within_a_request_count_rows_or_in_their_mean(loss: LossFunction) -> None:
    counts_rows = [_row_of_weight_two_is_the_row_twice(loss, row) for row in (0, 2, 3, 5, 9)]
    assert all(counts_rows) != _only_the_mean_weight_counts(loss)


def test_a_request_of_doubled_weights_is_the_request_twice(loss: LossFunction) -> None:
    doubled = (REQUEST_C == 0) | (REQUEST_C == 3)
    again = torch.cat([EVERY_ROW[:4], EVERY_ROW, EVERY_ROW[7:]])
    request_C = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 3, 4, 4, 4, 5, 5, 5])
    twice, _ = _value_and_gradient(loss, LOGITS_C[again], LABELS_C[again], request_C, WEIGHTS_C[again])
    weighted, _ = _of_rows(loss, EVERY_ROW, torch.where(doubled, 2.0, 1.0) * WEIGHTS_C)
    torch.testing.assert_close(weighted, twice, rtol=1e-12, atol=1e-12)


def test_doubling_every_weight_doubles_the_sum(loss: LossFunction) -> None:
    once, _ = _of_rows(loss, EVERY_ROW)
    twice, _ = _of_rows(loss, EVERY_ROW, 2 * WEIGHTS_C)
    torch.testing.assert_close(twice, 2 * once, rtol=1e-12, atol=1e-12)


def test_two_shards_add_up(loss: LossFunction) -> None:
    whole, _ = _of_rows(loss, EVERY_ROW)
    first, _ = _of_rows(loss, EVERY_ROW[:6])
    second, _ = _of_rows(loss, EVERY_ROW[6:])
    torch.testing.assert_close(first + second, whole, rtol=1e-12, atol=1e-12)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
@pytest.mark.parametrize("name", LOSSES)
def test_any_two_shards_of_any_lists_add_up(name: str, data: st.DataObject) -> None:
    member = LOSSES[name]
    loss: LossFunction = member() if inspect.isclass(member) else member  # type: ignore[assignment]
    lengths_R = torch.tensor(data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=6)))
    num = int(lengths_R.sum())
    request_C = torch.arange(len(lengths_R)).repeat_interleave(lengths_R)
    column = st.integers(0, 2).map(float)
    labels_C, weights_C, logits_C = (
        torch.tensor(data.draw(st.lists(column, min_size=num, max_size=num)), dtype=torch.float64) for _ in range(3)
    )  # few values, so that there are ties and absent rows
    labels_C = labels_C / 2
    cut = int(lengths_R[: data.draw(st.integers(0, len(lengths_R)))].sum())

    def of(rows: slice) -> tuple[Tensor, Tensor]:
        return _value_and_gradient(loss, logits_C[rows] - 1, labels_C[rows], request_C[rows], weights_C[rows])

    whole, gradient_C = of(slice(None))
    (first, first_C), (second, second_C) = of(slice(0, cut)), of(slice(cut, None))
    assert whole.isfinite()
    assert whole > -1e-12
    torch.testing.assert_close(first + second, whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(torch.cat([first_C, second_C]), gradient_C, rtol=1e-12, atol=1e-12)


def test_each_list_stands_alone(loss: LossFunction) -> None:
    _, before_C = _of_rows(loss, EVERY_ROW)
    moved_C = torch.where(REQUEST_C == 0, LOGITS_C.flip(0) * 3, LOGITS_C)
    _, after_C = _value_and_gradient(loss, moved_C, LABELS_C, REQUEST_C, WEIGHTS_C)
    assert torch.equal(after_C[REQUEST_C != 0], before_C[REQUEST_C != 0])
    alone = sum(_of_rows(loss, torch.nonzero(request == REQUEST_C).squeeze(1))[0] for request in range(4))
    whole, _ = _of_rows(loss, EVERY_ROW)
    torch.testing.assert_close(whole, alone, rtol=1e-12, atol=1e-12)


def test_gradient_is_the_derivative(loss: LossFunction) -> None:
    def of_logits(logits_C: Tensor) -> Tensor:
        return loss(logits_C, LABELS_C, request_C=REQUEST_C, weights_C=WEIGHTS_C)

    assert torch.autograd.gradcheck(of_logits, LOGITS_C.clone().requires_grad_())


def test_an_unobserved_label_is_ignored(loss: LossFunction) -> None:
    unobserved = torch.tensor([1, 6])
    weights_C = WEIGHTS_C.index_fill(0, unobserved, 0.0)
    expected, expected_gradient_C = _value_and_gradient(loss, LOGITS_C, LABELS_C, REQUEST_C, weights_C)
    labels_C = LABELS_C.index_fill(0, unobserved, float("nan"))
    value, gradient_C = _value_and_gradient(loss, LOGITS_C, labels_C, REQUEST_C, weights_C)
    assert value == expected
    assert torch.equal(gradient_C, expected_gradient_C)
    assert torch.equal(gradient_C[unobserved], torch.zeros(2, dtype=torch.float64))


def test_a_label_that_counts_and_is_nan_is_seen(loss: LossFunction) -> None:
    labels_C = LABELS_C.index_fill(0, torch.tensor(2), float("nan"))
    value = loss(LOGITS_C, labels_C, request_C=REQUEST_C, weights_C=WEIGHTS_C)
    assert value.isnan()


def test_arguments_are_left_as_they_were(loss: LossFunction) -> None:
    arguments = [LOGITS_C.clone(), LABELS_C.clone(), REQUEST_C.clone(), WEIGHTS_C.clone()]
    loss(arguments[0], arguments[1], request_C=arguments[2], weights_C=arguments[3])
    for argument, original in zip(arguments, (LOGITS_C, LABELS_C, REQUEST_C, WEIGHTS_C), strict=True):
        assert torch.equal(argument, original)
