"""Photos redrawn without their texture: as line drawings, as cartoons, and as silhouettes by a guess."""

import numpy as np
from PIL import Image

from neuralood.data.made.framing import Floats, Mask, at_working_size, to_image, to_pixels

LINE_SD_PX = 1.1
SHORTEST_LINE_PX = 40
"""Connected ink of fewer pixels is a speck of texture, not a contour."""

MOVED_PX = 1000
"""Colours are refined until fewer pixels than this change theirs."""

GUESS_SHORT_PX, GUESS_LONG_PX = 96, 256
"""Sides of the picture in which the silhouette is looked for: its shorter one, and its longer one at the most."""
LEAST_STEP = 0.05
"""Steps of colour of less than this in all, in 0..1, do not stand out."""
SMALLEST_PART = 0.1
"""Parts of a silhouette smaller than this share of its largest are dropped."""


def line_drawing(image: Image.Image, level: float) -> Image.Image:
    """Contours in black on white, without shading, colour and texture; a higher `level` keeps fewer."""
    calm = _calmed(to_pixels(at_working_size(image)), radius_px=1.1 * level**0.5)
    return to_image(1 - _contours(calm, threshold=0.03 * level, shortest_px=SHORTEST_LINE_PX * level))


def cartoon(image: Image.Image, level: float) -> Image.Image:
    """Flat patches of few colours with dark outlines; at a higher `level` larger patches, fewer colours."""
    calm = _calmed(to_pixels(at_working_size(image)), radius_px=1.4 * level**0.5)
    colours = int(np.clip(round(14 / level), 3, 64))
    flat = to_image(calm).quantize(colours, Image.Quantize.MEDIANCUT, kmeans=MOVED_PX, dither=Image.Dither.NONE)
    ink = _contours(calm, threshold=0.045 * level**0.5, shortest_px=SHORTEST_LINE_PX * level)
    return to_image(to_pixels(flat.convert("RGB")) * (1 - ink[:, :, None]))


def silhouette(image: Image.Image, level: float) -> Image.Image:
    """Whatever stands out from the picture's border as a black shape on white; a higher `level` fills less.

    Only a guess: no mask says where a photo's object is. What is filled is hard to reach from the border without
    crossing steps of colour. A lone object on a calm ground comes out as its silhouette; cluttered scenes, and
    objects that fill the picture, come out as blobs that no person could name.
    """
    size = at_working_size(image).size
    scale = min(GUESS_SHORT_PX / min(size), GUESS_LONG_PX / max(size))
    width, height = (max(1, round(length * scale)) for length in size)
    small = image.resize((width, height), Image.Resampling.BOX)
    far = _steps_from_border(_calmed(to_pixels(small), radius_px=1.4))
    shape = _largest_parts(far > level * max(_parting_value(far), LEAST_STEP))
    smooth = _blurred(shape.astype(np.float32)[:, :, None], sd_px=1)[:, :, 0]
    smooth = np.asarray(Image.fromarray(smooth).resize(size, Image.Resampling.BICUBIC))
    return to_image(0.5 - 4 * (smooth - np.float32(0.5)))


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


def _steps_from_border(pixels: Floats) -> Floats:
    """Cost of the cheapest way from the border to each pixel, H W: the sum of its steps of colour.

    The way in costs as much as the border pixel differs from most of the border, so that an object which is cut
    by the border does not count as ground.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import dijkstra

    height, width, _ = pixels.shape
    index = np.arange(height * width).reshape(height, width)
    pairs = [(index[:, :-1], index[:, 1:]), (index[:-1], index[1:])]
    one, other = (np.concatenate([pair[side].ravel() for pair in pairs]) for side in (0, 1))
    colours = pixels.reshape(-1, 3)
    step = np.linalg.norm(colours[one] - colours[other], axis=1)
    border = np.unique(np.concatenate([index[0], index[-1], index[:, 0], index[:, -1]]))
    apart = np.linalg.norm(colours[border, None] - colours[None, border], axis=2)
    way_in = np.median(apart, axis=1)
    outside = np.full(len(border), height * width)
    weights = np.concatenate([step, way_in]) + np.float32(1e-4)  # a zero would be no way at all
    ends = (np.concatenate([one, outside]), np.concatenate([other, border]))
    ways = coo_array((weights, ends), shape=(height * width + 1,) * 2).tocsr()
    cost: Floats = dijkstra(ways, directed=False, indices=height * width)[:-1].astype(np.float32)
    return cost.reshape(height, width)


def _parting_value(values: Floats) -> float:
    """The value that parts low from high values best (Otsu: the largest variance between the two)."""
    counts, edges = np.histogram(values, 64)
    centres = (edges[:-1] + edges[1:]) / 2
    low = np.cumsum(counts)[:-1]
    high = counts.sum() - low
    low_sum = np.cumsum(counts * centres)[:-1]
    apart = low_sum / np.maximum(low, 1) - ((counts * centres).sum() - low_sum) / np.maximum(high, 1)
    return float(edges[1 + np.argmax(low * high * apart**2)])


def _largest_parts(shape: Mask) -> Mask:
    """The shape without its small parts."""
    from scipy import ndimage

    parts, n_parts = ndimage.label(shape)
    if not n_parts:
        return shape
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    kept: Mask = (sizes >= SMALLEST_PART * sizes.max())[parts]
    return kept
