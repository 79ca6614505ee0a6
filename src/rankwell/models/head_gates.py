"""A gate on each head of attention, which training can close: to exactly 0, so that the head can be cut out.

Letters: B lists · J heads · S segments.

Source: Louizos, Welling and Kingma 2018, "Learning sparse neural networks through L0 regularization", ICLR, §2.2
(the hard concrete distribution); Voita et al. 2019, "Analyzing multi-head self-attention", ACL, §5 (gates on heads).
"""

from __future__ import annotations

import abc
import math
from typing import Annotated, Final, Literal, final

import torch
from pydantic import Field
from torch import Tensor, nn

from rankwell.errors import RecipeError
from rankwell.schema.transforms import Declaration

__all__ = [
    "GateSettings",
    "HeadGates",
    "SegmentGateSettings",
    "SegmentGates",
    "StaticGateSettings",
    "StaticGates",
    "make_gates",
]

_TEMPERATURE: Final = 2 / 3
_LOW: Final = -0.1
_HIGH: Final = 1.1
_CLOSES: Final = _TEMPERATURE * math.log(-_LOW / _HIGH)
_LEAST_CHANCE: Final = 1e-6

Chance = Annotated[float, Field(gt=0, lt=1)]


@final
class StaticGateSettings(Declaration):
    """One gate a head: `StaticGates`.

    Args:
        start_open: The chance that a gate is open before anything is trained.
    """

    kind: Literal["static"] = "static"
    start_open: Chance = 0.95


@final
class SegmentGateSettings(Declaration):
    """One gate a head and segment: `SegmentGates`.

    Args:
        segment: The categorical feature of requests whose ids are the segments.
        num_segments: S; ids are 0 … S - 1, and any other id is in a segment that nothing is known of.
        start_open: As in `StaticGateSettings`.
    """

    kind: Literal["segment"] = "segment"
    segment: str
    num_segments: Annotated[int, Field(ge=1, le=65_536)]
    start_open: Chance = 0.95


GateSettings = Annotated[StaticGateSettings | SegmentGateSettings, Field(discriminator="kind")]


def make_gates(settings: StaticGateSettings | SegmentGateSettings, num_heads: int) -> HeadGates:
    """The gates that these settings mean.

    >>> make_gates(StaticGateSettings(), 3).open_heads()
    (0, 1, 2)
    """
    if isinstance(settings, StaticGateSettings):
        return StaticGates(num_heads, start_open=settings.start_open)
    return SegmentGates(num_heads, num_segments=settings.num_segments, start_open=settings.start_open)


class HeadGates(nn.Module, abc.ABC):
    """What each head's result is multiplied by, in [0, 1].

    ``min(1, max(0, 1.2·σ(s) - 0.1))``: in training mode s = (ln u - ln(1 - u) + a) / ⅔ with u drawn evenly from (0, 1)
    by torch's default generator, once a forward for all lists (of a segment); in eval mode s = a, and nothing is drawn.
    The parameter a is a gate's own. Gates are exactly 0 in eval mode where a ≤ -ln 11.

    Args:
        num_heads: J.
    """

    num_heads: int

    @abc.abstractmethod
    def locations(self, segment_B: Tensor | None) -> Tensor:
        """The parameters a, B × J, or 1 × J where they are the same for all lists.

        Args:
            segment_B: int64, the segment of each list.

        Raises:
            RecipeError: There is no segment, and the gates depend on it.
        """

    @abc.abstractmethod
    def forward(self, segment_B: Tensor | None) -> Tensor:
        """The gates, B × J or 1 × J; arguments and errors as those of `locations`."""

    def chances(self, segment_B: Tensor | None) -> Tensor:
        """The chance that each gate is open in training, σ(a - ⅔ ln(1/11)); their sum is what sparsity costs."""
        return torch.sigmoid(self.locations(segment_B) - _CLOSES)

    def settled(self, segment: int | None = None) -> Tensor:
        """J: the gates of eval mode.

        Args:
            segment: Of which segment; None where there are none, or for one that nothing is known of.
        """
        return _settled(self.locations(torch.tensor([-1 if segment is None else segment])))[0]

    def open_heads(self, segment: int | None = None) -> tuple[int, ...]:
        """The heads whose gates are not exactly 0 in eval mode."""
        return tuple(self.settled(segment).nonzero().flatten().tolist())


