"""Attention whose heads have a meaning that one can name: some read one group of features, some start from one.

Letters: B lists · L places · D width · J heads · d width of a head · N coordinates that some head reads · Q places that
ask.

Source: Vaswani et al. 2017, "Attention is all you need", NeurIPS, §3.2 (heads); see `rankwell.models.head_gates` for
the gates.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Literal, final

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from rankwell.errors import RecipeError, SchemaError
from rankwell.models.attention import SoftmaxAttention, check_heads, key_mask
from rankwell.models.head_gates import GateSettings, HeadGates, make_gates
from rankwell.schema.transforms import Declaration

__all__ = [
    "FedHead",
    "Head",
    "LearnedHead",
    "PrimedHead",
    "SpecialisedAttention",
    "SpecialisedSettings",
    "make_specialised_attention",
    "routed",
    "without_closed_heads",
]

Sharpness = Annotated[float, Field(gt=0, le=100)]


@final
class FedHead(Declaration):
    """A head that sees one group of features, of the entries as they came into the first layer, and nothing else.

    Args:
        group: Name of the group.
        start: "alike" starts with q·k / √d = sharpness · xᵢ·xₘ / √w over the group's w coordinates (exactly so where
            w ≤ d; else over d directions of them): a head first attends to entries that are alike in its group.
            "random" starts as a learned head does.
        sharpness: See `start`.
    """

    kind: Literal["fed"] = "fed"
    group: str
    start: Literal["alike", "random"] = "alike"
    sharpness: Sharpness = 1.0


@final
class PrimedHead(Declaration):
    """A head that sees all that the layers before left, and whose queries and keys start from one group of it.

    Args:
        group: Name of the group; where it stands is the same in all layers, since they add to what came in.
        sharpness: It starts as a `FedHead` that starts "alike".
    """

    kind: Literal["primed"] = "primed"
    group: str
    sharpness: Sharpness = 1.0


@final
class LearnedHead(Declaration):
    """A head that sees all that the layers before left, from a random start."""

    kind: Literal["learned"] = "learned"


Head = Annotated[FedHead | PrimedHead | LearnedHead, Field(discriminator="kind")]


@final
class SpecialisedSettings(Declaration):
    """Heads of several kinds side by side: `SpecialisedAttention`.

    Args:
        heads: One entry a head.
        head_width: d; by default D / J.
        gates: None leaves all heads open.

    >>> settings = SpecialisedSettings(heads=(FedHead(group="title"), LearnedHead()))
    >>> SpecialisedSettings.model_validate_json(settings.model_dump_json()) == settings
    True
    """

    kind: Literal["specialised"] = "specialised"
    heads: Annotated[tuple[Head, ...], Field(min_length=1)]
    head_width: Annotated[int, Field(ge=1, le=4096)] | None = None
    gates: GateSettings | None = None


def make_specialised_attention(
    settings: SpecialisedSettings, width: int, layout: Mapping[str, int], *, is_causal: bool = False
) -> SpecialisedAttention:
    """The layer that these settings mean; other arguments and errors as those of `SpecialisedAttention`."""
    gates = None if settings.gates is None else make_gates(settings.gates, len(settings.heads))
    return SpecialisedAttention(
        width, heads=settings.heads, layout=layout, head_width=settings.head_width, is_causal=is_causal, gates=gates
    )


@final
class SpecialisedAttention(SoftmaxAttention):
    """``Σⱼ gateⱼ · softmax(qⱼ kⱼᵀ / √d) vⱼ Oⱼ + b`` with ``qⱼ, kⱼ, vⱼ = [first, x] (mⱼ ∘ Wⱼ)``.

    The masks m are fixed: a fed head's is 1 on the coordinates of its group in the entries as they came into the first
    layer; that of any other head on all that the layers before left. All heads are one product and one fused kernel.
    Where the groups are slices of x, one a head, and all heads are fed, it is multi-head attention over x split into
    heads of width D / J, each with projections of its own.

    Args:
        width: D.
        heads: What each head reads; none leaves b alone.
        layout: How the entries that come into the first layer are laid out: the width of each group of features, from
            coordinate 0 on, side by side. Coordinates beyond belong to no group.
        head_width: d; by default D / J.
        is_causal: Whether an entry sees itself and those before it, or all.
        gates: By default all heads are open.

    Raises:
        SchemaError: A head is of a group that is not there, or has no coordinate.
        RecipeError: The groups are wider than D, the heads cannot share it, or there is not one gate a head.

    >>> heads = (FedHead(group="title"), LearnedHead())
    >>> attention = SpecialisedAttention(8, heads=heads, layout={"title": 2, "job": 6})
    >>> title = torch.tensor([0, 0, 1, 0])  # a fed head attends to entries of its own title, whatever else they are
    >>> first_BLD = torch.cat([9.0 * torch.eye(2)[title], torch.randn(4, 6)], dim=1).unsqueeze(0)
    >>> maps = attention.maps(torch.randn(1, 4, 8), first_BLD, torch.ones(1, 4, dtype=torch.bool), torch.tensor([[0]]))
    >>> [round(share, 3) for share in maps[0, 0, 0].tolist()]
    [0.333, 0.333, 0.0, 0.333]
    """

    reads_JN1: Tensor
    used_N: Tensor
    fed: Tensor

    def __init__(
        self,
        width: int,
        *,
        heads: Sequence[FedHead | PrimedHead | LearnedHead],
        layout: Mapping[str, int],
        head_width: int | None = None,
        is_causal: bool = False,
        gates: HeadGates | None = None,
    ) -> None:
        super().__init__()
        if head_width is None:
            check_heads(width, len(heads))
            head_width = width // len(heads)
        if gates is not None and gates.num_heads != len(heads):
            raise RecipeError("there is one gate a head", found=gates.num_heads, allowed=len(heads))
        places = _places(width, layout)
        self.width, self.head_width, self.is_causal = width, head_width, is_causal
        self.heads, self.layout, self.gates = tuple(heads), dict(layout), gates
        self.num_heads = len(self.heads)
        reads = torch.zeros(self.num_heads, 2 * width, dtype=torch.bool)
        start = torch.zeros(3, self.num_heads, 2 * width, head_width)
        for j, head in enumerate(self.heads):
            reads[j], start[:, j] = _head_start(head, width, head_width, layout, places)
        used_N = reads.any(0).nonzero().flatten()
        self._sees_all = not all(isinstance(head, FedHead) for head in self.heads)
        self.register_buffer("used_N", used_N, persistent=False)  # of [first, x]
        self.register_buffer("fed", used_N[used_N < width], persistent=False)
        self.register_buffer("reads_JN1", reads[:, used_N].unsqueeze(2), persistent=False)
        self.weight = nn.Parameter(start[:, :, used_N])  # of queries, keys and values
        bound = 1 / math.sqrt(max(self.num_heads * head_width, 1))
        self.out = nn.Parameter(torch.empty(self.num_heads, head_width, width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(width).uniform_(-bound, bound))

    def forward(self, x_BLD: Tensor, first_BLD: Tensor, valid_BL: Tensor, segment_B: Tensor | None = None) -> Tensor:
        """See `ListAttention`.

        Args:
            x_BLD, first_BLD, valid_BL: As there.
            segment_B: int64, the segment of each list, where the gates depend on it; see `routed`.
        """
        if not self.heads:
            return self.bias.expand_as(x_BLD)
        projected = torch.einsum("bln,kjnd->kbjld", self._read(x_BLD, first_BLD), self.weight * self.reads_JN1)
        query, key, value = projected.unbind(0)
        if self.is_causal:  # what stands comes first, so no entry sees a place behind the list's end
            mixed_BJLd = scaled_dot_product_attention(query, key, value, is_causal=True)
        else:
            mixed_BJLd = scaled_dot_product_attention(query, key, value, attn_mask=key_mask(valid_BL))
        if self.gates is not None:
            mixed_BJLd = mixed_BJLd * self.gates(segment_B)[:, :, None, None]
        return torch.einsum("bjld,jde->ble", mixed_BJLd, self.out) + self.bias

    def output_weights(self, head: int) -> Tensor:
        """See `ListAttention`."""
        return self.out[head]

    def maps(self, x_BLD: Tensor, first_BLD: Tensor, valid_BL: Tensor, places_BQ: Tensor) -> Tensor:
        """See `SoftmaxAttention`; what gates do to a head's result does not show."""
        read_BLN = self._read(x_BLD, first_BLD)
        asking_BQN = read_BLN.gather(1, places_BQ.unsqueeze(2).expand(-1, -1, read_BLN.shape[2]))
        weight = self.weight[:2] * self.reads_JN1
        query = torch.einsum("bqn,jnd->bjqd", asking_BQN, weight[0])
        key = torch.einsum("bln,jnd->bjld", read_BLN, weight[1])
        seen_BQL = valid_BL.unsqueeze(1).expand(-1, places_BQ.shape[1], -1)
        if self.is_causal:
            seen_BQL = seen_BQL & (torch.arange(x_BLD.shape[1]) <= places_BQ.unsqueeze(2))
        likeness = query @ key.transpose(2, 3) * self.head_width**-0.5
        shares: Tensor = likeness.masked_fill(~seen_BQL.unsqueeze(1), -torch.inf).softmax(3)
        return shares

    def open_heads(self, segment: int | None = None) -> tuple[int, ...]:
        """The heads whose gates are not exactly 0; all, where there are no gates."""
        return tuple(range(self.num_heads)) if self.gates is None else self.gates.open_heads(segment)

    def pruned(self, segment: int | None = None) -> SpecialisedAttention:
        """A layer without gates and without the heads whose gates are 0, equal to this one in eval mode, for export.

        Args:
            segment: Where gates depend on one: the layer equals this one in that segment alone; None is for segments
                that nothing is known of.
        """
        stay = list(self.open_heads(segment))
        with torch.random.fork_rng(devices=[]):  # what is drawn for the new layer's start is not used
            layer = SpecialisedAttention(
                self.width, heads=[self.heads[j] for j in stay], layout=self.layout, head_width=self.head_width,
                is_causal=self.is_causal,
            )  # fmt: skip
        still = torch.searchsorted(self.used_N, layer.used_N)
        with torch.no_grad():
            out = self.out[stay]
            if self.gates is not None:
                out = out * self.gates.settled(segment)[stay][:, None, None]
            layer.weight = nn.Parameter(self.weight[:, stay][:, :, still])
            layer.out, layer.bias = nn.Parameter(out.clone()), nn.Parameter(self.bias.clone())
        return layer.train(self.training)

    def extra_repr(self) -> str:
        """The heads."""
        kinds = ", ".join(
            head.kind if isinstance(head, LearnedHead) else f"{head.kind} {head.group}" for head in self.heads
        )
        return f"{self.width}, head_width={self.head_width}, heads=({kinds})"

    def _read(self, x_BLD: Tensor, first_BLD: Tensor) -> Tensor:
        if not len(self.fed):
            return x_BLD
        fed = first_BLD if len(self.fed) == self.width else first_BLD[:, :, self.fed]
        return torch.cat([fed, x_BLD], dim=2) if self._sees_all else fed


