"""What L2 over rows is worth on Frappe: decoupled and paid lazily, beside coupled over the whole table at each step.

Both train Wide & Deep as BARS has it (rows of 10, 400-400-400 with batch norm, no cross) on the same splits and seeds:

- lazy: `recipes/frappe.py:lazy_l2` through rankwell. Row-wise AdaGrad with a decay that rows away from the batch pay
  when they are next read.
- coupled: plain torch. Adam over nn.Embedding, whose L2 is part of the loss at each step, so that the whole table has a
  gradient; batches of 4,096, rates × 0.1 after an epoch without a better AUC on tune, stopped after the second such
  epoch, best weights restored: BARS' protocol.

Numbers are of the test split, before calibration and after (isotonic, on the calibrate split); differences are paired
by seed.

    python benchmarks/frappe_l2.py --data DIR [--json FILE] [--seeds 5] [--l2 0.05]
"""

from __future__ import annotations

import argparse
import copy
import json
import runpy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from rankwell.calibration.isotonic import fit_isotonic
from rankwell.data.split import Part
from rankwell.evaluation.discrimination import auc, log_loss
from rankwell.evaluation.intervals import mean_and_sd, paired_interval
from rankwell.training.recipe import Recipe
from rankwell.training.trained import judge, train

FRAPPE = runpy.run_path(str(Path(__file__).parents[1] / "recipes" / "frappe.py"))
FIELDS: tuple[str, ...] = FRAPPE["FIELDS"]
NUM_IDS, WIDTH, BATCH, RATE, MOST_EPOCHS, PATIENCE = 5_382, 10, 4_096, 1e-3, 100, 2


@dataclass(frozen=True)
class Rows:
    """ids_NF and labels_N of one part."""

    ids: Tensor
    labels: Tensor


