"""Snapshots of a training from which it goes on bit-equal."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from rankwell.errors import CheckpointError, RankwellWarning, TrainingError

__all__ = ["Checkpoint", "Checkpoints", "PeriodicCheckpoints", "check_periods"]

_FORMAT: Final = "1"
_NAME: Final = re.compile(r"step-(\d{12})\.safetensors")
_NUM_KEPT: Final = 2


@final
@dataclass(frozen=True, slots=True)
class Checkpoint:
    """All of a training between two of its steps.

    Args:
        step: How many steps were taken.
        tensors: By flat name; no two share memory.
        progress: The rest; must survive JSON.
    """

    step: int
    tensors: Mapping[str, Tensor]
    progress: Mapping[str, Any]


@final
class Checkpoints:
    """A folder of checkpoints of one run; each appears whole or not at all, and the two newest are kept.

    What a write that was killed has left is removed when the folder is opened.

    Args:
        directory: Made where it isn't there.
        run: What identifies the run, by topic; a checkpoint whose run differs in any topic is refused.

    Raises:
        CheckpointError: The folder cannot be made or written to.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     checkpoints = Checkpoints(Path(folder), {"seed": "0"})
    ...     for step in (1, 2, 3):
    ...         _ = checkpoints.save(Checkpoint(step, {"rows": torch.full((2,), float(step))}, {"epoch": 0}))
    ...     sorted(path.name for path in Path(folder).iterdir()), checkpoints.newest().tensors["rows"].tolist()
    (['step-000000000002.safetensors', 'step-000000000003.safetensors'], [3.0, 3.0])
    """

    def __init__(self, directory: Path, run: Mapping[str, str]) -> None:
        self.directory, self.run = directory, dict(run)
        self._unfinished = directory / ".unfinished"
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._remove_unfinished()
        except OSError as error:
            raise CheckpointError(
                f"no checkpoints can be kept in {directory}",
                found=str(error),
                do="name a folder that can be written to",
            ) from error

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write apart, flush to disk, rename into place, flush the folder; then drop all but the two newest.

        Returns:
            The file.

        Raises:
            CheckpointError: It could not be written; nothing of it stays, and the earlier ones are whole.
        """
        path = self.directory / f"step-{checkpoint.step:012d}.safetensors"
        tensors = {name: tensor.contiguous() for name, tensor in checkpoint.tensors.items()}
        run, progress = json.dumps(self.run), json.dumps(dict(checkpoint.progress))
        notes = {"format": _FORMAT, "run": run, "progress": progress, "crc32": _checksum(tensors, run, progress)}
        try:
            self._unfinished.mkdir(exist_ok=True)
            written = self._unfinished / path.name
            save_file(tensors, written, metadata=notes)
            _flush(written)
            written.replace(path)
            _flush(self.directory)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"could not write checkpoint {path.name} into {self.directory}", found=str(error),
                do="free disk space or name another folder; earlier checkpoints are whole",
            ) from error  # fmt: skip
        finally:
            self._remove_unfinished()
        for old in self._paths()[:-_NUM_KEPT]:
            old.unlink(missing_ok=True)
        return path

    def newest(self) -> Checkpoint | None:
        """The newest whole checkpoint, or None where there is none.

        Where the newest is damaged, the one before it is taken; the damaged one is removed, with a `RankwellWarning`.

        Raises:
            CheckpointError: All are damaged; or one cannot be read, is of another format, or belongs to another run.
        """
        damaged: dict[str, str] = {}
        for path in reversed(self._paths()):
            try:
                checkpoint = self._read(path)
            except _DamagedError as error:
                damaged[path.name] = str(error)
                continue
            if damaged:
                for name in damaged:
                    (self.directory / name).unlink(missing_ok=True)
                warnings.warn(
                    f"checkpoints in {self.directory} are damaged and were removed: {damaged}; "
                    f"training goes on from {path.name}",
                    RankwellWarning,
                    stacklevel=2,
                )
            return checkpoint
        if damaged:
            raise CheckpointError(
                f"no checkpoint in {self.directory} is whole", found=damaged, do="delete them to start anew"
            )
        return None

    def clear(self) -> None:
        """Delete all checkpoints, and the folder if nothing else is in it: the run is over."""
        self._remove_unfinished()
        for path in self._paths():
            path.unlink(missing_ok=True)
        if not any(self.directory.iterdir()):
            self.directory.rmdir()

    def _read(self, path: Path) -> Checkpoint:
        try:
            with safe_open(path, framework="pt") as file:
                notes = file.metadata() or {}
            tensors = load_file(path)
        except SafetensorError as error:
            raise _DamagedError(str(error)) from error
        except OSError as error:
            raise CheckpointError(f"checkpoint {path} cannot be read", found=str(error)) from error
        if notes.get("format") != _FORMAT:
            raise CheckpointError(
                f"checkpoint {path} has an unknown format", found=notes.get("format"), allowed=_FORMAT,
                do="go on with the version of rankwell that wrote it, or name another folder",
            )  # fmt: skip
        if notes.get("crc32") != _checksum(tensors, notes.get("run", ""), notes.get("progress", "")):
            raise _DamagedError("its content doesn't match its checksum")
        run, progress = json.loads(notes["run"]), json.loads(notes["progress"])
        if run != self.run:
            topics = sorted(topic for topic in {*run, *self.run} if run.get(topic) != self.run.get(topic))
            raise CheckpointError(
                f"checkpoint {path} belongs to another run: they differ in {', '.join(topics)}",
                found={topic: run.get(topic) for topic in topics},
                allowed={topic: self.run.get(topic) for topic in topics},
                do="name another folder, or delete this one to start anew",
            )
        return Checkpoint(int(path.name[len("step-") : -len(".safetensors")]), tensors, progress)

    def _paths(self) -> list[Path]:
        return sorted(path for path in self.directory.iterdir() if _NAME.fullmatch(path.name))

    def _remove_unfinished(self) -> None:
        shutil.rmtree(self._unfinished, ignore_errors=True)


