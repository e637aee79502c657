"""Transforms of made sets: what each leaves of an image, and that chance comes from the seed alone."""

import subprocess
import sys

import numpy as np
import pytest
from helpers_data import picture, real_data
from PIL import Image, ImageDraw

from neuralood.base.errors import UserError
from neuralood.base.seeding import generator
from neuralood.data.imagenet.corruptions import CORRUPTIONS
from neuralood.data.images import read_image
from neuralood.data.made.corruptions import corruption_library
from neuralood.data.made.distortions import low_contrast, patch_shuffle, phase_noise
from neuralood.data.made.framing import centre_square
from neuralood.data.made.levels import LEVELS, level_problem
from neuralood.data.made.styles import cartoon, line_drawing, silhouette
from neuralood.data.made.transforms import TRANSFORMS

DRAWN = [name for name in TRANSFORMS if name not in CORRUPTIONS]
TWO_LEVELS = {"patch_shuffle": (2, 4), "low_contrast": (0.2, 0.5), **dict.fromkeys(CORRUPTIONS, (1, 5))}


def textured_disc() -> Image.Image:
    """A dark disc on a light ground, both under fine noise."""
    image = Image.new("L", (256, 256), 200)
    ImageDraw.Draw(image).ellipse((64, 64, 192, 192), fill=60)
    noise = np.random.default_rng(0).normal(0, 18, (256, 256, 1))
    return Image.fromarray(np.clip(np.asarray(image)[:, :, None] + noise, 0, 255).astype(np.uint8).repeat(3, 2))


def redrawn(name: str, image: Image.Image, level: float, seed: int = 0) -> Image.Image:
    return TRANSFORMS[name].apply(image, level, generator(seed, name), cropped=False)


def test_every_transform_has_its_levels() -> None:
    assert set(TRANSFORMS) == set(LEVELS)
    assert len(CORRUPTIONS) == 15


def test_line_drawing_has_the_contour_and_no_texture() -> None:
    ink = np.asarray(line_drawing(textured_disc(), 1.0)) < 128
    y, x = np.nonzero(ink)
    distance = np.hypot(x - 128, y - 128)
    assert np.abs(distance - 64).max() < 6
    around = np.unique(np.round(np.degrees(np.arctan2(y - 128, x - 128)) / 10))
    assert len(around) >= 36


def test_cartoon_is_flat_with_an_outline() -> None:
    before, after = textured_disc(), np.asarray(cartoon(textured_disc(), 1.0)).astype(float)
    inside = (slice(100, 156), slice(100, 156))
    assert after[inside].std() < np.asarray(before)[inside].std() / 2
    assert after[128, 56:72].min() < after[inside].min()
    assert after[20, 20].mean() > 150


def test_silhouette_fills_what_stands_out_and_nothing_else() -> None:
    y, x = np.mgrid[:256, :256]
    disc = np.hypot(x - 128, y - 128) < 64
    filled = np.asarray(silhouette(textured_disc(), 1.0)) < 128
    assert (filled & disc).sum() > 0.9 * disc.sum()
    assert (filled & ~disc).sum() < 0.15 * disc.sum()


def test_the_silhouette_of_what_the_border_cuts_is_filled() -> None:
    image = Image.new("RGB", (256, 256), "white")
    ImageDraw.Draw(image).rectangle((96, 96, 160, 256), fill="navy")
    filled = np.asarray(silhouette(image, 1.0)) < 128
    assert filled[120:250, 110:146].all()
    assert not filled[:80].any()


def test_phase_noise_keeps_amplitudes_and_mean_and_turns_more_at_a_higher_level(rng: np.random.Generator) -> None:
    grey = np.asarray(picture(3, (256, 256)), float) * 0.2 + 100  # so faint that nothing is clipped
    image = Image.fromarray(grey.astype(np.uint8))
    before = np.fft.rfft2(np.asarray(image, float), axes=(0, 1))
    alike = []
    for level in (0.1, 0.5, 1.0):
        after = np.fft.rfft2(np.asarray(phase_noise(image, level, rng), float), axes=(0, 1))
        inner = (slice(1, 128), slice(1, 128))
        ratio = np.abs(after[inner]) / np.abs(before[inner])
        assert 0.98 < np.median(ratio) < 1.02
        assert abs(after[0, 0] - before[0, 0]).max() < 2e-3 * abs(before[0, 0]).max()
        turned = np.angle(after[inner] / before[inner])
        assert np.quantile(np.abs(turned), 0.9) < level * np.pi * 1.02 + 0.05
        alike.append(np.cos(turned).mean())
    assert alike[0] > 0.95 > alike[1] > alike[2]
    assert abs(alike[2]) < 0.1


def test_phase_noise_turns_all_colours_by_the_same_angle(rng: np.random.Generator) -> None:
    grey = np.asarray(phase_noise(textured_disc(), 0.6, rng))
    assert (grey == grey[:, :, :1]).all()


@pytest.mark.parametrize("grid", [2, 3, 4, 7])
def test_every_patch_is_moved_and_none_is_lost(grid: int, rng: np.random.Generator) -> None:
    image = np.asarray(picture(5, (224, 224)))
    side = 224 // grid
    first = (224 - grid * side) // 2

    def patches(pixels: np.ndarray, start: int) -> list[bytes]:
        rows = range(start, start + grid * side, side)
        return [pixels[y : y + side, x : x + side].tobytes() for y in rows for x in rows]

    before, after = patches(image, first), patches(np.asarray(patch_shuffle(Image.fromarray(image), grid, rng)), 0)
    assert sorted(before) == sorted(after)
    assert not any(one == other for one, other in zip(before, after, strict=True))


