"""An ensemble says the mean of what its members say, each the ranker that its own seed makes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from every_kind_log import EVERY_KIND, every_kind_table
from rankwell.calibration.uncalibrated import Uncalibrated
from rankwell.data.batches import Batches
from rankwell.data.log import log_from_table
from rankwell.data.split import WholeLog
from rankwell.data.statistics import measure_numerics
from rankwell.models.ensemble import TransformerEnsemble, TransformerEnsembleSettings
from rankwell.models.transformer import RankingTransformer, TransformerSettings
from rankwell.serving.bundle import Bundle, read_bundle, write_bundle
from rankwell.types import Batch

MEMBER = TransformerSettings(row_width=4, width=8, hidden=(16,))


def batch_of(num_requests: int) -> Batch:
    log = log_from_table(every_kind_table(num_requests, 0), EVERY_KIND, layout="requests")
    (batch,) = Batches(log, WholeLog("train"), "train", num_requests=num_requests, seed=None)
    return batch


BATCH = batch_of(20)
STATISTICS = measure_numerics([BATCH], EVERY_KIND)


def ensemble(num_members: int, seed: int = 7) -> TransformerEnsemble:
    settings = TransformerEnsembleSettings(num_members=num_members, member=MEMBER)
    return TransformerEnsemble(EVERY_KIND, STATISTICS, settings, seed=seed).eval()


def test_logits_are_the_mean_of_the_members() -> None:
    model = ensemble(3)
    encoded = model.encode(BATCH.features)
    assert len(encoded.members) == 3
    expected_CA = sum(member(BATCH.features) for member in model.members) / 3
    torch.testing.assert_close(model(BATCH.features), expected_CA)
    first_CA, second_CA, _ = encoded.members
    assert (first_CA - second_CA).abs().max() > 1e-3


def test_the_first_member_is_what_its_seed_makes_alone() -> None:
    alone = RankingTransformer(EVERY_KIND, STATISTICS, MEMBER, seed=7).eval()
    assert torch.equal(ensemble(1)(BATCH.features), alone(BATCH.features))
    assert torch.equal(ensemble(3).encode(BATCH.features).members[0], alone(BATCH.features))


def test_tables_are_each_members_own() -> None:
    model = ensemble(2)
    assert set(model.tables) == {"wide_0", "crosses_0", "deep_0", "wide_1", "crosses_1", "deep_1"}
    assert model.linear_parts == {"wide_0", "crosses_0", "wide_1", "crosses_1"}
    assert len({table.seed for part, table in model.tables.items() if part.startswith("deep")}) == 2


@pytest.mark.parametrize("num_members", [1, 3])
def test_a_bundle_brings_it_back(tmp_path: Path, num_members: int) -> None:
    model = ensemble(num_members)
    calibrators = {"click": Uncalibrated(), "stars": Uncalibrated()}
    write_bundle(Bundle(model=model, calibrators=calibrators, created_us=0), tmp_path / "bundle")
    again = read_bundle(tmp_path / "bundle").model
    assert again.settings == model.settings
    assert torch.equal(again(BATCH.features), model(BATCH.features))
