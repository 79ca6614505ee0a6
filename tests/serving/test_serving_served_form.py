"""Forms of serving answer alike, and differ by what their precision costs and by nothing else."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
import torch

from every_kind_log import EVERY_KIND, every_kind_table
from rankwell.calibration.platt import Platt
from rankwell.data.batches import Batches
from rankwell.data.log import log_from_table
from rankwell.data.split import WholeLog
from rankwell.data.statistics import measure_numerics
from rankwell.errors import BundleError
from rankwell.models.transformer import RankingTransformer, TransformerSettings
from rankwell.serving.budget_fit import DensePrecision, Form
from rankwell.serving.bundle import Bundle
from rankwell.serving.deployment import read_deployment
from rankwell.serving.row_map import Precision
from rankwell.serving.scorer import EagerScorer
from rankwell.serving.served_form import DeployingEngine, write_form
from rankwell.training.objectives import PointwiseObjective
from rankwell.training.optimizers import OptimizerPlan
from rankwell.training.stepper import Stepper

LOG = log_from_table(every_kind_table(30, 0), EVERY_KIND, layout="requests")
REQUESTS = list(Batches(LOG, WholeLog("tune"), "tune", num_requests=1, seed=None))
STATISTICS = measure_numerics(REQUESTS, EVERY_KIND)
CALIBRATORS = {"click": Platt(0.9, -0.2), "stars": Platt(1.1, 0.1)}


def trained() -> Bundle:
    """After a few steps, so that ids have rows of their own."""
    model = RankingTransformer(EVERY_KIND, STATISTICS, TransformerSettings(row_width=8, init_scale=0.3), seed=0)
    stepper = Stepper(model.train(), PointwiseObjective(EVERY_KIND), OptimizerPlan(), seed=0)
    for batch in REQUESTS:
        stepper.step(batch)
    return Bundle(model=model.eval(), calibrators=CALIBRATORS, created_us=1)


@pytest.mark.slow
def test_forms_are_near_pytorch_by_their_precision(tmp_path: Path) -> None:
    bundle = trained()
    engine, eager = DeployingEngine(tmp_path, REQUESTS[:10]), EagerScorer(bundle)
    rows: tuple[Precision, ...] = ("float32", "int8")
    products: tuple[tuple[DensePrecision, float], ...] = (
        ("float32", 1e-5), ("dynamic int8", 0.2), ("static int8", 0.3),
    )  # fmt: skip
    for precision in rows:
        for dense, room in products:
            scorer = engine(bundle, Form(precision, dense))
            apart = 0.0
            for batch in islice(REQUESTS, 10, 20):
                found, expected = scorer.score(batch), eager.score(batch)
                apart = max(apart, float((found.logits_CA - expected.logits_CA).abs().max()))
                at_word_CA = torch.stack(
                    [
                        CALIBRATORS[name](found.logits_CA[:, a], torch.zeros(0, dtype=torch.int64))
                        for a, name in enumerate(("click", "stars"))
                    ],
                    dim=1,
                )
                torch.testing.assert_close(found.probabilities_CA, at_word_CA, rtol=1e-5, atol=1e-7)
            assert apart <= room + (0.0 if precision == "float32" else 0.05)
            assert (apart > 1e-5) == ((precision, dense) != ("float32", "float32"))
    assert len(list(tmp_path.iterdir())) == 6
    with pytest.raises(BundleError, match="measured on requests"):
        write_form(bundle, Form(dense="static int8"), tmp_path / "unseen")
    write_form(bundle, Form("int8", "dynamic int8"), tmp_path / "written")
    deployment = read_deployment(tmp_path / "written")
    deployment.test(deployment.scorer())
