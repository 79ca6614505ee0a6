"""Two towers: what a member did, in order, against items; any set of items is ranked by one product.

Letters: R requests · C candidates, flat · H events, flat · U items · A actions · N inputs · W row width · D vectors.

Source: Kang and McAuley 2018, "Self-attentive sequential recommendation", ICDM (the state of a causal Transformer
against the rows that it reads); Covington et al. 2016, "Deep neural networks for YouTube recommendations", RecSys (a
request's vector against items').
"""

from __future__ import annotations

from typing import Annotated, ClassVar, final

import torch
from pydantic import Field
from torch import Tensor, nn

from rankwell.data.statistics import NumericStatistics
from rankwell.errors import SchemaError
from rankwell.models.embedding import FeatureColumns, RowLookup, list_means
from rankwell.models.history import HistoryEncoder, HistorySettings
from rankwell.models.inputs import row_tables
from rankwell.models.length_groups import entries_of, length_groups
from rankwell.models.model import Model, ModelSettings
from rankwell.models.numeric_inputs import NumericInputs
from rankwell.schema import Categorical, Schema
from rankwell.tables.quotient_remainder import composed_rows, part_columns
from rankwell.tables.table import Table
from rankwell.types import Encoded, Events, Features

__all__ = ["NextItem", "NextItemSettings", "sequence_of_items"]


@final
class NextItemSettings(ModelSettings):
    """Settings of `NextItem`.

    Args:
        history: How the history of items is encoded; its width is that of all vectors and rows, and it is causal.
        scale: Where the weights a of a vector's numbers start.
        init_scale: Rows start uniform in ± this. The history reads them √width times as large.
        default_rate, admission: As in `rankwell.models.wide_deep.LogisticSettings`. An item dropped to the default row
            is still what came next, so that row learns to rank as an item of average popularity; at 0 it stays 0,
            and so does the logit of an item that training never met.
    """

    history: HistorySettings = HistorySettings()
    scale: Annotated[float, Field(gt=0)] = 1.0
    init_scale: Annotated[float, Field(ge=0)] = 0.05
    default_rate: Annotated[float, Field(ge=0, lt=1)] = 0.01
    admission: Annotated[int, Field(ge=1, le=255)] = 1


