"""People's answers to the same images, and how much like them somebody answers."""

from functools import reduce
from operator import add

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from neuralood.base.errors import UserError
from neuralood.humans.agreement import (
    ShapeBias,
    agreement_among,
    agreement_with,
    error_consistency,
    observed_consistency,
    shape_bias,
)
from neuralood.humans.categories import CATEGORIES, MEMBERS, NO_ANSWER, answers_of
from neuralood.humans.trials import Observer, image_id, read_observers, shape_and_texture

HEADER = "subj,session,trial,rt,object_response,category,condition,imagename"
EXPERIMENTS = {
    "style-transfer-512-nomask-experiment": (1280, 0.7652, 0.3311, 0.7755),
    "edge-experiment": (160, 0.8386, 0.3184, 0.8712),
    "silhouette-filled-experiment": (160, 0.8035, 0.4757, 0.7531),
}
"""Images, and of people among themselves observed consistency, kappa and accuracy, from the raw answers."""


def write(folder, name, *rows, header=HEADER, session=1):
    folder.mkdir(exist_ok=True)
    text = "\n".join([header, *rows, ""])
    (folder / f"edge-experiment_{name}_session_{session}.csv").write_text(text)


def row(answer, category, image, condition="0"):
    return f"subject-01,1,1,0.9,{answer},{category},{condition},{image}"


def observer(correct, name="subject-01"):
    truth = np.zeros(len(correct), int)
    answers = np.where(correct, 0, 1)
    images = tuple(f"cat{number}.png" for number in range(len(correct)))
    return Observer(name, images, ("0",) * len(correct), truth, answers)


# Categories


def test_the_16_categories_are_207_classes_of_imagenet_each_in_one():
    members = [index for columns in MEMBERS.values() for index in columns]
    assert len(CATEGORIES) == 16
    assert list(CATEGORIES) == sorted(CATEGORIES)
    assert len(members) == len(set(members)) == 207
    assert {name: len(columns) for name, columns in MEMBERS.items() if name in ("dog", "bird", "knife")} == {
        "dog": 109,
        "bird": 49,
        "knife": 1,
    }


def test_the_category_of_the_largest_mean_probability_is_answered():
    """Two bears share more probability than the knife has, but less on average."""
    probabilities = np.zeros((3, 1000))
    probabilities[0, [294, 295]], probabilities[0, 499] = 0.2, 0.15  # mean bear 0.1
    probabilities[1, 294:298] = 0.2
    probabilities[2, 0] = 1.0  # in none of the 16: all means are 0
    assert [CATEGORIES[answer] for answer in answers_of(probabilities, MEMBERS)] == ["knife", "bear", CATEGORIES[0]]


def test_categories_that_a_classifier_lacks_are_never_answered():
    probabilities = np.array([[0.2, 0.8], [0.9, 0.1]])
    answers = answers_of(probabilities, {"dog": (0,), "truck": (1,)})
    assert [CATEGORIES[answer] for answer in answers] == ["truck", "dog"]


# Trials


def test_sessions_are_joined_and_answers_numbered(tmp_path):
    write(tmp_path, "subject-01", row("cat", "cat", "0001_edg_s01_0_cat_00_cat3.png"))
    write(tmp_path, "subject-01", row("na", "dog", "0001_edg_s01_0_dog_00_dog3.png", "c05"), session=2)
    write(tmp_path, "alexnet", row("dog", "cat", "0007_edg_dnn_0_cat_00_cat3.png"))
    network, person = read_observers(tmp_path, "edge-experiment")
    assert (network.name, person.name) == ("alexnet", "subject-01")
    assert (network.is_person, person.is_person) == (False, True)
    assert person.images == ("cat3.png", "dog3.png")
    assert person.conditions == ("0", "c05")
    assert person.answers.tolist() == [CATEGORIES.index("cat"), NO_ANSWER]
    assert person.correct.tolist() == [True, False]
    assert network.correct.tolist() == [False]


def test_a_second_column_with_a_capital_is_read_too(tmp_path):
    write(tmp_path, "subject-01", row("cat", "cat", "x_cat3.png"), header=HEADER.replace("session", "Session"))
    assert read_observers(tmp_path, "edge-experiment")[0].correct.all()


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("0001_cl_s01_cr_oven_40_n04111531_14126.png", "n04111531_14126.png"),
        ("0001_s5n_s01_0_bird_00_bird3-bird2.png", "bird3-bird2.png"),
        ("cat3.png", "cat3.png"),
    ],
)
def test_an_image_is_named_as_every_observer_has_it(name, image):
    assert image_id(name) == image


