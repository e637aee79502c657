"""Bootstrap over images of how much like people a classifier answers: the people, and trained models, are fixed.

Images are drawn one by one; those of cue-conflict share shapes and textures, so its intervals are rather too narrow.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from neuralood.base.store import Array
from neuralood.humans.agreement import chance_corrected, condition_rows, cue_answers
from neuralood.humans.trials import Observer

BLOCK = 500
"""Resamples in memory at a time."""


def draw_images(conditions: Sequence[str], resamples: int, rng: np.random.Generator) -> Iterator[Array]:
    """How often each of T images is drawn, R T, a block of resamples at a time; a condition keeps its image count."""
    groups = condition_rows(conditions)
    for start in range(0, resamples, BLOCK):
        drawn = np.zeros((min(BLOCK, resamples - start), len(conditions)))
        for rows in groups:
            drawn[:, rows] = rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=len(drawn))
        yield drawn


def mean_kappa(ones: Sequence[Observer], others: Sequence[Observer], drawn: Array) -> Array:
    """kappa of each of `ones` with each of `others`, all of the same T images, its mean over conditions and pairs.

    `drawn` R T says how often each image counts: R T -> R.
    """
    right, theirs = (np.array([one.correct for one in group], float) for group in (ones, others))  # S T, H T
    groups = condition_rows(ones[0].conditions)
    total = np.zeros(len(drawn))
    for rows in groups:
        times = drawn[:, rows]
        count = times.sum(axis=1)[:, None, None]
        one, other = (times @ right[:, rows].T)[:, :, None], (times @ theirs[:, rows].T)[:, None, :]  # R S 1, R 1 H
        pairs = right[:, None, rows] * theirs[None, :, rows]  # S H T
        both = (times @ pairs.reshape(-1, len(rows)).T).reshape(len(drawn), len(ones), len(others))
        observed = (count - one - other + 2 * both) / count
        total += chance_corrected(observed, one / count, other / count).mean(axis=(1, 2))
    return total / len(groups)


def pooled_shape_bias(observers: Sequence[Observer], drawn: Array) -> Array:
    """Shape bias of all answers of the observers together: drawn R T -> R, NaN where neither cue was ever answered."""
    said = [cue_answers(one.images, one.answers) for one in observers]
    shape, texture = (drawn @ sum(one[cue].astype(float) for one in said) for cue in (0, 1))
    with np.errstate(invalid="ignore"):
        bias: Array = shape / (shape + texture)
    return bias
