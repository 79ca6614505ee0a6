"""Evidently's preset of drift, by PSI: steps for `drift_pass.py`. Besides it makes what its reports are drawn from."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from evidently import DataDefinition, Dataset, Report
from evidently.metrics import ValueDrift
from evidently.presets import DataDriftPreset

from contenders.drift_sample import OUTLIER, sample
from contenders.turns import Turns, serve

__all__: list[str] = []


def main() -> None:
    turns = Turns()
    num_rows, num_columns = turns.settings["rows"], turns.settings["columns"]
    frames = [
        pd.DataFrame({f"x{i}": column_C for i, column_C in enumerate(sample(num_rows, num_columns, drifted=drifted))})
        for drifted in (False, True)
    ]
    definition = DataDefinition(numerical_columns=list(frames[0].columns))
    reference, current = (Dataset.from_pandas(frame, data_definition=definition) for frame in frames)

    def psi_of_first(frame: pd.DataFrame) -> float:
        one = DataDefinition(numerical_columns=["x0"])
        then, now = (Dataset.from_pandas(part[["x0"]], data_definition=one) for part in (frames[0], frame))
        found = Report([ValueDrift(column="x0", method="psi")]).run(now, then).dict()
        return float(found["metrics"][0]["value"])

    def outlier() -> Mapping[str, float]:
        spoiled = frames[1].copy()
        spoiled.loc[0, "x0"] = OUTLIER
        return {"outlier": abs(psi_of_first(spoiled) - psi_of_first(frames[1])), "psi": psi_of_first(frames[1])}

    turns.facts = outlier
    serve(turns, lambda _: Report([DataDriftPreset(method="psi")]).run(current, reference))


if __name__ == "__main__":
    main()
