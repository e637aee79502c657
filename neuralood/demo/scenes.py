"""The scenes of the demo world: which shape wears which texture, where, before anything is drawn."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from neuralood.base.seeding import derived_seed, generator
from neuralood.demo.shapes import CLASS_SHAPES, EXTRA_SHAPES, Pose
from neuralood.demo.textures import OWN_TEXTURE, TEXTURES

Kind = Literal["labelled", "nsd"]

CENTRE = (0.38, 0.62)  # fractions of the image's side
SCALE = (0.26, 0.36)
MAX_ANGLE = 30.0  # degrees either way


@dataclass(frozen=True)
class Scene:
    """One textured shape; `seed` draws what has no name: the texture's phase, the background, the noise."""

    shape: str
    pose: Pose
    texture: str
    seed: int


def draw_scenes(kind: Kind, n: int, seed: int, confound: float) -> list[Scene]:
    """The first `n` scenes of an endless list that `kind` and `seed` fix.

    'labelled': classes in turn, shuffled within every ten scenes, and each class wears its own texture
    with probability `confound`, else one of the nine others. 'nsd': any of the 24 shapes in any texture,
    independent of each other; `confound` plays no part.
    """
    if kind == "labelled":
        return [_labelled_scene(index, seed, confound) for index in range(n)]
    return [_nsd_scene(index, seed) for index in range(n)]


def other_texture(shape: str, rng: np.random.Generator) -> str:
    """A texture that is not the class's own; any, for a shape that is no class."""
    return str(rng.choice([texture for texture in TEXTURES if texture != OWN_TEXTURE.get(shape)]))


def _labelled_scene(index: int, seed: int, confound: float) -> Scene:
    block, place = divmod(index, len(CLASS_SHAPES))
    order = generator(seed, "labelled", "order", block).permutation(len(CLASS_SHAPES))
    shape = CLASS_SHAPES[order[place]]
    rng = generator(seed, "labelled", index)
    pose = _draw_pose(rng)
    texture = OWN_TEXTURE[shape] if rng.random() < confound else other_texture(shape, rng)
    return Scene(shape, pose, texture, derived_seed(seed, "labelled", index, "scene"))


def _nsd_scene(index: int, seed: int) -> Scene:
    rng = generator(seed, "nsd", index)
    shape = str(rng.choice(CLASS_SHAPES + EXTRA_SHAPES))
    texture = str(rng.choice(TEXTURES))
    return Scene(shape, _draw_pose(rng), texture, derived_seed(seed, "nsd", index, "scene"))


def _draw_pose(rng: np.random.Generator) -> Pose:
    x, y = rng.uniform(*CENTRE, size=2)
    return Pose(float(x), float(y), float(rng.uniform(*SCALE)), float(rng.uniform(-MAX_ANGLE, MAX_ANGLE)))
