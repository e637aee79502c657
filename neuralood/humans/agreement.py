"""Do two observers err on the same images? And do they go by shape or by texture?"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike

from neuralood.base.store import Array
from neuralood.data.imagenet.categories import CATEGORIES
from neuralood.humans.trials import Observer, shape_and_texture


def observed_consistency(one: Array, other: Array) -> float:
    """Share of the images on which both are right or both are wrong: correct T, T bool."""
    return float(np.mean(one == other))


def error_consistency(one: Array, other: Array) -> float:
    """Cohen's kappa of being right, correct T, T bool (Geirhos, Meding & Wichmann 2020, arXiv 2006.16736).

    (c_obs - c_exp) / (1 - c_exp), where c_exp = p q + (1 - p)(1 - q) is what two observers of these accuracies agree by
    chance. 1 where they agree on every image, whatever chance would give.
    """
    return float(chance_corrected(observed_consistency(one, other), one.mean(), other.mean()))


def chance_corrected(observed: ArrayLike, one: Array, other: Array) -> Array:
    """The same from shares, of any shape: images on which both agree, and on which each is right."""
    expected = one * other + (1 - one) * (1 - other)
    alike = np.equal(observed, 1.0)
    kappa: Array = np.where(alike, 1.0, (observed - expected) / np.where(alike, 1.0, 1 - expected))
    return kappa


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
    shape, texture, conflict = cue_answers(images, answers)
    return ShapeBias(int(shape.sum()), int(texture.sum()), int(conflict.sum()))


def cue_answers(images: Sequence[str], answers: Array) -> Array:
    """Whether the shape was answered, whether the texture, and whether these are two categories: 3 T bool.

    Images without conflict have neither.
    """
    cues = [tuple(map(CATEGORIES.index, shape_and_texture(image))) for image in images]
    shape, texture = np.array(cues, int).reshape(-1, 2).T
    conflict = shape != texture
    return np.array([conflict & (answers == shape), conflict & (answers == texture), conflict])


@dataclass(frozen=True)
class Agreement:
    """Of one observer with others, or of others among themselves: means over pairs, and how many pairs there are."""

    observed: float
    kappa: float
    pairs: int


def agreement(one: Observer, other: Observer) -> Agreement:
    """Of one pair, on the images of `one`: means over conditions (Geirhos et al. 2021, arXiv 2106.07411)."""
    own, others = one.correct, other.at(one.images).correct
    pairs = [(own[rows], others[rows]) for rows in condition_rows(one.conditions)]
    observed = float(np.mean([observed_consistency(*pair) for pair in pairs]))
    return Agreement(observed, float(np.mean([error_consistency(*pair) for pair in pairs])), 1)


def agreement_with(observer: Observer, others: Sequence[Observer]) -> Agreement:
    """Mean over the others of the agreement with each, on the images of `observer`."""
    return _mean([agreement(observer, other) for other in others])


def agreement_among(observers: Sequence[Observer]) -> Agreement:
    """Mean over all pairs: what one more of them would be expected to reach."""
    return _mean([agreement(one, other) for one, other in combinations(observers, 2)])


def condition_rows(conditions: Sequence[str]) -> list[Array]:
    """The trials of each condition: their rows, ascending."""
    names, numbers = np.unique(conditions, return_inverse=True)
    return [np.flatnonzero(numbers == number) for number in range(len(names))]


def _mean(pairs: Sequence[Agreement]) -> Agreement:
    observed, kappa = (float(np.mean([getattr(pair, name) for pair in pairs])) for name in ("observed", "kappa"))
    return Agreement(observed, kappa, len(pairs))
