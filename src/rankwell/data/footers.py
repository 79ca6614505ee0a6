"""What a log's files say of themselves before a value is read: columns and types, checked, and the blocks to read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, final

import numpy as np
import numpy.typing as npt

from rankwell.data.blocks import Block, BlockReader, FileSource, TableSource, cut_at_requests, cut_rows
from rankwell.data.files import FileCache
from rankwell.data.layout import LogLayout
from rankwell.data.stored_schema import check_stored_schema
from rankwell.errors import LogError, PrivacyError
from rankwell.schema.schema import Schema
from rankwell.types import MISSING_ID

__all__ = [
    "Footer",
    "blocks_of",
    "check_same_columns",
    "checked_types",
    "footer_of",
    "refuse_private",
    "refuse_requests_over_files",
]


@final
@dataclass(frozen=True, slots=True)
class Footer:
    """What is known of a file before its values are read.

    Args:
        url: The file, or the table in memory.
        types: Arrow types of the layout's columns that it has.
        bounds: The row at which each row group begins, and the number of rows.
        candidates: The candidates of each row group; None where the footer doesn't say.
        times_us: The earliest and latest request time of each row group; None where the footer doesn't say.
    """

    url: str
    types: dict[str, Any]
    bounds: tuple[int, ...]
    candidates: tuple[int | None, ...]
    times_us: tuple[tuple[int, int] | None, ...]


def footer_of(url: str, file: Any, layout: LogLayout, schema: Schema) -> Footer:
    """The footer of an open Parquet file, its columns checked."""
    refuse_private(url, file.schema_arrow, schema)
    check_stored_schema(url, file.schema_arrow, schema, layout)
    types = checked_types(url, file.schema_arrow, layout)
    metadata = file.metadata
    leaf_of = {metadata.schema.column(i).path.split(".", 1)[0]: i for i in reversed(range(metadata.num_columns))}
    counted = next((c for c in layout.columns if c.side == "candidate" and c.depth == 1 and c.name in types), None)
    bounds, candidates, times_us = [0], [], []
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        bounds.append(bounds[-1] + row_group.num_rows)
        if layout.kind == "flat":
            candidates.append(row_group.num_rows)
        else:
            # A list column's number of values counts each list's entries (and 1 for an empty list, which is refused).
            candidates.append(None if counted is None else row_group.column(leaf_of[counted.name]).num_values)
        times_us.append(None if schema.time is None else _time_statistics(row_group, leaf_of[schema.time], types))
    return Footer(url, types, tuple(bounds), tuple(candidates), tuple(times_us))


def _time_statistics(row_group: Any, leaf: int, types: dict[str, Any]) -> tuple[int, int] | None:
    statistics = row_group.column(leaf).statistics
    if statistics is None or not statistics.has_min_max:
        return None
    if statistics.physical_type != "INT64":
        return None
    kind = statistics.logical_type.to_json() if statistics.logical_type is not None else ""
    if "Timestamp" in kind:
        per_us = {"nanoseconds": 1000, "microseconds": 1}
        unit = next((unit for unit in (*per_us, "milliseconds") if unit in kind), None)
        if unit == "milliseconds":
            return int(statistics.min_raw) * 1000, int(statistics.max_raw) * 1000
        return (
            None if unit is None else (int(statistics.min_raw) // per_us[unit], int(statistics.max_raw) // per_us[unit])
        )
    return int(statistics.min_raw), int(statistics.max_raw)


def refuse_private(name: str, columns: Any, schema: Schema) -> None:
    """Refuse columns declared as PII, however they are capitalised."""
    named = {column.casefold() for column in schema.pii}
    found = [column for column in columns.names if column.casefold() in named]
    if found:
        raise PrivacyError(
            f"file {name!r} holds columns that name a person",
            found=found,
            allowed="none of the columns that the schema declares as PII",
            do="drop them where the log is written",
        )


def checked_types(name: str, columns: Any, layout: LogLayout) -> dict[str, Any]:
    """The Arrow types of the layout's columns in a file; refuses a missing column and a wrong type."""
    types: dict[str, Any] = {}
    for column in layout.columns:
        index = columns.get_field_index(column.name)
        if index < 0:
            if columns.names.count(column.name) > 1:
                raise LogError(
                    f"column {column.name!r} stands twice in file {name!r}",
                    found=columns.names,
                    allowed="each column once",
                    do="drop one of them",
                )
            if column.required:
                raise LogError(
                    f"column {column.name!r} is in the schema ({column.role} {column.owner!r}) "
                    f"but not in file {name!r}",
                    found=columns.names,
                    allowed=f"a column of that name: {column.allowed}",
                    do=_missing_advice(column.role),
                )
            continue
        found = columns.field(index).type
        if not column.allows(found):
            raise LogError(
                f"column {column.name!r} ({column.role} {column.owner!r}) has a wrong type in file {name!r}",
                found=str(found),
                allowed=f"{column.allowed} (layout {layout.kind!r})",
                do=_type_advice(found, column.takes_ids),
            )
        types[column.name] = found
    return types


