"""`rankwell export BUNDLE OUT`: a bundle into a deployment, ready to be served."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Annotated, Final, Literal

import typer
from rich.console import Console
from rich.table import Table

from rankwell.app.json_file import Json, write_json
from rankwell.data.batches import Batches
from rankwell.data.log import open_log
from rankwell.data.split import WholeLog
from rankwell.schema import Schema
from rankwell.serving.bundle import read_bundle
from rankwell.serving.deployment import read_deployment, write_deployment
from rankwell.serving.graph_scorer import GraphScorer
from rankwell.serving.half_precision_graph import half_precision_graph
from rankwell.serving.quantised_graph import dynamic_int8_graph
from rankwell.serving.request_graph import request_graph
from rankwell.types import Batch

__all__ = ["export"]

_console: Final = Console()

Products = Literal["float32", "float16", "int8"]
Rows = Literal["float32", "int8"]

_CHEAPER: Final[Mapping[Products, Callable[[bytes], bytes]]] = {
    "float16": half_precision_graph,
    "int8": dynamic_int8_graph,
}


def export(
    bundle: Annotated[Path, typer.Argument(help="A bundle, as `rankwell train` writes it.")],
    out: Annotated[Path, typer.Argument(help="The deployment's folder; one that is there is replaced.")],
    rows: Annotated[
        Rows, typer.Option(help="int8 takes some 60 % less, and moves probabilities a little.")
    ] = "float32",
    products: Annotated[
        Products, typer.Option(help="float16 is for a GPU, and int8 may be slower here: measure it.")
    ] = "float32",
    log: Annotated[Path | None, typer.Option(exists=True, help="Its first requests join the self-test.")] = None,
    requests: Annotated[int, typer.Option(min=1, help="How many of them.")] = 20,
    json_file: Json = None,
) -> None:
    """Write a bundle's graph, its rows in files that processes share, and a self-test, as one folder to serve."""
    read = read_bundle(bundle)
    graph = _CHEAPER[products](request_graph(read)) if products in _CHEAPER else None
    logged = () if log is None else islice(_requests(log, read.schema), requests)
    write_deployment(read, out, precision=rows, graph=graph, requests=logged)
    deployment = read_deployment(out)
    scorer = deployment.scorer()
    deployment.test(scorer)
    num_table_bytes = sum(deployment.table_bytes.values())
    num_graph_bytes = (out / "graph.onnx").stat().st_size
    _console.print(_table(deployment.id, scorer, num_table_bytes, num_graph_bytes))
    write_json(json_file, {"num_table_bytes": float(num_table_bytes), "num_graph_bytes": float(num_graph_bytes)})


def _requests(log: Path, schema: Schema) -> Iterator[Batch]:
    batches = Batches(open_log(log, schema), WholeLog("test"), "test", num_requests=1, seed=None)
    return (batch for _, batch in batches.epoch(0))


def _table(deployment_id: str, scorer: GraphScorer, num_table_bytes: int, num_graph_bytes: int) -> Table:
    table = Table("deployment", deployment_id)
    table.add_row("rows and their indexes", f"{num_table_bytes / 1e6:,.1f} MB")
    table.add_row("graph", f"{num_graph_bytes / 1e6:,.1f} MB")
    table.add_row("run by", scorer.provider)
    table.add_row("self-test", "passed")
    return table
