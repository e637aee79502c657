"""Brain geometry: measures and bootstrap against scipy and rsatoolbox, and the stage on a small world."""

import json
import sys

import numpy as np
import pytest
import torch
from conftest import randomise
from helpers_data import picture
from helpers_fusion import CLASSES, WIDTH, make_world, write_tokens
from hypothesis import given
from hypothesis import strategies as st
from rsatoolbox.rdm import RDMs, compare
from scipy.spatial.distance import pdist, squareform
from scipy.stats import kendalltau, spearmanr
from test_fusion_model import VARIANTS, make_model

from neuralood.base import paths
from neuralood.base.errors import UserError
from neuralood.base.store import open_store
from neuralood.data.index import index_set
from neuralood.data.manifest import write_manifest
from neuralood.fusion.train import train_fusion
from neuralood.fusion.trained import Inputs
from neuralood.geometry import compare as stage
from neuralood.geometry.compare import compare_geometry, compare_models
from neuralood.geometry.dissimilarity import dissimilarities, read_people
from neuralood.geometry.likeness import likeness, noise_ceiling, rsatoolbox_compare
from neuralood.geometry.representations import fused_features
from neuralood.geometry.resampling import Resamples, draw_resamples, resampled_spearman
from neuralood.summary import _geometry
from neuralood.synthesis import synthesize
from stages.cache_tokens import main as cache_tokens
from stages.evaluate import main as evaluate_stage
from stages.synthesize import main as synthesize_stage

IMAGES, PAIRS = 12, 66
KEY = "geometry.val"
ENTRY = {"dissimilarities": "rdms.npz", "array": "it"}


@pytest.fixture
def people(rng):
    """Three people's dissimilarities of 12 images, some of them alike."""
    common = rng.standard_normal((IMAGES, 5))
    return np.stack([dissimilarities(common + rng.standard_normal((IMAGES, 5))).round(2) for _ in range(3)])


def once(people):
    """The one resample that is the data."""
    return Resamples(np.ones((1, IMAGES), int), np.ones((1, len(people)), int))


# Dissimilarities


def test_dissimilarities_are_scipys(rng):
    features = rng.standard_normal((7, 30)).astype(np.float32)
    np.testing.assert_allclose(dissimilarities(features), pdist(features.astype(float), "correlation"), atol=1e-12)


@given(seed=st.integers(0, 2**31), scale=st.floats(0.01, 100), shift=st.floats(-100, 100))
def test_gain_and_offset_of_an_image_do_not_matter(seed, scale, shift):
    features = np.random.default_rng(seed).standard_normal((4, 9))
    changed = features.copy()
    changed[1] = scale * changed[1] + shift
    np.testing.assert_allclose(dissimilarities(changed), dissimilarities(features), atol=1e-9)


def test_an_image_without_any_contrast_is_like_none(rng):
    features = rng.standard_normal((3, 6))
    features[1] = 0.1  # six of which have a mean that is rounded
    between = squareform(dissimilarities(features))
    assert between[1, 0] == between[1, 2] == 1


# People


def save(tmp_path, **arrays):
    file = tmp_path / "rdms.npz"
    np.savez(file, **arrays)
    return file


def test_sessions_are_averaged(tmp_path, rng):
    pairs = rng.random((2, 3, PAIRS))
    matrices = np.array([[squareform(session) for session in person] for person in pairs])
    read = read_people(save(tmp_path, it=matrices), "it", IMAGES, KEY)
    np.testing.assert_allclose(read, pairs.mean(axis=1))
    read = read_people(save(tmp_path, it=matrices[:, 0]), "it", IMAGES, KEY)
    np.testing.assert_array_equal(read, pairs[:, 0])


FLAT, SLANTED, HOLED = np.zeros((IMAGES, IMAGES)), np.zeros((2, IMAGES, IMAGES)), np.zeros((2, IMAGES, IMAGES))
SLANTED[0, 1, 2], HOLED[1, 3, 3] = 0.1, np.nan


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"v1": SLANTED}, r"rdms\.npz has no array it, only v1: mend geometry\.val\.array"),
        ({"it": FLAT}, r"it is 12 x 12, expected people x 12 x 12, or people x sessions x 12 x 12"),
        ({"it": np.zeros((2, 13, 13))}, r"it is 2 x 13 x 13, expected .* as the set has 12 images"),
        ({"it": SLANTED}, r"it is not symmetric"),
        ({"it": HOLED}, r"it holds numbers that are not finite"),
        ({"it": np.array(["a"])}, r"no \.npz of numbers .*: mend geometry\.val\.dissimilarities"),
        ({"it": np.array([{}], object)}, r"no \.npz of numbers .*allow_pickle"),
    ],
)
def test_other_arrays_are_refused(tmp_path, arrays, message):
    with pytest.raises(UserError, match=message):
        read_people(save(tmp_path, **arrays), "it", IMAGES, KEY)


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 cut"])
def test_a_missing_or_damaged_file_is_named(tmp_path, content):
    file = tmp_path / "rdms.npz"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=r"rdms\.npz is missing or no \.npz .*: mend geometry\.val\.dissimilarities"):
        read_people(file, "it", IMAGES, KEY)


