"""Calibrators of scikit-learn and netcal, and sorts of NumPy: steps as in `contenders.rankwell_calibration`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from netcal.binning import IsotonicRegression as NetcalIsotonic
from netcal.scaling import BetaCalibration, LogisticCalibration
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from contenders.turns import Turns, serve

__all__: list[str] = []

Floats = NDArray[np.float64]
Predict = Callable[[Floats], Floats]


def fitted_isotonic(logits_C: Floats, labels_C: Floats) -> Predict:
    return IsotonicRegression(out_of_bounds="clip").fit(logits_C, labels_C).predict


def fitted_line(logits_C: Floats, labels_C: Floats) -> Predict:
    line = LogisticRegression(C=np.inf).fit(logits_C[:, None], labels_C)
    return lambda asked_C: line.predict_proba(asked_C[:, None])[:, 1]


def fitted_netcal(kind: Callable[[], Any]) -> Callable[[Floats, Floats], Predict]:
    """netcal takes probabilities."""

    def fit(logits_C: Floats, labels_C: Floats) -> Predict:
        calibrator = kind().fit(1.0 / (1.0 + np.exp(-logits_C)), labels_C)
        return lambda asked_C: calibrator.transform(1.0 / (1.0 + np.exp(-asked_C)))

    return fit


FITS: Mapping[str, Callable[[Floats, Floats], Predict]] = {
    "scikit-learn isotonic": fitted_isotonic,
    "scikit-learn Platt": fitted_line,
    "netcal isotonic": fitted_netcal(NetcalIsotonic),
    "netcal Platt": fitted_netcal(LogisticCalibration),
    "netcal beta": fitted_netcal(BetaCalibration),
}


def main() -> None:
    turns = Turns()
    settings = turns.settings
    logits_C, labels_C, fresh_logits_C, fresh_labels_C = (
        np.load(settings[name]) for name in ("logits", "labels", "fresh logits", "fresh labels")
    )
    method = settings["method"]
    if method == "sort":
        serve(turns, lambda _: np.sort(logits_C))
    elif method == "argsort":
        serve(turns, lambda _: np.argsort(logits_C))
    elif settings["task"] == "fit":
        fitted: list[Predict] = []

        def fit_once(_: int) -> None:
            fitted[:] = [FITS[method](logits_C, labels_C)]

        def brier() -> Mapping[str, float]:
            return {"brier": float(((fitted[-1](fresh_logits_C) - fresh_labels_C) ** 2).mean())}

        turns.facts = brier
        serve(turns, fit_once)
    else:
        predict = FITS[method](logits_C[:1_000_000], labels_C[:1_000_000])
        small_C = fresh_logits_C[: settings["batch"]]
        serve(turns, lambda _: predict(small_C))


if __name__ == "__main__":
    main()
