"""Everything that rankwell raises or warns about on purpose.

The tree::

    RankwellError
    ├── SchemaError        a schema contradicts itself, or a name is not in it
    ├── LogError           a request log, an action file or a table in memory does not keep its schema
    │   └── LeakError      something of the future stands where only the past may (history, splits)
    ├── PrivacyError       something that names a person was about to be written
    ├── RequestError       a request to rank that cannot be ranked
    ├── MetricError        predictions and labels that no metric can be computed on
    ├── CalibrationError   a calibrator cannot be fitted on this sample
    ├── TrainingError      training cannot start, or has diverged
    │   └── CheckpointError   a checkpoint is damaged or belongs to another run
    ├── RecipeError        a recipe does not build, or a file holds no recipe
    ├── BundleError        a bundle is damaged, incomplete, or of an unknown format
    ├── FeatureStoreError  stored features are damaged, of another schema, or cannot be reached
    ├── MonitoringError    panes that cannot be counted, added up or read
    ├── MitigationError    a mitigation out of its bounds, or a folder that it can't be written to
    └── MissingExtraError  an optional dependency is needed; the message holds the install command

    RankwellWarning (UserWarning)
    └── UndefinedMetricWarning   a metric is undefined on this sample and was returned as NaN

Each message answers four questions: what and where, what was found, what is allowed, and what to do next.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "BundleError",
    "CalibrationError",
    "CheckpointError",
    "FeatureStoreError",
    "LeakError",
    "LogError",
    "MetricError",
    "MissingExtraError",
    "MitigationError",
    "MonitoringError",
    "PrivacyError",
    "RankwellError",
    "RankwellWarning",
    "RecipeError",
    "RequestError",
    "SchemaError",
    "TrainingError",
    "UndefinedMetricWarning",
]

_LONGEST_FOUND: Final = 300


class RankwellError(Exception):
    """The root of all errors raised on purpose.

    Args:
        what: The thing and the place, as a sentence without its full stop.
        found: What stood there.
        allowed: What may stand there.
        do: What the reader can do about it.

    >>> print(LogError("column 'bid_micros' is in the schema but not in the log",
    ...                found=["time_us"], do="add the column, or drop `bid` from the schema"))
    column 'bid_micros' is in the schema but not in the log; found: ['time_us'];
        what to do: add the column, or drop `bid` from the schema
    """

    def __init__(self, what: str, *, found: object = None, allowed: object = None, do: str | None = None) -> None:
        self.what, self.found, self.allowed, self.do = what, found, allowed, do
        super().__init__(what)

    def __str__(self) -> str:
        text = self.what
        if self.found is not None:
            text += f"; found: {_shortened(self.found)}"
        if self.allowed is not None:
            text += f"; allowed: {_shortened(self.allowed)}"
        if self.do is not None:
            text += f";\n    what to do: {self.do}"
        return text


def _shortened(thing: object) -> str:
    text = thing if isinstance(thing, str) else repr(thing)
    return text if len(text) <= _LONGEST_FOUND else text[: _LONGEST_FOUND - 2] + " …"


class SchemaError(RankwellError):
    """A schema contradicts itself, or a name is not in it."""


class LogError(RankwellError):
    """A request log, an action file or a table in memory does not keep its schema."""


class LeakError(LogError):
    """Something of the future stands where only the past may."""


class PrivacyError(RankwellError):
    """Something that names a person was about to be written."""


class RequestError(RankwellError):
    """A request to rank that cannot be ranked."""


class MetricError(RankwellError):
    """Predictions and labels that no metric can be computed on."""


class CalibrationError(RankwellError):
    """A calibrator cannot be fitted on this sample."""


class TrainingError(RankwellError):
    """Training cannot start, or has diverged."""


class CheckpointError(TrainingError):
    """A checkpoint is damaged or belongs to another run."""


class RecipeError(RankwellError):
    """A recipe does not build, or a file holds no recipe."""


class BundleError(RankwellError):
    """A bundle is damaged, incomplete, or of an unknown format."""


class FeatureStoreError(RankwellError):
    """Stored features are damaged, of another schema, or cannot be reached."""


class MonitoringError(RankwellError):
    """Rows that a pane cannot count, or panes that don't go together."""


class MitigationError(RankwellError):
    """A mitigation that is out of its bounds, or can't be carried out or written down."""


class MissingExtraError(RankwellError):
    """An optional dependency is needed; the message holds the install command."""


class RankwellWarning(UserWarning):
    """The root of all warnings given on purpose."""


class UndefinedMetricWarning(RankwellWarning):
    """A metric is undefined on this sample and was returned as NaN."""
