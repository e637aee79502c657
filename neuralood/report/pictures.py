"""Small pictures for the page: thumbnails, and where a ROI query looks laid over the image."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image

from neuralood.base.errors import UserError
from neuralood.base.store import Array
from neuralood.data.images import read_image

SIDE = 96
"""Longest side of a thumbnail, and side of an attention tile, in pixels."""

GAP = 4
"""Between the tiles of a strip, in pixels."""

QUALITY = 85

MOST_HEAT = 4.0
"""Attention, relative to an even spread, that is drawn at full strength at the most."""


def open_picture(file: Path) -> Image.Image | None:
    """The image, or None where it is gone from this machine or cannot be read."""
    try:
        return read_image(file)
    except UserError:
        return None


def thumbnail(image: Image.Image) -> str:
    """A data URI of the image, made to fit SIDE x SIDE."""
    small = image.copy()
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return _data_uri(small)


def model_view(image: Image.Image, crop_pct: float) -> Image.Image:
    """The centre square that the backbone sees, SIDE x SIDE."""
    side = crop_pct * min(image.size)
    left, top = ((length - side) / 2 for length in image.size)
    box = (left, top, left + side, top + side)
    return image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=box)


def heat_tile(view: Image.Image, heat: Array) -> Image.Image:
    """The view in grey with `heat` (rows x columns, 0 to 1) over it, upsampled smoothly."""
    grid = Image.fromarray(heat.astype(np.float32))
    strength = np.asarray(grid.resize(view.size, Image.Resampling.BICUBIC)).clip(0, 1)[..., None]
    grey = np.asarray(view.convert("L").convert("RGB"), np.float32)
    colour = 255 * matplotlib.colormaps["inferno"](0.35 + 0.6 * strength[..., 0])[..., :3]
    weight = 0.8 * strength
    return Image.fromarray(np.rint(grey * (1 - weight) + colour * weight).astype(np.uint8))


def strip(tiles: Sequence[Image.Image]) -> str:
    """A data URI of tiles, SIDE x SIDE each, in a row with white between them: one file weighs less than many."""
    joined = Image.new("RGB", (len(tiles) * (SIDE + GAP) - GAP, SIDE), "white")
    for number, tile in enumerate(tiles):
        joined.paste(tile, (number * (SIDE + GAP), 0))
    return _data_uri(joined)


def _data_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
