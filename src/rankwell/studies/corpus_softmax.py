"""Negatives that stand for a whole corpus: what each sampler learns of a truth that is known, corrected and not.

Letters: I items · T kinds of member · B targets of a batch · D width.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, final

import numpy as np
import torch
from rich.table import Table
from torch import Tensor

from rankwell.data.negatives import (
    ItemFrequency,
    MixedNegatives,
    Negatives,
    NegativeSampler,
    WeightedNegatives,
    popularity_negatives,
    sum_shift,
    uniform_negatives,
)
from rankwell.losses.item_softmax import item_softmax
from rankwell.studies.chart import Chart, Line, Panel
from rankwell.studies.study import StudyResult, shown

__all__ = ["study_corpus_softmax"]

_NUM_ITEMS: Final = 2000
_NUM_KINDS: Final = 200
_WIDTH: Final = 16
_BATCH: Final = 1024
_NUM_DRAWN: Final = 256
_HALF_LIFE: Final = 200_000.0
_RATE: Final = 0.02

Draw = Callable[[Tensor, torch.Generator], tuple[Tensor, Tensor]]
"""The targets of a batch to item ids and what is added to their logits."""


@final
@dataclass(frozen=True, slots=True)
class _World:
    """p(item | kind of member), and how popular items are over all."""

    probability_TI: Tensor
    popularity_I: Tensor
    pairs: WeightedNegatives

    @classmethod
    def drawn(cls, seed: int) -> _World:
        generator = torch.Generator().manual_seed(seed)
        base_I = -1.1 * torch.arange(1, _NUM_ITEMS + 1).double().log()
        taste_TI = torch.randn(_NUM_KINDS, 8, generator=generator) @ torch.randn(8, _NUM_ITEMS, generator=generator)
        probability_TI = torch.softmax(base_I + 0.4 * taste_TI, dim=1)
        pairs = WeightedNegatives(torch.arange(_NUM_KINDS * _NUM_ITEMS), probability_TI.ravel())
        return cls(probability_TI, probability_TI.mean(0), pairs)


def study_corpus_softmax(
    *, seeds: Sequence[int], num_steps: int = 2500, say: Callable[[str], None] = lambda _: None
) -> StudyResult:
    """Train by a softmax over all items and over samples; how well each orders the items as the truth does.

    Order is the popularity-weighted rank correlation of logits and true p(item | kind), the mean over kinds: errors
    among items that are often met count most.

    Args:
        seeds: One truth each.
        num_steps: Of 1,024 targets each.
        say: Told what is going on.
    """
    found: dict[str, list[tuple[float, float, float]]] = {}
    for seed in seeds:
        world = _World.drawn(seed)
        for name, draw in _draws(world).items():
            began = time.process_time()
            logits_TI = _learned(world, draw, num_steps, seed)
            took_ms = 1e3 * (time.process_time() - began) / num_steps
            order = _order(logits_TI, world)
            surprise = float(-(world.probability_TI * torch.log_softmax(logits_TI, dim=1)).sum(1).mean())
            entropy = float(-(world.probability_TI * world.probability_TI.log()).sum(1).mean())
            found.setdefault(name, []).append((order, surprise - entropy, took_ms))
        say(f"seed {seed}: {len(found)} kinds of negatives")
    table = Table(title=f"{_NUM_ITEMS:,} items, {num_steps:,} steps of {_BATCH:,} targets, {len(seeds)} seeds")
    for heading in ("negatives", "order, as the truth's", "nats beyond the truth", "CPU ms a step"):
        table.add_column(heading, justify="left" if heading == "negatives" else "right")
    numbers: dict[str, float] = {}
    for name, values in found.items():
        orders, losses, took = (list(column) for column in zip(*values, strict=True))
        numbers |= {f"{name}/order": float(np.mean(orders)), f"{name}/nats": float(np.mean(losses))}
        table.add_row(name, shown(orders), shown(losses), f"{np.mean(took):.2f}")
    whole, right, none, wrong = (
        numbers[f"{name}/order"] for name in ("all items", "in-batch, log Q", "in-batch, none", "in-batch, wrong sign")
    )
    finding = (
        f"In-batch negatives corrected by log Q order the items as the truth does: {right:.4f}, where a softmax over "
        f"all items has {whole:.4f}. Without the correction it is {none:.4f}, with its sign turned {wrong:.4f}."
    )
    panel = Panel(
        title="order learned", x_label="popularity-weighted rank correlation with the truth", y_label="",
        lines=(
            Line(
                name="each seed",
                x=[order for values in found.values() for order, _, _ in values],
                y=[place for place, values in enumerate(found.values()) for _ in values],
                style="dots",
            ),
        ),
        y_names={float(place): name for place, name in enumerate(found)},
    )  # fmt: skip
    chart = Chart(
        name="corpus",
        title="A few negatives for all",
        caption="How well the order of learned logits is that of p(item | member), errors among popular items counting "
        "most. All are trained on the same targets; they differ in what stands for the rest of the corpus.",
        description="Rank correlations with the truth for nine kinds of negatives.",
        panels=(panel,),
    )
    return StudyResult("corpus", (table,), finding, numbers, (chart,))


def _draws(world: _World) -> dict[str, Draw]:
    items_I = torch.arange(_NUM_ITEMS)
    uniform, popular = uniform_negatives(items_I), popularity_negatives(items_I, world.popularity_I, power=0.75)
    mixed = MixedNegatives((uniform, popular), (0.5, 0.5))
    return {
        "all items": lambda _, __: (items_I, torch.zeros(_NUM_ITEMS)),
        "in-batch, log Q": _InBatch(times=1.0),
        "in-batch, none": _InBatch(times=0.0),
        "in-batch, wrong sign": _InBatch(times=-1.0),
        f"{_NUM_DRAWN} uniform": partial(_sampled, uniform),
        f"{_NUM_DRAWN} by popularity^¾": partial(_sampled, popular),
        f"{_NUM_DRAWN} by popularity^¾, none": partial(_uncorrected, popular),
        f"{_NUM_DRAWN} mixed": partial(_sampled, mixed),
    }


def _sampled(sampler: NegativeSampler, _: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return sum_shift(sampler.draw(_NUM_DRAWN, generator=generator))


def _uncorrected(sampler: NegativeSampler, _: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    item_ids_U, counts_U = torch.unique(sampler.draw(_NUM_DRAWN, generator=generator).item_ids_n, return_counts=True)
    return item_ids_U, counts_U.double().log()


@final
class _InBatch:
    """The batch's targets, ln q taken off so many times."""

    def __init__(self, *, times: float) -> None:
        self._times = times
        self._frequency = ItemFrequency(half_life=_HALF_LIFE)

    def __call__(self, targets_B: Tensor, _: torch.Generator) -> tuple[Tensor, Tensor]:
        self._frequency.observe(targets_B)
        negatives: Negatives = self._frequency.in_batch(targets_B)
        item_ids_U, shift_U = sum_shift(negatives, num_draws=len(targets_B) - 1)
        return item_ids_U, shift_U + (1 - self._times) * self._frequency.log_probability(item_ids_U)


