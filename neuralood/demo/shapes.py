"""The outlines of the demo world: ten shapes that are classes and fourteen that never are."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

CLASS_SHAPES = ("star", "ring", "cross", "arrow", "crescent", "heart", "triangle", "square", "tee", "bolt")
EXTRA_SHAPES = (
    "hexagon", "kite", "ell", "zee", "cup", "house", "hourglass",
    "chevron", "drop", "wedge", "clover", "gear", "leaf", "bowl",
)  # fmt: skip

SUPERSAMPLE = 4  # a mask is drawn this many times larger, then averaged down: that smooths its border
CURVE_POINTS = 96

Points = NDArray[np.float64]  # P 2: x to the right and y down


@dataclass(frozen=True)
class Pose:
    """Where a shape lies: centre and radius as fractions of the image's side, angle in degrees, clockwise."""

    x: float
    y: float
    scale: float
    angle: float


def shape_mask(shape: str, pose: Pose, size_px: int) -> NDArray[np.float32]:
    """How much of each pixel the shape covers, H W in 0..1."""
    canvas = Image.new("L", (size_px * SUPERSAMPLE,) * 2, 0)
    draw = ImageDraw.Draw(canvas)
    body, *holes = _placed(shape, pose, canvas.width)
    draw.polygon(body, fill=255)
    for hole in holes:
        draw.polygon(hole, fill=0)
    return _averaged_down(canvas)


def shape_outline(shape: str, pose: Pose, size_px: int, width_px: float) -> NDArray[np.float32]:
    """How much of each pixel a line of `width_px` along the shape's border covers, H W in 0..1."""
    canvas = Image.new("L", (size_px * SUPERSAMPLE,) * 2, 0)
    draw = ImageDraw.Draw(canvas)
    for line in _placed(shape, pose, canvas.width):
        draw.line([*line, *line[:2]], fill=255, width=round(width_px * SUPERSAMPLE), joint="curve")
    return _averaged_down(canvas)


def _placed(shape: str, pose: Pose, size_px: int) -> list[list[tuple[float, float]]]:
    """The shape's polygons in pixels of a square canvas: the body first, then its holes."""
    turn = np.deg2rad(pose.angle)
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    centre = np.array([pose.x, pose.y])
    polygons = [(points @ rotation * pose.scale + centre) * size_px - 0.5 for points in _POLYGONS[shape]]
    return [[(x, y) for x, y in points.tolist()] for points in polygons]


def _averaged_down(canvas: Image.Image) -> NDArray[np.float32]:
    return np.asarray(canvas.reduce(SUPERSAMPLE), dtype=np.float32) / np.float32(255)


def _polar(radius: Callable[[Points], Points]) -> Points:
    """The closed curve at distance `radius(angle)`, angle in radians from the top, clockwise."""
    angle = np.linspace(0, 2 * np.pi, CURVE_POINTS, endpoint=False)
    distance = radius(angle)
    return np.stack([distance * np.sin(angle), -distance * np.cos(angle)], axis=1)


