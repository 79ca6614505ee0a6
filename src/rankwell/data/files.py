"""Files of a log, near or far: found and opened through fsspec, with a bounded cache on the local disk."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, final

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from rankwell.errors import LogError, MissingExtraError

__all__ = ["FileCache", "broken_file", "find_files", "open_parquet"]

_GLOB_CHARACTERS: Final = frozenset("*?[")
_COPY_BYTES: Final = 4 * 2**20


@final
@dataclass(frozen=True, slots=True)
class FileCache:
    """Local copies of remote files, the least recently used dropped first.

    The directory never holds more than `max_bytes`: room is made before a file is copied, and a file larger than all
    of it is not copied but read from afar. A copy appears under its name only when it is whole.

    Args:
        directory: Where the copies lie; made when it isn't there. Give it to one cache only.
        max_bytes: The most that it holds, ≥ 0.

    >>> import tempfile, fsspec
    >>> with fsspec.open("memory://cached/day.bin", "wb") as file:
    ...     _ = file.write(b"12345")
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     cache = FileCache(directory, max_bytes=10)
    ...     copy = cache.fetch("memory://cached/day.bin")
    ...     copy.read_bytes(), cache.num_bytes
    (b'12345', 5)
    """

    directory: str | os.PathLike[str]
    max_bytes: int
    _lock: Any = field(default_factory=threading.Lock, repr=False, compare=False)

    def fetch(self, url: str) -> Path | None:
        """The local copy of a remote file, or None where the file is larger than the whole cache.

        Args:
            url: Where the file is, in fsspec's words.
        """
        file_system, path = _file_system(url)
        size = int(file_system.size(path))
        if size > self.max_bytes:
            return None
        # The key holds what the storage knows of the content (size, time or etag), so a file written anew is anew.
        version = f"{url}\0{size}\0{file_system.ukey(path)}"
        copy = Path(self.directory) / f"{hashlib.blake2b(version.encode(), digest_size=16).hexdigest()}.parquet"
        with self._lock:
            copy.parent.mkdir(parents=True, exist_ok=True)
            if copy.exists():
                os.utime(copy)  # the time of the last use; access times are often switched off
                return copy
            self._make_room(size)
            unfinished = copy.with_suffix(f".{os.getpid()}.part")
            try:
                with file_system.open(path, "rb") as source, unfinished.open("wb") as target:
                    while part := source.read(_COPY_BYTES):
                        target.write(part)
                unfinished.replace(copy)
            finally:
                unfinished.unlink(missing_ok=True)
            return copy

    @property
    def num_bytes(self) -> int:
        """What the directory holds now."""
        return sum(size for _, size, _ in self._entries())

    def _entries(self) -> list[tuple[float, int, Path]]:
        entries = []
        for path in Path(self.directory).glob("*.p*"):
            try:
                stat = path.stat()
            except FileNotFoundError:
                continue
            entries.append((stat.st_mtime, stat.st_size, path))
        return sorted(entries)

    def _make_room(self, size: int) -> None:
        entries = self._entries()
        held = sum(entry_size for _, entry_size, _ in entries)
        for _, entry_size, path in entries:
            if held + size <= self.max_bytes:
                return
            path.unlink(missing_ok=True)
            held -= entry_size


def find_files(paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> tuple[str, ...]:
    """Every file meant by the paths, in order: files, folders of ``*.parquet``, globs; local or fsspec URLs.

    Raises:
        LogError: A path means no file, or the same file twice.
        MissingExtraError: The URL's storage needs a package that is not installed.
    """
    listed = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    files: list[str] = []
    for path in listed:
        files.extend(_files_of(os.fspath(path)))
    if not files:
        raise LogError(
            "the log has no files",
            found=listed,
            allowed="at least one Parquet file",
            do="give the path of a file or of a folder",
        )
    repeated = sorted({file for file in files if files.count(file) > 1}) if len(set(files)) < len(files) else []
    if repeated:
        raise LogError("files of the log are given twice", found=repeated, do="give each file once")
    return tuple(files)


def _files_of(path: str) -> list[str]:
    file_system, inner = _file_system(path)
    if _GLOB_CHARACTERS & set(inner):
        found = sorted(file_system.glob(inner))
        if not found:
            raise LogError(f"no file fits the pattern {path!r}", do="correct the pattern")
    elif file_system.isdir(inner):
        found = sorted(file_system.glob(f"{inner.rstrip('/')}/*.parquet"))
        if not found:
            here = [name.rsplit("/", 1)[-1] for name in file_system.ls(inner, detail=False)]
            raise LogError(
                f"folder {path!r} holds no Parquet file",
                found=sorted(here),
                allowed="files called *.parquet",
                do="give the folder of the log's files, or the files themselves",
            )
    elif file_system.exists(inner):
        found = [inner]
    else:
        raise LogError(f"no file or folder {path!r}", do="correct the path")
    if isinstance(file_system, LocalFileSystem):
        return [str(name) for name in found]
    return [str(file_system.unstrip_protocol(name)) for name in found]


def _file_system(url: str) -> tuple[Any, str]:
    try:
        file_system, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise MissingExtraError(
            f"{url!r} needs a package that is not installed", found=str(error), do="install it with pip"
        ) from error
    except ValueError as error:
        raise LogError(
            f"{url!r} cannot be opened", found=str(error), allowed="a path or an fsspec URL", do="correct the path"
        ) from error
    return file_system, str(path)


def open_parquet(url: str, cache: FileCache | None = None) -> Any:
    """The Parquet file at `url` as a `pyarrow.parquet.ParquetFile`, from the cache where it has or takes a copy.

    Raises:
        LogError: The file is not there, empty, truncated, or not Parquet.
    """
    file_system, path = _file_system(url)
    local = isinstance(file_system, LocalFileSystem)
    try:
        if not local and cache is not None:
            copy = cache.fetch(url)
            if copy is not None:
                path, local = str(copy), True
        if (Path(path).stat().st_size if local else file_system.size(path)) == 0:
            raise LogError(f"file {url!r} is empty", found="0 bytes", allowed="a Parquet file", do=_WRITE_AGAIN)
        # Pages that were written with a checksum are held to it: a damaged page is an error, not other numbers.
        if local:
            return pq.ParquetFile(path, page_checksum_verification=True)
        return pq.ParquetFile(file_system.open(path, "rb"), pre_buffer=True, page_checksum_verification=True)
    except FileNotFoundError as error:
        raise LogError(f"file {url!r} is not there", do="correct the path") from error
    except (pa.ArrowInvalid, OSError) as error:
        raise broken_file(url, error) from error


_WRITE_AGAIN: Final = "write or fetch the file again"


def broken_file(url: str, error: Exception) -> LogError:
    """The error for a file that Arrow could not read."""
    text = str(error).split("\n", 1)[0]
    return LogError(
        f"file {url!r} is truncated or not Parquet", found=text, allowed="a whole Parquet file", do=_WRITE_AGAIN
    )
