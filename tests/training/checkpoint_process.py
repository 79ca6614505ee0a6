"""Writes a checkpoint, and is killed by the kernel in the middle of the next: ``checkpoint_process.py FOLDER``."""

from __future__ import annotations

import resource
import signal
import sys
from pathlib import Path

import torch

from rankwell.training.checkpoint import Checkpoint, Checkpoints

if __name__ == "__main__":
    checkpoints = Checkpoints(Path(sys.argv[1]), {"seed": "0"})
    checkpoints.save(Checkpoint(1, {"rows": torch.ones(3, 2)}, {}))
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it; by default it kills
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    checkpoints.save(Checkpoint(2, {"rows": torch.ones(30_000, 2)}, {}))
