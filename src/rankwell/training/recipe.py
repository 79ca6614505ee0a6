"""A recipe: everything that turns a folder of logs into a calibrated ranker, as typed objects built by a function."""

from __future__ import annotations

import runpy
import traceback
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import final

import pyarrow as pa
from torch import Tensor

from rankwell.calibration.calibrator import Calibrator
from rankwell.calibration.isotonic import fit_isotonic
from rankwell.calibration.segment_columns import known_segments
from rankwell.data.batches import Batches
from rankwell.data.down_sampling import DownSampling
from rankwell.data.layout import Layout
from rankwell.data.log import RequestLog, log_from_table, open_log
from rankwell.data.split import PARTS, Part, Split, TimeBoundaries, check_time_order
from rankwell.data.statistics import NumericStatistics
from rankwell.errors import RankwellError, RecipeError
from rankwell.losses.label_smoothing import check_epsilon
from rankwell.models.model import Model
from rankwell.schema import Categorical, Schema
from rankwell.training.estimator import Estimator
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
        convert: Makes the log, as a table in memory, of a file that is none, such as a file of sequences.

    >>> from rankwell.data.split import TimeSplit, WholeLog
    >>> by_time = LogPart(path="log.parquet", split=TimeSplit())  # one log, cut by time
    >>> apart = LogPart(path="day-30/*.parquet", split=WholeLog("test"), layout="flat")  # files of their own
    >>> by_time.layout, apart.layout
    ('requests', 'flat')
    """

    path: str
    split: Split
    layout: Layout = "requests"
    convert: Callable[[Path], pa.Table] | None = None


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
        build: (statistics, seed) to a fresh model, which the loop trains; or an `Estimator`, which fits a model by
            itself and has no use for `objective`, `optimizers` and `loop`.
        objective: Schema to objective; by default binary cross-entropy on each action.
        optimizers: Who moves what.
        loop: When to stop.
        num_requests: Requests in a batch.
        down_sampling: Which candidates of train are left out; its weights correct for it, and nothing else may.
        calibrate: Fits a calibrator for each action on the calibrate split.
        calibrate_by: Categorical features that it is given as segments, from coarse to fine: one value each, known
            where the model is served. For a calibrator such as `fit_segment_tree`; others don't look at them.
        label_smoothing: The ε the objective's loss was smoothed with; inverted before calibration.
        segments: Categoricals to report by: features or protected attributes.
        notes: Said beside every number, such as how the data differs from the published set.
        published: Printed beside our numbers.

    Raises:
        RecipeError: A part is missing or unknown, batches would hold no request, `label_smoothing` is outside [0, 1)
            or given with an estimator, or a segment is no categorical of the schema (for `calibrate_by`, no feature).

    >>> from rankwell.data.split import TimeSplit
    >>> from rankwell.models.wide_deep import Logistic
    >>> from rankwell.schema import Action
    >>> schema = Schema(features=(Categorical(name="job"),), actions=(Action(name="click"),))
    >>> log = LogPart(path="log", split=TimeSplit())
    >>> recipe = Recipe(name="jobs", schema=schema, parts=dict.fromkeys(PARTS, log),
    ...                 build=lambda statistics, seed: Logistic(schema, statistics, seed=seed))
    >>> recipe.num_requests
    256
    """

    name: str
    schema: Schema
    parts: Mapping[Part, LogPart]
    build: Callable[[NumericStatistics, int], Model] | Estimator
    objective: Callable[[Schema], Objective] = PointwiseObjective
    optimizers: OptimizerPlan = field(default_factory=OptimizerPlan)
    loop: LoopSettings = field(default_factory=LoopSettings)
    num_requests: int = 256
    down_sampling: DownSampling | None = None
    calibrate: FitCalibrator = fit_isotonic
    calibrate_by: tuple[str, ...] = ()
    label_smoothing: float = 0.0
    segments: tuple[str, ...] = ()
    notes: str = ""
    published: tuple[Published, ...] = ()

    def __post_init__(self) -> None:
        if set(self.parts) != set(PARTS):
            raise RecipeError(
                f"recipe {self.name!r} lacks parts, or has unknown ones",
                found=sorted(self.parts),
                allowed=list(PARTS),
                do="say for each part which log it comes from; one log may serve all, with a split",
            )
        if self.num_requests < 1:
            raise RecipeError(
                f"recipe {self.name!r} has batches without requests", found=self.num_requests, allowed="≥ 1"
            )
        check_epsilon(self.label_smoothing)
        if self.label_smoothing and isinstance(self.build, Estimator):
            raise RecipeError(
                f"recipe {self.name!r} undoes a label smoothing that its estimator does not do",
                found=self.label_smoothing, allowed=0.0,
            )  # fmt: skip
        known = [f.name for f in (*self.schema.features, *self.schema.protected) if isinstance(f, Categorical)]
        unknown = sorted(set(self.segments) - set(known))
        if unknown:
            raise RecipeError(f"recipe {self.name!r} reports by unknown segments", found=unknown, allowed=known)
        unknown = sorted(set(self.calibrate_by) - set(known_segments(self.schema)))
        if unknown:
            raise RecipeError(
                f"recipe {self.name!r} calibrates by what is not there when a request is ranked", found=unknown,
                allowed=known_segments(self.schema), do="name features that are categorical, from coarse to fine",
            )  # fmt: skip

    def logs(self, data: Path) -> dict[Part, RequestLog]:
        """The log of each part; parts that come from one place share one log, whose times are then read once.

        Args:
            data: The folder that the logs stand in.

        Raises:
            LogError: A log is not there, or doesn't keep its schema.
            LeakError: Parts come from different logs, and time goes backwards from one to the next.
        """
        opened: dict[Hashable, RequestLog] = {}
        logs: dict[Part, RequestLog] = {}
        for part in PARTS:
            source = self.parts[part]
            place = (source.path, source.layout, source.convert)
            if place not in opened:
                opened[place] = self._open(part, data)
            logs[part] = opened[place]
        for earlier, later in pairwise(PARTS):
            if logs[earlier] is not logs[later] and not self._bounded(earlier, later, logs):
                check_time_order(**{earlier: logs[earlier], later: logs[later]})
        return logs

    def batches(self, part: Part, data: Path, *, seed: int | None) -> Batches:
        """The batches of one part; shuffled by `seed`, or in the log's order when it is None.

        Raises:
            LogError: The log is not there, or doesn't keep its schema.
        """
        return self.batches_of(self._open(part, data), part, seed=seed)

    def batches_of(self, log: RequestLog, part: Part, *, seed: int | None) -> Batches:
        """The batches of one part from its log, as `logs` gave it.

        Raises:
            LogError: The log cannot be split as the recipe says.
        """
        return Batches(
            log, self.parts[part].split, part, num_requests=self.num_requests, seed=seed,
            sampling=self.down_sampling if part == "train" else None,
        )  # fmt: skip

    def _open(self, part: Part, data: Path) -> RequestLog:
        source = self.parts[part]
        if source.convert is not None:
            return log_from_table(source.convert(data / source.path), self.schema, layout=source.layout)
        return open_log(str(data / source.path), self.schema, layout=source.layout)

    def _bounded(self, earlier: Part, later: Part, logs: Mapping[Part, RequestLog]) -> bool:
        """Whether both parts are cut at times that keep them apart, wherever their logs begin and end."""
        if self.schema.time is None:
            return False
        cuts = [self.parts[part].split.resolve(logs[part]) for part in (earlier, later)]
        edges = [(c.tune_us, c.calibrate_us, c.test_us) for c in cuts if isinstance(c, TimeBoundaries)]
        return len(edges) == 2 and edges[0][PARTS.index(earlier)] <= edges[1][PARTS.index(later) - 1]


