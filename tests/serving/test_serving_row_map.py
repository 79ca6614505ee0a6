"""Mapped rows are the table's, to the bit as float32 and to half a scale as int8; what is damaged is refused.

Letters: n ids · W row width.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rankwell.errors import BundleError, LogError, SchemaError, TrainingError
from rankwell.schema import TableSpec
from rankwell.serving.mapped_table import MappedTable
from rankwell.serving.new_directory import NewDirectory
from rankwell.serving.row_file import file_stem
from rankwell.serving.row_map import Precision, dequantised, quantised, write_row_map
from rankwell.tables.adagrad import RowWiseAdaGrad
from rankwell.tables.ftrl import Ftrl
from rankwell.tables.loan import IdColumn
from rankwell.tables.row_optimizer import RowOptimizer
from rankwell.tables.table import Table

SPECS = (
    TableSpec(name="member", growing=True), TableSpec(name="job", num_rows=37), TableSpec(name="title", num_ids=20),
)  # fmt: skip
WIDTH = 5


def trained(rule: RowOptimizer, *, admission: int = 1) -> Table:
    """A table of every kind after a few steps, with rows that wait for their admission where there is one."""
    table = Table(SPECS, width=WIDTH, seed=3, init_scale=0.1, default_rate=0.2, admission=admission)
    table.train_with(rule)
    generator = torch.Generator().manual_seed(1)
    for _ in range(8):
        columns = [[IdColumn(spec.name, torch.randint(-1, 19, (60,), generator=generator))] for spec in SPECS]
        for block in table.checkout(columns).blocks:
            torch.autograd.backward((block * torch.randn(block.shape, generator=generator)).sum())
        table.apply()
    return table


def mapped(table: Table, folder: Path, precision: Precision = "float32") -> MappedTable:
    with NewDirectory.beside(folder / "rows") as directory:
        for name in table.names:
            write_row_map(table, name, directory, file_stem("deep", name), precision)
        assert set(directory.written) >= {f"rows/deep/{name}.index" for name in table.names}
        directory.put_in_place()
    return MappedTable(folder / "rows", "deep", table.specs, table.width)


def asked() -> list[list[IdColumn]]:
    ids_n = torch.cat([torch.arange(-1, 60), torch.tensor([2**63 - 1, 2**40])])
    return [[IdColumn(spec.name, ids_n) for spec in SPECS], [IdColumn("title", torch.zeros(0, dtype=torch.int64))]]


@pytest.mark.parametrize("rule", [RowWiseAdaGrad(learning_rate=0.5), Ftrl(learning_rate=0.5, l1=5.0)])
@pytest.mark.parametrize("admission", [1, 20])
def test_every_id_reads_what_the_table_gives(tmp_path: Path, rule: RowOptimizer, admission: int) -> None:
    table = trained(rule, admission=admission)
    rows = mapped(table, tmp_path)
    for found, expected in zip(rows.read(asked()).blocks, table.read(asked()).blocks, strict=True):
        assert torch.equal(found, expected)
    if isinstance(rule, Ftrl) and admission == 1:
        assert (table.read(asked()).blocks[0].view(-1, WIDTH) == 0).all(dim=1).any(), (
            "no row is zero, so nothing was tested"
        )
        assert list(tmp_path.glob("rows/rows/deep/*.zeros"))


def test_int8_rows_are_near_and_small(tmp_path: Path) -> None:
    table = trained(RowWiseAdaGrad(learning_rate=0.5))
    exact, rows = table.read(asked()).blocks[0], mapped(table, tmp_path, "int8").read(asked()).blocks[0]
    scales = exact.view(-1, 3, WIDTH).abs().amax(2) / 127 * (1 + 2**-7)
    assert ((rows - exact).view(-1, 3, WIDTH).abs().amax(2) <= scales / 2 + 1e-7).all()
    assert not torch.equal(rows, exact)


@pytest.mark.parametrize("scale", [1e-35, 1e-12, 1.0, 3e30])
def test_rounding_is_to_half_a_scale_at_every_size(scale: float) -> None:
    rows_nW = (np.random.default_rng(0).standard_normal((300, 16)) * scale).astype(np.float32)
    rows_nW[7] = 0.0
    back_nW = dequantised(quantised(rows_nW))
    allowed_n = np.abs(rows_nW).max(axis=1) / 127 * (1 + 2**-7) / 2
    assert (np.abs(back_nW - rows_nW) <= allowed_n[:, None] * 1.001).all()
    assert quantised(rows_nW).shape == (300, 18)
    assert quantised(np.zeros((0, 16), np.float32)).shape == (0, 18)


def test_a_scale_too_small_for_a_processor_is_nothing() -> None:
    assert not dequantised(quantised(np.full((1, 4), 1e-41, np.float32))).any()


def test_it_only_reads(tmp_path: Path) -> None:
    rows = mapped(trained(RowWiseAdaGrad(learning_rate=0.5)), tmp_path)
    with pytest.raises(TrainingError, match="cannot be trained"):
        rows.checkout(asked())
    with pytest.raises(LogError, match="negative"):
        rows.read([[IdColumn("job", torch.tensor([-2]))]])
    with pytest.raises(SchemaError, match="cannot be read from these tables"):
        rows.read([[IdColumn("place", torch.tensor([1]))]])
    assert rows.num_bytes > 0


def test_damage_is_refused(tmp_path: Path) -> None:
    table = trained(RowWiseAdaGrad(learning_rate=0.5))
    mapped(table, tmp_path)
    path = tmp_path / "rows" / "rows" / "deep" / "job.rows"
    whole = path.read_bytes()
    for content, message in (
        (whole[:-1], "cut off"), (whole + b"1", "cut off"), (b"", "cannot be read"), (b"something else" * 9, "no file"),
        (whole[:8] + b"\x07" + whole[9:], "not known"), (whole[:24] + b"\x04" + whole[25:], "another table"),
    ):  # fmt: skip
        path.unlink()
        path.write_bytes(content)
        with pytest.raises(BundleError, match=message):
            MappedTable(tmp_path / "rows", "deep", table.specs, table.width)
    path.unlink()
    with pytest.raises(BundleError, match="cannot be read"):
        MappedTable(tmp_path / "rows", "deep", table.specs, table.width)
