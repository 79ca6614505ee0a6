"""FBGEMM's CPU tables: look-up, and the gradient written back by row-wise AdaGrad inside `backward`.

A bag of one id is summed, because FBGEMM's path without pooling is four to ten times slower on a CPU. float16 rows
exist (bfloat16 ones don't) and are slower than float32 ones.
"""

from __future__ import annotations

import numpy as np
import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    SplitTableBatchedEmbeddingBagsCodegen,
)
from torch import Tensor

from contenders.turns import Turns, serve

__all__ = ["tables_of"]


def tables_of(sizes: list[int], width: int) -> SplitTableBatchedEmbeddingBagsCodegen:
    """One operator over all the tables, as its makers advise."""
    tables = SplitTableBatchedEmbeddingBagsCodegen(
        [(size, width, EmbeddingLocation.HOST, ComputeDevice.CPU) for size in sizes],
        optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
        learning_rate=0.05,
        eps=1e-8,
        stochastic_rounding=False,
    )
    tables.init_embedding_weights_uniform(-0.05, 0.05)
    return tables


def main() -> None:
    turns = Turns()
    settings = turns.settings
    torch.set_num_threads(settings["threads"])
    ids_SFB = torch.from_numpy(np.load(settings["ids"]))
    tables = tables_of(settings["sizes"], settings["width"])
    offsets = torch.arange(ids_SFB[0].numel() + 1)
    gradient = torch.randn(ids_SFB.shape[2], ids_SFB.shape[1] * settings["width"])

    def step(number: int) -> None:
        ids_n: Tensor = ids_SFB[number % len(ids_SFB)].view(-1)
        tables(ids_n, offsets).backward(gradient)

    serve(turns, step)


if __name__ == "__main__":
    main()
