"""The billion: 10⁹ interactions of members with 10⁹ possible ids through one process, a row for each id seen.

    until python benchmarks/billion.py --rows 1e9 --work runs/billion --kill-at 5e8; do :; done

Wide & Deep is trained in one pass over a simulated log (`billion_log.py`), in pieces that are simulated when their turn
comes and deleted when a checkpoint holds what was learned from them. Then the same model without members is trained on
a tenth of the pieces, spread over the log and made anew (it has no more to learn: its loss stands still long before),
and both are judged on a piece that neither has seen, beside the truth.

The command may be killed at any time and started again with the same arguments: it goes on. With --kill-at it kills
itself once (SIGKILL) at that row, in the middle of a piece. The state stands in --work: checkpoints, pieces that are
still needed, and progress.jsonl, a line every few seconds: rows, rows a second, resident memory, log loss. Simulating
is timed apart: training time is all the rest, of all starts: reading, stepping, checkpoints, coming back after a kill,
and the work that the kill has lost.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, final

import matplotlib.pyplot as plt
import torch

from billion_log import (
    NUM_CATEGORIES,
    NUM_DEVICES,
    NUM_HOURS,
    NUM_ITEMS,
    NUM_MEMBERS,
    NUM_PLACES,
    BillionLog,
    batches_of,
    schema_of,
)
from rankwell.data.batches import Batches
from rankwell.data.statistics import NumericStatistics
from rankwell.evaluation.discrimination import auc, log_loss_from_logits
from rankwell.models.wide_deep import DeepSettings, LogisticSettings, WideDeep, WideDeepSettings
from rankwell.schema import Schema, TableSpec
from rankwell.tables.adagrad import RowWiseAdaGrad
from rankwell.training.dense_optimizers import DenseAdamW
from rankwell.training.log_pieces import LogPiece
from rankwell.training.objectives import PointwiseObjective
from rankwell.training.optimizers import OptimizerPlan
from rankwell.training.predictions import predict_action
from rankwell.training.stream import StreamReport, StreamSettings, fit_stream
from rankwell.training.stream_history import StreamHistory

LINE_EVERY_S = 5.0
PLAN = OptimizerPlan(
    dense=DenseAdamW(learning_rate=1e-3),
    linear_rows=RowWiseAdaGrad(learning_rate=0.1),
    default_rows=RowWiseAdaGrad(learning_rate=0.05),
)


def model_of(schema: Schema, width: int, hidden: tuple[int, ...], seed: int) -> WideDeep:
    """Every id has its row from its first sighting on, and none is dropped."""
    wide = LogisticSettings(default_rate=0.0, cross_default_rate=0.0)
    deep = DeepSettings(width=width, hidden=hidden, default_rate=0.0)
    return WideDeep(schema, NumericStatistics(), WideDeepSettings(wide=wide, deep=deep), seed=seed)


def resident_bytes() -> int:
    """Of this process, now; where the system doesn't say, the most that it ever was."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def peak_bytes() -> int:
    """The most that was ever resident of this process, what it held for a moment included."""
    status = Path("/proc/self/status")
    if status.exists():  # there getrusage counts what the parent held when it started this process
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@final
class Journal:
    """Lines of progress.jsonl; each start of a phase is told apart by its number."""

    def __init__(self, path: Path, phase: str) -> None:
        self.path, self.phase = path, phase
        self.start = 1 + max((line["start"] for line in lines_of(path, phase)), default=-1)
        self.simulating_s = 0.0
        self._began = time.perf_counter()
        self._told_s, self._told_rows, self._next_s = 0.0, -1, 0.0

    @property
    def elapsed_s(self) -> float:
        """Since this start began, without simulating."""
        return time.perf_counter() - self._began - self.simulating_s

    def on_step(self, report: StreamReport) -> None:
        """A line, when it is time for one."""
        now = self.elapsed_s
        if self._told_rows < 0:  # what came before this start isn't of its speed
            self._told_s, self._told_rows = now, report.num_candidates
        if now >= self._next_s:
            self.write(report.num_candidates, report.log_loss)

    def write(self, rows: int, log_loss: float) -> None:
        """A line."""
        now = self.elapsed_s
        speed = (rows - self._told_rows) / (now - self._told_s) if now > self._told_s else None
        line = {
            "phase": self.phase, "start": self.start, "at": time.time(), "elapsed_s": now,
            "simulating_s": self.simulating_s, "rows": rows, "rows_per_s": speed,
            "resident_bytes": resident_bytes(), "peak_bytes": peak_bytes(),
            "log_loss": log_loss,
        }  # fmt: skip
        self._told_s, self._told_rows, self._next_s = now, rows, now + LINE_EVERY_S
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")


def lines_of(path: Path, phase: str) -> list[dict[str, Any]]:
    """The whole lines of a phase; a line that a kill has cut is left out."""
    if not path.exists():
        return []
    text = path.read_text()
    lines = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines() if line.endswith("}")]
    return [line for line in lines if line["phase"] == phase]


