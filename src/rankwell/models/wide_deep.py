"""Logistic regression over crosses, a deep network over embeddings, and both trained jointly.

Letters: R requests · C candidates, flat · A actions · D width of the last hidden layer · W row width.

Source: Cheng et al. 2016, "Wide & Deep Learning for Recommender Systems", DLRS.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, final

import torch
from pydantic import Field
from torch import Tensor, nn

from rankwell.data.statistics import NumericStatistics
from rankwell.models.embedding import CrossColumns, FeatureColumns, RowLookup, Rows
from rankwell.models.inputs import DenseInputs, row_tables
from rankwell.models.layers import spread
from rankwell.models.model import Model, ModelSettings
from rankwell.models.numeric_inputs import DistanceInputs, NumericInputs
from rankwell.schema import Schema
from rankwell.tables.table import Table
from rankwell.types import Encoded, Features

__all__ = [
    "Deep",
    "DeepPart",
    "DeepSettings",
    "Logistic",
    "LogisticSettings",
    "WideDeep",
    "WideDeepSettings",
    "WidePart",
]

Rate = Annotated[float, Field(ge=0, lt=1)]
Sightings = Annotated[int, Field(ge=1, le=255)]


@final
class LogisticSettings(ModelSettings):
    """Settings of `Logistic`, and of the wide part of `WideDeep`.

    Args:
        default_rate: Share of ids that read (and train) the default row in training; at 0 with `admission` 1 nothing
            trains it, and an unseen id reads zeros.
        admission: Sightings before an id has a row of its own.
        cross_default_rate: The same share for crosses. A cross that memorises too well starves what generalises;
            dropping it at random makes both learn.
        cross_admission: Sightings before a conjunction has a row of its own.
    """

    default_rate: Rate = 0.01
    admission: Sightings = 1
    cross_default_rate: Rate = 0.01
    cross_admission: Sightings = 1


@final
class DeepSettings(ModelSettings):
    """Settings of `Deep`, and of the deep part of `WideDeep`.

    Args:
        width: W, of every row.
        hidden: Widths of the hidden layers.
        dropout: After each hidden layer.
        batch_norm: Before each activation.
        init_scale: Rows start uniform in ± this.
        default_rate, admission: As in `LogisticSettings`.
    """

    width: Annotated[int, Field(ge=1, le=1024)] = 16
    hidden: tuple[Annotated[int, Field(ge=1)], ...] = (256, 128)
    dropout: Rate = 0.0
    batch_norm: bool = False
    init_scale: Annotated[float, Field(ge=0)] = 0.05
    default_rate: Rate = 0.01
    admission: Sightings = 1


@final
class WideDeepSettings(ModelSettings):
    """Settings of `WideDeep`: those of its two parts."""

    wide: LogisticSettings = LogisticSettings()
    deep: DeepSettings = DeepSettings()


@final
class WidePart(nn.Module):
    """Σ of one weight a feature value and action: every id column, every cross, and every numeric input.

    Weights of ids are rows of width A, so they cost the batch and not the vocabulary; bags and history count by their
    mean. Crosses stand in a table of their own, because they want another rule than ids do.
    """

    def __init__(self, schema: Schema, statistics: NumericStatistics, settings: LogisticSettings, seed: int) -> None:
        super().__init__()
        self._num_actions = num_actions = len(schema.actions)
        self.tables: dict[str, Table] = {}
        self.lookups = nn.ModuleDict()
        of_features, of_crosses = FeatureColumns(schema, statistics), CrossColumns(schema, statistics)
        for part, columns, rate, admission in (
            ("wide", of_features, settings.default_rate, settings.admission),
            ("crosses", of_crosses, settings.cross_default_rate, settings.cross_admission),
        ):
            if columns.specs:
                self.tables[part] = Table(
                    row_tables(columns.specs),
                    width=num_actions,
                    seed=seed,
                    init_scale=0.0,
                    admission=admission,
                    default_rate=rate,
                )
                self.lookups[part] = RowLookup(columns, self.tables[part])
        self.on_request = NumericInputs(schema, statistics, "request")
        self.on_candidate = NumericInputs(schema, statistics, "candidate")
        self.distances = DistanceInputs(schema)
        self.request_weights = nn.Parameter(torch.zeros(self.on_request.width, num_actions))
        self.candidate_weights = nn.Parameter(torch.zeros(self.on_candidate.width + self.distances.width, num_actions))

    def forward(self, features: Features) -> Tensor:
        """The part's logits_CA, without a bias."""
        # products over nothing are left out: they are zeros here, and in an int8 graph whatever stood in memory
        wide_CA = torch.zeros(features.num_candidates, self._num_actions)
        if self.candidate_weights.shape[0]:
            numerics_CN = self.on_candidate(features.candidates, features.num_candidates)
            wide_CA = torch.cat([numerics_CN, self.distances(features)], dim=1) @ self.candidate_weights
        request_RA = torch.zeros(features.num_requests, self._num_actions)
        if self.request_weights.shape[0]:
            request_RA = self.on_request(features.context, features.num_requests) @ self.request_weights
        for lookup in self.lookups.values():
            rows: Rows = lookup(features)
            if rows.candidate_CW.shape[1]:
                wide_CA = wide_CA + self._summed(rows.candidate_CW)
            if rows.request_RW.shape[1]:
                request_RA = request_RA + self._summed(rows.request_RW)
        return wide_CA + spread(request_RA, features.request_C)

    def _summed(self, rows: Tensor) -> Tensor:
        return rows.view(rows.shape[0], rows.shape[1] // self._num_actions, self._num_actions).sum(1)


@final
class DeepPart(nn.Module):
    """`DenseInputs`, concatenated, through hidden layers: linear, [batch norm], ReLU, [dropout]."""

    def __init__(self, schema: Schema, statistics: NumericStatistics, settings: DeepSettings, seed: int) -> None:
        super().__init__()
        self.inputs = DenseInputs(
            schema, statistics, width=settings.width, seed=seed, init_scale=settings.init_scale,
            default_rate=settings.default_rate, admission=settings.admission, gives_events=False,
        )  # fmt: skip
        self.tables: dict[str, Table] = {} if self.inputs.table is None else {"deep": self.inputs.table}
        width = self.inputs.width
        layers: list[nn.Module] = []
        for hidden in settings.hidden:
            layers.append(nn.Linear(width, hidden))
            if settings.batch_norm:
                layers.append(nn.BatchNorm1d(hidden))
            layers.append(nn.ReLU(inplace=True))  # its backward needs the output alone
            if settings.dropout:
                layers.append(nn.Dropout(settings.dropout))
            width = hidden
        self.layers = nn.Sequential(*layers)
        self.width: int = width

    def forward(self, features: Features) -> Tensor:
        """The last hidden layer, C × D."""
        inputs = self.inputs(features)
        parts = [inputs.candidate_CN]
        if self.inputs.request_width:
            parts.append(inputs.request_RN[features.request_C])
        if self.inputs.match_width:
            parts.append(inputs.match_CN)
        hidden_CD: Tensor = self.layers(torch.cat(parts, dim=1) if len(parts) > 1 else parts[0])
        return hidden_CD


@final
class Logistic(Model):
    """Wide only: p(action) = σ(b + Σ w), a weight for each feature value and each declared cross.

    >>> from rankwell.data.statistics import NumericStatistics
    >>> from rankwell.schema import Action, Categorical, Cross
    >>> schema = Schema(features=(Categorical(name="a", num_ids=9), Categorical(name="b", num_ids=9)),
    ...                 crosses=(Cross(of=("a", "b"), num_rows=64),), actions=(Action(name="click"),))
    >>> {part: table.num_rows for part, table in Logistic(schema, NumericStatistics(), seed=0).tables.items()}
    {'wide': 22, 'crosses': 66}
    """

    settings_class: ClassVar[type[ModelSettings]] = LogisticSettings

    def __init__(
        self, schema: Schema, statistics: NumericStatistics, settings: LogisticSettings | None = None, *, seed: int
    ) -> None:
        settings = settings or LogisticSettings()
        super().__init__(schema, statistics, settings, seed=seed)
        self.wide = WidePart(schema, statistics, settings, seed)
        self.bias = nn.Parameter(torch.zeros(len(schema.actions)))
        self.tables = self.wide.tables
        self.linear_parts = frozenset(self.wide.tables)

    def encode(self, features: Features) -> Encoded:
        """One column an action: the sum of the weights."""
        return Encoded(torch.zeros(features.num_requests, 0), self.wide(features), {})

    def head(self, encoded: Encoded) -> Tensor:
        """Adds the bias."""
        return encoded.candidate_CD + self.bias


@final
class Deep(Model):
    """Deep only: embeddings and normalised numerics through a multilayer perceptron.

    >>> from rankwell.data.statistics import NumericStatistics
    >>> from rankwell.schema import Action, Categorical
    >>> schema = Schema(features=(Categorical(name="job", num_ids=100),), actions=(Action(name="click"),))
    >>> Deep(schema, NumericStatistics(), DeepSettings(width=8, hidden=(32,)), seed=0).tables["deep"].num_rows
    102
    """

    settings_class: ClassVar[type[ModelSettings]] = DeepSettings

    def __init__(
        self, schema: Schema, statistics: NumericStatistics, settings: DeepSettings | None = None, *, seed: int
    ) -> None:
        settings = settings or DeepSettings()
        super().__init__(schema, statistics, settings, seed=seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.deep = DeepPart(schema, statistics, settings, seed)
            self.last = nn.Linear(self.deep.width, len(schema.actions))
        self.tables = self.deep.tables

    def encode(self, features: Features) -> Encoded:
        """The last hidden layer."""
        return Encoded(torch.zeros(features.num_requests, 0), self.deep(features), {})

    def head(self, encoded: Encoded) -> Tensor:
        """One linear layer."""
        logits_CA: Tensor = self.last(encoded.candidate_CD)
        return logits_CA


@final
class WideDeep(Model):
    """Wide & Deep, trained jointly: p = σ(b + wide + deep); the wide part memorises, the deep part generalises.

    >>> from rankwell.data.statistics import NumericStatistics
    >>> from rankwell.schema import Action, Categorical
    >>> schema = Schema(features=(Categorical(name="job", num_rows=100),), actions=(Action(name="click"),))
    >>> sorted(WideDeep(schema, NumericStatistics(), seed=0).tables)
    ['deep', 'wide']
    """

    settings_class: ClassVar[type[ModelSettings]] = WideDeepSettings

    def __init__(
        self, schema: Schema, statistics: NumericStatistics, settings: WideDeepSettings | None = None, *, seed: int
    ) -> None:
        settings = settings or WideDeepSettings()
        super().__init__(schema, statistics, settings, seed=seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.wide = WidePart(schema, statistics, settings.wide, seed)
            self.deep = DeepPart(schema, statistics, settings.deep, seed)
            self.last = nn.Linear(self.deep.width, len(schema.actions))
        self.tables = {**self.wide.tables, **self.deep.tables}
        self.linear_parts = frozenset(self.wide.tables)

    def encode(self, features: Features) -> Encoded:
        """The last hidden layer, then the wide part's sum for each action."""
        return Encoded(
            torch.zeros(features.num_requests, 0), torch.cat([self.deep(features), self.wide(features)], dim=1), {}
        )

    def head(self, encoded: Encoded) -> Tensor:
        """One linear layer over the hidden layer, plus the wide part's sum."""
        hidden_CD, wide_CA = torch.split(encoded.candidate_CD, [self.deep.width, len(self.schema.actions)], dim=1)
        logits_CA: Tensor = self.last(hidden_CD) + wide_CA
        return logits_CA
