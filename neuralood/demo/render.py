"""Pictures of the demo world's scenes: as photos, and in the styles that put a classifier to the test."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from neuralood.base.errors import UserError
from neuralood.base.seeding import generator
from neuralood.demo.scenes import Scene, other_texture
from neuralood.demo.shapes import shape_mask, shape_outline
from neuralood.demo.textures import cloud, texture_patch

SIZE_PX = 64
OUTLINE_PX = 1.4
NOISE_SD = 0.2
BLUR_SD_PX = 2.2
CONTRAST = 0.2
LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # red, green, blue
MOST_NSD_SCENES = 9_999  # the row in an Algonauts file name has four digits

Pixels = NDArray[np.uint8]  # H W 3
Track = Callable[[Iterable[Any]], Iterable[Any]]


def render(scene: Scene, style: str) -> Pixels:
    """The scene in one of STYLES, H W 3; equal scenes give equal pixels."""
    return STYLES[style](scene)


def render_labelled(scenes: Sequence[Scene], style: str, folder: Path, track: Track = iter) -> None:
    """Write scene i as `folder`/SHAPE/i.png (five digits), so that a folder is a class."""
    for shape in {scene.shape for scene in scenes}:
        (folder / shape).mkdir(parents=True, exist_ok=True)
    for index, scene in enumerate(track(scenes)):
        _write_png(render(scene, style), folder / scene.shape / f"{index:05d}.png")


def render_nsd(scenes: Sequence[Scene], folder: Path, track: Track = iter) -> None:
    """Write the scenes as photos where Algonauts 2023 keeps them; sorted names are the rows of the fMRI."""
    if len(scenes) > MOST_NSD_SCENES:
        raise UserError(f"{len(scenes)} NSD scenes: Algonauts file names have room for {MOST_NSD_SCENES} at most")
    images = folder / "training_split" / "training_images"
    images.mkdir(parents=True, exist_ok=True)
    for index, scene in enumerate(track(scenes)):
        _write_png(render(scene, "photo"), images / f"train-{index + 1:04d}_nsd-{index:05d}.png")


def render_restyled(scenes: Mapping[int, Scene], folder: Path, track: Track = iter) -> None:
    """Write each scene in every style but photo as `folder`/STYLE/KEY.png (five digits): a folder is a style."""
    for style in RESTYLES:
        (folder / style).mkdir(parents=True, exist_ok=True)
    for style, (index, scene) in track([*product(RESTYLES, scenes.items())]):
        _write_png(render(scene, style), folder / style / f"{index:05d}.png")


def _photo(scene: Scene) -> Pixels:
    """The textured shape before a muted, cloudy background."""
    mask = shape_mask(scene.shape, scene.pose, SIZE_PX)[:, :, None]
    background = _background(scene.seed)
    return _pixels(background + mask * (texture_patch(scene.texture, scene.seed, SIZE_PX) - background))


def _silhouette(scene: Scene) -> Pixels:
    """The shape in pure black on pure white."""
    inside = shape_mask(scene.shape, scene.pose, SIZE_PX)[:, :, None] >= 0.5
    return _pixels(np.repeat(~inside, 3, axis=2).astype(np.float32))


def _edges(scene: Scene) -> Pixels:
    """The shape's outline in black on white."""
    outline = shape_outline(scene.shape, scene.pose, SIZE_PX, OUTLINE_PX)[:, :, None]
    return _pixels(np.repeat(1 - outline, 3, axis=2))


def _conflict(scene: Scene) -> Pixels:
    """The photo with a texture that belongs to another class, so that shape and texture contradict."""
    rival = other_texture(scene.shape, generator(scene.seed, "conflict"))
    return _photo(replace(scene, texture=rival))


def _noise(scene: Scene) -> Pixels:
    """The photo under Gaussian pixel noise."""
    rng = generator(scene.seed, "noise")
    grain = rng.standard_normal((SIZE_PX, SIZE_PX, 3), dtype=np.float32)
    return _pixels(_photo(scene) / np.float32(255) + np.float32(NOISE_SD) * grain)


def _lowpass(scene: Scene) -> Pixels:
    """The photo out of focus."""
    return np.asarray(Image.fromarray(_photo(scene)).filter(ImageFilter.GaussianBlur(BLUR_SD_PX)))


def _contrast(scene: Scene) -> Pixels:
    """The photo in grey, at a fifth of its contrast."""
    grey = (_photo(scene) / np.float32(255) @ LUMINANCE)[:, :, None]
    return _pixels(np.repeat(0.5 + CONTRAST * (grey - 0.5), 3, axis=2))


STYLES: dict[str, Callable[[Scene], Pixels]] = {
    "photo": _photo,
    "silhouette": _silhouette,
    "edges": _edges,
    "conflict": _conflict,
    "noise": _noise,
    "lowpass": _lowpass,
    "contrast": _contrast,
}

RESTYLES = tuple(style for style in STYLES if style != "photo")
"""The styles that are out of distribution."""


def _background(seed: int) -> NDArray[np.float32]:
    """A dull colour, darker and lighter in clouds, with a little pixel noise: H W 3 around 0..1."""
    rng = generator(seed, "background")
    level = rng.uniform(0.35, 0.65)
    tint = rng.uniform(-0.05, 0.05, 3).astype(np.float32)
    clouds = cloud(rng, 5, SIZE_PX)[:, :, None] - 0.5
    grain = rng.standard_normal((SIZE_PX, SIZE_PX, 1), dtype=np.float32)
    background: NDArray[np.float32] = np.float32(level) + tint + 0.4 * clouds + 0.04 * grain
    return background


def _pixels(image: NDArray[np.float32]) -> Pixels:
    levels: Pixels = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    return levels


def _write_png(image: Pixels, path: Path) -> None:
    Image.fromarray(image).save(path, compress_level=1)
