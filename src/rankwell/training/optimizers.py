"""Which optimizer moves what: a torch optimizer for dense parameters, a row rule for each table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from rankwell.errors import RecipeError, TrainingError
from rankwell.models.model import Model
from rankwell.tables.row_optimizers import RowOptimizer, RowWiseAdaGrad

__all__ = ["DenseAdamW", "OptimizerPlan", "Optimizers"]


@final
@dataclass(frozen=True, kw_only=True)
class DenseAdamW:
    """Settings of torch's AdamW (fused) for dense parameters; only matrices decay, biases and norms don't.

    Args:
        learning_rate: η > 0, at the start; the loop may lower it.
        betas: Of the running means of gradient and squared gradient, each in [0, 1).
        epsilon: > 0, beside the root of the mean squared gradient.
        decay: λ ≥ 0: each step shrinks matrices by (1 - η λ) besides.

    Raises:
        TrainingError: A setting is out of range.

    >>> layer = nn.Linear(3, 2)
    >>> [(group["weight_decay"], [tuple(p.shape) for p in group["params"]])
    ...  for group in DenseAdamW(decay=0.1).build(layer).param_groups]
    [(0.1, [(2, 3)]), (0.0, [(2,)])]

    Source: Loshchilov & Hutter 2019, "Decoupled weight decay regularization", ICLR.
    """

    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    decay: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.learning_rate < math.inf:
            raise TrainingError("the dense learning_rate is out of range", found=self.learning_rate, allowed="> 0")
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

    def build(self, *modules: nn.Module) -> AdamW:
        """The optimizer over all parameters of the modules, each once; it may have none."""
        parameters = list(dict.fromkeys(parameter for module in modules for parameter in module.parameters()))
        groups = [{"params": parameters, "weight_decay": 0.0}]  # each group costs its own round of calls a step
        if self.decay:
            matrices = [p for p in parameters if p.ndim > 1]
            vectors = [p for p in parameters if p.ndim <= 1]
            groups = [{"params": matrices, "weight_decay": self.decay}, {"params": vectors, "weight_decay": 0.0}]
        return AdamW(
            [group for group in groups if group["params"]] or groups[:1],  # torch wants at least one group
            lr=self.learning_rate, betas=self.betas, eps=self.epsilon, fused=True,
        )  # fmt: skip


@final
@dataclass(frozen=True, kw_only=True)
class OptimizerPlan:
    """Who moves what.

    Args:
        dense: For dense parameters.
        rows: A rule for each table of the model by the name of its part.
        default_rows: The rule of tables that `rows` doesn't name.

    >>> OptimizerPlan(rows={"wide": RowWiseAdaGrad(learning_rate=0.1)}).rows["wide"].learning_rate
    0.1
    """

    dense: DenseAdamW = field(default_factory=DenseAdamW)
    rows: Mapping[str, RowOptimizer] = field(default_factory=dict)
    default_rows: RowOptimizer = field(default_factory=RowWiseAdaGrad)

    def start(self, model: Model, objective: nn.Module) -> Optimizers:
        """Build all of them for a model and an objective's own parameters; the tables' states start at 0.

        Raises:
            RecipeError: `rows` names a table that the model hasn't.
        """
        unknown = set(self.rows) - set(model.tables)
        if unknown:
            raise RecipeError(
                "the plan names tables that the model hasn't", found=sorted(unknown), allowed=sorted(model.tables)
            )
        for part, table in model.tables.items():
            table.train_with(self.rows.get(part, self.default_rows))
        optimizers = Optimizers(model, self.dense.build(model, objective))
        optimizers.abandon()  # what others lent or left in a gradient is none of this training's
        return optimizers


@final
class Optimizers:
    """All optimizers of one training, stepping as one; made by `OptimizerPlan.start`."""

    def __init__(self, model: Model, dense: AdamW) -> None:
        self._tables, self._dense = model.tables, dense
        self._dense_rates = [group["lr"] for group in dense.param_groups]

    def step(self) -> None:
        """Move dense parameters and the rows lent since the last step."""
        self._dense.step()
        self._dense.zero_grad()
        for table in self._tables.values():
            table.apply()

    def abandon(self) -> None:
        """Drop gradients and loans, moving nothing."""
        self._dense.zero_grad()
        for table in self._tables.values():
            table.abandon()

    @property
    def learning_rate(self) -> float:
        """η of the dense parameters."""
        return float(self._dense.param_groups[0]["lr"])

    def set_rate(self, factor: float) -> None:
        """Set all learning rates, dense and rows', to `factor` > 0 times those of the plan."""
        for group, rate in zip(self._dense.param_groups, self._dense_rates, strict=True):
            group["lr"] = rate * factor
        for table in self._tables.values():
            if table.rule is not None:
                table.learning_rate = table.rule.learning_rate * factor

    def state(self) -> dict[str, Tensor]:
        """Dense optimizer state as flat names to tensors (tables keep theirs themselves)."""
        described = self._dense.state_dict()
        flat = {
            f"{index}.{name}": value for index, entries in described["state"].items() for name, value in entries.items()
        }
        rates = [group["lr"] for group in described["param_groups"]]
        return {**flat, "learning_rates": torch.tensor(rates, dtype=torch.float64)}

    def load_state(self, flat: Mapping[str, Tensor]) -> None:
        """Take what `state` gave."""
        described = self._dense.state_dict()
        entries: dict[int, dict[str, Tensor]] = {}
        for name, value in flat.items():
            if name != "learning_rates":
                index, key = name.split(".", 1)
                entries.setdefault(int(index), {})[key] = value.clone()
        for group, rate in zip(described["param_groups"], flat["learning_rates"].tolist(), strict=True):
            group["lr"] = rate
        self._dense.load_state_dict({"state": entries, "param_groups": described["param_groups"]})