# Likeness


def test_rank_measures_are_scipys(rng, people):
    models = np.stack([dissimilarities(rng.standard_normal((IMAGES, 4))) for _ in range(2)])
    found = likeness(models, people.round(6))
    for model in range(2):
        for person in range(3):
            assert found["spearman"][model, person] == pytest.approx(spearmanr(models[model], people[person])[0])
    untied = people + 1e-6 * rng.random(people.shape)  # tau-a is tau-b where nothing is tied
    assert likeness(models, untied)["tau_a"][1, 2] == pytest.approx(kendalltau(models[1], untied[2])[0])


def test_whitened_correlation_weights_pairs_by_their_covariance(rng, people):
    """The definition: pairs that share an image vary together, as the squared products of contrasts."""
    contrasts = np.zeros((PAIRS, IMAGES))
    for pair, (first, second) in enumerate(zip(*np.triu_indices(IMAGES, 1), strict=True)):
        contrasts[pair, [first, second]] = 1, -1
    weights = np.linalg.inv((contrasts @ contrasts.T) ** 2)
    a, b = (one - one.mean() for one in (dissimilarities(rng.standard_normal((IMAGES, 4))), people[0]))
    expected = a @ weights @ b / np.sqrt((a @ weights @ a) * (b @ weights @ b))
    assert likeness(a[None], people)["whitened"][0, 0] == pytest.approx(expected)


def test_a_model_to_which_all_images_are_equally_unlike_is_like_nobody(people):
    assert all((one == 0).all() for one in likeness(np.ones((1, PAIRS)), people).values())


def test_the_ceiling_is_of_each_person_with_the_mean_of_others_and_of_all(people):
    lower = [spearmanr(people[one], np.delete(people, one, axis=0).mean(axis=0))[0] for one in range(3)]
    upper = [spearmanr(person, people.mean(axis=0))[0] for person in people]
    ceiling = noise_ceiling(people)
    assert ceiling["spearman"]["lower"] == pytest.approx(np.mean(lower))
    assert ceiling["spearman"]["upper"] == pytest.approx(np.mean(upper))
    assert all(ends["lower"] < ends["upper"] for ends in ceiling.values())


def test_without_rsatoolbox_the_message_says_what_to_install(monkeypatch):
    rsatoolbox_compare.cache_clear()
    monkeypatch.setitem(sys.modules, "rsatoolbox.rdm.compare", None)
    with pytest.raises(UserError, match=r"pip install 'neuralood\[rsa\]'"):
        rsatoolbox_compare()


# Resamples


def test_the_data_themselves_score_as_measured(rng, people):
    model = dissimilarities(rng.standard_normal((IMAGES, 4)))
    found = resampled_spearman({"model": [model]}, people, once(people))["model"]
    assert found == pytest.approx([likeness(model[None], people)["spearman"].mean()])


@pytest.mark.parametrize("block", [60_000, 3 * PAIRS])
def test_resamples_are_rsatoolboxs(rng, people, monkeypatch, block):
    """It makes the pairs that are drawn, those of an image with itself left out, and ranks them anew."""
    monkeypatch.setattr("neuralood.geometry.resampling.BLOCK_NUMBERS", block)
    versions = [dissimilarities(rng.standard_normal((IMAGES, 4))).round(1) for _ in range(2)]
    resamples = draw_resamples(IMAGES, len(people), 10, rng)
    found = resampled_spearman({"model": versions}, people, resamples)["model"]
    for images, drawn, score in zip(resamples.images, resamples.people, found, strict=True):
        rows, persons = np.repeat(np.arange(IMAGES), images), np.repeat(np.arange(3), drawn)
        models, others = (RDMs(one).subsample_pattern("index", rows) for one in (np.stack(versions), people[persons]))
        assert np.isnan(models.dissimilarities).any()
        assert score == pytest.approx(compare(models, others, method="spearman").mean())


