"""Made sets: the object's contours stay, its texture goes."""

from pathlib import Path

import numpy as np
import pytest
from helpers_data import SETS, in_project, make_params, picture, real_data, write_classes
from PIL import Image, ImageDraw

from neuralood.base import paths
from neuralood.base.errors import UserError
from neuralood.config import Params
from neuralood.data.images import read_image
from neuralood.data.index import index_set
from neuralood.data.manifest import write_manifest
from neuralood.data.transforms import TRANSFORMS, cartoon, line_drawing, make_set


def textured_disc() -> Image.Image:
    """A dark disc on a light ground, both under fine noise."""
    image = Image.new("L", (256, 256), 200)
    ImageDraw.Draw(image).ellipse((64, 64, 192, 192), fill=60)
    noise = np.random.default_rng(0).normal(0, 18, (256, 256, 1))
    return Image.fromarray(np.clip(np.asarray(image)[:, :, None] + noise, 0, 255).astype(np.uint8).repeat(3, 2))


def test_line_drawing_has_the_contour_and_no_texture() -> None:
    ink = np.asarray(line_drawing(textured_disc(), 1.0))[:, :, 0] < 128
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


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_are_deterministic_and_follow_the_level(name: str) -> None:
    image, transform = textured_disc(), TRANSFORMS[name]
    assert transform(image, 1.0).tobytes() == transform(image, 1.0).tobytes()
    assert transform(image, 0.3).tobytes() != transform(image, 1.0).tobytes()


@pytest.mark.parametrize("size", [(1, 1), (3, 2000), (400, 300), (64, 64)])
def test_transforms_take_any_size(size: tuple[int, int]) -> None:
    for transform in TRANSFORMS.values():
        drawn = transform(Image.new("RGB", size, "teal"), 1.0)
        assert drawn.mode == "RGB"
        assert max(drawn.size) <= 2048


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return in_project(tmp_path, monkeypatch)


def made_params(root: Path, path: str, workers: int = 0) -> Params:
    """The made set `drawn` from the val images in `path`, which also train."""
    nsd = {"scenes": "nsd", "style": "photo", "n": 10}
    part = {"format": "folders", "path": path}
    first, rest = ({**part, "part": {"take": take, "fraction": 0.5}} for take in ("first", "rest"))
    changes = {
        "sets": {**SETS, "drawn": {"role": "ood"}},
        "rendered": {"nsd": nsd},
        "files": {"train": first, "val": rest},
        "made": {"drawn": {"source": "val", "transform": "line_drawing", "level": 1.0}},
        "evaluation": {"ood_mean": ["drawn"]},
        "runtime": {"workers": workers, "progress": False},
    }
    return make_params(root, changes)


def test_make_set(root: Path) -> None:
    folder = write_classes(root / "pets", {"cat": 4, "dog": 4})
    for number in range(4):
        picture(number).save(folder / "cat" / f"{number:03d}.bmp")
    params = made_params(root, "pets")
    source = index_set("val", params)
    write_manifest(source)
    made = make_set("drawn", params)
    assert len(set(made.paths)) == len(source)
    assert made.sources == source.sources
    assert made.labels == source.labels
    for file, original in zip(made.image_files(), source.image_files(), strict=True):
        assert read_image(file).tobytes() == line_drawing(read_image(original), 1.0).tobytes()
    assert make_set("drawn", params) == made


def test_bad_images_are_all_named_and_nothing_is_left(root: Path) -> None:
    folder = write_classes(root / "pets", {"cat": 4, "dog": 4})
    params = made_params(root, "pets")
    source = index_set("val", params)
    write_manifest(source)
    bad = [source.paths[0], source.paths[-1]]
    for path in bad:
        (folder / path).write_bytes(b"junk")
    with pytest.raises(UserError, match="2 of 4 images of val are bad") as caught:
        make_set("drawn", params)
    assert all(path in str(caught.value) for path in bad)
    assert not paths.made("drawn").exists()
    assert not paths.partial(paths.made("drawn")).exists()


@pytest.mark.real
def test_real_photos_become_drawings() -> None:
    files = sorted(real_data("pacs").glob("photo/*/*"))[::140]
    assert files
    for file in files:
        ink = (np.asarray(line_drawing(read_image(file), 1.0))[:, :, 0] < 128).mean()
        assert 0.005 < ink < 0.4
