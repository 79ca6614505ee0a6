"""K candidates of a request · C candidates, flat · A actions."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import served_log_example as example
import torch

from full_disk import files_of_at_most
from rankwell.data.batches import Batches
from rankwell.data.log import open_log
from rankwell.data.served_columns import served_logit, served_probability
from rankwell.data.split import WholeLog
from rankwell.errors import LogError, SchemaError
from rankwell.schema import Action, Bag, Categorical, Exposure, Numeric, Schema, Vector
from rankwell.serving.log_compaction import compact_served
from rankwell.serving.log_folder import LogFolder
from rankwell.serving.log_reader import read_served
from rankwell.serving.served_log import ServedLog
from rankwell.serving.served_request import ServedRequest
from rankwell.types import MISSING_ID, Events, Features, Ragged

Rows = list[dict[str, Any]]


def log_in(folder: Path, **changes: Any) -> ServedLog:
    given: dict[str, Any] = {"schema": example.SCHEMA, "worker": "w0", "seed": 1, "now_us": lambda: example.NOW_US}
    return ServedLog(folder, **(given | changes))


def rows_of(folder: Path) -> Rows:
    return [row for rows, _ in read_served(folder) for row in rows.to_pylist()]


# --- what stands in a row


def test_a_row_holds_what_was_shown_as_it_was_used(tmp_path: Path) -> None:
    batches = example.distinct_batches(20)
    answers = [example.served(batch) for batch in batches]
    with log_in(tmp_path, all_candidates_rate=0.0) as log:
        assert all(log.append(answer) for answer in answers)
        assert log.counts.appended == 20
    compact_served(tmp_path)
    read = list(Batches(open_log(tmp_path / "served/parquet", example.SCHEMA), WholeLog("train"), "train",
                        num_requests=1, seed=None).epoch(0))  # fmt: skip
    by_id = {int(batch.audit.request_ids_R[0]): batch for _, batch in read}
    assert len(by_id) == 20
    for batch, answer in zip(batches, answers, strict=True):
        found, places = by_id[answer.request_id], torch.as_tensor(answer.places_n)
        assert found.targets.position_C.tolist() == list(range(1, len(places) + 1))
        assert torch.equal(found.targets.propensity_C, torch.as_tensor(answer.propensities_n).float())
        assert not found.targets.observed_CA.any()
        assert torch.equal(found.audit.member_ids_R, batch.audit.member_ids_R)
        assert torch.equal(found.audit.times_us_R, batch.audit.times_us_R)
        for name, column in batch.features.context.items():
            assert torch.equal(torch.as_tensor(found.features.context[name]), torch.as_tensor(column)), name
        for name, column in batch.features.candidates.items():
            kept = torch.as_tensor(column)[places]
            assert torch.equal(torch.as_tensor(found.features.candidates[name]), kept), name
        for name, audited in batch.audit.columns.items():
            assert torch.equal(found.audit.columns[name], audited if len(audited) == 1 else audited[places]), name
        for name, events in batch.features.history.items():
            for field, values in events.columns.items():
                # an age is a float32, and a time a whole microsecond: within 8 s the two need not meet
                assert torch.allclose(found.features.history[name].columns[field], values, rtol=2e-7, atol=1e-6), field


def test_members_without_a_past_by_themselves(tmp_path: Path) -> None:
    with log_in(tmp_path) as log:
        for batch in example.distinct_batches(3):
            nothing = {
                name: Events({field: values[:0] for field, values in events.columns.items()}, torch.zeros(2).long())
                for name, events in batch.features.history.items()
            }
            log.append(example.served(replace(batch, features=replace(batch.features, history=nothing))))
    rows, lists = (
        rows_of(tmp_path),
        [f"{s.name}_{s.fields[0].column or s.fields[0].name}" for s in example.SCHEMA.sequences],
    )
    assert len(rows) == 3
    assert lists
    assert all(row[name] == [] for row in rows for name in lists)


def test_a_row_holds_what_was_said_of_it(tmp_path: Path) -> None:
    answer = example.served(example.distinct_batches(1)[0])
    with log_in(tmp_path, all_candidates_rate=0.0) as log:
        log.append(answer)
    (row,) = rows_of(tmp_path)
    places = torch.as_tensor(answer.places_n)
    assert row["served_bundle_id"] == "bundle-1"
    assert row["served_correction_id"] == answer.correction_id
    assert row["served_all_candidates"] is False
    assert row["served_price_micros"] == (1_000 + places).tolist()
    assert row["served_segments"] == torch.as_tensor(answer.segments_KS)[places].tolist()
    for a, action in enumerate(example.SCHEMA.actions):
        assert row[served_logit(action.name)] == torch.as_tensor(answer.logits_KA)[places, a].tolist()
        assert row[served_probability(action.name)] == torch.as_tensor(answer.probabilities_KA)[places, a].tolist()


SMALL = Schema(
    features=(
        Numeric(name="years", on="request", missing="indicator"),
        Vector(name="mood", on="request", width=2),
        Bag(name="interests", on="request"),
        Categorical(name="job", missing="refuse"),
        Categorical(name="title", missing="row"),
        Bag(name="skills"),
        Vector(name="look", width=3),
        Numeric(name="bid", column="bid_micros"),
    ),
    actions=(Action(name="click", window_s=60),),
    item="job",
    exposure=Exposure(position="position", propensity="propensity", retrieval="retrieval"),
    bid="bid_micros",
    weight="weight",
    protected=(Categorical(name="gender", on="request"),),
)


def small_answer(**changes: Any) -> ServedRequest:
    """Four candidates, of which the third and the first are shown."""
    features = Features(
        context={"years": torch.tensor([torch.nan]), "mood": torch.tensor([[1.0, 2.0]]),
                 "interests": Ragged(torch.tensor([8, 9]), torch.tensor([0, 2]))},
        history={},
        candidates={
            "job": torch.tensor([4, 5, 6, 2**62]),
            "title": torch.tensor([MISSING_ID, 1, 2, 3]),
            "skills": Ragged(torch.tensor([1, 2, 3, 4, 5, 6]), torch.tensor([0, 1, 1, 4, 6])),
            "look": torch.arange(12.0).reshape(4, 3),
            "bid": torch.tensor([1e9, 2.0, 3.0, 4.0]),
        },
        offsets=torch.tensor([0, 4]),
        request_C=torch.zeros(4, dtype=torch.int64),
    )  # fmt: skip
    logits_KA = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    answer = ServedRequest(
        request_id=7,
        member_id=MISSING_ID,
        time_us=50,
        features=features,
        item_ids_K=torch.tensor([4, 5, 6, 2**62]),
        places_n=np.array([2, 0]),
        propensities_n=np.array([1.0, 0.25]),
        logits_KA=logits_KA,
        probabilities_KA=logits_KA.sigmoid(),
        bundle_id="b",
        audit={"bid_micros": np.array([1_000_000_001, 2, 3, 4])},
    )
    return replace(answer, **changes)


def test_lists_of_lists_missing_values_and_all_candidates(tmp_path: Path) -> None:
    with log_in(tmp_path, schema=SMALL, all_candidates_rate=1.0) as log:
        log.append(small_answer())
    (row,) = rows_of(tmp_path)
    assert np.isnan(row.pop("years"))
    said = {name: row.pop(name) for name in list(row) if name.startswith("served_")}
    assert row == {
        "request_id": 7, "member_id": None, "time_us": 50, "gender": None, "mood": [1.0, 2.0], "interests": [8, 9],
        "job": [6, 4, 5, 2**62], "title": [2, None, 1, 3], "skills": [[2, 3, 4], [1], [], [5, 6]],
        "look": [[6.0, 7.0, 8.0], [0.0, 1.0, 2.0], [3.0, 4.0, 5.0], [9.0, 10.0, 11.0]],
        "bid_micros": [3, 1_000_000_001, 2, 4], "position": [1, 2, 0, 0], "propensity": [1.0, 0.25, None, None],
        "retrieval": [1.0] * 4, "weight": [1.0] * 4,
    }  # fmt: skip
    assert said["served_all_candidates"] is True
    assert said["served_logit_click"] == [2.0, 0.0, 1.0, 3.0]
    assert said["served_price_micros"] == [None] * 4
    assert said["served_segments"] == [[], [], [], []]
    compact_served(tmp_path)
    log_read = open_log(tmp_path / "served/parquet", SMALL)
    assert (log_read.num_requests, log_read.num_candidates) == (1, 4)


def test_requests_are_drawn_whole_by_seed_and_id(tmp_path: Path) -> None:
    with log_in(tmp_path / "a") as log, log_in(tmp_path / "b", worker="w9") as same:
        drawn = [log.logs_all_candidates(request_id) for request_id in range(20_000)]
        assert drawn == [same.logs_all_candidates(request_id) for request_id in range(20_000)]
    with log_in(tmp_path / "c", seed=2) as other:
        assert drawn != [other.logs_all_candidates(request_id) for request_id in range(20_000)]
    error = (0.01 * 0.99 / 20_000) ** 0.5
    assert np.mean(drawn) == pytest.approx(0.01, abs=5 * error)
    with log_in(tmp_path / "d", all_candidates_rate=1.0) as log:
        assert log.logs_all_candidates(2**63 - 1)


# --- what does not fit


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"features": Features({}, {}, {}, torch.tensor([0, 4]), torch.zeros(4).long())}, "years"),
        ({"logits_KA": torch.zeros(3, 1)}, "logits"),
        ({"probabilities_KA": torch.zeros(4, 2)}, "probabilities"),
        ({"places_n": np.array([2, 4])}, "one twice, or one that there isn't"),
        ({"places_n": np.array([2, -1])}, "one twice, or one that there isn't"),
        ({"places_n": np.array([2, 2])}, "one twice"),
        ({"places_n": np.array([], np.int64), "propensities_n": np.array([])}, "no candidate is shown"),
        ({"propensities_n": np.array([1.0, 0.0])}, "propensities"),
        ({"propensities_n": np.array([1.0, np.nan])}, "propensities"),
        ({"propensities_n": np.array([1.0])}, "propensities"),
        ({"request_id": -1}, "negative"),
        ({"audit": {"bid_micros": np.array([1, 2])}}, "2 entries"),
        ({"segments_KS": np.zeros((1, 1), np.int64)}, ""),
        ({"prices_micros_n": np.array([1])}, "prices"),
        ({"prices_micros_n": np.array([1, -1])}, "prices"),
    ],
)
def test_an_answer_that_does_not_fit_is_refused(tmp_path: Path, changes: dict[str, Any], found: str) -> None:
    with log_in(tmp_path, schema=SMALL) as log:
        with pytest.raises(LogError, match="does not fit the schema") as error:
            log.append(small_answer(**changes))
        assert found in str(error.value)
        assert log.append(small_answer())
    assert len(rows_of(tmp_path)) == 1


def test_a_schema_that_cannot_be_joined_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match=r"exposure\.position"):
        log_in(tmp_path, schema=SMALL.model_copy(update={"exposure": Exposure()}))


def test_a_folder_of_another_schema_or_format_is_refused(tmp_path: Path) -> None:
    log_in(tmp_path, schema=SMALL).close()
    with pytest.raises(LogError, match="another schema") as error:
        log_in(tmp_path)
    assert "job" in str(error.value)
    larger = SMALL.model_copy(update={"features": tuple(
        f.model_copy(update={"num_rows": 99}) if f.name == "job" else f for f in SMALL.features)})  # fmt: skip
    log_in(tmp_path, schema=larger).close()  # another size of a table is no other log
    head = tmp_path / "served/log.json"
    head.write_text(head.read_text().replace('"format_version": 1', '"format_version": 2'))
    with pytest.raises(LogError, match="another format"):
        log_in(tmp_path, schema=SMALL)
    head.write_text("{")
    with pytest.raises(LogError, match="damaged"):
        log_in(tmp_path, schema=SMALL)


# --- who may write


def test_one_server_many_workers(tmp_path: Path) -> None:
    answer = small_answer()
    with log_in(tmp_path, schema=SMALL, server="s1") as first:
        with log_in(tmp_path, schema=SMALL, server="s1", worker="w1") as second:
            assert first.append(answer)
            assert second.append(replace(answer, request_id=8))
        with pytest.raises(LogError, match="another process writes the stream 'w0'"):
            log_in(tmp_path, schema=SMALL, server="s1")
        with pytest.raises(LogError, match="another server writes") as error:
            log_in(tmp_path, schema=SMALL, server="s2", worker="w2")
        assert "found: s1" in str(error.value)
        with pytest.raises(LogError, match="another server writes"):
            log_in(tmp_path, schema=SMALL, worker="w2")
    log_in(tmp_path, schema=SMALL, server="s2").close()
    assert [row["request_id"] for row in rows_of(tmp_path)] == [7, 8]


@pytest.mark.parametrize("worker", ["", "a-b", "../w", "w" * 65])
def test_a_worker_is_named_for_a_file(tmp_path: Path, worker: str) -> None:
    with pytest.raises(LogError, match="worker's name"):
        log_in(tmp_path, schema=SMALL, worker=worker)
    log_in(tmp_path, schema=SMALL).close()  # and leaves no lock behind


def test_a_closed_log_takes_nothing(tmp_path: Path) -> None:
    log = log_in(tmp_path, schema=SMALL)
    log.close()
    log.close()
    with pytest.raises(LogError, match="closed"):
        log.append(small_answer())


# --- segments


def test_segments_roll_by_size_and_age(tmp_path: Path) -> None:
    now_us = [0]
    log = log_in(tmp_path, schema=SMALL, now_us=lambda: now_us[0], segment_bytes=4_000, segment_s=10)
    for request_id in range(12):
        log.append(small_answer(request_id=request_id))
    by_size = log.counts.segments
    assert by_size > 1
    now_us[0] = 10_000_000
    log.append(small_answer(request_id=12))
    assert log.counts.segments == by_size + 1
    now_us[0] = -10_000_000  # a clock that is set back makes no segment young for ever
    log.seal_if_due()
    assert not list((tmp_path / "served/segments").glob("*.open"))
    log.close()
    assert [row["request_id"] for row in rows_of(tmp_path)] == list(range(13))


# --- a disk that is full or broken


def test_a_full_disk_is_survived_and_counted(tmp_path: Path) -> None:
    log = log_in(tmp_path, schema=SMALL)
    assert log.append(small_answer(request_id=0))
    assert log.is_healthy
    with files_of_at_most(log.counts.bytes + 10 + 1_000):
        marks = [log.append(small_answer(request_id=request_id)) for request_id in range(1, 8)]
        assert not marks[-1]
        assert not log.is_healthy
        assert not log.probe()
    assert log.counts.by_reason == {"disk_full": marks.count(False)}
    assert log.counts.not_logged == marks.count(False)
    assert log.counts.appended == 1 + marks.count(True)
    assert log.probe()
    assert log.is_healthy
    assert log.append(small_answer(request_id=100))
    logged = [0, *(request_id for request_id, mark in enumerate(marks, 1) if mark), 100]
    assert [row["request_id"] for row in rows_of(tmp_path)] == logged
    log.close()
    assert [row["request_id"] for row in rows_of(tmp_path)] == logged


def test_a_disk_that_is_full_from_the_start(tmp_path: Path) -> None:
    log = log_in(tmp_path, schema=SMALL)
    with files_of_at_most(100):
        assert not log.append(small_answer())
        assert not log.is_healthy
    assert not list((tmp_path / "served/segments").iterdir())
    assert log.append(small_answer())
    assert log.is_healthy
    log.close()
    assert len(rows_of(tmp_path)) == 1


def test_a_folder_that_is_gone_is_an_error_of_the_disk(tmp_path: Path) -> None:
    with log_in(tmp_path, schema=SMALL) as log:
        (tmp_path / "served/segments").rmdir()
        assert not log.append(small_answer())
        assert log.counts.by_reason == {"io_error": 1}
        (tmp_path / "served/segments").mkdir()
        assert log.append(small_answer())


def test_what_could_not_be_synced_is_not_promised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(file: int) -> None:
        raise OSError(5, "Input/output error")

    log = log_in(tmp_path, schema=SMALL, sync_s=0.0)
    assert log.append(small_answer())
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", broken)
        assert not log.append(small_answer(request_id=8))
    assert (log.counts.appended, log.counts.by_reason) == (1, {"io_error": 1})
    log.close()


# --- a process that is killed

CHILD = """
import sys
sys.path[:0] = sys.argv[2:4]
import torch
torch.set_num_threads(1)
from test_serving_served_log import SMALL, small_answer
from rankwell.serving.served_log import ServedLog
from pathlib import Path
start = int(sys.argv[4])
worker = sys.argv[5]
log = ServedLog(
    Path(sys.argv[1]), SMALL, worker=worker, server="s", seed=1, now_us=lambda: 0, segment_bytes=20_000
)
for request_id in range(start, start + 10**9):
    if log.append(small_answer(request_id=request_id)):
        sys.stdout.write(f"{request_id}\\n")
        sys.stdout.flush()
