"""Our calibrators: a step is one fit on the whole sample, or, asked for "calibrate", one small batch calibrated."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import numpy as np
import torch

from contenders.turns import Turns, serve
from rankwell.calibration.adjacent_violators import _pooled  # the pass over sorted rows alone, for its own time
from rankwell.calibration.beta import fit_beta
from rankwell.calibration.binned_isotonic import fit_binned_isotonic
from rankwell.calibration.calibrator import Calibrator
from rankwell.calibration.isotonic import fit_isotonic
from rankwell.calibration.isotonic_layer import IsotonicLayer
from rankwell.calibration.pane import LogitPane
from rankwell.calibration.platt import fit_platt
from rankwell.training.recipe import FitCalibrator

__all__: list[str] = []


def of_pane(fit: FitCalibrator) -> FitCalibrator:
    """The same fit on the sums of the rows."""
    return lambda *columns: fit(*LogitPane.of(*columns).rows())


FITS: Mapping[str, FitCalibrator] = {
    "isotonic": fit_isotonic,
    "isotonic of all bits": fit_isotonic,
    "binned isotonic": fit_binned_isotonic,
    "Platt": fit_platt,
    "Platt of a pane": of_pane(fit_platt),
    "beta": fit_beta,
    "beta of a pane": of_pane(fit_beta),
}


def operations_us(calibrator: Calibrator, logits_C: torch.Tensor, segments_CS: torch.Tensor) -> Mapping[str, float]:
    """What a call consists of: the log-odds, and the smallest call of torch there is."""

    def median_us(call: Callable[[], object]) -> float:
        times = []
        for _ in range(2000):
            began = time.perf_counter()
            call()
            times.append(time.perf_counter() - began)
        return 1e6 * statistics.median(times)

    return {
        "log-odds": median_us(lambda: calibrator.calibrated_logits(logits_C, segments_CS)),
        "one addition": median_us(lambda: logits_C + 1.0),
    }


def main() -> None:
    turns = Turns()
    settings = turns.settings
    torch.set_num_threads(settings["threads"])
    logits_C, labels_C, fresh_logits_C, fresh_labels_C = (
        torch.from_numpy(np.load(settings[name])) for name in ("logits", "labels", "fresh logits", "fresh labels")
    )
    task, method = settings["task"], settings["method"]
    if method.endswith("of all bits"):
        logits_C = torch.from_numpy(np.load(settings["all bits"]))
    columns = (logits_C, labels_C, torch.ones(len(logits_C), dtype=torch.float64), torch.zeros(len(logits_C), 0))
    if task == "fit" and method == "pool":
        logits_C, order_C = logits_C.sort()
        signed_C = 2.0 * labels_C[order_C].numpy() - 1.0
        serve(turns, lambda _: _pooled(logits_C.numpy(), signed_C))
    elif task == "fit":
        fitted: list[Calibrator] = []

        def brier() -> Mapping[str, float]:
            probabilities_C = fitted[-1](fresh_logits_C, torch.zeros(len(fresh_logits_C), 0))
            return {"brier": float(((probabilities_C - fresh_labels_C) ** 2).mean())}

        def fit_once(_: int) -> None:
            fitted[:] = [FITS[method](*columns)]

        turns.facts = brier
        serve(turns, fit_once)
    else:
        small = fresh_logits_C[: settings["batch"]].float(), torch.zeros(settings["batch"], 0)
        few = tuple(column[:1_000_000] for column in columns)
        if method == "isotonic layer":
            layer, none_C = IsotonicLayer(), torch.zeros(settings["batch"], dtype=torch.int64)
            call: Callable[[], object] = lambda: layer(small[0], none_C)  # noqa: E731
        else:
            calibrator = FITS[method](few[0], few[1], few[2], few[3])
            call = lambda: calibrator(*small)  # noqa: E731
            turns.facts = lambda: operations_us(calibrator, *small)
        with torch.inference_mode():
            serve(turns, lambda _: call())


if __name__ == "__main__":
    main()
