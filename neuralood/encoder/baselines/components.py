"""Principal components of flattened tokens, from inner products of images: exact, and never all tokens in memory."""

from collections.abc import Iterator

import numpy as np
from scipy.linalg import eigh

from neuralood.base.store import Array, Store

SMALLEST_SD = 1e-6
"""Features that vary less are divided by it."""


def layer_kernels(tokens: Store, train: Array, patches: int) -> Iterator[Array]:
    """For each layer the inner products of all images with the training images T, I T float64.

    Each of a layer's flattened features (N D) is standardised by its mean and sd over the training images. `patches`
    positions of the grid are in memory at a time, about 2 I x patches x D float64; each token is read once.
    """
    images, layers, n_patches, _ = tokens["patches"].shape
    for layer in range(layers):
        kernel = np.zeros((images, len(train)))
        for start in range(0, n_patches, patches):
            features = _positions(tokens, layer, slice(start, start + patches))
            features -= features[train].mean(axis=0)
            features /= np.maximum(features[train].std(axis=0), SMALLEST_SD)
            kernel += features @ features[train].T
        yield kernel


def principal_components(kernel: Array, train: Array, components: int) -> Array:
    """Scores of all images on the training images' leading principal components: kernel I T -> I K float32.

    K is `components`, or fewer where the training images vary in fewer directions. Component k of an image is
    kernel v_k / sqrt(l_k), with v_k and l_k the k-th eigenvector and eigenvalue of the training images' Gram matrix
    (Schoelkopf et al. 1998, Neural Computation 10, section 3): the same as of a PCA of the features themselves.
    """
    last = len(train) - 1
    values, vectors = eigh(kernel[train], subset_by_index=(max(0, len(train) - components), last))
    varying = values > values[-1] * len(train) * np.finfo(float).eps
    scores: Array = kernel @ (vectors[:, varying] / np.sqrt(values[varying]))
    return scores[:, ::-1].astype(np.float32)


def _positions(tokens: Store, layer: int, chosen: slice) -> Array:
    """Tokens of some positions of one layer, all images, flattened: I F float64. Nothing else of a chunk is read."""
    stored = tokens["patches"]
    images, _, n_patches, width = stored.shape
    values = np.empty((images, len(range(n_patches)[chosen]), width))
    for start in range(0, images, stored.chunk):
        rows = slice(start, start + stored.chunk)
        values[rows] = stored[rows][:, layer, chosen]
        if "patches_scale" in tokens:
            values[rows] *= tokens["patches_scale"][rows][:, layer, chosen, None]
    return values.reshape(images, -1)
