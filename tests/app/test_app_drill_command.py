"""Drills as a user types them: a fast one that is refused, and slow ones that are played to their end."""

from __future__ import annotations

import html
import json
import re
import threading
from contextlib import suppress
from pathlib import Path
from queue import Empty, Queue

import pytest
from typer.testing import CliRunner

from headless_browser import opened
from rankwell.app.command_line import app
from rankwell.app.dashboard import Dashboard
from rankwell.app.drill_command import INCIDENTS, incident_of
from rankwell.app.page_server import Page, PageServer
from rankwell.errors import RecipeError
from rankwell.mitigation.watch_view import WatchView
from rankwell.serving.bundle import read_bundle
from rankwell.simulation.incident_calibration_bug import CalibrationBug
from rankwell.studies.drill import DrillSettings, run_drill


def run(*words: object) -> int:
    return CliRunner().invoke(app, [*map(str, words)], catch_exceptions=False).exit_code


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make demo` trains, of fewer requests."""
    folder = tmp_path_factory.mktemp("demo")
    assert run("demo", "--requests", 20_000, "--out", folder) == 0
    return folder / "bundle"


def test_incidents_are_known_by_their_names() -> None:
    assert [incident_of(incident.name) for incident in INCIDENTS] == list(INCIDENTS)
    with pytest.raises(RecipeError, match="no such scenario"):
        incident_of("flood")


@pytest.mark.slow
def test_a_calibration_bug_is_found_explained_and_corrected_by_a_real_server(bundle: Path, tmp_path: Path) -> None:
    numbers_file, page = tmp_path / "numbers.json", tmp_path / "page.html"
    code = run("drill", "calibration-bug", "--bundle", bundle, "--json", numbers_file, "--out", page)
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


_RECORD = """
<script>
const seen = [];
setInterval(() => {
  const now = document.getElementById("content").innerText.replace(/\\s+/g, " ");
  if (seen.at(-1) !== now) seen.push(now);
  document.body.dataset.seen = JSON.stringify(seen);
}, 500);
</script>
"""


@pytest.mark.slow
def test_a_browser_follows_a_running_drill_without_a_reload(bundle: Path, tmp_path: Path) -> None:
    """The drill waits until a round has been fetched: the browser sees all of them, in a telephone's window."""
    dashboard, told = Dashboard("drill"), Queue[WatchView](maxsize=1)
    played = threading.Thread(
        target=lambda: run_drill(
            CalibrationBug(), read_bundle(bundle), tmp_path / "drill", DrillSettings(), say=lambda _: None,
            tell=lambda view: told.put(view, timeout=120),
        ),
        daemon=True,
    )  # fmt: skip
    num_pages = [0]

    def page() -> bytes:
        num_pages[0] += 1
        return dashboard.page().replace(b"</body>", _RECORD.encode() + b"</body>")

    def content() -> bytes:
        while played.is_alive() or not told.empty():
            with suppress(Empty):
                dashboard.tell(told.get(timeout=1))
                break
        return dashboard.content()

    (tmp_path / "drill").mkdir()
    played.start()
    with PageServer({"/": Page(page), "/content": Page(content)}) as server:
        shown = opened(server.url, tmp_path / "profile", size="390,844", budget_ms=60_000, timeout_s=300)
    assert num_pages == [1]
    [recorded] = re.findall(r'data-seen="([^"]*)"', shown)
    seen = json.loads(html.unescape(recorded))
    text = "\n".join(seen)
    ways = ("no alarm in force", "Why It began at", "correction in force,")
    first = [next((k for k, now in enumerate(seen) if what in now), -1) for what in ways]
    assert 0 == first[0] < first[1] < first[2], text
    assert "psi: served_probability_click job_seniority 3" in seen[first[1]], text
    assert "end: bundle" in seen[-2], text
    assert "correction in force," not in seen[-1], seen[-1]
