"""The log is what it says: its truth gives its labels, its shares are Zipf's, its drift is where it should be."""

from __future__ import annotations

import numpy as np
import pytest

from rankwell.errors import RecipeError
from rankwell.studies.zipf_log import Drift, ZipfSettings, draw_zipf_log


def test_labels_come_from_the_true_probabilities() -> None:
    log = draw_zipf_log(ZipfSettings(num_rows=100_000, num_ids=50, dense_scales=(0.1, 3.0)), seed=3)
    logits_N = (log.effects_IW[log.id_N] * log.columns_NW).sum(1) + log.dense_ND @ log.dense_effects_D - 1
    np.testing.assert_allclose(log.true_N, 1 / (1 + np.exp(-logits_N)), atol=1e-5)
    for low, high in ((0.0, 0.2), (0.2, 0.5), (0.5, 1.0)):
        of = (log.true_N >= low) & (log.true_N < high)
        error = abs(log.labels_N[of].mean() - log.true_N[of].mean())
        assert error < 4 / np.sqrt(of.sum())


def test_ids_are_seen_as_zipf_says() -> None:
    log = draw_zipf_log(ZipfSettings(num_rows=200_000, num_ids=100, exponent=1.0), seed=0)
    seen_I = np.bincount(log.id_N, minlength=100)
    assert seen_I[0] / seen_I[9] == pytest.approx(10, rel=0.1)
    assert seen_I.min() > 0


def test_fresh_rows_share_the_truth_and_nothing_else() -> None:
    settings = ZipfSettings(num_rows=100, num_ids=10, dense_scales=(1.0,))
    one, other = draw_zipf_log(settings, seed=1), draw_zipf_log(settings, seed=1, fresh=1)
    np.testing.assert_array_equal(one.effects_IW, other.effects_IW)
    np.testing.assert_array_equal(one.dense_effects_D, other.dense_effects_D)
    assert not np.array_equal(one.id_N, other.id_N)
    assert not np.array_equal(one.dense_ND, other.dense_ND)
    assert not np.array_equal(one.effects_IW, draw_zipf_log(settings, seed=2).effects_IW)


@pytest.mark.parametrize("drift", ["switch", "walk"])
def test_effects_of_the_end_do_not_explain_the_beginning(drift: Drift) -> None:
    log = draw_zipf_log(ZipfSettings(num_rows=20_000, num_ids=20, drift=drift), seed=0)
    by_end_N = 1 / (1 + np.exp(1 - (log.effects_IW[log.id_N] * log.columns_NW).sum(1)))
    gap_N = np.abs(by_end_N - log.true_N)
    assert gap_N[:2_000].mean() > 0.15
    assert gap_N[-300:].max() < 1e-5
    if drift == "switch":
        assert gap_N[10_000:].max() < 1e-5
    else:
        assert gap_N[10_000:12_000].mean() > gap_N[17_000:19_000].mean() > 0


def test_silent_ids_have_no_effect() -> None:
    effects_IW = draw_zipf_log(ZipfSettings(num_rows=10, num_ids=5_000, zero_rate=0.7), seed=0).effects_IW
    assert (effects_IW == 0).all(1).mean() == pytest.approx(0.7, abs=0.03)


def test_a_log_without_rows_is_refused() -> None:
    with pytest.raises(RecipeError, match="rows"):
        ZipfSettings(num_rows=0)
    with pytest.raises(RecipeError, match="zero_rate"):
        ZipfSettings(zero_rate=1.0)
