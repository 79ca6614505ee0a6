"""The sample that Wide & Deep learns from, whose truth is known: ids by Zipf's law in each field, labels by

    p = σ(b + Σ_f effect_f(id)),   effects normal, with the strength of every field halving every third field.

Letters: N rows · F fields · S steps · B entries of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from contenders.zipf import scattered, zipf_ranks

__all__ = ["WideDeepSample", "names_of"]

_ROW_GROUP = 131_072


def names_of(num_fields: int) -> list[str]:
    """The fields' columns."""
    return [f"field_{field}" for field in range(num_fields)]


@final
@dataclass(frozen=True, slots=True)
class WideDeepSample:
    """Rows of ids, their labels, and the probabilities these were drawn by."""

    ids_FN: NDArray[np.int64]
    labels_N: NDArray[np.float32]
    truth_N: NDArray[np.float64]

    @classmethod
    def drawn(cls, num_rows: int, num_fields: int, num_ids: int, *, seed: int) -> WideDeepSample:
        """A sample; `seed` says which rows, the effects are always the same."""
        rng, of_effects = np.random.default_rng(seed), np.random.default_rng(0)
        ids_FN = np.empty((num_fields, num_rows), np.int64)
        logits_N = np.full(num_rows, -2.0)
        for field in range(num_fields):
            ids_FN[field] = scattered(zipf_ranks((num_rows,), num_ids, rng), num_ids, salt=field)
            logits_N += of_effects.normal(0, 2 ** (-field / 3), num_ids)[ids_FN[field]]
        truth_N = 1 / (1 + np.exp(-logits_N))
        return cls(ids_FN, (rng.random(num_rows) < truth_N).astype(np.float32), truth_N)

    def table(self) -> pa.Table:
        """A flat log."""
        names = names_of(len(self.ids_FN))
        return pa.table({**dict(zip(names, self.ids_FN, strict=True)), "click": self.labels_N})

    def write_parquet(self, path: Path) -> None:
        """The flat log as a Parquet file."""
        pq.write_table(self.table(), path, row_group_size=_ROW_GROUP)

    def write_batches(self, folder: Path, batch: int) -> tuple[str, str]:
        """Whole batches as ids S × F × B and labels S × B; returns the files' paths."""
        num_fields, num_rows = self.ids_FN.shape
        num_steps = num_rows // batch
        cut_FSB = self.ids_FN[:, : num_steps * batch].reshape(num_fields, num_steps, batch)
        ids, labels = folder / "ids.npy", folder / "labels.npy"
        np.save(ids, np.ascontiguousarray(cut_FSB.swapaxes(0, 1)))
        np.save(labels, self.labels_N[: num_steps * batch].reshape(num_steps, batch))
        return str(ids), str(labels)
