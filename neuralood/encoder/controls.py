"""What the brain's information is compared with: the fMRI that a control trains on."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from neuralood.base.errors import UserError
from neuralood.base.store import Array
from neuralood.base.training import Epoch, best_epoch
from neuralood.data.fmri import SMALLEST_SPLIT, TRAIN, Measured
from neuralood.data.subject import UNMEASURED


def derangement(n: int, rng: np.random.Generator) -> Array:
    """A random permutation of 0..n-1 that leaves nothing in its place (n > 1): Sattolo's single cycle.

    Raises ValueError for n = 1, where there is none.
    """
    if n == 1:
        raise ValueError("one image cannot be deranged")
    order = np.arange(n)
    for last in range(n - 1, 0, -1):
        other = rng.integers(last)
        order[last], order[other] = order[other], order[last]
    return order


def fewer_images(measured: Measured, count: int, rng: np.random.Generator) -> Measured:
    """The same fMRI with `count` random training images; of two counts, the smaller one's are among the larger one's.

    Raises UserError for fewer than an encoder can be trained on.
    """
    if count < SMALLEST_SPLIT:
        raise UserError(f"encoder.images: wants {SMALLEST_SPLIT} or more to train on, got {count}")
    split = measured.split.copy()
    split[rng.permutation(measured.rows(TRAIN))[count:]] = UNMEASURED
    return replace(measured, split=split)


def shuffled_fmri(fmri: Array, parts: list[Array], rng: np.random.Generator) -> Array:
    """fMRI I V with the images of each part exchanged among themselves, in one way for all vertices."""
    shuffled = fmri.copy()
    for rows in parts:
        shuffled[rows] = fmri[rows[derangement(len(rows), rng)]]
    return shuffled


def kept_epoch(history: Sequence[Epoch], control: str) -> int:
    """The epoch whose weights are kept: the best by validation, but the last of `shuffled`; 0 where none was trained.

    Training on shuffled fMRI ends where training on the measured one is best.
    """
    if not history:
        return 0
    return len(history) if control == "shuffled" else best_epoch(history)


def feature_fmri(features: Array, train: Array, ceiling: Array, rng: np.random.Generator) -> Array:
    """Random projections of a network's features, as noisy as the measured fMRI: I F -> I V.

    Each projection is standardised on the rows `train` and mixed with Gaussian noise so that its ceiling is the
    given one (V): y = c z + sqrt(1 - c^2) e.
    """
    centred = features - features[train].mean(axis=0)
    scaled = centred / np.maximum(features[train].std(axis=0), 1e-6)
    weights = rng.standard_normal((features.shape[1], len(ceiling)), dtype=np.float32)
    signal = scaled @ weights
    signal /= np.maximum(signal[train].std(axis=0), 1e-6)
    noise = rng.standard_normal(signal.shape, dtype=np.float32)
    mixed: Array = (ceiling * signal + np.sqrt(1 - ceiling**2) * noise).astype(np.float32)
    return mixed
