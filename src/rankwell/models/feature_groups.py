"""What is known of candidates by group of features, as coordinates that a head of attention can be fed with.

Letters: C candidates, flat · N inputs · W coordinates of all groups, side by side · G groups.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Final, final

import torch
from pydantic import Field
from torch import Tensor, nn

from rankwell.errors import SchemaError
from rankwell.schema.transforms import Declaration

__all__ = ["FeatureGroup", "GroupCoordinates"]

_SMALLEST: Final = 1e-6  # mean square, below which coordinates are not made larger


@final
class FeatureGroup(Declaration):
    """Features of candidates that one head of attention may see together.

    Args:
        name: By which heads name it.
        features: Of candidates; a place brings its distance from the request's place, where there is one.
        width: How many coordinates the group has in a candidate's vector.
    """

    name: str
    features: Annotated[tuple[str, ...], Field(min_length=1)]
    width: Annotated[int, Field(ge=1, le=1024)] = 8


@final
class GroupCoordinates(nn.Module):
    """For each group a linear map of its own features' inputs and no others, scaled to a mean square of 1.

    All groups are one product: the weights from features outside a group are fixed at 0. Scaled, two candidates that
    are alike in a group have the largest product there, whatever the size of its rows.

    Args:
        groups: In the order in which they stand in the vector.
        coordinates: Where the inputs of each feature stand among N, as `DenseInputs.candidate_coordinates` has it.
        num_inputs: N.

    Raises:
        SchemaError: A group has a feature that candidates don't have, or two groups have one name.

    >>> groups = (FeatureGroup(name="title", features=("job_title",), width=2), FeatureGroup(name="pay",
    ...           features=("salary",), width=1))
    >>> of_candidates = GroupCoordinates(groups, {"job_title": (0, 1, 2), "salary": (3,)}, num_inputs=4)
    >>> of_candidates.layout, of_candidates(torch.randn(5, 4)).shape
    ({'title': 2, 'pay': 1}, torch.Size([5, 3]))
    """

    reads_WN: Tensor
    group_WG: Tensor

    def __init__(
        self, groups: Sequence[FeatureGroup], coordinates: Mapping[str, tuple[int, ...]], *, num_inputs: int
    ) -> None:
        super().__init__()
        _check(groups, coordinates)
        self.layout: Mapping[str, int] = {group.name: group.width for group in groups}
        self.width: int = sum(self.layout.values())
        widths = torch.tensor([group.width for group in groups], dtype=torch.int64)
        group_W = torch.arange(len(groups)).repeat_interleave(widths)
        reads_GN = torch.zeros(len(groups), num_inputs)
        for g, group in enumerate(groups):
            reads_GN[g, [place for name in group.features for place in coordinates[name]]] = 1.0
        self.register_buffer("reads_WN", reads_GN[group_W], persistent=False)
        self.register_buffer("group_WG", (group_W.unsqueeze(1) == torch.arange(len(groups))).float(), persistent=False)
        bound_W1 = self.reads_WN.sum(1, keepdim=True).clamp(min=1).rsqrt()
        self.weight = nn.Parameter(torch.empty(self.width, num_inputs).uniform_(-1, 1) * bound_W1 * self.reads_WN)
        self.bias = nn.Parameter(torch.zeros(self.width))

    def forward(self, candidate_CN: Tensor) -> Tensor:
        """C × W, the groups side by side."""
        raw_CW = nn.functional.linear(candidate_CN, self.weight * self.reads_WN, self.bias)
        square_CG = (raw_CW.square() @ self.group_WG) / self.group_WG.sum(0)
        scaled_CW: Tensor = raw_CW * (square_CG.clamp(min=_SMALLEST).rsqrt() @ self.group_WG.T)
        return scaled_CW


def _check(groups: Sequence[FeatureGroup], coordinates: Mapping[str, tuple[int, ...]]) -> None:
    twice = [name for name, times in Counter(group.name for group in groups).items() if times > 1]
    if twice:
        raise SchemaError("groups of features share a name", found=twice, allowed="a name each")
    for group in groups:
        unknown = sorted(set(group.features) - set(coordinates))
        if unknown:
            raise SchemaError(
                f"group {group.name!r} is of features that candidates do not have", found=unknown,
                allowed=sorted(coordinates), do="name features of candidates that the model reads",
            )  # fmt: skip
