"""What models trained by different losses came to: tables, one figure, and a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Final, final

import numpy as np
from rich.table import Table

from rankwell.studies.chart import Chart, Line, Panel
from rankwell.studies.study import Gain, StudyResult, gain_of, shown
from rankwell.training.trained import Judgement

__all__ = ["PLACE", "Outcome", "result_of"]

PLACE: Final = 10
"""k of nDCG@k."""
_ALIKE: Final = 1.02
"""Log loss by pointwise's up to which logits are called probabilities."""
_NDCG_ALLOWED: Final = -0.01
_HEADINGS: Final = {
    "ndcg": f"nDCG@{PLACE}", "raw_log_loss": "log loss raw", "log_loss": "calibrated", "raw_ece": "ECE raw",
    "ece": "calibrated", "error_to_truth": "mean |p − true p|", "gauc": "GAUC",
}  # fmt: skip


@final
@dataclass(frozen=True, slots=True)
class Outcome:
    """One loss on one marketplace, on test.

    Args:
        ndcg: nDCG@10 of the order by logit.
        raw_log_loss, raw_ece: Of the logits at their word.
        log_loss, ece, error_to_truth: After calibration; the last is the mean distance from the true probability.
        gauc: Within requests.
    """

    ndcg: float
    raw_log_loss: float
    log_loss: float
    raw_ece: float
    ece: float
    error_to_truth: float
    gauc: float

    @classmethod
    def of(cls, judged: Judgement) -> Outcome:
        """What of a judgement this study looks at."""
        raw, calibrated = judged.raw, judged.calibrated
        truth = np.nan if calibrated.truth is None else calibrated.truth.mean_absolute_error
        gauc = np.nan if raw.gauc is None else raw.gauc
        return cls(raw.ndcg[PLACE], raw.log_loss, calibrated.log_loss, raw.ece, calibrated.ece, truth, gauc)


def result_of(
    found: Mapping[str, Sequence[Outcome]],
    *,
    settings: Mapping[str, tuple[str, float]],
    pointwise: str,
    listwise: Sequence[str],
    joint: Sequence[str],
) -> StudyResult:
    """The study's outcome.

    Args:
        found: Loss to its outcomes, seed by seed.
        settings: Loss to what was chosen on tune: its setting, and what the usual learning rates are multiplied with.
        pointwise: The loss that others are held against.
        listwise: Of these the best in mean nDCG@10 on test is what `joint` is held against: the hardest choice.
        joint: Losses that are to rank and stay calibrated.
    """
    numbers = {
        f"{name}/{field.name}/mean": float(np.mean(_column(outcomes, field.name)))
        for name, outcomes in found.items()
        for field in fields(Outcome)
    }
    numbers |= {f"{name}/learning_rate_factor": rate for name, (_, rate) in settings.items()}
    over = {name: gain_of(_column(found[name], "ndcg"), _column(found[pointwise], "ndcg")) for name in found}
    ratios = {
        name: tuple(float(np.mean(_ratio(found, name, pointwise, column))) for column in ("raw_log_loss", "log_loss"))
        for name in found
    }
    for name in found:
        numbers |= {f"{name}/ndcg_over_{pointwise}/{end}": value for end, value in over[name].numbers().items()}
        numbers[f"{name}/raw_log_loss_by_{pointwise}"], numbers[f"{name}/log_loss_by_{pointwise}"] = ratios[name]
    best = max(listwise, key=lambda name: numbers[f"{name}/ndcg/mean"])
    against = {name: gain_of(_column(found[name], "ndcg"), _column(found[best], "ndcg")) for name in joint}
    for name, gain in against.items():
        numbers |= {f"{name}/ndcg_over_best_listwise/{end}": value for end, value in gain.numbers().items()}
    num_seeds = len(found[pointwise])
    return StudyResult(
        "losses",
        (_levels(found, over, num_seeds, pointwise), _settings(settings), _joint(against, ratios, best, pointwise)),
        "\n".join([*_kinds(ratios), _order(over, best, pointwise), *_reached(against, ratios, best)]),
        numbers,
        (_chart(found, over, num_seeds, pointwise),),
    )


def _column(outcomes: Sequence[Outcome], name: str) -> list[float]:
    return [getattr(outcome, name) for outcome in outcomes]


def _ratio(found: Mapping[str, Sequence[Outcome]], name: str, over: str, column: str) -> list[float]:
    own, others = _column(found[name], column), _column(found[over], column)
    return [a / b for a, b in zip(own, others, strict=True)]


def _levels(found: Mapping[str, Sequence[Outcome]], over: Mapping[str, Gain], num_seeds: int, pointwise: str) -> Table:
    table = Table(title=f"test split; mean ± sd over {num_seeds} seeds; differences paired by seed, 95 % interval")
    table.add_column("loss")
    for heading in _HEADINGS.values():
        table.add_column(heading, justify="right")
    table.add_column(f"nDCG@{PLACE} over {pointwise}", justify="right")
    for name, outcomes in found.items():
        cells = [shown(_column(outcomes, column)) for column in _HEADINGS]
        table.add_row(name, *cells, "" if name == pointwise else str(over[name]))
    return table


