"""Negatives left out, and negatives brought in: what the corrections for either are worth."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rankwell.studies.corpus_softmax import study_corpus_softmax
from rankwell.studies.fewer_negatives import study_fewer_negatives
from rankwell.studies.study import StudyResult, joined

__all__ = ["study_sampling"]


def study_sampling(
    *,
    seeds: Sequence[int],
    num_requests: int = 20_000,
    num_steps: int = 3000,
    say: Callable[[str], None] = lambda _: None,
) -> StudyResult:
    """A softmax over samples of a corpus, and clicks learned from a tenth of those that did not click.

    Args:
        seeds: One truth and one marketplace each; three or more for intervals.
        num_requests: Of each marketplace's log.
        num_steps: Of each softmax.
        say: Told what is going on.
    """
    return joined(
        "sampling",
        [
            study_corpus_softmax(seeds=seeds, num_steps=num_steps, say=say),
            study_fewer_negatives(seeds=seeds, num_requests=num_requests, say=say),
        ],
    )
