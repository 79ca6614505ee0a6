"""Requests that nobody should send: no error of the server's own, no crash, and no answer that is somebody else's.

First schemathesis goes through the OpenAPI document of a running `rankwell serve`, in an environment of its own under
out/peers. Then requests to rank (JSON and Arrow), infer, report actions and administer are spoiled from a seed: bits
flipped, cut off, of wrong types, with huge numbers and NaN, deeply nested, ids swapped and keys doubled, in other
encodings, under odd headers, of other lengths than they say. They go over a few connections that are kept, and every
eighth request on each is a good one whose right answer is known. The exit status is 1 where a target is missed.

    python benchmarks/fuzz.py [--json FILE] [--requests 100000] [--examples 100] [--seed 0] [--without-peers]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa

from contenders.environment import python_of
from contenders.findings import Findings
from contenders.known_answers import KnownAnswers
from contenders.live_server import LiveServer
from contenders.mutations import Message, Mutator
from contenders.raw_connection import RawConnection, Reply
from contenders.serving_world import NOW_US, bundle_of
from rankwell.serving.deployment import write_deployment
from rankwell.serving.rollout import RolloutFolder

ARROW = "application/vnd.apache.arrow.stream"
TOKEN = "a-token-of-this-run"
WORKERS, CONNECTIONS, GOOD_EVERY = 2, 4, 8
DECLARED = 503
REFUSED = ["400", "401", "403", "404", "405", "408", "409", "413", "415", "429", "503"]
EXCLUDED = "positive_data_acceptance"  # that lists are equally long, and ids known, no JSON schema can say


class Fuzzer(threading.Thread):
    """One kept connection, and what came back over it.

    Args:
        number: Of the connection; seeds differ by it.
        numbers: Of the requests.
        port: Of the server.
        known: Good requests.
        seed: Of what is done to them.
    """

    def __init__(self, number: int, numbers: range, port: int, known: KnownAnswers, seed: int) -> None:
        super().__init__()
        self._number, self._numbers, self._port, self._known = number, numbers, port, known
        self._mutator = Mutator(seed * 10**9 + number * 10**8 + numbers.start, TOKEN)
        self.num_sent = 0
        self.statuses: Counter[int] = Counter()
        self.good: Counter[int] = Counter()
        self.faults: Counter[str] = Counter()
        self.examples: dict[str, bytes] = {}

    def run(self) -> None:
        """Send them all."""
        connection = RawConnection(self._port)
        for i in self._numbers:
            request_id = (self._number + 1) * 10**9 + i
            if i % GOOD_EVERY == 0:
                self._good(connection, request_id)
            path, content, kind = self._base(i, request_id)
            message = self._mutator.mutated(path, content, kind)
            replies = (
                [connection.ask(message.content)] if message.is_framed else connection.ask_and_end(message.content)
            )
            self._judge(message, replies)
            self.num_sent += 1
        self._good(connection, (self._number + 1) * 10**9 - 1 - self._numbers.start)
        connection.close()

    def _good(self, connection: RawConnection, request_id: int) -> None:
        number = request_id % len(self._known.requests)
        status, content = connection.ask(
            self._mutator.message("/v1/rank", self._known.body(number, request_id)).content
        )
        self.good[status] += 1
        if status == 200:
            why = self._known.fault(number, request_id, content)
            if why is not None:
                self._fault("good: answered wrong", why.encode())
        elif status not in (429, DECLARED):
            self._fault("good: refused", b"%d %s" % (status, content[:300]))

    def _base(self, i: int, request_id: int) -> tuple[str, Any, str]:
        request = {"request_id": request_id, **self._known.requests[i % len(self._known.requests)]}
        match i % 10:
            case 0 | 1:
                jobs = request["candidates"]["job"]
                action = {
                    "request_id": request_id,
                    "item_id": jobs[0],
                    "action": "click",
                    "time_us": NOW_US,
                    "key": "k",
                }
                return "/v1/actions", {"actions": [action]}, "application/json"
            case 2:
                tensor = {"name": "candidates.job", "shape": [2], "datatype": "INT64", "data": [1, 2]}
                place = {"name": "candidates.job_place", "shape": [2, 2], "datatype": "FP32", "data": [1.0, 2.0, 3, 4]}
                home = {"name": "context.home", "shape": [1, 2], "datatype": "FP32", "data": [1.0, 2.0]}
                member = {"name": "member_id", "shape": [1], "datatype": "INT64", "data": [3]}
                inputs = [tensor, place, home, member]
                return "/v2/models/rankwell/infer", {"id": str(request_id), "inputs": inputs}, "application/json"
            case 3:
                return "/v1/rank", _arrow(request), ARROW
            case 4:
                verb = ("deploy", "canary", "shadow")[i // 10 % 3]
                share = {} if verb == "deploy" else {"share": 0.5}
                return f"/v1/admin/{verb}", {"path": "/nowhere", **share}, "application/json"
            case _:
                return "/v1/rank", request | {"length": 5}, "application/json"

    def _judge(self, message: Message, replies: list[Reply]) -> None:
        if not replies:
            self.statuses[0] += 1
        for status, content in replies:
            self.statuses[status] += 1
            if status >= 500 and status != DECLARED:
                self._fault(f"status {status}", content[:200], message)
            elif status <= 0 and not message.may_break:
                self._fault("no answer" if status == 0 else "an answer that nobody asked for", content[:200], message)
            elif status == 200 and message.is_framed and content.startswith((b'{"request_id"', b'{"model_name"')):
                why = _mismatch(message.body, content)
                if why is not None:
                    self._fault("an answer for another request", why.encode(), message)

    def _fault(self, what: str, why: bytes, message: Message | None = None) -> None:
        self.faults[what] += 1
        shown = b"" if message is None else b" | " + message.content[:600]
        self.examples.setdefault(what, why + shown)


def _arrow(request: dict[str, Any]) -> bytes:
    home, places = request["context"]["home"], request["candidates"]["job_place"]
    columns = {
        "request_id": [request["request_id"]], "member_id": [request["member_id"]], "time_us": [request["time_us"]],
        "home_lat": [home[0]], "home_lon": [home[1]], "job_id": [request["candidates"]["job"]],
        "job_place_lat": [[p[0] for p in places]], "job_place_lon": [[p[1] for p in places]],
    }  # fmt: skip
    table, sink = pa.table(columns), pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def _mismatch(asked: bytes, content: bytes) -> str | None:
    """Whether an answer is not that of what was asked, as far as that can be read."""
    answer = json.loads(content)
    try:
        request = json.loads(asked)
    except (ValueError, RecursionError):
        return "what was asked is not JSON"
    if not isinstance(request, dict):
        return "what was asked is no request"
    if "outputs" in answer:
        is_other = isinstance(request.get("id"), str) and answer.get("id") != request["id"]
        return f"asked under {request['id']}, answered under {answer.get('id')}" if is_other else None
    given = request.get("request_id")
    if type(given) is int and answer["request_id"] != given:
        return f"asked under {given}, answered under {answer['request_id']}"
    jobs, items = request["candidates"]["job"], answer["items"]
    if all(type(job) is int for job in jobs) and items["item_id"] != [jobs[place] for place in items["place"]]:
        return "the items are others"
    return None


def through_schema(findings: Findings, server: LiveServer, folder: Path, given: argparse.Namespace) -> None:
    """Schemathesis over the document that the server gives of itself."""
    report = folder / "schemathesis.json"
    (folder / "schemathesis.toml").write_text(f"[checks]\nnegative_data_rejection.expected-statuses = {REFUSED}\n")
    command = [
        str(python_of("schemathesis").with_name("schemathesis")), "run", f"{server.url}/schema/openapi.json",
        "--header", f"Authorization: Bearer {TOKEN}", "--checks", "all", "--exclude-checks", EXCLUDED,
        "--max-examples", str(given.examples), "--seed", str(given.seed + 1), "--continue-on-failure", "--no-color",
        "--suppress-health-check", "all", "--report", "json", "--report-json-path", str(report),
    ]  # fmt: skip
    found = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    print("\n".join(line[:400] for line in found.stdout.splitlines()[-120:]), file=sys.stderr)
    cases = json.loads(report.read_bytes())["test_cases"] if report.exists() else {}
    findings.add("schemathesis: requests", cases.get("generated", 0), at_least=1)
    findings.add("schemathesis: with failures", cases.get("with_failures", float("inf")), at_most=0)
    findings.add("schemathesis: exit status", found.returncode, at_most=0)


def main() -> None:
    """Write what is served, serve it, ask, count."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--json", type=Path, help="write the numbers to this file")
    arguments.add_argument("--requests", type=int, default=100_000)
    arguments.add_argument("--examples", type=int, default=100, help="of each operation, by schemathesis")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--without-peers", action="store_true", help="no schemathesis")
    given = arguments.parse_args()
    findings = Findings(f"{given.requests:,} spoiled requests, seed {given.seed}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_deployment(bundle_of("history", width=16, num_layers=1, num_steps=2), folder / "deployment")
        known = KnownAnswers(folder / "features", num=50, num_candidates=8)
        known.learn(folder / "deployment")
        RolloutFolder(folder / "root").deploy(folder / "deployment")
        tokens = {"fuzz": {"sha256": hashlib.sha256(TOKEN.encode()).hexdigest(), "scopes": ["rank", "admin"]}}
        (folder / "tokens.json").write_text(json.dumps(tokens))
        server = LiveServer(
            [str(folder / "root"), "--features", str(folder / "features"), "--log", str(folder / "log"), "--workers",
             str(WORKERS), "--tokens", str(folder / "tokens.json")],
            stderr=folder / "server.txt",
        )  # fmt: skip
        with server:
            before = server.workers()
            if not given.without_peers:
                through_schema(findings, server, folder, given)
            started_s, mib = time.monotonic(), [memory_mib(before)]
            fuzzers: list[Fuzzer] = []
            num = given.requests // CONNECTIONS
            for numbers in (range(num // 2), range(num // 2, num)):
                half = [Fuzzer(number, numbers, server.port, known, given.seed) for number in range(CONNECTIONS)]
                for fuzzer in half:
                    fuzzer.start()
                for fuzzer in half:
                    fuzzer.join()
                mib.append(memory_mib(server.workers()))
                fuzzers += half
            findings.add("spoiled requests", sum(one.num_sent for one in fuzzers), at_least=num * CONNECTIONS)
            count(findings, fuzzers)
            findings.add("requests a second", given.requests / (time.monotonic() - started_s))
            findings.add("workers' memory grew by, first half", mib[1] - mib[0], "MiB")
            findings.add("workers' memory grew by, second half", mib[2] - mib[1], "MiB")
            findings.add("workers that ended", len(set(before) - set(server.workers())), at_most=0)
            is_ready = server.all_say(ready=True, problems=[])
            findings.add("ready afterwards", float(is_ready), at_least=1)
        findings.add("exit status of the server", float(server.exit_status or 0), at_most=0)
        said = server.said()
        findings.add("tracebacks in the server's messages", said.count("Traceback"), at_most=0)
        if "Traceback" in said:
            print(said[said.index("Traceback") :][:4000], file=sys.stderr)
    findings.print()
    findings.write(given.json)
    sys.exit(not findings.all_met)


def count(findings: Findings, fuzzers: list[Fuzzer]) -> None:
    """What came back."""
    statuses: Counter[int] = sum((fuzzer.statuses for fuzzer in fuzzers), Counter())
    good: Counter[int] = sum((fuzzer.good for fuzzer in fuzzers), Counter())
    faults: Counter[str] = sum((fuzzer.faults for fuzzer in fuzzers), Counter())
    for status in sorted(statuses):
        findings.add(f"spoiled: status {status}" if status else "spoiled: connection ended", statuses[status])
    findings.add(
        "spoiled: 5xx but the declared 503",
        sum(n for s, n in statuses.items() if s >= 500 and s != DECLARED),
        at_most=0,
    )
    for what in ("no answer", "an answer that nobody asked for", "an answer for another request"):
        findings.add(f"spoiled: {what}", faults[what], at_most=0)
    findings.add("good requests in between", good.total())
    findings.add("good: answered right", good[200] - faults["good: answered wrong"])
    findings.add("good: shed (429, 503)", good[429] + good[DECLARED])
    findings.add("good: answered wrong", faults["good: answered wrong"], at_most=0)
    findings.add("good: refused", faults["good: refused"], at_most=0)
    for fuzzer in fuzzers:
        for what, example in fuzzer.examples.items():
            print(f"{what}: {example!r}", file=sys.stderr)


def memory_mib(pids: list[int]) -> float:
    """What processes hold for themselves."""
    lines = [line for pid in pids for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


if __name__ == "__main__":
    main()
