"""The demo at its own size, and each study at a small one, as a user types them."""

from __future__ import annotations

import json
import math
from itertools import product
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rankwell.app.command_line import app
from rankwell.simulation.recipe import KINDS

pytestmark = pytest.mark.slow

KIND_NAMES = ("Logistic", "Deep", "Wide & Deep")
LEVELS = ("log_loss", "auc", "ece", "calibration_ratio", "error_to_truth")


def numbers_of(folder: Path, *words: object) -> dict[str, float]:
    path = folder / "numbers.json"
    result = CliRunner().invoke(app, [*map(str, words), "--json", str(path)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    numbers: dict[str, float] = json.loads(path.read_text())
    return numbers


def test_the_demo_is_calibrated_and_wide_and_deep_beats_its_halves(tmp_path: Path) -> None:
    numbers = numbers_of(tmp_path, "demo", "--out", tmp_path / "demo")
    assert "<svg" in (tmp_path / "demo" / "report.html").read_text()
    assert tuple(kind.name for kind in KINDS) == KIND_NAMES
    for name in KIND_NAMES:
        assert numbers[f"{name}/calibrated/ece"] <= 0.01
        assert 0.97 <= numbers[f"{name}/calibrated/calibration_ratio"] <= 1.03
        assert numbers[f"{name}/calibrated/excess_log_loss"] > 0
    for half in ("Logistic", "Deep"):
        assert numbers["Wide & Deep/calibrated/log_loss"] < numbers[f"{half}/calibrated/log_loss"]


def test_the_study_of_wide_and_deep_gives_its_numbers(tmp_path: Path) -> None:
    numbers = numbers_of(tmp_path, "study", "wide-deep", "--seeds", 2, "--requests", 6_000)
    levels = {"/".join(parts) for parts in product(KIND_NAMES, LEVELS, ("mean", "sd"))}
    halves = ("gain_over_Logistic", "gain_over_Deep")
    gains = {"/".join(parts) for parts in product(halves, ("log_loss", "auc"), ("mean", "low", "high"))}
    assert set(numbers) == levels | gains | {"bayes_log_loss"}
    assert all(math.isfinite(value) for value in numbers.values())
    for name in KIND_NAMES:
        assert 0.2 < numbers["bayes_log_loss"] < numbers[f"{name}/log_loss/mean"] < 0.5
    for half, label in product(halves, ("log_loss", "auc")):
        low, mean, high = (numbers[f"{half}/{label}/{end}"] for end in ("low", "mean", "high"))
        assert low < mean < high


def test_the_study_of_segment_repair_gives_its_numbers(tmp_path: Path) -> None:
    numbers = numbers_of(tmp_path, "study", "segment-repair", "--seeds", 2, "--requests", 6_000)
    variants = ("years as a line, one Platt", "years as a line, a Platt per band", "years piecewise linear, one Platt")
    bands = ("below 2", "2 to 5", "5 to 10", "10 to 15", "15 to 20", "20 on")
    ratios = {f"{variant}/calibration_ratio/{years}" for variant, years in product(variants, bands)}
    levels = product(variants, ("band_error", "log_loss", "auc", "error_to_truth"), ("mean", "sd"))
    gain = {f"log_loss_gain_of_transform_over_segments/{end}" for end in ("mean", "low", "high")}
    assert set(numbers) == ratios | {"/".join(parts) for parts in levels} | gain
    assert all(math.isfinite(value) for value in numbers.values())
    line, per_band, _ = (numbers[f"{variant}/band_error/mean"] for variant in variants)
    assert per_band < line
