"""Where alarms go: the log, Prometheus, and a webhook that hangs, fails, or takes its time."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

import watch_view_example as example
from rankwell.errors import RequestError
from rankwell.mitigation.alarm_metrics import MetricsSink
from rankwell.mitigation.alarm_sinks import AlarmSink, LogSink
from rankwell.mitigation.alarm_webhook import SIGNATURE, TIMESTAMP, WebhookSink, alarm_message, read_webhook_key

KEY = b"0123456789abcdef"
Received = list[tuple[dict[str, str], bytes]]


@contextmanager
def receiver(statuses: list[int]) -> Iterator[tuple[str, Received]]:
    """A server that answers with one status after the other, the last one for ever."""
    received: Received = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(statuses[min(len(received), len(statuses)) - 1])
            self.send_header("Location", "http://127.0.0.1:9/")
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/alarms?to=us", received
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def sink(url: str, **changes: Any) -> WebhookSink:
    given = {"timeout_s": 0.3, "give_up_s": 5.0, "first_pause_s": 0.01, "close_s": 5.0} | changes
    return WebhookSink(url, KEY, now_us=lambda: example.NOW_US, **given)


def until(condition: Any) -> None:
    for _ in range(500):
        if condition():
            return
        time.sleep(0.01)
    pytest.fail("it never came to that")


def test_one_that_fails_twice_gets_the_message_signed_at_the_third_try() -> None:
    with receiver([503, 429, 204]) as (url, received):
        webhook = sink(url)
        webhook.tell(example.view())
        until(lambda: webhook.num_sent == 1)
        webhook.close()
    assert len(received) == 3
    headers, body = received[-1]
    expected = hmac.digest(KEY, headers[TIMESTAMP.lower()].encode() + b"." + body, hashlib.sha256).hex()
    assert headers[SIGNATURE.lower()] == f"sha256={expected}"
    assert headers[TIMESTAMP.lower()] == str(example.NOW_US // 1_000_000)
    message = json.loads(body)
    assert message["new"] == [{
        "name": "psi", "column": "years", "segment": 7, "since_us": example.NOW_US, "last_us": example.NOW_US,
        "where": "title 7", "value": 0.31, "limit": 0.12, "num_rows": 500,
    }]  # fmt: skip
    assert [run["name"] for run in message["in_force"]] == ["calibration_served", "psi"]
    assert message["correction"]["id"] == "loop-4"
    assert webhook.num_lost == 0


def test_one_that_hangs_delays_nothing_and_the_message_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hanging:  # connections are made, and nothing is ever answered
        webhook = sink(f"http://127.0.0.1:{hanging.getsockname()[1]}/", timeout_s=0.1, give_up_s=0.2, close_s=0.2)
        told, view = threading.Event(), example.view()

        def tell() -> None:
            for _ in range(104):  # more than can wait
                webhook.tell(view)
            told.set()

        threading.Thread(target=tell).start()
        assert told.wait(5.0), "who tells must not wait"
        assert webhook.num_sent == 0
        until(lambda: webhook.num_lost >= 4)
        webhook.close()
    assert "too many messages wait" in caplog.text


def test_refusals_and_redirects_are_not_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    for status in (400, 401, 302):
        with receiver([status]) as (url, received):
            webhook = sink(url)
            webhook.tell(example.view())
            until(lambda webhook=webhook: webhook.num_lost == 1)
            webhook.close()
            assert len(received) == 1
    assert "status 302" in caplog.text
    assert "to=us" not in caplog.text, "what a URL asks with may be secret"


def test_a_quiet_round_sends_nothing() -> None:
    with receiver([204]) as (url, received):
        webhook = sink(url)
        view = example.view(ended=())
        webhook.tell(replace(view, report=replace(view.report, new_alarms=(), decisions=())))
        webhook.close()
    assert received == []


def test_a_message_is_json_whatever_was_read() -> None:
    view = example.view()
    readings = tuple(replace(one, limit=float("inf")) for one in view.report.readings)
    json.dumps(alarm_message(replace(view, report=replace(view.report, readings=readings))), allow_nan=False)


@pytest.mark.parametrize("url", ["", "ftp://a/b", "http://", "http://a:99999/", "http://a/ b", "file:///etc/passwd"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(RequestError, match="the webhook's URL is none"):
        sink(url)


def test_a_key_is_read_without_its_line_end_and_a_short_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(KEY + b"\n")
    assert read_webhook_key(tmp_path / "key") == KEY
    (tmp_path / "key").write_bytes(b"short\n")
    with pytest.raises(RequestError, match="found: 5 bytes"):
        read_webhook_key(tmp_path / "key")
    with pytest.raises(RequestError, match="no key at"):
        read_webhook_key(tmp_path / "none")


def test_the_log_has_a_line_for_each_thing_that_is_new(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        LogSink().tell(example.view(problems=("a segment is damaged",)))
    assert [record.getMessage() for record in caplog.records] == [
        "alarm begins: psi years in title 7: 0.31 nats, limit 0.12, 500 rows of 15 min",
        "alarm is over: psi <b>pay</b> in all",
        "decision 4: apply: title 7 has half the clicks promised",
        "watching: a segment is damaged",
    ]


def _samples(metrics: MetricsSink) -> dict[tuple[str, ...], float]:
    """By name without its beginning, and labels in the order of their values."""
    families = text_string_to_metric_families(metrics.text().decode())
    return {
        (s.name.removeprefix("rankwell_watch_"), *sorted(s.labels.values())): s.value
        for family in families
        for s in family.samples
    }


def test_prometheus_sees_readings_limits_alarms_and_corrections_and_nothing_old() -> None:
    metrics = MetricsSink()
    sinks: list[AlarmSink] = [metrics]
    sinks[0].tell(example.view())
    found = _samples(metrics)
    key = ("psi", "quarter-hour", "title 7", "years")
    assert found["reading", *key] == 0.31
    assert found["limit", *key] == 0.12
    assert found[("alarms_in_force",)] == 2
    assert found["alarms_total", "psi"] == 1
    assert found["correction_log_odds", "7", "click", "title"] == -0.5
    assert found[("correction_expires_seconds",)] == example.NOW_US / 1e6 + 3_600
    assert found["spend_micros", "title 7"] == 2_000_000
    view = example.view(standing=(), correction=None)
    metrics.tell(replace(view, report=replace(view.report, readings=(), new_alarms=(), spend_micros={})))
    found = _samples(metrics)
    assert found[("alarms_in_force",)] == found[("corrections_in_force",)] == 0
    assert found["alarms_total", "psi"] == 1
    assert found[("rows_total",)] == 1_600
    assert not any(name == "reading" or "log_odds" in name for name, *_ in found)
