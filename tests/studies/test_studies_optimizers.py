"""The learner is right where there is a plain reference; the studies find what is known to be so."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from rankwell.app.study_page import render_study
from rankwell.errors import LogError
from rankwell.studies.contenders import best_rate
from rankwell.studies.frappe_rules import study_frappe_rules
from rankwell.studies.optimizers import study_optimizers
from rankwell.studies.row_learner import RowLearner, learn, losses
from rankwell.studies.study import StudyResult
from rankwell.studies.zipf_log import ZipfSettings, draw_zipf_log
from rankwell.tables.sgd import Sgd


def test_the_learner_descends_the_mean_log_loss() -> None:
    log = draw_zipf_log(ZipfSettings(num_rows=60, num_ids=7, scales=(1.0, 0.5), dense_scales=(1.0, 2.0)), seed=0)
    learned = learn(log, RowLearner(2, 2, Sgd(learning_rate=0.5), Sgd(learning_rate=0.2)), batch=16)
    rows = torch.zeros(7, 2, requires_grad=True)
    dense = torch.zeros(3, requires_grad=True)
    told = []
    for start in range(0, 60, 16):
        of = slice(start, start + 16)
        ids, columns, features, labels = map(
            torch.from_numpy, (log.id_N[of], log.columns_NW[of], log.dense_ND[of], log.labels_N[of])
        )
        logits = (rows[ids] * columns).sum(1) + features @ dense[:2] + dense[2]
        told.append(torch.sigmoid(logits.detach()))
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
        grads = torch.autograd.grad(loss, (rows, dense))
        with torch.no_grad():
            rows -= 0.5 * grads[0]
            dense -= 0.2 * grads[1]
    np.testing.assert_allclose(learned.learner.id_rows(7), rows.detach(), atol=1e-6)
    np.testing.assert_allclose(learned.learner.dense_weights(), dense.detach()[:2], atol=1e-6)
    np.testing.assert_allclose(learned.progressive_N, torch.cat(told), atol=1e-6)


def test_losses_are_nats() -> None:
    log = draw_zipf_log(ZipfSettings(num_rows=4, num_ids=2), seed=0)
    assert losses(np.full(4, 0.5), log).tolist() == pytest.approx([math.log(2)] * 4)


def test_the_best_rate_is_found_beyond_where_learning_diverges() -> None:
    assert best_rate(lambda rate: math.inf if rate > 0.3 else (rate - 0.1) ** 2, start=1.6) == pytest.approx(0.1)
    assert best_rate(lambda rate: abs(math.log(rate / 8)), start=1.0) == 8


@pytest.fixture(name="small", scope="module")
def _small() -> StudyResult:
    return study_optimizers(seeds=(0, 1), num_rows=5_000, num_ids=600)


def test_the_optimizers_study_finds_what_is_known(small: StudyResult) -> None:
    numbers = small.numbers
    assert numbers["ghosts/catch_up_furthest_from_dense"] < 1e-4  # Adam with catch-up is dense Adam
    assert numbers["ghosts/ghosts_a_step/last"] > numbers["ghosts/lent_a_step"]
    assert numbers["ghosts/row-wise AdaGrad/bytes"] < numbers["ghosts/LazyAdam/bytes"]
    assert numbers["row-wise/bytes_a_row/16/row_wise"] == 68
    assert numbers["row-wise/bytes_a_row/16/full"] == 128
    rare, frequent = (numbers[f"convergence/row-wise AdaGrad/error/{band}"] for band in ("1–3", "64–255"))
    assert frequent < rare < 1.1
    after, before = (numbers[f"moving-goals/switch/AdaGrad/{half}_half"] for half in ("second", "first"))
    still = numbers["moving-goals/still/AdaGrad/second_half"]
    assert after > before > still > 0


def test_a_study_is_a_page_with_its_charts(small: StudyResult) -> None:
    page = render_study(small)
    for chart in small.charts:
        assert f'data-figure="{chart.name}"' in page
        assert chart.title in page
    assert page.count("<table>") == len(small.tables)
    assert all(math.isfinite(value) for value in small.numbers.values() if not math.isnan(value))


def test_the_frappe_study_reads_logs_of_its_shape(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0)
    fields = ("user", "item", "daytime", "weekday", "isweekend", "homework", "cost", "weather", "country", "city")
    for name, num_rows in (("train_reconstructed", 3_000), ("valid", 1_000)):
        columns = {field: numbers.integers(f * 10, f * 10 + 10, num_rows) for f, field in enumerate(fields)}
        columns["label"] = (columns["item"] % 2 == 0).astype(np.int64)  # the item says it all
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
    result = study_frappe_rules(tmp_path, seeds=(0, 1))
    assert result.numbers["row-wise AdaGrad/auc"] > 0.95
    with pytest.raises(LogError, match="Frappe"):
        study_frappe_rules(tmp_path / "nowhere", seeds=(0, 1))
