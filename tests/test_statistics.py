"""The bootstrap's shortcut against one that really draws source images; tests against statsmodels; coverage."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp
from statsmodels.stats.contingency_tables import mcnemar as their_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import NormalIndPower
from statsmodels.stats.proportion import proportion_effectsize

from neuralood.statistics import (
    PairedResult,
    bootstrap_interval,
    bootstrap_means,
    bootstrap_p,
    cohens_h,
    holm,
    holm_levels,
    mcnemar,
    percentile_interval,
    seed_interval,
    smallest_gain,
)

RESAMPLES = 10_000


def result(difference, sources=None):
    difference = np.asarray(difference, float)
    return PairedResult(difference, tuple(sources or (f"image{row}" for row in range(len(difference)))))


def draw(rng, count, sources=None):
    """Differences of one model's right and wrong answers, in percent, as they come with one seed."""
    return result(100 * rng.choice([-1, 0, 1], size=count, p=[0.1, 0.7, 0.2]), sources)


def by_brute_force(sets, rng, resamples=RESAMPLES):
    """Means over sets of the mean difference: sources drawn one by one, all versions of one together.

    Sources that occur in the same sets are drawn among themselves.
    """
    names = sorted({source for one in sets.values() for source in one.sources})
    strata = {}
    for name in names:
        strata.setdefault(tuple(name in one.sources for one in sets.values()), []).append(name)
    rows = {
        name: [[row for row, source in enumerate(one.sources) if source == name] for one in sets.values()]
        for name in names
    }
    means = []
    for _ in range(resamples):
        picked = [[] for _ in sets]
        for members in strata.values():
            for choice in rng.integers(len(members), size=len(members)):
                for place, found in enumerate(rows[members[choice]]):
                    picked[place] += found
        means.append(np.mean([one.difference[place].mean() for one, place in zip(sets.values(), picked, strict=True)]))
    return np.array(means)


def assert_same_distribution(sets, rng):
    """Both ends within the Monte-Carlo error of a 2.5 % quantile: sd of each 0.045 sd at 3,500 draws."""
    low, high = bootstrap_interval(sets, RESAMPLES, rng)
    means = by_brute_force(sets, rng, 3_500)
    expected, sd = np.percentile(means, [2.5, 97.5]), means.std()
    assert sd > 0
    np.testing.assert_allclose([low, high], expected, atol=0.2 * sd + 1e-9)


def test_one_set(rng):
    assert_same_distribution({"a": draw(rng, 60)}, rng)


def test_seeds_averaged_first(rng):
    seeds = np.mean([draw(rng, 50).difference for _ in range(3)], axis=0)
    assert_same_distribution({"a": result(seeds)}, rng)


def test_sources_shared_by_several_sets(rng):
    assert_same_distribution({name: draw(rng, 40) for name in "abc"}, rng)


def test_sources_shared_by_some_sets_only(rng):
    sets = {
        "a": draw(rng, 30),
        "b": draw(rng, 30, [f"image{row}" for row in range(10, 40)]),
        "c": draw(rng, 25, [f"photo{row}" for row in range(25)]),
    }
    assert_same_distribution(sets, rng)


def test_several_versions_of_one_source_in_one_set(rng):
    sources = [f"image{row // 4 if row < 20 else row}" for row in range(45)]
    assert_same_distribution({"a": draw(rng, 45, sources)}, rng)


def test_sets_of_different_sizes_count_alike(rng):
    sets = {"small": result([100.0] * 8), "large": result([0.0] * 80, [f"other{row}" for row in range(80)])}
    assert bootstrap_interval(sets, 100, rng) == (50.0, 50.0)


def test_versions_of_one_image_are_no_new_evidence(rng):
    """The same answers in two sets: as sure as in one, and less so than with images of their own."""
    one = draw(rng, 200)
    alone = np.ptp(bootstrap_interval({"a": one}, RESAMPLES, rng))
    together = np.ptp(bootstrap_interval({"a": one, "b": one}, RESAMPLES, rng))
    apart = result(one.difference, [f"other{row}" for row in range(200)])
    independent = np.ptp(bootstrap_interval({"a": one, "b": apart}, RESAMPLES, rng))
    assert together == pytest.approx(alone, rel=0.1)
    assert independent == pytest.approx(alone / 2**0.5, rel=0.1)


STUDIES = 2_000


def test_the_interval_over_images_covers_the_truth_in_95_percent_of_studies(rng):
    """Fixed models, 300 new images a study. sd of the share: 0.5 %."""
    covered = 0
    for _ in range(STUDIES):
        low, high = bootstrap_interval({"a": draw(rng, 300)}, 500, rng)
        covered += low <= 10.0 <= high
    assert 0.93 < covered / STUDIES < 0.97


@pytest.mark.parametrize("seeds", [3, 5])
def test_the_interval_over_seeds_covers_the_truth_in_95_percent_of_studies(rng, seeds):
    intervals = [seed_interval(study.tolist()) for study in rng.normal(10.0, 4.0, (STUDIES, seeds))]
    assert 0.93 < np.mean([low <= 10.0 <= high for low, high in intervals]) < 0.97


