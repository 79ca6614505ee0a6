"""Where a table's rows are kept, how exactly, and for how long."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, final

from rankwell.errors import SchemaError

__all__ = ["Eviction", "Storage"]

_LEAST_ROWS: Final = 16_384
_LEAST_AGE: Final = 16


@final
@dataclass(frozen=True, kw_only=True)
class Eviction:
    """When the rows of growing tables are dropped; an id dropped reads the default row until it is seen again.

    Args:
        max_age_steps: A row not lent for so many steps goes, at the latest a quarter later; None for no limit.
        max_rows: At most so many rows a named table after a step. Ids fall by their hash into 1,024 shards, and where
            one has more than its share, the eighth that was seen least goes (the longest ago among equals) and the
            counts of the others are halved, so that what was popular once does not stay for ever. Shares run from
            7/8 of max_rows / 1,024 to all of it, so that shards come to this one after the other and no step waits for
            all. Ids that wait for admission count. None for no limit.

    Raises:
        SchemaError: A limit is too low to work.

    >>> Eviction(max_rows=1_000_000).max_age_steps is None
    True
    """

    max_age_steps: int | None = None
    max_rows: int | None = None

    def __post_init__(self) -> None:
        if self.max_age_steps is not None and not _LEAST_AGE <= self.max_age_steps < 2**31:
            raise SchemaError(
                "max_age_steps is out of range", found=self.max_age_steps, allowed=f"{_LEAST_AGE} … 2^31 - 1, or None"
            )
        if self.max_rows is not None and not _LEAST_ROWS <= self.max_rows < 2**31:
            raise SchemaError(
                "max_rows is out of range", found=self.max_rows, allowed=f"{_LEAST_ROWS} … 2^31 - 1, or None"
            )


@final
@dataclass(frozen=True, kw_only=True)
class Storage:
    """How a table keeps its rows.

    Args:
        dtype: "float32", or "bfloat16" with stochastic rounding: half the bytes of a row, and right in the mean.
            Optimizer state is float32 in either case.
        folder: Keeps rows in files of this folder, one a named table, which may be larger than memory. The files are
            working space of one process: what lasts is the checkpoint. The index of ids stays in memory, about 20
            bytes an id seen. None keeps all in memory.
        resident_bytes: At most about so many bytes of each file stay in memory; None leaves it to the system.
        eviction: When rows of growing tables go.
        layout: Of rows in memory: "split" keeps them apart from their counts and state, which several rows then share
            a cache line for; "packed" keeps all of a row side by side, as in a file it always is.

    Raises:
        SchemaError: The settings contradict each other.

    >>> Storage(dtype="bfloat16").folder is None
    True
    """

    dtype: Literal["float32", "bfloat16"] = "float32"
    folder: Path | None = None
    resident_bytes: int | None = None
    eviction: Eviction | None = None
    layout: Literal["packed", "split"] = "split"

    def __post_init__(self) -> None:
        if self.dtype not in ("float32", "bfloat16"):
            raise SchemaError("no such dtype of rows", found=self.dtype, allowed=["float32", "bfloat16"])
        if self.layout not in ("packed", "split"):
            raise SchemaError("no such layout of rows", found=self.layout, allowed=["packed", "split"])
        if self.resident_bytes is not None and (self.folder is None or self.resident_bytes < 2**24):
            raise SchemaError(
                "resident_bytes is out of range", found={"resident_bytes": self.resident_bytes, "folder": self.folder},
                allowed="≥ 16 MiB, and only with a folder",
            )  # fmt: skip
