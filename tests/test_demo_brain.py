"""The simulated subject: what its vertices know, how reliable they are, and how they are written."""

from dataclasses import replace

import numpy as np
import pytest

from neuralood.data.rois import ROI_FAMILIES
from neuralood.demo.brain import (
    EARLY_ROIS,
    HIGH_ROIS,
    BrainSettings,
    noise_ceiling,
    reliability_of,
    simulate,
    simulate_restyled,
    write_algonauts,
)
from neuralood.demo.render import render
from neuralood.demo.scenes import draw_scenes

SETTINGS = BrainSettings(
    high_rois="shape",
    reliability=(0.3, 0.6),
    repeats=3,
    early_vertices=6,
    high_vertices=8,
    rest_vertices=5,
)
PER_HEMISPHERE = 7 * 6 + 4 * 8 + 5


@pytest.fixture(scope="module")
def scenes():
    return draw_scenes("nsd", 150, seed=5, confound=0.0)


@pytest.fixture(scope="module")
def images(scenes):
    return np.stack([render(scene, "photo") for scene in scenes])


@pytest.fixture(scope="module")
def simulated(scenes, images):
    return simulate(scenes, images, SETTINGS, seed=5)


def is_high(simulated):
    return np.isin(simulated.roi, HIGH_ROIS)


def test_a_seed_fixes_the_subject(scenes, images, simulated):
    again, other = (simulate(scenes, images, SETTINGS, seed) for seed in (5, 6))
    np.testing.assert_array_equal(again.fmri, simulated.fmri)
    assert not np.allclose(other.signal, simulated.signal)
    assert not np.allclose(other.reliability, simulated.reliability)


def test_vertices_run_by_hemisphere_then_roi_then_rest(simulated):
    names = [*np.repeat(list(EARLY_ROIS), 6), *np.repeat(HIGH_ROIS, 8), *[""] * 5]
    assert simulated.roi.tolist() == names * 2
    assert simulated.hemi.tolist() == [0] * PER_HEMISPHERE + [1] * PER_HEMISPHERE


