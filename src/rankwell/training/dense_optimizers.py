"""Settings of the torch optimizers that move dense parameters: matrices and biases, each in every batch."""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import nn

from rankwell.errors import TrainingError

__all__ = ["DenseAdaGrad", "DenseAdamW", "DenseOptimizer", "DenseSgd"]


@dataclass(frozen=True, kw_only=True)
class DenseOptimizer(abc.ABC):
    """The contract of all of them: frozen settings that build a torch optimizer over the parameters of one group.

    Args:
        learning_rate: η > 0, at the start; warm-up and the loop may lower it.

    Raises:
        TrainingError: A setting is out of range.
    """

    learning_rate: float

    def __post_init__(self) -> None:
        if not 0 < self.learning_rate < math.inf:
            raise TrainingError("the dense learning_rate is out of range", found=self.learning_rate, allowed="> 0")

    @property
    @abc.abstractmethod
    def state_per_value(self) -> int:
        """How many numbers it remembers beside each number it moves."""

    @abc.abstractmethod
    def build(self, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimizer over these parameters, each named once; there may be none."""


@final
@dataclass(frozen=True, kw_only=True)
class DenseAdamW(DenseOptimizer):
    """torch's AdamW (fused); only matrices decay, biases and norms don't.

    Args:
        learning_rate: See `DenseOptimizer`.
        betas: Of the running means of gradient and squared gradient, each in [0, 1).
        epsilon: > 0, beside the root of the mean squared gradient.
        decay: λ ≥ 0: each step shrinks matrices by (1 - η λ) besides.

    >>> layer = nn.Linear(3, 2)
    >>> [(group["weight_decay"], [tuple(p.shape) for p in group["params"]])
    ...  for group in DenseAdamW(decay=0.1).build(list(layer.parameters())).param_groups]
    [(0.1, [(2, 3)]), (0.0, [(2,)])]

    Source: Loshchilov & Hutter 2019, "Decoupled weight decay regularization", ICLR.
    """

    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    decay: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.decay * self.learning_rate < 1:
            raise TrainingError(
                "the dense decay is out of range", found=self.decay, allowed="0 ≤ learning_rate · decay < 1"
            )
        if not all(0 <= beta < 1 for beta in self.betas) or not 0 < self.epsilon < math.inf:
            raise TrainingError(
                "betas or epsilon of the dense optimizer are out of range",
                found=(self.betas, self.epsilon),
                allowed="betas in [0, 1), epsilon > 0",
            )

    @property
    def state_per_value(self) -> int:
        """Two means."""
        return 2

    def build(self, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
        """See `DenseOptimizer`."""
        return torch.optim.AdamW(
            _decayed(parameters, self.decay), lr=self.learning_rate, betas=self.betas, eps=self.epsilon, fused=True
        )


@final
@dataclass(frozen=True, kw_only=True)
class DenseSgd(DenseOptimizer):
    """torch's SGD (fused): v ← μ v + g + λ w, w ← w - η v; only matrices have the λ.

    Args:
        learning_rate: See `DenseOptimizer`.
        momentum: μ in [0, 1).
        l2: λ ≥ 0, the strength of a penalty ½ λ ‖w‖² that is part of the gradient.

    >>> weight = nn.Parameter(torch.tensor([1.0]))
    >>> sgd = DenseSgd(learning_rate=0.1, momentum=0.5).build([weight])
    >>> for _ in range(2):
    ...     weight.grad = torch.tensor([1.0])
    ...     sgd.step()
    >>> weight  # 1 - .1 · 1 - .1 · 1.5
    Parameter containing:
    tensor([0.7500], requires_grad=True)

    Source: Polyak 1964, "Some methods of speeding up the convergence of iteration methods".
    """

    learning_rate: float = 0.1
    momentum: float = 0.9
    l2: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.momentum < 1 or not 0 <= self.l2 < math.inf:
            raise TrainingError(
                "momentum or l2 of the dense optimizer are out of range",
                found=(self.momentum, self.l2), allowed="momentum in [0, 1), l2 ≥ 0",
            )  # fmt: skip

    @property
    def state_per_value(self) -> int:
        """The velocity, where there is momentum."""
        return 1 if self.momentum else 0

    def build(self, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
        """See `DenseOptimizer`."""
        return torch.optim.SGD(_decayed(parameters, self.l2), lr=self.learning_rate, momentum=self.momentum, fused=True)


@final
@dataclass(frozen=True, kw_only=True)
class DenseAdaGrad(DenseOptimizer):
    """torch's Adagrad (fused): A ← A + g², w ← w - η g / (√A + ε).

    Args:
        learning_rate: See `DenseOptimizer`.
        epsilon: ε > 0.

    >>> weight = nn.Parameter(torch.tensor([1.0, 1.0]))
    >>> adagrad = DenseAdaGrad(learning_rate=0.1).build([weight])
    >>> weight.grad = torch.tensor([3.0, -0.5])
    >>> adagrad.step()
    >>> weight.tolist()  # the first step is as long for every parameter
    [0.8999..., 1.1000...]

    Source: Duchi, Hazan & Singer 2011, "Adaptive subgradient methods", JMLR 12.
    """

    learning_rate: float = 0.05
    epsilon: float = 1e-10

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.epsilon < math.inf:
            raise TrainingError("epsilon of the dense optimizer is out of range", found=self.epsilon, allowed="> 0")

    @property
    def state_per_value(self) -> int:
        """The sum of squares."""
        return 1

    def build(self, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
        """See `DenseOptimizer`."""
        return torch.optim.Adagrad(_decayed(parameters, 0.0), lr=self.learning_rate, eps=self.epsilon, fused=True)


def _decayed(parameters: Sequence[nn.Parameter], strength: float) -> list[dict[str, Any]]:
    """torch's groups: matrices, which decay, and the rest; one group, if it may be empty, where nothing decays."""
    groups: list[dict[str, Any]] = [{"params": list(parameters), "weight_decay": 0.0}]  # each costs a round of calls
    if strength:
        matrices = [p for p in parameters if p.ndim > 1]
        vectors = [p for p in parameters if p.ndim <= 1]
        split = [{"params": matrices, "weight_decay": strength}, {"params": vectors, "weight_decay": 0.0}]
        groups = [group for group in split if group["params"]] or groups  # torch wants at least one group
    return groups
