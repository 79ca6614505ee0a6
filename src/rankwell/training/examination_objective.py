"""A position's share in a click, wrapped around the ranker while it is trained, and left behind at export.

Letters: C candidates, flat · A actions · K positions after the first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, final

import torch
from torch import Tensor, nn

from rankwell.errors import RecipeError
from rankwell.schema import Schema
from rankwell.training.objectives import Objective, PointwiseObjective
from rankwell.types import Batch, Encoded

__all__ = ["ExaminationObjective", "examined_logits"]


@final
class ExaminationObjective(Objective):
    """What `inner` says of clicks, which are looks times relevance; the model's logits are those of relevance.

    With e of the candidate's position, learned for each action, and the model's logit z::

        product   P = σ(e)·σ(z)     a candidate is acted on if it is examined and relevant
        logit     P = σ(e + z)      a position moves the log-odds

    At the first position P = σ(z): relevance is what would happen there. A candidate without a position (0) is taken to
    have been examined, and positions beyond the last read its e. The loop judges by the logits alone, on clicks at any
    position, which favours what was shown first: train for one epoch, or stop by a tune split that was shown at random.
    The e are few and have far to go: give them a rate of their own (`OptimizerPlan.dense_groups`, "objective").

    Args:
        schema: Declares the actions, and by its exposure which column the position is.
        inner: By default `PointwiseObjective`.
        form: "product" or "logit".
        num_positions: So many have e of their own, ≥ 1.
        examination: P(examined) of the positions from 1 on, relative to the first, where it is known or was estimated
            (see `rankwell.training.propensity`); in (0, 1], for the product alone. None learns it.

    Raises:
        RecipeError: There is no such form, position or examination.

    >>> from rankwell.schema import Action
    >>> ExaminationObjective(Schema(actions=(Action(name="click"),), features=()), num_positions=3)
    ExaminationObjective(
      form='product', num_positions=3, examination=None
      (inner): PointwiseObjective(loss=binary_cross_entropy, shares=(1.0,))
    )

    Source: Craswell et al. 2008, "An experimental comparison of click position-bias models", WSDM (the product); Ling
    et al. 2017, "Model ensemble for click prediction in Bing search ads", WWW (a position's own logit).
    """

    def __init__(
        self,
        schema: Schema,
        inner: Objective | None = None,
        *,
        form: Literal["product", "logit"] = "product",
        num_positions: int = 30,
        examination: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if form not in ("product", "logit") or (form == "logit" and examination is not None):
            raise RecipeError(
                "no such form of examination", found=form, allowed='"product", or "logit" where it is learned'
            )
        if examination is not None:
            num_positions = len(examination)
            if not all(0 < chance <= 1 for chance in examination):
                raise RecipeError("`examination` is out of range", found=list(examination), allowed="(0, 1]")
        if num_positions < 1:
            raise RecipeError("an examination of no positions", found=num_positions, allowed="≥ 1")
        self.inner = PointwiseObjective(schema) if inner is None else inner
        self.terms = self.inner.terms
        self.form, self.examination = form, None if examination is None else tuple(examination)
        self.num_positions = num_positions
        num_actions = len(schema.actions)
        if self.examination is None:
            # half a unit below certainty in either form: e^0.5 less odds, or looked at seven times in ten
            start = 1.0 if form == "product" else -0.5
            self.logits_KA = nn.Parameter(torch.full((num_positions - 1, num_actions), start))
        else:
            known_K = torch.tensor([_logit(chance / self.examination[0]) for chance in self.examination[1:]])
            self.register_buffer("logits_KA", known_K[:, None].repeat(1, num_actions))

    @property
    def learned(self) -> Tensor:
        """e of the positions after the first, K × A."""
        return self.logits_KA.detach()

    def forward(self, encoded: Encoded, logits_CA: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """See the class."""
        place_C = batch.targets.position_C.clamp(max=self.num_positions) - 2
        moved_C = place_C >= 0
        if moved_C.any():
            rows = moved_C.nonzero()[:, 0]
            examined_CA = self.logits_KA[place_C[rows]].to(logits_CA.dtype)
            relevant_CA = logits_CA[rows]
            clicked_CA = (
                examined_logits(examined_CA, relevant_CA) if self.form == "product" else examined_CA + relevant_CA
            )
            logits_CA = logits_CA.index_copy(0, rows, clicked_CA)
        loss, count = self.inner(encoded, logits_CA, batch)
        return loss, count

    def extra_repr(self) -> str:
        """The form, and what is known."""
        return f"form={self.form!r}, num_positions={self.num_positions}, examination={self.examination}"


def examined_logits(examined: Tensor, relevant: Tensor) -> Tensor:
    """The log-odds of σ(e)·σ(z): ``−ln(exp(−e) + exp(−z) + exp(−e−z))``, finite wherever e and z are.

    >>> examined_logits(torch.zeros(1), torch.zeros(1)).sigmoid()
    tensor([0.2500])
    """
    return -torch.stack((-examined, -relevant, -examined - relevant)).logsumexp(0)


def _logit(chance: float) -> float:
    """ln(p / (1 − p)); beyond what float32 tells from certainty, 30."""
    return math.log(chance / (1 - chance)) if chance < 1 - 1e-13 else 30.0
