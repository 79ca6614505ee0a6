"""Drills as a user types them: a fast one that is refused, and a slow one that is played to its end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rankwell.app.command_line import app
from rankwell.app.drill_command import INCIDENTS, incident_of
from rankwell.errors import RecipeError


def test_incidents_are_known_by_their_names() -> None:
    assert [incident_of(incident.name) for incident in INCIDENTS] == list(INCIDENTS)
    with pytest.raises(RecipeError, match="no such scenario"):
        incident_of("flood")


@pytest.mark.slow
def test_a_calibration_bug_is_found_explained_and_corrected_by_a_real_server(tmp_path: Path) -> None:
    def run(*words: object) -> int:
        return CliRunner().invoke(app, [*map(str, words)], catch_exceptions=False).exit_code

    assert run("demo", "--requests", 20_000, "--out", tmp_path / "demo") == 0
    numbers_file, page = tmp_path / "numbers.json", tmp_path / "page.html"
    code = run(
        "drill", "calibration-bug", "--bundle", tmp_path / "demo" / "bundle", "--json", numbers_file, "--out", page
    )  # fmt: skip
    numbers = json.loads(numbers_file.read_text())
    assert code == (0 if numbers["passed"] else 1)
    assert numbers["passed"] == all(held for name, held in numbers.items() if name.startswith("check/"))
    assert numbers["detected_by_drift_windows"] == 1
    assert numbers["detected_by_clicks_windows"] <= 1
    assert numbers["cause_is_first"] == 1
    assert numbers["cause_segment"] == 3
    assert numbers["ratio_hurt"] > 1.5
    assert 0.9 < numbers["ratio_corrected"] < 1.1
    assert numbers["corrected/over_cut_rate"] >= 0.8
    assert numbers["most_moved_healthy_rate"] <= 0.02
    assert numbers["correction_gone_s"] <= 3_600
    assert "<svg" in page.read_text()
