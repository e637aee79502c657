"""Mixup (Zhang et al. 2018, arXiv 1710.09412) of tokens: training on mixtures of two images and of their labels."""

import torch
import torch.nn.functional as F
from torch import Tensor

from neuralood.fusion.trained import Inputs


def mixed(inputs: Inputs, labels: Tensor, own: Tensor, classes: int, beta: float) -> tuple[Inputs, Tensor]:
    """Images at the places `own` mixed with one another, and soft labels B C; one Beta(beta, beta) share for all.

    [CLS], patches and predicted fMRI are mixed alike. Draws from PyTorch's generator of the CPU.
    """
    share = float(torch.distributions.Beta(beta, beta).sample())
    partner = torch.arange(len(labels), device=labels.device)
    partner[own] = own[torch.randperm(len(own)).to(own.device)]
    soft = F.one_hot(labels, classes).float()
    return Inputs(*(_mix(values, partner, share) for values in inputs)), _mix(soft, partner, share)


def _mix(values: Tensor, partner: Tensor, share: float) -> Tensor:
    return values.lerp(values[partner], 1 - share)