@final
class NextItem(Model):
    """``logit_CA = Σ_d a_dA · u_d · v_d + b_A``, u of the request and v of the candidate.

    u is the state after the latest event of the history of items, plus a linear map of all else that is known of the
    request (of other sequences the means of their rows); v is the item's row, the same that the history reads, plus a
    linear map of all else that is known of the candidate. Distances belong to neither, and are left out.

    The history reads an item's row as it is, √width times (Vaswani et al. 2017, §3.4), plus a linear map of all else
    that is known of the event: so what stands near each other among the events stands near each other among the
    candidates. Behind a map drawn at random the same model lost 12 to 28 % of its nDCG; see RESEARCH_LOG.md.

    ``Encoded.event_HD`` is the state after each event, so that every position can be trained
    (`rankwell.training.next_item.NextItemObjective`). It is of the history alone: what else is known of a request is
    known at its end, and could tell an event what came after it. `item_vectors` ranks items that are no candidates. A
    logit so trained orders the items of one request and says nothing of how likely a click is: it is about which item
    comes next, given that one does.

    Args:
        schema: Names the `item`, and has a sequence with a field of the same table.
        statistics, settings, seed: As every `Model`.

    Raises:
        SchemaError: There is no `item`, or no sequence of such items; or the encoder is not causal.

    >>> from rankwell.schema import Action, Sequence
    >>> item = Categorical(name="item", on="event", table="job")
    >>> schema = Schema(features=(Categorical(name="job", num_ids=100),), actions=(Action(name="click"),), item="job",
    ...                 sequences=(Sequence(name="history", fields=(item,)),))
    >>> model = NextItem(schema, NumericStatistics(), seed=0).eval()
    >>> (torch.randn(3, 64) @ model.item_vectors(torch.arange(100)).T).shape  # every item, for three requests
    torch.Size([3, 100])
    """

    settings_class: ClassVar[type[ModelSettings]] = NextItemSettings

    def __init__(
        self, schema: Schema, statistics: NumericStatistics, settings: NextItemSettings | None = None, *, seed: int
    ) -> None:
        settings = settings or NextItemSettings()
        super().__init__(schema, statistics, settings, seed=seed)
        self.sequence, event_field, table = sequence_of_items(schema)
        if not settings.history.is_causal:
            raise SchemaError(
                "states that foretell the next item must not see it", found="is_causal=False", allowed="is_causal=True"
            )
        self.item_table = schema.table_specs()[table]
        width = settings.history.width
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            columns = FeatureColumns(schema, statistics, averages_history=False)
            rows = Table(
                row_tables(columns.specs), width=width, seed=seed, init_scale=settings.init_scale,
                admission=settings.admission, default_rate=settings.default_rate,
            )  # fmt: skip
            self.tables = {"items": rows}
            self.rows = RowLookup(columns, rows)
            self.history = HistoryEncoder(
                schema, statistics, self.sequence, row_width=width, settings=settings.history,
                own_at=self._place_of(event_field) * width,
            )  # fmt: skip
            self.on_request = NumericInputs(schema, statistics, "request")
            self.on_candidate = NumericInputs(schema, statistics, "candidate")
            others = sum(len(of) for name, of in columns.event_tables.items() if name != self.sequence)
            request_width = self.rows.request_width + self.on_request.width + others * width
            candidate_width = self.rows.candidate_width - width + self.on_candidate.width
            self.request = nn.Linear(request_width, width, bias=False) if request_width else None
            self.candidate = nn.Linear(candidate_width, width, bias=False) if candidate_width else None
        candidates = [name for name, side in columns.ids.side.items() if side == "candidate"]
        self._item_at = candidates.index(schema.item or "") * width
        self._width = width
        self.scale = nn.Parameter(torch.full((width, len(schema.actions)), settings.scale))
        self.bias = nn.Parameter(torch.zeros(len(schema.actions)))

    def encode(self, features: Features) -> Encoded:
        """u of each request, the state after each event; of each candidate u ⊙ v."""
        rows = self.rows(features)
        request_RD, event_HD = self._states(rows.event_HW[self.sequence], features.history[self.sequence])
        if self.request is not None:
            others = [
                list_means(event_HW, features.history[name].offsets)
                for name, event_HW in rows.event_HW.items()
                if name != self.sequence
            ]
            numeric_RN = self.on_request(features.context, features.num_requests)
            request_RD = request_RD + self.request(torch.cat([rows.request_RW, numeric_RN, *others], dim=1))
        before_CW, item_CD, after_CW = rows.candidate_CW.tensor_split((self._item_at, self._item_at + self._width), 1)
        if self.candidate is not None:
            numeric_CN = self.on_candidate(features.candidates, features.num_candidates)
            item_CD = item_CD + self.candidate(torch.cat([before_CW, after_CW, numeric_CN], dim=1))
        candidate_CD = request_RD[features.request_C] * item_CD
        return Encoded(request_RD, candidate_CD, {}, {self.sequence: event_HD}, self.item_vectors)

    def head(self, encoded: Encoded) -> Tensor:
        """Σ_d a_dA · u_d · v_d + b_A."""
        return encoded.candidate_CD @ self.scale + self.bias

    def _states(self, event_HW: Tensor, events: Events) -> tuple[Tensor, Tensor]:
        """The state after the last event of each request, and after each event; histories of like length together."""
        groups = length_groups(events.offsets)
        if len(groups) == 1:
            history = self.history(event_HW, events)
            return history.last_RD, history.event_HD
        last, after, places = [], [], []
        for requests in groups:
            place_n, offsets = entries_of(events.offsets, requests)
            columns = {name: values[place_n] for name, values in events.columns.items()}
            history = self.history(event_HW[place_n], Events(columns, offsets))
            last.append(history.last_RD)
            after.append(history.event_HD)
            places.append(place_n)
        return torch.cat(last)[torch.cat(groups).argsort()], torch.cat(after)[torch.cat(places).argsort()]

    def _place_of(self, event_field: str) -> int:
        declared = next(sequence for sequence in self.schema.sequences if sequence.name == self.sequence)
        return [field.name for field in declared.fields if isinstance(field, Categorical)].index(event_field)

    def item_vectors(self, item_ids_U: Tensor) -> Tensor:
        """a ⊙ v of the first action, of items as their rows alone have it, U × D.

        In training mode the rows are lent, as those of a batch are, and the same step gives them their gradients.

        Args:
            item_ids_U: int64; an id that the table doesn't know reads the default row.

        Raises:
            LogError: A negative id that isn't `MISSING_ID`.
        """
        blocks = [part_columns(self.item_table, item_ids_U)]
        table = self.tables["items"]
        loan = table.checkout(blocks) if self.training else table.read(blocks)
        return composed_rows(loan.blocks[0], (self.item_table,), self._width) * self.scale[:, 0]

    def known_items(self) -> Tensor:
        """int64, ascending: the ids that training has given a row of their own.

        Raises:
            SchemaError: Rows are hashed or composed, so that it isn't known whose they are.
        """
        if self.item_table.hashed or self.item_table.num_remainders is not None:
            raise SchemaError(
                f"table {self.item_table.name!r} does not know its ids", found=self.item_table,
                allowed="num_ids or growing, and no num_remainders", do="say which items there are",
            )  # fmt: skip
        table = self.tables["items"]
        seen = [piece.keys_n[piece.sightings_n >= table.admission] for piece in table.chunks(self.item_table.name)]
        ids_n = torch.cat(seen)
        return ids_n[ids_n >= 0].sort().values


def sequence_of_items(schema: Schema) -> tuple[str, str, str]:
    """The first sequence and field that read the item's table, and the table.

    Raises:
        SchemaError: There is no `item`, or no sequence of such items.
    """
    if schema.item is None:
        raise SchemaError("NextItem does not know which feature is the item", do="name it in the schema's `item`")
    item = schema.feature(schema.item)
    assert isinstance(item, Categorical)
    for sequence in schema.sequences:
        for field in sequence.fields:
            if isinstance(field, Categorical) and field.table_name == item.table_name:
                return sequence.name, field.name, item.table_name
    raise SchemaError(
        "NextItem has no history of items",
        found=[f"{s.name}.{f.name}" for s in schema.sequences for f in s.fields],
        allowed=f"a sequence with a field that reads table {item.table_name!r}, as the item does",
        do=f"declare the events' item with table={item.table_name!r}",
    )
