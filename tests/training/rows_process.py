"""Streams over a file-backed growing table, killed in processes of their own.

``rows_process.py at_random FOLDER NUM_PIECES NUM_KILLS SEED`` trains once undisturbed, and once killed by SIGKILL at
random moments and started again each time; ``rows_process.py in_a_save FOLDER`` dies before each operation on files
that a save does, and reads what is there. Both write what came of it to FOLDER/out.json.

Children are forked from one process that has done it all once, so that a life begins at once.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from rankwell.data.batches import Batches
from rankwell.data.log import log_from_table
from rankwell.data.split import WholeLog
from rankwell.data.statistics import NumericStatistics
from rankwell.models.model import Model
from rankwell.models.wide_deep import DeepSettings, LogisticSettings, WideDeep, WideDeepSettings
from rankwell.schema import Action, Categorical, Schema, TableSpec
from rankwell.tables.adagrad import RowWiseAdaGrad
from rankwell.tables.loan import IdColumn
from rankwell.tables.storage import Eviction, Storage
from rankwell.tables.table import Table
from rankwell.training.checkpoint import Checkpoint, Checkpoints
from rankwell.training.dense_optimizers import DenseAdamW
from rankwell.training.log_pieces import LogPiece
from rankwell.training.objectives import PointwiseObjective
from rankwell.training.optimizers import OptimizerPlan
from rankwell.training.resumed import Resumed
from rankwell.training.stream import StreamSettings, fit_stream

SCHEMA = Schema(
    features=(Categorical(name="member", table="member"), Categorical(name="job", num_ids=50)),
    tables=(TableSpec(name="member", growing=True),),
    actions=(Action(name="click"),),
    request_id=None,
    member_id=None,
    time=None,
)
ROWS_A_PIECE = 4000


def piece(index: int) -> Batches:
    """Of steps of 200 rows; the same in every process."""
    rng = np.random.default_rng(index)
    member = np.where(rng.random(ROWS_A_PIECE) < 0.5, rng.integers(0, 500, ROWS_A_PIECE), rng.integers(0, 10**9))
    member = member * (rng.integers(0, 40, ROWS_A_PIECE) + 1)
    click = (rng.random(ROWS_A_PIECE) < 0.2 + 0.5 * (member % 2)).astype(np.int8)
    log = log_from_table(pa.table({"member": member, "job": rng.integers(0, 50, ROWS_A_PIECE), "click": click}), SCHEMA)
    return Batches(log, WholeLog("train"), "train", num_requests=200, seed=index)


def train(folder: Path, name: str, num_pieces: int) -> None:
    """A life: train on from the newest checkpoint; at the end write down what came of it."""
    torch.set_num_threads(1)
    model = WideDeep(
        SCHEMA,
        NumericStatistics(),
        WideDeepSettings(wide=LogisticSettings(), deep=DeepSettings(width=4, hidden=(8,), dropout=0.1, admission=2)),
        seed=0,
    )
    kept = Storage(
        folder=folder / f"rows-{name}", resident_bytes=2**24, dtype="bfloat16", eviction=Eviction(max_age_steps=200)
    )
    rule = RowWiseAdaGrad(learning_rate=0.1, decay=0.01)
    lives = folder / f"lives-{name}"

    def on_resume(resumed: Resumed) -> None:
        with lives.open("a") as file:
            file.write(f"{resumed.step}\n")

    history = fit_stream(
        model,
        PointwiseObjective(SCHEMA),
        OptimizerPlan(
            dense=DenseAdamW(learning_rate=0.01), linear_rows=rule, default_rows=rule, storage={"deep": kept}
        ),
        [LogPiece(f"piece {k}", lambda k=k: piece(k)) for k in range(num_pieces)],  # type: ignore[misc]
        StreamSettings(checkpoint_every_steps=7),
        seed=0,
        checkpoints=folder / f"checkpoints-{name}",
        on_resume=on_resume,
    )
    figures = [[record.name, record.num_requests, record.log_loss] for record in history.pieces]
    (folder / f"{name}.json").write_text(json.dumps({"digest": digest(model), "pieces": figures}))


def digest(model: Model) -> dict[str, int]:
    """Checksums of all that a model and its tables hold, rows in the order of their keys."""
    of = {name: checksum(tensor) for name, tensor in model.state_dict().items()}
    for part, table in model.tables.items():
        of |= {f"{part}/{name}": checksum(tensor) for name, tensor in table.progress().items()}
        for name in table.names:
            of[f"{part}/{name}"] = rows_checksum(table, name)
    return of


def rows_checksum(table: Table, name: str) -> int:
    """Of a named table."""
    pieces = list(table.chunks(name, up_to_date=False))
    order_n = torch.cat([rows.keys_n for rows in pieces]).argsort()
    total = 0
    for field in pieces[0].__slots__:
        total = checksum(torch.cat([getattr(rows, field) for rows in pieces])[order_n], total)
    return total


def checksum(tensor: torch.Tensor, start: int = 0) -> int:
    """Of a tensor's bytes."""
    return zlib.crc32(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data, start)


