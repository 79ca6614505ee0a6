"""What every calibrator is.

Letters in names: C candidates, flat over the batch · S segment columns.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Final, Literal, Self, final

import torch
from torch import Tensor, nn

from rankwell.errors import CalibrationError

__all__ = ["Calibrator", "Distortion", "open_probabilities"]

Distortion = Literal["slope", "offset", "shape", "segment"]
"""A way in which logits z may miss the true log-odds t: ``t = a·z`` (slope), ``t = z + b`` (offset), ``t = f(z)`` with
any increasing f (shape), ``t = z + b_s`` with an offset for each segment (segment)."""

_SMALLEST: Final = 2.0**-1022
"""The smallest normal float64: a processor may take anything smaller for 0."""
_LARGEST: Final = 1.0 - 2.0**-53
"""The largest float64 below 1."""


def open_probabilities(calibrated_logits: Tensor) -> Tensor:
    """σ of log-odds in float64, of any shape, inside the open interval (0, 1); NaN where the log-odds are NaN.

    >>> open_probabilities(torch.tensor([0.0, 800.0], dtype=torch.float64)) < 1
    tensor([True, True])
    """
    return torch.sigmoid(calibrated_logits).clamp(_SMALLEST, _LARGEST)


class Calibrator(nn.Module, ABC):
    """A fitted map from logits to probabilities: p = σ(`calibrated_logits`), kept inside the open interval (0, 1).

    What each one keeps:

    - it is fitted by ``fit_<name>(logits_C, labels_C, weights_C, segments_CS)``, which returns a finished object and
      raises `CalibrationError` on a sample that tells nothing; it is never fitted on `train`;
    - probabilities are float64 and strictly between 0 and 1 for every logit, ±inf included; a NaN logit gives NaN;
    - within a segment they increase with the logit, up to rounding in the last digit;
    - weights are counts of rows: weight 2 is the row twice, weight 0 is no row; the order of rows means nothing;
    - on fresh data it undoes the distortions that `corrects` names;
    - all that was fitted is in float64 buffers, which are the constructor's arguments by name, so that
      ``type(c).from_state(c.state_dict())`` is equal to c in every bit.

    It is a module but not a layer: it has no parameters, and it stands behind the ranker, after the inversion of label
    smoothing (`rankwell.losses.label_smoothing.undo_label_smoothing`), on logits as they are served.
    """

    corrects: ClassVar[frozenset[Distortion]]
    """The distortions that this kind undoes."""
    state_names: ClassVar[tuple[str, ...]]
    """The names of its buffers."""

    @abstractmethod
    def calibrated_logits(self, logits_C: Tensor, segments_CS: Tensor) -> Tensor:
        """The log-odds of the probabilities, exact where p itself would round to 0 or 1.

        Args:
            logits_C: Natural log-odds, floating.
            segments_CS: int64, the segment of each candidate in each of S ≥ 0 segment columns.

        Returns:
            float64 log-odds; NaN where the logit is NaN.
        """

    @final  # type: ignore[misc]  # torch declares forward as an attribute
    def forward(self, logits_C: Tensor, segments_CS: Tensor) -> Tensor:
        """The calibrated probabilities.

        Args:
            logits_C: Natural log-odds, floating.
            segments_CS: int64, the segment of each candidate in each of S ≥ 0 segment columns.

        Returns:
            float64 in the open interval (0, 1); NaN where the logit is NaN.
        """
        return open_probabilities(self.calibrated_logits(logits_C, segments_CS))

    @final
    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> Self:
        """The calibrator whose `state_dict` this is.

        Raises:
            CalibrationError: A buffer is missing, unknown, or holds what no fit could have given.
        """
        if set(state) != set(cls.state_names):
            raise CalibrationError(
                f"this is not the state of a {cls.__name__}", found=sorted(state), allowed=sorted(cls.state_names)
            )
        return cls(**state)

    def _keep_number(self, name: str, number: Tensor | float, *, positive: bool = False) -> None:
        scalar = torch.as_tensor(number, dtype=torch.float64).detach().clone()
        if scalar.shape != () or not scalar.isfinite() or (positive and scalar <= 0):
            raise CalibrationError(
                f"{type(self).__name__} cannot have this {name}",
                found=scalar.tolist(),
                allowed="a finite number above 0" if positive else "a finite number",
            )
        self.register_buffer(name, scalar)

    def _keep_vector(self, name: str, vector: Tensor, length: int, *, positive: bool = False) -> None:
        self._keep_numbers(name, vector, (length,), positive=positive)

    def _keep_values(self, name: str, halves: Tensor, length: int) -> None:
        """Values of segments, taken apart by `rankwell.calibration.segment_levels.halves_of`."""
        self._keep_numbers(name, halves, (length, 2))

    def _keep_numbers(self, name: str, column: Tensor, shape: tuple[int, ...], *, positive: bool = False) -> None:
        numbers = column.detach().to(torch.float64, copy=True)
        if numbers.shape != shape or not numbers.isfinite().all() or (positive and bool((numbers <= 0).any())):
            raise CalibrationError(
                f"{type(self).__name__} cannot have these {name}",
                found=numbers.tolist(),
                allowed=f"{' × '.join(map(str, shape))} finite numbers" + (" above 0" if positive else ""),
            )
        self.register_buffer(name, numbers)
