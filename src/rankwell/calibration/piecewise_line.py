"""A line from knot to knot, as nodes of a graph: what isotonic calibrators look log-odds up in.

Letters in names: C candidates, flat over the batch · B knots · N pieces between two knots.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from rankwell.errors import CalibrationError

__all__ = ["PiecewiseLine", "checked_knots"]


@final
class PiecewiseLine(nn.Module):
    """Interpolated linearly between the knots on either side, and constant before the first and after the last.

    What it holds follows from the knots of its owner, which are that one's state; so it has none of its own.

    Args:
        x_B: float64, at least one, strictly ascending.
        y_B: float64, of the same length.

    >>> line = PiecewiseLine(torch.tensor([-1.0, 1.0]).double(), torch.tensor([-3.0, -1.0]).double())
    >>> line(torch.tensor([-9.0, 0.0, 9.0])).tolist()
    [-3.0, -2.0, -1.0]
    """

    _pieces_N4: Tensor
    _inner_knots: Tensor

    def __init__(self, x_B: Tensor, y_B: Tensor) -> None:
        super().__init__()
        # Each piece between two knots as one row to look up. Of one knot, a piece without rise.
        right = slice(1, None) if len(x_B) > 1 else slice(None)
        left = slice(len(x_B[right]))
        gaps_N = (x_B[right] - x_B[left]).clamp(min=torch.finfo(torch.float64).tiny)
        pieces_N4 = torch.stack([x_B[left], gaps_N, y_B[left], y_B[right]], 1)
        self.register_buffer("_pieces_N4", pieces_N4, persistent=False)
        self.register_buffer("_inner_knots", x_B[1:-1].clone(), persistent=False)
        self._first, self._last = x_B[0].item(), x_B[-1].item()

    def forward(self, x_C: Tensor) -> Tensor:
        """In float64; NaN where x is NaN."""
        bounded_C = x_C.double().clamp(self._first, self._last)
        if self._inner_knots.shape[0]:
            piece_C = torch.bucketize(bounded_C, self._inner_knots)  # a NaN lies after every knot
        else:  # the one piece there is; a tracer to ONNX loses the type of what is looked up among none
            piece_C = torch.zeros_like(bounded_C, dtype=torch.int64)
        start_C, gap_C, low_C, high_C = self._pieces_N4[piece_C].unbind(1)
        return torch.lerp(low_C, high_C, (bounded_C - start_C) / gap_C)


def checked_knots(of: str, logits_B: Tensor, log_odds_B: Tensor) -> tuple[Tensor, Tensor]:
    """Copies of the knots of a calibrator, in float64.

    Args:
        of: What errors call it.
        logits_B: At least one, finite, strictly ascending.
        log_odds_B: Of the same length, finite, ascending.

    Raises:
        CalibrationError: They are none of that.
    """
    logits_B, log_odds_B = (knots_B.detach().to(torch.float64, copy=True) for knots_B in (logits_B, log_odds_B))
    if logits_B.ndim != 1 or logits_B.shape != log_odds_B.shape or len(logits_B) == 0:
        raise CalibrationError(
            f"{of} needs knots: as many log-odds as logits",
            found=[tuple(logits_B.shape), tuple(log_odds_B.shape)],
            allowed="two vectors of one length, at least 1",
        )
    finite = bool(logits_B.isfinite().all() and log_odds_B.isfinite().all())
    if not finite or bool((logits_B.diff() <= 0).any()) or bool((log_odds_B.diff() < 0).any()):
        raise CalibrationError(
            f"{of} cannot have these knots",
            found={"logits": logits_B.tolist()[:8], "log-odds": log_odds_B.tolist()[:8]},
            allowed="finite, logits strictly ascending, log-odds ascending",
        )
    return logits_B, log_odds_B
