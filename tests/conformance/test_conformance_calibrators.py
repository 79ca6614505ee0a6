"""Every fit and every calibrator keep the contract of `rankwell.calibration.calibrator.Calibrator`.

A new file is found with no edit here. What a calibrator claims to undo (its `corrects`) is what it is tested on.

Letters in names: C candidates, flat over the sample · S segment columns.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor

import rankwell.calibration
from rankwell.calibration.calibrator import Calibrator, Distortion
from rankwell.calibration.uncalibrated import Uncalibrated
from rankwell.errors import CalibrationError

Fit = Callable[[Tensor, Tensor, Tensor, Tensor], Calibrator]
NUM_SEGMENTS = 3


def _public_members() -> Iterator[tuple[str, object]]:
    for found in pkgutil.iter_modules(rankwell.calibration.__path__, "rankwell.calibration."):
        module = importlib.import_module(found.name)
        for name in module.__all__:
            yield name, getattr(module, name)


FITS: dict[str, Fit] = {name: member for name, member in _public_members() if name.startswith("fit_")}  # type: ignore[misc]
CALIBRATORS: dict[str, type[Calibrator]] = {
    name: member
    for name, member in _public_members()
    if inspect.isclass(member) and issubclass(member, Calibrator) and not inspect.isabstract(member)
}


@pytest.fixture(params=FITS, name="fit")
def _fit(request: pytest.FixtureRequest) -> Fit:
    return FITS[request.param]


def _kind(fit: Fit) -> type[Calibrator]:
    return inspect.get_annotations(fit, eval_str=True)["return"]


# Distortions: from the model's logits to the true log-odds.
_SEGMENT_OFFSETS = torch.tensor([-1.0, 0.0, 1.5], dtype=torch.float64)
TRUTHS: dict[Distortion, Callable[[Tensor, Tensor], Tensor]] = {
    "slope": lambda logits_C, segments_CS: 0.5 * logits_C,
    "offset": lambda logits_C, segments_CS: logits_C - 1.0,
    "shape": lambda logits_C, segments_CS: torch.where(logits_C < 0, 1.5 * logits_C, 0.4 * logits_C),
    "segment": lambda logits_C, segments_CS: logits_C + _SEGMENT_OFFSETS[segments_CS[:, 0]],
}


def _sample(num: int, seed: int, distortions: frozenset[Distortion]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits as a model gives them, labels drawn from the truth behind these distortions, weights 1, segments."""
    numbers = np.random.default_rng(seed)
    logits_C = torch.from_numpy(numbers.normal(0.0, 1.5, num).astype(np.float32))
    segments_CS = torch.from_numpy(numbers.integers(0, NUM_SEGMENTS, (num, 1)))
    true_C = logits_C.double()
    for distortion in get_args(Distortion):
        if distortion in distortions:
            true_C = TRUTHS[distortion](true_C, segments_CS)
    labels_C = torch.from_numpy(numbers.random(num)) < torch.sigmoid(true_C)
    return logits_C, labels_C.float(), torch.ones(num), segments_CS


def _calibration_error(probabilities_C: Tensor, labels_C: Tensor, segments_CS: Tensor) -> float:
    """Mean squared difference of rate and mean probability over 20 bins of equal mass in each segment, debiased.

    In a bin of n rows at rate y the squared difference of a calibrated forecast is y (1 - y) / n on average; that is
    taken off (Kumar et al. 2019, "Verified uncertainty calibration", §4), so that 0 is expected of the truth.
    """
    total, num = 0.0, len(labels_C)
    for segment in range(NUM_SEGMENTS):
        rows = torch.nonzero(segments_CS[:, 0] == segment).squeeze(1)
        for in_bin in rows[torch.argsort(probabilities_C[rows])].tensor_split(20):
            rate = labels_C[in_bin].double().mean().item()
            gap = rate - probabilities_C[in_bin].mean().item()
            total += len(in_bin) / num * (gap**2 - rate * (1 - rate) / (len(in_bin) - 1))
    return total


