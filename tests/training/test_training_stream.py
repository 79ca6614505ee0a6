"""One pass over pieces of a log: the same steps as the loop's, honest figures, bit-equal after a kill, flat memory."""

from __future__ import annotations

import dataclasses
import gc
import json
import math
import os
import signal
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from training_example import (
    JOBS,
    LOOP,
    PLAN,
    drawing_model,
    everything,
    fitted,
    in_order,
    jobs_log,
    jobs_table,
    logistic,
    same,
    statistics_of,
)

from every_kind_log import EVERY_KIND, every_kind_table
from rankwell.data.batches import Batches
from rankwell.data.log import RequestLog, log_from_table
from rankwell.data.split import WholeLog
from rankwell.errors import CheckpointError, LogError, TrainingError
from rankwell.models.model import Model
from rankwell.models.wide_deep import Logistic, LogisticSettings
from rankwell.schema import Categorical, Numeric, TableSpec
from rankwell.tables.storage import Eviction, Storage
from rankwell.training.log_pieces import LogPiece, pieces_of_files
from rankwell.training.objectives import PointwiseObjective
from rankwell.training.predictions import predict_action
from rankwell.training.stream import StreamReport, StreamSettings, fit_stream
from rankwell.training.stream_history import StreamHistory

TESTS = Path(__file__).parent.parent
EXACT = StreamSettings(matmul_precision="highest")


def piece_of(log: RequestLog, name: str, num_requests: int = 20, seed: int | None = None) -> LogPiece:
    return LogPiece(
        name,
        lambda: Batches(log, WholeLog("train"), "train", num_requests=num_requests, seed=seed),
        log.num_requests,
    )


def days(num_days: int, num_rows: int = 100, num_requests: int = 20) -> list[LogPiece]:
    """Of 5 batches each."""
    return [piece_of(jobs_log(num_rows, 10 + day), f"day {day}", num_requests) for day in range(num_days)]


def streamed(
    model: Model,
    pieces: list[LogPiece],
    settings: StreamSettings = EXACT,
    *,
    seed: int = 0,
    checkpoints: Path | None = None,
    on_step: Callable[[StreamReport], None] | None = None,
    on_done: Callable[[LogPiece], None] | None = None,
) -> StreamHistory:
    return fit_stream(
        model, PointwiseObjective(model.schema), PLAN, pieces, settings, seed=seed, checkpoints=checkpoints,
        on_step=on_step, on_done=on_done,
    )  # fmt: skip


def figures(history: StreamHistory) -> list[dict[str, object]]:
    """The history, but for wall times."""
    times = {"seconds", "reading_s", "opening_s", "saving_s"}
    return [{name: value for name, value in row.items() if name not in times} for row in history.to_rows()]


@pytest.fixture(scope="module")
def example() -> RequestLog:
    return jobs_log(200, 1)


# --- what is learned, and what is said of it -------------------------------------------------------------------------


def test_pieces_are_learned_from_as_one_log_is(example: RequestLog) -> None:
    tables = [jobs_table(100, 10 + day)[0] for day in range(4)]
    whole = log_from_table(pa.concat_tables(tables), JOBS)
    by_loop, by_stream = drawing_model(example), drawing_model(example)
    loop = dataclasses.replace(LOOP, max_epochs=1, matmul_precision="highest")
    fitted(by_loop, Batches(whole, WholeLog("train"), "train", num_requests=20, seed=None), in_order(example), loop)
    history = streamed(by_stream, [piece_of(log_from_table(table, JOBS), str(i)) for i, table in enumerate(tables)])
    predict_action(by_stream, in_order(example), 0)  # as the loop did: rows that were not lent lately pay their decay
    assert same(everything(by_stream), everything(by_loop))
    assert not by_stream.training
    assert [piece.num_requests for piece in history.pieces] == [100] * 4
    assert history.num_candidates == 400


def test_each_batch_is_judged_before_it_is_learned_from() -> None:
    """By a model that was trained on all batches before, asked in eval mode, with the sums written out."""
    pieces = days(4, num_rows=30, num_requests=30)
    history = streamed(logistic(jobs_log(200, 1)), pieces)
    for index, record in enumerate(history.pieces):
        before = logistic(jobs_log(200, 1))
        if index:
            streamed(before, pieces[:index])
        logits_C, labels_C, _ = predict_action(before, pieces[index].open(), 0)
        z_C, y_C = logits_C.double().numpy(), labels_C.double().numpy()
        p_C = 1 / (1 + np.exp(-z_C))
        assert record.log_loss == pytest.approx(-np.mean(y_C * np.log(p_C) + (1 - y_C) * np.log(1 - p_C)), rel=1e-5)
        assert record.calibration_ratio == pytest.approx(p_C.sum() / y_C.sum(), rel=1e-5)
        assert record.loss == pytest.approx(record.log_loss, rel=1e-6)
        assert record.weight == 30
    assert history.pieces[0].log_loss == pytest.approx(math.log(2))


