"""Photos distorted: phase noise, shuffled patches, low contrast."""

import numpy as np
from PIL import Image

from neuralood.data.made.framing import at_working_size, to_image, to_pixels


def phase_noise(image: Image.Image, level: float, rng: np.random.Generator) -> Image.Image:
    """Every frequency's phase turned by at most `level` of half a turn, by the same angle in all colours.

    The amplitudes stay: at level 1 nothing but they remains.
    """
    from scipy import fft

    pixels = to_pixels(at_working_size(image))
    height, width, _ = pixels.shape
    turn = np.angle(fft.rfft2(rng.standard_normal((height, width), np.float32)))
    turn[0, 0] = 0  # the mean stays
    spectrum = fft.rfft2(pixels, axes=(0, 1)) * np.exp(1j * np.float32(level) * turn)[:, :, None]
    return to_image(fft.irfft2(spectrum, s=(height, width), axes=(0, 1)))


def patch_shuffle(image: Image.Image, level: float, rng: np.random.Generator) -> Image.Image:
    """`level` x `level` patches of a square image, each in the place of another; what no patch covers is cut off."""
    pixels, grid = np.asarray(image), int(level)
    side = len(pixels) // grid
    first = (len(pixels) - grid * side) // 2
    inner = pixels[first : first + grid * side, first : first + grid * side]
    patches = inner.reshape(grid, side, grid, side, 3).swapaxes(1, 2).reshape(grid**2, side, side, 3)
    order = rng.permutation(grid**2)
    shuffled = np.empty_like(patches)
    shuffled[order] = patches[np.roll(order, 1)]  # one round trip through all places: none keeps its patch
    rows = shuffled.reshape(grid, grid, side, side, 3).swapaxes(1, 2)
    return Image.fromarray(rows.reshape(grid * side, grid * side, 3))


def low_contrast(image: Image.Image, level: float) -> Image.Image:
    """All colours moved towards middle grey, so that `level` of the contrast remains."""
    return to_image((to_pixels(at_working_size(image)) - np.float32(0.5)) * np.float32(level) + np.float32(0.5))
