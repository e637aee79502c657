"""Arms of a study beside people: the main arm's likeness minus each other one's, on the same resamples."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import spearmanr

from neuralood.base import paths
from neuralood.base.records import write_arrays
from neuralood.geometry.dissimilarity import dissimilarities
from neuralood.humans.agreement import error_consistency
from neuralood.humans.alignment import _arrays, read_answers
from neuralood.humans.trials import Observer
from neuralood.study import people
from neuralood.study.runs import ARMS

IMAGES = 20


def in_arm(arm, path):
    return ARMS / arm / path.relative_to(paths.DATA)


@pytest.fixture
def geometry(rng, tmp_path, monkeypatch):
    """Two people whose dissimilarities the fused features of bmfl have, those of shuffled have not; and a baseline."""
    monkeypatch.chdir(tmp_path)
    features = rng.standard_normal((IMAGES, 30))
    pairs = dissimilarities(features)
    square = np.zeros((IMAGES, IMAGES))
    square[np.triu_indices(IMAGES, 1)] = pairs
    np.savez("people.npz", it=np.stack([square + square.T] * 2))
    monkeypatch.setattr(people.paths, "data_root", lambda: tmp_path)
    monkeypatch.setattr(people, "read_manifest", lambda name: range(IMAGES))
    other = dissimilarities(rng.standard_normal((IMAGES, 30)))
    kept = {
        "bmfl": {"cls.0": other, "fused.0": pairs, "fused.1": pairs},
        "shuffled": {"cls.0": other, "fused.0": other, "fused.1": dissimilarities(rng.standard_normal((IMAGES, 30)))},
        "knn": {"cls.0": other},
    }
    for arm, arrays in kept.items():
        write_arrays(in_arm(arm, paths.geometry("objects")) / people.DISSIMILARITIES, arrays)
    params = SimpleNamespace(
        seed=0,
        evaluation=SimpleNamespace(bootstrap=300),
        geometry={"objects": SimpleNamespace(dissimilarities="people.npz", array="it")},
    )
    return people.geometry_of_arms(params, list(kept))["objects"], kept, pairs


def test_likeness_of_an_arm_is_the_mean_over_its_seeds(geometry):
    found, kept, pairs = geometry
    assert found["bmfl"]["spearman"] == pytest.approx(1)
    expected = np.mean([spearmanr(kept["shuffled"][f"fused.{seed}"], pairs).statistic for seed in (0, 1)])
    assert found["shuffled"]["spearman"] == pytest.approx(expected, abs=1e-6)
    assert found["before"]["spearman"] == pytest.approx(spearmanr(kept["bmfl"]["cls.0"], pairs).statistic, abs=1e-6)


def test_the_main_arm_is_compared_with_each_other_one_that_fuses(geometry):
    found, *_ = geometry
    lead = found["shuffled"]["main_minus_it"]
    assert lead["spearman"] == pytest.approx(1 - found["shuffled"]["spearman"], abs=1e-6)
    assert 0 < lead["low"] < lead["spearman"] < lead["high"]
    assert found["bmfl"]["main_minus_it"] == {"spearman": 0, "low": 0, "high": 0}
    assert "knn" not in found


@pytest.fixture
def observers(rng):
    """A person, a model that answers alike, one that does not."""
    images, conditions = tuple(f"cat{row}.png" for row in range(80)), ("0",) * 80
    truth = rng.integers(16, size=80)
    wrong = (truth + 1) % 16
    person = np.where(rng.random(80) < 0.6, truth, wrong)
    other = np.where(rng.random(80) < 0.6, truth, wrong)
    return [
        Observer(name, images, conditions, truth, answers)
        for name, answers in (("subject-01", person), ("like", person), ("unlike", other))
    ]


def test_answers_are_read_as_they_were_kept(observers, tmp_path):
    person, like, unlike = observers
    write_arrays(tmp_path / "answers.npz", _arrays({"linear": [like], "fusion": [unlike, like]}, [person]))
    (one, other), (again,) = read_answers(tmp_path, "fusion")
    assert (other.answers == person.answers).all()
    assert (one.answers == unlike.answers).all()
    assert (again.images, again.conditions, again.name) == (person.images, person.conditions, "subject-01")
    assert read_answers(tmp_path / "nowhere", "fusion") is None


def errors(observers, arms, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    person, like, unlike = observers
    for arm, model in arms.items():
        kept = _arrays({"linear": [unlike], "fusion": [like if model == "like" else unlike]}, [person])
        write_arrays(in_arm(arm, paths.human_comparison("conflict")) / "answers.npz", kept)
    params = SimpleNamespace(
        seed=0,
        evaluation=SimpleNamespace(bootstrap=300),
        humans={"conflict": SimpleNamespace(experiment="silhouette")},
    )
    return people.errors_of_arms(params, ["bmfl", "shuffled"])


def test_errors_like_a_persons_have_a_kappa_of_1(observers, tmp_path, monkeypatch):
    found = errors(observers, {"bmfl": "like", "shuffled": "unlike"}, tmp_path, monkeypatch)["conflict"]
    person, _, unlike = observers
    assert found["bmfl"]["kappa"] == pytest.approx(1)
    assert found["shuffled"]["kappa"] == pytest.approx(error_consistency(person.correct, unlike.correct), abs=1e-6)
    assert found["linear"]["kappa"] == found["shuffled"]["kappa"]
    assert found["shuffled"]["main_minus_it"]["low"] > 0


def test_a_set_of_too_few_categories_is_left_out(observers, tmp_path, monkeypatch):
    assert errors(observers, {}, tmp_path, monkeypatch) == {}
