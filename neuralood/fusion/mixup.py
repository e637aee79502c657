"""Mixup (Zhang et al. 2018, arXiv 1710.09412) of tokens: training on mixtures of two images and of their labels."""

import torch
import torch.nn.functional as F
from torch import Tensor

from neuralood.fusion.trained import Inputs


def mixed(inputs: Inputs, labels: Tensor, classes: int, beta: float) -> tuple[Inputs, Tensor]:
    """A batch mixed with itself in a random order, and soft labels B C; one Beta(beta, beta) share for all images.

    [CLS], patches and predicted fMRI are mixed alike. Draws from PyTorch's generator of the CPU.
    """
    share = float(torch.distributions.Beta(beta, beta).sample())
    partner = torch.randperm(len(labels)).to(labels.device)
    soft = F.one_hot(labels, classes).float()
    return Inputs(*(_mix(values, partner, share) for values in inputs)), _mix(soft, partner, share)


def _mix(values: Tensor, partner: Tensor, share: float) -> Tensor:
    return values.lerp(values[partner], 1 - share)
