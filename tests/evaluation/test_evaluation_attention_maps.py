"""What is told of heads is what visible arithmetic gives."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rankwell.errors import MetricError, UndefinedMetricWarning
from rankwell.evaluation.attention_maps import AttentionMaps, gates_by_segment, head_rows

# Two lists: one of three entries whose first and last ask, one of two (padded) whose first asks.
MAPS = np.array(
    [
        [[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]],
        [[0.1, 0.1, 0.8], [0.0, 0.5, 0.5]],
        [[0.4, 0.6, 0.0], [0.9, 0.1, 0.0]],
    ]
)
STANDS = np.array([[True, True, True], [True, True, True], [True, True, False]])
TITLE = np.array([[True, False, True], [True, False, True], [True, False, False]])
MADE = AttentionMaps(MAPS, np.array([0, 2, 0]), STANDS, {"title": TITLE})
EMPTY = AttentionMaps(np.zeros((0, 2, 3)), np.zeros(0, dtype=np.int64), np.zeros((0, 3), dtype=bool), {})


def test_mass_on_what_is_related() -> None:
    mass_J, even = MADE.mass_on("title")
    # the third entry has no other of its title
    assert mass_J.tolist() == pytest.approx([(0.5 + 0.1) / 2, 0.0])
    assert even == pytest.approx(1 / 3)
    with pytest.raises(MetricError, match="no relation 'place'"):
        MADE.mass_on("place")


def test_mass_by_distance_and_recency() -> None:
    mass_JE, even_E = MADE.mass_by_distance((0, 1, 2))
    assert mass_JE[0].tolist() == pytest.approx([(0.2 + 0.8 + 0.4) / 3, (0.3 + 0.1 + 0.6) / 3, (0.5 + 0.1) / 3])
    assert mass_JE[1].tolist() == pytest.approx([(1.0 + 0.5 + 0.9) / 3, (0.0 + 0.5 + 0.1) / 3, 0.0])
    assert even_E.tolist() == pytest.approx([(1 / 3 + 1 / 3 + 1 / 2) / 3, (1 / 3 + 1 / 3 + 1 / 2) / 3, (2 / 3) / 3])
    recent_JE, _ = MADE.mass_by_recency((0, 1, 2))
    assert recent_JE[0].tolist() == pytest.approx([(0.5 + 0.8 + 0.6) / 3, (0.3 + 0.1 + 0.4) / 3, (0.2 + 0.1) / 3])
    coarse_JE, _ = MADE.mass_by_distance((0, 1))
    assert coarse_JE[:, 1].tolist() == pytest.approx(mass_JE[:, 1:].sum(1).tolist())
    for edges in ((), (1, 2), (0, 2, 2)):
        with pytest.raises(MetricError, match="bins"):
            MADE.mass_by_distance(edges)


def test_entropy_and_overlap() -> None:
    entropy_J, even = MADE.entropy()
    rows = [[0.2, 0.3, 0.5], [0.1, 0.1, 0.8], [0.4, 0.6]]
    assert entropy_J[0] == pytest.approx(sum(-p * math.log(p) for row in rows for p in row) / 3)
    assert even == pytest.approx((2 * math.log(3) + math.log(2)) / 3)
    overlap = MADE.overlap()
    cosines = [float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) for a, b in MAPS]
    assert overlap == pytest.approx(np.array([[1.0, np.mean(cosines)], [np.mean(cosines), 1.0]]))


def test_what_no_head_sees_is_not_held_against_one() -> None:
    causal = AttentionMaps(np.array([[[0.5, 0.5, 0.0]]]), np.array([1]), np.ones((1, 3), dtype=bool), {})
    assert causal.even_nL.tolist() == [[0.5, 0.5, 0.0]]
    assert causal.entropy() == (pytest.approx([math.log(2)]), pytest.approx(math.log(2)))


def test_rows_gather_all_numbers() -> None:
    first, second = head_rows(MADE)
    assert (first.head, second.head) == (0, 1)
    assert first.mass_on == {"title": pytest.approx(0.3)}
    assert first.even_mass_on == {"title": pytest.approx(1 / 3)}
    for row in (first, second):
        for shares in (row.by_distance, row.even_by_distance, row.by_recency, row.even_by_recency):
            assert sum(shares) == pytest.approx(1.0)
    assert (first.most_alike, second.most_alike) == (1, 0)
    assert first.overlap == second.overlap == pytest.approx(MADE.overlap()[0, 1])


def test_batches_are_joined_row_by_row() -> None:
    short = AttentionMaps(MAPS[2:, :, :2], np.array([0]), STANDS[2:, :2], {"title": TITLE[2:, :2]})
    long = AttentionMaps(MAPS[:2], np.array([0, 2]), STANDS[:2], {"title": TITLE[:2], "other": TITLE[:2]})
    joined = AttentionMaps.joined([long, short])
    assert head_rows(joined) == head_rows(MADE)
    with pytest.raises(MetricError, match="joined"):
        AttentionMaps.joined([])
    with pytest.raises(MetricError, match="joined"):
        AttentionMaps.joined([short, AttentionMaps(MAPS[:, :1], MADE.place_n, STANDS, {})])


def test_maps_come_from_what_a_model_watched() -> None:
    maps = torch.tensor(MAPS)
    attention = {
        "list.entry": torch.tensor([[0, 1, 2], [3, 4, -1]]),
        "list.place": torch.tensor([[0, 2], [0, 1]]),
        "list.asks": torch.tensor([[True, True], [True, False]]),
        "list.relation.title": torch.tensor(np.stack([TITLE[:2], TITLE[[2, 2]]])),
        "list.0.maps": torch.stack([torch.stack([maps[0], maps[1]], 1), torch.stack([maps[2], maps[2]], 1)]).float(),
    }
    made = AttentionMaps.of(attention, "list.0")
    assert made.maps_nJL == pytest.approx(MAPS, abs=1e-7)
    assert made.place_n.tolist() == [0, 2, 0]
    assert np.array_equal(made.stands_nL, STANDS)
    assert np.array_equal(made.related_nL["title"], TITLE)
    with pytest.raises(MetricError, match=r"list\.1"):
        AttentionMaps.of(attention, "list.1")


def test_what_is_undefined_is_nan_and_says_so() -> None:
    with pytest.warns(UndefinedMetricWarning):
        assert np.isnan(EMPTY.entropy()[0]).all()
    with pytest.warns(UndefinedMetricWarning):
        assert np.isnan(EMPTY.overlap()).all()
    with pytest.warns(UndefinedMetricWarning):
        assert np.isnan(EMPTY.mass_by_distance()[0]).all()
    alone = AttentionMaps(MAPS, MADE.place_n, STANDS, {"title": np.zeros_like(TITLE)})
    with pytest.warns(UndefinedMetricWarning, match="title"):
        mass_J, even = alone.mass_on("title")
    assert np.isnan(mass_J).all()
    assert math.isnan(even)
    with pytest.warns(UndefinedMetricWarning, match="one head"):
        (row,) = head_rows(AttentionMaps(MAPS[:, :1], MADE.place_n, STANDS, {}))
    assert math.isnan(row.overlap)
    assert row.most_alike is None


def test_what_is_no_map_is_refused() -> None:
    with pytest.raises(MetricError, match="no share"):
        AttentionMaps(MAPS * 2, MADE.place_n, STANDS, {})
    with pytest.raises(MetricError, match="no share"):
        AttentionMaps(MAPS * np.nan, MADE.place_n, STANDS, {})
    with pytest.raises(MetricError, match="differ in shape"):
        AttentionMaps(MAPS, MADE.place_n, STANDS[:, :2], {})
    with pytest.raises(MetricError, match="differ in shape"):
        gates_by_segment(np.ones((2, 3)), [1])


def test_gates_by_segment() -> None:
    gates = gates_by_segment(torch.tensor([[0.2, 1.0], [0.4, 0.0], [0.9, 0.5]]), torch.tensor([1, 1, 0]))
    assert {segment: row.tolist() for segment, row in gates.items()} == {
        0: pytest.approx([0.9, 0.5]),
        1: pytest.approx([0.3, 0.5]),
    }
