"""train_fusion and what it reads: forms of predicted fMRI, seeds side by side, interruption, several processes."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, randomise
from helpers_fusion import VERTICES, Interrupted, make_world, train_until
from safetensors.torch import load_file

from neuralood.base import paths
from neuralood.base.errors import UserError
from neuralood.base.store import open_store
from neuralood.config import Synthesis
from neuralood.data.manifest import read_manifest
from neuralood.encoder.form import Form, compact_width, form_of
from neuralood.encoder.model import EncoderEnsemble, RoiEncoder
from neuralood.encoder.trained import load_encoder
from neuralood.evaluation import evaluate
from neuralood.fusion import train as training
from neuralood.fusion.model import FusionClassifier, FusionSizes
from neuralood.fusion.train import train_fusion
from neuralood.fusion.trained import load_record, load_seed, open_image_data
from neuralood.synthesis import synthesize

CPU = torch.device("cpu")
FORMS = ({"store": "vertices", "rois": "all"}, {"store": "roi_tokens", "rois": "all"}, {"store": "none", "rois": "all"})


@pytest.fixture
def world(project, rng, one_thread):
    """Makes a small world with predicted fMRI, and returns its params."""

    def make(**changes):
        params = make_world(project, rng, **changes)
        for name in ("train", "val"):
            synthesize(params, name)
        return params

    return make


def weights(part="fusion", seed=0):
    return load_file(paths.FUSION / f"seed{seed}" / f"{part}.safetensors")


def fmri_of(name):
    """All fMRI of a set as fusion reads it, I V."""
    encoder, record = load_encoder()
    data = open_image_data(read_manifest(name), encoder, record)
    return torch.cat([inputs.fmri for _, inputs in data.batches(np.arange(len(data)), CPU)])


# Forms


@pytest.mark.parametrize("form", FORMS[1:], ids=lambda form: form["store"])
def test_every_form_gives_the_fmri_of_all_vertices(world, project, form):
    params = world()
    expected = fmri_of("train")
    assert expected.shape == (90, VERTICES)
    project.edit(synthesis=form)
    params = project.load()
    synthesize(params, "train")
    torch.testing.assert_close(fmri_of("train"), expected, rtol=1e-5, atol=1e-5)
    arrays = {"roi_tokens": {"roi_tokens": (90, 6 * 6)}, "none": {}}[form["store"]]
    stored = open_store(paths.predicted_fmri("train")).arrays
    assert {name: array.shape for name, array in stored.items()} == arrays


@pytest.mark.parametrize("form", FORMS[1:], ids=lambda form: form["store"])
def test_fusion_is_the_same_with_every_form(world, project, form):
    train_fusion(world())
    expected = weights()
    project.edit(synthesis=form)
    for name in ("train", "val"):
        synthesize(project.load(), name)
    train_fusion(project.load())
    for name, value in weights().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-3)


def test_only_the_vertices_of_some_rois_are_kept_where_asked(world, project):
    train_fusion(world(**{"fusion.rois": "early"}))
    expected = weights()
    project.edit(**{"synthesis.rois": "early"})
    synthesize(project.load(), "train")
    assert open_store(paths.predicted_fmri("train"))["fmri"].shape == (90, 12)
    train_fusion(project.load())
    assert all(torch.equal(value, expected[name]) for name, value in weights().items())


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"synthesis.rois": "early"}, "fusion.rois: synthesis.rois keeps no, or not all, vertices of all"),
        ({"synthesis.rois": ["V1v"], "fusion.rois": "early"}, "keeps no, or not all, vertices of early"),
        ({"synthesis.rois": "earli"}, "synthesis.rois: unknown ROI 'earli', did you mean 'early'?"),
        ({"synthesis.rois": "early", "synthesis.store": "none"}, "synthesis.rois: only store vertices leaves some out"),
        ({"synthesis.store": "some"}, "synthesis.store"),
        ({"fusion.ema": 1.0}, "fusion.ema"),
        ({"fusion.token_dropout": -0.1}, "fusion.token_dropout"),
        ({"fusion.autocast": "float16"}, "fusion.autocast"),
    ],
)
def test_forms_and_recipes_that_cannot_be_are_refused(project, changes, problem):
    project.edit(**changes)
    with pytest.raises(UserError, match=problem.replace("?", r"\?")):
        project.load()


def test_rois_may_be_some_of_those_kept(project):
    project.edit(**{"synthesis.rois": ["early", "EBA"], "fusion.rois": ["V1v", "EBA"]})
    assert project.load().synthesis.rois == ("early", "EBA")


def test_the_low_rank_form_at_full_size_gives_the_same_logits_from_a_tenth_of_the_bytes(rng):
    """39,548 vertices, 50 queries of width 64, stored as float16: as the full form is."""
    vertices, queries, images = 39_548, 50, 3
    member = torch.zeros(queries, vertices, dtype=torch.bool)
    member[torch.arange(vertices) % queries, torch.arange(vertices)] = True
    sizes = {"grid": (4, 4), "token_width": 32, "width": 64, "depth": 1, "heads": 8, "dropout": 0.0}
    encoder = randomise(RoiEncoder(member, **sizes, positions="sine", start="queries")).eval()
    full, low = Form("vertices", vertices, vertices), Form("roi_tokens", compact_width(encoder), vertices)
    patches = torch.from_numpy(rng.standard_normal((images, 16, 32))).float()
    fusion = FusionSizes("bmfl", 32, 32, vertices, 1000, 256, 2, 8, 256, 0.0, 0.0)
    model = randomise(FusionClassifier(fusion, torch.arange(vertices))).eval()
    with torch.inference_mode():
        logits = [
            model(patches[:, 0], patches, form.restore(encoder, form.keep(encoder, patches).half().float(), patches))
            for form in (full, low)
        ]
    assert low.width < full.width / 10
    assert (logits[0].logits - logits[1].logits).abs().max() < 1e-3


def test_an_ensemble_and_its_members_tokens(rng):
    member = torch.ones(2, 5, dtype=torch.bool)
    sizes = {"grid": (1, 4), "token_width": 3, "width": 4, "depth": 1, "heads": 2, "dropout": 0.0}
    encoders = [RoiEncoder(member.clone(), **sizes, positions="learned", start="queries") for _ in range(3)]
    ensemble = EncoderEnsemble([randomise(one, seed) for seed, one in enumerate(encoders)]).eval()
    form = form_of(Synthesis("roi_tokens", "all"), ensemble, {})
    patches = torch.from_numpy(rng.standard_normal((6, 4, 3))).float()
    kept = form.keep(ensemble, patches)
    assert kept.shape == (6, form.width) == (6, 3 * 2 * 4)
    expected = torch.stack([one(patches) for one in encoders]).mean(0)
    torch.testing.assert_close(form.restore(ensemble, kept, patches), expected)
    torch.testing.assert_close(ensemble(patches), expected)


def test_a_kept_survey_is_made_again_where_its_features_are_gone(world, monkeypatch):
    """Else a damaged file of features could never be got rid of."""
    params, real = world(), training.fit_probes

    def failing(*_arguments):
        raise Interrupted

    monkeypatch.setattr(training, "fit_probes", failing)
    with pytest.raises(Interrupted):
        train_fusion(params)
    shutil.rmtree(training.features_path())
    monkeypatch.setattr(training, "fit_probes", real)
    train_fusion(params)
    assert weights("probe")


# Seeds, recipe, what is kept


def test_best_and_last_weights_are_kept(world, monkeypatch):
    losses = iter([[1.0], [2.0]])  # the first epoch is the best
    fit = training.fit_together

    def with_known_validation(models, images, epochs, losses_of, _validate, *rest):
        return fit(models, images, epochs, losses_of, lambda: next(losses), *rest)

    monkeypatch.setattr(training, "fit_together", with_known_validation)
    train_fusion(world())
    best, last = weights(), weights("last")
    assert best.keys() == last.keys()
    assert not torch.equal(best["classify.weight"], last["classify.weight"])
    model, _ = load_seed(0, load_record(), load_encoder()[0])
    assert torch.equal(model.classify.weight, best["classify.weight"])


@pytest.mark.parametrize("variant", ["bmfl", "image_only"])
def test_seeds_have_holdouts_and_scales_of_their_own(world, variant):
    params = world(**{"fusion.seeds": 2, "fusion.variant": variant})
    labels = np.asarray(read_manifest("train").labels)
    seeds = [training._draw_seed(params, labels, number) for number in (0, 1)]
    assert set(seeds[0].holdout) != set(seeds[1].holdout)
    train_fusion(params)
    cls = open_store(paths.tokens("train"))["cls"][:]
    for one in seeds:
        assert sorted([*one.rows, *one.holdout]) == list(range(90))
        own = weights(seed=one.number)
        np.testing.assert_allclose(own["scale_cls.mean"].numpy(), cls[one.rows].mean(axis=0), atol=1e-5)
    assert not torch.equal(weights(seed=0)["classify.weight"], weights(seed=1)["classify.weight"])


def test_no_seed_learns_from_its_own_holdout(world, monkeypatch):
    """Each loss is of images of the seed's training rows, and all of those are seen in each epoch."""
    params, seen = world(**{"fusion.seeds": 3}), []
    labels = np.asarray(read_manifest("train").labels)
    seeds = [training._draw_seed(params, labels, number) for number in range(3)]
    real = training.fusion_loss

    def noting(logits, truth, *rest):
        seen.append(len(truth))
        return real(logits, truth, *rest)

    monkeypatch.setattr(training, "fusion_loss", noting)
    train_fusion(params)
    assert sum(seen) == params.fusion.epochs * sum(len(one.rows) for one in seeds)


