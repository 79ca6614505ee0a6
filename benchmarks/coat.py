"""Ratings of coats that people chose to rate: a matrix model as it is (naive), and with inverse propensities (IPW).

Coat's train set holds 24 ratings of each of 290 people, who chose what to rate of 300 coats; it comes with an estimate
of how likely each of the 87,000 pairs was to be rated. The model is ``μ + b_u + c_i + p_u·q_i``, fitted by weighted
alternating least squares, ``Σ w·(r − r̂)² + λ·(Σ b² + Σ c² + Σ|p|² + Σ|q|²)``, with weights 1 or 1 / propensity, of mean
1. λ and the rank are chosen by five-fold cross-validation on train, each model's by its own estimate of the error: the
plain mean, or the one weighted by inverse propensities. What is rated where people do not choose is not looked at.

Both models' predictions of all pairs are saved as columns of coat_predictions.parquet, and what they are made of as
coat_naive.npz and coat_ipw.npz.

    python benchmarks/coat.py --data DIR [--out DIR] [--json FILE]
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from contenders.findings import Findings
from rankwell.evaluation.logged_feedback import effective_size
from rankwell.training.propensity import inverse_weights

Floats = NDArray[np.float64]
RANKS, STRENGTHS, FOLDS, ROUNDS = (0, 1, 2, 4, 8), (1.0, 3.0, 10.0, 20.0, 40.0, 80.0), 5, 30


@dataclass(frozen=True)
class Matrix:
    """μ, and for each of U people and I coats an offset (last column) beside its D factors."""

    mean: float
    people_UD: Floats
    coats_ID: Floats

    @property
    def ratings_UI(self) -> Floats:
        factors = self.people_UD[:, :-1] @ self.coats_ID[:, :-1].T
        return self.mean + self.people_UD[:, -1:] + self.coats_ID[:, -1] + factors


def fitted(ratings_UI: Floats, weights_UI: Floats, rank: int, strength: float) -> Matrix:
    """Alternating least squares; pairs of weight 0 are absent."""
    mean = float((weights_UI * ratings_UI).sum() / weights_UI.sum())
    rest_UI = np.where(weights_UI > 0, ratings_UI - mean, 0.0)
    rng = np.random.default_rng(0)
    people_UD = np.hstack([0.1 * rng.standard_normal((len(ratings_UI), rank)), np.zeros((len(ratings_UI), 1))])
    coats_ID = np.hstack([0.1 * rng.standard_normal((ratings_UI.shape[1], rank)), np.zeros((ratings_UI.shape[1], 1))])
    for _ in range(ROUNDS):
        people_UD = solved(rest_UI, weights_UI, coats_ID, strength)
        coats_ID = solved(rest_UI.T, weights_UI.T, people_UD, strength)
    return Matrix(mean, people_UD, coats_ID)


def solved(rest_AB: Floats, weights_AB: Floats, other_BD: Floats, strength: float) -> Floats:
    """Factors and offset of each row, given those of the columns, whose own offset is taken off first."""
    inputs_BD = np.hstack([other_BD[:, :-1], np.ones((len(other_BD), 1))])
    aim_AB = weights_AB * (rest_AB - other_BD[:, -1])
    outer_BDD = inputs_BD[:, :, None] * inputs_BD[:, None, :]
    width = inputs_BD.shape[1]
    normal_ADD = (weights_AB @ outer_BDD.reshape(len(inputs_BD), -1)).reshape(-1, width, width)
    normal_ADD += strength * np.eye(width)
    return np.linalg.solve(normal_ADD, (aim_AB @ inputs_BD)[:, :, None])[:, :, 0]


def cross_validated(
    ratings_UI: Floats, weights_UI: Floats, fold_UI: NDArray[np.int64], rank: int, strength: float
) -> float:
    """The weighted mean squared error of held-out ratings."""
    squared = total = 0.0
    for fold in range(FOLDS):
        held_out = fold_UI == fold
        model = fitted(ratings_UI, np.where(held_out, 0.0, weights_UI), rank, strength)
        error_UI = np.where(held_out, weights_UI * (ratings_UI - model.ratings_UI) ** 2, 0.0)
        squared, total = squared + error_UI.sum(), total + weights_UI[held_out].sum()
    return squared / total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, help="the folder of train_selfselected.parquet; without it nothing is done"
    )
    parser.add_argument("--out", type=Path, default=Path("out/coat"))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    findings = Findings("coat: self-selected ratings, five folds of train")
    if given.data is None:
        print("nothing to measure: name the folder of train_selfselected.parquet with --data")
        findings.write(given.json)
        return
    log = pq.read_table(given.data / "train_selfselected.parquet")
    user, item = log["user_id"].to_numpy(), log["item_id"].to_numpy()
    shape = (int(user.max()) + 1, pq.read_metadata(given.data / "items.parquet").num_rows)
    ratings_UI, is_rated = np.zeros(shape), np.zeros(shape, dtype=bool)
    ratings_UI[user, item], is_rated[user, item] = log["rating"].to_numpy(), True
    fold_UI = np.where(is_rated, np.random.default_rng(1).integers(FOLDS, size=shape), -1)
    inverse = inverse_weights(log["propensity"].to_numpy(), self_normalised=True)
    findings.add("ratings", len(user))
    findings.add("effective ratings under inverse propensities", effective_size(inverse))
    findings.add("largest weight by the mean", float(inverse.max()))

    given.out.mkdir(parents=True, exist_ok=True)
    users, items = np.divmod(np.arange(shape[0] * shape[1]), shape[1])
    predictions = {"user_id": users, "item_id": items}
    for name, weights in (("naive", np.ones(len(user))), ("ipw", inverse)):
        weights_UI = np.zeros(shape)
        weights_UI[user, item] = weights
        errors = {
            (rank, strength): cross_validated(ratings_UI, weights_UI, fold_UI, rank, strength)
            for rank, strength in product(RANKS, STRENGTHS)
        }
        rank, strength = min(errors, key=lambda setting: errors[setting])
        model = fitted(ratings_UI, weights_UI, rank, strength)
        np.savez(given.out / f"coat_{name}.npz", mean=model.mean, people=model.people_UD, coats=model.coats_ID)
        predictions[name] = np.clip(model.ratings_UI, 1, 5).ravel()
        findings.add(f"{name}/rank", rank)
        findings.add(f"{name}/strength", strength)
        findings.add(f"{name}/error by its own estimate", errors[rank, strength])
        findings.add(f"{name}/mean rating of train", model.mean)
        findings.add(f"{name}/mean of all predictions", float(predictions[name].mean()))
    gap = predictions["naive"] - predictions["ipw"]
    findings.add("rms distance of the two models", float(np.sqrt((gap**2).mean())))
    pq.write_table(pa.table(predictions), given.out / "coat_predictions.parquet")
    findings.print()
    findings.write(given.json)
    print(f"saved in {given.out}")


if __name__ == "__main__":
    main()
