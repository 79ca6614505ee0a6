"""The estimators of `rankwell.training`, found without a list."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import rankwell.training
from rankwell.training.estimator import Estimator


def discovered() -> list[type[Estimator]]:
    """Every concrete estimator of ours."""
    for module in pkgutil.iter_modules(rankwell.training.__path__, "rankwell.training."):
        importlib.import_module(module.name)
    return sorted(
        (kind for kind in Estimator.__subclasses__() if not inspect.isabstract(kind) and
         kind.__module__.startswith("rankwell.")),
        key=lambda kind: kind.__name__,
    )  # fmt: skip