"""


@pytest.mark.slow
def test_what_was_marked_as_logged_survives_kill_9(tmp_path: Path) -> None:
    here = Path(__file__).parent
    rng = random.Random(0)
    marked: list[int] = []
    for turn in range(4):
        arguments = [str(tmp_path), str(here), str(here.parent), str(turn * 10**9), "w0"]
        with subprocess.Popen([sys.executable, "-c", CHILD, *arguments], stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            first = child.stdout.readline()
            time.sleep(rng.uniform(0.01, 0.3))
            child.send_signal(signal.SIGKILL)
            told = (first + child.stdout.read()).decode()
        lines = told[: told.rfind("\n") + 1].split()
        assert len(lines) > 10
        marked += map(int, lines)
    log_in(tmp_path, schema=SMALL).close()
    found = [row["request_id"] for row in rows_of(tmp_path)]
    assert len(found) == len(set(found))
    assert set(marked) <= set(found)
    # each kill may fall between the write and the word of it
    assert len(found) <= len(marked) + 5
    report = compact_served(tmp_path)
    assert (report.num_rows, report.errors) == (len(found), ())
    assert open_log(tmp_path / "served/parquet", SMALL).num_requests == len(found)


COMPACTOR = """
import sys
from rankwell.serving.log_compaction import compact_served
print("begun", flush=True)
while True:
    compact_served(sys.argv[1], part_bytes=100_000)
