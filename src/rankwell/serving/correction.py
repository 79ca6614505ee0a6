"""A correction beside a bundle: what to change of its answers until a new one is trained, within bounds, for a time.

`corrections.json`, as the file is called, holds the JSON of a `Correction`. Of its parts, each may be left out::

    wide rows ← wide rows + what is added                      wide_changes
    p = (1 - w) · p of this bundle + w · p of another          blend
    p ← σ(ln(p / (1 - p)) + Σ offsets of its segments)         log_odds_offsets

Letters: C candidates · A actions.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, final

import numpy as np
import torch
from pydantic import Field, StringConstraints, ValidationError, model_validator
from torch import Tensor

from rankwell.calibration.segment_columns import known_segments
from rankwell.errors import BundleError, SchemaError
from rankwell.schema import Schema
from rankwell.schema.columns import Name
from rankwell.schema.transforms import Declaration, as_schema_error
from rankwell.serving.changed_rows import RowChange
from rankwell.serving.graph_scorer import GraphScorer
from rankwell.serving.scorer import Scorer, Scores
from rankwell.types import Batch

__all__ = [
    "CORRECTIONS",
    "LARGEST_CHANGE",
    "LARGEST_OFFSET",
    "LONGEST_US",
    "Blend",
    "CorrectedScorer",
    "Correction",
    "correction_in_force",
    "read_correction",
]

CORRECTIONS: Final = "corrections.json"
LARGEST_OFFSET: Final = 2.0
"""Of all offsets that can meet in one candidate together, in log-odds: odds change by a factor of 7.4 at most."""
LONGEST_US: Final = 30 * 86_400_000_000
"""From `created_us` to `expires_us`."""

LARGEST_CHANGE: Final = 1.0
"""Of a weight of the wide part, in log-odds."""

_LARGEST_FILE: Final = 4 * 2**20
_LEAST: Final = 2.0**-1022
_MOST: Final = 1.0 - 2.0**-53
_Segment = Annotated[str, StringConstraints(pattern=r"^(-1|0|[1-9][0-9]{0,18})$")]
_Key = Annotated[str, StringConstraints(pattern=r"^(0|[1-9][0-9]{0,18})$")]
_Change = Annotated[float, Field(ge=-LARGEST_CHANGE, le=LARGEST_CHANGE)]
_Offset = Annotated[float, Field(ge=-LARGEST_OFFSET, le=LARGEST_OFFSET)]
_Micros = Annotated[int, Field(ge=0, lt=2**63)]


@final
class Blend(Declaration):
    """Another bundle whose probabilities are mixed in.

    Args:
        bundle: Path of the directory, from that of the correction file where it isn't absolute.
        weight: Of the other, in [0, 1].
    """

    bundle: Annotated[str, Field(min_length=1)]
    weight: Annotated[float, Field(ge=0, le=1)]


@final
class Correction(Declaration):
    """What a server changes of a bundle's probabilities.

    Args:
        format_version: 1.
        id: What answers and logs name it by.
        bundle_id: The bundle that it was made for, and no other; None: whichever is served.
        created_us, expires_us: UTC microseconds: it is applied before the second, which is 30 days later at most.
        reason: For those who read it.
        log_odds_offsets: By action, segment feature and value ("-1": missing), each in [-2, 2]; those of several
            features add up, and their largest together stay within ±2.
        wide_changes: By linear part, table and key (an id, or the number of a row where ids are hashed to rows), what
            is added to the row's weights, one an action, each in [-1, 1]; of the bundle that `bundle_id` names.
        blend: Another bundle to mix in.

    Raises:
        SchemaError: A bound does not hold.

    >>> correction = Correction(id="c1", created_us=0, expires_us=10, reason="clicks fell in segment 3",
    ...                         log_odds_offsets={"click": {"title": {"3": -0.25}}})
    >>> correction.applies(bundle_id="b", now_us=9), correction.applies(bundle_id="b", now_us=10)
    (True, False)
    """

    format_version: Literal[1] = 1
    id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
    bundle_id: str | None = None
    created_us: _Micros
    expires_us: _Micros
    reason: Annotated[str, Field(min_length=1, max_length=1000)]
    log_odds_offsets: Mapping[Name, Mapping[Name, Mapping[_Segment, _Offset]]] = Field(default_factory=dict)
    wide_changes: Mapping[str, Mapping[Name, Mapping[_Key, tuple[_Change, ...]]]] = Field(default_factory=dict)
    blend: Blend | None = None

    @model_validator(mode="after")
    def _is_bounded(self) -> Self:
        if not self.created_us < self.expires_us <= self.created_us + LONGEST_US:
            raise SchemaError(
                f"correction {self.id!r} has no end that is near enough", found=self.expires_us - self.created_us,
                allowed=f"expires_us - created_us of 1 … {LONGEST_US} microseconds", do="renew it, or train anew",
            )  # fmt: skip
        if self.wide_changes and self.bundle_id is None:
            raise SchemaError(
                f"correction {self.id!r} changes rows of no bundle", found="bundle_id=None",
                allowed="the bundle whose rows they are", do="name it: rows of another one mean something else",
            )  # fmt: skip
        for action, features in self.log_odds_offsets.items():
            beyond = [value for values in features.values() for value in values if int(value) >= 2**63]
            if beyond:
                raise SchemaError(
                    f"correction {self.id!r} names a segment that is no id", found=beyond[0], allowed="-1 … 2^63 - 1"
                )
            together = sum(max(map(abs, values.values()), default=0.0) for values in features.values())
            if together > LARGEST_OFFSET:
                raise SchemaError(
                    f"correction {self.id!r} can shift {action!r} too far", found=together,
                    allowed=f"{LARGEST_OFFSET} for all features together", do="train anew: this is no correction",
                )  # fmt: skip
        return self

    def applies(self, *, bundle_id: str, now_us: int) -> bool:
        """Whether it is in force: not expired, and made for this bundle."""
        return now_us < self.expires_us and self.bundle_id in (None, bundle_id)

    def check(self, schema: Schema) -> None:
        """Hold it against a schema.

        Raises:
            SchemaError: It names an action or a segment feature that isn't there.
        """
        for action, features in self.log_odds_offsets.items():
            schema.action_index(action)
            unknown = sorted(set(features) - set(known_segments(schema)))
            if unknown:
                raise SchemaError(
                    f"correction {self.id!r} names what is no segment", found=unknown, allowed=known_segments(schema),
                    do="name categorical features of the schema",
                )  # fmt: skip

    def to_json(self) -> str:
        """The correction as JSON text."""
        return self.model_dump_json(indent=1)


def correction_in_force(root: Path, *, bundle_id: str, now_us: int) -> Correction | None:
    """What `corrections.json` of the servers' folder does to a bundle now; None: nothing.

    Args:
        root: That servers follow.
        bundle_id: That answers.
        now_us: UTC microseconds, by the servers' clock.

    Raises:
        BundleError: There is a file, and it cannot be read.
    """
    path = root / CORRECTIONS
    if not path.exists():
        return None
    correction = read_correction(path)
    return correction if correction.applies(bundle_id=bundle_id, now_us=now_us) else None


def read_correction(path: str | Path) -> Correction:
    """The correction in a file.

    Raises:
        BundleError: It cannot be read, or is none.
    """
    try:
        with Path(path).open("rb") as file:
            text = file.read(_LARGEST_FILE + 1)
    except OSError as error:
        raise BundleError(f"no correction at {path}", found=error.strerror, do="write it again") from None
    if len(text) > _LARGEST_FILE:
        raise BundleError(
            f"the correction file {path} is too large", found=f"more than {_LARGEST_FILE} bytes", do="train anew"
        )
    try:
        return Correction.model_validate_json(text)
    except (ValidationError, SchemaError) as error:
        found = as_schema_error(error) if isinstance(error, ValidationError) else error
        raise BundleError(f"{path} is no correction", found=str(found), do="write it again, whole") from None


@final
class CorrectedScorer(Scorer):
    """A scorer whose probabilities are corrected; its logits are as they were.

    Args:
        scorer: Of the bundle.
        correction: To be applied, whatever the time.
        other: Of the bundle that is blended in, if there is one.

    Raises:
        SchemaError: The correction does not fit the schema.
    """

    def __init__(self, scorer: Scorer, correction: Correction, other: Scorer | None = None) -> None:
        correction.check(scorer.schema)
        self._scorer, self._other = _changed(scorer, correction), other
        self._weight = correction.blend.weight if correction.blend is not None else 0.0
        self._offsets = [
            (scorer.schema.action_index(action), feature, *_sorted(values))
            for action, features in correction.log_odds_offsets.items()
            for feature, values in features.items()
            if values
        ]

    @property
    def schema(self) -> Schema:
        """See `Scorer`."""
        return self._scorer.schema

    @property
    def calibrate_by(self) -> tuple[str, ...]:
        """See `Scorer`."""
        return self._scorer.calibrate_by

    def score(self, batch: Batch) -> Scores:
        """See `Scorer`."""
        scores = self._scorer.score(batch)
        p_CA = scores.probabilities_CA
        if self._other is not None and self._weight > 0:
            p_CA = (1.0 - self._weight) * p_CA + self._weight * self._other.score(batch).probabilities_CA
        if self._offsets:
            offsets_CA = torch.zeros_like(p_CA)
            for action, feature, values_n, offsets_n in self._offsets:
                offsets_CA[:, action] += _offset_of(batch.column_C(feature), values_n, offsets_n)
            shifted_CA = torch.sigmoid(torch.logit(p_CA) + offsets_CA).clamp(_LEAST, _MOST)
            p_CA = torch.where(offsets_CA == 0, p_CA, shifted_CA)  # what is not corrected keeps its bits
        return Scores(scores.logits_CA, p_CA)


def _changed(scorer: Scorer, correction: Correction) -> Scorer:
    if not correction.wide_changes:
        return scorer
    if not isinstance(scorer, GraphScorer):
        raise SchemaError(
            f"correction {correction.id!r} changes rows", found="a bundle that is served in PyTorch",
            allowed="a deployment, whose rows stay in files", do="export the bundle (rankwell export), and serve that",
        )  # fmt: skip
    num_actions = len(scorer.schema.actions)
    return scorer.with_changes(
        {
            part: {table: _row_change(rows, num_actions) for table, rows in tables.items() if rows}
            for part, tables in correction.wide_changes.items()
        }
    )


def _row_change(rows: Mapping[str, tuple[float, ...]], num_actions: int) -> RowChange:
    wrong = next((key for key, row in rows.items() if len(row) != num_actions or int(key) >= 2**63), None)
    if wrong is not None:
        raise SchemaError(
            "a change of a row has one weight an action, and its key is an id", found=f"key {wrong}: {rows[wrong]}",
            allowed=f"{num_actions} numbers, 0 … 2^63 - 1",
        )  # fmt: skip
    keys = sorted(rows, key=int)
    added = np.array([rows[key] for key in keys], dtype=np.float32).reshape(len(keys), num_actions)
    return RowChange(np.array([int(key) for key in keys], dtype=np.int64), added)


def _sorted(values: Mapping[str, float]) -> tuple[Tensor, Tensor]:
    pairs: list[tuple[int, Any]] = sorted((int(value), offset) for value, offset in values.items())
    return torch.tensor([value for value, _ in pairs]), torch.tensor([o for _, o in pairs], dtype=torch.float64)


def _offset_of(segments_C: Tensor, values_n: Tensor, offsets_n: Tensor) -> Tensor:
    places_C = torch.searchsorted(values_n, segments_C).clamp(max=len(values_n) - 1)
    return torch.where(values_n[places_C] == segments_C, offsets_n[places_C], 0.0)
