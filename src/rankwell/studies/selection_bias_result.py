"""What models of a chosen log came to on uniform exposure: tables, one figure, and a verdict.

Letters: S seniorities of jobs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, final

import numpy as np
from rich.table import Table

from rankwell.evaluation.sample import Floats
from rankwell.studies.chart import Chart, Line, Panel
from rankwell.studies.study import Gain, StudyResult, gain_of, shown

__all__ = ["BLIND", "TOLD", "UNIFORM_TOLD", "Found", "Outcome", "result_of"]

TOLD: Final = "naive, told the score"
UNIFORM_TOLD: Final = "uniform, told the score"
BLIND: Final = "naive, retrieval blind to seniority"
_LEAST_GAP: Final = 0.005
_LEAST_CLOSED: Final = 0.5
_MENDED: Final = ("IPW", "DR")
_MOST_SENIOR: Final = 6
"""Executives are a handful of jobs that hardly any member clicks: their ratio is noise."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """One model on one marketplace, where exposure is uniform.

    Args:
        log_loss: Expected under the true probabilities, nats.
        predicted_S: Predicted clicks by the job's seniority.
        true_S: Expected ones.
    """

    log_loss: float
    predicted_S: Floats
    true_S: Floats

    @property
    def ratio(self) -> float:
        """Predicted over expected clicks."""
        return float(self.predicted_S.sum() / self.true_S.sum())

    @property
    def ratio_S(self) -> Floats:
        """The same by seniority; NaN where there is no job of it."""
        ratio_S: Floats = np.full(len(self.true_S), np.nan)
        np.divide(self.predicted_S, self.true_S, out=ratio_S, where=self.true_S > 0)
        return ratio_S

    @property
    def tilt(self) -> float:
        """By how much ln(predicted / expected) grows with a step of seniority: its slope, weighted by expected clicks.

        >>> growing_S = np.exp(.1 * np.arange(8))
        >>> round(Outcome(0.0, growing_S, np.ones(8)).tilt, 6)
        0.1
        """
        step_S = np.flatnonzero(self.true_S[: _MOST_SENIOR + 1] > 0)
        slope, _ = np.polyfit(step_S, np.log(self.ratio_S[step_S]), 1, w=np.sqrt(self.true_S[step_S]))
        return float(slope)


@final
@dataclass(frozen=True, slots=True)
class Found:
    """What came of one marketplace.

    Args:
        outcomes: By training: "uniform", "naive", "IPW", "DR", and perhaps those of the audit.
        num_rows: Of the biased log's train split.
        effective_rows: Of these under the clipped inverse propensities.
    """

    outcomes: Mapping[str, Outcome]
    num_rows: int
    effective_rows: float

    @property
    def naive_cost(self) -> float:
        """Nats of the naive model over the uniform one."""
        return self.outcomes["naive"].log_loss - self.outcomes["uniform"].log_loss


def result_of(latent: Sequence[Found], own: Sequence[Found], *, clip: float) -> StudyResult:
    """The study's outcome.

    Args:
        latent: Seed by seed, where a latent drives retrieval and clicks.
        own: Where retrieval knows nothing but what the model does.
        clip: The largest ratio.
    """
    numbers = {f"latent/{key}": value for key, value in _numbers(latent).items()}
    numbers |= {f"own features/{key}": value for key, value in _numbers(own).items()}
    tilts = {name: [found.outcomes[name].tilt for found in latent] for name in latent[0].outcomes}
    from_retrieval = gain_of(tilts["naive"], tilts[BLIND])
    numbers |= {f"latent/{name}/tilt": float(np.mean(tilt_S)) for name, tilt_S in tilts.items()}
    numbers |= {f"latent/tilt from retrieval/{end}": value for end, value in from_retrieval.numbers().items()}
    return StudyResult(
        "selection-bias",
        (
            _levels(latent, "a latent drives retrieval and clicks"),
            _levels(own, "retrieval knows only what the model knows"),
            _audit(latent, tilts),
        ),
        "\n".join(
            [
                _with_latent(latent),
                _without_latent(own),
                _seniority(latent, tilts, from_retrieval),
                _price(latent, clip),
            ]
        ),
        numbers,
        (_chart(latent, own),),
    )


def _losses(found: Sequence[Found], name: str) -> list[float]:
    return [one.outcomes[name].log_loss for one in found]


def _over(found: Sequence[Found], name: str, other: str) -> Gain:
    return gain_of(_losses(found, name), _losses(found, other))


def _over_like(found: Sequence[Found], name: str) -> Gain:
    """Over uniform rows by a model that knows as much."""
    return _over(found, name, UNIFORM_TOLD if name == TOLD else "uniform")


def _closed(found: Sequence[Found], name: str) -> float:
    """Which share of the naive model's cost is gone, of means over seeds."""
    return _over(found, "naive", name).mean / _over(found, "naive", "uniform").mean