@contextmanager
def routed(layers: nn.Module, segment_B: Tensor) -> Iterator[None]:
    """Within it each `SpecialisedAttention` of `layers` is given the segment of each list.

    A stack of layers hands entries down and knows nothing of segments; they are given past it.

    Args:
        layers: A stack of layers, or anything that holds some.
        segment_B: int64, of the lists that the layers are run on.
    """

    def with_segment(module: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        del module
        return (*arguments[:3], segment_B)

    handles = [
        module.register_forward_pre_hook(with_segment)
        for module in layers.modules()
        if isinstance(module, SpecialisedAttention)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def without_closed_heads(layers: nn.Module, segment: int | None = None) -> nn.Module:
    """A copy of layers in which each `SpecialisedAttention` is `pruned`: what is exported, one graph a segment.

    Args:
        layers: A stack of layers, or anything that holds some; not a whole model, since tables are not copied.
        segment: As in `SpecialisedAttention.pruned`.
    """
    if isinstance(layers, SpecialisedAttention):
        return layers.pruned(segment)
    layers = copy.deepcopy(layers)
    for parent in list(layers.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, SpecialisedAttention):
                setattr(parent, name, child.pruned(segment))
    return layers


def _places(width: int, layout: Mapping[str, int]) -> dict[str, slice]:
    places, end = {}, 0
    for group, size in layout.items():
        places[group] = slice(end, end + size)
        end += size
    if end > width or any(size < 0 for size in layout.values()):
        raise RecipeError(
            "groups of features do not fit the entries that attention reads", found=dict(layout),
            allowed=f"widths of at least 0, and of {width} together",
        )  # fmt: skip
    return places


def _head_start(
    head: FedHead | PrimedHead | LearnedHead,
    width: int,
    head_width: int,
    layout: Mapping[str, int],
    places: Mapping[str, slice],
) -> tuple[Tensor, Tensor]:
    """Bool 2·D: what the head reads of [first, x]; 3 × 2·D × d: where its query, key and value start."""
    reads = torch.zeros(2 * width, dtype=torch.bool)
    group = None if isinstance(head, LearnedHead) else _group(head, layout, places)
    if isinstance(head, FedHead):
        assert group is not None
        reads[group] = True
    else:
        reads[width:] = True
    fan_in = int(reads.sum())
    start = torch.empty(3, 2 * width, head_width).uniform_(-(fan_in**-0.5), fan_in**-0.5) * reads.unsqueeze(1)
    if isinstance(head, PrimedHead) or (isinstance(head, FedHead) and head.start == "alike"):
        assert group is not None
        size = group.stop - group.start
        directions = torch.eye(size, head_width)
        if size > head_width:
            directions = nn.init.orthogonal_(torch.empty(size, head_width)) * math.sqrt(size / head_width)
        shift = 0 if isinstance(head, FedHead) else width
        # Where the group leaves room, queries stay random and keys start at 0: were both 0, neither would ever move.
        start[0, :, :size], start[1] = 0.0, 0.0
        likeness = directions * math.sqrt(head.sharpness * math.sqrt(head_width / size))
        start[0, shift + group.start : shift + group.stop, :size] = likeness[:, :size]
        start[1, shift + group.start : shift + group.stop] = likeness
    return reads, start


def _group(head: FedHead | PrimedHead, layout: Mapping[str, int], places: Mapping[str, slice]) -> slice:
    if not layout.get(head.group):
        raise SchemaError(
            f"a head of attention is of group {head.group!r}, which has no member",
            found="a group of width 0" if head.group in layout else "no such group",
            allowed=[group for group, size in layout.items() if size], do="name one of these, or declare its features",
        )  # fmt: skip
    return places[head.group]
