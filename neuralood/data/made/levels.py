"""What `level` means for each transform of a made set, and which values it may have."""

from typing import NamedTuple

from neuralood.data.imagenet.corruptions import CORRUPTIONS


class Levels(NamedTuple):
    """The levels that a transform takes: the lowest and the highest, whether whole numbers only, and what they are."""

    low: float
    high: float
    whole: bool
    meaning: str


LEVELS: dict[str, Levels] = {
    "line_drawing": Levels(0.1, 5, False, "how strong a contour must be to be drawn, 1 as tuned"),
    "cartoon": Levels(0.1, 5, False, "how coarse its patches are, 1 as tuned"),
    "silhouette": Levels(0.1, 5, False, "how far from its surroundings a shape must be to be filled, 1 as tuned"),
    "phase_noise": Levels(0.01, 1, False, "the share of random phase"),
    "patch_shuffle": Levels(2, 32, True, "patches along a side"),
    "low_contrast": Levels(0.01, 0.99, False, "the share of contrast that remains"),
    **dict.fromkeys(CORRUPTIONS, Levels(1, 5, True, "ImageNet-C's severity")),
}


def level_problem(transform: str, level: float) -> str | None:
    """One line on why a transform cannot take a level; None where it can."""
    levels = LEVELS[transform]
    if levels.low <= level <= levels.high and not (levels.whole and level % 1):
        return None
    kind = "a whole number" if levels.whole else "a number"
    return f"{transform} wants {kind} from {levels.low:g} to {levels.high:g} ({levels.meaning}), got {level:g}"
