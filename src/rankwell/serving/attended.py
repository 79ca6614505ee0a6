"""What the heads of a transformer attend to in one request: a look into a model, beside the graph that answers.

Letters: B lists · J heads · Q places that ask · L places of a list.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, final

import torch
from torch import Tensor

from rankwell.errors import BundleError
from rankwell.models.head_watch import HeadWatch
from rankwell.models.transformer import RankingTransformer
from rankwell.schema import Categorical
from rankwell.serving.bundle import Bundle
from rankwell.types import Batch

__all__ = ["AttendedHead", "HeadsOfRequest"]

_PLACES: Final = 64


@final
@dataclass(frozen=True, slots=True)
class AttendedHead:
    """One head of one layer.

    Args:
        layer: The stack, "list" or a sequence, and the number of the layer: "list.0".
        head: Its number.
        entries: What the list consists of: the item's feature, or a field of the events.
        entry_ids: Ids of the entries that it attends to most.
        shares: Of its attention, the mean over those that ask.
    """

    layer: str
    head: int
    entries: str
    entry_ids: tuple[int, ...]
    shares: tuple[float, ...]


@final
class HeadsOfRequest:
    """Looks into a bundle's model; one request at a time.

    Args:
        bundle: Its model is put into eval mode, and told to watch. By `created_us` it is known again.

    Raises:
        BundleError: It is no transformer.
    """

    def __init__(self, bundle: Bundle) -> None:
        if not isinstance(bundle.model, RankingTransformer):
            raise BundleError(
                "heads are looked at in transformers alone", found=type(bundle.model).__name__,
                allowed=RankingTransformer.__name__, do="leave the bundle of heads out",
            )  # fmt: skip
        self._model, self.created_us = bundle.model, bundle.created_us
        self._model.eval()
        self._model.watch = HeadWatch(num_places=_PLACES)

    def look(self, batch: Batch, *, num_entries: int = 5) -> list[AttendedHead]:
        """The heads of every layer that has maps.

        Args:
            batch: R = 1.
            num_entries: How many entries of each, those with the largest shares.
        """
        with torch.inference_mode():
            attention = self._model.encode(batch.features).attention
        return [
            head
            for name, maps_BJQL in attention.items()
            if name.endswith(".maps") and len(maps_BJQL)
            for head in self._heads(name.removesuffix(".maps"), maps_BJQL, attention, batch, num_entries)
        ]

    def _heads(
        self, layer: str, maps_BJQL: Tensor, attention: object, batch: Batch, num_entries: int
    ) -> Iterator[AttendedHead]:
        assert isinstance(attention, dict)
        stack = layer.partition(".")[0]
        asks_BQ, entry_BL = attention[f"{stack}.asks"], attention[f"{stack}.entry"]
        asking_BJQL = maps_BJQL * asks_BQ[:, None, :, None]
        shares_JL = asking_BJQL[0].sum(1) / asks_BQ[0].sum().clamp(min=1)
        entries, ids = self._ids(stack, batch)
        stands_L = entry_BL[0] >= 0
        for head, shares_L in enumerate(shares_JL[:, stands_L]):
            best = shares_L.topk(min(num_entries, len(shares_L)))
            places = entry_BL[0][stands_L][best.indices]
            yield AttendedHead(layer, head, entries, tuple(ids[places].tolist()), tuple(best.values.tolist()))

    def _ids(self, stack: str, batch: Batch) -> tuple[str, Tensor]:
        schema = self._model.schema
        for sequence in schema.sequences:
            if sequence.name == stack:
                field = next(field for field in sequence.fields if isinstance(field, Categorical))
                return field.name, batch.features.history[stack].columns[field.name]
        return schema.item or "candidate", batch.audit.item_ids_C
