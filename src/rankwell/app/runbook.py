"""The steps of whoever is called by an alarm, with this alarm's numbers filled in; as Markdown."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Final, final

from jinja2 import Environment, StrictUndefined, Template

from rankwell.app.number_format import number
from rankwell.app.time_text import clock_text, span_text
from rankwell.data.atomic_file import AtomicFile
from rankwell.mitigation.explanation import Explanation
from rankwell.mitigation.watch_round import RoundReport
from rankwell.mitigation.watch_view import WatchView, segment_text
from rankwell.monitoring.trial_readings import bundle_on_trial
from rankwell.serving.correction import Correction

__all__ = ["RunbookSink", "runbook"]

_LOG: Final = logging.getLogger("rankwell.watching")
_FEW_ROWS: Final = 100
_NAMES: Final = {
    "trial": "A bundle on trial",
    "bundle": "Another bundle",
    "correction": "A correction",
    "upstream": "A feature, before any model saw it",
    "unwatched": "Something that isn't watched",
    "labels": "Clicks that are late or lost",
    "world": "The world",
}
_ADVICE: Final = {
    "trial": "Deploy the bundle that answers again, `{end_trial}`, and the trial is over; members get what they got "
    "before. A rollback would take the current bundle away, too.",
    "bundle": "Rank the requests below with both (`Ranker(PATH).rank(request)`); if it is the new one: `{rollback}`.",
    "correction": "Read its reason; one that did harm is ended by removing `corrections.json`, or by the kill switch.",
    "upstream": "Ask whose pipeline writes it what changed: units, a default, a join. No offset mends a feature: "
    "mend it upstream, or go back to a bundle that doesn't read it.",
    "unwatched": "Look at the lists and histories in the requests below, at the item table, and at new clients.",
    "labels": "Look at how actions arrive (`/v1/actions`, the queues before it) before anything is corrected: what was "
    "learned from missing clicks is wrong when they come.",
    "world": "Let the loop correct, train on rows from after the change, and ask what was launched at that time.",
}


def runbook(
    report: RoundReport, explanation: Explanation, *, correction: Correction | None = None, deployed: Path | None = None
) -> str:
    """The runbook of a round's alarms.

    Args:
        report: Of the round.
        explanation: Of its alarms.
        correction: In force; None: none is.
        deployed: The servers' folder; None: it isn't known.

    Returns:
        Markdown.
    """
    first, feature = explanation.causes[0], explanation.feature
    where = segment_text(feature, first.segment)
    root, trial = deployed or "ROOT", bundle_on_trial(first.reading)
    commands = {"rollback": f"rankwell rollback {root}", "end_trial": f"rankwell deploy {root} CURRENT"}
    return _template().render(
        title=f"{where}: {first.column}",
        action=explanation.action,
        found_us=explanation.found_us,
        since_us=explanation.since_us,
        settled_us=explanation.settled_us,
        causes=explanation.causes,
        first=first.reading,
        few_rows=first.reading.num_rows < _FEW_ROWS,
        num_alarms=sum(reading.is_alarm for reading in report.readings),
        num_readings=len(report.readings),
        suspects=explanation.suspects,
        names=_NAMES,
        advice=_filled(commands),
        trial=trial,
        outcomes=explanation.outcomes,
        is_since=explanation.since_us < explanation.settled_us,
        requests=explanation.requests,
        decisions=report.decisions,
        correction=correction,
        deployed=deployed,
        clock=clock_text,
        span=span_text,
        number=number,
        segment=lambda value: segment_text(feature, value),
    )


@final
class RunbookSink:
    """Writes a runbook for each round in which an alarm begins; a sink of a watch.

    Args:
        folder: Where to: ``incident-TIME.md``, the time being that of the round. It is made.
        deployed: The servers' folder, for the commands in it.
    """

    def __init__(self, folder: Path, *, deployed: Path | None = None) -> None:
        self._folder, self._deployed = folder, deployed

    def tell(self, view: WatchView) -> None:
        """See `AlarmSink`."""
        explanation = view.report.explanation
        if explanation is None or not view.report.new_alarms:
            return
        at = clock_text(explanation.found_us).removesuffix(" UTC").replace(" ", "-").replace(":", "")
        path = self._folder / f"incident-{explanation.found_us // 1_000_000}-{at}.md"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with AtomicFile(path) as file:
                file.write(
                    runbook(view.report, explanation, correction=view.correction, deployed=self._deployed).encode()
                )
        except OSError as error:  # a full disk keeps no alarm from being told
            _LOG.error("the runbook %s can't be written: %s", path, error)
            return
        _LOG.warning("what to do is written in %s", path)

    def close(self) -> None:
        """See `AlarmSink`."""


def _filled(commands: Mapping[str, str]) -> Mapping[str, str]:
    return {kind: text.format_map(commands) if "{" in text else text for kind, text in _ADVICE.items()}


@lru_cache
def _template() -> Template:
    # Markdown, not HTML: nothing is to be escaped but what would break a table.
    environment = Environment(
        autoescape=False, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
        finalize=lambda value: value.replace("|", "\\|") if isinstance(value, str) else value,
    )  # fmt: skip
    return environment.from_string(resources.files("rankwell.app").joinpath("runbook.md.jinja").read_text("utf-8"))
