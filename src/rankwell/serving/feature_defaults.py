"""What stands for a feature that a store doesn't have, or not in time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

from rankwell.data.statistics import NumericStatistics
from rankwell.errors import SchemaError
from rankwell.schema.columns import Bag, Categorical, Numeric, Place, Vector
from rankwell.schema.schema import Schema
from rankwell.serving.stored_columns import StoredFeature
from rankwell.types import MISSING_ID

__all__ = ["UNKNOWN_ID", "Declared", "FeatureDefaults", "mean_place"]

Declared = Mapping[str, int | float | Sequence[float]]
"""Defaults by feature: an id, a number, the numbers of a vector, or (latitude, longitude)."""

UNKNOWN_ID: Final = 2**63 - 1
"""An id that no table knows: above every `num_ids`, and never seen by a growing table."""

_LEAST_RESULTANT: Final = 1e-6


@final
class FeatureDefaults:
    """The default of each feature: the declared one, else what the schema and the training log say.

    =============  ====================================================================================
    numeric        NaN where missing="indicator"; else the mean of train
    categorical    `MISSING_ID` where missing="row"; else an id that reads a row which says nothing
    bag, sequence  empty
    vector         zeros
    place          none: it must be declared; `mean_place` is a choice
    =============  ====================================================================================

    Of a categorical that may not be missing, an id `UNKNOWN_ID` reads the default row of a table with `num_ids` or of a
    growing one, which training has trained for ids never seen. A hashed table knows every id: `UNKNOWN_ID` would read
    the row of whoever shares its bucket. There the default is `MISSING_ID`, whose row starts at zero and never moves
    unless another feature of that table may be missing.

    Args:
        schema: Of the log.
        statistics: Of train; without them a numeric that may not be missing must be declared.
        declared: Defaults that come before all others.

    Raises:
        SchemaError: A declared default is of no feature, or not of its feature's kind.

    >>> from rankwell.schema import Action
    >>> schema = Schema(features=(Categorical(name="title", num_ids=9), Numeric(name="pay"), Vector(name="v", width=2)),
    ...                 actions=(Action(name="click"),))
    >>> defaults = FeatureDefaults(schema, declared={"pay": 50_000})
    >>> int(defaults.of("title")) == UNKNOWN_ID, defaults.of("pay"), defaults.of("v")
    (True, array(50000., dtype=float32), array([0., 0.], dtype=float32))
    """

    def __init__(
        self,
        schema: Schema,
        statistics: NumericStatistics | None = None,
        declared: Declared | None = None,
    ) -> None:
        self._statistics = statistics or NumericStatistics()
        self._tables = schema.table_specs()
        self._features = {feature.name: feature for feature in schema.visible_features}
        unknown = sorted(set(declared or {}) - set(self._features))
        if unknown:
            raise SchemaError(
                "defaults are declared of what is no feature", found=unknown, allowed=sorted(self._features),
                do="correct the names; a sequence's default is no events",
            )  # fmt: skip
        self._declared = {name: _checked(value, self._features[name]) for name, value in (declared or {}).items()}

    def of(self, name: str) -> NDArray[Any]:
        """One entry of the feature `name`, of the type and width that models read; not of a bag, which is empty.

        Raises:
            SchemaError: It has no default, and none was declared.
        """
        if name in self._declared:
            return self._declared[name]
        feature = self._features[name]
        match feature:
            case Categorical():
                return np.array(self._id_of(feature), np.int64)
            case Numeric():
                return np.array(self._number_of(feature), np.float32)
            case Vector():
                return np.zeros(feature.width, np.float32)
            case _:
                raise SchemaError(
                    f"the {feature.kind} {name!r} has no default",
                    allowed="(latitude, longitude) in degrees",
                    do=f"declare one: FeatureDefaults(…, declared={{{name!r}: …}}); mean_place() of the stored ones "
                    "is a choice",
                )

    def _id_of(self, feature: Categorical) -> int:
        is_hashed = self._tables[feature.table_name].hashed
        return MISSING_ID if feature.missing == "row" or is_hashed else UNKNOWN_ID

    def _number_of(self, feature: Numeric) -> float:
        if feature.missing == "indicator":
            return float("nan")
        measured = self._statistics.columns.get(feature.name)
        if measured is None or not measured.num_values:
            raise SchemaError(
                f"the numeric {feature.name!r} has no default: it may not be missing, and its mean is not known",
                found=f"statistics of {sorted(self._statistics.columns)}",
                do="give the statistics of the bundle, or declare one",
            )
        return measured.mean


def mean_place(degrees_n2: NDArray[np.float64]) -> tuple[float, float]:
    """The middle of places on the globe, as a default: the direction of the sum of their unit vectors.

    Args:
        degrees_n2: Latitudes and longitudes.

    Returns:
        Latitude and longitude in degrees.

    Raises:
        SchemaError: There is none: no places, or they lie all around.

    >>> latitude, longitude = mean_place(np.array([[0.0, 170.0], [0.0, -170.0]]))  # not 0°, the other side of the globe
    >>> round(latitude), round(abs(longitude))
    (0, 180)
    """
    latitude_n, longitude_n = np.radians(np.asarray(degrees_n2, np.float64)).T
    flat_n = np.cos(latitude_n)
    x, y, z = (
        float(part.sum()) for part in (flat_n * np.cos(longitude_n), flat_n * np.sin(longitude_n), np.sin(latitude_n))
    )
    if np.sqrt(x * x + y * y + z * z) <= _LEAST_RESULTANT * max(len(latitude_n), 1):
        raise SchemaError(
            "these places have no middle", found=f"{len(latitude_n)} places", do="declare a place of your own choice"
        )
    return float(np.degrees(np.arctan2(z, np.hypot(x, y)))), float(np.degrees(np.arctan2(y, x)))


def _checked(value: Any, feature: StoredFeature) -> NDArray[Any]:
    array = np.asarray(value)
    is_number = array.dtype.kind in "iuf"
    allowed: str
    match feature:
        case Categorical():
            allowed = f"an id of 0 or more, or MISSING_ID ({MISSING_ID})"
            is_right = array.dtype.kind in "iu" and array.shape == () and MISSING_ID <= int(array) < 2**63
        case Numeric():
            may_be_nan = feature.missing == "indicator"
            allowed = "a finite number" + (", or NaN" if may_be_nan else "")
            is_right = is_number and array.shape == () and bool(np.isfinite(array) or (may_be_nan and np.isnan(array)))
        case Vector() | Place():
            width = feature.width if isinstance(feature, Vector) else 2
            allowed = f"{width} finite numbers"
            is_right = is_number and array.shape == (width,) and bool(np.isfinite(array).all())
        case Bag():
            allowed, is_right = "nothing: a bag's default is empty", False
    if not is_right:
        raise SchemaError(
            f"the declared default of {feature.name!r} is none of a {feature.kind}", found=value, allowed=allowed,
            do="mend it, or drop it for the schema's own",
        )  # fmt: skip
    return array.astype(np.int64 if isinstance(feature, Categorical) else np.float32)