def test_only_what_was_observed_is_judged_by_its_weight() -> None:
    """A fresh logistic says ½: of Σ w = 1 + 2 + 4 one third of the weight was clicked. The rest has no label."""
    weighted = JOBS.model_copy(update={"weight": "w"})
    table = pa.table({
        "job": [1, 2, 3, 4, 5], "match": np.zeros(5, np.float32), "click": pa.array([1, 0, None, 0, 1], pa.int8()),
        "w": [1.0, 2.0, 8.0, 4.0, 0.0],
    })  # fmt: skip
    log = log_from_table(table, weighted)
    (record,) = streamed(Logistic(weighted, statistics_of(log), seed=0), [piece_of(log, "a")]).pieces
    assert (record.weight, record.num_candidates) == (7.0, 5)
    assert record.log_loss == pytest.approx(math.log(2))
    assert record.calibration_ratio == pytest.approx(3.5 / 1.0)


def test_of_nothing_observed_nothing_is_said() -> None:
    table = pa.table({"job": [1, 2], "match": np.zeros(2, np.float32), "click": pa.array([None, None], pa.int8())})
    log = log_from_table(table, JOBS)
    history = streamed(logistic(log), [piece_of(log, "a")])
    (record,) = history.pieces
    assert record.weight == 0
    assert all(math.isnan(number) for number in (record.loss, record.log_loss, record.calibration_ratio))
    assert math.isnan(history.log_loss(last=1))


def test_every_kind_of_column_streams() -> None:
    log = log_from_table(every_kind_table(120, 1), EVERY_KIND, layout="requests")
    history = streamed(drawing_model(log), [piece_of(log, str(seed), 16, seed) for seed in range(6)])
    assert history.log_loss(last=1) < history.pieces[0].log_loss


def test_reports_count_over_all_pieces() -> None:
    reports: list[StreamReport] = []
    history = streamed(logistic(jobs_log(200, 1)), days(2), on_step=reports.append)
    assert [report.num_requests for report in reports] == [20 * step for step in range(1, 11)]
    assert [report.piece for report in reports] == [0] * 5 + [1] * 5
    assert {(report.num_pieces, report.num_requests_total) for report in reports} == {(2, 200)}
    assert [reports[4].log_loss, reports[9].log_loss] == [record.log_loss for record in history.pieces]
    unknown = [dataclasses.replace(days(1)[0], num_requests=None), *days(2)[1:]]
    streamed(logistic(jobs_log(200, 1)), unknown, on_step=reports.append)
    assert reports[-1].num_requests_total is None


def test_rows_and_what_became_of_them_are_counted_over_all_starts(tmp_path: Path) -> None:
    """Each day has 8 jobs of its own and one that is seen once: of a batch of 20 at a time, 5 batches a day."""
    features = (Categorical(name="job"), Numeric(name="match"))
    schema = JOBS.model_copy(update={"features": features, "tables": (TableSpec(name="job", growing=True),)})

    def day(number: int) -> RequestLog:
        table, _ = jobs_table(100, 10 + number)
        jobs = np.concatenate([table["job"].to_numpy()[1:], [99]]) + 1000 * number
        return log_from_table(table.set_column(0, "job", pa.array(jobs)), schema)

    def gone_through(num_days: int, checkpoints: Path | None) -> StreamHistory:
        model = Logistic(schema, statistics_of(day(0)), LogisticSettings(admission=2, default_rate=0.0), seed=0)
        plan = dataclasses.replace(PLAN, storage={"wide": Storage(eviction=Eviction(max_age_steps=16))})
        return fit_stream(
            model, PointwiseObjective(schema), plan, [piece_of(day(d), str(d)) for d in range(num_days)], EXACT, seed=0,
            checkpoints=checkpoints,
        )  # fmt: skip

    through = gone_through(8, None)
    first, second, *_, last = through.pieces
    assert (first.num_seen, first.num_waiting, second.num_seen, second.num_waiting) == (8, 1, 16, 2)
    assert (second.num_evicted_by_age, last.num_evicted_by_frequency) == (0, 0)
    assert 24 <= last.num_evicted_by_age == 64 - last.num_seen <= 40  # not lent for 16 steps, or up to 20
    assert 1 <= last.num_waiting < 8
    gone_through(5, tmp_path)
    assert figures(gone_through(8, tmp_path)) == figures(through)


