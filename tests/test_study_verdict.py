"""The study on small simulated worlds: what the verdict is where the brain knows shape, and where it knows nothing."""

from contextlib import chdir

import pytest
from test_end_to_end import run_images, small_params

from neuralood.base import paths
from neuralood.base.records import read_json
from neuralood.config import load_params
from neuralood.study import runs, study

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def run_stages(name):
    """In place of `dvc exp run`: every stage that an arm's changes can reach."""
    from neuralood.encoder.train import train_encoder
    from neuralood.fusion.train import train_fusion
    from neuralood.summary import summarize
    from stages.evaluate import main as evaluate
    from stages.map_categories import main as map_categories
    from stages.score_encoder import main as score_encoder
    from stages.synthesize import main as synthesize

    params = load_params()
    train_encoder(params)
    for set_name in params.sets:
        score_encoder(params, set_name)
        synthesize(params, set_name)
    train_fusion(params)
    for set_name in params.sets:
        evaluate(params, set_name)
    map_categories(params)
    summarize(params)


def study_of(folder, monkeypatch, **changes):
    """metrics/study.json of a quick study on a world of hundreds of images."""
    from stages.cache_tokens import main as cache_tokens

    monkeypatch.setattr(runs, "reproduce", run_stages)
    monkeypatch.setattr(study, "dvc", lambda *arguments: 0)
    monkeypatch.setattr("test_end_to_end.SMALL", {"nsd": 1000, "nsd_restyled": 1000, "train": 500, **TESTED})
    with chdir(folder):
        sections = {name: {**values, **changes.get(name, {})} for name, values in SIZES.items()}
        params = small_params(folder, **sections)
        run_images(params)
        for name in params.sets:
            cache_tokens(params, name)
        study.study(quick=True)
        return read_json(paths.STUDY_METRICS)


TESTED = dict.fromkeys(("val", "silhouette", "conflict"), 150)
SIZES = {
    "demo": {"vertices": {"early": 12, "high": 24, "rest": 6}},
    "encoder": {"epochs": 12, "width": 64, "bootstrap": 50, "ridge_components": 50},
    "fusion": {"epochs": 10, "width": 32, "patch": 24, "probe_c": [1.0]},
    "evaluation": {"bootstrap": 4000},
    "study": {"seeds": 2},
}


def test_a_brain_that_knows_shape_is_found(tmp_path, monkeypatch):
    record = study_of(tmp_path, monkeypatch)
    assert record["verdict"]["brain_information"], record["verdict"]["text"]


def test_a_brain_that_knows_nothing_of_the_image_is_no_evidence(tmp_path, monkeypatch):
    record = study_of(tmp_path, monkeypatch, demo={"high_rois": "noise"})
    assert not record["verdict"]["brain_information"], record["verdict"]["text"]


def test_shuffled_fmri_as_the_main_arm_is_no_evidence(tmp_path, monkeypatch):
    record = study_of(tmp_path, monkeypatch, encoder={"control": "shuffled"})
    assert record["decomposition"]["brain"]["difference"] == 0
    assert not record["verdict"]["brain_information"], record["verdict"]["text"]
