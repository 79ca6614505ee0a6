"""A training in a process of its own, which can be killed: ``training_process.py CHECKPOINTS OUT WAY``.

WAY is "to the end", or "killed": by SIGKILL in epoch 1, between two checkpoints.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
from pathlib import Path

from safetensors.torch import save_file
from training_example import LOOP, drawing_model, everything, fitted, in_order, shuffled, without_times

from every_kind_log import EVERY_KIND, every_kind_table
from rankwell.data.log import log_from_table
from rankwell.training.loop import StepReport

LOOP_OF_4 = dataclasses.replace(LOOP, max_epochs=4, anneal_to=0.3, drop_factor=0.5)
"""Of 8 steps an epoch: checkpoints after the steps 3, 6, 8 | 11, 14, 16 | …"""


def main(checkpoints: Path, out: Path, way: str) -> None:
    """Train on, or from the start, and write what came of it."""
    train = log_from_table(every_kind_table(120, 1), EVERY_KIND, layout="requests")
    tune = log_from_table(every_kind_table(60, 2), EVERY_KIND, layout="requests")
    model = drawing_model(train)
    num_steps = 0

    def on_step(report: StepReport) -> None:
        nonlocal num_steps
        num_steps += 1
        if way == "killed" and report.epoch == 1 and report.num_requests == 75:  # the 13th step
            os.kill(os.getpid(), signal.SIGKILL)

    history = fitted(model, shuffled(train, 16), in_order(tune), LOOP_OF_4, checkpoints=checkpoints, on_step=on_step)
    save_file(everything(model), out.with_suffix(".safetensors"))
    kept = {"epochs": without_times(history), "best_epoch": history.best_epoch, "num_steps": num_steps}
    out.with_suffix(".json").write_text(json.dumps(kept))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
