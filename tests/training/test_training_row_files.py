"""Checkpoints of tables: rows stand in files, whole or as what changed, and survive kills, full disks and damage."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rows_process import rows_checksum
from training_example import PLAN, drawing_model, fitted, in_order, jobs_log, shuffled

from full_disk import files_of_at_most
from rankwell.errors import CheckpointError, RankwellWarning
from rankwell.schema import TableSpec
from rankwell.tables.adagrad import RowWiseAdaGrad
from rankwell.tables.loan import IdColumn
from rankwell.tables.native import native
from rankwell.tables.storage import Eviction, Storage
from rankwell.tables.table import Table
from rankwell.training.checkpoint import Checkpoint, Checkpoints
from rankwell.training.loop import StepReport
from rankwell.training.resumed import Resumed
from rankwell.training.row_files import put_rows, write_rows
from rankwell.training.run_identity import run_identity

TESTS = Path(__file__).parent.parent
RUN = {"seed": "0"}
NAMES = ("member", "job")
posix = pytest.mark.skipif(os.name != "posix", reason="limits and signals are POSIX's")
in_files = pytest.mark.skipif(native is None, reason="rows in files take the compiled extension")


# --- killed ----------------------------------------------------------------------------------------------------------


def outcome(folder: Path, *arguments: object) -> dict[str, Any]:
    places = (TESTS, TESTS / "training", TESTS.parent / "src")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, places)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(TESTS / "training" / "rows_process.py"), *map(str, arguments)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert ended.returncode == 0, ended.stderr
    result: dict[str, Any] = json.loads((folder / "out.json").read_text())
    return result


def assert_survived(folder: Path, num_pieces: int, num_kills: int, seed: int) -> dict[str, Any]:
    result = outcome(folder, "at_random", folder, num_pieces, num_kills, seed)
    assert len(result["whole"]["digest"]) > 10
    assert result["killed"] == result["whole"]
    assert result["num_killed"] > num_kills // 2
    resumed = result["resumed_from"]
    assert resumed == sorted(resumed)
    assert resumed[-1] > 0
    assert all(step % 7 == 0 or step == 20 * num_pieces for step in resumed)  # a checkpoint every 7 steps, and the last
    return result


@posix
@in_files
def test_killed_thrice_with_rows_in_a_file(tmp_path: Path) -> None:
    assert_survived(tmp_path, num_pieces=8, num_kills=3, seed=1)


@posix
@in_files
@pytest.mark.slow
def test_killed_at_20_random_moments(tmp_path: Path) -> None:
    assert_survived(tmp_path, num_pieces=60, num_kills=20, seed=2)


@posix
def test_killed_before_each_operation_of_a_save(tmp_path: Path) -> None:
    """Whatever was last done, the newest checkpoint is the one before or the new one, and the rows are its own."""
    found = outcome(tmp_path, "in_a_save", tmp_path)["found"]
    codes, steps, are_right, others = zip(*found, strict=True)
    assert set(codes[:-1]) == {9}
    assert codes[-1] == 0
    assert set(are_right) == {True}
    assert list(steps) == sorted(steps)
    assert steps.count(2) >= 4
    assert steps.count(3) >= 2
    assert others == ([],) * len(others)  # what the dead left is cleared away


# --- files -----------------------------------------------------------------------------------------------------------


def new_table(**settings: Any) -> Table:
    specs = [TableSpec(name="member", growing=True), TableSpec(name="job", num_ids=50)]
    table = Table(specs, **{"width": 4, "seed": 0, "init_scale": 0.1} | settings)
    table.train_with(RowWiseAdaGrad(learning_rate=0.1))
    return table


def move(table: Table, first: int, num_rows: int = 10) -> None:
    ids_n = torch.arange(first, first + num_rows)
    (block,) = table.checkout([[IdColumn("member", ids_n * 977), IdColumn("job", ids_n % 50)]]).blocks
    block.sum().backward()
    table.apply()


def rows_of(table: Table) -> tuple[int, ...]:
    return tuple(rows_checksum(table, name) for name in NAMES)


def save(checkpoints: Checkpoints, table: Table) -> None:
    checkpoints.save(Checkpoint(table.step, table.progress(), {}))


def files_in(folder: Path, pattern: str = "rows-*") -> list[str]:
    return sorted(path.name for path in folder.glob(pattern))


def gone_on(folder: Path) -> Table:
    table = new_table()
    checkpoints = Checkpoints(folder, RUN, {"deep": table})
    newest = checkpoints.newest()
    assert newest is not None
    checkpoints.put_rows(newest)
    table.load_progress(newest.tensors)
    return table


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Checkpoints, Table]:
    """A thousand rows, and two checkpoints of ten more each."""
    table = new_table()
    checkpoints = Checkpoints(tmp_path, RUN, {"deep": table})
    for first, num_rows in ((0, 1000), (1000, 10), (1010, 10)):
        move(table, first, num_rows)
        save(checkpoints, table)
    return checkpoints, table


def test_what_changed_is_small_and_enough(saved: tuple[Checkpoints, Table], tmp_path: Path) -> None:
    _, table = saved
    whole, one, other = (tmp_path / name for name in files_in(tmp_path))
    assert whole.stat().st_size > 1000 * (16 + 4 + 16)
    assert max(one.stat().st_size, other.stat().st_size) < whole.stat().st_size / 10
    assert rows_of(gone_on(tmp_path)) == rows_of(table)


def test_all_rows_again_when_changes_come_to_more(tmp_path: Path) -> None:
    table = new_table()
    checkpoints = Checkpoints(tmp_path, RUN, {"deep": table})
    seen = []
    for turn in range(12):
        move(table, 20 * turn % 60, 60)
        save(checkpoints, table)
        seen.append(files_in(tmp_path))
        assert rows_of(gone_on(tmp_path)) == rows_of(table)
    assert max(map(len, seen)) <= 4  # of two checkpoints
    size = max(path.stat().st_size for path in tmp_path.glob("rows-*"))
    assert sum(path.stat().st_size for path in tmp_path.glob("rows-*")) <= 4 * size
    assert not set(seen[-1]) & set(seen[4])  # old ones go


def test_many_small_changes_are_gathered_at_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rankwell.training.checkpoint._MOST_FILES", 5)
    table = new_table()
    checkpoints = Checkpoints(tmp_path, RUN, {"deep": table})
    move(table, 0, 5000)
    lengths = []
    for _ in range(12):
        save(checkpoints, table)
        newest = checkpoints.newest()
        assert newest is not None
        lengths.append(len(newest.rows))
    assert lengths == [1, 2, 3, 4, 5] * 2 + [1, 2]


def test_a_table_that_goes_on_writes_only_what_changes(saved: tuple[Checkpoints, Table], tmp_path: Path) -> None:
    table = new_table()
    checkpoints = Checkpoints(tmp_path, RUN, {"deep": table})
    newest = checkpoints.newest()
    assert newest is not None
    checkpoints.put_rows(newest)
    table.load_progress(newest.tensors)
    for each in (table, saved[1]):
        move(each, 5)
    save(checkpoints, table)
    assert (tmp_path / files_in(tmp_path)[-1]).stat().st_size < 4000
    assert rows_of(gone_on(tmp_path)) == rows_of(saved[1])


def test_evicted_ids_stay_away(tmp_path: Path) -> None:
    settings = {"storage": Storage(eviction=Eviction(max_age_steps=16))}
    table = new_table(**settings)
    table = Table([table.specs[0]], width=4, seed=0, init_scale=0.1, **settings)
    table.train_with(RowWiseAdaGrad(learning_rate=0.1))
    checkpoints = Checkpoints(tmp_path, RUN, {"deep": table})
    for step in range(40):
        (block,) = table.checkout([[IdColumn("member", torch.arange(step, step + 300))]]).blocks
        block.sum().backward()
        table.apply()
        if step % 5 == 0:
            save(checkpoints, table)
    save(checkpoints, table)
    assert table.num_evicted(by_age=True) > 10
    newest = checkpoints.newest()
    assert newest is not None
    again = Table([table.specs[0]], width=4, seed=0, init_scale=0.1, **settings)
    again.train_with(RowWiseAdaGrad(learning_rate=0.1))
    put_rows([tmp_path / file.name for file in newest.rows], {"deep": again})
    assert rows_checksum(again, "member") == rows_checksum(table, "member")
    assert again.num_seen == table.num_seen


def test_nothing_is_left_of_a_run_that_is_over(saved: tuple[Checkpoints, Table], tmp_path: Path) -> None:
    saved[0].clear()
    assert not tmp_path.exists()


# --- damage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["missing", "truncated", "longer", "a bit"])
def test_damaged_rows_and_the_checkpoint_before_is_used(
    way: str, saved: tuple[Checkpoints, Table], tmp_path: Path
) -> None:
    before = rows_of(saved[1])
    move(saved[1], 3)
    save(*saved)
    path = tmp_path / files_in(tmp_path)[-1]
    content = bytearray(path.read_bytes())
    match way:
        case "missing":
            path.unlink()
        case "truncated":
            path.write_bytes(content[:-1])
        case "longer":
            path.write_bytes(content + b"\0")
        case "a bit":
            content[-5] ^= 1
            path.write_bytes(content)
    with pytest.warns(RankwellWarning, match=rf"(?s)step-0+4\.safetensors.*{path.name}.*goes on from step-0+3"):
        table = gone_on(tmp_path)
    assert rows_of(table) == before
    assert not path.exists()
    assert len(files_in(tmp_path)) == 3


def test_rows_that_both_need_are_lost(saved: tuple[Checkpoints, Table], tmp_path: Path) -> None:
    (tmp_path / files_in(tmp_path)[0]).unlink()
    with pytest.raises(CheckpointError, match=r"(?s)no checkpoint .* is whole.*rows-0+1\.bin are missing.*delete them"):
        saved[0].newest()
    assert len(files_in(tmp_path)) == 2  # nothing is thrown away unasked


def test_no_rows_are_deleted_while_a_checkpoint_is_unreadable(saved: tuple[Checkpoints, Table], tmp_path: Path) -> None:
    newest = tmp_path / files_in(tmp_path, "step-*")[-1]
    content = newest.read_bytes()
    newest.write_bytes(b"")
    Checkpoints(tmp_path, RUN)
    assert len(files_in(tmp_path)) == 3
    newest.write_bytes(content)
    assert rows_of(gone_on(tmp_path)) == rows_of(saved[1])


@posix
@pytest.mark.parametrize("room", [0, 300, 2500])
def test_a_full_disk_leaves_the_earlier_ones_whole(room: int, saved: tuple[Checkpoints, Table], tmp_path: Path) -> None:
    checkpoints, table = saved
    kept, before = files_in(tmp_path, "*"), rows_of(table)
    move(table, 40, 500)
    with (
        files_of_at_most(room),
        pytest.raises(CheckpointError, match=r"(?s)could not write.*step-0+4.*free disk space"),
    ):
        save(checkpoints, table)
    assert files_in(tmp_path, "*") == kept
    assert rows_of(gone_on(tmp_path)) == before
    save(checkpoints, table)  # the disk has room again; half of what changed counts as written, so all is
    assert rows_of(gone_on(tmp_path)) == rows_of(table)


# --- whose rows they are ---------------------------------------------------------------------------------------------


def written(tmp_path: Path, **settings: Any) -> Path:
    table = new_table(**settings)
    move(table, 0)
    write_rows(tmp_path / "rows.bin", {"deep": table}, only_changed=False)
    return tmp_path / "rows.bin"


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"width": 5}, "width 5, state 1"),
        ({"storage": Storage(dtype="bfloat16")}, "bfloat16"),
    ],
)
def test_rows_of_another_shape_are_refused(settings: Mapping[str, Any], found: str, tmp_path: Path) -> None:
    path = written(tmp_path, **settings)
    with pytest.raises(CheckpointError, match=rf"(?s)do not fit the model's tables.*{found}.*name another folder"):
        put_rows([path], {"deep": new_table()})


def test_rows_of_another_table_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"(?s)do not fit the model's tables.*deep"):
        put_rows([written(tmp_path)], {"wide": new_table()})


def test_rows_of_another_version_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"rankwell rows 1", b"rankwell rows 2"))
    with pytest.raises(CheckpointError, match=r"unknown format; found: rankwell rows 2; allowed: rankwell rows 1"):
        put_rows([path], {"deep": new_table()})


@pytest.mark.parametrize("kept", [Storage(dtype="bfloat16"), Storage(eviction=Eviction(max_age_steps=100))])
def test_a_run_whose_rows_are_kept_otherwise_is_another(kept: Storage, tmp_path: Path) -> None:
    model = drawing_model(jobs_log(50, 1))
    own = run_identity(model, torch.nn.Identity(), PLAN, {}, {}, 0)  # type: ignore[arg-type]
    there = replace(PLAN, storage={"deep": Storage(folder=tmp_path)})
    assert own["tables"] == run_identity(model, torch.nn.Identity(), there, {}, {}, 0)["tables"]  # type: ignore[arg-type]
    model.tables["deep"].storage = kept
    other = run_identity(model, torch.nn.Identity(), PLAN, {}, {}, 0)  # type: ignore[arg-type]
    assert {topic for topic in own if own[topic] != other[topic]} == {"tables"}


# --- said ------------------------------------------------------------------------------------------------------------


def test_a_training_says_where_it_goes_on(tmp_path: Path) -> None:
    told: list[Resumed] = []
    jobs, tune = jobs_log(200, 1), jobs_log(100, 2)

    def stop(report: StepReport) -> None:
        if (report.epoch, report.num_requests) == (1, 100):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fitted(drawing_model(jobs), shuffled(jobs, 50), in_order(tune), checkpoints=tmp_path, on_step=stop)
    fitted(drawing_model(jobs), shuffled(jobs, 50), in_order(tune), checkpoints=tmp_path, on_resume=told.append)
    (resumed,) = told
    assert (resumed.step, resumed.place) == (4, "epoch 2")
    assert str(resumed).startswith("going on from step 4, in epoch 2: checkpoint of 20")