"""


@pytest.mark.slow
def test_two_workers_and_a_compaction_are_killed_again_and_again(tmp_path: Path) -> None:
    """What was marked as logged is in the named Parquet files, once, however often everything was killed."""
    here = Path(__file__).parent
    rng = random.Random(1)
    log_in(tmp_path, schema=SMALL).close()
    marked: list[int] = []
    for turn in range(3):
        with ExitStack() as running:
            started = [
                running.enter_context(subprocess.Popen([sys.executable, "-c", *words], stdout=subprocess.PIPE))
                for words in (
                    (CHILD, str(tmp_path), str(here), str(here.parent), str(turn * 10**9), "w0"),
                    (CHILD, str(tmp_path), str(here), str(here.parent), str((turn + 10) * 10**9), "w1"),
                    (COMPACTOR, str(tmp_path)),
                )
            ]
            firsts = [child.stdout.readline() for child in started if child.stdout is not None]
            time.sleep(rng.uniform(0.2, 0.5))
            for child in rng.sample(started, len(started)):
                child.send_signal(signal.SIGKILL)
            told = [first + child.stdout.read() for first, child in zip(firsts, started, strict=True) if child.stdout]
        for text in told[:2]:
            lines = text[: text.rfind(b"\n") + 1].split()
            assert len(lines) > 10
            marked += map(int, lines)
    report = compact_served(tmp_path)
    assert report.errors == ()
    state = LogFolder(tmp_path / "served", "served").compacted()
    found = [
        request_id
        for part in state.parts
        for request_id in pq.read_table(tmp_path / "served/parquet" / part)["request_id"].to_pylist()
    ]
    assert len(state.parts) > 1
    assert len(found) == len(set(found))
    assert set(marked) <= set(found)
    assert len(found) <= len(marked) + 6
    assert not list((tmp_path / "served/segments").iterdir())


def test_many_threads_append_to_one_log(tmp_path: Path) -> None:
    with log_in(tmp_path, schema=SMALL, segment_bytes=5_000) as log, ThreadPoolExecutor(8) as pool:
        answers = [small_answer(request_id=request_id) for request_id in range(200)]
        assert all(pool.map(log.append, answers))
        assert log.counts.appended == 200
    assert sorted(row["request_id"] for row in rows_of(tmp_path)) == list(range(200))


def test_a_write_that_was_cut_short_is_cut_off(tmp_path: Path) -> None:
    """Every length of a torn end, byte for byte, as a kill in the middle of a write leaves it."""
    with log_in(tmp_path / "whole", schema=SMALL) as log:
        for request_id in range(3):
            log.append(small_answer(request_id=request_id))
    (sealed,) = (tmp_path / "whole/served/segments").iterdir()
    data = sealed.read_bytes()
    frame = (len(data) - data.rfind(b"RWSG")) - 0
    folder = tmp_path / "torn"
    for cut in [*range(1, frame, 97), frame - 1]:
        log_in(folder, schema=SMALL).close()
        torn = folder / "served/segments/w0-00000000.open"
        torn.write_bytes(data[:-cut])
        assert [row["request_id"] for row in rows_of(folder)] == [0, 1]  # a reader waits for the rest
        log = log_in(folder, schema=SMALL)
        assert [row["request_id"] for row in rows_of(folder)] == [0, 1]
        log.append(small_answer(request_id=9))
        log.close()
        assert [row["request_id"] for row in rows_of(folder)] == [0, 1, 9]
        for path in (folder / "served/segments").iterdir():
            path.unlink()
