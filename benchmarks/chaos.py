"""What a server does when things go wrong: scenes under steady load whose right answers are known beforehand.

`rankwell serve` with two workers, features, a log and a folder of bundles; requests by ids, at random moments. Workers
are killed again and again; bundles that are damaged, of a newer format, of another schema or with wrong answers are
deployed, and put in place past all checks; good ones are switched to and back; Redis is stopped, killed and slowed; the
disk of the log is full; the server's clock is stepped. In every scene each answer must be that of a bundle that was
live, to 1e-6, each answer that said it was logged must stand in the log once and as it was answered, and readiness and
metrics must say what is so. The exit status is 1 where anything was otherwise.

    python benchmarks/chaos.py [--json FILE] [--seconds 20] [--rate 30]

A log disk is a tmpfs where one can be mounted, else a limit on the length of files. Requests that were in flight at a
worker when it was killed are "cut": their connections end with the process. Those that were refused for want of time
(429, 503) are "shed"; while bundles are switched there must be none.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from contenders.bad_bundles import bad_bundles, force
from contenders.known_answers import NOT_STORED, KnownAnswers
from contenders.live_server import LiveServer
from contenders.own_redis import REDIS, OwnRedis
from contenders.scene import Outcome, Stage
from contenders.serving_world import bundle_of
from contenders.small_disk import SmallDisk
from rankwell.calibration.platt import Platt
from rankwell.errors import BundleError
from rankwell.serving.correction import CORRECTIONS, Correction
from rankwell.serving.deployment import write_deployment
from rankwell.serving.rollout import RolloutFolder

WORKERS = 2
DEADLINE_MS = 250.0
HOUR_US = 3_600_000_000
NONE_MISSING = {"items": 0, "member": 0}
HERE = Path(__file__).parent


def killed(stage: Stage, bundle: str) -> None:
    """Workers end by SIGKILL, one after the other, as soon as all are there."""
    server, end_s = stage.server, time.monotonic() + stage.seconds
    with stage.scene("workers killed, again and again", (bundle, None, True)) as scene:
        number = 0
        while number == 0 or time.monotonic() < end_s:
            before = server.workers()
            scene.kill(before[number % len(before)])
            number += 1

            def is_anew(before: list[int] = before) -> bool:
                return len(set(server.workers()) - set(before)) == 1 and server.num_listening() == WORKERS

            scene.claim("a worker that was killed is started anew", is_anew)
            time.sleep(0.5)
        scene.claim("all workers say that they are ready", lambda: server.all_say(ready=True, problems=[]))
        scene.outcome.scene += f" ({number} times)"


def bad_deployed(stage: Stage, root: Path, bundle: str, bad: dict[str, Path]) -> None:
    """Each is refused by `deploy`, and by the workers where it gets past that."""
    server, folder = stage.server, RolloutFolder(root)
    with stage.scene(f"{len(bad)} bad bundles deployed", (bundle, None, True)) as scene:
        pointer = folder.pointer.read_bytes()
        for kind, path in bad.items():
            is_refused = False
            with suppress(BundleError):
                folder.deploy(path)
                is_refused = True
            scene.claim(f"{kind}: deploy refuses it", not is_refused and folder.pointer.read_bytes() == pointer)
            force(root, path)
            scene.claim(
                f"{kind}: workers go on with the old one and say what is wrong",
                lambda: server.all_say(ready=True, bundle_id=bundle, problems=["current"]),
            )
            scene.claim(f"{kind}: metrics say it", lambda: server.metrics().get("rankwell_problems", 0) >= 1)
            if kind == "damaged":
                before = server.workers()
                scene.kill(before[0])
                scene.claim(
                    "a worker that starts while a bad bundle is pointed at answers with the one before",
                    lambda before=before: server.num_listening() == WORKERS and before[0] not in server.workers()
                    and server.all_say(ready=True, bundle_id=bundle, problems=["current"]),
                )  # fmt: skip
            folder.pointer.write_bytes(pointer)
            scene.claim(f"{kind}: all is well without it", lambda: server.all_say(bundle_id=bundle, problems=[]))
        folder.pointer.write_bytes(pointer[: len(pointer) // 2])
        scene.claim("a pointer cut off is said", lambda: server.all_say(bundle_id=bundle, problems=["rollout"]))
        folder.pointer.write_bytes(pointer)
        scene.claim("metrics say that all is well", lambda: server.metrics().get("rankwell_problems") == 0)
        scene.claim("so do the workers", server.all_say(ready=True, bundle_id=bundle, problems=[]))


def switched(stage: Stage, root: Path, second: Path, ids: tuple[str, str]) -> None:
    """To another bundle and back, again and again."""
    server, folder, end_s = stage.server, RolloutFolder(root), time.monotonic() + stage.seconds
    with stage.scene("bundle switched and rolled back", *((id_, None, True) for id_ in ids)) as scene:
        number = 0
        while number == 0 or time.monotonic() < end_s:
            for bundle, move in zip(reversed(ids), (lambda: folder.deploy(second), folder.rollback), strict=True):
                move()
                said = f'rankwell_bundle_info{{bundle_id="{bundle}",role="current"}}'
                scene.claim("all workers take it", lambda bundle=bundle: server.all_say(bundle_id=bundle, problems=[]))
                scene.claim("it answers", lambda bundle=bundle: scene.last_answers_are(bundle_id=bundle))
                scene.claim("metrics say so", lambda said=said: server.metrics().get(said) == 1)
                number += 1
        scene.outcome.scene += f" ({number} moves)"
    scene.claim("no request is refused", scene.outcome.shed == 0)


def redis_trouble(stage: Stage, redis: OwnRedis, bundle: str) -> None:
    """Stopped, killed, slowed: each time answers go on with defaults, which are counted."""
    server = stage.server
    for name, trouble in (
        ("Redis stopped (SIGSTOP)", redis.stopped),
        ("Redis killed and started again", redis.killed),
        ("Redis slowed to 0 … 10 ms", redis.slowed),
    ):
        before = num_not_found(server)
        with stage.scene(name, (bundle, None, True), (bundle, None, False)) as scene:
            with trouble():
                scene.claim("workers say it", lambda: server.all_say(ready=True, problems=["features"]))
                scene.claim("metrics say it", lambda: server.metrics().get("rankwell_problems", 0) >= 1)
                time.sleep(stage.seconds / 2)
            scene.claim(
                "features are found again", lambda scene=scene: scene.last_answers_are(num_missing=NONE_MISSING)
            )
            scene.claim("workers say that all is well", lambda: server.all_say(ready=True, problems=[]))
        found = scene.outcome
        scene.claim("some answers are given with defaults", found.defaults > 0)
        scene.claim(
            "metrics count the ids that were not found, each of them",
            lambda before=before, scene=scene: num_not_found(server) - before == scene.num_missing_items(),
        )
        scene.claim(f"P99 is within the deadline of {DEADLINE_MS:g} ms", found.p99_ms <= DEADLINE_MS)


def num_not_found(server: LiveServer) -> float:
    """Items that the store had no features of, or not in time."""
    name = 'rankwell_feature_lookups_total{{found="{}",of="items"}}'
    metrics = server.metrics()
    return sum(metrics.get(name.format(why), 0.0) for why in ("missing", "late", "failed"))


def disk_full(stage: Stage, disk: SmallDisk, bundle: str) -> None:
    """Answers go on and say that they are not logged, until there is room again."""
    server = stage.server
    name = 'rankwell_log_rows_total{log="served",outcome="disk_full"}'
    with stage.scene(f"log disk full ({disk.kind})", (bundle, None, True)) as scene:
        scene.claim("answers are logged", lambda: scene.last_answers_are(is_logged=True))
        disk.fill()
        scene.claim("answers say that they are not logged", lambda: scene.last_answers_are(is_logged=False))
        scene.claim("workers are ready, and say it", lambda: server.all_say(ready=True, problems=["served log"]))
        scene.claim("metrics say it", lambda: server.metrics().get("rankwell_log_is_healthy") == 0)
        time.sleep(stage.seconds / 2)
        disk.free()
        scene.claim("answers are logged again", lambda: scene.last_answers_are(is_logged=True))
        scene.claim("workers say that all is well", lambda: server.all_say(ready=True, problems=[]))
        scene.claim("metrics say that it is healthy", lambda: server.metrics().get("rankwell_log_is_healthy") == 1)
    scene.claim(
        "metrics count the answers that were not logged, each of them",
        lambda: server.metrics().get(name, 0) == scene.outcome.not_logged,
    )


def clock_stepped(stage: Stage, shift_us: np.memmap, bundle: str, correction: Correction) -> None:
    """A correction is in force before its end and not after it, by the server's clock, wherever that is set."""
    server, known = stage.server, {(bundle, None, True), (bundle, correction.id, True)}
    steps: list[tuple[float, str | None]] = []
    with stage.scene("clock stepped", *known) as scene:
        for step_us in (0, HOUR_US, -HOUR_US, 24 * 365 * HOUR_US * 10, -24 * 365 * HOUR_US * 3, 0):
            shift_us[0] = step_us
            expected = correction.id if time.time_ns() // 1_000 + step_us < correction.expires_us else None
            steps.append((time.perf_counter(), expected))
            scene.claim(
                f"the workers say whether it is in force, {step_us / HOUR_US:+.0f} h",
                lambda expected=expected: server.all_say(ready=True, correction_id=expected, problems=[]),
            )
            in_force = float(expected is not None)
            scene.claim(
                f"metrics say it, {step_us / HOUR_US:+.0f} h",
                lambda in_force=in_force: server.metrics().get("rankwell_corrections_in_force") == in_force,
            )
            time.sleep(stage.seconds / 6)
        ends = [*(start_s for start_s, _ in steps[1:]), time.perf_counter()]
        for (start_s, expected), end_s in zip(steps, ends, strict=True):
            within = [a["correction_id"] for one, a in scene.answers() if start_s <= one.due_s and one.ended_s <= end_s]
            scene.claim("each answer is as the clock says", set(within) == {expected})