def test_as_many_are_drawn_as_there_are(rng):
    resamples = draw_resamples(IMAGES, 3, 2_000, rng)
    assert (resamples.images.sum(axis=1) == IMAGES).all()
    assert (resamples.people.sum(axis=1) == 3).all()
    np.testing.assert_allclose(resamples.images.mean(axis=0), 1, atol=0.1)
    np.testing.assert_allclose(resamples.people.mean(axis=0), 1, atol=0.1)


def test_a_person_who_is_not_drawn_does_not_count(rng, people):
    model = dissimilarities(rng.standard_normal((IMAGES, 4)))
    drawn = Resamples(np.ones((1, IMAGES), int), np.array([[0, 3, 0]]))
    found = resampled_spearman({"model": [model]}, people, drawn)["model"]
    assert found == pytest.approx([spearmanr(model, people[1])[0]])


def test_one_image_drawn_all_the_time_has_no_pairs(people):
    images = np.zeros((1, IMAGES), int)
    images[0, 4] = IMAGES
    resamples = Resamples(images, np.ones((1, 3), int))
    assert resampled_spearman({"model": [people[0]]}, people, resamples)["model"] == [0]


# Who leads


def test_scores_are_means_over_versions_and_people(rng, people):
    versions = [dissimilarities(rng.standard_normal((IMAGES, 4))) for _ in range(2)]
    record = compare_models({"fused": versions}, people, 50, rng)
    expected = np.mean([spearmanr(version, person)[0] for version in versions for person in people])
    one = record["representations"]["fused"]
    assert one["spearman"] == pytest.approx(expected, abs=1e-6)
    assert one["low"] < one["spearman"] < one["high"]


def test_a_lead_is_of_the_same_resamples(rng, people):
    near, far = people.mean(axis=0), dissimilarities(rng.standard_normal((IMAGES, 4)))
    record = compare_models({"cls": [far], "gap": [near], "fused": [near]}, people, 500, rng)
    assert record["lead"]["fused"]["gap"] == {"spearman": 0, "low": 0, "high": 0}
    lead, scores = record["lead"]["fused"]["cls"], record["representations"]
    assert lead["spearman"] == pytest.approx(scores["fused"]["spearman"] - scores["cls"]["spearman"], abs=2e-6)
    assert 0 < lead["low"] < lead["spearman"] < lead["high"]
    assert list(record["lead"]) == ["fused"]


def test_one_person_has_no_ceiling(rng, people):
    assert compare_models({"cls": [people[1]]}, people[:1], 10, rng)["ceiling"] == {}


# The stage


