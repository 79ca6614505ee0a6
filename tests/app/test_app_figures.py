"""The figures, read back from their SVG."""

from __future__ import annotations

import dataclasses
import math
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from markupsafe import Markup

from rankwell.app.figures import MOST_SEGMENTS, reliability_figure, segment_figure, stage_figure, training_figure
from rankwell.evaluation.calibration_error import ReliabilityCurve, reliability_curve
from rankwell.evaluation.groups import SegmentRow
from rankwell.evaluation.intervals import Interval
from rankwell.training.history import EpochRecord, TrainingHistory

NAMESPACE = "{http://www.w3.org/2000/svg}"


def _curve(predicted: list[float], observed: list[float]) -> ReliabilityCurve:
    low = tuple(max(rate - 0.01, 0.0) for rate in observed)
    high = tuple(rate + 0.01 for rate in observed)
    ones = tuple(1.0 for _ in predicted)
    counts = tuple(1 for _ in predicted)
    given, seen = tuple(predicted), tuple(observed)
    return ReliabilityCurve(counts, ones, given, seen, low, high, given, given, 0.95)


def _texts(svg: Markup | None) -> list[str]:
    assert svg is not None
    return ["".join(text.itertext()) for text in ET.fromstring(svg).iter(f"{NAMESPACE}text")]


def _dots(svg: Markup, colour: str) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """x and y of each marker of this colour."""
    uses = re.findall(rf'<use [^>]*?x="([\d.]+)" y="([\d.]+)" style="fill: var\({colour}\)', str(svg))
    return np.array(uses, dtype=np.float64)


@pytest.mark.parametrize("predicted", [[0.1, 0.3, 0.5, 0.8], [0.001, 0.01, 0.1, 0.5]], ids=["linear", "log"])
def test_what_was_predicted_right_stands_on_the_diagonal(predicted: list[float]) -> None:
    right = _curve(predicted, predicted)
    high = _curve(predicted, [rate * 0.7 for rate in predicted])
    svg = reliability_figure(high, right, actions="clicks")
    assert svg is not None
    [*_, (x0, y0, x1, y1)] = re.findall(
        r'd="M ([\d.]+) ([\d.]+)\s+L ([\d.]+) ([\d.]+)\s*"[^>]*stroke-dasharray', str(svg)
    )
    corner, slope = (float(x0), float(y0)), (float(y1) - float(y0)) / (float(x1) - float(x0))
    after = _dots(svg, "--after")
    assert len(after) == 4
    np.testing.assert_allclose(after[:, 1], corner[1] + slope * (after[:, 0] - corner[0]), atol=0.01)
    before = _dots(svg, "--before")
    assert len(before) == 4
    np.testing.assert_array_less(after[:, 1], before[:, 1])  # y grows downwards: less was observed than predicted


def test_a_rate_of_zero_has_no_dot_on_a_log_axis_but_its_interval_stays() -> None:
    curve = _curve([0.001, 0.05, 0.5], [0.0, 0.05, 0.5])
    svg = reliability_figure(curve, curve, actions="clicks")
    assert svg is not None
    assert len(_dots(svg, "--after")) == 2


@pytest.mark.parametrize(
    "probabilities",
    [[0.3] * 50, [0.0] * 25 + [1.0] * 25, [0.0] * 50, [1e-9] * 25 + [0.9] * 25, [0.2]],
    ids=["all alike", "certain", "all zero", "eight decades", "one row"],
)
def test_reliability_of_odd_predictions_is_drawn(probabilities: list[float]) -> None:
    labels = np.arange(len(probabilities)) % 2
    curve = reliability_curve(probabilities, labels, np.ones(len(labels)))
    svg = reliability_figure(curve, curve, actions="clicks")
    assert svg is not None
    assert not re.search(r"\b(nan|inf)\b", str(svg))


def test_nothing_to_draw_is_no_figure() -> None:
    empty = ReliabilityCurve((), (), (), (), (), (), (), (), 0.95)
    assert reliability_figure(empty, empty, actions="clicks") is None
    assert segment_figure({}, {}, names={}) is None
    assert segment_figure({"device": ()}, {"device": ()}, names={}) is None
    assert training_figure({}) is None
    assert stage_figure({}) is None


def _row(segment: int | str, ratio: float, half: float, count: int = 1000) -> SegmentRow:
    return SegmentRow(
        segment, count, 10, float(count), 0.1, 0.1, ratio, Interval(ratio - half, ratio + half, 0.95), 0.3, 0.01, 0.0,
        0.7, {},
    )  # fmt: skip


