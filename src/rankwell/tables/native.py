"""The compiled part of the tables, or None where nothing was compiled."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["native"]

native: Any | None
"""The module ``rankwell.tables._native``; None where the package was installed without a compiler."""

try:
    native = importlib.import_module("rankwell.tables._native")
except ModuleNotFoundError:
    native = None
