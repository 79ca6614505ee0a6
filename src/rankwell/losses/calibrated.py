"""Losses that rank list by list and leave a probability a probability: all their parts are least at the truth.

A softmax over a request's logits doesn't see a constant added to them, and what is best for its order is best for it
whatever the probabilities are. A softmax over ``ln σ(z)``, that is, shares ``σ(z_i) / Σ σ(z_j)``, is least where each
candidate has its share of the request's actions, and true probabilities give just that: the pull of the list and that
of the single candidate have one minimum.

Letters in names: C candidates, flat over the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from rankwell.losses.lists import CandidateLists, check_setting, list_cross_entropy

__all__ = ["JointRankingCalibration", "RegressionCompatibleRanking", "sigmoid_list_cross_entropy"]


def sigmoid_list_cross_entropy(logits_C: Tensor, labels_C: Tensor, *, request_C: Tensor, weights_C: Tensor) -> Tensor:
    """Whose actions they were, by shares of probability: ``Σ_r Y_r · KL(y / Y ‖ σ(z) / Σ σ(z))``.

    Y is the request's Σ w·y. It is least where σ(z) is proportional to the expected label, so at the truth of a binary
    action, and at any multiple of it: alone it orders, with a pointwise loss beside it (`RegressionCompatibleRanking`)
    it stays calibrated. Of grades or gains it is least where σ(z) is proportional to the expected gain, which p(grade ≥
    threshold) need not be; two terms of an `ActionObjective`, each with labels of its own, then say what is wanted.

    Args:
        logits_C: z, natural log-odds.
        labels_C: y ≥ 0: 0 or 1, probabilities, grades or gains; NaN allowed where the weight is 0.
        request_C: int64, ascending.
        weights_C: w ≥ 0; a row of weight 2 is two such candidates, and with all of a request's weights doubled it
            counts twice.

    Returns:
        A scalar in nats, a sum; 0 when no label is above 0.

    >>> import torch
    >>> logits_C, labels_C = torch.tensor([0.0, -1.0986]), torch.tensor([1.0, 0.0])  # probabilities of 1/2 and 1/4
    >>> sigmoid_list_cross_entropy(logits_C, labels_C, request_C=torch.tensor([0, 0]), weights_C=torch.ones(2))
    tensor(0.4055)

    Source: Bai et al. 2023, "Regression compatible listwise objectives for calibrated ranking with binary relevance",
    CIKM, equation 8.
    """
    lists = CandidateLists.of(logits_C, labels_C, request_C=request_C, weights_C=weights_C)
    return list_cross_entropy(lists, logsigmoid(lists.logits_C), lists.labels_C)


@final
@dataclass(frozen=True, slots=True)
class RegressionCompatibleRanking:
    """RCR: binary cross-entropy, and `share` times `sigmoid_list_cross_entropy`.

    For binary labels both are least at the truth, whatever the share. A grade counts as 1 from 1 on in the first, and
    by its size in the second; for other thresholds and for gains see `sigmoid_list_cross_entropy`.

    Both parts are likelihoods and count in nats: of each label, and of each action among the candidates of its request.
    So a share near 1 weighs them alike, for lists of any length.

    Args:
        share: Of the list's part, ≥ 0.

    Raises:
        RecipeError: The share is not finite or is negative.

    >>> import torch
    >>> logits_C, labels_C = torch.zeros(2), torch.tensor([1.0, 0.0])
    >>> loss = RegressionCompatibleRanking()
    >>> loss(logits_C, labels_C, request_C=torch.tensor([0, 0]), weights_C=torch.ones(2))  # 2 ln 2 + ln 2
    tensor(2.0794)

    Source: Bai et al. 2023, "Regression compatible listwise objectives for calibrated ranking with binary relevance",
    CIKM.
    """

    share: float = 1.0

    def __post_init__(self) -> None:
        check_setting("RegressionCompatibleRanking", "share", self.share, may_be_zero=True)

    def __call__(self, logits_C: Tensor, labels_C: Tensor, *, request_C: Tensor, weights_C: Tensor) -> Tensor:
        """Σ w·ℓ in nats, a sum; arguments as in `sigmoid_list_cross_entropy`."""
        lists = CandidateLists.of(logits_C, labels_C, request_C=request_C, weights_C=weights_C)
        return _single(lists) + self.share * list_cross_entropy(lists, logsigmoid(lists.logits_C), lists.labels_C)


@final
@dataclass(frozen=True, slots=True)
class JointRankingCalibration:
    """JRC: binary cross-entropy, and `share` times whose actions, and whose refusals, a request's were.

    The paper's network has a logit f_1 for action and f_0 for none, says p = σ(f_1 - f_0), and adds the softmax over a
    request's f_1 of what was acted on, and over its f_0 of what was not. One logit z = f_1 - f_0 leaves their sum open.
    Here it is chosen so that e^f_1 + e^f_0 = 1: ``f_1 = ln σ(z)`` and ``f_0 = ln σ(-z)``::

        Σ w·BCE(z, y) + share · Σ_r (Y_r · KL(y / Y ‖ σ(z) / Σ σ(z)) + N_r · KL((1 - y) / N ‖ σ(-z) / Σ σ(-z)))

    with Y = Σ w·y and N = Σ w·(1 - y). With this choice all three parts are least at the truth, as the paper's are
    with two free logits; with ``f_1 = z / 2`` and ``f_0 = -z / 2`` the softmaxes would ask for odds squared. So in one
    logit JRC is RCR and a pull on the candidates that were refused, which is weak where actions are rare.

    Args:
        share: Of the two lists' parts, ≥ 0; (1 - α) / α of the paper.

    Raises:
        RecipeError: The share is not finite or is negative.

    >>> import torch
    >>> logits_C, labels_C = torch.zeros(2), torch.tensor([1.0, 0.0])
    >>> loss = JointRankingCalibration()
    >>> loss(logits_C, labels_C, request_C=torch.tensor([0, 0]), weights_C=torch.ones(2))  # 2 ln 2 + ln 2 + ln 2
    tensor(2.7726)

    Source: Sheng et al. 2023, "Joint optimization of ranking and calibration with contextualized hybrid model", KDD.
    """

    share: float = 1.0

    def __post_init__(self) -> None:
        check_setting("JointRankingCalibration", "share", self.share, may_be_zero=True)

    def __call__(self, logits_C: Tensor, labels_C: Tensor, *, request_C: Tensor, weights_C: Tensor) -> Tensor:
        """Σ w·ℓ in nats, a sum; arguments as in `sigmoid_list_cross_entropy`."""
        lists = CandidateLists.of(logits_C, labels_C, request_C=request_C, weights_C=weights_C)
        acted = list_cross_entropy(lists, logsigmoid(lists.logits_C), lists.labels_C)
        refused = list_cross_entropy(lists, logsigmoid(-lists.logits_C), 1.0 - lists.labels_C.clamp(max=1.0))
        return _single(lists) + self.share * (acted + refused)


def _single(lists: CandidateLists) -> Tensor:
    """Binary cross-entropy; a grade counts as 1 from 1 on."""
    labels_C = lists.labels_C.clamp(max=1.0)
    return binary_cross_entropy_with_logits(lists.logits_C, labels_C, weight=lists.weights_C, reduction="sum")
