"""Images as a caller gives them: files, folders, PIL images, or any iterable of these."""

from collections.abc import Iterable, Iterator, Sized
from pathlib import Path
from typing import Any

from PIL import Image

from neuralood.base.errors import UserError
from neuralood.data.images import EXTENSIONS, rgb_image

ImageSource = str | Path | Image.Image
"""An image file, a folder of them, or a PIL image."""

REMEDY = "replace it, or leave it out"


def each_image(images: ImageSource | Iterable[ImageSource]) -> Iterator[Any]:
    """One by one, folders replaced by the images in them at any depth, sorted by path.

    Raises UserError for a folder without any.
    """
    for image in [images] if isinstance(images, (str, Path, Image.Image)) else images:
        if isinstance(image, (str, Path)) and Path(image).is_dir():
            yield from _images_in(Path(image))
        else:
            yield image


def listed(images: ImageSource | Iterable[ImageSource]) -> tuple[Iterable[Any], int | None]:
    """The same images, and how many they are: None of a generator, which is not read."""
    if not isinstance(images, (Sized, Path, Image.Image)):
        return images, None
    each = list(each_image(images))
    return each, len(each)


def decodable(images: Iterable[Any]) -> Iterator[Path | Image.Image]:
    """Paths, whose files are read later, and PIL images, decoded at once: whoever lent them may close or change them.

    Raises UserError that names the row of what is no image.
    """
    for row, image in enumerate(images):
        if isinstance(image, Image.Image):
            yield rgb_image(image, f"image {row}", REMEDY)
        elif isinstance(image, (str, Path)):
            yield Path(image)
        else:
            raise UserError(f"image {row} is a {type(image).__name__}: wants a path, a folder or a PIL image")


def _images_in(folder: Path) -> list[Path]:
    files = [file for file in folder.rglob("*") if file.suffix.lower() in EXTENSIONS and not file.name.startswith(".")]
    if not files:
        raise UserError(f"{folder} holds no image: name a folder with some ({', '.join(sorted(EXTENSIONS))})")
    return sorted(files, key=str)