def people_file(tmp_path, images, rng):
    """Below the data root: three people, two sessions."""
    file = tmp_path / "data" / "raw" / "rdms.npz"
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(file, it=[[squareform(rng.random(images * (images - 1) // 2)) for _ in range(2)] for _ in range(3)])


@pytest.fixture
def world(project, rng, one_thread, tmp_path):
    """Trains fusion on a small world, with people's dissimilarities of val; returns the params."""

    def make(**changes):
        people_file(tmp_path, 40, rng)
        params = make_world(project, rng, **{"geometry": {"val": ENTRY}, **changes})
        for name in ("train", "val"):
            synthesize(params, name)
        train_fusion(params)
        return params

    return make


def scores():
    return json.loads((paths.geometry("val") / "scores.json").read_text())


def test_the_stage_compares_every_representation(world):
    params = world(**{"fusion.seeds": 2})
    compare_geometry(params, "val")
    record = scores()
    names = {"cls", "gap", "patches", "fmri", "fmri_early", "fmri_high", "fmri_bodies", "fused", "classifier_input"}
    assert set(record["representations"]) == names
    assert {key: record[key] for key in ("fmri", "control", "variant", "seeds", "n_images", "n_people")} == {
        "fmri": "simulated",
        "control": "none",
        "variant": "bmfl",
        "seeds": 2,
        "n_images": 40,
        "n_people": 3,
    }
    tokens, fmri = open_store(paths.tokens("val")), open_store(paths.predicted_fmri("val"))["fmri"][:]
    with np.load(paths.geometry("val") / "dissimilarities.npz") as pairs:
        assert set(pairs.files) == {f"{name}.0" for name in names} | {"fused.1", "classifier_input.1"}
        for name, features in {
            "cls": tokens["cls"][:],
            "gap": tokens["patches"][:].mean(axis=(1, 2)),
            "patches": tokens["patches"][:].reshape(40, -1),
            "fmri": fmri,
            "fmri_high": fmri[:, [*range(6, 12), *range(21, 27)]],
        }.items():
            np.testing.assert_allclose(pairs[f"{name}.0"], pdist(features.astype(float), "correlation"), atol=1e-5)
        assert np.abs(pairs["fused.0"] - pairs["fused.1"]).max() > 0.01
    assert set(record["lead"]) == {"fused", "classifier_input", "fmri_high"}
    assert all(set(leads) == {"cls", "gap", "patches"} for leads in record["lead"].values())


def test_the_stage_writes_the_same_again(world):
    params = world()
    first = []
    for _ in range(2):
        compare_geometry(params, "val")
        first.append({file.name: file.read_bytes() for file in paths.geometry("val").iterdir()})
    assert first[0] == first[1]


def test_only_vertices_that_are_kept_are_compared(world):
    compare_geometry(world(**{"synthesis.rois": "early", "fusion.rois": "early"}), "val")
    record = scores()
    assert {name for name in record["representations"] if name.startswith("fmri")} == {"fmri", "fmri_early"}
    assert record["representations"]["fmri"] == record["representations"]["fmri_early"]
    assert "fmri_high" not in record["lead"]


def test_more_images_than_memory_holds_are_refused(project, rng, tmp_path, monkeypatch):
    people_file(tmp_path, 40, rng)
    params = make_world(project, rng, geometry={"val": ENTRY})
    monkeypatch.setattr(stage, "MOST_IMAGES", 39)
    with pytest.raises(UserError, match=r"geometry\.val: val has 40 images.*at most 39 are compared"):
        compare_geometry(params, "val")


def test_what_the_table_says_is_simulated(world, capsys):
    compare_geometry(world(), "val")
    said = capsys.readouterr().err
    assert "Likeness to 3 people on val, bmfl, control none, SIMULATED fMRI" in said
    assert "noise ceiling" in said
    assert "fused - gap" in said


def test_all_sets_are_collected(project):
    assert _geometry(project.load()) == {}
    paths.geometry("edges").mkdir(parents=True)
    (paths.geometry("edges") / "scores.json").write_text('{"n_people": 3}')
    project.edit(geometry={"edges": ENTRY})
    assert _geometry(project.load()) == {"edges": {"n_people": 3}}


@pytest.mark.parametrize("variant", VARIANTS)
def test_features_are_what_the_classifier_reads(rng, variant):
    model = randomise(make_model(variant))
    shapes = (3, 6), (3, 5, 3), (3, 10)
    inputs = Inputs(*(torch.from_numpy(rng.standard_normal(shape).astype(np.float32)) for shape in shapes))
    pair, read = fused_features(model, inputs)
    output = model(*inputs)
    torch.testing.assert_close(model.classify(read), output.logits)
    torch.testing.assert_close(pair, torch.cat([output.image, output.brain], dim=1))
    if variant == "bmfl":
        torch.testing.assert_close(read[:, :-3], pair)
        torch.testing.assert_close(read[:, -3:], model.scale_patches(inputs.patches).mean(dim=1))
    assert not model.classify._forward_pre_hooks


# Sets without labels


PROBE = {"sets.probe": {"role": "probe"}, "files": {"probe": {"format": "images", "path": "objects"}}}


@pytest.fixture
def probe(project, tmp_path):
    """A probe set of three images, one in a folder."""
    folder = tmp_path / "data" / "raw" / "objects"
    (folder / "more").mkdir(parents=True)
    for number, name in enumerate(("b.png", "a.png", "more/0.png")):
        picture(number).save(folder / name)
    project.edit(**PROBE)
    return folder


def test_images_without_classes_are_sorted_by_path(probe, project):
    manifest = index_set("probe", project.load())
    assert manifest.paths == ("a.png", "b.png", "more/0.png")
    assert (manifest.classes, set(manifest.labels)) == ((), {-1})
    assert all(file.is_file() for file in manifest.image_files())


def test_what_is_no_image_is_named(probe, project):
    (probe / "stimuli.csv").write_text("about")
    with pytest.raises(UserError, match=r"files\.probe\.exclude:\n  stimuli\.csv$"):
        index_set("probe", project.load())
    project.edit(**{"files.probe.exclude": ["stimuli.csv", "more"]})
    assert index_set("probe", project.load()).paths == ("a.png", "b.png")


def test_an_empty_folder_is_refused(probe, project):
    for file in probe.rglob("*.png"):
        file.unlink()
    with pytest.raises(UserError, match=r"objects \(files\.probe\.path\) has a folder without images"):
        index_set("probe", project.load())


def test_images_without_classes_are_not_shared_out(probe, project):
    project.edit(**{"files.probe.part": {"take": "first", "fraction": 0.5}})
    with pytest.raises(UserError, match=r"files\.probe\.part: images without classes are not shared out"):
        index_set("probe", project.load())


def test_a_probe_set_has_tokens_and_fmri_and_no_accuracy(project, rng, tmp_path):
    (tmp_path / "data" / "raw" / "objects").mkdir(parents=True)
    params = make_world(project, rng, **PROBE)
    write_tokens("probe", rng, 9, np.zeros((CLASSES, 1, 1, WIDTH)))
    synthesize_stage(params, "probe")
    assert len(open_store(paths.predicted_fmri("probe"))["fmri"]) == 9
    evaluate_stage(params, "probe")
    assert list(paths.evaluation("probe").iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"geometry": {"val": ENTRY}}, r"geometry\.val\.dissimilarities: data/raw/rdms\.npz does not exist"),
        ({"geometry": {"nsd": ENTRY}}, r"geometry\.nsd: nsd is no set whose fMRI is predicted"),
        ({"geometry": {"valid": ENTRY}}, r"geometry\.valid: valid is no set whose fMRI is predicted"),
        ({"geometry": {"val": {**ENTRY, "dissimilarities": "../x"}}}, r"geometry\.val\.dissimilarities: \.\./x leaves"),
        ({"geometry": {"val": {"array": "it"}}}, r"geometry\.val\.dissimilarities: missing key"),
        ({"sets.probe.role": "ood"}, r"files\.probe\.format: images have no labels; only a set of role probe"),
        ({"sets.val.role": "probe"}, r"sets\.val\.role: must be val for a set named val, got probe"),
        (
            {
                "sets.drawn": {"role": "ood"},
                "made.drawn": {"source": "probe", "transform": "cartoon", "level": 1.0, "seed": 0},
            },
            r"made\.drawn\.source: probe has no labels",
        ),
    ],
)
def test_contradictions_are_refused(probe, project, changes, message):
    project.edit(**changes)
    with pytest.raises(UserError, match=message):
        project.load()


# Real people


@pytest.fixture(scope="module")
def it(real):
    """Human inferior temporal cortex: four people, 92 images."""
    return read_people(real / "objects92" / "rdms.npz", "human_it", 92, "geometry.objects92")


@pytest.mark.real
def test_the_ceiling_of_four_people_is_as_published(it):
    assert noise_ceiling(it)["spearman"] == pytest.approx({"lower": 0.379, "upper": 0.661}, abs=0.001)


LITE0 = {
    "name": "tf_efficientnet_lite0",
    "weights": "weights/tf_efficientnet_lite0.in1k.safetensors",
    "layers": ["bn2"],
}
SALIENCY = {
    "name": "vit_small_patch14_dinov2",
    "weights": "weights/vit_small_patch14_dinov2.saliency_tuned.fp16.safetensors",
    "layers": [-1],
}


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "reference"),
    [
        (LITE0, {"cls": 0.170, "gap": 0.170, "patches": 0.221}),
        (SALIENCY, {"cls": 0.154, "gap": 0.080, "patches": 0.118}),
    ],
    ids=["lite0", "saliency"],
)
def test_networks_are_as_like_people_as_the_reference_says(real, it, project, monkeypatch, backbone, reference):
    monkeypatch.setenv("NEURALOOD_DATA", str(real))
    project.edit(
        backbone={**backbone, "image_size": 224, "crop_pct": 1.0, "features": "tokens"},
        files={"objects92": {"format": "images", "path": "objects92/images"}},
        **{"sets.objects92": {"role": "probe"}, "runtime.progress": False, "runtime.device": "cpu"},
    )
    params = project.load()
    manifest = index_set("objects92", params)
    rows = (real / "objects92" / "stimuli.csv").read_text().splitlines()[1:]
    assert [f"images/{path}" for path in manifest.paths] == [row.split(",")[1] for row in rows]
    write_manifest(manifest)
    cache_tokens(params, "objects92")
    tokens = open_store(paths.tokens("objects92"))
    patches = tokens["patches"][:].astype(np.float32)
    features = {"cls": tokens["cls"][:], "gap": patches.mean(axis=(1, 2)), "patches": patches.reshape(92, -1)}
    for name, values in features.items():
        found = likeness(dissimilarities(values.astype(np.float64))[None], it)["spearman"].mean()
        assert found == pytest.approx(reference[name], abs=0.01), name
