"""The dashboard: what it says, also of nothing; and in a browser, where there is one, that it follows by itself."""

from __future__ import annotations

import html
import math
import re
import threading
import urllib.error
import urllib.request
from base64 import b64encode
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import watch_view_example as example
from headless_browser import opened
from rankwell.app.dashboard import Dashboard
from rankwell.app.dashboard_chart import HEIGHT, latency_chart, ratio_charts, spend_chart
from rankwell.app.page_server import Page, PageServer
from rankwell.app.server_latency import LatencyPoint
from rankwell.errors import RequestError
from rankwell.monitoring.alarm_runs import AlarmRun
from rankwell.monitoring.outcome_pane import OutcomePane

MINUTE_US = example.MINUTE_US


def text_of(content: bytes) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", content.decode())).split())


def told(**changes: object) -> tuple[Dashboard, list[int]]:
    clock = [example.NOW_US]
    dashboard = Dashboard("served", now_us=lambda: clock[0])
    dashboard.tell(example.view(**changes))
    return dashboard, clock


def test_without_a_round_it_says_that_there_is_nothing_and_why() -> None:
    dashboard = Dashboard("served", now_us=lambda: example.NOW_US)
    assert "no data yet" in text_of(dashboard.content())
    dashboard.problem("no served log in 'served' yet")
    found = text_of(dashboard.content())
    assert "no served log in 'served' yet" in found
    assert "no alarm in force" not in found


def test_it_shows_alarms_corrections_limits_ratios_and_spend() -> None:
    found = text_of(told()[0].content())
    assert "2 alarms in force" in found
    assert "calibration served: click title 7" in found
    assert "1 h 30 min" in found
    assert "bundle 21 Sep 12:43 UTC: bundle bb began to answer, after aa" in found
    assert "Requests to look at: 5 (item 42)" in found
    assert "title 7 has <half> its clicks. It ends at" in found
    assert "click, title 7 -0.500 × 0.61" in found
    assert "psi, quarter-hour: 0.31 = 2.6 × 0.12" in found
    assert "kl: 0.15 = 2.5 × 0.06" in found
    assert "1 of 3 readings have too few rows" in found
    assert "title 7 2.00" in found, "what was spent"
    assert "apply: title 7 has half the clicks promised" in found


def test_a_bundle_on_trial_stands_by_itself() -> None:
    assert "On trial" not in text_of(told()[0].content())
    readings = (
        example.reading("calibration_trial", "click of fedcba9876543210", 7, 30.0, 9.0),
        example.reading("calibration_trial", "click of fedcba9876543210", 3, 1.0, 9.0),
    )
    view = example.view()
    report = replace(view.report, readings=(*view.report.readings, *readings))
    run = AlarmRun("calibration_trial", "click of fedcba9876543210", 3, example.NOW_US, example.NOW_US)
    changed = {"report": report, "trials": {"fedcba9876543210": view.outcomes}, "standing": (run,)}
    found = text_of(told(**changed)[0].content())
    assert "expected / seen spent off in fedcba987654 1920 1980 1.03 1980.00 title 7" in found
    assert "calibration trial: click of fedcba9876543210 title 3" in found
    assert "title 3 · alarm" not in found, "the chart is of the bundle that answers"


def test_what_comes_from_the_log_is_text_and_never_markup() -> None:
    content = told()[0].content()
    assert b"<half>" not in content
    assert b"<b>pay" not in content


def test_a_correction_ends_on_a_page_that_stays_open_and_an_old_round_is_called_old() -> None:
    dashboard, clock = told()
    clock[0] += 59 * MINUTE_US
    assert "1 correction in force, 1 min left" in text_of(dashboard.content())
    clock[0] += MINUTE_US
    found = text_of(dashboard.content())
    assert "0 corrections in force" in found
    assert "not watching: last looked 1 h 0 min ago" in found
    assert "alarms in force" in found


def test_a_day_without_labels_clicks_or_charges_has_no_charts() -> None:
    nothing = OutcomePane.nothing("click")
    found = text_of(told(outcomes=nothing, settled_us=0)[0].content())
    assert "No request's labels are in yet." in found
    assert "Nothing was charged" in found
    [first, second] = ratio_charts(example.view(outcomes=example.outcomes(clicks=False)))
    assert first.line == second.line == ""
    assert math.isnan(first.latest)
    assert "no click in the last hour" in text_of(told(outcomes=example.outcomes(clicks=False))[0].content())


def test_a_ratio_is_predicted_over_observed_of_an_hour_with_its_interval() -> None:
    right, wrong = ratio_charts(example.view())
    assert right.latest == pytest.approx(1.0)
    assert wrong.latest == pytest.approx(2.0)
    assert wrong.is_alarm
    assert not right.is_alarm
    # four quarter-hours of 50 requests with 0.4 promised and 0.2 clicked: θ = 0.5, its error √Σ(y − 0.2)² / 80
    reach = 1.96 * math.sqrt(4 * (10 * 0.8**2 + 40 * 0.2**2)) / 80
    assert wrong.low == pytest.approx(1 / (0.5 + reach))
    assert wrong.high == pytest.approx(1 / (0.5 - reach))
    places = np.array([float(one) for one in re.findall(r" ([\d.]+)(?: L|$)", wrong.line)])
    assert places[-1] == pytest.approx(places.min())
    assert right.one == pytest.approx(places[0])
    assert all(0 <= place <= HEIGHT for place in places)


def test_spend_is_that_of_each_quarter_hour() -> None:
    chart = spend_chart(example.view())
    assert chart is not None
    assert chart.latest_micros == 50 * (200_000 + 400_000)
    assert len(chart.bars) == 96
    assert chart.bars[-1][3] / chart.bars[0][3] == pytest.approx(1.5, rel=1e-2)


