"""Panes against plain counting, and what happens to rows that are not as they should be."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from rankwell.errors import MonitoringError
from rankwell.monitoring.flat_rows import FlatRows
from rankwell.monitoring.pane import MINUTE_US, Pane
from rankwell.monitoring.pane_layout import (
    ALL_ROWS,
    MISSING,
    NEVER_SEEN,
    OTHER,
    CategoricalBins,
    NumericBins,
    PaneLayout,
)

LAYOUT = PaneLayout(
    columns=(
        NumericBins(name="years", edges=(-1.0, 0.0, 0.5, 1.0, 2.0, 4.0), origin=0.5),
        NumericBins(name="logit", edges=(-0.25,)),
        CategoricalBins(name="city", top=(9, 2), known=(1, 7)),
    ),
    segments=CategoricalBins(name="country", top=(3, 1), known=(5,)),
)


def drawn_rows(seed: int, num: int = 4000, first_minute: int = 100) -> FlatRows:
    """Out of order, over seven minutes, with values that are missing, infinite, on edges, or new."""
    rng = np.random.default_rng(seed)
    years_C = np.where(rng.random(num) < 0.3, rng.integers(-2, 6, num) / 2, rng.normal(0.5, 2, num)).astype(np.float32)
    years_C[rng.random(num) < 0.05] = np.nan
    years_C[rng.random(num) < 0.02] = np.inf
    years_C[rng.random(num) < 0.02] = -np.inf
    columns = {
        "years": years_C,
        "logit": rng.normal(-1, 1, num),
        "city": rng.choice([9, 2, 1, 7, 1000, -1], num),
        "country": rng.choice([3, 1, 5, 77, -1], num),
    }
    return FlatRows(rng.integers(first_minute * MINUTE_US, (first_minute + 7) * MINUTE_US, num), columns)


def at(rows: FlatRows, places: NDArray[np.generic]) -> FlatRows:
    return FlatRows(rows.times_us_C[places], {name: column_C[places] for name, column_C in rows.columns.items()})


def same(one: Pane, other: Pane) -> None:
    np.testing.assert_array_equal(one.minutes_N, other.minutes_N)
    np.testing.assert_array_equal(one.segments_N, other.segments_N)
    for name, counts in one.counts.items():
        np.testing.assert_array_equal(counts, other.counts[name])
    for name, sums in one.sums.items():
        np.testing.assert_allclose(sums, other.sums[name], rtol=1e-12, atol=1e-9)


def plain_bin(edges: tuple[float, ...], value: float) -> int:
    if not np.isfinite(value):
        return len(edges) + 1
    return sum(value >= edge for edge in edges)


def test_each_cell_is_what_plain_counting_gives() -> None:
    rows = drawn_rows(0)
    pane = Pane.of(LAYOUT, rows)
    segment_of = {3: 3, 1: 1, 5: OTHER, 77: NEVER_SEEN, -1: MISSING}
    seen = 0
    for cell, (minute, segment) in enumerate(zip(pane.minutes_N, pane.segments_N, strict=True)):
        mine = [
            row
            for row in range(len(rows))
            if rows.times_us_C[row] // MINUTE_US == minute and segment_of[int(rows.columns["country"][row])] == segment
        ]
        seen += len(mine)
        for column in LAYOUT.columns[:2]:
            values = [float(rows.columns[column.name][row]) for row in mine]
            expected = np.bincount([plain_bin(column.edges, value) for value in values], minlength=column.num_bins)
            assert pane.counts[column.name][cell].tolist() == expected.tolist()
            finite = np.array([value for value in values if np.isfinite(value)])
            expected_sums = [(finite - column.origin).sum(), ((finite - column.origin) ** 2).sum()]
            np.testing.assert_allclose(pane.sums[column.name][cell], expected_sums, rtol=1e-12, atol=1e-9)
        bin_of = {9: 0, 2: 1, 1: 2, 7: 2, 1000: 3, -1: 4}
        expected = np.bincount([bin_of[int(rows.columns["city"][row])] for row in mine], minlength=5)
        assert pane.counts["city"][cell].tolist() == expected.tolist()
    assert seen == len(rows)
    assert len(pane) == 7 * 5


@pytest.mark.parametrize("num_edges", [1, 2, 3, 4, 5, 8, 15, 19])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_any_number_of_edges_and_blocks(num_edges: int, dtype: type[np.floating]) -> None:
    rng = np.random.default_rng(num_edges)
    values_C = rng.normal(size=5001).astype(dtype)
    bins = NumericBins.of_values("x", values_C, num_bins=num_edges + 1)
    values_C[:3] = [np.float32(bins.edges[0]), np.inf, -np.inf]
    pane = Pane.of(PaneLayout(columns=(bins,)), FlatRows(np.zeros(5001, np.int64), {"x": values_C}))
    expected = np.bincount([plain_bin(bins.edges, float(value)) for value in values_C], minlength=bins.num_bins)
    assert pane.column("x").counts_B.tolist() == expected.tolist()


def test_two_halves_are_the_whole_and_machines_add_up_in_any_order() -> None:
    rows = drawn_rows(1)
    whole = Pane.of(LAYOUT, rows)
    first, second = at(rows, np.arange(2000)), at(rows, np.arange(2000, 4000))
    same(Pane.of(LAYOUT, first) + Pane.of(LAYOUT, second), whole)
    machines = [Pane.of(LAYOUT, at(rows, np.arange(start, 4000, 3))) for start in range(3)]
    same(machines[2] + (machines[0] + machines[1]), whole)
    same(whole + Pane.nothing(LAYOUT), whole)
    same(Pane.nothing(LAYOUT) + whole, whole)


def test_the_order_of_rows_is_nothing() -> None:
    rows = drawn_rows(2)
    shuffled = at(rows, np.random.default_rng(0).permutation(len(rows)))
    same(Pane.of(LAYOUT, shuffled), Pane.of(LAYOUT, rows))


def test_windows_are_sums_of_minutes() -> None:
    rows = drawn_rows(3)
    pane = Pane.of(LAYOUT, rows)
    until_us = 103 * MINUTE_US
    same(pane.between(0, until_us), Pane.of(LAYOUT, rows.kept(rows.times_us_C < until_us)))
    same(pane.between(0, until_us) + pane.between(until_us, 2**62 // MINUTE_US * MINUTE_US), pane)
    with pytest.raises(MonitoringError, match="whole minutes"):
        pane.between(1, MINUTE_US)


def test_old_minutes_summed_up_are_rows_of_longer_spans() -> None:
    rows = drawn_rows(4)
    pane, quarter_us = Pane.of(LAYOUT, rows), 15 * MINUTE_US
    before_us = 7 * quarter_us
    coarse = pane.coarsened(before_us, quarter_us)
    times_us_C = rows.times_us_C
    rounded_C = np.where(times_us_C < before_us, times_us_C // quarter_us * quarter_us, times_us_C)
    same(coarse, Pane.of(LAYOUT, FlatRows(rounded_C, rows.columns)))
    assert len(coarse) < len(pane)
    assert coarse.coarsened(before_us, quarter_us) is coarse
    same(pane.coarsened(0, quarter_us), pane)
    for before, every in ((MINUTE_US, quarter_us), (0, 0), (0, 7)):
        with pytest.raises(MonitoringError, match="summed up"):
            pane.coarsened(before, every)


def test_mean_and_variance_are_those_of_the_values_far_from_zero_too() -> None:
    values_C = 1e6 + np.random.default_rng(0).normal(0, 0.5, 10_000)
    bins = NumericBins.of_values("x", values_C[:100])
    rows = FlatRows(np.arange(10_000) * 1_000_000, {"x": values_C})
    column = Pane.of(PaneLayout(columns=(bins,)), rows).column("x")
    assert column.mean == pytest.approx(values_C.mean(), rel=1e-12)
    assert column.variance == pytest.approx(values_C.var(), rel=1e-9)


def test_a_clock_that_jumps_makes_cells_of_its_own_and_spoils_no_other() -> None:
    rows = drawn_rows(4)
    jumped_us_C = rows.times_us_C.copy()
    jumped_us_C[::10] += 400 * 24 * 60 * MINUTE_US
    jumped_us_C[5::10] = -7  # before 1970: the minute −1
    pane = Pane.of(LAYOUT, FlatRows(jumped_us_C, rows.columns))
    is_right_C = jumped_us_C == rows.times_us_C
    same(pane.between(100 * MINUTE_US, 107 * MINUTE_US), Pane.of(LAYOUT, rows.kept(is_right_C)))
    assert -1 in pane.minutes_N
    assert pane.column("years").num_rows == len(rows)


def test_no_rows() -> None:
    nothing = Pane.of(LAYOUT, drawn_rows(0, num=0))
    same(nothing, Pane.nothing(LAYOUT))
    same(nothing + nothing, nothing)
    column = nothing.column("years")
    assert column.num_rows == 0
    assert np.isnan([column.mean, column.variance, column.missing_rate]).all()
    assert nothing.segments == ()


def test_a_feature_that_is_nan_all_over() -> None:
    rows = drawn_rows(5)
    gone = FlatRows(rows.times_us_C, {**rows.columns, "years": np.full(len(rows), np.nan)})
    column = Pane.of(LAYOUT, gone).column("years")
    assert column.counts_B.tolist() == [0] * 7 + [len(rows)]
    assert column.missing_rate == 1.0
    assert np.isnan(column.mean)
    assert Pane.of(LAYOUT, gone).column("logit").num_values == len(rows)


def test_a_segment_that_appears_and_one_that_vanishes() -> None:
    rows = drawn_rows(6)
    countries_C = rows.columns["country"].copy()
    countries_C[(countries_C == 1) | (countries_C == 77)] = 4242
    pane = Pane.of(LAYOUT, FlatRows(rows.times_us_C, {**rows.columns, "country": countries_C}))
    assert pane.segments == (NEVER_SEEN, OTHER, MISSING, 3)
    assert pane.column("years", segment=1).num_rows == 0  # vanished: counted, as nothing
    assert pane.column("years", segment=NEVER_SEEN).num_rows == int((countries_C == 4242).sum())
    by_segment = [pane.column("city", segment=segment) for segment in pane.segments]
    total_B = sum(column.counts_B for column in by_segment)
    np.testing.assert_array_equal(total_B, pane.column("city").counts_B)


def test_a_layout_without_segments_has_one() -> None:
    layout = PaneLayout(columns=LAYOUT.columns)
    assert Pane.of(layout, drawn_rows(7)).segments == (ALL_ROWS,)


def test_panes_and_counts_of_other_layouts_do_not_add_up() -> None:
    other = PaneLayout(columns=LAYOUT.columns)
    with pytest.raises(MonitoringError, match="layouts"):
        Pane.nothing(LAYOUT) + Pane.nothing(other)
    pane = Pane.of(LAYOUT, drawn_rows(8))
    with pytest.raises(MonitoringError, match="bins"):
        pane.column("years") + pane.column("logit")
    assert (pane.column("years") + pane.column("years")).num_rows == 8000


def test_what_cannot_be_counted_is_refused() -> None:
    rows = drawn_rows(9)
    with pytest.raises(MonitoringError, match="'logit' is not among"):
        Pane.of(LAYOUT, FlatRows(rows.times_us_C, {n: c for n, c in rows.columns.items() if n != "logit"}))
    with pytest.raises(MonitoringError, match="'city' holds no ids"):
        Pane.of(LAYOUT, FlatRows(rows.times_us_C, {**rows.columns, "city": np.full(len(rows), 0.5)}))
    with pytest.raises(MonitoringError, match="not as long"):
        FlatRows(rows.times_us_C, {"years": np.zeros(3)})
    with pytest.raises(MonitoringError, match="not counted"):
        Pane.nothing(LAYOUT).column("age")
