"""Sums of regression trees: fitted elsewhere, kept as tensors, and walked without the library that fitted them.

Letters: R requests · C candidates, flat · A actions · N inputs · T trees · n nodes of all trees, flat.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Annotated, ClassVar, Final, TypeVar, final

import torch
from pydantic import Field
from torch import Tensor

from rankwell.data.statistics import NumericStatistics
from rankwell.models.model import Model, ModelSettings
from rankwell.models.tree_inputs import MOST_CATEGORIES, TreeInputs
from rankwell.schema import Schema
from rankwell.types import Encoded, Features

__all__ = ["BoostedTrees", "BoostedTreesSettings", "Tree"]

_Index = TypeVar("_Index", int, Tensor)
_MOST_VISITS: Final = 2**18
"""Candidates × trees that are walked at a time: what is gathered for them stays in the processor's cache."""


@final
@dataclass(frozen=True, kw_only=True)
class Tree:
    """One tree, node by node from the root on; a leaf is a node whose children are itself.

    A candidate goes left where its input is at most the threshold, or one of the categories, or NaN and NaN goes left.

    Args:
        columns_n: The input that a node splits on; 0 at a leaf.
        thresholds_n: −∞ at leaves and where a node splits on categories.
        nan_left_n: Whether NaN goes left.
        left_n, right_n: Children, by their place in this tree.
        values_n: What a leaf adds to the logit; 0 at other nodes.
        categories_n: Codes that go left, in [0, 1,024]; empty where a node splits by a threshold.

    >>> Tree.leaf(0.5).depth
    0
    """

    columns_n: Sequence[int]
    thresholds_n: Sequence[float]
    nan_left_n: Sequence[bool]
    left_n: Sequence[int]
    right_n: Sequence[int]
    values_n: Sequence[float]
    categories_n: Sequence[Sequence[int]]

    @classmethod
    def leaf(cls, value: float) -> Tree:
        """A tree that says the same of every candidate."""
        return cls(
            columns_n=[0], thresholds_n=[-torch.inf], nan_left_n=[False], left_n=[0], right_n=[0], values_n=[value],
            categories_n=[()],
        )  # fmt: skip

    @property
    def depth(self) -> int:
        """Splits on the longest way from the root to a leaf."""
        reached, depth = [0], 0
        while reached := [child for n in reached if self.left_n[n] != n for child in (self.left_n[n], self.right_n[n])]:
            depth += 1
        return depth


@final
class BoostedTreesSettings(ModelSettings):
    """How large the arrays of fitted trees are; what stands in them is the model's state.

    Args:
        num_trees: Of each action; by default none, and the logits are 0.
        num_nodes: Of all trees together, leaves included.
        num_categories: Of all nodes together: the categories that go left.
        depth: Of the deepest tree.
    """

    num_trees: tuple[Annotated[int, Field(ge=0)], ...] = ()
    num_nodes: Annotated[int, Field(ge=0)] = 0
    num_categories: Annotated[int, Field(ge=0)] = 0
    depth: Annotated[int, Field(ge=0)] = 0


