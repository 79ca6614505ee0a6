"""Heads whose meaning one can name, against learned ones: quality, whether they mean what they are called, and cost.

One Transformer over the list, with heads of different kinds, learns the clicks of two marketplaces: that of the
simulation, in which what stands beside a job says next to nothing of its click, and one in which better paid jobs of
the same title and, for senior members alone, near by take clicks from it. There one knows which heads have something to
do, and for whom.

Letters: C candidates of a request.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

import numpy as np
import torch

from rankwell.data.batches import Batches
from rankwell.models.candidate_list import ListEncoder
from rankwell.models.head_gates import StaticGates
from rankwell.models.specialised_attention import SpecialisedAttention
from rankwell.models.transformer import RankingTransformer
from rankwell.serving.head_inspection import LayerInspection, inspect_heads
from rankwell.studies.head_result import HeadFindings, Outcome, result_of, result_of_cutting
from rankwell.studies.head_variants import GATED, LEARNED, SEGMENT, VARIANTS, Variant, recipe_of
from rankwell.studies.list_cost import median_ms, times_in_turns
from rankwell.studies.rivals import with_rivals
from rankwell.studies.study import StudyResult, joined, simulated
from rankwell.training.trained import TrueProbabilities, judge, train

__all__ = ["encoder_times", "study_heads"]

_LIST_SIZE: Final = 500
_ROUNDS: Final = 15
_INSPECTED: Final = 1000

Logs = Callable[[int, int], AbstractContextManager[tuple[Path, TrueProbabilities]]]


def study_heads(
    *, seeds: Sequence[int], num_requests: int = 8_000, say: Callable[[str], None] = lambda _: None
) -> StudyResult:
    """Fixed, learned, mixed, guided and gated heads on two marketplaces a seed.

    Args:
        seeds: At least two.
        num_requests: Of each log.
        say: Told what is going on.

    Returns:
        By marketplace and variant: calibrated log loss, AUC and nDCG@10 on test, with paired 95 % intervals over
        learned heads; how much more than evenly heads attend to what they are named after, how alike they are, how
        many stay open, and the time of the list encoder for 500 candidates before and after closed heads are cut out;
        and that time by how many heads are left, whoever closed them.
    """
    marketplaces: dict[str, Logs] = {"with rivals": with_rivals, "as it is": simulated}
    parts = []
    for marketplace, logs in marketplaces.items():
        found: dict[str, list[Outcome]] = {variant.name: [] for variant in VARIANTS}
        for seed in seeds:
            with logs(seed, num_requests) as (data, truth):
                for variant in VARIANTS:
                    outcome = _outcome(variant, data, truth, seed)
                    found[variant.name].append(outcome)
                    still = "" if outcome.heads is None else f", {outcome.heads.num_open:.1f} of 4 heads open"
                    say(f"{marketplace}, seed {seed}: {variant.name}, log loss {outcome.log_loss:.4f}{still}")
        parts.append(result_of(marketplace, found))
    parts.append(result_of_cutting({left: _cut_time(left) for left in range(4, -1, -1)}))
    return joined("heads", parts)


def encoder_times(encoder: ListEncoder, shares: Mapping[int, float], *, rounds: int = _ROUNDS) -> tuple[float, float]:
    """Time of a list encoder for one request of 500 candidates, eager, in those of one of four learned heads.

    Args:
        encoder: Of four heads.
        shares: By segment that gates depend on, the share of requests.
        rounds: The figure is the median of so many, in which all take turns.

    Returns:
        As it is, and after the heads that are closed are cut out: the mean over segments, each with its own graph.
    """
    assert LEARNED.settings.list is not None
    width = LEARNED.settings.width
    learned = ListEncoder(recipe_of(LEARNED).schema, LEARNED.settings.list, width=width)
    x_CD, rank_C, offsets = torch.randn(_LIST_SIZE, width), torch.rand(_LIST_SIZE), torch.tensor([0, _LIST_SIZE])

    def step(of: ListEncoder, segment: int | None) -> Callable[[], None]:
        of.eval()
        segment_R = None if segment is None else torch.tensor([segment])

        def run() -> None:
            with torch.inference_mode():
                of(x_CD, offsets, rank_C, segment_R)

        return run

    segments = [None] if encoder.segment is None else list(shares)
    steps = {"learned": step(learned, None), "uncut": step(encoder, segments[0])}
    steps |= {f"cut {segment}": step(encoder.pruned(segment), None) for segment in segments}
    times = median_ms(times_in_turns(steps, rounds=rounds))
    cut = sum((1.0 if segment is None else shares[segment]) * times[f"cut {segment}"] for segment in segments)
    return times["uncut"] / times["learned"], cut / times["learned"]


def _cut_time(num_left: int) -> float:
    """Of an encoder of which so many heads are left, the others having been cut out."""
    settings = GATED.settings
    assert settings.list is not None
    layout = {group.name: group.width for group in settings.groups}
    encoder = ListEncoder(recipe_of(GATED).schema, settings.list, width=settings.width, layout=layout)
    (attention,) = encoder.layers.attentions
    assert isinstance(attention, SpecialisedAttention)
    assert isinstance(attention.gates, StaticGates)
    with torch.no_grad():
        attention.gates.location[num_left:] = -9.0  # far below where a gate is exactly 0
    return encoder_times(encoder, {})[1]


def _outcome(variant: Variant, data: Path, truth: TrueProbabilities, seed: int) -> Outcome:
    recipe = recipe_of(variant)
    trained = train(recipe, data, seed=seed)
    model = trained.model
    assert isinstance(model, RankingTransformer)
    judged = judge(recipe, model, trained.calibrators, data, truth=truth).calibrated
    assert judged.truth is not None
    heads = None
    if model.among is not None:
        (layer,) = inspect_heads(model, recipe.batches("tune", data, seed=0), num_requests=_INSPECTED).layers
        shares = _segment_shares(recipe.batches("tune", data, seed=None))
        uncut, cut = encoder_times(model.among, shares)
        heads = _findings(layer, variant, shares, uncut, cut)
    return Outcome(
        log_loss=judged.log_loss, auc=judged.auc, ndcg=judged.ndcg[10], bayes_log_loss=judged.truth.bayes_log_loss,
        heads=heads,
    )  # fmt: skip


def _findings(
    layer: LayerInspection, variant: Variant, shares: Mapping[int, float], uncut: float, cut: float
) -> HeadFindings:
    lifts = [{name: row.mass_on[name] / row.even_mass_on[name] for name in layer.relations} for row in layer.rows]
    num = len(layer.reads)
    gates = {s: layer.gates.get(s, layer.gates.get(None, (1.0,) * num)) for s in shares}
    return HeadFindings(
        reads=layer.reads,
        named={head: lifts[head].get(relation, float("nan")) for head, relation in variant.relations.items()},
        strongest=tuple(max(of.values()) for of in lifts),
        overlap=float(layer.overlap_JJ[~np.eye(num, dtype=np.bool_)].mean()),
        gates=gates,
        shares=shares,
        auc_lost=tuple(lost.value for lost in layer.auc_lost),
        uncut_time=uncut,
        cut_time=cut,
    )


def _segment_shares(batches: Batches) -> dict[int, float]:
    found: list[int] = []
    for batch in batches:
        segment_R = batch.features.context[SEGMENT]
        assert isinstance(segment_R, torch.Tensor)
        found += segment_R.tolist()
    return {segment: found.count(segment) / len(found) for segment in sorted(set(found))}