CALIBRATED = 0.01**2
NUM_FRESH = 2**17


def _fitted(fit: Fit, num: int = 2000, seed: int = 5) -> Calibrator:
    return fit(*_sample(num, seed, frozenset({"slope", "offset"})))


def _at(calibrator: Calibrator, logits_C: Tensor, segment: int = 0) -> Tensor:
    return calibrator(logits_C, torch.full((len(logits_C), 1), segment))


# The search itself.


def test_the_search_finds_fits_and_calibrators() -> None:
    assert {"fit_uncalibrated", "fit_temperature", "fit_platt", "fit_isotonic"} <= set(FITS)
    assert {_kind(fit) for fit in FITS.values()} == set(CALIBRATORS.values())


@pytest.mark.parametrize("name", FITS)
def test_signature_of_a_fit(name: str) -> None:
    assert list(inspect.signature(FITS[name]).parameters) == ["logits_C", "labels_C", "weights_C", "segments_CS"]


@pytest.mark.parametrize("kind", CALIBRATORS.values(), ids=CALIBRATORS)
def test_a_calibrator_is_final_and_declares_itself(kind: type[Calibrator]) -> None:
    assert getattr(kind, "__final__", False)
    assert kind.corrects <= set(get_args(Distortion))
    assert kind.corrects or kind is Uncalibrated, "only the baseline may claim to correct nothing"
    assert tuple(inspect.signature(kind).parameters) == kind.state_names


# On fresh data.


def test_every_distortion_has_a_truth() -> None:
    assert set(TRUTHS) == set(get_args(Distortion))


@pytest.mark.parametrize("distortion", get_args(Distortion))
def test_the_measure_sees_each_distortion(distortion: Distortion) -> None:
    logits_C, labels_C, _, segments_CS = _sample(NUM_FRESH, 11, frozenset({distortion}))
    assert _calibration_error(torch.sigmoid(logits_C.double()), labels_C, segments_CS) > 10 * CALIBRATED
    true_C = TRUTHS[distortion](logits_C.double(), segments_CS)
    assert abs(_calibration_error(torch.sigmoid(true_C), labels_C, segments_CS)) < CALIBRATED / 2


def test_calibrated_on_fresh_data(fit: Fit) -> None:
    distortions = _kind(fit).corrects
    calibrator = fit(*_sample(2**16, 1, distortions))
    logits_C, labels_C, _, segments_CS = _sample(NUM_FRESH, 2, distortions)
    assert _calibration_error(calibrator(logits_C, segments_CS), labels_C, segments_CS) < CALIBRATED


def test_what_is_calibrated_stays_calibrated(fit: Fit) -> None:
    calibrator = fit(*_sample(2**16, 3, frozenset()))
    logits_C, labels_C, _, segments_CS = _sample(NUM_FRESH, 4, frozenset())
    assert _calibration_error(calibrator(logits_C, segments_CS), labels_C, segments_CS) < CALIBRATED


# Probabilities.


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inside_the_open_interval_at_any_logit(fit: Fit, dtype: torch.dtype) -> None:
    logits_C = torch.tensor([-torch.inf, -1e6, -800.0, -40.0, 0.0, 40.0, 800.0, 1e6, torch.inf], dtype=dtype)
    probabilities_C = _at(_fitted(fit), logits_C)
    assert probabilities_C.dtype == torch.float64
    assert ((probabilities_C > 0.0) & (probabilities_C < 1.0)).all()
    assert (1.0 - probabilities_C > 0.0).all()


def test_a_nan_logit_has_no_probability(fit: Fit) -> None:
    probabilities_C = _at(_fitted(fit), torch.tensor([0.0, torch.nan, 1.0]))
    assert probabilities_C.isnan().tolist() == [False, True, False]


def test_no_candidates_no_probabilities(fit: Fit) -> None:
    assert _at(_fitted(fit), torch.zeros(0)).shape == (0,)


