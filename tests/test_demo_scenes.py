"""The demo world's scenes: what is drawn, and that nothing but the seed draws it."""

import pytest

from neuralood.demo.scenes import draw_scenes
from neuralood.demo.shapes import CLASS_SHAPES, EXTRA_SHAPES
from neuralood.demo.textures import OWN_TEXTURE, TEXTURES


@pytest.mark.parametrize("kind", ["labelled", "nsd"])
def test_a_seed_fixes_the_scenes(kind):
    assert draw_scenes(kind, 30, seed=1, confound=0.5) == draw_scenes(kind, 30, seed=1, confound=0.5)
    assert draw_scenes(kind, 30, seed=1, confound=0.5) != draw_scenes(kind, 30, seed=2, confound=0.5)


@pytest.mark.parametrize("kind", ["labelled", "nsd"])
def test_more_scenes_begin_with_the_same_ones(kind):
    assert draw_scenes(kind, 55, seed=1, confound=0.5)[:23] == draw_scenes(kind, 23, seed=1, confound=0.5)


def test_classes_are_balanced_and_their_order_is_shuffled():
    shapes = [scene.shape for scene in draw_scenes("labelled", 200, seed=1, confound=1.0)]
    assert {shape: shapes.count(shape) for shape in CLASS_SHAPES} == dict.fromkeys(CLASS_SHAPES, 20)
    assert shapes[:10] != shapes[10:20]


def test_full_confound_ties_texture_to_class():
    scenes = draw_scenes("labelled", 500, seed=1, confound=1.0)
    assert all(scene.texture == OWN_TEXTURE[scene.shape] for scene in scenes)


def test_half_confound_ties_about_half():
    scenes = draw_scenes("labelled", 2000, seed=1, confound=0.5)
    tied = sum(scene.texture == OWN_TEXTURE[scene.shape] for scene in scenes) / len(scenes)
    assert tied == pytest.approx(0.5, abs=0.04)


def test_confound_leaves_shape_and_pose_as_they_are():
    tied, loose = (draw_scenes("labelled", 50, seed=1, confound=confound) for confound in (1.0, 0.0))
    assert [(scene.shape, scene.pose) for scene in tied] == [(scene.shape, scene.pose) for scene in loose]


def test_nsd_scenes_show_every_shape_in_every_texture():
    scenes = draw_scenes("nsd", 3000, seed=1, confound=1.0)
    pairs = {(scene.shape, scene.texture) for scene in scenes}
    assert len(pairs) == len(CLASS_SHAPES + EXTRA_SHAPES) * len(TEXTURES)


def test_extra_shapes_are_no_classes():
    assert len(set(CLASS_SHAPES) | set(EXTRA_SHAPES)) == 24
