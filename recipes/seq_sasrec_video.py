"""What comes next in Amazon's video games: ``rankwell train recipes/seq_sasrec_video.py --data DIR``.

DIR holds ``video_sequences.parquet``. `benchmarks/next_item.py` judges it by SASRec's protocol, beside the published
numbers.
"""

from __future__ import annotations

from rankwell.training.next_item_recipe import next_item_recipe
from rankwell.training.recipe import Recipe


def recipe() -> Recipe:
    """The recipe of all sequences."""
    return next_item_recipe("seq_sasrec_video", "video_sequences.parquet")
