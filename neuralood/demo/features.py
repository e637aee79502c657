"""What the simulated brain can know of a scene: local contrast, the pure shape, the pure texture."""

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from neuralood.demo.render import LUMINANCE
from neuralood.demo.scenes import Scene
from neuralood.demo.shapes import Pose, shape_mask
from neuralood.demo.textures import texture_patch

Features = NDArray[np.float32]

WAVELENGTHS_PX = (4.0, 7.0, 12.0)
ORIENTATIONS = np.deg2rad(np.array([0.0, 45.0, 90.0, 135.0], dtype=np.float32))  # of the luminance gradient
FILTERS = len(WAVELENGTHS_PX) * len(ORIENTATIONS)
GABOR_BANDWIDTH = 0.35  # sd in the frequency domain, as a fraction of the preferred frequency
CELLS = 16  # contrast is averaged over this many cells a side
PADDING_PX = 8  # mirrored, so that one side of the image does not reach the other
IMAGES_AT_ONCE = 16

CENTRED_SCALE = 0.48  # radius of the object-centred shape, as a fraction of the mask's side
SHAPE_MASK_PX = 10
HARMONIC_MASK_PX = 64
RADII = (0.2, 0.4, 0.6, 0.8)  # of the shape's radius
HARMONICS = 6
TEXTURE_PX = 64
PATCH_PX = 32


def contrast_energy(luminance: Features) -> Features:
    """Amplitude of a Gabor filter bank, B K CELLS CELLS from B H W; K runs over scales, then orientations."""
    chunks = [luminance[start : start + IMAGES_AT_ONCE] for start in range(0, len(luminance), IMAGES_AT_ONCE)]
    return np.concatenate([_contrast_energy(chunk) for chunk in chunks])


def to_luminance(images: NDArray[np.uint8]) -> Features:
    """Brightness, B H W in 0..1 from B H W 3."""
    return images @ (LUMINANCE / np.float32(255))


def shape_features(scenes: Sequence[Scene]) -> Features:
    """The noise-free shape, B F: object-centred mask, rotation-invariant harmonics; no texture."""
    masks = np.stack([_centred_mask(scene.shape, scene.pose.angle, SHAPE_MASK_PX).ravel() for scene in scenes])
    harmonics = np.stack([_radial_harmonics(scene.shape) for scene in scenes])
    return _balanced(masks, harmonics)


def texture_features(scenes: Sequence[Scene]) -> Features:
    """The noise-free texture, B F: colours and oriented contrast of a patch of it; nothing of the shape."""
    patches = np.stack([texture_patch(scene.texture, scene.seed, TEXTURE_PX)[:PATCH_PX, :PATCH_PX] for scene in scenes])
    colours = np.concatenate([patches.mean(axis=(1, 2)), patches.std(axis=(1, 2))], axis=1)
    contrast = contrast_energy(patches @ LUMINANCE).mean(axis=(2, 3))
    return _balanced(colours, contrast)


def _contrast_energy(luminance: Features) -> Features:
    border = (PADDING_PX, PADDING_PX)
    padded = np.pad(luminance, ((0, 0), border, border), mode="reflect")
    padded -= padded.mean(axis=(1, 2), keepdims=True)
    filters = _gabor_bank(padded.shape[-1])
    spectrum = np.fft.fft2(padded)[:, None] * filters
    amplitude = np.abs(np.fft.ifft2(spectrum))[:, :, PADDING_PX:-PADDING_PX, PADDING_PX:-PADDING_PX]
    images, channels, side, _ = amplitude.shape
    cells = amplitude.reshape(images, channels, CELLS, side // CELLS, CELLS, side // CELLS)
    energy: Features = cells.mean(axis=(3, 5), dtype=np.float32)
    return energy


@cache
def _gabor_bank(size_px: int) -> Features:
    """Transfer functions of the filters, K H W: one Gaussian each about the preferred frequency.

    Each passes one half of the frequency plane only, so that the filtered image is complex and its
    absolute value is the joint amplitude of an even and an odd Gabor filter.
    """
    frequency = np.fft.fftfreq(size_px).astype(np.float32)
    preferred = 1 / np.array(WAVELENGTHS_PX, dtype=np.float32)[:, None]
    centre_x = (preferred * np.cos(ORIENTATIONS)).reshape(-1, 1, 1)
    centre_y = (preferred * np.sin(ORIENTATIONS)).reshape(-1, 1, 1)
    distance = np.hypot(frequency[None, None, :] - centre_x, frequency[None, :, None] - centre_y)
    width = GABOR_BANDWIDTH * np.hypot(centre_x, centre_y)
    return np.exp(-0.5 * (distance / width) ** 2).astype(np.float32)


def _centred_mask(shape: str, angle: float, size_px: int) -> Features:
    return shape_mask(shape, Pose(0.5, 0.5, CENTRED_SCALE, angle), size_px)


@cache
def _radial_harmonics(shape: str) -> Features:
    """How often the shape comes and goes around circles about its centre: amplitudes, RADII x HARMONICS."""
    mask = _centred_mask(shape, 0.0, HARMONIC_MASK_PX)
    angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    radius = np.array(RADII)[:, None] * CENTRED_SCALE
    column = ((0.5 + radius * np.cos(angle)) * HARMONIC_MASK_PX).astype(int)
    row = ((0.5 + radius * np.sin(angle)) * HARMONIC_MASK_PX).astype(int)
    amplitudes = np.abs(np.fft.rfft(mask[row, column], axis=1))[:, :HARMONICS] / len(angle)
    return amplitudes.astype(np.float32).ravel()


def _balanced(*blocks: Features) -> Features:
    """The blocks side by side, each centred over scenes and scaled as a whole, so that all weigh the same."""
    centred = [block - block.mean(axis=0) for block in blocks]
    spread = [np.sqrt(np.square(block).sum(axis=1).mean()) for block in centred]
    return np.concatenate([block / (sd + 1e-6) for block, sd in zip(centred, spread, strict=True)], axis=1)
