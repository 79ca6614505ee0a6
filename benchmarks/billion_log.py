"""The log of a billion interactions, simulated piece by piece: its truth is known, and any piece can be made anew.

    p(click) = σ(b + member + item + place + hour + device + taste + local)

where *member* is a normal deviate that hashing gives each of 10⁹ possible ids, *item*, *place*, *hour* and *device* are
drawn once per value, *taste* belongs to (a segment of members, the item's category) and *local* to (place, category).
Nobody keeps a table of members: what one likes is computed from the id each time.

Members come by rank: r = ⌊q·u / (1 - u)⌋ with u uniform, a power law P(rank ≥ r) = q / (q + r), so half of the
interactions come from q members and of n interactions about √(π·q·n) - q members are seen. With q = n / 1000 that is
5.5 % of n, whatever n is: a small log is as hard to learn from as the billion. Ranks are scattered over the ids by
r·A mod 10⁹. Items come likewise, from a catalogue of 200,000.

A piece is one Parquet file and depends on (settings, piece) alone. Letters: n rows of a part.

    python benchmarks/billion_log.py [--rows N] [--json FILE]     how fast a piece is written, and read in batches
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from rankwell.data.batches import Batches
from rankwell.data.log import open_log
from rankwell.data.split import WholeLog
from rankwell.schema import Action, Categorical, Cross, Schema, TableSpec

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

NUM_MEMBERS = 10**9
NUM_ITEMS, NUM_CATEGORIES, NUM_PLACES, NUM_HOURS, NUM_DEVICES, NUM_SEGMENTS = 200_000, 100, 1_000, 24, 6, 16
ROW_GROUP = 131_072
_SCATTER = 618_033_989  # coprime to 10⁹
_PART = 2**16  # rows simulated at once: what they need stays in the processor's cache


def schema_of(member: TableSpec | None) -> Schema:
    """The log's schema; without a table for members, that of a model that does not know them."""
    features = [
        Categorical(name="item", num_ids=NUM_ITEMS),
        Categorical(name="category", num_ids=NUM_CATEGORIES),
        Categorical(name="place", num_ids=NUM_PLACES),
        Categorical(name="hour", num_ids=NUM_HOURS),
        Categorical(name="device", num_ids=NUM_DEVICES),
    ]
    if member is not None:
        features.insert(0, Categorical(name="member", table=member.name))
    return Schema(
        features=tuple(features),
        crosses=(Cross(of=("place", "category"), num_rows=2**18),),
        tables=() if member is None else (member,),
        actions=(Action(name="click"),),
        item="item",
        request_id=None,  # each row is a request of one candidate
        member_id=None,
        time=None,
    )


def batches_of(path: Path, schema: Schema, num_requests: int) -> Batches:
    """A piece in file order."""
    return Batches(
        open_log(path, schema, layout="flat"), WholeLog("train"), "train", num_requests=num_requests, seed=None
    )


