"""torch's own sparse tables: `nn.Embedding(sparse=True)` with SparseAdam or Adagrad, one of each a field."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from contenders.turns import Turns, serve


def main() -> None:
    turns = Turns()
    settings = turns.settings
    torch.sparse.check_sparse_tensor_invariants.disable()  # else Adagrad warns that it doesn't check
    torch.set_num_threads(settings["threads"])
    width = settings["width"]
    ids_SFB = torch.from_numpy(np.load(settings["ids"]))
    tables = [nn.Embedding(size, width, sparse=True) for size in settings["sizes"]]
    weights = [table.weight for table in tables]
    optimizer: torch.optim.Optimizer
    if settings["optimizer"] == "SparseAdam":
        optimizer = torch.optim.SparseAdam(weights, lr=1e-3)
    else:
        optimizer = torch.optim.Adagrad(weights, lr=0.05)
    gradient = torch.randn(ids_SFB.shape[2], ids_SFB.shape[1] * width)

    def step(number: int) -> None:
        rows = [table(ids) for table, ids in zip(tables, ids_SFB[number % len(ids_SFB)], strict=True)]
        (torch.cat(rows, dim=1) if len(rows) > 1 else rows[0]).backward(gradient)
        optimizer.step()
        optimizer.zero_grad()

    serve(turns, step)


if __name__ == "__main__":
    main()
