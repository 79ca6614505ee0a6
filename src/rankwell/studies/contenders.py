"""The row rules that studies compare, and the search for the learning rate that suits each."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, final

from rankwell.tables.adagrad import AdaGrad, RowWiseAdaGrad
from rankwell.tables.adam import Adam
from rankwell.tables.ftrl import Ftrl
from rankwell.tables.lazy_adam import LazyAdam
from rankwell.tables.momentum import Momentum
from rankwell.tables.rms_prop import RmsProp
from rankwell.tables.row_optimizer import RowOptimizer
from rankwell.tables.sgd import Sgd

__all__ = [
    "ADAGRAD", "ADAM", "CONTENDERS", "FADING", "FTRL", "LAZY_ADAM", "MOMENTUM", "RMS_PROP", "ROW_WISE", "SGD",
    "Contender", "best_rate",
]  # fmt: skip


@final
@dataclass(frozen=True, slots=True)
class Contender:
    """A rule under the name it is shown by; its learning rate is where the search for the best one begins."""

    name: str
    rule: RowOptimizer

    def best(self, loss: Callable[[RowOptimizer], float], *, start: float | None = None) -> RowOptimizer:
        """The rule at the learning rate of least loss, by `best_rate`."""
        rate = best_rate(
            lambda rate: loss(replace(self.rule, learning_rate=rate)),
            self.rule.learning_rate if start is None else start,
        )
        return replace(self.rule, learning_rate=rate)


# where the searches begin suits gradients of a batch's mean loss
SGD: Final = Contender("SGD", Sgd(learning_rate=10.0))
MOMENTUM: Final = Contender("momentum", Momentum(learning_rate=1.0))
ADAGRAD: Final = Contender("AdaGrad", AdaGrad(learning_rate=0.2))
ROW_WISE: Final = Contender("row-wise AdaGrad", RowWiseAdaGrad(learning_rate=0.2))
RMS_PROP: Final = Contender("RMSProp", RmsProp(learning_rate=0.02))
LAZY_ADAM: Final = Contender("LazyAdam", LazyAdam(learning_rate=0.02))
FADING: Final = Contender("LazyAdam, fading", LazyAdam(learning_rate=0.04, bias_step="row", fade_moments=True))
ADAM: Final = Contender("Adam", Adam(learning_rate=0.01))
FTRL: Final = Contender("FTRL", Ftrl(learning_rate=0.2))
CONTENDERS: Final = (SGD, MOMENTUM, ADAGRAD, ROW_WISE, RMS_PROP, LAZY_ADAM, ADAM, FTRL)


def best_rate(loss: Callable[[float], float], start: float, *, factor: float = 2.0, most: int = 12) -> float:
    """The learning rate of least loss on the grid start · factor^k, walking downhill from the start.

    >>> best_rate(lambda rate: (rate - 0.7) ** 2, start=0.1)
    0.8

    Args:
        loss: Of a learning rate; meant to fall, then rise; infinite where learning diverges.
        start: On the grid.
        factor: > 1.
        most: Evaluations at most.
    """
    known = {0: loss(start)}
    while known[min(known)] == math.inf and len(known) < most:  # it diverged: begin lower
        known[min(known) - 1] = loss(start * factor ** (min(known) - 1))
    best = min(known, key=lambda place: known[place])
    for direction in (1, -1):
        while len(known) < most and best + direction not in known:
            place = best + direction
            known[place] = loss(start * factor**place)
            if not known[place] < known[best]:
                break
            best = place
    return float(start * factor**best)
