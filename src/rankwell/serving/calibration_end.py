"""What stands behind a ranker's logits, as one module: the end of a graph.

Letters in names: C candidates, flat over the batch · A actions · S segment columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast, final

import torch
from torch import Tensor, nn

from rankwell.calibration.calibrator import Calibrator, open_probabilities
from rankwell.errors import BundleError
from rankwell.losses.label_smoothing import undo_label_smoothing

__all__ = ["CalibrationEnd"]


@final
class CalibrationEnd(nn.Module):
    """Logits of all actions to calibrated probabilities: label smoothing undone, then each action's calibrator.

    Args:
        calibrators: One an action, in the order of the schema's actions.
        label_smoothing: The ε that is inverted before they are asked.

    Raises:
        BundleError: There is no calibrator.

    >>> from rankwell.calibration.platt import Platt
    >>> end = CalibrationEnd([Platt(slope=1.0, offset=-1.0)])
    >>> end(torch.zeros(2, 1), torch.zeros(2, 0, dtype=torch.int64)).squeeze(1)
    tensor([0.2689, 0.2689], dtype=torch.float64)
    """

    def __init__(self, calibrators: Sequence[Calibrator], label_smoothing: float = 0.0) -> None:
        super().__init__()
        if not calibrators:
            raise BundleError("there is no calibrator to end a graph with", found=0, allowed="one an action")
        self.calibrators = nn.ModuleList(calibrators)
        self.label_smoothing = label_smoothing

    def forward(self, logits_CA: Tensor, segments_CS: Tensor) -> Tensor:
        """probabilities_CA, float64 in (0, 1)."""
        logits_CA = undo_label_smoothing(logits_CA.double(), self.label_smoothing)
        columns = [
            cast(Calibrator, calibrator).calibrated_logits(logits_CA[:, a], segments_CS)
            for a, calibrator in enumerate(self.calibrators)
        ]
        return open_probabilities(torch.stack(columns, dim=1))  # one node of a graph for all actions, where they meet
