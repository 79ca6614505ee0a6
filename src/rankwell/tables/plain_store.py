"""Rows kept in plain PyTorch."""

from __future__ import annotations

from rankwell.tables.row_store import RowStore

__all__ = ["PlainStore"]


class PlainStore(RowStore):
    """To come."""
