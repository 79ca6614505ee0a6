"""Features by id in files that all processes of a machine map: the feature store that needs no server.

::

    <directory>/CURRENT       the version in use, and the SHA-256 of its manifest: replaced atomically
    <directory>/LOCK          held by whoever writes
    <directory>/v-…/          versions; see `rankwell.serving.feature_table_version`

A reader goes on with the version that it has mapped, also when it is gone from the disk; `refresh` takes the next.

Letters: K candidates of one request.
"""

from __future__ import annotations

import hashlib
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

from rankwell.data.atomic_file import AtomicFile
from rankwell.data.pseudonyms import PseudonymKey
from rankwell.data.statistics import NumericStatistics
from rankwell.errors import FeatureStoreError
from rankwell.schema.schema import Schema
from rankwell.serving.feature_counts import FeatureCounts, LookUps
from rankwell.serving.feature_defaults import Declared, FeatureDefaults
from rankwell.serving.feature_source import FeatureSource
from rankwell.serving.feature_store import (
    FeatureStore,
    StoredCandidates,
    StoredMember,
    checked_item_ids,
    checked_member_id,
)
from rankwell.serving.feature_table_version import (
    MANIFEST,
    TableSide,
    check_files,
    read_manifest,
    read_side,
    write_side,
    written_manifest,
)
from rankwell.serving.new_directory import NewDirectory
from rankwell.serving.row_layout import RowLayout
from rankwell.serving.row_reader import RowReader
from rankwell.serving.stored_columns import StoredColumns
from rankwell.types import MISSING_ID

__all__ = ["FeatureTable", "open_feature_table", "write_feature_table"]

_CURRENT: Final = "CURRENT"
_LOCK: Final = "LOCK"
_TRIES: Final = 20


@final
@dataclass(frozen=True, slots=True)
class _Version:
    """What a reader has mapped, exchanged as one."""

    pointer: str
    items: TableSide
    members: TableSide


def write_feature_table(
    directory: str | Path,
    stored: StoredColumns,
    *,
    items: Any = None,
    members: Any = None,
    key: PseudonymKey | None = None,
    declared: Declared | None = None,
) -> Path:
    """Write a new version of a feature table, and put it in the place of the one in use.

    Readers see the old one or the new one, whole. Of several writers at once each waits for the one before it, and the
    last one's version stays.

    Args:
        directory: Of the table; it is made where there is none.
        stored: What is kept of items and members.
        items: A table with the log's columns of what stands on a candidate (`StoredColumns.item_source`), one row an
            item; or the path of a Parquet file, or of a folder of them. None: no items.
        members: The same of what stands on a request, histories among it, one row a member.
        key: Where given, member ids are raw and pseudonymised with it.
        declared: Defaults for `open_feature_table`, kept in the manifest.

    Returns:
        The directory of the new version.

    Raises:
        LogError: A column is missing or unknown, a value does not keep the schema, or an id stands twice.
        PrivacyError: Member ids are strings, and there is no key.
        SchemaError: The schema names no item, or no member, and there are some; or a declared default is none.

    >>> import tempfile
    >>> from rankwell.schema import Action, Categorical, Numeric, Schema
    >>> schema = Schema(features=(Categorical(name="job"), Numeric(name="pay", missing="indicator")),
    ...                 actions=(Action(name="click"),), item="job", member_id=None, time=None)
    >>> stored = StoredColumns(schema)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = write_feature_table(folder, stored, items={"job": [7, 8], "pay": [40.0, 50.0]})
    ...     with FeatureTable(folder, stored, FeatureDefaults(schema)) as table:
    ...         found = table.candidates(np.array([8, 9, 7]))
    >>> found.columns["pay"], found.is_missing_K
    (tensor([50., nan, 40.]), array([False,  True, False]))
    """
    FeatureDefaults(stored.schema, declared=declared)  # refuses what is none
    sources: dict[str, tuple[FeatureSource, RowLayout]] = {}
    if items is not None:
        source = FeatureSource(items, stored.item_source(), "items", key=None)
        sources["items"] = source, RowLayout.of_items(stored)
    if members is not None:
        source = FeatureSource(members, stored.member_source(), "members", key=key)
        sources["members"] = source, RowLayout.of_members(stored)
    root = Path(directory)
    root.mkdir(parents=True, exist_ok=True)
    with _only_writer(root):
        target = root / f"v-{secrets.token_hex(8)}"
        with NewDirectory.beside(target) as new:
            for side, (source, layout) in sources.items():
                write_side(source, layout, side, new)
            layouts = {side: layout for side, (_, layout) in sources.items()}
            manifest = written_manifest(stored, declared or {}, layouts, new.written)
            new.write(MANIFEST, manifest)
            new.put_in_place()
        with AtomicFile(root / _CURRENT) as file:
            file.write(f"{target.name} {hashlib.sha256(manifest).hexdigest()}\n".encode())
        for other in root.glob("v-*"):  # of writers that died, too: nobody else writes
            if other.name != target.name:
                shutil.rmtree(other, ignore_errors=True)
    return target


