"""Pre-LN Transformer layers, one upon the other.

Letters: B lists · L places · D width · R requests · C candidates, flat · N inputs.

Source: Xiong et al. 2020, "On layer normalization in the transformer architecture", ICML (pre-LN); Lan et al. 2020,
"ALBERT: a lite BERT", ICLR (layers that share their weights).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import final

from torch import Tensor, nn
from torch.nn.functional import linear

from rankwell.models.attention import ListAttention

__all__ = ["LayerStack", "PreNormLayer", "linear_of_both", "spread"]


@final
class PreNormLayer(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x)), the feed-forward being linear, GELU, linear.

    Args:
        attention: How entries see each other.
        width: D.
        hidden: Width inside the feed-forward.
        dropout: Of what attention and feed-forward add.
    """

    def __init__(self, attention: ListAttention, *, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.attention = attention
        self.norm_attention, self.norm_forward = nn.LayerNorm(width), nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BLD: Tensor, first_BLD: Tensor, valid_BL: Tensor) -> Tensor:
        """The entries, each knowing of those that it sees; arguments as in `ListAttention`."""
        x_BLD = x_BLD + self.dropout(self.attention(self.norm_attention(x_BLD), first_BLD, valid_BL))
        added_BLD: Tensor = self.dropout(self.feed_forward(self.norm_forward(x_BLD)))
        return x_BLD + added_BLD


@final
class LayerStack(nn.Module):
    """Layers one upon the other, and a last norm.

    Args:
        layer: Makes one.
        num_layers: How many the entries pass through; 0 leaves the norm.
        width: D.
        shares_layers: Whether they all are one, passed through so many times.

    >>> from rankwell.models.attention import SelfAttention
    >>> def layer():
    ...     return PreNormLayer(SelfAttention(8, num_heads=2, is_causal=False), width=8, hidden=16, dropout=0.0)
    >>> def num_parameters(stack):
    ...     return sum(parameter.numel() for parameter in stack.parameters())
    >>> [num_parameters(LayerStack(layer, n, width=8, shares_layers=shares)) for n, shares in ((1, False), (4, True))]
    [608, 608]
    """

    def __init__(
        self, layer: Callable[[], PreNormLayer], num_layers: int, *, width: int, shares_layers: bool = False
    ) -> None:
        super().__init__()
        self._times = num_layers if shares_layers else 1
        self.layers = nn.ModuleList(layer() for _ in range(min(num_layers, 1) if shares_layers else num_layers))
        self.norm = nn.LayerNorm(width)

    @property
    def attentions(self) -> tuple[ListAttention, ...]:
        """The attention of each pass, in order; where layers are shared, one so many times."""
        attentions = [layer.attention for layer in self.layers if isinstance(layer, PreNormLayer)]
        return tuple(attentions) * self._times

    def forward(self, x_BLD: Tensor, valid_BL: Tensor) -> Tensor:
        """B × L × D."""
        first_BLD = x_BLD
        for _ in range(self._times):
            for layer in self.layers:
                x_BLD = layer(x_BLD, first_BLD, valid_BL)
        last_BLD: Tensor = self.norm(x_BLD)
        return last_BLD


def linear_of_both(layer: nn.Linear, own_CN: Tensor, request_RN: Tensor, request_C: Tensor) -> Tensor:
    """A linear layer over a candidate's own inputs and its request's, the request's share computed once a request.

    ``[own, request[request_C]] Wᵀ + b``, without the matrix that it is a product of.

    Args:
        layer: Over the inputs side by side, the candidate's own first.
        own_CN: Of the candidates.
        request_RN: Of the requests.
        request_C: int64, the request of each candidate.

    >>> import torch
    >>> layer, own_CN, request_RN = nn.Linear(5, 2), torch.randn(3, 4), torch.randn(2, 1)
    >>> request_C = torch.tensor([0, 0, 1])
    >>> both_CN = torch.cat([own_CN, request_RN[request_C]], dim=1)
    >>> torch.allclose(linear_of_both(layer, own_CN, request_RN, request_C), layer(both_CN), atol=1e-6)
    True
    """
    num_own = own_CN.shape[1]
    request_RD = linear(request_RN, layer.weight[:, num_own:], layer.bias)
    return linear(own_CN, layer.weight[:, :num_own]) + spread(request_RD, request_C)


def spread(x_RD: Tensor, request_C: Tensor) -> Tensor:
    """What a request has, for each of its candidates: C × D, or 1 × D where all are of one request.

    >>> import torch
    >>> spread(torch.tensor([[1.0], [2.0]]), torch.tensor([0, 0, 1])).flatten().tolist()
    [1.0, 1.0, 2.0]
    """
    return x_RD if x_RD.shape[0] == 1 else x_RD[request_C]
