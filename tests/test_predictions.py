"""From logits to the cells of metrics/classification.json."""

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax

from neuralood import evaluation
from neuralood.base import paths
from neuralood.base.errors import UserError
from neuralood.data.imagenet.corruptions import ALEXNET_ERROR, EXTRA
from neuralood.data.manifest import Manifest, write_manifest
from neuralood.evaluation import Truth, class_columns, corruption_scores, restrict, severity_scores, unrestricted
from neuralood.predictions import (
    MODELS,
    PROBABILITIES,
    Predictions,
    join,
    read_predictions,
    score,
    write_predictions,
)

TRAINED = ["cat", "dog", "horse", "house", "kiwi", "zebra"]


def manifest(*classes):
    labels = tuple(range(len(classes)))
    names = tuple(f"{name}/1.png" for name in classes)
    return Manifest("sketch", "data_root", "sketch", False, classes, names, labels, names, "0")


def make(labels, linear, fusion, sources=None):
    """Predictions whose ranked classes are given: S I K; probabilities are of no model."""
    ranked = {"linear": np.array(linear, np.int32), "fusion": np.array(fusion, np.int32)}
    probabilities = {
        name: {
            model: np.linspace(low, low + 0.1, values[..., 0].size, dtype=np.float32).reshape(values.shape[:2])
            for model, values in ranked.items()
        }
        for name, low in zip(PROBABILITIES, (0.5, -1.0, 0.2), strict=True)
    }
    sources = tuple(sources or (f"é{row}" for row in range(len(labels))))
    return Predictions(np.array(labels, np.int32), ranked, sources=sources, **probabilities)


def part_of(predictions, rows):
    """The same of some consecutive images."""
    fields = {
        name: {model: values[:, rows] for model, values in getattr(predictions, name).items()}
        for name in ("ranked", *PROBABILITIES)
    }
    return replace(predictions, labels=predictions.labels[rows], sources=predictions.sources[rows], **fields)


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


def test_members_unite_training_classes_by_name():
    animals = replace(manifest("building", "animal"), members=(("house",), ("cat", "horse", "dog")))
    assert class_columns(animals, TRAINED, None) == [[3], [0, 2, 1]]


def test_class_map_of_params_goes_before_members():
    animals = replace(manifest("animal"), members=(("cat", "horse"),))
    assert class_columns(animals, TRAINED, {"animal": [0]}) == [[0]]


def test_class_with_members_that_training_does_not_know_is_named():
    animals = replace(manifest("animal", "building"), members=(("cat", "cow"), ("house",)))
    with pytest.raises(UserError, match=r"training knows no class animal; .*exclude it"):
        class_columns(animals, TRAINED, None)


def test_of_many_unknown_classes_a_few_are_named():
    with pytest.raises(UserError, match=r"no class u0, .*, u9 and 890 more; rename"):
        class_columns(manifest(*(f"u{number}" for number in range(900))), TRAINED, None)


def test_a_united_class_takes_no_sum_of_logits():
    """Two clocks of logit 2 each lose to a wok of logit 3, as in ObjectNet's usual protocol."""
    logits = np.array([[2.0, 2.0, 3.0]])
    assert restrict(logits, [[0, 1], [2]]).argmax() == 1


def test_logits_of_several_seeds_are_restricted_alike(rng):
    logits = rng.standard_normal((2, 7, 6))
    for columns in ([[4], [1]], [[4, 0], [1]]):
        np.testing.assert_array_equal(restrict(logits, columns)[1], restrict(logits[1], columns))


# All training classes


def truth(labels, columns, answers=None):
    answers = None if answers is None else np.array(answers, np.int32)
    return Truth(np.array(labels, np.int32), tuple(map(str, labels)), answers, columns)