@final
class BoostedTrees(Model):
    """The logit of an action is Σ_t v_t(x), the values of the leaves that a candidate reaches in the action's trees.

    It has no parameters and no rows, so no gradient trains it: `BoostedTrees.of` makes it of trees that an
    `rankwell.training.estimator.Estimator` fitted. What trees read is `TreeInputs`. Sums are float64, logits float32.

    >>> from rankwell.schema import Action, Numeric
    >>> schema = Schema(features=(Numeric(name="salary"),), actions=(Action(name="click"),))
    >>> stump = Tree(columns_n=[0, 0, 0], thresholds_n=[50.0, -torch.inf, -torch.inf], nan_left_n=[True, False, False],
    ...              left_n=[1, 1, 2], right_n=[2, 1, 2], values_n=[0.0, -1.0, 1.0], categories_n=[(), (), ()])
    >>> model = BoostedTrees.of(schema, NumericStatistics(), [[stump, Tree.leaf(0.25)]])
    >>> salary_C = torch.tensor([50.0, 51.0, torch.nan])
    >>> model(Features({}, {}, {"salary": salary_C}, torch.tensor([0, 3]), torch.zeros(3, dtype=torch.int64))).squeeze()
    tensor([-0.7500,  1.2500, -0.7500])
    """

    settings_class: ClassVar[type[ModelSettings]] = BoostedTreesSettings

    roots_T: Tensor
    columns_n: Tensor
    thresholds_n: Tensor
    nan_left_n: Tensor
    left_n: Tensor
    right_n: Tensor
    values_n: Tensor
    category_keys: Tensor

    def __init__(
        self, schema: Schema, statistics: NumericStatistics, settings: BoostedTreesSettings | None = None, *, seed: int
    ) -> None:
        settings = settings or BoostedTreesSettings()
        super().__init__(schema, statistics, settings, seed=seed)
        self.inputs = TreeInputs(schema)
        self.tables = {}
        self._num_trees, self._depth = settings.num_trees or (0,) * len(schema.actions), settings.depth
        for name, size, dtype in (
            ("roots_T", sum(self._num_trees), torch.int64),
            ("columns_n", settings.num_nodes, torch.int64),
            ("thresholds_n", settings.num_nodes, torch.float64),
            ("nan_left_n", settings.num_nodes, torch.bool),
            ("left_n", settings.num_nodes, torch.int64),
            ("right_n", settings.num_nodes, torch.int64),
            ("values_n", settings.num_nodes, torch.float64),
            ("category_keys", settings.num_categories, torch.int64),
        ):
            self.register_buffer(name, torch.zeros(size, dtype=dtype))

    @classmethod
    def of(cls, schema: Schema, statistics: NumericStatistics, trees_A: Sequence[Sequence[Tree]]) -> BoostedTrees:
        """The model of fitted trees, in eval mode.

        Args:
            schema: What they were fitted on.
            statistics: Kept for the bundle; trees read numbers as they stand.
            trees_A: The trees of each action of the schema.
        """
        trees_T = [tree for trees in trees_A for tree in trees]
        sizes_T = [len(tree.columns_n) for tree in trees_T]
        roots_T = list(accumulate(sizes_T, initial=0))[:-1] if trees_T else []
        pairs = list(zip(roots_T, trees_T, strict=True))
        keys = [
            _category_key(root + n, code)
            for root, tree in pairs
            for n, codes in enumerate(tree.categories_n)
            for code in codes
        ]
        settings = BoostedTreesSettings(
            num_trees=tuple(len(trees) for trees in trees_A),
            num_nodes=sum(sizes_T),
            num_categories=len(keys),
            depth=max((tree.depth for tree in trees_T), default=0),
        )
        model = cls(schema, statistics, settings, seed=0)
        arrays = {
            "roots_T": roots_T,
            "columns_n": [column for tree in trees_T for column in tree.columns_n],
            "thresholds_n": [threshold for tree in trees_T for threshold in tree.thresholds_n],
            "nan_left_n": [goes_left for tree in trees_T for goes_left in tree.nan_left_n],
            "left_n": [root + child for root, tree in pairs for child in tree.left_n],
            "right_n": [root + child for root, tree in pairs for child in tree.right_n],
            "values_n": [value for tree in trees_T for value in tree.values_n],
            "category_keys": sorted(keys),
        }
        state = model.state_dict()
        model.load_state_dict({name: torch.tensor(array, dtype=state[name].dtype) for name, array in arrays.items()})
        return model.eval()

    def sums_of(self, inputs_CN: Tensor) -> Tensor:
        """Float64 C × A: what the trees say of given inputs.

        Args:
            inputs_CN: As `TreeInputs` gives them.
        """
        num_trees = len(self.roots_T)
        rows = max(1, _MOST_VISITS // max(1, num_trees))
        sums = [
            torch.stack(
                [values.sum(1) for values in torch.split(self._reached(part_CN), list(self._num_trees), dim=1)], dim=1
            )
            for part_CN in torch.split(inputs_CN, rows)
        ]
        return torch.cat(sums) if sums else torch.zeros(0, len(self._num_trees), dtype=torch.float64)

    def encode(self, features: Features) -> Encoded:
        """One column an action: the sum of its trees."""
        sums_CA = self.sums_of(self.inputs(features)).float()
        return Encoded(torch.zeros(features.num_requests, 0), sums_CA, {})

    def head(self, encoded: Encoded) -> Tensor:
        """The sums as they stand."""
        return encoded.candidate_CD

    def _reached(self, inputs_CN: Tensor) -> Tensor:
        """The value of the leaf that each candidate reaches in each tree, C × T."""
        node_CT = self.roots_T.expand(len(inputs_CN), -1)
        for _ in range(self._depth):  # at a leaf one goes on to where one is
            number_CT = inputs_CN.gather(1, self.columns_n[node_CT])
            left_CT = (number_CT <= self.thresholds_n[node_CT]) | (number_CT.isnan() & self.nan_left_n[node_CT])
            if len(self.category_keys):
                left_CT |= self._is_among_categories(node_CT, number_CT)
            node_CT = torch.where(left_CT, self.left_n[node_CT], self.right_n[node_CT])
        return self.values_n[node_CT]

    def _is_among_categories(self, node_CT: Tensor, number_CT: Tensor) -> Tensor:
        # a number that is no code, where a node splits by a threshold, finds no key of its node
        code_CT = torch.nan_to_num(number_CT, nan=-1.0).clamp(-1, MOST_CATEGORIES + 1).long()
        keys_CT = _category_key(node_CT, code_CT)
        place_CT = torch.searchsorted(self.category_keys, keys_CT).clamp(max=len(self.category_keys) - 1)
        return self.category_keys[place_CT] == keys_CT


def _category_key(node: _Index, code: _Index) -> _Index:
    return node * (2 * MOST_CATEGORIES) + code
