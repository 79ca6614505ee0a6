"""The sampling study on a small scale: its parts are there, and the corrections point the right way."""

from __future__ import annotations

import pytest

from rankwell.studies.corpus_softmax import study_corpus_softmax
from rankwell.studies.fewer_negatives import study_fewer_negatives


def test_without_its_correction_a_sample_teaches_another_order() -> None:
    numbers = study_corpus_softmax(seeds=[0], num_steps=40).numbers
    right = numbers["in-batch, log Q/order"]
    assert right == pytest.approx(numbers["all items/order"], abs=0.15)
    assert numbers["in-batch, none/order"] < right - 0.3
    assert numbers["in-batch, wrong sign/order"] < numbers["in-batch, none/order"]


def test_one_correction_keeps_the_ratio_and_two_or_none_do_not() -> None:
    result = study_fewer_negatives(seeds=range(2), num_requests=300)
    ratio = {
        name: result.numbers[f"{name}/calibration ratio"]
        for name in ("all negatives", "a tenth, weighed", "a tenth, not corrected", "a tenth, corrected twice")
    }
    assert ratio["a tenth, weighed"] == pytest.approx(ratio["all negatives"], rel=0.35)
    assert ratio["a tenth, not corrected"] > 2.5
    assert ratio["a tenth, corrected twice"] < 0.4
    assert len(result.tables) == len(result.charts) == 1
