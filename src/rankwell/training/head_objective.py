"""What heads of attention are trained to be: like a relation, unlike each other, and few.

Letters: B lists · J heads · Q places that ask · L places · R requests · C candidates, flat · A actions.

Source: Li et al. 2018, "Multi-head attention with disagreement regularization", EMNLP (heads unlike each other);
Strubell et al. 2018, "Linguistically-informed self-attention", EMNLP (a head trained to a given relation); Louizos,
Welling and Kingma 2018, "Learning sparse neural networks through L0 regularization", ICLR (the cost of an open gate).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor

from rankwell.errors import RecipeError
from rankwell.schema import Schema
from rankwell.training.objectives import Objective, PointwiseObjective, request_weights
from rankwell.types import Batch, Encoded

__all__ = ["HeadObjective", "alignment_loss", "orthogonality_loss"]


@final
class HeadObjective(Objective):
    """What `inner` minimises, and for each request, by its weight, what its lists add for their heads.

    ``Σ_r w_r · (Σ_h strength_h · alignment_h(r) + orthogonality · overlap(r) + sparsity · open(r))``: the cross-entropy
    of a head's maps to a relation (`alignment_loss`), how alike the heads of a layer are (`orthogonality_loss`), and
    how many gates are open, expected; the last two summed over layers. w_r is the summed weight of the request's
    candidates of which some action was observed: so Σ w_r is the count of a `PointwiseObjective`, the loop's division
    leaves means over requests, and shards of requests add up. Strengths are in nats.

    The model has to watch its heads: see `rankwell.models.head_watch.HeadWatch` for the names of stacks, layers and
    relations.

    Args:
        schema: Declares the actions.
        inner: By default `PointwiseObjective`.
        alignment: By head, such as "list.0.1" (head 1 of layer 0 of the stack "list"), the name of a relation and the
            strength of the pull to it.
        orthogonality: Strength, ≥ 0.
        sparsity: What an open gate costs, ≥ 0.

    Raises:
        RecipeError: A strength is negative or not finite, or a head has no such name; in `forward`, the model does not
            watch what is needed.

    >>> from rankwell.schema import Action
    >>> HeadObjective(Schema(actions=(Action(name="click"),), features=()), sparsity=0.01)
    HeadObjective(
      alignment={}, orthogonality=0.0, sparsity=0.01
      (inner): PointwiseObjective(loss=binary_cross_entropy, shares=(1.0,))
    )
    """

    def __init__(
        self,
        schema: Schema,
        inner: Objective | None = None,
        *,
        alignment: Mapping[str, tuple[str, float]] | None = None,
        orthogonality: float = 0.0,
        sparsity: float = 0.0,
    ) -> None:
        super().__init__()
        self.inner = PointwiseObjective(schema) if inner is None else inner
        self.alignment = dict(alignment or {})
        self.orthogonality, self.sparsity = orthogonality, sparsity
        strengths = [orthogonality, sparsity, *(strength for _, strength in self.alignment.values())]
        if not all(math.isfinite(strength) and strength >= 0 for strength in strengths):
            raise RecipeError("heads cannot be trained with these strengths", found=strengths, allowed="finite, ≥ 0")
        self._pulls = [(*_parts(head), *pull) for head, pull in self.alignment.items() if pull[1]]

    def forward(self, encoded: Encoded, logits_CA: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """See the class."""
        loss, count = self.inner(encoded, logits_CA, batch)
        if not (self._pulls or self.orthogonality or self.sparsity) or not batch.features.num_candidates:
            return loss, count
        attention, weights_R = encoded.attention, request_weights(batch)

        def summed(stack: str, term_B: Tensor) -> Tensor:
            return (weights_R[_watched(attention, f"{stack}.request")] * term_B).sum()

        for stack, layer, head, relation, strength in self._pulls:
            maps_BJQL = _watched(attention, f"{stack}.{layer}.maps")
            if head >= maps_BJQL.shape[1]:
                raise RecipeError(
                    f"layer {stack}.{layer} has no head {head}", found=f"{maps_BJQL.shape[1]} heads",
                    do="name one of them in `alignment`, counted from 0",
                )  # fmt: skip
            related_BQL = _watched(attention, f"{stack}.relation.{relation}")
            term_B = alignment_loss(maps_BJQL[:, head], related_BQL, _watched(attention, f"{stack}.asks"))
            loss = loss + strength * summed(stack, term_B)
        if self.orthogonality:
            for stack, layer in _layers(attention, "maps"):
                maps_BJQL = attention[f"{stack}.{layer}.maps"]
                term_B = orthogonality_loss(maps_BJQL, _watched(attention, f"{stack}.asks"))
                loss = loss + self.orthogonality * summed(stack, term_B)
        if self.sparsity:
            for stack, layer in _layers(attention, "gates"):
                loss = loss + self.sparsity * summed(stack, attention[f"{stack}.{layer}.gates"].sum(1))
        return loss, count

    def extra_repr(self) -> str:
        """The strengths."""
        return f"alignment={self.alignment}, orthogonality={self.orthogonality}, sparsity={self.sparsity}"


def alignment_loss(maps_BQL: Tensor, related_BQL: Tensor, asks_BQ: Tensor) -> Tensor:
    """The cross-entropy of a head's maps to a relation, ``-Σ_l r_ql ln p_ql / Σ_l r_ql``, in the mean over what asks.

    What is related to no other entry is left out.

    Args:
        maps_BQL: The shares p of one head.
        related_BQL: Bool r, what stands in relation to the entry that asks, itself included.
        asks_BQ: Bool, which places count.

    Returns:
        B, in nats; 0 for a list in which nothing is left.

    >>> maps_BQL = torch.tensor([[[0.5, 0.25, 0.25]]])
    >>> alignment_loss(maps_BQL, torch.tensor([[[True, True, False]]]), torch.tensor([[True]])) / math.log(2)
    tensor([1.5000])
    """
    num_BQ = related_BQL.sum(2)
    counts_BQ = asks_BQ & (num_BQ > 1)
    nats_BQL = -torch.log(maps_BQL.float().clamp(min=torch.finfo(torch.float32).tiny))
    nats_BQ = (nats_BQL * related_BQL).sum(2) / num_BQ.clamp(min=1)
    return _mean_of(nats_BQ, counts_BQ)


def orthogonality_loss(maps_BJQL: Tensor, asks_BQ: Tensor) -> Tensor:
    """How alike heads are: the squared cosine of their maps' rows, in the mean over pairs of heads and what asks.

    Args:
        maps_BJQL: The shares of a layer's heads.
        asks_BQ: Bool, which places count.

    Returns:
        B, in [0, 1]; 0 for a list in which nothing asks, or of one head.

    >>> apart = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).view(1, 2, 1, 2)
    >>> orthogonality_loss(apart, torch.tensor([[True]])), orthogonality_loss(apart[:, [0, 0]], torch.tensor([[True]]))
    (tensor([0.]), tensor([1.]))
    """
    num_heads = maps_BJQL.shape[1]
    if num_heads < 2:
        return maps_BJQL.new_zeros(len(maps_BJQL), dtype=torch.float32)
    maps_BQJL = maps_BJQL.float().transpose(1, 2)
    unit_BQJL = maps_BQJL / maps_BQJL.norm(dim=3, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    squares_BQ = (unit_BQJL @ unit_BQJL.transpose(2, 3)).square().triu(1).sum((2, 3))
    return _mean_of(squares_BQ / (num_heads * (num_heads - 1) / 2), asks_BQ)


def _mean_of(value_BQ: Tensor, counts_BQ: Tensor) -> Tensor:
    return (value_BQ * counts_BQ).sum(1) / counts_BQ.sum(1).clamp(min=1)


def _watched(attention: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in attention:
        raise RecipeError(
            f"the objective needs {name!r} of the model's attention", found=sorted(attention) or "nothing watched",
            do="give the model's settings a HeadWatch (with this relation), or leave this term out",
        )  # fmt: skip
    return attention[name]


def _layers(attention: Mapping[str, Tensor], what: str) -> list[tuple[str, int]]:
    """The stack and the number of each layer of which this is watched; at least one."""
    found = [name.split(".") for name in attention]
    layers = [
        (parts[0], int(parts[1])) for parts in found if len(parts) == 3 and parts[2] == what and parts[1].isdigit()
    ]
    if not layers:
        _watched(attention, f"list.0.{what}")
    return layers


def _parts(head: str) -> tuple[str, int, int]:
    parts = head.split(".")
    if len(parts) != 3 or not parts[0] or not (parts[1].isdigit() and parts[2].isdigit()):
        raise RecipeError("no head has such a name", found=head, allowed="stack, layer and head, such as 'list.0.1'")
    return parts[0], int(parts[1]), int(parts[2])
