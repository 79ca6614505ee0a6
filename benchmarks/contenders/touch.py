"""The touch kernel: what `touch.cpp` does of the traffic of a table step, compiled here and run on the same ids.

``only_rows`` leaves out the lent block and the gradients, which are traffic of any step too, but stay in cache longer.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contenders.turns import Turns, serve

__all__ = ["has_compiler"]


def has_compiler() -> bool:
    """Whether there is a C++ compiler to build it with."""
    return shutil.which("c++") is not None


def main() -> None:
    turns = Turns()
    settings, kernel = turns.settings, _compiled()
    width = settings["width"]
    ids_SFB = np.load(settings["ids"])
    num_steps, num_fields, batch = ids_SFB.shape
    first_slots = np.cumsum([0, *settings["sizes"][:-1]])
    entries_Sn = (ids_SFB + first_slots[None, :, None]).astype(np.uint32).reshape(num_steps, -1)
    parts = min(settings["threads"], num_fields)
    fields_of_parts = np.array_split(np.arange(num_fields), parts)
    entry_bounds = np.array([0, *map(len, fields_of_parts)]).cumsum() * batch
    own = [[_distinct(entries[a:b]) for a, b in pairwise(entry_bounds)] for entries in entries_Sn]
    distinct_S = [np.concatenate(lists) for lists in own]
    bounds_S = [np.array([0, *map(len, lists)]).cumsum() for lists in own]
    num_slots = sum(settings["sizes"])
    rows, states = np.ones((num_slots, width), np.float32), np.ones(num_slots, np.float32)
    block = np.ones((num_fields * batch, width), np.float32)
    gradients, sums = np.ones_like(block), np.zeros((parts, 64, width), np.float32)

    def step(number: int) -> None:
        s = number % num_steps
        kernel.touch(
            _at(rows), _at(states), ctypes.c_int64(width), _at(entries_Sn[s]), _at(entry_bounds), _at(distinct_S[s]),
            _at(bounds_S[s]), ctypes.c_int64(parts), None if settings["only_rows"] else _at(block), _at(gradients),
            _at(sums),
        )  # fmt: skip

    turns.facts = lambda: {"distinct": float(np.mean([len(slots) for slots in distinct_S]))}
    serve(turns, step)


def _compiled() -> ctypes.CDLL:
    with tempfile.TemporaryDirectory() as folder:
        library, source = Path(folder) / "touch.so", Path(__file__).with_suffix(".cpp")
        options = ["-O3", "-march=native", "-fopenmp", "-shared", "-fPIC"]
        subprocess.run(["c++", *options, "-o", str(library), str(source)], check=True)
        return ctypes.CDLL(str(library))


def _distinct(slots: NDArray[np.uint32]) -> NDArray[np.uint32]:
    _, first = np.unique(slots, return_index=True)
    return slots[np.sort(first)]


def _at(array: NDArray[np.generic]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


if __name__ == "__main__":
    main()
