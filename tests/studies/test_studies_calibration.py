"""The calibration study on a small scale: what it must find whatever is drawn."""

from __future__ import annotations

from rankwell.studies.calibration import study_calibration


def test_the_right_calibrator_loses_least_and_looking_is_paid_for() -> None:
    result = study_calibration(seeds=range(2), sizes=(500, 6000), num_runs=60, num_panes=150)
    nats = {key.removeprefix("choice/"): value for key, value in result.numbers.items()}
    for distortion in ("slope", "offset", "shape"):
        assert nats[f"{distortion}/Platt/6000 rows/nats"] < nats[f"{distortion}/uncalibrated/6000 rows/nats"] / 5
    assert nats["none/uncalibrated/500 rows/nats"] < 1e-9
    assert nats["segments/segment tree/6000 rows/nats"] < nats["segments/Platt/6000 rows/nats"]
    for distortion in ("slope", "shape"):
        assert nats[f"{distortion}/isotonic/6000 rows/nats"] < nats[f"{distortion}/isotonic/500 rows/nats"]
    accused = {
        kind: result.numbers[f"watching/{kind}/accused though right"]
        for kind in ("plain 95 % interval", "10 % off", "confidence sequence", "detector")
    }
    assert accused["confidence sequence"] < 0.12
    assert accused["plain 95 % interval"] > 0.2
    assert accused["10 % off"] > 0.9
    assert result.numbers["watching/detector/panes to find half"] > 3
    assert len(result.charts) == len(result.tables) == 2