def _arc(x: float, y: float, radius: float, start: float, stop: float) -> Points:
    """An arc about (x, y) from `start` to `stop`, degrees from the right, clockwise."""
    angle = np.deg2rad(np.linspace(start, stop, CURVE_POINTS // 2))
    return np.stack([x + radius * np.cos(angle), y + radius * np.sin(angle)], axis=1)


def _regular(corners: int, *radii: float) -> Points:
    """A regular polygon with a corner on top, or a star where two radii take turns."""
    angle = 2 * np.pi * np.arange(corners) / corners
    distance = np.resize(radii, corners)
    return np.stack([distance * np.sin(angle), -distance * np.cos(angle)], axis=1)


def _corners(*numbers: float) -> Points:
    """A polygon from x, y, x, y, ..."""
    return np.reshape(numbers, (-1, 2)).astype(np.float64)


def _heart() -> Points:
    angle = np.linspace(0, 2 * np.pi, CURVE_POINTS, endpoint=False)
    height = 13 * np.cos(angle) - 5 * np.cos(2 * angle) - 2 * np.cos(3 * angle) - np.cos(4 * angle)
    return np.stack([16 * np.sin(angle) ** 3, -height], axis=1)


def _fitted(*polygons: Points) -> tuple[Points, ...]:
    """The polygons moved and scaled together: bounding box about the origin, farthest point at distance 1."""
    body = polygons[0]
    centre = (body.min(axis=0) + body.max(axis=0)) / 2
    radius = np.linalg.norm(body - centre, axis=1).max()
    return tuple((points - centre) / radius for points in polygons)


_POLYGONS: dict[str, tuple[Points, ...]] = {
    "star": _fitted(_regular(10, 1, 0.42)),
    "ring": _fitted(_polar(np.ones_like), 0.58 * _polar(np.ones_like)),
    "cross": _fitted(_corners(-1, -3, 1, -3, 1, -1, 3, -1, 3, 1, 1, 1, 1, 3, -1, 3, -1, 1, -3, 1, -3, -1, -1, -1)),
    "arrow": _fitted(_corners(-5, -1.4, 0, -1.4, 0, -4, 5, 0, 0, 4, 0, 1.4, -5, 1.4)),
    "crescent": _fitted(np.concatenate([_arc(0, 0, 1, 45, 315), _arc(0.55, 0, 0.73, 284, 76)])),
    "heart": _fitted(_heart()),
    "triangle": _fitted(_regular(3, 1)),
    "square": _fitted(_corners(-1, -1, 1, -1, 1, 1, -1, 1)),
    "tee": _fitted(_corners(-4, -4, 4, -4, 4, -1.6, 1.3, -1.6, 1.3, 4, -1.3, 4, -1.3, -1.6, -4, -1.6)),
    "bolt": _fitted(_corners(0.6, -5, -3, 0.6, -0.5, 0.6, -1.4, 5, 3, -1.4, 0.4, -1.4, 2.6, -5)),
    "hexagon": _fitted(_regular(6, 1)),
    "kite": _fitted(_corners(0, -3, 2.2, -1, 0, 5, -2.2, -1)),
    "ell": _fitted(_corners(-3, -4, -0.8, -4, -0.8, 1.8, 3, 1.8, 3, 4, -3, 4)),
    "zee": _fitted(_corners(-3, -4, 3, -4, 3, -2, -0.2, 2, 3, 2, 3, 4, -3, 4, -3, 2, 0.2, -2, -3, -2)),
    "cup": _fitted(_corners(-4, -4, -1.6, -4, -1.6, 1.6, 1.6, 1.6, 1.6, -4, 4, -4, 4, 4, -4, 4)),
    "house": _fitted(_corners(0, -5, 4, -1, 2.8, -1, 2.8, 4, -2.8, 4, -2.8, -1, -4, -1)),
    "hourglass": _fitted(_corners(-3, -4, 3, -4, 0.6, 0, 3, 4, -3, 4, -0.6, 0)),
    "chevron": _fitted(_corners(-4, -4, 0, -4, 4, 0, 0, 4, -4, 4, 0, 0)),
    "drop": _fitted(np.concatenate([_arc(0, 1, 2, -30, 210), _corners(0, -3)])),
    "wedge": _fitted(np.concatenate([_arc(0, 0, 1, 40, 320), _corners(0, 0)])),
    "clover": _fitted(_polar(lambda angle: 0.62 + 0.38 * np.cos(3 * angle))),
    "gear": _fitted(_polar(lambda angle: np.where(np.cos(8 * angle) > 0, 1.0, 0.72))),
    "leaf": _fitted(np.concatenate([_arc(0, 1, 1.6, 218.7, 321.3), _arc(0, -1, 1.6, 38.7, 141.3)])),
    "bowl": _fitted(_arc(0, 0, 1, 0, 180)),
}
