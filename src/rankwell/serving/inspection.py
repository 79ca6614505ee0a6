"""What a bundle's tables hold, read from its files alone: no model is built.

Letters: n rows of ids, zero or not, in no order · W row width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from rankwell.errors import BundleError
from rankwell.serving.manifest import Manifest, read_manifest
from rankwell.serving.row_file import ROWS, STATES, ZEROS, row_batches, table_notes
from rankwell.serving.zero_file import read_zeros
from rankwell.tables.row_store import DEFAULT_KEY
from rankwell.types import MISSING_ID

__all__ = ["BundleInspection", "TableInspection", "inspect_bundle"]

_KEY_AND_SIGHTINGS: Final = 12


@final
@dataclass(frozen=True, kw_only=True)
class TableInspection:
    """A named table as it stands in a bundle.

    Args:
        part: Of the model, as "wide".
        name: Of the table.
        addressing: "growing", "1,000 ids" or "65,536 rows".
        width: W.
        dtype: Of the rows in training; in the bundle they are float32.
        norms_n: float32, Euclidean norms of the rows of all ids that have one; of rows that are zero exactly 0.
        sightings_n: int32, how often training saw each.
        num_zeros: How many of them are exactly zero.
        default_norm: Of the row that ids without their own read.
        missing_norm: Of the row that a missing id reads.
        row_bytes: Of the file of rows.
        zero_bytes: Of the file of zeros; 0 where there is none.
        state_bytes: Of the file of states; 0 where there is none.
    """

    part: str
    name: str
    addressing: str
    width: int
    dtype: str
    norms_n: NDArray[np.float32]
    sightings_n: NDArray[np.int32]
    num_zeros: int
    default_norm: float
    missing_norm: float
    row_bytes: int
    zero_bytes: int
    state_bytes: int

    @property
    def num_rows(self) -> int:
        """Ids that have a row of their own, be it zero."""
        return len(self.norms_n)

    @property
    def num_bytes(self) -> int:
        """Of all its files."""
        return self.row_bytes + self.zero_bytes + self.state_bytes

    @property
    def bytes_saved(self) -> int:
        """What zero rows would take among the others, less what their ids take."""
        return self.num_zeros * (_KEY_AND_SIGHTINGS + 4 * self.width) - self.zero_bytes

    def quantiles(self, of: NDArray[Any], at: Sequence[float] = (0.1, 0.5, 0.9)) -> tuple[float, ...]:
        """Values that occur, NaN where there is none."""
        if not len(of):
            return (math.nan,) * len(at)
        return tuple(float(value) for value in np.quantile(of, at, method="inverted_cdf"))

    def numbers(self) -> dict[str, float]:
        """Flat names to numbers, behind ``<part>/<name>/``."""
        values: dict[str, float] = {
            "rows": self.num_rows, "zero_rows": self.num_zeros, "width": self.width,
            "default_norm": self.default_norm, "missing_norm": self.missing_norm, "bytes": self.num_bytes,
            "row_bytes": self.row_bytes, "zero_bytes": self.zero_bytes, "state_bytes": self.state_bytes,
            "bytes_saved": self.bytes_saved,
        }  # fmt: skip
        for of, column in (("sightings", self.sightings_n), ("norm", self.norms_n)):
            for quantile, value in zip((10, 50, 90), self.quantiles(column), strict=True):
                values[f"{of}_{quantile}"] = value
        return {f"{self.part}/{self.name}/{name}": value for name, value in values.items()}


@final
@dataclass(frozen=True, kw_only=True)
class BundleInspection:
    """A bundle's tables, and what is beside them.

    Args:
        path: Of the bundle.
        model: Its class path.
        library_version: Of the rankwell that wrote it.
        tables: By part, and by name within it.
        num_bytes: Of all files that the manifest lists.
    """

    path: Path
    model: str
    library_version: str
    tables: tuple[TableInspection, ...]
    num_bytes: int

    def numbers(self) -> dict[str, float]:
        """Flat names to numbers; behind ``total/`` the sums over tables."""
        total: dict[str, float] = {
            "total/rows": sum(table.num_rows for table in self.tables),
            "total/zero_rows": sum(table.num_zeros for table in self.tables),
            "total/bytes_of_tables": sum(table.num_bytes for table in self.tables),
            "total/bytes_saved": sum(table.bytes_saved for table in self.tables),
            "total/bytes": self.num_bytes,
        }
        return {name: value for table in self.tables for name, value in table.numbers().items()} | total


def inspect_bundle(path: str | Path) -> BundleInspection:
    """Read what a bundle's tables hold, after holding every file against its checksum. Memory: 8 bytes a row.

    Raises:
        BundleError: It is no bundle, or a file is missing or damaged.

    >>> import tempfile
    >>> from rankwell.calibration.uncalibrated import Uncalibrated
    >>> from rankwell.data.statistics import NumericStatistics
    >>> from rankwell.models.wide_deep import Logistic
    >>> from rankwell.schema import Action, Categorical, Schema
    >>> from rankwell.serving.bundle import Bundle, write_bundle
    >>> schema = Schema(features=(Categorical(name="job", num_ids=9),), actions=(Action(name="click"),))
    >>> model = Logistic(schema, NumericStatistics(), seed=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_bundle(Bundle(model=model, calibrators={"click": Uncalibrated()}, created_us=0), f"{folder}/bundle")
    ...     [table] = inspect_bundle(f"{folder}/bundle").tables
    >>> table.part, table.name, table.addressing, table.num_rows
    ('wide', 'job', '9 ids', 0)
    """
    directory = Path(path)
    manifest = read_manifest(directory)
    manifest.check_files(directory)
    stems = [n.removesuffix(ROWS) for n in manifest.files if n.startswith("rows/") and n.endswith(ROWS)]
    return BundleInspection(
        path=directory,
        model=manifest.model,
        library_version=manifest.library_version,
        tables=tuple(_inspected(directory, manifest, stem) for stem in stems),
        num_bytes=sum(record.num_bytes for record in manifest.files.values()),
    )


def _inspected(directory: Path, manifest: Manifest, stem: str) -> TableInspection:
    sizes = {ending: record.num_bytes if (record := manifest.files.get(stem + ending)) else 0
             for ending in (ROWS, ZEROS, STATES)}  # fmt: skip
    path = directory / (stem + ROWS)
    notes = table_notes(path)
    norms, sightings = [np.empty(0, np.float32)], [np.empty(0, np.int32)]
    own = {DEFAULT_KEY: math.nan, MISSING_ID: math.nan}
    num_zeros = 0
    try:
        for keys_n, sightings_n, rows_nW in row_batches(path, notes["width"]):
            norms_n = rows_nW.double().norm(dim=1)
            for key in own:
                for norm in norms_n[keys_n == key].tolist():
                    own[key] = norm
            norms.append(norms_n[keys_n >= 0].to(torch.float32).numpy())
            sightings.append(sightings_n[keys_n >= 0].numpy())
        if sizes[ZEROS]:
            for keys_z, sightings_z in read_zeros(directory / (stem + ZEROS)):
                num_zeros += len(keys_z)
                norms.append(np.zeros(len(keys_z), np.float32))
                sightings.append(sightings_z.numpy())
    except pa.ArrowException as error:
        raise BundleError(f"{path} cannot be read", found=str(error), do="write the bundle again") from None
    return TableInspection(
        part=stem.split("/")[1],
        name=notes["table"],
        addressing=_addressing(notes["spec"]),
        width=notes["width"],
        dtype=notes["dtype"],
        norms_n=np.concatenate(norms),
        sightings_n=np.concatenate(sightings),
        num_zeros=num_zeros,
        default_norm=own[DEFAULT_KEY],
        missing_norm=own[MISSING_ID],
        row_bytes=sizes[ROWS],
        zero_bytes=sizes[ZEROS],
        state_bytes=sizes[STATES],
    )


def _addressing(spec: dict[str, Any]) -> str:
    if spec.get("growing"):
        return "growing"
    return f"{spec['num_ids']:,} ids" if "num_ids" in spec else f"{spec['num_rows']:,} rows"
