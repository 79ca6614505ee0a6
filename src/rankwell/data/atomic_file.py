"""A file that is there whole or not at all."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, final

import fsspec
from fsspec.implementations.local import LocalFileSystem

__all__ = ["AtomicFile"]


@final
class AtomicFile:
    """Write bytes beside `path` and move them there when the block ends well; else nothing of them stays.

    On a local disk the bytes are forced down before the old file is replaced, so that even a power cut leaves the old
    file or the new one. In an object store the bytes go to a temporary key first, and the store's own move follows. A
    process that is killed may leave `.<name>.<random>.partial` beside the path, which no reader takes for a log.

    Args:
        path: A local path or an fsspec URL.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with AtomicFile(f"{folder}/a") as file:
    ...         _ = file.write(b"whole")
    ...     Path(f"{folder}/a").read_bytes()
    b'whole'
    """

    def __init__(self, path: str | Path) -> None:
        self._fs, self._target = fsspec.core.url_to_fs(str(path))
        folder, _, name = self._target.rpartition("/")
        partial = f".{name}.{secrets.token_hex(4)}.partial"
        self._partial = f"{folder}/{partial}" if folder or self._target.startswith("/") else partial
        self._local = isinstance(self._fs, LocalFileSystem)
        self._file: IO[bytes] | None = None

    def __enter__(self) -> IO[bytes]:
        opened: Any = Path(self._partial).open("xb") if self._local else self._fs.open(self._partial, "wb")
        self._file = opened
        return self._file

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.discard()
            return
        try:
            self._commit()
        except BaseException:
            self.discard()
            raise

    def discard(self) -> None:
        """Close and remove what was written, whatever state it is in."""
        if self._file is not None:
            # Closing flushes, and a full disk makes that fail again; the error that matters is the first.
            with suppress(Exception):
                self._file.close()
        with suppress(Exception):
            self._fs.rm_file(self._partial)

    def _commit(self) -> None:
        assert self._file is not None
        if not self._local:
            self._file.close()
            self._fs.mv(self._partial, self._target)
            return
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        Path(self._partial).replace(self._target)
        if os.name == "posix":
            folder = os.open(Path(self._target).parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
