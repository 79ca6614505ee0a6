"""Cross-entropy of a softmax over many items, whose logits never stand in memory all at once.

Letters: n states, one target each · U items · D width · b states of one block.

Source: Kang and McAuley 2018, "Self-attentive sequential recommendation", ICDM (all positions); Jean et al. 2015, "On
using very large target vocabulary for neural machine translation", ACL (a sample of the items, corrected for how likely
each was drawn).
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from rankwell.losses.lists import with_gradient

__all__ = ["item_softmax"]

_LOGITS_PER_BLOCK: Final = 2**21
"""8 MB: the block's exponentials are read again while they are in the processor's cache."""


def item_softmax(
    state_nD: Tensor,
    target_nD: Tensor,
    item_UD: Tensor,
    *,
    place_n: Tensor,
    weights_n: Tensor,
    shift_U: Tensor | None = None,
) -> Tensor:
    """How surprising the targets are among the items, ``Σ_n w_n · ln(1 + Σ_u≠target e^(z_nu + shift_u - z_n))``.

    z_nu is the product of a state and an item's vector, z_n that of the state and its target's. A block of logits
    becomes its share of the gradient at once, so memory is that of states and items, never of all their pairs. It can
    be differentiated once.

    Args:
        state_nD: What foretells.
        target_nD: Vectors of the targets.
        item_UD: Vectors of the items that the targets are held against.
        place_n: int64, where a target itself stands among the items, -1 where it doesn't: it counts once.
        weights_n: ≥ 0.
        shift_U: Added to the items' logits, not to the targets': `rankwell.data.negatives.sum_shift` where the items
            are a sample, so that their sum stands for that of all; 0 by default.

    Returns:
        A scalar in nats; 0 where nothing has weight, or there is no other item.

    >>> state_nD, item_UD = torch.tensor([[1.0]]), torch.tensor([[0.0], [0.0], [0.0]])
    >>> item_softmax(state_nD, item_UD[:1], item_UD, place_n=torch.tensor([0]), weights_n=torch.ones(1)) # ln 3
    tensor(1.0986)
    """
    num_states, num_items = len(state_nD), len(item_UD)
    states, targets, items, weights_n = (x.detach().float() for x in (state_nD, target_nD, item_UD, weights_n))
    by_state, by_target, by_item = torch.zeros_like(states), torch.zeros_like(targets), torch.zeros_like(items)
    total = states.new_zeros((), dtype=torch.float64)
    shift_U = states.new_zeros(num_items) if shift_U is None else shift_U.detach().float()
    step = max(_LOGITS_PER_BLOCK // max(num_items, 1), 1)
    for start in range(0, num_states if num_items else 0, step):
        here = slice(start, start + step)
        state_bD, target_bD, weights_b = states[here], targets[here], weights_n[here]
        logits_bU = torch.addmm(shift_U, state_bD, items.T)
        standing_b = (place_n[here] >= 0).nonzero().squeeze(1)
        logits_bU[standing_b, place_n[here][standing_b]] = -torch.inf
        target_b = (state_bD * target_bD).sum(1)
        top_b = torch.maximum(logits_bU.amax(1), target_b)
        # in place from here on: logits become shares, and shares the gradient
        others_b = logits_bU.sub_(top_b.unsqueeze(1)).exp_().sum(1)
        own_b = torch.exp(target_b - top_b)
        sum_b = others_b + own_b
        total += (weights_b * (top_b + sum_b.log() - target_b)).sum()
        by_logit_bU = logits_bU.mul_((weights_b / sum_b).unsqueeze(1))
        by_own_b1 = (-weights_b * others_b / sum_b).unsqueeze(1)
        by_state[here] = torch.addmm(by_own_b1 * target_bD, by_logit_bU, items)
        by_target[here] = by_own_b1 * state_bD
        by_item.addmm_(by_logit_bU.T, state_bD)
    value = with_gradient(state_nD, total.float(), by_state.to(state_nD.dtype))
    nothing = torch.zeros_like(value)
    value = value + with_gradient(target_nD, nothing, by_target.to(target_nD.dtype))
    return value + with_gradient(item_UD, nothing, by_item.to(item_UD.dtype))
