"""Snapshots of a training from which it goes on bit-equal."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from rankwell.errors import CheckpointError

__all__ = ["Checkpoint", "Checkpoints"]

_FORMAT: Final = "1"
_NAME: Final = re.compile(r"step-(\d{12})\.safetensors")


@final
@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Tensors by flat name, and the rest as JSON."""

    step: int
    tensors: Mapping[str, Tensor]
    progress: Mapping[str, Any]


@final
class Checkpoints:
    """A folder of checkpoints of one run; each appears whole or not at all, and the two newest are kept.

    Args:
        directory: Made where it isn't there.
        run: What identifies the run (recipe, seed, settings); a checkpoint of another run is refused.
    """

    def __init__(self, directory: Path, run: str) -> None:
        self.directory, self.run = directory, run
        directory.mkdir(parents=True, exist_ok=True)

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write under a temporary name, flush to disk, rename; then drop all but the two newest."""
        path = self.directory / f"step-{checkpoint.step:012d}.safetensors"
        unfinished = path.with_suffix(".unfinished")
        tensors = {name: tensor.contiguous() for name, tensor in checkpoint.tensors.items()}
        notes = {"format": _FORMAT, "run": self.run, "progress": json.dumps(dict(checkpoint.progress))}
        try:
            save_file(tensors, unfinished, metadata=notes)
            with unfinished.open("rb") as file:
                os.fsync(file.fileno())
            unfinished.replace(path)
        except (OSError, SafetensorError) as error:
            unfinished.unlink(missing_ok=True)
            raise CheckpointError(
                f"could not write checkpoint {path.name} into {self.directory}", found=str(error),
                do="free disk space or name another folder; earlier checkpoints are whole",
            ) from error  # fmt: skip
        for old in self._paths()[:-2]:
            old.unlink()
        return path

    def newest(self) -> Checkpoint | None:
        """The newest whole checkpoint, or None where there is none.

        Raises:
            CheckpointError: It is damaged, of another format, or of another run.
        """
        paths = self._paths()
        if not paths:
            return None
        path = paths[-1]
        try:
            with safe_open(path, framework="pt") as file:
                notes = file.metadata() or {}
            tensors = load_file(path)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"checkpoint {path} is damaged", found=str(error), do="delete it: the one before it will be used"
            ) from error
        if notes.get("format") != _FORMAT:
            raise CheckpointError(
                f"checkpoint {path} has an unknown format", found=notes.get("format"), allowed=_FORMAT,
                do="go on with the version of rankwell that wrote it",
            )  # fmt: skip
        if notes.get("run") != self.run:
            raise CheckpointError(
                f"checkpoint {path} belongs to another run", found=notes.get("run"), allowed=self.run,
                do="name another folder, or delete this one to start anew",
            )  # fmt: skip
        match = _NAME.fullmatch(path.name)
        assert match is not None
        return Checkpoint(int(match[1]), tensors, json.loads(notes["progress"]))

    def clear(self) -> None:
        """Delete all checkpoints: the run is over."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def _paths(self) -> list[Path]:
        return sorted(path for path in self.directory.iterdir() if _NAME.fullmatch(path.name))
