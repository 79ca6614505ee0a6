"""The house tour: the whole way of the data, from a simulated marketplace to a report one can read.

log → batches → logits → probabilities → ranked list → impressions, and a report beside them
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from rich.console import Console

from rankwell import __version__
from rankwell.app.plan_table import plan_printer
from rankwell.app.progress import progress_of_simulation, progress_of_training
from rankwell.app.report import ExampleCandidate, ExampleRequest, ModelResult, ReportData, write_report
from rankwell.app.run import action_table, bundle_of, by_action
from rankwell.data.replay import request_of_batch
from rankwell.data.writer import impressions_table
from rankwell.schema import Schema
from rankwell.serving.bundle import write_bundle
from rankwell.serving.ranker import Ranker
from rankwell.simulation.recipe import KINDS, WIDE_DEEP, marketplace_recipe, true_clicks
from rankwell.simulation.settings import MarketplaceSettings
from rankwell.simulation.simulate import simulate
from rankwell.simulation.truth import read_truth
from rankwell.training.trained import judge, train
from rankwell.types import Batch

__all__ = ["Demonstration", "demonstrate"]


@final
@dataclass(frozen=True, slots=True)
class Demonstration:
    """Where the report stands, and the numbers of all models on test."""

    report: Path
    numbers: Mapping[str, float]


def demonstrate(out: Path, *, num_requests: int, seed: int, console: Console) -> Demonstration:
    """Simulate, train three models, calibrate, evaluate, bundle, rank an example, report.

    Args:
        out: Folder; what an earlier demonstration left in it is replaced.
        num_requests: To simulate.
        seed: Of the marketplace and of training.
        console: For progress and tables.
    """
    for old in ("data", "bundle"):
        shutil.rmtree(out / old, ignore_errors=True)
    clock, settings = _Clock(), MarketplaceSettings()

    with clock.stage("simulate"), progress_of_simulation(console, num_requests) as on_requests:
        paths = simulate(settings, seed, num_requests=num_requests, directory=out / "data", progress=on_requests)
    truth = true_clicks(read_truth(paths.truth))

    models: list[ModelResult] = []
    numbers: dict[str, float] = {}
    for kind in KINDS:
        recipe = marketplace_recipe(kind)
        on_plan = plan_printer(console, kind.name, recipe.optimizers)
        with clock.stage(f"train {kind.name}"), progress_of_training(console, recipe.loop.max_epochs, kind.name) as bar:
            trained = train(recipe, out / "data", seed=seed, on_plan=on_plan, on_step=bar)
        with clock.stage("evaluate"):
            judged = judge(recipe, trained.model, trained.calibrators, out / "data", truth=truth)
        models.append(ModelResult(kind.name, judged.raw, judged.calibrated, trained.history))
        numbers |= judged.numbers(f"{kind.name}/")
        console.print(judged.calibrated.table(f"{kind.name}, test, calibrated"))
        console.print(action_table(by_action(recipe, judged), f"{kind.name}, test, calibrated, every action"))

    with clock.stage("bundle"):
        write_bundle(bundle_of(trained, recipe, judged), out / "bundle")
    with clock.stage("rank an example"):
        example = _example(Ranker(out / "bundle"), recipe.batches("test", out / "data", seed=None).epoch(0), out)

    report = write_report(
        ReportData(
            title="rankwell: a job marketplace",
            subtitle=f"Three rankers trained on {num_requests:,} simulated requests whose true probabilities are "
            "known, calibrated on later requests and tested on still later ones.",
            models=tuple(models),
            headline=WIDE_DEEP.name,
            by_action=by_action(recipe, judged),
            stage_seconds=clock.seconds,
            example=example,
            provenance={"rankwell": __version__, "seed": str(seed), "requests": f"{num_requests:,}",
                        "split": str(recipe.parts["train"].split), "best epoch": str(trained.history.best_epoch + 1)},
            segment_names=_SEGMENT_NAMES,
        ),
        out / "report.html",
    )  # fmt: skip
    return Demonstration(report, numbers)


_SEGMENT_NAMES: Mapping[str, Mapping[int | str | bool, str]] = {
    "experience_band": dict(enumerate(("0–2 years", "2–5", "5–10", "10–15", "15–20", "20 and more"))),
}


def _example(ranker: Ranker, batches: Iterator[tuple[object, Batch]], out: Path) -> ExampleRequest:
    """The first test request with a click, ranked anew; the request and its impressions are written beside."""
    _, batch = next(batches)
    clicked_C = batch.targets.labels_CA[:, 0] == 1
    index = int(batch.features.request_C[clicked_C][0]) if clicked_C.any() else 0
    request = request_of_batch(batch, index, ranker.schema)
    (out / "request.json").write_text(json.dumps(request))
    ranking = ranker.rank(request)
    (out / "impressions.json").write_text(json.dumps(impressions_table(ranking.impressions).to_pylist(), indent=1))
    first, last = int(batch.features.offsets[index]), int(batch.features.offsets[index + 1])
    jobs = batch.audit.item_ids_C[first:last].tolist()
    place = {job: first + k for k, job in enumerate(jobs)}
    bids_C = batch.audit.columns[ranker.schema.bid or ""]
    described = [_described(request, ranker.schema, jobs.index(i.item_id)) for i in ranking.impressions]
    return ExampleRequest(
        asked=f"A member of seniority {request['context']['seniority']} with "
        f"{request['context']['experience_years']:.0f} years of experience.",
        candidates=tuple(
            ExampleCandidate(
                item_id=shown.item_id,
                title=text,
                probability=shown.probability,
                bid_micros=int(bids_C[place[shown.item_id]]),
                happened=bool(clicked_C[place[shown.item_id]]),
            )
            for shown, text in zip(ranking.impressions, described, strict=True)
        ),
        num_candidates=len(jobs),
        sorted_by="p(click)",
    )


def _described(request: Mapping[str, Any], schema: Schema, k: int) -> str:
    job = {name: values[k] for name, values in request["candidates"].items()}
    same = "the member's own title" if job["job_title"] == request["context"]["title"] else f"title {job['job_title']}"
    return f"{same}, seniority {job['job_seniority']}, industry {job['job_industry']}"


@final
@dataclass
class _Clock:
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started