def test_low_contrast_keeps_the_asked_share() -> None:
    before = np.asarray(textured_disc(), float)
    after = np.asarray(low_contrast(textured_disc(), 0.1), float)
    np.testing.assert_allclose(after - 127.5, 0.1 * (before - 127.5), atol=0.5)


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (333, 227), (256, 256), (64, 1)])
def test_the_square_is_that_of_resize_256_and_centre_crop_224(size: tuple[int, int]) -> None:
    from torchvision import transforms

    image = picture(1, size)
    expected = transforms.CenterCrop(224)(transforms.Resize(256)(image))
    apart = np.abs(np.asarray(centre_square(image), int) - np.asarray(expected, int))
    assert apart.max() <= 1


@pytest.mark.parametrize("name", TRANSFORMS)
def test_the_seed_alone_decides_and_the_level_counts(name: str) -> None:
    image, (low, high) = textured_disc(), TWO_LEVELS.get(name, (0.3, 1.0))
    np.random.seed(1)  # noqa: NPY002
    once = redrawn(name, image, high)
    before = np.random.get_state()[1].tobytes()  # noqa: NPY002
    np.random.seed(2)  # noqa: NPY002
    assert redrawn(name, image, high).tobytes() == once.tobytes()
    assert redrawn(name, image, low).tobytes() != once.tobytes()
    np.random.seed(1)  # noqa: NPY002
    assert np.random.get_state()[1].tobytes() == before, "the global generator is left as it was"  # noqa: NPY002


@pytest.mark.parametrize("name", TRANSFORMS)
def test_another_seed_changes_what_is_random_and_nothing_else(name: str) -> None:
    level = TWO_LEVELS.get(name, (0.3, 1.0))[1]
    same = redrawn(name, textured_disc(), level, 0).tobytes() == redrawn(name, textured_disc(), level, 1).tobytes()
    certain = ("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression")
    assert same == (not TRANSFORMS[name].random or name in certain)


@pytest.mark.parametrize("size", [(1, 1), (3, 2000), (400, 300), (64, 64)])
def test_transforms_take_any_size(size: tuple[int, int]) -> None:
    for name in (*DRAWN, "fog", "frost", "pixelate"):
        drawn = redrawn(name, Image.new("RGB", size, "teal"), TWO_LEVELS.get(name, (1.0, 0.5))[1])
        assert drawn.mode in ("RGB", "L")
        assert max(drawn.size) <= 2048
        assert not TRANSFORMS[name].square or drawn.size == (224, 224)


def test_a_source_that_is_seen_whole_is_not_cropped() -> None:
    image = Image.new("RGB", (224, 224), "white")
    ImageDraw.Draw(image).rectangle((0, 0, 223, 223), outline="black", width=6)
    whole = TRANSFORMS["pixelate"].apply(image, 1, generator(0), cropped=True)
    cut = TRANSFORMS["pixelate"].apply(image, 1, generator(0), cropped=False)
    assert np.asarray(whole)[0].max() == 0
    assert np.asarray(cut)[0].max() == 255


@pytest.mark.parametrize("name", ["line_drawing", "silhouette"])
def test_a_blank_image_stays_blank(name: str) -> None:
    assert np.asarray(redrawn(name, Image.new("RGB", (300, 200), "teal"), 1.0)).min() == 255


@pytest.mark.parametrize(
    ("name", "level", "said"),
    [
        ("patch_shuffle", 2.5, "patch_shuffle wants a whole number from 2 to 32"),
        ("patch_shuffle", 1, "got 1"),
        ("fog", 6, r"fog wants a whole number from 1 to 5 \(ImageNet-C's severity\), got 6"),
        ("fog", 1.5, "whole number"),
        ("phase_noise", 1.01, "phase_noise wants a number from 0.01 to 1"),
        ("low_contrast", 1, "0.99"),
        ("cartoon", 50, "cartoon wants a number from 0.1 to 5"),
    ],
)
def test_a_level_that_a_transform_cannot_take_is_said(name: str, level: float, said: str) -> None:
    problem = level_problem(name, level)
    assert problem is not None
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(problem)


def test_levels_in_the_range_are_no_problem() -> None:
    for name, levels in LEVELS.items():
        assert level_problem(name, levels.low) is None
        assert level_problem(name, levels.high) is None


def test_a_missing_library_is_one_line_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imagecorruptions", None)
    with pytest.raises(UserError, match=r"pip install 'neuralood\[corruptions\]'") as caught:
        corruption_library()
    assert "\n" not in str(caught.value)


def test_the_library_is_imported_only_where_it_is_needed() -> None:
    code = "import sys, neuralood.data.made.sets; sys.exit('imagecorruptions' in sys.modules or 'cv2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.real
def test_real_photos_become_drawings() -> None:
    files = sorted(real_data("pacs").glob("photo/*/*"))[::140]
    assert files
    for file in files:
        ink = (np.asarray(line_drawing(read_image(file), 1.0)) < 128).mean()
        assert 0.005 < ink < 0.4