def open_feature_table(
    directory: str | Path, schema: Schema, statistics: NumericStatistics | None = None
) -> FeatureTable:
    """A feature table read as its manifest says: what is not stored, and which defaults were declared.

    Args:
        directory: Of the table.
        schema: Of the bundle that is served.
        statistics: The bundle's; see `FeatureDefaults`.

    Raises:
        FeatureStoreError: There is no table, it is damaged, or was written for another schema.
        SchemaError: A stored feature has no default, or the schema lacks what is said not to be stored.
    """
    root = Path(directory)
    for _ in range(_TRIES):
        version = root / _pointer_of(root).partition(" ")[0]
        try:
            manifest = read_manifest(version)
        except FileNotFoundError:
            continue  # replaced while it was being read
        stored = StoredColumns(schema, manifest["not_stored"])
        return FeatureTable(root, stored, FeatureDefaults(schema, statistics, manifest["declared"]))
    raise FeatureStoreError(f"the feature table {version} lacks a file", found=MANIFEST, do="write the table again")


def _pointer_of(root: Path) -> str:
    try:
        return (root / _CURRENT).read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise FeatureStoreError(
            f"there is no feature table at {str(root)!r}", found=str(error), do="write_feature_table first"
        ) from None


@contextmanager
def _only_writer(root: Path) -> Iterator[None]:
    """Hold the table's lock; it falls with the process that holds it."""
    import fcntl  # not everywhere, and only writers need it

    with (root / _LOCK).open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@final
