"""One version of a feature table: a directory that is written whole, checked whole, and then only mapped.

::

    manifest.json                 format version, what is not stored, declared defaults, fingerprints of the rows, and
                                  of each file its size and SHA-256
    items.index, members.index    ids to places; see `rankwell.serving.id_index`
    items.rows, members.rows      rows in the order of places; a row's head is the word at which its lists begin
    items.lists, members.lists    the words of all lists; see `rankwell.serving.row_layout`

Letters: n rows · W words of a row.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, cast, final

import numpy as np
from numpy.typing import NDArray

from rankwell.errors import FeatureStoreError, RankwellError
from rankwell.serving.feature_defaults import Declared
from rankwell.serving.feature_source import FeatureSource
from rankwell.serving.id_index import IdIndex, write_id_index
from rankwell.serving.new_directory import NewDirectory, WrittenFile, hash_file
from rankwell.serving.row_layout import FORMAT_VERSION, RowLayout
from rankwell.serving.stored_columns import StoredColumns

__all__ = ["MANIFEST", "TableSide", "check_files", "read_manifest", "read_side", "write_side", "written_manifest"]

Ints = NDArray[np.int64]

MANIFEST: Final = "manifest.json"
_ENDINGS: Final = (".index", ".rows", ".lists")
_WRITE_AGAIN: Final = "write the table again, or copy it again from where it was written"


@final
@dataclass(frozen=True, slots=True)
class TableSide:
    """The items, or the members, of one version: views of mapped files.

    Args:
        index: Ids to places.
        words_nW: The rows by place, int64, read-only.
        lists: Words in which their lists stand.
    """

    index: IdIndex
    words_nW: Ints
    lists: Ints


def write_side(source: FeatureSource, layout: RowLayout, side: str, directory: NewDirectory) -> None:
    """Write the three files of a side. Memory: the rows without their lists, and those lists of one piece.

    Raises:
        LogError: A value does not keep the schema, or an id stands twice.
    """
    ids_n = source.ids()
    with directory.open(f"{side}.index") as file:
        order_n = write_id_index(ids_n, cast(IO[bytes], file))
    place_n = np.empty(len(ids_n), np.int64)
    place_n[order_n] = np.arange(len(ids_n))
    words_nW = np.zeros((len(ids_n), layout.num_words), np.int64)
    num_words, row = 0, 0
    with directory.open(f"{side}.lists") as file:
        for piece in source.pieces():
            packed = layout.pack(piece.columns, piece.lists, num_rows=len(piece.ids_n))
            packed.words_nW[:, 0] = packed.starts[:-1] + num_words
            words_nW[place_n[row : row + len(piece.ids_n)]] = packed.words_nW
            row += len(piece.ids_n)
            num_words += len(packed.lists)
            file.write(packed.lists.data.cast("B") if len(packed.lists) else b"")
    with directory.open(f"{side}.rows") as file:
        file.write(words_nW.data.cast("B") if words_nW.size else b"")


def written_manifest(
    stored: StoredColumns, declared: Declared, layouts: dict[str, RowLayout], files: dict[str, WrittenFile]
) -> bytes:
    """The manifest of what was written."""
    content = {
        "format_version": FORMAT_VERSION,
        "not_stored": stored.not_stored,
        "declared": dict(declared),
        "fingerprints": {side: layout.fingerprint for side, layout in layouts.items()},
        "files": {name: [file.num_bytes, file.sha256] for name, file in sorted(files.items())},
    }
    return json.dumps(content, indent=1).encode()


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of a version.

    Raises:
        FeatureStoreError: It is damaged, or the format is not known here.
        FileNotFoundError: There is no manifest, as when the version was just replaced.
    """
    text = (directory / MANIFEST).read_bytes()
    try:
        manifest: dict[str, Any] = json.loads(text)
        version = manifest["format_version"]
        manifest["files"] = {name: WrittenFile(*file) for name, file in manifest["files"].items()}
        for part in ("fingerprints", "declared"):
            manifest[part].items()
        manifest["not_stored"] = tuple(manifest["not_stored"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FeatureStoreError(f"{directory / MANIFEST} is damaged", found=str(error), do=_WRITE_AGAIN) from None
    if version != FORMAT_VERSION:
        raise FeatureStoreError(
            f"the feature table {directory} has a format that is not known here", found=version,
            allowed=FORMAT_VERSION, do="read it with the rankwell that wrote it",
        )  # fmt: skip
    return manifest


def check_files(directory: Path, manifest: dict[str, Any]) -> None:
    """Compare every file's size and checksum with the manifest's.

    Reading each file once also brings it into memory, before the first request asks.

    Raises:
        FeatureStoreError: A file is cut off or changed.
        FileNotFoundError: A file is missing.
    """
    for name, file in _named(manifest["files"]):
        found = hash_file(directory / name)
        if found != file:
            raise FeatureStoreError(
                f"{directory / name} is cut off or damaged", found=f"{found.num_bytes} bytes, SHA-256 {found.sha256}",
                allowed=f"{file.num_bytes} bytes, SHA-256 {file.sha256}", do=_WRITE_AGAIN,
            )  # fmt: skip


def read_side(directory: Path, manifest: dict[str, Any], layout: RowLayout, side: str) -> TableSide:
    """Map the files of a side; without any where the version has no such side.

    Raises:
        FeatureStoreError: The rows are of another schema.
    """
    if side not in manifest["fingerprints"]:
        index = IdIndex(np.zeros(3, np.uint32), np.zeros(0, np.int64), 1)
        return TableSide(index, np.zeros((0, layout.num_words), np.int64), np.zeros(0, np.int64))
    found = manifest["fingerprints"][side]
    if found != layout.fingerprint:
        raise FeatureStoreError(
            f"the {side} of the feature table {directory} were written for another schema",
            found=f"rows of fingerprint {found}", allowed=f"rows of fingerprint {layout.fingerprint}",
            do="write the table again with this schema and the same `not_stored`",
        )  # fmt: skip
    index_path, rows_path, lists_path = (directory / f"{side}{ending}" for ending in _ENDINGS)
    try:
        index = IdIndex.open(index_path)
        words_nW = _mapped(rows_path).reshape(-1, layout.num_words)
        lists = _mapped(lists_path)
    except (RankwellError, ValueError) as error:
        raise FeatureStoreError(f"{directory} is damaged", found=str(error), do=_WRITE_AGAIN) from error
    if len(words_nW) != len(index):
        raise FeatureStoreError(
            f"{rows_path} has not one row an id", found=len(words_nW), allowed=len(index), do=_WRITE_AGAIN
        )
    return TableSide(index, words_nW, lists)


def _named(files: dict[str, WrittenFile]) -> Iterator[tuple[str, WrittenFile]]:
    for name, file in files.items():
        if "/" in name or not name.endswith(_ENDINGS):  # a manifest must not lead out of its directory
            raise FeatureStoreError("a manifest names a file that is none of a table's", found=name, do=_WRITE_AGAIN)
        yield name, file


def _mapped(path: Path) -> Ints:
    if path.stat().st_size == 0:  # nothing can be mapped
        return np.zeros(0, np.int64)
    return np.memmap(path, dtype="<i8", mode="r").view(np.ndarray)
