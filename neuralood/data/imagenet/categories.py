"""The 16 entry-level classes that people chose among (Geirhos et al. 2018, arXiv 1808.08750), by ImageNet classes."""

from collections.abc import Sequence
from itertools import chain

from neuralood.data.imagenet.wnids import WNIDS


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


def category_members(classes: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """The categories that a classifier's classes make up, and the indices of these.

    A wnid of ImageNet's 1000 belongs to the category that it is a member of, any other class to the one of its name.
    """
    category = {WNIDS[index]: name for name, indices in MEMBERS.items() for index in indices}
    category |= {name: name for name in CATEGORIES}
    found: dict[str, tuple[int, ...]] = {}
    for column, name in enumerate(classes):
        if name in category:
            found[category[name]] = (*found.get(category[name], ()), column)
    return {name: found[name] for name in CATEGORIES if name in found}