def _numbers(found: Sequence[Found]) -> dict[str, float]:
    numbers = {}
    for name in found[0].outcomes:
        numbers[f"{name}/log_loss"] = float(np.mean(_losses(found, name)))
        numbers[f"{name}/predicted_over_true"] = float(np.mean([one.outcomes[name].ratio for one in found]))
        if name not in ("uniform", UNIFORM_TOLD):
            numbers |= {f"{name}/over_uniform/{end}": v for end, v in _over_like(found, name).numbers().items()}
    for name in _MENDED:
        numbers |= {f"{name}/saved/{end}": value for end, value in _over(found, "naive", name).numbers().items()}
        if _over(found, "naive", "uniform").is_sure:
            numbers[f"{name}/closed"] = _closed(found, name)
    numbers["effective_share"] = float(np.mean([one.effective_rows / one.num_rows for one in found]))
    numbers["rows"] = float(np.mean([one.num_rows for one in found]))
    return numbers


def _levels(found: Sequence[Found], title: str) -> Table:
    table = Table(title=f"{title}; uniform exposure, mean ± sd over {len(found)} seeds, paired 95 % intervals")
    for heading in ("trained", "expected log loss", "over uniform", "saved over naive", "closed", "predicted / true"):
        table.add_column(heading, justify="left" if heading == "trained" else "right")
    for name in found[0].outcomes:
        is_mended = name in _MENDED
        is_closed = is_mended and _over(found, "naive", "uniform").is_sure
        table.add_row(
            name,
            shown(_losses(found, name), 5),
            "" if name in ("uniform", UNIFORM_TOLD) else str(_over_like(found, name)),
            str(_over(found, "naive", name)) if is_mended else "",
            f"{_closed(found, name):.0%}" if is_closed else "",
            shown([one.outcomes[name].ratio for one in found], 3),
        )
    return table


def _audit(found: Sequence[Found], tilts: Mapping[str, Sequence[float]]) -> Table:
    table = Table(title="predicted / true clicks by the job's seniority, with a latent; tilt a step, in logs")
    table.add_column("trained")
    for seniority in range(_MOST_SENIOR + 1):
        table.add_column(str(seniority), justify="right")
    table.add_column("tilt", justify="right")
    for name, tilt_S in tilts.items():
        ratio_S = _mean_ratios(found, name)
        table.add_row(name, *(f"{ratio:.2f}" for ratio in ratio_S), shown(tilt_S, 3))
    return table


def _mean_ratios(found: Sequence[Found], name: str) -> Floats:
    ratios: Floats = np.mean([one.outcomes[name].ratio_S[: _MOST_SENIOR + 1] for one in found], axis=0)
    return ratios


def _with_latent(found: Sequence[Found]) -> str:
    gap = _over(found, "naive", "uniform")
    closed = {name: _closed(found, name) for name in _MENDED}
    shares = " and ".join(f"{name} closes {share:.0%}" for name, share in closed.items())
    return (
        f"With a latent in retrieval and clicks the naive model costs {gap} nats over one of uniform rows "
        f"(sought: {_LEAST_GAP:g}): {_reached(gap.mean >= _LEAST_GAP)}. {shares} of it "
        f"(sought: {_LEAST_CLOSED:.0%} by one of them): {_reached(max(closed.values()) >= _LEAST_CLOSED)}."
    )