def test_unrestricted_is_right_where_the_best_of_all_classes_is_a_member():
    logits = np.array([[[0, 5, 1, 2], [0, 1, 5, 2], [9, 1, 5, 2], [0, 1, 2, 5]]])  # best: 1, 2, 0, 3
    found = unrestricted(logits, truth([0, 0, 0, 1], [[1, 2], [3]]))
    np.testing.assert_array_equal(found, [[True, True, False, True]])


def test_unrestricted_knows_all_answers_and_no_padding():
    logits = np.array([[[0, 5, 1, 2], [0, 1, 5, 2], [0, 1, 1, 5]]])  # best: 1, 2, 3
    found = unrestricted(logits, truth([0, 0, 0], [[0], [1], [3]], [[0, 1], [0, 1], [0, -1]]))
    np.testing.assert_array_equal(found, [[True, False, False]])


def test_both_protocols_are_scored_where_classes_are_a_part(rng):
    logits = {model: np.array([[[9.0, 5.0, 1.0], [0.0, 5.0, 9.0]]], np.float32) for model in MODELS}
    predictions = evaluation._predictions(logits, truth([0, 1], [[1], [2]]))
    cell = score(predictions, 2, 100, rng)
    assert cell["linear"] == {"top1": 100.0}
    assert cell["extra"] == {"unrestricted": {model: {"top1": 50.0} for model in MODELS}}


@pytest.mark.parametrize("columns", [[[0], [1], [2]], [[2], [0], [1]]])
def test_a_set_of_all_training_classes_has_one_protocol(rng, columns):
    logits = {model: rng.standard_normal((1, 4, 3)).astype(np.float32) for model in MODELS}
    predictions = evaluation._predictions(logits, truth([0, 1, 2, 0], columns))
    assert predictions.unrestricted is None
    assert score(predictions, 3, 100, rng)["extra"] == {}


def test_confidence_is_that_among_the_sets_own_classes():
    logits = {model: np.array([[[50.0, 1.0, 1.0]]], np.float32) for model in MODELS}
    predictions = evaluation._predictions(logits, truth([0], [[1], [2]]))
    np.testing.assert_allclose(predictions.confidence["fusion"], [[0.5]])


# Probabilities


def kept_of(logits, labels, columns, answers=None):
    """What evaluation keeps of logits S I C, of the linear probe."""
    stack = {model: np.array(logits, np.float32) for model in MODELS}
    return evaluation._predictions(stack, truth(labels, columns, answers))


def test_probabilities_are_the_softmax_over_the_sets_own_classes(rng):
    logits, columns = rng.standard_normal((2, 7, 6)), [[4], [0, 3], [5]]
    labels = rng.integers(0, 3, 7)
    kept = kept_of(logits, labels, columns)
    own = softmax(restrict(logits, columns), axis=-1)
    np.testing.assert_allclose(kept.log_likelihood["linear"], np.log(own[:, np.arange(7), labels]), rtol=1e-5)
    np.testing.assert_allclose(kept.sum_of_squares["linear"], (own**2).sum(-1), rtol=1e-5)
    np.testing.assert_allclose(kept.confidence["linear"], own.max(-1), rtol=1e-5)
    assert {getattr(kept, name)["linear"].dtype for name in PROBABILITIES} == {np.dtype(np.float32)}


def test_likelihood_is_that_of_the_most_probable_right_class():
    logits = np.log([[[0.1, 0.2, 0.7], [0.1, 0.2, 0.7], [0.1, 0.2, 0.7]]])
    kept = kept_of(logits, [0, 0, 1], [[0], [1], [2]], [[0, 1], [0, 2], [1, -1]])
    np.testing.assert_allclose(np.exp(kept.log_likelihood["fusion"]), [[0.2, 0.7, 0.2]], rtol=1e-6)


def test_likelihood_stays_finite_where_the_probability_is_0():
    kept = kept_of([[[0.0, 1000.0]]], [0], [[0], [1]])
    np.testing.assert_array_equal(kept.log_likelihood["linear"], [[-1000.0]])


# Several right answers


