"""Columns summed by NumPy, counted in one pass, and as panes, and their PSI: steps for `drift_pass.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa

from contenders.drift_sample import OUTLIER, sample
from contenders.turns import Turns, serve
from rankwell.monitoring.column_pass import numeric_counts
from rankwell.monitoring.divergences import psi
from rankwell.monitoring.flat_rows import FlatRows
from rankwell.monitoring.pane import MINUTE_US, Pane
from rankwell.monitoring.pane_layout import CategoricalBins, NumericBins, PaneLayout

__all__: list[str] = []


def main() -> None:
    turns = Turns()
    num_rows, num_columns = turns.settings["rows"], turns.settings["columns"]
    reference = sample(num_rows, num_columns, drifted=False)
    table = pa.table({f"x{i}": column_C for i, column_C in enumerate(sample(num_rows, num_columns, drifted=True))})
    current = [column.chunk(0).to_numpy() for column in table.columns]
    bins = [NumericBins.of_values(f"x{i}", column_C[:100_000]) for i, column_C in enumerate(reference)]
    layout = PaneLayout(columns=tuple(bins))
    bounds_G = np.array([0, num_rows])
    edges = [np.array(column.edges, np.float32) for column in bins]
    rng = np.random.default_rng(2)
    by_segment = layout.model_copy(update={"segments": CategoricalBins(name="segment", top=tuple(range(8)))})
    at_once = np.zeros(num_rows, np.int64)
    quarter_hour = np.sort(rng.integers(0, 15 * MINUTE_US, num_rows))
    columns = {f"x{i}": column_C for i, column_C in enumerate(current)}
    mixed = {**columns, "segment": rng.integers(0, 8, num_rows)}
    then = Pane.of(layout, FlatRows(at_once, {f"x{i}": column_C for i, column_C in enumerate(reference)}))

    def psi_of(columns: Mapping[str, np.ndarray]) -> list[float]:
        now = Pane.of(layout, FlatRows(at_once, columns))
        return [psi(then.column(column.name), now.column(column.name)) for column in bins]

    def outlier() -> Mapping[str, float]:
        before = psi_of(columns)
        spoiled = {name: column_C.copy() for name, column_C in columns.items()}
        for column_C in spoiled.values():
            column_C[0] = OUTLIER
        return {"outlier": max(abs(one - other) for one, other in zip(before, psi_of(spoiled), strict=True))}

    def numpy_counts() -> None:
        for column_C, edges_E in zip(current, edges, strict=True):
            np.bincount(np.searchsorted(edges_E, column_C, side="right"), minlength=len(edges_E) + 1)

    steps: Mapping[str, Callable[[], object]] = {
        "sum": lambda: [column_C.sum() for column_C in current],
        "pass": lambda: [
            numeric_counts(column_C, bounds_G, edges_E, column.origin)
            for column_C, edges_E, column in zip(current, edges, bins, strict=True)
        ],
        "searchsorted": numpy_counts,
        "pane and PSI": lambda: psi_of(columns),
        "pane by segment": lambda: Pane.of(by_segment, FlatRows(quarter_hour, mixed)),
    }
    step = steps[turns.settings["method"]]
    if turns.settings["method"] == "pane and PSI":
        turns.facts = outlier
    serve(turns, lambda _: step())


if __name__ == "__main__":
    main()
