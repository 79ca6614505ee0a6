"""The command's way in: settings that must stand before torch is loaded."""

from __future__ import annotations

import os

__all__ = ["main"]


def main() -> None:
    """Run the command line."""
    # Where cores are shared, threads that spin while they wait for each other burn several times the work itself.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # The profiler, by which a study counts memory, tells standard error of every start and stop.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    from rankwell.app.command_line import main as run

    run()
