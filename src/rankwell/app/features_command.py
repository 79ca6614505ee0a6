"""`rankwell features BUNDLE STORE`: items and members into the feature store that the bundle is served with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

import pyarrow.parquet as pq
import typer
from rich.console import Console

from rankwell.app.json_file import Json, write_json
from rankwell.data.pseudonyms import read_key
from rankwell.errors import SchemaError
from rankwell.serving.bundle import read_bundle
from rankwell.serving.feature_defaults import FeatureDefaults
from rankwell.serving.feature_table import open_feature_table, write_feature_table
from rankwell.serving.latest_features import latest_items, latest_members
from rankwell.serving.redis_rows import write_redis_features
from rankwell.serving.row_reader import RowReader
from rankwell.serving.stored_columns import StoredColumns

__all__ = ["features"]

_console: Final = Console()
_SERVERS: Final = ("redis://", "rediss://", "unix://")


def features(
    bundle: Annotated[Path, typer.Argument(help="A bundle, as `rankwell train` writes it.")],
    store: Annotated[str, typer.Argument(help="A folder, made where there is none; or redis://HOST:PORT/DATABASE.")],
    items: Annotated[Path | None, typer.Option(exists=True, help="Parquet, one row an item.")] = None,
    members: Annotated[Path | None, typer.Option(exists=True, help="Parquet, one row a member.")] = None,
    log: Annotated[Path | None, typer.Option(exists=True, help="Or a log: items and members as last seen.")] = None,
    not_stored: Annotated[list[str] | None, typer.Option(help="A feature that comes with each request.")] = None,
    default: Annotated[list[str] | None, typer.Option(help="NAME=NUMBER[,NUMBER…], as home=52.5,13.4.")] = None,
    key: Annotated[Path | None, typer.Option(exists=True, help="The key file, where member ids are raw.")] = None,
    json_file: Json = None,
) -> None:
    """Write features by id, so that requests may carry ids only; a new version takes the place of the old one."""
    read = read_bundle(bundle)
    stored = StoredColumns(read.schema, tuple(not_stored or ()))
    declared = dict(_declared(text) for text in default or ())
    statistics = read.model.statistics
    RowReader(stored, FeatureDefaults(read.schema, statistics, declared))  # refuses before anything is written
    rows: dict[str, Any] = {"items": items, "members": members, "key": None if key is None else read_key(key)}
    if log is not None:
        whole = pq.read_table(log)
        if items is None and stored.candidate_columns:
            rows["items"] = latest_items(whole, stored)
        if members is None and stored.context_columns:
            rows["members"] = latest_members(whole, stored)
    if store.startswith(_SERVERS):
        numbers = {"num_rows": float(write_redis_features(store, stored, **rows))}
    else:
        write_feature_table(store, stored, **rows, declared=declared)
        with open_feature_table(store, read.schema, statistics) as table:
            numbers = {"num_items": float(table.num_items), "num_members": float(table.num_members)}
    _console.print(", ".join(f"{int(count):,} {name.removeprefix('num_')}" for name, count in numbers.items()))
    write_json(json_file, numbers)


def _declared(text: str) -> tuple[str, int | float | list[float]]:
    name, _, value = text.partition("=")
    try:
        numbers = [int(part) if part.strip("-").isdigit() else float(part) for part in value.split(",")]
    except ValueError:
        raise SchemaError(
            "a default cannot be read", found=text, allowed="NAME=NUMBER or NAME=NUMBER,NUMBER,…", do="mend it"
        ) from None
    return name, numbers[0] if len(numbers) == 1 else numbers
