"""The encoder's scores out of distribution, on a small demo world of nsd images and their restyled scenes."""

import json
import shutil
from contextlib import chdir
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ruamel.yaml import YAML
from scipy.stats import pearsonr
from test_end_to_end import small_params

from neuralood import generalisation
from neuralood.base import paths
from neuralood.base.errors import UserError
from neuralood.base.store import open_store
from neuralood.config import load_params
from neuralood.data.fmri import TEST, prepare_fmri, read_measured
from neuralood.data.manifest import read_manifest, write_manifest
from neuralood.demo.drawing import count_drawn, render_set
from neuralood.demo.render import RESTYLES
from neuralood.demo.subject import simulate_ood, simulate_subject
from neuralood.encoder.baselines.every import fit_baselines
from neuralood.encoder.trained import load_encoder, predict
from neuralood.generalisation import score_encoder
from neuralood.plan.sizes import images_of
from neuralood.summary import summarize_encoder
from stages.cache_tokens import main as cache_tokens
from stages.score_encoder import main as stage
from stages.train_encoder import main as train_encoder

SET = "nsd_restyled"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained encoder, scored on the restyled scenes."""
    folder = tmp_path_factory.mktemp("world")
    with chdir(folder):
        params = small_params(folder)
        for name in ("nsd", SET):
            render_set(params, name)
            cache_tokens(params, name)
        simulate_subject(params, params.fmri.subject)
        prepare_fmri(params)
        fit_baselines(params)
        train_encoder(params)
        stage(params, SET)
    return folder


@pytest.fixture
def inside(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it to work in."""
    shutil.copytree(world, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


def scores() -> dict:
    return json.loads((paths.encoder_ood(SET) / "scores.json").read_text())


def test_only_scenes_that_no_encoder_trains_on_are_restyled(inside: Path) -> None:
    manifest, nsd, test = read_manifest(SET), read_manifest("nsd"), read_measured().rows(TEST)
    assert manifest.classes == tuple(sorted(RESTYLES))
    assert manifest.simulated
    for label in range(len(manifest.classes)):
        own = [source for source, given in zip(manifest.sources, manifest.labels, strict=True) if given == label]
        assert own == [nsd.sources[row] for row in test]


def test_images_are_counted_before_they_are_drawn(inside: Path) -> None:
    params, drawn = load_params(), len(read_manifest(SET))
    paths.manifest(SET).unlink()
    assert count_drawn(params, SET) == images_of(params, SET).count == drawn
    assert count_drawn(params, "nsd") == params.rendered["nsd"].n


def median_r(predicted, measured) -> float:
    r = [pearsonr(one, other)[0] for one, other in zip(predicted.T, measured.T, strict=True)]
    return float(np.median(r))


def test_each_style_has_the_r_of_its_own_images(inside: Path) -> None:
    params, manifest, measured = load_params(), read_manifest(SET), read_measured()
    seen, model = simulate_ood(params, manifest), load_encoder()[0]
    for label, style in enumerate(manifest.classes):
        rows = np.flatnonzero(np.array(manifest.labels) == label)
        predicted = predict(model, open_store(paths.tokens(SET)), rows)
        record = scores()[style]
        assert record["n"] == len(rows)
        assert record["pearson"]["median"] == pytest.approx(median_r(predicted, seen.fmri[rows]), abs=1e-5)
        early = measured.roi[["V" in name and "VWFA" not in name for name in measured.roi_names]].any(axis=0)
        expected = median_r(predicted[:, early], seen.fmri[np.ix_(rows, early)])
        assert record["groups"]["early"]["pearson"]["median"] == pytest.approx(expected, abs=1e-5)


def test_beside_it_stands_the_r_of_as_many_test_photos(inside: Path) -> None:
    measured, model = read_measured(), load_encoder()[0]
    test = measured.rows(TEST)
    expected = median_r(predict(model, open_store(paths.tokens("nsd")), test), measured.fmri[test])
    for record in scores().values():
        assert record["photo"]["n"] == record["n"] == len(test)
        assert record["photo"]["pearson"]["median"] == pytest.approx(expected, abs=1e-5)


def test_where_there_are_more_photos_as_many_are_drawn_of_the_test_ones(inside: Path, monkeypatch) -> None:
    asked = []
    monkeypatch.setattr(
        generalisation,
        "predict",
        lambda model, tokens, rows: asked.append((tokens, rows)) or predict(model, tokens, rows),
    )
    keep_rows(SET, range(4))
    score_encoder(load_params(), SET)
    photos = [rows for tokens, rows in asked if tokens.path == paths.tokens("nsd")]
    test = read_measured().rows(TEST)
    assert len(photos[0]) == scores()["conflict"]["n"] == scores()["conflict"]["photo"]["n"] == 4
    assert set(photos[0]) < set(test)
    assert (np.diff(photos[0]) > 0).all()


def keep_rows(name: str, rows: range) -> None:
    """Leave only some images of a set, all of its first class, and their tokens as they are."""
    manifest = read_manifest(name)
    few = {key: tuple(getattr(manifest, key)[row] for row in rows) for key in ("paths", "labels", "sources")}
    write_manifest(replace(manifest, **few, classes=manifest.classes[:1]))


def test_fractions_rest_on_the_ceiling_of_the_style(inside: Path) -> None:
    params, manifest, measured = load_params(), read_manifest(SET), read_measured()
    seen, model = simulate_ood(params, manifest), load_encoder()[0]
    label = manifest.classes.index("contrast")
    assert seen.ceiling.shape == (len(RESTYLES), len(measured.hemi))
    early = measured.roi[[name.endswith("V1v") for name in measured.roi_names]].any(axis=0)
    assert (seen.ceiling[label, early] < measured.ceiling[early]).all()  # the fainter the picture, the less signal
    rows = np.flatnonzero(np.array(manifest.labels) == label)
    predicted = predict(model, open_store(paths.tokens(SET)), rows)
    r = np.array([pearsonr(one, other)[0] for one, other in zip(predicted.T, seen.fmri[rows].T, strict=True)])
    counted = seen.ceiling[label] > params.fmri.ceiling_threshold
    fraction = np.median(r[counted] / seen.ceiling[label][counted])
    assert scores()["contrast"]["fraction_of_ceiling"] == pytest.approx(fraction, abs=1e-5)


def test_an_encoder_that_always_says_the_same_scores_0(inside: Path, monkeypatch) -> None:
    monkeypatch.setattr(
        generalisation,
        "predict",
        lambda model, tokens, rows: np.ones((len(rows), model.membership.shape[1]), np.float32),
    )
    score_encoder(load_params(), SET)
    for record in scores().values():
        assert record["pearson"] == record["photo"]["pearson"] == {"mean": 0, "median": 0}


def test_the_same_seed_scores_the_same_to_the_last_byte(inside: Path) -> None:
    before = (paths.encoder_ood(SET) / "scores.json").read_bytes()
    score_encoder(load_params(), SET)
    assert (paths.encoder_ood(SET) / "scores.json").read_bytes() == before


def test_tokens_of_other_images_are_refused(inside: Path) -> None:
    write_manifest(replace(read_manifest(SET), fingerprint="other"))
    with pytest.raises(UserError, match="is of other images than"):
        score_encoder(load_params(), SET)


def test_sets_of_other_roles_have_nothing_to_score(inside: Path) -> None:
    for name in ("nsd", "val", "silhouette"):
        stage(load_params(), name)
        assert not list(paths.encoder_ood(name).iterdir())


def test_the_metrics_are_those_of_all_kinds_of_images(inside: Path) -> None:
    summarize_encoder(load_params())
    assert json.loads(paths.ENCODER_OOD_METRICS.read_text()) == scores()


def test_without_such_a_set_the_metrics_are_empty(inside: Path) -> None:
    yaml = YAML()
    content = yaml.load(Path("params.yaml"))
    del content["sets"][SET], content["rendered"][SET]
    yaml.dump(content, Path("params.yaml"))
    summarize_encoder(load_params())
    assert json.loads(paths.ENCODER_OOD_METRICS.read_text()) == {}
