"""The verbs: parse, call, print."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table
from typer.core import TyperGroup

from rankwell.app.head_inspection import draw_heads, head_tables
from rankwell.app.inspection import draw_inspection, inspection_tables
from rankwell.app.pipeline import demonstrate
from rankwell.app.plan_table import plan_printer
from rankwell.app.progress import progress_of_simulation, progress_of_training
from rankwell.app.run import EvaluatedRun, evaluate_run, report_run, train_runs
from rankwell.app.study_page import write_study
from rankwell.data.writer import impressions_table
from rankwell.errors import RankwellError, RequestError
from rankwell.serving.bundle import read_bundle
from rankwell.serving.head_inspection import inspect_heads
from rankwell.serving.inspection import inspect_bundle
from rankwell.serving.ranker import Ranker
from rankwell.simulation.settings import MarketplaceSettings
from rankwell.simulation.simulate import simulate as simulate_log
from rankwell.studies.attention import study_attention
from rankwell.studies.auction import study_auction
from rankwell.studies.depth import study_depth
from rankwell.studies.heads import study_heads
from rankwell.studies.losses import study_losses
from rankwell.studies.optimizers import study_optimizers
from rankwell.studies.regularisation import study_regularisation
from rankwell.studies.sampling import study_sampling
from rankwell.studies.segment_repair import study_segment_repair
from rankwell.studies.selection_bias import study_selection_bias
from rankwell.studies.study import StudyResult
from rankwell.studies.transformer import study_transformer
from rankwell.studies.wide_deep import study_wide_deep
from rankwell.training.recipe import read_recipe

__all__ = ["app", "main"]

app: Final = typer.Typer(
    name="rankwell",
    help="Ranking models whose probabilities you can bid on.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
study: Final = typer.Typer(help="Repeatable experiments behind the claims.", no_args_is_help=True)
app.add_typer(study, name="study")


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

Json = Annotated[Path | None, typer.Option("--json", help="Write the numbers to this file, flat names to numbers.")]
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
    _write_json(json_file, result.numbers)
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
    _write_json(json_file, runs.numbers)


@app.command()
def evaluate(bundle: BundleFolder, recipe_file: RecipeFile, data: Data, json_file: Json = None) -> None:
    """Evaluate a bundle on the recipe's test split."""
    result = evaluate_run(read_bundle(bundle), read_recipe(recipe_file), data)
    _print_run(result)
    _write_json(json_file, result.numbers)


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
        _write_text(json_file, json.dumps(impressions_table(ranking.impressions).to_pylist(), indent=1))


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
    _write_json(json_file, inspection.numbers())


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
    _write_json(json_file, inspection.numbers())


@study.command("wide-deep")
def wide_deep(
    seeds: Annotated[int, typer.Option(min=2, help="Marketplaces, one a seed.")] = 5,
    requests: Annotated[int, typer.Option(min=1_000, help="Requests in each log.")] = 40_000,
    json_file: Json = None,
) -> None:
    """Wide & Deep against each of its halves, paired by seed."""
    _print_study(study_wide_deep(seeds=range(seeds), num_requests=requests, say=_console.print), json_file)


@study.command("segment-repair")
def segment_repair(
    seeds: Annotated[int, typer.Option(min=2, help="Marketplaces, one a seed.")] = 5,
    requests: Annotated[int, typer.Option(min=1_000, help="Requests in each log.")] = 40_000,
    json_file: Json = None,
) -> None:
    """Mend a miscalibrated group: the feature's transform against a per-segment Platt."""
    _print_study(study_segment_repair(seeds=range(seeds), num_requests=requests, say=_console.print), json_file)