@pytest.mark.parametrize("segment", range(NUM_SEGMENTS))
@pytest.mark.parametrize("num", [3, 40, 2000])
def test_increasing_within_a_segment(fit: Fit, num: int, segment: int) -> None:
    logits_C = torch.cat([torch.linspace(-8, 8, 10_001), torch.tensor([-1e6, -100.0, 100.0, 1e6])]).sort().values
    probabilities_C = _at(_fitted(fit, num), logits_C, segment)
    assert (probabilities_C.diff() >= -1e-15).all()
    assert probabilities_C[-1] > probabilities_C[0]


def test_increasing_where_the_sample_says_the_opposite(fit: Fit) -> None:
    logits_C, labels_C, weights_C, segments_CS = _sample(2000, 7, frozenset())
    calibrator = fit(-logits_C, labels_C, weights_C, segments_CS)
    probabilities_C = _at(calibrator, torch.linspace(-5, 5, 101))
    assert (probabilities_C.diff() >= -1e-15).all()
    assert ((probabilities_C > 0.0) & (probabilities_C < 1.0)).all()


def test_calibrated_logits_are_the_log_odds(fit: Fit) -> None:
    calibrator, logits_C = _fitted(fit), torch.linspace(-9, 9, 301)
    segments_CS = torch.zeros(301, 1, dtype=torch.int64)
    log_odds_C = calibrator.calibrated_logits(logits_C, segments_CS)
    assert log_odds_C.dtype == torch.float64
    torch.testing.assert_close(log_odds_C, torch.logit(calibrator(logits_C, segments_CS)), rtol=1e-9, atol=1e-9)


def test_each_candidate_alone_as_among_others(fit: Fit) -> None:
    calibrator, logits_C = _fitted(fit), torch.linspace(-4, 4, 37)
    alone_C = torch.cat([_at(calibrator, logits_C[i : i + 1]) for i in range(37)])
    torch.testing.assert_close(_at(calibrator, logits_C), alone_C, rtol=1e-14, atol=0.0)


# Fitting.


def _equal(one: Calibrator, other: Calibrator, tolerance: float = 1e-9) -> None:
    for segment in range(NUM_SEGMENTS):
        grid_C = torch.cat([torch.linspace(-6, 6, 501, dtype=torch.float64), torch.tensor([-1e6, 1e6])])
        torch.testing.assert_close(_at(one, grid_C, segment), _at(other, grid_C, segment), rtol=0.0, atol=tolerance)


@pytest.mark.parametrize("num", [12, 500])
def test_weight_two_is_the_row_twice(fit: Fit, num: int) -> None:
    logits_C, labels_C, _, segments_CS = _sample(num, 8, frozenset({"slope"}))
    counts_C = torch.from_numpy(np.random.default_rng(9).integers(1, 4, num))
    weighted = fit(logits_C, labels_C, counts_C.float(), segments_CS)
    repeated = torch.repeat_interleave(torch.arange(num), counts_C)
    _equal(weighted, fit(logits_C[repeated], labels_C[repeated], torch.ones(len(repeated)), segments_CS[repeated]))


def test_weight_zero_is_no_row(fit: Fit) -> None:
    logits_C, labels_C, weights_C, segments_CS = _sample(500, 8, frozenset())
    present_C = torch.arange(500) % 3 > 0
    weights_C = weights_C * present_C
    labels_C = torch.where(present_C, labels_C, torch.nan)  # as unobserved ones are
    present = fit(logits_C[present_C], labels_C[present_C], weights_C[present_C], segments_CS[present_C])
    _equal(fit(logits_C, labels_C, weights_C, segments_CS), present, 0.0)