def test_latency_is_drawn_by_the_minute_with_gaps_where_nothing_was_asked() -> None:
    assert latency_chart(()) is None
    points = [LatencyPoint(minute, 5.0, 20.0) for minute in (0, 1, 2, 60, 118)] + [LatencyPoint(119, 2.5, math.inf)]
    chart = latency_chart(points)
    assert chart is not None
    assert [text for _, text in chart.y.marks] == ["0", "10", "20"]
    places = [(move, float(x), float(y)) for move, x, y in re.findall(r"([ML])([\d.]+) ([\d.]+)", chart.p50)]
    assert [move for move, _, _ in places] == ["M", "L", "L", "M", "M", "L"]
    bottom, top = chart.y.marks[0][0], chart.y.marks[-1][0]
    heights = [(bottom - y) / (bottom - top) for _, _, y in places]
    assert heights == pytest.approx([0.25] * 5 + [0.125], abs=1e-3)
    assert chart.p95.split("L")[-1].endswith(f" {top}"), "beyond the last bucket: at the top"
    assert (chart.latest_p50, chart.latest_p95) == ("2.5 ms", "beyond the last bucket")
    assert [text for _, text in chart.x.marks] == ["−90 min", "−60 min", "−30 min", "now"]
    assert chart.x.marks[-1][0] == places[-1][1]


def _get(url: str, **headers: str) -> tuple[int, bytes, dict[str, str]]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as answer:
            return answer.status, answer.read(), {name.lower(): value for name, value in answer.headers.items()}
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(), {name.lower(): value for name, value in error.headers.items()}


def test_pages_are_served_once_while_they_are_the_same() -> None:
    content = [b"one"]
    with PageServer({"/": Page(lambda: content[0]), "/bad": Page(lambda: b"%d" % (1 // 0))}) as server:
        status, body, headers = _get(f"{server.url}/?x=1")
        assert (status, body) == (200, b"one")
        assert "default-src 'none'" in headers["content-security-policy"]
        assert _get(f"{server.url}/", **{"If-None-Match": headers["etag"]})[0] == 304
        content[0] = b"two"
        assert _get(f"{server.url}/", **{"If-None-Match": headers["etag"]})[:2] == (200, b"two")
        assert _get(f"{server.url}/nothing")[0] == 404
        status, body, _ = _get(f"{server.url}/bad")
        assert (status, b"ZeroDivision" in body) == (500, False)
        assert _get(f"{server.url}/", Host="evil.example")[0] == 421, "a name that was made to point here"
        with pytest.raises(RequestError, match="can't be served"):
            PageServer({}, port=int(server.url.rpartition(":")[2]))


def test_others_are_asked_for_the_password() -> None:
    with pytest.raises(RequestError, match="for this machine alone"):
        PageServer({}, host="0.0.0.0")
    with PageServer({"/": Page(lambda: b"one")}, password="grüne Wiese") as server:
        for given in ("", "Basic !", "Basic " + b64encode(b"a:b").decode(), "Bearer grüne".encode().decode("latin-1")):
            status, body, headers = _get(f"{server.url}/", Authorization=given)
            assert (status, body) == (401, b"")
            assert headers["www-authenticate"].startswith("Basic")
        known = b64encode("any:grüne Wiese".encode()).decode()
        assert _get(f"{server.url}/", Authorization=f"Basic {known}")[:2] == (200, b"one")


_MEASURE = """
<script>
setTimeout(() => {
  const wide = [...document.querySelectorAll("#content *")].filter(one => !one.closest(".wide, svg") &&
    one.getBoundingClientRect().right > innerWidth + 1).map(one => one.tagName + one.className);
  document.body.dataset.width = document.documentElement.scrollWidth + " of " + innerWidth + ": " + wide;
}, 6000);
</script>
"""


def test_it_follows_without_a_reload_and_fits_its_window(tmp_path: Path) -> None:
    """The second round comes after the page was loaded; the browser asks once for the page, and then for content."""
    dashboard, _ = told()
    num_pages, num_asked = [0], [0]

    def page() -> bytes:
        num_pages[0] += 1
        return dashboard.page().replace(b"</body>", _MEASURE.encode() + b"</body>")

    def content() -> bytes:
        num_asked[0] += 1
        if num_asked[0] == 2:
            view = example.view(standing=(), ended=(), correction=None)
            dashboard.tell(replace(view, report=replace(view.report, new_alarms=())))
        return dashboard.content()

    with PageServer({"/": Page(page), "/content": Page(content)}) as server:
        page_html = opened(server.url, tmp_path / "profile", size="500,900", budget_ms=7000)
    assert num_pages[0] == 1
    assert num_asked[0] >= 2
    found = text_of(page_html.encode())
    assert "no alarm in force" in found
    assert "2 alarms in force" not in found
    [width] = re.findall(r'data-width="(\d+ of \d+: [^"]*)"', page_html)
    seen, window = map(int, re.findall(r"\d+", width)[:2])
    assert seen <= window, width
    assert width.endswith(": "), width
    assert page_html.count('class="line"') == 2


def test_it_says_when_the_watch_is_gone(tmp_path: Path) -> None:
    dashboard, _ = told()
    server = PageServer({"/": Page(dashboard.page)})  # and no content
    with server:
        page_html = opened(server.url, tmp_path / "profile", size="1200,900", budget_ms=7000)
    assert "The watch does not answer (status 404): what you see is old." in text_of(page_html.encode())
    assert not any(thread.name == "pages" for thread in threading.enumerate())
