"""Numbers for other programs: flat names to numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["Json", "write_json", "write_text"]

Json = Annotated[Path | None, typer.Option("--json", help="Write the numbers to this file, flat names to numbers.")]
"""An option of many verbs."""


def write_json(path: Path | None, numbers: Mapping[str, float]) -> None:
    """Write them, NaN as null; nowhere if there is no path.

    Args:
        path: Of the file; its folder is made.
        numbers: By name.
    """
    if path is not None:
        known = {name: None if math.isnan(value) else value for name, value in numbers.items()}
        write_text(path, json.dumps(known, indent=1))


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8; the file's folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