def test_order_means_nothing_and_the_same_sample_gives_the_same_bits(fit: Fit) -> None:
    logits_C, labels_C, weights_C, segments_CS = _sample(40_000, 8, frozenset({"offset"}))
    logits_C = (logits_C * 50).round() / 50  # ties
    first = fit(logits_C, labels_C, weights_C, segments_CS)
    again = fit(logits_C, labels_C, weights_C, segments_CS)
    assert all(torch.equal(again.state_dict()[name], state) for name, state in first.state_dict().items())
    rows = torch.from_numpy(np.random.default_rng(10).permutation(40_000))
    _equal(first, fit(logits_C[rows], labels_C[rows], weights_C[rows], segments_CS[rows]))


def test_precision_and_dtype_of_the_columns_mean_nothing(fit: Fit) -> None:
    logits_C, labels_C, weights_C, segments_CS = _sample(500, 8, frozenset())
    wide = fit(logits_C.double(), labels_C.to(torch.int8), weights_C.double(), segments_CS.int())
    _equal(fit(logits_C, labels_C.bool(), weights_C, segments_CS), wide, 0.0)


def test_arguments_are_left_as_they_were_and_no_gradient_stays(fit: Fit) -> None:
    arguments = _sample(100, 8, frozenset())
    before = [argument.clone() for argument in arguments]
    calibrator = fit(arguments[0].requires_grad_(), *arguments[1:])
    assert all(torch.equal(argument, copy) for argument, copy in zip(arguments, before, strict=True))
    assert not any(state.requires_grad for state in calibrator.state_dict().values())
    assert not list(calibrator.parameters())


@pytest.mark.parametrize("separated", [True, False])
def test_two_rows_are_enough(fit: Fit, separated: bool) -> None:
    labels_C = torch.tensor([0.0, 1.0]) if separated else torch.tensor([1.0, 0.0])
    calibrator = fit(torch.tensor([-1.0, 1.0]), labels_C, torch.ones(2), torch.zeros(2, 1, dtype=torch.int64))
    probabilities_C = _at(calibrator, torch.tensor([-1e6, -1.0, 0.0, 1.0, 1e6]))
    assert ((probabilities_C > 0.0) & (probabilities_C < 1.0)).all()
    assert (probabilities_C.diff() >= -1e-15).all()


@pytest.mark.parametrize("logit", [-1e4, 0.0, 3.0])
def test_one_logit_for_all_rows(fit: Fit, logit: float) -> None:
    labels_C = (torch.arange(8) < 2).float()
    calibrator = fit(torch.full((8,), logit), labels_C, torch.ones(8), torch.zeros(8, 1, dtype=torch.int64))
    probability = _at(calibrator, torch.tensor([logit])).item()
    assert 0.0 < probability < 1.0
    if "offset" in calibrator.corrects:
        assert probability == pytest.approx(2 / 8, rel=1e-6)


def test_extreme_logits_in_the_sample(fit: Fit) -> None:
    logits_C, labels_C, weights_C, segments_CS = _sample(300, 8, frozenset())
    logits_C[:2], labels_C[:2] = torch.tensor([-1e4, 1e4]), torch.tensor([1.0, 0.0])  # wrong, and loudly so
    probabilities_C = _at(fit(logits_C, labels_C, weights_C, segments_CS), torch.linspace(-2e4, 2e4, 41))
    assert ((probabilities_C > 0.0) & (probabilities_C < 1.0)).all()


# State.


def test_state_rebuilds_it_bit_for_bit(fit: Fit) -> None:
    calibrator = _fitted(fit)
    state = calibrator.state_dict()
    rebuilt = type(calibrator).from_state(state)
    assert type(rebuilt) is _kind(fit)
    assert set(rebuilt.state_dict()) == set(state) == set(calibrator.state_names)
    for name, buffer in rebuilt.state_dict().items():
        assert buffer.dtype == torch.float64
        assert torch.equal(buffer, state[name])
    logits_C = torch.linspace(-50, 50, 1001)
    assert torch.equal(_at(rebuilt, logits_C), _at(calibrator, logits_C))


def test_state_is_copied_not_shared(fit: Fit) -> None:
    calibrator = _fitted(fit)
    rebuilt = type(calibrator).from_state(calibrator.state_dict())
    for name, buffer in rebuilt.state_dict().items():
        assert buffer.data_ptr() != calibrator.state_dict()[name].data_ptr()