@pytest.mark.parametrize(
    "recipe", [{"fusion.ema": 0.9}, {"fusion.label_smoothing": 0.2}, {"fusion.token_dropout": 0.5}]
)
def test_each_part_of_the_recipe_changes_the_weights(world, project, recipe):
    params = world()
    train_fusion(params)
    plain = weights()
    project.edit(**recipe)
    train_fusion(project.load())
    assert not torch.equal(weights()["classify.weight"], plain["classify.weight"])


@pytest.mark.parametrize("stop_at", [1, 5, 17])
@pytest.mark.parametrize("changes", [{}, {"fusion.seeds": 2, "fusion.ema": 0.9, "fusion.dropout": 0.3}], ids=["1", "2"])
def test_an_interrupted_run_ends_with_the_same_weights(world, monkeypatch, stop_at, changes):
    params = world(**changes)
    params = replace(params, runtime=replace(params.runtime, checkpoint_minutes=1e-9))
    train_fusion(params)
    expected = [weights(part, seed) for seed in range(params.fusion.seeds) for part in ("fusion", "last", "probe")]
    train_until(monkeypatch, params, "fusion_loss", stop_at)
    monkeypatch.setattr(training, "survey", None)  # nothing is surveyed, and no probe solved, twice
    monkeypatch.setattr(training, "fit_probes", None)
    torch.rand(7)
    train_fusion(params)
    found = [weights(part, seed) for seed in range(params.fusion.seeds) for part in ("fusion", "last", "probe")]
    for one, other in zip(found, expected, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in other)
    assert not paths.partial(paths.FUSION).exists()