@final
class Run:
    """The state in the work folder, and the steps of the benchmark."""

    def __init__(self, arguments: argparse.Namespace, work: Path) -> None:
        self.arguments, self.work = arguments, work
        self.log = BillionLog(int(arguments.rows), int(arguments.piece), arguments.seed)
        self.hidden = tuple(int(width) for width in arguments.hidden.split(","))
        self.pieces = work / "pieces"
        self.pieces.mkdir(parents=True, exist_ok=True)
        self.progress = work / "progress.jsonl"
        hashed = arguments.hashed_rows
        member = TableSpec(name="member", num_rows=hashed) if hashed else TableSpec(name="member", growing=True)
        self.schemas = {"members": schema_of(member), "without members": schema_of(None)}

    def measured(self, phase: str, numbers: list[int]) -> dict[str, Any]:
        """Train on the pieces and judge on the held-out one; from the disk, if that was done before."""
        done = self.work / f"{phase.replace(' ', '-')}.json"
        if not done.exists():
            model = model_of(self.schemas[phase], self.arguments.width, self.hidden, self.arguments.seed)
            history = self._train(phase, model, numbers)
            figures = {**self._training(phase, history), **self._judge(model)}
            written = done.with_suffix(".part")
            written.write_text(json.dumps(figures))
            written.replace(done)
        found: dict[str, Any] = json.loads(done.read_text())
        return found

    def _train(self, phase: str, model: WideDeep, numbers: list[int]) -> StreamHistory:
        journal = Journal(self.progress, phase)
        schema = self.schemas[phase]

        def opened(number: int) -> Callable[[], Batches]:
            def open_piece() -> Batches:
                path = self._path(number)
                if not path.exists():
                    began = time.perf_counter()
                    self.log.write(number, path)
                    journal.simulating_s += time.perf_counter() - began
                return batches_of(path, schema, self.arguments.batch)

            return open_piece

        def on_step(report: StreamReport) -> None:
            journal.on_step(report)
            if phase == "members" and self.arguments.kill_at and report.num_candidates >= self.arguments.kill_at:
                self._kill_once()

        pieces = [LogPiece(self._path(n).name, opened(n), self.log.rows_of(n)) for n in numbers]
        history = fit_stream(
            model, PointwiseObjective(schema), PLAN, pieces,
            StreamSettings(checkpoint_every_s=self.arguments.checkpoint_every_s, autocast=self.arguments.autocast),
            seed=self.arguments.seed, checkpoints=self.work / f"checkpoints-{phase.replace(' ', '-')}",
            on_step=on_step, on_done=lambda piece: (self.pieces / piece.name).unlink(missing_ok=True),
        )  # fmt: skip
        journal.write(history.num_candidates, history.log_loss(last=1))  # and what the last checkpoint took
        return history

    def _training(self, phase: str, history: StreamHistory) -> dict[str, Any]:
        lines = lines_of(self.progress, phase)
        last = {line["start"]: line for line in lines}.values()  # of each start
        training_s = sum(line["elapsed_s"] for line in last)
        return {
            "rows": history.num_candidates,
            "training_s": training_s,
            "rows_per_s": history.num_candidates / training_s,
            "stepping_s": sum(piece.seconds - piece.reading_s for piece in history.pieces),
            "reading_s": sum(piece.reading_s for piece in history.pieces),
            "checkpoints_s": sum(piece.saving_s for piece in history.pieces),
            "simulating_s": sum(line["simulating_s"] for line in last),
            "starts": len(last),
            "peak_resident_bytes": max(line["peak_bytes"] for line in lines),
            "progressive_log_loss": [piece.log_loss for piece in history.pieces],
        }

    def _judge(self, model: WideDeep) -> dict[str, Any]:
        path = self._path(self.log.num_pieces)  # one beyond the last
        bayes = self.log.write(path=path, piece=self.log.num_pieces)
        logits_C, labels_C, weights_C = predict_action(model, batches_of(path, model.schema, self.arguments.batch), 0)
        path.unlink()
        probabilities_C = torch.sigmoid(logits_C.double())
        seen = sum(table.num_seen for part, table in model.tables.items() if part == "deep")
        others = NUM_ITEMS + NUM_CATEGORIES + NUM_PLACES + NUM_HOURS + NUM_DEVICES
        return {
            "held_out_log_loss": log_loss_from_logits(logits_C, labels_C, weights_C),
            "held_out_auc": auc(probabilities_C, labels_C, weights_C),
            "held_out_calibration_ratio": float(probabilities_C.sum() / labels_C.sum()),
            "bayes_log_loss": bayes,
            "members_seen_at_least": max(0, seen - others),
            "table_bytes": sum(table.num_bytes for table in model.tables.values()),
        }

    def _path(self, number: int) -> Path:
        return self.pieces / f"piece-{number:05d}.parquet"

    def _kill_once(self) -> None:
        marker = self.work / "killed"
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def draw(self, path: Path, results: dict[str, dict[str, Any]]) -> None:
        """Speed, memory and held-out log loss against rows; the kill is a line."""
        lines = lines_of(self.progress, "members")
        free = results["without members"]
        figure, (speed, memory, loss) = plt.subplots(3, 1, sharex=True, figsize=(8, 7), layout="constrained")
        for start in sorted({line["start"] for line in lines}):  # each goes on a little before the one before ended
            its = [line for line in lines if line["start"] == start]
            timed = [(line["rows"] / 1e6, line["rows_per_s"] / 1e3) for line in its if line["rows_per_s"]]
            speed.plot([row for row, _ in timed], [rate for _, rate in timed], lw=0.8, color="C0")
            resident = [line["resident_bytes"] / 1e9 for line in its]
            memory.plot([line["rows"] / 1e6 for line in its], resident, lw=1.2, color="C0")
        speed.set(ylabel="thousand rows a second", ylim=(0, None), title=_title(results["members"]))
        memory.axhline(8, color="0.5", ls=":", label="limit")
        memory.set(ylabel="resident memory, GB", ylim=(0, None))
        memory.legend(fontsize="small", loc="lower right")
        of_piece = results["members"]["progressive_log_loss"]
        ends = [min(self.log.num_rows, (piece + 1) * self.log.piece_rows) / 1e6 for piece in range(len(of_piece))]
        loss.plot(ends, of_piece, label="with a row for each member, before learning from it")
        loss.axhline(free["held_out_log_loss"], color="C1", label="the same model without members, held out")
        loss.axhline(free["bayes_log_loss"], color="0.5", ls=":", label="the truth (Bayes)")
        loss.set(xlabel="million interactions", ylabel="log loss, nats")
        loss.legend(fontsize="small")
        for earlier, later in pairwise(lines):
            if later["start"] != earlier["start"]:
                for axes in (speed, memory, loss):
                    axes.axvline(earlier["rows"] / 1e6, color="C3", ls="--", lw=0.8)
        figure.savefig(path, dpi=130)
        plt.close(figure)