@study.command("transformer")
def transformer(
    seeds: Annotated[int, typer.Option(min=2, help="Marketplaces, one a seed.")] = 5,
    requests: Annotated[int, typer.Option(min=300, help="Requests in each log.")] = 40_000,
    out: Annotated[Path, typer.Option(help="The HTML page.")] = Path("out/study-transformer.html"),
    json_file: Json = None,
) -> None:
    """What a Transformer over history and list gains over Wide & Deep; where the mood just changed, apart."""
    result = study_transformer(seeds=range(seeds), num_requests=requests, say=_console.print)
    _print_study(result, json_file)
    _console.print(str(write_study(result, out)))


@study.command("optimizers")
def optimizers(
    seeds: Annotated[int, typer.Option(min=2, help="Truths, each with a log of its own.")] = 5,
    rows: Annotated[int, typer.Option(min=2_000, help="Rows of each log.")] = 200_000,
    ids: Annotated[int, typer.Option(min=100, help="Possible ids of each log.")] = 20_000,
    data: Annotated[
        Path | None,
        typer.Option("--data", exists=True, file_okay=False, help="Frappe's folder, to measure on it too."),
    ] = None,
    out: Annotated[Path, typer.Option(help="The HTML page.")] = Path("out/study-optimizers.html"),
    json_file: Json = None,
) -> None:
    """Row rules on rare and frequent ids, ghost updates of dense Adam, row-wise state, and goals that move."""
    result = study_optimizers(seeds=range(seeds), num_rows=rows, num_ids=ids, frappe=data, say=_console.print)
    _print_study(result, json_file)
    _console.print(str(write_study(result, out)))


@study.command("regularisation")
def regularisation(
    seeds: Annotated[int, typer.Option(min=1, help="Truths, each with a log of its own.")] = 5,
    rows: Annotated[int, typer.Option(min=2_000, help="Rows of each log.")] = 120_000,
    ids: Annotated[int, typer.Option(min=100, help="Possible ids of each log.")] = 12_000,
    data: Annotated[
        Path | None,
        typer.Option("--data", exists=True, file_okay=False, help="Frappe's folder, to measure on it too."),
    ] = None,
    out: Annotated[Path, typer.Option(help="The HTML page.")] = Path("out/study-regularisation.html"),
    json_file: Json = None,
) -> None:
    """The L1 diamond and the L2 circle; sparsity and AUC against strength for FTRL, group lasso and lazy decay."""
    result = study_regularisation(seeds=range(seeds), num_rows=rows, num_ids=ids, frappe=data, say=_console.print)
    _print_study(result, json_file)
    _console.print(str(write_study(result, out)))


@study.command("losses")
def losses(
    seeds: Annotated[int, typer.Option(min=2, help="Marketplaces, one a seed.")] = 5,
    requests: Annotated[int, typer.Option(min=1_000, help="Requests in each log.")] = 40_000,
    out: Annotated[Path, typer.Option(help="The HTML page.")] = Path("out/study-losses.html"),
    json_file: Json = None,
) -> None:
    """One model by ten losses: which give probabilities, which only an order; nDCG@10 against log loss and ECE."""
    result = study_losses(seeds=range(seeds), num_requests=requests, say=_console.print)
    _print_study(result, json_file)
    _console.print(str(write_study(result, out)))


@study.command("heads")
def head_kinds(
    seeds: Annotated[int, typer.Option(min=2, help="Marketplaces, one a seed.")] = 3,
    requests: Annotated[int, typer.Option(min=300, help="Requests in each log.")] = 8_000,
    out: Annotated[Path, typer.Option(help="The HTML page.")] = Path("out/study-heads.html"),
    json_file: Json = None,
) -> None:
    """Fixed, learned, mixed, guided and gated heads: quality, what they attend to, and the time that cutting saves."""
    result = study_heads(seeds=range(seeds), num_requests=requests, say=_console.print)
    _print_study(result, json_file)
    _console.print(str(write_study(result, out)))