def _settings(settings: Mapping[str, tuple[str, float]]) -> Table:
    table = Table(title="chosen on tune of a marketplace of its own")
    for heading in ("loss", "setting", "learning rates by the recipe's"):
        table.add_column(heading)
    for name, (setting, rate) in settings.items():
        table.add_row(name, setting, f"{rate:g}")
    return table


def _joint(against: Mapping[str, Gain], ratios: Mapping[str, tuple[float, ...]], best: str, pointwise: str) -> Table:
    table = Table(title=f"order and probability at once; the best listwise loss is {best}")
    for heading in ("loss", f"nDCG@{PLACE} over {best}", f"log loss by {pointwise}'s, raw", "calibrated"):
        table.add_column(heading)
    for name, gain in against.items():
        table.add_row(name, str(gain), *(f"{ratio:.4f}" for ratio in ratios[name]))
    return table


def _kinds(ratios: Mapping[str, tuple[float, ...]]) -> list[str]:
    """Which losses say probabilities, which after calibration, and which never."""
    stands = [name for name, (raw, _) in ratios.items() if raw <= _ALIKE]
    calibrated = [name for name, (raw, after) in ratios.items() if raw > _ALIKE >= after]
    order = {name: after for name, (raw, after) in ratios.items() if raw > _ALIKE < after}
    lines = [f"Probabilities as they stand: {', '.join(stands)}."]
    if calibrated:
        lines.append(f"Probabilities once calibrated: {', '.join(calibrated)}.")
    if order:
        low, high = (f"{end - 1:.1%}" for end in (min(order.values()), max(order.values())))
        lines.append(f"Logits that order only: {', '.join(order)}; calibrated they cost {low} to {high} more log loss.")
    return lines


def _order(over: Mapping[str, Gain], best: str, pointwise: str) -> str:
    surely = {True: [], False: []}  # type: dict[bool, list[str]]
    for name, gain in over.items():
        if gain.is_sure and name != pointwise:
            surely[gain.mean > 0].append(name)
    better, worse = (", ".join(surely[side]) or "none" for side in (True, False))
    return (
        f"In nDCG@{PLACE} surely better than {pointwise}: {better}; surely worse: {worse}. "
        f"The best listwise loss is {best}, {over[best]} over {pointwise}."
    )


def _reached(against: Mapping[str, Gain], ratios: Mapping[str, tuple[float, ...]], best: str) -> list[str]:
    lines = []
    for name, gain in against.items():
        orders, says = gain.low >= _NDCG_ALLOWED, ratios[name][0] <= _ALIKE
        verdict = "reached" if orders and says else "missed"
        lines.append(
            f"{name}: {gain} nDCG@{PLACE} over {best} and {ratios[name][0] - 1:+.2%} log loss; at least "
            f"{_NDCG_ALLOWED:g} and at most {_ALIKE - 1:+.0%} were aimed at: {verdict}."
        )
    return lines


def _chart(found: Mapping[str, Sequence[Outcome]], over: Mapping[str, Gain], num_seeds: int, pointwise: str) -> Chart:
    places = [float(place) for place in range(len(found))]
    names = dict(zip(places, found, strict=True))
    nameless = dict.fromkeys(places, "")
    order = f"nDCG@{PLACE}, with its 95 % interval"
    bars = tuple(
        Line(name=order, x=(1e3 * gain.low, 1e3 * gain.high), y=(place, place))
        for place, gain in zip(places, over.values(), strict=True)
    )
    dots = Line(name=order, x=[1e3 * gain.mean for gain in over.values()], y=places, style="dots")

    def both(title: str, raw: str, calibrated: str, unit: str, is_log: bool) -> Panel:
        lines = tuple(
            Line(name=name, x=[float(np.mean(_column(o, column))) for o in found.values()], y=places, style="dots")
            for name, column in (("before calibration", raw), ("calibrated", calibrated))
        )
        return Panel(title=title, x_label=unit, y_label="", lines=lines, is_log_x=is_log, y_names=nameless)

    return Chart(
        name="losses",
        title="Order against probability",
        caption=f"One model, trained by each loss; test split, mean of {num_seeds} marketplaces. Left: the order, as "
        f"nDCG@{PLACE} over {pointwise}'s, paired by seed. Middle and right: what the logits are worth as "
        "probabilities, before and after isotonic calibration. ECE asks for the right mean of what was said alike, "
        "which calibration can mend; log loss for the right probability of each, and stays high where logits say which "
        "of a request's candidates is best and not how good it is.",
        description="Each loss's nDCG over pointwise, and its log loss and ECE before and after calibration.",
        panels=(
            Panel(
                title=f"nDCG@{PLACE} over {pointwise}", x_label="thousandths", y_label="", lines=(*bars, dots),
                y_names=names, upright=0.0,
            ),
            both("Log loss", "raw_log_loss", "log_loss", "nats", is_log=False),
            both("ECE", "raw_ece", "ece", "probability", is_log=True),
        ),
    )  # fmt: skip
