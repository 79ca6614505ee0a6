"""What a training says of its rows at the end."""

from __future__ import annotations

import torch

from rankwell.app.row_table import row_table
from rankwell.schema import TableSpec
from rankwell.tables.loan import IdColumn
from rankwell.tables.sgd import Sgd
from rankwell.tables.storage import Eviction, Storage
from rankwell.tables.table import Table


def test_ids_bytes_and_evicted_rows_of_each_part() -> None:
    grown = Table([TableSpec(name="member", growing=True)], width=4, seed=0, init_scale=0.1)
    grown.train_with(Sgd(), Storage(eviction=Eviction(max_age_steps=16)))
    for step in range(40):
        ids_n = torch.arange(1500) if step == 0 else torch.tensor([3, 4])
        grown.checkout([[IdColumn("member", ids_n)]]).blocks[0].sum().backward()
        grown.apply()
    direct = Table([TableSpec(name="job", num_ids=998)], width=1, seed=0, init_scale=0.1)
    lines = list(
        zip(*(column.cells for column in row_table({"deep": grown, "wide": direct}, "jobs").columns), strict=True)
    )
    assert [(what, ids, *evicted) for what, ids, _, *evicted in lines] == [
        ("rows deep", "2", "1,498", "0"), ("rows wide", "0", "0", "0")
    ]  # fmt: skip
    assert lines[1][2] == "16.0 kB"  # 998 + 2 rows of 4 bytes, and 12 of counts
