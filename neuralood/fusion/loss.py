"""The correlation term that draws the two modalities together."""

import torch.nn.functional as F
from torch import Tensor

EPSILON = 1e-6
"""Added to both sums of squares, inside the root: a constant vector then has correlation 0 and a small gradient."""


def pearson(a: Tensor, b: Tensor) -> Tensor:
    """Pearson correlation over features of each sample: a B F, b B F -> B.

    sum(ab) / sqrt((sum aa + 1e-6)(sum bb + 1e-6)) of the centred vectors.
    """
    a, b = a - a.mean(dim=-1, keepdim=True), b - b.mean(dim=-1, keepdim=True)
    norms = ((a * a).sum(-1) + EPSILON) * ((b * b).sum(-1) + EPSILON)
    return (a * b).sum(-1) / norms.sqrt()


def fusion_loss(
    logits: Tensor, labels: Tensor, image: Tensor, brain: Tensor, pcc_weight: float, label_smoothing: float = 0.0
) -> Tensor:
    """Cross-entropy + pcc_weight x mean over the batch of (1 - PCC): logits B C, labels B, features B W.

    NeuralOOD (arXiv 2408.14950) maximises the correlation between the modalities; per sample over features.
    """
    loss = F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    return loss + pcc_weight * (1 - pearson(image, brain)).mean() if pcc_weight else loss
