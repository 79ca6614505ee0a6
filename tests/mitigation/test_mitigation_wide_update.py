"""Letters: n rows · F id columns."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from rankwell.errors import MitigationError
from rankwell.mitigation.wide_update import FtrlUpdate, ProximalUpdate, WideRows, row_changes
from rankwell.schema import TableSpec
from rankwell.tables.ftrl import Ftrl
from rankwell.tables.table import Table


def rows_of(keys_nF: list[list[int]], labels: list[float], logits: list[float] | None = None) -> WideRows:
    num = len(labels)
    return WideRows(
        ("job", "city")[: len(keys_nF[0])], np.array(keys_nF), np.array(logits or [0.0] * num), np.array(labels),
        np.ones(num),
    )  # fmt: skip


@given(st.floats(-30, 30), st.sampled_from([0.0, 1.0]), st.floats(0.01, 0.5))
@settings(max_examples=50, derandomize=True, deadline=None)
def test_a_step_is_the_proximal_minimum(logit: float, label: float, step: float) -> None:
    changes = ProximalUpdate(step=step, largest_change=1.0).changes(rows_of([[4, 2]], [label], [logit]))

    def cost(moved: float) -> float:  # both weights move alike
        z = logit + 2 * moved
        return moved**2 / step + float(np.logaddexp(0, z)) - label * z

    best = minimize_scalar(cost, bounds=(-1, 1), method="bounded", options={"xatol": 1e-10}).x
    for table, key in (("job", 4), ("city", 2)):
        assert changes.get(table, {}).get(key, 0.0) == pytest.approx(best, abs=1e-6)


@given(
    st.lists(st.tuples(st.integers(-1, 3), st.sampled_from([0.0, 1.0]), st.floats(-50, 50)), min_size=1, max_size=60),
    st.floats(0.01, 5), st.floats(0.01, 1),
)  # fmt: skip
@settings(max_examples=50, derandomize=True, deadline=None)
def test_no_weight_leaves_the_trust_region(rows: list[tuple[int, float, float]], step: float, reach: float) -> None:
    keys, labels, logits = zip(*rows, strict=True)
    update = ProximalUpdate(step=step, largest_change=reach)
    changes = update.changes(rows_of([[key] for key in keys], list(labels), list(logits)))
    assert all(abs(change) <= reach for change in changes.get("job", {}).values())
    assert -1 not in changes.get("job", {})


def test_two_halves_are_the_whole() -> None:
    rng = np.random.default_rng(0)
    keys, labels = rng.integers(0, 5, (200, 2)).tolist(), (rng.random(200) < 0.3).astype(float).tolist()
    update = ProximalUpdate(step=0.1)
    first = update.changes(rows_of(keys[:90], labels[:90]))
    assert update.changes(rows_of(keys[90:], labels[90:]), first) == update.changes(rows_of(keys, labels))


def test_a_new_rate_of_one_id_is_learned_and_a_known_one_is_kept() -> None:
    rng = np.random.default_rng(1)
    key_n = rng.integers(0, 2, 4000)
    logits_n = np.full(4000, -2.0)
    labels_n = (rng.random(4000) < 1 / (1 + np.exp(-(logits_n + 0.8 * (key_n == 1))))).astype(float)
    changes = ProximalUpdate(step=0.02, largest_change=1.0).changes(
        rows_of(key_n[:, None].tolist(), labels_n.tolist(), logits_n.tolist())
    )
    assert changes["job"][1] == pytest.approx(0.8, abs=0.3)
    assert abs(changes["job"].get(0, 0.0)) < 0.3


def ftrl_table() -> Table:
    table = Table([TableSpec(name="job", num_ids=9)], width=1, seed=0, init_scale=0.0)
    table.train_with(Ftrl(learning_rate=0.5, beta=1.0))
    return table


def test_ftrl_goes_on_by_the_rule_of_the_source() -> None:
    found, predicted_n = FtrlUpdate(learning_rate=0.5, batch_size=1, largest_change=1.0).learned(
        ftrl_table(), rows_of([[4], [4]], [1.0, 1.0])
    )
    z = n = w = 0.0
    for k in range(2):
        assert predicted_n[k] == pytest.approx(w, abs=1e-6)
        g = 1 / (1 + math.exp(-w)) - 1
        z += g - (math.sqrt(n + g * g) - math.sqrt(n)) / 0.5 * w
        n += g * g
        w = -z / ((1 + math.sqrt(n)) / 0.5)
    assert found["job"][4] == pytest.approx(w, rel=1e-5)


def test_ftrl_is_held_at_the_bound_and_comes_back() -> None:
    update = FtrlUpdate(learning_rate=0.5, batch_size=1, largest_change=0.1)
    table = ftrl_table()
    assert update.learned(table, rows_of([[4]] * 30, [1.0] * 30))[0] == {"job": {4: 0.1}}
    back, _ = update.learned(ftrl_table(), rows_of([[4]] * 230, [1.0] * 30 + [0.0] * 200))
    assert back["job"][4] == -0.1


def test_other_rules_and_hashed_tables_are_refused() -> None:
    hashed = Table([TableSpec(name="job", num_rows=16)], width=1, seed=0, init_scale=0.0)
    with pytest.raises(MitigationError, match="no z and n"):
        FtrlUpdate().learned(hashed, rows_of([[4]], [1.0]))
    hashed.train_with(Ftrl())
    with pytest.raises(MitigationError, match="hashed"):
        FtrlUpdate().learned(hashed, rows_of([[4]], [1.0]))


def test_what_cannot_be_learned_from_is_refused() -> None:
    with pytest.raises(MitigationError):
        rows_of([[4]], [0.5])
    with pytest.raises(MitigationError):
        rows_of([[4]], [1.0], [math.nan])
    with pytest.raises(MitigationError):
        ProximalUpdate(largest_change=1.5)


def test_changes_of_actions_stand_side_by_side() -> None:
    assert row_changes("wide", [{"job": {4: 0.2}}, {"job": {3: 0.1}}]) == {
        "wide": {"job": {"3": (0.0, 0.1), "4": (0.2, 0.0)}}
    }