@contextmanager
def staged(
    given: argparse.Namespace, folder: Path, known: KnownAnswers, server: LiveServer, log: Path
) -> Iterator[Stage]:
    """A stage for as long as its server runs, which must end in order."""
    with server:
        stage = Stage(server, known, log, rate=given.rate, seconds=given.seconds)
        yield stage
        stage.outcomes[-1].broken += [] if server.is_running else ["the server is gone"]
    stage.outcomes[-1].broken += [] if server.exit_status == 0 else [f"the server ended with {server.exit_status}"]
    given.outcomes += stage.outcomes
    said = (folder / "server.txt").read_text()
    if "Traceback" in said:
        print(said[said.index("Traceback") :][:3000], file=sys.stderr)


def play(folder: Path, given: argparse.Namespace) -> None:
    """All scenes, on four servers."""
    first = bundle_of("history", width=32, num_steps=4)
    paths = (folder / "first", folder / "second")
    write_deployment(first, paths[0])
    write_deployment(replace(first, calibrators={a: Platt(0.8, -0.7) for a in first.calibrators}), paths[1])
    known = KnownAnswers(folder / "features", num=100, num_candidates=60)
    ids = known.learn(paths[0]), known.learn(paths[1])
    now_us = time.time_ns() // 1_000
    offsets = {"click": {"job_seniority": {str(value): 0.4 for value in range(0, 20, 2)}}}
    correction = Correction(
        id="c1", created_us=now_us, expires_us=now_us + HOUR_US // 2, reason="chaos", log_odds_offsets=offsets
    )
    known.learn(paths[0], correction)

    def root(name: str) -> Path:
        RolloutFolder(folder / name).deploy(paths[0])
        return folder / name

    def server(root: Path, features: str, log: Path) -> LiveServer:
        places = [word for name in NOT_STORED if "://" in features for word in ("--not-stored", name)]
        arguments = [str(root), "--features", features, *places, "--log", str(log), "--workers", str(WORKERS)]
        return LiveServer([*arguments, "--deadline-ms", str(DEADLINE_MS)], stderr=folder / "server.txt")

    one, features, log = root("root"), str(folder / "features"), folder / "log"
    with staged(given, folder, known, server(one, features, log), log) as stage:
        killed(stage, ids[0])
        bad_deployed(stage, one, ids[0], bad_bundles(paths[0], folder / "bad"))
        switched(stage, one, paths[1], ids)
    if REDIS is not None:
        with OwnRedis(folder / "redis") as redis:
            redis.fill(known.stored, known.rows)
            log = folder / "log-redis"
            with staged(given, folder, known, server(root("root-redis"), redis.url, log), log) as stage:
                redis_trouble(stage, redis, ids[0])
    else:
        print("there is no redis-server on the path: its scenes are left out", file=sys.stderr)
    disk = SmallDisk(folder / "disk")
    try:
        log = disk.folder / "log"
        with staged(given, folder, known, server(root("root-disk"), features, log), log) as stage:
            disk.watch(stage.server.workers())
            disk_full(stage, disk, ids[0])
    finally:
        disk.close()
    shift_us = np.memmap(folder / "shift", np.int64, "w+", shape=(1,))
    log, last = folder / "log-clock", root("root-clock")
    (last / CORRECTIONS).write_text(correction.to_json())
    arguments = [str(last), features, str(log), str(folder / "shift"), str(WORKERS)]
    stepped = LiveServer(arguments, stderr=folder / "server.txt", program=HERE / "contenders" / "stepped_server.py")
    with staged(given, folder, known, stepped, log) as stage:
        clock_stepped(stage, shift_us, ids[0], correction)


