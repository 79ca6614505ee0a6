"""What it costs to log an answer, and to compact and read what was logged.

    python benchmarks/served_log.py [--answers N] [--candidates K] [--json FILE]

Answers of K candidates, of which 20 are shown, with 6 id and 8 number columns, a history of 50 events and 2 actions.
Medians and 95th percentiles of an append, encoding and write together, for rows of what was shown and rows of all
candidates, without fsync; then the rows a second of a compaction, and the bytes of a row in a segment.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from rankwell.schema import Action, Categorical, Exposure, Numeric, Schema, Sequence
from rankwell.serving.log_compaction import compact_served
from rankwell.serving.log_reader import read_served
from rankwell.serving.served_log import ServedLog
from rankwell.serving.served_request import ServedRequest
from rankwell.types import Events, Features

NUM_SHOWN = 20
NUM_EVENTS = 50
SCHEMA = Schema(
    features=(
        Categorical(name="member", on="request", column="member_id"),
        Numeric(name="years", on="request"),
        *(Categorical(name=f"id{i}") for i in range(6)),
        *(Numeric(name=f"number{i}") for i in range(8)),
    ),
    sequences=(Sequence(name="history", fields=(Categorical(name="item", on="event", table="id0"),)),),
    actions=(Action(name="click", window_s=60), Action(name="apply", window_s=60)),
    item="id0",
    exposure=Exposure(position="position", propensity="propensity"),
    bid="bid_micros",
)


def answer(num_candidates: int) -> ServedRequest:
    """One answer, of drawn numbers."""
    generator = torch.Generator().manual_seed(0)
    item_ids_K = torch.arange(num_candidates)
    candidates = {f"id{i}": torch.randint(0, 10**6, (num_candidates,), generator=generator) for i in range(1, 6)}
    candidates |= {f"number{i}": torch.rand(num_candidates, generator=generator) for i in range(8)}
    events = {"item": torch.arange(NUM_EVENTS), "age_s": torch.arange(NUM_EVENTS, 0, -1) * 100.0}
    logits_KA = torch.randn(num_candidates, 2, generator=generator, dtype=torch.float64)
    return ServedRequest(
        request_id=0,
        member_id=5,
        time_us=10**15,
        features=Features(
            {"member": torch.tensor([5]), "years": torch.tensor([3.0])},
            {"history": Events(events, torch.tensor([0, NUM_EVENTS]))},
            {"id0": item_ids_K, **candidates},
            torch.tensor([0, num_candidates]),
            torch.zeros(num_candidates, dtype=torch.int64),
        ),
        item_ids_K=item_ids_K,
        places_n=torch.randperm(num_candidates, generator=generator)[:NUM_SHOWN],
        propensities_n=torch.ones(NUM_SHOWN, dtype=torch.float64),
        logits_KA=logits_KA,
        probabilities_KA=logits_KA.sigmoid(),
        bundle_id="a" * 16,
        segments_KS=item_ids_K[:, None] % 7,
        prices_micros_n=np.full(NUM_SHOWN, 10_000),
        audit={"bid_micros": torch.full((num_candidates,), 20_000)},
    )


def measured(num_answers: int, num_candidates: int, all_candidates_rate: float) -> dict[str, float]:
    """One log, written and compacted."""
    one = answer(num_candidates)
    answers = [replace(one, request_id=n, time_us=one.time_us + n) for n in range(num_answers)]
    took_us = np.empty(num_answers)
    with tempfile.TemporaryDirectory() as folder:
        log = ServedLog(folder, SCHEMA, worker="w0", seed=0, now_us=lambda: 0, all_candidates_rate=all_candidates_rate)
        for n, each in enumerate(answers):
            started = time.perf_counter()
            assert log.append(each)
            took_us[n] = (time.perf_counter() - started) * 1e6
        num_bytes = log.counts.bytes
        log.close()
        started = time.perf_counter()
        num_read = sum(len(rows) for rows, _ in read_served(folder))
        read_s = time.perf_counter() - started
        started = time.perf_counter()
        report = compact_served(folder)
        compact_s = time.perf_counter() - started
        assert num_read == report.num_rows == num_answers
    return {
        "append_us": float(np.median(took_us)),
        "append_p95_us": float(np.quantile(took_us, 0.95)),
        "bytes_a_row": num_bytes / num_answers,
        "read_rows_a_s": num_answers / read_s,
        "compact_rows_a_s": num_answers / compact_s,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=20_000)
    parser.add_argument("--candidates", type=int, default=500)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    numbers: dict[str, float] = {}
    for name, rate, num in (("shown", 0.0, arguments.answers), ("all", 1.0, arguments.answers // 10)):
        for key, value in measured(num, arguments.candidates, rate).items():
            numbers[f"{name}_{key}"] = value
            print(f"{name:6} {key:22} {value:12,.1f}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(numbers, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
