"""The 17 experiments of Geirhos et al. (2021, arXiv 2106.07411) in which people answered, and what of them counts."""

from collections.abc import Collection
from pathlib import Path

from neuralood.base.errors import UserError
from neuralood.data.imagenet.categories import CATEGORIES
from neuralood.humans.trials import Observer, files_of, read_observers, shape_and_texture

CUE_CONFLICT = "cue-conflict"

DROPPED: dict[str, tuple[str, ...]] = {
    "colour": ("cr",),
    "contrast": ("c100", "c03", "c01"),
    "high-pass": ("inf", "0.55", "0.45", "0.4"),
    "low-pass": ("0", "15", "40"),
    "phase-scrambling": ("0", "150", "180"),
    "power-equalisation": ("0",),
    "false-colour": ("true",),
    "rotation": ("0",),
    "eidolonI": ("1-10-10", "64-10-10", "128-10-10"),
    "eidolonII": ("1-3-10", "32-3-10", "64-3-10", "128-3-10"),
    "eidolonIII": ("1-0-10", "16-0-10", "32-0-10", "64-0-10", "128-0-10"),
    "uniform-noise": ("0.00", "0.60", "0.90"),
    "sketch": (),
    "stylized": (),
    "edge": (),
    "silhouette": (),
    CUE_CONFLICT: (),
}
"""Conditions that the authors' averages leave out: undistorted images, and the hardest."""

OLDER_NAMES = {
    CUE_CONFLICT: "style-transfer-512-nomask-experiment",
    "edge": "edge-experiment",
    "silhouette": "silhouette-filled-experiment",
}
"""How the files of answers of some experiments begin in the data of Geirhos et al. (2019)."""


def read_people(folder: Path, experiment: str) -> list[Observer]:
    """The people's answers in an experiment, those of networks left aside.

    Raises UserError where there are fewer than two people, and as read_observers does.
    """
    older = OLDER_NAMES.get(experiment, experiment)
    name = older if files_of(folder, older) and not files_of(folder, experiment) else experiment
    people = [observer for observer in read_observers(folder, name) if observer.is_person]
    if len(people) < 2:
        raise UserError(f"{folder} has {experiment} answers of {len(people)} people: put those of two or more there")
    return people


def counted_images(shown: Observer, experiment: str, known: Collection[str]) -> list[str]:
    """Of the images shown, those that count for a classifier that can name the `known` categories.

    Left out are conditions that averages leave out, and images of a category (of cue-conflict: of shape or texture)
    that the classifier lacks, on which it could only err. Raises UserError where nothing remains.
    """
    dropped = set(map(_plain, DROPPED[experiment]))
    kept = [
        image
        for image, condition, truth in zip(shown.images, shown.conditions, shown.truth, strict=True)
        if _plain(condition) not in dropped and _cues(image, truth, experiment) <= set(known)
    ]
    if not kept:
        raise UserError(f"{experiment}: no image is left once conditions are dropped that averages leave out")
    return kept


def _cues(image: str, truth: int, experiment: str) -> set[str]:
    """The categories that an image shows."""
    return set(shape_and_texture(image)) if experiment == CUE_CONFLICT else {CATEGORIES[truth]}


def _plain(condition: str) -> str:
    """One text for 0, 0.0 and 0.00, and for true and True: copies of the data differ."""
    try:
        return str(float(condition))
    except ValueError:
        return condition.lower()