@study.command("attention")
def attention(
    seeds: Annotated[int, typer.Option(min=1, help="Logs of long lists, one a seed.")] = 3,
    requests: Annotated[int, typer.Option(min=50, help="Requests to train on, one a step.")] = 800,
    out: Annotated[Path, typer.Option(help="The HTML page.")] = Path("out/study-attention.html"),
    json_file: Json = None,
) -> None:
    """Full, local and linear attention over 100 to 2,000 candidates: time, memory, and what each can see."""
    result = study_attention(seeds=range(seeds), num_requests=requests, say=_console.print)
    _print_study(result, json_file)
    _console.print(str(write_study(result, out)))


@study.command("depth")
def depth(
    seeds: Annotated[int, typer.Option(min=2, help="Marketplaces, one a seed.")] = 3,
    requests: Annotated[int, typer.Option(min=1_000, help="Requests in each log.")] = 12_000,
    out: Annotated[Path, typer.Option(help="The HTML page.")] = Path("out/study-depth.html"),
    json_file: Json = None,
) -> None:
    """1 to 12 layers over histories: when more stop helping, what they weigh, and the time of 500 candidates."""
    result = study_depth(seeds=range(seeds), num_requests=requests, say=_console.print)
    _print_study(result, json_file)
    _console.print(str(write_study(result, out)))


@study.command("auction")
def auction(
    seeds: Annotated[int, typer.Option(min=2, help="Sets of requests.")] = 3,
    requests: Annotated[int, typer.Option(min=100, help="Requests in each set.")] = 20_000,
    data: Annotated[Path | None, typer.Option(help="A Parquet file of auctions to replay.", exists=True)] = None,
    out: Annotated[Path, typer.Option(help="The HTML page.")] = Path("out/study-auction.html"),
    json_file: Json = None,
) -> None:
    """What miscalibration costs and whom, the winner's curse, and bids replayed where a log is given."""
    result = study_auction(seeds=range(seeds), num_requests=requests, replay=data, say=_console.print)
    _print_study(result, json_file)
    _console.print(str(write_study(result, out)))


@study.command("sampling")
def sampling(
    seeds: Annotated[int, typer.Option(min=2, help="Marketplaces, one a seed.")] = 3,
    requests: Annotated[int, typer.Option(min=300, help="Requests in each log.")] = 20_000,
    steps: Annotated[int, typer.Option(min=1, help="Of each softmax.")] = 3_000,
    out: Annotated[Path, typer.Option(help="The HTML page.")] = Path("out/study-sampling.html"),
    json_file: Json = None,
) -> None:
    """Negatives that stand for a corpus, corrected by log Q and not; a tenth of the negatives, weighed and not."""
    result = study_sampling(seeds=range(seeds), num_requests=requests, num_steps=steps, say=_console.print)
    _print_study(result, json_file)
    _console.print(str(write_study(result, out)))


@study.command("selection-bias")
def selection_bias(
    seeds: Annotated[int, typer.Option(min=2, help="Marketplaces, one a seed.")] = 5,
    requests: Annotated[int, typer.Option(min=1_000, help="Requests in each log.")] = 40_000,
    out: Annotated[Path, typer.Option(help="The HTML page.")] = Path("out/study-selection-bias.html"),
    json_file: Json = None,
) -> None:
    """Trained on what retrieval chose, tested on what a coin chose: naive, IPW and DR, and what came of seniority."""
    result = study_selection_bias(seeds=range(seeds), num_requests=requests, say=_console.print)
    _print_study(result, json_file)
    _console.print(str(write_study(result, out)))


def _print_run(run: EvaluatedRun) -> None:
    for table in run.tables:
        _console.print(table)
    if run.notes:
        _console.print(f"note: {run.notes}")


def _print_study(result: StudyResult, json_file: Path | None) -> None:
    for table in result.tables:
        _console.print(table)
    _console.print(result.finding)
    _write_json(json_file, result.numbers)


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


def _write_json(path: Path | None, numbers: Mapping[str, float]) -> None:
    if path is not None:
        known = {name: None if math.isnan(value) else value for name, value in numbers.items()}
        _write_text(path, json.dumps(known, indent=1))


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