def test_any_of_an_images_answers_is_right(rng):
    ranked = [[[4, 0, 1, 2, 3], [4, 0, 1, 2, 3], [4, 0, 1, 2, 3], [4, 0, 1, 2, 3]]]
    answers = np.array([[6, 4], [5, 3], [6, 5], [4, -1]], np.int32)
    predictions = replace(make([6, 5, 6, 4], ranked, ranked), answers=answers)
    np.testing.assert_array_equal(predictions.correct("linear"), [[True, False, False, True]])
    np.testing.assert_array_equal(predictions.hits("linear", 5), [[True, True, False, True]])
    cell = score(predictions, 7, 100, rng)
    assert cell["linear"] == {"top1": 50.0, "top5": 75.0}


# ImageNet-C


def corrupted(top1):
    """Paths, and predictions of which the given percentages are right: (corruption, severity) -> linear, fusion."""
    names, right = [], {model: [] for model in MODELS}
    for (corruption, severity), percents in top1.items():
        names += [f"{corruption}/{severity}/n01440764/ILSVRC2012_val_{number:08d}.JPEG" for number in range(10)]
        for model, percent in zip(MODELS, percents, strict=True):
            right[model] += [number < percent / 10 for number in range(10)]
    ranked = {model: [[[0 if hit else 1] for hit in right[model]]] for model in MODELS}
    return names, make([0] * len(names), ranked["linear"], ranked["fusion"])


def test_mean_corruption_error_of_alexnet_is_100():
    errors = {name: 100 - 10 * round(10 - 10 * error) for name, error in ALEXNET_ERROR.items()}
    names, predictions = corrupted({(name, 3): (100 - error, 100) for name, error in errors.items()})
    extra = corruption_scores(names, predictions)
    expected = np.mean([errors[name] / error for name, error in ALEXNET_ERROR.items()])
    assert extra["mce"] == {"linear": round(expected, 6), "fusion": 0.0}
    assert extra["severities"] == 1
    assert abs(expected - 100) < 5


def test_alexnet_denominators_are_those_of_the_paper():
    percent = [88.6, 89.4, 92.3, 82.0, 82.6, 78.6, 79.8, 86.7, 82.7, 81.9, 56.5, 85.3, 64.6, 71.8, 60.7]
    assert list(ALEXNET_ERROR)[:3] == ["gaussian_noise", "shot_noise", "impulse_noise"]
    np.testing.assert_allclose([100 * error for error in ALEXNET_ERROR.values()], percent, atol=0.051)


def test_mean_corruption_error_is_no_mean_error():
    """It divides each corruption's error by AlexNet's before it averages."""
    cells = {(name, 1): (0, 0) for name in ALEXNET_ERROR} | {("brightness", 1): (50, 100)}
    extra = corruption_scores(*corrupted(cells))
    others = sum(100 / error for name, error in ALEXNET_ERROR.items() if name != "brightness")
    assert extra["mce"]["linear"] == pytest.approx((others + 50 / 0.564592) / 15)
    assert extra["mce"]["fusion"] == pytest.approx(others / 15)


def test_extra_corruptions_do_not_change_the_mean_corruption_error():
    main = {(name, 1): (20, 50) for name in ALEXNET_ERROR}
    extra = corruption_scores(*corrupted(main | {(name, 1): (100, 0) for name in EXTRA}))
    assert extra["mce"] == corruption_scores(*corrupted(main))["mce"]
    assert extra["corruptions"]["spatter"] == {"linear": {"top1": 100.0}, "fusion": {"top1": 0.0}}
    assert len(extra["corruptions"]) == 19


def test_severities_weigh_the_same_however_many_images_are_left():
    names, predictions = corrupted({("fog", 1): (100, 0), ("fog", 2): (0, 100)})
    few = part_of(predictions, slice(12))  # 10 of severity 1, 2 of severity 2
    extra = corruption_scores(names[:12], few)
    assert extra["corruptions"] == {"fog": {"linear": {"top1": 50.0}, "fusion": {"top1": 50.0}}}
    assert extra["severities"] == 2


