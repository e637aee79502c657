"""Any image file as the RGB picture that a person sees in it."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from neuralood.base.errors import UserError
from neuralood.data.containers import container_of, read_member
from neuralood.data.files import require_content

FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""What is decoded: Pillow's other formats are rare, or run other programs, as EPS does."""

EXTENSIONS = frozenset(
    (
        ".bmp",
        ".gif",
        ".jpe",
        ".jpeg",
        ".jpg",
        ".jp2",
        ".pbm",
        ".pgm",
        ".png",
        ".pnm",
        ".ppm",
        ".tif",
        ".tiff",
        ".webp",
    )
)
"""Extensions of files that are taken for images without a look inside."""

REMEDY = "replace it, or add it to files.<set>.exclude in params.yaml"
UNREADABLE = (OSError, SyntaxError, ValueError, IndexError, TypeError, EOFError, MemoryError)
"""What Pillow raises for damaged files."""


def read_image(file: Path, remedy: str = REMEDY) -> Image.Image:
    """Decode an image by its content into RGB, H W 3 of 8 bits.

    Grey, palette, CMYK and 16-bit images are converted, transparency is laid over white, the first frame of
    an animation is taken, and the EXIF orientation is not applied. `file` may be PATH::MEMBER, an image inside a
    container. Raises UserError, naming file and `remedy`, where the file is missing, empty, a Git LFS pointer, no
    image, truncated, or of absurd size.
    """
    require_content(container_of(file))
    with _damage_named(str(file), remedy), _opened(file) as image:
        return _as_rgb(image)


def rgb_image(image: Image.Image, name: str, remedy: str) -> Image.Image:
    """A PIL image, decoded yet or not, likewise; messages call it `name`."""
    with _damage_named(name, remedy):
        return _as_rgb(image)


def is_image(file: Path) -> bool:
    """Whether a file's content begins as an image does."""
    try:
        with Image.open(file, formats=FORMATS):
            return True
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return True  # too large, which reading it will say
    except UNREADABLE:
        return False


def from_linear(image: Image.Image) -> Image.Image:
    """A picture whose pixel values are proportional to luminance as others hold them, 255 sqrt(value / 255)."""
    table = (np.sqrt(np.arange(256) / 255) * 255).astype(np.uint8).tolist()
    return image.point(table * len(image.getbands()))


@contextmanager
def _damage_named(name: str, remedy: str) -> Iterator[None]:
    """What Pillow raises as a UserError."""
    try:
        yield
    except UnidentifiedImageError:
        raise UserError(f"{name} is no image that can be decoded: {remedy}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(f"{name} is too large an image ({error}): {remedy}") from None
    except UNREADABLE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{name} is truncated or damaged ({reason}): {remedy}") from None


def _opened(file: Path) -> Image.Image:
    """The image, its pixels most often not decoded yet."""
    if container_of(file) == file:
        return Image.open(file, formats=FORMATS)
    content = read_member(file)
    return Image.open(io.BytesIO(content), formats=FORMATS) if isinstance(content, bytes) else Image.fromarray(content)


def _as_rgb(image: Image.Image) -> Image.Image:
    image.load()
    if image.mode.startswith("I;16") or image.mode == "I":
        return _from_16_bit(image).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range, save it with 8 or 16 bits")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _from_16_bit(image: Image.Image) -> Image.Image:
    """Grey values 0..65535 as 0..255; Pillow's own conversion clips them at 255."""
    if image.mode == "I" and image.format not in ("PNG", "PPM"):
        raise ValueError("32-bit integers have no known range, save it with 8 or 16 bits")
    values = np.asarray(image).astype(np.float64)
    return Image.fromarray(np.rint(values / 257).clip(0, 255).astype(np.uint8))
