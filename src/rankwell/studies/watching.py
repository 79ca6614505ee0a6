"""Looking at calibration after every pane: who is accused without a reason, and who is found late.

Letters: G runs, each a segment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
from rich.table import Table

from rankwell.evaluation.calibration_detector import CalibrationDetector
from rankwell.evaluation.calibration_sums import CalibrationSums
from rankwell.evaluation.confidence_sequence import RatioSequence
from rankwell.evaluation.intervals import normal_quantile
from rankwell.studies.chart import Chart, Line, Panel
from rankwell.studies.study import StudyResult

__all__ = ["study_watching"]

_CLICKS: Final = 20.0
_ERROR: Final = 1 / 1.1
_KINDS: Final = ("plain 95 % interval", "10 % off", "confidence sequence", "detector")
_OF_PANE: Final = "10 % off"


def study_watching(
    *, seed: int = 0, num_runs: int = 300, num_panes: int = 2880, say: Callable[[str], None] = lambda _: None
) -> StudyResult:
    """The share of runs that each rule has accused by each pane: while nothing is wrong, and after 10 % are.

    "10 % off" looks at each pane by itself; the plain interval and the confidence sequence at all panes so far; the
    detector promises one false alarm in ten times as many panes as there are.

    Args:
        seed: Of the draws.
        num_runs: Simulated at once.
        num_panes: Of 20 expected clicks each; in the second world they are quiet first.
        say: Told what is going on.
    """
    later = max(num_panes // 4, 1)
    promise = 10 * num_panes
    quiet = _accused(_panes(num_runs, num_panes, 1.0, seed), num_runs, promise)
    worse = _accused(
        (pane for part in ((num_panes, 1.0, seed + 1), (later, _ERROR, seed + 2)) for pane in _panes(num_runs, *part)),
        num_runs, promise, forget_at=num_panes,
    )  # fmt: skip
    say(f"{num_runs} runs of {num_panes:,} panes")
    numbers: dict[str, float] = {}
    table = Table(title=f"runs accused, of {num_runs}; {_CLICKS:.0f} clicks a pane, variance twice that of single ones")
    for heading in ("looked at by", f"right, {num_panes:,} looks", "panes to find 10 %, after as many"):
        table.add_column(heading, justify="left" if heading == "looked at by" else "right")
    for kind in _KINDS:
        false, found = float(quiet[kind][-1]), worse[kind][num_panes:]
        half = np.flatnonzero(found >= 0.5)
        panes = float(half[0] + 1) if len(half) else float("inf")
        numbers |= {f"{kind}/accused though right": false, f"{kind}/panes to find half": panes}
        table.add_row(kind, f"{false:.1%}", f"{panes:,.0f}" if np.isfinite(panes) else f"over {later:,}")
    finding = (
        f"Looked at after each of {num_panes:,} panes, a right model is accused by the plain interval in "
        f'{numbers["plain 95 % interval/accused though right"]:.0%} of runs, and by "10 % off" in '
        f"{numbers['10 % off/accused though right']:.0%}; by the confidence sequence in "
        f"{numbers['confidence sequence/accused though right']:.1%}, by the detector in "
        f"{numbers['detector/accused though right']:.1%}. After so long a quiet the detector finds 10 % in "
        f"{numbers['detector/panes to find half']:,.0f} panes (half of the runs)."
    )
    chart = Chart(
        name="watching",
        title="Looking all the time",
        caption="Runs that were accused at least once. Left: nothing is wrong, and the share should stay low. Right: "
        "observed clicks fall to 1/1.1 of predicted ones at the upright line, after a long quiet; runs that were "
        "accused before it begin anew there.",
        description="Share of runs accused against the pane, for four rules, without and with an error.",
        panels=(_panel("nothing is wrong", quiet, None), _panel("10 % too confident, at last", worse, num_panes)),
    )
    return StudyResult("watching", (table,), finding, numbers, (chart,))


def _panes(num_runs: int, num_panes: int, theta: float, seed: int) -> Iterator[CalibrationSums]:
    """Requests of two expected clicks whose rate varies by a gamma, so that clicks hang together."""
    rng = np.random.default_rng(seed)
    num_requests, predicted = 10, _CLICKS / 10
    for _ in range(num_panes):
        clicks_GQ = rng.poisson(theta * predicted * rng.gamma(2.0, 0.5, (num_runs, num_requests))).astype(np.float64)
        observed_G, all_G = clicks_GQ.sum(axis=1), np.full(num_runs, _CLICKS)
        yield CalibrationSums(
            all_G, observed_G, all_G * predicted, predicted * observed_G, (clicks_GQ**2).sum(axis=1),
            np.full(num_runs, float(num_requests)),
        )  # fmt: skip


def _accused(
    panes: Iterator[CalibrationSums], num_runs: int, promise: int, *, forget_at: int | None = None
) -> dict[str, np.ndarray[tuple[int], np.dtype[np.float64]]]:
    """The share of runs accused so far, after each pane; all begin anew once, at `forget_at`."""
    sequence, detector = RatioSequence(), CalibrationDetector(promise)
    sums, watch = CalibrationSums.nothing(num_runs), detector.started(num_runs)
    ever = {kind: np.zeros(num_runs, bool) for kind in _KINDS}
    shares: dict[str, list[float]] = {kind: [] for kind in _KINDS}
    for number, pane in enumerate(panes):
        if number == forget_at:
            ever = {kind: np.zeros(num_runs, bool) for kind in _KINDS}
            watch.log_evidence_AG[:, detector.alarms(watch)] = -np.inf  # that alarm was dealt with
        sums, watch = sums + pane, detector.after(watch, pane)
        reach_G = normal_quantile(0.95) * np.sqrt(sums.residual_squared(1.0))
        now = {
            "plain 95 % interval": np.abs(sums.observed_G - sums.predicted_G) > reach_G,
            _OF_PANE: np.abs(pane.observed_G / pane.predicted_G - 1) > 0.1,
            "confidence sequence": sequence.excludes_one(sums),
            "detector": detector.alarms(watch),
        }
        for kind in _KINDS:
            ever[kind] |= now[kind]
            shares[kind].append(float(ever[kind].mean()))
    return {kind: np.array(values) for kind, values in shares.items()}


def _panel(title: str, shares: dict[str, np.ndarray[tuple[int], np.dtype[np.float64]]], upright: float | None) -> Panel:
    places = np.unique(np.linspace(0, len(shares[_OF_PANE]) - 1, 300).astype(int))
    return Panel(
        title=title, x_label="panes looked at", y_label="share of runs accused",
        lines=tuple(
            Line(name=kind, x=(places + 1).tolist(), y=shares[kind][places].tolist()) for kind in _KINDS
        ),
        upright=upright,
    )  # fmt: skip