def main() -> None:
    """Play, print, judge."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--json", type=Path, help="write the numbers to this file")
    arguments.add_argument("--seconds", type=float, default=20.0, help="of a scene, more or less")
    arguments.add_argument("--rate", type=float, default=30.0, help="requests a second")
    given = arguments.parse_args()
    outcomes: list[Outcome] = []
    given.outcomes = outcomes
    with tempfile.TemporaryDirectory() as name:
        play(Path(name), given)
    counts = ("requests", "failed", "shed", "cut", "wrong", "lost", "not_logged", "defaults")
    table = Table("scene", *(count.replace("_", " ") for count in counts), "P99 ms", "verdict", title="chaos")
    numbers: dict[str, float] = {}
    for one in outcomes:
        table.add_row(
            one.scene, *(f"{getattr(one, count):,}" for count in counts), f"{one.p99_ms:.1f}",
            "good" if one.is_good else "MISSED",
        )  # fmt: skip
        numbers |= {f"{one.scene.partition(' (')[0]}: {count}": getattr(one, count) for count in (*counts, "p99_ms")}
    Console(width=None if Console().is_terminal else 140).print(table)
    for one in outcomes:
        for claim in dict.fromkeys(one.broken):
            print(f"{one.scene}: not so: {claim}")
    if given.json is not None:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(numbers | {"missed": sum(not one.is_good for one in outcomes)}, indent=1))
    sys.exit(any(not one.is_good for one in outcomes))


if __name__ == "__main__":
    main()
