"""The report's scores of the brain encoder: each baseline has its mark, old and imported metrics draw as well."""

import math
import re
from copy import deepcopy
from dataclasses import replace
from types import SimpleNamespace

import pytest

from neuralood.config import load_params
from neuralood.report.charts import FAINT, LINEAR
from neuralood.report.encoder_scores import BASELINES, baselines_of, encoder, roi_dots

REGIONS = ["V1v", "EBA"]


def summary(r):
    return {"pearson": {"mean": r, "median": r + 0.01}}


def interval(r):
    return {"r": r, "low": r - 0.02, "high": r + 0.03}


@pytest.fixture
def old_scores():
    """Scores with the ridge baseline only, as medians."""
    return {
        "data": "algonauts",
        "n_train": 80,
        "n_test": 20,
        "n_vertices": 300,
        **summary(0.5),
        "ridge": summary(0.4),
        "fraction_of_ceiling": 0.7,
        "noise_normalised": {"mean": 0.4, "median": 0.45},
        "groups": {group: {**summary(r), "ridge": summary(r - 0.1)} for group, r in (("early", 0.6), ("high", 0.3))},
        "roi": {
            "lh.V1v": {"n_vertices": 9, "pearson": 0.61, "ridge": 0.55, "noise_ceiling": 0.8},
            "rh.V1v": {"n_vertices": 9, "pearson": 0.62, "ridge": 0.56, "noise_ceiling": 0.81},
            "rh.EBA": {"n_vertices": 7, "pearson": 0.31, "ridge": 0.21, "noise_ceiling": 0.7},
        },
    }


@pytest.fixture
def scores(old_scores):
    """The same with all baselines, means and intervals."""
    found = deepcopy(old_scores)
    for one, r in ((found, 0.501), (found["groups"]["early"], 0.602), (found["groups"]["high"], 0.303)):
        one |= {"mean": interval(r), "over_ridge": {"r": 0.011, "low": -0.002, "high": 0.024}}
    for name, one in found["roi"].items():
        one |= {"mean": interval(one["pearson"] - 0.005), "over_ridge": interval(0.01)}
        assert name in old_scores["roi"]
    found["best_ridge"] = "factorised"
    found["baselines"] = {
        name: {
            **summary(0.41 + number / 100),
            "groups": {"early": summary(0.51 + number / 100), "high": summary(0.21 + number / 100)},
            "roi": {roi: 0.1 * number for roi in found["roi"]},
        }
        for number, name in enumerate(BASELINES)
    }
    return found


def page_of(scores, ood=None):
    """The section and its charts."""
    outputs = SimpleNamespace(encoder=scores, encoder_ood=ood or {}, encoder_record={}, fmri_simulated=False)
    charts = {}
    return encoder(outputs, load_params(), charts), charts


def rows_of(html):
    """The cells of the tables' rows."""
    return [re.findall(r"<t[dh]>(.*?)</t[dh]>", row) for row in re.findall(r"<tr.*?</tr>", html)]


def test_the_encoder_is_drawn_as_a_mean_with_its_interval(scores):
    _, model, _ = roi_dots(scores, "rh", REGIONS)
    assert model.values == [pytest.approx(0.615), pytest.approx(0.305)]
    assert model.intervals[1] == (pytest.approx(0.285), pytest.approx(0.335))


def test_without_intervals_the_median_is_drawn(old_scores):
    ceiling, model, baselines = roi_dots(old_scores, "rh", REGIONS)
    assert (ceiling.values, model.values, model.intervals) == ([0.81, 0.7], [0.62, 0.31], None)
    assert [(dots.name, list(dots.values), dots.colour) for dots in baselines] == [("ridge", [0.56, 0.21], LINEAR)]


def test_every_baseline_has_a_mark_of_its_own_and_the_best_one_stands_out(scores):
    _, _, baselines = roi_dots(scores, "lh", ["V1v"])
    assert [dots.values[0] for dots in baselines] == pytest.approx([0.0, 0.1, 0.3, 0.2])
    assert len({dots.marker for dots in baselines}) == 4
    assert [dots.colour for dots in baselines] == [FAINT, FAINT, FAINT, LINEAR]
    assert baselines[-1].size > baselines[0].size


