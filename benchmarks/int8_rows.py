"""What int8 rows cost in accuracy: a ranker of the marketplace, its rows read from files as float32 and as int8.

Wide & Deep with rows of width 16, trained on a simulated log; the test split, in PyTorch, with nothing else changed.
"Size" is that of all files of rows, keys and index included, of the deep part, whose rows have width 16.

    python benchmarks/int8_rows.py [--json FILE] [--requests N] [--seeds N]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from contenders.findings import Findings
from rankwell.evaluation.auc_difference import auc_difference
from rankwell.evaluation.discrimination import log_loss
from rankwell.models.model import Model
from rankwell.models.wide_deep import DeepSettings, WideDeep, WideDeepSettings
from rankwell.serving.mapped_table import MappedTable
from rankwell.serving.new_directory import NewDirectory
from rankwell.serving.request_graph import row_lookups
from rankwell.serving.row_file import file_stem
from rankwell.serving.row_map import Precision, write_row_map
from rankwell.simulation.recipe import marketplace_recipe
from rankwell.simulation.settings import MarketplaceSettings
from rankwell.simulation.simulate import simulate
from rankwell.training.predictions import Predictions, predict
from rankwell.training.recipe import Recipe
from rankwell.training.trained import train

WIDTH = 16


def recipe() -> Recipe:
    """The marketplace's, with rows of width 16."""
    whole = marketplace_recipe()
    settings = WideDeepSettings(deep=DeepSettings(width=WIDTH, hidden=(128, 64), dropout=0.1, init_scale=0.3))
    schema = whole.schema
    return replace(whole, build=lambda statistics, seed: WideDeep(schema, statistics, settings, seed=seed))


def mapped(model: Model, folder: Path, precision: Precision) -> Mapping[str, MappedTable]:
    """The model's tables as files, by part."""
    with NewDirectory.beside(folder / precision) as directory:
        for part, table in model.tables.items():
            for name in table.names:
                write_row_map(table, name, directory, file_stem(part, name), precision)
        directory.put_in_place()
    return {
        part: MappedTable(folder / precision, part, table.specs, table.width) for part, table in model.tables.items()
    }


def predicted(model: Model, tables: Mapping[str, MappedTable], batches: object) -> Predictions:
    """What the model says with its rows read from files."""
    own = {id(table): part for part, table in model.tables.items()}
    lookups = row_lookups(model).values()
    before = [lookup.table for lookup in lookups]
    for lookup, table in zip(lookups, before, strict=True):
        lookup.table = tables[own[id(table)]]
    try:
        return predict(model, batches)  # type: ignore[arg-type]
    finally:
        for lookup, table in zip(lookups, before, strict=True):
            lookup.table = table


def main() -> None:
    """Train, read both ways, print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--json", type=Path, help="write the numbers to this file")
    arguments.add_argument("--requests", type=int, default=40_000)
    arguments.add_argument("--seeds", type=int, default=3)
    given = arguments.parse_args()
    lost, low, nats, sizes = [], [], [], []
    for seed in range(given.seeds):
        with tempfile.TemporaryDirectory() as name:
            folder, whole = Path(name), recipe()
            simulate(MarketplaceSettings(), seed, num_requests=given.requests, directory=folder)
            model = train(whole, folder, seed=seed).model.eval()
            found = {}
            for precision in ("float32", "int8"):
                tables = mapped(model, folder, precision)
                sizes.append(tables["deep"].num_bytes)
                found[precision] = predicted(
                    model, tables, (b for _, b in whole.batches("test", folder, seed=None).epoch(0))
                )
            exact, int8 = found["float32"], found["int8"]
            logits_C, labels_C, weights_C, known_C = exact.of_action(0)
            p_C, q_C = logits_C.sigmoid(), int8.of_action(0)[0].sigmoid()
            difference = auc_difference(p_C, q_C, labels_C, weights_C, cluster_C=exact.request_C[known_C])
            lost.append(difference.value)
            low.append(difference.interval.high)
            nats.append(log_loss(q_C, labels_C, weights_C) - log_loss(p_C, labels_C, weights_C))
            print(f"seed {seed}: AUC lost {difference.value:.6f}, nats lost {nats[-1]:.6f}", flush=True)
    findings = Findings(f"int8 rows of width {WIDTH}, {given.requests:,} requests, {given.seeds} marketplaces")
    findings.add("size, int8 / float32", sum(sizes[1::2]) / sum(sizes[::2]), at_most=0.4)
    findings.add("AUC lost, mean", fmean(lost), at_most=0.0003)
    findings.add("AUC lost, most of a marketplace", max(lost), at_most=0.0003)
    findings.add("AUC lost, upper end of its interval, most", max(low), at_most=0.0003)
    findings.add("log loss lost, mean", fmean(nats), "nats")
    findings.print()
    findings.write(given.json)


if __name__ == "__main__":
    main()
