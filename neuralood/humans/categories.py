"""What a classifier answers where people chose among 16 categories."""

import numpy as np

from neuralood.base.store import Array
from neuralood.data.imagenet.categories import CATEGORIES, MEMBERS

__all__ = ["CATEGORIES", "MEMBERS", "NO_ANSWER", "answers_of"]

NO_ANSWER = -1
"""A trial in which a person did not answer: it counts as wrong."""


def answers_of(probabilities: Array, members: dict[str, tuple[int, ...]]) -> Array:
    """Of each image the category whose members' mean probability is largest: I C -> I, the first of equals.

    The mean, not the sum: categories have between one and 109 members (Geirhos et al. 2021, arXiv 2106.07411).
    Categories that `members` lacks are never answered.
    """
    means = np.full((len(probabilities), len(CATEGORIES)), -np.inf)
    for category, columns in members.items():
        means[:, CATEGORIES.index(category)] = probabilities[:, list(columns)].mean(axis=1)
    answers: Array = means.argmax(axis=1)
    return answers
