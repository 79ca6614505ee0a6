"""Samples a second of Wide & Deep: ours in our own loop, against a loop by hand over FBGEMM's CPU tables.

Ten fields of 10⁶ ids each by Zipf's law, rows of 16 and a weight in the wide part for each id, batches of 8,192,
row-wise AdaGrad for rows and fused AdamW for the rest, two threads. Ours runs through `fit`, with ready batches as
FBGEMM has them, and once more from a Parquet file through our reader, shuffled, into tables that grow. Contenders are
processes of their own and take turns; a rate is that of the median round's mean step.

What differs: FBGEMM's rows are 20 wide, 16 for the deep part, one for the wide part (same accumulator), three unused;
`fit` also checks gradients and losses, which the loop by hand doesn't.

Then, whether fewer bits cost anything (bfloat16, and float32 products at "medium" against "highest"): three models
learn a sample from scratch, one pass, and are compared on fresh rows, calibrated by a line over their logits (Platt) on
others.

    python benchmarks/wide_deep_rate.py [--json FILE] [--without-peers] [--steps N] [--ids N] [--sample N]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from contenders.environment import python_of
from contenders.findings import Findings
from contenders.rankwell_wide_deep import model_of, plan_of, schema_of
from contenders.turns import Contender, take_turns
from contenders.wide_deep_sample import WideDeepSample
from rankwell.calibration.platt import fit_platt
from rankwell.data.batches import Batches
from rankwell.data.log import RequestLog, log_from_table
from rankwell.data.split import WholeLog
from rankwell.evaluation.calibration_ratio import calibration_ratio
from rankwell.evaluation.discrimination import auc, log_loss
from rankwell.training.loop import LoopSettings, fit
from rankwell.training.objectives import PointwiseObjective
from rankwell.training.predictions import predict_action
from rankwell.training.stepper import Autocast, MatmulPrecision

BATCH, NUM_FIELDS = 8192, 10
OURS, FBGEMM = "rankwell", "FBGEMM"


def rates(findings: Findings, given: argparse.Namespace, folder: Path) -> None:
    """Every contender with every perceptron."""
    num_rows = (given.steps * (given.rounds + 1) + 1) * BATCH  # no contender comes to an epoch's end
    sample = WideDeepSample.drawn(num_rows, NUM_FIELDS, given.ids, seed=1)
    sample.write_parquet(folder / "log.parquet")
    ids, labels = sample.write_batches(folder, BATCH)
    del sample
    shared = {"num_fields": NUM_FIELDS, "size": given.ids, "autocast": "off", "matmul_precision": "medium"}
    ready = {**shared, "ids": ids, "labels": labels, "growing": False}
    read = {**shared, "parquet": str(folder / "log.parquet"), "batch": BATCH, "growing": True}
    for hidden in given.hidden:
        layers = [int(width) for width in hidden.split("-")]
        programs: dict[str, tuple[str, Mapping[str, Any]]] = {
            f"{OURS} float32": ("rankwell_wide_deep", ready),
            f"{OURS} bfloat16": ("rankwell_wide_deep", {**ready, "autocast": "bfloat16"}),
            f"{OURS} bfloat16, from Parquet": ("rankwell_wide_deep", {**read, "autocast": "bfloat16"}),
        }
        if not given.without_peers:
            programs |= {
                f"{FBGEMM} float32": ("fbgemm_wide_deep", {**ready, "matmul_precision": "highest"}),
                f"{FBGEMM} float32, medium": ("fbgemm_wide_deep", ready),
                f"{FBGEMM} bfloat16": ("fbgemm_wide_deep", {**ready, "autocast": "bfloat16"}),
            }
        contenders = [
            Contender(
                name,
                module,
                {**asked, "hidden": layers},
                threads=given.threads,
                python=python_of("fbgemm") if module.startswith("fbgemm") else None,
            )
            for name, (module, asked) in programs.items()
        ]
        figures = take_turns(contenders, rounds=given.rounds, num_steps=given.steps, warm_up=given.steps)
        rate = {name: 1e3 * BATCH / figure.mean_ms for name, figure in figures.items()}
        for name, samples in rate.items():
            findings.add(f"{hidden}/{name}", samples, "samples/s")
            findings.add(f"{hidden}/{name}/CPU", 1e3 * figures[name].cpu_ms / BATCH, "µs a sample")
        best, is_first = rate[f"{OURS} bfloat16"], hidden == given.hidden[0]
        for peer, target in (("float32", 2.6), ("float32, medium", None), ("bfloat16", 1.5)):
            share = best / rate.get(f"{FBGEMM} {peer}", float("nan"))
            findings.add(f"{hidden}: {OURS} bfloat16 / {FBGEMM} {peer}", share, at_least=target if is_first else None)
        share = rate[f"{OURS} float32"] / rate.get(f"{FBGEMM} float32, medium", float("nan"))
        findings.add(f"{hidden}: {OURS} float32 / {FBGEMM} float32, medium", share)
        share = rate[f"{OURS} bfloat16, from Parquet"] / best
        findings.add(f"{hidden}: from Parquet / from memory", share, at_least=0.6 if is_first else None)


def quality(findings: Findings, given: argparse.Namespace) -> None:
    """AUC and calibration ratio of float32 at both precisions of matrix products, and of bfloat16."""
    schema = schema_of(NUM_FIELDS, given.ids, growing=True)
    sizes = {"train": given.sample, "calibrate": given.sample // 4, "test": given.sample // 2}
    samples = {
        part: WideDeepSample.drawn(size, NUM_FIELDS, given.ids, seed=seed)
        for seed, (part, size) in enumerate(sizes.items(), 2)
    }
    logs = {part: log_from_table(sample.table(), schema) for part, sample in samples.items()}
    few = log_from_table(samples["calibrate"].table().slice(0, 1000), schema)
    arithmetics: dict[str, tuple[MatmulPrecision, Autocast]] = {
        "float32, highest": ("highest", "off"),
        "float32": ("medium", "off"),
        "bfloat16": ("medium", "bfloat16"),
    }
    found: dict[str, dict[str, float]] = {}
    for arithmetic, (precision, autocast) in arithmetics.items():
        model = model_of(schema, (256, 128))
        train = Batches(logs["train"], WholeLog("train"), "train", num_requests=BATCH, seed=0)
        loop = LoopSettings(max_epochs=1, matmul_precision=precision, autocast=autocast)
        fit(model, PointwiseObjective(schema), plan_of(), train, _in_order(few), loop, seed=0)
        logits, labels, weights = predict_action(model, _in_order(logs["calibrate"]), 0)
        calibrator = fit_platt(logits, labels, weights, torch.zeros(len(labels), 0, dtype=torch.int64))
        logits, labels, weights = predict_action(model, _in_order(logs["test"]), 0)
        probabilities = calibrator(logits, torch.zeros(len(labels), 0, dtype=torch.int64))
        found[arithmetic] = {
            "AUC": auc(probabilities, labels, weights),
            "log loss": log_loss(probabilities, labels, weights),
            "calibration ratio": calibration_ratio(probabilities, labels, weights),
            "predicted / true sum": float(probabilities.sum() / samples["test"].truth_N.sum()),
        }
        for name, value in found[arithmetic].items():
            findings.add(f"quality/{arithmetic}/{name}", value)
    truth, labels_N = samples["test"].truth_N, samples["test"].labels_N
    findings.add("quality/truth itself/AUC", auc(truth, labels_N, [1.0] * len(truth)))
    targets = {"AUC": 3e-4, "calibration ratio": 2e-3}
    for name, target in targets.items():
        for one, other in (("bfloat16", "float32"), ("float32", "float32, highest")):
            apart = abs(found[one][name] - found[other][name])
            findings.add(f"quality: {name} in {one}, apart from {other}", apart, at_most=target)


def _in_order(log: RequestLog) -> Batches:
    return Batches(log, WholeLog("tune"), "tune", num_requests=BATCH, seed=None)


def main() -> None:
    """Measure rates, then quality, and print them."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--json", type=Path, help="write the numbers to this file")
    arguments.add_argument("--without-peers", action="store_true", help="no FBGEMM, and no environment for it")
    arguments.add_argument("--hidden", nargs="+", default=["256-128", "400-400-400"], help="perceptrons to try")
    arguments.add_argument("--ids", type=int, default=10**6, help="ids of each field")
    arguments.add_argument("--sample", type=int, default=3 * 10**6, help="rows that quality is learned from")
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--rounds", type=int, default=5, help="of which the median is printed")
    arguments.add_argument("--steps", type=int, default=64, help="steps a round: two of the reader's buffers")
    given = arguments.parse_args()
    torch.set_num_threads(given.threads)
    findings = Findings(f"Wide & Deep, {NUM_FIELDS} fields × {given.ids:,} ids, batches of {BATCH:,}")
    with tempfile.TemporaryDirectory() as folder:
        rates(findings, given, Path(folder))
    quality(findings, given)
    findings.print()
    if given.without_peers:
        print("FBGEMM was not run: --without-peers")
    findings.write(given.json)


if __name__ == "__main__":
    main()
