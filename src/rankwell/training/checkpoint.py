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
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from rankwell.errors import CheckpointError, RankwellWarning, TrainingError
from rankwell.tables.table import Table
from rankwell.training.row_files import RowFile, put_rows, why_damaged, write_rows

__all__ = ["Checkpoint", "Checkpoints", "PeriodicCheckpoints", "check_periods"]

_FORMAT: Final = "2"
_NAME: Final = re.compile(r"step-(\d{12})\.safetensors")
_ROWS: Final = re.compile(r"rows-(\d{12})\.bin")
_NUM_KEPT: Final = 2
_MOST_FILES: Final = 64  # of rows, that a checkpoint is made of


@final
@dataclass(frozen=True, slots=True)
class Checkpoint:
    """All of a training between two of its steps.

    Args:
        step: How many steps were taken.
        tensors: By flat name; no two share memory.
        progress: The rest; must survive JSON.
        rows: Files of the tables' rows, the oldest first; set by whoever writes and reads checkpoints.
        written_at: When it was written; likewise.
    """

    step: int
    tensors: Mapping[str, Tensor]
    progress: Mapping[str, Any]
    rows: tuple[RowFile, ...] = ()
    written_at: datetime | None = None


@final
class Checkpoints:
    """A folder of checkpoints of one run; each appears whole or not at all, and the two newest are kept.

    The rows of tables, which may be larger than memory, stand in files of their own: one has them all, those after it
    what has changed since. The checkpoint itself names them with their checksums, and is written last. When those after
    would come to more bytes than the one with all rows, the next has all rows again: so no checkpoint writes more than
    all rows, and reading one reads at most twice as much. Files that no checkpoint names are deleted.

    What a write that was killed has left is removed when the folder is opened.

    Args:
        directory: Made where it isn't there.
        run: What identifies the run, by topic; a checkpoint whose run differs in any topic is refused.
        tables: Whose rows are saved, by part.

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

    def __init__(self, directory: Path, run: Mapping[str, str], tables: Mapping[str, Table] | None = None) -> None:
        self.directory, self.run, self.tables = directory, dict(run), dict(tables or {})
        self._unfinished = directory / ".unfinished"
        self._rows: tuple[RowFile, ...] = ()  # what the tables' rows were when they were last taken; none if unknown
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._remove_unfinished()
            self._remove_unnamed_rows()
        except OSError as error:
            raise CheckpointError(
                f"no checkpoints can be kept in {directory}",
                found=str(error),
                do="name a folder that can be written to",
            ) from error

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write apart, flush to disk, rename into place, flush the folder; then drop all but the two newest.

        Of the tables nothing may be lent.

        Returns:
            The file.

        Raises:
            CheckpointError: It could not be written; nothing of it stays, and the earlier ones are whole.
        """
        path = self.directory / f"step-{checkpoint.step:012d}.safetensors"
        tensors = {name: tensor.contiguous() for name, tensor in checkpoint.tensors.items()}
        try:
            self._unfinished.mkdir(exist_ok=True)
            rows = self._write_rows()
            texts = {
                "run": json.dumps(self.run),
                "progress": json.dumps(dict(checkpoint.progress)),
                "rows": json.dumps([asdict(file) for file in rows]),
                "written_at": datetime.now(UTC).isoformat(timespec="seconds"),
            }
            notes = {"format": _FORMAT, **texts, "crc32": _checksum(tensors, texts)}
            written = self._unfinished / path.name
            save_file(tensors, written, metadata=notes)
            _flush(written)
            written.replace(path)
            _flush(self.directory)
        except (OSError, SafetensorError) as error:
            self._remove_unnamed_rows()
            raise CheckpointError(
                f"could not write checkpoint {path.name} into {self.directory}", found=str(error),
                do="free disk space or name another folder; earlier checkpoints are whole",
            ) from error  # fmt: skip
        finally:
            self._remove_unfinished()
        self._rows = rows
        for old in self._paths()[:-_NUM_KEPT]:
            old.unlink(missing_ok=True)
        self._remove_unnamed_rows()
        return path

    def put_rows(self, checkpoint: Checkpoint) -> None:
        """Have the tables hold the rows that they held at a checkpoint, which `newest` gave.

        Raises:
            CheckpointError: The rows do not fit the tables.
            TrainingError: The tables have no room for them.
        """
        self._rows = ()
        put_rows([self.directory / file.name for file in checkpoint.rows], self.tables)
        for table in self.tables.values():
            table.track_removed(on=True)
        self._rows = checkpoint.rows

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
                self._remove_unnamed_rows()
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
        for path in (*self._paths(), *self._row_paths()):
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
        texts = {name: notes.get(name, "") for name in ("run", "progress", "rows", "written_at")}
        if notes.get("crc32") != _checksum(tensors, texts):
            raise _DamagedError("its content doesn't match its checksum")
        run, progress = json.loads(texts["run"]), json.loads(texts["progress"])
        if run != self.run:
            topics = sorted(topic for topic in {*run, *self.run} if run.get(topic) != self.run.get(topic))
            raise CheckpointError(
                f"checkpoint {path} belongs to another run: they differ in {', '.join(topics)}",
                found={topic: run.get(topic) for topic in topics},
                allowed={topic: self.run.get(topic) for topic in topics},
                do="name another folder, or delete this one to start anew",
            )
        rows = _row_files(texts["rows"])
        try:
            wrong = [why for file in rows if (why := why_damaged(self.directory, file))]
        except OSError as error:
            raise CheckpointError(f"the rows of checkpoint {path} cannot be read", found=str(error)) from error
        if wrong:
            raise _DamagedError("; ".join(wrong))
        step = int(path.name[len("step-") : -len(".safetensors")])
        return Checkpoint(step, tensors, progress, rows, datetime.fromisoformat(texts["written_at"]))

    def _write_rows(self) -> tuple[RowFile, ...]:
        """All files of rows that the next checkpoint is made of, the new one in place."""
        if not self.tables:
            return ()
        before, self._rows = self._rows, ()  # where this fails, who knows which rows still count as changed
        for table in self.tables.values():
            table.track_removed(on=True)
        first, *others = before or (RowFile("", 0, 0),)
        likely = sum(file.num_bytes for file in others) + (others[-1].num_bytes if others else 0)
        only_changed = bool(before) and likely <= first.num_bytes and len(before) < _MOST_FILES
        number = max((int(path.stem[len("rows-") :]) for path in self._row_paths()), default=0) + 1
        name = f"rows-{number:012d}.bin"
        file = write_rows(self._unfinished / name, self.tables, only_changed=only_changed)
        (self._unfinished / name).replace(self.directory / name)
        _flush(self.directory)
        return (*before, file) if only_changed else (file,)

    def _paths(self) -> list[Path]:
        return sorted(path for path in self.directory.iterdir() if _NAME.fullmatch(path.name))

    def _row_paths(self) -> list[Path]:
        return [path for path in self.directory.iterdir() if _ROWS.fullmatch(path.name)]

    def _remove_unnamed_rows(self) -> None:
        """Files of rows that no checkpoint names; none where a checkpoint doesn't say which it names."""
        named: set[str] = set()
        for path in self._paths():
            try:
                with safe_open(path, framework="pt") as file:
                    named |= {rows.name for rows in _row_files((file.metadata() or {})["rows"])}
            except (SafetensorError, OSError, ValueError, KeyError, TypeError):
                return
        for path in self._row_paths():
            if path.name not in named:
                path.unlink(missing_ok=True)

    def _remove_unfinished(self) -> None:
        shutil.rmtree(self._unfinished, ignore_errors=True)


@final
class PeriodicCheckpoints:
    """Checkpoints of a loop that asks after each step whether one is due.

    Args:
        directory, run, tables: See `Checkpoints`.
        every_s: Seconds from the end of one write to the next.
        every_steps: Steps between two, besides.
    """

    def __init__(
        self,
        directory: Path,
        run: Mapping[str, str],
        tables: Mapping[str, Table],
        *,
        every_s: float,
        every_steps: int | None,
    ) -> None:
        self._checkpoints = Checkpoints(directory, run, tables)
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

    def go_on(self) -> Checkpoint | None:
        """See `Checkpoints.newest`; the tables hold its rows, and the steps to the next one are counted from there."""
        checkpoint = self._checkpoints.newest()
        if checkpoint is not None:
            self._checkpoints.put_rows(checkpoint)
            self._saved_at, self._saved_step = time.monotonic(), checkpoint.step
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


def _row_files(text: str) -> tuple[RowFile, ...]:
    return tuple(RowFile(**file) for file in json.loads(text))


def _checksum(tensors: Mapping[str, Tensor], texts: Mapping[str, str]) -> str:
    checksum = zlib.crc32(repr(sorted(texts.items())).encode())
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
