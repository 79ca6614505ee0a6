"""Runs SQL as a job of Apache Flink's, in this process and its Java: for `flink_panes.py`.

    python benchmarks/contenders/flink_sql.py STATEMENTS CHECKPOINTS [--every MS] [--from CHECKPOINT] [--parallelism N]

STATEMENTS is a file with a JSON list. Checkpoints of a job that is killed stay, and a later one begins from one of
them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from pyflink.common import Configuration
from pyflink.table import EnvironmentSettings, TableEnvironment

__all__: list[str] = []


def main() -> None:
    """Run the statements, and wait for the end of the last."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("statements", type=Path)
    arguments.add_argument("checkpoints", type=Path)
    arguments.add_argument("--every", type=int, default=500, help="milliseconds between checkpoints")
    arguments.add_argument("--from", dest="restored", type=Path, help="the checkpoint to begin from")
    arguments.add_argument("--parallelism", type=int, default=1)
    given = arguments.parse_args()
    settings = {
        "parallelism.default": str(given.parallelism),
        "execution.checkpointing.interval": f"{given.every} ms",
        "execution.checkpointing.dir": f"file://{given.checkpoints.resolve()}",
        "execution.checkpointing.externalized-checkpoint-retention": "RETAIN_ON_CANCELLATION",
        "execution.checkpointing.num-retained": "3",
    }
    if given.restored is not None:
        settings["execution.state-recovery.path"] = f"file://{given.restored.resolve()}"
    configuration = Configuration()
    for name, value in settings.items():
        configuration.set_string(name, value)
    table_environment = TableEnvironment.create(
        EnvironmentSettings.new_instance().in_streaming_mode().with_configuration(configuration).build()
    )
    for statement in json.loads(given.statements.read_text()):
        result = table_environment.execute_sql(statement)
    result.wait()


if __name__ == "__main__":
    main()
