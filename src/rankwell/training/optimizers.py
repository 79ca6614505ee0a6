"""Which optimizer moves what: a row rule for each table, a torch optimizer for each group of dense parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Final, Literal, final

import torch
from torch import Tensor, nn

from rankwell.errors import RecipeError, TrainingError
from rankwell.models.model import Model
from rankwell.tables.adagrad import RowWiseAdaGrad
from rankwell.tables.ftrl import Ftrl
from rankwell.tables.row_optimizer import RowOptimizer
from rankwell.tables.storage import Storage
from rankwell.training.dense_optimizers import DenseAdamW, DenseOptimizer

__all__ = ["OptimizerPlan", "Optimizers", "PlannedGroup"]

_REST: Final = ""
"""The prefix of every name: the group of parameters that no other group names."""


@final
@dataclass(frozen=True, slots=True)
class PlannedGroup:
    """One line of a plan: a table, or a group of dense parameters, and what moves it.

    Args:
        kind: "rows" of a table, or "dense" parameters.
        name: The part that the table serves, or the prefix of the parameters; "" for those that no prefix names.
        rule: What moves it.
        clip_norm: The norm that its gradient alone is clipped to, if any.
        count: Rows there are now, or numbers in the parameters.
        width: Numbers in a row; 1 for parameters.
        value_bytes: What the rows or parameters take.
        state_bytes: What the rule remembers beside them.
    """

    kind: Literal["rows", "dense"]
    name: str
    rule: RowOptimizer | DenseOptimizer
    clip_norm: float | None
    count: int
    width: int
    value_bytes: int
    state_bytes: int

    @property
    def bytes_a_row(self) -> int:
        """Values and state of each row, which is what a table that grows takes for each id it comes to know."""
        return (self.value_bytes + self.state_bytes) // self.count


@final
@dataclass(frozen=True, kw_only=True)
class OptimizerPlan:
    """Who moves what, how fast at first, and how far at most.

    A rate in force is that of its rule, times the loop's factor (annealing, drops), times min(1, t / `warm_up_steps`)
    in step t. A gradient is clipped as ``torch.nn.utils.clip_grad_norm_`` does, g ← g · min(1, clip / (‖g‖₂ + 1e-6)),
    where ‖g‖₂ of a table is that of the rows lent, each once with its gradients summed: what a dense gradient over the
    whole table would have, without there being one. Groups with a clip of their own come first, then all together.

    Args:
        dense: For dense parameters.
        dense_groups: Other settings for some of them, by the beginning of their dotted names ("deep.layers"; an
            objective's own begin with "objective"). Where two prefixes fit, the longer one counts.
        rows: A rule for tables of the model, by the name of their part.
        linear_rows: The rule of other tables whose rows are weights of a linear model (`Model.linear_parts`).
        default_rows: The rule of all other tables.
        storage: How rows are kept while training, by part: bfloat16, files of ``folder/part``, eviction; others stay in
            memory as float32.
        warm_up_steps: Learning rates grow linearly over so many steps.
        clip_norm: > 0, for the gradient of everything together.
        clip_rows: > 0, for the gradients of single tables, by part.
        clip_dense: > 0, for the gradients of single groups, by the prefixes of `dense_groups`.

    Raises:
        RecipeError: A number is out of range, or `clip_dense` names no group of `dense_groups`.

    >>> plan = OptimizerPlan(rows={"wide": RowWiseAdaGrad(learning_rate=0.1)}, warm_up_steps=1000, clip_norm=1.0)
    >>> plan.rows["wide"].learning_rate
    0.1

    Source of the clipping: Pascanu, Mikolov & Bengio 2013, "On the difficulty of training recurrent neural networks".
    """

    dense: DenseOptimizer = field(default_factory=DenseAdamW)
    dense_groups: Mapping[str, DenseOptimizer] = field(default_factory=dict)
    rows: Mapping[str, RowOptimizer] = field(default_factory=dict)
    linear_rows: RowOptimizer = field(default_factory=Ftrl)
    default_rows: RowOptimizer = field(default_factory=RowWiseAdaGrad)
    storage: Mapping[str, Storage] = field(default_factory=dict)
    warm_up_steps: int = 0
    clip_norm: float | None = None
    clip_rows: Mapping[str, float] = field(default_factory=dict)
    clip_dense: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.warm_up_steps < 0:
            raise RecipeError("warm_up_steps of the plan is out of range", found=self.warm_up_steps, allowed="≥ 0")
        clips = {"clip_norm": self.clip_norm, **self.clip_rows, **self.clip_dense}
        wrong = {name: clip for name, clip in clips.items() if clip is not None and not 0 < clip < math.inf}
        if wrong:
            raise RecipeError("the plan clips to norms that are out of range", found=wrong, allowed="> 0, finite")
        if _REST in self.dense_groups:
            raise RecipeError("a group of the plan has no prefix", do="give all others their settings by `dense`")
        unknown = sorted(set(self.clip_dense) - set(self.dense_groups))
        if unknown:
            raise RecipeError(
                "the plan clips groups that it hasn't", found=unknown, allowed=sorted(self.dense_groups),
                do="declare them in dense_groups",
            )  # fmt: skip

    def start(self, model: Model, objective: nn.Module) -> Optimizers:
        """Build all of them for a model and an objective's own parameters; the tables' states start at 0.

        Raises:
            RecipeError: The plan names tables or groups of parameters that the model hasn't.
        """
        self._check_parts(model)
        groups = self._groups(model, objective)
        for part, table in model.tables.items():
            storage = self.storage.get(part, Storage())
            if storage.folder is not None:
                storage = replace(storage, folder=storage.folder / part)
            table.train_with(self._rule_of(part, model), storage)
        optimizers = Optimizers(self, model, groups)
        optimizers.abandon()  # what others lent or left in a gradient is none of this training's
        return optimizers

    def describe(self, model: Model, objective: nn.Module) -> tuple[PlannedGroup, ...]:
        """What `start` would do, line by line: the tables, the groups, and last all other dense parameters, if any.

        Raises:
            RecipeError: As in `start`.
        """
        self._check_parts(model)
        lines = []
        for part, table in model.tables.items():
            rule, num_rows = self._rule_of(part, model), table.num_rows
            lines.append(
                PlannedGroup(
                    "rows", part, rule, self.clip_rows.get(part), num_rows, table.width,
                    value_bytes=num_rows * table.width * (2 if self._is_half(part) else 4),
                    state_bytes=num_rows * rule.state_width(table.width) * 4,
                )
            )  # fmt: skip
        for group in self._groups(model, objective):
            value_bytes = sum(parameter.nbytes for parameter in group.parameters.values())
            if group.parameters:
                lines.append(
                    PlannedGroup(
                        "dense", group.prefix, group.settings, group.clip_norm,
                        sum(parameter.numel() for parameter in group.parameters.values()), 1,
                        value_bytes, value_bytes * group.settings.state_per_value,
                    )
                )  # fmt: skip
        return tuple(lines)

    def settings(self) -> dict[str, object]:
        """All of it by name, for telling plans apart: what is given by name stands in the order of names."""
        values = {setting.name: getattr(self, setting.name) for setting in fields(self)}
        values["storage"] = {part: (kept.dtype, kept.eviction) for part, kept in self.storage.items()}  # not where
        return {k: dict(sorted(v.items())) if isinstance(v, Mapping) else v for k, v in values.items()}

    def _is_half(self, part: str) -> bool:
        return part in self.storage and self.storage[part].dtype == "bfloat16"

    def _rule_of(self, part: str, model: Model) -> RowOptimizer:
        return self.rows.get(part, self.linear_rows if part in model.linear_parts else self.default_rows)

    def _check_parts(self, model: Model) -> None:
        unknown = {*self.rows, *self.clip_rows, *self.storage} - set(model.tables)
        if unknown:
            raise RecipeError(
                "the plan names tables that the model hasn't", found=sorted(unknown), allowed=sorted(model.tables)
            )

    def _groups(self, model: Model, objective: nn.Module) -> list[_DenseGroup]:
        """Each parameter in one of them; those that no prefix names in the last."""
        groups = [_DenseGroup(p, dense, self.clip_dense.get(p), {}) for p, dense in self.dense_groups.items()]
        groups.append(_DenseGroup(_REST, self.dense, None, {}))
        named: dict[nn.Parameter, str] = {}
        for start, module in (("", model), ("objective.", objective)):
            for name, parameter in module.named_parameters():
                named.setdefault(parameter, start + name)
        for parameter, name in named.items():
            fitting = (group for group in groups if group.holds(name))
            max(fitting, key=lambda group: len(group.prefix)).parameters[name] = parameter
        empty = [group.prefix for group in groups[:-1] if not group.parameters]
        if empty:
            raise RecipeError(
                "groups of the plan hold no parameter of the model", found=empty, allowed=list(named.values()),
                do="name a group by the beginning of its parameters' dotted names; a longer prefix takes them first",
            )  # fmt: skip
        return groups


@final
@dataclass(frozen=True, slots=True)
class _DenseGroup:
    prefix: str
    settings: DenseOptimizer
    clip_norm: float | None
    parameters: dict[str, nn.Parameter]

    def holds(self, name: str) -> bool:
        """Whether the prefix fits, at whole words between dots."""
        return self.prefix == _REST or f"{name}.".startswith(f"{self.prefix}.")

    def grads(self) -> list[Tensor]:
        """Those that there are."""
        return [parameter.grad for parameter in self.parameters.values() if parameter.grad is not None]


@final
class Optimizers:
    """All optimizers of one training, stepping as one; made by `OptimizerPlan.start`."""

    def __init__(self, plan: OptimizerPlan, model: Model, groups: Sequence[_DenseGroup]) -> None:
        self._plan, self._tables, self._groups = plan, model.tables, groups
        self._dense = [group.settings.build(list(group.parameters.values())) for group in groups]
        limits = [*(plan.clip_rows.get(part) for part in model.tables), *(group.clip_norm for group in groups)]
        self._limits = [math.inf if limit is None else limit for limit in limits]
        self._clips = plan.clip_norm is not None or bool(plan.clip_rows or plan.clip_dense)
        self._num_steps, self._factor = 0, 1.0
        self._put_rates()

    def step(self) -> None:
        """Move dense parameters and the rows lent since the last step.

        Raises:
            TrainingError: A gradient is not finite; nothing was moved.
        """
        norms = [math.sqrt(table.collect()) for table in self._tables.values()]  # before anything moves: it may refuse
        norms += map(self._norm, self._groups)
        scales = self._scales(norms) if self._clips else [1.0] * len(norms)
        num_tables = len(self._tables)
        for group, scale in zip(self._groups, scales[num_tables:], strict=True):
            if scale < 1:
                for grad in group.grads():
                    grad.mul_(scale)
        for dense in self._dense:
            dense.step()
            dense.zero_grad()
        for table, scale in zip(self._tables.values(), scales[:num_tables], strict=True):
            table.apply(scale)
        self._num_steps += 1
        if self._num_steps < self._plan.warm_up_steps:
            self._put_rates()

    def abandon(self) -> None:
        """Drop gradients and loans, moving nothing."""
        for dense in self._dense:
            dense.zero_grad()
        for table in self._tables.values():
            table.abandon()

    @property
    def learning_rate(self) -> float:
        """η of the next step, for dense parameters that are in no group of their own."""
        return float(self._dense[-1].param_groups[0]["lr"])

    def set_rate(self, factor: float) -> None:
        """Set all learning rates, dense and rows', to `factor` > 0 times those of the plan and of its warm-up."""
        self._factor = factor
        self._put_rates()

    def state(self) -> dict[str, Tensor]:
        """Dense optimizer state as flat names to tensors (tables keep theirs themselves)."""
        flat = {
            f"{place}.{index}.{name}": value
            for place, dense in enumerate(self._dense)
            for index, entries in dense.state_dict()["state"].items()
            for name, value in entries.items()
        }
        progress = torch.tensor([float(self._num_steps), self._factor], dtype=torch.float64)
        return {**flat, "progress": progress}

    def load_state(self, flat: Mapping[str, Tensor]) -> None:
        """Take what `state` gave."""
        for place, dense in enumerate(self._dense):
            entries: dict[int, dict[str, Tensor]] = {}
            for full, value in flat.items():
                if full.startswith(f"{place}."):
                    _, index, name = full.split(".", 2)
                    entries.setdefault(int(index), {})[name] = value.clone()
            dense.load_state_dict({"state": entries, "param_groups": dense.state_dict()["param_groups"]})
        num_steps, self._factor = flat["progress"].tolist()
        self._num_steps = int(num_steps)
        self._put_rates()

    def _put_rates(self) -> None:
        n = self._plan.warm_up_steps
        factor = self._factor * min(1.0, (self._num_steps + 1) / n) if n else self._factor
        for dense, group in zip(self._dense, self._groups, strict=True):
            for of_torch in dense.param_groups:
                of_torch["lr"] = group.settings.learning_rate * factor
        for table in self._tables.values():
            if table.rule is not None:
                table.learning_rate = table.rule.learning_rate * factor

    def _norm(self, group: _DenseGroup) -> float:
        norm = float(nn.utils.get_total_norm(group.grads()))
        if not math.isfinite(norm):
            bad = [n for n, p in group.parameters.items() if p.grad is not None and not p.grad.isfinite().all()]
            raise TrainingError(
                f"the gradients of the parameters {bad} are not finite" if bad else "gradients are too large to square",
                do="lower the learning rates, or look for outliers among the numeric columns",
            )
        return norm

    def _scales(self, norms: Sequence[float]) -> list[float]:
        scales = [_share(norm, limit) for norm, limit in zip(norms, self._limits, strict=True)]
        if self._plan.clip_norm is None:
            return scales
        total = math.hypot(*(norm * scale for norm, scale in zip(norms, scales, strict=True)))
        return [scale * _share(total, self._plan.clip_norm) for scale in scales]


def _share(norm: float, limit: float) -> float:
    return min(1.0, limit / (norm + 1e-6))  # torch's own epsilon
