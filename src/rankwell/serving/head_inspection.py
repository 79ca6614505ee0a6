"""What the heads of a model attend to, what their gates do, and what is lost without each: measured on requests.

Letters: J heads · R requests · C candidates, flat.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, final

import torch

from rankwell.errors import RecipeError, RequestError, UndefinedMetricWarning
from rankwell.evaluation.attention_maps import DISTANCES, AttentionMaps, HeadRow, head_rows
from rankwell.evaluation.auc_difference import AucDifference, auc_difference
from rankwell.evaluation.discrimination import auc
from rankwell.evaluation.sample import Floats
from rankwell.models.attention import ListAttention, SoftmaxAttention, without_head
from rankwell.models.head_gates import HeadGates, SegmentGates
from rankwell.models.head_watch import HeadWatch, Near, SameValue
from rankwell.models.layers import LayerStack
from rankwell.models.model import Model
from rankwell.models.specialised_attention import LearnedHead, SpecialisedAttention
from rankwell.models.transformer import RankingTransformer
from rankwell.schema import Schema
from rankwell.training.predictions import predict
from rankwell.types import Batch

__all__ = ["NEAR_KM", "HeadInspection", "LayerInspection", "inspect_heads"]

NEAR_KM: Final = 80.5
"""How far apart two places are at most that are near each other: 50 miles."""
_MOST_PLACES: Final = 64
_MOST_SHARES: Final = 2**24
"""Of all maps together: 128 MiB; where lists are long, fewer entries of each ask."""


@final
@dataclass(frozen=True, kw_only=True)
class LayerInspection:
    """The heads of one layer, or of one pass where layers are shared; what is a layer's is then equal in all passes.

    Args:
        name: The stack, "list" or a sequence, and the number of the pass: "list.0".
        reads: What each head reads: "learned" all that the layers before left, "fed title" one group of features and
            nothing else, "primed title" all, from a start that is one group's.
        rows: What each head attends to; none where the layer has no maps.
        overlap_JJ: Cosines between the maps of two heads; 0 × 0 where the layer has none.
        gates: By segment the gate of each head, of eval mode; under None where gates depend on no segment; nothing
            where there are no gates.
        auc_lost: By head, what the first action's AUC loses when it is cut out and nothing is trained anew.
    """

    name: str
    reads: tuple[str, ...]
    rows: tuple[HeadRow, ...]
    overlap_JJ: Floats
    gates: Mapping[int | None, tuple[float, ...]]
    auc_lost: tuple[AucDifference, ...]

    @property
    def relations(self) -> tuple[str, ...]:
        """Those that some entry has to another one."""
        even = self.rows[0].even_mass_on if self.rows else {}
        return tuple(name for name, share in even.items() if share == share)  # not NaN

    def numbers(self) -> dict[str, float]:
        """Flat names to numbers, behind ``<name>.<head>/``."""
        values: dict[str, float] = {}
        for j, lost in enumerate(self.auc_lost):
            found = {"auc_lost": lost.value, "auc_lost_low": lost.interval.low, "auc_lost_high": lost.interval.high}
            for segment, gates in self.gates.items():
                found["gate" if segment is None else f"gate/{segment}"] = gates[j]
            if self.rows:
                found |= _row_numbers(self.rows[j])
            values |= {f"{self.name}.{j}/{name}": value for name, value in found.items()}
        return values


@final
@dataclass(frozen=True, kw_only=True)
class HeadInspection:
    """The heads of all layers of a model.

    Args:
        num_requests, num_candidates: What they were measured on.
        action: The first one, whose AUC it is.
        auc: With all heads.
        segment: What gates depend on; None where they depend on nothing.
        layers: Those of the histories, then those of the list, in the order of passes.
    """

    num_requests: int
    num_candidates: int
    action: str
    auc: float
    segment: str | None
    layers: tuple[LayerInspection, ...]

    def numbers(self) -> dict[str, float]:
        """Flat names to numbers."""
        values: dict[str, float] = {
            "requests": self.num_requests, "candidates": self.num_candidates, "auc": self.auc
        }  # fmt: skip
        for layer in self.layers:
            values |= layer.numbers()
        return values


def inspect_heads(model: Model, batches: Iterable[Batch], *, num_requests: int = 2000, seed: int = 0) -> HeadInspection:
    """Run a model over a sample of requests, once as it is and once without each head.

    The relations are: the same value, for each categorical of candidates but the item, and for each field of a
    sequence; and places within `NEAR_KM`. The sample is held in memory. The model is left as it was.

    Args:
        model: A `RankingTransformer` with layers of attention.
        batches: Of whole requests; as many are read as hold `num_requests`.
        num_requests: About how many are looked at, ≥ 1.
        seed: Of which entries ask where lists are long.

    Raises:
        RecipeError: The model has no heads.
        RequestError: There is no request.

    >>> import pyarrow as pa
    >>> from rankwell.data.batches import Batches
    >>> from rankwell.data.log import log_from_table
    >>> from rankwell.data.split import WholeLog
    >>> from rankwell.data.statistics import NumericStatistics
    >>> from rankwell.schema import Action, Categorical
    >>> schema = Schema(features=(Categorical(name="job", num_ids=9),), actions=(Action(name="click"),),
    ...                 member_id=None, time=None)
    >>> table = pa.table({"request_id": [1, 1, 2, 2], "job": [7, 8, 7, 8], "click": [0, 1, 0, 1]})
    >>> batches = Batches(log_from_table(table, schema), WholeLog("train"), "train", num_requests=2, seed=None)
    >>> model = RankingTransformer(schema, NumericStatistics(), seed=0)
    >>> [(layer.name, layer.reads) for layer in inspect_heads(model, batches).layers]
    [('list.0', ('learned', 'learned', 'learned', 'learned'))]

    Source: Voita et al. 2019, "Analyzing multi-head self-attention", ACL (what heads attend to, and pruning them).
    """
    stacks = _stacks(model)
    sample = _sample(batches, num_requests)
    assert isinstance(model, RankingTransformer)
    with warnings.catch_warnings(), _watched(model, None):
        warnings.simplefilter("ignore", UndefinedMetricWarning)  # what is undefined is NaN, and shown as such
        maps = _maps(model, stacks, sample, seed)
        measure = _AucMeter(model, sample)
        lost: dict[ListAttention, tuple[AucDifference, ...]] = {}
        for stack in stacks.values():
            for attention in set(stack.attentions) - set(lost):
                lost[attention] = tuple(measure.lost(attention, head) for head in range(attention.num_heads))
        layers = []
        for name, stack in stacks.items():
            for number, attention in enumerate(stack.attentions):
                found = maps.get(f"{name}.{number}")
                layers.append(
                    LayerInspection(
                        name=f"{name}.{number}",
                        reads=_reads(attention),
                        rows=() if found is None else head_rows(found),
                        overlap_JJ=torch.zeros(0, 0).double().numpy() if found is None else found.overlap(),
                        gates=_gates(attention, model, sample),
                        auc_lost=lost[attention],
                    )
                )
    return HeadInspection(
        num_requests=sum(batch.features.num_requests for batch in sample),
        num_candidates=sum(batch.features.num_candidates for batch in sample),
        action=model.schema.actions[0].name,
        auc=measure.auc,
        segment=None if model.among is None else model.among.segment,
        layers=tuple(layers),
    )


@final
class _AucMeter:
    """AUC of the first action on one sample, with all heads and without one."""

    def __init__(self, model: Model, sample: Sequence[Batch]) -> None:
        self._model, self._sample = model, sample
        predictions = predict(model, sample)
        logits_C, self._labels_C, self._weights_C, known_C = predictions.of_action(0)
        self._request_C = predictions.request_C[known_C]
        self._whole_C = logits_C.double().sigmoid()
        self.auc = auc(self._whole_C, self._labels_C, self._weights_C)

    def lost(self, attention: ListAttention, head: int) -> AucDifference:
        with without_head(attention, head):
            logits_C, *_ = predict(self._model, self._sample).of_action(0)
        return auc_difference(
            self._whole_C, logits_C.double().sigmoid(), self._labels_C, self._weights_C, cluster_C=self._request_C
        )


def _stacks(model: Model) -> dict[str, LayerStack]:
    found: dict[str, LayerStack] = {}
    if isinstance(model, RankingTransformer):
        found = {sequence: history.layers for sequence, history in model.encoders.items()}
        if model.among is not None:
            found["list"] = model.among.layers
    if not any(stack.attentions for stack in found.values()):
        raise RecipeError(
            "the model has no heads of attention to look into", found=type(model).__name__,
            allowed="a RankingTransformer whose list or histories pass through at least one layer",
            do="train one, see rankwell.models.transformer.TransformerSettings",
        )  # fmt: skip
    return found


def _sample(batches: Iterable[Batch], num_requests: int) -> list[Batch]:
    sample, num = [], 0
    for batch in batches:
        sample.append(batch)
        num += batch.features.num_requests
        if num >= num_requests:
            break
    if not num:
        raise RequestError("heads are looked into on requests, and there is none", found="no request", allowed="≥ 1")
    return sample


def _maps(
    model: RankingTransformer, stacks: Mapping[str, LayerStack], sample: Sequence[Batch], seed: int
) -> dict[str, AttentionMaps]:
    parts: dict[str, list[AttentionMaps]] = {
        f"{name}.{number}": []
        for name, stack in stacks.items()
        for number, attention in enumerate(stack.attentions)
        if isinstance(attention, SoftmaxAttention) and attention.num_heads
    }
    watch = HeadWatch(num_places=_num_places(stacks, sample), relations=_relations(model.schema))
    with _watched(model, watch), torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for batch in sample:
            attention = model.encode(batch.features).attention
            for layer, found in parts.items():
                if f"{layer}.maps" in attention:  # a batch without candidates has none
                    found.append(AttentionMaps.of(attention, layer))
    return {layer: AttentionMaps.joined(found) for layer, found in parts.items() if found}


@contextmanager
def _watched(model: RankingTransformer, watch: HeadWatch | None) -> Iterator[None]:
    own, was_training = model.watch, model.training
    model.watch = watch
    model.eval()
    try:
        yield
    finally:
        model.watch = own
        model.train(was_training)


def _num_places(stacks: Mapping[str, LayerStack], sample: Sequence[Batch]) -> int:
    num_shares = 0
    for batch in sample:
        features = batch.features
        for name, stack in stacks.items():
            offsets = features.offsets if name == "list" else features.history[name].offsets
            longest = int(offsets.diff().max()) + 1
            num_shares += features.num_requests * longest * sum(layer.num_heads for layer in stack.attentions)
    return max(1, min(_MOST_PLACES, _MOST_SHARES // max(num_shares, 1)))


def _relations(schema: Schema) -> tuple[SameValue | Near, ...]:
    categoricals = [name for name in SameValue.known(schema) if name != schema.item]  # an item stands in a list once
    for sequence in schema.sequences:
        categoricals += SameValue.known(schema, sequence.name)
    same = [SameValue(name=name, feature=name) for name in dict.fromkeys(categoricals)]
    return (*same, *(Near(name=name, place=name, km=NEAR_KM) for name in Near.known(schema)))


def _reads(attention: ListAttention) -> tuple[str, ...]:
    if not isinstance(attention, SpecialisedAttention):
        return ("learned",) * attention.num_heads
    return tuple(h.kind if isinstance(h, LearnedHead) else f"{h.kind} {h.group}" for h in attention.heads)


@torch.no_grad()
def _gates(
    attention: ListAttention, model: RankingTransformer, sample: Sequence[Batch]
) -> dict[int | None, tuple[float, ...]]:
    gates: HeadGates | None = attention.gates if isinstance(attention, SpecialisedAttention) else None
    if gates is None:
        return {}
    if not isinstance(gates, SegmentGates):
        return {None: tuple(gates.settled().tolist())}
    assert model.among is not None  # gates that depend on a segment are the list's alone
    segments = [model.among.segments(batch.features) for batch in sample]
    occurring = {id_ for segment_R in segments if segment_R is not None for id_ in segment_R.tolist()}
    return {segment: tuple(gates.settled(segment).tolist()) for segment in sorted(occurring)}


def _row_numbers(row: HeadRow) -> dict[str, float]:
    found: dict[str, float] = {"entropy": row.entropy, "even_entropy": row.even_entropy, "overlap": row.overlap}
    if row.most_alike is not None:
        found["most_alike"] = row.most_alike
    for name, by_name in (("mass_on", row.mass_on), ("even_mass_on", row.even_mass_on)):
        found |= {f"{name}/{relation}": share for relation, share in by_name.items()}
    of_bins = {
        "by_distance": row.by_distance, "even_by_distance": row.even_by_distance,
        "by_recency": row.by_recency, "even_by_recency": row.even_by_recency,
    }  # fmt: skip
    for name, shares in of_bins.items():
        found |= {f"{name}/{start}": share for start, share in zip(DISTANCES, shares, strict=True)}
    return found
