"""From logits to the cells of metrics/classification.json."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuralood.base.errors import UserError
from neuralood.data.manifest import Manifest
from neuralood.evaluation import class_columns, restrict
from neuralood.predictions import MODELS, Predictions, read_predictions, score, write_predictions

TRAINED = ["cat", "dog", "horse", "house", "kiwi", "zebra"]


def manifest(*classes):
    labels = tuple(range(len(classes)))
    names = tuple(f"{name}/1.png" for name in classes)
    return Manifest("sketch", "data_root", "sketch", False, classes, names, labels, names, "0")


def make(labels, linear, fusion, sources=None):
    """Predictions whose ranked classes are given: S I K."""
    ranked = {"linear": np.array(linear, np.int32), "fusion": np.array(fusion, np.int32)}
    confidence = {name: np.full(values.shape[:2], 0.5, np.float32) for name, values in ranked.items()}
    labels = np.array(labels, np.int32)
    return Predictions(labels, ranked, confidence, tuple(sources or (f"é{row}" for row in range(len(labels)))))


# Classes


def test_classes_of_a_set_are_found_by_name_in_any_order():
    assert class_columns(manifest("zebra", "cat"), TRAINED, None) == [[5], [0]]


def test_unknown_classes_are_all_named_with_the_remedy():
    with pytest.raises(UserError, match=r"sketch: training knows no class cow, tiger; .*sets\.sketch\.class_map"):
        class_columns(manifest("cow", "cat", "tiger"), TRAINED, None)


def test_class_map_unites_training_classes():
    mapping = {"animal": [0, 1, 2], "building": [3], "fruit": [4]}
    assert class_columns(manifest("building", "animal"), TRAINED, mapping) == [[3], [0, 1, 2]]


def test_class_without_an_entry_in_the_map_is_named():
    with pytest.raises(UserError, match=r"sets\.sketch\.class_map: has no entry for building, cow"):
        class_columns(manifest("animal", "building", "cow"), TRAINED, {"animal": [0]})


def test_index_beyond_the_training_classes_is_refused():
    with pytest.raises(UserError, match=r"class_map\.animal: index 6 is not among the 6 training classes \(0 to 5\)"):
        class_columns(manifest("animal"), TRAINED, {"animal": [0, 6]})


@given(seed=st.integers(0, 2**31), columns=st.lists(st.integers(0, 5), min_size=1, max_size=6, unique=True))
def test_a_subset_takes_the_largest_logit_among_its_own(seed, columns):
    logits = np.random.default_rng(seed).standard_normal((7, 6))
    best = restrict(logits, [[column] for column in columns]).argmax(axis=1)
    for row in range(7):
        assert logits[row, columns[best[row]]] == max(logits[row, column] for column in columns)


def test_a_united_class_scores_by_its_largest_logit():
    logits = np.array([[1.0, 5.0, 2.0, 4.0], [9.0, 0.0, 1.0, 3.0]])
    np.testing.assert_array_equal(restrict(logits, [[0, 2], [1, 3], [3]]), [[2.0, 5.0, 4.0], [9.0, 3.0, 3.0]])


def test_all_classes_in_order_change_nothing(rng):
    logits = rng.standard_normal((5, 6))
    np.testing.assert_array_equal(restrict(logits, [[column] for column in range(6)]), logits)


# Scores


def test_cell_of_few_classes_and_one_seed(rng):
    predictions = make([0, 1, 2, 0], [[[0, 1], [0, 1], [0, 1], [1, 0]]], [[[0, 1], [1, 0], [2, 0], [1, 0]]])
    cell = score(predictions, 3, 500, rng)
    assert cell["n"] == 4
    assert cell["n_classes"] == 3
    assert cell["linear"] == {"top1": 25.0}
    assert cell["fusion"] == {"top1": 75.0}
    assert cell["gain"]["top1"] == 50.0
    assert set(cell) == {"n", "n_classes", "linear", "fusion", "gain", "extra"}
    assert set(cell["gain"]) == {"top1", "low", "high"}
    assert cell["gain"]["low"] < 50.0 < cell["gain"]["high"]
    assert json.loads(json.dumps(cell, allow_nan=False)) == cell


def test_cell_of_many_classes_and_seeds(rng):
    labels = [0, 5, 3, 2]
    linear = [[[0, 1, 2, 3, 4], [0, 1, 2, 3, 5], [0, 1, 2, 4, 5], [2, 1, 0, 3, 4]]] * 2
    fusion = [[[0, 1, 2, 3, 4], [5, 1, 2, 3, 4], [3, 1, 2, 4, 5], [2, 1, 0, 3, 4]], linear[0]]
    cell = score(make(labels, linear, fusion), 6, 500, rng)
    assert cell["linear"] == {"top1": 50.0, "top5": 75.0}
    assert cell["fusion"] == {"top1": 75.0, "top1_sd": round(50 / 2**0.5, 6), "top5": 87.5}
    assert cell["gain"]["top1"] == 25.0


@pytest.mark.parametrize(("n_classes", "has_top5"), [(2, False), (5, False), (6, True)])
def test_top5_is_left_out_for_five_classes_or_fewer(rng, n_classes, has_top5):
    ranked = np.tile(np.arange(min(5, n_classes)), (1, 10, 1))
    cell = score(make([0] * 10, ranked, ranked), n_classes, 100, rng)
    assert ("top5" in cell["linear"]) == ("top5" in cell["fusion"]) == has_top5


@pytest.mark.parametrize(("seeds", "has_sd"), [(1, False), (2, True), (3, True)])
def test_spread_over_seeds_only_where_there_are_several(rng, seeds, has_sd):
    ranked = np.zeros((seeds, 10, 2))
    cell = score(make([0] * 10, ranked, ranked), 2, 100, rng)
    assert ("top1_sd" in cell["fusion"]) == has_sd
    assert cell["gain"] == {"top1": 0.0, "low": 0.0, "high": 0.0}


def test_gain_averages_seeds_before_it_compares():
    predictions = make([0, 1], [[[0], [0]], [[1], [0]]], [[[0], [1]], [[0], [0]]], ["x", "y"])
    gain = predictions.gain()
    np.testing.assert_allclose(gain.difference, [50.0, 50.0])
    assert gain.sources == ("x", "y")


# File


@pytest.fixture
def stored(tmp_path, rng):
    predictions = make(rng.integers(0, 6, 9), rng.integers(0, 6, (2, 9, 5)), rng.integers(0, 6, (2, 9, 5)))
    write_predictions(tmp_path / "eval", predictions)
    return tmp_path / "eval", predictions


def test_predictions_come_back(stored):
    folder, predictions = stored
    found = read_predictions(folder)
    np.testing.assert_array_equal(found.labels, predictions.labels)
    for model in MODELS:
        np.testing.assert_array_equal(found.ranked[model], predictions.ranked[model])
        np.testing.assert_array_equal(found.confidence[model], predictions.confidence[model])
    assert found.sources == predictions.sources
    assert [file.name for file in folder.iterdir()] == ["predictions.npz"]


def test_same_predictions_same_bytes(stored, tmp_path):
    folder, predictions = stored
    write_predictions(tmp_path / "again", predictions)
    assert (tmp_path / "again/predictions.npz").read_bytes() == (folder / "predictions.npz").read_bytes()


@pytest.mark.parametrize("kept", [0, 3, 100, -1, -40])
def test_truncated_file_is_refused(stored, kept):
    file = stored[0] / "predictions.npz"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"predictions\.npz is missing or damaged .*run `dvc repro`"):
        read_predictions(stored[0])


def test_changed_byte_is_refused(stored):
    file = stored[0] / "predictions.npz"
    content = bytearray(file.read_bytes())
    content[content.index(b"linear_ranked.npy") + 200] ^= 0xFF
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"predictions\.npz is missing or damaged"):
        read_predictions(stored[0])


def test_missing_array_is_refused(stored):
    np.savez(stored[0] / "predictions.npz", labels=np.zeros(3))
    with pytest.raises(UserError, match=r"predictions\.npz is missing or damaged"):
        read_predictions(stored[0])


def test_pickle_in_it_is_refused(stored):
    np.savez(stored[0] / "predictions.npz", labels=np.array([{}], dtype=object))
    with pytest.raises(UserError, match=r"predictions\.npz is missing or damaged"):
        read_predictions(stored[0])


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"predictions\.npz is missing or damaged"):
        read_predictions(tmp_path)
