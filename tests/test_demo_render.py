"""The demo world's pictures: shapes and textures that can be told apart, styles that do what they say."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from neuralood.base.errors import UserError
from neuralood.demo.render import (
    MOST_NSD_SCENES,
    RESTYLES,
    STYLES,
    render,
    render_labelled,
    render_nsd,
    render_restyled,
)
from neuralood.demo.scenes import draw_scenes, other_texture
from neuralood.demo.shapes import CLASS_SHAPES, EXTRA_SHAPES, Pose, shape_mask
from neuralood.demo.textures import OWN_TEXTURE, TEXTURES, texture_patch


@pytest.fixture(scope="module")
def scenes():
    return draw_scenes("labelled", 20, seed=3, confound=1.0)


@pytest.mark.parametrize("style", STYLES)
def test_every_style_draws_the_same_picture_twice(scenes, style):
    image = render(scenes[0], style)
    assert image.shape == (64, 64, 3)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, render(scenes[0], style))


def test_another_seed_draws_another_photo(scenes):
    other = replace(scenes[0], seed=scenes[0].seed + 1)
    assert not np.array_equal(render(scenes[0], "photo"), render(other, "photo"))


def test_shapes_are_distinct():
    pose = Pose(x=0.5, y=0.5, scale=0.4, angle=0.0)
    masks = {shape: shape_mask(shape, pose, 32) for shape in CLASS_SHAPES + EXTRA_SHAPES}
    for one, other in combinations(masks, 2):
        overlap = np.minimum(masks[one], masks[other]).sum() / np.maximum(masks[one], masks[other]).sum()
        assert overlap < 0.9, (one, other)


def test_mask_follows_the_pose():
    mask = shape_mask("square", Pose(x=0.25, y=0.75, scale=0.2, angle=0.0), 64)
    row, column = np.indices(mask.shape)
    assert (np.average(column, weights=mask) + 0.5) / 64 == pytest.approx(0.25, abs=0.01)
    assert (np.average(row, weights=mask) + 0.5) / 64 == pytest.approx(0.75, abs=0.01)
    assert mask.sum() == pytest.approx(2 * (0.2 * 64) ** 2, rel=0.05)


def test_positive_angles_turn_clockwise():
    mask = shape_mask("arrow", Pose(x=0.5, y=0.5, scale=0.4, angle=30.0), 64)
    tip_row, tip_column = np.argwhere(mask > 0.5)[np.argwhere(mask > 0.5)[:, 1].argmax()]
    assert tip_column > 50
    assert tip_row > 40


@pytest.mark.parametrize("texture", TEXTURES)
def test_no_two_patches_of_a_texture_are_identical(texture):
    one, other = (texture_patch(texture, seed, 64) for seed in (1, 2))
    assert np.abs(one - other).mean() > 0.01
    assert 0 <= one.min() < one.max() <= 1


def test_conflict_never_wears_the_class_texture():
    rng = np.random.default_rng(0)
    for shape in CLASS_SHAPES:
        assert {other_texture(shape, rng) for _ in range(200)} == set(TEXTURES) - {OWN_TEXTURE[shape]}


def test_conflict_changes_the_object_only(scenes):
    for scene in scenes:
        changed = np.any(render(scene, "conflict") != render(scene, "photo"), axis=2)
        mask = shape_mask(scene.shape, scene.pose, 64)
        assert not changed[mask == 0].any()
        assert changed[mask == 1].mean() > 0.5


def test_silhouette_has_two_values(scenes):
    assert set(np.unique(render(scenes[0], "silhouette"))) == {0, 255}


def test_edges_are_thin_lines(scenes):
    edges, silhouette = (render(scenes[0], style) < 128 for style in ("edges", "silhouette"))
    assert 0 < edges.sum() < silhouette.sum()


def test_contrast_is_grey_and_flat(scenes):
    image = render(scenes[0], "contrast").astype(int)
    assert np.ptp(image, axis=2).max() == 0
    assert np.ptp(image) <= 51


def test_labelled_images_lie_in_the_folder_of_their_shape(scenes, tmp_path):
    render_labelled(scenes, "conflict", tmp_path)
    written = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png")}
    assert written == {f"{scene.shape}/{index:05d}.png" for index, scene in enumerate(scenes)}
    image = np.asarray(Image.open(tmp_path / scenes[7].shape / "00007.png"))
    np.testing.assert_array_equal(image, render(scenes[7], "conflict"))


def test_sorted_nsd_names_are_the_rows(tmp_path):
    scenes = draw_scenes("nsd", 12, seed=3, confound=0.0)
    seen = []
    render_nsd(scenes, tmp_path, track=lambda steps: (seen.append(step) or step for step in steps))
    paths = sorted((tmp_path / "training_split" / "training_images").iterdir())
    assert seen == scenes
    assert [path.name for path in paths[::11]] == ["train-0001_nsd-00000.png", "train-0012_nsd-00011.png"]
    for scene, path in zip(scenes, paths, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(path)), render(scene, "photo"))


def test_each_scene_is_drawn_in_every_style_but_photo_and_keeps_its_number(tmp_path):
    scenes = draw_scenes("nsd", 30, seed=3, confound=0.0)
    chosen = {row: scenes[row] for row in (4, 28)}
    assert any(scene.shape in EXTRA_SHAPES for scene in chosen.values())
    render_restyled(chosen, tmp_path)
    written = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png")}
    assert written == {f"{style}/{row:05d}.png" for style in set(STYLES) - {"photo"} for row in chosen}
    assert sorted(RESTYLES) == sorted({path.split("/")[0] for path in written})
    for path in written:
        style, name = path.split("/")
        image = np.asarray(Image.open(tmp_path / path))
        np.testing.assert_array_equal(image, render(scenes[int(name[:5])], style))


def test_shapes_that_are_no_class_contradict_no_texture():
    rng = np.random.default_rng(0)
    assert {other_texture("hexagon", rng) for _ in range(300)} == set(TEXTURES)


def test_more_nsd_scenes_than_a_name_can_count_are_refused(scenes, tmp_path):
    with pytest.raises(UserError, match="9999"):
        render_nsd(scenes[:1] * (MOST_NSD_SCENES + 1), tmp_path)