def forked(life: Callable[[], object]) -> int:
    """Live in a child; its process id."""
    child = os.fork()
    if child == 0:
        try:
            life()
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)  # noqa: T201
            os._exit(1)
        os._exit(0)
    return child


def ended(child: int) -> int:
    """How a child ended: its exit code, or minus the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def at_random(folder: Path, num_pieces: int, num_kills: int, seed: int) -> dict[str, Any]:
    """See the file's docstring."""
    train(folder, "warm", 1)
    began = time.monotonic()
    assert ended(forked(lambda: train(folder, "whole", num_pieces))) == 0
    whole_s = time.monotonic() - began
    draw, num_killed, num_in_save = random.Random(seed), 0, 0
    for _ in range(num_kills):
        child = forked(lambda: train(folder, "killed", num_pieces))
        time.sleep(draw.uniform(0.0, 1.6 * whole_s / num_kills))
        os.kill(child, signal.SIGKILL)
        num_killed += ended(child) == -signal.SIGKILL
        num_in_save += any((folder / "checkpoints-killed" / ".unfinished").glob("*"))
    assert ended(forked(lambda: train(folder, "killed", num_pieces))) == 0
    lives = folder / "lives-killed"
    return {
        "whole": json.loads((folder / "whole.json").read_text()),
        "killed": json.loads((folder / "killed.json").read_text()),
        "num_killed": num_killed,
        "num_in_save": num_in_save,
        "resumed_from": [int(line) for line in lives.read_text().split()] if lives.exists() else [],
    }


def new_table() -> Table:
    """For `in_a_save`."""
    table = Table([TableSpec(name="member", growing=True)], width=2, seed=0, init_scale=0.1)
    table.train_with(RowWiseAdaGrad(learning_rate=0.1))
    return table


def move(table: Table, first: int) -> None:
    """A step of ten rows."""
    (block,) = table.checkout([[IdColumn("member", torch.arange(first, first + 10))]]).blocks
    block.sum().backward()
    table.apply()


def go_on(folder: Path) -> tuple[Checkpoints, Table, int]:
    """From the newest checkpoint: a table, and the step."""
    table = new_table()
    checkpoints = Checkpoints(folder, {"seed": "0"}, {"deep": table})
    newest = checkpoints.newest()
    if newest is None:
        return checkpoints, table, 0
    checkpoints.put_rows(newest)
    table.load_progress(newest.tensors)
    return checkpoints, table, newest.step


def save(checkpoints: Checkpoints, table: Table, step: int) -> None:
    """One checkpoint."""
    checkpoints.save(Checkpoint(step, table.progress(), {}))


def die_before(operation: int) -> None:
    """Have this process die before its so-many-th operation on a file, from 0."""
    left = operation

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if event in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree", "os.truncate"):
            if left == 0:
                os._exit(9)
            left -= 1

    sys.addaudithook(watch)


def in_a_save(folder: Path) -> dict[str, Any]:
    """See the file's docstring."""
    checkpoints, table, _ = go_on(folder / "start")
    expected = {}
    for step in (1, 2):
        move(table, 10 * step)
        save(checkpoints, table, step)
        expected[step] = rows_checksum(table, "member")
    move(table, 15)
    expected[3] = rows_checksum(table, "member")
    found, operation = [], 0
    while True:
        here = folder / f"dies-before-{operation}"
        shutil.copytree(folder / "start", here)

        def life(here: Path = here, operation: int = operation) -> None:
            checkpoints, table, step = go_on(here)
            assert step == 2
            move(table, 15)
            die_before(operation)
            save(checkpoints, table, 3)

        code = ended(forked(life))
        _, again, step = go_on(here)
        found.append([code, step, rows_checksum(again, "member") == expected[step]])
        left = sorted(path.name for path in here.iterdir() if path.suffix != ".safetensors")
        found[-1].append([name for name in left if not name.startswith("rows-")])
        if code != 9:
            return {"found": found}
        operation += 1


if __name__ == "__main__":
    way, out = sys.argv[1], Path(sys.argv[2])
    result = at_random(out, *map(int, sys.argv[3:6])) if way == "at_random" else in_a_save(out)
    (out / "out.json").write_text(json.dumps(result))
