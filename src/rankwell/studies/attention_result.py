"""What a study of attention found, as tables, charts and a verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, final

import numpy as np
from rich.table import Table

from rankwell.studies.chart import Chart, Line, Panel
from rankwell.studies.list_cost import Pass
from rankwell.studies.study import Gain, StudyResult, gain_of, shown

__all__ = ["ALONE", "KINDS", "LIMITS", "PASSES", "Cost", "Seen", "cost_result", "seen_result"]

PASSES: Final[tuple[Pass, ...]] = ("forward", "training")
KINDS: Final = ("full", "local", "linear")
ALONE: Final = "each alone"
ITSELF, NEAR, MAKE_UP, TRUTH = "limit: itself", "limit: those near", "limit: the make-up", "limit: the truth"
LIMITS: Final = (ITSELF, NEAR, MAKE_UP, TRUTH)
"""What nobody does better than who sees a candidate alone, those near it, or what its whole list is made of."""
_LEFT: Final = 0.8
"""A run whose excess is above this share of that of each alone has not learned to look."""
_PAIRS: Final = (*((kind, ALONE) for kind in KINDS), ("full", "local"), ("full", "linear"), ("local", "linear"))


@final
@dataclass(frozen=True, slots=True)
class Cost:
    """Of one request, by pass: milliseconds of one thread, and MiB at most."""

    ms: Mapping[Pass, float]
    mib: Mapping[Pass, float]


@final
@dataclass(frozen=True, slots=True)
class Seen:
    """What a model, or a limit, is worth on one test log; the excess over the truth's log loss is a model's alone."""

    ndcg: float
    excess: float


def cost_result(costs: Mapping[int, Mapping[str, Cost]], *, width: int, num_heads: int) -> StudyResult:
    """Time and memory by length.

    Args:
        costs: By length, ascending, and kind.
        width, num_heads: Of the layer.
    """
    table = Table(title=f"a request through one layer of width {width}, {num_heads} heads, in one thread")
    for heading in ("candidates", "attention", "forward ms", "training ms", "forward MiB", "training MiB"):
        table.add_column(heading, justify="left" if heading == "attention" else "right")
    numbers: dict[str, float] = {}
    for size, by_kind in costs.items():
        for kind, cost in by_kind.items():
            values = {f"{which}_ms": cost.ms[which] for which in PASSES}
            values |= {f"{which}_mib": cost.mib[which] for which in PASSES}
            table.add_row(f"{size:,}", kind, *(f"{value:.2f}" for value in values.values()))
            numbers |= {f"{kind}/{size}/{name}": value for name, value in values.items()}
    sizes = list(costs)
    low, high = 500 if 500 in costs else sizes[0], sizes[-1]
    grown = {kind: costs[high][kind].ms["training"] / costs[low][kind].ms["training"] for kind in KINDS}
    numbers |= {f"{kind}/training_ms/times_from_{low}_to_{high}": times for kind, times in grown.items()}

    def panel(title: str, unit: str, of: Callable[[Cost], float]) -> Panel:
        lines = tuple(Line(name=kind, x=sizes, y=[of(costs[size][kind]) for size in sizes]) for kind in KINDS)
        return Panel(
            title=title, x_label="candidates", y_label=unit, lines=lines, is_log_x=True, is_log_y=True,
            x_names={float(size): f"{size:,}" for size in sizes},
        )  # fmt: skip

    chart = Chart(
        name="attention-cost",
        title="What it costs that candidates see each other",
        caption="One request through one layer, eager, in one thread; both axes are logarithmic, so that what grows "
        "with the number of candidates alone is as steep everywhere.",
        description="Milliseconds of a forward and a training pass, and memory of training, by the number of "
        "candidates, for full, local and linear attention.",
        panels=(
            panel("Forward", "ms", lambda cost: cost.ms["forward"]),
            panel("Forward and backward", "ms", lambda cost: cost.ms["training"]),
            panel("Memory of training", "MiB at most", lambda cost: cost.mib["training"]),
        ),
    )
    finding = f"Cost: from {low:,} to {high:,} candidates a training pass takes " + ", ".join(
        f"{grown[kind]:.1f}× as long ({kind}: {costs[high][kind].ms['training']:.0f} ms, "
        f"{costs[high][kind].mib['training']:.0f} MiB)"
        for kind in KINDS
    )
    return StudyResult(
        "cost", (table,), f"{finding}. The fused kernel keeps full attention's memory linear.", numbers, (chart,)
    )


def seen_result(found: Mapping[int, Mapping[str, Sequence[Seen]]]) -> StudyResult:
    """nDCG@10 and excess log loss by length, beside what could be had.

    Args:
        found: By length, ascending, and model or limit, one a seed.
    """
    sizes, models = list(found), (ALONE, *KINDS)
    num_seeds = len(found[sizes[0]][ALONE])
    numbers: dict[str, float] = {}
    quality, excess, gains = (
        Table(title=f"nDCG@10 on test by candidates, mean ± sd over {num_seeds} seeds"),
        Table(title="log loss above the truth's, nats"),
        Table(title="nDCG@10 gained, paired by seed, 95 %"),
    )
    for table in (quality, excess, gains):
        table.add_column("")
        for size in sizes:
            table.add_column(f"{size:,}", justify="right")
    for name in (*models, *LIMITS):
        values = {size: [seen.ndcg for seen in found[size][name]] for size in sizes}
        quality.add_row(name, *(shown(of) for of in values.values()), end_section=name == KINDS[-1])
        numbers |= {f"{name}/{size}/ndcg@10": float(np.mean(of)) for size, of in values.items()}
    for name in models:
        values = {size: [seen.excess for seen in found[size][name]] for size in sizes}
        excess.add_row(name, *(shown(of) for of in values.values()))
        numbers |= {f"{name}/{size}/excess_log_loss": float(np.mean(of)) for size, of in values.items()}
    by_pair: dict[tuple[str, str], dict[int, Gain]] = {}
    if num_seeds > 1:
        for pair in _PAIRS:
            by_pair[pair] = {
                size: gain_of(*([seen.ndcg for seen in found[size][name]] for name in pair)) for size in sizes
            }
            gains.add_row(" over ".join(pair), *map(str, by_pair[pair].values()))
            for size, gain in by_pair[pair].items():
                numbers |= {f"{'_over_'.join(pair)}/{size}/{end}": value for end, value in gain.numbers().items()}
    tables = (quality, excess, gains) if by_pair else (quality, excess)
    return StudyResult("seen", tables, _verdict(found, by_pair), numbers, (_chart(found),))


def _verdict(
    found: Mapping[int, Mapping[str, Sequence[Seen]]], by_pair: Mapping[tuple[str, str], Mapping[int, Gain]]
) -> str:
    """What the numbers say; runs that never learned to look at other candidates are counted, and told apart."""
    sizes = list(found)
    looked = {kind: {size: _runs_that_looked(found[size], kind) for size in sizes} for kind in KINDS}
    num_runs = sum(len(found[size][ALONE]) for size in sizes)
    counted = ", ".join(f"{kind} in {sum(map(len, of.values()))}" for kind, of in looked.items())
    best = "; ".join(f"{size:,}: {_in_order(found[size])}" for size in sizes)
    high, limits = sizes[-1], {name: _mean(found[sizes[-1]][name]) for name in LIMITS}
    had = {kind: _told(of[high]) for kind, of in looked.items()}
    lines = [
        f"Seen, nDCG@10, best first: {best}.",
        f"Of {num_runs} runs a kind, candidates learned to look at each other (a log loss nearer to the truth's than "
        f"{_LEFT:.0%} of the way from it to that of each alone): {counted}. The others stayed where each alone is.",
        f"What local attention cannot see is what the whole list is made of; what linear attention blurs is where "
        f"things stand; full attention could see both. In the runs that looked, at {high:,} candidates: local "
        f"{had['local']}, where those near allow {limits[NEAR]:.3f}; linear {had['linear']}, where the list's make-up "
        f"allows {limits[MAKE_UP]:.3f}; full {had['full']}, where the truth has {limits[TRUTH]:.3f}.",
    ]
    if by_pair:
        sure = [
            f"{' over '.join(pair)} at {size:,} ({gain})"
            for pair in _PAIRS[len(KINDS) :]
            for size, gain in by_pair[pair].items()
            if gain.is_sure
        ]
        lines.append("Surely different, all runs counted: " + ("; ".join(sure) or "none") + ".")
    return "\n".join(lines)


def _runs_that_looked(at: Mapping[str, Sequence[Seen]], kind: str) -> list[Seen]:
    return [seen for seen, alone in zip(at[kind], at[ALONE], strict=True) if seen.excess < _LEFT * alone.excess]


def _in_order(at: Mapping[str, Sequence[Seen]]) -> str:
    kinds = sorted((*KINDS, ALONE), key=lambda kind: -_mean(at[kind]))
    return ", ".join(f"{kind} {_mean(at[kind]):.3f}" for kind in kinds)


def _told(runs: Sequence[Seen]) -> str:
    return f"{_mean(runs):.3f}" if runs else "none looked"


def _mean(runs: Sequence[Seen]) -> float:
    return float(np.mean([seen.ndcg for seen in runs]))


def _chart(found: Mapping[int, Mapping[str, Sequence[Seen]]]) -> Chart:
    sizes = list(found)

    ticks = {float(size): f"{size:,}" for size in sizes}

    def mean(name: str, of: Callable[[Seen], float]) -> Line:
        y = [float(np.mean([of(seen) for seen in found[size][name]])) for size in sizes]
        return Line(name=name, x=sizes, y=y, style="dashed" if name in LIMITS else "line")

    def runs(name: str, of: Callable[[Seen], float]) -> Line:
        each = [(size, of(seen)) for size in sizes for seen in found[size][name]]
        return Line(name=name, x=[size for size, _ in each], y=[y for _, y in each], style="dots")

    return Chart(
        name="attention-seen",
        title="What each kind sees",
        caption="Lists in which a click depends on the 25 candidates to each side and on what the whole list is made "
        "of. Left: nDCG@10 of models after as many steps, dots being single runs, and, dashed, the most that can be "
        "had from those near, from the list's make-up, and from all. Right: the log loss above the truth's.",
        description="nDCG@10 and excess log loss by the number of candidates, for candidates each alone and under "
        "full, local and linear attention, beside limits.",
        panels=(
            Panel(
                title="nDCG@10", x_label="candidates", y_label="nDCG@10", is_log_x=True, x_names=ticks,
                lines=(
                    *(mean(name, lambda seen: seen.ndcg) for name in (*KINDS, ALONE, NEAR, MAKE_UP, TRUTH)),
                    *(runs(name, lambda seen: seen.ndcg) for name in KINDS),
                ),
            ),
            Panel(
                title="Above the truth's log loss", x_label="candidates", y_label="nats", is_log_x=True, x_names=ticks,
                lines=(
                    *(mean(name, lambda seen: seen.excess) for name in (*KINDS, ALONE)),
                    *(runs(name, lambda seen: seen.excess) for name in KINDS),
                ),
            ),
        ),
    )  # fmt: skip
