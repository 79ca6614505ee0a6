"""Contenders take turns: each is a process of its own that makes a round of steps when told to, and times each step.

So a noisy minute of the machine hits all of them, none has another's threads or memory pools, and each may live in an
environment of its own. The two sides talk in lines of JSON. This file needs Python alone: peers import it, too.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

__all__ = ["Contender", "Figures", "Turns", "resident_bytes", "serve", "take_turns"]


@final
@dataclass(frozen=True, slots=True)
class Figures:
    """What a contender's rounds came to.

    Args:
        wall_ms: A step's wall time: the median over the rounds of a round's median.
        mean_ms: The same of a round's mean, which knows of the steps that take longer now and then.
        cpu_ms: A step's CPU time, all threads of the process: the median over the rounds of a round's mean.
        least_ms: The shortest step of all: what a machine with other work to do disturbs least.
        longest_ms: The longest step of all.
        resident_bytes: Of the process, after each round.
        facts: What the contender says of itself, after the last round.
    """

    wall_ms: float
    mean_ms: float
    cpu_ms: float
    least_ms: float
    longest_ms: float
    resident_bytes: Sequence[int]
    facts: Mapping[str, float]


@final
class Turns:
    """The contender's side of the conversation: `ready` once, then `step_done` after every step.

    `settings` is what the benchmark asks for. Whatever the contender's libraries print goes to standard error.
    """

    def __init__(self, facts: Callable[[], Mapping[str, float]] = dict) -> None:
        self._replies = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self.settings: dict[str, Any] = json.loads(sys.stdin.readline())
        self.facts = facts
        self._wall_s: list[float] = []
        self._left = 0
        self._began = self._cpu_began = 0.0

    def ready(self) -> None:
        """Say that all is prepared, and wait for the first round."""
        self._reply({})
        self._await_round()

    def step_done(self) -> None:
        """Note the step's time; at the end of a round, report it and wait for the next one, or leave."""
        now = time.perf_counter()
        self._wall_s.append(now - self._began)
        self._left -= 1
        if self._left == 0:
            cpu_s = time.process_time() - self._cpu_began
            self._reply({"wall_s": self._wall_s, "cpu_s": cpu_s, "resident": resident_bytes(), "facts": self.facts()})
            self._await_round()
        else:
            self._began = now

    def _await_round(self) -> None:
        line = sys.stdin.readline()
        if not line:
            sys.exit()
        self._left = json.loads(line)
        self._wall_s = []
        self._cpu_began, self._began = time.process_time(), time.perf_counter()

    def _reply(self, reply: Mapping[str, Any]) -> None:
        self._replies.write(json.dumps(reply) + "\n")
        self._replies.flush()


def serve(turns: Turns, step: Callable[[int], None]) -> None:
    """Make steps 0, 1, 2, … for as long as rounds are asked for."""
    turns.ready()
    number = 0
    while True:
        step(number)
        turns.step_done()
        number += 1


@final
class Contender:
    """The benchmark's side: a process that runs one of this folder's modules.

    Args:
        name: What the table calls it.
        module: A module of this folder, which makes a `Turns`.
        settings: What it is to do, as JSON.
        python: The interpreter of its environment; this one's unless said.
        threads: That its libraries may use.
    """

    def __init__(
        self, name: str, module: str, settings: Mapping[str, Any], *, threads: int, python: Path | None = None
    ) -> None:
        self.name = name
        self._rounds: list[dict[str, Any]] = []
        self._is_ready = False
        self._process = subprocess.Popen(
            [str(python or sys.executable), "-m", f"{__package__}.{module}"],
            cwd=Path(__file__).parents[1],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)},
        )
        self._tell({**settings, "threads": threads})

    def wait_until_ready(self) -> None:
        """Contenders prepare side by side; nobody may make a step before all are ready."""
        if not self._is_ready:
            self._hear()
            self._is_ready = True

    def round(self, num_steps: int, *, counts: bool = True) -> None:
        """Let it make so many steps; those of a warm-up don't count."""
        self.wait_until_ready()
        self._tell(num_steps)
        result = self._hear()
        if counts:
            self._rounds.append(result)

    def figures(self, first: int = 0, last: int | None = None) -> Figures:
        """What its rounds came to, or some of them."""
        rounds = self._rounds[first:last]
        return Figures(
            wall_ms=1e3 * statistics.median(statistics.median(r["wall_s"]) for r in rounds),
            mean_ms=1e3 * statistics.median(statistics.mean(r["wall_s"]) for r in rounds),
            cpu_ms=1e3 * statistics.median(r["cpu_s"] / len(r["wall_s"]) for r in rounds),
            least_ms=1e3 * min(min(r["wall_s"]) for r in rounds),
            longest_ms=1e3 * max(max(r["wall_s"]) for r in rounds),
            resident_bytes=[r["resident"] for r in rounds],
            facts=rounds[-1]["facts"],
        )

    def leave(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _tell(self, words: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()

    def _hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        words = self._process.stdout.readline()
        if not words:
            raise SystemExit(f"{self.name} ended with code {self._process.wait()}; its own words stand above")
        reply: dict[str, Any] = json.loads(words)
        return reply


def take_turns(contenders: Sequence[Contender], *, rounds: int, num_steps: int, warm_up: int) -> dict[str, Figures]:
    """Let all of them make `rounds` rounds, in an order that moves on by one each time; they leave in the end."""
    for contender in contenders:
        contender.wait_until_ready()
    for contender in contenders:
        contender.round(warm_up, counts=False)
    for number in range(rounds):
        first = number % len(contenders)
        for contender in (*contenders[first:], *contenders[:first]):
            contender.round(num_steps)
    for contender in contenders:
        contender.leave()
    return {contender.name: contender.figures() for contender in contenders}


def resident_bytes(kind: str = "VmRSS") -> int:
    """Memory of this process that stands in RAM; "RssFile" is the part of it that maps files."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return int(fields[kind].split()[0]) * 1024
