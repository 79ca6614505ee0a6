"""Several rankers of one kind, each begun from a seed of its own, whose logits are averaged.

Letters: R requests · C candidates, flat · A actions · M members.

Source: Hansen and Salamon 1990, "Neural network ensembles"; Lakshminarayanan, Pritzel and Blundell 2017, "Simple and
scalable predictive uncertainty estimation using deep ensembles", NeurIPS.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, final

import torch
from pydantic import Field
from torch import Tensor, nn

from rankwell.data.statistics import NumericStatistics
from rankwell.models.model import Model, ModelSettings
from rankwell.models.transformer import RankingTransformer, TransformerSettings
from rankwell.schema import Schema
from rankwell.types import Encoded, Features

__all__ = ["TransformerEnsemble", "TransformerEnsembleSettings"]

_BETWEEN_SEEDS: Final = 1_000_003


@final
class TransformerEnsembleSettings(ModelSettings):
    """Settings of `TransformerEnsemble`.

    Args:
        num_members: M.
        member: Of each; a watch is no use here, for there is no one head to watch.
    """

    num_members: Annotated[int, Field(ge=1, le=256)] = 2
    member: TransformerSettings = TransformerSettings()


@final
class TransformerEnsemble(Model):
    """``logits_CA = 1/M Σ_m logits_m`` of M `RankingTransformer`, which share nothing but what they read.

    Where a log is short, one network says much that only its seed is to blame for; the mean over seeds says it less. It
    costs M times as much to train and to serve. What its loss sees decides what the members become: a loss of the mean
    logit lets them make up for each other; `rankwell.training.member_objective.MemberObjective` gives each a loss of
    its own, as if it were alone.

    >>> from rankwell.schema import Action, Categorical
    >>> schema = Schema(features=(Categorical(name="job", num_rows=100),), actions=(Action(name="click"),))
    >>> sorted(TransformerEnsemble(schema, NumericStatistics(), seed=0).tables)
    ['deep_0', 'deep_1', 'wide_0', 'wide_1']
    """

    settings_class: ClassVar[type[ModelSettings]] = TransformerEnsembleSettings

    def __init__(
        self,
        schema: Schema,
        statistics: NumericStatistics,
        settings: TransformerEnsembleSettings | None = None,
        *,
        seed: int,
    ) -> None:
        settings = settings or TransformerEnsembleSettings()
        super().__init__(schema, statistics, settings, seed=seed)
        members = [
            RankingTransformer(schema, statistics, settings.member, seed=seed + _BETWEEN_SEEDS * m)
            for m in range(settings.num_members)
        ]
        self.members = nn.ModuleList(members)
        self.tables = {f"{part}_{m}": table for m, one in enumerate(members) for part, table in one.tables.items()}
        self.linear_parts = frozenset(f"{part}_{m}" for m, one in enumerate(members) for part in one.linear_parts)

    def encode(self, features: Features) -> Encoded:
        """The mean of the members' logits, and each one's beside it."""
        logits = tuple(member(features) for member in self.members)
        return Encoded(torch.zeros(features.num_requests, 0), torch.stack(logits).mean(0), {}, members=logits)

    def head(self, encoded: Encoded) -> Tensor:
        """The mean as it stands."""
        return encoded.candidate_CD
