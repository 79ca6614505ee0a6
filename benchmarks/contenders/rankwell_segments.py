"""Our calibrators of segments: a step is one fit; what they say of the fresh rows goes to a file."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from contenders.turns import Turns, serve
from rankwell.calibration.calibrator import Calibrator
from rankwell.calibration.multicalibration import fit_multicalibrated
from rankwell.calibration.platt import fit_platt
from rankwell.calibration.segment_tree import fit_segment_tree
from rankwell.training.recipe import FitCalibrator

__all__: list[str] = []

FITS: Mapping[str, FitCalibrator] = {
    "segment tree": fit_segment_tree,
    "multicalibrated": fit_multicalibrated,
    "Platt": fit_platt,
}


def main() -> None:
    turns = Turns()
    settings = turns.settings
    torch.set_num_threads(settings["threads"])
    rows, fresh = (np.load(settings[which]) for which in ("rows", "fresh"))
    logits_C, labels_C = (torch.from_numpy(rows[name]) for name in ("logits", "labels"))
    weights_C, segments_CS = torch.ones(len(logits_C)), torch.from_numpy(rows["segments"])[:, None]
    fresh_logits_C, fresh_segments_CS = torch.from_numpy(fresh["logits"]), torch.from_numpy(fresh["segments"])[:, None]
    fitted: list[Calibrator] = []

    def fit_once(_: int) -> None:
        fitted[:] = [FITS[settings["method"]](logits_C, labels_C, weights_C, segments_CS)]

    def predicted() -> Mapping[str, float]:
        np.save(settings["predictions"], fitted[-1](fresh_logits_C, fresh_segments_CS).numpy())
        return {}

    turns.facts = predicted
    serve(turns, fit_once)


if __name__ == "__main__":
    main()
