"""A stream whose world changes, predicted before each row is learned from: frozen, online, both at once, and brought
up to date.

Elec holds the electricity market of New South Wales in half hours: will the price be above that of the last day? Every
model has one weight for each bin of a column, half hour and weekday (quantile bins of the first third). Of the first
third of the stream, the batch model learns the first half, and all settings are chosen on the second half by
prequential log loss; then it learns the whole third, and the figures are those of the other two thirds. The hinge form
of passive-aggressive is there as what not to do: nothing makes its numbers chances. One correction may hold both a
warm update and a blend: then the online model is mixed into the updated one.

    python benchmarks/elec.py --data DIR [--json FILE] [--rows N]

Letters: n rows · F columns · D weights.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from scipy.special import expit, logit

from contenders.findings import Findings
from rankwell.mitigation.blend import BlendWeight
from rankwell.mitigation.wide_update import FtrlUpdate, ProximalUpdate, WideRows
from rankwell.schema import TableSpec
from rankwell.tables.ftrl import Ftrl
from rankwell.tables.loan import IdColumn
from rankwell.tables.table import Table

Floats = NDArray[np.float64]
NUMBERS = ("nswprice", "nswdemand", "vicprice", "vicdemand", "transfer")
DAY, NUM_BINS = 48, 16
RATES, EPOCHS = (0.05, 0.2), (2, 8)
STEPS, REACHES = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0), (0.25, 0.5, 1.0)
COSTS = (0.01, 0.05, 0.1, 0.5, 1.0)
FAST_STEPS, MOST, FULL_AT, BLEND_STEPS = (0.5, 1.0, 2.0), (0.8, 0.9, 0.95), (0.1, 0.3, 0.6), (0.3, 1.0)
LIMIT = 2.0
"""Standard errors of a week's excess loss, above which it is drift."""