def test_one_piece_is_in_memory_at_a_time() -> None:
    alive: weakref.WeakSet[Batches] = weakref.WeakSet()
    most = 0

    def opened(day: int) -> Batches:
        nonlocal most
        batches = Batches(jobs_log(40, day), WholeLog("train"), "train", num_requests=20, seed=None)
        alive.add(batches)
        gc.collect()
        most = max(most, len(alive))
        return batches

    pieces = [LogPiece(str(day), lambda day=day: opened(day)) for day in range(5)]  # type: ignore[misc]
    streamed(logistic(jobs_log(200, 1)), pieces)
    assert most == 1


# --- stopped and gone on with ----------------------------------------------------------------------------------------


def stopped_at(step: int) -> Callable[[StreamReport], None]:
    num_steps = 0

    def on_step(report: StreamReport) -> None:
        nonlocal num_steps
        num_steps += 1
        if num_steps == step:
            raise KeyboardInterrupt

    return on_step


@pytest.mark.parametrize("stop", range(1, 16))
def test_stopped_at_any_step(stop: int, example: RequestLog, tmp_path: Path) -> None:
    """Three pieces of 5 steps, a checkpoint after each second one; a piece is gone as soon as it is done."""
    gone: set[str] = set()

    def deletable(piece: LogPiece) -> LogPiece:
        def opened() -> Batches:
            assert piece.name not in gone
            return piece.open()

        return dataclasses.replace(piece, open=opened)

    pieces = [deletable(piece) for piece in days(3)]
    settings = dataclasses.replace(EXACT, checkpoint_every_steps=2)
    whole = drawing_model(example)
    through = streamed(whole, days(3), settings)
    with pytest.raises(KeyboardInterrupt):
        streamed(drawing_model(example), pieces, settings, checkpoints=tmp_path, on_step=stopped_at(stop),
                 on_done=lambda piece: gone.add(piece.name))  # fmt: skip
    saved_step = (stop - 1) // 2 * 2
    assert len(gone) == max(0, saved_step - 1) // 5
    resumed = drawing_model(example)
    told: list[str] = []
    history = streamed(resumed, pieces, settings, checkpoints=tmp_path, on_done=lambda piece: told.append(piece.name))
    assert same(everything(whole), everything(resumed))
    assert figures(history) == figures(through)
    assert told == ["day 0", "day 1", "day 2"]


def test_a_stream_that_ended_takes_more_pieces(example: RequestLog, tmp_path: Path) -> None:
    through, in_parts = drawing_model(example), drawing_model(example)
    whole = streamed(through, days(3))
    streamed(drawing_model(example), days(2), checkpoints=tmp_path)
    reports: list[StreamReport] = []
    history = streamed(in_parts, days(3), checkpoints=tmp_path, on_step=reports.append)
    assert same(everything(through), everything(in_parts))
    assert figures(history) == figures(whole)
    assert [report.num_requests for report in reports] == [220, 240, 260, 280, 300]


def test_a_stream_that_ended_and_starts_again_does_nothing(example: RequestLog, tmp_path: Path) -> None:
    one, other = drawing_model(example), drawing_model(example)
    history = streamed(one, days(2), checkpoints=tmp_path)
    files = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    told: list[str] = []
    again = streamed(
        other, [LogPiece(f"day {day}", lambda: pytest.fail("opened")) for day in range(2)], checkpoints=tmp_path,
        on_step=lambda _: pytest.fail("a step"), on_done=lambda piece: told.append(piece.name),
    )  # fmt: skip
    assert again == history
    assert same(everything(one), everything(other))
    assert not other.training
    assert told == ["day 0", "day 1"]
    assert files == {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}


def test_without_checkpoints_a_piece_is_done_when_it_is_read(example: RequestLog) -> None:
    told: list[tuple[str, int]] = []
    seen = [0]
    streamed(
        logistic(example), days(2), on_step=lambda report: seen.append(report.num_requests),
        on_done=lambda piece: told.append((piece.name, seen[-1])),
    )  # fmt: skip
    assert told == [("day 0", 100), ("day 1", 200)]


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
def test_killed_in_mid_piece_and_bit_equal(tmp_path: Path) -> None:
    for name in ("through", "killed"):
        (tmp_path / name).mkdir()
        for day in range(5):
            pq.write_table(jobs_table(100, 10 + day)[0], tmp_path / name / f"day-{day}.parquet")

    def start(log: str, out: str, kill_at: int) -> subprocess.Popen[str]:
        places = (TESTS, TESTS / "training", TESTS.parent / "src")
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, places))}
        arguments = [tmp_path / log, tmp_path / f"{log}-checkpoints", tmp_path / out, kill_at]
        command = [sys.executable, str(TESTS / "training" / "stream_process.py"), *map(str, arguments)]
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)

    def end(process: subprocess.Popen[str]) -> int:
        _, errors = process.communicate(timeout=120)
        assert process.returncode <= 0, errors
        return process.returncode

    through, killed = start("through", "one", 0), start("killed", "none", 13)  # in day 2; day 0 and 1 are done
    assert end(killed) == -signal.SIGKILL
    assert sorted(path.name for path in (tmp_path / "killed").iterdir()) == [f"day-{day}.parquet" for day in (2, 3, 4)]
    assert end(start("killed", "other", 0)) == 0
    assert end(through) == 0
    one, other = (load_file(tmp_path / f"{name}.safetensors") for name in ("one", "other"))
    assert len(one) > 20
    assert same(one, other)
    whole, rest = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "other"))
    assert (whole["num_steps"], rest["num_steps"]) == (25, 13)  # the checkpoint is that of step 12
    assert whole["pieces"] == rest["pieces"]
    assert not list((tmp_path / "killed").iterdir())


