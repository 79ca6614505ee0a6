"""A stream in a process of its own, which can be killed: ``stream_process.py LOG CHECKPOINTS OUT KILL_AT``.

LOG is a folder of ``day-*.parquet``, each of which is deleted as soon as it may be. At step KILL_AT of this start the
process kills itself by SIGKILL; 0 lets it come to the end and write to OUT what came of it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from safetensors.torch import save_file
from training_example import JOBS, PLAN, drawing_model, everything, jobs_log

from rankwell.training.log_pieces import LogPiece, pieces_of_files
from rankwell.training.objectives import PointwiseObjective
from rankwell.training.stream import StreamReport, StreamSettings, fit_stream

NUM_DAYS = 5


def main(log: Path, checkpoints: Path, out: Path, kill_at: int) -> None:
    """Train on, or from the start."""
    model = drawing_model(jobs_log(200, 1))
    num_steps = 0

    def on_step(report: StreamReport) -> None:
        nonlocal num_steps
        num_steps += 1
        if num_steps == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_done(piece: LogPiece) -> None:
        Path(piece.name).unlink(missing_ok=True)

    os.chdir(log)
    days = [f"day-{day}.parquet" for day in range(NUM_DAYS)]
    history = fit_stream(
        model,
        PointwiseObjective(JOBS),
        PLAN,
        pieces_of_files(days, JOBS, layout="flat", num_requests=20, seed=3),
        StreamSettings(checkpoint_every_steps=4),
        seed=0,
        checkpoints=checkpoints,
        on_step=on_step,
        on_done=on_done,
    )
    save_file(everything(model), out.with_suffix(".safetensors"))
    figures = [[record.name, record.num_requests, record.log_loss, record.loss] for record in history.pieces]
    out.with_suffix(".json").write_text(json.dumps({"pieces": figures, "num_steps": num_steps}))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]), int(sys.argv[4]))
