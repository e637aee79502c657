"""Made OOD sets: labelled photos redrawn without their texture, as line drawings or as cartoons."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from neuralood.base import paths
from neuralood.base.console import track
from neuralood.base.errors import UserError
from neuralood.config import Params
from neuralood.data.images import read_image
from neuralood.data.index import check_classes, made_manifest
from neuralood.data.manifest import Manifest, read_manifest

SHORT_SIDE_PX = 256
"""Shorter side of what is drawn: lines and patches then mean the same for images of any size."""
LONG_SIDE_PX = 2048
"""No drawing is longer than this, however narrow the image."""

LINE_SD_PX = 1.1
SHORTEST_LINE_PX = 40
"""Connected ink of fewer pixels is a speck of texture, not a contour."""

MOVED_PX = 1000
"""Colours are refined until fewer pixels than this change theirs."""

Floats = NDArray[np.float32]  # H W 3 in 0..1 where not said otherwise


def line_drawing(image: Image.Image, level: float) -> Image.Image:
    """Contours in black on white, without shading, colour and texture; a higher `level` keeps fewer."""
    calm = _calmed(_pixels(image), radius_px=1.1 * level**0.5)
    paper = 1 - _contours(calm, threshold=0.03 * level, shortest_px=SHORTEST_LINE_PX * level)
    return _image(np.repeat(paper[:, :, None], 3, axis=2))


def cartoon(image: Image.Image, level: float) -> Image.Image:
    """Flat patches of few colours with dark outlines; at a higher `level` larger patches, fewer colours."""
    calm = _calmed(_pixels(image), radius_px=1.4 * level**0.5)
    colours = int(np.clip(round(14 / level), 3, 64))
    flat = _image(calm).quantize(colours, Image.Quantize.MEDIANCUT, kmeans=MOVED_PX, dither=Image.Dither.NONE)
    ink = _contours(calm, threshold=0.045 * level**0.5, shortest_px=SHORTEST_LINE_PX * level)
    return _image(np.asarray(flat.convert("RGB"), np.float32) / np.float32(255) * (1 - ink[:, :, None]))


TRANSFORMS: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "line_drawing": line_drawing,
    "cartoon": cartoon,
}


def make_set(name: str, params: Params) -> Manifest:
    """Draw every image of a made set's source into data/made/NAME/CLASS/STEM.png, whole set or none of it.

    Raises UserError, after all other images, that names every source image that cannot be decoded.
    """
    entry, source = params.made[name], read_manifest(params.made[name].source)
    if not source.classes:
        raise UserError(f"made.{name}.source: {entry.source} has no classes; choose a labelled set")
    check_classes(name, source.classes, params)
    made_paths, folder = _made_paths(source), paths.made(name)
    unfinished = paths.partial(folder)
    shutil.rmtree(unfinished, ignore_errors=True)
    for label in source.classes:
        (unfinished / label).mkdir(parents=True, exist_ok=True)
    jobs = [(file, unfinished / path) for file, path in zip(source.image_files(), made_paths, strict=True)]
    draw = partial(_draw, transform=entry.transform, level=entry.level)
    drawn = _mapped(draw, jobs, params.runtime.workers)
    problems = [problem for problem in track(drawn, f"{entry.transform} {name}", len(jobs)) if problem]
    if problems:
        shutil.rmtree(unfinished)
        headline = f"{name} is not made, as {len(problems)} of {len(jobs)} images of {entry.source} are bad:"
        raise UserError("\n".join([headline, *(f"  {problem}" for problem in problems)]))
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished.rename(folder)
    return made_manifest(name, source, made_paths)


def _made_paths(source: Manifest) -> list[str]:
    """CLASS/STEM.png for each image, relative to the set's folder; equal stems are numbered: STEM-2.png."""
    taken: set[str] = set()
    made_paths = []
    for path, label in zip(source.paths, source.labels, strict=True):
        stem = f"{source.classes[label]}/{PurePosixPath(path).stem}"
        number, made_path = 1, f"{stem}.png"
        while made_path.lower() in taken:  # lower: some file systems cannot tell A.png from a.png
            number += 1
            made_path = f"{stem}-{number}.png"
        taken.add(made_path.lower())
        made_paths.append(made_path)
    return made_paths


def _draw(job: tuple[Path, Path], transform: str, level: float) -> str:
    """Draw one image from its first path to its second; returns what is wrong with it, or nothing."""
    source, target = job
    try:
        TRANSFORMS[transform](read_image(source), level).save(target)
    except UserError as error:
        return str(error)
    return ""


def _mapped(draw: Callable[[tuple[Path, Path]], str], jobs: Sequence[tuple[Path, Path]], workers: int) -> Iterator[str]:
    if not workers:
        yield from map(draw, jobs)
        return
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        yield from pool.map(draw, jobs, chunksize=16)


def _pixels(image: Image.Image) -> Floats:
    """The image at its working size, H W 3 in 0..1."""
    scale = min(SHORT_SIDE_PX / min(image.size), LONG_SIDE_PX / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return np.asarray(image.resize(size, Image.Resampling.BICUBIC), np.float32) / np.float32(255)


def _image(pixels: Floats) -> Image.Image:
    return Image.fromarray(np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8))


def _calmed(pixels: Floats, radius_px: float, passes: int = 3) -> Floats:
    """Texture smoothed away and edges kept: Kuwahara's filter with soft choices, repeated.

    Each pixel becomes a mean of eight neighbourhoods around it, and those that vary least weigh most.
    """
    height, width, _ = pixels.shape
    step = 1.5 * radius_px
    margin = int(np.ceil(step))
    for _ in range(passes):
        mean = _blurred(pixels, radius_px)
        variance = (_blurred(pixels**2, radius_px) - mean**2).sum(axis=2, keepdims=True).clip(0)
        weight = np.square(np.square(1 / (variance + np.float32(1e-4))))
        weighted = np.concatenate([mean * weight, weight], axis=2)
        weighted = np.pad(weighted, ((margin, margin), (margin, margin), (0, 0)), mode="edge")
        total = np.zeros((height, width, 4), np.float32)
        for angle in np.arange(8) * np.pi / 4:
            top, left = margin + round(step * np.sin(angle)), margin + round(step * np.cos(angle))
            total += weighted[top : top + height, left : left + width]
        pixels = total[:, :, :3] / total[:, :, 3:]
    return pixels


def _contours(pixels: Floats, threshold: float, shortest_px: float) -> Floats:
    """Ink along the dark side of edges, H W in 0..1: a difference of Gaussians with hysteresis.

    A line counts where any of it exceeds `threshold` and it covers `shortest_px` or more.
    """
    from scipy import ndimage

    edge = (_blurred(pixels, 1.6 * LINE_SD_PX) - _blurred(pixels, LINE_SD_PX)).max(axis=2)
    lines, n_lines = ndimage.label(edge > 0.4 * threshold, structure=np.ones((3, 3)))
    if not n_lines:
        return np.zeros_like(edge)
    index = np.arange(n_lines + 1)
    kept = (ndimage.maximum(edge, lines, index) > threshold) & (np.bincount(lines.ravel()) >= shortest_px)
    kept[0] = False
    ink: Floats = np.clip((edge / np.float32(threshold) - 0.3) / 0.4, 0, 1) * kept[lines]
    return ink


def _blurred(pixels: Floats, sd_px: float) -> Floats:
    from scipy.ndimage import gaussian_filter

    blurred: Floats = gaussian_filter(pixels, (sd_px, sd_px, 0), mode="nearest", truncate=2.5)
    return blurred
