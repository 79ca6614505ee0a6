"""A layout of panes made of the first rows that were served: what there is to count, and in which bins.

Letters in names: C candidates that were shown.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from rankwell.data.layout import LogColumn, LogLayout
from rankwell.data.served_columns import served_logit, served_probability
from rankwell.errors import MonitoringError
from rankwell.monitoring.flat_rows import FlatRows
from rankwell.monitoring.pane_layout import CategoricalBins, NumericBins, PaneLayout
from rankwell.schema import Schema

__all__ = ["reference_layout", "segment_features"]

_MOST_VALUES: Final = 10_000


def reference_layout(
    served: Any, schema: Schema, *, segment: str | None, num_bins: int = 16, num_top: int = 20, num_segments: int = 12
) -> PaneLayout:
    """The bins of features, logits and probabilities in which a sample of what was shown lies evenly.

    Each numeric feature, and each action's logit and probability, has bins between the sample's quantiles; each
    categorical feature has its most frequent values. The item is left out, and so is a feature of more than 10,000
    values: new ones come every day, and that is no drift. So are bags, vectors and places, which have several numbers,
    and protected attributes. The segments' feature is always a column, too: among all rows it shows that a segment
    has come, grown, shrunk or gone.

    Args:
        served: Rows of a log in request layout, with the served columns, as `read_served` gives them.
        schema: The log's.
        segment: A categorical feature by whose values rows are told apart; None: all rows together.
        num_bins: Of a number, at least 2.
        num_top: Values of a categorical feature that are counted one by one.
        num_segments: Values of the segment feature that are.

    Raises:
        MonitoringError: Nothing was shown; or the feature can't tell segments apart.
        LogError: Times or lists are none.

    >>> import pyarrow as pa
    >>> from rankwell.schema import Action, Categorical, Exposure, Numeric
    >>> schema = Schema(
    ...     features=(Categorical(name="level"), Numeric(name="years")), actions=(Action(name="click"),),
    ...     exposure=Exposure(position="position"),
    ... )
    >>> served = pa.table({
    ...     "request_id": [1], "time_us": [5], "level": [[3, 3, 4]], "years": [[2.0, 6.0, 9.0]],
    ...     "position": [[1, 2, 0]], "served_logit_click": [[-1.0, 0.0, 1.0]],
    ...     "served_probability_click": [[0.2, 0.5, 0.7]],
    ... })
    >>> layout = reference_layout(served, schema, segment="level", num_bins=2)
    >>> [column.name for column in layout.columns], layout.segments.top, layout.columns[1].edges
    (['level', 'years', 'served_logit_click', 'served_probability_click'], (3,), (4.0,))
    """
    features = _features(schema)
    allowed = segment_features(schema)
    if segment is not None and segment not in allowed:
        raise MonitoringError(
            "segments can't be told apart by this feature", found=segment, allowed=sorted(allowed),
            do="name a categorical feature of the request or of the candidates",
        )  # fmt: skip
    outputs = [name(action.name) for action in schema.actions for name in (served_logit, served_probability)]
    taken = [column.name for column in features] + ([] if segment is None else [allowed[segment]])
    rows = FlatRows.of_table(served, schema, [*taken, *outputs], rows="shown")
    if not len(rows):
        raise MonitoringError("no candidate was shown", found=f"{len(served)} requests", do="wait until some are")
    columns: list[NumericBins | CategoricalBins] = []
    for column in features:
        if column.role == "numeric":
            columns.append(NumericBins.of_values(column.name, rows.columns[column.name], num_bins=num_bins))
        elif len(np.unique(rows.ids(column.name))) <= _MOST_VALUES:
            columns.append(CategoricalBins.of_values(column.name, rows.ids(column.name), num_top=num_top))
    columns += [NumericBins.of_values(name, rows.columns[name], num_bins=num_bins) for name in outputs]
    if segment is None:
        return PaneLayout(columns=tuple(columns))
    segments = CategoricalBins.of_values(allowed[segment], rows.ids(allowed[segment]), num_top=num_segments)
    if not segments.top:
        raise MonitoringError(
            f"{segment!r} is missing wherever something was shown", found=f"{len(rows)} rows",
            do="choose another feature, or see to it that requests carry it",
        )  # fmt: skip
    if segments.name not in {column.name for column in columns}:
        columns.append(segments)  # how the segments are mixed is watched, too: one may come or go
    return PaneLayout(columns=tuple(columns), segments=segments)


def segment_features(schema: Schema) -> dict[str, str]:
    """The features by whose values rows can be told apart, and the column of each in the log.

    >>> from rankwell.schema import Action, Categorical
    >>> segment_features(Schema(features=(Categorical(name="city", column="geo"),), actions=(Action(name="click"),)))
    {'city': 'geo'}
    """
    names = {feature.name for feature in schema.features}
    columns = LogLayout.of(schema, "requests").columns
    return {
        column.owner: column.name
        for column in columns
        if column.role == "categorical" and column.sequence is None and column.owner in names
    }


def _features(schema: Schema) -> list[LogColumn]:
    names = {feature.name for feature in schema.features} - {schema.item}
    found: dict[str, LogColumn] = {}
    for column in LogLayout.of(schema, "requests").columns:
        if column.role in ("numeric", "categorical") and column.sequence is None and column.owner in names:
            found.setdefault(column.name, column)  # two features may read one column
    return list(found.values())