def _missing_advice(role: str) -> str:
    if role in ("request_id", "member_id", "time"):
        return f"add the column, or declare {role}=None in the schema"
    return "add the column, correct its name in the schema, or drop it from there"


def _type_advice(found: Any, takes_ids: bool) -> str:
    text = str(found)
    if takes_ids and "string" in text:
        return "write the log with rankwell's writer, which hashes strings to ids"
    if takes_ids and ("double" in text or "float" in text):
        return "write ids as integers with nulls: floats lose ids beyond 2^53"
    return "cast the column, or open the log with the layout that it has"


def check_same_columns(first: Footer, other: Footer) -> None:
    """Refuse files of one log whose columns differ in type, or in which optional ones there are."""
    for name in (*first.types, *other.types):
        mine, its = first.types.get(name), other.types.get(name)
        if mine != its:
            raise LogError(
                f"column {name!r} differs between files {first.url!r} and {other.url!r}",
                found=f"{mine or 'no such column'} and {its or 'no such column'}",
                allowed="one type in all files of a log",
                do="write the files anew with one type, or open them as separate logs",
            )


def blocks_of(
    index: int,
    footer: Footer,
    sources: Sequence[FileSource | TableSource],
    layout: LogLayout,
    cache: FileCache | None,
) -> tuple[list[Block], tuple[int, int] | None]:
    """The blocks of one source, none of which cuts a request in two; and its first and last request id.

    Args:
        index: The source among `sources`.
        footer: What is known of it.
        sources: All sources of the log.
        layout: Of a flat layout with request ids the id column is read here, of others nothing.
        cache: Local copies of remote files.
    """
    if footer.bounds[-1] == 0:
        return [], None
    flat = layout.kind == "flat"
    cuts = cut_rows(footer.bounds, footer.candidates)
    requests_before: Sequence[int] = cuts
    request_id = layout.of_role("request_id")
    edges: list[int] = []
    if flat and request_id is not None:
        parts = _ids_in_parts(index, cuts, sources, request_id.name, cache, edges)
        cuts, requests_before = cut_at_requests(cuts, parts)
    bounds = np.asarray(footer.bounds)
    blocks = []
    for i, (start, stop) in enumerate(pairwise(cuts)):
        if start == stop:
            continue
        group = int(np.searchsorted(bounds, start, side="right")) - 1
        last = int(np.searchsorted(bounds, stop - 1, side="right")) - 1
        ranges = [known for known in footer.times_us[group : last + 1] if known is not None]
        times_us = None
        if len(ranges) == last + 1 - group:
            times_us = min(first for first, _ in ranges), max(after for _, after in ranges)
        whole_group = (start, stop) == (footer.bounds[group], footer.bounds[group + 1])
        num_candidates = stop - start if flat else footer.candidates[group] if whole_group else None
        num_requests = requests_before[i + 1] - requests_before[i]
        blocks.append(Block(index, start, stop, group, num_requests, num_candidates, times_us))
    return blocks, (edges[0], edges[-1]) if edges else None


def _ids_in_parts(
    index: int,
    cuts: Sequence[int],
    sources: Sequence[FileSource | TableSource],
    name: str,
    cache: FileCache | None,
    edges: list[int],
) -> Iterator[npt.NDArray[np.int64]]:
    """The request ids of a source, part by part; the first and the last of each part are noted in `edges`."""
    bounds = np.asarray(getattr(sources[index], "bounds", (0, cuts[-1])))
    with BlockReader(sources, [name], cache) as reader:
        for start, stop in pairwise(cuts):
            group = int(np.searchsorted(bounds, start, side="right")) - 1
            column = reader.read(Block(index, start, stop, group, 0, None, None)).column(name)
            if column.null_count:
                column = column.fill_null(MISSING_ID)  # refused, with its row, when it is read
            for chunk in column.chunks:
                ids = chunk.to_numpy()
                edges.extend((int(ids[0]), int(ids[-1])))
                yield ids


def refuse_requests_over_files(edges: Sequence[tuple[str, tuple[int, int] | None]]) -> None:
    """Refuse a request whose rows end in one file and go on in the next.

    Args:
        edges: For each file its name and its first and last request id.
    """
    known = [(name, ids) for name, ids in edges if ids is not None]
    for (name, (_, last)), (next_name, (first, _)) in pairwise(known):
        if first == last:
            raise LogError(
                f"request {last} begins in file {name!r} and goes on in {next_name!r}",
                allowed="all rows of a request in one file",
                do="cut the files between requests",
            )
