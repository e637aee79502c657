"""Made sets: whole or not at all, gone on with after a stop, and the same bytes however they are drawn."""

import io
import sys
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_data import SETS, in_project, make_params, picture, real_data, write_classes
from PIL import Image

from neuralood.base import paths
from neuralood.base.errors import UserError
from neuralood.config import Params
from neuralood.data.containers import stem_of
from neuralood.data.images import read_image
from neuralood.data.index import index_set
from neuralood.data.made import sets as made_sets
from neuralood.data.made.sets import make_set
from neuralood.data.made.transforms import TRANSFORMS, Transform
from neuralood.data.manifest import Manifest, write_manifest

SIZE = (60, 48)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return in_project(tmp_path, monkeypatch)


def made_params(root: Path, transform: str = "line_drawing", level: float = 1.0, **more: Any) -> Params:
    """The made set `drawn` from the val images in `pets`, which also train."""
    nsd = {"scenes": "nsd", "style": "photo", "n": 10}
    part = {"format": "folders", "path": "pets"}
    first, rest = ({**part, "part": {"take": take, "fraction": 0.5}} for take in ("first", "rest"))
    made = {"source": "val", "transform": transform, "level": level, "seed": more.pop("seed", 0)}
    changes = {
        "sets": {**SETS, "drawn": {"role": "ood"}},
        "rendered": {"nsd": nsd},
        "files": {"train": first, "val": rest},
        "made": {"drawn": made},
        "evaluation": {"ood_mean": ["drawn"]},
        "runtime": {"workers": more.pop("workers", 0), "progress": False},
    }
    assert not more
    return make_params(root, changes)


def pets(root: Path, each: int = 6) -> Manifest:
    """The manifest of val: half of `each` pictures of two classes."""
    folder = write_classes(root / "pets", {"cat": each, "dog": each})
    for number, file in enumerate(sorted(folder.glob("*/*.png"))):
        picture(number, SIZE).save(file)
    source = index_set("val", made_params(root))
    write_manifest(source)
    return source


