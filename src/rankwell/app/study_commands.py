"""`rankwell study NAME`: parse, run the study, print its tables and finding, write its page and numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from rankwell.app.drill_command import INCIDENTS, incident_of
from rankwell.app.json_file import Json, write_json
from rankwell.app.study_page import write_study
from rankwell.serving.bundle import read_bundle
from rankwell.studies.alarms import study_alarms
from rankwell.studies.attention import study_attention
from rankwell.studies.auction import study_auction
from rankwell.studies.calibration import study_calibration
from rankwell.studies.depth import study_depth
from rankwell.studies.drills import study_drills
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

__all__ = ["study"]

study: Final = typer.Typer(help="Repeatable experiments behind the claims.", no_args_is_help=True)
_console: Final = Console()


@study.command("wide-deep")
def wide_deep(
    seeds: Annotated[int, typer.Option(min=2, help="Marketplaces, one a seed.")] = 5,
    requests: Annotated[int, typer.Option(min=1_000, help="Requests in each log.")] = 40_000,
    json_file: Json = None,
) -> None:
    """Wide & Deep against each of its halves, paired by seed."""
    _show(study_wide_deep(seeds=range(seeds), num_requests=requests, say=_console.print), None, json_file)


@study.command("segment-repair")
def segment_repair(
    seeds: Annotated[int, typer.Option(min=2, help="Marketplaces, one a seed.")] = 5,
    requests: Annotated[int, typer.Option(min=1_000, help="Requests in each log.")] = 40_000,
    json_file: Json = None,
) -> None:
    """Mend a miscalibrated group: the feature's transform against a per-segment Platt."""
    _show(study_segment_repair(seeds=range(seeds), num_requests=requests, say=_console.print), None, json_file)


@study.command("transformer")
def transformer(
    seeds: Annotated[int, typer.Option(min=2, help="Marketplaces, one a seed.")] = 5,
    requests: Annotated[int, typer.Option(min=300, help="Requests in each log.")] = 40_000,
    out: Annotated[Path, typer.Option(help="The HTML page.")] = Path("out/study-transformer.html"),
    json_file: Json = None,
) -> None:
    """What a Transformer over history and list gains over Wide & Deep; where the mood just changed, apart."""
    result = study_transformer(seeds=range(seeds), num_requests=requests, say=_console.print)
    _show(result, out, json_file)


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
    _show(result, out, json_file)


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
    _show(result, out, json_file)


@study.command("losses")
def losses(
    seeds: Annotated[int, typer.Option(min=2, help="Marketplaces, one a seed.")] = 5,
    requests: Annotated[int, typer.Option(min=1_000, help="Requests in each log.")] = 40_000,
    out: Annotated[Path, typer.Option(help="The HTML page.")] = Path("out/study-losses.html"),
    json_file: Json = None,
) -> None:
    """One model by ten losses: which give probabilities, which only an order; nDCG@10 against log loss and ECE."""
    result = study_losses(seeds=range(seeds), num_requests=requests, say=_console.print)
    _show(result, out, json_file)


@study.command("heads")
def head_kinds(
    seeds: Annotated[int, typer.Option(min=2, help="Marketplaces, one a seed.")] = 3,
    requests: Annotated[int, typer.Option(min=300, help="Requests in each log.")] = 8_000,
    out: Annotated[Path, typer.Option(help="The HTML page.")] = Path("out/study-heads.html"),
    json_file: Json = None,
) -> None:
    """Fixed, learned, mixed, guided and gated heads: quality, what they attend to, and the time that cutting saves."""
    result = study_heads(seeds=range(seeds), num_requests=requests, say=_console.print)
    _show(result, out, json_file)


@study.command("attention")
def attention(
    seeds: Annotated[int, typer.Option(min=1, help="Logs of long lists, one a seed.")] = 3,
    requests: Annotated[int, typer.Option(min=50, help="Requests to train on, one a step.")] = 800,
    out: Annotated[Path, typer.Option(help="The HTML page.")] = Path("out/study-attention.html"),
    json_file: Json = None,
) -> None:
    """Full, local and linear attention over 100 to 2,000 candidates: time, memory, and what each can see."""
    result = study_attention(seeds=range(seeds), num_requests=requests, say=_console.print)
    _show(result, out, json_file)


