"""Rows are read again from a log, by the keys of the wide part; and a change of them goes the whole way to a graph.

Letters: K candidates of a request · n rows.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rankwell.calibration.uncalibrated import Uncalibrated
from rankwell.data.request import batch_from_request
from rankwell.data.statistics import NumericStatistics
from rankwell.mitigation.attributed_rows import AttributedLog, AttributedRows
from rankwell.mitigation.mitigation_folder import MitigationFolder
from rankwell.mitigation.mitigation_plan import MitigationPlan
from rankwell.mitigation.wide_update import ProximalUpdate
from rankwell.models.model import Model
from rankwell.models.wide_deep import Deep, Logistic
from rankwell.monitoring.outcome_pane import OutcomePane
from rankwell.monitoring.reading import Reading
from rankwell.schema import Action, Bag, Categorical, Cross, Exposure, Schema, TableSpec
from rankwell.serving.action_log import ActionLog, ReportedAction
from rankwell.serving.bundle import Bundle, write_bundle
from rankwell.serving.changed_rows import row_keys
from rankwell.serving.deployment import write_deployment
from rankwell.serving.live_bundles import LiveBundles
from rankwell.serving.ranker import Ranker
from rankwell.serving.rollout import RolloutFolder
from rankwell.serving.served_log import ServedLog
from rankwell.serving.served_request import ServedRequest, served_request
from rankwell.types import MISSING_ID, Features, Ragged

S_US, MINUTE_US = 1_000_000, 60_000_000
START_US = 1_790_000_100_000_000 // (15 * MINUTE_US) * (15 * MINUTE_US)
SCHEMA = Schema(
    features=(
        Categorical(name="city", on="request", num_ids=5), Categorical(name="job"),
        Categorical(name="title", num_ids=9, missing="row"),
        Categorical(name="member", on="request", table="member"), Bag(name="skills", num_ids=7),
    ),
    tables=(TableSpec(name="member", num_ids=100, num_remainders=10),),
    crosses=(Cross(of=("city", "title"), num_rows=64),),
    actions=(Action(name="apply", window_s=60), Action(name="click", window_s=60)),
    item="job", member_id=None, exposure=Exposure(position="position", propensity="propensity"),
)  # fmt: skip


def answer(request_id: int, time_us: int, **changes: Any) -> ServedRequest:
    """Three candidates, of which the last two are shown."""
    features = Features(
        context={"city": torch.tensor([request_id % 5]), "member": torch.tensor([3])}, history={},
        candidates={
            "job": torch.tensor([10, 11, 12]), "title": torch.tensor([1, -1, 3]),
            "skills": Ragged(torch.tensor([2]), torch.tensor([0, 1, 1, 1])),
        },
        offsets=torch.tensor([0, 3]), request_C=torch.zeros(3, dtype=torch.int64),
    )  # fmt: skip
    logits_KA = torch.tensor([[0.0, -1.0], [0.0, -2.0], [0.0, -3.0]], dtype=torch.float64)
    served = ServedRequest(
        request_id=request_id, member_id=MISSING_ID, time_us=time_us, features=features,
        item_ids_K=torch.tensor([10, 11, 12]), places_n=np.array([1, 2]), propensities_n=np.ones(2),
        logits_KA=logits_KA - 5.0, probabilities_KA=logits_KA.sigmoid(), bundle_id="b",
    )  # fmt: skip
    return replace(served, **changes)


def read_of(folder: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> AttributedRows | None:
    model = Logistic(SCHEMA, NumericStatistics(), seed=0)
    monkeypatch.setattr(AttributedLog, "_changeable", lambda log, bundle_id: model)
    log = AttributedLog(folder, folder / "nowhere", "click", **settings)
    return log.read("b", since_us=START_US, until_us=START_US + 60 * S_US, now_us=START_US + 500 * S_US)


def write(folder: Path, answers: list[ServedRequest], actions: list[ReportedAction]) -> None:
    with (
        ServedLog(folder, SCHEMA, worker="w", seed=0, now_us=lambda: START_US) as log,
        ActionLog(folder, SCHEMA, worker="w", now_us=lambda: START_US + 400 * S_US) as reported,
    ):
        for one in answers:
            log.append(one)
        if actions:
            reported.append(actions)


def test_shown_rows_of_the_bundle_with_settled_labels_by_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [
        answer(4, START_US + 9 * S_US, correction_id="c"),
        answer(3, START_US + 5 * S_US),
        answer(3, START_US + 5 * S_US),  # the same again
        answer(5, START_US + 5 * S_US, bundle_id="other"),
        answer(6, START_US - S_US),
        answer(7, START_US + 60 * S_US),
    ]
    clicks = [
        ReportedAction(3, 12, "click", START_US + 30 * S_US),
        ReportedAction(3, 11, "apply", START_US + 30 * S_US),  # another action
        ReportedAction(4, 11, "click", START_US + 80 * S_US),  # too late
    ]
    write(tmp_path, answers, clicks)
    rows = read_of(tmp_path, monkeypatch)
    assert rows is not None
    assert (rows.action, rows.num_actions) == (1, 2)
    assert rows.requests_n.tolist() == [3, 3, 4, 4]
    assert rows.corrections_n.tolist() == ["", "", "c", "c"]
    assert rows.times_us_n.tolist() == [START_US + s * S_US for s in (5, 5, 9, 9)]
    assert rows.labels_n.tolist() == [0, 1, 0, 0]
    assert rows.logits_n == pytest.approx([-2, -3, -2, -3]), "of what was served, and not the model's own"
    keys = dict(zip(zip(rows.parts, rows.tables, strict=True), rows.keys_nF.T.tolist(), strict=True))
    hashed = row_keys(SCHEMA.table_specs()["job"], np.array([11, 12])).tolist()
    assert keys["wide", "city"] == [3, 3, 4, 4]
    assert keys["wide", "title"] == [-1, 3, -1, 3]
    assert keys["wide", "job"] == hashed * 2
    assert [part for part, _ in keys] == ["crosses", "wide", "wide", "wide"], "no composed rows, no bags"
    crossed = keys["crosses", SCHEMA.crosses[0].name]
    assert all(-1 <= key < 64 for key in crossed)
    assert crossed[1] != crossed[3], "of another city"
    added_n = rows.added_by({"wide": {"title": {"3": (9.0, 0.5)}, "job": {str(hashed[0]): (9.0, -0.25)}}, "deep": {}})
    assert added_n.tolist() == [-0.25, 0.5, -0.25, 0.5]


def test_the_newest_rows_where_there_are_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, [answer(number, START_US + number * S_US) for number in range(20)], [])
    rows = read_of(tmp_path, monkeypatch, most_rows=20)
    assert rows is not None
    assert {*rows.requests_n.tolist()} == {*range(20)[-len(rows) // 2 :]}
    assert 4 <= len(rows) <= 20
    assert not rows.labels_n.any()
    assert read_of(tmp_path, monkeypatch, most_rows=1) is None


def test_a_bundle_in_pytorch_or_without_a_wide_part_has_none(tmp_path: Path) -> None:
    write(tmp_path / "log", [answer(1, START_US)], [])
    bundle = Bundle(
        model=Logistic(SCHEMA, NumericStatistics(), seed=0), created_us=0,
        calibrators={action.name: Uncalibrated() for action in SCHEMA.actions},
    )  # fmt: skip
    write_bundle(bundle, tmp_path / "bundle")
    RolloutFolder(tmp_path / "root").deploy(tmp_path / "bundle")
    bundle_id = RolloutFolder(tmp_path / "root").read().current
    log = AttributedLog(tmp_path / "log", tmp_path / "root", "click")
    assert log.read(bundle_id, since_us=0, until_us=2 * START_US, now_us=2 * START_US) is None


# --- the whole way

PLAIN = Schema(
    features=(Categorical(name="job", num_ids=12), Categorical(name="title", num_ids=3)),
    actions=(Action(name="click", window_s=60),),
    item="job", member_id=None, exposure=Exposure(position="position", propensity="propensity"),
)  # fmt: skip
MOVED = {4: 0.8, 7: -0.8}
"""Log-odds of jobs, both of title 1."""


def exported(model_class: type[Model], path: Path) -> None:
    model = model_class(PLAIN, NumericStatistics(), seed=0)  # type: ignore[call-arg]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name == "bias":
                parameter.fill_(-1.5)
    write_deployment(Bundle(model=model, calibrators={"click": Uncalibrated()}, created_us=0), path)


@pytest.mark.slow  # a bundle is exported, and four hours are served by its graph
def test_a_graph_serves_what_was_learned_of_its_own_answers(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    exported(Logistic, tmp_path / "one")
    root, folder = tmp_path / "root", tmp_path / "log"
    RolloutFolder(root).deploy(tmp_path / "one")
    live = LiveBundles(root, make_ranker=Ranker)
    rng, clock, number, odds = np.random.default_rng(0), [START_US], 0, list[dict[int, float]]()
    plan = MitigationPlan(
        action="click", feature="title", segments=(0, 1, 2), wide=ProximalUpdate(step=0.02, largest_change=1.0),
        may_fall_back=False,
    )  # fmt: skip
    kinds: list[str] = []
    with (
        ServedLog(folder, PLAIN, worker="w", seed=0, now_us=lambda: clock[0]) as served,
        ActionLog(folder, PLAIN, worker="w", now_us=lambda: clock[0]) as reported,
        MitigationFolder(root, plan, now_us=lambda: clock[0], log=AttributedLog(folder, root, "click")) as loop,
    ):
        for tick in range(14):
            live.poll()
            p_of: dict[int, float] = {}
            for place in range(300):
                clock[0], number = START_US + tick * 900 * S_US + place * 3 * S_US, number + 1
                jobs = list(range(12))
                candidates = {"job": jobs, "title": [job % 3 for job in jobs]}
                request = {"request_id": number, "time_us": clock[0], "context": {}, "candidates": candidates}
                batch = batch_from_request(request, PLAIN)
                ranker, correction_id = live.state.current.at(clock[0])
                ranking = ranker.rank_batch(batch)
                served.append(
                    served_request(batch, ranking, bundle_id=live.state.current.bundle.id, correction_id=correction_id)
                )
                p_of = dict(zip(jobs, ranking.scores.probabilities_CA[:, 0].tolist(), strict=True))
                true = [1 / (1 + math.exp(1.5 - (MOVED.get(job, 0.0) if 1 <= tick < 8 else 0.0))) for job in jobs]
                clicked = [job for job in jobs if rng.random() < true[job]]
                reported.append([ReportedAction(number, job, "click", clock[0] + S_US) for job in clicked])
            odds.append({job: math.log(p / (1 - p)) + 1.5 for job, p in p_of.items()})
            clock[0] = START_US + (tick + 1) * 900 * S_US
            settled_us = clock[0] - 5 * MINUTE_US
            alarm = Reading("rate", "click", -3, 2.0, "nats", 1.0, math.nan, 0.1, 9, 9, settled_us - 900 * S_US,
                            settled_us, 1 <= tick < 9)  # fmt: skip
            decided = loop.look([alarm], OutcomePane.nothing("click"), settled_us=settled_us)
            kinds += [one.kind for one in decided]
    assert kinds[:2] == ["detect", "apply"]
    assert "keep" in kinds
    assert "end" in kinds
    assert {job for job, moved in odds[7].items() if abs(moved) > 1e-6} == {4, 7}
    assert odds[7][4] == pytest.approx(0.8, abs=0.3)
    assert odds[7][7] == pytest.approx(-0.8, abs=0.3)
    assert max(map(abs, odds[-1].values())) < 1e-6, "the world is as it was"
    live.close()


@pytest.mark.slow  # a bundle is exported
def test_a_deployment_without_a_wide_part_has_no_rows(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    exported(Deep, tmp_path / "one")
    RolloutFolder(tmp_path / "root").deploy(tmp_path / "one")
    bundle_id = RolloutFolder(tmp_path / "root").read().current
    log = AttributedLog(tmp_path / "log", tmp_path / "root", "click")
    assert log.read(bundle_id, since_us=0, until_us=1, now_us=1) is None
