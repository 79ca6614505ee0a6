"""A scene: steady load on a server to which something happens, what is claimed of it, what came of every request."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self, final

import numpy as np

from contenders.checked_load import Sent, SteadyLoad
from contenders.known_answers import KnownAnswers, Live
from contenders.live_server import LiveServer, eventually
from rankwell.serving.log_reader import LogPosition, read_served

__all__ = ["Outcome", "Scene", "Stage"]

_LAST: Final = 20
_SHED: Final = (429, 503)
_SLACK_S: Final = 0.05
"""A connection that a kill cuts may be written to for a moment more."""


@final
@dataclass(slots=True)
class Outcome:
    """What came of a scene.

    Args:
        scene: Its name.
        requests, shed, cut, failed: Requests that were sent; refused for want of time or room (429, 503); in flight at
            a worker when it was killed; and without an answer for any other reason.
        wrong, lost: Answers that were not right; that said they were logged, and that the log holds not exactly once,
            or otherwise.
        not_logged, defaults: Answers that said so of themselves.
        p99_ms: Of the answers, from when their request was due.
        broken: What was claimed and was not so.
    """

    scene: str
    requests: int = 0
    shed: int = 0
    cut: int = 0
    failed: int = 0
    wrong: int = 0
    lost: int = 0
    not_logged: int = 0
    defaults: int = 0
    p99_ms: float = 0.0
    broken: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        """Whether every target is met."""
        return self.requests > 0 and not (self.failed or self.wrong or self.lost or self.broken)


@final
class Stage:
    """A server, what it should answer, and the log that it writes.

    Args:
        server: It runs.
        known: Requests and their answers.
        log: Its folder.
        rate: Requests a second.
        seconds: That a scene takes, more or less.
    """

    def __init__(self, server: LiveServer, known: KnownAnswers, log: Path, *, rate: float, seconds: float) -> None:
        self.server, self.known, self.log, self.rate, self.seconds = server, known, log, rate, seconds
        self.outcomes: list[Outcome] = []
        self._position = LogPosition()
        self._rows: dict[int, list[dict[str, Any]]] = defaultdict(list)

    def scene(self, name: str, *live: Live) -> Scene:
        """A scene in which these may answer."""
        return Scene(self, name, set(live))

    def rows(self) -> dict[int, list[dict[str, Any]]]:
        """The log so far, by request."""
        names = ["request_id", "served_bundle_id", "served_correction_id", "job_id", "served_probability_click"]
        for table, position in read_served(self.log, self._position):
            self._position = position
            for row in table.select(names).to_pylist():
                self._rows[row["request_id"]].append(row)
        return self._rows


@final
class Scene:
    """One scene, from the beginning of a block to its end.

    Args:
        stage: Where it plays.
        name: For the table.
        live: What may answer.
    """

    def __init__(self, stage: Stage, name: str, live: set[Live]) -> None:
        self.stage, self._live = stage, live
        self.outcome = Outcome(name)
        self._load = SteadyLoad(stage.server.port, stage.known.body, num=len(stage.known.requests), rate=stage.rate)
        self._kills_s: list[float] = []

    def __enter__(self) -> Self:
        self._load.__enter__()
        time.sleep(0.5)
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._load.__exit__(kind, *error)
        if kind is None:
            self._judge()
            self.stage.outcomes.append(self.outcome)

    def claim(self, what: str, is_so: bool | Callable[[], bool]) -> None:
        """Something that should be so, at once or in time."""
        if not (eventually(is_so) if callable(is_so) else is_so):
            self.outcome.broken.append(what)

    def kill(self, pid: int) -> None:
        """Kill a worker; what is in flight then may be cut."""
        self._kills_s.append(time.perf_counter())
        os.kill(pid, signal.SIGKILL)

    def answers(self) -> list[tuple[Sent, dict[str, Any]]]:
        """Those so far."""
        return [(one, json.loads(one.content)) for one in self._load.ended if one.status == 200]

    def last_answers_are(self, **expected: object) -> bool:
        """Whether the last 20 answers say so."""
        last = [json.loads(one.content) for one in self._load.ended[-_LAST:] if one.status == 200]
        return len(last) == _LAST and all(answer[name] == value for answer in last for name, value in expected.items())

    def num_missing_items(self) -> int:
        """Candidates that were answered for with defaults."""
        return sum(answer["num_missing"]["items"] for _, answer in self.answers())

    def _judge(self) -> None:
        found, rows, known = self.outcome, self.stage.rows(), self.stage.known
        whys: Counter[str] = Counter()
        latencies = []
        for one in self._load.sent:
            found.requests += 1
            if one.status in _SHED:
                found.shed += 1
                continue
            if one.status != 200:
                is_cut = one.status == 0 and any(
                    one.due_s - _SLACK_S <= kill_s <= one.ended_s + _SLACK_S for kill_s in self._kills_s
                )
                found.cut += is_cut
                found.failed += not is_cut
                whys[f"status {one.status}: {one.content[:200]!r}"] += not is_cut
                continue
            latencies.append(one.ended_s - one.due_s)
            why = known.fault(one.number, one.request_id, one.content, self._live)
            if why is not None:
                found.wrong += 1
                whys[why] += 1
                continue
            answer = json.loads(one.content)
            found.not_logged += not answer["is_logged"]
            found.defaults += answer["num_missing"]["items"] > 0
            if answer["is_logged"] and not _is_row_of(answer, rows.get(one.request_id, [])):
                found.lost += 1
                whys[f"not in the log as it was answered: {len(rows.get(one.request_id, []))} rows"] += 1
        found.p99_ms = 1e3 * float(np.percentile(latencies, 99)) if latencies else float("nan")
        found.broken += [f"{why} (× {num})" for why, num in whys.most_common(5) if num]


def _is_row_of(answer: dict[str, Any], rows: list[dict[str, Any]]) -> bool:
    """Whether there is one row, and it says what was answered."""
    if len(rows) != 1:
        return False
    (row,), items = rows, answer["items"]
    said = dict(zip(items["item_id"], items["probability"]["click"], strict=True))
    return (
        row["served_bundle_id"] == answer["bundle_id"]
        and row["served_correction_id"] == answer["correction_id"]
        and dict(zip(row["job_id"], row["served_probability_click"], strict=True)) == said
    )
