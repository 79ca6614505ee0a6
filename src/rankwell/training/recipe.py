"""A recipe: everything that turns a folder of logs into a calibrated ranker, as typed objects built by a function."""

from __future__ import annotations

import runpy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from torch import Tensor

from rankwell.calibration.calibrator import Calibrator
from rankwell.calibration.isotonic import fit_isotonic
from rankwell.data.batches import Batches
from rankwell.data.layout import Layout
from rankwell.data.log import RequestLog, open_log
from rankwell.data.split import PARTS, Part, Split
from rankwell.data.statistics import NumericStatistics
from rankwell.errors import RecipeError
from rankwell.models.model import Model
from rankwell.schema import Schema
from rankwell.training.loop import LoopSettings
from rankwell.training.objectives import Objective, PointwiseObjective
from rankwell.training.optimizers import OptimizerPlan

__all__ = ["FitCalibrator", "LogPart", "Published", "Recipe", "read_recipe"]

FitCalibrator = Callable[[Tensor, Tensor, Tensor, Tensor], Calibrator]
"""(logits_C, labels_C, weights_C, segments_CS) -> Calibrator."""


@final
@dataclass(frozen=True, kw_only=True)
class LogPart:
    """Where one split of the data comes from.

    Args:
        path: Of the log, relative to the data folder; a file, a folder, a glob.
        split: Which of its requests belong to which part.
        layout: "requests" or "flat".
    """

    path: str
    split: Split
    layout: Layout = "requests"


@final
@dataclass(frozen=True, slots=True)
class Published:
    """A number others have published on this data, to be printed beside ours, with its source."""

    name: str
    auc: float
    log_loss: float
    source: str


@final
@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What to train, on what, how, and how to make its logits probabilities.

    Args:
        name: Goes into the bundle's provenance.
        schema: Of the log.
        parts: Where train, tune, calibrate and test come from.
        build: (statistics, seed) to a fresh model.
        objective: Schema to objective; by default binary cross-entropy on each action.
        optimizers: Who moves what.
        loop: When to stop.
        num_requests: Requests in a batch.
        calibrate: Fits a calibrator for each action on the calibrate split.
        label_smoothing: The ε the objective's loss was smoothed with; inverted before calibration.
        segments: Columns to report by.
        notes: Said beside every number, such as how the data differs from the published set.
        published: Printed beside our numbers.
    """

    name: str
    schema: Schema
    parts: Mapping[Part, LogPart]
    build: Callable[[NumericStatistics, int], Model]
    objective: Callable[[Schema], Objective] = PointwiseObjective
    optimizers: OptimizerPlan = field(default_factory=OptimizerPlan)
    loop: LoopSettings = field(default_factory=LoopSettings)
    num_requests: int = 4096
    calibrate: FitCalibrator = fit_isotonic
    label_smoothing: float = 0.0
    segments: tuple[str, ...] = ()
    notes: str = ""
    published: tuple[Published, ...] = ()

    def __post_init__(self) -> None:
        missing = [part for part in PARTS if part not in self.parts]
        if missing:
            raise RecipeError(f"recipe {self.name!r} lacks parts", found=sorted(self.parts), allowed=list(PARTS))

    def batches(self, part: Part, data: Path, *, seed: int | None) -> Batches:
        """The batches of one part; shuffled by `seed`, or in the log's order when it is None.

        Raises:
            LogError: The log is not there, or doesn't keep its schema.
        """
        source = self.parts[part]
        log: RequestLog = open_log(str(data / source.path), self.schema, layout=source.layout)
        return Batches(log, source.split, part, num_requests=self.num_requests, seed=seed)


def read_recipe(path: Path) -> Recipe:
    """The recipe that the Python file at `path` returns from its function ``recipe()``.

    Raises:
        RecipeError: There is no such file, or it has no ``recipe()`` that returns a `Recipe`.
    """
    if not path.is_file():
        raise RecipeError(f"no recipe at {path}", do="name a Python file with a function recipe() -> Recipe")
    function = runpy.run_path(str(path)).get("recipe")
    recipe = function() if callable(function) else None
    if not isinstance(recipe, Recipe):
        raise RecipeError(
            f"{path} holds no recipe", found=type(recipe).__name__, allowed="a function recipe() -> Recipe"
        )
    return recipe
