"""How long calibrators take to fit ten million points and to calibrate 500: ours, scikit-learn's and netcal's.

The sample is one model's logits, a rare action and a bent truth; weights are 1. The logits are float32 numbers, as a
model gives them, held as float64; an exact isotonic fit of logits with all 53 bits stands beside. Every contender is a
process with one thread, and the contenders of one kind take turns. Fits are compared by CPU time, which is what a quiet
machine's clock would show of one thread. What a fit takes includes all checks of the sample. Brier scores are those on
a million fresh points. "sort + pool" is NumPy's sort of the logits alone, without the labels that have to move along,
and our pass over rows that stand in order; "argsort" is NumPy's.

    python benchmarks/calibration_speed.py [--json FILE] [--without-peers] [--points N] [--rounds N]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from contenders.environment import python_of
from contenders.findings import Findings
from contenders.turns import Contender, Figures, take_turns

BATCH, LAYER_BATCH = 500, 100_000
OURS, PEER = "rankwell_calibration", "netcal_calibration"


def sample_files(folder: Path, num_points: int) -> dict[str, str]:
    """Logits and labels of a fit and of a fresh sample, as files."""
    files = {}
    for which, num, seed in (("", num_points, 0), ("fresh ", 10**6, 1)):
        rng = np.random.default_rng(seed)
        logits_C = rng.normal(-3.0, 1.5, num)
        if not which:
            files["all bits"] = str(folder / "all-bits.npy")
            np.save(files["all bits"], logits_C)
        logits_C = logits_C.astype(np.float32).astype(np.float64)
        true_C = 0.8 * logits_C - 0.3 + 0.4 * np.tanh(logits_C + 3.0)
        columns = {"logits": logits_C, "labels": (rng.random(num) < 1 / (1 + np.exp(-true_C))).astype(np.float64)}
        for name, column_C in columns.items():
            path = folder / f"{which}{name}.npy".replace(" ", "-")
            np.save(path, column_C)
            files[which + name] = str(path)
    return files


def compare(
    asked: dict[str, str], methods: Sequence[tuple[str, str]], *, task: str, batch: int, rounds: int, num_steps: int
) -> dict[str, Figures]:
    """Let the methods (module, method) take turns."""
    contenders = []
    for module, method in methods:
        python = python_of("netcal") if module == PEER else None
        settings = {**asked, "task": task, "method": method, "batch": batch}
        contenders.append(
            Contender(f"{method}, ours" if module == OURS else method, module, settings, threads=1, python=python)
        )
    return take_turns(contenders, rounds=rounds, num_steps=num_steps, warm_up=num_steps)


def fits(findings: Findings, asked: dict[str, str], given: argparse.Namespace) -> None:
    """Fits on all points, kind by kind."""
    kinds: dict[str, list[tuple[str, str]]] = {
        "isotonic": [(OURS, method) for method in ("isotonic", "isotonic of all bits", "binned isotonic", "pool")],
        "lines": [(OURS, "Platt"), (OURS, "Platt of a pane"), (OURS, "beta"), (OURS, "beta of a pane")],
    }
    if not given.without_peers:
        kinds["isotonic"] += [
            (PEER, method) for method in ("sort", "argsort", "scikit-learn isotonic", "netcal isotonic")
        ]
        kinds["lines"] += [(PEER, method) for method in ("scikit-learn Platt", "netcal Platt", "netcal beta")]
    found: dict[str, Figures] = {}
    for methods in kinds.values():
        found |= compare(asked, methods, task="fit", batch=0, rounds=given.rounds, num_steps=1)
    for name, figures in found.items():
        findings.add(f"fit/{name}", figures.cpu_ms / 1000, "s")
        findings.add(f"fit/{name}/wall", figures.wall_ms / 1000, "s")
        if "brier" in figures.facts:
            findings.add(f"fit/{name}/Brier", figures.facts["brier"])
    gap = found["binned isotonic, ours"].facts["brier"] - found["isotonic, ours"].facts["brier"]
    findings.add("binned isotonic: Brier above the exact one's", gap, at_most=1e-5)
    if given.without_peers:
        return
    cpu = {name: figures.cpu_ms for name, figures in found.items()}
    pool = cpu["pool, ours"]
    findings.add("exact isotonic / (sort + pool)", cpu["isotonic, ours"] / (cpu["sort"] + pool), at_most=2)
    of_all_bits = cpu["isotonic of all bits, ours"] / (cpu["sort"] + pool)
    findings.add("exact isotonic of all bits / (sort + pool)", of_all_bits)
    findings.add("exact isotonic / (argsort + pool)", cpu["isotonic, ours"] / (cpu["argsort"] + pool))
    findings.add("binned isotonic / argsort", cpu["binned isotonic, ours"] / cpu["argsort"], at_most=1)
    for peer in ("scikit-learn", "netcal"):
        findings.add(f"{peer}'s isotonic / exact", cpu[f"{peer} isotonic"] / cpu["isotonic, ours"])
        findings.add(f"{peer}'s Platt / ours on rows", cpu[f"{peer} Platt"] / cpu["Platt, ours"], at_least=10)
        findings.add(f"{peer}'s Platt / ours on a pane", cpu[f"{peer} Platt"] / cpu["Platt of a pane, ours"])
    findings.add("netcal's beta / ours on rows", cpu["netcal beta"] / cpu["beta, ours"])


def calls(findings: Findings, asked: dict[str, str], given: argparse.Namespace) -> None:
    """A request's logits calibrated, and a batch of the layer."""
    methods = [(OURS, "Platt"), (OURS, "beta"), (OURS, "isotonic")]
    if not given.without_peers:
        methods += [(PEER, "scikit-learn isotonic"), (PEER, "scikit-learn Platt"), (PEER, "netcal isotonic")]
    found = compare(asked, methods, task="calibrate", batch=BATCH, rounds=given.rounds, num_steps=500)
    for name, figures in found.items():
        at_most = 10 if name.endswith("ours") else None
        findings.add(f"{BATCH} logits/{name}", 1000 * figures.wall_ms, "µs", at_most=at_most)
        for part, micros in figures.facts.items():
            findings.add(f"{BATCH} logits/{name}/of it {part}", micros, "µs")
    layer = [(OURS, "isotonic layer")]
    found = compare(asked, layer, task="calibrate", batch=LAYER_BATCH, rounds=given.rounds, num_steps=50)
    findings.add(f"{LAYER_BATCH:,} logits/isotonic layer", found["isotonic layer, ours"].wall_ms, "ms", at_most=3)


def main() -> None:
    """Measure all of it and print it."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--json", type=Path, help="write the numbers to this file")
    arguments.add_argument("--without-peers", action="store_true", help="no scikit-learn and netcal, nor NumPy's sorts")
    arguments.add_argument("--points", type=int, default=10**7, help="to fit on")
    arguments.add_argument("--rounds", type=int, default=3, help="of which the median is printed")
    given = arguments.parse_args()
    findings = Findings(f"calibrators, {given.points:,} points, one thread")
    with tempfile.TemporaryDirectory() as folder:
        asked = sample_files(Path(folder), given.points)
        fits(findings, asked, given)
        calls(findings, asked, given)
    findings.print()
    findings.write(given.json)


if __name__ == "__main__":
    main()