def _learned(world: _World, draw: Draw, num_steps: int, seed: int) -> Tensor:
    """Logits of all pairs after so many steps of Adam, the rate falling to 0."""
    generator = torch.Generator().manual_seed(seed + 1)
    state_TD = (0.3 * torch.randn(_NUM_KINDS, _WIDTH, generator=generator)).requires_grad_()
    item_ID = (0.3 * torch.randn(_NUM_ITEMS, _WIDTH, generator=generator)).requires_grad_()
    bias_I = torch.zeros(_NUM_ITEMS, requires_grad=True)
    optimizer = torch.optim.Adam([state_TD, item_ID, bias_I], lr=_RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / num_steps)
    for _ in range(num_steps):
        pair_B = world.pairs.draw(_BATCH, generator=generator).item_ids_n
        kind_B, target_B = pair_B // _NUM_ITEMS, pair_B % _NUM_ITEMS
        items_U, shift_U = draw(target_B, generator)
        place_B = torch.searchsorted(items_U, target_B).clamp(max=len(items_U) - 1)
        place_B = torch.where(items_U[place_B] == target_B, place_B, -1)
        item_1 = torch.cat([item_ID, bias_I[:, None]], dim=1)  # a bias is a product with 1
        state_BD = torch.cat([state_TD[kind_B], torch.ones(_BATCH, 1)], dim=1)
        loss = item_softmax(
            state_BD, item_1[target_B], item_1[items_U], place_n=place_B,
            weights_n=torch.full((_BATCH,), 1 / _BATCH), shift_U=shift_U,
        )  # fmt: skip
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    with torch.inference_mode():
        return (state_TD @ item_ID.T + bias_I).double()


def _order(logits_TI: Tensor, world: _World) -> float:
    """The popularity-weighted correlation of ranks, the mean over kinds of members."""
    weight_I = world.popularity_I / world.popularity_I.sum()
    ranks = [matrix.argsort(1).argsort(1).double() for matrix in (logits_TI, world.probability_TI)]
    centred = [ranks_TI - (ranks_TI * weight_I).sum(1, keepdim=True) for ranks_TI in ranks]
    mine, true = centred
    covariance_T = (weight_I * mine * true).sum(1)
    variance_T = (weight_I * mine**2).sum(1) * (weight_I * true**2).sum(1)
    return float((covariance_T / variance_T.sqrt()).mean())