class BarsWideDeep(nn.Module):
    """A weight an id, a vector an id, and a perceptron over the vectors; L2 on both kinds of rows."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Embedding(NUM_IDS, 1)
        self.vectors = nn.Embedding(NUM_IDS, WIDTH)
        nn.init.normal_(self.weights.weight, std=1e-4)
        nn.init.normal_(self.vectors.weight, std=1e-4)
        layers: list[nn.Module] = []
        width = len(FIELDS) * WIDTH
        for hidden in (400, 400, 400):
            layers += [nn.Linear(width, hidden), nn.BatchNorm1d(hidden), nn.ReLU()]
            width = hidden
        self.deep = nn.Sequential(*layers, nn.Linear(width, 1))

    def forward(self, ids: Tensor) -> Tensor:
        """Logits."""
        deep: Tensor = self.deep(self.vectors(ids).flatten(1))
        wide: Tensor = self.weights(ids)[:, :, 0].sum(1)
        return deep[:, 0] + wide

    def penalty(self) -> Tensor:
        """½ Σ w² over the whole of both tables."""
        penalty: Tensor = self.weights.weight.square().sum() + self.vectors.weight.square().sum()
        return penalty / 2


def rows_of(recipe: Recipe, part: Part, data: Path) -> Rows:
    """The part as the recipe splits it."""
    ids, labels = [], []
    for _, batch in recipe.batches(part, data, seed=None).epoch(0):
        ids.append(torch.stack([torch.as_tensor(batch.features.candidates[name]) for name in FIELDS], dim=1))
        labels.append(batch.targets.labels_CA[:, 0])
    return Rows(torch.cat(ids), torch.cat(labels).float())


def predicted(model: BarsWideDeep, rows: Rows) -> Tensor:
    """Logits, in eval mode."""
    model.eval()
    with torch.no_grad():
        return torch.cat([model(ids) for ids in torch.split(rows.ids, 8_192)])


def train_coupled(train_rows: Rows, tune: Rows, l2: float, seed: int) -> tuple[BarsWideDeep, float, int]:
    """The dense reference: the best model on tune, its AUC there, and its epochs."""
    torch.manual_seed(seed)
    model = BarsWideDeep()
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    best, best_auc, num_worse, num_epochs = copy.deepcopy(model.state_dict()), 0.0, 0, 0
    for _ in range(MOST_EPOCHS):
        model.train()
        num_epochs += 1
        for rows in torch.split(torch.randperm(len(train_rows.labels)), BATCH):
            loss = nn.functional.binary_cross_entropy_with_logits(model(train_rows.ids[rows]), train_rows.labels[rows])
            optimizer.zero_grad()
            (loss + l2 * model.penalty()).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        tune_auc = auc(torch.sigmoid(predicted(model, tune).double()), tune.labels, torch.ones(len(tune.labels)))
        if tune_auc > best_auc + 1e-6:
            best, best_auc, num_worse = copy.deepcopy(model.state_dict()), tune_auc, 0
        else:
            num_worse += 1
            for group in optimizer.param_groups:
                group["lr"] *= 0.1
            if num_worse == PATIENCE:
                break
    model.load_state_dict(best)
    return model, best_auc, num_epochs


def coupled_scores(model: BarsWideDeep, calibrate: Rows, test: Rows) -> dict[str, float]:
    """On test."""
    held, told = predicted(model, calibrate), predicted(model, test)
    none = torch.zeros(len(calibrate.labels), 0, dtype=torch.int64)
    calibrator = fit_isotonic(held, calibrate.labels, torch.ones(len(held)), none)
    weights, p = torch.ones(len(told)), torch.sigmoid(told.double())
    calibrated = calibrator(told, torch.zeros(len(told), 0, dtype=torch.int64))
    return {
        "auc": auc(p, test.labels, weights),
        "log_loss": log_loss(p, test.labels, weights),
        "log_loss_calibrated": log_loss(calibrated, test.labels, weights),
    }


def lazy_scores(recipe: Recipe, data: Path, seed: int) -> tuple[dict[str, float], float]:
    """On test, and the AUC on tune."""
    trained = train(recipe, data, seed=seed)
    judged = judge(recipe, trained.model, trained.calibrators, data)
    scores = {
        "auc": judged.raw.auc,
        "log_loss": judged.raw.log_loss,
        "log_loss_calibrated": judged.calibrated.log_loss,
    }
    return scores, trained.history.best.tune_auc


def main(given: argparse.Namespace) -> None:
    """Both, seed by seed; prints as it goes."""
    recipe: Recipe = FRAPPE["lazy_l2"]()
    parts = {part: rows_of(recipe, part, given.data) for part in ("train", "tune", "calibrate", "test")}
    found: dict[str, list[dict[str, float]]] = {"lazy": [], "coupled": []}
    for seed in range(given.seeds):
        started = time.perf_counter()
        scores, tune_auc = lazy_scores(recipe, given.data, seed)
        found["lazy"].append({**scores, "tune_auc": tune_auc})
        report("lazy", seed, found["lazy"][-1], started)
        started = time.perf_counter()
        model, tune_auc, epochs = train_coupled(parts["train"], parts["tune"], given.l2, seed)
        scores = coupled_scores(model, parts["calibrate"], parts["test"])
        found["coupled"].append({**scores, "tune_auc": tune_auc, "epochs": epochs})
        report("coupled", seed, found["coupled"][-1], started)
    numbers = summary(found)
    if given.json is not None:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(numbers, indent=1), encoding="utf-8")


def report(name: str, seed: int, scores: dict[str, float], started: float) -> None:
    """One run."""
    told = ", ".join(f"{key} {value:.5f}" for key, value in scores.items())
    print(f"{name}, seed {seed}: {told} ({time.perf_counter() - started:.0f} s)", flush=True)


def summary(found: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, float]:
    """Mean ± sd of each, and the paired difference with its 95 % interval."""
    numbers: dict[str, float] = {}
    for metric in ("auc", "log_loss", "log_loss_calibrated"):
        values = {name: np.array([run[metric] for run in runs]) for name, runs in found.items()}
        words = []
        for name, of in values.items():
            mean = mean_and_sd(of) if len(of) > 1 else None
            numbers[f"{name}/{metric}/mean"], numbers[f"{name}/{metric}/sd"] = (
                float(of.mean()),
                mean.sd if mean else 0.0,
            )
            words.append(f"{name} {of.mean():.5f} ± {numbers[f'{name}/{metric}/sd']:.5f}")
        difference = values["lazy"] - values["coupled"]
        numbers[f"lazy_minus_coupled/{metric}/mean"] = float(difference.mean())
        if len(difference) > 1:
            interval = paired_interval(difference)
            numbers[f"lazy_minus_coupled/{metric}/low"] = interval.low
            numbers[f"lazy_minus_coupled/{metric}/high"] = interval.high
            words.append(f"lazy − coupled {difference.mean():+.5f} [{interval.low:+.5f}, {interval.high:+.5f}]")
        print(f"{metric}: " + ", ".join(words), flush=True)
    return numbers


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of train_reconstructed.parquet and valid.parquet"
    )
    parser.add_argument("--json", type=Path, help="write the numbers here")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--l2", type=float, default=0.05, help="of the coupled form")
    main(parser.parse_args())
