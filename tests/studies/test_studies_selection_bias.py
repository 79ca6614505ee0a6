"""The verdict on selection from made outcomes; labels of what was offered; and, slowly, that a small study runs."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rankwell.app.study_page import render_study
from rankwell.studies.selection_bias import _label_what_was_shown, study_selection_bias
from rankwell.studies.selection_bias_result import BLIND, TOLD, UNIFORM_TOLD, Found, Outcome, result_of
from rankwell.studies.study import StudyResult

STEP_S = np.arange(8)


def outcome(log_loss: float, tilt: float = 0.0) -> Outcome:
    return Outcome(log_loss, predicted_S=100 * np.exp(tilt * STEP_S), true_S=np.full(8, 100.0))


def found(naive: float, ipw: float, robust: float, *, audited: bool = False) -> Found:
    outcomes = {"uniform": outcome(0.3), "naive": outcome(naive, -0.05), "IPW": outcome(ipw), "DR": outcome(robust)}
    if audited:
        outcomes |= {TOLD: outcome(0.27), UNIFORM_TOLD: outcome(0.26), BLIND: outcome(0.305, -0.01)}
    return Found(outcomes, num_rows=1_000, effective_rows=400)


@pytest.fixture(name="made", scope="module")
def _made() -> StudyResult:
    latent = [found(0.310, 0.304, 0.306, audited=True), found(0.3102, 0.304, 0.3062, audited=True)]
    own = [found(0.3011, 0.3021, 0.3011), found(0.3009, 0.3019, 0.3010)]
    return result_of(latent, own, clip=30.0)


def test_the_cost_of_selection_and_what_is_closed(made: StudyResult) -> None:
    numbers = made.numbers
    assert numbers["latent/naive/over_uniform/mean"] == pytest.approx(0.0101)
    assert numbers["latent/IPW/closed"] == pytest.approx(1 - 0.004 / 0.0101)
    assert numbers["latent/DR/closed"] == pytest.approx(1 - 0.0061 / 0.0101)
    assert numbers["latent/naive, told the score/over_uniform/mean"] == pytest.approx(0.01)
    assert numbers["own features/IPW/saved/mean"] == pytest.approx(-0.001)
    assert numbers["latent/effective_share"] == 0.4
    assert "own features/IPW/closed" not in numbers  # of a cost that is not sure there are no shares
    first, second, *_, last = made.finding.splitlines()
    assert "(sought: 0.005): reached. IPW closes 60% and DR closes 40% of it" in first
    assert first.endswith("(sought: 50% by one of them): reached.")
    assert "IPW saves -0.0010 [-0.0010, -0.0010], which harms" in second
    assert second.endswith("nothing that is sure.")
    assert last == "Weights up to 30 leave 1,000 rows the worth of 40% of them."


def test_what_retrieval_did_to_seniority_is_what_is_gone_without_it(made: StudyResult) -> None:
    assert made.numbers["latent/naive/tilt"] == pytest.approx(-0.05)
    assert made.numbers["latent/tilt from retrieval/mean"] == pytest.approx(-0.04)
    assert "is surely retrieval's" in made.finding


def test_a_tilt_counts_clicks_and_not_executives() -> None:
    ratio_S = np.where(STEP_S == 7, 20.0, np.exp(0.1 * STEP_S))
    assert Outcome(0.0, ratio_S, np.ones(8)).tilt == pytest.approx(0.1)
    without_S = np.where(STEP_S == 3, 0.0, 1.0)  # no job of this seniority
    assert Outcome(0.0, without_S * ratio_S, without_S).tilt == pytest.approx(0.1)
    odd_S = np.where(STEP_S == 0, 3.0, 1.0)
    rare, usual = (Outcome(0.0, true_S * odd_S, true_S).tilt for true_S in (np.where(STEP_S == 0, 1e-6, 1), np.ones(8)))
    assert rare == pytest.approx(0, abs=1e-5)
    assert usual < -0.1


def test_the_page_draws_both_panels(made: StudyResult) -> None:
    page = render_study(made)
    assert "With a latent in retrieval" in page
    assert "Own features alone" in page


def test_what_was_not_shown_has_no_label(tmp_path: Path) -> None:
    def log(folder: str, jobs: list[list[int]], clicks: list[list[int]], exposures: list[list[float]]) -> Path:
        table = pa.table(
            {
                "request_id": [5, 6], "job_id": jobs, "click": pa.array(clicks, pa.list_(pa.int8())),
                "retrieval_exposure": pa.array(exposures, pa.list_(pa.float32())),
            }
        )  # fmt: skip
        (tmp_path / folder).mkdir()
        pq.write_table(table, tmp_path / folder / "part.parquet")
        return tmp_path / folder

    offered = log("offered", [[1, 2, 3], [2, 9]], [[1, 1, 1], [1, 1]], [[1, 1, 1], [1, 1]])
    shown = log("shown", [[3, 1], [9]], [[0, 1], [1]], [[0.25, 0.5], [0.75]])
    _label_what_was_shown(offered, shown)
    labelled = pq.read_table(offered)
    assert labelled["job_id"].to_pylist() == [[1, 2, 3], [2, 9]]
    assert labelled["click"].to_pylist() == [[1, None, 0], [None, 1]]
    assert labelled["retrieval_exposure"].to_pylist() == [[0.5, 1.0, 0.25], [1.0, 0.75]]


@pytest.mark.slow
def test_a_small_study_finds_selection_and_mends_some_of_it() -> None:
    numbers = study_selection_bias(seeds=(0, 1), num_requests=4_000).numbers
    assert all(math.isfinite(value) for value in numbers.values())
    assert numbers["latent/naive/over_uniform/mean"] > 0.005
    assert numbers["latent/IPW/saved/mean"] > 0
    assert numbers["latent/naive/predicted_over_true"] > 1.2