@pytest.mark.parametrize(
    ("rows", "header", "problem"),
    [
        ([row("tiger", "cat", "a_cat1.png")], HEADER, r"line 2: 'tiger' is none of the 16 categories"),
        ([row("cat", "cat", "a_cat1.png"), "subject-01,1,2,0.9,cat"], HEADER, r"line 3: the line is cut short"),
        ([row("cat", "cat", "a_cat1.png")], HEADER.replace("imagename", "image"), "has no column imagename"),
        ([row("cat", "cat", "a_cat1.png"), row("dog", "cat", "b_cat1.png")], HEADER, "has two answers to an image"),
        ([], "", "has no column subj"),
    ],
)
def test_damaged_tables_are_refused(tmp_path, rows, header, problem):
    write(tmp_path, "subject-01", *rows, header=header)
    with pytest.raises(UserError, match=problem):
        read_observers(tmp_path, "edge-experiment")


def test_no_answers_at_all_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no answers of people"):
        read_observers(tmp_path, "edge-experiment")


def test_answers_are_aligned_by_image():
    seen = observer([True, False, True])
    turned = seen.at(seen.images[::-1])
    assert turned.correct.tolist() == [True, False, True][::-1]
    with pytest.raises(UserError, match=r"no answer to dog1.png and 0 more"):
        seen.at(["dog1.png"])


# Agreement


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_kappa_is_cohens(pairs):
    one, other = np.array(pairs).T
    kappa = error_consistency(one, other)
    if (one == other).all():
        assert kappa == 1.0
    else:
        assert kappa == pytest.approx(cohen_kappa_score(one, other), abs=1e-12)
    assert kappa == error_consistency(other, one)
    assert kappa <= observed_consistency(one, other) or kappa == 1.0


def test_independent_errors_have_kappa_0(rng):
    one, other = rng.random(200_000) < 0.7, rng.random(200_000) < 0.4
    assert error_consistency(one, other) == pytest.approx(0, abs=0.01)


def test_agreement_is_the_mean_over_pairs():
    people = [observer([True, True, False, False]), observer([True, False, False, False]), observer([True] * 4)]
    among = agreement_among(people)
    assert among.pairs == 3
    assert among.observed == pytest.approx(np.mean([0.75, 0.5, 0.25]))
    with_all = agreement_with(people[0], people[1:])
    assert with_all.observed == pytest.approx(np.mean([0.75, 0.5]))
    assert with_all.kappa == pytest.approx(
        np.mean([error_consistency(people[0].correct, other.correct) for other in people[1:]])
    )


def test_shape_bias_counts_answers_of_either_cue():
    images = ("cat1-dog2.png", "cat2-dog1.png", "dog1-cat3.png", "bear1-cat1.png", "cat3-cat1.png")
    answers = np.array([CATEGORIES.index(name) for name in ("cat", "dog", "oven", "bear", "cat")])
    found = shape_bias(images, answers)
    assert found == ShapeBias(shape=2, texture=1, images=4)  # the last one has no conflict
    assert found.bias == pytest.approx(2 / 3)
    assert found.either == pytest.approx(3 / 4)
    assert shape_bias(images[4:], answers[4:]).bias is None


@pytest.mark.parametrize("image", ["cat1.png", "cat1-tiger2.png", "a-b-c.png"])
def test_images_without_two_cues_are_refused(image):
    with pytest.raises(ValueError, match=r"no cue-conflict image"):
        shape_and_texture(image)


# Real answers


@pytest.mark.real
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_people_agree_as_published(real, experiment):
    images, observed, kappa, accuracy = EXPERIMENTS[experiment]
    people = [one for one in _observers(real, experiment) if one.is_person]
    assert [len(one.images) for one in people] == [images] * 10
    among = agreement_among(people)
    assert (among.observed, among.kappa) == pytest.approx((observed, kappa), abs=5e-4)
    assert np.mean([one.correct.mean() for one in people]) == pytest.approx(accuracy, abs=5e-4)


@pytest.mark.real
def test_shape_bias_of_people_and_of_alexnet_is_as_published(real):
    observers = _observers(real, "style-transfer-512-nomask-experiment")
    of_each = {one.name: shape_bias(one.images, one.answers) for one in observers}
    assert of_each["alexnet"].bias == pytest.approx(0.4294, abs=5e-4)
    people = [found for name, found in of_each.items() if name.startswith("subject")]
    assert all(found.images == 1200 for found in people)
    pooled = reduce(add, people)
    assert (pooled.shape, pooled.texture) == (9236, 398)
    assert pooled.bias == pytest.approx(0.9587, abs=5e-4)


def _observers(real, experiment):
    return read_observers(real / "shape_stimuli" / "human_responses", experiment)
