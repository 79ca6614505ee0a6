"""Our table: `checkout`, a gradient in the leaf it lent, `apply` by row-wise AdaGrad."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from contenders.turns import Turns, resident_bytes, serve
from contenders.zipf import scattered
from rankwell.schema import TableSpec
from rankwell.tables.adagrad import RowWiseAdaGrad
from rankwell.tables.loan import IdColumn
from rankwell.tables.storage import Eviction, Storage
from rankwell.tables.table import Table

_FILL = 8192


def main() -> None:
    turns = Turns()
    settings = turns.settings
    torch.set_num_threads(settings["threads"])
    width, num_fields, salts = settings["width"], len(settings["sizes"]), range(len(settings["sizes"]))
    ids_SFB = torch.from_numpy(np.load(settings["ids"]))
    names = [f"field_{i}" for i in range(num_fields)]
    growing = settings.get("growing", False)
    specs = [
        TableSpec(name=name, growing=True) if growing else TableSpec(name=name, num_ids=size)
        for name, size in zip(names, settings["sizes"], strict=True)
    ]
    storage = Storage(
        layout=settings.get("layout", "split"),
        dtype=settings.get("dtype", "float32"),
        folder=Path(settings["folder"]) if "folder" in settings else None,
        resident_bytes=settings.get("resident_bytes"),
        eviction=Eviction(max_rows=settings["max_rows"]) if "max_rows" in settings else None,
    )
    gradient = torch.randn(ids_SFB.shape[2], num_fields * width)

    def turn(table: Table, ids_FB: torch.Tensor, gradient: torch.Tensor) -> None:
        loan = table.checkout([[IdColumn(name, ids) for name, ids in zip(names, ids_FB, strict=True)]])
        loan.blocks[0].grad = gradient
        table.apply()

    rule = RowWiseAdaGrad(learning_rate=0.05)
    trial = Table(specs, width=width, seed=0, init_scale=0.05)
    trial.train_with(rule)
    turn(trial, ids_SFB[0], gradient)  # threads, buffers, code: none of them is the memory of the table that follows
    del trial
    before = {kind: resident_bytes(kind) for kind in ("VmRSS", "RssFile")}
    table = Table(specs, width=width, seed=0, init_scale=0.05, storage=storage)
    table.train_with(rule)
    nothing = torch.zeros(_FILL, num_fields * width)
    for first in range(0, settings.get("num_seen", 0), _FILL):
        ranks = np.arange(first, min(first + _FILL, settings["num_seen"]))
        fields = [scattered(ranks, size, salt=salt) for size, salt in zip(settings["sizes"], salts, strict=True)]
        turn(table, torch.from_numpy(np.stack(fields)), nothing[: len(ranks)])

    turns.facts = lambda: {
        "num_seen": table.num_seen,
        "num_bytes": table.num_bytes,
        **{f"grown/{kind}": resident_bytes(kind) - bytes_ for kind, bytes_ in before.items()},
    }
    serve(turns, lambda number: turn(table, ids_SFB[number % len(ids_SFB)], gradient))


if __name__ == "__main__":
    main()
