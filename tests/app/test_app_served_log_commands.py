"""`rankwell compact` and `rankwell label`, as a user types them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from rankwell.app.command_line import app
from rankwell.data.log import open_log
from rankwell.errors import LogError
from rankwell.mitigation.kept_watch import KeptWatch, WatchSettings
from rankwell.schema import Action, Categorical, Exposure, Schema
from rankwell.serving.action_log import ActionLog, ReportedAction
from rankwell.serving.served_log import ServedLog
from rankwell.serving.served_request import ServedRequest
from rankwell.types import MISSING_ID, Features
from watched_log import START_US, TICK_US, write_log

SCHEMA = Schema(
    features=(Categorical(name="job"),),
    actions=(Action(name="click", window_s=60),),
    item="job",
    exposure=Exposure(position="position", propensity="propensity"),
)


def run(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def answer(request_id: int) -> ServedRequest:
    job_K = torch.tensor([5, 6, 7])
    features = Features({}, {}, {"job": job_K}, torch.tensor([0, 3]), torch.zeros(3, dtype=torch.int64))
    return ServedRequest(
        request_id=request_id,
        member_id=MISSING_ID,
        time_us=10**6 * request_id,
        features=features,
        item_ids_K=job_K,
        places_n=torch.tensor([2, 0]),
        propensities_n=torch.ones(2),
        logits_KA=torch.zeros(3, 1),
        probabilities_KA=torch.full((3, 1), 0.5),
        bundle_id="b",
    )


def test_from_what_a_server_logged_to_a_log_to_train_on(tmp_path: Path) -> None:
    with ServedLog(tmp_path / "log", SCHEMA, worker="w0", seed=0, now_us=lambda: 0) as log:
        for request_id in (1, 2, 1):
            assert log.append(replace(answer(request_id)))
    with ActionLog(tmp_path / "log", SCHEMA, worker="w0", now_us=lambda: 0) as actions:
        actions.append([ReportedAction(2, 7, "click", 3 * 10**6)])
    numbers = tmp_path / "numbers.json"
    assert "served" in run("compact", tmp_path / "log", "--json", numbers)
    found = json.loads(numbers.read_text())
    assert (found["served_num_rows"], found["served_num_duplicates"], found["actions_num_rows"]) == (2, 1, 1)
    run("compact", tmp_path / "log", "--json", numbers)
    assert json.loads(numbers.read_text())["served_num_rows"] == 0
    words = ("label", tmp_path / "log", "--out", tmp_path / "train", "--now-us", 100 * 10**6, "--json", numbers)
    assert "joined" in run(*words)
    assert json.loads(numbers.read_text())["num_joined"] == 1
    assert open_log(tmp_path / "train", SCHEMA).num_candidates == 4


def test_a_folder_that_no_server_wrote(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"there is no .*log\.json"):
        run("compact", tmp_path)
    with pytest.raises(LogError, match=r"there is no .*log\.json"):
        run("label", tmp_path, "--out", tmp_path / "train")


def compacted(folder: Path, *words: object) -> tuple[dict[str, float], str]:
    numbers = folder.parent / "numbers.json"
    said = run("compact", folder, *words, "--json", numbers)
    return json.loads(numbers.read_text()), " ".join(said.split())


def watched(folder: Path, tick: int) -> tuple[int, tuple[str, ...], int]:
    """The rows that a round finds, what it complains of, and all requests that were counted so far."""
    settings = WatchSettings(folder=folder, segment="level", least_rows=100)
    with KeptWatch(settings, now_us=lambda: START_US + tick * TICK_US + 5_000_000, say=lambda _: None) as watch:
        view = watch.look()
        watch.keep()
        counts = view.outcomes.sums("served", view.segments).num_requests_G
    return view.report.num_rows, view.problems, int(counts.max())


def test_what_a_watch_has_still_to_read_is_left_and_nothing_is_lost_to_either(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    write_log(folder, num_ticks=4, per_tick=20)
    watched(folder, 4)
    write_log(folder, num_ticks=6, first_tick=4, per_tick=20)
    found, said = compacted(folder)
    assert found["served_num_rows"] == 80
    assert found["served_num_held"] == 20, "two requests a segment"
    num_held = found["served_num_held"] + found["actions_num_held"]
    assert f"left for the watch of the folder: {num_held} segments; its last round was at 20" in said
    num_rows, problems, num_requests = watched(folder, 7)
    assert (num_rows > 40, problems, num_requests) == (True, (), 120)
    found, said = compacted(folder)
    assert (found["served_num_rows"], found["served_num_held"], found["actions_num_held"]) == (40, 0, 0)
    assert "left for" not in said
    parts = sorted((folder / "served" / "parquet").glob("*.parquet"))
    ids = [value for part in parts for value in pq.read_table(part)["request_id"].to_pylist()]
    assert sorted(ids) == [tick * 10_000 + place for tick in range(6) for place in range(20)]


def test_a_watch_that_put_nothing_down_yet_has_everything_to_read(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    write_log(folder, num_ticks=4, per_tick=20)
    watched(folder, 5)
    for damage in (b"\xff\xfe\x00 no", None):
        path = folder / "watch" / "counts.arrow"
        path.unlink() if damage is None else path.write_bytes(damage)
        found, said = compacted(folder)
        assert (found["served_num_segments"], found["served_num_held"]) == (0, 40)
        assert "no round is put down" in said


def test_a_dead_watch_is_ignored_where_that_is_asked_and_says_what_it_missed_if_it_comes_back(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    write_log(folder, num_ticks=4, per_tick=20)
    watched(folder, 5)
    write_log(folder, num_ticks=6, first_tick=4, per_tick=20)
    settings = WatchSettings(folder=folder, segment="level", least_rows=100)
    with (
        KeptWatch(settings, now_us=lambda: START_US + 5 * TICK_US, say=lambda _: None),
        pytest.raises(LogError, match="a process watches the folder"),
    ):
        run("compact", folder, "--ignore-watch")
    found, said = compacted(folder, "--ignore-watch")
    assert (found["served_num_rows"], found["served_num_held"]) == (120, 0)
    assert "left for" not in said
    write_log(folder, num_ticks=7, first_tick=6, per_tick=20)
    num_rows, problems, num_requests = watched(folder, 8)
    assert (num_rows > 20, num_requests) == (True, 100), "those of the last quarter-hour, and of the first four"
    assert [text.split("/")[-1].split(";")[0] for text in problems] == [
        f"{log}' were compacted before they were read" for log in ("served", "actions")
    ]
    assert watched(folder, 8)[:2] == (0, ()), "said once"
