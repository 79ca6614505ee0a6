"""The study of the ranking Transformer tells requests apart by their truth, and its gains are those of its levels."""

from __future__ import annotations

import pytest

from rankwell.studies.transformer import study_transformer


def test_gains_are_differences_of_levels_in_each_group_of_requests() -> None:
    result = study_transformer(seeds=(0, 1), num_requests=400)
    numbers = result.numbers
    # half of the sessions are after an industry drawn evenly from 24, the rest after the member's own
    assert numbers["changed_rate"] == pytest.approx(0.5 * 23 / 24, abs=0.12)
    for name in ("Transformer", "Transformer, no list"):
        for group in ("all", "usual", "changed"):
            saved = numbers[f"Wide & Deep/{group}/log_loss"] - numbers[f"{name}/{group}/log_loss"]
            assert numbers[f"gain/{name}/{group}/log_loss/mean"] == pytest.approx(saved)
            assert numbers[f"{name}/{group}/log_loss"] > numbers[f"bayes/{group}/log_loss"]
    assert [len([line for line in panel.lines if line.low]) for panel in result.charts[0].panels] == [2, 2, 2]