@final
class PeriodicCheckpoints:
    """Checkpoints of a loop that asks after each step whether one is due.

    Args:
        directory, run: See `Checkpoints`.
        every_s: Seconds from the end of one write to the next.
        every_steps: Steps between two, besides.
    """

    def __init__(self, directory: Path, run: Mapping[str, str], *, every_s: float, every_steps: int | None) -> None:
        self._checkpoints = Checkpoints(directory, run)
        self._every_s, self._every_steps = every_s, every_steps
        self._saved_at, self._saved_step = time.monotonic(), 0

    def is_due(self, step: int) -> bool:
        """Whether the time has come, `step` steps after the training began."""
        late = time.monotonic() - self._saved_at >= self._every_s
        return late or (self._every_steps is not None and step - self._saved_step >= self._every_steps)

    def save(self, checkpoint: Checkpoint) -> None:
        """See `Checkpoints.save`."""
        self._checkpoints.save(checkpoint)
        self._saved_at, self._saved_step = time.monotonic(), checkpoint.step

    def newest(self) -> Checkpoint | None:
        """See `Checkpoints.newest`; the steps to the next one are counted from there."""
        checkpoint = self._checkpoints.newest()
        if checkpoint is not None:
            self._saved_step = checkpoint.step
        return checkpoint


def check_periods(every_s: float, every_steps: int | None) -> None:
    """Refuse a time between checkpoints that is none.

    Raises:
        TrainingError: It is out of range.
    """
    if not every_s >= 0 or (every_steps is not None and every_steps < 1):
        raise TrainingError(
            "the time between checkpoints is out of range",
            found=(every_s, every_steps),
            allowed="checkpoint_every_s ≥ 0, checkpoint_every_steps ≥ 1 or None",
        )


class _DamagedError(Exception):
    """A file that holds no whole checkpoint."""


def _checksum(tensors: Mapping[str, Tensor], *texts: str) -> str:
    checksum = zlib.crc32(repr(texts).encode())
    for name, tensor in sorted(tensors.items()):
        checksum = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), checksum)
        checksum = zlib.crc32(tensor.detach().reshape(-1).view(torch.uint8).numpy().data, checksum)
    return f"{checksum:08x}"


def _flush(path: Path) -> None:
    if path.is_dir() and os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
