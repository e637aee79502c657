"""Every transform of made sets by its name in params.yaml: how it is drawn, and how the drawing is kept."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from PIL import Image

from neuralood.data.imagenet.corruptions import CORRUPTIONS
from neuralood.data.made.corruptions import corrupted
from neuralood.data.made.distortions import low_contrast, patch_shuffle, phase_noise
from neuralood.data.made.framing import centre_square, whole_square
from neuralood.data.made.styles import cartoon, line_drawing, silhouette


@dataclass(frozen=True)
class FileKind:
    """How drawings are kept: the end of a file's name, and Pillow's options."""

    suffix: str
    options: Mapping[str, Any]


PNG = FileKind(".png", MappingProxyType({}))
"""Without loss: for flat and faint pictures, which JPEG would give a texture, or take it from."""
FINE_JPEG = FileKind(".jpg", MappingProxyType({"quality": 95, "subsampling": 0}))
"""Far smaller than a PNG: for what is as rich as a photo, and mostly was a JPEG before."""
IMAGENET_C_JPEG = FileKind(".jpg", MappingProxyType({"quality": 85}))
"""As ImageNet-C itself is kept; its scores include it."""


@dataclass(frozen=True)
class Transform:
    """How an image is redrawn.

    `draw` takes an image and a level; where `random`, a generator as well. A `square` one takes the square that a
    network sees, and its drawings are shown to the network whole.
    """

    draw: Callable[..., Image.Image]
    kept_as: FileKind
    random: bool = False
    square: bool = False

    def apply(self, image: Image.Image, level: float, rng: np.random.Generator, *, cropped: bool) -> Image.Image:
        """The image redrawn; `cropped` says that the network sees it whole."""
        if self.square:
            image = whole_square(image) if cropped else centre_square(image)
        return self.draw(image, level, rng) if self.random else self.draw(image, level)

    def save(self, drawn: Image.Image, file: Path) -> None:
        """Write a drawing."""
        drawn.save(file, **self.kept_as.options)


TRANSFORMS: dict[str, Transform] = {
    "line_drawing": Transform(line_drawing, PNG),
    "cartoon": Transform(cartoon, PNG),
    "silhouette": Transform(silhouette, PNG),
    "phase_noise": Transform(phase_noise, FINE_JPEG, random=True),
    "patch_shuffle": Transform(patch_shuffle, FINE_JPEG, random=True, square=True),
    "low_contrast": Transform(low_contrast, PNG),
    **{
        name: Transform(partial(corrupted, name=name), IMAGENET_C_JPEG, random=True, square=True)
        for name in CORRUPTIONS
    },
}
