"""Calibration, proper scores, the worst class, accuracy by level, and effective robustness."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, log_softmax, logit, softmax
from scipy.stats import linregress
from sklearn.metrics import log_loss

from neuralood import evaluation
from neuralood.base import paths
from neuralood.base.errors import UserError
from neuralood.base.records import write_json
from neuralood.config import MadeSet
from neuralood.predictions import MODELS
from neuralood.robustness import (
    RECORD,
    Line,
    baseline_line,
    brier,
    ece,
    effective_robustness,
    nll,
    robustness,
    robustness_metrics,
    smoothed,
    worst_class,
)

# Expected calibration error


def guo(confidence, correct, bins=15):
    """The loop of Guo et al.: bins open below and closed above."""
    total = 0.0
    for lower, upper in zip(np.linspace(0, 1, bins + 1)[:-1], np.linspace(0, 1, bins + 1)[1:], strict=True):
        inside = (confidence > lower) & (confidence <= upper)
        if inside.any():
            total += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    return 100 * total


samples = st.lists(st.tuples(st.floats(0.001, 1), st.booleans()), min_size=1, max_size=60)


@given(samples)
def test_ece_is_that_of_guo(drawn):
    confidence, correct = np.array([one for one, _ in drawn]), np.array([one for _, one in drawn])
    assert ece(confidence, correct) == pytest.approx(guo(confidence, correct), abs=1e-9)


@given(samples, st.randoms(use_true_random=False))
def test_ece_knows_no_order_and_is_at_least_the_overall_gap(drawn, random):
    confidence, correct = np.array([one for one, _ in drawn]), np.array([one for _, one in drawn])
    found = ece(confidence, correct)
    order = np.array(random.sample(range(len(drawn)), len(drawn)))
    assert ece(confidence[order], correct[order]) == pytest.approx(found, abs=1e-9)
    assert 100 * abs(correct.mean() - confidence.mean()) - 1e-9 <= found <= 100 + 1e-9


def test_ece_by_hand():
    """Two images in one bin, 0.9 and 0.92 with one right, and one right of 0.5: 2/3 x 0.41 + 1/3 x 0.5."""
    found = ece(np.array([0.9, 0.92, 0.5]), np.array([True, False, True]))
    assert found == pytest.approx(100 * (2 / 3 * 0.41 + 1 / 3 * 0.5))


def test_opposite_gaps_cancel_within_a_bin_and_not_between_bins():
    correct = np.array([True, False])
    assert ece(np.array([0.5, 0.5]), correct) == pytest.approx(0)
    assert ece(np.array([0.6, 0.4]), correct) == pytest.approx(40)


def test_a_bin_has_its_upper_edge():
    """7 / 15 is of the bin below, where it meets 0.42 and their gaps add up."""
    confidence, correct = np.array([7 / 15, 0.42]), np.array([True, False])
    assert ece(confidence, correct) == pytest.approx(100 * abs(1 - 7 / 15 - 0.42) / 2)


def test_a_calibrated_model_has_an_ece_near_0_and_an_overconfident_one_its_excess(rng):
    confidence = rng.uniform(0.3, 0.9, 200_000)
    correct = rng.random(200_000) < confidence
    assert ece(confidence, correct) < 0.6
    assert ece(confidence + 0.1, correct) == pytest.approx(10, abs=0.6)


# Proper scores


@pytest.fixture
def scored(rng):
    """Logits S I K that know something of their labels, of both models, the labels, and what is kept of them."""
    labels = rng.integers(0, 4, 50)
    logits = {model: rng.standard_normal((2, 50, 4)) + 1.5 * np.eye(4)[labels] for model in MODELS}
    stack = {model: values.astype(np.float32) for model, values in logits.items()}
    truth = evaluation.Truth(labels.astype(np.int32), tuple(map(str, range(50))), None, [[0], [1], [2], [3]])
    return logits, labels, evaluation._predictions(stack, truth)


@pytest.mark.parametrize("model", MODELS)
def test_nll_is_scikit_learns_log_loss(scored, model):
    logits, labels, predictions = scored
    expected = np.mean([log_loss(labels, softmax(one, axis=-1), labels=range(4)) for one in logits[model]])
    assert nll(predictions.log_likelihood[model]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("model", MODELS)
def test_brier_is_the_squared_distance_from_the_truth(scored, model):
    logits, labels, predictions = scored
    expected = ((softmax(logits[model], axis=-1) - np.eye(4)[labels]) ** 2).sum(-1).mean()
    assert brier(predictions.log_likelihood[model], predictions.sum_of_squares[model]) == pytest.approx(
        expected, abs=1e-6
    )


@given(st.integers(2, 1000))
def test_a_model_that_knows_nothing_scores_what_chance_does(classes):
    log_likelihood = np.full((1, 3), -np.log(classes), np.float32)
    assert nll(log_likelihood) == pytest.approx(np.log(classes), rel=1e-6)
    assert brier(log_likelihood, np.full((1, 3), 1 / classes)) == pytest.approx(1 - 1 / classes, abs=1e-6)


def test_a_sure_model_that_is_right_scores_0_and_one_that_is_wrong_2():
    ones = np.ones((1, 3))
    assert brier(np.zeros((1, 3)), ones) == nll(np.zeros((1, 3))) == 0
    assert brier(np.full((1, 3), -1000.0), ones) == 2


@given(st.integers(0, 2**31), st.floats(0.3, 3).filter(lambda t: abs(t - 1) > 0.1))
def test_both_are_proper_the_truth_scores_best_in_expectation(seed, temperature):
    logits = np.random.default_rng(seed).standard_normal(5)
    truth, other = softmax(logits), softmax(logits / temperature)

    def expected(p):
        squares = np.full((1, 1), (p**2).sum())
        of_class = [(nll(np.log(p[[k]])[None]), brier(np.log(p[[k]])[None], squares)) for k in range(5)]
        return truth @ np.array(of_class)

    assert (expected(truth) < expected(other)).all()


# The worst class


@given(st.integers(0, 2**31), st.integers(1, 3), st.integers(1, 40))
def test_the_worst_class_is_the_lowest_of_all_that_have_images(seed, seeds, images):
    rng = np.random.default_rng(seed)
    labels, correct = rng.integers(0, 6, images), rng.random((seeds, images)) < 0.5
    per_class = {f"c{k}": 100 * correct[:, labels == k].mean() for k in range(6) if (labels == k).any()}
    found = worst_class(correct, labels, [f"c{k}" for k in range(6)])
    assert found["top1"] == pytest.approx(min(per_class.values()), abs=1e-6)
    assert per_class[found["class"]] == pytest.approx(found["top1"], abs=1e-6)
    assert found["n"] == (labels == int(found["class"][1:])).sum()


def test_of_equal_classes_the_first_is_named():
    correct = np.array([[True, False, True, False, True, True]])
    found = worst_class(correct, np.array([3, 3, 1, 1, 2, 2]), ["empty", "one", "two", "three"])
    assert found == {"class": "one", "n": 2, "top1": 50.0}


def test_seeds_are_averaged_before_the_worst_class_is_chosen():
    correct = np.array([[False, True, True, True], [True, True, False, False]])
    assert worst_class(correct, np.array([0, 0, 1, 1]), ["a", "b"]) == {"class": "b", "n": 2, "top1": 50.0}


# The record of a set


def test_record_has_each_figure_of_each_model_seeds_averaged(scored):
    logits, labels, predictions = scored
    record = robustness(predictions, ["a", "b", "c", "d"])
    assert set(record) == set(MODELS)
    for model in MODELS:
        of_seeds = []
        for one in softmax(logits[model], axis=-1):
            of_seeds.append(guo(one.max(-1), one.argmax(-1) == labels))
        assert record[model]["ece"] == pytest.approx(np.mean(of_seeds), abs=1e-3)
        mean = -log_softmax(logits[model], axis=-1)[:, np.arange(50), labels].mean()
        assert record[model]["nll"] == pytest.approx(mean, abs=1e-6)
        assert record[model]["worst_class"]["class"] in "abcd"
        assert 0 < record[model]["brier"] < 2
    assert json.loads(json.dumps(record, allow_nan=False)) == record


def test_any_right_class_is_correct_and_the_most_probable_counts():
    """Probabilities 0.1, 0.2, 0.7: of two right classes 0.2 is scored; of the second image 0.7, which is the best."""
    logits = {model: np.log([[[0.1, 0.2, 0.7], [0.1, 0.2, 0.7]]]).astype(np.float32) for model in MODELS}
    truth = evaluation.Truth(np.array([0, 1]), ("x", "y"), np.array([[0, 1], [1, 2]]), [[0], [1], [2]])
    record = robustness(evaluation._predictions(logits, truth), ["a", "b", "c"])["fusion"]
    assert record["nll"] == pytest.approx(-(np.log(0.2) + np.log(0.7)) / 2, abs=1e-6)
    assert record["brier"] == pytest.approx(((0.01 + 0.64 + 0.49) + (0.01 + 0.04 + 0.09)) / 2, abs=1e-6)
    assert record["ece"] == pytest.approx(20, abs=1e-4)
    assert record["worst_class"] == {"class": "a", "n": 1, "top1": 0.0}


# metrics/robustness.json


def cell(linear, fusion):
    gain = {"top1": fusion - linear, "low": 0.0, "high": 9.0}
    return {"linear": {"top1": linear, "top5": 90.0}, "fusion": {"top1": fusion}, "gain": gain, "n": 3}


def level(number, linear, fusion):
    return {"level": number, "linear": {"top1": linear}, "fusion": {"top1": fusion}}


@pytest.fixture
def params(project):
    """Made sets of two transforms of val; snow is not evaluated, as no set is named so; conflict is of ImageNet-C."""
    entry = {"source": "val", "seed": 0}
    made = {
        "edges": MadeSet(transform="low_contrast", level=0.3, **entry),
        "noise": MadeSet(transform="low_contrast", level=0.05, **entry),
        "lowpass": MadeSet(transform="cartoon", level=1.0, **entry),
        "snow": MadeSet(transform="snow", level=2.0, **entry),
    }
    return replace(project.load(), made=made)


@pytest.fixture
def collected(params):
    """The record of val and four OOD sets, of which conflict has levels of its own."""
    models = {model: {"ece": 1.0, "nll": 0.1, "brier": 0.2, "worst_class": {}} for model in MODELS}
    cells = {
        "val": cell(90.0, 91.0),
        "edges": cell(50.0, 60.0),
        "noise": cell(20.0, 40.0),
        "lowpass": cell(30.0, 30.0),
        "conflict": cell(1.0, 2.0),
    }
    for name in cells:
        own = {"levels": {"fog": {"3": level(3, 7.0, 8.0)}}} if name == "conflict" else {}
        write_json(paths.evaluation(name) / RECORD, models | own)
    return models, cells, robustness_metrics(params, cells)


def test_sets_are_parted_by_role(collected):
    models, _, record = collected
    assert record["id"] == {"val": models}
    assert record["ood"] == dict.fromkeys(("edges", "noise", "lowpass", "conflict"), models)


def test_levels_of_made_sets_have_the_scores_gain_and_interval(collected):
    _, cells, record = collected
    assert record["levels"]["val"] == {
        "low_contrast": {
            "edges": {**level(0.3, 50.0, 60.0), "gain": cells["edges"]["gain"]},
            "noise": {**level(0.05, 20.0, 40.0), "gain": cells["noise"]["gain"]},
        },
        "cartoon": {"lowpass": {**level(1.0, 30.0, 30.0), "gain": cells["lowpass"]["gain"]}},
    }


def test_levels_of_imagenet_c_are_its_severities(collected):
    assert collected[2]["levels"]["conflict"] == {"fog": {"3": level(3, 7.0, 8.0)}}


def test_a_set_evaluated_by_an_older_version_is_refused(params):
    with pytest.raises(UserError, match=r"data/eval/val/robustness\.json is missing: run `dvc repro`"):
        robustness_metrics(params, {"val": cell(1.0, 2.0)})


# Effective robustness

IDS = (55.0, 63.0, 71.0, 78.0)
percents = st.floats(0, 100)


def on_line(slope, intercept, ids, n_id=1000, n_ood=500):
    """OOD top-1 of baselines that lie on a line in logit space once smoothed."""
    wanted = 100 * expit(slope * logit((np.array(ids) * n_id + 50) / (n_id + 1) / 100) + intercept)
    return ((n_ood + 1) * wanted - 50) / n_ood


def test_baselines_on_a_line_give_it_back_and_lie_0_above_it():
    ood = on_line(0.8, -0.6, IDS)
    for one_id, one_ood in zip(IDS, ood, strict=True):
        above, line = effective_robustness(one_id, one_ood, IDS, ood, n_id=1000, n_ood=500)
        assert above == pytest.approx(0, abs=1e-9)
    assert line == pytest.approx((0.8, -0.6))


def test_ten_points_more_are_ten_points_above():
    ood = on_line(1.1, -1.0, IDS)
    model = on_line(1.1, -1.0, [60.0])[0] + 10
    above, _ = effective_robustness(60.0, model, IDS, ood, n_id=1000, n_ood=500)
    assert above == pytest.approx(10 * 500 / 501)


def test_a_model_that_is_better_on_both_by_the_line_gains_nothing():
    ood = on_line(1.0, -1.0, IDS)
    above, _ = effective_robustness(95.0, on_line(1.0, -1.0, [95.0])[0], IDS, ood, n_id=1000, n_ood=500)
    assert above == pytest.approx(0, abs=1e-9)


@given(st.lists(st.tuples(st.floats(1, 99), st.floats(1, 99)), min_size=3, max_size=8), st.integers(0, 9))
def test_the_line_is_that_of_scipy_in_any_order(baselines, shift):
    ids, ood = np.array(baselines).T
    if np.ptp(ids) < 1:
        return
    line = baseline_line(ids, ood, n_id=400, n_ood=100)
    expected = linregress(logit((4 * ids + 0.5) / 401), logit((ood + 0.5) / 101))
    assert line == pytest.approx((expected.slope, expected.intercept), abs=1e-6)
    order = np.roll(np.arange(len(ids)), shift)
    assert baseline_line(ids[order], ood[order], n_id=400, n_ood=100) == pytest.approx(line, abs=1e-6)


def test_perfect_and_hopeless_accuracies_are_finite():
    above, line = effective_robustness(100.0, 100.0, [40.0, 100.0], [0.0, 50.0], n_id=300, n_ood=300)
    assert np.isfinite([above, *line]).all()
    assert line.at(smoothed(100.0, 300)) == pytest.approx(50)
    assert above == pytest.approx(100 * 300.5 / 301 - 50)


@given(percents, percents, st.integers(1, 10**6))
def test_smoothing_keeps_the_order_and_stays_within(one, other, n):
    low, high = smoothed(min(one, other), n), smoothed(max(one, other), n)
    assert 0 < low <= high < 100
    assert abs(low - min(one, other)) <= 50 / n


def test_smoothing_adds_half_a_hit_and_half_a_miss():
    assert smoothed(100 * 7 / 9, 9) == pytest.approx(100 * 7.5 / 10)


def test_the_line_takes_arrays_for_drawing():
    np.testing.assert_allclose(Line(1.0, 0.0).at([10.0, 50.0, 90.0]), [10.0, 50.0, 90.0])


@pytest.mark.parametrize(
    ("ids", "named"), [((), "got none"), ((80.0,), r"got 80\.00 %"), ((100.0, 100.0), r"got 100\.00 %, 100\.00 %")]
)
def test_fewer_than_two_different_baselines_are_refused(ids, named):
    with pytest.raises(UserError, match=rf"at least two different ID accuracies, {named}.*; add probes"):
        effective_robustness(90.0, 50.0, ids, [30.0] * len(ids), n_id=300, n_ood=300)