def read_recipe(reference: str | Path) -> Recipe:
    """The recipe that a function of a Python file returns.

    Args:
        reference: ``FILE.py`` for its function ``recipe()``, or ``FILE.py:FUNCTION`` for another.

    Raises:
        RecipeError: There is no such file; it fails; or the function isn't there or returns no `Recipe`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "half.py"
    ...     _ = file.write_text("def recipe():\\n    return 1 / 0")
    ...     try:
    ...         read_recipe(file)
    ...     except RecipeError as error:
    ...         print(error.found)
    ZeroDivisionError: division by zero
    """
    file, colon, name = str(reference).rpartition(":")
    path, name = (Path(file), name) if colon and name.isidentifier() else (Path(reference), "recipe")
    if not path.is_file():
        raise RecipeError(f"no recipe at {path}", do=f"name a Python file with a function {name}() -> Recipe")
    try:
        function = runpy.run_path(str(path)).get(name)
        recipe = function() if callable(function) else function
    except Exception as error:
        raise _failed(path, error) from error
    if not isinstance(recipe, Recipe):
        found = f"{name}() returned {type(recipe).__name__}" if callable(function) else f"no function {name}()"
        raise RecipeError(f"{path} holds no recipe", found=found, allowed=f"a function {name}() -> Recipe")
    return recipe


def _failed(path: Path, error: Exception) -> RecipeError:
    """The error of a recipe's own code, with the place where it arose; what our own errors say is kept."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
    if isinstance(error, RankwellError):
        place = f"recipe {path}, line {line}" if line else f"recipe {path}"
        return RecipeError(f"{place}: {error.what}", found=error.found, allowed=error.allowed, do=error.do)
    place = f" in line {line}" if line else ""
    return RecipeError(f"recipe {path} fails{place}", found=f"{type(error).__name__}: {error}", do="mend the file")
