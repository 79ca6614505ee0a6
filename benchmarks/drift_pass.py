"""What it takes to count columns for drift: one read of them, beside a plain sum, and beside Evidently's PSI.

Columns are float32, normal, of several scales. Each contender is a process with one thread; ours take turns, and are
compared by CPU time. The sum is NumPy's, column by column. The pass gives counts in 16 bins of the reference's
quantiles, what is missing, and the sums that mean and variance are made of. "pane and PSI" is the pane of a minute of
rows and the PSI of all columns against a pane of the reference, which is counted beforehand; "pane by segment" that of
15 minutes and 8 segments in mixed order, whose rows are gathered first. Evidently's preset reads both samples, and
makes the data that its reports are drawn from besides.

    python benchmarks/drift_pass.py [--json FILE] [--without-peers] [--rows N] [--columns N] [--rounds N]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from contenders.environment import python_of
from contenders.findings import Findings
from contenders.turns import Contender, Figures, take_turns

OURS = ("sum", "pass", "searchsorted", "pane and PSI", "pane by segment")


def main() -> None:
    """Measure all of it and print it."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--json", type=Path, help="write the numbers to this file")
    arguments.add_argument("--without-peers", action="store_true", help="no Evidently")
    arguments.add_argument("--rows", type=int, default=10**6, help="of the reference, and of what is compared to it")
    arguments.add_argument("--columns", type=int, default=20, help="of float32")
    arguments.add_argument("--rounds", type=int, default=7, help="of which the median is printed")
    given = arguments.parse_args()
    asked = {"rows": given.rows, "columns": given.columns}
    contenders = [Contender(name, "rankwell_panes", {**asked, "method": name}, threads=1) for name in OURS]
    found: dict[str, Figures] = take_turns(contenders, rounds=given.rounds, num_steps=5, warm_up=2)
    findings = Findings(f"counting {given.rows:,} rows × {given.columns} columns, one thread")
    for name, figures in found.items():
        findings.add(name, figures.cpu_ms, "ms")
        findings.add(f"{name}/wall", figures.wall_ms, "ms")
    findings.add("pass / sum", found["pass"].cpu_ms / found["sum"].cpu_ms, at_most=3)
    findings.add("pane and PSI / sum", found["pane and PSI"].cpu_ms / found["sum"].cpu_ms)
    findings.add("searchsorted / pass", found["searchsorted"].cpu_ms / found["pass"].cpu_ms)
    findings.add("one outlier of 1e6 moves a PSI by", found["pane and PSI"].facts["outlier"], at_most=0.001)
    if not given.without_peers:
        peer = Contender("Evidently", "evidently_psi", asked, threads=1, python=python_of("evidently"))
        peer.round(1)
        figures = peer.figures()
        peer.leave()
        findings.add("Evidently's preset", figures.cpu_ms, "ms")
        findings.add("Evidently's preset/wall", figures.wall_ms, "ms")
        findings.add("Evidently's preset / pane and PSI", figures.cpu_ms / found["pane and PSI"].cpu_ms, at_least=1000)
        findings.add("one outlier of 1e6 moves Evidently's PSI by", figures.facts["outlier"])
        findings.add("Evidently's PSI without it", figures.facts["psi"])
    findings.print()
    findings.write(given.json)


if __name__ == "__main__":
    main()
