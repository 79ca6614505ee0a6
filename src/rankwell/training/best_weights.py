"""The weights of an epoch, copied and put back: what a model says, without what its optimizers remember."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from torch import Tensor

from rankwell.models.model import Model
from rankwell.training.objectives import Objective

__all__ = ["copied_weights", "put_weights", "tensors_under"]

_ROWS: Final = ("slots", "sightings", "rows")


def copied_weights(model: Model, objective: Objective) -> dict[str, Tensor]:
    """Copies of all that the model's logits depend on in eval mode, and of the objective's own parameters.

    Of the tables only rows that reading can reach are copied, so memory follows the ids that training has seen.
    """
    copied = {f"model/{name}": tensor.clone() for name, tensor in model.state_dict().items()}
    copied |= {f"objective/{name}": tensor.clone() for name, tensor in objective.state_dict().items()}
    for part, table in model.tables.items():
        for name, tensor in zip(_ROWS, table.seen_rows(), strict=True):
            copied[f"table/{part}/{name}"] = tensor
    return copied


def put_weights(model: Model, objective: Objective, copied: Mapping[str, Tensor]) -> None:
    """Put back what `copied_weights` gave: the logits in eval mode are again what they were then."""
    model.load_state_dict(tensors_under("model", copied))
    objective.load_state_dict(tensors_under("objective", copied))
    for part, table in model.tables.items():
        table.load_seen_rows(*(copied[f"table/{part}/{name}"] for name in _ROWS))


def tensors_under(part: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with ``part/``, by the rest of their names.

    >>> import torch
    >>> tensors_under("model", {"model/bias": torch.zeros(1), "best/model/bias": torch.ones(1)})
    {'bias': tensor([0.])}
    """
    start = part + "/"
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
