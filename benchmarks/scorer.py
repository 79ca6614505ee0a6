"""How long a request takes to score: a deployment's graph against the same model in PyTorch, one thread each.

500 candidates, 50 events, 2 layers of width 64, 2 actions; candidates that do not see each other, that all do, and
2,000 of which each sees the nearest 50. The contenders take turns, request by request, so that a busy machine is busy
for all; times are medians over requests of wall time, and the ratio is that of the medians. Beside them: the same graph
with int8 products, whose scales are found as they come ("dynamic") or were measured before ("static"), what the
calibrators are of it, and the rows' files as float32 and int8. "After 45 ms" is what a request costs that comes at 20 a
second: the core did not sleep, and did nothing but read a clock, yet what the last request left in its caches is gone
where others share them.

    python benchmarks/scorer.py [--json FILE] [--requests N] [--rounds N]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import onnxruntime

from contenders.findings import Findings
from contenders.serving_cases import arguments, measured
from contenders.serving_world import bundle_of, requests
from rankwell.serving.deployment import Deployment, read_deployment, write_deployment
from rankwell.serving.quantised_graph import dynamic_int8_graph, static_int8_graph
from rankwell.serving.request_graph import LOGITS, PROBABILITIES, SEGMENTS, request_graph
from rankwell.serving.scorer import EagerScorer
from rankwell.types import Batch


def timed(ways: dict[str, Callable[[int], object]], num: int, rounds: int) -> dict[str, tuple[float, float]]:
    """Median and P95 of each way, in ms, taking turns."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for i in range(num):
            for name, way in ways.items():
                started = time.perf_counter()
                way(i)
                seconds[name].append(time.perf_counter() - started)
    return {name: (1e3 * median(s), 1e3 * float(np.quantile(s, 0.95))) for name, s in seconds.items()}


def after_a_while(way: Callable[[int], object], num: int) -> tuple[float, float]:
    """Median and P95, in ms, each time after 45 ms in which the core reads a clock and nothing else."""
    seconds = []
    for i in range(num):
        until = time.perf_counter() + 0.045
        while time.perf_counter() < until:
            pass
        started = time.perf_counter()
        way(i)
        seconds.append(time.perf_counter() - started)
    return 1e3 * median(seconds), 1e3 * float(np.quantile(seconds, 0.95))


def at_once(way: Callable[[int], object], num: int) -> tuple[float, float]:
    """Median and P95, in ms, one after the other and nothing between."""
    return timed({"": way}, num, 1)[""]


def deployed(folder: Path, name: str, **settings: Any) -> Deployment:
    """A deployment of its own."""
    bundle = settings.pop("bundle")
    write_deployment(bundle, folder / name, **settings)
    return read_deployment(folder / name)


def calibration_us(graph: bytes, inputs: Sequence[Mapping[str, np.ndarray]], num: int = 2000) -> float:
    """What the calibrators add to a run of the graph: less the same graph that ends with its logits, in turns, µs."""
    model = onnx.load_from_string(graph)
    read = [value.name for value in model.graph.input if value.name != SEGMENTS]
    shorter = onnx.utils.Extractor(model).extract_model(read, [LOGITS]).SerializeToString()
    whole, ending = (_session(graph), [PROBABILITIES]), (_session(shorter), [LOGITS])
    differences = []
    for i in range(num):
        took = {}
        for name, (session, asked) in (("whole", whole), ("ending", ending))[:: 1 if i % 2 else -1]:
            started = time.perf_counter()
            session.run(asked, inputs[i % len(inputs)])
            took[name] = time.perf_counter() - started
        differences.append(took["whole"] - took["ending"])
    return 1e6 * median(differences)


def _session(graph: bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def measure(findings: Findings, kind: str, num_candidates: int, given: argparse.Namespace, folder: Path) -> None:
    """One kind of model."""
    bundle = bundle_of(kind)
    graph = request_graph(bundle)
    exact = deployed(folder, f"{kind}-float32", bundle=bundle, graph=graph)
    scorer, eager = exact.scorer(), EagerScorer(bundle)
    asked: list[Batch] = requests(bundle, given.requests, num_candidates=num_candidates)
    inputs = [scorer.inputs(batch) for batch in asked[:20]]
    dynamic = deployed(folder, f"{kind}-dynamic", bundle=bundle, graph=dynamic_int8_graph(graph)).scorer()
    static = deployed(folder, f"{kind}-static", bundle=bundle, graph=static_int8_graph(graph, inputs)).scorer()
    int8 = deployed(folder, f"{kind}-int8", bundle=bundle, graph=graph, precision="int8")
    int8_scorer = int8.scorer()
    ways: dict[str, Callable[[int], object]] = {
        "PyTorch": lambda i: eager.score(asked[i]),
        "graph": lambda i: scorer.score(asked[i]),
        "gathering rows, of it": lambda i: scorer.inputs(asked[i]),
        "graph, dynamic int8 products": lambda i: dynamic.score(asked[i]),
        "graph, static int8 products": lambda i: static.score(asked[i]),
        "graph, int8 rows": lambda i: int8_scorer.score(asked[i]),
    }
    for way in ways.values():
        way(0)
    found = timed(ways, len(asked), given.rounds)
    name = f"{kind}, {num_candidates} candidates"
    for way, (middle, late) in found.items():
        share = {"graph": 2.0} if kind == "history" else {}
        findings.add(f"{name}: {way}", middle, "ms")
        findings.add(f"{name}: {way}, P95", late, "ms", at_most=share.get(way))
    for when, rest in (("one after the other", at_once), ("after 45 ms", after_a_while)):
        middle, late = rest(ways["graph"], len(asked))
        findings.add(f"{name}: graph, {when}", middle, "ms")
        findings.add(f"{name}: graph, {when}, P95", late, "ms")
    findings.add(f"{name}: calibrators, of it", calibration_us(graph, inputs), "µs", at_most=10)
    findings.add(f"{name}: PyTorch / graph", found["PyTorch"][0] / found["graph"][0], at_least=1.5)
    int8_ratio = found["PyTorch"][0] / found["graph, dynamic int8 products"][0]
    findings.add(f"{name}: PyTorch / graph, dynamic int8 products", int8_ratio)
    for precision in ("dynamic", "static"):
        ratio = found["graph"][0] / found[f"graph, {precision} int8 products"][0]
        findings.add(f"{name}: graph / graph, {precision} int8", ratio)
    if kind == "history":
        for part, width in (("deep", 16), ("wide", 2), ("crosses", 2)):
            ratio = int8.table_bytes[part] / exact.table_bytes[part]
            findings.add(
                f"files of rows of width {width} ({part}), int8 / float32", ratio, at_most=0.4 if width == 16 else None
            )


def main() -> None:
    """Measure all cases, print, write."""
    asked = arguments(__doc__)
    asked.add_argument("--rounds", type=int, default=5)
    measured("scoring a request, one thread", measure, asked.parse_args())


if __name__ == "__main__":
    main()
