"""The linear probe by DINOv2's recipe: many heads trained side by side on the same batches, one chosen.

facebookresearch/dinov2, dinov2/eval/linear.py: heads on [CLS], with or without the mean patch, for 13 learning rates;
features as they are; SGD with momentum 0.9, no weight decay, a cosine to 0. What differs: of the layers before the
last there is no [CLS] here, so that a head reads that of the last, and the mean patch of none, the last or all cached
layers; the head is chosen by cross-entropy, on the holdout, and is kept as it was after its best epoch.
"""

from typing import NamedTuple

from torch import nn

from neuralood.base.training import Schedule, Sgd
from neuralood.config import Fusion
from neuralood.fusion.baselines import LinearHead
from neuralood.fusion.model import FusionSizes

RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1)
"""Peak learning rates for batches of `RATES_OF` images; in proportion for others."""
RATES_OF = 256
MOMENTUM = 0.9
START_SD = 0.01
"""Of a head's weights before the first step."""


class Head(NamedTuple):
    """How many of the last layers it reads the mean patch of, and its learning rate, of RATES."""

    gap_layers: int
    lr: float


def grid(layers: int) -> list[Head]:
    """All heads where `layers` layers are cached; small ones first, which ties go to."""
    return [Head(gap_layers, lr) for gap_layers in sorted({0, 1, layers}) for lr in RATES]


def heads(sizes: FusionSizes, layers: int) -> list[LinearHead]:
    """The heads of the grid, with random weights."""
    width = sizes.patch_width // layers
    found = [LinearHead(sizes, head.gap_layers * width) for head in grid(layers)]
    for head in found:
        nn.init.normal_(head.classify.weight, std=START_SD)
        nn.init.zeros_(head.classify.bias)
    return found


def schedule(settings: Fusion, layers: int, models: int) -> Schedule:
    """Of so many heads: those of the grid for each seed, one seed after the other."""
    of_grid = tuple(head.lr * settings.batch_size / RATES_OF for head in grid(layers))
    rates = of_grid * (models // len(of_grid))
    return Schedule(
        settings.epochs,
        settings.batch_size,
        max(rates),
        warmup=0.0,
        weight_decay=0.0,
        sgd=Sgd(MOMENTUM, rates),
    )
