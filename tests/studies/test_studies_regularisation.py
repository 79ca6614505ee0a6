"""Penalised fits are where calculus says; zeros grow with the penalty, and only where a penalty makes zeros."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rankwell.errors import LogError
from rankwell.studies.frappe_machine import FIELDS
from rankwell.studies.frappe_penalties import study_frappe_penalties
from rankwell.studies.regularisation import study_regularisation
from rankwell.studies.weight_space import penalised_weights


@pytest.mark.parametrize("strength", [0.0, 0.02, 0.1])
def test_penalised_weights_meet_the_first_order_conditions(strength: float) -> None:
    numbers = np.random.default_rng(0)
    x_ND = numbers.standard_normal((400, 2))
    y_N = (numbers.random(400) < 1 / (1 + np.exp(-x_ND @ np.array([1.0, 0.1])))).astype(float)
    for penalty in ("l1", "l2"):
        w_D = penalised_weights(x_ND, y_N, penalty, strength)
        slope_D = x_ND.T @ (1 / (1 + np.exp(-x_ND @ w_D)) - y_N) / 400
        for slope, w in zip(slope_D, w_D, strict=True):
            if penalty == "l2":
                assert slope + strength * w == pytest.approx(0, abs=1e-6)
            elif w == 0:
                assert abs(slope) <= strength + 1e-6
            else:
                assert slope + strength * np.sign(w) == pytest.approx(0, abs=1e-6)


def test_the_regularisation_study_finds_what_is_known() -> None:
    numbers = study_regularisation(seeds=(0,), num_rows=4_000, num_ids=400).numbers
    assert numbers["weight-space/l2/zeros_on_path"] == 0 < numbers["weight-space/l1/zeros_on_path"]
    ftrl = [numbers[f"sparsity/FTRL, L1 (rows of 1)/{s:g}/zero_rate"] for s in (0.0, 0.004, 0.02, 0.05)]
    assert ftrl[0] < 0.01
    assert ftrl == sorted(ftrl)
    assert ftrl[-1] > 0.5
    lasso = [numbers[f"sparsity/group lasso (rows of 4)/{s:g}/zero_rate"] for s in (0.0, 0.005)]
    assert lasso[0] <= lasso[1]
    assert numbers["sparsity/lazy decay (rows of 4)/0.04/zero_rate"] == 0


def test_penalties_on_a_log_of_frappes_shape(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0)
    for name, num_rows in (("train_reconstructed", 3_000), ("valid", 1_000)):
        columns = {field: numbers.integers(f * 10, f * 10 + 10, num_rows) for f, field in enumerate(FIELDS)}
        columns["label"] = (columns["item"] % 2 == 0).astype(np.int64)  # the item says it all
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
    result = study_frappe_penalties(tmp_path, seeds=(0, 1))
    of = result.numbers
    ftrl = [of[f"FTRL, L1 (rows of 1)/{strength:g}/zero_rate"] for strength in (0.0, 0.01, 0.1)]
    assert ftrl == sorted(ftrl)
    assert ftrl[0] < 0.1 < ftrl[2] <= 0.91  # items alone say anything
    assert of["FTRL, L1 (rows of 1)/0.01/auc"] > 0.95
    assert of["lazy decay (rows of 9)/0.03/zero_rate"] == 0
    assert set(of) >= {f"{name}/chosen" for name in ("group lasso (rows of 9)", "lazy decay (rows of 9)")}
    with pytest.raises(LogError, match="Frappe"):
        study_frappe_penalties(tmp_path / "nowhere", seeds=(0,))
