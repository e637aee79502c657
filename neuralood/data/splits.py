"""Seeded splits that keep the classes' shares."""

import numpy as np

from neuralood.base.store import Array


def stratified_holdout(labels: Array, share: float, rng: np.random.Generator) -> tuple[Array, Array]:
    """Rows to train on and rows held out, both sorted: about `share` of each class is held out.

    A class of two images or more gives at least one image to each part; a class of one stays in training.
    """
    held = []
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        count = min(max(1, round(share * len(rows))), len(rows) - 1)
        held.append(rows[:count])
    holdout = np.sort(np.concatenate(held))
    return np.setdiff1d(np.arange(len(labels)), holdout), holdout
