"""What stands beside each candidate: the list of a request through Transformer layers, out in the order it came in.

Letters: R requests · C candidates, flat · D width · B lists of a block · L places of a block.

Source: Pei et al. 2019, "Personalized re-ranking for recommendation", RecSys (a Transformer over the initial list);
Vaswani et al. 2017, "Attention is all you need", NeurIPS, §3.5 (sinusoids).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Annotated, Final, Literal, Self, final

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import pad

from rankwell.errors import RecipeError, RequestError, SchemaError
from rankwell.models.head_gates import SegmentGateSettings
from rankwell.models.head_watch import WatchedLayers
from rankwell.models.layers import LayerStack, PreNormLayer
from rankwell.models.list_attention import AttentionSettings, FullSettings, LocalSettings, make_list_attention
from rankwell.models.padding import ManyLists, OneList, Padding
from rankwell.models.specialised_attention import SpecialisedSettings, routed, without_closed_heads
from rankwell.schema import Categorical, Numeric, Schema
from rankwell.schema.transforms import Declaration
from rankwell.types import Features

__all__ = ["ListEncoder", "ListSettings"]

_PLACES_OF_A_BLOCK: Final = 256
"""What one more block costs, in places that a padded block leaves empty."""
_LONGEST_WAVE: Final = 10_000.0

_BEYOND_RANKS: Final = 2.0**110


@final
class ListSettings(Declaration):
    """How the candidates of a request see each other.

    Args:
        attention: Who sees whom, and how: `FullSettings`, `LocalSettings`, `LinearSettings` or `SpecialisedSettings`.
        num_layers: How many layers.
        feed_forward: Width inside each layer's feed-forward, in widths.
        dropout: Of the inputs, and of what each layer adds.
        shares_layers: Whether all layers are one.
        rank: The numeric feature of candidates that orders the initial list, highest first, such as a retrieval score;
            a missing value comes last, and equal ones in the order they came in. Local attention needs one.
        rank_encoding: Whether a candidate knows its place in the initial list, and how: by a vector that is learned for
            each place, or by sinusoids.
        max_candidates: A request of more is refused.

    Raises:
        RecipeError: There is no `rank`, and what is declared needs it.

    >>> from rankwell.models.list_attention import LinearSettings
    >>> ListSettings(attention=LinearSettings(num_heads=2)).attention.kind
    'linear'
    """

    attention: AttentionSettings = FullSettings()
    num_layers: Annotated[int, Field(ge=0, le=48)] = 1
    feed_forward: Annotated[int, Field(ge=1, le=16)] = 4
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    shares_layers: bool = False
    rank: str | None = None
    rank_encoding: Literal["learned", "sinusoidal"] | None = None
    max_candidates: Annotated[int, Field(ge=1, le=65_536)] = 2000

    @model_validator(mode="after")
    def _has_the_rank_it_needs(self) -> Self:
        is_local = isinstance(self.attention, LocalSettings)
        if self.rank is None and (is_local or self.rank_encoding is not None):
            raise RecipeError(
                f"{'local attention' if is_local else 'an encoding of the rank'} needs an initial ranking",
                found="rank=None", allowed="the name of a numeric feature of candidates, the highest first",
                do="declare it, such as rank='retrieval_score', or choose full or linear attention without an encoding",
            )  # fmt: skip
        return self


@final
class ListEncoder(nn.Module):
    """Candidates that know of those beside them: pre-LN Transformer layers over each request's list.

    Without a rank the order of candidates means nothing: where they are permuted, so are the results. With one the same
    holds as long as no two of a request have an equal rank. Nothing passes from one request to another.

    Args:
        schema: Declares the rank.
        settings: See `ListSettings`.
        width: D.
        layout: The width of each group of features that candidates bring, from coordinate 0 on, side by side; what is
            known of a candidate's place in the initial list stands beyond. By default there are no groups.

    Raises:
        SchemaError: The rank is no numeric feature of candidates, the gates' segment no categorical of requests, or a
            head is of a group that is not there.
        RecipeError: The width cannot be shared among the heads.

    >>> from rankwell.schema import Action, Categorical
    >>> schema = Schema(features=(Categorical(name="job"), Numeric(name="match")), actions=(Action(name="click"),))
    >>> encoder = ListEncoder(schema, ListSettings(rank="match"), width=8)
    >>> encoder(torch.randn(3, 8), torch.tensor([0, 1, 3]), torch.tensor([0.2, 0.1, 0.4])).shape
    torch.Size([3, 8])
    """

    waves: Tensor | None

    def __init__(
        self, schema: Schema, settings: ListSettings, *, width: int, layout: Mapping[str, int] | None = None
    ) -> None:
        super().__init__()
        if settings.rank is not None:
            _check_rank(schema, settings.rank)
        self.rank, self.max_candidates = settings.rank, settings.max_candidates
        self.segment = _segment_of_gates(schema, settings.attention)
        self._grouped = sum((layout or {}).values())
        most, encoding, free = settings.max_candidates, settings.rank_encoding, width - self._grouped
        self.place = nn.Parameter(torch.randn(most, free) * 0.02) if encoding == "learned" else None
        self.register_buffer("waves", _waves(most, free) if encoding == "sinusoidal" else None, persistent=False)
        self.dropout = nn.Dropout(settings.dropout)
        self.layers = LayerStack(
            lambda: PreNormLayer(
                make_list_attention(settings.attention, width, layout),
                width=width, hidden=settings.feed_forward * width, dropout=settings.dropout,
            ),
            settings.num_layers, width=width, shares_layers=settings.shares_layers,
        )  # fmt: skip

    def rank_values(self, features: Features) -> Tensor | None:
        """The column that `forward` orders by; None where no rank is declared."""
        if self.rank is None:
            return None
        rank_C = features.candidates[self.rank]
        assert isinstance(rank_C, Tensor)  # of a numeric
        return rank_C

    def segments(self, features: Features) -> Tensor | None:
        """The segment of each request that its gates depend on; None where they depend on none."""
        if self.segment is None:
            return None
        segment_R = features.context[self.segment]
        assert isinstance(segment_R, Tensor)  # of a categorical
        return segment_R

    def pruned(self, segment: int | None = None) -> ListEncoder:
        """A copy without gates and without the heads that they close, equal in eval mode: what is exported.

        Args:
            segment: Where gates depend on one: equal in that segment alone; None is for segments that nothing is known
                of.
        """
        encoder = without_closed_heads(self, segment)
        assert isinstance(encoder, ListEncoder)
        encoder.segment = None
        return encoder

    def forward(
        self,
        x_CD: Tensor,
        offsets: Tensor,
        rank_C: Tensor | None,
        segment_R: Tensor | None = None,
        watched: WatchedLayers | None = None,
    ) -> Tensor:
        """C × D, in the order of `x_CD`.

        Args:
            x_CD: The candidates.
            offsets: int64 of R + 1.
            rank_C: What `rank_values` gives.
            segment_R: What `segments` gives.
            watched: Told what the heads attend to.

        Raises:
            RequestError: A request has more candidates than the settings allow.
            SchemaError: The rank is declared and not given, or the other way round.
        """
        self._check(offsets, x_CD.shape[0], rank_C)
        if x_CD.shape[0] == 0:
            return x_CD
        came_from, encoded = [], []
        for block in _blocks(offsets, x_CD.shape[0], rank_C):
            with ExitStack() as stack:
                if segment_R is not None:
                    stack.enter_context(routed(self.layers, segment_R[block.request_B]))
                if watched is not None:
                    over = watched.over(
                        self.layers, block.padding, request_B=block.request_B, entry_n=block.entry_n
                    )  # fmt: skip
                    stack.enter_context(over)
                encoded.append(self._encoded(x_CD[block.entry_n], block.padding))
            came_from.append(block.entry_n)
        x_CD = torch.cat(encoded)
        return torch.empty_like(x_CD).index_copy(0, torch.cat(came_from), x_CD)

    def _encoded(self, x_nD: Tensor, padding: Padding) -> Tensor:
        x_BLD = padding.pad(x_nD)
        place = self.waves if self.place is None else self.place
        if place is not None:
            x_BLD = x_BLD + pad(place[: x_BLD.shape[1]], (self._grouped, 0))
        return padding.unpad(self.layers(self.dropout(x_BLD), padding.valid_BL))

    def _check(self, offsets: Tensor, num_candidates: int, rank_C: Tensor | None) -> None:
        if (rank_C is None) != (self.rank is None):
            raise SchemaError(
                "candidates can be ordered by the declared rank alone",
                found="no values" if rank_C is None else "values, and rank=None", allowed=f"rank={self.rank!r}",
                do="give what rank_values(features) gives",
            )  # fmt: skip
        if num_candidates > self.max_candidates and (longest := int(offsets.diff().max())) > self.max_candidates:
            raise RequestError(
                f"request {int(offsets.diff().argmax())} of the batch has too many candidates to see each other",
                found=f"{longest:,} candidates", allowed=f"at most {self.max_candidates:,}",
                do="retrieve fewer, or train with a larger max_candidates in the settings of the list",
            )  # fmt: skip


def _check_rank(schema: Schema, rank: str) -> None:
    allowed = [f.name for f in schema.visible_features if isinstance(f, Numeric) and f.on == "candidate"]
    if rank not in allowed:
        known = {feature.name: feature for feature in schema.visible_features}
        found = f"a {known[rank].kind} on the {known[rank].on}" if rank in known else "no feature"
        raise SchemaError(
            f"rank {rank!r} cannot order candidates", found=found, allowed=allowed,
            do="name a numeric feature of candidates, or declare one",
        )  # fmt: skip


def _segment_of_gates(schema: Schema, attention: AttentionSettings) -> str | None:
    if not isinstance(attention, SpecialisedSettings) or not isinstance(attention.gates, SegmentGateSettings):
        return None
    name = attention.gates.segment
    known = [f.name for f in schema.visible_features if isinstance(f, Categorical) and f.on == "request"]
    if name not in known:
        raise SchemaError(
            f"gates cannot depend on segment {name!r}", found="no categorical feature of requests", allowed=known,
            do="name a categorical feature of requests, or declare one",
        )  # fmt: skip
    return name


def _waves(length: int, width: int) -> Tensor:
    """sin and cos of place / 10000^(2i / D), in turns."""
    pace = torch.exp(torch.arange(0, width, 2) * (-math.log(_LONGEST_WAVE) / width))
    angle = torch.arange(length).unsqueeze(1) * pace
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)[:, :width]


@final
@dataclass(frozen=True, slots=True)
class _Block:
    """Lists that are encoded together: whose they are, which candidates stand where, and their padding."""

    request_B: Tensor
    entry_n: Tensor
    padding: Padding


def _blocks(offsets: Tensor, num_candidates: int, rank_C: Tensor | None) -> list[_Block]:
    if offsets.shape[0] == 2:  # a request by itself, as it is served: nothing to look for in the lengths
        order_C = (
            torch.arange(num_candidates)
            if rank_C is None
            else _order_keys(rank_C).argsort(descending=True, stable=True)
        )
        return [_Block(torch.zeros(1, dtype=torch.int64), order_C, OneList(num_candidates))]
    lengths_R = offsets.diff()
    order_C = torch.arange(num_candidates) if rank_C is None else _best_first(lengths_R, rank_C)
    blocks = []
    for takes_R in _like_lengths(lengths_R):
        lengths_B = lengths_R[takes_R]
        padding = ManyLists(torch.cat([lengths_B.new_zeros(1), lengths_B.cumsum(0)]))
        blocks.append(_Block(takes_R.nonzero().flatten(), order_C[takes_R.repeat_interleave(lengths_R)], padding))
    return blocks


def _order_keys(rank_C: Tensor) -> Tensor:
    """float64, no two of them alike: by rank, float32, NaN last, and of equal ranks the first is the largest.

    So a sort that is not stable gives the same order, as ONNX Runtime's is not on a GPU. What 2²⁴ places take off is
    less than half of the way to the next float32 below, be it a subnormal one. Constants are powers of two that float32
    has, too: a traced graph keeps no others.
    """
    known_C = torch.where(rank_C.isnan(), -torch.inf, rank_C).double() * 2.0**-20
    known_C = known_C.clamp(-_BEYOND_RANKS, _BEYOND_RANKS)
    place_C = torch.arange(rank_C.shape[0], dtype=torch.float64)
    return known_C - known_C.abs() * 2.0**-50 * place_C - place_C * 2.0**-100 * 2.0**-95


def _best_first(lengths_R: Tensor, rank_C: Tensor) -> Tensor:
    """int64: which candidates stand where, if each request's are sorted by rank, stably."""
    by_rank = _order_keys(rank_C).argsort(descending=True, stable=True)
    request_C = torch.arange(len(lengths_R)).repeat_interleave(lengths_R)
    return by_rank[request_C[by_rank].argsort(stable=True)]


def _like_lengths(lengths_R: Tensor) -> list[Tensor]:
    """Bool masks of the requests that share a block: those of one power of two, and of the next where that pads little.

    A request without candidates is in none.
    """
    power_R = torch.frexp((lengths_R - 1).clamp(min=0).double())[1]  # n with 2ⁿ⁻¹ < length ≤ 2ⁿ
    power_R = torch.where(lengths_R > 0, power_R, -1)
    groups: list[Tensor] = []
    for power in torch.unique(power_R).tolist():
        if power < 0:
            continue
        takes_R = power_R == power
        if groups:
            shorter_R = lengths_R[groups[-1]]
            padded = len(shorter_R) * int(lengths_R[takes_R].max() - shorter_R.max())
            if padded <= _PLACES_OF_A_BLOCK:
                takes_R |= groups.pop()
        groups.append(takes_R)
    return groups
