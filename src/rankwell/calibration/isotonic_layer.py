"""An increasing piecewise linear function of the logit that is trained with the network.

Letters in names: C candidates, flat over the batch · B buckets · G segments.
"""

from __future__ import annotations

import math
from typing import Final, final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad, softplus

from rankwell.calibration.segment_isotonic import SegmentIsotonic
from rankwell.calibration.segment_levels import halves_of
from rankwell.errors import CalibrationError

__all__ = ["IsotonicLayer"]

_LEVEL: Final = math.log(math.e - 1.0)
"""Its softplus is 1."""
_FAR: Final = 100.0
"""How far beyond its buckets the layer's calibrator goes on to rise."""


@final
class IsotonicLayer(nn.Module):
    """Log-odds b + Σ_k s_k·(how much of bucket k lies below z) + the segment's offset, with slopes s_k > 0.

    Buckets of one width cut the range from `low` to `high`; the first reaches down and the last one up without end, so
    that the gradient to the network never ends. The sum over the buckets below z is one number for each bucket, found
    once a batch; a logit then takes a look-up and a product, however many buckets there are. It starts as z itself.

    It is no `Calibrator`: what it is trained on is train. After training it is dropped, and the calibrator is fitted on
    logits of held-out rows, as for any other model; or it is kept through `as_calibrator`.

    Args:
        low, high: Finite, in ascending order.
        num_buckets: B ≥ 1.
        num_segments: G ≥ 0.

    Raises:
        CalibrationError: The range is empty, or a number is too small.

    >>> layer = IsotonicLayer(low=-4.0, high=4.0, num_buckets=8, num_segments=2)
    >>> layer(torch.tensor([-9.0, 0.3, 5.0]), torch.tensor([0, 1, 7])).tolist()  # 7 is no segment of it
    [-9.0, 0.30000001192092896, 5.0]

    Source: Borisyuk et al. 2024, "LiRank: industrial large scale ranking models at LinkedIn", §3.4, whose sum over all
    buckets for each logit this is equal to.
    """

    def __init__(self, *, low: float = -12.0, high: float = 6.0, num_buckets: int = 100, num_segments: int = 0) -> None:
        super().__init__()
        if not (math.isfinite(low) and math.isfinite(high) and low < high and num_buckets >= 1 and num_segments >= 0):
            raise CalibrationError(
                "IsotonicLayer cannot have these buckets",
                found={"low": low, "high": high, "num_buckets": num_buckets, "num_segments": num_segments},
                allowed="finite low < high, num_buckets ≥ 1, num_segments ≥ 0",
            )
        self._low, self._width = low, (high - low) / num_buckets
        self._num_buckets, self._num_segments = num_buckets, num_segments
        self.steepness_B = nn.Parameter(torch.full((num_buckets,), _LEVEL))
        self.bias = nn.Parameter(torch.tensor(low))
        self.offsets_G = nn.Parameter(torch.zeros(num_segments))

    def forward(self, logits_C: Tensor, segment_C: Tensor) -> Tensor:
        """The log-odds, of the dtype of the logits.

        Args:
            logits_C: Finite.
            segment_C: int64; the offset of a segment outside 0 to G - 1 is 0.
        """
        slopes_B, starts_B, edges_B = self._buckets()
        levels_B = starts_B - slopes_B * edges_B  # where the line of each bucket passes a logit of 0
        wide_C = logits_C.double()  # all is float64, so that the rounding is that of the result alone
        bucket_C = ((wide_C.detach() - self._low) / self._width).long().clamp(0, self._num_buckets - 1)
        log_odds_C = torch.addcmul(levels_B[bucket_C], slopes_B[bucket_C], wide_C)
        if self._num_segments == 0:
            return log_odds_C.to(logits_C.dtype)
        is_known_C = (segment_C >= 0) & (segment_C < self._num_segments)
        offset_C = pad(self.offsets_G.double(), (0, 1))[torch.where(is_known_C, segment_C, self._num_segments)]
        return (log_odds_C + offset_C).to(logits_C.dtype)

    @torch.no_grad()
    def as_calibrator(self) -> SegmentIsotonic:
        """What the layer has learned, offsets of segments 0 to G - 1 with it; level from 100 beyond its buckets on.

        So a bundle carries it, and its graph holds it. A bundle's calibrator is best fitted on held-out rows, though:
        see `fit_segment_isotonic` for the same function fitted on those.
        """
        slopes_B, starts_B, edges_B = self._buckets()
        ends = torch.stack([edges_B[0] - _FAR, edges_B[-1] + self._width + _FAR])
        rises = torch.stack([starts_B[0] - _FAR * slopes_B[0], starts_B[-1] + (self._width + _FAR) * slopes_B[-1]])
        knots_B = torch.cat([ends[:1], edges_B, ends[1:]])
        values = torch.from_numpy(halves_of(np.arange(self._num_segments)))
        return SegmentIsotonic(
            knots_B, torch.cat([rises[:1], starts_B, rises[1:]]), values, self.offsets_G.detach().double()
        )

    def extra_repr(self) -> str:
        """The buckets and the segments."""
        high = self._low + self._num_buckets * self._width
        return f"low={self._low:g}, high={high:g}, num_buckets={self._num_buckets}, num_segments={self._num_segments}"

    def _buckets(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of each bucket: its slope, and the log-odds and the logit where it begins; float64."""
        slopes_B = softplus(self.steepness_B.double())
        starts_B = self.bias.double() + pad((slopes_B * self._width).cumsum(0)[:-1], (1, 0))
        places_B = torch.arange(self._num_buckets, dtype=torch.float64, device=starts_B.device)
        return slopes_B, starts_B, self._low + self._width * places_B
