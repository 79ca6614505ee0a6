"""`rankwell drill SCENARIO`: rehearse an outage, print its timeline and verdict, write its page and numbers."""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from rankwell.app.dashboard import Dashboard
from rankwell.app.json_file import Json, write_json
from rankwell.app.page_server import Page, PageServer
from rankwell.app.runbook import runbook
from rankwell.app.study_page import write_study
from rankwell.errors import RecipeError
from rankwell.serving.bundle import read_bundle
from rankwell.simulation.incident import Incident
from rankwell.simulation.incident_calibration_bug import CalibrationBug
from rankwell.simulation.incident_late_labels import LateLabels
from rankwell.simulation.incident_layoffs import Layoffs
from rankwell.simulation.incident_missing_feature import MissingFeature
from rankwell.simulation.incident_quiet import Quiet
from rankwell.simulation.incident_retrieval_shift import RetrievalShift
from rankwell.simulation.incident_unit_change import UnitChange
from rankwell.simulation.incident_viral import Viral
from rankwell.studies.drill import DrillSettings, run_drill
from rankwell.studies.drill_verdict import judged

__all__ = ["INCIDENTS", "drill", "incident_of"]

_console: Final = Console()
INCIDENTS: Final[tuple[Incident, ...]] = (
    CalibrationBug(), UnitChange(), Viral(), Layoffs(), LateLabels(), MissingFeature(), RetrievalShift(), Quiet(),
)  # fmt: skip
"""That can be rehearsed."""


def drill(
    scenario: Annotated[str, typer.Argument(help=" · ".join(incident.name for incident in INCIDENTS))],
    bundle: Annotated[
        Path, typer.Option(exists=True, file_okay=False, help="Of the marketplace, as `rankwell demo` writes it.")
    ] = Path("out/demo/bundle"),
    seed: Annotated[int, typer.Option(min=0, help="Of the marketplace and of everything that is drawn.")] = 0,
    requests: Annotated[int, typer.Option(min=1_000, help="A day, from the onset on.")] = 32_000,
    server: Annotated[bool, typer.Option(help="Ask a server over HTTP; else the same scorer, in this process.")] = True,
    serve: Annotated[bool, typer.Option("--serve", help="The watch's dashboard, while the drill runs.")] = False,
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Of the dashboard; 0: a free one.")] = 8050,
    out: Annotated[Path | None, typer.Option(help="The HTML page; by default out/drill-SCENARIO.html.")] = None,
    json_file: Json = None,
) -> None:
    """Rehearse an outage with a real server, a real log and a real watcher in simulated time; fails if it fails."""
    incident = incident_of(scenario)
    started = time.perf_counter()
    settings = DrillSettings(seed=seed, requests_per_day=requests, has_server=server)
    dashboard = Dashboard(f"drill {scenario}")
    with ExitStack() as stack:
        if serve:
            pages = {"/": Page(dashboard.page), "/content": Page(dashboard.content)}
            _say(f"dashboard at {stack.enter_context(PageServer(pages, port=port)).url}")
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="rankwell-drill-"))
        played = run_drill(
            incident, read_bundle(bundle), Path(folder), settings, say=_say, tell=dashboard.tell if serve else None
        )
    result = judged(played)
    for table in result.tables:
        _console.print(table)
    _console.print(f"[bold]{result.finding}[/]   ({time.perf_counter() - started:.0f} s)")
    write_json(json_file, {**result.numbers, "took_s": time.perf_counter() - started})
    page = write_study(result, out or Path(f"out/drill-{scenario}.html"))
    _console.print(str(page))
    explained = [report for report in played.rounds if report.explanation is not None]
    if explained and explained[0].explanation is not None:
        steps = page.with_suffix(".runbook.md")
        steps.write_text(runbook(explained[0], explained[0].explanation), "utf-8")
        _console.print(str(steps))
    if not result.numbers["passed"]:
        raise typer.Exit(1)


def incident_of(name: str) -> Incident:
    """The incident of this name.

    Raises:
        RecipeError: There is none.
    """
    found = [incident for incident in INCIDENTS if incident.name == name]
    if not found:
        raise RecipeError("there is no such scenario", found=name, allowed=[each.name for each in INCIDENTS])
    return found[0]


def _say(text: str) -> None:
    _console.print(text, highlight=False, style="dim")
