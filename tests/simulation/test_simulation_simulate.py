"""Simulated logs: what is in the log, what is only in the truth, and that both are the same every time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rankwell.data.layout import LogLayout
from rankwell.data.log import log_from_table, open_log
from rankwell.data.pseudonyms import pseudonymise, read_key
from rankwell.errors import LogError, RecipeError
from rankwell.evaluation.truth import bayes_log_loss
from rankwell.schema import Numeric, Quantiles, Standardise
from rankwell.simulation.marketplace import CHUNK_REQUESTS, Marketplace
from rankwell.simulation.preference import CLICK_PARTS
from rankwell.simulation.schema import EXPERIENCE_BAND_EDGES, experience_band, marketplace_schema
from rankwell.simulation.settings import ACTIONS, MarketplaceSettings
from rankwell.simulation.simulate import SimulatedPaths, simulate, simulate_tables
from rankwell.simulation.truth import read_truth, truth_of

SETTINGS = MarketplaceSettings(num_members=500, num_jobs=200)
NUM_REQUESTS = CHUNK_REQUESTS + 300


@pytest.fixture(scope="module")
def tables() -> tuple[pa.Table, pa.Table]:
    return simulate_tables(SETTINGS, 3, NUM_REQUESTS)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> SimulatedPaths:
    return simulate(SETTINGS, 3, num_requests=NUM_REQUESTS, directory=tmp_path_factory.mktemp("simulated"))


def read(folder: Path) -> pa.Table:
    return pa.concat_tables([pq.read_table(part) for part in sorted(folder.glob("part-*.parquet"))])


def test_the_log_has_exactly_the_columns_of_the_schema(tables: tuple[pa.Table, pa.Table]) -> None:
    layout = LogLayout.of(marketplace_schema(SETTINGS), "requests")
    required = {column.name for column in layout.columns if column.required}
    assert set(tables[0].column_names) == required
    for column in layout.columns:
        if column.required:
            assert column.allows(tables[0].schema.field(column.name).type), column.name


def test_no_column_of_the_log_is_of_the_truth(tables: tuple[pa.Table, pa.Table]) -> None:
    log, truth = tables
    assert set(log.column_names) & set(truth.column_names) == {"request_id"}
    secret = truth_of(truth)
    population = Marketplace.create(SETTINGS, 3).population
    job_C = log["job_id"].combine_chunks().flatten().to_numpy()
    latents = {
        **secret.probabilities,
        "click_examined": secret.click_examined_C,
        "quality": population.jobs.quality_J[job_C],
        **{f"taste {e}": population.jobs.taste_JE[job_C, e] for e in range(SETTINGS.taste_width)},
    }
    for field in log.schema:
        if not pa.types.is_list(field.type) or field.name.startswith("history"):
            continue
        values_C = log[field.name].combine_chunks().flatten().to_numpy().astype(np.float64)
        for name, latent_C in latents.items():
            # Features go with the truth, or nothing could be learnt; none of them is it.
            assert abs(np.corrcoef(values_C, latent_C)[0, 1]) < 0.95, (field.name, name)


def test_protected_attributes_are_no_features() -> None:
    schema = marketplace_schema(SETTINGS)
    visible = {feature.name for feature in schema.visible_features}
    assert {attribute.name for attribute in schema.protected} == {"gender", "experience_band"}
    assert not visible & {"gender", "experience_band"}
    assert not any(set(cross.of) & {"gender", "experience_band"} for cross in schema.crosses)


def test_a_linear_experience_is_a_choice_of_the_schema() -> None:
    linear = marketplace_schema(experience=Standardise())
    assert linear.feature("experience_years") == Numeric(name="experience_years", on="request")
    assert not any("experience_years" in cross.of for cross in linear.crosses)
    assert isinstance(marketplace_schema().feature("experience_years").transform, Quantiles)  # type: ignore[union-attr]


def test_bands_begin_at_their_edges() -> None:
    edges = np.array(EXPERIENCE_BAND_EDGES, dtype=np.float32)
    assert experience_band(edges).tolist() == [1, 2, 3, 4, 5]
    assert experience_band(edges - np.float32(0.1)).tolist() == [0, 1, 2, 3, 4]


def test_ids_stay_inside_their_vocabularies(tables: tuple[pa.Table, pa.Table]) -> None:
    schema = marketplace_schema(SETTINGS)
    sizes = schema.table_specs()
    for feature in (*schema.features, *schema.protected):
        if feature.kind == "categorical":
            column = tables[0][feature.column or feature.name].combine_chunks()
            values = (column.flatten() if pa.types.is_list(column.type) else column).to_numpy()
            assert values.min() >= 0
            spec = sizes[feature.table_name] if feature in schema.features else feature.own_table()
            assert spec.hashed or values.max() < spec.size, feature.name


def test_files_hold_what_the_tables_hold_but_for_pseudonyms(
    tables: tuple[pa.Table, pa.Table], paths: SimulatedPaths
) -> None:
    log, truth = tables
    from_file = read(paths.log)
    for name in log.column_names:
        if name != "member_id":
            assert from_file[name].combine_chunks().equals(log[name].combine_chunks().cast(from_file[name].type)), name
    key = read_key(paths.key)
    assert from_file["member_id"].combine_chunks().equals(pseudonymise(log["member_id"], key))
    assert not set(from_file["member_id"].to_pylist()) & set(log["member_id"].to_pylist())
    assert read(paths.truth).equals(truth)


def test_the_same_seed_gives_the_same_files(paths: SimulatedPaths, tmp_path: Path) -> None:
    again = simulate(SETTINGS, 3, num_requests=NUM_REQUESTS, directory=tmp_path)
    for one, other in ((paths.log, again.log), (paths.truth, again.truth)):
        files = sorted(path.name for path in one.iterdir())
        assert files == sorted(path.name for path in other.iterdir()) == ["part-00000.parquet"]
        assert all((one / name).read_bytes() == (other / name).read_bytes() for name in files)


def test_a_longer_log_begins_with_the_shorter_one(tables: tuple[pa.Table, pa.Table]) -> None:
    for short, whole in zip(simulate_tables(SETTINGS, 3, 100), tables, strict=True):
        assert short.num_rows == 100
        assert short.combine_chunks().equals(whole.slice(0, 100).combine_chunks())


def test_many_parts_are_in_order_and_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rankwell.simulation.simulate._PART_CHUNKS", 1)
    reported: list[int] = []
    paths = simulate(
        SETTINGS, 3, num_requests=2 * CHUNK_REQUESTS + 1, directory=tmp_path / "new", progress=reported.append
    )
    assert reported == [CHUNK_REQUESTS, 2 * CHUNK_REQUESTS, 2 * CHUNK_REQUESTS + 1]
    assert len(list(paths.log.iterdir())) == len(list(paths.truth.iterdir())) == 3
    log = read(paths.log)
    assert log["request_id"].to_pylist() == list(range(2 * CHUNK_REQUESTS + 1))
    assert (np.diff(log["time_us"].to_numpy()) >= 0).all()
    truth = read_truth(tmp_path / "new")
    np.testing.assert_array_equal(np.diff(truth.offsets_R), log["click"].combine_chunks().value_lengths())


def test_truth_comes_in_the_order_that_is_asked_for(tables: tuple[pa.Table, pa.Table]) -> None:
    truth = truth_of(tables[1])
    some = truth.of_requests(np.array([17, 3, 900]))
    assert some.request_ids_R.tolist() == [17, 3, 900]
    for row, request in enumerate([17, 3, 900]):
        mine = slice(*some.offsets_R[row : row + 2])
        theirs = slice(*truth.offsets_R[request : request + 2])
        for action in ACTIONS:
            np.testing.assert_array_equal(some.probabilities[action][mine], truth.probabilities[action][theirs])
        np.testing.assert_array_equal(some.parts["mood"][mine], truth.parts["mood"][theirs])
    assert set(some.parts) == set(CLICK_PARTS)
    with pytest.raises(LogError, match="not in the truth"):
        truth.of_requests(np.array([10**9]))
    assert truth.of_requests(np.array([], dtype=np.int64)).offsets_R.tolist() == [0]


def test_no_constant_beats_the_bayes_log_loss(tables: tuple[pa.Table, pa.Table]) -> None:
    truth = truth_of(tables[1])
    p_C = truth.probabilities["click"]
    one_C = np.ones(len(p_C))
    bayes = bayes_log_loss(p_C, one_C)
    by_hand = float(np.mean([-p * np.log(p) - (1 - p) * np.log(1 - p) for p in p_C.tolist()]))
    assert bayes == pytest.approx(by_hand, rel=1e-12)
    assert bayes < bayes_log_loss(np.full(len(p_C), p_C.mean()), one_C) - 0.03


def test_a_folder_that_holds_a_log_is_left_alone(paths: SimulatedPaths) -> None:
    with pytest.raises(LogError, match="exists already"):
        simulate(SETTINGS, 3, num_requests=10, directory=paths.log.parent)
    assert read(paths.log).num_rows == NUM_REQUESTS


def test_a_failed_simulation_leaves_no_half_log(tmp_path: Path) -> None:
    def fail(written: int) -> None:
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        simulate(SETTINGS, 3, num_requests=10, directory=tmp_path, progress=fail)
    assert [path.name for path in tmp_path.iterdir()] == ["member.key"]
    with pytest.raises(RecipeError, match="requests"):
        simulate(SETTINGS, 3, num_requests=0, directory=tmp_path)
    with pytest.raises(LogError, match="no truth"):
        read_truth(tmp_path)


def test_the_log_opens_with_its_schema_and_keeps_it(paths: SimulatedPaths, tables: tuple[pa.Table, pa.Table]) -> None:
    log = open_log(paths.log, marketplace_schema(SETTINGS))
    assert log.num_requests == NUM_REQUESTS
    with log.reader() as reader:
        chunks = [reader.read(block) for block in log.blocks]  # reading checks every value
    assert sum(block.num_requests for block in log.blocks) == NUM_REQUESTS
    assert chunks
    assert log.num_candidates == len(tables[0]["click"].combine_chunks().flatten())


def test_a_table_in_memory_opens_too(tables: tuple[pa.Table, pa.Table]) -> None:
    log = log_from_table(tables[0], marketplace_schema(SETTINGS), layout="requests")
    with log.reader() as reader:
        assert all(reader.read(block) for block in log.blocks)
    assert log.num_requests == NUM_REQUESTS


def test_the_truth_knows_which_industry_a_session_is_after(tables: tuple[pa.Table, pa.Table]) -> None:
    log, truth = tables
    secret = truth_of(truth)
    lengths = np.diff(log["job_id"].combine_chunks().offsets.to_numpy())
    wanted_C = np.repeat(secret.wanted_industry_R, lengths)
    industry_C = log["job_industry"].combine_chunks().flatten().to_numpy()
    assert np.array_equal(secret.parts["mood"] > 0, industry_C == wanted_C)
    own_R = log["industry"].to_numpy()
    changed_rate = float((secret.wanted_industry_R != own_R).mean())
    assert abs(changed_rate - 0.5 * (1 - 1 / SETTINGS.num_industries)) < 0.05
    some = secret.of_requests(secret.request_ids_R[[5, 2]])
    assert some.wanted_industry_R.tolist() == secret.wanted_industry_R[[5, 2]].tolist()
