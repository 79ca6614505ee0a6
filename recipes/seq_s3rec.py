"""What comes next in S3-Rec's sets: ``rankwell train recipes/seq_s3rec.py --data DIR``, or ``…seq_s3rec.py:lastfm``.

DIR holds ``beauty_sequences.parquet`` and ``lastfm_sequences.parquet``. `benchmarks/next_item.py` ranks among all
items, beside the published numbers.
"""

from __future__ import annotations

from rankwell.training.next_item_recipe import next_item_recipe
from rankwell.training.recipe import Recipe


def recipe() -> Recipe:
    """Beauty, by the recipe of all sequences."""
    return next_item_recipe("seq_s3rec beauty", "beauty_sequences.parquet")


def lastfm() -> Recipe:
    """LastFM, by the same."""
    return next_item_recipe("seq_s3rec lastfm", "lastfm_sequences.parquet")
