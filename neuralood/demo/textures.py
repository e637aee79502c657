"""The ten textures of the demo world: a pattern in two colours, never twice quite the same."""

import colorsys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from neuralood.base.seeding import generator
from neuralood.demo.shapes import CLASS_SHAPES

HUE_JITTER = 0.02  # of the colour circle
VALUE_JITTER = 0.08
PERIOD_JITTER = 0.15
ANGLE_JITTER = 8.0  # degrees

Plane = NDArray[np.floating]  # H W, float32
Colour = tuple[float, float, float]  # hue, saturation, value, all 0..1
Pattern = Callable[[Plane, Plane, np.random.Generator], Plane]


@dataclass(frozen=True)
class Recipe:
    """What makes a texture: pattern, colours, period as a fraction of the image's side, angle in degrees."""

    pattern: Pattern
    ink: Colour
    paper: Colour
    period: float = 0.14
    angle: float = 0.0


def texture_patch(texture: str, seed: int, size_px: int) -> NDArray[np.float32]:
    """A square of the texture, H W 3 in 0..1; `seed` draws its phase, period, angle and exact colours."""
    recipe = RECIPES[texture]
    rng = generator(seed, "texture", texture)
    across, along = _pattern_coordinates(recipe, rng, size_px)
    amount = recipe.pattern(across, along, rng)[:, :, None]
    ink, paper = _jittered(recipe.ink, rng), _jittered(recipe.paper, rng)
    return paper + amount * (ink - paper)


def cloud(rng: np.random.Generator, cells: int, size_px: int) -> Plane:
    """Smooth noise, H W in 0..1, with about `cells` lumps a side."""
    lumps = Image.fromarray(rng.random((cells, cells), dtype=np.float32))
    smooth = lumps.resize((size_px, size_px), Image.Resampling.BICUBIC)
    return np.clip(np.asarray(smooth, dtype=np.float32), 0, 1)


def _pattern_coordinates(recipe: Recipe, rng: np.random.Generator, size_px: int) -> tuple[Plane, Plane]:
    """Each pixel's place in periods of the pattern, turned and shifted: across and along it, H W each."""
    turn = np.deg2rad(recipe.angle + rng.uniform(-ANGLE_JITTER, ANGLE_JITTER))
    period = recipe.period * (1 + rng.uniform(-PERIOD_JITTER, PERIOD_JITTER))
    shift_across, shift_along = rng.random(2)
    place = ((np.arange(size_px) + 0.5) / size_px - 0.5) / period  # from the image's centre
    x, y = place[None, :], place[:, None]
    across = x * np.cos(turn) + y * np.sin(turn) + shift_across
    along = y * np.cos(turn) - x * np.sin(turn) + shift_along
    return across.astype(np.float32), along.astype(np.float32)


def _jittered(colour: Colour, rng: np.random.Generator) -> NDArray[np.float32]:
    """The colour as red, green, blue in 0..1, its hue and value moved a little."""
    hue = (colour[0] + rng.uniform(-HUE_JITTER, HUE_JITTER)) % 1
    value = min(1.0, max(0.0, colour[2] + rng.uniform(-VALUE_JITTER, VALUE_JITTER)))
    return np.array(colorsys.hsv_to_rgb(hue, colour[1], value), dtype=np.float32)


def _wave(cycles: Plane) -> Plane:
    wave: Plane = np.cos(2 * np.pi * cycles)
    return wave


def _sharpened(values: Plane, steepness: float) -> Plane:
    """From below -1 to above 1 into 0..1: a step at zero that is soft over a pixel or two."""
    step: Plane = np.clip(0.5 + steepness * values, 0, 1)
    return step


def _stripes(across: Plane, along: Plane, rng: np.random.Generator) -> Plane:
    return _sharpened(_wave(across), 1.5)


def _checks(across: Plane, along: Plane, rng: np.random.Generator) -> Plane:
    return _sharpened(_wave(across / 2) * _wave(along / 2), 3)


def _dots(across: Plane, along: Plane, rng: np.random.Generator) -> Plane:
    return _sharpened(_wave(across) + _wave(along) - 0.5, 1)


def _mesh(across: Plane, along: Plane, rng: np.random.Generator) -> Plane:
    return _sharpened(np.maximum(_wave(across), _wave(along)) - 0.75, 2)


def _waves(across: Plane, along: Plane, rng: np.random.Generator) -> Plane:
    return _sharpened(_wave(across + 0.45 * _wave(along / 2)), 1.5)


def _rings(across: Plane, along: Plane, rng: np.random.Generator) -> Plane:
    x, y = rng.uniform(-1, 1, 2).astype(np.float32)
    return _sharpened(_wave(np.hypot(across - x, along - y)), 1.5)


def _grain(across: Plane, along: Plane, rng: np.random.Generator) -> Plane:
    return rng.random(across.shape, dtype=np.float32)


def _blotches(across: Plane, along: Plane, rng: np.random.Generator) -> Plane:
    return _sharpened(cloud(rng, 12, len(across)) - 0.5, 3)


RECIPES = {
    "amber bars": Recipe(_stripes, ink=(0.08, 0.95, 0.95), paper=(0.05, 0.7, 0.3)),
    "blue rungs": Recipe(_stripes, ink=(0.60, 0.90, 0.80), paper=(0.56, 0.25, 0.9), angle=90),
    "green slant": Recipe(_stripes, ink=(0.33, 0.85, 0.75), paper=(0.30, 0.8, 0.25), angle=45),
    "red checks": Recipe(_checks, ink=(0.00, 0.90, 0.85), paper=(0.02, 0.1, 0.9)),
    "yellow dots": Recipe(_dots, ink=(0.65, 0.60, 0.25), paper=(0.15, 0.9, 0.92), period=0.16),
    "grey grain": Recipe(_grain, ink=(0.10, 0.05, 0.92), paper=(0.60, 0.1, 0.1)),
    "teal waves": Recipe(_waves, ink=(0.48, 0.90, 0.75), paper=(0.50, 0.15, 0.92), period=0.16),
    "violet rings": Recipe(_rings, ink=(0.76, 0.75, 0.75), paper=(0.78, 0.15, 0.92)),
    "black mesh": Recipe(_mesh, ink=(0.00, 0.00, 0.90), paper=(0.00, 0.0, 0.1), period=0.16),
    "pink blotches": Recipe(_blotches, ink=(0.92, 0.75, 0.92), paper=(0.93, 0.9, 0.45)),
}
TEXTURES = tuple(RECIPES)
OWN_TEXTURE = dict(zip(CLASS_SHAPES, TEXTURES, strict=True))
