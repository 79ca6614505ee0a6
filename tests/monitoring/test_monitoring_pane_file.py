"""A pane on disk is the pane, or refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from rankwell.errors import MonitoringError
from rankwell.monitoring.flat_rows import FlatRows
from rankwell.monitoring.pane import MINUTE_US, Pane
from rankwell.monitoring.pane_file import FORMAT_VERSION, pane_from_table, pane_table, read_pane, write_pane
from rankwell.monitoring.pane_layout import CategoricalBins, NumericBins, PaneLayout

CITY = CategoricalBins(name="city", top=(2**62, 3))
LAYOUT = PaneLayout(columns=(NumericBins(name="years", edges=(0.1, 3.0), origin=0.3), CITY), segments=CITY)


def drawn_pane(num: int = 500) -> Pane:
    rng = np.random.default_rng(0)
    columns = {"years": rng.normal(size=num), "city": rng.choice([2**62, 3, 8, -1], num)}
    return Pane.of(LAYOUT, FlatRows(rng.integers(0, 9 * MINUTE_US, num), columns))


@pytest.mark.parametrize("num", [500, 1, 0])
def test_what_is_read_is_what_was_written_in_every_bit(tmp_path: Path, num: int) -> None:
    pane = drawn_pane(num)
    write_pane(pane, tmp_path / "pane.arrow")
    read = read_pane(tmp_path / "pane.arrow")
    assert read.layout == pane.layout
    np.testing.assert_array_equal(read.minutes_N, pane.minutes_N)
    np.testing.assert_array_equal(read.segments_N, pane.segments_N)
    for name in pane.counts:
        np.testing.assert_array_equal(read.counts[name], pane.counts[name])
    np.testing.assert_array_equal(read.sums["years"], pane.sums["years"])
    assert len(read + pane) == len(pane)


def test_damage_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pane.arrow"
    write_pane(drawn_pane(), path)
    data = path.read_bytes()
    for damaged in (data[: len(data) // 2], b"", b"no Arrow"):
        path.write_bytes(damaged)
        with pytest.raises(MonitoringError, match=r"pane\.arrow"):
            read_pane(path)


def test_other_formats_are_refused() -> None:
    table = pane_table(drawn_pane())
    metadata = table.schema.metadata
    with pytest.raises(MonitoringError, match="version 999"):
        pane_from_table(table.replace_schema_metadata({**metadata, b"rankwell.pane_version": b"999"}))
    with pytest.raises(MonitoringError, match="version none"):
        pane_from_table(table.replace_schema_metadata(None))
    with pytest.raises(MonitoringError, match="no whole pane"):
        pane_from_table(table.replace_schema_metadata({b"rankwell.pane_version": FORMAT_VERSION.encode()}))
    with pytest.raises(MonitoringError, match="no whole pane"):
        pane_from_table(table.drop_columns(["sums/years"]))
    wrong = table.drop_columns(["sums/years"]).append_column("sums/years", pa.array([1.0] * len(table)))
    with pytest.raises(MonitoringError, match="no whole pane"):
        pane_from_table(wrong)
