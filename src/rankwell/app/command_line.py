"""The verbs: parse, call, print."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table
from typer.core import TyperGroup

from rankwell.app.drill_command import drill
from rankwell.app.export_command import export
from rankwell.app.features_command import features
from rankwell.app.fit_budget_command import fit_budget_command
from rankwell.app.head_inspection import draw_heads, head_tables
from rankwell.app.inspection import draw_inspection, inspection_tables
from rankwell.app.json_file import Json, write_json, write_text
from rankwell.app.pipeline import demonstrate
from rankwell.app.plan_table import plan_printer
from rankwell.app.progress import progress_of_simulation, progress_of_training
from rankwell.app.run import EvaluatedRun, evaluate_run, report_run, train_runs
from rankwell.app.serve_command import deploy, rollback, serve
from rankwell.app.served_log_commands import compact, label
from rankwell.app.study_commands import study
from rankwell.app.watch_command import watch
from rankwell.data.writer import impressions_table
from rankwell.errors import RankwellError, RequestError
from rankwell.serving.bundle import read_bundle
from rankwell.serving.head_inspection import inspect_heads
from rankwell.serving.inspection import inspect_bundle
from rankwell.serving.ranker import Ranker
from rankwell.simulation.settings import MarketplaceSettings
from rankwell.simulation.simulate import simulate as simulate_log
from rankwell.training.recipe import read_recipe

__all__ = ["app", "main"]

app: Final = typer.Typer(
    name="rankwell",
    help="Ranking models whose probabilities you can bid on.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(study, name="study")
app.command("fit-budget")(fit_budget_command)
app.command()(export)
app.command()(compact)
app.command()(label)
app.command()(features)
app.command()(serve)
app.command()(deploy)
app.command()(rollback)
app.command()(drill)
app.command()(watch)


class _TablesByDefault(TyperGroup):
    """`rankwell inspect BUNDLE` is `rankwell inspect tables BUNDLE`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["tables", *args]
        parsed: list[str] = super().parse_args(ctx, args)
        return parsed


inspect: Final = typer.Typer(
    cls=_TablesByDefault,
    no_args_is_help=True,
    help="Look into a bundle: its tables (by default), or its model's heads.",
)
app.add_typer(inspect, name="inspect")
_console: Final = Console()

Seed = Annotated[int, typer.Option(min=0, help="Of everything that is drawn.")]
Data = Annotated[Path, typer.Option("--data", exists=True, file_okay=False, help="The folder of the recipe's logs.")]
RecipeFile = Annotated[str, typer.Argument(help="FILE.py with a function recipe() -> Recipe, or FILE.py:FUNCTION.")]
BundleFolder = Annotated[Path, typer.Argument(help="A bundle, as `rankwell train` writes it.")]


def main() -> None:
    """The command; our own errors are printed without a traceback and exit with 2."""
    try:
        app()
    except RankwellError as error:
        Console(stderr=True).print(f"[bold red]{type(error).__name__}[/]: {error}", highlight=False, soft_wrap=True)
        sys.exit(2)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder of the log, the bundle and the report.")] = Path("out/demo"),
    requests: Annotated[int, typer.Option(min=1_000, help="Requests to simulate.")] = 60_000,
    seed: Seed = 0,
    json_file: Json = None,
) -> None:
    """Simulate a marketplace, train and calibrate three rankers, rank an example, and write report.html."""
    started = time.perf_counter()
    result = demonstrate(out, num_requests=requests, seed=seed, console=_console)
    write_json(json_file, result.numbers)
    _console.print(f"[bold]{result.report}[/]   ({time.perf_counter() - started:.0f} s in all)")


@app.command()
def simulate(
    out: Annotated[Path, typer.Option(help="A new folder: log/, truth/ and the members' key appear in it.")],
    requests: Annotated[int, typer.Option(min=1, help="How many.")] = 40_000,
    seed: Seed = 0,
) -> None:
    """Write a job marketplace's log and, apart from it, its truth."""
    with progress_of_simulation(_console, requests) as progress:
        paths = simulate_log(MarketplaceSettings(), seed, num_requests=requests, directory=out, progress=progress)
    _console.print(f"log: {paths.log}\ntruth: {paths.truth}")


