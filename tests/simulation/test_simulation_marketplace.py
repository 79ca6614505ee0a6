"""The marketplace keeps the truth that it declares."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from rankwell.errors import RecipeError
from rankwell.simulation.marketplace import CHUNK_REQUESTS, Chunk, Marketplace, MarketplaceSettings
from rankwell.simulation.population import Population
from rankwell.simulation.preference import click_parts, distance_km, experience_bump, pair_parts
from rankwell.simulation.retrieval import offer_jobs, retrieval_exposure, retrieve, retrieve_uniformly
from rankwell.simulation.sessions import hour_of_week, open_sessions
from rankwell.simulation.settings import ACTIONS

SETTINGS = MarketplaceSettings(num_members=3_000, num_jobs=600)


@pytest.fixture(scope="module")
def marketplace() -> Marketplace:
    return Marketplace.create(SETTINGS, seed=7)


@pytest.fixture(scope="module")
def chunks(marketplace: Marketplace) -> list[Chunk]:
    return [marketplace.chunk(number) for number in range(6)]


@pytest.mark.parametrize("action", ACTIONS)
def test_labels_follow_the_true_probabilities(chunks: list[Chunk], action: str) -> None:
    p_C = np.concatenate([chunk.responses.probabilities[action] for chunk in chunks]).astype(np.float64)
    label_C = np.concatenate([chunk.responses.labels[action] for chunk in chunks])
    bins = np.array_split(np.argsort(p_C), 10)
    expected = np.array([p_C[index].sum() for index in bins])
    variance = np.array([(p_C[index] * (1 - p_C[index])).sum() for index in bins])
    observed = np.array([label_C[index].sum() for index in bins])
    chi_square = ((observed - expected) ** 2 / variance).sum()
    assert chi_square < 29.6  # the .999 quantile with 10 degrees of freedom


def test_rates_are_the_declared_ones(chunks: list[Chunk]) -> None:
    for action, rate in {"click": 0.10, "like": 0.03, "share": 0.006, "apply": 0.02}.items():
        p_C = np.concatenate([chunk.responses.probabilities[action] for chunk in chunks])
        assert p_C.mean() == pytest.approx(rate, rel=0.06)


def test_probabilities_have_the_declared_structure(chunks: list[Chunk], marketplace: Marketplace) -> None:
    for chunk in chunks:
        truth, labels = chunk.responses, chunk.responses.labels
        np.testing.assert_allclose(
            truth.probabilities["click"], chunk.pages.examination_C * truth.click_examined_C, rtol=1e-6
        )
        logit_C = sum(part_C.astype(np.float64) for part_C in truth.parts.values()) + marketplace.intercepts["click"]
        np.testing.assert_allclose(truth.click_examined_C, 1 / (1 + np.exp(-logit_C)), rtol=1e-3, atol=1e-6)
        assert (labels["click"] >= labels["apply"]).all()
        assert (labels["click"] >= labels["share"]).all()
        assert not labels["click"][~truth.examined_C].any()
        assert not labels["like"][~truth.examined_C].any()
        assert (truth.probabilities["apply"] <= truth.probabilities["click"]).all()


def test_positions_are_examined_as_declared(chunks: list[Chunk]) -> None:
    position_C = np.concatenate([chunk.pages.position_C for chunk in chunks])
    examined_C = np.concatenate([chunk.responses.examined_C for chunk in chunks])
    for position in (1, 2, 5, 10):
        at = position_C == position
        assert examined_C[at].mean() == pytest.approx(position**-0.5, abs=4 * np.sqrt(0.25 / at.sum()))


def test_pages_have_between_one_and_the_most_slots_and_each_job_once(chunks: list[Chunk]) -> None:
    for chunk in chunks:
        pages = chunk.pages
        assert pages.length_R.min() >= 1
        assert pages.length_R.max() <= SETTINGS.max_slots
        assert pages.length_R.sum() == len(pages.job_C)
        assert len(np.unique(pages.request_C * SETTINGS.num_jobs + pages.job_C)) == len(pages.job_C)
        first_C = np.concatenate([[0], np.cumsum(pages.length_R)])[pages.request_C]
        np.testing.assert_array_equal(pages.position_C, np.arange(len(pages.job_C)) - first_C + 1)


def test_retrieval_exposure_is_the_rate_of_being_let_through(marketplace: Marketplace) -> None:
    sessions = open_sessions(SETTINGS, marketplace.population, 0, 50, np.random.default_rng(1))
    offers = offer_jobs(SETTINGS, marketplace.population, sessions, np.random.default_rng(2))
    rng, repeats, passed_RP = np.random.default_rng(3), 2_000, np.zeros(offers.job_RP.shape)
    for _ in range(repeats):
        passed_RP += retrieve(offers, threshold=marketplace.retrieval_threshold, noise=0.6, rng=rng).passed_RP
    exposure_RP = retrieval_exposure(offers.expected_score_RP, threshold=marketplace.retrieval_threshold, noise=0.6)
    exposure_RP[:, 0] = 1.0
    deviation = (passed_RP / repeats - exposure_RP)[~offers.repeated_RP]
    variance = (exposure_RP * (1 - exposure_RP) / repeats)[~offers.repeated_RP]
    assert (passed_RP[offers.repeated_RP] == 0).all()
    assert (deviation**2).sum() / variance.sum() == pytest.approx(1.0, abs=0.15)
    assert (np.abs(deviation) <= 5.5 * np.sqrt(variance) + 1e-3).all()


def test_retrieval_is_biased_to_senior_jobs_and_to_hidden_quality(marketplace: Marketplace) -> None:
    jobs = marketplace.population.jobs
    sessions = open_sessions(SETTINGS, marketplace.population, 0, 2_000, np.random.default_rng(1))
    offers = offer_jobs(SETTINGS, marketplace.population, sessions, np.random.default_rng(2))
    kept = retrieve(
        offers, threshold=marketplace.retrieval_threshold, noise=0.6, rng=np.random.default_rng(3)
    ).passed_RP
    assert jobs.seniority_J[offers.job_RP[kept]].mean() > jobs.seniority_J[offers.job_RP].mean() + 0.2
    assert jobs.quality_J[offers.job_RP[kept]].mean() > jobs.quality_J[offers.job_RP].mean() + 0.1
    assert kept[~offers.repeated_RP].mean() == pytest.approx(SETTINGS.retrieval_rate, abs=0.05)


def test_uniform_exposure_changes_nothing_but_who_is_let_through(marketplace: Marketplace, chunks: list[Chunk]) -> None:
    uniform = marketplace.exposed_uniformly()
    chunk, rate = uniform.chunk(0), SETTINGS.retrieval_rate
    np.testing.assert_array_equal(chunk.sessions.member_R, chunks[0].sessions.member_R)
    assert uniform.intercepts == marketplace.intercepts
    exposure_C = chunk.pages.retrieval_exposure_C
    assert set(np.unique(exposure_C)) == {np.float32(rate), np.float32(1)}
    offers = offer_jobs(SETTINGS, marketplace.population, chunk.sessions, np.random.default_rng(0))
    passed = retrieve_uniformly(offers, rate=rate, noise=SETTINGS.retrieval_noise, rng=np.random.default_rng(1))
    fresh = ~offers.repeated_RP[:, 1:]
    assert passed.passed_RP[:, 1:][fresh].mean() == pytest.approx(rate, abs=0.005)
    seniority_RP = marketplace.population.jobs.seniority_J[offers.job_RP][:, 1:]
    senior, all_jobs = seniority_RP[passed.passed_RP[:, 1:]].mean(), seniority_RP[fresh].mean()
    assert senior == pytest.approx(all_jobs, abs=0.02)


def test_taste_in_retrieval_is_as_strong_as_it_is_set(marketplace: Marketplace) -> None:
    sessions = open_sessions(SETTINGS, marketplace.population, 0, 512, np.random.default_rng(0))

    def scores(taste: float) -> np.ndarray:
        settings = dataclasses.replace(SETTINGS, retrieval_taste=taste)
        return offer_jobs(settings, marketplace.population, sessions, np.random.default_rng(1)).expected_score_RP

    none, some, more = scores(0.0), scores(0.5), scores(1.0)
    np.testing.assert_allclose(more - none, 2 * (some - none), atol=1e-4)
    assert 0.6 < (more - none).std() < 1.5


def test_the_offers_follow_popularity(marketplace: Marketplace) -> None:
    jobs = marketplace.population.jobs
    drawn = jobs.draw(np.random.default_rng(0).random(200_000), np.full(200_000, -1))
    share_J = np.bincount(drawn, minlength=SETTINGS.num_jobs) / len(drawn)
    ranks = np.argsort(-share_J)
    # Zipf: between ranks 1 and 100 the share falls by 100^-.8.
    assert share_J[ranks[0]] / share_J[ranks[99]] == pytest.approx(100**0.8, rel=0.15)
    of_industry = jobs.draw(np.random.default_rng(0).random(5_000), np.full(5_000, 3))
    assert (jobs.industry_J[of_industry] == 3).all()


def test_history_is_older_than_the_ingest_delay_and_oldest_first(chunks: list[Chunk]) -> None:
    for chunk in chunks:
        activity, sessions = chunk.activity, chunk.sessions
        count_R = np.diff(activity.offsets_R)
        request_H = np.repeat(np.arange(len(sessions)), count_R)
        age_us_H = sessions.time_us_R[request_H] - activity.time_us_H
        assert (age_us_H >= SETTINGS.ingest_delay_s * 1e6).all()
        within = request_H[1:] == request_H[:-1]
        assert (np.diff(activity.time_us_H)[within] >= 0).all()
        assert activity.action_H.min() >= 0
        assert activity.action_H.max() < len(ACTIONS)
        assert (count_R == 0).any(), "some members come without a history"


def test_recent_activity_shows_the_mood(marketplace: Marketplace, chunks: list[Chunk]) -> None:
    chunk = chunks[0]
    activity, sessions = chunk.activity, chunk.sessions
    request_H = np.repeat(np.arange(len(sessions)), np.diff(activity.offsets_R))
    industry_H = marketplace.population.jobs.industry_J[activity.job_H]
    own_R = marketplace.population.members.industry_M[sessions.member_R]
    roaming_H = (sessions.industry_R != own_R)[request_H]
    fresh_H = sessions.time_us_R[request_H] - activity.time_us_H < 30 * 60 * 1_000_000
    matches_H = industry_H == sessions.industry_R[request_H]
    assert matches_H[roaming_H & fresh_H].mean() > 0.5
    assert matches_H[roaming_H & ~fresh_H].mean() < 0.2
    # The eager have done more just now.
    fresh_R = np.bincount(request_H[fresh_H], minlength=len(sessions))
    assert np.corrcoef(fresh_R, sessions.eagerness_R)[0, 1] > 0.25


def test_times_ascend_over_chunks_with_the_cycles_of_day_and_week(marketplace: Marketplace) -> None:
    settings = dataclasses.replace(SETTINGS, requests_per_day=2_000)
    sessions = open_sessions(settings, marketplace.population, 0, 14_000, np.random.default_rng(0))
    assert (np.diff(sessions.time_us_R) >= 0).all()
    days = (sessions.time_us_R - settings.start_us) / 86_400e6
    assert 6.99 < days.max() < 7.0
    hour_R = hour_of_week(sessions.time_us_R)
    assert hour_R[0] == 0
    per_hour = np.bincount(hour_R, minlength=168).reshape(7, 24)
    assert per_hour[:, 13].mean() > 3 * per_hour[:, 2].mean()
    assert per_hour[:5].mean() > 1.5 * per_hour[5:].mean()
    later = open_sessions(settings, marketplace.population, 14_000, 10, np.random.default_rng(1))
    assert later.time_us_R[0] >= sessions.time_us_R[-1]
    assert hour_of_week(later.time_us_R[:1]).tolist() == [0]


def test_the_experience_effect_is_a_bump_that_settings_scale(marketplace: Marketplace) -> None:
    years = np.arange(0, 41, dtype=np.float32)
    bump = experience_bump(years)
    assert years[bump.argmax()] == 7
    assert bump[7] - bump[0] > 0.8
    assert bump[7] - bump[25] > 0.9
    sessions = marketplace.chunk(0).sessions
    request_C, job_C = np.arange(10), np.arange(10)
    for strength in (0.0, 2.0):
        settings = dataclasses.replace(SETTINGS, experience_effect=strength)
        pairs = pair_parts(settings, marketplace.population, sessions.member_R[request_C], job_C)
        parts = click_parts(settings, marketplace.population, sessions, request_C, job_C, pairs)
        years_C = marketplace.population.members.experience_years_M[sessions.member_R[:10]]
        np.testing.assert_allclose(parts["experience"], strength * experience_bump(years_C), rtol=1e-6)


def test_distance_is_that_of_the_sphere_for_near_places(marketplace: Marketplace) -> None:
    population = marketplace.population
    members, jobs = population.members, population.jobs
    member_C, job_C = np.arange(300), np.arange(300)
    lat1, lat2 = (np.deg2rad(a.astype(np.float64)) for a in (members.lat_M[member_C], jobs.lat_J[job_C]))
    lon1, lon2 = (np.deg2rad(a.astype(np.float64)) for a in (members.lon_M[member_C], jobs.lon_J[job_C]))
    half = np.sin((lat2 - lat1) / 2) ** 2 + np.cos(lat1) * np.cos(lat2) * np.sin((lon2 - lon1) / 2) ** 2
    great_circle = 2 * 6_371.0 * np.arcsin(np.sqrt(half))
    near = great_circle < 100
    assert near.sum() >= 5
    np.testing.assert_allclose(distance_km(population, member_C, job_C)[near], great_circle[near], rtol=0.02, atol=0.1)


def test_gender_goes_with_experience(marketplace: Marketplace) -> None:
    members = marketplace.population.members
    told = members.gender_M < 2
    assert told.mean() == pytest.approx(0.92, abs=0.03)
    correlation = np.corrcoef(members.gender_M[told], members.experience_years_M[told])[0, 1]
    assert -0.4 < correlation < -0.05


def test_the_same_seed_gives_the_same_chunk_and_another_seed_another(
    marketplace: Marketplace, chunks: list[Chunk]
) -> None:
    again = Marketplace.create(SETTINGS, seed=7).chunk(3)
    np.testing.assert_array_equal(again.pages.job_C, chunks[3].pages.job_C)
    np.testing.assert_array_equal(again.responses.labels["click"], chunks[3].responses.labels["click"])
    np.testing.assert_array_equal(again.activity.time_us_H, chunks[3].activity.time_us_H)
    assert again.sessions.request_id_R[0] == 3 * CHUNK_REQUESTS
    other = Marketplace.create(SETTINGS, seed=8).chunk(3)
    assert not np.array_equal(other.sessions.member_R, again.sessions.member_R)


def test_a_tiny_marketplace_works() -> None:
    settings = MarketplaceSettings(num_members=1, num_jobs=1, num_titles=1, num_industries=1, num_cities=1)
    chunk = Marketplace.create(settings, seed=0).chunk(0)
    assert (chunk.pages.length_R == 1).all()
    assert (chunk.pages.retrieval_exposure_C == 1).all()


def test_industries_without_jobs_offer_others() -> None:
    population = Population.create(MarketplaceSettings(num_members=5, num_jobs=3, num_industries=24), seed=0)
    empty = np.setdiff1d(np.arange(24), population.jobs.industry_J)
    drawn = population.jobs.draw(np.linspace(0, 0.999, len(empty)), empty)
    assert set(drawn.tolist()) <= {0, 1, 2}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("click_rate", 0.0),
        ("affinity_density", 1.0),
        ("num_jobs", 0),
        ("taste_strength", -1.0),
        ("retrieval_noise", 0.0),
        ("min_slots", 30),
        ("exploration_slots", (3, 1)),
        ("exploration_slots", (0, 1)),
        ("mood_strength", float("nan")),
    ],
)
def test_settings_out_of_range_are_refused(name: str, value: object) -> None:
    with pytest.raises(RecipeError, match=name):
        dataclasses.replace(MarketplaceSettings(), **{name: value})  # type: ignore[arg-type]


def test_rates_beyond_the_looks_are_refused() -> None:
    with pytest.raises(RecipeError, match="click_rate"):
        Marketplace.create(dataclasses.replace(SETTINGS, click_rate=0.9), seed=0)
