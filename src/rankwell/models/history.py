"""The member's recent events through a light Transformer, once a request; and how its candidates read them.

Letters: R requests · C candidates, flat · H events, flat · T places of the longest history, the null event's included ·
W row width · D model width · K candidates of one request.

Source: Kang and McAuley 2018, "Self-attentive sequential recommendation", ICDM (causal, all positions); Xia et al.
2023, "TransAct", KDD, §3.3 (the last steps and the maximum); Zhou et al. 2018, "Deep interest network for click-through
rate prediction", KDD (a candidate asks).
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Annotated, final

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import embedding

from rankwell.data.statistics import NumericStatistics
from rankwell.models.attention import CrossAttention, SelfAttention
from rankwell.models.head_watch import WatchedLayers
from rankwell.models.layers import LayerStack, PreNormLayer
from rankwell.models.numeric_inputs import EventInputs
from rankwell.models.padding import Padding, padding_of
from rankwell.schema import Categorical, Schema
from rankwell.schema.transforms import Declaration
from rankwell.types import Events

__all__ = ["EncodedHistory", "HistoryEncoder", "HistorySettings", "TargetAttention"]


@final
class HistorySettings(Declaration):
    """How a history is encoded.

    Args:
        width: D.
        num_layers: 1, 2, 4, 12, …
        num_heads: Of each layer; divides the width.
        feed_forward: Width inside each layer's feed-forward, in widths.
        dropout: Of the inputs, and of what each layer adds.
        is_causal: Whether an event sees only those before it: then every event's state can be trained to foretell the
            next one.
        shares_layers: Whether all layers are one.
        knows_order: Whether an event knows how many came after it; its age it knows wherever the log has times.
        num_last: How many of the latest states `EncodedHistory.pooled` gives, beside their maximum.
    """

    width: Annotated[int, Field(ge=1, le=1024)] = 64
    num_layers: Annotated[int, Field(ge=0, le=48)] = 2
    num_heads: Annotated[int, Field(ge=1)] = 4
    feed_forward: Annotated[int, Field(ge=1, le=16)] = 4
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    is_causal: bool = True
    shares_layers: bool = False
    knows_order: bool = True
    num_last: Annotated[int, Field(ge=1, le=64)] = 4


@final
@dataclass(frozen=True, slots=True)
class EncodedHistory:
    """States of the histories of a batch: of the null event, which always is, and of each event after it.

    Args:
        states_RTD: Padded.
        padding: Where they stand.
    """

    states_RTD: Tensor
    padding: Padding

    @property
    def event_HD(self) -> Tensor:
        """The state of each event; where the encoder is causal, of what the member had done by then."""
        return self.padding.unpad(self.states_RTD)

    @property
    def null_RD(self) -> Tensor:
        """The state before the first event."""
        return self.states_RTD[:, 0]

    @property
    def last_RD(self) -> Tensor:
        """The state of the last event; of the null event where there is no other."""
        return self.padding.last(self.states_RTD)

    def pooled(self, num_last: int) -> Tensor:
        """R × (num_last + 1)·D: the latest states, the newest first (the null event's where there are fewer), and the
        maximum over all."""
        places = (self.padding.lengths_B.unsqueeze(1) - torch.arange(num_last)).clamp(min=0)
        latest = self.states_RTD.gather(1, places.unsqueeze(2).expand(-1, -1, self.states_RTD.shape[2])).flatten(1)
        standing = self.padding.valid_BL.unsqueeze(2)
        highest_RD = self.states_RTD.masked_fill(~standing, -torch.inf).amax(1)
        return torch.cat([latest, highest_RD], dim=1)


@final
class HistoryEncoder(nn.Module):
    """Rows, numerics and ages of events, through one linear layer and Transformer layers; each request's once.

    A learned null event stands before every history, so that an empty one is no special case.

    Args:
        schema: Declares the sequence.
        statistics: Measured on `train`.
        sequence: Its name.
        row_width: W.
        settings: See `HistorySettings`.
        own_at: Where among an event's rows the one begins that goes round the linear layer: it is added as it is, √D
            times (Vaswani et al. 2017, §3.4), and as wide as the model. None has every row go through it.
    """

    def __init__(
        self,
        schema: Schema,
        statistics: NumericStatistics,
        sequence: str,
        *,
        row_width: int,
        settings: HistorySettings,
        own_at: int | None = None,
    ) -> None:
        super().__init__()
        declared = next(declared for declared in schema.sequences if declared.name == sequence)
        self.width, self._longest = settings.width, declared.max_length
        num_ids = sum(isinstance(field, Categorical) for field in declared.fields)
        self.inputs = EventInputs(schema, statistics, sequence)
        self._own_at = own_at
        mapped_width = num_ids * row_width + self.inputs.width - (0 if own_at is None else self.width)
        self.project = nn.Linear(mapped_width, self.width) if mapped_width else None
        self.null = nn.Parameter(torch.randn(self.width) * self.width**-0.5)
        # by recency: the newest event is 0, however long the history
        self.order = nn.Parameter(torch.randn(self._longest + 1, self.width) * 0.02) if settings.knows_order else None
        self.dropout = nn.Dropout(settings.dropout)
        self.layers = LayerStack(
            lambda: PreNormLayer(
                SelfAttention(self.width, num_heads=settings.num_heads, is_causal=settings.is_causal),
                width=self.width, hidden=settings.feed_forward * self.width, dropout=settings.dropout,
            ),
            settings.num_layers, width=self.width, shares_layers=settings.shares_layers,
        )  # fmt: skip

    def forward(self, event_HW: Tensor, events: Events, watched: WatchedLayers | None = None) -> EncodedHistory:
        """The states of all requests' histories.

        Args:
            event_HW: Rows of the events' fields, side by side.
            events: Their numerics, ages and offsets.
            watched: Told what the heads attend to.
        """
        padding = padding_of(events.offsets, event_HW.shape[0], num_free=1)
        x_RTD = padding.pad(self._read(event_HW, self.inputs(events)))
        is_null_T1 = (torch.arange(x_RTD.shape[1]) == 0).unsqueeze(1)
        x_RTD = torch.where(is_null_T1, self.null, x_RTD)
        if self.order is not None:
            x_RTD = x_RTD + embedding(padding.recency_BL, self.order)
        x_RTD = self.dropout(x_RTD)
        request_R = torch.arange(len(x_RTD))
        with nullcontext() if watched is None else watched.over(self.layers, padding, request_B=request_R):
            return EncodedHistory(self.layers(x_RTD, padding.valid_BL), padding)

    def _read(self, event_HW: Tensor, numeric_HN: Tensor) -> Tensor:
        """H × D, each event alone."""
        if self._own_at is None:
            return self._mapped(event_HW, numeric_HN)
        before_HW, own_HD, after_HW = event_HW.tensor_split((self._own_at, self._own_at + self.width), dim=1)
        own_HD = own_HD * math.sqrt(self.width)
        return own_HD if self.project is None else own_HD + self._mapped(before_HW, after_HW, numeric_HN)

    def _mapped(self, *blocks: Tensor) -> Tensor:
        assert self.project is not None
        mapped: Tensor = self.project(torch.cat(blocks, dim=1))
        return mapped


@final
class TargetAttention(nn.Module):
    """What each candidate takes from the history of its request.

    Args:
        width: D of candidates.
        history_width: D of the states.
        num_heads: Divides the states' width.
    """

    def __init__(self, width: int, history_width: int, *, num_heads: int) -> None:
        super().__init__()
        self.project = nn.Linear(width, history_width)
        self.attention = CrossAttention(history_width, num_heads=num_heads)

    def forward(self, candidate_CD: Tensor, offsets: Tensor, history: EncodedHistory) -> Tensor:
        """C × D of the states.

        Args:
            candidate_CD: Of the candidates.
            offsets: int64 of R + 1, of the candidates.
            history: Of the same requests.
        """
        candidates = padding_of(offsets, candidate_CD.shape[0])
        asking_RKD = candidates.pad(self.project(candidate_CD))
        return candidates.unpad(self.attention(asking_RKD, history.states_RTD, history.padding.valid_BL))
