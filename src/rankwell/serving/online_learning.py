"""Going on with training from a bundle.

Letters: n rows · S state columns · W row width.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from rankwell.errors import BundleError, TrainingError
from rankwell.models.model import Model
from rankwell.serving.manifest import read_manifest
from rankwell.serving.row_file import ROWS, STATES, file_stem, row_batches
from rankwell.serving.state_file import rule_settings, state_batches, state_notes
from rankwell.tables.row_store import StoredRows
from rankwell.tables.table import Table

__all__ = ["read_states"]


def read_states(bundle: str | Path, model: Model) -> tuple[str, ...]:
    """Give the tables of a model that was read from a bundle the state that travelled with them.

    After it, tables whose rule is FTRL go on as if they had never been exported: rows, sums z and n, sightings, steps
    taken, and the learning rate in force, which a plan's next `set_rate` or a loop may change. What does not travel:
    counts of ids that still wait for admission, and the state of rules whose rows don't depend on it alone, which
    start again.

    Args:
        bundle: The path that the model was read from.
        model: Its tables have been given the rules that they were trained by (`OptimizerPlan.start`, or
            `Table.train_with`), with nothing lent.

    Returns:
        The parts whose tables were given their state.

    Raises:
        BundleError: The bundle is damaged, or of another model.
        TrainingError: A table is moved by another rule than the one its state belongs to; nothing was changed.

    >>> import tempfile
    >>> from rankwell.calibration.uncalibrated import Uncalibrated
    >>> from rankwell.data.statistics import NumericStatistics
    >>> from rankwell.models.wide_deep import Logistic
    >>> from rankwell.schema import Action, Categorical, Schema
    >>> from rankwell.serving.bundle import Bundle, read_bundle, write_bundle
    >>> from rankwell.tables.ftrl import Ftrl
    >>> schema = Schema(features=(Categorical(name="job", num_ids=9),), actions=(Action(name="click"),))
    >>> model = Logistic(schema, NumericStatistics(), seed=0)
    >>> model.tables["wide"].train_with(Ftrl(l1=0.1))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_bundle(Bundle(model=model, calibrators={"click": Uncalibrated()}, created_us=0), f"{folder}/bundle")
    ...     model = read_bundle(f"{folder}/bundle").model.train()
    ...     model.tables["wide"].train_with(Ftrl(l1=0.1))
    ...     read_states(f"{folder}/bundle", model)
    ('wide',)
    """
    directory = Path(bundle)
    manifest = read_manifest(directory)
    manifest.check_files(directory)
    found: list[tuple[str, str, Path, dict[str, Any]]] = []
    for part, table in model.tables.items():
        for name in table.names:
            stem = file_stem(part, name)
            if stem + STATES in manifest.files:
                path = directory / (stem + STATES)
                found.append((part, name, path, _notes_for(table, name, path)))
    for part, name, path, _ in found:
        table = model.tables[part]
        try:
            for rows in _rows_with_states(table, path):
                table.insert(name, rows)
        except pa.ArrowException as error:
            raise BundleError(f"{path} cannot be read", found=str(error), do="write the bundle again") from None
    for part, _, _, notes in found:
        # rows of such a rule owe nothing for steps they missed, so of the clock only the number of steps matters
        clock = torch.zeros(3, notes["step"] + 1, dtype=torch.float64)
        rate = torch.tensor([notes["learning_rate"]], dtype=torch.float64)
        model.tables[part].load_progress({"clock": clock, "learning_rate": rate})
    return tuple(dict.fromkeys(part for part, *_ in found))


def _notes_for(table: Table, name: str, path: Path) -> dict[str, Any]:
    try:
        notes = state_notes(path)
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise BundleError(f"{path} is no file of states", found=str(error), do="write the bundle again") from None
    settings = None if table.rule is None else rule_settings(table.rule)
    if settings != notes["rule"]:
        raise TrainingError(
            f"the state of table {name!r} in {path} belongs to another rule", found=settings, allowed=notes["rule"],
            do="train with the rule that the bundle was trained with; lower the learning rate in force instead of its "
            "learning_rate",
        )  # fmt: skip
    return notes


def _rows_with_states(table: Table, path: Path) -> Iterator[StoredRows]:
    """Both files ascend by key, and those in the file of states that the other hasn't are zero."""
    assert table.rule is not None
    stored = row_batches(path.with_suffix(ROWS), table.width)
    keys_m, rows_mW = torch.empty(0, dtype=torch.int64), torch.empty(0, table.width)
    for keys_n, sightings_n, state_nS in state_batches(path, table.rule.state_width(table.width)):
        while len(keys_n) and (not len(keys_m) or keys_m[-1] < keys_n[-1]):
            more = next(stored, None)
            if more is None:
                break
            keys_m, rows_mW = torch.cat([keys_m, more[0]]), torch.cat([rows_mW, more[2]])
        rows_nW = _looked_up(keys_n, keys_m, rows_mW)
        num_used = int(torch.searchsorted(keys_m, keys_n[-1:], right=True)) if len(keys_n) else 0
        keys_m, rows_mW = keys_m[num_used:], rows_mW[num_used:]
        yield StoredRows(
            keys_n=keys_n,
            last_n=torch.zeros(len(keys_n), dtype=torch.int32),
            sightings_n=sightings_n,
            state_nS=state_nS,
            rows_nW=rows_nW,
        )


def _looked_up(keys_n: Tensor, keys_m: Tensor, rows_mW: Tensor) -> Tensor:
    """The rows of keys; zeros where there are none."""
    if not len(keys_m):
        return torch.zeros(len(keys_n), rows_mW.shape[1])
    place_n = torch.searchsorted(keys_m, keys_n).clamp(max=len(keys_m) - 1)
    return torch.where((keys_m[place_n] == keys_n)[:, None], rows_mW[place_n], 0.0)
