from __future__ import annotations

import multiprocessing
import shutil
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feature_example import (
    DEFAULTS,
    SCHEMA,
    STATISTICS,
    STORED,
    assert_equal_features,
    features_by_id,
    items_table,
    members_table,
    plain_features,
)

from full_disk import files_of_at_most
from rankwell.data.pseudonyms import PseudonymKey, pseudonymise
from rankwell.errors import FeatureStoreError, LogError, PrivacyError, RequestError, SchemaError
from rankwell.schema import Action, Categorical, Numeric, Schema
from rankwell.serving import feature_table
from rankwell.serving.feature_defaults import UNKNOWN_ID, FeatureDefaults
from rankwell.serving.feature_table import FeatureTable, open_feature_table, write_feature_table
from rankwell.serving.feature_table_version import check_files
from rankwell.serving.stored_columns import StoredColumns
from rankwell.types import MISSING_ID, Ragged

ITEMS, MEMBERS = items_table(300, seed=1), members_table(80, seed=2)
SMALL = Schema(
    features=(Categorical(name="job"), Numeric(name="pay", missing="indicator")),
    actions=(Action(name="click"),),
    item="job",
    member_id=None,
    time=None,
)


def ids(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("features")
    write_feature_table(path, STORED, items=ITEMS, members=MEMBERS)
    return path


@pytest.fixture(scope="module")
def table(folder: Path) -> FeatureTable:
    return FeatureTable(folder, STORED, DEFAULTS)


@pytest.mark.parametrize("seed", range(20))
def test_a_request_of_ids_is_the_request_with_all_features(table: FeatureTable, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, ITEMS.num_rows, seed)  # 0 … 19 candidates, some of them twice
    items, member = ITEMS.take(pa.array(rows, pa.int64())).to_pylist(), MEMBERS.slice(seed, 1).to_pylist()[0]
    match = rng.random(len(rows)).tolist()
    expected = plain_features(member, items, match)
    item_ids_K = np.array([item["job"] for item in items], np.int64)
    assert_equal_features(features_by_id(table, member["member_id"], item_ids_K, match), expected)


def test_histories_of_every_length_were_among_them() -> None:
    known = [
        [t for t in times if t < 1_700_000_000_000_000 - 2_500_000]
        for times in MEMBERS["history_time_us"].to_pylist()[:20]
    ]
    assert {0, 5} <= {min(len(times), 5) for times in known}
    assert max(map(len, known)) > 5  # the longest that are read
    assert any(
        len(times) < len(all_) for times, all_ in zip(known, MEMBERS["history_time_us"].to_pylist(), strict=False)
    )


def test_what_is_not_there_reads_the_declared_defaults(folder: Path) -> None:
    table = FeatureTable(folder, STORED, DEFAULTS)
    known = int(ITEMS["job"][0].as_py())
    member, found = table.features(5, ids(7, known, 8))
    assert found.is_missing_K.tolist() == [True, False, True]
    assert member.is_missing
    columns = found.columns
    assert columns["job"].tolist() == [7, known, 8]  # the item itself is known
    assert columns["job_title"].tolist()[::2] == [UNKNOWN_ID] * 2
    assert columns["salary"][[0, 2]].isnan().all()
    assert columns["age"].tolist()[::2] == [7.25] * 2
    assert columns["given"][0].tolist() == [0.0] * 3
    assert columns["office"][2].tolist() == [-1.5, 2.0]
    wanted = columns["wanted"]
    assert isinstance(wanted, Ragged)
    assert wanted.lengths.tolist() == [0, len(ITEMS["wanted"][0].as_py()), 0]
    context = {name: column.tolist() for name, column in member.context.items() if not isinstance(column, Ragged)}
    assert context["member"] == [5]
    assert context["title"] == [MISSING_ID]  # it may be missing
    assert np.isnan(context["years"]).all()
    assert context["home"] == [[52.5, 13.25]]
    assert all(len(next(iter(events.columns.values()))) == 0 for events in member.history.values())
    assert (table.counts.items.num_looked_up, table.counts.items.num_missing) == (3, 2)
    assert (table.counts.members.num_looked_up, table.counts.members.num_missing) == (1, 1)


def test_a_request_without_a_member_is_not_looked_up(folder: Path) -> None:
    table = FeatureTable(folder, STORED, DEFAULTS)
    member = table.member(MISSING_ID)
    assert member.is_missing
    assert member.context["member"].tolist() == [MISSING_ID]  # hashed: whoever shares a bucket is somebody else
    assert table.counts.members.num_looked_up == 0


def test_what_is_not_stored_is_said(table: FeatureTable) -> None:
    assert "match" not in table.candidate_columns
    assert {"job", "wanted"} <= set(table.candidate_columns)
    assert table.context_columns == ("member", "title", "years", "skills", "home")
    assert table.sequences == ("history", "searches")
    assert (table.num_items, table.num_members) == (300, 80)


def test_parquet_gives_the_same_bytes_as_memory(tmp_path: Path) -> None:
    (tmp_path / "items").mkdir()
    pq.write_table(ITEMS.slice(0, 100), tmp_path / "items" / "a.parquet", row_group_size=30)
    pq.write_table(ITEMS.slice(100), tmp_path / "items" / "b.parquet")
    pq.write_table(MEMBERS, tmp_path / "members.parquet")
    one = write_feature_table(
        tmp_path / "one", STORED, items=tmp_path / "items", members=str(tmp_path / "members.parquet")
    )
    other = write_feature_table(tmp_path / "other", STORED, items=ITEMS, members=MEMBERS)
    for name in ("items.index", "items.rows", "items.lists", "members.rows", "members.lists"):
        if name != "items.lists":  # pieces end elsewhere, lists are the same
            assert (one / name).read_bytes() == (other / name).read_bytes(), name
    assert sorted((one / "items.lists").read_bytes()) == sorted((other / "items.lists").read_bytes())


def test_a_table_says_what_it_keeps_and_its_defaults(tmp_path: Path) -> None:
    declared = {"home": (52.5, 13.25), "office": (-1.5, 2.0), "title": 3, "years": float("nan")}
    write_feature_table(tmp_path, STORED, items=ITEMS, declared=declared)
    with open_feature_table(tmp_path, SCHEMA, STATISTICS) as table:
        assert table.stored == STORED
        member, candidates = table.features(3, ids(1))
        assert member.context["home"].tolist() == [[52.5, 13.25]]
        assert member.context["title"].tolist() == [3]
        assert candidates.columns["age"].tolist() == [7.25]  # the statistics'
    with pytest.raises(SchemaError, match="mean is not known"):
        open_feature_table(tmp_path, SCHEMA)
    with pytest.raises(SchemaError, match="default"):
        write_feature_table(tmp_path, STORED, items=ITEMS, declared={"title": -7})
    with pytest.raises(SchemaError, match="not_stored"):
        open_feature_table(tmp_path, SMALL)
    with pytest.raises(FeatureStoreError, match="no feature table"):
        open_feature_table(tmp_path / "nowhere", SCHEMA, STATISTICS)


def test_items_alone_and_no_items_at_all(tmp_path: Path) -> None:
    stored, defaults = StoredColumns(SMALL), FeatureDefaults(SMALL)
    write_feature_table(tmp_path, stored, items={"job": ids(), "pay": np.zeros(0)})
    with FeatureTable(tmp_path, stored, defaults) as table:
        found = table.candidates(ids(1, 2))
        assert found.is_missing_K.all()
        assert found.columns["pay"].isnan().all()
        assert table.candidates(ids()).columns["pay"].shape == (0,)
        assert table.member(3).context == {}


# --- versions ---


def small_table(folder: Path, pay: float) -> Path:
    return write_feature_table(folder, StoredColumns(SMALL), items={"job": [7], "pay": [pay]})


def pay_of(table: FeatureTable) -> float:
    return table.candidates(ids(7)).columns["pay"].item()


def test_a_reader_takes_the_next_version_when_it_is_told_to(tmp_path: Path) -> None:
    old = small_table(tmp_path, 1.0)
    table = FeatureTable(tmp_path, StoredColumns(SMALL), FeatureDefaults(SMALL))
    assert not table.refresh()
    small_table(tmp_path, 2.0)
    assert not old.exists()
    assert pay_of(table) == 1.0  # still mapped
    assert table.refresh()
    assert pay_of(table) == 2.0
    assert not table.refresh()


@pytest.mark.parametrize("name", ["manifest.json", "items.index", "items.rows", "items.lists", "CURRENT"])
@pytest.mark.parametrize("harm", ["missing", "cut off", "changed"])
def test_a_damaged_version_is_refused_and_the_old_one_stays(tmp_path: Path, name: str, harm: str) -> None:
    write_feature_table(tmp_path, STORED, items=ITEMS)
    table = FeatureTable(tmp_path, STORED, DEFAULTS)
    before = table.candidates(ids(int(ITEMS["job"][0].as_py()))).columns["age"].item()
    version = write_feature_table(tmp_path, STORED, items=items_table(5, seed=9))
    path = (tmp_path if name == "CURRENT" else version) / name
    content = path.read_bytes()
    path.unlink()
    if harm == "cut off":
        path.write_bytes(content[: len(content) // 2])
    elif harm == "changed":
        path.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
    for _ in range(2):  # the second time without reading it all again
        with pytest.raises(FeatureStoreError):
            table.refresh()
    assert table.candidates(ids(int(ITEMS["job"][0].as_py()))).columns["age"].item() == before
    with pytest.raises(FeatureStoreError):
        FeatureTable(tmp_path, STORED, DEFAULTS)
    write_feature_table(tmp_path, STORED, items=items_table(5, seed=9))
    assert table.refresh()
    assert table.num_items == 5


def test_a_refused_version_is_not_read_again(tmp_path: Path) -> None:
    """Its files may be long, and a server looks each second."""
    small_table(tmp_path, 1.0)
    table = FeatureTable(tmp_path, StoredColumns(SMALL), FeatureDefaults(SMALL))
    rows = small_table(tmp_path, 2.0) / "items.rows"
    content = rows.read_bytes()
    rows.write_bytes(b"")
    with pytest.raises(FeatureStoreError, match="cut off") as first:
        table.refresh()
    rows.write_bytes(content)  # unread
    with pytest.raises(FeatureStoreError, match="cut off") as second:
        table.refresh()
    assert second.value is first.value
    assert pay_of(table) == 1.0
    assert pay_of(FeatureTable(tmp_path, StoredColumns(SMALL), FeatureDefaults(SMALL))) == 2.0


def test_a_version_of_another_schema_is_refused(tmp_path: Path) -> None:
    small_table(tmp_path, 1.0)
    features = (Categorical(name="job"), Numeric(name="pay"))  # what may be missing there may not be missing here
    other = SMALL.model_copy(update={"features": features})
    with pytest.raises(FeatureStoreError, match="another schema"):
        FeatureTable(tmp_path, StoredColumns(other), FeatureDefaults(other, declared={"pay": 1.0}))


def test_a_writer_that_fails_leaves_the_old_version(tmp_path: Path) -> None:
    small_table(tmp_path, 1.0)
    with files_of_at_most(100), pytest.raises(OSError):
        write_feature_table(tmp_path, StoredColumns(SMALL), items={"job": np.arange(99), "pay": np.zeros(99)})
    with pytest.raises(LogError):
        write_feature_table(tmp_path, StoredColumns(SMALL), items={"job": [1, 1], "pay": [0.0, 0.0]})
    assert pay_of(FeatureTable(tmp_path, StoredColumns(SMALL), FeatureDefaults(SMALL))) == 1.0
    assert len(list(tmp_path.glob("v-*"))) == 1


def test_what_dead_writers_left_is_removed(tmp_path: Path) -> None:
    small_table(tmp_path, 1.0)
    (tmp_path / "v-00.new-11").mkdir()
    small_table(tmp_path, 2.0)
    assert len(list(tmp_path.glob("v-*"))) == 1


def test_a_version_replaced_while_it_is_read_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_table(tmp_path, 1.0)

    def replaced_after(directory: Path, manifest: dict[str, object]) -> None:
        check_files(directory, manifest)
        monkeypatch.undo()
        small_table(tmp_path, 2.0)  # the files that were checked are gone before they are mapped

    monkeypatch.setattr(feature_table, "check_files", replaced_after)
    assert pay_of(FeatureTable(tmp_path, StoredColumns(SMALL), FeatureDefaults(SMALL))) == 2.0


def _write_often(folder: Path, pay: float) -> None:
    for _ in range(5):
        small_table(folder, pay)


def _write_for_ever(folder: Path) -> None:
    while True:
        small_table(folder, 1.0)


def test_a_killed_writer_leaves_a_whole_version_and_no_lock(tmp_path: Path) -> None:
    small_table(tmp_path, 0.0)
    for wait_s in (0.02, 0.031, 0.043):
        writer = multiprocessing.get_context("fork").Process(target=_write_for_ever, args=(tmp_path,))
        writer.start()
        writer.join(wait_s)
        writer.kill()
        writer.join()
        assert pay_of(FeatureTable(tmp_path, StoredColumns(SMALL), FeatureDefaults(SMALL))) in (0.0, 1.0)
    small_table(tmp_path, 2.0)
    assert len(list(tmp_path.glob("v-*"))) == 1


def test_writers_and_readers_at_once_see_whole_versions(tmp_path: Path) -> None:
    small_table(tmp_path, 0.0)
    table = FeatureTable(tmp_path, StoredColumns(SMALL), FeatureDefaults(SMALL))
    context = multiprocessing.get_context("fork")
    writers: list[threading.Thread | multiprocessing.process.BaseProcess] = [
        context.Process(target=_write_often, args=(tmp_path, 1.0)),
        threading.Thread(target=_write_often, args=(tmp_path, 2.0)),
        threading.Thread(target=_write_often, args=(tmp_path, 3.0)),
    ]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        table.refresh()
        assert pay_of(table) in (0.0, 1.0, 2.0, 3.0)
    for writer in writers:
        writer.join()
    table.refresh()
    assert len(list(tmp_path.glob("v-*"))) == 1
    assert pay_of(table) in (1.0, 2.0, 3.0)


def test_threads_that_read_during_a_refresh_see_one_version_each(tmp_path: Path) -> None:
    def write(value: float) -> None:
        write_feature_table(
            tmp_path, StoredColumns(SMALL), items={"job": np.arange(50), "pay": np.full(50, value)}
        )  # fmt: skip

    write(0.0)
    table = FeatureTable(tmp_path, StoredColumns(SMALL), FeatureDefaults(SMALL))
    failures: list[object] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            pays = set(table.candidates(np.arange(50)).columns["pay"].tolist())
            if len(pays) != 1:
                failures.append(pays)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for value in range(1, 8):
        write(float(value))
        assert table.refresh()
    stop.set()
    for reader in readers:
        reader.join()
    assert failures == []


# --- bad input ---


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.append_column("nonsense", pa.array([1] * len(t))), "not stored"),
        (lambda t: t.drop_columns(["age"]), "lack columns"),
        (lambda t: t.set_column(4, "age", pa.array([float("nan")] * len(t))), "NaN or null"),
        (lambda t: t.set_column(4, "age", pa.array([float("inf")] * len(t))), "infinite"),
        (lambda t: t.set_column(4, "age", pa.array(["old"] * len(t))), "can't be written as float"),
        (lambda t: t.set_column(1, "job_title", pa.array([-3] * len(t))), "negative id"),
        (lambda t: t.set_column(1, "job_title", pa.nulls(len(t), pa.int64())), "null id"),
        (lambda t: t.set_column(2, "wanted", pa.nulls(len(t), pa.list_(pa.int64()))), "null list"),
        (lambda t: t.set_column(5, "given", pa.array([[1.0, 2.0]] * len(t))), "can't be written as fixed_size_list"),
        (lambda t: pa.concat_tables([t, t.slice(3, 1)]), "stands twice: "),
    ],
)
def test_items_that_do_not_keep_the_schema_are_refused(tmp_path: Path, change, message: str) -> None:
    with pytest.raises(LogError, match=message):
        write_feature_table(tmp_path, STORED, items=change(ITEMS))
    assert list(tmp_path.glob("v-*")) == []


