"""What `rankwell inspect heads` prints and draws.

Letters: J heads · E bins of distance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from rich.box import SIMPLE_HEAD
from rich.table import Table

from rankwell.app.drawing import AFTER, BEFORE, FAINT, INK, MODEL_COLOURS, MUTED, drawing, plain_axes
from rankwell.app.number_format import count, number, percent
from rankwell.evaluation.attention_maps import DISTANCES
from rankwell.evaluation.sample import Floats
from rankwell.serving.head_inspection import HeadInspection, LayerInspection

__all__ = ["draw_heads", "head_tables"]

_STRONGEST: Final = 3.0
"""Lifts of 2³ and more, and of 2⁻³ and less, have the darkest colours."""
_LIFTS: Final = LinearSegmentedColormap.from_list("lifts", [BEFORE, "#ffffff", AFTER])
_SHARES: Final = LinearSegmentedColormap.from_list("shares", ["#ffffff", AFTER])


def head_tables(inspection: HeadInspection) -> tuple[Table, ...]:
    """Layer by layer: the heads, what they attend to, how far away, how recent, and their gates."""
    tables = []
    for layer in inspection.layers:
        tables.append(_heads(layer, inspection))
        if layer.relations:
            tables.append(_relations(layer))
        if layer.rows:
            tables.append(_bins(layer, "so many places away", "by_distance"))
            if not layer.name.startswith("list."):
                tables.append(_bins(layer, "so many events before the last", "by_recency"))
        if layer.gates and None not in layer.gates:
            tables.append(_gates(layer, inspection.segment or ""))
    return tuple(tables)


def draw_heads(inspection: HeadInspection, path: Path) -> None:
    """Draw a row a layer: what heads attend to against an even head, by relation and distance; AUC lost; overlap.

    Args:
        inspection: What is drawn.
        path: Of the picture; its ending says the format. The folder is made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    num_heads = [len(layer.reads) for layer in inspection.layers]
    heights = [1.3 + 0.3 * num for num in num_heads]
    with drawing(sum(heights) + 0.4) as figure:
        grid = figure.subplots(
            len(inspection.layers), 4, squeeze=False,
            gridspec_kw={"height_ratios": heights, "width_ratios": [1.5, 1.3, 1.2, 1.0], "wspace": 0.03},
        )  # fmt: skip
        lowest, highest = _ends(inspection)
        for layer, row in zip(inspection.layers, grid, strict=True):
            is_list = layer.name.startswith("list.")
            _draw_relations(row[0], layer)
            _draw_bins(row[1], layer, "by_distance" if is_list else "by_recency")
            _draw_lost(row[2], layer, lowest, highest)
            _draw_overlap(row[3], layer)
            titles = (
                f"{_called(layer)}\nshare on related, × even",
                "share by places away,\n× even" if is_list else "share by events before\nthe last, × even",
                f"{inspection.action} AUC lost\nwithout it, 95 %",
                "overlap\nof maps",
            )
            for axes, title in zip(row, titles, strict=True):
                axes.set_title(title, fontsize=8.5)
        figure.savefig(path, dpi=160, facecolor="white")


def _heads(layer: LayerInspection, inspection: HeadInspection) -> Table:
    table = _table(
        f"{_called(layer)}: {len(layer.reads)} heads",
        f"On {count(inspection.num_requests)} requests of {count(inspection.num_candidates)} candidates. Entropy in "
        "nats, an even head's in brackets; overlap, the mean cosine with other heads' maps, and the most alike head; "
        f"what the AUC of {inspection.action}, {number(inspection.auc, 4)}, loses when the head is cut out and nothing "
        "is trained anew, with its 95 % interval.",
    )
    table.add_column("head")
    for heading in ("entropy", "overlap", "alike", "gate", "AUC lost"):
        table.add_column(heading, justify="right")
    for j, (reads, lost) in enumerate(zip(layer.reads, layer.auc_lost, strict=True)):
        row = layer.rows[j] if layer.rows else None
        table.add_row(
            f"{j} {reads}",
            "–" if row is None else f"{number(row.entropy, 2)} ({number(row.even_entropy, 2)})",
            "–" if row is None or row.most_alike is None else number(row.overlap, 2),
            "–" if row is None or row.most_alike is None else str(row.most_alike),
            _gate(layer, j),
            f"{number(lost.value, 4)} ± {number(lost.interval.width / 2, 4)}",
        )  # fmt: skip
    return table


