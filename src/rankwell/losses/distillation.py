"""Losses that bring a model near to another's logits: their labels are the teacher's logits.

A loss has one place for what is to be learned, and here a teacher's logits stand in it, as they are: the temperature
and the list are the loss's own affair, and a teacher of any kind, with or without a gradient, will do. Who trains
computes them for the candidates at hand, by a frozen model or from a column of the log, gives weight 0 where there are
none, and adds these losses, by their shares, to those on the labels of the log.

Letters in names: C candidates, flat over the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from rankwell.losses.lists import CandidateLists, check_setting, list_cross_entropy

__all__ = ["Distillation", "ListDistillation"]


@final
@dataclass(frozen=True, slots=True)
class Distillation:
    """Probability by probability: ``Σ w · T² · KL(σ(t / T) ‖ σ(z / T))``, with the teacher's logits t for labels.

    Least, and 0, at the teacher's logits at any temperature. T² keeps slopes of one size: of logits far below T the
    loss is w·(z - t)² / 8. At T = 1 a teacher's probabilities count as soft labels, with a calibrated teacher's a
    student stays calibrated; greater temperatures weigh differences of logits more evenly.

    Args:
        temperature: T > 0.

    Raises:
        RecipeError: The temperature is not finite or not above 0.

    >>> import torch
    >>> loss, teacher_C = Distillation(temperature=2.0), torch.tensor([2.0, -3.0, float("nan")])
    >>> loss(torch.tensor([2.0, -1.0, 0.0]), teacher_C, request_C=torch.tensor([0, 0, 0]),
    ...      weights_C=torch.tensor([1.0, 1.0, 0.0]))
    tensor(0.3610)

    Source: Hinton, Vinyals and Dean 2015, "Distilling the knowledge in a neural network", with two classes.
    """

    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_setting("Distillation", "temperature", self.temperature)

    def __call__(self, logits_C: Tensor, labels_C: Tensor, *, request_C: Tensor, weights_C: Tensor) -> Tensor:
        """Σ w·ℓ in nats, a sum.

        Args:
            logits_C: z of the student, natural log-odds.
            labels_C: t, the teacher's logits; NaN allowed where the weight is 0.
            request_C: int64; not looked at.
            weights_C: w ≥ 0.
        """
        known_C = labels_C.masked_fill(weights_C == 0, 0.0)
        student_C = logits_C.to(torch.promote_types(logits_C.dtype, labels_C.dtype)) / self.temperature
        teacher_C = known_C.to(student_C.dtype) / self.temperature
        target_C = torch.sigmoid(teacher_C)
        both_CE = [binary_cross_entropy_with_logits(z_C, target_C, reduction="none") for z_C in (student_C, teacher_C)]
        return self.temperature**2 * (weights_C * (both_CE[0] - both_CE[1])).sum()


@final
@dataclass(frozen=True, slots=True)
class ListDistillation:
    """List by list: ``Σ_r W_r · T² · KL(softmax(t / T) ‖ softmax(z / T))``, with the teacher's logits t for labels.

    W_r is the request's summed weight. What all logits of a request have in common counts on neither side: of a teacher
    whose logits order only, this learns the order and how clear it is, and no probability.

    Args:
        temperature: T > 0.

    Raises:
        RecipeError: The temperature is not finite or not above 0.

    >>> import torch
    >>> loss, teacher_C = ListDistillation(), torch.tensor([7.0, 6.0])
    >>> loss(torch.tensor([0.0, 0.0]), teacher_C, request_C=torch.tensor([0, 0]), weights_C=torch.ones(2))
    tensor(0.2219)

    Source: Cao et al. 2007, "Learning to rank: from pairwise approach to listwise approach", with a teacher for labels;
    Hinton, Vinyals and Dean 2015, "Distilling the knowledge in a neural network".
    """

    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_setting("ListDistillation", "temperature", self.temperature)

    def __call__(self, logits_C: Tensor, labels_C: Tensor, *, request_C: Tensor, weights_C: Tensor) -> Tensor:
        """Σ w·ℓ in nats, a sum.

        Args:
            logits_C: z of the student.
            labels_C: t, the teacher's logits; NaN allowed where the weight is 0.
            request_C: int64, ascending.
            weights_C: w ≥ 0; a row of weight 2 is two such candidates, and with all of a request's weights doubled it
                counts twice.
        """
        lists = CandidateLists.of(logits_C, labels_C, request_C=request_C, weights_C=weights_C)
        shares_C = torch.exp(-lists.surprise(lists.labels_C / self.temperature))
        mass_C = lists.sum(lists.weights_C)[lists.list_C] * shares_C
        return self.temperature**2 * list_cross_entropy(lists, lists.logits_C / self.temperature, mass_C)
