"""What a study of depths found, as tables, a chart and a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, final

import numpy as np
from rich.table import Table

from rankwell.studies.chart import Chart, Line, Panel
from rankwell.studies.study import Gain, StudyResult, gain_of, shown

__all__ = [
    "CONDITIONS",
    "DEPTHS",
    "FLIPPED",
    "HIDDEN",
    "PARAMETER_PARTS",
    "PERCENTILES",
    "PLAIN",
    "Depth",
    "Outcome",
    "depth_result",
]

PLAIN: Final = "as it is"
HIDDEN: Final = "experience removed"
FLIPPED: Final = "labels flipped"
CONDITIONS: Final = (PLAIN, HIDDEN, FLIPPED)
PERCENTILES: Final = (50, 95, 99)
PARAMETER_PARTS: Final = ("positions", "attention", "feed-forward", "heads", "rest")


@final
@dataclass(frozen=True, slots=True)
class Depth:
    """A history encoder's depth.

    Args:
        num_layers: That an event passes through.
        is_shared: Whether they are one and the same.
    """

    num_layers: int
    is_shared: bool = False

    @property
    def name(self) -> str:
        """As tables have it."""
        return f"{self.num_layers}, shared" if self.is_shared else str(self.num_layers)


DEPTHS: Final = (Depth(0), Depth(1), Depth(2), Depth(4), Depth(12), Depth(4, True), Depth(12, True))
_ONE, _DEEPEST = Depth(1).name, Depth(12).name


@final
@dataclass(frozen=True, slots=True)
class Outcome:
    """What a model is worth on test, calibrated, and what it had on train in its last epoch, with dropout."""

    log_loss: float
    auc: float
    ndcg: float
    train_loss: float
    bayes_log_loss: float


Found = Mapping[str, Mapping[str, Sequence[Outcome]]]


def depth_result(
    found: Found, parameters: Mapping[str, Mapping[str, int]], latencies: Mapping[str, Mapping[int, float]]
) -> StudyResult:
    """What is to be shown.

    Args:
        found: By condition and depth, one outcome a seed, at least two.
        parameters: By depth and part.
        latencies: Milliseconds by depth and percentile.
    """
    numbers: dict[str, float] = {}
    tables = [_quality(condition, outcomes, numbers) for condition, outcomes in found.items()]
    tables += [_parameters(parameters, numbers), _latencies(latencies, numbers)]
    verdict = "\n".join(
        [
            _stops(found),
            *(_helped(condition, outcomes) for condition, outcomes in found.items()),
            _why(found),
            _shared(found[PLAIN], parameters),
            _cost(parameters, latencies),
        ]
    )
    return StudyResult("depth", tuple(tables), verdict, numbers, (_chart(found, latencies),))


def _saved(outcomes: Mapping[str, Sequence[Outcome]], name: str, over: str = _ONE) -> Gain:
    """Log loss that one depth saves over another."""
    return gain_of([one.log_loss for one in outcomes[over]], [one.log_loss for one in outcomes[name]])


def _quality(condition: str, outcomes: Mapping[str, Sequence[Outcome]], numbers: dict[str, float]) -> Table:
    bayes = float(np.mean([one.bayes_log_loss for one in outcomes[_ONE]]))
    numbers[f"{condition}/bayes_log_loss"] = bayes
    table = Table(
        title=f"{condition}: test, calibrated, mean ± sd over {len(outcomes[_ONE])} marketplaces; the truth's log loss "
        f"{bayes:.4f}"
    )
    for heading in ("layers", "log loss", "AUC", "nDCG@10", "loss of training", "log loss saved over 1", "AUC gained"):
        table.add_column(heading, justify="left" if heading == "layers" else "right")
    for name, of in outcomes.items():
        columns = {
            "log_loss": [one.log_loss for one in of],
            "auc": [one.auc for one in of],
            "ndcg@10": [one.ndcg for one in of],
            "train_loss": [one.train_loss for one in of],
        }
        gains = {
            "log_loss_saved": _saved(outcomes, name),
            "auc_gained": gain_of(columns["auc"], [one.auc for one in outcomes[_ONE]]),
        }
        shown_gains = ("", "") if name == _ONE else map(str, gains.values())
        table.add_row(name, *map(shown, columns.values()), *shown_gains)
        numbers |= {f"{condition}/{name}/{key}": float(np.mean(values)) for key, values in columns.items()}
        for key, gain in gains.items():
            numbers |= {f"{condition}/{name}/{key}_over_1/{end}": value for end, value in gain.numbers().items()}
    return table


def _parameters(parameters: Mapping[str, Mapping[str, int]], numbers: dict[str, float]) -> Table:
    table = Table(title="dense numbers by part; positions, attention and feed-forward are the history encoder's")
    for heading in ("layers", *PARAMETER_PARTS, "all", "feed-forward of all"):
        table.add_column(heading, justify="left" if heading == "layers" else "right")
    for name, by_part in parameters.items():
        total = sum(by_part.values())
        share = by_part["feed-forward"] / total
        table.add_row(name, *(f"{by_part[part]:,}" for part in PARAMETER_PARTS), f"{total:,}", f"{share:.0%}")
        numbers |= {f"{name}/parameters/{part}": by_part[part] for part in PARAMETER_PARTS}
        numbers[f"{name}/parameters/feed_forward_share"] = share
    return table


def _latencies(latencies: Mapping[str, Mapping[int, float]], numbers: dict[str, float]) -> Table:
    table = Table(title="one request of 500 candidates, eager, one thread: ms of the process's own time")
    for heading in ("layers", *(f"P{percent}" for percent in PERCENTILES)):
        table.add_column(heading, justify="left" if heading == "layers" else "right")
    for name, of in latencies.items():
        table.add_row(name, *(f"{of[percent]:.2f}" for percent in PERCENTILES))
        numbers |= {f"{name}/latency_ms/p{percent}": of[percent] for percent in PERCENTILES}
    return table


def _stops(found: Found) -> str:
    """The deepest that is surely better than one layer, by condition, and whether one is better than none."""
    told = []
    for condition, outcomes in found.items():
        better = [d.name for d in DEPTHS if d.name in outcomes and d.name != _ONE and _saved(outcomes, d.name).low > 0]
        told.append(f"{condition}: {better[-1] if better else 'none'}")
    none, one = DEPTHS[0].name, _saved(found[PLAIN], _ONE, DEPTHS[0].name)
    surely = "surely" if one.is_sure else "not surely"
    return (
        f"The deepest that is surely better than 1 layer: {'; '.join(told)}. One layer over {none}: {one} nats, "
        f"{surely} different."
    )


def _helped(condition: str, outcomes: Mapping[str, Sequence[Outcome]]) -> str:
    """Which depths differ surely from one layer, and by how much each does."""
    names = [depth.name for depth in DEPTHS if depth.name in outcomes and depth.name != _ONE and not depth.is_shared]
    saved = {name: _saved(outcomes, name) for name in names}
    surely = [f"{name} {'better' if gain.low > 0 else 'worse'}" for name, gain in saved.items() if gain.is_sure]
    told = ", ".join(f"{name}: {gain}" for name, gain in saved.items())
    return (
        f"{condition[0].upper()}{condition[1:]}: surely different from 1 layer: {', '.join(surely) or 'none'}; log "
        f"loss saved by {told}."
    )


def _why(found: Found) -> str:
    """What the loss of training says: did the deep ones learn train better, and what was it worth on test?"""
    told = []
    for condition, outcomes in found.items():
        fitted = gain_of([o.train_loss for o in outcomes[_ONE]], [o.train_loss for o in outcomes[_DEEPEST]])
        test = _saved(outcomes, _DEEPEST)
        if fitted.is_sure and fitted.low > 0:
            what = "is lower, and on test it helps" if test.low > 0 else "is lower, and on test that is not seen"
        elif fitted.is_sure:
            what = "is higher: in as many steps they learn less"
        else:
            what = "is not surely another: what they could fit besides is not there, or not found"
        told.append(f"{condition}: the loss of training {what} ({fitted} nats saved on train)")
    return f"{_DEEPEST} layers against {_ONE}, as to why. " + "; ".join(told) + "."


def _shared(outcomes: Mapping[str, Sequence[Outcome]], parameters: Mapping[str, Mapping[str, int]]) -> str:
    told = []
    for depth in DEPTHS:
        if depth.is_shared:
            own = Depth(depth.num_layers).name
            ratio = sum(parameters[own].values()) / sum(parameters[depth.name].values())
            told.append(
                f"{depth.num_layers} layers of one set of weights save {_saved(outcomes, depth.name, own)} nats over "
                f"{depth.num_layers} of their own, which have {ratio:.1f}× the dense numbers, and "
                f"{_saved(outcomes, depth.name)} over 1"
            )
    return "Sharing: " + "; ".join(told) + "."


def _cost(parameters: Mapping[str, Mapping[str, int]], latencies: Mapping[str, Mapping[int, float]]) -> str:
    shares = {}
    for name in (_ONE, _DEEPEST):
        encoder = sum(parameters[name][part] for part in ("positions", "attention", "feed-forward"))
        shares[name] = (parameters[name]["feed-forward"] / encoder, encoder / sum(parameters[name].values()))
    one, deepest = latencies[_ONE], latencies[_DEEPEST]
    return (
        f"Of what positions, attention and feed-forward have, the feed-forward is {shares[_ONE][0]:.0%} at 1 layer and "
        f"{shares[_DEEPEST][0]:.0%} at {_DEEPEST}; of all dense numbers the three are {shares[_ONE][1]:.0%} and "
        f"{shares[_DEEPEST][1]:.0%}. A request of 500 candidates takes {one[50]:.1f} ms (P50) at 1 layer and "
        f"{deepest[50]:.1f} at {_DEEPEST}, P99 {one[99]:.1f} and {deepest[99]:.1f}."
    )


def _chart(found: Found, latencies: Mapping[str, Mapping[int, float]]) -> Chart:
    own, shared = ([depth for depth in DEPTHS if depth.is_shared is is_shared] for is_shared in (False, True))
    place = {depth.num_layers: float(index) for index, depth in enumerate(own)}
    names = {place[depth.num_layers]: str(depth.num_layers) for depth in own}

    def saved(name: str, condition: str, depths: Sequence[Depth]) -> Line:
        known = [depth for depth in depths if depth.name in found[condition]]
        gains = [_saved(found[condition], depth.name) for depth in known]
        return Line(
            name=name, x=[place[depth.num_layers] for depth in known], y=[gain.mean for gain in gains],
            low=[gain.low for gain in gains], high=[gain.high for gain in gains],
            style="line" if depths is own else "dashed",
        )  # fmt: skip

    def latency(name: str, depths: Sequence[Depth], percent: int) -> Line:
        return Line(
            name=name, x=[place[depth.num_layers] for depth in depths],
            y=[latencies[depth.name][percent] for depth in depths], style="line" if percent == 50 else "dashed",
        )  # fmt: skip

    return Chart(
        name="depth",
        title="What layers bring, and what they take",
        caption="Log loss that a depth saves over one layer on test, with 95 % intervals over marketplaces; dashed, "
        "layers that share their weights. Right: the time of a request of 500 candidates.",
        description="Log loss saved over one layer by the number of layers, in three conditions and with shared "
        "layers, and latency percentiles.",
        panels=(
            *(
                Panel(
                    title=condition[0].upper() + condition[1:], x_label="layers", y_label="nats saved over 1 layer",
                    lines=(
                        saved(condition, condition, own),
                        *([saved("shared", condition, shared)] if condition == PLAIN else []),
                    ),
                    x_names=names,
                )
                for condition in found
            ),
            Panel(
                title="Latency", x_label="layers", y_label="ms",
                lines=(latency("P50", own, 50), latency("P95", own, 95)), x_names=names,
            ),
        ),
    )  # fmt: skip
