"""A layout of the first rows: bins that hold equal shares of them, and only of what can be counted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from rankwell.errors import MonitoringError
from rankwell.monitoring.flat_rows import FlatRows
from rankwell.monitoring.pane import Pane
from rankwell.monitoring.reference_layout import reference_layout, segment_features
from rankwell.schema import Action, Categorical, Exposure, Numeric, Schema
from rankwell.schema.columns import Bag, Sequence, Vector

SCHEMA = Schema(
    features=(
        Categorical(name="job"), Categorical(name="level", column="lvl"), Numeric(name="years", on="request"),
        Numeric(name="pay"), Bag(name="skills"), Vector(name="embedding", width=2),
    ),
    actions=(Action(name="click"), Action(name="apply")),
    sequences=(Sequence(name="history", fields=(Categorical(name="past", on="event"),)),),
    item="job",
    protected=(Categorical(name="gender", on="request"),),
    exposure=Exposure(position="position"),
)  # fmt: skip


def _served(num: int = 400, **changes: Any) -> Any:
    rng = np.random.default_rng(0)
    columns = {
        "request_id": np.arange(num), "time_us": np.arange(num) * 1_000, "years": rng.normal(8.0, 3.0, num),
        "lvl": [[3, 3, 4]] * num, "pay": rng.normal(size=(num, 3)).tolist(), "job": [[1, 2, 3]] * num,
        "position": [[1, 2, 0]] * num,
        **{f"served_{kind}_{action}": rng.random((num, 3)).tolist()
           for kind in ("logit", "probability") for action in ("click", "apply")},
    }  # fmt: skip
    return pa.table({**columns, **changes})


def test_bins_hold_equal_shares_of_what_was_shown() -> None:
    layout = reference_layout(_served(), SCHEMA, segment="level", num_bins=8)
    pane = Pane.of(layout, FlatRows.of_table(_served(), SCHEMA, [c.name for c in layout.columns], rows="shown"))
    for name in ("years", "pay", "served_logit_apply"):
        counts_B = pane.column(name).counts_B
        assert counts_B[-1] == 0
        assert np.abs(counts_B[:-1] - 800 / 8).max() <= 2, name


def test_what_has_several_values_or_names_the_item_or_a_person_is_left_out() -> None:
    layout = reference_layout(_served(), SCHEMA, segment="level")
    assert {column.name for column in layout.columns} == {
        "lvl", "years", "pay", "served_logit_click", "served_probability_click", "served_logit_apply",
        "served_probability_apply",
    }  # fmt: skip
    assert layout.segments is not None
    assert layout.segments.name == "lvl"
    assert layout.segments.top == (3,), "4 was never shown"


def test_a_feature_of_too_many_values_is_a_column_only_where_it_tells_segments_apart() -> None:
    served = _served(10_001, lvl=[[n, n, n] for n in range(10_001)])
    assert "lvl" not in {column.name for column in reference_layout(served, SCHEMA, segment=None).columns}
    layout = reference_layout(served, SCHEMA, segment="level", num_segments=5)
    assert layout.segments is not None
    assert layout.segments.top == (0, 1, 2, 3, 4)
    assert layout.column("lvl") == layout.segments, "the mix of segments"
    assert reference_layout(_served(), SCHEMA, segment="job").column("job").num_bins == 2 + 3


def test_all_nan_has_one_edge_and_all_missing_segments_are_refused() -> None:
    layout = reference_layout(_served(years=np.full(400, np.nan)), SCHEMA, segment=None)
    assert layout.column("years").num_bins == 3
    assert layout.segments is None
    missing = pa.array([[None] * 3] * 400, pa.list_(pa.int64()))
    with pytest.raises(MonitoringError, match="is missing wherever"):
        reference_layout(_served(lvl=missing), SCHEMA, segment="level")


@pytest.mark.parametrize("name", ["years", "skills", "nothing", "gender", "past"])
def test_a_feature_that_tells_no_segments_apart_is_refused(name: str) -> None:
    assert set(segment_features(SCHEMA)) == {"job", "level"}
    with pytest.raises(MonitoringError, match=r"allowed: \['job', 'level'\]"):
        reference_layout(_served(), SCHEMA, segment=name)


def test_nothing_shown_makes_no_layout() -> None:
    for served in (_served().slice(0, 0), _served(position=[[0, 0, 0]] * 400)):
        with pytest.raises(MonitoringError, match="no candidate was shown"):
            reference_layout(served, SCHEMA, segment=None)
