"""Rows in files that are larger than memory, or than the disk."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rankwell.errors import SchemaError, TrainingError
from rankwell.tables.lazy_adam import LazyAdam
from rankwell.tables.sgd import Sgd
from rankwell.tables.storage import Eviction, Storage
from table_play import (
    JOB,
    MEMBER,
    PAGE,
    assert_same_rows,
    in_plain,
    lend,
    needs_native,
    new_table,
    read,
    stored,
    train_on,
)
from table_state import load_state, state_of

SGD = Sgd(learning_rate=0.5)
MIB = 2**20


@needs_native
def test_the_bound_on_what_is_resident_is_kept(tmp_path: Path) -> None:
    memory, files = (
        new_table(MEMBER, rule=LazyAdam(learning_rate=0.1), width=256, storage=storage)
        for storage in (Storage(), Storage(folder=tmp_path, resident_bytes=16 * MIB))
    )
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):  # 20,000 rows of 3 KiB: 60 MiB
        ids = torch.randint(0, 50_000, (2500,), generator=generator)
        for table in (memory, files):
            lend(table, "member", ids).mean(dim=1).square().sum().backward()
            table.apply()
        assert files.num_resident_bytes <= 16 * MIB
    assert files.num_bytes > 50 * MIB
    assert memory.num_resident_bytes == 0
    ids = torch.arange(50_000)
    for some in ids.split(5000):
        assert torch.equal(read(memory, "member", some), read(files, "member", some))
        assert files.num_resident_bytes <= 16 * MIB
    assert sum(len(piece) for piece in files.chunks("member")) == files.num_seen + 2
    assert files.num_resident_bytes <= 16 * MIB
    (tmp_path / "other").mkdir()
    other = new_table(MEMBER, rule=LazyAdam(learning_rate=0.1), width=256, storage=Storage(folder=tmp_path / "other"))
    load_state(other, state_of(files))
    assert_same_rows(other, files, up_to_date=False)


@needs_native
def test_rows_in_files_are_evicted(tmp_path: Path) -> None:
    storage = Storage(folder=tmp_path, resident_bytes=16 * MIB, eviction=Eviction(max_rows=16_384, max_age_steps=16))
    table = new_table(MEMBER, rule=SGD, width=64, storage=storage)
    for k in range(40):
        train_on(table, "member", range(1500 * k, 1500 * k + 1500))
        assert table.num_seen <= 16_384
        assert table.num_resident_bytes <= 16 * MIB
    assert table.num_evicted(by_age=True) + table.num_evicted(by_age=False) > 40_000
    assert len(stored(table, "member")) == table.num_seen + 2


@needs_native
def test_a_file_serves_one_table_at_a_time(tmp_path: Path) -> None:
    table = new_table(JOB, rule=SGD, storage=Storage(folder=tmp_path))
    with pytest.raises(TrainingError, match=r"job\.rows"):
        new_table(JOB, rule=SGD, storage=Storage(folder=tmp_path))
    del table
    new_table(JOB, rule=SGD, storage=Storage(folder=tmp_path))


FORKED = """
import os, sys, warnings
warnings.simplefilter("ignore")
import torch
from rankwell.errors import TrainingError
from rankwell.schema import TableSpec
from rankwell.tables.sgd import Sgd
from rankwell.tables.storage import Storage
from rankwell.tables.loan import IdColumn
from rankwell.tables.table import Table
from pathlib import Path
storage = Storage(folder=Path(sys.argv[1]))
table = Table([TableSpec(name="page", num_rows=5000)], width=2, seed=0, init_scale=0.1, storage=storage)
table.train_with(Sgd(learning_rate=0.1))
in_memory = Table([TableSpec(name="page", num_rows=5000)], width=2, seed=0, init_scale=0.1)
in_memory.train_with(Sgd(learning_rate=0.1))
columns = [[IdColumn("page", torch.arange(4000))]]
torch.set_num_threads(2)
lent = table.checkout(columns).blocks[0].detach().clone()
assert torch.equal(in_memory.checkout(columns).blocks[0], lent)  # by two threads, which a child does not have
child = os.fork()
if child == 0:
    same = [torch.equal(its.read(columns).blocks[0], lent) for its in (table, in_memory)]
    try:
        Table(table.specs, width=2, seed=0, init_scale=0.1, storage=storage)
        same.append(False)
    except TrainingError as error:
        same.append("page.rows is in use by another table" in str(error))
    del table  # as the child ends in the ordinary way, it would empty the file
    sys.exit(0 if all(same) else 1)
assert os.waitpid(child, 0)[1] == 0
assert all(torch.equal(its.read(columns).blocks[0], lent) for its in (table, in_memory))
"""


@needs_native
def test_another_process_cannot_open_the_file_and_a_forked_child_leaves_it_alone(tmp_path: Path) -> None:
    # what a sanitizer thinks of fork is not asked here
    without = ("LD_PRELOAD", "RANKWELL_NATIVE") if "LD_PRELOAD" in os.environ else ()
    environment = {name: value for name, value in os.environ.items() if name not in without}
    ran = subprocess.run(
        [sys.executable, "-c", FORKED, str(tmp_path)], capture_output=True, text=True, check=False, env=environment
    )
    assert (ran.returncode, ran.stderr) == (0, "")


FULL = """
import resource, signal, sys
from pathlib import Path
import torch
from rankwell.errors import TrainingError
from rankwell.schema import TableSpec
from rankwell.tables.sgd import Sgd
from rankwell.tables.storage import Storage
from rankwell.tables.loan import IdColumn
from rankwell.tables.table import Table

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
spec = TableSpec(name="member", growing=True)
table = Table([spec], width=1024, seed=0, init_scale=0.1, storage=Storage(folder=Path(sys.argv[1])))
table.train_with(Sgd(learning_rate=0.1))


def step(ids):
    table.checkout([[IdColumn("member", ids)]]).blocks[0].sum().backward()
    table.apply()


step(torch.arange(5000))
resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 2**20, 64 * 2**20))  # as where the disk ends: the file is there already
before = table.read([[IdColumn("member", torch.arange(5000))]]).blocks[0].clone()
try:
    step(torch.arange(30_000))
except TrainingError as error:
    print(error)
table.abandon()
after = table.read([[IdColumn("member", torch.arange(5000))]]).blocks[0]
assert torch.equal(before, after)
step(torch.arange(5000))  # rows that are there are trained on
moved = table.read([[IdColumn("member", torch.arange(5000))]]).blocks[0]
assert torch.allclose(moved, before - 0.1)
assert table.num_seen > 5000
"""


@needs_native
def test_a_full_disk_is_refused_and_rows_so_far_are_whole(tmp_path: Path) -> None:
    ran = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "member.rows" in ran.stdout
    assert "cannot grow" in ran.stdout
    assert "free disk space" in ran.stdout


def test_files_take_the_extension(tmp_path: Path) -> None:
    with in_plain(), pytest.raises(TrainingError, match="install the extension"):
        new_table(PAGE, storage=Storage(folder=tmp_path))


def test_storage_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    for settings in (
        {"dtype": "float16"}, {"layout": "mixed"},
        {"resident_bytes": 2**24}, {"resident_bytes": 2**20, "folder": tmp_path},
    ):  # fmt: skip
        with pytest.raises(SchemaError):
            Storage(**settings)
