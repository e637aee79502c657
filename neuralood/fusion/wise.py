"""Weights between those of a nearest-class-mean classifier and of the linear probe, after WiSE-FT.

WiSE-FT (Wortsman et al. 2022, arXiv 2109.01903) interpolates, weight by weight, a zero-shot model and the same model
fine-tuned: (1 - share) zero-shot + share fine-tuned, which gains accuracy under distribution shift. The backbone here
is frozen and only the head is learned, which is the paper's case of a fine-tuned linear classifier. A zero-shot head
needs a text encoder; in its place stands the head that is not fitted to tell classes apart either, whose weights are
the class means: logits (x m - |m|^2 / 2) / temperature of standardised features x and class means m. It needs a
temperature, as CLIP's does; first this one, then the share, is chosen by cross-entropy on the holdout.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from neuralood.base import collectives, ranks
from neuralood.base.descent import wide
from neuralood.base.reading import batches
from neuralood.base.store import Array, Rows
from neuralood.fusion.probe import BATCH, Probe, Split, holdout_losses

TEMPERATURES = tuple(2.0**power for power in range(15))
"""To choose from: features number up to thousands, and logits grow with them."""
SHARES = tuple(tenth / 10 for tenth in range(11))
"""Of the linear probe, to choose from."""


def interpolated(
    probe: Probe, features: Array | Rows, labels: Array, split: Split, device: torch.device
) -> tuple[Probe, dict[str, float]]:
    """The head between the class means and the seed's linear probe, and what was chosen.

    Of equals the higher temperature and the smaller share win.
    """

    def best(heads: Sequence[Probe]) -> int:
        return int(np.argmin(holdout_losses(heads, features, labels, split, device)))

    means = nearest_mean(probe, class_means(probe, features, labels, split.rows, device))
    temperatures = TEMPERATURES[::-1]
    cooled = [replace(means, weight=means.weight / one, bias=means.bias / one) for one in temperatures]
    taken = best(cooled)
    heads = [between(cooled[taken], probe, share) for share in SHARES]
    chosen = best(heads)
    return heads[chosen], {"share": SHARES[chosen], "temperature": temperatures[taken]}


def nearest_mean(probe: Probe, means: Array) -> Probe:
    """The head whose largest logit is that of the nearest of the class means C F; it scales as `probe` does."""
    return replace(probe, weight=means, bias=-0.5 * (means**2).sum(axis=1))


def between(one: Probe, other: Probe, share: float) -> Probe:
    """(1 - share) of one head's weights + share of another's, which scales its features alike."""
    weight = (1 - share) * one.weight + share * other.weight
    return replace(other, weight=weight, bias=(1 - share) * one.bias + share * other.bias)


def class_means(probe: Probe, features: Array | Rows, labels: Array, rows: Array, device: torch.device) -> Array:
    """Mean of the standardised features of each class over some images, C F."""
    classes, width = probe.weight.shape
    total = torch.zeros(classes, width, dtype=wide(device), device=device)
    for chosen in ranks.share(list(batches(rows, BATCH))):
        scaled = torch.from_numpy((features[chosen] - probe.mean) / probe.sd).to(total)
        total.index_add_(0, torch.from_numpy(labels[chosen].astype(np.int64)).to(device), scaled)
    collectives.sum_over(total)
    means: Array = total.cpu().numpy() / np.bincount(labels[rows], minlength=classes)[:, None]
    return means.astype(np.float32)