def test_members_that_do_not_keep_the_schema_are_refused(tmp_path: Path) -> None:
    row = MEMBERS.slice(0, 1).to_pylist()[0]
    history = {"history_item": [1, 2], "history_kind": [0, 0], "history_dwell": [0.5, 0.5]}

    def with_changes(**changes):
        return pa.Table.from_pylist([row | history | {"history_time_us": [1, 2]} | changes], MEMBERS.schema)

    write_feature_table(tmp_path, STORED, members=with_changes())
    for changes, message in (
        ({"history_time_us": [2, 1]}, "out of order"),
        ({"history_kind": [0]}, "unequal length"),
        ({"history_time_us": [-1, 1]}, "before 1970"),
        ({"member_id": None}, "null id"),
        ({"member_id": -4}, "negative id"),
    ):
        with pytest.raises(LogError, match=message):
            write_feature_table(tmp_path, STORED, members=with_changes(**changes))
    with pytest.raises(LogError, match="stands twice: in|stands twice") as caught:
        write_feature_table(tmp_path, STORED, members=pa.concat_tables([MEMBERS, MEMBERS]))
    assert not any(str(member) in str(caught.value) for member in MEMBERS["member_id"].to_pylist())


def test_raw_member_ids_need_the_key(tmp_path: Path) -> None:
    schema = Schema(features=(Numeric(name="years", on="request"),), actions=(Action(name="click"),))
    stored, key = StoredColumns(schema), PseudonymKey(bytes(range(32)))
    raw = {"member_id": ["ann", "bob"], "years": [1.0, 2.0]}
    with pytest.raises(PrivacyError):
        write_feature_table(tmp_path, stored, members=raw)
    write_feature_table(tmp_path, stored, members=raw, key=key)
    table = FeatureTable(tmp_path, stored, FeatureDefaults(schema, declared={"years": 0.0}))
    bob = pseudonymise(pa.array(["bob"]), key)[0].as_py()
    assert table.member(bob).context["years"].tolist() == [2.0]
    assert b"bob" not in b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    "item_ids",
    [ids(3, -1), np.array([1.5]), np.array([1], np.int32), np.array([[1]]), [1, 2], np.array(["a"])],
    ids=str,
)
def test_item_ids_that_are_none_are_refused(table: FeatureTable, item_ids) -> None:
    with pytest.raises(RequestError):
        table.candidates(item_ids)


@pytest.mark.parametrize("member_id", [-2, 2**63, 1.5, "ann", True, None], ids=str)
def test_member_ids_that_are_none_are_refused(table: FeatureTable, member_id) -> None:
    with pytest.raises(RequestError) as caught:
        table.member(member_id)
    assert "ann" not in str(caught.value)


def test_a_table_that_is_not_there_and_features_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(FeatureStoreError, match="no feature table"):
        FeatureTable(tmp_path, STORED, DEFAULTS)
    with pytest.raises(SchemaError, match="not_stored"):
        StoredColumns(SCHEMA, not_stored=("nonsense",))
    with pytest.raises(SchemaError, match="item"):
        StoredColumns(SCHEMA, not_stored=("job",))
    with pytest.raises(SchemaError, match="no id"):
        write_feature_table(tmp_path, StoredColumns(SMALL), members={"member_id": [1]})
    shutil.rmtree(tmp_path)