def test_a_roi_of_one_hemisphere_leaves_a_gap_in_the_other(scores):
    ceiling, model, baselines = roi_dots(scores, "lh", REGIONS)
    assert all(math.isnan(dots.values[1]) for dots in (ceiling, model, *baselines))
    assert not any(math.isnan(dots.values[0]) for dots in (ceiling, model, *baselines))
    _, charts = page_of(scores)
    assert {"encoder_lh", "encoder_rh"} == set(charts)


def test_an_encoder_with_neither_ceiling_nor_baseline_is_drawn(old_scores):
    for one in (old_scores, *old_scores["groups"].values(), *old_scores["roi"].values()):
        for key in ("ridge", "noise_ceiling", "fraction_of_ceiling", "noise_normalised"):
            one.pop(key, None)
    ceiling, model, baselines = roi_dots(old_scores, "rh", REGIONS)
    assert (ceiling, model.values, baselines) == (None, [0.62, 0.31], [])
    html, _ = page_of(old_scores)
    assert rows_of(html) == [
        ["group", "encoder, mean r"],
        ["early", "0.600"],
        ["high", "0.300"],
        ["all vertices", "0.500"],
    ]


def test_means_of_baselines_come_from_either_form_of_the_metrics(scores, old_scores):
    assert baselines_of(old_scores, "early")["ridge"]["mean"] == 0.5
    assert [r["mean"] for r in baselines_of(scores, "early").values()] == pytest.approx([0.51, 0.52, 0.53, 0.54])
    assert [r["mean"] for r in baselines_of(scores).values()] == pytest.approx([0.41, 0.42, 0.43, 0.44])


def test_the_table_has_the_gain_over_the_best_ridge_with_its_interval(scores):
    head, early, high, total = rows_of(page_of(scores)[0])
    assert head[:2] == ["group", "encoder, mean r"]
    assert head[6] == "gain over the best ridge"
    assert early[:3] == ["early", "0.602 [0.582, 0.632]", "0.510"]
    assert high[6] == "+0.011 [\N{MINUS SIGN}0.002, +0.024]"
    assert total[-2:] == ["0.700", "0.450"]


def ood_set(early, high, photo):
    groups = {"early": summary(early), "high": summary(high)}
    photos = {**summary(photo), "groups": {"early": summary(photo), "high": summary(photo)}}
    return {"n": 1234, **summary((early + high) / 2), "groups": groups, "photo": photos}


def test_sets_other_than_photos_have_a_chart_and_a_table(scores):
    one = ood_set(0.5, 0.1, 0.6) | {"fraction_of_ceiling": 0.4}
    html, charts = page_of(scores, {"sketch": one})
    assert "encoder_ood" in charts
    assert rows_of(html)[-1] == ["sketch", "1,234", "0.510", "0.610", "0.110", "0.610", "0.310", "0.610", "0.400", ""]


def test_without_such_sets_there_is_no_such_chart(scores):
    html, charts = page_of(scores)
    assert "beyond photos" not in html
    assert "encoder_ood" not in charts


def test_a_subject_without_high_rois_has_the_others_drawn(scores):
    one = ood_set(0.5, 0.1, 0.6)
    del one["groups"]["high"], one["photo"]["groups"]["high"]
    html, charts = page_of(scores, {"sketch": one})
    assert "high" not in charts["encoder_ood"].svg
    assert rows_of(html)[-1][2:6] == ["0.510", "0.610", "", ""]


def test_the_ceilings_threshold_is_that_of_params(scores):
    params = load_params()
    changed = replace(params, fmri=replace(params.fmri, ceiling_threshold=0.33))
    outputs = SimpleNamespace(encoder=scores, encoder_ood={}, encoder_record={}, fmri_simulated=True)
    assert "ceiling is above 0.33" in encoder(outputs, changed, {})


def test_vertices_left_out_are_told_and_so_are_rois_that_this_empties(scores):
    assert "left out" not in page_of(scores | {"vertices_left_out": 0, "rois_left_out": []})[0]
    assert (
        "1,204 others are left out: their fMRI is not finite or does not vary."
        in page_of(scores | {"vertices_left_out": 1204, "rois_left_out": []})[0]
    )
    assert (
        "no vertex of lh.mTL-words, rh.OWFA."
        in page_of(scores | {"vertices_left_out": 3, "rois_left_out": ["lh.mTL-words", "rh.OWFA"]})[0]
    )