class FeatureTable(FeatureStore):
    """Reads a feature table. Looking up takes no lock, and no Python for each candidate.

    Args:
        directory: As `write_feature_table` wrote it.
        stored: What is kept, as it was written.
        defaults: Of what is not there.

    Raises:
        FeatureStoreError: There is no table, it is damaged, or was written for another schema.
        SchemaError: A stored feature has no default.
    """

    def __init__(self, directory: str | Path, stored: StoredColumns, defaults: FeatureDefaults) -> None:
        self._root = Path(directory)
        self._rows = RowReader(stored, defaults)
        self._counts = FeatureCounts()
        self._refused: tuple[str, FeatureStoreError] | None = None
        self._version = self._newest()

    @property
    def stored(self) -> StoredColumns:
        """What it keeps."""
        return self._rows.stored

    @property
    def counts(self) -> FeatureCounts:
        """Since it was opened. Nothing is ever late, and nothing fails."""
        return self._counts

    @property
    def num_items(self) -> int:
        """Items of the version in use."""
        return len(self._version.items.index)

    @property
    def num_members(self) -> int:
        """Members of the version in use."""
        return len(self._version.members.index)

    def features(self, member_id: int, item_ids_K: NDArray[np.int64]) -> tuple[StoredMember, StoredCandidates]:
        """See `FeatureStore.features`."""
        version = self._version  # one version for both
        return self._member(version.members, member_id), self._candidates(version.items, item_ids_K)

    def candidates(self, item_ids_K: NDArray[np.int64]) -> StoredCandidates:
        """See `FeatureStore.candidates`."""
        return self._candidates(self._version.items, item_ids_K)

    def member(self, member_id: int) -> StoredMember:
        """See `FeatureStore.member`."""
        return self._member(self._version.members, member_id)

    def _candidates(self, items: TableSide, item_ids_K: NDArray[np.int64]) -> StoredCandidates:
        item_ids_K = checked_item_ids(item_ids_K)
        places_K = items.index.places(item_ids_K)
        is_missing_K = places_K < 0
        if len(items.words_nW):
            words_KW = items.words_nW.take(places_K, axis=0)  # -1 reads the last, and is overwritten
        else:
            words_KW = np.zeros((len(places_K), self._rows.item_layout.num_words), np.int64)
        self._counts.add(items=LookUps(len(places_K), num_missing=int(np.count_nonzero(is_missing_K))))
        return self._rows.candidates(item_ids_K, words_KW, items.lists, words_KW[:, 0], is_missing_K)

    def _member(self, members: TableSide, member_id: int) -> StoredMember:
        member_id = checked_member_id(member_id)
        place = -1 if member_id == MISSING_ID else int(members.index.places(np.array([member_id]))[0])
        if member_id != MISSING_ID:
            self._counts.add(members=LookUps(1, num_missing=int(place < 0)))
        words_1W = members.words_nW[place : place + 1] if place >= 0 else members.words_nW[:0]
        start = int(words_1W[0, 0]) if place >= 0 else 0
        return self._rows.member(member_id, words_1W, members.lists, start, is_missing=place < 0)

    def refresh(self) -> bool:
        """See `FeatureStore.refresh`: one small file is read, and a new version's files are, once, to be checked.

        A version that was refused is not read again.
        """
        pointer = _pointer_of(self._root)
        if pointer == self._version.pointer:
            return False
        if self._refused is not None and self._refused[0] == pointer:
            raise self._refused[1].with_traceback(None)  # raised each second, it would keep all its traces
        try:
            self._version = self._newest()
        except FeatureStoreError as error:
            self._refused = pointer, error
            raise
        return True

    def close(self) -> None:
        """Nothing is held but mapped memory, which goes with its last reader."""

    def __enter__(self) -> FeatureTable:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _newest(self) -> _Version:
        for _ in range(_TRIES):
            pointer = _pointer_of(self._root)
            try:
                return self._mapped(pointer)
            except (FileNotFoundError, FeatureStoreError) as error:
                if _pointer_of(self._root) != pointer:
                    continue  # replaced, and its files removed, while it was being read
                if isinstance(error, FeatureStoreError):
                    raise
                raise FeatureStoreError(
                    f"the feature table {str(self._root)!r} lacks a file", found=str(error), do="write the table again"
                ) from None
        raise FeatureStoreError(
            f"the feature table {str(self._root)!r} is replaced faster than it can be read", do="write it less often"
        )

    def _mapped(self, pointer: str) -> _Version:
        name, _, sha256 = pointer.partition(" ")
        directory = self._root / name
        if not name.startswith("v-") or "/" in name:
            raise FeatureStoreError(f"{self._root / _CURRENT} is damaged", found=pointer, do="write the table again")
        manifest = read_manifest(directory)
        if hashlib.sha256((directory / MANIFEST).read_bytes()).hexdigest() != sha256:
            raise FeatureStoreError(f"{directory / MANIFEST} is damaged", do="write the table again")
        check_files(directory, manifest)
        items = read_side(directory, manifest, self._rows.item_layout, "items")
        members = read_side(directory, manifest, self._rows.member_layout, "members")
        return _Version(pointer, items, members)