@app.command()
def train(
    recipe_file: RecipeFile,
    data: Data,
    out: Annotated[Path, typer.Option(help="Where the bundle of the first seed goes.")] = Path("out/bundle"),
    seed: Seed = 0,
    seeds: Annotated[int, typer.Option(min=1, help="So many seeds from --seed on; mean and sd are printed.")] = 1,
    json_file: Json = None,
) -> None:
    """Train a recipe, calibrate it, evaluate it on test beside published numbers, and write the bundle."""
    recipe = read_recipe(recipe_file)
    with progress_of_training(_console, recipe.loop.max_epochs) as on_step:
        on_plan = plan_printer(_console, recipe.name, recipe.optimizers)
        runs = train_runs(
            recipe, data, seeds=range(seed, seed + seeds), out=out, on_plan=on_plan, on_step=on_step,
            on_resume=lambda resumed: _console.print(str(resumed), highlight=False),
        )  # fmt: skip
    _print_run(runs)
    _console.print(f"bundle: {out}")
    write_json(json_file, runs.numbers)


@app.command()
def evaluate(bundle: BundleFolder, recipe_file: RecipeFile, data: Data, json_file: Json = None) -> None:
    """Evaluate a bundle on the recipe's test split."""
    result = evaluate_run(read_bundle(bundle), read_recipe(recipe_file), data)
    _print_run(result)
    write_json(json_file, result.numbers)


@app.command()
def rank(
    bundle: BundleFolder,
    request_file: Annotated[Path, typer.Argument(help="A request as JSON; - reads standard input.")],
    length: Annotated[int | None, typer.Option(min=1, help="How many to rank; by default all.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the impressions to log here.")] = None,
) -> None:
    """Rank the candidates of one request, best first, with calibrated probabilities."""
    try:
        request = json.loads(_text_of(request_file))
    except ValueError as error:
        raise RequestError(f"{request_file} is not JSON", found=str(error), do="see docs/requests.md") from None
    ranking = Ranker(bundle).rank(request, length=length)
    table = Table("position", "item", "probability", title="best first")
    for impression in ranking.impressions:
        table.add_row(str(impression.position), str(impression.item_id), f"{impression.probability:.4f}")
    _console.print(table)
    if json_file is not None:
        write_text(json_file, json.dumps(impressions_table(ranking.impressions).to_pylist(), indent=1))


@app.command()
def report(
    bundle: BundleFolder,
    recipe_file: RecipeFile,
    data: Data,
    out: Annotated[Path, typer.Option(help="The HTML file.")] = Path("out/report.html"),
) -> None:
    """Write a self-contained HTML report of a bundle on the recipe's test split."""
    _console.print(str(report_run(read_bundle(bundle), read_recipe(recipe_file), data, out)))


@inspect.command("tables")
def tables(
    bundle: BundleFolder,
    json_file: Json = None,
    figure: Annotated[
        Path | None, typer.Option(help="Draw norms and zero rows against sightings into this PNG, SVG or PDF.")
    ] = None,
) -> None:
    """Show what a bundle's tables hold: rows, zero rows and the bytes they save, sightings, norms."""
    inspection = inspect_bundle(bundle)
    for table in inspection_tables(inspection):
        _console.print(table)
    if figure is not None:
        draw_inspection(inspection, figure)
        _console.print(f"figure: {figure}")
    write_json(json_file, inspection.numbers())


@inspect.command("heads")
def heads(
    bundle: BundleFolder,
    recipe_file: RecipeFile,
    data: Data,
    requests: Annotated[int, typer.Option(min=1, help="About how many requests of the tune split.")] = 2000,
    seed: Seed = 0,
    json_file: Json = None,
    figure: Annotated[Path | None, typer.Option(help="Draw all of it into this PNG, SVG or PDF.")] = None,
) -> None:
    """Show what a model's heads of attention attend to, their overlap, their gates, and the AUC lost without each."""
    batches = read_recipe(recipe_file).batches("tune", data, seed=seed)
    inspection = inspect_heads(read_bundle(bundle).model, batches, num_requests=requests, seed=seed)
    for table in head_tables(inspection):
        _console.print(table)
    if figure is not None:
        draw_heads(inspection, figure)
        _console.print(f"figure: {figure}")
    write_json(json_file, inspection.numbers())


def _print_run(run: EvaluatedRun) -> None:
    for table in run.tables:
        _console.print(table)
    if run.notes:
        _console.print(f"note: {run.notes}")


def _text_of(path: Path) -> str:
    try:
        written = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
        return written.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(f"{path} is not UTF-8", found=str(error), do="write the request as UTF-8") from None
    except OSError as error:
        raise RequestError(
            f"no request at {path}", found=str(error), do="name a JSON file, or - for standard input"
        ) from None
