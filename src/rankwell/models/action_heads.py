"""From a vector a candidate to a logit for each action: a shared bottom, or experts that each action mixes by a gate.

Letters: C candidates, flat · A actions · E experts · D width of the shared vector · W width of a hidden layer · n
linear layers side by side.

Source: Caruana 1997, "Multitask learning", Machine Learning 28 (shared bottom); Ma et al. 2018, "Modeling task
relationships in multi-task learning with multi-gate mixture-of-experts", KDD, §4 (MMoE).
"""

from __future__ import annotations

import abc
from typing import Annotated, Literal, final

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import linear

from rankwell.schema.transforms import Declaration

__all__ = [
    "ActionHeadSettings",
    "ActionHeads",
    "MMoE",
    "MMoESettings",
    "SharedBottom",
    "SharedBottomSettings",
    "make_action_heads",
]

_Width = Annotated[int, Field(ge=1, le=65_536)]
_Rate = Annotated[float, Field(ge=0, lt=1)]


@final
class SharedBottomSettings(Declaration):
    """Settings of `SharedBottom`; as they stand, one linear layer an action and nothing else.

    Args:
        hidden: Widths of the layers that all actions share.
        tower: Widths of the layers that each action has of its own.
        dropout: After each of these layers.

    >>> SharedBottomSettings(hidden=(32,)).model_dump_json()
    '{"kind":"shared_bottom","hidden":[32],"tower":[],"dropout":0.0}'
    """

    kind: Literal["shared_bottom"] = "shared_bottom"
    hidden: tuple[_Width, ...] = ()
    tower: tuple[_Width, ...] = ()
    dropout: _Rate = 0.0


@final
class MMoESettings(Declaration):
    """Settings of `MMoE`.

    Args:
        num_experts: E.
        expert_width: W of each expert.
        tower: Widths of the layers that each action has of its own.
        dropout: After the experts and after each layer of the towers.

    >>> MMoESettings(num_experts=8).kind
    'mmoe'
    """

    kind: Literal["mmoe"] = "mmoe"
    num_experts: Annotated[int, Field(ge=1, le=1024)] = 4
    expert_width: _Width = 32
    tower: tuple[_Width, ...] = (16,)
    dropout: _Rate = 0.0


ActionHeadSettings = Annotated[SharedBottomSettings | MMoESettings, Field(discriminator="kind")]
"""As a field of a model's settings: either, told apart in JSON by its `kind`."""


class ActionHeads(nn.Module, abc.ABC):
    """What turns a candidate's vector into its logits."""

    @abc.abstractmethod
    def forward(self, x_CD: Tensor) -> Tensor:
        """logits_CA, natural log-odds."""


@final
class SharedBottom(ActionHeads):
    """Layers that all actions share, then a tower an action: ``logit_a = tower_a(bottom(x))``; layers are ReLU(linear).

    Args:
        settings: Widths and dropout.
        width: D.
        num_actions: A.

    >>> SharedBottom(SharedBottomSettings(hidden=(8,), tower=(4,)), 16, 3)(torch.zeros(5, 16)).shape
    torch.Size([5, 3])
    """

    def __init__(self, settings: SharedBottomSettings, width: int, num_actions: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for hidden in settings.hidden:
            layers += [nn.Linear(width, hidden), nn.ReLU(inplace=True), nn.Dropout(settings.dropout)]
            width = hidden
        self.bottom = nn.Sequential(*layers)
        self.towers = _Towers(num_actions, width, settings.tower, settings.dropout)

    def forward(self, x_CD: Tensor) -> Tensor:
        """See `ActionHeads`."""
        logits_CA: Tensor = self.towers(self.bottom(x_CD))
        return logits_CA


@final
class MMoE(ActionHeads):
    """Experts that all actions share, which each action mixes by a gate of its own.

    ``logit_a = tower_a(Σ_e g_ae(x) · ReLU(expert_e(x)))`` with ``g_a(x) = softmax(gate_a(x))``.

    Args:
        settings: Numbers, widths and dropout.
        width: D.
        num_actions: A.

    >>> heads = MMoE(MMoESettings(num_experts=2), 16, 3)
    >>> heads.gates(torch.zeros(5, 16)).shape, heads(torch.zeros(5, 16)).shape
    (torch.Size([5, 3, 2]), torch.Size([5, 3]))
    """

    def __init__(self, settings: MMoESettings, width: int, num_actions: int) -> None:
        super().__init__()
        self.experts = _SideBySide(settings.num_experts, width, settings.expert_width)
        self.gate = _SideBySide(num_actions, width, settings.num_experts, has_bias=False)
        self.dropout = nn.Dropout(settings.dropout)
        self.towers = _Towers(num_actions, settings.expert_width, settings.tower, settings.dropout)

    def gates(self, x_CD: Tensor) -> Tensor:
        """C × A × E: how much of each expert an action takes; sums to 1 over the experts."""
        gates_CAE: Tensor = self.gate(x_CD).softmax(2)
        return gates_CAE

    def forward(self, x_CD: Tensor) -> Tensor:
        """See `ActionHeads`."""
        experts_CEW = self.dropout(self.experts(x_CD).relu())
        logits_CA: Tensor = self.towers(self.gates(x_CD) @ experts_CEW)
        return logits_CA


def make_action_heads(settings: SharedBottomSettings | MMoESettings, width: int, num_actions: int) -> ActionHeads:
    """The heads that `settings` describe; random numbers are torch's own, seeded by whoever calls.

    Args:
        settings: Of either kind.
        width: D, of the vector that the heads read.
        num_actions: A.

    >>> make_action_heads(SharedBottomSettings(), 16, 3)(torch.zeros(5, 16)).shape
    torch.Size([5, 3])
    """
    if isinstance(settings, MMoESettings):
        return MMoE(settings, width, num_actions)
    return SharedBottom(settings, width, num_actions)


@final
class _SideBySide(nn.Module):
    """n linear layers of one shape in one product, started as `nn.Linear` starts each."""

    def __init__(self, num_layers: int, width: int, out_width: int, *, has_bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_layers, out_width, width))
        # flat, because optimizers spare vectors from weight decay, and these are biases
        self.bias = nn.Parameter(torch.empty(num_layers * out_width)) if has_bias else None
        bound = width**-0.5
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """C × n × W, from C × D that all layers read or from C × n × D, one row a layer."""
        num_layers, out_width, _ = self.weight.shape
        if x.ndim == 2:
            return linear(x, self.weight.flatten(0, 1), self.bias).view(x.shape[0], num_layers, out_width)
        y_CnW = torch.bmm(x.transpose(0, 1), self.weight.transpose(1, 2)).transpose(0, 1)
        return y_CnW if self.bias is None else y_CnW + self.bias.view(num_layers, out_width)


@final
class _Towers(nn.Module):
    """Layers that each action has of its own, down to its logit."""

    def __init__(self, num_actions: int, width: int, hidden: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for out_width in hidden:
            layers += [_SideBySide(num_actions, width, out_width), nn.ReLU(), nn.Dropout(dropout)]
            width = out_width
        self.layers = nn.Sequential(*layers, _SideBySide(num_actions, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        """logits_CA, from C × D that all actions read or from C × A × D."""
        logits_CA: Tensor = self.layers(x).squeeze(2)
        return logits_CA
