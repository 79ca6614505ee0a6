"""The runbook: this incident's numbers in it, whatever is known of it, and files that keep no alarm from being told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import watch_view_example as example
from rankwell.app.runbook import RunbookSink, runbook
from rankwell.mitigation.explanation import Suspect
from rankwell.monitoring.causes import Cause

REPORT = example.view().report


def test_it_has_the_numbers_of_the_incident() -> None:
    text = runbook(REPORT, example.explanation(), correction=example.view().correction, deployed=Path("out/live"))
    for line in (
        "# title 7: years",
        "it began at 21 Sep 12:45 UTC, 1 h 30 min before",
        "| psi years | title 7 | 0.310 nats | 0.120 | 2.6 | 500 | 0.100 |",
        "2 of 6 readings",
        "1. **Another bundle**, 21 Sep 12:43 UTC: bundle bb began to answer, after aa",
        "`rankwell rollback out/live`",
        "2. **A feature, before any model saw it**",
        "| title 7 | 60 | 120 | 2.00 | 120.00 | 60.00 |",  # half of the clicks: half of the money
        "| 5 | 21 Sep 12:46 UTC | 42 | 1 | 0.4000 | 0.4000 | bb | 36.000 |",
        "- apply: title 7 has half the clicks promised",
        "Correction loop-4 is in force until 21 Sep 15:15 UTC",
        "touch out/live/mitigation/stop",
    ):
        assert line in text, line
    assert "{" not in text


@pytest.mark.parametrize("kind", ["trial", "bundle", "correction", "upstream", "unwatched", "labels", "world"])
def test_each_suspect_has_its_advice(kind: str) -> None:
    suspect = Suspect(kind, example.NOW_US, "something | happened")  # type: ignore[arg-type]
    text = runbook(REPORT, replace(example.explanation(), suspects=(suspect,)))
    assert "something \\| happened.\n   " in text
    assert len(text.split("something")[1].split("##")[0]) > 80


def test_of_a_bundle_on_trial_it_tells_what_that_answered_and_how_to_end_it() -> None:
    why = example.explanation()
    off = example.reading("calibration_trial", "click of fedcba9876543210", 7, 30.0, 9.0)
    suspect = Suspect("trial", example.NOW_US, "bundle fedcba9876543210 is off")
    text = runbook(REPORT, replace(why, causes=(Cause(off, 1.0, 3.3),), suspects=(suspect,)), deployed=Path("out/live"))
    assert "`rankwell deploy out/live CURRENT`" in text
    assert "rollback out/live" not in text
    assert "Of what bundle fedcba9876543210 answered, which is on trial." in text
    assert "| request | at | item | position | p | charged | bundle |\n|---|---|---|---|---|---|---|\n| 5 |" in text


def test_without_requests_labels_correction_or_servers() -> None:
    bare = replace(example.explanation(), requests=(), since_us=example.NOW_US, settled_us=0)
    few = Cause(example.reading("psi", "years", 7, 0.31, 0.0, num_rows=12), 1.0, 1e3)
    text = runbook(REPORT, replace(bare, causes=(few,)))
    assert "None are in the newest segments of the log" in text
    assert "complete until no time yet" in text
    assert "none since it began are" in text
    assert "started without `--deployed`" in text
    assert "The first has 12 rows" in text
    assert "∞" in text


def test_a_file_for_each_round_in_which_an_alarm_begins(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sink = RunbookSink(tmp_path / "incidents", deployed=None)
    view = example.view()
    sink.tell(view)
    sink.tell(view)  # the same round again: after a restart
    sink.tell(replace(view, report=replace(view.report, new_alarms=())))
    sink.tell(replace(view, report=replace(view.report, explanation=None)))
    [path] = (tmp_path / "incidents").iterdir()
    assert path.name == "incident-1790000100-21-Sep-1415.md"
    assert path.read_text("utf-8") == runbook(REPORT, example.explanation(), correction=view.correction)
    (tmp_path / "file").write_text("no folder")
    RunbookSink(tmp_path / "file").tell(view)
    assert "can't be written" in caplog.text
    sink.close()