def test_without_all_15_corruptions_there_is_no_mean_corruption_error():
    cells = {(name, 1): (20, 50) for name in ALEXNET_ERROR if name != "fog"}
    assert "mce" not in corruption_scores(*corrupted(cells))


def test_severities_are_told_apart_for_each_corruption():
    names, predictions = corrupted({("fog", 1): (80, 100), ("fog", 5): (20, 50), ("snow", 1): (0, 10)})
    order = np.random.default_rng(0).permutation(len(names))
    shuffled = replace(
        predictions,
        labels=predictions.labels[order],
        ranked={model: values[:, order] for model, values in predictions.ranked.items()},
    )
    assert severity_scores([names[row] for row in order], shuffled) == {
        "fog": {
            "1": {"level": 1, "linear": {"top1": 80.0}, "fusion": {"top1": 100.0}},
            "5": {"level": 5, "linear": {"top1": 20.0}, "fusion": {"top1": 50.0}},
        },
        "snow": {"1": {"level": 1, "linear": {"top1": 0.0}, "fusion": {"top1": 10.0}}},
    }


# Blocks


class Stand:
    """In place of models and stores: logits that are known."""

    def __init__(self, rng, images, classes, seeds):
        self.logits = {model: rng.standard_normal((seeds, images, classes)).astype(np.float32) for model in MODELS}
        self.asked = []

    def __len__(self):
        return self.logits["linear"].shape[1]

    def batches(self, rows, _device):
        """In two batches; what models take are the rows."""
        self.asked.append(len(rows))
        for part in np.array_split(rows, 2):
            yield part, StandInputs(part)

    def load_seed(self, number, _record, _encoder):
        def fusion(rows):
            return SimpleNamespace(logits=torch.from_numpy(self.logits["fusion"][number][rows]))

        probe = SimpleNamespace(logits=lambda rows: self.logits["linear"][number][rows])
        return SimpleNamespace(to=lambda _device: fusion), probe


class StandInputs(NamedTuple):
    """In place of what models read: the rows."""

    rows: np.ndarray

    def probe_features(self):
        return torch.from_numpy(self.rows)


@pytest.fixture
def evaluated(project, monkeypatch, rng):
    """Evaluates a set of 25 images with 2 seeds in blocks of some size; returns files written and block sizes."""
    stand = Stand(rng, 25, len(TRAINED), 2)
    monkeypatch.setattr(evaluation, "load_record", lambda: {"classes": TRAINED, "seeds": 2, "variant": "bmfl"})
    monkeypatch.setattr(evaluation, "load_encoder", lambda: (SimpleNamespace(to=lambda _device: None), None))
    monkeypatch.setattr(evaluation, "open_image_data", lambda *_stores, reads_fmri: stand)
    monkeypatch.setattr(evaluation, "load_seed", stand.load_seed)

    def run(block, **changes):
        stand.asked.clear()
        names = tuple(f"{row}.png" for row in range(25))
        labels = tuple(row % 2 for row in range(25))
        plain = Manifest("edges", "project", "edges", False, ("dog", "cat"), names, labels, names, "0")
        write_manifest(replace(plain, **changes))
        monkeypatch.setattr(evaluation, "BLOCK", block)
        evaluation.evaluate(project.load(), "edges")
        folder = paths.evaluation("edges")
        return {file.name: file.read_bytes() for file in folder.iterdir()}, list(stand.asked)

    return run


@pytest.mark.parametrize("changes", [{}, {"answers": tuple((row % 2,) * (1 + row % 3) for row in range(25))}])
def test_blocks_change_nothing(evaluated, changes):
    whole, asked = evaluated(8192, **changes)
    assert asked == [25]
    parts, asked = evaluated(7, **changes)
    assert asked == [7, 7, 7, 4]
    assert parts == whole


