"""What a ranker gains that reads what the member just did, and what stands beside each candidate.

Wide & Deep reads a history by the means of its rows. The Transformer reads it event by event and lets candidates see
each other. A mood that just changed shows in the latest events alone: there the gain is shown apart.

Letters: C candidates, flat · R requests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table

from rankwell.evaluation.report import Evaluation, evaluate
from rankwell.simulation.recipe import HISTORY, TRANSFORMER, WIDE_DEEP, marketplace_recipe
from rankwell.simulation.truth import Truth, read_truth
from rankwell.studies.chart import Chart, Line, Panel
from rankwell.studies.study import Gain, StudyResult, gain_of, shown, simulated
from rankwell.training.predictions import predict
from rankwell.training.recipe import Recipe
from rankwell.training.trained import Trained, train

__all__ = ["study_transformer"]

_KINDS: Final = (WIDE_DEEP, HISTORY, TRANSFORMER)
_GROUPS: Final = ("all", "usual", "changed")
_SHOWN: Final = {"all": "all requests", "usual": "mood as usual", "changed": "mood just changed"}


def study_transformer(
    *, seeds: Sequence[int], num_requests: int = 40_000, say: Callable[[str], None] = lambda _: None
) -> StudyResult:
    """Wide & Deep, the same with its history read event by event, and that with candidates that see each other.

    Each seed is a fresh marketplace, a fresh log and fresh models. In half of the requests the member is after another
    industry than their own: the truth tells which; no model sees it but by the latest events.

    Args:
        seeds: At least two.
        num_requests: Of each log.
        say: Told what is going on.

    Returns:
        Log loss (calibrated), AUC and nDCG@10 on test, and paired 95 % intervals of the gains over Wide & Deep: over
        all requests, where the mood is as usual, and where it just changed.
    """
    found: dict[str, list[_Judged]] = {kind.name: [] for kind in _KINDS}
    for seed in seeds:
        with simulated(seed, num_requests) as (data, _):
            truth = read_truth(data / "truth")
            for kind in _KINDS:
                say(f"seed {seed}: {kind.name}")
                recipe = marketplace_recipe(kind)
                found[kind.name].append(_judged(recipe, train(recipe, data, seed=seed), data, truth))
    return _result(found)


@final
@dataclass(frozen=True, slots=True)
class _Judged:
    """By group of requests, its evaluation on test; and what share of requests just changed their mood."""

    by_group: Mapping[str, Evaluation]
    changed_rate: float

    def numbers(self, group: str) -> dict[str, float]:
        of = self.by_group[group]
        return {"log_loss": of.log_loss, "auc": of.auc, "ndcg@10": of.ndcg[10]}


def _judged(recipe: Recipe, trained: Trained, data: Path, truth: Truth) -> _Judged:
    predictions = predict(trained.model, recipe.batches("test", data, seed=None), ("industry",))
    logits_C, labels_C, weights_C, known_C = predictions.of_action(0)
    assert known_C.all()  # a simulated click is always observed
    probabilities_C = trained.calibrators["click"](logits_C, torch.zeros(len(logits_C), 0, dtype=torch.int64))
    request_C = predictions.request_C.numpy()
    first_C = np.diff(request_C, prepend=-1) != 0
    of_requests = truth.of_requests(predictions.request_ids_C.numpy()[first_C])
    changed_R = of_requests.wanted_industry_R != predictions.segments["industry"].numpy()[first_C]
    changed_C = changed_R[request_C]
    true_C = of_requests.probabilities["click"]

    def of(counts_C: NDArray[np.bool_]) -> Evaluation:
        return evaluate(
            probabilities_C.numpy()[counts_C], logits_C.numpy()[counts_C], labels_C.numpy()[counts_C],
            weights_C.numpy()[counts_C], request_C=request_C[counts_C], true_probabilities_C=true_C[counts_C], seed=0,
        )  # fmt: skip

    masks = {"all": np.ones(len(changed_C), dtype=np.bool_), "usual": ~changed_C, "changed": changed_C}
    return _Judged({group: of(mask) for group, mask in masks.items()}, float(changed_R.mean()))


def _result(found: Mapping[str, Sequence[_Judged]]) -> StudyResult:
    numbers: dict[str, float] = {}
    num_seeds = len(found[WIDE_DEEP.name])
    numbers["changed_rate"] = float(np.mean([judged.changed_rate for judged in found[WIDE_DEEP.name]]))
    levels = Table(title=f"test split, calibrated; mean ± sd over {num_seeds} seeds")
    for heading in ("model", "requests", "log loss", "AUC", "nDCG@10", "mean |p − true p|"):
        levels.add_column(heading, justify="left" if heading in ("model", "requests") else "right")
    for name, judged in found.items():
        for group in _GROUPS:
            columns = _columns(judged, group)
            errors = [of.by_group[group].truth for of in judged]
            columns["error_to_truth"] = [error.mean_absolute_error for error in errors if error is not None]
            numbers |= {f"{name}/{group}/{label}": float(np.mean(values)) for label, values in columns.items()}
            levels.add_row(name, _SHOWN[group], *(shown(values) for values in columns.values()))
    for group in _GROUPS:
        truths = [judged.by_group[group].truth for judged in found[WIDE_DEEP.name]]
        bayes = [truth.bayes_log_loss for truth in truths if truth is not None]
        numbers[f"bayes/{group}/log_loss"] = float(np.mean(bayes))
        levels.add_row("the truth (Bayes)", _SHOWN[group], shown(bayes), "", "", "")
    gains, table = _gains(found, numbers)
    return StudyResult("transformer", (levels, table), _finding(gains), numbers, (_chart(gains),))


def _gains(
    found: Mapping[str, Sequence[_Judged]], numbers: dict[str, float]
) -> tuple[dict[tuple[str, str], dict[str, Gain]], Table]:
    table = Table(title="gain over Wide & Deep, paired by seed, with its 95 % interval")
    for heading in ("model", "requests", "log loss (nats saved)", "AUC", "nDCG@10"):
        table.add_column(heading)
    gains: dict[tuple[str, str], dict[str, Gain]] = {}
    for name in (HISTORY.name, TRANSFORMER.name):
        for group in _GROUPS:
            whole, base = _columns(found[name], group), _columns(found[WIDE_DEEP.name], group)
            of = {label: gain_of(whole[label], base[label]) for label in ("auc", "ndcg@10")}
            of = {"log_loss": gain_of(base["log_loss"], whole["log_loss"]), **of}
            gains[name, group] = of
            for label, gain in of.items():
                numbers |= {f"gain/{name}/{group}/{label}/{end}": value for end, value in gain.numbers().items()}
            table.add_row(name, _SHOWN[group], *map(str, of.values()))
    return gains, table


def _finding(gains: Mapping[tuple[str, str], Mapping[str, Gain]]) -> str:
    whole = gains[TRANSFORMER.name, "all"]["log_loss"]
    history = gains[HISTORY.name, "all"]["log_loss"]
    changed, usual = (gains[TRANSFORMER.name, group]["log_loss"] for group in ("changed", "usual"))
    beats = "beats" if whole.low > 0 else "does not surely beat"
    return (
        f"Read event by event and seen in its list, a candidate's probability {beats} Wide & Deep's by {whole} nats, "
        f"the history alone by {history}.\nWhere the mood just changed the gain is {changed} nats, where it is as "
        f"usual {usual}: {_compared(changed, usual)}"
    )


def _compared(changed: Gain, usual: Gain) -> str:
    if changed.low > usual.high:
        return "surely more, for the mean of a history is slow to change."
    if changed.mean > usual.mean:
        return "more, though the intervals overlap."
    return "no more."


def _chart(gains: Mapping[tuple[str, str], Mapping[str, Gain]]) -> Chart:
    panels = []
    for label, title, unit in (
        ("log_loss", "Log loss saved", "nats"), ("auc", "AUC gained", "AUC"), ("ndcg@10", "nDCG@10 gained", "nDCG@10"),
    ):  # fmt: skip
        lines = [Line(name="", x=[-0.3, len(_GROUPS) - 0.7], y=[0.0, 0.0], style="dashed")]
        for shift, name in ((-0.08, HISTORY.name), (0.08, TRANSFORMER.name)):
            of = [gains[name, group][label] for group in _GROUPS]
            lines.append(
                Line(
                    name=name,
                    x=[place + shift for place in range(len(_GROUPS))],
                    y=[gain.mean for gain in of],
                    low=[gain.low for gain in of],
                    high=[gain.high for gain in of],
                    style="dots",
                )
            )  # fmt: skip
        names = {float(place): name for place, name in enumerate(("all", "mood as usual", "just changed"))}
        panels.append(Panel(title=title, x_label="requests", y_label=unit, lines=tuple(lines), x_names=names))
    return Chart(
        name="gains",
        title="What history and list gain over Wide & Deep",
        caption="Test split of simulated marketplaces, calibrated; means and 95 % intervals, paired by seed.",
        description="Gains in log loss, AUC and nDCG@10 over Wide & Deep, over all requests and by mood.",
        panels=tuple(panels),
    )


def _columns(judged: Sequence[_Judged], group: str) -> dict[str, list[float]]:
    rows = [of.numbers(group) for of in judged]
    return {label: [row[label] for row in rows] for label in rows[0]}
