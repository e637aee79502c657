"""The holdout: stratified, seeded, and never in training."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuralood.data.splits import stratified_holdout

LABELS = st.lists(st.integers(0, 4), min_size=1, max_size=60).map(np.array)


@given(labels=LABELS, share=st.floats(0.01, 0.99), seed=st.integers(0, 2**31))
def test_parts_are_disjoint_sorted_cover_all_and_keep_every_class(labels, share, seed):
    rows, holdout = stratified_holdout(labels, share, np.random.default_rng(seed))
    assert sorted([*rows, *holdout]) == list(range(len(labels)))
    assert list(rows) == sorted(rows)
    assert list(holdout) == sorted(holdout)
    for label in np.unique(labels):
        count, held = (labels == label).sum(), (labels[holdout] == label).sum()
        assert held == (0 if count == 1 else min(max(1, round(share * count)), count - 1))


@given(labels=LABELS, seed=st.integers(0, 2**31))
def test_same_seed_same_holdout(labels, seed):
    one, other = (stratified_holdout(labels, 0.3, np.random.default_rng(seed))[1] for _ in range(2))
    np.testing.assert_array_equal(one, other)


def test_another_seed_holds_out_others():
    labels = np.repeat([0, 1], 50)
    one, other = (stratified_holdout(labels, 0.1, np.random.default_rng(seed))[1] for seed in (1, 2))
    assert one.tolist() != other.tolist()


def test_every_image_is_as_likely_held_out(rng):
    labels = np.repeat([0, 1], 10)
    counts = np.bincount(np.concatenate([stratified_holdout(labels, 0.3, rng)[1] for _ in range(500)]), minlength=20)
    assert counts.sum() == 500 * 6
    np.testing.assert_allclose(counts, 150, atol=50)  # sd 10


@pytest.mark.parametrize("labels", [[0], [0, 1, 2]])
def test_classes_of_one_image_stay_in_training(rng, labels):
    rows, holdout = stratified_holdout(np.array(labels), 0.5, rng)
    assert rows.tolist() == list(range(len(labels)))
    assert holdout.tolist() == []
