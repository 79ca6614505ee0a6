"""How the candidates of one request see each other: all of them, the nearest in the initial ranking, or by sums.

Letters: B lists · L places · D width · J heads · d width of a head · Q places that ask · n blocks of a list · S places
of a block · M places that a block sees.

Source: Parmar et al. 2018, "Image Transformer", ICML, §3.3 (local attention by blocks); Katharopoulos et al. 2020,
"Transformers are RNNs: fast autoregressive Transformers with linear attention", ICML, §3.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Literal, final

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import elu, pad, scaled_dot_product_attention

from rankwell.models.attention import (
    ListAttention,
    SelfAttention,
    SoftmaxAttention,
    check_heads,
    columns_of_head,
    split_heads,
)
from rankwell.models.specialised_attention import SpecialisedSettings, make_specialised_attention
from rankwell.schema.transforms import Declaration

__all__ = [
    "AttentionSettings",
    "FullSettings",
    "LinearAttention",
    "LinearSettings",
    "LocalAttention",
    "LocalSettings",
    "make_list_attention",
]

_BLOCK: Final = 32  # blocks are whole multiples of what the fused kernel works on at once
_SMALLEST: Final = 1e-12  # of a sum of products that divides: where all vanish, results and gradients stay finite

NumHeads = Annotated[int, Field(ge=1)]


@final
class FullSettings(Declaration):
    """Each entry sees all: `SelfAttention`, O(L²) in time.

    Args:
        num_heads: J, divides the width.
    """

    kind: Literal["full"] = "full"
    num_heads: NumHeads = 4


@final
class LocalSettings(Declaration):
    """Each entry sees those near it in the list: `LocalAttention`, O(L · window) in time and memory.

    Args:
        num_heads: J, divides the width.
        window: How many others an entry sees at most, half of them to each side; even.
    """

    kind: Literal["local"] = "local"
    num_heads: NumHeads = 4
    window: Annotated[int, Field(ge=2, le=4096, multiple_of=2)] = 50


@final
class LinearSettings(Declaration):
    """Each entry sees all through sums over the list: `LinearAttention`, O(L · d) in time.

    Args:
        num_heads: J, divides the width.
    """

    kind: Literal["linear"] = "linear"
    num_heads: NumHeads = 4


AttentionSettings = Annotated[
    FullSettings | LocalSettings | LinearSettings | SpecialisedSettings, Field(discriminator="kind")
]


def make_list_attention(
    settings: AttentionSettings, width: int, layout: Mapping[str, int] | None = None
) -> ListAttention:
    """The layer that these settings mean.

    Args:
        settings: Of one of the kinds.
        width: D.
        layout: Where groups of features stand in the entries; see `SpecialisedAttention`. By default there are none.

    Raises:
        RecipeError: The width cannot be shared among the heads.
        SchemaError: A head is of a group that is not there.

    >>> make_list_attention(LocalSettings(num_heads=2, window=10), 8).window
    10
    """
    match settings:
        case FullSettings():
            return SelfAttention(width, num_heads=settings.num_heads, is_causal=False)
        case LocalSettings():
            return LocalAttention(width, num_heads=settings.num_heads, window=settings.window)
        case LinearSettings():
            return LinearAttention(width, num_heads=settings.num_heads)
        case SpecialisedSettings():
            return make_specialised_attention(settings, width, layout or {})


@final
class LocalAttention(SoftmaxAttention):
    """Softmax attention of entry i over the entries m with |i - m| ≤ window / 2: itself, and as many to each side.

    At the ends of a list an entry sees fewer, so that who sees whom is symmetric. Entries ask in blocks, each block
    over itself and what lies within reach on its two sides.

    Args:
        width: D, a multiple of the number of heads.
        num_heads: J.
        window: How many others an entry sees at most; even.

    Raises:
        RecipeError: The width cannot be shared among the heads.

    >>> attention = LocalAttention(8, num_heads=2, window=2)
    >>> x_BLD = torch.randn(1, 5, 8)
    >>> maps = attention.maps(x_BLD, x_BLD, torch.ones(1, 5, dtype=torch.bool), torch.tensor([[0, 2]]))
    >>> (maps[0, 0] > 0).int()
    tensor([[1, 1, 0, 0, 0],
            [0, 1, 1, 1, 0]], dtype=torch.int32)
    """

    def __init__(self, width: int, *, num_heads: int, window: int) -> None:
        super().__init__()
        check_heads(width, num_heads)
        self.num_heads, self.window = num_heads, window
        self._reach = window // 2
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)  # as in `SelfAttention`
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x_BLD: Tensor, first_BLD: Tensor, valid_BL: Tensor) -> Tensor:
        """See `ListAttention`."""
        del first_BLD
        num_lists, length, _ = x_BLD.shape
        size, reach = _BLOCK * -(-self._reach // _BLOCK), self._reach
        if length <= 2 * size:  # one block sees the whole list
            size, reach = length, 0
        behind = -length % size
        num_blocks, num_beside = (length + behind) // size, -(-2 * reach // size)

        def seen(entries_JBLX: Tensor) -> Tensor:  # J × B·n × M × X
            after = num_beside * size - reach + behind
            num_heads, _, _, width = entries_JBLX.shape
            blocks = pad(entries_JBLX, (0, 0, reach, after)).reshape(num_heads, num_lists, -1, size, width)
            beside = [blocks[:, :, k : k + num_blocks] for k in range(num_beside + 1)]
            beside[-1] = beside[-1][:, :, :, : size + 2 * reach - num_beside * size]
            return torch.cat(beside, dim=3).flatten(1, 2)

        query, key, value = (self._heads(layer(x_BLD)) for layer in (self.query, self.key, self.value))
        asking = pad(query, (0, 0, 0, behind)).reshape(self.num_heads, -1, size, query.shape[3])
        apart_SM = torch.arange(size + 2 * reach) - torch.arange(size).unsqueeze(1) - reach
        # Beyond a list's end nothing may be in sight: an entry that sees itself at least keeps the softmax defined.
        is_near = seen(valid_BL[None, :, :, None]).transpose(2, 3) & (apart_SM.abs() <= self._reach)
        mixed = scaled_dot_product_attention(asking, seen(key), seen(value), attn_mask=is_near | (apart_SM == 0))
        mixed_JBLd = mixed.reshape(self.num_heads, num_lists, -1, query.shape[3])[:, :, :length]
        mixed_BLD: Tensor = self.out(mixed_JBLd.permute(1, 2, 0, 3).flatten(2))
        return mixed_BLD

    def _heads(self, entries_BLD: Tensor) -> Tensor:
        """J × B × L × d: heads lead, so that blocks of a list are put side by side in one piece."""
        return entries_BLD.view(*entries_BLD.shape[:2], self.num_heads, -1).permute(2, 0, 1, 3)

    def output_weights(self, head: int) -> Tensor:
        """See `ListAttention`."""
        return columns_of_head(self.out, head, self.num_heads)

    def maps(self, x_BLD: Tensor, first_BLD: Tensor, valid_BL: Tensor, places_BQ: Tensor) -> Tensor:
        """See `SoftmaxAttention`."""
        del first_BLD
        asking_BQD = x_BLD.gather(1, places_BQ.unsqueeze(2).expand(-1, -1, x_BLD.shape[2]))
        query, key = split_heads(self.query(asking_BQD), self.num_heads), split_heads(self.key(x_BLD), self.num_heads)
        apart_BQL = torch.arange(x_BLD.shape[1]) - places_BQ.unsqueeze(2)
        seen_BQL = (apart_BQL.abs() <= self._reach) & valid_BL.unsqueeze(1) | (apart_BQL == 0)
        likeness = query @ key.transpose(2, 3) * query.shape[3] ** -0.5
        shares: Tensor = likeness.masked_fill(~seen_BQL.unsqueeze(1), -torch.inf).softmax(3)
        return shares


@final
class LinearAttention(ListAttention):
    """Attention whose shares are products: φ(qᵢ)·φ(kₘ) / Σₘ φ(qᵢ)·φ(kₘ), with φ(x) = elu(x) + 1, in each of J heads.

    ``φ(qᵢ)ᵀ (Σₘ φ(kₘ) vₘᵀ) / φ(qᵢ)ᵀ (Σₘ φ(kₘ))`` is the same, and both sums are the list's, whoever asks.

    Args:
        width: D, a multiple of the number of heads.
        num_heads: J.

    Raises:
        RecipeError: The width cannot be shared among the heads.

    >>> attention = LinearAttention(8, num_heads=2)
    >>> one_BLD = torch.randn(1, 1, 8)
    >>> mixed_BLD = attention(one_BLD, one_BLD, torch.ones(1, 1, dtype=torch.bool))
    >>> torch.allclose(mixed_BLD, attention.out(attention.value(one_BLD)), atol=1e-6)  # it sees itself alone
    True
    """

    def __init__(self, width: int, *, num_heads: int) -> None:
        super().__init__()
        check_heads(width, num_heads)
        self.num_heads = num_heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x_BLD: Tensor, first_BLD: Tensor, valid_BL: Tensor) -> Tensor:
        """See `ListAttention`."""
        del first_BLD
        query = split_heads(elu(self.query(x_BLD)) + 1, self.num_heads)
        key = split_heads((elu(self.key(x_BLD)) + 1) * valid_BL.unsqueeze(2), self.num_heads)
        value = split_heads(self.value(x_BLD), self.num_heads)
        total = key.sum(2).unsqueeze(3)
        mixed_BJLd = query @ (key.transpose(2, 3) @ value) / (query @ total).clamp(min=_SMALLEST)
        mixed_BLD: Tensor = self.out(mixed_BJLd.transpose(1, 2).flatten(2))
        return mixed_BLD

    def output_weights(self, head: int) -> Tensor:
        """See `ListAttention`."""
        return columns_of_head(self.out, head, self.num_heads)