def test_a_state_with_another_name_is_refused(fit: Fit) -> None:
    calibrator = _fitted(fit)
    with pytest.raises(CalibrationError, match="stranger"):
        type(calibrator).from_state({**calibrator.state_dict(), "stranger": torch.zeros(())})
    for name in calibrator.state_names:
        state = {other: buffer for other, buffer in calibrator.state_dict().items() if other != name}
        with pytest.raises(CalibrationError, match=name):
            type(calibrator).from_state(state)


def test_a_state_of_nan_is_refused(fit: Fit) -> None:
    calibrator = _fitted(fit)
    for name, buffer in calibrator.state_dict().items():
        with pytest.raises(CalibrationError, match="nan"):
            type(calibrator).from_state({**calibrator.state_dict(), name: torch.full_like(buffer, torch.nan)})


# Samples that tell nothing.

GOOD = {
    "logits_C": torch.tensor([-1.0, 0.0, 1.0, 2.0]),
    "labels_C": torch.tensor([0.0, 1.0, 0.0, 1.0]),
    "weights_C": torch.tensor([1.0, 2.0, 1.0, 0.5]),
    "segments_CS": torch.zeros(4, 1, dtype=torch.int64),
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels_C": torch.zeros(4)}, "one class only; found: 4 rows with weight, 0 of them with label 1"),
        ({"labels_C": torch.ones(4)}, "one class only; found: 4 rows with weight, 4 of them with label 1"),
        ({"weights_C": torch.tensor([0.0, 1.0, 0.0, 1.0])}, "one class only; found: 2 rows with weight, 2 of them"),
        ({"weights_C": torch.zeros(4)}, "empty; found: 4 rows, none with weight above 0"),
        ({"weights_C": torch.tensor([1.0, 1.0, -0.5, 1.0])}, r"weights .* 1 of 4 rows; found: \[-0.5\]"),
        ({"weights_C": torch.tensor([1.0, torch.nan, 1.0, 1.0])}, r"weights .* found: \[nan\]"),
        ({"weights_C": torch.tensor([1.0, torch.inf, 1.0, 1.0])}, r"weights .* found: \[inf\]"),
        ({"logits_C": torch.tensor([torch.nan, 0.0, 1.0, torch.nan])}, r"logits .* 2 of 4 rows; found: \[nan, nan\]"),
        ({"logits_C": torch.tensor([-1.0, 0.0, 1.0, torch.inf])}, r"logits .* 1 of 4 rows; found: \[inf\]"),
        ({"labels_C": torch.tensor([0.0, 1.0, 0.5, 2.0])}, r"labels .* 2 of 4 rows; found: \[0.5, 2.0\]"),
        ({"labels_C": torch.tensor([0.0, 1.0, torch.nan, 1.0])}, r"labels .* found: \[nan\]"),
        ({"labels_C": torch.tensor([0.0, 1.0])}, r"differ in length; found: .*'labels_C': \(2,\)"),
        ({"weights_C": torch.ones(4, 1)}, r"differ in length; found: .*'weights_C': \(4, 1\)"),
        ({"segments_CS": torch.zeros(3, 1)}, r"differ in length; found: .*'segments_CS': \(3, 1\)"),
    ],
)
def test_refused(fit: Fit, change: dict[str, Tensor], message: str) -> None:
    assert isinstance(fit(**GOOD), Calibrator)
    with pytest.raises(CalibrationError, match=message) as caught:
        fit(**{**GOOD, **change})
    assert caught.value.allowed or "empty" in caught.value.what
    assert caught.value.do


def test_an_empty_sample_is_refused(fit: Fit) -> None:
    with pytest.raises(CalibrationError, match="empty; found: 0 rows"):
        fit(torch.zeros(0), torch.zeros(0), torch.zeros(0), torch.zeros(0, 1, dtype=torch.int64))
