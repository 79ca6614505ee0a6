"""The three kinds of model that the benchmarks of scorers look at, one after the other."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import torch

from contenders.findings import Findings

__all__ = ["CASES", "arguments", "measured"]

CASES: Final = (("history", 500), ("full", 500), ("local", 2000))
"""How candidates see each other, as `contenders.serving_world.KINDS` names it, and how many there are."""

Measure = Callable[[Findings, str, int, argparse.Namespace, Path], None]
"""Adds what it finds of one kind, with so many candidates, and a folder to write into."""


def arguments(description: str | None) -> argparse.ArgumentParser:
    """What they all take; a benchmark adds its own."""
    found = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--json", type=Path, help="write the numbers to this file")
    found.add_argument("--requests", type=int, default=100)
    found.add_argument("--kinds", nargs="*", choices=[kind for kind, _ in CASES], help="by default all")
    return found


def measured(title: str, measure: Measure, given: argparse.Namespace) -> None:
    """Measure the kinds that were asked for, on one thread; print and write."""
    torch.set_num_threads(1)
    findings = Findings(title)
    with tempfile.TemporaryDirectory() as folder:
        for kind, num_candidates in CASES:
            if not given.kinds or kind in given.kinds:
                measure(findings, kind, num_candidates, given, Path(folder))
    findings.print()
    findings.write(given.json)
