"""A table becomes a log that a recipe reads: rows grouped, ids hashed, members pseudonymous, nothing else kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rankwell.data.pseudonyms import PseudonymKey
from rankwell.data.split import PARTS, HashSplit, TimeSplit
from rankwell.data.statistics import NumericStatistics
from rankwell.data.string_ids import hash_strings
from rankwell.errors import LogError, PrivacyError
from rankwell.models.wide_deep import Deep, DeepSettings, Logistic
from rankwell.schema import Action, Categorical, Schema
from rankwell.training.own_table import recipe_of_table

ALL_TRAIN = HashSplit(1.0, 0.0, 0.0, 0.0)
SCHEMA = Schema(features=(Categorical(name="job"),), actions=(Action(name="click"),), member_id=None, time=None)
COLUMNS = {"request_id": ["b", "a", "b"], "job": ["cook", "clerk", "pilot"], "click": [0, 0, 1]}


def ids(*names: str) -> list[int]:
    hashed: list[int] = hash_strings(pa.array(names)).to_pylist()
    return hashed


@pytest.mark.parametrize("of", [pa.table, pd.DataFrame, polars.DataFrame], ids=["arrow", "pandas", "polars"])
def test_rows_of_one_request_are_brought_together_in_the_order_of_first_appearance(tmp_path: Path, of: object) -> None:
    assert callable(of)
    recipe_of_table(of(COLUMNS), SCHEMA, Logistic, tmp_path, split=ALL_TRAIN)
    written = pq.read_table(tmp_path / "log.parquet").to_pydict()
    assert written == {
        "request_id": ids("b", "b", "a"), "job": ids("cook", "pilot", "clerk"), "click": [0, 1, 0],
    }  # fmt: skip


def test_integer_and_dictionary_request_ids_are_grouped_too(tmp_path: Path) -> None:
    for place, request_id in enumerate((pa.array([2, 1, 2]), pa.array(["b", "a", "b"]).dictionary_encode())):
        table = pa.table(COLUMNS).set_column(0, "request_id", request_id)
        recipe_of_table(table, SCHEMA, Logistic, tmp_path / str(place), split=ALL_TRAIN)
        assert pq.read_table(tmp_path / str(place) / "log.parquet")["click"].to_pylist() == [0, 1, 0]


def test_the_recipe_reads_what_was_written_and_builds_the_model_of_the_schema(tmp_path: Path) -> None:
    def build(schema: Schema, statistics: NumericStatistics, *, seed: int) -> Deep:
        return Deep(schema, statistics, DeepSettings(width=3, hidden=(2,)), seed=seed)

    recipe = recipe_of_table(pa.table(COLUMNS), SCHEMA, build, tmp_path / "jobs", split=ALL_TRAIN, num_requests=1)
    assert recipe.name == "jobs"
    assert set(recipe.parts) == set(PARTS)
    batches = [batch for _, batch in recipe.batches("train", tmp_path / "jobs", seed=None).epoch(0)]
    assert [batch.features.candidates["job"].tolist() for batch in batches] == [ids("cook", "pilot"), ids("clerk")]
    assert replace(recipe, label_smoothing=0.1).label_smoothing == 0.1
    model = recipe.build(NumericStatistics(), 0)
    assert model.settings == DeepSettings(width=3, hidden=(2,))
    assert model.schema == SCHEMA


def test_the_split_is_by_time_unless_another_is_given(tmp_path: Path) -> None:
    schema = Schema(features=(Categorical(name="job"),), actions=(Action(name="click"),), member_id=None)
    table = pa.table({**COLUMNS, "time_us": [5, 1, 5]})
    assert recipe_of_table(table, schema, Logistic, tmp_path).parts["train"].split == TimeSplit()


def test_columns_that_the_schema_does_not_name_are_left_out(tmp_path: Path) -> None:
    recipe_of_table(pa.table({**COLUMNS, "note": ["x"] * 3}), SCHEMA, Logistic, tmp_path, split=ALL_TRAIN)
    assert pq.read_table(tmp_path / "log.parquet").column_names == list(COLUMNS)


def test_members_need_a_key_and_become_pseudonyms(tmp_path: Path) -> None:
    schema = Schema(features=(Categorical(name="job"),), actions=(Action(name="click"),), time=None)
    table = pa.table({**COLUMNS, "member_id": ["ann", "bob", "ann"]})
    with pytest.raises(PrivacyError, match="member_id"):
        recipe_of_table(table, schema, Logistic, tmp_path, split=ALL_TRAIN)
    assert not (tmp_path / "log.parquet").exists()
    key = PseudonymKey(bytes(range(32)))
    recipe_of_table(table, schema, Logistic, tmp_path, split=ALL_TRAIN, key=key)
    members = pq.read_table(tmp_path / "log.parquet")["member_id"].to_pylist()
    assert members[0] == members[1] != members[2]
    assert not set(members) & set(ids("ann", "bob"))


def test_what_names_a_person_is_refused_though_the_schema_does_not_use_it(tmp_path: Path) -> None:
    schema = SCHEMA.model_copy(update={"pii": ("email",)})
    with pytest.raises(PrivacyError, match="email"):
        recipe_of_table(pa.table({**COLUMNS, "email": ["a@b.c"] * 3}), schema, Logistic, tmp_path, split=ALL_TRAIN)


def test_a_null_request_id_and_an_empty_table_are_refused_and_leave_no_file(tmp_path: Path) -> None:
    table = pa.table(COLUMNS)
    with pytest.raises(LogError, match="request_id"):
        recipe_of_table(
            table.set_column(0, "request_id", pa.array(["a", None, "a"])), SCHEMA, Logistic, tmp_path, split=ALL_TRAIN
        )
    with pytest.raises(LogError, match="nothing was written"):
        recipe_of_table(table.slice(0, 0), SCHEMA, Logistic, tmp_path, split=ALL_TRAIN)
    with pytest.raises(LogError, match="cannot be made from this object"):
        recipe_of_table([1, 2], SCHEMA, Logistic, tmp_path)
    assert list(tmp_path.iterdir()) == []
