"""What the heads of a stack of layers attend to, at a few places that ask, beside the fused kernel.

Letters: B lists · L places of the longest list · J heads · Q places that ask · n entries, flat.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Final, Literal, final

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import pad

from rankwell.errors import SchemaError
from rankwell.models.attention import ListAttention, SoftmaxAttention
from rankwell.models.padding import Padding
from rankwell.models.specialised_attention import SpecialisedAttention
from rankwell.schema import Categorical, Place, Schema
from rankwell.schema.transforms import Declaration
from rankwell.types import Column

__all__ = ["HeadWatch", "Near", "Relation", "SameValue", "WatchedLayers"]

_EARTH_RADIUS_KM: Final = 6371.0088

Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]


@final
class Near(Declaration):
    """Entries whose places are near each other, on the great circle; each is near itself.

    Args:
        name: What the relation is called.
        place: A `Place` of candidates.
        km: How far apart near entries are at most; 50 miles are 80.5 km.

    >>> places = {"office": torch.tensor([[52.52, 13.40], [52.40, 13.06], [48.14, 11.58]])}  # Berlin, Potsdam, Munich
    >>> Near(name="commute", place="office", km=50).related(places, torch.tensor([[0]]), torch.tensor([[0, 1, 2]]))
    tensor([[[ True,  True, False]]])
    """

    kind: Literal["near"] = "near"
    name: Name
    place: str
    km: Annotated[float, Field(ge=0.1, le=20_000)]

    def related(self, columns: Mapping[str, Column], asking_BQ: Tensor, entry_BL: Tensor) -> Tensor:
        """Bool B × Q × L: whether entries of the columns, by their numbers, are related."""
        latitude, longitude = torch.deg2rad(_column(columns, self.place).double()).unbind(1)
        cosine = torch.cos(latitude)
        point_n3 = torch.stack([cosine * longitude.cos(), cosine * longitude.sin(), latitude.sin()], dim=1)
        # in float64, because the cosine of a small angle is nearly 1
        return point_n3[asking_BQ] @ point_n3[entry_BL].transpose(1, 2) >= math.cos(self.km / _EARTH_RADIUS_KM)

    def check(self, schema: Schema, sequence: str | None = None) -> None:
        """Refuse what the schema doesn't have.

        Raises:
            SchemaError: There is no such place on candidates, or the entries are events, which have none.
        """
        _check_known(self.name, self.place, self.known(schema, sequence), "a place of the entries")

    def is_of(self, schema: Schema, sequence: str | None = None) -> bool:
        """Whether the entries, candidates or events of a sequence, have what is compared."""
        return self.place in self.known(schema, sequence)

    @staticmethod
    def known(schema: Schema, sequence: str | None = None) -> list[str]:
        """The places of the entries."""
        places = [f.name for f in schema.visible_features if isinstance(f, Place) and f.on == "candidate"]
        return [] if sequence is not None else places


@final
class SameValue(Declaration):
    """Entries of one and the same id; a missing id is like no other, nor like itself.

    Args:
        name: What the relation is called.
        feature: A categorical feature of candidates, or a field of the sequence.

    >>> relation = SameValue(name="title", feature="job_title")
    >>> titles = {"job_title": torch.tensor([4, 7, 4, -1])}
    >>> relation.related(titles, torch.tensor([[0, 3]]), torch.tensor([[0, 1, 2, 3]]))
    tensor([[[ True, False,  True, False],
             [False, False, False, False]]])
    """

    kind: Literal["same"] = "same"
    name: Name
    feature: str

    def related(self, columns: Mapping[str, Column], asking_BQ: Tensor, entry_BL: Tensor) -> Tensor:
        """Bool B × Q × L: whether entries of the columns, by their numbers, are related."""
        id_n = _column(columns, self.feature)
        asking_BQ1 = id_n[asking_BQ].unsqueeze(2)
        return (asking_BQ1 == id_n[entry_BL].unsqueeze(1)) & (asking_BQ1 >= 0)

    def check(self, schema: Schema, sequence: str | None = None) -> None:
        """Refuse what the schema doesn't have.

        Raises:
            SchemaError: There is no such categorical on candidates, or among the sequence's fields.
        """
        _check_known(self.name, self.feature, self.known(schema, sequence), "a categorical of the entries")

    def is_of(self, schema: Schema, sequence: str | None = None) -> bool:
        """Whether the entries, candidates or events of a sequence, have what is compared."""
        return self.feature in self.known(schema, sequence)

    @staticmethod
    def known(schema: Schema, sequence: str | None = None) -> list[str]:
        """The categoricals of the entries."""
        fields = [f for s in schema.sequences if s.name == sequence for f in s.fields]
        features = [f for f in schema.visible_features if f.on == "candidate"]
        return [f.name for f in (features if sequence is None else fields) if isinstance(f, Categorical)]


Relation = Annotated[Near | SameValue, Field(discriminator="kind")]


@final
class HeadWatch(Declaration):
    """Which maps of attention a model hands to its objective, and what they may be compared with.

    A model that is told to watch puts into `Encoded.attention`, for each stack of layers it names (such as "list"):

    - ``list.request`` int64 B: the request of each list; B counts those that were run, in the order in which they were;
    - ``list.entry`` int64 B × L: which entry stands at each place, -1 where none does;
    - ``list.place`` int64 B × Q: the places that ask; and ``list.asks`` bool B × Q: those that count. An entry that
      stands alone does not ask;
    - ``list.relation.<name>`` bool B × Q × L: what stands in relation to the entry that asks, itself included;
    - ``list.<i>.maps`` B × J × Q × L: the shares of layer i's heads, 0 at what isn't seen; of layers that have maps;
    - ``list.<i>.gates`` B × J: the chance that each head's gate is open in training; of layers that have gates.

    Maps are computed anew from what went into each layer, so that the fused kernel stays, and carry a gradient.

    Args:
        num_places: The most places of a list that ask; where it has more, they are drawn by torch's default generator.
        relations: Of entries, by which heads are trained or described.

    >>> from rankwell.models.attention import SelfAttention
    >>> from rankwell.models.layers import LayerStack, PreNormLayer
    >>> from rankwell.models.padding import ManyLists
    >>> def layer():
    ...     return PreNormLayer(SelfAttention(8, num_heads=2, is_causal=False), width=8, hidden=8, dropout=0.0)
    >>> layers = LayerStack(layer, 1, width=8)
    >>> padding = ManyLists(torch.tensor([0, 3, 5]))
    >>> watch = HeadWatch(relations=(SameValue(name="title", feature="title"),))
    >>> watched = watch.begin("list", {"title": torch.tensor([4, 4, 5, 6, 6])})
    >>> with watched.over(layers, padding, request_B=torch.tensor([0, 1])):
    ...     x_BLD = layers(padding.pad(torch.randn(5, 8)), padding.valid_BL)
    >>> watched.tensors()["list.0.maps"].shape
    torch.Size([2, 2, 3, 3])
    >>> watched.tensors()["list.relation.title"][1, 0]
    tensor([ True,  True, False])
    """

    num_places: Annotated[int, Field(ge=1, le=65_536)] = 64
    relations: tuple[Relation, ...] = ()

    def begin(self, stack: str, columns: Mapping[str, Column]) -> WatchedLayers:
        """The watch over one stack of layers in one pass.

        Args:
            stack: Its name; without dots.
            columns: Of the entries that its lists consist of: features of candidates, or columns of events.
        """
        return WatchedLayers(self, stack, columns)

    def of(self, schema: Schema, sequence: str | None = None) -> HeadWatch:
        """The same over candidates, or over the events of a sequence: with those of the relations that they have."""
        kept = tuple(relation for relation in self.relations if relation.is_of(schema, sequence))
        return self.model_copy(update={"relations": kept})

    def check(self, schema: Schema, sequence: str | None = None) -> None:
        """Refuse relations that the schema doesn't have.

        Args:
            schema: Declares the entries.
            sequence: Whose events they are; by default a relation may be of candidates, or of events of any sequence.

        Raises:
            SchemaError: One is of a feature that isn't there, or two have one name.
        """
        names = [relation.name for relation in self.relations]
        if len(set(names)) < len(names):
            raise SchemaError("two relations have one name", found=names, allowed="a name each")
        entries = [None, *(declared.name for declared in schema.sequences)] if sequence is None else [sequence]
        for relation in self.relations:
            if not any(relation.is_of(schema, of) for of in entries):
                relation.check(schema, sequence)


@final
class WatchedLayers:
    """What a watch has seen of a stack of layers; made by `HeadWatch.begin`.

    Args:
        watch, stack, columns: See there.
    """

    def __init__(self, watch: HeadWatch, stack: str, columns: Mapping[str, Column]) -> None:
        self._watch, self._stack, self._columns = watch, stack, columns
        self._blocks: list[dict[str, Tensor]] = []

    @contextmanager
    def over(
        self, layers: nn.Module, padding: Padding, *, request_B: Tensor, entry_n: Tensor | None = None
    ) -> Iterator[None]:
        """Within it the stack is run, once, on one block of lists; several blocks come one after the other.

        Args:
            layers: The stack.
            padding: Where the entries stand.
            request_B: int64, the request of each list.
            entry_n: int64, which entries of the columns the block's are; by default the first is the first.
        """
        num = int(padding.lengths_B.sum())
        entry_n = torch.arange(num) if entry_n is None else entry_n
        entry_BL = padding.pad((entry_n + 1).unsqueeze(1)).squeeze(2) - 1
        stands_BL = entry_BL >= 0
        place_BQ = _asking(stands_BL, self._watch.num_places)
        asks_BQ = stands_BL.gather(1, place_BQ) & (padding.valid_BL.sum(1, keepdim=True) > 1)
        block = {"request": request_B, "entry": entry_BL, "place": place_BQ, "asks": asks_BQ}
        known_BL = entry_BL.clamp(min=0)
        asking_BQ = known_BL.gather(1, place_BQ)
        both_BQL = asks_BQ.unsqueeze(2) & stands_BL.unsqueeze(1)
        for relation in self._watch.relations:
            related_BQL = relation.related(self._columns, asking_BQ, known_BL) if num else both_BQL
            block[f"relation.{relation.name}"] = both_BQL & related_BQL
        num_layers = 0

        def seen(module: nn.Module, arguments: tuple[Tensor, ...], mixed_BLD: Tensor) -> None:
            nonlocal num_layers
            del mixed_BLD
            if isinstance(module, SoftmaxAttention):
                x_BLD, first_BLD, valid_BL = arguments[:3]
                block[f"{num_layers}.maps"] = module.maps(x_BLD, first_BLD, valid_BL, place_BQ)
            if isinstance(module, SpecialisedAttention) and module.gates is not None:
                segment_B = arguments[3] if len(arguments) > 3 else None
                block[f"{num_layers}.gates"] = module.gates.chances(segment_B).expand(len(request_B), -1)
            num_layers += 1

        handles = [m.register_forward_hook(seen) for m in layers.modules() if isinstance(m, ListAttention)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        self._blocks.append(block)

    def tensors(self) -> dict[str, Tensor]:
        """The part of `Encoded.attention` that `HeadWatch` describes; nothing where no block was run."""
        if not self._blocks:
            return {}
        length = max(block["entry"].shape[1] for block in self._blocks)
        asking = max(block["place"].shape[1] for block in self._blocks)
        return {
            f"{self._stack}.{name}": torch.cat([_widened(name, block[name], asking, length) for block in self._blocks])
            for name in self._blocks[0]
        }


def _asking(stands_BL: Tensor, most: int) -> Tensor:
    """int64 B × min(L, most): places, those where an entry stands first, drawn evenly where there are too many."""
    num_lists, length = stands_BL.shape
    if length <= most:
        return torch.arange(length).expand(num_lists, -1)
    return torch.rand(num_lists, length).masked_fill(~stands_BL, -1.0).topk(most, dim=1).indices


def _widened(name: str, tensor: Tensor, asking: int, length: int) -> Tensor:
    """As wide as the widest block; no entry stands in what is added, and it does not ask."""
    if name == "request" or name.endswith(".gates"):
        return tensor
    if name == "entry":
        return pad(tensor, (0, length - tensor.shape[1]), value=-1)
    if name in ("place", "asks"):
        return pad(tensor, (0, asking - tensor.shape[1]))
    return pad(tensor, (0, length - tensor.shape[-1], 0, asking - tensor.shape[-2]))


def _column(columns: Mapping[str, Column], name: str) -> Tensor:
    column = columns.get(name)
    if not isinstance(column, Tensor):
        known = [name for name, column in columns.items() if isinstance(column, Tensor)]
        raise SchemaError(
            f"a relation is of {name!r}, which the entries do not have", found="a bag" if name in columns else None,
            allowed=known, do="name one of these, or declare it on candidates",
        )  # fmt: skip
    return column


def _check_known(relation: str, name: str, known: list[str], what: str) -> None:
    if name not in known:
        raise SchemaError(
            f"relation {relation!r} needs {what}", found=name, allowed=known, do="name one of these, or declare it"
        )