def test_a_set_with_corruptions_gets_their_scores(evaluated):
    names = tuple(f"fog/{1 + row % 5}/n01440764/{row}.JPEG" for row in range(25))
    files, _ = evaluated(8192, format="imagenet_c", paths=names)
    extra = json.loads(files["scores.json"])["extra"]
    assert set(extra) == {"corruptions", "severities", "unrestricted"}
    assert extra["severities"] == 5
    levels = json.loads(files["robustness.json"])["levels"]["fog"]
    assert set(levels) == {"1", "2", "3", "4", "5"}
    over_severities = np.mean([level["fusion"]["top1"] for level in levels.values()])
    assert extra["corruptions"]["fog"]["fusion"]["top1"] == pytest.approx(over_severities)


def test_a_plain_set_has_no_levels(evaluated):
    files, _ = evaluated(8192)
    assert set(files) == {"predictions.npz", "scores.json", "robustness.json"}
    assert set(json.loads(files["robustness.json"])) == set(MODELS)


def test_joined_parts_are_the_whole(rng):
    whole = make(rng.integers(0, 6, 9), rng.integers(0, 6, (2, 9, 5)), rng.integers(0, 6, (2, 9, 5)))
    whole = replace(
        whole, answers=rng.integers(-1, 6, (9, 3)), unrestricted={m: rng.random((2, 9)) > 0.5 for m in MODELS}
    )
    parts = [
        replace(
            part_of(whole, rows),
            answers=whole.answers[rows],
            unrestricted={model: values[:, rows] for model, values in whole.unrestricted.items()},
        )
        for rows in (slice(0, 4), slice(4, 9))
    ]
    joined = join(parts)
    for name in ("labels", "answers", "sources"):
        np.testing.assert_array_equal(getattr(joined, name), getattr(whole, name))
    for name in ("ranked", *PROBABILITIES, "unrestricted"):
        for model in MODELS:
            np.testing.assert_array_equal(getattr(joined, name)[model], getattr(whole, name)[model])


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
        for name in PROBABILITIES:
            np.testing.assert_array_equal(getattr(found, name)[model], getattr(predictions, name)[model])
    assert found.sources == predictions.sources
    assert [file.name for file in folder.iterdir()] == ["predictions.npz"]


def test_answers_and_the_best_of_all_classes_come_back(stored, rng):
    folder, predictions = stored
    best = {model: rng.random((2, 9)) > 0.5 for model in MODELS}
    write_predictions(folder, replace(predictions, answers=rng.integers(-1, 6, (9, 3)), unrestricted=best))
    found = read_predictions(folder)
    assert found.answers.shape == (9, 3)
    for model in MODELS:
        np.testing.assert_array_equal(found.unrestricted[model], best[model])
    assert (read_predictions(folder).right == found.answers).all()


def test_a_plain_set_stores_neither_answers_nor_the_best_of_all_classes(stored):
    with np.load(stored[0] / "predictions.npz") as arrays:
        assert not [name for name in arrays.files if "answers" in name or "unrestricted" in name]


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


@pytest.mark.parametrize("name", ["linear_log_likelihood", "fusion_sum_of_squares"])
def test_file_of_a_version_that_kept_less_is_refused(stored, name):
    with np.load(stored[0] / "predictions.npz") as arrays:
        kept = {key: arrays[key] for key in arrays.files if key != name}
    np.savez(stored[0] / "predictions.npz", **kept)
    with pytest.raises(UserError, match=rf"predictions\.npz is missing or damaged .*{name}.*: run `dvc repro`"):
        read_predictions(stored[0])


def test_pickle_in_it_is_refused(stored):
    np.savez(stored[0] / "predictions.npz", labels=np.array([{}], dtype=object))
    with pytest.raises(UserError, match=r"predictions\.npz is missing or damaged"):
        read_predictions(stored[0])


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"predictions\.npz is missing or damaged"):
        read_predictions(tmp_path)
