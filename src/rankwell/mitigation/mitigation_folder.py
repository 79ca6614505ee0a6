"""A mitigation loop at work in a folder that servers follow.

::

    root/corrections.json               what is in force: see `rankwell.serving.correction`
    root/mitigation/audit.jsonl         one line a decision
    root/mitigation/state.json          where the loop stands
    root/mitigation/stop                the kill switch: while it is there, nothing is in force
    root/mitigation/proposals/ID.json   waits for an empty file ID.approved or ID.refused beside it

The order is: audit line, then what it says, then the state. A loop that is ended in between finds on its return what
is in force, takes it as it is, and goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self, final

from rankwell.data.atomic_file import AtomicFile
from rankwell.errors import MitigationError, RankwellError
from rankwell.mitigation.attributed_rows import AttributedLog, AttributedRows
from rankwell.mitigation.audit_log import AuditLog
from rankwell.mitigation.evidence import Seen
from rankwell.mitigation.fallback import fall_back
from rankwell.mitigation.mitigation_loop import MitigationLoop
from rankwell.mitigation.mitigation_plan import MitigationPlan
from rankwell.mitigation.mitigation_state import Decision, InForce, LoopState
from rankwell.mitigation.turn import OWN
from rankwell.monitoring.outcome_pane import OutcomePane
from rankwell.monitoring.pane import Pane
from rankwell.monitoring.reading import Reading
from rankwell.monitoring.version_pane import VersionPane
from rankwell.serving.correction import CORRECTIONS, Correction, read_correction
from rankwell.serving.rollout import RolloutFolder

__all__ = ["MitigationFolder"]

_FOLDER: Final = "mitigation"
_STATE: Final = "state.json"
_STOP: Final = "stop"
_PROPOSALS: Final = "proposals"


@final
class MitigationFolder:
    """Looks, decides, writes it down, and carries it out.

    A dry run (`mode="watch"`) writes its audit lines and nothing else.

    Args:
        root: Of the `RolloutFolder` that the servers follow.
        plan: What may be done.
        now_us: UTC microseconds, by the clock that the servers go by.
        say: Told what was found damaged.
        log: Of what the servers answer, for rows to learn from; None: the rung of wide updates is passed over.

    Raises:
        MitigationError: Another loop is at work in the folder, or it can't be written to.

    The state is read when it is made; use it in a ``with`` block, or call `close`.
    """

    def __init__(
        self,
        root: str | Path,
        plan: MitigationPlan,
        *,
        now_us: Callable[[], int],
        say: Callable[[str], None] = lambda _: None,
        log: AttributedLog | None = None,
    ) -> None:
        self.root, self._plan, self._loop = Path(root), plan, MitigationLoop(plan)
        self._rollout, self._own = RolloutFolder(root), Path(root) / _FOLDER
        self._now_us, self._say, self._log = now_us, say, log
        self._is_dry = plan.mode == "watch"
        self._lock = None if self._is_dry else self._locked()
        self.audit = AuditLog(self._own / "audit.jsonl")
        self._state = self._read_state()
        self._was_interrupted = not self._is_dry and self.audit.last_sequence() > self._state.sequence

    @property
    def state(self) -> LoopState:
        """Where the loop stands."""
        return self._state

    @property
    def stop_file(self) -> Path:
        """The kill switch: touch it to take back what is in force, delete it to go on."""
        return self._own / _STOP

    def words(self) -> frozenset[str]:
        """What people have put down for the loop, by the names of the files: the kill switch, approvals, refusals."""
        proposals = self._own / _PROPOSALS
        said = [*proposals.glob("*.approved"), *proposals.glob("*.refused"), *self._own.glob(_STOP)]
        return frozenset(path.name for path in said)

    def look(
        self,
        readings: Sequence[Reading],
        outcomes: OutcomePane,
        *,
        settled_us: int,
        versions: VersionPane | None = None,
        pane: Pane | None = None,
    ) -> tuple[Decision, ...]:
        """One round, to be called after each window.

        Args:
            readings: Of the newest window.
            outcomes: What was promised and what came of it, at least of the minutes that the plan remembers.
            settled_us: Labels of requests before it are all known; a whole minute.
            versions: Which bundle answered when; None: the one that answers now always has.
            pane: Of the watched columns, a day and more of it; None: labels alone tell when a correction is to end.

        Returns:
            What was decided; "page" and "fail" are for people.

        Raises:
            MitigationError: The folder can't be written to: nothing was carried out that isn't in the audit log.
            BundleError: Nothing is deployed in the folder.
        """
        now_us, rollout = self._now_us(), self._rollout.read()
        own, other = self._correction(now_us)
        before = self._state
        decisions: list[Decision] = []
        if not self._is_dry:
            found, first = self._loop.found(self._state, own, now_us, was_interrupted=self._was_interrupted)
            self._was_interrupted = False
            self._carry_out(found, first, now_us)
            decisions += first
        proposals = self._own / _PROPOSALS
        answers_since_us = 0 if versions is None else versions.answers_since_us(rollout.current)
        seen = Seen(
            readings=readings,
            outcomes=outcomes,
            settled_us=settled_us,
            bundle_id=rollout.current,
            answers_since_us=answers_since_us,
            previous_bundle_id=rollout.previous,
            approved=frozenset(path.stem for path in proposals.glob("*.approved")),
            refused=frozenset(path.stem for path in proposals.glob("*.refused")),
            other_correction=other,
            is_stopped=self.stop_file.exists(),
            rows=self._rows(readings, rollout.current, settled_us, answers_since_us, now_us),
            pane=pane,
        )
        state, more = self._loop.after(self._state, seen, now_us)
        decisions += self._carry_out(state, more, now_us)
        if self._state != before and not self._is_dry:
            self._write(self._own / _STATE, self._state.to_json())
        return tuple(decisions)

    def _rows(
        self, readings: Sequence[Reading], bundle_id: str, settled_us: int, answers_since_us: int, now_us: int
    ) -> AttributedRows | None:
        """Read only while something is wrong, since it takes a while."""
        is_wrong = self._state.phase != "quiet" or any(map(self._plan.concerns, readings))
        if self._log is None or self._plan.wide is None or not is_wrong:
            return None
        since_us = max(settled_us - self._plan.memory_us, answers_since_us, 0)
        try:
            return self._log.read(bundle_id, since_us=since_us, until_us=settled_us, now_us=now_us)
        except (RankwellError, OSError) as error:
            self._say(f"no rows to learn from: {error}")
            return None

    def close(self) -> None:
        """Let another loop have the folder; what is in force stays until it ends."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- what is carried out

    def _carry_out(self, state: LoopState, decisions: Sequence[Decision], now_us: int) -> tuple[Decision, ...]:
        done: list[Decision] = []
        for decision in decisions:
            self.audit.append(decision)
            done.append(decision)
            try:
                if not self._is_dry:
                    self._do(decision)
            except RankwellError as error:
                state, failures = self._loop.failed(state, f"{decision.kind}: {error}", now_us)
                for failure in failures:
                    self.audit.append(failure)
                done += failures
                break
        self._state = state
        return tuple(done)

    def _do(self, decision: Decision) -> None:
        match decision.kind:
            case "apply" | "adjust" | "renew":
                assert decision.correction is not None
                self._write(self.root / CORRECTIONS, decision.correction.to_json())
                self._forget_proposal(decision.correction)
            case "revert" | "end" | "expire" | "stop":
                own, _ = self._correction(decision.now_us, only_in_force=False)
                if own is not None:
                    (self.root / CORRECTIONS).unlink(missing_ok=True)
            case "propose":
                assert decision.correction is not None
                self._write(self._own / _PROPOSALS / f"{decision.correction.id}.json", decision.correction.to_json())
            case "withdraw":
                assert decision.correction is not None
                self._forget_proposal(decision.correction)
            case "fall_back":
                assert decision.bundles is not None
                fall_back(self._rollout, from_bundle=decision.bundles[0], to_bundle=decision.bundles[1])
                if decision.correction is not None:
                    self._forget_proposal(decision.correction)

    def _forget_proposal(self, correction: Correction) -> None:
        for ending in (".json", ".approved", ".refused"):
            (self._own / _PROPOSALS / f"{correction.id}{ending}").unlink(missing_ok=True)

    # --- files

    def _correction(self, now_us: int, *, only_in_force: bool = True) -> tuple[Correction | None, str | None]:
        """The loop's own correction in the folder, and the id of another's that is in force."""
        path = self.root / CORRECTIONS
        if not path.exists():
            return None, None
        try:
            correction = read_correction(path)
        except RankwellError as error:
            self._put_aside(path, now_us, str(error))
            return None, None
        if correction.id.startswith(OWN):
            return correction, None
        is_over = only_in_force and now_us >= correction.expires_us
        return None, None if is_over else correction.id

    def _read_state(self) -> LoopState:
        path = self._own / _STATE
        if self._is_dry or not path.exists():
            return LoopState()
        try:
            return LoopState.from_json(path.read_bytes())
        except (OSError, RankwellError) as error:
            now_us = self._now_us()
            self._put_aside(path, now_us, str(error))
            return LoopState(
                sequence=self.audit.last_sequence(), history=(InForce(from_us=now_us),), onset_us=now_us
            )  # what was in force before is not known

    def _put_aside(self, path: Path, now_us: int, why: str) -> None:
        if self._is_dry:
            self._say(f"{path} is damaged: {why}")
            return
        aside = path.with_name(f"{path.name}.damaged-{now_us}")
        with suppress(OSError):
            path.replace(aside)
        self._say(f"{path} was damaged, and is now {aside.name}: {why}")

    def _write(self, path: Path, text: str) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with AtomicFile(path) as file:
                file.write(text.encode() + b"\n")
        except OSError as error:
            raise MitigationError(
                f"{path} can't be written", found=error.strerror, do="make room on the disk; what is in force ends"
            ) from error

    def _locked(self) -> IO[bytes]:
        import fcntl  # not everywhere, and only who works in a folder needs it

        try:
            self._own.mkdir(parents=True, exist_ok=True)
            lock = (self._own / "lock").open("ab")
        except OSError as error:
            raise MitigationError(
                f"the folder {self._own} can't be written to", found=error.strerror, do="choose another one"
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise MitigationError(
                f"another loop is at work in {self._own}", do="end it first: two would undo each other's work"
            ) from None
        return lock