# --- what is refused -------------------------------------------------------------------------------------------------


def interrupted(example: RequestLog, folder: Path) -> None:
    """A checkpoint at step 6, the first of day 1."""
    settings = dataclasses.replace(EXACT, checkpoint_every_steps=6)
    with pytest.raises(KeyboardInterrupt):
        streamed(logistic(example), days(3), settings, checkpoints=folder, on_step=stopped_at(7))


def test_a_piece_that_is_gone_though_needed_is_named(example: RequestLog, tmp_path: Path) -> None:
    files = [tmp_path / f"{day}.parquet" for day in range(3)]
    for day, file in enumerate(files):
        pq.write_table(jobs_table(100, day)[0], file)
    pieces = list(pieces_of_files(files, JOBS, layout="flat", num_requests=20))
    files[1].unlink()
    with pytest.raises(LogError) as caught:
        streamed(logistic(example), pieces)
    text = str(caught.value)
    assert f"piece {str(files[1])!r} of the log cannot be opened, and is still needed: 1 of 3 pieces are done" in text
    assert "no file or folder" in text
    assert "put it back" in text


def test_a_piece_that_changed_meanwhile_is_refused(example: RequestLog, tmp_path: Path) -> None:
    interrupted(example, tmp_path)
    changed = [days(1)[0], piece_of(jobs_log(99, 11), "day 1"), days(3)[2]]
    with pytest.raises(CheckpointError, match="piece 'day 1' is not what it was when training stopped in the middle"):
        streamed(logistic(example), changed, checkpoints=tmp_path)


@pytest.mark.parametrize("order", [(1, 0, 2), (1, 2), (0, 2, 1), (0,)])
def test_other_pieces_are_refused(order: tuple[int, ...], example: RequestLog, tmp_path: Path) -> None:
    interrupted(example, tmp_path)
    with pytest.raises(CheckpointError, match="the pieces are not those that the checkpoint has come through"):
        streamed(logistic(example), [days(3)[day] for day in order], checkpoints=tmp_path)


def test_of_another_run_is_refused(example: RequestLog, tmp_path: Path) -> None:
    interrupted(example, tmp_path)
    with pytest.raises(CheckpointError, match="belongs to another run: they differ in seed"):
        streamed(logistic(example), days(3), checkpoints=tmp_path, seed=1)
    other = dataclasses.replace(EXACT, autocast="bfloat16")
    with pytest.raises(CheckpointError, match="belongs to another run: they differ in loop"):
        streamed(logistic(example), days(3), other, checkpoints=tmp_path)
    with pytest.raises(CheckpointError, match="belongs to another run"):  # nor is it one of the loop's
        fitted(logistic(example), in_order(example), in_order(example), checkpoints=tmp_path)


def test_no_pieces_and_two_of_one_name_are_refused(example: RequestLog) -> None:
    with pytest.raises(TrainingError, match="a stream of no pieces"):
        streamed(logistic(example), [])
    with pytest.raises(TrainingError, match=r"pieces of one name; found: \['day 0'\]"):
        streamed(logistic(example), [*days(2), days(1)[0]])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"checkpoint_every_s": math.nan}, "time between checkpoints"),
        ({"checkpoint_every_steps": 0}, "time between checkpoints"),
        ({"matmul_precision": "low"}, "matmul_precision has no such choice; found: low"),
        ({"autocast": "on"}, "autocast has no such choice; found: on"),
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        StreamSettings(**wrong)  # type: ignore[arg-type]


def test_an_error_in_a_step_moves_nothing_and_leaves_eval_mode(example: RequestLog) -> None:
    class Failing(PointwiseObjective):  # type: ignore[misc]
        def forward(self, *arguments: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
            raise LogError("no")

    model = Logistic(JOBS, statistics_of(example), LogisticSettings(), seed=0)
    with pytest.raises(LogError, match="no"):
        fit_stream(model, Failing(JOBS), PLAN, days(1), EXACT, seed=0)
    assert not model.training
    rows = everything(model)["wide/job.rows_nW"]
    model.tables["wide"].apply()
    assert torch.equal(everything(model)["wide/job.rows_nW"], rows)
