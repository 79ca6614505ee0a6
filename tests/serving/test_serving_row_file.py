"""Rows, zeros and states on disk, for tables of every addressing.

Letters: n rows · W row width.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from filled_table import put_rows, rows_of
from rankwell.calibration.uncalibrated import Uncalibrated
from rankwell.data.request import batch_from_request
from rankwell.data.statistics import NumericStatistics
from rankwell.errors import BundleError, TrainingError
from rankwell.models.wide_deep import DeepSettings, Logistic, LogisticSettings, WideDeep, WideDeepSettings
from rankwell.schema import Action, Categorical, Schema, TableSpec
from rankwell.serving.bundle import Bundle, read_bundle, write_bundle
from rankwell.serving.new_directory import NewDirectory
from rankwell.serving.online_learning import read_states
from rankwell.serving.row_file import file_stem, read_rows, table_notes, write_rows
from rankwell.serving.sorted_rows import sorted_rows
from rankwell.serving.zero_file import read_zeros, write_zeros
from rankwell.tables.adagrad import RowWiseAdaGrad
from rankwell.tables.ftrl import Ftrl
from rankwell.tables.row_store import StoredRows
from rankwell.tables.storage import Storage
from rankwell.tables.table import Table

SPECS = {
    "growing": TableSpec(name="t", growing=True),
    "direct": TableSpec(name="t", num_ids=5_000),
    "hashed": TableSpec(name="t", num_rows=5_000),
}
every_addressing = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)


def table_of(spec: TableSpec, *, dtype: str = "float32", seed: int = 7) -> Table:
    storage = Storage(dtype=dtype)  # type: ignore[arg-type]
    return Table([spec], width=3, seed=seed, init_scale=0.5, storage=storage)


def filled(spec: TableSpec, *, dtype: str = "float32", order: int = 0) -> Table:
    """2,000 rows, of which each third is zero, put in in some order; the default row is not zero."""
    rng = np.random.default_rng(1)
    most = 2**63 - 1 if spec.growing else spec.size - 1
    keys_n = np.unique(rng.integers(0, most, 2_000, endpoint=True))
    keys_n = np.unique(np.append(keys_n, [0, most]))
    rows_nW = torch.from_numpy(rng.normal(size=(len(keys_n), 3)).astype(np.float32)).to(getattr(torch, dtype))
    rows_nW[::3] = 0
    rows_nW[3] = -0.0
    sightings = rng.integers(1, 10**6, len(keys_n)).astype(np.int32)
    table = table_of(spec, dtype=dtype)
    for some in np.array_split(np.random.default_rng(order).permutation(len(keys_n)), 20):
        put_rows(table, "t", torch.from_numpy(keys_n[some]), rows_nW[some], torch.from_numpy(sightings[some]))
    put_rows(table, "t", [-2, -1], torch.tensor([[1.0, 2.0, 4.0], [0.0, 0.0, 0.0]]), sightings=0)
    return table


def whole(table: Table, name: str) -> StoredRows:
    """All that `sorted_rows` gives, as one."""
    pieces = list(sorted_rows(table, name))
    return StoredRows(**{f: torch.cat([getattr(piece, f) for piece in pieces]) for f in StoredRows.__slots__})


def written(table: Table, folder: Path) -> Path:
    with NewDirectory.beside(folder) as directory:
        write_rows(table, "t", directory, "t")
        directory.put_in_place()
    return folder


def test_keys_ascend_in_pieces_as_small_as_may_be() -> None:
    table = filled(SPECS["growing"])
    together = whole(table, "t")
    pieces = list(sorted_rows(table, "t", most_bytes=100 * 28))
    assert max(map(len, pieces)) == 100
    for field in ("keys_n", "sightings_n", "rows_nW"):
        assert torch.equal(torch.cat([getattr(p, field) for p in pieces]), getattr(together, field))
    keys_n = together.keys_n
    assert bool((keys_n.diff() > 0).all())
    assert keys_n[:3].tolist() == [-2, -1, 0]
    assert int(keys_n[-1]) == 2**63 - 1
    assert torch.equal(rows_of(table, "t", keys_n[2:].tolist()), together.rows_nW[2:])


@every_addressing
def test_files_are_a_function_of_the_rows_and_not_of_their_history(spec: TableSpec, tmp_path: Path) -> None:
    first, second = (written(filled(spec, order=order), tmp_path / str(order)) for order in (0, 1))
    for name in ("t.arrow", "t.zeros"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


@every_addressing
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("read_as", ["float32", "bfloat16"])
def test_all_rows_come_back_in_every_bit(spec: TableSpec, dtype: str, read_as: str, tmp_path: Path) -> None:
    table = filled(spec, dtype=dtype)
    folder = written(table, tmp_path / "rows")
    back = table_of(spec, dtype=read_as)
    read_rows(back, "t", folder / "t.arrow", folder / "t.zeros")
    before, after = whole(table, "t"), whole(back, "t")
    assert torch.equal(after.keys_n, before.keys_n)
    assert torch.equal(after.sightings_n, before.sightings_n)
    if (dtype, read_as) != ("float32", "bfloat16"):  # what is exact
        assert torch.equal(after.rows_nW.float(), before.rows_nW.float())
    # a zero row reads zeros and not the default row, which only ids read that were never seen
    zeros = before.keys_n[(before.keys_n >= 0) & (before.rows_nW == 0).all(dim=1)]
    assert 500 < len(zeros) < 800
    if not spec.hashed:
        assert not rows_of(back, "t", zeros.tolist()).any()
        unseen = next(id_ for id_ in range(5_000) if id_ not in set(before.keys_n.tolist()))
        assert rows_of(back, "t", [unseen]).tolist() == [[1.0, 2.0, 4.0]]


def test_the_rows_can_be_mapped_into_memory_as_they_stand(tmp_path: Path) -> None:
    table = filled(SPECS["growing"])
    folder = written(table, tmp_path / "rows")
    with pa.memory_map(str(folder / "t.arrow")) as source, pa.ipc.open_file(source) as reader:
        before = pa.total_allocated_bytes()
        batch = reader.get_batch(0)
        keys_n = batch.column("key").to_numpy(zero_copy_only=True)
        rows_nW = batch.column("row").flatten().to_numpy(zero_copy_only=True).reshape(-1, 3)
        assert pa.total_allocated_bytes() - before < 4_096 < rows_nW.nbytes
        assert np.all(np.diff(keys_n) > 0)
        assert rows_nW[700].tolist() == rows_of(table, "t", [int(keys_n[700])])[0].tolist()


def test_a_zero_row_costs_a_fraction_of_its_bytes(tmp_path: Path) -> None:
    keys_z = torch.arange(0, 300_000, 3)
    with NewDirectory.beside(tmp_path / "d") as directory:
        write_zeros(keys_z, torch.ones(len(keys_z), dtype=torch.int32), directory, "t.zeros", {})
        assert directory.written["t.zeros"].num_bytes < 0.1 * len(keys_z)
        directory.put_in_place()
    pieces = list(read_zeros(tmp_path / "d" / "t.zeros"))
    assert torch.equal(torch.cat([keys for keys, _ in pieces]), keys_z)


def test_gaps_of_any_size_come_back(tmp_path: Path) -> None:
    for n, keys in enumerate(([0], [2**63 - 1], [0, 2**63 - 1], [5, 6, 2**40, 2**62], list(range(255, 2**17, 256)))):
        keys_z = torch.tensor(keys)
        with NewDirectory.beside(tmp_path / str(n)) as directory:
            write_zeros(keys_z, torch.full((len(keys),), 2**31 - 1, dtype=torch.int32), directory, "t.zeros", {})
            directory.put_in_place()
        ((back, sightings),) = read_zeros(tmp_path / str(n) / "t.zeros")
        assert back.tolist() == keys
        assert set(sightings.tolist()) == {2**31 - 1}


def test_rows_of_another_table_are_refused(tmp_path: Path) -> None:
    folder = written(filled(SPECS["growing"]), tmp_path / "rows")
    with pytest.raises(BundleError, match="holds rows of another table; found: -2 … 9.{18}; allowed: 0 … 4999"):
        read_rows(table_of(SPECS["direct"]), "t", folder / "t.arrow", None)
    wider = Table([SPECS["growing"]], width=4, seed=0, init_scale=0.0)
    with pytest.raises(BundleError, match="does not hold the rows of this table"):
        read_rows(wider, "t", folder / "t.arrow", None)
    with pytest.raises(BundleError, match=r"t\.arrow is no Arrow file of rows"):
        read_rows(table_of(SPECS["growing"]), "t", folder / "t.arrow", folder / "t.arrow")


def test_a_file_says_what_its_table_is(tmp_path: Path) -> None:
    folder = written(filled(SPECS["direct"], dtype="bfloat16"), tmp_path / "rows")
    expected = {
        "table": "t", "spec": {"name": "t", "num_ids": 5_000}, "width": 3, "dtype": "bfloat16", "admission": 1
    }  # fmt: skip
    assert table_notes(folder / "t.arrow") == table_notes(folder / "t.zeros") == expected


def test_a_name_longer_than_file_systems_take_is_cut_and_told_apart() -> None:
    one, other = (file_stem("crosses", "_x_".join(["feature"] * 60 + [last])) for last in ("a", "b"))
    assert one != other
    assert len(one.rpartition("/")[2]) < 250


# --- going on from a bundle

SCHEMA = Schema(
    features=(Categorical(name="job", table="job"), Categorical(name="city", num_ids=50)),
    tables=(TableSpec(name="job", growing=True),),
    actions=(Action(name="click"), Action(name="apply")),
)
RULE = Ftrl(learning_rate=0.3, l1=1.0, l2=0.01)


def logistic(seed: int = 3) -> Logistic:
    model = Logistic(SCHEMA, NumericStatistics(), LogisticSettings(default_rate=0.2), seed=seed)
    model.tables["wide"].train_with(RULE)
    return model.train()


def steps(model: Logistic, numbers: range) -> None:
    """Steps whose ids, some of them new, and gradients are a function of their number."""
    for number in numbers:
        rng = np.random.default_rng(number)
        candidates = {"job": rng.zipf(1.3, 40).clip(max=2**62).tolist(), "city": rng.integers(0, 60, 40).tolist()}
        features = batch_from_request({"candidates": candidates}, SCHEMA).features
        weights = torch.from_numpy(rng.normal(size=(40, 2)).astype(np.float32))
        (model.wide(features) * weights).sum().backward()
        model.tables["wide"].apply()


def bundled(model: Logistic, path: Path) -> Path:
    calibrators = {"click": Uncalibrated(), "apply": Uncalibrated()}
    write_bundle(Bundle(model=model, calibrators=calibrators, created_us=0), path)
    return path


def test_ftrl_goes_on_from_a_bundle_as_if_it_had_never_been_exported(tmp_path: Path) -> None:
    never = logistic()
    steps(never, range(20))
    never.tables["wide"].learning_rate = 0.1  # as a loop lowers it
    path = bundled(never, tmp_path / "b")
    again = read_bundle(path).model.train()
    again.tables["wide"].train_with(RULE)
    assert read_states(path, again) == ("wide",)
    job = whole(again.tables["wide"], "job")
    is_zero = (job.keys_n >= 0) & (job.rows_nW == 0).all(dim=1)
    assert 0.2 < float(is_zero.float().mean()) < 0.8
    assert bool(job.state_nS[is_zero].any(dim=1).all())  # nothing to see of them, but they remember
    without = read_bundle(path).model.train()
    without.tables["wide"].train_with(RULE)
    for model in (never, again, without):
        steps(model, range(20, 40))  # type: ignore[arg-type]
    differs = False
    for name in ("job", "city"):
        expected, found, forgot = (whole(m.tables["wide"], name) for m in (never, again, without))
        for field in ("keys_n", "sightings_n", "state_nS", "rows_nW"):
            assert torch.equal(getattr(found, field), getattr(expected, field)), (name, field)
        differs |= not torch.equal(forgot.rows_nW, expected.rows_nW)
    assert differs  # the state is what it takes


def test_many_small_batches_of_rows_and_states_are_put_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Callable[..., object] = sorted_rows
    monkeypatch.setattr(
        "rankwell.serving.row_file.sorted_rows", lambda table, name: real(table, name, most_bytes=11 * 40)
    )
    model = logistic()
    steps(model, range(10))
    path = bundled(model, tmp_path / "b")
    with pa.ipc.open_file(path / "rows" / "wide" / "job.states") as file:
        assert file.num_record_batches > 5
    again = read_bundle(path).model
    again.tables["wide"].train_with(RULE)
    read_states(path, again)
    for name in ("job", "city"):
        expected, found = (whole(m.tables["wide"], name) for m in (model, again))
        for field in ("keys_n", "sightings_n", "state_nS", "rows_nW"):
            assert torch.equal(getattr(found, field), getattr(expected, field)), (name, field)


def test_a_state_is_refused_by_another_rule_before_anything_is_changed(tmp_path: Path) -> None:
    model = logistic()
    steps(model, range(3))
    path = bundled(model, tmp_path / "b")
    other = read_bundle(path).model
    for rule in (None, RowWiseAdaGrad(), Ftrl(learning_rate=0.2, l1=1.0, l2=0.01)):
        if rule is not None:
            other.tables["wide"].train_with(rule)
        before = whole(other.tables["wide"], "job").rows_nW
        with pytest.raises(TrainingError, match="belongs to another rule"):
            read_states(path, other)
        assert torch.equal(before, whole(other.tables["wide"], "job").rows_nW)
        assert other.tables["wide"].step == 0


def test_rules_whose_rows_stand_for_themselves_leave_no_state(tmp_path: Path) -> None:
    settings = WideDeepSettings(deep=DeepSettings(width=2, hidden=(2,)))
    model = WideDeep(SCHEMA, NumericStatistics(), settings, seed=0)
    for table in model.tables.values():
        table.train_with(RowWiseAdaGrad())
    path = tmp_path / "b"
    calibrators = {"click": Uncalibrated(), "apply": Uncalibrated()}
    write_bundle(Bundle(model=model, calibrators=calibrators, created_us=0), path)
    assert not list(path.rglob("*.states"))
    assert read_states(path, read_bundle(path).model) == ()
