"""A job of Flink's in a process of its own, that can be killed and go on from its newest checkpoint."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Final, Self, final

from contenders.environment import python_of
from rankwell.monitoring.flink_job import FlinkJob

__all__ = ["NO_FLINK", "FlinkRun", "flink_python"]

NO_FLINK: Final = (
    "nothing to measure with Flink: it needs Java 11 or 17 (on Debian: apt-get install openjdk-17-jre-headless) and "
    "the packages of benchmarks/contenders/flink.txt"
)
_SCRIPT: Final = Path(__file__).with_name("flink_sql.py")


def flink_python() -> Path | None:
    """The interpreter of Flink's environment; None where there is no Java, or the packages can't be had."""
    if shutil.which("java") is None and "JAVA_HOME" not in os.environ:
        return None
    try:
        return python_of("flink")
    except subprocess.CalledProcessError:
        return None


@final
class FlinkRun:
    """One job over files, in as many processes, one after the other, as it takes; none outlives a `with` block.

    Args:
        python: As `flink_python` gives it.
        job: What to count.
        folder: For its statements, its log and its checkpoints.
        every_ms: Between checkpoints.
        parallelism: Of every operator.
    """

    def __init__(self, python: Path, job: FlinkJob, folder: Path, *, every_ms: int = 250, parallelism: int = 1) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._checkpoints, self._log = folder / "checkpoints", folder / "log"
        statements = folder / "statements.json"
        statements.write_text(json.dumps(job.statements()))
        self._command = [
            str(python), str(_SCRIPT), str(statements), str(self._checkpoints),
            "--every", str(every_ms), "--parallelism", str(parallelism),
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.is_running():
            self.kill()

    def start(self) -> None:
        """From its newest checkpoint, or from the beginning."""
        newest = self.newest_checkpoint()
        restored = [] if newest is None else ["--from", str(newest)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._command, *restored], stdout=log, stderr=log, start_new_session=True
            )

    def is_running(self) -> bool:
        """Whether it has not come to its end."""
        return self._process is not None and self._process.poll() is None

    def wait(self) -> None:
        """For its end.

        Raises:
            RuntimeError: The job failed.
        """
        assert self._process is not None
        if self._process.wait():
            raise RuntimeError("Flink's job failed:\n" + self._log.read_text(errors="replace")[-4000:])

    def kill(self) -> None:
        """Python and Java, at once."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def newest_checkpoint(self) -> Path | None:
        """The last one that is whole."""
        whole = list(self._checkpoints.glob("*/chk-*/_metadata"))
        return max(whole, key=lambda path: path.stat().st_mtime_ns).parent if whole else None

    def run(self) -> float:
        """From beginning to end; the seconds that took."""
        started = time.perf_counter()
        self.start()
        self.wait()
        return time.perf_counter() - started
