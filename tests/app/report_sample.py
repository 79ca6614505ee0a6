"""A report as a small marketplace would give it: three models, of which the last is best and all are over-confident."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rankwell.app.report import ExampleCandidate, ExampleRequest, ModelResult, ReportData
from rankwell.evaluation.report import Evaluation, evaluate
from rankwell.training.history import EpochRecord, TrainingHistory

__all__ = ["sample_report"]

Floats = npt.NDArray[np.float64]


def sample_report(*, num_requests: int = 400, title: str = "Senior engineer, data platform") -> ReportData:
    """Truth: log-odds of −2.6 plus noise; a model sees the part of it that its name promises."""
    rng = np.random.default_rng(7)
    request_C = np.repeat(np.arange(num_requests), 10)
    logit_C = -2.6 + 1.1 * rng.normal(size=len(request_C)) + 0.6 * rng.normal(size=num_requests)[request_C]
    truth_C = _logistic(logit_C)
    label_C = (rng.random(len(truth_C)) < truth_C).astype(np.float64)
    seniority_C = rng.integers(0, 5, len(truth_C))
    device_C = np.where(rng.random(len(truth_C)) < 0.3, "phone", "desk")

    def evaluated(logits_C: Floats) -> Evaluation:
        return evaluate(
            _logistic(logits_C),
            logits_C,
            label_C,
            np.ones(len(label_C)),
            request_C=request_C,
            segments={"seniority": seniority_C, "device": device_C},
            true_probabilities_C=truth_C,
            num_null_draws=50,
        )

    models = []
    for name, noise in (("Logistic", 0.9), ("Deep", 0.5), ("Wide & Deep", 0.25)):
        seen_C = logit_C + noise * rng.normal(size=len(logit_C))
        shrunk_C = -2.6 + (seen_C + 2.6) * 1.57 / (1.57 + noise**2)
        raw_C = 1.25 * seen_C + 0.75 + 0.12 * seniority_C
        models.append(ModelResult(name, evaluated(raw_C), evaluated(shrunk_C), _history(noise)))
    return ReportData(
        title="A job marketplace, ranked",
        subtitle="Wide & Deep trained on the simulated log of a job marketplace to predict clicks, and calibrated.",
        models=tuple(models),
        headline="Wide & Deep",
        stage_seconds={"simulate": 3.2, "train Logistic": 8.1, "train Deep": 21.4, "train Wide & Deep": 27.9,
                       "calibrate": 0.05, "evaluate": 2.2, "rank": 0.012},
        example=ExampleRequest(
            asked="A data engineer of 7 years in Utrecht opened the jobs page on a Tuesday morning.",
            candidates=tuple(
                ExampleCandidate(810_000 + place, title if place == 0 else f"Data engineer {place}", 0.31 / (place + 1),
                                 0.29 / (place + 1), 1_200_000 + 37_000 * place, None if place > 4 else place == 1)
                for place in range(8)
            ),
            num_candidates=60,
            sorted_by="p(click)",
        ),
        provenance={"rankwell": "0.1.0", "seed": "7", "requests": "train 60,000 · tune 10,000 · calibrate 10,000"},
        segment_names={"seniority": dict(enumerate(["intern", "junior", "senior", "lead", "director"]))},
    )  # fmt: skip


def _history(noise: float) -> TrainingHistory:
    epochs = tuple(
        EpochRecord(
            epoch=epoch,
            train_loss=0.28 + 0.05 * noise + 0.12 * 0.5**epoch - 0.003 * epoch,
            tune_log_loss=0.285 + 0.05 * noise + 0.04 * 0.5**epoch + 0.002 * max(epoch - 4, 0),
            tune_auc=0.78 - 0.05 * noise - 0.05 * 0.5**epoch - 0.002 * max(epoch - 4, 0),
            learning_rate=0.01 if epoch < 5 else 0.001,
            num_candidates=600_000,
            seconds=3.1 + noise,
            reading_s=0.2,
            tune_s=0.3,
        )
        for epoch in range(7)
    )
    return TrainingHistory(epochs, best_epoch=4)


def _logistic(logits_C: Floats) -> Floats:
    return 1 / (1 + np.exp(-logits_C))
