"""A directory that takes the place of an old one whole, or not at all."""

from __future__ import annotations

import hashlib
import io
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["NewDirectory", "WrittenFile", "displaced", "hash_file"]

_BLOCK: Final = 1 << 20


@final
@dataclass(frozen=True, slots=True)
class WrittenFile:
    """What was written: the number of bytes, and their SHA-256 in hexadecimal."""

    num_bytes: int
    sha256: str


@final
class NewDirectory:
    """Files on their way to `target`, in a directory beside it that no reader looks into.

    `put_in_place` swaps it in by rename. Should the process die in the middle of the swap, between its two renames,
    then the old directory stands whole under another name (`displaced` finds it) and the target is missing; at every
    other moment the target is the old directory or the new one.

    Use `NewDirectory.beside`, which removes what was written if the block fails.

    Args:
        target: Where the directory is to stand; its parent must exist.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.with_name(f"{target.name}.new-{secrets.token_hex(4)}")
        self.written: dict[str, WrittenFile] = {}
        """By name, with "/" between the parts: every file written so far."""

    @classmethod
    @contextmanager
    def beside(cls, target: Path) -> Iterator[NewDirectory]:
        """An empty new directory; it is gone when the block ends, unless it was put in place.

        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, NewDirectory.beside(Path(folder) / "a") as new:
        ...     new.write("b/c.txt", b"whole")
        ...     new.put_in_place()
        ...     (Path(folder) / "a" / "b" / "c.txt").read_bytes()
        b'whole'
        """
        new = cls(target)
        new.path.mkdir()
        try:
            yield new
        finally:
            # The error that brought us here is the one that matters, and after put_in_place nothing is left to remove.
            shutil.rmtree(new.path, ignore_errors=True)

    @contextmanager
    def open(self, name: str) -> Iterator[io.RawIOBase]:
        """A new file to write bytes to; when the block ends they are on the disk, and `written` knows them."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with _HashedFile(path) as file:
            yield file
            os.fsync(file.fileno())
        self.written[name] = file.record

    def write(self, name: str, content: bytes) -> None:
        """Write a whole file."""
        with self.open(name) as file:
            file.write(content)

    @contextmanager
    def scattered(self, name: str, num_bytes: int) -> Iterator[NDArray[np.uint8]]:
        """A new file of so many bytes, as an array to be written in any order; then it is as with `open`.

        Raises:
            OSError: There is no room for it.

        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, NewDirectory.beside(Path(folder) / "a") as new:
        ...     with new.scattered("b", 2) as content:
        ...         content[1], content[0] = ord("y"), ord("x")
        ...     new.put_in_place()
        ...     (Path(folder) / "a" / "b").read_bytes()
        b'xy'
        """
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb+") as file:
            if num_bytes:
                os.posix_fallocate(file.fileno(), 0, num_bytes)  # a full disk is an error here, and a signal on a map
                content = np.memmap(file, dtype=np.uint8, mode="r+", shape=(num_bytes,))
                yield content.view(np.ndarray)
                content.flush()
                del content
            else:
                yield np.empty(0, np.uint8)
            os.fsync(file.fileno())
        self.written[name] = hash_file(path)

    def put_in_place(self) -> None:
        """Swap the new directory for the old one, and remove the old one."""
        for folder, _, _ in os.walk(self.path):
            _sync_directory(Path(folder))
        old = self.target.with_name(f"{self.target.name}.old-{secrets.token_hex(4)}")
        replaces = self.target.exists()
        if replaces:
            self.target.rename(old)
        try:
            self.path.rename(self.target)
        except BaseException:
            if replaces:
                old.rename(self.target)
            raise
        _sync_directory(self.target.parent)
        for directory in displaced(self.target):  # that of an earlier crash too: the new one has taken its place
            shutil.rmtree(directory, ignore_errors=True)


def displaced(target: Path) -> list[Path]:
    """The old directories that stand beside `target` because a swap was cut off, the latest last."""
    with suppress(OSError):
        beside = [path for path in target.parent.iterdir() if path.name.startswith(f"{target.name}.old-")]
        return sorted(beside, key=lambda path: path.stat().st_mtime_ns)
    return []


def hash_file(path: Path) -> WrittenFile:
    """The size and SHA-256 of a file as it stands on the disk."""
    with path.open("rb", buffering=0) as file:
        digest = hashlib.file_digest(file, "sha256")
        return WrittenFile(file.tell(), digest.hexdigest())


@final
class _HashedFile(io.RawIOBase):
    """Writes to a new file, hashing on the way."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        self._digest = hashlib.sha256()
        self._num_bytes = 0

    @property
    def record(self) -> WrittenFile:
        """What was written so far."""
        return WrittenFile(self._num_bytes, self._digest.hexdigest())

    def write(self, content: ReadableBuffer, /) -> int:
        """Write all of it; a full disk raises, and never writes a part in silence."""
        rest = memoryview(content).cast("B")
        num_bytes = len(rest)
        while rest:
            num_written = os.write(self._descriptor, rest[:_BLOCK])
            self._digest.update(rest[:num_written])
            self._num_bytes += num_written
            rest = rest[num_written:]
        return num_bytes

    def writable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Bytes written so far."""
        return self._num_bytes

    def fileno(self) -> int:
        """The file descriptor."""
        return self._descriptor

    def close(self) -> None:
        """Close the descriptor, once."""
        if not self.closed:
            super().close()
            os.close(self._descriptor)


def _sync_directory(path: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
