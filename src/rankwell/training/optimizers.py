"""Which optimizer moves what: a torch optimizer for dense parameters, a row rule for each table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from rankwell.errors import RecipeError
from rankwell.models.model import Model
from rankwell.tables.row_optimizers import RowOptimizer, RowWiseAdaGrad

__all__ = ["DenseAdamW", "OptimizerPlan", "Optimizers"]


@final
@dataclass(frozen=True, kw_only=True)
class DenseAdamW:
    """Settings of torch's AdamW (fused) for dense parameters; biases and norms don't decay.

    Source: Loshchilov & Hutter 2019, "Decoupled weight decay regularization", ICLR.
    """

    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    decay: float = 0.0

    def build(self, *modules: nn.Module) -> AdamW:
        """The optimizer over all parameters of the modules."""
        parameters = [parameter for module in modules for parameter in module.parameters()]
        groups = [{"params": parameters, "weight_decay": 0.0}]  # each group costs its own round of calls a step
        if self.decay:
            matrices = [p for p in parameters if p.ndim > 1]
            vectors = [p for p in parameters if p.ndim <= 1]
            groups = [{"params": matrices, "weight_decay": self.decay}, {"params": vectors, "weight_decay": 0.0}]
        return AdamW(
            [group for group in groups if group["params"]],
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
        return Optimizers(model, self.dense.build(model, objective))


@final
class Optimizers:
    """All optimizers of one training, stepping as one."""

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
        """Set all learning rates, dense and rows', to `factor` times those of the plan."""
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
