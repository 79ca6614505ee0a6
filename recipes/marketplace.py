"""The simulated job marketplace: ``rankwell train recipes/marketplace.py --data DIR`` after ``rankwell simulate``."""

from __future__ import annotations

from rankwell.simulation.recipe import marketplace_recipe
from rankwell.training.recipe import Recipe


def recipe() -> Recipe:
    """Wide & Deep on a log split by time."""
    return marketplace_recipe()