def test_segments_are_named_counted_and_in_their_order() -> None:
    rows = (_row(0, 1.0, 0.02, 5), _row(1, 1.1, 0.02, 12_345))
    texts = _texts(segment_figure({"seniority": rows}, {"seniority": rows}, names={"seniority": {1: "lead $a$ <b>"}}))
    assert [text for text in texts if text.endswith(")")][-2:] == ["0 (5)", "lead $a$ <b> (12,345)"]
    assert "by seniority" in texts


def test_of_many_segments_the_largest_are_drawn() -> None:
    rows = [_row(place, 1.0, 0.02, 1000 + place) for place in range(MOST_SEGMENTS + 5)]
    texts = _texts(segment_figure({}, {"job": rows}, names={}))
    assert [text for text in texts if re.fullmatch(r"\d+ \([\d,]+\)", text)] == [
        f"{place} ({1000 + place:,})" for place in range(5, MOST_SEGMENTS + 5)
    ]


def test_a_segment_without_a_ratio_says_so_and_a_wild_one_stays_in_the_picture() -> None:
    rows = [_row("none", math.nan, math.nan), _row("wild", 40.0, 3.0), _row("right", 1.0, 0.02)]
    svg = segment_figure({}, {"job": rows}, names={})
    assert svg is not None
    assert any("undefined: none observed" in text for text in _texts(svg))
    width = float(re.findall(r'viewBox="0 0 ([\d.]+)', str(svg))[0])
    dots = _dots(svg, "--after")
    assert len(dots) == 3  # wild, right, and the legend's
    assert dots[:, 0].max() <= width
    assert not re.search(r"\b(nan|inf)\b", str(svg))


def test_letters_that_matplotlib_does_not_have_are_left_to_the_browser() -> None:
    rows = [_row("技術者", 1.0, 0.02)]
    assert "技術者 (1,000)" in _texts(segment_figure({}, {"職": rows}, names={}))


def _history(*tune: float, best: int, rates: list[float]) -> TrainingHistory:
    records = [
        EpochRecord(epoch, loss + 0.01, loss, 1 - loss, rate, 1000, 1.0, 0.1, 0.1)
        for epoch, (loss, rate) in enumerate(zip(tune, rates, strict=True))
    ]
    return TrainingHistory(tuple(records), best)


def test_training_marks_the_epoch_kept_and_each_drop_of_the_learning_rate() -> None:
    history = _history(0.5, 0.4, 0.3, 0.35, best=2, rates=[0.1, 0.1, 0.01, 0.001])
    svg = training_figure({"Deep": history, "Not trained by the loop": TrainingHistory((), 0)})
    assert svg is not None
    texts = _texts(svg)
    assert "Deep" in texts
    assert "Not trained by the loop" not in texts
    # Each of three panels has 4 epochs and 2 drops filled in the model's colour; the ring of the best is not filled.
    assert len(_dots(svg, "--after")) == 3 * (4 + 2)
    assert len(re.findall(r'<use [^>]*style="fill-opacity: 0; stroke: var\(--after\)', str(svg))) == 3


@pytest.mark.parametrize("loss", [0.4, math.nan])
def test_one_epoch_is_drawn_even_if_undefined(loss: float) -> None:
    svg = training_figure({"Deep": _history(loss, best=0, rates=[0.1])})
    assert svg is not None
    assert not re.search(r"\b(nan|inf)\b", str(svg))


def test_stages_say_how_long_and_which_was_slowest() -> None:
    svg = stage_figure({"simulate": 3.0, "train": 96.0, "rank": 0.012, "evaluate": 0.988})
    assert svg is not None
    texts = _texts(svg)
    assert [text for text in texts if "s" in text and any(map(str.isdigit, text))] == [
        "3.0 s · 3 %", "1 min 36 s · 96 %", "12 ms", "988 ms · 1 %",
    ]  # fmt: skip
    assert str(svg).count("fill: var(--before)") == 1


def test_stages_that_took_no_time_are_drawn() -> None:
    assert "0 ms" in _texts(stage_figure({"rank": 0.0}))


def test_rows_of_a_frozen_evaluation_are_not_touched() -> None:
    rows = (_row("a", 1.0, 0.02), _row("b", 1.2, 0.02))
    copies = tuple(dataclasses.replace(row) for row in rows)
    segment_figure({"job": rows}, {"job": rows}, names={})
    assert rows == copies