@study.command("depth")
def depth(
    seeds: Annotated[int, typer.Option(min=2, help="Marketplaces, one a seed.")] = 3,
    requests: Annotated[int, typer.Option(min=1_000, help="Requests in each log.")] = 12_000,
    out: Annotated[Path, typer.Option(help="The HTML page.")] = Path("out/study-depth.html"),
    json_file: Json = None,
) -> None:
    """1 to 12 layers over histories: when more stop helping, what they weigh, and the time of 500 candidates."""
    result = study_depth(seeds=range(seeds), num_requests=requests, say=_console.print)
    _show(result, out, json_file)


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
    _show(result, out, json_file)


@study.command("calibration")
def calibration(
    seeds: Annotated[int, typer.Option(min=2, help="Samples of each kind.")] = 5,
    runs: Annotated[int, typer.Option(min=10, help="Watched at once.")] = 300,
    panes: Annotated[int, typer.Option(min=10, help="For so long.")] = 2_880,
    out: Annotated[Path, typer.Option(help="The HTML page.")] = Path("out/study-calibration.html"),
    json_file: Json = None,
) -> None:
    """Which calibrator for what, and looking at calibration after every pane."""
    result = study_calibration(seeds=range(seeds), num_runs=runs, num_panes=panes, say=_console.print)
    _show(result, out, json_file)


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
    _show(result, out, json_file)


@study.command("alarms")
def alarms(
    days: Annotated[int, typer.Option(min=1, help="Quiet days at each size of traffic.")] = 60,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
    out: Annotated[Path, typer.Option(help="The HTML page.")] = Path("out/study-alarms.html"),
    json_file: Json = None,
) -> None:
    """False alarms against the promise of one in 7 days, and how soon a column that moves is found."""
    _show(study_alarms(num_days=days, seed=seed, say=_console.print), out, json_file)


@study.command("drills")
def drills(
    seeds: Annotated[int, typer.Option(min=1, help="Marketplaces, one a seed.")] = 10,
    first: Annotated[int, typer.Option(min=0, help="The first seed.")] = 0,
    scenario: Annotated[
        list[str] | None,
        typer.Option(help="As of `rankwell drill`, once or more; by default all but quiet."),
    ] = None,
    bundle: Annotated[
        Path, typer.Option(exists=True, file_okay=False, help="Of the marketplace, as `rankwell demo` writes it.")
    ] = Path("out/demo/bundle"),
    json_file: Json = None,
) -> None:
    """Every drill in several marketplaces: how often the cause is found first and each check holds, and how well."""
    names = scenario or [incident.name for incident in INCIDENTS if incident.suspects]
    incidents = [incident_of(name) for name in names]
    result = study_drills(read_bundle(bundle), incidents, seeds=range(first, first + seeds), say=_console.print)
    _show(result, None, json_file)


@study.command("selection-bias")
def selection_bias(
    seeds: Annotated[int, typer.Option(min=2, help="Marketplaces, one a seed.")] = 5,
    requests: Annotated[int, typer.Option(min=1_000, help="Requests in each log.")] = 40_000,
    out: Annotated[Path, typer.Option(help="The HTML page.")] = Path("out/study-selection-bias.html"),
    json_file: Json = None,
) -> None:
    """Trained on what retrieval chose, tested on what a coin chose: naive, IPW and DR, and what came of seniority."""
    result = study_selection_bias(seeds=range(seeds), num_requests=requests, say=_console.print)
    _show(result, out, json_file)


def _show(result: StudyResult, out: Path | None, json_file: Path | None) -> None:
    for table in result.tables:
        _console.print(table)
    _console.print(result.finding)
    write_json(json_file, result.numbers)
    if out is not None:
        _console.print(str(write_study(result, out)))