class Stream:
    """The rows from one to another, as ids."""

    def __init__(self, path: Path, num: int, num_reference: int) -> None:
        table = pq.read_table(path).slice(0, num)
        self.labels_n = table["class"].to_numpy().astype(np.float64)
        columns = [np.round(table["period"].to_numpy() * (DAY - 1)), table["t"].to_numpy() // DAY % 7]
        for name in NUMBERS:
            values_n = table[name].to_numpy()
            edges = np.unique(np.quantile(values_n[:num_reference], np.arange(1, NUM_BINS) / NUM_BINS))
            columns.append(np.searchsorted(edges, values_n, side="right"))
        columns.append(np.zeros(len(self.labels_n)))
        ids_nF = np.stack(columns, axis=1).astype(np.int64)
        starts_F = np.concatenate([[0], np.cumsum(ids_nF.max(axis=0) + 1)])
        self.ids_nF, self.num_ids = ids_nF + starts_F[:-1], int(starts_F[-1])

    def rows(self, first: int, last: int, logits_n: Floats | None = None) -> WideRows:
        labels_n = self.labels_n[first:last]
        logits_n = np.zeros(len(labels_n)) if logits_n is None else logits_n
        tables = ("wide",) * self.ids_nF.shape[1]
        return WideRows(tables, self.ids_nF[first:last], logits_n, labels_n, np.ones(len(labels_n)))


def batch_model(stream: Stream, last: int, rate: float, epochs: int) -> Table:
    """FTRL, row by row, epochs over the first rows in an order of its own."""
    table = Table([TableSpec(name="wide", num_ids=stream.num_ids)], width=1, seed=0, init_scale=0.0)
    table.train_with(Ftrl(learning_rate=rate, beta=1.0))
    rng = np.random.default_rng(0)
    for _ in range(epochs):
        order_n = rng.permutation(last)
        shuffled = WideRows(
            ("wide",) * stream.ids_nF.shape[1], stream.ids_nF[order_n], np.zeros(last), stream.labels_n[order_n],
            np.ones(last),
        )  # fmt: skip
        goes_on(table, shuffled, rate)
    return table


def goes_on(table: Table, rows: WideRows, rate: float) -> Floats:
    """FTRL a row at a time, in plain steps; what each row was predicted before."""
    table.learning_rate = rate
    ids_nF, predicted_n = torch.from_numpy(rows.keys_nF), np.empty(len(rows.labels_n))
    for i, label in enumerate(rows.labels_n.tolist()):
        (block,) = table.checkout([[IdColumn("wide", ids_nF[i])]]).blocks
        predicted_n[i] = float(block.detach().sum())
        block.grad = torch.full_like(block, float(expit(predicted_n[i])) - label)
        table.apply()
    return predicted_n


def frozen_logits(table: Table, rows: WideRows) -> Floats:
    ids = [IdColumn("wide", torch.from_numpy(rows.keys_nF[:, f].copy())) for f in range(rows.keys_nF.shape[1])]
    return table.read([ids]).blocks[0].double().sum(dim=1).numpy()


def unbounded(rows: WideRows, step: float) -> Floats:
    """Online by itself: a proximal step a row, with no batch model and no bounds."""
    weights_D, predicted_n = np.zeros(int(rows.keys_nF.max()) + 1), np.empty(len(rows.labels_n))
    for i, label in enumerate(rows.labels_n.tolist()):
        at_F = rows.keys_nF[i]
        z = predicted_n[i] = float(weights_D[at_F].sum())
        low, high = (0.0, 1.0) if label else (-1.0, 0.0)
        for _ in range(30):
            s = (low + high) / 2
            low, high = (s, high) if s < label - expit(z + step * len(at_F) * s) else (low, s)
        weights_D[at_F] += step * low
    return predicted_n


def hinge(rows: WideRows, cost: float) -> Floats:
    """Crammer's PA-I from the batch model on: as far as the margin of 1 asks, and `cost` at most."""
    changes_D, predicted_n = np.zeros(int(rows.keys_nF.max()) + 1), np.empty(len(rows.labels_n))
    for i, label in enumerate(rows.labels_n.tolist()):
        at_F, side = rows.keys_nF[i], 2 * label - 1
        predicted_n[i] = rows.logits_n[i] + changes_D[at_F].sum()
        changes_D[at_F] += side * min(cost, max(0.0, 1 - side * predicted_n[i]) / len(at_F))
    return predicted_n


def blended(slow_n: Floats, fast_n: Floats, labels_n: Floats, blend: BlendWeight, warm_n: Floats) -> Floats:
    """Mixed into the slow model, or into its warm update, day by day.

    The drift is what the slow model as it was lost beyond the fast one in the week before, in its noise.
    """
    p_n, weight = np.empty(len(slow_n)), 0.0
    excess_n = losses(slow_n, labels_n) - losses(fast_n, labels_n)
    for first in range(0, len(slow_n), DAY):
        day = slice(first, first + DAY)
        week_n = excess_n[max(0, first - 7 * DAY) : first]
        z = week_n.sum() / np.sqrt((week_n**2).sum()) if week_n.any() else 0.0
        weight = blend.next_weight(weight, 1 - LIMIT / z if z > LIMIT else 0.0)
        p_n[day] = (1 - weight) * expit(warm_n[day]) + weight * expit(fast_n[day])
    return logit(np.clip(p_n, 1e-12, 1 - 1e-12))


def losses(logits_n: Floats, labels_n: Floats) -> Floats:
    return np.logaddexp(0.0, logits_n) - labels_n * logits_n


def log_loss(logits_n: Floats, labels_n: Floats) -> float:
    return float(losses(logits_n, labels_n).mean())


def accuracy(logits_n: Floats, labels_n: Floats) -> float:
    return float(((logits_n > 0) == (labels_n > 0.5)).mean())


def chosen(settings: Iterable[Any], predicted: Callable[[Any], Floats], labels_n: Floats) -> Any:
    """The setting of the least prequential log loss."""
    return min(settings, key=lambda setting: log_loss(predicted(setting), labels_n))


def measured(stream: Stream, learned: int, first: int, last: int, settings: dict[str, Any]) -> dict[str, Floats]:
    """What every model says of rows first … last, the batch model having learned those before `learned`."""
    batch = settings["frozen model"]
    rows = stream.rows(first, last)
    slow_n = frozen_logits(batch_model(stream, learned, *batch), rows)
    rows = stream.rows(first, last, slow_n)
    fast_n = unbounded(stream.rows(0, last), settings["online model alone"])[first:]
    step, reach = settings["warm update, proximal"]
    rate, ftrl_reach = settings["warm update, FTRL"]
    fast = {one: unbounded(stream.rows(0, last), one)[first:] for one in FAST_STEPS}
    ftrl = FtrlUpdate(learning_rate=rate, batch_size=1, largest_change=ftrl_reach)
    warm_n = ProximalUpdate(step=step, largest_change=reach).learned(rows)[1]

    def mixed(setting: tuple[float, float, float, float], mixed_into_n: Floats) -> Floats:
        return blended(slow_n, fast[setting[0]], rows.labels_n, blend_of(setting), mixed_into_n)

    return {
        "frozen model": slow_n,
        "online model alone": fast_n,
        "hinge passive-aggressive": hinge(rows, settings["hinge passive-aggressive"]),
        "warm update, proximal": warm_n,
        "warm update, FTRL": ftrl.learned(batch_model(stream, learned, *batch), rows)[1],
        "blend": mixed(settings["blend"], slow_n),
        "blend and warm update": mixed(settings["blend and warm update"], warm_n),
    }


def blend_of(setting: tuple[float, float, float, float]) -> BlendWeight:
    """The weight of a setting, whose first number is the fast model's step."""
    return BlendWeight(most=setting[1], full_at=setting[2], step=setting[3])


def settings_of(stream: Stream, half: int, third: int) -> dict[str, Any]:
    """All settings, by prequential log loss on the second half of the first third."""
    rows, labels_n = stream.rows(half, third), stream.labels_n[half:third]
    batch = chosen(product(RATES, EPOCHS), lambda s: frozen_logits(batch_model(stream, half, *s), rows), labels_n)
    slow_n = frozen_logits(batch_model(stream, half, *batch), rows)
    rows = stream.rows(half, third, slow_n)
    online = chosen(STEPS, lambda s: unbounded(stream.rows(0, third), s)[half:], labels_n)
    fast = {step: unbounded(stream.rows(0, third), step)[half:] for step in FAST_STEPS}
    warm = {s: ProximalUpdate(step=s[0], largest_change=s[1]).learned(rows)[1] for s in product(STEPS, REACHES)}
    warmest = chosen(warm, warm.__getitem__, labels_n)

    def blend(mixed_into_n: Floats) -> Any:
        return chosen(
            product(FAST_STEPS, MOST, FULL_AT, BLEND_STEPS),
            lambda s: blended(slow_n, fast[s[0]], labels_n, blend_of(s), mixed_into_n),
            labels_n,
        )

    return {
        "frozen model": batch,
        "online model alone": online,
        "hinge passive-aggressive": chosen(COSTS, lambda s: hinge(rows, s), labels_n),
        "warm update, proximal": warmest,
        "warm update, FTRL": chosen(
            product((0.5 * batch[0], batch[0]), REACHES),
            lambda s: FtrlUpdate(learning_rate=s[0], batch_size=1, largest_change=s[1]).learned(
                batch_model(stream, half, *batch), rows
            )[1],
            labels_n,
        ),
        "blend": blend(slow_n),
        "blend and warm update": blend(warm[warmest]),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the folder that holds elec.parquet")
    parser.add_argument("--json", type=Path, help="write the numbers there, too")
    parser.add_argument("--rows", type=int, default=10**9, help="of the stream, from its beginning; by default all")
    options = parser.parse_args(arguments)
    findings = Findings("elec: the last two thirds, predicted one by one; settings from the first third")
    path = None if options.data is None else options.data / "elec.parquet"
    if path is None or not path.exists():
        print("no elec.parquet there: nothing is measured; give --data DIR")
        findings.write(options.json)
        return
    num = min(pq.read_metadata(path).num_rows, options.rows)
    third = num // 3
    stream = Stream(path, num, third)
    settings = settings_of(stream, third // 2, third)
    labels_n = stream.labels_n[third:]
    findings.add("rows", len(labels_n))
    bars = {"accuracy": 0.0, "log loss": float("inf")}
    for name, logits_n in measured(stream, third, third, num, settings).items():
        right, lost = accuracy(logits_n, labels_n), log_loss(logits_n, labels_n)
        if name in ("frozen model", "online model alone"):
            bars = {"accuracy": max(bars["accuracy"], right), "log loss": min(bars["log loss"], lost)}
        is_asked = name.startswith(("blend", "warm update"))
        findings.add(f"{name}/accuracy", right, at_least=bars["accuracy"] if is_asked else None)
        findings.add(f"{name}/log loss", lost, "nats", at_most=bars["log loss"] if is_asked else None)
        print(f"{name}: {settings[name]}")
    findings.print()
    findings.write(options.json)


if __name__ == "__main__":
    main()
