"""Which calibrator for what: distortions that are known, samples of several sizes, and the truth to judge by.

Letters: C candidates, flat · S seeds, or segment columns where after C.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, final

import numpy as np
import torch
from rich.table import Table
from torch import Tensor

from rankwell.calibration.beta import fit_beta
from rankwell.calibration.binned_isotonic import fit_binned_isotonic
from rankwell.calibration.calibrator import Calibrator
from rankwell.calibration.histogram import fit_histogram
from rankwell.calibration.isotonic import fit_isotonic
from rankwell.calibration.multicalibration import fit_multicalibrated
from rankwell.calibration.platt import fit_platt
from rankwell.calibration.segment_tree import fit_segment_tree
from rankwell.calibration.temperature import fit_temperature
from rankwell.calibration.uncalibrated import fit_uncalibrated
from rankwell.studies.chart import Chart, Line, Panel
from rankwell.studies.study import StudyResult

__all__ = ["study_calibrator_choice"]

Fit = Callable[[Tensor, Tensor, Tensor, Tensor], Calibrator]

_FITS: Final[Mapping[str, Fit]] = {
    "uncalibrated": fit_uncalibrated,
    "temperature": fit_temperature,
    "Platt": fit_platt,
    "beta": fit_beta,
    "isotonic": fit_isotonic,
    "binned isotonic": fit_binned_isotonic,
    "histogram": fit_histogram,
    "segment tree": fit_segment_tree,
    "multicalibrated": fit_multicalibrated,
}
_DRAWN: Final = ("Platt", "beta", "isotonic", "histogram", "segment tree", "multicalibrated")
_NUM_FRESH: Final = 100_000
_NUM_LEVELS: Final = 4
_NUM_PLACES: Final = 30

Distort = Callable[[Tensor, Tensor], Tensor]
"""True log-odds and segments to the logits of a model that is off."""


@final
@dataclass(frozen=True, slots=True)
class _Sample:
    logits_C: Tensor
    true_C: Tensor
    labels_C: Tensor
    segments_CS: Tensor


def _segment_offsets(true_C: Tensor, segments_CS: Tensor) -> Tensor:
    """Job levels are off by one amount each, places within a level by another, and half of the places are rare."""
    of_level = torch.tensor([0.5, 0.0, -0.3, 0.2], dtype=torch.float64)
    of_place = 0.4 * torch.sin(1.7 * torch.arange(_NUM_PLACES, dtype=torch.float64))
    return true_C + of_level[segments_CS[:, 0]] + of_place[segments_CS[:, 1]]


_DISTORTIONS: Final[Mapping[str, Distort]] = {
    "none": lambda true_C, _: true_C,
    "slope": lambda true_C, _: 1.7 * true_C,
    "offset": lambda true_C, _: true_C + 0.7,
    "shape": lambda true_C, _: true_C + 1.2 * torch.tanh(true_C + 3) + 0.05 * (true_C + 3) ** 3,
    "segments": _segment_offsets,
}


def _drawn(num: int, distort: Distort, seed: int) -> _Sample:
    generator = torch.Generator().manual_seed(seed)
    level_C = torch.randint(_NUM_LEVELS, (num,), generator=generator)
    place_C = (_NUM_PLACES * torch.rand(num, generator=generator) ** 2).long()  # the first are common, the last rare
    segments_CS = torch.stack([level_C, place_C], dim=1)
    true_C = -3 + 1.2 * torch.randn(num, generator=generator, dtype=torch.float64)
    labels_C = (torch.rand(num, generator=generator, dtype=torch.float64) < torch.sigmoid(true_C)).double()
    return _Sample(distort(true_C, segments_CS), true_C, labels_C, segments_CS)


def study_calibrator_choice(
    *,
    seeds: Sequence[int],
    sizes: Sequence[int] = (1_000, 4_000, 16_000, 64_000, 256_000),
    say: Callable[[str], None] = lambda _: None,
) -> StudyResult:
    """Nats lost to the truth on fresh candidates, by distortion, calibrator and size of the sample.

    ``E[p·ln(p/p̂) + (1 − p)·ln((1 − p)/(1 − p̂))]`` over 100,000 fresh candidates of known p: no chance of labels is in
    it but that of the sample fitted on.

    Args:
        seeds: One sample to fit and one to judge by each.
        sizes: Of the sample, ascending.
        say: Told what is going on.
    """
    nats: dict[tuple[str, str, int], float] = {}
    worst: dict[str, float] = {}
    for name, distort in _DISTORTIONS.items():
        for size in sizes:
            losses: dict[str, list[float]] = {}
            ratios: dict[str, list[float]] = {}
            for seed in seeds:
                sample, fresh = (_drawn(num, distort, 2 * seed + i) for i, num in enumerate((size, _NUM_FRESH)))
                for kind, fit in _FITS.items():
                    fitted = fit(sample.logits_C, sample.labels_C, torch.ones(size), sample.segments_CS)
                    log_odds_C = fitted.calibrated_logits(fresh.logits_C, fresh.segments_CS)
                    losses.setdefault(kind, []).append(_lost(fresh.true_C, log_odds_C))
                    ratios.setdefault(kind, []).append(_worst_segment(fresh, log_odds_C))
            for kind in _FITS:
                nats[name, kind, size] = float(np.mean(losses[kind]))
                worst[kind] = float(np.mean(ratios[kind]))  # of the last: segments, the largest size
        say(f"{name}: {len(sizes)} sizes")
    numbers = {f"{name}/{kind}/{size} rows/nats": value for (name, kind, size), value in nats.items()}
    numbers |= {f"segments/{kind}/{sizes[-1]} rows/worst segment": value for kind, value in worst.items()}
    middle = sizes[len(sizes) // 2]
    table = Table(title=f"10⁻⁴ nats lost to the truth, fitted on {middle:,} rows ({len(seeds)} seeds)")
    for heading in ("calibrator", *_DISTORTIONS, f"worst segment, {sizes[-1]:,} rows"):
        table.add_column(heading, justify="left" if heading == "calibrator" else "right")
    for kind in _FITS:
        cells = [f"{1e4 * nats[name, kind, middle]:.1f}" for name in _DISTORTIONS]
        table.add_row(kind, *cells, f"{worst[kind]:.3f}")
    best = {name: min(_FITS, key=lambda kind: nats[name, kind, middle]) for name in _DISTORTIONS}
    finding = (
        f"With {middle:,} rows the least is lost by "
        + ", ".join(f"{kind} where there is {_said(name)}" for name, kind in best.items())
        + f". Nothing wrong costs isotonic {1e4 * nats['none', 'isotonic', middle]:.1f}·10⁻⁴ nats and a line "
        f"{1e4 * nats['none', 'Platt', middle]:.1f}. The worst of {_NUM_LEVELS} levels and {_NUM_PLACES} places is off "
        f"by a factor of {worst['Platt']:.2f} under one line for all, of {worst['segment tree']:.2f} under the tree "
        f"and of {worst['multicalibrated']:.2f} multicalibrated."
    )
    return StudyResult("choice", (table,), finding, numbers, (_chart(nats, sizes),))


def _said(name: str) -> str:
    return {"none": "nothing wrong", "segments": "an error of segments"}.get(name, f"an error of {name}")


def _lost(true_C: Tensor, log_odds_C: Tensor) -> float:
    p_C = torch.sigmoid(true_C)
    softplus = torch.nn.functional.softplus
    return float((p_C * (true_C - log_odds_C) - softplus(true_C) + softplus(log_odds_C)).mean())


def _worst_segment(fresh: _Sample, log_odds_C: Tensor) -> float:
    """max(r, 1/r) of predicted over true, over the values of both columns."""
    found = 1.0
    for segment_C in fresh.segments_CS.T:
        predicted = torch.bincount(segment_C, torch.sigmoid(log_odds_C))
        true = torch.bincount(segment_C, torch.sigmoid(fresh.true_C))
        ratios = predicted / true
        found = max(found, float(ratios.max()), float((1 / ratios).max()))
    return found


def _chart(nats: Mapping[tuple[str, str, int], float], sizes: Sequence[int]) -> Chart:
    panels = tuple(
        Panel(
            title=name,
            x_label="rows fitted on",
            y_label="nats lost to the truth",
            lines=tuple(Line(name=kind, x=sizes, y=[nats[name, kind, size] for size in sizes]) for kind in _DRAWN),
            is_log_x=True,
            is_log_y=True,
        )
        for name in ("slope", "shape", "segments")
    )
    return Chart(
        name="choice",
        title="Which calibrator for what",
        caption="What a calibrated probability still costs beyond the true one. Left: logits 1.7 times too large. "
        "Middle: bent. Right: off by job level and place. A line that fits the error wins with few rows; one that "
        "cannot fit it stays where it is, however many there are.",
        description="Nats lost against sample size for six calibrators and three distortions.",
        panels=panels,
    )
