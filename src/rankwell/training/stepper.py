"""One step of training: what every loop does to a batch, and all that it changes by doing so.

Letters: C candidates, flat · A actions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Literal, final, get_args

import torch
from torch import Tensor

from rankwell.errors import TrainingError
from rankwell.models.model import Model
from rankwell.training.best_weights import tensors_under
from rankwell.training.objectives import Objective
from rankwell.training.optimizers import OptimizerPlan, Optimizers
from rankwell.types import Batch

__all__ = ["Autocast", "MatmulPrecision", "Stepped", "Stepper", "arithmetic_of_training", "check_arithmetic"]

MatmulPrecision = Literal["highest", "high", "medium"]
Autocast = Literal["off", "bfloat16"]

_GOLDEN: Final = 0x9E3779B97F4A7C15


@final
@dataclass(frozen=True, slots=True)
class Stepped:
    """What a step found before it moved anything.

    Args:
        loss: The objective's sum over the batch, in nats.
        weight: What it was summed over; 0 where the batch has no weight, and nothing was moved.
        logits_CA: What the model said before it was trained on the batch, in training mode (with dropout, if it has
            any), without a gradient; None where no row has weight.
    """

    loss: float
    weight: float
    logits_CA: Tensor | None


@final
class Stepper:
    """A model, its objective and their optimizers, moved together by one batch at a time.

    Args:
        model: Its tables are given the plan's rules.
        objective: Its own parameters are moved, too.
        plan: Who moves what.
        seed: Keys all that is drawn in a step (dropout) by (seed, step).
        autocast: "bfloat16" runs body and head in it, the loss in float32; see `LoopSettings`.

    Raises:
        RecipeError: The plan doesn't fit the model.
    """

    def __init__(
        self, model: Model, objective: Objective, plan: OptimizerPlan, *, seed: int, autocast: Autocast = "off"
    ) -> None:
        self.model, self.objective = model, objective
        self.optimizers: Optimizers = plan.start(model, objective)
        self.num_steps = 0
        self._seed, self._autocast = seed, autocast == "bfloat16"

    def step(self, batch: Batch) -> Stepped:
        """Minimise the objective's mean over the batch, Σ w·ℓ / Σ w, by one step of all optimizers.

        Raises:
            TrainingError: The loss is not finite; nothing was moved, and what was lent is still lent (`abandon`).
        """
        torch.default_generator.manual_seed((self._seed * _GOLDEN + self.num_steps) % 2**63)
        self.num_steps += 1
        if not batch.targets.weights_C.any():  # not even a sighting, or a batch norm's mean
            return Stepped(0.0, 0.0, None)
        if self._autocast:
            with torch.autocast("cpu", torch.bfloat16):
                encoded = self.model.encode(batch.features)
                logits_CA = self.model.head(encoded).float()
        else:
            encoded = self.model.encode(batch.features)
            logits_CA = self.model.head(encoded)
        loss, count = self.objective(encoded, logits_CA, batch)
        weight = float(count)
        if weight == 0:
            self.optimizers.abandon()
            return Stepped(0.0, 0.0, logits_CA.detach())
        total = loss.item()
        if not math.isfinite(total):
            raise TrainingError(
                f"the loss is {total / weight} in step {self.num_steps}",
                do="lower the learning rates, or look for outliers among the numeric columns",
            )
        (loss / weight).backward()
        self.optimizers.step()
        return Stepped(total, weight, logits_CA.detach())

    def abandon(self) -> None:
        """Drop gradients and loans, moving nothing."""
        self.optimizers.abandon()

    def tensors(self) -> dict[str, Tensor]:
        """All that the next steps depend on, by flat name, but for `num_steps` and tables' rows; nothing is copied."""
        parts: dict[str, Mapping[str, Tensor]] = {
            "model": self.model.state_dict(),
            "objective": self.objective.state_dict(),
            "dense": self.optimizers.state(),
            **{f"table/{part}": table.progress() for part, table in self.model.tables.items()},
        }
        return {f"{part}/{name}": tensor for part, state in parts.items() for name, tensor in state.items()}

    def go_on_from(self, tensors: Mapping[str, Tensor], num_steps: int) -> None:
        """Take what `tensors` gave after so many steps; other names may stand among them. Rows come by another way."""
        self.model.load_state_dict(tensors_under("model", tensors))
        self.objective.load_state_dict(tensors_under("objective", tensors))
        self.optimizers.load_state(tensors_under("dense", tensors))
        for part, table in self.model.tables.items():
            table.load_progress(tensors_under(f"table/{part}", tensors))
        self.num_steps = num_steps


@contextmanager
def arithmetic_of_training(precision: MatmulPrecision) -> Iterator[None]:
    """Set torch's float32 matmul precision; put it and torch's random state back."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def check_arithmetic(matmul_precision: MatmulPrecision, autocast: Autocast) -> None:
    """Refuse what is no such setting.

    Raises:
        TrainingError: It isn't.
    """
    for name, choice, choices in (
        ("matmul_precision", matmul_precision, get_args(MatmulPrecision)),
        ("autocast", autocast, get_args(Autocast)),
    ):
        if choice not in choices:
            raise TrainingError(f"{name} has no such choice", found=choice, allowed=list(choices))
