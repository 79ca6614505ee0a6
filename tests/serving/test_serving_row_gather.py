"""What is gathered is what the lookups read by themselves, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from serving_example import SCHEMA, STATISTICS, batch, example_bundle, trained

from rankwell.errors import LogError, SchemaError
from rankwell.models.embedding import RowLookup
from rankwell.models.history import HistorySettings
from rankwell.models.model import Model
from rankwell.models.transformer import RankingTransformer, TransformerSettings
from rankwell.serving.mapped_table import MappedTable
from rankwell.serving.new_directory import NewDirectory
from rankwell.serving.request_graph import row_inputs, row_lookups
from rankwell.serving.row_file import file_stem
from rankwell.serving.row_gather import RowGather, is_gathered
from rankwell.serving.row_map import Precision, write_row_map
from rankwell.types import Column, Events, Features, Ragged


def lookups_of(model: Model, folder: Path, precision: Precision = "float32") -> dict[str, RowLookup]:
    with NewDirectory.beside(folder / "rows") as directory:
        for part, table in model.tables.items():
            for name in table.names:
                write_row_map(table, name, directory, file_stem(part, name), precision)
        directory.put_in_place()
    mapped = {
        id(table): MappedTable(folder / "rows", part, table.specs, table.width) for part, table in model.tables.items()
    }
    lookups = row_lookups(model.eval())
    for lookup in lookups.values():
        lookup.table = mapped[id(lookup.table)]
        assert is_gathered(lookup)
    return lookups


def wide_deep() -> Model:
    return example_bundle().model


def with_history() -> Model:
    settings = TransformerSettings(row_width=4, width=8, history=HistorySettings(width=8, num_layers=1, num_heads=2))
    return trained(RankingTransformer(SCHEMA, STATISTICS, settings, seed=2))


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("make", [wide_deep, with_history])
def test_gathered_rows_are_those_of_the_lookups(
    make: Callable[[], Model], precision: Precision, tmp_path: Path
) -> None:
    """Buckets and their missing value, crosses, bags, histories averaged and not, zeros, ids never seen or missing."""
    lookups = lookups_of(make(), tmp_path, precision)
    gather = RowGather(lookups, batch(num_requests=1, seed=0).features)
    for seed in range(60):
        features = batch(num_requests=1, seed=seed).features
        expected: dict[str, torch.Tensor] = {}
        for name, lookup in lookups.items():
            expected |= row_inputs(name, lookup(features))
        found = gather.inputs(features)
        assert found.keys() == expected.keys()
        for name, block in found.items():
            np.testing.assert_array_equal(block, expected[name].numpy(), err_msg=f"{name}, seed {seed}")


def test_without_lookups_nothing_is_gathered() -> None:
    features = batch(num_requests=1, seed=0).features  # as of a linear model, all of whose rows a correction changes
    assert RowGather({}, features).inputs(features) == {}


def test_of_no_candidates_nothing_is_read(tmp_path: Path) -> None:
    given = batch(num_requests=1, seed=3).features
    none: dict[str, Column] = {n: c[:0] for n, c in given.candidates.items() if isinstance(c, torch.Tensor)}
    none["skills"] = Ragged(torch.zeros(0, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))
    features = Features(given.context, given.history, none, torch.tensor([0, 0]), torch.zeros(0, dtype=torch.int64))
    lookups = lookups_of(wide_deep(), tmp_path)
    found = RowGather(lookups, given).inputs(features)
    assert {len(block) for name, block in found.items() if name.endswith("candidates")} == {0}


def changed(features: Features, name: str, column: torch.Tensor) -> Features:
    return replace(features, candidates={**features.candidates, name: column})


def test_what_is_no_id_is_refused(tmp_path: Path) -> None:
    features = batch(num_requests=1, seed=5).features
    gather = RowGather(lookups_of(wide_deep(), tmp_path), features)
    title_C = features.candidates["title"]
    assert isinstance(title_C, torch.Tensor)
    with pytest.raises(LogError, match="title"):
        gather.inputs(changed(features, "title", torch.full_like(title_C, -2)))
    events = features.history["history"]
    wrong = Events({**events.columns, "item": torch.tensor([-7])}, torch.tensor([0, 1]))
    with pytest.raises(LogError, match="item"):
        gather.inputs(replace(features, history={"history": wrong}))
    for column in (title_C[:-1], title_C.int()):
        with pytest.raises(SchemaError, match="title"):
            gather.inputs(changed(features, "title", column))


def test_columns_may_stand_apart_in_memory(tmp_path: Path) -> None:
    features = batch(num_requests=1, seed=7).features
    gather = RowGather(lookups_of(wide_deep(), tmp_path), features)
    title_C = features.candidates["title"]
    assert isinstance(title_C, torch.Tensor)
    apart = changed(features, "title", title_C.repeat_interleave(3)[::3])
    for name, block in gather.inputs(apart).items():
        np.testing.assert_array_equal(block, gather.inputs(features)[name])
