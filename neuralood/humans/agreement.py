"""Do two observers err on the same images? And do they go by shape or by texture?"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from neuralood.base.store import Array
from neuralood.humans.categories import CATEGORIES
from neuralood.humans.trials import Observer, shape_and_texture


def observed_consistency(one: Array, other: Array) -> float:
    """Share of the images on which both are right or both are wrong: correct T, T bool."""
    return float(np.mean(one == other))


def error_consistency(one: Array, other: Array) -> float:
    """Cohen's kappa of being right, correct T, T bool (Geirhos, Meding & Wichmann 2020, arXiv 2006.16736).

    (c_obs - c_exp) / (1 - c_exp), where c_exp = p q + (1 - p)(1 - q) is what two observers of these accuracies agree by
    chance. 1 where they agree on every image, whatever chance would give.
    """
    observed = observed_consistency(one, other)
    if observed == 1.0:
        return 1.0
    p, q = one.mean(), other.mean()
    expected = p * q + (1 - p) * (1 - q)
    return float((observed - expected) / (1 - expected))


@dataclass(frozen=True)
class ShapeBias:
    """Answers to cue-conflict images that named the shape, and the texture, and how many images there were."""

    shape: int
    texture: int
    images: int

    @property
    def bias(self) -> float | None:
        """Share of shape among them (Geirhos et al. 2019, arXiv 1811.12231); None where neither was ever answered."""
        either = self.shape + self.texture
        return self.shape / either if either else None

    @property
    def either(self) -> float:
        """Share of the images answered by one or the other."""
        return (self.shape + self.texture) / self.images if self.images else 0.0

    def __add__(self, other: "ShapeBias") -> "ShapeBias":
        return ShapeBias(self.shape + other.shape, self.texture + other.texture, self.images + other.images)


def shape_bias(images: Sequence[str], answers: Array) -> ShapeBias:
    """Of cue-conflict images by their ids; those whose shape and texture are of one category are left out."""
    cues = [tuple(map(CATEGORIES.index, shape_and_texture(image))) for image in images]
    shape, texture = np.array(cues, int).reshape(-1, 2).T
    conflict = shape != texture
    said = answers[conflict]
    return ShapeBias(int((said == shape[conflict]).sum()), int((said == texture[conflict]).sum()), int(conflict.sum()))


@dataclass(frozen=True)
class Agreement:
    """Of one observer with others, or of others among themselves: means over pairs, and how many pairs there are."""

    observed: float
    kappa: float
    pairs: int


def agreement_with(observer: Observer, others: Sequence[Observer]) -> Agreement:
    """Mean over the others of the agreement with each, on the images of `observer`."""
    pairs = [(observer.correct, other.at(observer.images).correct) for other in others]
    return _mean(pairs)


def agreement_among(observers: Sequence[Observer]) -> Agreement:
    """Mean over all pairs: what one more of them would be expected to reach."""
    pairs = [(one.correct, other.at(one.images).correct) for one, other in combinations(observers, 2)]
    return _mean(pairs)


def _mean(pairs: Sequence[tuple[Array, Array]]) -> Agreement:
    observed = float(np.mean([observed_consistency(*pair) for pair in pairs]))
    return Agreement(observed, float(np.mean([error_consistency(*pair) for pair in pairs])), len(pairs))