def test_the_smallest_gain_is_found_in_four_of_five_studies(rng):
    spread = bootstrap_means({"a": draw(rng, 400)}, 2_000, rng)
    gain = smallest_gain(spread)
    right = 0.3 + gain / 100  # answers that differ: 30 % of the images, as in `draw`
    found = 0
    for _ in range(500):
        difference = 100 * rng.choice([-1, 0, 1], size=400, p=[0.15 - gain / 200, 0.7, right / 2])
        low, _ = bootstrap_interval({"a": result(difference)}, 500, rng)
        found += low > 0
    assert 0.73 < found / 500 < 0.87


def test_the_smallest_gain_is_that_of_a_normal_test(rng):
    means = rng.normal(0, 2.0, 200_000)
    effect = NormalIndPower(ddof=0).solve_power(nobs1=1, alpha=0.05, power=0.8, ratio=0)  # one sample, in units of sd
    assert smallest_gain(means) == pytest.approx(2.0 * effect, rel=0.01)


def test_seeds_are_a_t_test_of_one_sample(rng):
    per_seed = rng.normal(3, 1, 5)
    expected = ttest_1samp(per_seed, 0).confidence_interval(0.95)
    assert seed_interval(per_seed.tolist()) == pytest.approx(tuple(expected))
    assert seed_interval([3.0]) is None


@pytest.mark.parametrize("p_one", [0.3, 0.5, 0.9])
def test_mcnemar_is_statsmodels(rng, p_one):
    one, other = rng.random(80) < p_one, rng.random(80) < 0.5
    table = [[np.sum(one & other), np.sum(one & ~other)], [np.sum(~one & other), np.sum(~one & ~other)]]
    found = mcnemar(one, other)
    assert found.p == pytest.approx(their_mcnemar(table, exact=True).pvalue)
    assert (found.only_one, found.only_other) == (table[0][1], table[1][0])


def test_mcnemar_of_equal_classifiers_is_1(rng):
    one = rng.random(20) < 0.5
    assert mcnemar(one, one) == (0, 0, 1.0)


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_holm_is_statsmodels(rng, count):
    p_values = (rng.random(count) ** 3).tolist()
    p_values[-1] = p_values[0]  # a tie
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1].tolist())


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_all_levels_of_holm_reject_where_all_corrected_p_do(p_values):
    alphas = [1 - level for level in holm_levels(p_values)]
    all_reject = all(p < alpha - 1e-12 for p, alpha in zip(p_values, alphas, strict=True))
    assert all_reject == all(p < 0.05 - 1e-12 * 8 for p in holm(p_values)) or any(
        abs(p - alpha) < 1e-9 for p, alpha in zip(p_values, alphas, strict=True)
    )


def test_holm_keeps_the_error_rate_of_the_family(rng):
    """Four questions, nothing true: at least one answer in at most 5 % of studies; sd of the share 0.5 %."""
    wrong = [min(holm(rng.random(4).tolist())) < 0.05 for _ in range(STUDIES)]
    assert np.mean(wrong) < 0.063


def test_p_is_the_alpha_whose_interval_ends_at_0(rng):
    means = rng.normal(2.0, 1.0, 20_000)
    low, _ = percentile_interval(means, 1 - bootstrap_p(means))
    assert low == pytest.approx(0, abs=0.02)
    assert bootstrap_p(np.full(999, 1.0)) == pytest.approx(0.002)
    assert bootstrap_p(np.zeros(10)) == 1.0


@given(st.floats(0, 1), st.floats(0, 1))
def test_cohens_h_is_statsmodels(one, other):
    assert cohens_h(one, other) == pytest.approx(proportion_effectsize(one, other), abs=1e-9)


@given(st.lists(st.sampled_from([-100.0, 0.0, 50.0, 100.0]), min_size=10, max_size=60), st.integers(0, 2**31))
def test_the_interval_lies_around_the_point_and_within_the_data(difference, seed):
    low, high = bootstrap_interval({"a": result(difference)}, 500, np.random.default_rng(seed))
    assert min(difference) <= low <= high <= max(difference)
    assert low - 1e-9 <= np.mean(difference) <= high + 1e-9


@given(value=st.sampled_from([-100.0, 0.0, 100 / 3, 100.0]), count=st.integers(1, 30))
def test_equal_data_have_an_interval_of_no_width(value, count):
    low, high = bootstrap_interval({"a": result([value] * count)}, 200, np.random.default_rng(0))
    assert low == high == pytest.approx(value, abs=1e-8)


def test_same_generator_same_interval(rng):
    data = {"a": draw(rng, 50)}
    one, other = (bootstrap_interval(data, 1000, np.random.default_rng(4)) for _ in range(2))
    assert one == other


def test_order_of_images_does_not_matter(rng):
    data = draw(rng, 50)
    order = rng.permutation(50)
    mixed = PairedResult(data.difference[order], tuple(data.sources[row] for row in order))
    one, other = (bootstrap_interval({"a": part}, 1000, np.random.default_rng(4)) for part in (data, mixed))
    assert one == other
