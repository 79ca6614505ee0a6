"""The truth of a simulated log, from its own folder.

Letters in names: R requests · C candidates, flat.

No room below this one can import it, so no model, loss or training loop sees the truth; it is for reports and studies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rankwell.errors import LogError
from rankwell.simulation.marketplace import Chunk
from rankwell.simulation.population import Ints
from rankwell.simulation.preference import CLICK_PARTS
from rankwell.simulation.settings import ACTIONS

__all__ = ["Truth", "read_truth", "truth_of", "truth_table"]

Doubles = NDArray[np.float64]


@final
@dataclass(frozen=True, slots=True)
class Truth:
    """True probabilities; the candidates of request r are ``offsets_R[r]:offsets_R[r + 1]`` (R + 1 offsets).

    Args:
        request_ids_R: int64.
        offsets_R: int64.
        probabilities: By action, p(action | shown at its position, everything latent), float64 of C.
        click_examined_C: p(click | examined).
        examined_C: Whether the position was in fact examined.
        parts: The parts of the logit of `click_examined_C` by name; with the intercept they add up to it.
        wanted_industry_R: The industry that the member was after in this session; of their older activity it is most
            often their own.
    """

    request_ids_R: Ints
    offsets_R: Ints
    probabilities: Mapping[str, Doubles]
    click_examined_C: Doubles
    examined_C: NDArray[np.bool_]
    parts: Mapping[str, Doubles]
    wanted_industry_R: Ints

    def of_requests(self, request_ids_R: Ints) -> Truth:
        """The truth of these requests, in this order: what stands beside a batch or a split.

        Raises:
            LogError: A request is unknown here.
        """
        order = np.argsort(self.request_ids_R, kind="stable")
        place_R = np.searchsorted(self.request_ids_R, request_ids_R, sorter=order)
        row_R = order[np.minimum(place_R, len(order) - 1)] if len(order) else np.zeros(len(request_ids_R), np.int64)
        unknown_R = self.request_ids_R[row_R] != request_ids_R if len(order) else np.ones(len(request_ids_R), bool)
        if unknown_R.any():
            raise LogError(
                f"{int(unknown_R.sum())} requests are not in the truth",
                found=request_ids_R[unknown_R][:5].tolist(),
                do="read the truth that was simulated together with this log",
            )
        length_R = np.diff(self.offsets_R)[row_R]
        offsets_R = np.concatenate([[0], np.cumsum(length_R)])
        index_C = np.arange(offsets_R[-1]) + np.repeat(self.offsets_R[row_R] - offsets_R[:-1], length_R)
        return Truth(
            request_ids_R=request_ids_R,
            offsets_R=offsets_R,
            probabilities={action: values[index_C] for action, values in self.probabilities.items()},
            click_examined_C=self.click_examined_C[index_C],
            examined_C=self.examined_C[index_C],
            parts={part: values[index_C] for part, values in self.parts.items()},
            wanted_industry_R=self.wanted_industry_R[row_R],
        )


def read_truth(directory: str | Path) -> Truth:
    """The truth that `rankwell.simulation.simulate.simulate` wrote.

    Args:
        directory: The folder of the truth, or the folder that it was simulated into.

    Raises:
        LogError: There is no truth.
    """
    folder = Path(directory)
    folder = folder / "truth" if (folder / "truth").is_dir() else folder
    parts = sorted(folder.glob("part-*.parquet"))
    if not parts or folder.name != "truth":
        raise LogError(
            f"{str(directory)!r} holds no truth",
            allowed="a folder written by rankwell.simulation.simulate.simulate",
            do="give the folder that the log was simulated into",
        )
    return truth_of(pa.concat_tables([pq.read_table(part) for part in parts]))


def truth_of(table: pa.Table) -> Truth:
    """The truth as arrays, from the table that `simulate_tables` returns beside the log."""
    table = table.combine_chunks()
    lengths_R = table["p_click"].combine_chunks().value_lengths().to_numpy()
    return Truth(
        request_ids_R=table["request_id"].to_numpy(),
        offsets_R=np.concatenate([[0], np.cumsum(lengths_R, dtype=np.int64)]),
        probabilities={action: _values(table, f"p_{action}") for action in ACTIONS},
        click_examined_C=_values(table, "p_click_examined"),
        examined_C=table["examined"].combine_chunks().flatten().to_numpy(zero_copy_only=False),
        parts={part: _values(table, f"part_{part}") for part in CLICK_PARTS},
        wanted_industry_R=table["wanted_industry"].to_numpy(),
    )


def truth_table(chunk: Chunk) -> pa.Table:
    """A chunk's truth, one row a request, in the order of its log."""
    responses = chunk.responses
    offsets = pa.array(np.concatenate([[0], np.cumsum(chunk.pages.length_R)]), pa.int32())
    sessions = chunk.sessions
    columns: dict[str, Any] = {"request_id": sessions.request_id_R, "wanted_industry": sessions.industry_R}
    lists: dict[str, NDArray[Any]] = {f"p_{action}": values for action, values in responses.probabilities.items()}
    lists |= {"p_click_examined": responses.click_examined_C, "examined": responses.examined_C}
    lists |= {f"part_{part}": values for part, values in responses.parts.items()}
    columns |= {name: pa.ListArray.from_arrays(offsets, pa.array(values)) for name, values in lists.items()}
    return pa.table(columns)


def _values(table: pa.Table, column: str) -> Doubles:
    values: Doubles = table[column].combine_chunks().flatten().to_numpy().astype(np.float64)
    return values
