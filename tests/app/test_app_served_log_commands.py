"""`rankwell compact` and `rankwell label`, as a user types them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from rankwell.app.command_line import app
from rankwell.data.log import open_log
from rankwell.errors import LogError
from rankwell.schema import Action, Categorical, Exposure, Schema
from rankwell.serving.action_log import ActionLog, ReportedAction
from rankwell.serving.served_log import ServedLog
from rankwell.serving.served_request import ServedRequest
from rankwell.types import MISSING_ID, Features

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
