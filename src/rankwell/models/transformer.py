"""A ranker that reads what the member just did and what stands beside each candidate, over Wide & Deep.

Letters: R requests · C candidates, flat · H events, flat · A actions · N inputs · D width of the body.

Source: the history as a causal Transformer (Kang and McAuley 2018, ICDM) that candidates ask (Zhou et al. 2018, KDD),
its latest states and maximum beside (Xia et al. 2023, "TransAct", KDD); candidates that see each other (Pei et al.
2019, "Personalized re-ranking for recommendation", RecSys); Wide & Deep below (Cheng et al. 2016, DLRS).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, final

import torch
from pydantic import Field
from torch import Tensor, nn

from rankwell.data.statistics import NumericStatistics
from rankwell.errors import RecipeError
from rankwell.models.action_heads import ActionHeadSettings, SharedBottomSettings, make_action_heads
from rankwell.models.candidate_list import ListEncoder, ListSettings
from rankwell.models.feature_groups import FeatureGroup, GroupCoordinates
from rankwell.models.head_watch import HeadWatch, WatchedLayers
from rankwell.models.history import EncodedHistory, HistoryEncoder, HistorySettings, TargetAttention
from rankwell.models.inputs import DenseInputs
from rankwell.models.layers import linear_of_both
from rankwell.models.model import Model, ModelSettings
from rankwell.models.wide_deep import LogisticSettings, WidePart
from rankwell.schema import Schema
from rankwell.types import Encoded, Features

__all__ = ["RankingTransformer", "TransformerSettings"]

Width = Annotated[int, Field(ge=1, le=4096)]
Rate = Annotated[float, Field(ge=0, lt=1)]


@final
class TransformerSettings(ModelSettings):
    """Settings of `RankingTransformer`.

    Args:
        row_width: W, of every row.
        width: D, of a candidate's vector.
        hidden: Widths of the layers between a candidate's inputs and its vector.
        history: How each sequence of the schema is encoded; None reads histories by their means, as Wide & Deep does.
        list: How the candidates of a request see each other; None has each stand alone.
        groups: Features that stand apart in a candidate's vector, for heads of the list that are fed with them alone;
            together narrower than `width`.
        actions: What turns a candidate's vector into the logits of all actions.
        watch: What the objective is to see of the heads' maps, in the list and in each history; None for nothing.
        wide: Of the wide part; None leaves it out.
        dropout: After each hidden layer.
        init_scale: Rows start uniform in ± this.
        default_rate, admission: As in `rankwell.models.wide_deep.LogisticSettings`.
    """

    row_width: Annotated[int, Field(ge=1, le=1024)] = 16
    width: Width = 64
    hidden: tuple[Width, ...] = (128,)
    history: HistorySettings | None = HistorySettings()
    list: ListSettings | None = ListSettings()
    groups: tuple[FeatureGroup, ...] = ()
    actions: ActionHeadSettings = SharedBottomSettings()
    watch: HeadWatch | None = None
    wide: LogisticSettings | None = LogisticSettings()
    dropout: Rate = 0.0
    init_scale: Annotated[float, Field(ge=0)] = 0.05
    default_rate: Rate = 0.01
    admission: Annotated[int, Field(ge=1, le=255)] = 1


@final
class RankingTransformer(Model):
    """Histories encoded once a request and read by its candidates; then candidates that see each other; then heads.

    ``logits_CA = heads(among(hidden(inputs, what the candidate takes from the history, its latest states))) + wide``

    >>> from rankwell.schema import Action, Categorical, Sequence
    >>> item = Categorical(name="item", on="event", table="job")
    >>> schema = Schema(features=(Categorical(name="job", table="job", num_rows=100),), actions=(Action(name="click"),),
    ...                 sequences=(Sequence(name="history", fields=(item,)),))
    >>> sorted(RankingTransformer(schema, NumericStatistics(), seed=0).tables)
    ['deep', 'wide']
    """

    settings_class: ClassVar[type[ModelSettings]] = TransformerSettings

    def __init__(
        self, schema: Schema, statistics: NumericStatistics, settings: TransformerSettings | None = None, *, seed: int
    ) -> None:
        settings = settings or TransformerSettings()
        super().__init__(schema, statistics, settings, seed=seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.inputs = DenseInputs(
                schema, statistics, width=settings.row_width, seed=seed, init_scale=settings.init_scale,
                default_rate=settings.default_rate, admission=settings.admission,
                gives_events=settings.history is not None,
            )  # fmt: skip
            self._sequences = tuple(s.name for s in schema.sequences) if settings.history is not None else ()
            self.histories, self.asks, self.pools = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
            width = self.inputs.width
            for name in self._sequences:
                of = settings.history
                assert of is not None
                encoder = HistoryEncoder(schema, statistics, name, row_width=settings.row_width, settings=of)
                self.histories.append(encoder)
                self.asks.append(TargetAttention(self.inputs.candidate_width, of.width, num_heads=of.num_heads))
                self.pools.append(nn.Linear((of.num_last + 1) * of.width, of.width))
                width += 2 * of.width
            self.groups = _groups(settings, self.inputs)
            own_width = settings.width - (0 if self.groups is None else self.groups.width)
            self.hidden = _perceptron(width, (*settings.hidden, own_width), settings.dropout)
            self.among = None
            if settings.list is not None:
                layout = None if self.groups is None else self.groups.layout
                self.among = ListEncoder(schema, settings.list, width=settings.width, layout=layout)
            self.heads = make_action_heads(settings.actions, settings.width, len(schema.actions))
            self.wide = None if settings.wide is None else WidePart(schema, statistics, settings.wide, seed)
        self.watch = settings.watch
        if self.watch is not None:
            self.watch.check(schema)
        self._num_last = 0 if settings.history is None else settings.history.num_last
        self._width = settings.width
        deep = {} if self.inputs.table is None else {"deep": self.inputs.table}
        wide = {} if self.wide is None else self.wide.tables
        self.tables = {**wide, **deep}
        self.linear_parts = frozenset(wide)

    @property
    def encoders(self) -> dict[str, HistoryEncoder]:
        """The encoder of each sequence, by its name."""
        encoders = [encoder for encoder in self.histories if isinstance(encoder, HistoryEncoder)]
        return dict(zip(self._sequences, encoders, strict=True))

    def encode(self, features: Features) -> Encoded:
        """A candidate's vector, then the wide part's sum for each action; a request's pooled histories."""
        inputs = self.inputs(features)
        watched: dict[str, WatchedLayers] = {}
        histories = self._histories(features, inputs.event_HW, watched)
        pooled = [
            pool(history.pooled(self._num_last)) for pool, history in zip(self.pools, histories.values(), strict=True)
        ]
        request_RN = torch.cat([inputs.request_RN, *pooled], dim=1)
        taken = [
            ask(inputs.candidate_CN, features.offsets, history)
            for ask, history in zip(self.asks, histories.values(), strict=True)
        ]
        own_CN = torch.cat([inputs.candidate_CN, inputs.match_CN, *taken], dim=1)
        first, *others = self.hidden
        assert isinstance(first, nn.Linear)
        candidate_CD = linear_of_both(first, own_CN, request_RN, features.request_C)
        for layer in others:
            candidate_CD = layer(candidate_CD)
        if self.groups is not None:
            candidate_CD = torch.cat([self.groups(inputs.candidate_CN), candidate_CD], dim=1)
        if self.among is not None:
            if self.watch is not None:
                watched["list"] = self.watch.of(self.schema).begin("list", features.candidates)
            candidate_CD = self.among(
                candidate_CD, features.offsets, self.among.rank_values(features), self.among.segments(features),
                watched.get("list"),
            )  # fmt: skip
        parts = [candidate_CD] if self.wide is None else [candidate_CD, self.wide(features)]
        return Encoded(
            torch.cat(pooled, dim=1) if pooled else torch.zeros(features.num_requests, 0),
            torch.cat(parts, dim=1),
            {name: tensor for layers in watched.values() for name, tensor in layers.tensors().items()},
            {name: history.event_HD for name, history in histories.items()},
        )

    def head(self, encoded: Encoded) -> Tensor:
        """The heads over a candidate's vector, plus the wide part's sum."""
        logits_CA: Tensor = self.heads(encoded.candidate_CD[:, : self._width])
        return logits_CA if self.wide is None else logits_CA + encoded.candidate_CD[:, self._width :]

    def _histories(
        self, features: Features, event_HW: Mapping[str, Tensor], watched: dict[str, WatchedLayers]
    ) -> dict[str, EncodedHistory]:
        histories = {}
        for name, encoder in zip(self._sequences, self.histories, strict=True):
            events = features.history[name]
            if self.watch is not None:
                watched[name] = self.watch.of(self.schema, name).begin(name, events.columns)
            histories[name] = encoder(event_HW[name], events, watched.get(name))
        return histories


def _groups(settings: TransformerSettings, inputs: DenseInputs) -> GroupCoordinates | None:
    if not settings.groups:
        return None
    width = sum(group.width for group in settings.groups)
    if width >= settings.width:
        raise RecipeError(
            "groups of features leave no room in a candidate's vector", found=f"{width} coordinates",
            allowed=f"fewer than {settings.width}", do="make the groups narrower, or the vector wider",
        )  # fmt: skip
    return GroupCoordinates(settings.groups, inputs.candidate_coordinates, num_inputs=inputs.candidate_width)


def _perceptron(width: int, widths: tuple[int, ...], dropout: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for hidden in widths:
        layers += [nn.Linear(width, hidden), nn.GELU()]
        if dropout:
            layers.append(nn.Dropout(dropout))
        width = hidden
    return nn.Sequential(*layers)