def _title(figures: dict[str, Any]) -> str:
    seen, minutes = figures["members_seen_at_least"] / 1e6, figures["training_s"] / 60
    return f"{figures['rows'] / 1e6:,.0f} million interactions, {seen:,.1f} million members: {minutes:.1f} minutes"


def arguments_of() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=float, default=2e6)
    parser.add_argument("--piece", type=float, default=1e7, help="rows of a piece")
    parser.add_argument("--batch", type=int, default=16_384)
    parser.add_argument("--width", type=int, default=8, help="of the deep part's rows")
    parser.add_argument("--hidden", default="64,32", help="widths of the hidden layers")
    parser.add_argument("--autocast", choices=("off", "bfloat16"), default="bfloat16")
    parser.add_argument("--hashed-rows", type=int, help="hash members to so many rows instead of a row for each")
    parser.add_argument("--checkpoint-every-s", type=float, default=300.0)
    parser.add_argument("--kill-at", type=float, help="kill this process at that row, once")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="folder of the state; without one, nothing is kept")
    parser.add_argument("--figure", type=Path, help="by default billion.png in the work folder")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def check_same(arguments: argparse.Namespace, work: Path) -> None:
    """A work folder belongs to one set of arguments."""
    kept = ("rows", "piece", "batch", "width", "hidden", "autocast", "hashed_rows", "seed")
    mine = {name: getattr(arguments, name) for name in kept}
    path = work / "arguments.json"
    work.mkdir(parents=True, exist_ok=True)
    if path.exists() and json.loads(path.read_text()) != mine:
        raise SystemExit(f"{work} belongs to a run with {path.read_text()}; name another folder")
    path.write_text(json.dumps(mine))


def measure(arguments: argparse.Namespace, work: Path) -> None:
    """Go on where the work folder stands, to the end; then print, write and draw."""
    check_same(arguments, work)
    run = Run(arguments, work)
    last = run.log.num_pieces
    every = max(1, last // 10)
    sample = list(range(every - 1, last, every))
    results = {
        "members": run.measured("members", list(range(last))),
        "without members": run.measured("without members", sample),
    }
    print(f"{'':<32}{'members':>16}{'without members':>18}")
    for name, value in results["members"].items():
        if not isinstance(value, list):
            print(f"{name:<32}{value:>16,.4f}{results['without members'][name]:>18,.4f}")
    gain = results["without members"]["held_out_log_loss"] - results["members"]["held_out_log_loss"]
    print(f"held-out log loss better by {gain:.4f}; {NUM_MEMBERS:,} possible members; the model without them had "
          f"{len(sample)} of {last} pieces")  # fmt: skip
    run.draw(arguments.figure or work / "billion.png", results)
    if arguments.json is not None:
        flat = {f"{phase}/{name}": value for phase, figures in results.items() for name, value in figures.items()}
        arguments.json.write_text(json.dumps({**flat, "log_loss_gained": gain}, indent=1) + "\n")


def main() -> None:
    """In the work folder, or in one that is gone afterwards."""
    arguments = arguments_of()
    if arguments.work is not None:
        measure(arguments, arguments.work)
        return
    folder = Path(tempfile.mkdtemp())
    try:
        measure(arguments, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
