"""The 16 entry-level classes that people chose among (Geirhos et al. 2018, arXiv 1808.08750), by ImageNet classes."""

from itertools import chain

import numpy as np

from neuralood.base.store import Array


def _span(*parts: int | tuple[int, int]) -> tuple[int, ...]:
    """Single indices, and ranges whose last one is included."""
    listed = (range(part, part + 1) if isinstance(part, int) else range(part[0], part[1] + 1) for part in parts)
    return tuple(chain.from_iterable(listed))


MEMBERS: dict[str, tuple[int, ...]] = {
    "airplane": (404,),
    "bear": _span((294, 297)),
    "bicycle": (444, 671),
    "bird": _span(8, (10, 16), (18, 20), (22, 24), (80, 83), (87, 96), (98, 100), (127, 133), (135, 145)),
    "boat": (472, 554, 625, 814, 914),
    "bottle": (440, 720, 737, 898, 899, 901, 907),
    "car": (436, 511, 817),
    "cat": _span((281, 286)),
    "chair": (423, 559, 765, 857),
    "clock": (409, 530, 892),
    "dog": _span(
        *((152, 191), (193, 203), (205, 226), (228, 241), (243, 250), (252, 257), 259, (261, 263), (265, 268))
    ),
    "elephant": (385, 386),
    "keyboard": (508, 878),
    "knife": (499,),
    "oven": (766,),
    "truck": (555, 569, 656, 675, 717, 734, 864, 867),
}
"""The ImageNet-1k classes of each, as indices into the sorted wnids: 207 of the 1,000."""

CATEGORIES = tuple(MEMBERS)
"""In alphabetical order, by which people's answers are numbered."""

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
