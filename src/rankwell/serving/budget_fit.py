"""A latency budget, and what was tried to keep it: contenders, their time and their worth."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, final

from rankwell.errors import RecipeError
from rankwell.serving.budget import Latency, frontier
from rankwell.serving.bundle import Bundle
from rankwell.serving.row_map import Precision

__all__ = ["TEACHER", "Budget", "BudgetFit", "DensePrecision", "Form", "Quality", "Shape", "Tried"]

DensePrecision = Literal["float32", "float16", "dynamic int8", "static int8"]
"""Of the products in a graph."""

TEACHER: Final = "teacher"
"""The name of the contender that all students learn from."""


@final
@dataclass(frozen=True, slots=True, order=True)
class Shape:
    """The size of a student: layers over the history and over the list, and the width of a candidate's vector."""

    num_layers: int
    width: int

    def __str__(self) -> str:
        return f"{self.num_layers} × {self.width}"


@final
@dataclass(frozen=True, slots=True)
class Form:
    """How a bundle is served.

    Args:
        rows: Precision of the tables' rows.
        dense: Precision of the dense graph: float32, float16, or products in int8 with activations scaled as they come
            ("dynamic int8") or by what was seen of logged requests ("static int8").
    """

    rows: Precision = "float32"
    dense: DensePrecision = "float32"


@final
@dataclass(frozen=True, kw_only=True)
class Budget:
    """What is asked, and how hard to look.

    Args:
        p95_ms: The budget, above 0.
        num_candidates: Of each request.
        num_requests: Timed for each contender.
        shapes: Of students, in any order.
        max_students: At most so many are trained, from the slowest that fits evenly down to the fastest.
        share, temperature: Of the teacher, as in `DistillationObjective` and `Distillation`.
        most_lost: What a further step may cost in log loss on tune, nats.
        least_speed_up: How much faster a further step must make the median request, as a ratio.

    Raises:
        RecipeError: A number is out of range, or there is no shape.
    """

    p95_ms: float
    num_candidates: int = 500
    num_requests: int = 100
    shapes: tuple[Shape, ...] = tuple(Shape(n, w) for n in (1, 2, 4, 6) for w in (32, 64, 128, 256))
    max_students: int = 3
    share: float = 0.5
    temperature: float = 1.0
    most_lost: float = 2e-4
    least_speed_up: float = 1.05

    def __post_init__(self) -> None:
        wrong = {
            "p95_ms": not 0 < self.p95_ms < math.inf, "num_candidates": self.num_candidates < 1,
            "num_requests": self.num_requests < 1, "shapes": not self.shapes, "max_students": self.max_students < 1,
            "most_lost": not self.most_lost >= 0, "least_speed_up": not self.least_speed_up >= 1,
        }  # fmt: skip
        if any(wrong.values()):
            raise RecipeError(
                "a budget is out of range",
                found={name: getattr(self, name) for name, is_wrong in wrong.items() if is_wrong},
                allowed="p95_ms, counts and shapes above 0, most_lost ≥ 0, least_speed_up ≥ 1",
            )  # fmt: skip


@final
@dataclass(frozen=True, slots=True)
class Quality:
    """What probabilities of the first action are worth on one split; NaN where they were not looked at.

    Args:
        auc: By logits.
        log_loss: Of calibrated probabilities, nats.
        ece: Of calibrated probabilities.
    """

    auc: float = math.nan
    log_loss: float = math.nan
    ece: float = math.nan


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """One contender: what it is, what it takes, what it is worth, and what became of it.

    Args:
        name: Of a shape, or of a further step.
        latency: Of a student that was not trained, that of its shape with random weights: time does not depend on them.
        tune: Its worth on tune.
        is_kept: Whether it is what is served, or a step on the way there.
        verdict: Why.
    """

    name: str
    latency: Latency
    tune: Quality = field(default_factory=Quality)
    is_kept: bool = False
    verdict: str = ""


@final
@dataclass(frozen=True, kw_only=True)
class BudgetFit:
    """What was found.

    Args:
        bundle: The student to serve, or the teacher where it fits; None where nothing fits.
        form: How it is to be served: what the steps that were kept have made of it.
        teacher: Measured, and judged on tune.
        students: All shapes, in the order of their time.
        steps: Further steps on the student that was chosen, in their order.
        test: Quality on test of the teacher, and of what is served, by name; looked at once, at the end.
    """

    bundle: Bundle | None
    form: Form
    teacher: Tried
    students: tuple[Tried, ...]
    steps: tuple[Tried, ...]
    test: Mapping[str, Quality]

    def frontier(self) -> tuple[str, ...]:
        """The contenders that are not beaten in both P95 and AUC on tune, the fastest first."""
        known = (self.teacher, *self.students, *self.steps)
        return frontier({tried.name: (tried.latency.p95_ms, tried.tune.auc) for tried in known})