@final
@dataclass(frozen=True, slots=True)
class BillionLog:
    """What a log is made from.

    Args:
        num_rows: Of all pieces.
        piece_rows: Of each but the last.
        seed: Of everything.
    """

    num_rows: int
    piece_rows: int
    seed: int = 0

    @property
    def num_pieces(self) -> int:
        """How many pieces there are; the numbers from there on are more of the same."""
        return -(-self.num_rows // self.piece_rows)

    def rows_of(self, piece: int) -> int:
        """The rows of a piece; one beyond the last is as long as the first."""
        return self.piece_rows if piece != self.num_pieces - 1 else self.num_rows - piece * self.piece_rows

    def write(self, piece: int, path: Path) -> float:
        """Simulate a piece into a Parquet file that appears whole or not at all.

        Returns:
            The mean entropy of the true probabilities in nats: what no model can beat in expectation.
        """
        rng = np.random.default_rng([self.seed, 1, piece])
        truth = _Truth.of(self.seed)
        q = max(1, self.num_rows // 1000)
        left = self.rows_of(piece)
        entropy = 0.0
        unfinished = path.with_suffix(".part")
        writer = None
        while left:
            group = min(ROW_GROUP, left)
            parts = [truth.draw(rng, min(_PART, group - first), q) for first in range(0, group, _PART)]
            entropy += sum(part_entropy for _, part_entropy in parts)
            table = pa.Table.from_batches([batch for batch, _ in parts])
            if writer is None:
                # Plain values, no compression, no statistics: the file is read once and deleted.
                writer = pq.ParquetWriter(
                    unfinished, table.schema, compression="none", use_dictionary=False, write_statistics=False
                )
            writer.write_table(table, row_group_size=ROW_GROUP)
            left -= group
        assert writer is not None
        writer.close()
        unfinished.replace(path)
        return entropy / self.rows_of(piece)


@final
@dataclass(frozen=True, slots=True)
class _Truth:
    item: Floats
    place: Floats
    hour_device: Floats
    taste: Floats
    local: Floats
    salt: np.uint64

    @staticmethod
    def of(seed: int) -> _Truth:
        rng = np.random.default_rng([seed, 0])

        def normal(scale: float, *shape: int) -> Floats:
            return (scale * rng.standard_normal(shape)).astype(np.float32)

        hour_device = normal(0.25, NUM_HOURS, 1) + normal(0.25, 1, NUM_DEVICES) - np.float32(2.2)
        return _Truth(
            item=normal(0.6, NUM_ITEMS),
            place=normal(0.3, NUM_PLACES),
            hour_device=hour_device.reshape(-1),
            taste=normal(0.5, NUM_SEGMENTS * NUM_CATEGORIES),
            local=normal(0.25, NUM_PLACES * NUM_CATEGORIES),
            salt=np.uint64(rng.integers(2**63)),
        )

    def draw(self, rng: np.random.Generator, num_rows: int, q: int) -> tuple[Any, float]:
        """Rows as an Arrow batch, and the sum of the entropies of their true probabilities."""
        member_n = _ranks(rng, num_rows, q, NUM_MEMBERS) * _SCATTER % NUM_MEMBERS
        item_n = _ranks(rng, num_rows, NUM_ITEMS // 20, NUM_ITEMS)
        category_n = item_n % NUM_CATEGORIES
        place_n = (np.square(rng.random(num_rows, np.float32)) * NUM_PLACES).astype(np.int64)
        context_n = rng.integers(0, NUM_HOURS * NUM_DEVICES, num_rows)
        effect_n, segment_n = self._members(member_n)
        logit_n = effect_n + self.item[item_n] + self.place[place_n] + self.hour_device[context_n]
        logit_n += self.taste[segment_n * NUM_CATEGORIES + category_n]
        logit_n += self.local[place_n * NUM_CATEGORIES + category_n]
        p_n = 1 / (1 + np.exp(-logit_n))
        # H = log(1 + e^z) - z·p
        entropy = float(np.sum(np.log1p(np.exp(logit_n)) - logit_n * p_n, dtype=np.float64))
        columns = {
            "member": member_n.astype(np.int32),
            "item": item_n.astype(np.int32),
            "category": category_n.astype(np.uint8),
            "place": place_n.astype(np.uint16),
            "hour": (context_n // NUM_DEVICES).astype(np.uint8),
            "device": (context_n % NUM_DEVICES).astype(np.uint8),
            "click": (rng.random(num_rows, np.float32) < p_n).astype(np.uint8),
        }
        return pa.RecordBatch.from_pydict(columns), entropy

    def _members(self, member_n: Ints) -> tuple[Floats, Ints]:
        """Each member's effect, nearly N(0, 1), and segment, from 64 bits of a hash of the id."""
        bits_n = member_n.view(np.uint64) + self.salt
        bits_n = (bits_n ^ (bits_n >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits_n = (bits_n ^ (bits_n >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        bits_n ^= bits_n >> np.uint64(31)
        uniform = bits_n.view(np.uint16).reshape(-1, 4)
        # the sum of three uniforms on [0, 1) has mean 3/2 and variance 1/4
        total_n = uniform[:, 0].astype(np.float32) + uniform[:, 1] + uniform[:, 2]
        return (total_n * np.float32(2 / 65_536) - np.float32(3)), (uniform[:, 3] % NUM_SEGMENTS).astype(np.int64)


def _ranks(rng: np.random.Generator, num_rows: int, q: int, size: int) -> Ints:
    """P(rank ≥ r) = q / (q + r); what falls beyond `size` (q / size of all) is folded back."""
    u_n = rng.random(num_rows)
    u_n /= 1 - u_n
    u_n *= q
    return u_n.astype(np.int64) % size


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    num_rows = arguments.rows
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "piece.parquet"
        began = time.perf_counter()
        entropy = BillionLog(10**9, num_rows).write(0, path)
        written = time.perf_counter()
        batches = batches_of(path, schema_of(TableSpec(name="member", num_rows=2**22)), 16_384)
        assert sum(batch.features.num_candidates for batch in batches) == num_rows
        read = time.perf_counter()
        results = {
            "rows": num_rows,
            "written_rows_per_s": num_rows / (written - began),
            "read_rows_per_s": num_rows / (read - written),
            "bytes_per_row": path.stat().st_size / num_rows,
            "bayes_log_loss": entropy,
        }
    print("\n".join(f"{name:<20}{value:>16,.4f}" for name, value in results.items()))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
