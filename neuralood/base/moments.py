"""Mean and sd of features over more images than fit into memory, and over those of other processes."""

from typing import NamedTuple

import torch
from torch import Tensor

from neuralood.base import collectives
from neuralood.base.descent import wide


class Scale(NamedTuple):
    """Mean and population sd of each feature, F."""

    mean: Tensor
    sd: Tensor


class Moments:
    """Sums over images from which mean and sd follow, in the widest floats there are."""

    def __init__(self, features: int, device: torch.device) -> None:
        self.count = 0
        self.sums = torch.zeros(2, features, dtype=wide(device), device=device)
        """Of the values of each feature, and of their squares."""

    def add(self, count: int, total: Tensor, squares: Tensor) -> None:
        """Take in so many values more of each feature: their sum and that of their squares, F."""
        self.count += count
        self.sums[0] += total
        self.sums[1] += squares

    def scale(self) -> Scale:
        """Of all values taken in, by all processes."""
        (count,) = collectives.sums([float(self.count)])
        sums = self.sums.clone()
        collectives.sum_over(sums)
        mean = sums[0] / count
        sd = (sums[1] / count - mean**2).clamp_min(0).sqrt()
        return Scale(mean.float().cpu(), sd.float().cpu())