def _relations(layer: LayerInspection) -> Table:
    table = _table(
        f"{_called(layer)}: share on related entries",
        "Entries of the same value, or of places within 50 miles; the one that asks does not count, nor does what has "
        "no related entry.",
    )
    table.add_column("head")
    for relation in layer.relations:
        table.add_column(relation, justify="right", overflow="fold")
    for j, (reads, row) in enumerate(zip(layer.reads, layer.rows, strict=True)):
        table.add_row(f"{j} {reads}", *(percent(row.mass_on[relation]) for relation in layer.relations))
    table.add_section()
    table.add_row("even", *(percent(layer.rows[0].even_mass_on[relation]) for relation in layer.relations))
    return table


def _bins(layer: LayerInspection, what: str, of: str) -> Table:
    table = _table(f"{_called(layer)}: share on entries {what}", "")
    table.add_column("head")
    even = _even(layer, of)
    used = [e for e, share in enumerate(even) if share > 0]
    for e in used:
        table.add_column(_bin_names()[e], justify="right")
    for j, (reads, shares) in enumerate(zip(layer.reads, _shares(layer, of), strict=True)):
        table.add_row(f"{j} {reads}", *(percent(shares[e]) for e in used))
    table.add_section()
    table.add_row("even", *(percent(even[e]) for e in used))
    return table


def _gates(layer: LayerInspection, segment: str) -> Table:
    table = _table(
        f"{_called(layer)}: gates by {segment}", "A head whose gate is 0 is left out of the segment's graph."
    )
    table.add_column(segment)
    for j, reads in enumerate(layer.reads):
        table.add_column(f"{j} {reads}", justify="right")
    for id_, gates in layer.gates.items():
        table.add_row(str(id_), *(number(gate, 2) for gate in gates))
    return table


def _gate(layer: LayerInspection, head: int) -> str:
    values = [gates[head] for gates in layer.gates.values()]
    if not values:
        return "–"
    low, high = (number(end, 2) for end in (min(values), max(values)))
    return low if low == high else f"{low}–{high}"


def _called(layer: LayerInspection) -> str:
    stack, _, place = layer.name.rpartition(".")
    return f"{stack}, layer {place}"


def _shares(layer: LayerInspection, of: str) -> list[tuple[float, ...]]:
    return [row.by_distance if of == "by_distance" else row.by_recency for row in layer.rows]


def _even(layer: LayerInspection, of: str) -> tuple[float, ...]:
    row = layer.rows[0]
    return row.even_by_distance if of == "by_distance" else row.even_by_recency


def _bin_names() -> list[str]:
    names = [str(a) if b == a + 1 else f"{a}–{b - 1}" for a, b in pairwise(DISTANCES)]
    return [*names, f"{DISTANCES[-1]}+"]


def _draw_relations(axes: Axes, layer: LayerInspection) -> None:
    names = layer.relations
    if not names:
        _nothing(axes, layer, "no entry is related\nto another one" if layer.rows else "no maps")
        return
    lift = np.array([[row.mass_on[name] / row.even_mass_on[name] for name in names] for row in layer.rows])
    with np.errstate(divide="ignore"):
        colour = np.clip(np.log2(lift), -_STRONGEST, _STRONGEST) / _STRONGEST
    _draw_cells(axes, colour, [[f"{value:.1f}" for value in row] for row in lift], _LIFTS, (-1.0, 1.0))
    axes.set_xticks(range(len(names)), names, rotation=35, ha="right")
    _name_heads(axes, layer)