# Several processes


def run_two():
    """Train and evaluate val in two processes: exit status, and what is said."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    command = [sys.executable, "-W", "ignore", "-m", "helpers_ranks_training", "val"]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    return done.returncode, done.stderr


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_processes_train_and_evaluate_as_one_does(world, project):
    params = world(train=2100, val=40, **{"fusion.epochs": 1, "fusion.batch_size": 301})  # two chunks of features
    train_fusion(params)
    evaluate(params, "val")
    expected, probe, scores = weights(), weights("probe"), scores_of("val")
    project.edit(**{"runtime.nproc": 2})
    status, said = run_two()
    assert status == 0, said
    for name, value in weights().items():
        torch.testing.assert_close(value, expected[name], rtol=2e-2, atol=2e-3)
    for name, value in weights("probe").items():
        torch.testing.assert_close(value, probe[name], rtol=1e-3, atol=1e-3)
    assert scores_of("val")["linear"] == scores["linear"]
    assert not list(paths.DATA.glob(".partial/**/*.npz"))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_lost_process_ends_training_with_one_line_and_the_next_start_ends_with_the_same_weights(world):
    """Dropout draws other numbers in each process: both random states come back."""
    world(**{"runtime.nproc": 2, "runtime.checkpoint_minutes": 1e-9, "fusion.dropout": 0.3, "fusion.seeds": 2})
    assert run_two()[0] == 0
    expected = [weights(seed=0), weights(seed=1)]
    Path("fault").touch()
    status, said = run_two()
    assert (status, len(said.splitlines())) == (1, 1)
    assert "worker 2 of 2 was killed (signal 9): finished work is kept, run the stage again to go on" in said
    Path("fault").unlink()
    status, said = run_two()
    assert status == 0, said
    assert "going on with an interrupted training at step" in said
    for seed, of_seed in enumerate(expected):
        found = weights(seed=seed)
        assert all(torch.equal(found[name], value) for name, value in of_seed.items())


def scores_of(name):
    return json.loads((paths.evaluation(name) / "scores.json").read_text())
