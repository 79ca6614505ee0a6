"""What a deployment's graph costs, and how near PyTorch it stays, by what it is run by: TensorRT, CUDA, the CPU.

Of each provider that the installed ONNX Runtime has and can load: the graph in float32, which is to be within 1e-5 of
PyTorch's numbers at 1, 7, 500 and 2,000 candidates with 0, 1 and 50 events, and in float16, with what that costs in
accuracy and what it saves in time. 500 candidates, 50 events, 2 actions; 2,000 candidates of which each sees the
nearest 50. All contenders take turns, request by request; one thread each on the CPU. Where a processor has no
float16 products, ONNX Runtime casts back and forth, and float16 is slower.

    python benchmarks/providers.py [--json FILE] [--requests N] [--width W] [--layers N]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import onnxruntime
import torch

from contenders.findings import Findings
from contenders.serving_cases import arguments, measured
from contenders.serving_world import NUM_EVENTS, bundle_of, requests
from rankwell.errors import BundleError
from rankwell.serving.budget import measure_latency
from rankwell.serving.deployment import Deployment, read_deployment, write_deployment
from rankwell.serving.graph_scorer import PROVIDERS, GraphScorer
from rankwell.serving.half_precision_graph import half_precision_graph
from rankwell.serving.request_graph import request_graph
from rankwell.serving.scorer import EagerScorer, Scorer

EAGER = "PyTorch, CPU"
SIZES = ((1, 0), (7, 1), (500, 0), (500, NUM_EVENTS), (2000, 1), (2000, NUM_EVENTS))


def loaded(deployment: Deployment, provider: str) -> GraphScorer | None:
    """A scorer that is run by this provider; None where its libraries cannot be loaded."""
    try:
        return deployment.scorer(providers=[provider])
    except BundleError as error:
        print(f"{provider}: {error}")
        return None


def measure(findings: Findings, kind: str, num_candidates: int, given: argparse.Namespace, folder: Path) -> None:
    """One kind of model, by all providers."""
    bundle = bundle_of(kind, width=given.width, num_layers=given.layers)
    graph = request_graph(bundle)
    deployments = {}
    for precision, written in (("float32", graph), ("float16", half_precision_graph(graph))):
        write_deployment(bundle, folder / f"{kind}-{precision}", graph=written)
        deployments[precision] = read_deployment(folder / f"{kind}-{precision}")
    scorers: dict[str, Scorer] = {EAGER: EagerScorer(bundle)}
    for provider in (p for p in PROVIDERS if p in onnxruntime.get_available_providers()):
        for precision, deployment in deployments.items():
            scorer = loaded(deployment, provider)
            if scorer is not None:
                scorers[f"{provider.removesuffix('ExecutionProvider')}, {precision}"] = scorer
    name = f"{kind}, {num_candidates} candidates"
    apart = {way: torch.zeros(2, dtype=torch.float64) for way in scorers}
    for candidates, events in SIZES:
        for batch in requests(bundle, 3, num_candidates=candidates, num_events=events):
            expected = scorers[EAGER].score(batch)
            for way, scorer in scorers.items():
                found = scorer.score(batch)
                off_CA = (found.logits_CA - expected.logits_CA).abs() / expected.logits_CA.abs().clamp(min=1.0)
                moved_CA = (found.probabilities_CA - expected.probabilities_CA).abs()
                apart[way] = torch.maximum(apart[way], torch.stack([off_CA.max(), moved_CA.max()]))  # it keeps NaN
    asked = requests(bundle, given.requests, num_candidates=num_candidates)
    latency = measure_latency(scorers, asked, clock_s=time.perf_counter)
    for way in scorers:
        findings.add(f"{name}: {way}", latency[way].p50_ms, "ms")
        findings.add(f"{name}: {way}, P95", latency[way].p95_ms, "ms")
        if way != EAGER:
            exact = 1e-5 if way.endswith("float32") else None
            findings.add(f"{name}: {way}, logits off, of themselves", float(apart[way][0]), at_most=exact)
            findings.add(f"{name}: {way}, probabilities off", float(apart[way][1]), at_most=exact)
        if way.endswith("float16"):
            ratio = latency[way.replace("float16", "float32")].p50_ms / latency[way].p50_ms
            findings.add(f"{name}: {way}, times as fast as in float32", ratio)


def main() -> None:
    """Measure all cases, print, write."""
    asked = arguments(__doc__)
    asked.add_argument("--width", type=int, default=64)
    asked.add_argument("--layers", type=int, default=2, help="over the history; over the list there are 2")
    measured("a request's graph by what it is run by", measure, asked.parse_args())


if __name__ == "__main__":
    main()
