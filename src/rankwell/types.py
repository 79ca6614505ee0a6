"""The frozen nouns that pass between rooms.

Letters in names: R requests · C candidates, flat over the batch · H history events, flat · K candidates of one
request · A actions · N numeric features · W embedding width · D model width · U unique ids · S segment columns.

Ids are int64 from end to end (never through a float); numerics are float32; a missing id is ``MISSING_ID`` and a
missing numeric is NaN. Nothing is padded: what is a list has flat values and int64 offsets, as in Arrow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, final

from torch import Tensor

from rankwell.errors import SchemaError

__all__ = [
    "MISSING_ID",
    "Audit",
    "Batch",
    "Column",
    "Encoded",
    "Events",
    "Features",
    "Impression",
    "Ragged",
    "RankedList",
    "Targets",
]

MISSING_ID: Final = -1
"""The id that stands for a null in a categorical column whose schema allows one. Real ids are never negative."""


@final
@dataclass(frozen=True, slots=True)
class Ragged:
    """Lists of unequal length: list i is ``values[offsets[i]:offsets[i + 1]]``.

    Args:
        values: The entries of all lists, one after the other.
        offsets: int64, one more than there are lists, from 0 to ``len(values)``.

    >>> import torch
    >>> Ragged(torch.tensor([7, 8, 9]), torch.tensor([0, 2, 2, 3])).lengths.tolist()
    [2, 0, 1]
    """

    values: Tensor
    offsets: Tensor

    @property
    def lengths(self) -> Tensor:
        """int64, the length of each list."""
        return self.offsets[1:] - self.offsets[:-1]

    def __len__(self) -> int:
        return len(self.offsets) - 1


Column = Tensor | Ragged


@final
@dataclass(frozen=True, slots=True)
class Events:
    """The events of one sequence feature, flat over the requests of the batch, oldest first within a request.

    Args:
        columns: Field name to its values, each of H entries. ``age_s``, the seconds between the event and its
            request (float32), is always among them when the sequence declares a time.
        offsets: int64 of R + 1; the events of request r are ``offsets[r]:offsets[r + 1]``.
        num_cut_R: int64, how many events were left out, the oldest, because there were more than the sequence's
            `max_length`; None where that was not counted.
    """

    columns: Mapping[str, Tensor]
    offsets: Tensor
    num_cut_R: Tensor | None = None


@final
@dataclass(frozen=True, slots=True)
class Features:
    """All that a model may see of a batch.

    Args:
        context: Column name to one entry a request (R).
        history: Sequence name to its events (H); encoded once per request.
        candidates: Column name to one entry a candidate (C).
        offsets: int64 of R + 1; the candidates of request r are ``offsets[r]:offsets[r + 1]``.
        request_C: int64, the request of each candidate: 0..R-1, ascending.

    An id column (categorical) is int64; a bag is a `Ragged` of int64; a numeric float32; a vector float32 of width
    columns; a place float32 of two columns, latitude and longitude in degrees. Numerics are raw: the transform that
    the schema declares is the model's first layer, so that training and serving share it.

    >>> import torch
    >>> two_requests = Features(
    ...     context={"years": torch.tensor([3.0, 8.0])}, history={}, candidates={"job": torch.tensor([7, 9, 7])},
    ...     offsets=torch.tensor([0, 2, 3]), request_C=torch.tensor([0, 0, 1]))
    >>> two_requests.num_requests, two_requests.num_candidates
    (2, 3)
    """

    context: Mapping[str, Column]
    history: Mapping[str, Events]
    candidates: Mapping[str, Column]
    offsets: Tensor
    request_C: Tensor

    @property
    def num_requests(self) -> int:
        """R."""
        return len(self.offsets) - 1

    @property
    def num_candidates(self) -> int:
        """C."""
        return self.request_C.shape[0]  # not len(), which would be one number for ever in a traced graph


@final
@dataclass(frozen=True, slots=True)
class Targets:
    """What a loss may see and a model never does.

    Args:
        labels_CA: float32; 0 or 1 for a binary action, the grade for a graded one, NaN where not observed.
        observed_CA: bool; whether the action's attribution window had closed (or the action had happened).
        weights_C: float32, non-negative.
        position_C: int64, 1-based; 0 where the candidate was not shown or the log has no position.
        propensity_C: float32 in (0, 1]; 1 where the log has none.

    >>> import torch
    >>> labels_CA = torch.tensor([[1.0], [torch.nan]])
    >>> Targets(labels_CA, observed_CA=~labels_CA.isnan(), weights_C=torch.ones(2),
    ...         position_C=torch.tensor([1, 2]), propensity_C=torch.ones(2)).observed_CA.tolist()
    [[True], [False]]
    """

    labels_CA: Tensor
    observed_CA: Tensor
    weights_C: Tensor
    position_C: Tensor
    propensity_C: Tensor


@final
@dataclass(frozen=True, slots=True)
class Audit:
    """What evaluation, ranking and the request log may see and a model does not.

    Args:
        request_ids_R: int64.
        member_ids_R: int64 pseudonyms; `MISSING_ID` where the log has none.
        times_us_R: int64, UTC microseconds; 0 where the log has no time.
        item_ids_C: int64.
        columns: Other columns by name (protected attributes, bid, retrieval exposure, examination), R or C entries.
    """

    request_ids_R: Tensor
    member_ids_R: Tensor
    times_us_R: Tensor
    item_ids_C: Tensor
    columns: Mapping[str, Tensor]


@final
@dataclass(frozen=True, slots=True)
class Batch:
    """Whole requests: what a model may see, what a loss may see, and what only an audit may see.

    Args:
        features: For the model.
        targets: For the loss.
        audit: For evaluation, ranking and the request log.

    >>> import pyarrow as pa
    >>> from rankwell.data.batches import Batches
    >>> from rankwell.data.log import log_from_table
    >>> from rankwell.data.split import WholeLog
    >>> from rankwell.schema import Action, Categorical, Schema
    >>> schema = Schema(features=(Categorical(name="job"),), actions=(Action(name="click"),), member_id=None, time=None)
    >>> log = log_from_table(pa.table({"request_id": [1, 1, 2], "job": [7, 8, 7], "click": [0, 1, 0]}), schema)
    >>> (_, batch), = Batches(log, WholeLog("train"), "train", num_requests=2, seed=None).epoch(0)
    >>> batch.column_C("job"), batch.targets.labels_CA.squeeze(1)
    (tensor([7, 8, 7]), tensor([0., 1., 0.]))
    """

    features: Features
    targets: Targets
    audit: Audit

    def column_C(self, name: str) -> Tensor:
        """The column `name` with one entry a candidate, wherever it stands (a request's entry is repeated).

        Raises:
            SchemaError: There is no such column, or it is a list.
        """
        features = self.features
        for columns in (features.candidates, features.context, self.audit.columns):
            if name in columns:
                column = columns[name]
                if isinstance(column, Ragged):
                    raise SchemaError(
                        f"column {name!r} holds lists",
                        found="a bag",
                        allowed="a column with one value an entry",
                        do="name a categorical, a numeric or a protected attribute",
                    )
                per_request = columns is features.context or (
                    columns is self.audit.columns and len(column) != features.num_candidates
                )
                return column[features.request_C] if per_request else column
        known = [*features.candidates, *features.context, *self.audit.columns]
        raise SchemaError(f"no column {name!r} in the batch", found=known, do="name one of these, or declare it")


@final
@dataclass(frozen=True, slots=True)
class Encoded:
    """What a model's body hands to its head.

    Args:
        request_RD: One vector a request, or of width 0 where the model makes none.
        candidate_CD: One vector a candidate.
        attention: Attention maps by layer name, only where the caller asked for them; else empty.
        event_HD: One vector a history event, made from it and what came before it, by sequence; only of models that
            read histories in order.
        item_vectors: Ids (int64 U) to one vector an item (U × D), whose product with a request's or an event's vector
            is a logit of the first action, but for a constant; only of models that rank items that are no candidates.
        members: The logits_CA of each member, of models that average several.
    """

    request_RD: Tensor
    candidate_CD: Tensor
    attention: Mapping[str, Tensor]
    event_HD: Mapping[str, Tensor] = field(default_factory=dict)
    item_vectors: Callable[[Tensor], Tensor] | None = None
    members: tuple[Tensor, ...] = ()


@final
@dataclass(frozen=True, slots=True)
class RankedList:
    """The candidates of one request, best first; ties by logit, then by item id.

    Args:
        item_ids: int64 of K.
        probabilities: float64 of K, calibrated, in (0, 1), of the action that is ranked for.
        utilities: float64 of K, what the list is sorted by.
        propensities: float64 of K, the marginal probability that this policy puts the item at this position.
    """

    item_ids: Tensor
    probabilities: Tensor
    utilities: Tensor
    propensities: Tensor

    def __len__(self) -> int:
        return len(self.item_ids)


@final
@dataclass(frozen=True, slots=True)
class Impression:
    """One showing of an item, as the request log keeps it; `position` is 1-based."""

    request_id: int
    member_id: int
    time_us: int
    item_id: int
    position: int
    probability: float
    propensity: float
