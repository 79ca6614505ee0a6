"""Gradient-boosted trees, fitted by LightGBM: LambdaMART and its pointwise kin.

Letters: C candidates, flat · G groups (lists of candidates) · N inputs · n nodes of a tree.

Sources: Burges 2010, "From RankNet to LambdaRank to LambdaMART: an overview"; Ke et al. 2017, "LightGBM: a highly
efficient gradient boosting decision tree", NeurIPS; Bruch 2021, "An alternative cross entropy loss for
learning-to-rank", WWW (rank_xendcg).
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rankwell.data.statistics import NumericStatistics
from rankwell.errors import MissingExtraError, RecipeError, TrainingError
from rankwell.models.boosted_trees import BoostedTrees, Tree
from rankwell.models.model import Model
from rankwell.models.tree_inputs import TreeInputs
from rankwell.schema import Action, Schema
from rankwell.training.estimator import Estimator
from rankwell.training.objectives import binary_labels
from rankwell.types import Batch

__all__ = ["Boosting"]

_CUT: Final = 10


@final
@dataclass(frozen=True, kw_only=True)
class Boosting(Estimator):
    """Trees for each action of the schema, one boosting an action.

    Candidates that were not observed, or have no weight, are absent, from their lists too. A list without a positive,
    or of one candidate, teaches the two ranking objectives nothing. What these give are no log-odds: their differences
    within a list order it, and only a calibrator makes probabilities of them.

    Args:
        objective: "lambdarank": pairs, weighted by what swapping them does to nDCG@`truncation`, with the gains that
            the action declares. "rank_xendcg": a listwise cross-entropy with the gain 2^grade - 1. "binary": log loss,
            a grade counting from its threshold on.
        num_rounds: Trees of an action, at most.
        patience: Stop after so many rounds without a better nDCG@10 on tune ("binary": log loss), and keep the best;
            None grows all and does not look at tune.
        learning_rate: What each tree is multiplied with.
        num_leaves: Of a tree, at most.
        min_leaf_rows: Candidates in a leaf, at least.
        l2: Penalty on leaf values.
        input_rate: Share of the inputs that a tree may split on, drawn anew for each.
        row_rate: Share of the lists (binary: of the candidates) that a tree is grown on, drawn anew for each.
        truncation: Of "lambdarank".

    Raises:
        RecipeError: A setting is out of range.

    >>> Boosting(objective="rank_xendcg", num_rounds=50, patience=None).learning_rate
    0.05
    """

    model_class: ClassVar[type[Model]] = BoostedTrees

    objective: Literal["lambdarank", "rank_xendcg", "binary"] = "lambdarank"
    num_rounds: int = 500
    patience: int | None = 50
    learning_rate: float = 0.05
    num_leaves: int = 31
    min_leaf_rows: int = 20
    l2: float = 0.0
    input_rate: float = 1.0
    row_rate: float = 1.0
    truncation: int = 30

    def __post_init__(self) -> None:
        ranges = {
            "objective": (self.objective in ("lambdarank", "rank_xendcg", "binary"), "lambdarank, rank_xendcg, binary"),
            "num_rounds": (self.num_rounds >= 1, "≥ 1"),
            "patience": (self.patience is None or self.patience >= 1, "≥ 1, or None"),
            "learning_rate": (0 < self.learning_rate < np.inf, "> 0"),
            "num_leaves": (2 <= self.num_leaves <= 131_072, "2 to 131,072"),
            "min_leaf_rows": (self.min_leaf_rows >= 1, "≥ 1"),
            "l2": (0 <= self.l2 < np.inf, "≥ 0"),
            "input_rate": (0 < self.input_rate <= 1, "(0, 1]"),
            "row_rate": (0 < self.row_rate <= 1, "(0, 1]"),
            "truncation": (self.truncation >= 1, "≥ 1"),
        }
        for name, (holds, allowed) in ranges.items():
            if not holds:
                raise RecipeError(f"boosting cannot work with this {name}", found=getattr(self, name), allowed=allowed)

    def fit(
        self,
        schema: Schema,
        statistics: NumericStatistics,
        train: Iterable[Batch],
        tune: Iterable[Batch],
        *,
        seed: int,
    ) -> Model:
        """See `Estimator.fit`.

        Raises:
            TrainingError: An action has no observed candidate with weight in train, or, with patience, none in tune;
                LightGBM refuses the data.
            RecipeError: "rank_xendcg", and an action declares gains.
            MissingExtraError: LightGBM is not installed.
        """
        lightgbm = _lightgbm()
        for action in schema.actions:
            self._check_gains(action)
        inputs = TreeInputs(schema)
        learned = _Rows.of(inputs, train)
        told = None if self.patience is None else _Rows.of(inputs, tune)
        try:
            trees_A = [self._grown(lightgbm, inputs, schema, index, learned, told, seed)
                       for index in range(len(schema.actions))]  # fmt: skip
        except lightgbm.basic.LightGBMError as error:
            raise TrainingError(
                "LightGBM refuses to grow trees", found=str(error), do="see what it says of the data"
            ) from error
        return BoostedTrees.of(schema, statistics, trees_A)

    def _check_gains(self, action: Action) -> None:
        if self.objective == "rank_xendcg" and action.gains is not None:
            raise RecipeError(
                f"rank_xendcg cannot count the gains of action {action.name!r}",
                found=list(action.gains),
                allowed="the default gains, 2^grade - 1",
                do="use lambdarank, which counts any",
            )

    def _grown(
        self,
        lightgbm: Any,
        inputs: TreeInputs,
        schema: Schema,
        index: int,
        learned: _Rows,
        told: _Rows | None,
        seed: int,
    ) -> list[Tree]:
        action = schema.actions[index]
        parts = [learned.of_action(index, f"train, action {action.name!r}")]
        if told is not None:
            parts.append(told.of_action(index, f"tune, action {action.name!r}"))
        labels, gains = self._labels(action, [part.labels_C for part in parts])
        sets: list[Any] = []
        for part, labels_C in zip(parts, labels, strict=True):
            data = lightgbm.Dataset(
                part.inputs_CN.numpy(),
                label=labels_C.numpy(),
                weight=part.weights_C.numpy(),
                group=None if self.objective == "binary" else part.sizes_G,
                categorical_feature=list(inputs.categories),
                reference=sets[0] if sets else None,
                params={"verbosity": -1},
            )
            sets.append(data)
        booster = lightgbm.train(
            self._parameters(gains, seed),
            sets[0],
            num_boost_round=self.num_rounds,
            valid_sets=sets[1:],
            callbacks=[] if self.patience is None else [lightgbm.early_stopping(self.patience, verbose=False)],
        )
        dumped: Mapping[str, Any] = booster.dump_model(num_iteration=max(booster.best_iteration, 0))
        return [_tree(info["tree_structure"]) for info in dumped["tree_info"]]

    def _labels(self, action: Action, of_parts: Sequence[Tensor]) -> tuple[list[Tensor], list[float]]:
        """What LightGBM takes for labels, split by split, and the gain of each from 0 on."""
        if self.objective == "binary":
            return [binary_labels(action, labels_C) for labels_C in of_parts], [0.0, 1.0]
        if self.objective == "rank_xendcg":
            top = max(int(labels_C.max()) for labels_C in of_parts)
            return list(of_parts), action.gain_of(torch.arange(top + 1, dtype=torch.float32)).tolist()
        # it takes a higher label for a higher gain, which the declared gains of grades need not be
        gains = [action.gain_of(labels_C) for labels_C in of_parts]
        levels = torch.unique(torch.cat(gains))
        return [torch.searchsorted(levels, gains_C) for gains_C in gains], levels.tolist()

    def _parameters(self, gains: Sequence[float], seed: int) -> dict[str, Any]:
        parameters: dict[str, Any] = {
            "objective": self.objective,
            "learning_rate": self.learning_rate,
            "num_leaves": self.num_leaves,
            "min_data_in_leaf": self.min_leaf_rows,
            "lambda_l2": self.l2,
            "feature_fraction": self.input_rate,
            "bagging_fraction": self.row_rate,
            "bagging_freq": 1 if self.row_rate < 1 else 0,
            "seed": seed,
            "deterministic": True,
            "force_row_wise": True,
            "num_threads": torch.get_num_threads(),
            "verbosity": -1,
        }
        if self.objective == "binary":
            return parameters | {"metric": "binary_logloss"}
        return parameters | {
            "metric": "ndcg",
            "eval_at": [_CUT],
            "label_gain": list(gains),
            "bagging_by_query": self.row_rate < 1,
            "lambdarank_truncation_level": self.truncation,
        }


@final
@dataclass(frozen=True, slots=True)
class _Rows:
    """Candidates of a split with all their actions, lists adjacent."""

    inputs_CN: Tensor
    labels_CA: Tensor
    weights_C: Tensor
    request_C: Tensor

    @classmethod
    def of(cls, inputs: TreeInputs, batches: Iterable[Batch]) -> _Rows:
        columns: tuple[list[Tensor], ...] = ([], [], [], [])
        num_requests = 0
        for batch in batches:
            features, targets = batch.features, batch.targets
            parts = (inputs(features), targets.labels_CA, targets.weights_C, features.request_C + num_requests)
            for column, part in zip(columns, parts, strict=True):
                column.append(part)
            num_requests += features.num_requests
        if not num_requests:
            raise TrainingError("trees cannot be grown on no requests", do="give the batches of a split")
        return cls(*(torch.cat(column) for column in columns))

    def of_action(self, index: int, where: str) -> _Lists:
        """Where the action was observed and has weight."""
        labels_C = self.labels_CA[:, index]
        known_C = ~labels_C.isnan() & (self.weights_C > 0)
        if not known_C.any():
            raise TrainingError(
                f"no tree can be grown: {where} has no observed candidate with weight", found=f"{len(known_C)} without",
                do="check the action's attribution window, and the weights",
            )  # fmt: skip
        sizes_G = torch.unique_consecutive(self.request_C[known_C], return_counts=True)[1]
        return _Lists(self.inputs_CN[known_C], labels_C[known_C], self.weights_C[known_C], sizes_G.numpy())


@final
@dataclass(frozen=True, slots=True)
class _Lists:
    """What one action is learned from."""

    inputs_CN: Tensor
    labels_C: Tensor
    weights_C: Tensor
    sizes_G: NDArray[np.int64]


def _lightgbm() -> Any:
    try:
        return importlib.import_module("lightgbm")
    except ImportError as error:
        raise MissingExtraError(
            "boosted trees are fitted by LightGBM", found=str(error), do="pip install 'rankwell[trees]'"
        ) from error


def _tree(root: Mapping[str, Any]) -> Tree:
    """A tree as LightGBM tells it: nested nodes, each with a threshold or with categories as "1||5"."""
    nodes: list[Mapping[str, Any]] = [root]
    children: list[tuple[int, int]] = []
    for n, node in enumerate(nodes):  # it grows on the way
        if "leaf_value" in node:
            children.append((n, n))
            continue
        children.append((len(nodes), len(nodes) + 1))
        nodes += [node["left_child"], node["right_child"]]
    return Tree(
        columns_n=[node.get("split_feature", 0) for node in nodes],
        thresholds_n=[float(node["threshold"]) if _has_threshold(node) else -np.inf for node in nodes],
        nan_left_n=[_has_threshold(node) and _nan_goes_left(node) for node in nodes],
        left_n=[left for left, _ in children],
        right_n=[right for _, right in children],
        values_n=[float(node.get("leaf_value", 0.0)) for node in nodes],
        categories_n=[_categories(node) for node in nodes],
    )


def _has_threshold(node: Mapping[str, Any]) -> bool:
    return node.get("decision_type") == "<="


def _nan_goes_left(node: Mapping[str, Any]) -> bool:
    """Where train had NaN, as the split learned it; else NaN counts as 0."""
    return bool(node["default_left"]) if node["missing_type"] == "NaN" else float(node["threshold"]) >= 0


def _categories(node: Mapping[str, Any]) -> Sequence[int]:
    return [int(code) for code in node["threshold"].split("||")] if node.get("decision_type") == "==" else ()
