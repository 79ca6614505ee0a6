"""`rankwell fit-budget`: a teacher that is too slow in, a student inside the budget out."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Final, Literal

import typer
from rich.console import Console

from rankwell.app.budget_report import budget_numbers, budget_tables, draw_frontier
from rankwell.app.json_file import Json, write_json
from rankwell.errors import RecipeError
from rankwell.serving.budget_fit import Budget, Form, Shape
from rankwell.serving.bundle import read_bundle, write_bundle
from rankwell.serving.scorer import EagerScorer
from rankwell.serving.served_form import DeployingEngine, write_form
from rankwell.serving.student_search import fit_budget
from rankwell.training.recipe import read_recipe

__all__ = ["fit_budget_command"]

_console: Final = Console()

_NUM_SEEN: Final = 64
"""Requests of calibrate whose activations give the static int8 graph its scales."""

_STEPS: Final[Mapping[str, Callable[[Form], Form]]] = {
    "float16 graph": lambda form: replace(form, dense="float16"),
    "dynamic int8 products": lambda form: replace(form, dense="dynamic int8"),
    "static int8 products": lambda form: replace(form, dense="static int8"),
    "int8 rows": lambda form: replace(form, rows="int8"),
}
"""What is tried upon the student; closed heads are in no graph, so that there is nothing to try."""


def fit_budget_command(
    teacher: Annotated[Path, typer.Argument(help="The teacher: a bundle, as `rankwell train` writes it.")],
    recipe_file: Annotated[str, typer.Argument(help="FILE.py, or FILE.py:FUNCTION: the log, and how students learn.")],
    data: Annotated[Path, typer.Option("--data", exists=True, file_okay=False, help="The folder of its logs.")],
    p95_ms: Annotated[float, typer.Option("--p95-ms", min=0.001, help="The budget of a request.")] = 50.0,
    candidates: Annotated[int, typer.Option(min=1, help="Of a request.")] = 500,
    requests: Annotated[int, typer.Option(min=1, help="Timed for each contender.")] = 100,
    shapes: Annotated[
        str, typer.Option(help="Students to think of: layers x width, by commas.")
    ] = "1x32,1x64,1x128,2x32,2x64,2x128,4x64,4x128,6x128",
    students: Annotated[int, typer.Option(min=1, help="At most so many are trained.")] = 3,
    share: Annotated[float, typer.Option(min=0, max=1, help="Of the teacher in a student's loss.")] = 0.5,
    temperature: Annotated[float, typer.Option(min=0.01, help="Of the teacher's probabilities.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Of everything that is drawn.")] = 0,
    engine: Annotated[
        Literal["graph", "pytorch"], typer.Option(help="What serves: ONNX Runtime, or PyTorch.")
    ] = "graph",
    cpu_time: Annotated[
        bool, typer.Option("--cpu-time", help="Time by the process's own time: for a machine that others use, too.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Where the student's bundle goes.")] = Path("out/student"),
    deployment: Annotated[Path | None, typer.Option(help="And where it goes as it is to be served.")] = None,
    figure: Annotated[Path | None, typer.Option(help="Draw the frontier into this PNG, SVG or PDF.")] = None,
    json_file: Json = None,
) -> None:
    """Find the student that fills a latency budget best, teach it, calibrate it, and say what that cost."""
    budget = Budget(
        p95_ms=p95_ms, num_candidates=candidates, num_requests=requests, shapes=_shapes(shapes), max_students=students,
        share=share, temperature=temperature,
    )  # fmt: skip
    recipe = read_recipe(recipe_file)
    seen = list(islice(replace(recipe, num_requests=1).batches("calibrate", data, seed=seed), _NUM_SEEN))
    with tempfile.TemporaryDirectory() as folder:
        deploying = DeployingEngine(Path(folder), seen)
        fit = fit_budget(
            read_bundle(teacher), recipe, data, budget,
            engine=deploying if engine == "graph" else lambda bundle, _: EagerScorer(bundle),
            steps=_STEPS if engine == "graph" else {}, seed=seed, now_us=lambda: time.time_ns() // 1000,
            clock_s=time.process_time if cpu_time else time.perf_counter,
            say=lambda line: _console.print(line, highlight=False),
        )  # fmt: skip
    for table in budget_tables(fit, budget):
        _console.print(table)
    if figure is not None:
        draw_frontier(fit, budget, figure)
        _console.print(f"figure: {figure}")
    write_json(json_file, budget_numbers(fit))
    if fit.bundle is None:
        raise RecipeError(
            "no student is inside the budget", found=f"the fastest takes {fit.students[0].latency.p95_ms:.1f} ms"
            if fit.students else "no shape could be built", allowed=f"P95 ≤ {p95_ms:g} ms",
            do="name smaller ones by --shapes, or allow more",
        )  # fmt: skip
    write_bundle(fit.bundle, out)
    _console.print(f"bundle: {out}")
    if deployment is not None:
        write_form(fit.bundle, fit.form, deployment, requests=seen)
        _console.print(f"deployment: {deployment}")


def _shapes(text: str) -> tuple[Shape, ...]:
    try:
        pairs = [tuple(map(int, part.split("x"))) for part in text.split(",")]
        return tuple(Shape(num_layers, width) for num_layers, width in pairs)
    except ValueError:
        raise RecipeError(
            "--shapes cannot be read", found=text, allowed="layers x width, by commas, such as 1x32,2x64"
        ) from None