def _draw_bins(axes: Axes, layer: LayerInspection, of: str) -> None:
    if not layer.rows or any(math.isnan(share) for share in _even(layer, of)):
        _nothing(axes, layer, "no maps")
        return
    even = _even(layer, of)
    used = [e for e, share in enumerate(even) if share > 0]
    plain_axes(axes, grid="y")
    axes.axhline(1, color=INK, linewidth=1, linestyle=(0, (3, 2)))
    for j, shares in enumerate(_shares(layer, of)):
        lift = [shares[e] / even[e] for e in used]
        colour = MODEL_COLOURS[j % len(MODEL_COLOURS)]
        axes.plot(range(len(used)), lift, "o-", color=colour, linewidth=1.2, markersize=2.5, label=str(j))
    axes.set_xticks(range(len(used)), [_bin_names()[e] for e in used])
    axes.tick_params(labelsize=7)
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=6.5, ncols=min(len(layer.rows), 4), handlelength=1.2, columnspacing=0.8, loc="lower left")


def _draw_lost(axes: Axes, layer: LayerInspection, lowest: float, highest: float) -> None:
    plain_axes(axes, grid="x")
    places = np.arange(len(layer.reads))
    values = np.array([lost.value for lost in layer.auc_lost])
    ends = np.array([(lost.interval.low, lost.interval.high) for lost in layer.auc_lost]).reshape(-1, 2)
    axes.barh(places, values, height=0.5, color=BEFORE, alpha=0.75)
    axes.hlines(places, ends[:, 0], ends[:, 1], color=INK, linewidth=1)
    axes.axvline(0, color=MUTED, linewidth=0.8)
    axes.set_xlim(lowest, highest)
    axes.set_ylim(len(layer.reads) - 0.5, -0.5)
    axes.set_yticks(places, [str(j) for j in places])
    axes.locator_params(axis="x", nbins=4)
    axes.tick_params(labelsize=7)


def _draw_overlap(axes: Axes, layer: LayerInspection) -> None:
    if not layer.rows:
        _nothing(axes, layer, "no maps")
        return
    shown = [[f"{value:.2f}" for value in row] for row in layer.overlap_JJ]
    _draw_cells(axes, layer.overlap_JJ, shown, _SHARES, (0.0, 1.0))
    places = range(len(layer.reads))
    axes.set_xticks(places, [str(j) for j in places])
    axes.set_yticks(places, [str(j) for j in places])


def _draw_cells(
    axes: Axes, values: Floats, shown: Sequence[Sequence[str]], colours: Any, ends: tuple[float, float]
) -> None:
    axes.imshow(values, cmap=colours, vmin=ends[0], vmax=ends[1], aspect="auto")
    for i, row in enumerate(shown):
        for j, text in enumerate(row):
            is_dark = abs(values[i, j]) > 0.6 * ends[1]
            axes.text(j, i, text, ha="center", va="center", fontsize=6.5, color="white" if is_dark else INK)
    axes.spines[:].set_color(FAINT)
    axes.tick_params(length=0, labelsize=7)


def _name_heads(axes: Axes, layer: LayerInspection) -> None:
    axes.set_yticks(range(len(layer.reads)), [f"{j} {reads}" for j, reads in enumerate(layer.reads)])


def _nothing(axes: Axes, layer: LayerInspection, why: str) -> None:
    axes.set_xlim(0, 1)
    axes.set_ylim(len(layer.reads) - 0.5, -0.5)
    axes.set_xticks([])
    _name_heads(axes, layer)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=7)
    axes.text(0.5, (len(layer.reads) - 1) / 2, why, ha="center", va="center", color=MUTED, fontsize=7.5)


def _ends(inspection: HeadInspection) -> tuple[float, float]:
    """Of the axis of AUC lost, which all layers share."""
    found = [end for layer in inspection.layers for lost in layer.auc_lost
             for end in (lost.value, lost.interval.low, lost.interval.high) if not math.isnan(end)]  # fmt: skip
    low, high = min([0.0, *found]), max([0.0, *found])
    room = 0.05 * (high - low) or 1e-3
    return low - room, high + room


def _table(title: str, caption: str) -> Table:
    return Table(title=title, caption=caption or None, box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
