"""Rows of token stores as float32 batches, and their statistics, without holding a set in memory."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from neuralood.base.store import Array, Rows

PREDICT_BATCH = 256
"""Images in a batch where no gradient is needed."""


def batches(rows: Array, size: int) -> Iterator[Array]:
    """Consecutive parts of `rows`; the last may be smaller."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def patch_batch(patches: Rows, rows: Array, device: torch.device) -> Tensor:
    """Rows of a store's `patches` I L N D as float32 B N (L D): layers side by side."""
    values = torch.from_numpy(patches[rows]).to(device, non_blocking=True).float()
    return values.transpose(1, 2).flatten(2)


def mean_and_sd(parts: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and population sd of each feature over all rows of all parts (rows F): F, F float32."""
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for part in parts:
        values = part.cpu().double()
        count, total, squares = count + len(values), total + values.sum(0), squares + (values**2).sum(0)
    mean = total / count
    return mean.float(), (squares / count - mean**2).clamp_min(0).sqrt().float()


def token_statistics(patches: Rows, rows: Array) -> tuple[Tensor, Tensor]:
    """Mean and sd over images and patches of each token feature, (L D) each."""
    cpu = torch.device("cpu")
    chosen = batches(np.sort(rows), PREDICT_BATCH)
    return mean_and_sd(patch_batch(patches, batch, cpu).flatten(0, 1) for batch in chosen)
