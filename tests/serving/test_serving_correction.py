"""Letters: C candidates · A actions."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import http_example as example
import pytest
import torch

from rankwell.data.request import batch_from_request
from rankwell.errors import BundleError, SchemaError
from rankwell.serving.correction import (
    CORRECTIONS,
    LONGEST_US,
    Blend,
    CorrectedScorer,
    Correction,
    correction_in_force,
    read_correction,
)
from rankwell.serving.scorer import EagerScorer

SCORER = EagerScorer(example.bundle())
OTHER = EagerScorer(example.bundle(offset=1.5))
BATCH = batch_from_request(example.request(30), example.SCHEMA)


def correction(**changes: Any) -> Correction:
    return Correction(**{"id": "c1", "created_us": 0, "expires_us": 100, "reason": "a test", **changes})


def test_offsets_shift_the_log_odds_of_their_segments_and_nothing_else() -> None:
    by_title = {"3": 0.5, "7": -0.25, "19": 0.0}
    shifted = correction(log_odds_offsets={"click": {"title": by_title, "member": {"5": 0.125}}})
    plain, corrected = SCORER.score(BATCH), CorrectedScorer(SCORER, shifted).score(BATCH)
    assert torch.equal(corrected.logits_CA, plain.logits_CA)
    assert torch.equal(corrected.probabilities_CA[:, 1], plain.probabilities_CA[:, 1])
    titles_C = BATCH.features.candidates["title"].tolist()
    for title, before, after in zip(
        titles_C, plain.probabilities_CA[:, 0].tolist(), corrected.probabilities_CA[:, 0].tolist(), strict=True
    ):
        log_odds = math.log(before / (1 - before)) + by_title.get(str(title), 0.0) + 0.125
        assert after == pytest.approx(1 / (1 + math.exp(-log_odds)), rel=1e-14)


def test_what_has_no_offset_keeps_every_bit() -> None:
    elsewhere = correction(log_odds_offsets={"click": {"title": {"3": 0.5}}})
    plain, corrected = SCORER.score(BATCH), CorrectedScorer(SCORER, elsewhere).score(BATCH)
    others_C = BATCH.features.candidates["title"] != 3
    assert torch.equal(corrected.probabilities_CA[others_C], plain.probabilities_CA[others_C])
    assert not torch.equal(corrected.probabilities_CA, plain.probabilities_CA)


def test_a_missing_segment_has_an_offset_too() -> None:
    content = example.request(2)
    content["candidates"]["title"] = [None, 4]
    batch = batch_from_request(content, example.SCHEMA)
    shifted = correction(log_odds_offsets={"click": {"title": {"-1": 1.0}}})
    plain, corrected = SCORER.score(batch).probabilities_CA, CorrectedScorer(SCORER, shifted).score(batch)
    assert corrected.probabilities_CA[0, 0] == torch.sigmoid(torch.logit(plain[0, 0]) + 1.0)
    assert corrected.probabilities_CA[1, 0] == plain[1, 0]


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_a_blend_is_the_mean_of_two_probabilities(weight: float) -> None:
    blended = correction(blend=Blend(bundle="other", weight=weight))
    found = CorrectedScorer(SCORER, blended, OTHER).score(BATCH).probabilities_CA
    mine, theirs = SCORER.score(BATCH).probabilities_CA, OTHER.score(BATCH).probabilities_CA
    torch.testing.assert_close(found, mine + weight * (theirs - mine), rtol=1e-14, atol=0)


def test_what_is_in_force_in_a_folder(tmp_path: Path) -> None:
    assert correction_in_force(tmp_path, bundle_id="b1", now_us=0) is None
    bound = correction(bundle_id="b1")
    (tmp_path / CORRECTIONS).write_text(bound.model_dump_json())
    assert correction_in_force(tmp_path, bundle_id="b1", now_us=99) == bound
    assert correction_in_force(tmp_path, bundle_id="b2", now_us=99) is None
    assert correction_in_force(tmp_path, bundle_id="b1", now_us=100) is None
    (tmp_path / CORRECTIONS).write_text("{")
    with pytest.raises(BundleError):
        correction_in_force(tmp_path, bundle_id="b1", now_us=99)


def test_it_applies_until_it_expires_and_to_its_bundle() -> None:
    bound = correction(bundle_id="b1")
    assert bound.applies(bundle_id="b1", now_us=99)
    assert not bound.applies(bundle_id="b1", now_us=100)
    assert not bound.applies(bundle_id="b2", now_us=99)


@pytest.mark.parametrize(
    "broken",
    [
        {"expires_us": 0},
        {"expires_us": LONGEST_US + 1},
        {"log_odds_offsets": {"click": {"title": {"3": 2.5}}}},
        {"log_odds_offsets": {"click": {"title": {"3": float("nan")}}}},
        {"log_odds_offsets": {"click": {"title": {"3": 1.5}, "member": {"5": -1.0}}}},
        {"log_odds_offsets": {"click": {"title": {"x": 1.0}}}},
        {"log_odds_offsets": {"click": {"title": {str(2**63): 1.0}}}},
        {"blend": {"bundle": "b", "weight": 1.5}},
        {"id": "a/b"},
        {"format_version": 2},
        {"reason": ""},
        {"colour": "red"},
    ],
)
def test_what_is_out_of_bounds_is_refused(broken: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(SchemaError):
        correction(**broken)
    content = {"id": "c1", "created_us": 0, "expires_us": 100, "reason": "a test", **broken}
    (tmp_path / "corrections.json").write_text(json.dumps(content))
    with pytest.raises(BundleError, match="is no correction"):
        read_correction(tmp_path / "corrections.json")


def test_what_the_schema_does_not_have_is_refused() -> None:
    for offsets in ({"buy": {"title": {"3": 1.0}}}, {"click": {"skills": {"3": 1.0}}}, {"click": {"town": {"3": 1.0}}}):
        with pytest.raises(SchemaError):
            CorrectedScorer(SCORER, correction(log_odds_offsets=offsets))


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "corrections.json"
    written = correction(log_odds_offsets={"click": {"title": {"3": 0.5}}}, blend=Blend(bundle="b", weight=0.5))
    path.write_text(written.to_json())
    assert read_correction(path) == written
    for text in (written.to_json()[:-5], "", "[]", "\x00", " " * 5_000_000):
        path.write_text(text)
        with pytest.raises(BundleError):
            read_correction(path)
    with pytest.raises(BundleError, match="no correction at"):
        read_correction(tmp_path / "other.json")
