"""A tenth of the negatives: what one correction keeps, and what none or two of them do to probabilities.

Letters: C candidates, flat · S seeds.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

import torch
from rich.table import Table

from rankwell.data.chunk import Chunk
from rankwell.data.down_sampling import DownSampling, DropNegatives, MuteNegatives
from rankwell.evaluation.calibration_ratio import calibration_ratio
from rankwell.evaluation.discrimination import auc, log_loss_from_logits
from rankwell.simulation.recipe import marketplace_recipe
from rankwell.simulation.schema import marketplace_schema
from rankwell.studies.chart import Chart, Line, Panel
from rankwell.studies.study import StudyResult, gain_of, shown, simulated
from rankwell.training.predictions import predict
from rankwell.training.recipe import Recipe
from rankwell.training.trained import train

__all__ = ["study_fewer_negatives"]

_KEEP_RATE: Final = 0.1
_ALL: Final = "all negatives"
_RIGHT: Final = "a tenth, weighed"


@final
@dataclass(frozen=True, slots=True)
class _Unweighed:
    """`DropNegatives` that forgets the weights."""

    dropped: DropNegatives

    def sampled(self, chunk: Chunk, *, epoch: int) -> Chunk:
        """See `DownSampling`."""
        left = self.dropped.sampled(chunk, epoch=epoch)
        return left.weighed(left.whole.targets.weights_C.clamp(max=1.0))


@final
@dataclass(frozen=True, slots=True)
class _Arm:
    """How train is sampled, and what is added to the logits afterwards."""

    name: str
    sampling: DownSampling | None
    shift: float = 0.0


_DROPPED: Final = DropNegatives(_KEEP_RATE)
_ARMS: Final = (
    _Arm(_ALL, None),
    _Arm(_RIGHT, _DROPPED),
    _Arm("a tenth, muted in their lists", MuteNegatives(_KEEP_RATE)),
    _Arm("a tenth, not corrected", _Unweighed(_DROPPED)),
    _Arm("a tenth, logits shifted", _Unweighed(_DROPPED), math.log(_KEEP_RATE)),
    _Arm("a tenth, corrected twice", _DROPPED, math.log(_KEEP_RATE)),
)


@final
@dataclass(frozen=True, slots=True)
class _Outcome:
    ratio: float
    log_loss: float
    auc: float
    cpu_s: float


def study_fewer_negatives(
    *, seeds: Sequence[int], num_requests: int = 20_000, say: Callable[[str], None] = lambda _: None
) -> StudyResult:
    """Train on all negatives and on a tenth; the calibration ratio of logits that no calibrator has touched.

    Args:
        seeds: One marketplace each.
        num_requests: Of each log.
        say: Told what is going on.
    """
    found: dict[str, list[_Outcome]] = {arm.name: [] for arm in _ARMS}
    for seed in seeds:
        with simulated(seed, num_requests) as (data, _):
            for arm in _ARMS:
                found[arm.name].append(_outcome(arm, data, seed))
        say(f"seed {seed}: {len(_ARMS)} ways to sample")
    table = Table(title=f"Wide & Deep, {num_requests:,} requests, not calibrated, on test; {len(seeds)} seeds")
    for heading in ("train on", "calibration ratio", "log loss", "AUC", "CPU of all"):
        table.add_column(heading, justify="left" if heading == "train on" else "right")
    numbers: dict[str, float] = {}
    whole_s = sum(one.cpu_s for one in found[_ALL])
    for name, outcomes in found.items():
        columns = {
            "calibration ratio": [one.ratio for one in outcomes],
            "log loss": [one.log_loss for one in outcomes],
            "AUC": [one.auc for one in outcomes],
        }
        share = sum(one.cpu_s for one in outcomes) / whole_s
        numbers |= {f"{name}/{key}": sum(values) / len(values) for key, values in columns.items()}
        numbers[f"{name}/CPU of all"] = share
        table.add_row(name, *(shown(values) for values in columns.values()), f"{share:.0%}")
    gap = gain_of([one.ratio for one in found[_RIGHT]], [one.ratio for one in found[_ALL]])
    cost = gain_of([one.auc for one in found[_RIGHT]], [one.auc for one in found[_ALL]])
    numbers |= {f"{_RIGHT} − {_ALL}/calibration ratio/{key}": value for key, value in gap.numbers().items()}
    numbers |= {f"{_RIGHT} − {_ALL}/AUC/{key}": value for key, value in cost.numbers().items()}
    finding = (
        f"With a tenth of the negatives and their weights the calibration ratio differs from that of all by {gap}, "
        f"and AUC by {cost}. Not corrected it is {numbers['a tenth, not corrected/calibration ratio']:.2f}, corrected "
        f"twice {numbers['a tenth, corrected twice/calibration ratio']:.3f}."
    )
    return StudyResult("fewer-negatives", (table,), finding, numbers, (_chart(found),))


def _outcome(arm: _Arm, data: Path, seed: int) -> _Outcome:
    recipe = _recipe(arm)
    began = time.process_time()
    model = train(recipe, data, seed=seed).model
    took_s = time.process_time() - began
    logits_C, labels_C, weights_C, _ = predict(model, recipe.batches("test", data, seed=None)).of_action(0)
    logits_C = logits_C + arm.shift
    p_C = torch.sigmoid(logits_C.double())
    return _Outcome(
        calibration_ratio(p_C, labels_C, weights_C),
        log_loss_from_logits(logits_C, labels_C, weights_C),
        auc(p_C, labels_C, weights_C),
        took_s,
    )


def _recipe(arm: _Arm) -> Recipe:
    """The demonstration's, on clicks alone; as many candidates in a batch whether or not most are left out."""
    whole = marketplace_schema()
    recipe = marketplace_recipe(schema=whole.model_copy(update={"actions": whole.actions[:1]}))
    drops = not isinstance(arm.sampling, MuteNegatives | None)
    return dataclasses.replace(
        recipe, down_sampling=arm.sampling, segments=(), num_requests=recipe.num_requests * (4 if drops else 1)
    )


def _chart(found: dict[str, list[_Outcome]]) -> Chart:
    names = list(found)
    dots = Line(
        name="each seed", style="dots",
        x=[one.ratio for outcomes in found.values() for one in outcomes],
        y=[place for place, outcomes in enumerate(found.values()) for _ in outcomes],
    )  # fmt: skip
    panel = Panel(
        title="before any calibrator", x_label="predicted / observed clicks on test", y_label="", lines=(dots,),
        y_names={float(place): name for place, name in enumerate(names)}, is_log_x=True, upright=1.0,
    )  # fmt: skip
    return Chart(
        name="fewer-negatives",
        title="One correction",
        caption="Calibration ratio on a test split that was not sampled. Weights are a correction, a shift of the "
        "logits is one, and both together are one too many.",
        description="Calibration ratios for six ways to train on fewer negatives.",
        panels=(panel,),
    )
