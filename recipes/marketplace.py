"""The simulated job marketplace: ``rankwell train recipes/marketplace.py --data DIR`` after ``rankwell simulate``.

``recipes/marketplace.py:transformer`` reads the history event by event, and what stands beside each candidate.
"""

from __future__ import annotations

from rankwell.simulation.recipe import TRANSFORMER, marketplace_recipe
from rankwell.training.recipe import Recipe


def recipe() -> Recipe:
    """Wide & Deep on a log split by time."""
    return marketplace_recipe()


def transformer() -> Recipe:
    """A Transformer over history and list, over the same wide part, on the same log."""
    return marketplace_recipe(TRANSFORMER)
