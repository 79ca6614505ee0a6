"""A watch that goes on where it was, and says what it finds broken."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

import watched_log
from rankwell.errors import LogError, MonitoringError, SchemaError
from rankwell.mitigation.kept_watch import KeptWatch, WatchSettings, why_not_yet
from rankwell.mitigation.watch_view import WatchView
from rankwell.monitoring.alarm_runs import AlarmRun, AlarmRuns
from rankwell.monitoring.pane_layout import ALL_ROWS
from rankwell.serving.log_folder import LogFolder
from watched_log import SCHEMA, START_US, TICK_US, write_log

NUM_TICKS, PER_TICK = 8, 20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_log(tmp_path / "log", num_ticks=NUM_TICKS, per_tick=PER_TICK)
    return tmp_path / "log"


def after(tick: int) -> int:
    return START_US + tick * TICK_US + 5_000_000


def settings(folder: Path, **changes: Any) -> WatchSettings:
    return WatchSettings(**({"folder": folder, "segment": "level", "reference_rows": 400, "least_rows": 100} | changes))


def looked(folder: Path, said: list[str], *, now_us: int = after(NUM_TICKS), **changes: Any) -> WatchView:
    with KeptWatch(settings(folder, **changes), now_us=lambda: now_us, say=said.append) as watch:
        view = watch.look()
        watch.keep()
    return view


def counted(view: WatchView) -> float:
    return float(view.outcomes.sums("served", view.segments).num_requests_G.sum())


def test_a_round_counts_each_row_once_and_the_next_process_goes_on(folder: Path) -> None:
    said: list[str] = []
    first = looked(folder, said)
    assert first.segments == (0, 1)
    assert first.report.num_rows > NUM_TICKS * PER_TICK, "actions came, too"
    layout = (folder / "watch" / "layout.json").read_bytes()
    again = looked(folder, said)
    assert again.report.num_rows == 0
    write_log(folder, num_ticks=NUM_TICKS + 2, first_tick=NUM_TICKS, per_tick=PER_TICK)
    last = looked(folder, said, now_us=after(NUM_TICKS + 2))
    assert counted(last) == 2 * (NUM_TICKS + 1) * PER_TICK + 2 * 11, "labels wait for 5 min, and 2 more for the late"
    assert (folder / "watch" / "layout.json").read_bytes() == layout
    assert said == []
    assert any(reading.column == "unknown" for reading in last.report.readings), "all of it is NaN"


def test_alarms_go_on_over_a_restart_and_end_once(folder: Path) -> None:
    looked(folder, [])
    run = AlarmRun("psi", "years", ALL_ROWS, after(NUM_TICKS) - TICK_US, after(NUM_TICKS) - TICK_US)
    (folder / "watch" / "alarms.json").write_text(AlarmRuns((run,)).to_json())
    assert run in looked(folder, []).standing
    over = looked(folder, [], now_us=after(NUM_TICKS + 8))
    assert [one.name for one in over.standing] == ["silence"]
    assert run in over.ended
    assert looked(folder, [], now_us=after(NUM_TICKS + 8)).ended == ()


def test_what_is_damaged_is_put_aside_said_and_made_anew(folder: Path) -> None:
    whole = looked(folder, [])
    damages = {"layout.json": b"{", "counts.arrow": b"\xff\xfe\x00 no", "alarms.json": b"\xff"}
    for name, damage in damages.items():
        (folder / "watch" / name).write_bytes(damage)
    said: list[str] = []
    view = looked(folder, said)
    for name, text in zip(damages, said, strict=True):
        assert f"{name} was damaged, and is now" in text
        [aside] = (folder / "watch").glob(f"{name}.damaged-*")
        assert aside.read_bytes() == damages[name]
    assert view.problems == tuple(said)
    assert counted(view) == counted(whole)
    assert looked(folder, said).problems == ()


def test_another_layout_beside_old_counts_begins_anew(folder: Path) -> None:
    looked(folder, [])
    (folder / "watch" / "layout.json").unlink()
    said: list[str] = []
    view = looked(folder, said, reference_rows=150)
    assert "counts.arrow was damaged" in said[0]
    assert view.report.num_rows > 0


def test_a_folder_is_watched_by_one_process_in_one_way(folder: Path) -> None:
    watch = KeptWatch(settings(folder), now_us=lambda: after(NUM_TICKS), say=lambda _: None)
    with pytest.raises(LogError, match="another process watches"):
        looked(folder, [])
    watch.close()
    with pytest.raises(MonitoringError, match="watched in another way"):
        looked(folder, [], segment="job")


def test_settings_that_fit_no_log_are_refused(folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    with pytest.raises(MonitoringError, match=r"allowed: \['job', 'level'\]"):
        looked(folder, [], segment="years")
    with pytest.raises(SchemaError):
        looked(folder, [], action="buy")
    with pytest.raises(MonitoringError, match="too few rows"):
        looked(folder, [], least_rows=10_000)
    with pytest.raises(LogError, match="there is no"):
        looked(tmp_path, [])
    monkeypatch.setattr(LogFolder, "schema", lambda _: SCHEMA.model_copy(update={"time": None}))
    with pytest.raises(MonitoringError, match="a log without times"):
        looked(folder, [])


def test_it_waits_for_a_log_and_for_enough_of_it(folder: Path, tmp_path: Path) -> None:
    assert "no served log" in str(why_not_yet(settings(tmp_path)))
    shown = NUM_TICKS * PER_TICK * 4
    assert why_not_yet(settings(folder, least_rows=shown)) is None
    assert f"{shown} rows were shown so far" in str(why_not_yet(settings(folder, least_rows=shown + 1)))
    looked(folder, [])
    assert why_not_yet(settings(folder, least_rows=shown + 1)) is None, "there is a layout"


def test_a_clock_that_goes_back_counts_nothing_twice(folder: Path) -> None:
    whole = counted(looked(folder, []))
    with KeptWatch(settings(folder), now_us=lambda: after(2), say=lambda _: None) as watch:
        early = watch.look()
        watch.keep()
    assert early.report.window_end_us == START_US + 2 * TICK_US
    assert not early.report.new_alarms
    assert counted(looked(folder, [])) == whole


def test_hours_without_a_request_are_said_and_are_no_drift(folder: Path) -> None:
    assert not looked(folder, []).report.new_alarms
    view = looked(folder, [], now_us=after(NUM_TICKS + 20))
    assert [(run.name, run.column) for run in view.report.new_alarms] == [("silence", "requests")]
    assert view.report.explanation is None
    assert view.report.spend_micros == {0: 0, 1: 0}
    write_log(folder, num_ticks=NUM_TICKS + 26, first_tick=NUM_TICKS + 21, per_tick=PER_TICK)
    assert looked(folder, [], now_us=after(NUM_TICKS + 26)).ended == view.standing


def test_a_bundle_that_nobody_deployed_is_said_without_an_alarm(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "root" / "bundles" / "0123456789abcdef").mkdir(parents=True)
    (tmp_path / "root" / "rollout.json").write_text('{"format_version": 1, "current": "0123456789abcdef"}')
    view = looked(folder, [], deployed=tmp_path / "root")
    assert not view.standing
    assert [text for text in view.problems if text.startswith(f"bundle b answered {PER_TICK} requests")]
    assert not looked(folder, [], deployed=tmp_path / "root", now_us=after(NUM_TICKS + 1)).problems


def test_what_the_servers_folder_lacks_is_a_problem_and_alarms_are_told_all_the_same(
    folder: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    view = looked(folder, said, deployed=tmp_path / "root")
    assert any("nothing is deployed" in text for text in view.problems)
    assert view.report.readings
    (tmp_path / "root").mkdir(exist_ok=True)
    (tmp_path / "root" / "rollout.json").write_text('{"format_version": 1, "current": "0123456789abcdef"}')
    (tmp_path / "root" / "corrections.json").write_text("{")
    view = looked(folder, said, deployed=tmp_path / "root")
    assert view.bundle_id == "0123456789abcdef"
    assert any("no correction is in force" in text for text in view.problems)


def test_a_dry_run_writes_down_what_it_would_do_and_applies_nothing(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "rollout.json").write_text('{"format_version": 1, "current": "0123456789abcdef"}')
    write_log(tmp_path / "log", num_ticks=6, per_tick=20)
    looked(tmp_path / "log", [], deployed=root, now_us=watched_log.START_US + 6 * TICK_US)
    assert not (root / "corrections.json").exists()


def test_a_bundle_that_is_off_by_level_is_corrected_by_what_its_own_rows_lack(tmp_path: Path) -> None:
    log, root, ids = tmp_path / "log", tmp_path / "root", ("0123456789abcdef", "fedcba9876543210")
    for bundle_id in ids:
        (root / "bundles" / bundle_id).mkdir(parents=True)
    (root / "rollout.json").write_text(f'{{"format_version": 1, "current": "{ids[1]}", "previous": "{ids[0]}"}}')
    write_log(log, num_ticks=20, per_tick=40, bundle_id=ids[0])
    write_log(log, num_ticks=23, first_tick=20, per_tick=150, bug_from=20, bundle_id=ids[1])
    kinds = []
    for tick in (22, 23):  # its first look comes after the deploy
        view = looked(log, [], deployed=root, mode="act", now_us=after(tick))
        kinds += [decision.kind for decision in view.report.decisions]
    assert kinds[:2] == ["detect", "apply"]
    assert view.problems == ()
    assert view.correction is not None
    (offsets,) = view.correction.log_odds_offsets["click"].values()
    assert set(offsets) == {"1"}
    assert offsets["1"] == pytest.approx(-math.log(3), abs=0.2)


def test_a_canary_that_is_off_is_accused_itself_and_the_bundle_beside_it_is_not_corrected(tmp_path: Path) -> None:
    log, root, ids = tmp_path / "log", tmp_path / "root", ("0123456789abcdef", "fedcba9876543210")
    for bundle_id in ids:
        (root / "bundles" / bundle_id).mkdir(parents=True)
    (root / "rollout.json").write_text(f'{{"format_version": 1, "current": "{ids[0]}"}}')
    write_log(log, num_ticks=16, per_tick=40, bundle_id=ids[0])
    write_log(log, num_ticks=22, first_tick=16, per_tick=350, bundle_id=ids[0], canary_id=ids[1])
    for tick in (21, 22):
        view = looked(log, [], deployed=root, mode="act", now_us=after(tick))
        assert not any(decision.kind in ("detect", "apply") for decision in view.report.decisions)
    assert view.correction is None
    off = {(run.name, run.column, run.segment) for run in view.standing if run.name.startswith("calibration")}
    assert off == {("calibration_trial", f"click of {ids[1]}", 1)}
    assert set(view.trials) == {ids[1]}
    assert view.outcomes.sums("served", [1]).ratio_G[0] == pytest.approx(1.0, abs=0.1)
    assert view.trials[ids[1]].sums("served", [0]).ratio_G[0] == pytest.approx(1.0, abs=0.25)
    assert view.trials[ids[1]].sums("served", [1]).ratio_G[0] > 1.4, "expected over seen"
    why = view.report.explanation
    assert why is not None
    write_log(log, num_ticks=29, first_tick=22, per_tick=40, bundle_id=ids[0])
    later = looked(log, [], deployed=root, mode="act", now_us=after(29))
    assert not any(run.name == "calibration_trial" for run in later.standing), "the trial is over"
    assert any(suspect.kind == "trial" and ids[1] in suspect.what for suspect in why.suspects)
