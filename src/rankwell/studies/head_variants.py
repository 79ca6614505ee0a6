"""The kinds of heads that `study heads` compares: models that differ in the heads of their list attention alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, final

from rankwell.models.candidate_list import ListSettings
from rankwell.models.feature_groups import FeatureGroup
from rankwell.models.head_gates import SegmentGateSettings, StaticGateSettings
from rankwell.models.head_watch import HeadWatch, Near
from rankwell.models.specialised_attention import FedHead, LearnedHead, SpecialisedSettings
from rankwell.models.transformer import RankingTransformer, TransformerSettings
from rankwell.schema import Schema
from rankwell.serving.head_inspection import NEAR_KM
from rankwell.simulation.recipe import Kind, marketplace_recipe
from rankwell.simulation.schema import marketplace_schema
from rankwell.simulation.settings import NUM_SENIORITIES
from rankwell.tables.adagrad import RowWiseAdaGrad
from rankwell.training.dense_optimizers import DenseAdamW
from rankwell.training.head_objective import HeadObjective
from rankwell.training.objectives import Objective, PointwiseObjective
from rankwell.training.optimizers import OptimizerPlan
from rankwell.training.recipe import Recipe

__all__ = [
    "ALONE",
    "FIXED",
    "GATED",
    "GUIDED",
    "LEARNED",
    "MIXED",
    "SEGMENT",
    "SEGMENT_GATED",
    "VARIANTS",
    "Variant",
    "recipe_of",
]

SEGMENT: Final = "seniority"
"""What gates depend on, where they do."""

_GROUPS: Final = (
    FeatureGroup(name="title", features=("job_title", "salary")),
    FeatureGroup(name="seniority", features=("job_seniority", "salary")),
    FeatureGroup(name="industry", features=("job_industry", "salary")),
    FeatureGroup(name="place", features=("job_city", "job_place", "salary")),
)
"""Each with the salary: what one may ask of jobs that are alike is how they are paid."""
_GATES: Final = "among.layers.layers.0.attention.gates"
_GATE_RATE: Final = 0.05
_START_OPEN: Final = 0.8
_BATCH: Final = 64
_COST_OF_AN_OPEN_GATE: Final = 1e-3
"""In nats a candidate: what a head has to save at least."""
_PULL: Final = 0.1
_APART: Final = 0.1


@final
@dataclass(frozen=True, kw_only=True)
class Variant:
    """A model whose list attention has heads of these kinds.

    Args:
        name: As tables show it.
        settings: Of the model.
        objective: What it is trained to.
        relations: By head, the relation that it is meant for; heads without one are in no key.
    """

    name: str
    settings: TransformerSettings
    objective: Callable[[Schema], Objective] = PointwiseObjective
    relations: Mapping[int, str] = field(default_factory=dict)

    @property
    def is_gated(self) -> bool:
        """Whether its heads have gates."""
        of = self.settings.list
        return of is not None and isinstance(of.attention, SpecialisedSettings) and of.attention.gates is not None


def recipe_of(variant: Variant) -> Recipe:
    """How it is trained on the clicks of a marketplace; all variants alike, but that gates move faster."""
    schema = marketplace_schema()
    schema = schema.model_copy(update={"actions": schema.actions[:1]})
    kind = Kind(variant.name, lambda s, n, seed: RankingTransformer(s, n, variant.settings, seed=seed))
    gates = {_GATES: DenseAdamW(learning_rate=_GATE_RATE, decay=0.0)} if variant.is_gated else {}
    plan = OptimizerPlan(
        dense=DenseAdamW(learning_rate=3e-3), dense_groups=gates, default_rows=RowWiseAdaGrad(learning_rate=0.2)
    )
    recipe = marketplace_recipe(kind, schema=schema)
    return replace(recipe, objective=variant.objective, optimizers=plan, num_requests=_BATCH, segments=())


def _settings(
    *heads: FedHead | LearnedHead,
    gates: StaticGateSettings | SegmentGateSettings | None = None,
    watch: HeadWatch | None = None,
) -> TransformerSettings:
    attention = SpecialisedSettings(heads=heads, head_width=16, gates=gates)
    of_list = ListSettings(attention=attention, dropout=0.1, rank="retrieval_score", rank_encoding="sinusoidal")
    return _ALONE.model_copy(update={"list": of_list, "groups": _GROUPS, "watch": watch})


def _guided(schema: Schema) -> Objective:
    return HeadObjective(schema, alignment={"list.0.2": ("near", _PULL)}, orthogonality=_APART)


def _sparse(schema: Schema) -> Objective:
    return HeadObjective(schema, sparsity=_COST_OF_AN_OPEN_GATE)


_ALONE: Final = TransformerSettings(
    row_width=8, width=64, hidden=(128,), dropout=0.2, init_scale=0.3, history=None, list=None
)
_FED: Final = tuple(FedHead(group=group.name) for group in _GROUPS)
_FED_RELATIONS: Final = dict(enumerate(("job_title", "job_seniority", "job_industry", "job_place")))
_HALF: Final = (_FED[0], _FED[2], LearnedHead(), LearnedHead())
_HALF_RELATIONS: Final = {0: "job_title", 1: "job_industry"}
_BY_SENIORITY: Final = SegmentGateSettings(segment=SEGMENT, num_segments=NUM_SENIORITIES, start_open=_START_OPEN)
_GATES_ALONE: Final = HeadWatch(num_places=1)
_NEAR: Final = HeadWatch(num_places=32, relations=(Near(name="near", place="job_place", km=NEAR_KM),))

ALONE: Final = Variant(name="no list", settings=_ALONE)
"""Candidates that do not see each other."""
LEARNED: Final = Variant(name="learned", settings=_settings(*[LearnedHead()] * 4))
"""Heads that all see all: what multi-head attention is."""
FIXED: Final = Variant(name="fixed", settings=_settings(*_FED), relations=_FED_RELATIONS)
"""Each fed with one group of features: title, seniority, industry, place."""
MIXED: Final = Variant(name="mixed", settings=_settings(*_HALF), relations=_HALF_RELATIONS)
"""Two that are fed, with title and industry, and two that learn."""
GUIDED: Final = Variant(
    name="mixed, guided", settings=_settings(*_HALF, watch=_NEAR), objective=_guided,
    relations=_HALF_RELATIONS | {2: "job_place"},
)  # fmt: skip
"""The same; the first that learns is pulled to what is within 50 miles, and all are pulled apart."""
GATED: Final = Variant(
    name="gated", settings=_settings(*_FED, gates=StaticGateSettings(start_open=_START_OPEN), watch=_GATES_ALONE),
    objective=_sparse, relations=_FED_RELATIONS,
)  # fmt: skip
"""The fixed ones, each behind a gate that costs something while it is open."""
SEGMENT_GATED: Final = Variant(
    name="gated by seniority", settings=_settings(*_FED, gates=_BY_SENIORITY, watch=_GATES_ALONE),
    objective=_sparse, relations=_FED_RELATIONS,
)  # fmt: skip
"""The same, with a gate for each head and seniority of the member."""
VARIANTS: Final = (ALONE, LEARNED, FIXED, MIXED, GUIDED, GATED, SEGMENT_GATED)
"""All that are compared, on the same logs."""
