"""What `study heads` found, as tables, figures and a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, final

import numpy as np
from rich.table import Table

from rankwell.studies.chart import Chart, Line, Panel
from rankwell.studies.head_variants import ALONE, FIXED, GATED, GUIDED, LEARNED, SEGMENT_GATED
from rankwell.studies.rivals import SENIOR
from rankwell.studies.study import Gain, StudyResult, gain_of, shown

__all__ = ["HeadFindings", "Outcome", "result_of", "result_of_cutting"]


@final
@dataclass(frozen=True, kw_only=True)
class HeadFindings:
    """What the heads of one trained model do.

    Args:
        reads: By head, what it reads.
        named: By head that is named after a relation, its share on related entries, in those of an even head.
        strongest: By head, the same of the relation on which that is most.
        overlap: Mean cosine between the maps of two heads.
        gates: By segment, the gate of each head; 1 where there are none.
        shares: By segment, the share of requests.
        auc_lost: By head, when it is cut out.
        uncut_time, cut_time: Of the list encoder, in those of one of four learned heads.
    """

    reads: tuple[str, ...]
    named: Mapping[int, float]
    strongest: tuple[float, ...]
    overlap: float
    gates: Mapping[int, tuple[float, ...]]
    shares: Mapping[int, float]
    auc_lost: tuple[float, ...]
    uncut_time: float
    cut_time: float

    @property
    def num_open(self) -> float:
        """Heads whose gates are not 0, in the mean over requests."""
        return sum(self.shares[segment] * sum(gate > 0 for gate in gates) for segment, gates in self.gates.items())

    def gate(self, head: int, *, seniors: bool | None = None) -> float:
        """Of one head, in the mean over requests: all, those of senior members, or those of others."""
        of = [s for s in self.gates if seniors is None or (s >= SENIOR) == seniors]
        weight = sum(self.shares[s] for s in of)
        return sum(self.shares[s] * self.gates[s][head] for s in of) / weight if weight else float("nan")


@final
@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one trained model is worth on test, calibrated, and what its heads do; None where it has none."""

    log_loss: float
    auc: float
    ndcg: float
    bayes_log_loss: float
    heads: HeadFindings | None


Found = Mapping[str, Sequence[Outcome]]

_QUALITY: Final = {"log_loss": "log loss", "auc": "AUC", "ndcg@10": "nDCG@10"}
_FACTS: Final = {
    "named": "on what it is named after, × even", "strongest": "on its strongest relation, × even",
    "overlap": "overlap", "num_open": "open of 4", "uncut_time": "time, × learned", "cut_time": "… cut",
}  # fmt: skip


def result_of(marketplace: str, found: Found) -> StudyResult:
    """The result on one kind of marketplace.

    Args:
        marketplace: Its name.
        found: By variant, one outcome a seed.
    """
    numbers: dict[str, float] = {}
    gains = _gains(found, numbers)
    tables = (
        _levels(marketplace, found, numbers), _gain_table(marketplace, gains), _fact_table(marketplace, found, numbers),
        _single_heads(marketplace, found, numbers),
    )  # fmt: skip
    return StudyResult(
        marketplace, tables, _finding(marketplace, found, gains), numbers, (_chart(marketplace, found, gains),)
    )


def result_of_cutting(times: Mapping[int, float]) -> StudyResult:
    """The result on what cutting can save at most.

    Args:
        times: By number of heads that are left of four, the time of the list encoder in those of one with all.
    """
    table = Table(title="time of the list encoder for 500 candidates, × that of four learned heads")
    for left in times:
        table.add_column(f"{left} heads left", justify="right")
    table.add_row(*(f"{time:.2f}" for time in times.values()))
    least = min(times)
    finding = f"With {least} of 4 heads left the list encoder takes {times[least]:.2f} of the time of all."
    return StudyResult("cutting", (table,), finding, {f"{left}_left": time for left, time in times.items()})


def _levels(marketplace: str, found: Found, numbers: dict[str, float]) -> Table:
    num_seeds = len(found[LEARNED.name])
    table = Table(title=f"marketplace {marketplace}: test, calibrated; mean ± sd over {num_seeds} seeds")
    table.add_column("heads")
    for heading in _QUALITY.values():
        table.add_column(heading, justify="right")
    for name, outcomes in found.items():
        columns = _quality(outcomes)
        numbers |= {f"{name}/{label}": float(np.mean(values)) for label, values in columns.items()}
        table.add_row(name, *map(shown, columns.values()))
    bayes = [outcome.bayes_log_loss for outcome in found[LEARNED.name]]
    numbers["bayes/log_loss"] = float(np.mean(bayes))
    table.add_row("the truth (Bayes)", shown(bayes), "", "")
    return table


