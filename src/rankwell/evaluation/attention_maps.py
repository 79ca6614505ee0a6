"""What heads of attention attend to, told from their maps: what is alike, near or recent, and what other heads do.

Letters: n entries that ask, flat over the lists · J heads · L places of the longest list · B lists · Q places that
ask · E bins of distance.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt
from torch import Tensor

from rankwell.errors import MetricError
from rankwell.evaluation.sample import Floats, Ints, undefined

__all__ = ["DISTANCES", "AttentionMaps", "HeadRow", "gates_by_segment", "head_rows"]

DISTANCES: Final = (0, 1, 2, 4, 8, 16, 32, 64)
"""Where bins of distance begin, in places: 0, 1, 2 to 3, 4 to 7, …, 64 and more."""
_ROUNDING: Final = 1e-2  # of maps that bfloat16 made

Bools = npt.NDArray[np.bool_]


@final
@dataclass(frozen=True, slots=True)
class AttentionMaps:
    """Maps of one layer, one row for each entry that asks and head.

    Args:
        maps_nJL: Shares ≥ 0, which sum to 1 over L.
        place_n: Where in its list the entry stands that asks.
        stands_nL: Where its list has entries.
        related_nL: By relation, what stands in relation to the entry that asks; itself does not matter.

    Raises:
        MetricError: Shapes don't fit each other, or rows are no shares.
    """

    maps_nJL: Floats
    place_n: Ints
    stands_nL: Bools
    related_nL: Mapping[str, Bools]

    def __post_init__(self) -> None:
        num, _, length = self.maps_nJL.shape
        shapes = {name: related.shape for name, related in self.related_nL.items()} | {"stands": self.stands_nL.shape}
        if self.place_n.shape != (num,) or any(shape != (num, length) for shape in shapes.values()):
            raise MetricError(
                "maps and what they are compared with differ in shape", found={"places": self.place_n.shape} | shapes,
                allowed=f"{num} places, and {num} × {length}",
            )  # fmt: skip
        if num and not (self.maps_nJL.min() >= 0 and np.abs(self.maps_nJL.sum(2) - 1).max() <= _ROUNDING):  # or NaN
            raise MetricError("a row of a map is no share", found=self.maps_nJL.sum(2).max(), allowed="≥ 0, sum 1")

    @classmethod
    def of(cls, attention: Mapping[str, Tensor], layer: str) -> AttentionMaps:
        """From what a model that watches its heads gives.

        Args:
            attention: `rankwell.types.Encoded.attention`; names as `rankwell.models.head_watch.HeadWatch` gives them.
            layer: Such as "list.0".

        Raises:
            MetricError: No maps of this layer are among it.
        """
        stack = layer.partition(".")[0]
        if f"{layer}.maps" not in attention:
            raise MetricError(
                f"no maps of layer {layer!r} were watched", allowed=[n for n in attention if n.endswith(".maps")],
                do="name another layer, or let the model watch its heads",
            )  # fmt: skip
        asks_BQ = _array(attention[f"{stack}.asks"])
        list_n, asking_n = asks_BQ.nonzero()
        start = f"{stack}.relation."
        return cls(
            _array(attention[f"{layer}.maps"]).astype(np.float64).swapaxes(1, 2)[list_n, asking_n],
            _array(attention[f"{stack}.place"])[list_n, asking_n],
            _array(attention[f"{stack}.entry"])[list_n] >= 0,
            {
                name.removeprefix(start): _array(tensor)[list_n, asking_n]
                for name, tensor in attention.items()
                if name.startswith(start)
            },
        )

    @classmethod
    def joined(cls, parts: Sequence[AttentionMaps]) -> AttentionMaps:
        """Those of several batches as one, of the relations that all of them have.

        Raises:
            MetricError: There is no part, or they differ in their heads.
        """
        if len({part.num_heads for part in parts}) != 1:
            raise MetricError("maps of different layers, or none, cannot be joined", found=len(parts))
        length = max(part.maps_nJL.shape[2] for part in parts)
        relations = [name for name in parts[0].related_nL if all(name in part.related_nL for part in parts)]
        return cls(
            _joined([part.maps_nJL for part in parts], length),
            np.concatenate([part.place_n for part in parts]),
            _joined([part.stands_nL for part in parts], length),
            {name: _joined([part.related_nL[name] for part in parts], length) for name in relations},
        )

    @property
    def num_heads(self) -> int:
        """J."""
        return int(self.maps_nJL.shape[1])

    @property
    def seen_nL(self) -> Bools:
        """Where some head puts a share: what a causal or local layer hides is not seen."""
        seen_nL: Bools = np.logical_or.reduce(self.maps_nJL > 0, axis=1)
        return seen_nL

    @property
    def even_nL(self) -> Floats:
        """The shares of a head that sees all alike: what any other is to be held against."""
        seen_nL = self.seen_nL
        even_nL: Floats = seen_nL / seen_nL.sum(1, keepdims=True)
        return even_nL

    def mass_on(self, relation: str) -> tuple[Floats, float]:
        """The share that goes to related entries other than the one that asks, in the mean; and that of an even head.

        What sees no other related entry is left out: there a head has no choice.

        Args:
            relation: Its name.

        Returns:
            J shares in [0, 1], and one; NaN with `UndefinedMetricWarning` where nothing is left.

        Raises:
            MetricError: There is no such relation.

        >>> maps = AttentionMaps(np.array([[[0.2, 0.7, 0.1]]]), np.array([0]), np.ones((1, 3), bool),
        ...                      {"title": np.array([[True, True, False]])})
        >>> maps.mass_on("title")
        (array([0.7]), 0.333...)
        """
        if relation not in self.related_nL:
            raise MetricError(f"no relation {relation!r}", allowed=sorted(self.related_nL), do="name one of these")
        other_nL = self.related_nL[relation] & self.seen_nL & (self._places() != self.place_n[:, None])
        counts_n = other_nL.any(1)
        if not counts_n.any():
            nan = undefined(f"mass on {relation!r}", "no entry sees another one that is related to it")
            return np.full(self.num_heads, nan), nan
        other_nL = other_nL[counts_n]
        mass_J = np.einsum("njl,nl->j", self.maps_nJL[counts_n], other_nL) / len(other_nL)
        return mass_J, float((self.even_nL[counts_n] * other_nL).sum() / len(other_nL))

    def mass_by_distance(self, edges: Sequence[int] = DISTANCES) -> tuple[Floats, Floats]:
        """The share that goes to entries so many places away, in the mean; and that of an even head.

        Args:
            edges: Where bins begin, ascending from 0; the last has no end.

        Returns:
            J × E and E; each row sums to 1. NaN with `UndefinedMetricWarning` where nothing asks.

        >>> maps = AttentionMaps(np.array([[[0.2, 0.7, 0.1]]]), np.array([0]), np.ones((1, 3), bool), {})
        >>> maps.mass_by_distance((0, 1, 2))[0]
        array([[0.2, 0.7, 0.1]])
        """
        return self._mass_by(np.abs(self._places() - self.place_n[:, None]), edges)

    def mass_by_recency(self, edges: Sequence[int] = DISTANCES) -> tuple[Floats, Floats]:
        """The share that goes to entries so many places before the list's last, in the mean; and that of an even head.

        Arguments and what is returned are those of `mass_by_distance`.

        >>> maps = AttentionMaps(np.array([[[0.2, 0.7, 0.1]]]), np.array([0]), np.ones((1, 3), bool), {})
        >>> maps.mass_by_recency((0, 1, 2))[0]
        array([[0.1, 0.7, 0.2]])
        """
        length = self.stands_nL.shape[1]
        last_n = length - 1 - self.stands_nL[:, ::-1].argmax(1)
        return self._mass_by(np.maximum(last_n[:, None] - self._places(), 0), edges)

    def entropy(self) -> tuple[Floats, float]:
        """``-Σ p ln p`` of a head's rows, in the mean; and that of an even head.

        Returns:
            J numbers and one, in nats; NaN with `UndefinedMetricWarning` where nothing asks.
        """
        if not len(self.maps_nJL):
            nan = undefined("the entropy of heads", "no entry asks")
            return np.full(self.num_heads, nan), nan
        return _entropies(self.maps_nJL).mean(0), float(_entropies(self.even_nL).mean())

    def overlap(self) -> Floats:
        """The cosine between the rows of two heads, in the mean.

        Returns:
            J × J, in [0, 1]; 1 on the diagonal. NaN with `UndefinedMetricWarning` where nothing asks.
        """
        if not len(self.maps_nJL):
            return np.full((self.num_heads, self.num_heads), undefined("the overlap of heads", "no entry asks"))
        unit_nJL = self.maps_nJL / np.linalg.norm(self.maps_nJL, axis=2, keepdims=True)
        cosine_JJ: Floats = np.einsum("njl,nkl->jk", unit_nJL, unit_nJL) / len(unit_nJL)
        return cosine_JJ

    def _places(self) -> Ints:
        return np.arange(self.maps_nJL.shape[2])

    def _mass_by(self, distance_nL: Ints, edges: Sequence[int]) -> tuple[Floats, Floats]:
        if not edges or edges[0] != 0 or any(a >= b for a, b in itertools.pairwise(edges)):
            raise MetricError("bins of distance do not begin so", found=list(edges), allowed="ascending, from 0")
        if not len(self.maps_nJL):
            nan = undefined("mass by distance", "no entry asks")
            return np.full((self.num_heads, len(edges)), nan), np.full(len(edges), nan)
        in_bin_nLE = (np.searchsorted(edges, distance_nL, side="right") - 1)[:, :, None] == np.arange(len(edges))
        mass_JE: Floats = np.einsum("njl,nle->je", self.maps_nJL, in_bin_nLE) / len(self.maps_nJL)
        return mass_JE, np.einsum("nl,nle->e", self.even_nL, in_bin_nLE) / len(self.maps_nJL)


@final
@dataclass(frozen=True, slots=True)
class HeadRow:
    """What is known of one head; beside each number that of a head that sees all alike.

    Args:
        head: Its number.
        mass_on, even_mass_on: By relation, the share that goes to related entries.
        by_distance, even_by_distance: The share by distance in places; bins of `DISTANCES`.
        by_recency, even_by_recency: The share by places before the last.
        entropy, even_entropy: In nats.
        overlap: Mean cosine with the maps of the other heads; NaN where there is no other.
        most_alike: The head whose maps are most alike; None where there is no other.
    """

    head: int
    mass_on: Mapping[str, float]
    even_mass_on: Mapping[str, float]
    by_distance: tuple[float, ...]
    even_by_distance: tuple[float, ...]
    by_recency: tuple[float, ...]
    even_by_recency: tuple[float, ...]
    entropy: float
    even_entropy: float
    overlap: float
    most_alike: int | None


def head_rows(maps: AttentionMaps) -> tuple[HeadRow, ...]:
    """All numbers of this file, head by head.

    >>> maps = AttentionMaps(np.array([[[1.0, 0.0], [0.5, 0.5]]]), np.array([0]), np.ones((1, 2), bool), {})
    >>> [(row.most_alike, round(row.overlap, 3), round(row.entropy, 3)) for row in head_rows(maps)]
    [(1, 0.707, 0.0), (0, 0.707, 0.693)]
    """
    mass = {relation: maps.mass_on(relation) for relation in maps.related_nL}
    distance_JE, even_distance_E = maps.mass_by_distance()
    recency_JE, even_recency_E = maps.mass_by_recency()
    entropy_J, even_entropy = maps.entropy()
    overlap_JJ = maps.overlap()
    num, rows = maps.num_heads, []
    for j in range(num):
        others = [k for k in range(num) if k != j]
        rows.append(
            HeadRow(
                head=j,
                mass_on={relation: float(mass_J[j]) for relation, (mass_J, _) in mass.items()},
                even_mass_on={relation: even for relation, (_, even) in mass.items()},
                by_distance=tuple(distance_JE[j].tolist()),
                even_by_distance=tuple(even_distance_E.tolist()),
                by_recency=tuple(recency_JE[j].tolist()),
                even_by_recency=tuple(even_recency_E.tolist()),
                entropy=float(entropy_J[j]),
                even_entropy=even_entropy,
                overlap=float(overlap_JJ[j, others].mean())
                if others
                else undefined("the overlap of one head", "no other"),
                most_alike=max(others, key=lambda k: overlap_JJ[j, k]) if others else None,
            )
        )
    return tuple(rows)


def gates_by_segment(gates_BJ: npt.ArrayLike | Tensor, segment_B: npt.ArrayLike | Tensor) -> dict[int, Floats]:
    """The mean gate of each head, by segment.

    Args:
        gates_BJ: Gates, or chances that they are open, by list.
        segment_B: int64, the segment of each list.

    Returns:
        J numbers a segment, ascending by segment.

    >>> gates_by_segment([[1.0, 0.0], [1.0, 0.5], [0.0, 1.0]], [7, 7, 2])
    {2: array([0., 1.]), 7: array([1.  , 0.25])}
    """
    gates_BJ, segment_B = _array(gates_BJ).astype(np.float64), _array(segment_B)
    if gates_BJ.ndim != 2 or segment_B.shape != (len(gates_BJ),):
        raise MetricError("gates and segments differ in shape", found=[gates_BJ.shape, segment_B.shape])
    return {int(segment): gates_BJ[segment_B == segment].mean(0) for segment in np.unique(segment_B)}


def _array(values: npt.ArrayLike | Tensor) -> npt.NDArray[Any]:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        return (values.double() if values.is_floating_point() else values).numpy()
    return np.asarray(values)


def _joined(parts: Sequence[npt.NDArray[Any]], length: int) -> npt.NDArray[Any]:
    return np.concatenate([np.pad(p, [(0, 0)] * (p.ndim - 1) + [(0, length - p.shape[-1])]) for p in parts])


def _entropies(shares: Floats) -> Floats:
    nats: Floats = -(shares * np.log(np.where(shares > 0, shares, 1.0))).sum(-1)
    return nats
