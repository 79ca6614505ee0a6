"""Bids by a given p(click) against market prices that were paid: as it was, and recalibrated on the first half.

Letters: C auctions, in their order · D draws.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import torch
from rich.table import Table

from rankwell.calibration.platt import fit_platt
from rankwell.errors import LogError
from rankwell.studies.chart import Chart, Line, Panel
from rankwell.studies.study import StudyResult

__all__ = ["study_bid_replay"]

Floats = npt.NDArray[np.float64]

_COLUMNS: Final = ("click", "market_price", "pctr_lr")
_NUM_DRAWS: Final = 2000
_VALUES: Final = (0.25, 0.5, 1.0, 2.0, 4.0)
_LEAST: Final = 1e-6


def study_bid_replay(file: Path, *, seed: int = 0, say: Callable[[str], None] = lambda _: None) -> StudyResult:
    """Value per click × p as the bid of each impression, at second price: who wins pays what the market paid.

    The value of a click is a multiple of what the first half paid for one. The second half is replayed with the
    probabilities given and with a Platt line fitted on the first. Surplus is Σ over the auctions won of value·y − price
    by the clicks that came, and of value·p − price by the recalibrated probability, which is less noisy but is the
    opinion of one of the two. Intervals are of 2,000 samples of the auctions, drawn again.

    Args:
        file: A Parquet file with `click`, `market_price` and `pctr_lr`, in order of time.
        seed: Of the draws.
        say: Told what is going on.

    Raises:
        LogError: A column is not there.
    """
    table = pq.read_table(file)
    lacking = [name for name in _COLUMNS if name not in table.column_names]
    if lacking:
        raise LogError(f"columns {lacking} are not in {file.name}", found=table.column_names, allowed=list(_COLUMNS))
    click_C, price_C, given_C = (table[name].to_numpy().astype(np.float64) for name in _COLUMNS)
    half = len(click_C) // 2
    first, second = slice(0, half), slice(half, None)
    logits_C = torch.from_numpy(given_C).clamp(_LEAST, 1 - _LEAST).logit()
    ones_C, nowhere_C = torch.ones(len(logits_C)), torch.zeros(len(logits_C), 0)
    line = fit_platt(logits_C[first], torch.from_numpy(click_C[first]), ones_C[first], nowhere_C[first])
    recalibrated_C = line(logits_C, nowhere_C).numpy()
    num_clicks = int(click_C[second].sum())
    say(f"{half:,} auctions to fit on, {num_clicks} clicks in the {len(click_C) - half:,} to replay")
    value_of_click = float(price_C[first].sum() / click_C[first].sum())
    numbers: dict[str, float] = {
        "clicks fitted on": float(click_C[first].sum()),
        "clicks replayed": num_clicks,
        "given: calibration ratio, second half": float(given_C[second].sum() / num_clicks),
        "recalibrated: calibration ratio, second half": float(recalibrated_C[second].sum() / num_clicks),
    }
    shown = Table(title=f"{len(click_C) - half:,} auctions replayed at second price, {num_clicks} clicks in all")
    for heading in ("value of a click", "bids by", "won", "clicks", "surplus by clicks, 95 %", "surplus by p, 95 %"):
        shown.add_column(heading, justify="left" if heading == "bids by" else "right")
    curves: dict[str, list[tuple[float, float, float]]] = {"given": [], "recalibrated": []}
    differences = []
    rng = np.random.default_rng(seed)
    drawn_D = [np.bincount(rng.integers(0, len(click_C) - half, len(click_C) - half)) for _ in range(_NUM_DRAWS)]
    drawn_DC = [np.pad(times, (0, len(click_C) - half - len(times))) for times in drawn_D]
    for multiple in _VALUES:
        value = multiple * value_of_click
        surplus: dict[str, Floats] = {}
        for name, p_C in (("given", given_C), ("recalibrated", recalibrated_C)):
            won_C = value * p_C[second] > price_C[second]
            by_clicks_C = np.where(won_C, value * click_C[second] - price_C[second], 0.0)
            by_p_C = np.where(won_C, value * recalibrated_C[second] - price_C[second], 0.0)
            surplus[name] = by_clicks_C
            cells = []
            for kind, gain_C in (("clicks", by_clicks_C), ("p", by_p_C)):
                low, high = np.quantile([times_C @ gain_C for times_C in drawn_DC], [0.025, 0.975])
                key = f"value × {multiple:g}/{name}/surplus by {kind}"
                numbers |= {key: float(gain_C.sum()), f"{key}/low": float(low), f"{key}/high": float(high)}
                cells.append(f"{gain_C.sum():,.0f} [{low:,.0f}, {high:,.0f}]")
            key = f"value × {multiple:g}/{name}/surplus by clicks"
            curves[name].append((numbers[key], numbers[f"{key}/low"], numbers[f"{key}/high"]))
            shown.add_row(f"{value:,.0f}", name, f"{won_C.mean():.1%}", f"{int(click_C[second][won_C].sum())}", *cells)
        gap_C = surplus["recalibrated"] - surplus["given"]
        low, high = np.quantile([times_C @ gap_C for times_C in drawn_DC], [0.025, 0.975])
        numbers |= {
            f"value × {multiple:g}/recalibrated − given/{end}": float(v) for end, v in (("low", low), ("high", high))
        }
        differences.append((low, high))
    sure = sum(low > 0 or high < 0 for low, high in differences)
    before, after = (numbers[f"{name}: calibration ratio, second half"] for name in ("given", "recalibrated"))
    finding = (
        f"{num_clicks} clicks decide little: the interval of recalibrated minus given surplus excludes 0 at {sure} of "
        f"{len(_VALUES)} values of a click, and no winner is claimed. The calibration ratio on the second half went "
        f"from {before:.2f} to {after:.2f}."
    )
    panel = Panel(
        title="surplus by clicks", x_label="value of a click, × its cost in the first half",
        y_label="surplus, price units",
        lines=tuple(
            Line(name=name, x=_VALUES, y=y, low=low, high=high)
            for name, of in curves.items()
            for y, low, high in [tuple(zip(*of, strict=True))]
        ),
        is_log_x=True, x_names={value: f"{value:g}" for value in _VALUES},
    )  # fmt: skip
    chart = Chart(
        name="replay",
        title="Bids replayed",
        caption="What the second half would have left after paying market prices, by the clicks that came; 95 % "
        "intervals of the auctions drawn again.",
        description="Surplus against the value of a click, for given and recalibrated probabilities.",
        panels=(panel,),
    )
    return StudyResult("replay", (shown,), finding, numbers, (chart,))
