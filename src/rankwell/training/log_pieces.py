"""A long log as a sequence of pieces, each opened when its turn comes."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

from rankwell.data.batches import Batches
from rankwell.data.layout import Layout
from rankwell.data.log import open_log
from rankwell.data.split import WholeLog
from rankwell.errors import TrainingError
from rankwell.schema import Schema

__all__ = ["LogPiece", "check_pieces", "digest_of_names", "pieces_of_files"]


@final
@dataclass(frozen=True, slots=True)
class LogPiece:
    """A piece of a long log, opened when its turn comes.

    Args:
        name: What checkpoints and reports call it: the same from start to start, and no other piece's.
        open: Gives its batches; may make the piece first (fetch it, simulate it).
        num_requests: If known beforehand: with that of all pieces, progress knows how much is left.
    """

    name: str
    open: Callable[[], Batches]
    num_requests: int | None = None


def pieces_of_files(
    files: Sequence[str | os.PathLike[str]],
    schema: Schema,
    *,
    layout: Layout,
    num_requests: int,
    seed: int | None = None,
) -> tuple[LogPiece, ...]:
    """One piece a file (or folder, or glob), of which nothing is read yet: the files need not exist by now.

    Args:
        files: In the order in which to learn from them; each is named by its path.
        schema: What the columns mean.
        layout: "requests" or "flat".
        num_requests: The most requests in a batch.
        seed: Of the order within a piece; None for file order, which reads fastest and, of a log written as things
            happened, is learned from as well.

    >>> from rankwell.schema import Action, Categorical
    >>> schema = Schema(features=(Categorical(name="job"),), actions=(Action(name="click"),), member_id=None, time=None)
    >>> [piece.name for piece in pieces_of_files(["log/day-1", "log/day-2"], schema, layout="flat", num_requests=8192)]
    ['log/day-1', 'log/day-2']
    """

    def piece_of(file: str) -> LogPiece:
        def opened() -> Batches:
            log = open_log(file, schema, layout=layout)
            return Batches(log, WholeLog("train"), "train", num_requests=num_requests, seed=seed)

        return LogPiece(file, opened)

    return tuple(piece_of(os.fspath(file)) for file in files)


def check_pieces(pieces: Sequence[LogPiece]) -> None:
    """Refuse no pieces, and pieces that cannot be told apart.

    Raises:
        TrainingError: There are none, or two have one name.
    """
    if not pieces:
        raise TrainingError("a stream of no pieces", do="give at least one piece")
    repeated = [name for name, count in Counter(piece.name for piece in pieces).items() if count > 1]
    if repeated:
        raise TrainingError("pieces of one name", found=repeated, allowed="each name once")


def digest_of_names(pieces: Sequence[LogPiece]) -> str:
    """A hash of the names, in order."""
    return hashlib.sha256("\0".join(piece.name for piece in pieces).encode()).hexdigest()[:16]