def _gains(found: Found, numbers: dict[str, float]) -> dict[str, dict[str, Gain]]:
    base = _quality(found[LEARNED.name])
    gains = {}
    for name, outcomes in found.items():
        if name == LEARNED.name:
            continue
        own = _quality(outcomes)
        gains[name] = {
            "log_loss": gain_of(base["log_loss"], own["log_loss"]),
            **{label: gain_of(own[label], base[label]) for label in ("auc", "ndcg@10")},
        }
        for label, gain in gains[name].items():
            numbers |= {f"{name}/gain/{label}/{end}": value for end, value in gain.numbers().items()}
    return gains


def _gain_table(marketplace: str, gains: Mapping[str, Mapping[str, Gain]]) -> Table:
    table = Table(title=f"marketplace {marketplace}: gain over learned heads, paired by seed, 95 %")
    for heading in ("heads", "nats saved", "AUC", "nDCG@10"):
        table.add_column(heading)
    for name, of in gains.items():
        table.add_row(name, *map(str, of.values()))
    return table


def _fact_table(marketplace: str, found: Found, numbers: dict[str, float]) -> Table:
    table = Table(title=f"marketplace {marketplace}: what heads attend to, and the encoder's time for 500 candidates")
    table.add_column("heads")
    for heading in _FACTS.values():
        table.add_column(heading, justify="right")
    for name, outcomes in found.items():
        columns = _facts(outcomes)
        if not columns:
            continue
        known = {label: [value for value in values if value == value] for label, values in columns.items()}
        numbers |= {f"{name}/{label}": float(np.mean(values)) for label, values in known.items() if values}
        table.add_row(name, *(shown(values, 2) if values else "–" for values in known.values()))
    return table


def _single_heads(marketplace: str, found: Found, numbers: dict[str, float]) -> Table:
    """Head by head of the variants whose heads are all fed: what is lost without it, and how far it stays open."""
    table = Table(title=f"marketplace {marketplace}: head by head; mean ± sd")
    table.add_column("head")
    for heading in ("AUC lost (fixed)", "gate", "gate, juniors", "gate, seniors"):
        table.add_column(heading, justify="right")
    fixed, gated, by_segment = (_heads(found[name]) for name in (FIXED.name, GATED.name, SEGMENT_GATED.name))
    for head, reads in enumerate(fixed[0].reads):
        columns = {
            "auc_lost": [of.auc_lost[head] for of in fixed],
            "gate": [of.gate(head) for of in gated],
            "gate_juniors": [of.gate(head, seniors=False) for of in by_segment],
            "gate_seniors": [of.gate(head, seniors=True) for of in by_segment],
        }
        numbers |= {f"{reads}/{label}": float(np.mean(values)) for label, values in columns.items()}
        table.add_row(reads, *(shown(values, 4 if label == "auc_lost" else 2) for label, values in columns.items()))
    return table


def _finding(marketplace: str, found: Found, gains: Mapping[str, Mapping[str, Gain]]) -> str:
    saved = {name: of["log_loss"] for name, of in gains.items()}
    sure = [f"{name} {gain}" for name, gain in saved.items() if gain.is_sure and name != ALONE.name]
    noise = [name for name, gain in saved.items() if not gain.is_sure and name != ALONE.name]
    lines = [
        f"Marketplace {marketplace}: against learned heads "
        + (f"nats are surely saved or lost by {'; '.join(sure)}" if sure else "no kind of heads surely saves nats")
        + (f"; not told from noise: {', '.join(noise)}." if noise and sure else "."),
        f"Without a list: {saved[ALONE.name]} nats against learned heads.",
    ]
    learned, fixed, guided = (_facts(found[name]) for name in (LEARNED.name, FIXED.name, GUIDED.name))
    overlaps = ", ".join(f"{np.mean(of['overlap']):.2f}" for of in (fixed, learned, guided))
    lines.append(
        f"Heads fed with a group attend to its like {np.mean(fixed['named']):.1f} times as much as an even head does, "
        f"learned ones to their strongest relation {np.mean(learned['strongest']):.1f} times; overlap of fixed, "
        f"learned and guided heads: {overlaps}."
    )
    lost = np.mean([of.auc_lost for of in _heads(found[FIXED.name])], axis=0)
    reads = [name.removeprefix("fed ") for name in _heads(found[FIXED.name])[0].reads]
    lines.append(
        "AUC lost when a fixed head is cut out: "
        + ", ".join(f"{name} {value:.4f}" for name, value in zip(reads, lost, strict=True))
        + "."
    )
    fixed_loss = _quality(found[FIXED.name])["log_loss"]
    for name in (GATED.name, SEGMENT_GATED.name):
        of, own_loss = _facts(found[name]), _quality(found[name])["log_loss"]
        num_open, nats = np.mean(of["num_open"]), gain_of(fixed_loss, own_loss)
        time = 1 - np.mean(of["cut_time"]) / np.mean(of["uncut_time"])
        cut = "none is cut out" if num_open == len(reads) else f"without the others the list encoder saves {time:.0%}"
        lines.append(
            f"{name.capitalize()}: {num_open:.1f} of {len(reads)} heads stay open; {cut}, and against the fixed ones "
            f"{nats} nats are saved."
        )
    return "\n".join(lines)