def test_signal_is_standardised(simulated):
    np.testing.assert_allclose(simulated.signal.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(simulated.signal.std(axis=0), 1, atol=1e-3)


def test_reliability_stays_in_its_range(simulated):
    assert 0.3 <= simulated.reliability.min() < simulated.reliability.max() <= 0.6


@pytest.mark.parametrize("repeats", [1, 3])
def test_ceiling_is_the_correlation_with_the_noise_free_signal(repeats):
    scenes = draw_scenes("nsd", 4000, seed=5, confound=0.0)
    blank = np.zeros((4000, 16, 16, 3), dtype=np.uint8)  # the high-level vertices do not need the picture
    settings = replace(SETTINGS, high_rois="noise", repeats=repeats, early_vertices=0, rest_vertices=0)
    simulated = simulate(scenes, blank, settings, seed=5)
    found = (simulated.signal * (simulated.fmri - simulated.fmri.mean(axis=0))).mean(axis=0)
    np.testing.assert_allclose(found / simulated.fmri.std(axis=0), simulated.ceiling, atol=0.04)


def test_ceiling_of_perfect_and_of_no_reliability():
    np.testing.assert_allclose(noise_ceiling(np.array([0.0, 1.0], dtype=np.float32), 3), [0, 1])


def test_each_hemisphere_sees_the_other_half(scenes, images, simulated):
    left_changed = images.copy()
    left_changed[:, :, :24] = images[::-1, :, :24]
    changed = simulate(scenes, left_changed, SETTINGS, seed=5)
    correlation = (changed.signal * simulated.signal).mean(axis=0)
    v1 = np.isin(simulated.roi, ["V1v", "V1d"])
    assert correlation[v1 & (simulated.hemi == 0)].min() > 0.9
    assert np.median(correlation[v1 & (simulated.hemi == 1)]) < 0.5


def test_receptive_fields_lie_where_the_roi_looks(simulated):
    x, y = simulated.receptive_fields.T
    assert np.isnan(x[is_high(simulated)]).all()
    sees = np.isin(simulated.roi, list(EARLY_ROIS))
    assert (x[sees & (simulated.hemi == 0)] > 0.5).all()
    assert (x[sees & (simulated.hemi == 1)] < 0.5).all()
    assert (y[np.isin(simulated.roi, ["V1v", "V2v", "V3v"])] < 0.5).all()
    assert (y[np.isin(simulated.roi, ["V1d", "V2d", "V3d"])] > 0.5).all()


def test_shape_rois_ignore_texture(scenes, images, simulated):
    recoloured = [replace(scene, texture="red checks", seed=scene.seed + 1) for scene in scenes]
    changed = simulate(recoloured, images[::-1], SETTINGS, seed=5)
    high = is_high(simulated)
    np.testing.assert_array_equal(changed.signal[:, high], simulated.signal[:, high])
    assert not np.allclose(changed.signal[:, ~high], simulated.signal[:, ~high])


def test_texture_rois_ignore_shape_and_pose(scenes, images):
    settings = replace(SETTINGS, high_rois="texture")
    reshaped = [replace(scene, shape="bolt", pose=scenes[0].pose) for scene in scenes]
    one, other = simulate(scenes, images, settings, seed=5), simulate(reshaped, images, settings, seed=5)
    np.testing.assert_array_equal(other.signal, one.signal)


def test_texture_rois_tell_textures_apart(scenes, images):
    simulated = simulate(scenes, images, replace(SETTINGS, high_rois="texture"), seed=5)
    assert explained_by([scene.texture for scene in scenes], simulated) > 0.6


def test_shape_rois_tell_shapes_but_not_textures(scenes, simulated):
    assert explained_by([scene.shape for scene in scenes], simulated) > 0.5
    assert explained_by([scene.texture for scene in scenes], simulated) < 0.15


def explained_by(names, simulated):
    """Share of the high-level signal's variance that lies between groups of scenes of one name."""
    signal = simulated.signal[:, is_high(simulated)]
    groups = np.array(names)
    means = np.stack([signal[groups == name].mean(axis=0) for name in names])
    return float(means.var(axis=0).mean())


def test_noise_rois_have_the_same_ceiling_and_know_nothing(scenes, images, simulated):
    settings = replace(SETTINGS, high_rois="noise")
    one, other = (simulate(shown, images, settings, seed=5) for shown in (scenes, scenes[::-1]))
    high = is_high(one)
    np.testing.assert_array_equal(one.ceiling, simulated.ceiling)
    np.testing.assert_array_equal(one.signal[:, high], other.signal[:, high])
    np.testing.assert_array_equal(one.signal[:, one.roi == "V1v"], simulated.signal[:, one.roi == "V1v"])


def test_units_are_the_mean_and_sd_of_the_photos(simulated):
    assert simulated.scale.shape == (2, len(simulated.roi))
    assert (simulated.scale[1] > 0).all()
    measured = simulated.signal * simulated.scale[1] + simulated.scale[0]
    early = np.isin(simulated.roi, list(EARLY_ROIS))
    assert measured[:, early].min() > 0  # contrast is an amplitude
    np.testing.assert_allclose(measured.mean(axis=0), simulated.scale[0], rtol=1e-4)


def restyled(simulated, images, signal=None, settings=SETTINGS):
    signal = simulated.signal if signal is None else signal
    return simulate_restyled(images, signal, simulated.scale, simulated.reliability, settings, seed=5)


def test_photos_again_evoke_the_same_signal_under_other_noise(images, simulated):
    fmri, signal = restyled(simulated, images)
    np.testing.assert_allclose(signal, simulated.signal, atol=1e-5)
    share = np.sqrt(simulated.reliability)
    noise, other = fmri - share * signal, simulated.fmri - share * simulated.signal
    assert abs(np.corrcoef(noise.ravel(), other.ravel())[0, 1]) < 0.02
    assert noise.std() == pytest.approx(other.std(), rel=0.02)


def test_any_part_of_the_scenes_is_seen_as_all_of_them(images, simulated):
    rows = [3, 70, 141]
    _, signal = restyled(simulated, images[rows], simulated.signal[rows])
    np.testing.assert_allclose(signal, simulated.signal[rows], atol=1e-5)


def test_contrast_is_measured_in_the_units_of_the_photos(scenes, images, simulated):
    faint = np.stack([render(scene, "contrast") for scene in scenes])
    _, signal = restyled(simulated, faint)
    early = ~is_high(simulated) & ~np.isnan(simulated.receptive_fields[:, 0])
    mean, sd = simulated.scale[:, early]
    amplitude = signal[:, early] * sd + mean
    assert np.median(amplitude.mean(axis=0) / mean) == pytest.approx(0.2, abs=0.05)  # a fifth of the contrast
    assert signal[:, early].mean() < -1
    assert signal[:, early].std(axis=0).max() < 0.5


@pytest.mark.parametrize("high_rois", ["shape", "texture", "noise"])
def test_high_level_vertices_answer_to_the_scene_whatever_its_style(scenes, images, high_rois):
    settings = replace(SETTINGS, high_rois=high_rois)
    simulated = simulate(scenes, images, settings, seed=5)
    edges = np.stack([render(scene, "edges") for scene in scenes])
    _, signal = restyled(simulated, edges, settings=settings)
    high = np.isnan(simulated.receptive_fields[:, 0])
    np.testing.assert_array_equal(signal[:, high], simulated.signal[:, high])
    assert not np.allclose(signal[:, ~high], simulated.signal[:, ~high])


@pytest.mark.parametrize("sd", [0.4, 1.0, 2.0])
def test_reliability_follows_the_spread_of_the_signal(rng, sd):
    reliability = np.array([0.3, 0.6], np.float32)
    signal = (sd * rng.standard_normal((40_000, 2))).astype(np.float32)
    trials = np.sqrt(reliability) * signal + np.sqrt(1 - reliability) * rng.standard_normal((3, 40_000, 2))
    ceiling = noise_ceiling(reliability_of(signal, reliability), 3)
    reached = [np.corrcoef(one, other)[0, 1] for one, other in zip(signal.T, trials.mean(axis=0).T, strict=True)]
    np.testing.assert_allclose(ceiling, reached, atol=0.01)


def test_written_arrays_fit_together(simulated, tmp_path):
    write_algonauts(tmp_path, simulated)
    for hemisphere, name in enumerate(("lh", "rh")):
        fmri = np.load(tmp_path / f"training_split/training_fmri/{name}_training_fmri.npy")
        ceiling = np.load(tmp_path / f"test_split/noise_ceiling/{name}_noise_ceiling.npy")
        own = simulated.hemi == hemisphere
        np.testing.assert_array_equal(fmri, simulated.fmri[:, own])
        np.testing.assert_allclose(ceiling, simulated.ceiling[own] ** 2)
        assert fmri.dtype == ceiling.dtype == np.float32
    assert np.load(tmp_path / "simulation/receptive_fields.npy").shape == (2 * PER_HEMISPHERE, 2)
    assert "simulated" in (tmp_path / "SIMULATED.txt").read_text()


def test_written_masks_follow_the_label_tables(simulated, tmp_path):
    write_algonauts(tmp_path, simulated)
    labels = {family: np.load(tmp_path / f"roi_masks/lh.{family}_challenge_space.npy") for family in ROI_FAMILIES}
    assert {mask.dtype for mask in labels.values()} == {np.dtype(np.int64)}
    assert {mask.shape for mask in labels.values()} == {(PER_HEMISPHERE,)}
    assert labels["prf-visualrois"].tolist() == [*np.repeat(range(1, 8), 6), *[0] * 37]
    for place, (family, label) in enumerate(
        [("floc-bodies", 1), ("floc-faces", 2), ("floc-places", 2), ("floc-words", 2)]
    ):
        assert np.flatnonzero(labels[family]).tolist() == list(range(42 + 8 * place, 50 + 8 * place))
        assert set(labels[family]) == {0, label}
    assert labels["streams"].tolist() == [1] * 42 + [5] * 32 + [0] * 5


def test_mappings_hold_the_algonauts_names(simulated, tmp_path):
    write_algonauts(tmp_path, simulated)
    streams = np.load(tmp_path / "roi_masks/mapping_streams.npy", allow_pickle=True).item()
    assert streams[0] == "Unknown"
    assert streams[5] == "ventral"


def test_nothing_half_written_is_left_behind(simulated, tmp_path):
    write_algonauts(tmp_path, simulated)
    assert not list(tmp_path.rglob("*.partial"))
