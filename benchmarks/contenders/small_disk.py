"""A disk for a log that can be filled: a tmpfs where one can be mounted, else a limit on the length of files."""

from __future__ import annotations

import resource
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Final, final

__all__ = ["SmallDisk"]

_NUM_BYTES: Final = 32 * 2**20


@final
class SmallDisk:
    """A folder on it.

    Args:
        folder: Made, and mounted at where that is allowed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self._workers, self._is_mounted = folder, list[int](), False
        folder.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={_NUM_BYTES}", "rankwell-chaos", str(folder)]
        with suppress(OSError):
            self._is_mounted = subprocess.run(mount, capture_output=True).returncode == 0
        self.kind = "a tmpfs" if self._is_mounted else "a limit on files"

    def watch(self, workers: list[int]) -> None:
        """Say whose files are to be limited, where nothing can be mounted."""
        self._workers = workers

    def fill(self) -> None:
        """From now on no byte fits."""
        if not self._is_mounted:
            self._limit(1)
            return
        with suppress(OSError), (self.folder / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))

    def free(self) -> None:
        """There is room again."""
        if self._is_mounted:
            (self.folder / "filler").unlink()
        else:
            self._limit(resource.RLIM_INFINITY)

    def close(self) -> None:
        """Unmount it."""
        if self._is_mounted:
            subprocess.run(["umount", str(self.folder)], check=True)

    def _limit(self, num_bytes: int) -> None:
        for pid in self._workers:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (num_bytes, resource.RLIM_INFINITY))