def _without_latent(found: Sequence[Found]) -> str:
    gap = _over(found, "naive", "uniform")
    saved = {name: _over(found, "naive", name) for name in _MENDED}
    words = "; ".join(f"{name} saves {gain}, {_helps(gain)}" for name, gain in saved.items())
    return f"With nothing in retrieval but the model's own features the naive model costs {gap} nats; {words}."


def _helps(gain: Gain) -> str:
    if not gain.is_sure:
        return "nothing that is sure"
    return "which helps" if gain.mean > 0 else "which harms"


def _seniority(found: Sequence[Found], tilts: Mapping[str, Sequence[float]], from_retrieval: Gain) -> str:
    naive, uniform, blind = (float(np.mean(tilts[name])) for name in ("naive", "uniform", BLIND))
    ipw, robust = (float(np.mean(tilts[name])) for name in _MENDED)
    told = _over_like(found, TOLD)
    sure = "surely" if from_retrieval.is_sure else "not surely"
    return (
        f"A step of the job's seniority moves the naive model's predictions by {naive:+.3f} in logs, those of uniform "
        f"rows by {uniform:+.3f}. With retrieval blind to seniority it is {blind:+.3f}, so {from_retrieval} of it is "
        f"{sure} retrieval's; IPW leaves {ipw:+.3f}, DR {robust:+.3f}. Told the retrieval score, the naive model costs "
        f"{told} nats over one of uniform rows that is told it, too."
    )


def _price(found: Sequence[Found], clip: float) -> str:
    share = float(np.mean([one.effective_rows / one.num_rows for one in found]))
    rows = float(np.mean([one.num_rows for one in found]))
    return f"Weights up to {clip:g} leave {rows:,.0f} rows the worth of {share:.0%} of them."


def _reached(holds: bool) -> str:
    return "reached" if holds else "missed"


def _chart(latent: Sequence[Found], own: Sequence[Found]) -> Chart:
    names = ("naive", *_MENDED)
    places = [float(place) for place in range(len(names))]

    def costs(found: Sequence[Found], title: str) -> Panel:
        gains, legend = [_over(found, name, "uniform") for name in names], "with its 95 % interval"
        bars = tuple(
            Line(name=legend, x=(1e3 * gain.low, 1e3 * gain.high), y=(place, place))
            for gain, place in zip(gains, places, strict=True)
        )
        dots = Line(name=legend, x=[1e3 * gain.mean for gain in gains], y=places, style="dots")
        return Panel(
            title=title, x_label="thousandths of a nat", y_label="", lines=(*bars, dots),
            y_names=dict(zip(places, names, strict=True)), upright=0.0,
        )  # fmt: skip

    step_S = [float(step) for step in range(_MOST_SENIOR + 1)]
    ratios = tuple(
        Line(name=name, x=step_S, y=_mean_ratios(latent, name).tolist(), style="dashed" if name == BLIND else "line")
        for name in ("naive", BLIND, "IPW", "DR", "uniform")
    )
    return Chart(
        name="selection",
        title="What selection by retrieval costs, and what weights give back",
        caption="Log loss on uniform exposure over that of a model of equally many uniform rows, with 95 % intervals "
        "paired by marketplace; and predicted over true clicks by the seniority of the job, where 1 is right.",
        description="Two panels of three marks each, naive, IPW and DR, with a latent and without; and lines of "
        "predicted over true clicks by seniority for five trainings.",
        panels=(
            costs(latent, "With a latent in retrieval"),
            costs(own, "Own features alone"),
            Panel(title="By seniority, with a latent", x_label="job's seniority", y_label="predicted / true",
                  lines=ratios),
        ),
    )  # fmt: skip
