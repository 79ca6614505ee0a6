"""Wide & Deep, or Deep, by hand over FBGEMM's CPU tables: row-wise AdaGrad inside `backward`, fused AdamW for the rest.

FBGEMM's rows have a multiple of four columns, so a feature's weight in the wide part stands in column 17 of its row of
20, with one accumulator for the row: one operator, the quickest form there is (ten more tables of width 4 in it take
half as much again, in an operator of their own a quarter). Ours keeps such weights in tables of their own.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from contenders.fbgemm_table import tables_of
from contenders.turns import Turns, serve


def main() -> None:
    turns = Turns()
    settings = turns.settings
    torch.set_num_threads(settings["threads"])
    torch.set_float32_matmul_precision(settings["matmul_precision"])
    in_bfloat16 = settings["autocast"] == "bfloat16"
    ids_SFB = torch.from_numpy(np.load(settings["ids"]))
    labels_SB = torch.from_numpy(np.load(settings["labels"]))
    num_steps, num_fields, batch = ids_SFB.shape
    two, is_wide, row = settings.get("two_operators", False), settings.get("wide", True), settings.get("width", 16)
    stored = (row + (is_wide and not two) + 3) // 4 * 4
    deep_rows = tables_of([settings["size"]] * num_fields, stored)
    wide_rows = tables_of([settings["size"]] * num_fields, 4) if two else None
    offsets = torch.arange(ids_SFB[0].numel() + 1)
    width, layers = num_fields * row, []
    for hidden in settings["hidden"]:
        layers += [nn.Linear(width, hidden), nn.ReLU(inplace=True)]
        width = hidden
    body, last = nn.Sequential(*layers), nn.Linear(width, 1)
    optimizer = torch.optim.AdamW([*body.parameters(), *last.parameters()], lr=1e-3, weight_decay=0.0, fused=True)

    def logits_of(ids_FB: Tensor) -> Tensor:
        ids_n = ids_FB.view(-1)
        rows = deep_rows(ids_n, offsets).view(batch, num_fields, stored)
        logits: Tensor = last(body(rows[:, :, :row].reshape(batch, -1)))
        if wide_rows is not None:
            logits = logits + wide_rows(ids_n, offsets).view(batch, num_fields, 4)[:, :, :1].sum(1)
        elif is_wide:
            logits = logits + rows[:, :, row : row + 1].sum(1)
        return logits.squeeze(1)

    def step(number: int) -> None:
        s = number % num_steps
        with torch.autocast("cpu", torch.bfloat16, enabled=in_bfloat16):
            logits_B = logits_of(ids_SFB[s])
        loss = binary_cross_entropy_with_logits(logits_B.float(), labels_SB[s])
        loss.item()  # every loop looks at it: ours refuses one that isn't finite
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    serve(turns, step)


if __name__ == "__main__":
    main()
