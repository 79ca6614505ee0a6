"""The correction of what is served: against the posterior that it is to learn, and on known truth."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from rankwell.calibration.isotonic import fit_isotonic
from rankwell.errors import CalibrationError, RecipeError
from rankwell.evaluation.served import best_of_each
from rankwell.ranking.winners_curse import WinnersCurseCorrection, fit_winners_curse
from rankwell.simulation.winners_curse import CursedRequests, CurseSettings, cursed_requests


def fitted(requests: CursedRequests) -> WinnersCurseCorrection:
    return fit_winners_curse(
        requests.logits_C, requests.labels_C, torch.ones(len(requests.logits_C)),
        uncertainty_C=requests.uncertainty_C, bids_C=requests.bids_C, request_C=requests.request_C,
    )  # fmt: skip


def corrected(correction: WinnersCurseCorrection, requests: CursedRequests) -> Tensor:
    return correction.corrected_logits(requests.logits_C, requests.uncertainty_C, requests.bids_C, requests.request_C)


def served_ratio(probabilities_C: Tensor, requests: CursedRequests, k: int) -> float:
    best = torch.from_numpy(best_of_each(probabilities_C * requests.bids_C, requests.request_C, k=k))
    return float(probabilities_C[best].sum() / requests.true_probabilities_C[best].sum())


def test_what_is_served_is_right_after_the_correction_and_not_after_isotonic() -> None:
    settings = CurseSettings(noise=0.3, fewest=20, most=200)
    sample, fresh = cursed_requests(settings, 2500, seed=1), cursed_requests(settings, 2500, seed=2)
    num = len(sample.logits_C)
    isotonic = fit_isotonic(sample.logits_C, sample.labels_C, torch.ones(num), torch.zeros(num, 0))
    plain_C = isotonic(fresh.logits_C, torch.zeros(len(fresh.logits_C), 0))
    right_C = torch.sigmoid(corrected(fitted(sample), fresh))
    assert float(plain_C.sum() / fresh.true_probabilities_C.sum()) == pytest.approx(1.0, abs=0.02)
    assert served_ratio(plain_C, fresh, k=5) > 1.08
    assert served_ratio(right_C, fresh, k=5) == pytest.approx(1.0, abs=0.03)


def test_it_learns_how_much_of_a_logit_is_to_be_believed() -> None:
    """Normal truth and error: the posterior mean has the slope s² / (s² + σ²), and nobody told it σ."""
    settings = CurseSettings(noise=1.0, fewest_sightings=100, most_sightings=100, bid_correlation=0.0, spread=1.0)
    sample = cursed_requests(settings, 3000, seed=3)
    z_C = torch.tensor([-4.0, -2.0])
    logits = fitted(sample).corrected_logits(z_C, sample.uncertainty_C[:2], torch.ones(2), torch.zeros(2))
    slope = float(logits.diff() / z_C.diff())
    assert slope == pytest.approx(0.5, abs=0.06)


def test_sure_logits_stay_as_they_are() -> None:
    sample = cursed_requests(CurseSettings(noise=0.0), 1500, seed=4)
    fresh = cursed_requests(CurseSettings(noise=0.0), 200, seed=5)
    gap_C = torch.sigmoid(corrected(fitted(sample), fresh)) - fresh.true_probabilities_C
    assert float(gap_C.abs().mean()) < 0.002


def test_weight_two_is_a_row_twice_and_weight_none_no_row() -> None:
    sample = cursed_requests(CurseSettings(fewest=5, most=20), 60, seed=6)
    num = len(sample.logits_C)
    fit = partial(
        fit_winners_curse, sample.logits_C, uncertainty_C=sample.uncertainty_C, bids_C=sample.bids_C,
        request_C=sample.request_C,
    )  # fmt: skip
    weights_C = torch.ones(num)
    weights_C[::3], weights_C[1::3] = 2, 0
    labels_C = sample.labels_C.clone()
    labels_C[1::3] = torch.nan  # absent
    weighted = fit(labels_C, weights_C)
    halved = fit(labels_C, weights_C / 2, prior_rows=50.0)
    np.testing.assert_allclose(weighted.weights_BP, halved.weights_BP, atol=1e-4)


def test_far_logits_and_unseen_uncertainties_stay_finite() -> None:
    correction = fitted(cursed_requests(CurseSettings(), 100, seed=7))
    logits = correction.corrected_logits(
        torch.tensor([1e4, -1e4, 0.0]), torch.tensor([1e-9, 1e9, 1.0]), torch.zeros(3), torch.zeros(3)
    )
    assert bool(logits.isfinite().all())
    empty = torch.zeros(0)
    assert len(correction.corrected_logits(empty, empty, empty, empty)) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits_C": torch.tensor([torch.inf, 0.0])}, "logits cannot be used: 1 of 2"),
        ({"uncertainty_C": torch.tensor([0.0, 1.0])}, "uncertainties cannot be used"),
        ({"bids_C": torch.tensor([-1.0, 1.0])}, "bids cannot be used"),
        ({"labels_C": torch.tensor([torch.nan, 1.0])}, "labels cannot be used"),
        ({"labels_C": torch.tensor([1.0, 1.0])}, "one class only"),
        ({"weights_C": torch.tensor([0.0, 0.0])}, "one class only, or no weight"),
        ({"weights_C": torch.tensor([-1.0, 1.0])}, "weights cannot be used"),
        ({"request_C": torch.zeros(3)}, "differ in length"),
    ],
)
def test_bad_input_is_refused(change: dict[str, Tensor], message: str) -> None:
    columns = {
        "logits_C": torch.zeros(2),
        "labels_C": torch.tensor([0.0, 1.0]),
        "weights_C": torch.ones(2),
        "uncertainty_C": torch.ones(2),
        "bids_C": torch.ones(2),
        "request_C": torch.zeros(2),
        **change,
    }
    with pytest.raises(CalibrationError, match=message):
        fit_winners_curse(
            columns["logits_C"], columns["labels_C"], columns["weights_C"], uncertainty_C=columns["uncertainty_C"],
            bids_C=columns["bids_C"], request_C=columns["request_C"],
        )  # fmt: skip


def test_impossible_settings_are_refused() -> None:
    for wrong in (
        partial(CurseSettings, noise=-1.0), partial(CurseSettings, bid_correlation=1.0),
        partial(CurseSettings, fewest=9, most=3), partial(CurseSettings, fewest_sightings=0),
    ):  # fmt: skip
        with pytest.raises(RecipeError):
            wrong()


def test_a_small_sample_does_not_do_worse_than_plain_isotonic() -> None:
    settings = CurseSettings(noise=0.3, fewest_sightings=3, most_sightings=30_000, fewest=50, most=50)
    errors: dict[str, list[float]] = {"isotonic": [], "corrected": []}
    for seed in range(4):
        sample, fresh = (cursed_requests(settings, 300, seed=10 * seed + i) for i in range(2))
        num = len(sample.logits_C)
        isotonic = fit_isotonic(sample.logits_C, sample.labels_C, torch.ones(num), torch.zeros(num, 0))
        plain_C = isotonic(fresh.logits_C, torch.zeros(num, 0))
        errors["isotonic"].append(abs(served_ratio(plain_C, fresh, k=5) - 1))
        errors["corrected"].append(abs(served_ratio(torch.sigmoid(corrected(fitted(sample), fresh)), fresh, k=5) - 1))
    assert np.mean(errors["corrected"]) < np.mean(errors["isotonic"])
    assert max(errors["corrected"]) < 0.2