def contents(name: str = "drawn") -> dict[str, bytes]:
    """Every file of a made set."""
    folder = paths.made(name)
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture
def count_drawn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A transform `cartoon` that only counts, and stops the run when told to by its second number."""
    counts = [0, -1]

    def draw(image: Image.Image, level: float) -> Image.Image:
        if counts[0] == counts[1]:
            raise KeyboardInterrupt
        counts[0] += 1
        return image.rotate(90)

    monkeypatch.setitem(made_sets.TRANSFORMS, "cartoon", Transform(draw, TRANSFORMS["cartoon"].kept_as))
    return counts


def test_a_made_set_has_the_labels_and_sources_of_what_it_is_made_of(root: Path) -> None:
    source = pets(root)
    made = make_set("drawn", made_params(root))
    assert (made.labels, made.sources, made.classes) == (source.labels, source.sources, source.classes)
    assert (made.format, made.cropped, made.margin_px) == ("made", False, 0)
    for file, original in zip(made.image_files(), source.image_files(), strict=True):
        expected = TRANSFORMS["line_drawing"].draw(read_image(original), 1.0).convert("RGB")
        assert read_image(file).tobytes() == expected.tobytes()
    assert sorted(contents()) == sorted(made.paths)
    assert make_set("drawn", made_params(root)) == made
    assert not paths.partial(paths.made("drawn")).exists()


def test_equal_stems_get_numbers(root: Path) -> None:
    source = pets(root)
    first, *_ = source.image_files()
    Image.open(first).save(first.with_suffix(".bmp"))
    bmp = str(Path(source.paths[0]).with_suffix(".bmp"))
    twice = replace(
        source,
        paths=(source.paths[0], bmp, *source.paths[1:]),
        labels=(source.labels[0], *source.labels),
        sources=(source.sources[0], "val/twin", *source.sources[1:]),
    )
    write_manifest(twice)
    made = make_set("drawn", made_params(root))
    assert made.paths[1] == made.paths[0].replace(".png", "-2.png")
    assert len(set(made.paths)) == len(made)


@pytest.mark.parametrize("name", ["phase_noise", "patch_shuffle", "gaussian_noise", "frost"])
def test_bytes_depend_on_the_seed_and_not_on_the_workers_or_the_other_images(root: Path, name: str) -> None:
    source, level = pets(root), {"phase_noise": 0.5}.get(name, 3)
    make_set("drawn", made_params(root, name, level, seed=1))
    whole = contents()
    fewer = replace(source, paths=source.paths[1:], labels=source.labels[1:], sources=source.sources[1:])
    write_manifest(fewer)
    make_set("drawn", made_params(root, name, level, seed=1))
    assert contents().items() < whole.items()
    make_set("drawn", made_params(root, name, level, seed=2))
    assert all(content != whole[path] for path, content in contents().items())


def test_workers_draw_the_same_bytes(root: Path) -> None:
    pets(root)
    make_set("drawn", made_params(root, "impulse_noise", 3))
    alone = contents()
    make_set("drawn", made_params(root, "impulse_noise", 3, workers=2))
    assert contents() == alone


def test_no_two_images_get_the_same_noise(root: Path) -> None:
    source = pets(root)
    for file in source.image_files():
        Image.new("RGB", SIZE, "grey").save(file)
    made = make_set("drawn", made_params(root, "gaussian_noise", 3))
    assert len(set(contents().values())) == len(made)


@pytest.mark.parametrize(("name", "level"), [("pixelate", 3), ("patch_shuffle", 4)])
def test_what_is_drawn_from_the_square_is_seen_whole(root: Path, name: str, level: float) -> None:
    pets(root)
    made = make_set("drawn", made_params(root, name, level))
    assert made.cropped
    assert {read_image(file).size for file in made.image_files()} == {(224, 224)}


def test_corruptions_are_kept_as_imagenet_c_keeps_them(root: Path) -> None:
    pets(root)
    made = make_set("drawn", made_params(root, "contrast", 2))
    with Image.open(made.image_files()[0]) as image:
        reference = io.BytesIO()
        Image.new("RGB", (8, 8)).save(reference, "JPEG", quality=85)
        assert image.format == "JPEG"
        assert image.quantization == Image.open(reference).quantization  # type: ignore[attr-defined]


def test_a_margin_is_cut_off_first(root: Path) -> None:
    source = pets(root)
    for file in source.image_files():
        framed = Image.new("RGB", (SIZE[0] + 4, SIZE[1] + 4), "red")
        framed.paste(Image.new("RGB", SIZE, "white"), (2, 2))
        framed.save(file)
    write_manifest(replace(source, margin_px=2))
    made = make_set("drawn", made_params(root, "low_contrast", 0.5))
    assert made.margin_px == 0
    for file in made.image_files():
        pixels = np.asarray(read_image(file))
        assert (pixels[:, :, 0] == pixels[:, :, 2]).all()


def test_members_and_answers_are_handed_on_and_such_classes_need_no_training_class(root: Path) -> None:
    source = pets(root)
    answers = tuple((label, 1 - label) for label in source.labels)
    many = replace(source, classes=("tabby", "hound"), members=(("cat",), ("dog",)), answers=answers)
    write_manifest(many)
    made = make_set("drawn", made_params(root))
    assert (made.members, made.answers) == (many.members, answers)
    write_manifest(replace(many, members=None))
    with pytest.raises(UserError, match="tabby"):
        make_set("drawn", made_params(root))


def test_images_inside_a_tar_are_drawn_and_named_after_their_members(root: Path) -> None:
    source = pets(root)
    with tarfile.open(root / "pets" / "all.tar", "w") as tar:
        for path in source.paths:
            tar.add(root / "pets" / path, arcname=f"deep/{Path(path).stem}.png")
    with tarfile.open(root / "pets" / "all.tar") as tar:
        inside = tuple(f"all.tar::{one.offset_data}+{one.size}/{one.name}" for one in tar.getmembers())
    write_manifest(replace(source, paths=inside))
    made = make_set("drawn", made_params(root))
    assert [Path(path).name for path in made.paths] == [Path(path).stem + ".png" for path in source.paths]
    originals = zip(made.image_files(), source.image_files(), strict=True)
    for file, original in originals:
        expected = TRANSFORMS["line_drawing"].draw(read_image(original), 1.0).convert("RGB")
        assert read_image(file).tobytes() == expected.tobytes()


def test_drawings_of_rows_are_named_after_file_and_row() -> None:
    assert [stem_of(f"val-00000.parquet::{row}") for row in (0, 17)] == ["val-00000-0", "val-00000-17"]


def test_a_stopped_run_is_gone_on_with(root: Path, count_drawn: list[int]) -> None:
    source, params = pets(root), made_params(root, "cartoon")
    make_set("drawn", params)
    whole = contents()
    count_drawn[:] = [0, 4]
    with pytest.raises(KeyboardInterrupt):
        make_set("drawn", params)
    assert contents() == whole, "the finished set stays until the new one is whole"
    count_drawn[:] = [0, -1]
    make_set("drawn", params)
    assert count_drawn[0] == len(source) - 4
    assert contents() == whole


@pytest.mark.parametrize("other", [{"level": 2.0}, {"seed": 5}])
def test_another_recipe_draws_all_anew(root: Path, count_drawn: list[int], other: dict[str, Any]) -> None:
    source = pets(root)
    count_drawn[1] = 4
    with pytest.raises(KeyboardInterrupt):
        make_set("drawn", made_params(root, "cartoon"))
    count_drawn[:] = [0, -1]
    make_set("drawn", made_params(root, "cartoon", **other))
    assert count_drawn[0] == len(source)


def test_other_drawing_code_draws_all_anew(root: Path, count_drawn: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    source = pets(root)
    count_drawn[1] = 4
    with pytest.raises(KeyboardInterrupt):
        make_set("drawn", made_params(root, "cartoon"))
    count_drawn[:] = [0, -1]
    monkeypatch.setattr(made_sets, "fingerprint_files", lambda *_: "edited")
    make_set("drawn", made_params(root, "cartoon"))
    assert count_drawn[0] == len(source)


def test_what_is_no_longer_what_was_drawn_from_or_half_written_is_drawn_again(
    root: Path, count_drawn: list[int]
) -> None:
    source, params = pets(root), made_params(root, "cartoon")
    count_drawn[1] = 5
    with pytest.raises(KeyboardInterrupt):
        make_set("drawn", params)
    growing = paths.partial(paths.made("drawn"))
    first, *_ = source.image_files()
    picture(77, SIZE).save(first)  # its source changed
    drawing = growing / "images" / Path(source.paths[1]).with_suffix(".png")
    drawing.write_bytes(drawing.read_bytes()[:50])  # a crash kept half of it
    log = growing / "drawn"
    log.write_bytes(log.read_bytes()[:-9])  # and of the last line of the log
    stray = growing / "images" / "cat" / "stray.png"
    stray.write_bytes(b"of an image that is not in the set")
    count_drawn[:] = [0, -1]
    made = make_set("drawn", params)
    assert count_drawn[0] == len(source) - 5 + 3
    assert sorted(contents()) == sorted(made.paths)
    for file, original in zip(made.image_files(), source.image_files(), strict=True):
        assert read_image(file).tobytes() == read_image(original).rotate(90).tobytes()


def test_bad_images_are_all_named_and_the_others_kept(root: Path, count_drawn: list[int]) -> None:
    source, params = pets(root), made_params(root, "cartoon")
    bad = [source.paths[0], source.paths[-1]]
    for path in bad:
        (root / "pets" / path).write_bytes(b"junk")
    with pytest.raises(UserError, match="2 of 6 images of val are bad") as caught:
        make_set("drawn", params)
    assert all(path in str(caught.value) for path in bad)
    assert not paths.made("drawn").exists()
    assert count_drawn[0] == 4
    picture(3, SIZE).save(root / "pets" / bad[0])
    mended = replace(source, paths=source.paths[:-1], labels=source.labels[:-1], sources=source.sources[:-1])
    write_manifest(mended)  # as after `exclude` of the other
    made = make_set("drawn", params)
    assert count_drawn[0] == 5
    assert sorted(contents()) == sorted(made.paths)


def test_a_set_without_classes_is_refused(root: Path) -> None:
    write_manifest(replace(pets(root), classes=()))
    with pytest.raises(UserError, match=r"made\.drawn\.source: val has no classes"):
        make_set("drawn", made_params(root))


def test_a_missing_library_stops_before_any_work(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pets(root)
    monkeypatch.setitem(sys.modules, "imagecorruptions", None)
    with pytest.raises(UserError, match="imagecorruptions-imaug"):
        make_set("drawn", made_params(root, "fog", 3))
    assert not paths.partial(paths.made("drawn")).exists()


def test_a_level_out_of_range_stops_before_any_work(root: Path) -> None:
    pets(root)
    with pytest.raises(UserError, match=r"made\.drawn\.level: fog wants a whole number from 1 to 5"):
        made_params(root, "fog", 6)


@pytest.mark.real
@pytest.mark.parametrize("name", ["line_drawing", "cartoon"])
def test_sets_made_of_imagenet_photos_differ_from_them_and_are_not_blank(root: Path, name: str) -> None:
    files = sorted(real_data("imagenet_sample").glob("*.JPEG"))[::10]
    for number, file in enumerate(files):
        label = ("cat", "dog")[number % 2]
        target = root / "pets" / label / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
    source = index_set("val", made_params(root))
    write_manifest(source)
    made = make_set("drawn", made_params(root, name))
    once = contents()
    for drawn, original in zip(made.image_files(), source.image_files(), strict=True):
        pixels = np.asarray(read_image(drawn), float)
        before = np.asarray(read_image(original).resize((pixels.shape[1], pixels.shape[0])), float)
        assert pixels.std() > 10
        assert np.abs(pixels - before).mean() > 2
    make_set("drawn", made_params(root, name))
    assert contents() == once


def top1(images: Sequence[Image.Image], labels: np.ndarray, *, cropped: bool = False) -> float:
    """Percent of images that an ImageNet classifier, which leans on texture, gets right with its own head."""
    import torch
    from safetensors.torch import load_file
    from timm import create_model

    from neuralood.backbone import Preprocessing

    network = create_model("tf_efficientnet_lite0", pretrained=False).eval()
    network.load_state_dict(load_file(real_data("weights") / "tf_efficientnet_lite0.in1k.safetensors"))
    prepare = Preprocessing(224, 0.875, "bicubic", (0.5,) * 3, (0.5,) * 3).transform(cropped=cropped)
    with torch.inference_mode():
        guesses = [network(prepare(image)[None]).argmax().item() for image in images]
    return 100 * float(np.mean(np.array(guesses) == labels))


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_network_that_leans_on_texture_falls_on_drawings_but_not_to_chance() -> None:
    files = sorted(real_data("imagenet_sample").glob("*.JPEG"))
    wnids = (resources.files("timm.data") / "_info" / "imagenet_synsets.txt").read_text().split()
    labels = np.array([wnids.index(file.name.split("_")[0]) for file in files])
    photos = [read_image(file) for file in files]
    drawn = {
        name: [TRANSFORMS[name].draw(photo, 1.0).convert("RGB") for photo in photos]
        for name in ("line_drawing", "cartoon")
    }
    scores = {name: top1(images, labels) for name, images in {"photos": photos, **drawn}.items()}
    assert scores["photos"] > 80
    assert scores["photos"] - 20 > scores["cartoon"] > scores["line_drawing"] > 10 * 0.1, scores
