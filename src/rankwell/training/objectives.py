"""What is minimised: losses over the actions of a schema.

Letters: C candidates, flat · A actions.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor, nn

from rankwell.errors import RecipeError
from rankwell.losses.loss import Loss
from rankwell.losses.pointwise import binary_cross_entropy
from rankwell.schema import Action, Schema
from rankwell.types import Batch, Encoded

__all__ = ["ActionObjective", "LossTerm", "Objective", "PointwiseObjective", "binary_labels", "request_weights"]


@final
@dataclass(frozen=True, slots=True)
class LossTerm:
    """A loss on one action, and its share in an objective.

    Args:
        action: Whose logits and labels it sees.
        loss: Any `Loss`; its setting, if it has one, shows in its `repr`.
        share: What its sum is multiplied with, finite and ≥ 0; at 0 it is left out.
        labels: What the loss takes for labels: "binary", 0 or 1, a grade counting from its threshold on; "grades", as
            the log has them; or "gains", what `Action.gain_of` makes of the grades, as nDCG counts them. A binary
            action's labels are its grades and its gains, too.

    Raises:
        RecipeError: The share is negative or not finite.

    >>> LossTerm("click", share=0.5)
    LossTerm(action='click', loss=binary_cross_entropy, share=0.5, labels='binary')
    """

    action: str
    loss: Loss = binary_cross_entropy
    share: float = 1.0
    labels: Literal["binary", "grades", "gains"] = "binary"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.share) and self.share >= 0):
            raise RecipeError(
                f"the objective cannot use this share of action {self.action!r}", found=self.share,
                allowed="finite, ≥ 0",
            )  # fmt: skip

    def __repr__(self) -> str:
        # by name: a function's repr holds its address, and what is told apart by it is new in every process
        return (
            f"LossTerm(action={self.action!r}, loss={_name_of(self.loss)}, share={self.share}, labels={self.labels!r})"
        )

    def labels_of(self, action: Action, labels_C: Tensor) -> Tensor:
        """What the loss takes for the labels of its action; NaN where they are NaN."""
        match self.labels:
            case "binary":
                return binary_labels(action, labels_C)
            case "grades":
                return labels_C
            case "gains":
                return action.gain_of(labels_C)


class Objective(nn.Module, abc.ABC):
    """(encoded, logits_CA, batch) → (loss, count): a sum, and what the loop divides it by.

    It sees the targets, may own parameters, and is dropped at export. What sets two objectives of a kind apart shows in
    their `str` (by `extra_repr`): a training goes on from a checkpoint only under an objective of the same `str`.
    """

    terms: tuple[LossTerm, ...] = ()
    """The losses that it is known to sum, so that a recipe can be held to the label smoothing in them."""

    @abc.abstractmethod
    def forward(self, encoded: Encoded, logits_CA: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """The summed loss in nats, and the weight it was summed over; both are sums, so two shards add up.

        Args:
            encoded: What the model's body gave.
            logits_CA: What its head gave.
            batch: Features and targets.
        """


@final
class ActionObjective(Objective):
    """Σ over terms of share · loss(logits, labels), over what was observed: each action with losses of its own.

    The count is Σ weights_C over the candidates that count: those of which some action that has a share was observed.
    A candidate whose label a term's action lacks is absent from that term, and from its lists.

    Args:
        schema: Declares the actions.
        terms: By default one a action, binary cross-entropy with share 1; an action may have several, or none.

    Raises:
        RecipeError: No term has a share above 0.
        SchemaError: A term is about an action that the schema doesn't declare.

    >>> from rankwell.losses.pointwise import SmoothedBinaryCrossEntropy
    >>> schema = Schema(actions=(Action(name="click"), Action(name="share")), features=())
    >>> ActionObjective(schema, (LossTerm("click"), LossTerm("share", SmoothedBinaryCrossEntropy(0.1), 0.2)))
    ActionObjective(
      LossTerm(action='click', loss=binary_cross_entropy, share=1.0, labels='binary')
      LossTerm(action='share', loss=SmoothedBinaryCrossEntropy(epsilon=0.1), share=0.2, labels='binary')
    )
    """

    def __init__(self, schema: Schema, terms: Sequence[LossTerm] | None = None) -> None:
        super().__init__()
        self._schema = schema
        self.terms = tuple(terms) if terms is not None else tuple(LossTerm(action.name) for action in schema.actions)
        _check_terms(self.terms, schema)

    def forward(self, encoded: Encoded, logits_CA: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """See the class."""
        return _summed(self.terms, self._schema, logits_CA, batch)

    def extra_repr(self) -> str:
        """The terms, one a line."""
        return "\n".join(map(repr, self.terms))


@final
class PointwiseObjective(Objective):
    """`ActionObjective` with one loss for all actions, on binary labels.

    So with one action the loop minimises the mean loss of the observed labels, and a candidate of which nothing is
    known is as good as absent.

    Args:
        schema: Declares the actions.
        loss: One loss for all of them.
        shares: Weight of each action in the sum, ≥ 0, at least one above 0; by default 1 each.

    Raises:
        RecipeError: There are not as many shares as actions, one is negative or not finite, or all are 0.

    >>> PointwiseObjective(Schema(actions=(Action(name="click"), Action(name="apply")), features=()), shares=(1.0, 0.5))
    PointwiseObjective(loss=binary_cross_entropy, shares=(1.0, 0.5))
    """

    def __init__(
        self, schema: Schema, loss: Loss = binary_cross_entropy, shares: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        shares = tuple(shares) if shares is not None else (1.0,) * len(schema.actions)
        if len(shares) != len(schema.actions):
            raise RecipeError(
                "shares of the objective and actions of the schema differ in number",
                found=len(shares),
                allowed=len(schema.actions),
            )
        self._schema, self._shares, self._loss = schema, shares, loss
        pairs = zip(schema.actions, shares, strict=True)
        self.terms = tuple(LossTerm(action.name, loss, share) for action, share in pairs)
        _check_terms(self.terms, schema)

    def forward(self, encoded: Encoded, logits_CA: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """See the class."""
        return _summed(self.terms, self._schema, logits_CA, batch)

    def extra_repr(self) -> str:
        """The loss and the shares."""
        return f"loss={_name_of(self._loss)}, shares={self._shares}"


def binary_labels(action: Action, labels_C: Tensor) -> Tensor:
    """What log loss takes for an action: the label, or whether a grade reaches the declared threshold; NaN stays NaN.

    Args:
        action: Declares a threshold if it is graded.
        labels_C: 0 or 1, or grades; NaN where not observed.

    Returns:
        0, 1 or NaN, of the same shape and dtype.

    >>> binary_labels(Action(name="stars", kind="graded", threshold=4), torch.tensor([3.0, 4.0, 5.0]))
    tensor([0., 1., 1.])
    """
    if action.threshold is None:
        return labels_C
    return torch.where(labels_C.isnan(), labels_C, (labels_C >= action.threshold).to(labels_C.dtype))


def request_weights(batch: Batch) -> Tensor:
    """What each request weighs, R: its candidates of which some action was observed, by their weights.

    So they add up to the count of `PointwiseObjective`, and a term that counts requests by them is a mean over requests
    after the loop's division.
    """
    targets, features = batch.targets, batch.features
    weights_C = targets.weights_C * targets.observed_CA.any(1)
    return weights_C.new_zeros(features.num_requests).index_add(0, features.request_C, weights_C)


def _check_terms(terms: Sequence[LossTerm], schema: Schema) -> None:
    for term in terms:
        schema.action_index(term.action)
    if not any(term.share for term in terms):
        raise RecipeError(
            "the objective has nothing to minimise", found=list(terms), allowed="a term whose share is above 0"
        )


def _summed(terms: Sequence[LossTerm], schema: Schema, logits_CA: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    targets, request_C = batch.targets, batch.features.request_C
    # unbind, because the backward of one unbind is one stack, and that of each indexed column a block of zeros
    columns_CA = (logits_CA, targets.labels_CA, targets.observed_CA)
    logits, labels, observed = (column_CA.unbind(1) for column_CA in columns_CA)
    losses: list[Tensor] = []
    weights: dict[int, Tensor] = {}
    for term in terms:
        if term.share:
            index = schema.action_index(term.action)
            if index not in weights:
                weights[index] = targets.weights_C * observed[index]
            labels_C = term.labels_of(schema.actions[index], labels[index])
            loss = term.loss(logits[index], labels_C, request_C=request_C, weights_C=weights[index])
            losses.append(loss if term.share == 1 else term.share * loss)
    total = losses[0] if len(losses) == 1 else torch.stack(losses).sum()
    return total, torch.stack(list(weights.values())).amax(0).sum()


def _name_of(loss: Loss) -> str:
    return getattr(loss, "__qualname__", repr(loss))