@final
class StaticGates(HeadGates):
    """One gate a head, the same for all lists.

    Args:
        num_heads: J.
        start_open: See `StaticGateSettings`.

    >>> gates = StaticGates(2).eval()
    >>> gates.location.data[0] = -3.0
    >>> gates(None)
    tensor([[0.0000, 0.8521]], grad_fn=...)
    >>> gates.open_heads()
    (1,)
    """

    def __init__(self, num_heads: int, *, start_open: float = 0.95) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.location = nn.Parameter(torch.full((num_heads,), _location(start_open)))

    def locations(self, segment_B: Tensor | None) -> Tensor:
        """See `HeadGates`; segments make no difference."""
        del segment_B
        return self.location.unsqueeze(0)

    def forward(self, segment_B: Tensor | None) -> Tensor:
        """See `HeadGates`; segments make no difference."""
        location_1J = self.locations(segment_B)
        return _drawn(location_1J) if self.training else _settled(location_1J)


@final
class SegmentGates(HeadGates):
    """One gate a head and segment: a = what all segments share + what is a segment's own.

    A segment that nothing is known of, any id outside 0 … S - 1, has what is shared alone.

    Args:
        num_heads: J.
        num_segments: S.
        start_open: See `StaticGateSettings`.

    >>> gates = SegmentGates(2, num_segments=3).eval()
    >>> gates.own.data[1, 0] = -5.0
    >>> gates.open_heads(0), gates.open_heads(1), gates.open_heads(7)
    ((0, 1), (1,), (0, 1))
    """

    def __init__(self, num_heads: int, *, num_segments: int, start_open: float = 0.95) -> None:
        super().__init__()
        self.num_heads, self.num_segments = num_heads, num_segments
        self.shared = nn.Parameter(torch.full((num_heads,), _location(start_open)))
        self.own = nn.Parameter(torch.zeros(num_segments, num_heads))

    def locations(self, segment_B: Tensor | None) -> Tensor:
        """See `HeadGates`."""
        return self._of_every_segment()[self._row(segment_B)]

    def forward(self, segment_B: Tensor | None) -> Tensor:
        """See `HeadGates`; lists of one segment have the same gates, in training as well."""
        location = self._of_every_segment()
        every = _drawn(location) if self.training else _settled(location)
        return every[self._row(segment_B)]

    def _of_every_segment(self) -> Tensor:  # and of the unknown one, last
        return torch.cat([self.shared + self.own, self.shared.unsqueeze(0)])

    def _row(self, segment_B: Tensor | None) -> Tensor:
        if segment_B is None:
            raise RecipeError(
                "gates that depend on a segment need the segment of each list", found=None, allowed="int64 of B",
                do="run the layers within rankwell.models.specialised_attention.routed(layers, segment_B)",
            )  # fmt: skip
        known_B = (segment_B >= 0) & (segment_B < self.num_segments)
        return torch.where(known_B, segment_B, self.num_segments)


def _location(chance: float) -> float:
    return math.log(chance / (1 - chance)) + _CLOSES


def _drawn(location: Tensor) -> Tensor:
    uniform = torch.rand_like(location).clamp(_LEAST_CHANCE, 1 - _LEAST_CHANCE)
    return _stretched((torch.log(uniform) - torch.log1p(-uniform) + location) / _TEMPERATURE)


def _settled(location: Tensor) -> Tensor:
    return _stretched(location)


def _stretched(logit: Tensor) -> Tensor:
    return (torch.sigmoid(logit) * (_HIGH - _LOW) + _LOW).clamp(0.0, 1.0)
