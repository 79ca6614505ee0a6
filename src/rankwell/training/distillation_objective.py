"""A student is trained on the log's labels and on what a teacher says of the same candidates.

Letters: C candidates, flat · A actions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import final

from torch import Tensor

from rankwell.errors import RecipeError
from rankwell.losses.distillation import Distillation
from rankwell.losses.loss import Loss
from rankwell.losses.pointwise import SmoothedBinaryCrossEntropy
from rankwell.schema import Schema
from rankwell.training.objectives import Objective, PointwiseObjective
from rankwell.training.teacher import Teacher
from rankwell.types import Batch, Encoded

__all__ = ["DistillationObjective"]


@final
class DistillationObjective(Objective):
    """What `inner` says of the labels, and how far the student is from its teacher, by their shares.

    ``(1 − share) · inner + share · Σ_a share_a · Σ_c w_c · T² · KL(σ(t_ca / T) ‖ σ(z_ca / T))``, over the candidates of
    which some action was observed, with the teacher's logits t; what is muted by its weight is not taught, either. An
    action that was not observed is taught where another of the candidate's was. The count is `inner`'s, and a weight
    that corrects for down-sampling corrects both sums alike.

    A teacher answers in log-odds of true labels (its own label smoothing undone), so labels beside it must not be
    smoothed: one logit cannot be of both. Where `inner` wraps the logits (an examination, an isotonic layer), the
    teacher's are compared with those of the model itself: it must have been trained in the same way.

    Of a training with `DropNegatives` a teacher that reads lists sees lists that are too short, and a recorded one
    refuses them: take `MuteNegatives`.

    Args:
        schema: Declares the actions.
        teacher: Gives the logits; see `rankwell.training.teacher`. Without one, this is `inner`.
        inner: By default `PointwiseObjective`.
        loss: Whose labels are the teacher's logits: `Distillation` or `ListDistillation`.
        share: Of the teacher, in [0, 1]; at 1 the labels don't count.
        actions: share_a, what each action's teaching counts, ≥ 0, 1 for those not named; 0 leaves one out.

    Raises:
        RecipeError: A share is out of range, an action is unknown to the schema or to the teacher, or `inner` smooths
            labels.

    >>> from rankwell.schema import Action
    >>> DistillationObjective(Schema(actions=(Action(name="click"),), features=()), loss=Distillation(2.0), share=0.7)
    DistillationObjective(
      teacher=None, loss=Distillation(temperature=2.0), share=0.7, actions={}
      (inner): PointwiseObjective(loss=binary_cross_entropy, shares=(1.0,))
    )

    Source: Hinton, Vinyals and Dean 2015, "Distilling the knowledge in a neural network"; Tang and Wang 2018, "Ranking
    distillation: learning compact ranking models with high performance for recommender system", KDD.
    """

    def __init__(
        self,
        schema: Schema,
        teacher: Teacher | None = None,
        inner: Objective | None = None,
        *,
        loss: Loss | None = None,
        share: float = 0.5,
        actions: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.inner = PointwiseObjective(schema) if inner is None else inner
        self.terms = self.inner.terms
        self.loss: Loss = Distillation() if loss is None else loss
        self.teacher, self.share, self.actions = teacher, share, dict(actions or {})
        if not 0 <= share <= 1:
            raise RecipeError("a teacher's share is out of range", found=share, allowed="[0, 1]")
        wrong = {name: value for name, value in self.actions.items() if not (math.isfinite(value) and value >= 0)}
        if wrong:
            raise RecipeError("an action cannot be taught by this share", found=wrong, allowed="finite, ≥ 0")
        for name in self.actions:
            schema.action_index(name)
        smoothed = [
            term.loss for term in self.terms if term.share and isinstance(term.loss, SmoothedBinaryCrossEntropy)
        ]
        if teacher is not None and any(loss.epsilon for loss in smoothed):
            raise RecipeError(
                "labels are smoothed beside a teacher", found=smoothed, allowed="binary_cross_entropy, or ε = 0",
                do="drop the smoothing: a teacher's probabilities are soft already",
            )  # fmt: skip
        self._taught: list[tuple[int, int, float]] = []  # place here, place in the teacher's logits, share
        if teacher is not None:
            for index, action in enumerate(schema.actions):
                if part := share * self.actions.get(action.name, 1.0):
                    self._taught.append((index, _place(action.name, teacher), part))
            if share == 1 and not self._taught:
                raise RecipeError("the objective has nothing to minimise", found=f"share=1, actions={self.actions}")

    def forward(self, encoded: Encoded, logits_CA: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """See the class."""
        loss, count = self.inner(encoded, logits_CA, batch)
        if self.teacher is None or not self.share:
            return loss, count
        loss = (1 - self.share) * loss if self.share < 1 else logits_CA.new_zeros(())
        targets, request_C = batch.targets, batch.features.request_C
        weights_C = targets.weights_C * targets.observed_CA.any(1)
        logits, taught = logits_CA.unbind(1), self.teacher.logits_CA(batch).unbind(1)
        for index, place, share in self._taught:
            known_C = weights_C * ~taught[place].isnan()
            loss = loss + share * self.loss(logits[index], taught[place], request_C=request_C, weights_C=known_C)
        return loss, count

    def extra_repr(self) -> str:
        """The teacher, the loss and the shares."""
        return f"teacher={self.teacher}, loss={self.loss}, share={self.share}, actions={self.actions}"


def _place(action: str, teacher: Teacher) -> int:
    if action not in teacher.actions:
        raise RecipeError(
            f"the teacher knows nothing of action {action!r}", found=list(teacher.actions),
            do="give that action the share 0 in `actions`, or take a teacher that was trained on it",
        )  # fmt: skip
    return list(teacher.actions).index(action)
