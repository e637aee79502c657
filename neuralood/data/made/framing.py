"""The part and the size of an image that a transform draws from, whatever the size of the image."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SHORT_SIDE_PX = 256
"""Shorter side of what is drawn: lines, patches and noise then mean the same for images of any size."""
LONG_SIDE_PX = 2048
"""No drawing is longer than this, however narrow the image."""
SQUARE_PX = 224
"""Side of the centre square that ImageNet-C cuts out before it corrupts."""

Floats = NDArray[np.float32]  # H W 3 in 0..1 where not said otherwise
Mask = NDArray[np.bool_]  # H W


def without_margin(image: Image.Image, margin_px: int) -> Image.Image:
    """The image less `margin_px` on each side; an image that is nothing but margin stays as it is."""
    if min(image.size) <= 2 * margin_px:
        return image
    return image.crop((margin_px, margin_px, image.width - margin_px, image.height - margin_px))


def at_working_size(image: Image.Image) -> Image.Image:
    """The whole image, its shorter side SHORT_SIDE_PX."""
    scale = min(SHORT_SIDE_PX / min(image.size), LONG_SIDE_PX / max(image.size))
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.resize(size, Image.Resampling.BICUBIC)


def centre_square(image: Image.Image) -> Image.Image:
    """What a network sees of a photo: the centre SQUARE_PX x SQUARE_PX of the image resized to SHORT_SIDE_PX.

    Resized and cut in one, and equal to ImageNet-C's Resize(256), CenterCrop(224).
    """
    short = min(image.size)
    box: list[float] = []
    for length in image.size:
        resized = SHORT_SIDE_PX * length // short
        first = round((resized - SQUARE_PX) / 2)
        box += [first * length / resized, (first + SQUARE_PX) * length / resized]
    left, right, top, bottom = box
    return image.resize((SQUARE_PX, SQUARE_PX), Image.Resampling.BILINEAR, (left, top, right, bottom))


def whole_square(image: Image.Image) -> Image.Image:
    """The whole image, SQUARE_PX x SQUARE_PX."""
    return image.resize((SQUARE_PX, SQUARE_PX), Image.Resampling.BILINEAR)


def to_pixels(image: Image.Image) -> Floats:
    """An RGB image as H W 3 in 0..1."""
    return np.asarray(image, np.float32) / np.float32(255)


def to_image(pixels: Floats) -> Image.Image:
    """H W 3 (colour) or H W (grey) in 0..1 as an image; what lies outside is clipped."""
    return Image.fromarray(np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8))