def _chart(marketplace: str, found: Found, gains: Mapping[str, Mapping[str, Gain]]) -> Chart:
    rows = [name for name in found if _facts(found[name])]
    names = {float(row): name for row, name in enumerate(rows)}
    nameless = dict.fromkeys(names, "")
    saved = {row: gains[name]["log_loss"] if name in gains else Gain(0.0, 0.0, 0.0) for row, name in names.items()}
    bars = [Line(name="", x=[gain.low, gain.high], y=[row, row]) for row, gain in saved.items()]
    means = Line(name="", x=[gain.mean for gain in saved.values()], y=list(saved), style="dots")

    def of(fact: str, name: str) -> Line:
        known = [(float(np.mean(_facts(found[variant])[fact])), row) for row, variant in names.items()]
        known = [(value, row) for value, row in known if value == value]  # NaN where no head is named after anything
        return Line(name=name, x=[value for value, _ in known], y=[row for _, row in known], style="dots")

    return Chart(
        name=f"heads-{marketplace.replace(' ', '-')}",
        title=f"Kinds of heads, marketplace {marketplace}",
        caption="From left to right: nats saved on test over learned heads, with 95 % intervals paired by seed; how "
        "much more than evenly heads attend to the relation that they are named after, and to the one to which they do "
        "so most; the mean cosine between the maps of two heads; the time of the list encoder for 500 candidates. "
        "Means over seeds.",
        description="Log loss saved, attention to relations, overlap and time, for each kind of heads.",
        panels=(
            Panel(title="Log loss saved", x_label="nats", y_label="", lines=(*bars, means), y_names=names, upright=0.0),
            Panel(
                title="Attention", x_label="× even", y_label="", y_names=nameless, upright=1.0,
                lines=(of("named", "on what it is named after"), of("strongest", "on its strongest relation")),
            ),
            Panel(title="Overlap", x_label="cosine", y_label="", y_names=nameless, lines=(of("overlap", ""),)),
            Panel(
                title="Time", x_label="× learned heads", y_label="", y_names=nameless, upright=1.0,
                lines=(of("uncut_time", "all heads"), of("cut_time", "closed heads cut out")),
            ),
        ),
    )  # fmt: skip


def _quality(outcomes: Sequence[Outcome]) -> dict[str, list[float]]:
    return {
        "log_loss": [outcome.log_loss for outcome in outcomes],
        "auc": [outcome.auc for outcome in outcomes],
        "ndcg@10": [outcome.ndcg for outcome in outcomes],
    }


def _facts(outcomes: Sequence[Outcome]) -> dict[str, list[float]]:
    """By fact, one number a seed; nothing where there are no heads, NaN where no head is named after anything."""
    heads = _heads(outcomes)
    if not heads:
        return {}
    return {
        "named": [float(np.mean(list(of.named.values()))) if of.named else float("nan") for of in heads],
        "strongest": [float(np.mean(of.strongest)) for of in heads],
        "overlap": [of.overlap for of in heads],
        "num_open": [of.num_open for of in heads],
        "uncut_time": [of.uncut_time for of in heads],
        "cut_time": [of.cut_time for of in heads],
    }


def _heads(outcomes: Sequence[Outcome]) -> list[HeadFindings]:
    return [outcome.heads for outcome in outcomes if outcome.heads is not None]
