"""The weights of an epoch, copied and put back: what a model says, without what its optimizers remember.

Letters: n rows of one named table · W row width · S state columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from rankwell.models.model import Model
from rankwell.tables.row_store import StoredRows
from rankwell.tables.table import Table
from rankwell.training.objectives import Objective

__all__ = ["copied_weights", "put_weights", "tensors_under"]

_COPIED: Final = ("keys_n", "sightings_n", "rows_nW")


def copied_weights(model: Model, objective: Objective) -> dict[str, Tensor]:
    """Copies of all that the model's logits depend on in eval mode, and of the objective's own parameters.

    Of the tables only rows that reading can reach are copied, up to date, so memory follows the ids that training has
    seen. The state of a rule whose rows are a function of it is copied with them, since a row of one epoch and the
    state of another would not belong together; that of other rules is not.
    """
    copied = {f"model/{name}": tensor.clone() for name, tensor in model.state_dict().items()}
    copied |= {f"objective/{name}": tensor.clone() for name, tensor in objective.state_dict().items()}
    for part, table in model.tables.items():
        fields = (*_COPIED, "state_nS") if _belongs_to_state(table) else _COPIED
        for name in table.names:
            pieces = [_reachable(piece, table.admission) for piece in table.chunks(name)]
            for field in fields:
                copied[f"table/{part}/{name}/{field}"] = torch.cat([getattr(piece, field) for piece in pieces])
    return copied


def put_weights(model: Model, objective: Objective, copied: Mapping[str, Tensor]) -> None:
    """Put back what `copied_weights` gave: the logits in eval mode are again what they were then.

    Ids that training has seen only since then read the default row again. Counts of ids that wait for a row start
    again at 0, and so does the state that was not copied.
    """
    model.load_state_dict(tensors_under("model", copied))
    objective.load_state_dict(tensors_under("objective", copied))
    for part, table in model.tables.items():
        state_width = 0 if table.rule is None else table.rule.state_width(table.width)
        table.clear()
        for name in table.names:
            kept = tensors_under(f"table/{part}/{name}", copied)
            keys_n = kept["keys_n"]
            rows = StoredRows(
                keys_n=keys_n,
                # nothing is owed for the steps since then
                last_n=torch.full((len(keys_n),), table.step, dtype=torch.int32),
                sightings_n=kept["sightings_n"],
                state_nS=kept["state_nS"] if "state_nS" in kept else torch.zeros(len(keys_n), state_width),
                rows_nW=kept["rows_nW"],
            )
            table.insert(name, rows)


def tensors_under(part: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with ``part/``, by the rest of their names.

    >>> tensors_under("model", {"model/bias": torch.zeros(1), "best/model/bias": torch.ones(1)})
    {'bias': tensor([0.])}
    """
    start = part + "/"
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def _belongs_to_state(table: Table) -> bool:
    return table.rule is not None and table.rule.starts_at_zero


def _reachable(rows: StoredRows, admission: int) -> StoredRows:
    """The table's own rows, and those of ids seen often enough; always a copy."""
    return rows.where((rows.keys_n < 0) | (rows.sightings_n >= admission))
