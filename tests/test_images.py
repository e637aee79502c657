"""Every kind of image file becomes what a person sees in it, or one line that says what to do."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_data import LFS, picture, real_data, save
from PIL import Image, ImageFile

from neuralood.base.errors import UserError
from neuralood.data.arrays import read_npy
from neuralood.data.images import is_image, read_image

RAMP = np.linspace(0, 65535, 64).reshape(8, 8).astype(np.uint16)


def pixels(file: Path) -> np.ndarray[Any, Any]:
    image = read_image(file)
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "RGB", "YCbCr"])
def test_modes_are_converted(tmp_path: Path, mode: str) -> None:
    image, file = picture().convert(mode), tmp_path / "image.tif"
    image.save(file)
    assert np.abs(pixels(file).astype(int) - np.asarray(image.convert("RGB"))).max() <= 1


@pytest.mark.parametrize("name", ["ramp.png", "ramp.tif", "ramp.pgm"])
def test_16_bit_is_scaled_not_clipped(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    if name.endswith("pgm"):
        file.write_bytes(b"P5 8 8 65535\n" + RAMP.astype(">u2").tobytes())
    else:
        Image.fromarray(RAMP).save(file)
    expected = np.rint(RAMP / 257).astype(np.uint8)
    assert (pixels(file) == expected[:, :, None]).all()


def test_transparency_is_laid_over_white(tmp_path: Path) -> None:
    black = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    black.putpixel((1, 0), (0, 0, 0, 255))
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([9, 9, 9, 0, 0, 0])
    palette.putpixel((1, 0), 1)
    black.save(tmp_path / "rgba.png")
    black.convert("LA").save(tmp_path / "la.png")
    palette.save(tmp_path / "p.png", transparency=0)
    for name in ("rgba.png", "la.png", "p.png"):
        assert pixels(tmp_path / name)[0, :, 0].tolist() == [255, 0], name


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert pixels(tmp_path / "a.gif")[0, 0].tolist() == [255, 0, 0]


def test_no_exif_rotation(tmp_path: Path) -> None:
    image = picture()
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").size == image.size


def test_content_decides_not_the_extension(tmp_path: Path) -> None:
    for name in ("a.jpg", "n02105855_2933.JPEG"):  # ImageNet's train has this one
        picture().save(tmp_path / name, format="PNG")
        assert (pixels(tmp_path / name) == np.asarray(picture())).all()


@pytest.mark.parametrize("mode", ["CMYK", "L"])
def test_jpegs_of_imagenet_that_are_not_rgb(tmp_path: Path, mode: str) -> None:
    image = picture(size=(40, 30)).resize((80, 60), Image.Resampling.BICUBIC).convert(mode)
    image.save(tmp_path / "n01739381_1309.JPEG", quality=95)
    with Image.open(tmp_path / "n01739381_1309.JPEG") as saved:
        assert saved.mode == mode
    found = pixels(tmp_path / "n01739381_1309.JPEG").astype(int)
    assert np.abs(found - np.asarray(image.convert("RGB"))).mean() < 12
    if mode == "L":
        assert (found[:, :, 0] == found[:, :, 2]).all()


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "webp", "tif", "bmp"])
def test_truncated_files_are_refused(tmp_path: Path, suffix: str) -> None:
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    file = tmp_path / f"half.{suffix}"
    picture(size=(64, 64)).save(file)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(UserError, match=rf"half\.{suffix} .*replace it, or add it to files\.<set>\.exclude"):
        read_image(file)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (LFS, "git lfs pull"),
        (b"hello", "no image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no image"),
    ],
)
def test_what_is_no_image(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "bad.png"
    file.write_bytes(content)
    assert not is_image(file)
    with pytest.raises(UserError, match=rf"bad\.png.*{said}"):
        read_image(file)


def test_missing_and_float_images(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be opened"):
        read_image(tmp_path / "none.png")
    Image.fromarray(RAMP.astype(np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(UserError, match="no known range"):
        read_image(tmp_path / "float.tif")


def test_decompression_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(size=(64, 64)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UserError, match=r"bomb\.png is too large"):
        read_image(tmp_path / "bomb.png")


def test_arrays_are_read_whole_or_mapped(tmp_path: Path) -> None:
    save(tmp_path / "a.npy", RAMP)
    for mapped in (False, True):
        array = read_npy(tmp_path / "a.npy", mapped=mapped)
        assert isinstance(array, np.memmap) == mapped
        assert (array == RAMP).all()


@pytest.mark.parametrize("mapped", [False, True])
def test_bad_arrays(tmp_path: Path, mapped: bool) -> None:
    save(tmp_path / "whole.npy", RAMP)
    whole = (tmp_path / "whole.npy").read_bytes()
    save(tmp_path / "pickle.npy", np.array({0: "x"}, object))
    save(tmp_path / "text.npy", np.array(["a", "b"]))
    cases = {
        "empty.npy": (b"", "is empty"),
        "pointer.npy": (LFS, "git lfs pull"),
        "short.npy": (whole[:-9], "truncated"),
        "header.npy": (whole[:20], "truncated"),
        "zip.npy": (b"PK\3\4 and so on", "no .npy file"),
        "pickle.npy": (None, "Python objects"),
        "text.npy": (None, "not real numbers"),
    }
    for name, (content, said) in cases.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name}.*{said}"):
            read_npy(tmp_path / name, mapped=mapped)


@pytest.mark.real
def test_real_photos_are_read() -> None:
    files = sorted(real_data("pacs").glob("*/*/*"))[::100]
    assert files
    for file in files:
        assert min(read_image(file).size) > 50
