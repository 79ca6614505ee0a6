"""Which item comes next, trained at every event of a history at once, and looked up among all items afterwards.

Letters: R requests · C candidates, flat · H history events, flat · n events or candidates that came next · U items · D
width · A actions.

Source: Kang and McAuley 2018, "Self-attentive sequential recommendation", ICDM (all positions); Klenitskiy and Vasilev
2023, "Turning dross into gold loss: is BERT4Rec really better than SASRec?", RecSys (a softmax over many items in the
place of one negative); Jean et al. 2015, "On using very large target vocabulary for neural machine translation", ACL.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, final

import torch
from torch import Tensor

from rankwell.errors import RecipeError
from rankwell.evaluation.next_item import TargetPlaces, places_among_all
from rankwell.losses.item_softmax import item_softmax
from rankwell.models.length_groups import entries_of
from rankwell.models.model import Model
from rankwell.models.next_item import NextItem, sequence_of_items
from rankwell.schema import Action, Schema
from rankwell.training.corpus_negatives import CorpusNegatives, MetItems
from rankwell.training.monitor import Monitor
from rankwell.training.objectives import Objective, PointwiseObjective, binary_labels, request_weights
from rankwell.types import Batch, Encoded, Ragged

__all__ = ["NextItemNdcg", "NextItemObjective", "next_item_places"]

_NOWHERE: Final = -1


@final
class NextItemObjective(Objective):
    """What `inner` minimises of the candidates, and the cross-entropy of what came next among the items met so far.

    ``Σ_r w_r · (Σ_events ℓ + Σ_acted on ℓ)``, where ℓ is `rankwell.losses.item_softmax.item_softmax` of the event after
    each event (by the state after the earlier one), and of each candidate that was acted on (by the request's vector).
    w_r is what the request's candidates weigh, so Σ w_r is the count of a `PointwiseObjective`, and a request counts
    once, however long its history.

    Items are known as they come: those of the histories and candidates of this batch and the ones before it. Which of
    them stand for all in a step is said by `negatives`, each with its correction by log Q.

    Args:
        schema: Names the item, and a sequence that reads its table.
        inner: By default `PointwiseObjective`; a softmax over lists costs nothing where each has one candidate.
        negatives: What targets are held against; by default all items met.
        action: The one by which a candidate counts as acted on; the first one by default.

    Raises:
        SchemaError: There is no `item`, no sequence of such items, or no such action.
        RecipeError: In `forward`, the model has no vectors of events or items.

    >>> from rankwell.losses.listwise import softmax_cross_entropy
    >>> from rankwell.schema import Action, Categorical, Sequence
    >>> item = Categorical(name="item", on="event", table="job")
    >>> schema = Schema(features=(Categorical(name="job", num_ids=100),), actions=(Action(name="next"),), item="job",
    ...                 sequences=(Sequence(name="history", fields=(item,)),))
    >>> NextItemObjective(schema, PointwiseObjective(schema, softmax_cross_entropy), negatives=MetItems(1000))
    NextItemObjective(
      action='next'
      (inner): PointwiseObjective(loss=softmax_cross_entropy, shares=(1.0,))
      (negatives): MetItems(1000)
    )
    """

    def __init__(
        self,
        schema: Schema,
        inner: Objective | None = None,
        *,
        negatives: CorpusNegatives | None = None,
        action: str | None = None,
    ) -> None:
        super().__init__()
        self.inner = PointwiseObjective(schema) if inner is None else inner
        self.negatives = MetItems() if negatives is None else negatives
        self._schema = schema
        self.action = schema.actions[schema.action_index(action)] if action is not None else schema.actions[0]
        self._sequence, self._field, _ = sequence_of_items(schema)

    def forward(self, encoded: Encoded, logits_CA: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """See the class."""
        loss, count = self.inner(encoded, logits_CA, batch)
        if self._sequence not in encoded.event_HD or encoded.item_vectors is None:
            raise RecipeError(
                "the objective needs vectors of events and of items", found="a model that has none",
                do="train a NextItem by it, or another model that reads histories in order",
            )  # fmt: skip
        state_nD, target_n, weights_n = self._came_next(encoded, batch)
        drawn_U, shift_U = self.negatives.step(
            torch.cat([self._ids_of_events(batch), batch.audit.item_ids_C]), target_n
        )
        target_nD, item_UD = encoded.item_vectors(torch.cat([target_n, drawn_U])).tensor_split((len(target_n),))
        surprise = item_softmax(
            state_nD, target_nD, item_UD, place_n=_places(drawn_U, target_n), weights_n=weights_n, shift_U=shift_U,
        )  # fmt: skip
        return loss + surprise, count

    def extra_repr(self) -> str:
        """The setting."""
        return f"action={self.action.name!r}"

    def _ids_of_events(self, batch: Batch) -> Tensor:
        return batch.features.history[self._sequence].columns[self._field]

    def _came_next(self, encoded: Encoded, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """The state before, the id and the weight of each event but a history's first, and of what was acted on."""
        features, weights_R = batch.features, request_weights(batch)
        event_HD, ids_H = encoded.event_HD[self._sequence], self._ids_of_events(batch)
        lengths_R = features.history[self._sequence].offsets.diff()
        request_H = torch.arange(features.num_requests).repeat_interleave(lengths_R)
        follows_H = torch.zeros(len(ids_H), dtype=torch.bool)
        follows_H[1:] = request_H[1:] == request_H[:-1]
        after_n = (follows_H & (ids_H >= 0)).nonzero().squeeze(1)
        acted_n = _acted_on(self._schema, self.action, batch)
        states = [event_HD[after_n - 1], encoded.request_RD[features.request_C[acted_n]]]
        targets = [ids_H[after_n], batch.audit.item_ids_C[acted_n]]
        weights = [weights_R[request_H[after_n]], batch.targets.weights_C[acted_n]]
        return torch.cat(states), torch.cat(targets), torch.cat(weights)


@final
@dataclass(frozen=True)
class NextItemNdcg(Monitor):
    """nDCG@k of what came next among all items but those that the request's history names.

    All items are those that training has given a row, and what tune names besides. Of a history only the events that
    the schema's `max_length` leaves are known.

    Args:
        k: ≥ 1.
    """

    k: int = 10

    def value(self, model: Model, tune: Iterable[Batch]) -> float:
        """See `Monitor`.

        Raises:
            RecipeError: The model is no `NextItem`.
        """
        if not isinstance(model, NextItem):
            raise RecipeError(
                "only a NextItem ranks all items", found=type(model).__name__, do="monitor another figure"
            )
        sequence, field, _ = sequence_of_items(model.schema)
        ids = [model.known_items()]
        for batch in tune:
            ids += [batch.features.history[sequence].columns[field], batch.audit.item_ids_C]
        item_ids_U = torch.unique(torch.cat(ids))
        return next_item_places(model, tune, item_ids_U[item_ids_U >= 0]).ndcg(self.k)


@torch.inference_mode()
def next_item_places(
    model: NextItem, batches: Iterable[Batch], item_ids_U: Tensor, known: Ragged | None = None
) -> TargetPlaces:
    """Where the model puts the candidates acted on, each among all items but those that its request knows.

    Args:
        model: In eval mode.
        batches: Of one split; the candidates that were not acted on count for nothing.
        item_ids_U: The items, ascending; those that the model doesn't know read the default row.
        known: Ids that each request knows, over all batches; by default those of its history, as far as it was read.

    Raises:
        MetricError: What was acted on is none of the items.
    """
    item_UD = model.item_vectors(item_ids_U)
    sequence, field, _ = sequence_of_items(model.schema)
    parts, num_requests = [], 0
    for batch in batches:
        features = batch.features
        events = features.history[sequence]
        acted_n = _acted_on(model.schema, model.schema.actions[0], batch)
        request_n = features.request_C[acted_n]
        history = Ragged(events.columns[field], events.offsets)
        lists = _lists_of(history, request_n) if known is None else _lists_of(known, request_n + num_requests)
        scores_nU = model.encode(features).request_RD[request_n] @ item_UD.T
        targets_n = _places(item_ids_U, batch.audit.item_ids_C[acted_n])
        parts.append(places_among_all(scores_nU, targets_n, _placed(item_ids_U, lists)))
        num_requests += features.num_requests
    return TargetPlaces.concatenated(parts)


def _acted_on(schema: Schema, action: Action, batch: Batch) -> Tensor:
    """int64, the candidates on which the action was seen."""
    labels_C = binary_labels(action, batch.targets.labels_CA[:, schema.action_index(action.name)])
    return ((labels_C == 1) & (batch.audit.item_ids_C >= 0)).nonzero().squeeze(1)


def _places(ids_U: Tensor, ids_n: Tensor) -> Tensor:
    """Where ids stand among others that ascend; `_NOWHERE` where they don't."""
    if not len(ids_U):
        return torch.full_like(ids_n, _NOWHERE)
    places_n = torch.searchsorted(ids_U, ids_n).clamp(max=len(ids_U) - 1)
    return torch.where(ids_U[places_n] == ids_n, places_n, _NOWHERE)


def _lists_of(lists: Ragged, chosen_n: Tensor) -> Ragged:
    entries, offsets = entries_of(lists.offsets, chosen_n)
    return Ragged(lists.values[entries], offsets)


def _placed(ids_U: Tensor, lists: Ragged) -> Ragged:
    """Lists of ids as lists of places; an id that stands nowhere is left out."""
    places = _places(ids_U, lists.values)
    stands = places != _NOWHERE
    num_before = torch.cat([torch.zeros(1, dtype=torch.int64), stands.cumsum(0)])
    return Ragged(places[stands], num_before[lists.offsets])
