"""What comes next, judged by the protocols of SASRec and of S3-Rec: `rankwell.training.next_item_recipe`, trained once.

The last event of each member with three or more is the target. *100 negatives*: held against items drawn uniformly from
those that the member has no event with, the mean of `--draws` draws. *All items*: held against all but those of
the member's own events. Settings and the epoch were chosen on the last but one; the target is read here alone.

    python benchmarks/next_item.py --data DIR --set NAME [--seeds N] [--draws N] [--checkpoints DIR] [--json FILE]

reads ``DIR/NAME_sequences.parquet``, with a member a row: ``user_id`` and ``items``. The targets of video are those of
pmixer/SASRec.pytorch (pre-LN, 50 events), those of beauty and lastfm SASRec's in RUCAIBox/CIKM2020-S3Rec.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from contenders.findings import Findings
from rankwell.data.batches import Batches
from rankwell.data.log import log_from_table
from rankwell.data.split import WholeLog
from rankwell.evaluation.leave_one_out import ItemSequences, read_sequences
from rankwell.evaluation.next_item import TargetPlaces, places_among_sampled
from rankwell.models.next_item import NextItem
from rankwell.training.loop import StepReport
from rankwell.training.next_item import next_item_places
from rankwell.training.next_item_recipe import SEQUENCES, next_item_recipe
from rankwell.training.predictions import predict_action
from rankwell.training.trained import Trained, train

NUM_NEGATIVES = 100
TARGETS: Mapping[str, Mapping[str, float]] = {
    "video": {"HR@10, 100 negatives": 0.7442, "nDCG@10, 100 negatives": 0.5376},
    "beauty": {"HR@10, all items": 0.0605, "nDCG@10, all items": 0.0318},
    "lastfm": {"HR@10, all items": 0.0688, "nDCG@10, all items": 0.0390},
}
"""Published figures, to be reached."""


def held_out(sequences: ItemSequences, num_negatives: int, seed: int) -> Batches:
    """The last event of each member, and negatives."""
    table = sequences.held_out(back=1, num_negatives=num_negatives, seed=seed)
    log = log_from_table(table, SEQUENCES, layout="requests")
    return Batches(log, WholeLog("test"), "test", num_requests=128, seed=None)


def figures_of(trained: Trained, sequences: ItemSequences, num_draws: int) -> dict[str, float]:
    """HR@10 and nDCG@10 of one model by both protocols."""
    model = trained.model
    assert isinstance(model, NextItem)
    judged = sequences.judged()
    everything = next_item_places(model, held_out(judged, 0, 0), sequences.item_ids, known=judged.items)
    figures = {"HR@10, all items": everything.hit_rate(10), "nDCG@10, all items": everything.ndcg(10)}
    drawn = []
    for seed in range(num_draws):
        logits_C, _, _ = predict_action(model, held_out(sequences, NUM_NEGATIVES, seed), 0)
        logits_RN = logits_C.view(-1, 1 + NUM_NEGATIVES)
        drawn.append(places_among_sampled(logits_RN[:, 1:], logits_RN[:, 0]))
    figures["HR@10, 100 negatives"], figures["nDCG@10, 100 negatives"] = means(drawn)
    return figures


def means(drawn: list[TargetPlaces]) -> tuple[float, float]:
    """HR@10 and nDCG@10, the means over draws of the negatives."""
    return float(np.mean([d.hit_rate(10) for d in drawn])), float(np.mean([d.ndcg(10) for d in drawn]))


def by_popularity(sequences: ItemSequences) -> TargetPlaces:
    """What the number of an item's events in train says of the targets, among negatives of seed 0."""
    train = sequences.train()
    names = np.concatenate([np.asarray(train[column].combine_chunks().values) for column in ("history_item", "item")])
    counts_I = np.bincount(names, minlength=int(sequences.item_ids.max()) + 1)
    table = sequences.held_out(back=1, num_negatives=NUM_NEGATIVES, seed=0)
    counts_RN = torch.from_numpy(counts_I[np.asarray(table["item"].combine_chunks().values)]).double()
    counts_RN = counts_RN.view(-1, 1 + NUM_NEGATIVES)
    return places_among_sampled(counts_RN[:, 1:], counts_RN[:, 0])


def say_epochs(report: StepReport) -> None:
    """A line at the end of each epoch."""
    if report.num_requests == report.num_requests_total:
        print(f"epoch {report.epoch + 1}: {report.loss:.3f} nats a request", flush=True)


def main() -> None:
    """Train, judge and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data", type=Path, help="the folder of the sequences; without it nothing is measured")
    arguments.add_argument("--set", default="beauty", help="video, beauty, lastfm, or another NAME_sequences.parquet")
    arguments.add_argument("--seeds", type=int, default=1, help="models to train")
    arguments.add_argument("--draws", type=int, default=3, help="draws of the 100 negatives")
    arguments.add_argument("--checkpoints", type=Path, help="a folder: a run that was killed goes on from there")
    arguments.add_argument("--json", type=Path, help="write the numbers to this file")
    given = arguments.parse_args()
    if given.data is None:
        print("nothing to measure: name the folder of the sequences with --data")
        return
    name, file = given.set, f"{given.set}_sequences.parquet"
    sequences, recipe = read_sequences(given.data / file), next_item_recipe(given.set, file)
    found: list[dict[str, float]] = []
    for seed in range(given.seeds):
        checkpoints = None if given.checkpoints is None else given.checkpoints / f"{name}-{seed}"
        trained = train(recipe, given.data, seed=seed, checkpoints=checkpoints, on_step=say_epochs)
        for record in trained.history.epochs:
            seconds = record.seconds + record.tune_s
            print(f"seed {seed} epoch {record.epoch + 1}: tune nDCG@10 {record.monitored:.4f}, {seconds:.0f} s")
        found.append(figures_of(trained, sequences, given.draws))
        found[-1]["epochs to the best"] = trained.history.best_epoch + 1
        found[-1]["seconds of training"] = trained.seconds["train"]
        print(f"seed {seed}: {found[-1]}", flush=True)
    findings = Findings(f"{name}: what comes next, {given.seeds} models, {given.draws} draws of negatives")
    for figure in found[0]:
        values = [figures[figure] for figures in found]
        findings.add(f"{figure}: mean", float(np.mean(values)), at_least=TARGETS.get(name, {}).get(figure))
        if len(values) > 1:
            findings.add(f"{figure}: sd over models", float(np.std(values, ddof=1)))
    popular = by_popularity(sequences)
    findings.add("by popularity: HR@10, 100 negatives", popular.hit_rate(10))
    findings.add("by popularity: nDCG@10, 100 negatives", popular.ndcg(10))
    findings.print()
    findings.write(given.json)


if __name__ == "__main__":
    main()
