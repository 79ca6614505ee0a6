"""MCGrad and its Platt scaling for each segment, as they come: steps as in `contenders.rankwell_segments`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from mcgrad.methods import MCGrad, PlattScaling, SegmentwiseCalibrator

from contenders.turns import Turns, serve

__all__: list[str] = []


def main() -> None:
    turns = Turns()
    settings = turns.settings
    rows, fresh = (np.load(settings[which]) for which in ("rows", "fresh"))
    columns = {"prediction_column_name": "p", "categorical_feature_column_names": ["segment"]}
    frame, fresh_frame = (
        pd.DataFrame({"p": 1 / (1 + np.exp(-part["logits"].astype(np.float64))), "segment": part["segments"]})
        for part in (rows, fresh)
    )
    frame["label"] = rows["labels"].astype(np.int64)
    fitted: list[Any] = []

    def fit_once(_: int) -> None:
        calibrator = MCGrad() if settings["method"] == "MCGrad" else SegmentwiseCalibrator(PlattScaling)
        calibrator.fit(frame, label_column_name="label", **columns)
        fitted[:] = [calibrator]

    def predicted() -> Mapping[str, float]:
        np.save(settings["predictions"], np.asarray(fitted[-1].predict(fresh_frame, **columns), np.float64))
        return {}

    turns.facts = predicted
    serve(turns, fit_once)


if __name__ == "__main__":
    main()
