"""The study on the page: its verdict comes first, and every number is where it belongs."""

import csv
import io
import re
from functools import cache
from types import SimpleNamespace

import pytest
from helpers_report import ARMS, OOD, made_up_study

from neuralood.report.sections import headline
from neuralood.report.study import KINDS, arms_by_kind, study
from neuralood.report.study_charts import Difference, difference, forest_chart, region_chart, starts_of

RUN = {
    "backbone": "tf_efficientnet_lite0",
    "fmri": "simulated",
    "variant": "bmfl",
    "control": "none",
    "pcc_weight": 1.0,
    "seeds": 1,
    "id": {},
    "ood": {},
}


def rows_of(html):
    """The cells of every row of every table, by the row's first cell; of tables that share one, a list."""
    found = {}
    for row in re.findall(r"<tr.*?</tr>", html):
        first, *cells = re.findall(r"<t[dh]>(.*?)</t[dh]>", row)
        found.setdefault(first, []).append(cells)
    return found


@cache
def drawn():
    """The study's sections of the page, and its charts."""
    charts = {}
    return study(made_up_study(), charts), charts


def head_of(record, **changes):
    """The first sentences of a page whose run is RUN, changed."""
    outputs = SimpleNamespace(
        classification={**RUN, **changes},
        encoder={"subject": "subj01"},
        study=record,
        fmri_simulated=True,
        simulated_sets=("val",),
        sets=(SimpleNamespace(name="val"),),
    )
    return headline(outputs)


@pytest.mark.parametrize(
    ("brain", "first"), [(True, "Brain information: "), (False, "No evidence that the brain helps: ")]
)
def test_the_verdict_of_the_study_comes_first(brain, first):
    record = made_up_study(brain)
    html = head_of(record)
    lead, more = re.search(r'</h1><p class="lead">(.*?)</p><p>(.*?)</p>', html).groups()
    assert f"{lead} {more}" == record["verdict"]["text"]
    assert lead.startswith(first)
    assert more == "Over seeds it does, too. The fMRI is SIMULATED."
    assert "No study yet" not in html


def test_without_a_study_the_page_says_that_a_gain_is_no_evidence_and_what_to_do():
    html = head_of({})
    assert "No study yet: a gain over the linear probe is no evidence" in html
    assert "neuralood study" in html
    assert study({}, {}) == ""


def test_a_study_of_another_backbone_is_told():
    assert "another backbone" not in head_of(made_up_study())
    assert "another backbone, tf_efficientnet_lite0" in head_of(made_up_study(), backbone="vit_small")


def test_each_arm_has_its_accuracies_difference_and_both_intervals():
    record, rows = made_up_study(), rows_of(drawn()[0])
    kind, val, mean, points, images, seeds, p, above = rows["early"][0]
    assert (kind, points, images, seeds, p, above) == (
        "regions of interest",
        "+24.9",
        "[+22.9, +26.9]",
        "[+16.9, +32.9]",
        "&lt; 0.001",
        "",
    )
    sd = record["arms"]["early"]["top1"]["ood_mean"]["sd"]
    assert mean == f"40.0 ± {sd:.1f}"
    assert val.startswith("99.0")
    assert rows["pcc_0.1"][0][-2] == "0.03"
    assert rows["bmfl"][0][-1] == "+21.4"
    assert rows["bmfl"][0][3:7] == [""] * 4


def test_all_arms_are_there_kind_after_kind():
    record = made_up_study()
    order = list(arms_by_kind(record))
    assert {name for _, name in order} == set(ARMS) - {"bmfl"}
    assert [kind for kind, _ in order] == sorted((kind for kind, _ in order), key=list(KINDS).index)


def test_arms_are_in_an_order_that_people_read():
    names = [name for _, name in arms_by_kind(made_up_study())]
    assert names[-5:] == ["without_early", "without_high", "pcc_0.1", "images_200", "images_1000"]


def test_the_table_of_sets_has_every_set():
    rows = rows_of(drawn()[0])
    assert ["val", *OOD] in rows["arm"]
    assert [float(cell) for cell in rows["linear"][1][1:]] == pytest.approx([21, 25.8, 30.6, 35.4, 40.2, 45])


def test_what_an_arm_changes_is_shown_as_params_have_it():
    rows = rows_of(drawn()[0])
    assert rows["image_only"][-1] == ["fusion.variant: image_only"]
    assert rows["without_high"][-1] == ["fusion.rois: [all, -high]"]


def test_differences_of_single_sets_are_starred_where_holm_leaves_them():
    rows = rows_of(drawn()[0])
    assert rows["BMFL minus"] == [["val", *OOD]]
    assert set(rows["high"][2][1:]) == {"+2.9"}
    assert set(rows["linear"][-1][1:]) == {"+31.9 *"}
    assert rows["linear"][-1][0] == "+0.0"


def test_a_set_beside_the_mean_is_shown_too():
    record = made_up_study()
    record["sets"]["ood"] = [*OOD, "sketch"]
    for arm in record["arms"].values():
        arm["top1"]["sketch"] = {"mean": 12.3, "per_seed": [12.3], "sd": 0.0}
    html = study(record, {})
    assert rows_of(html)["linear"][-2][len(OOD) + 1] == "12.3"
    assert "unweighted mean over silhouette, edges, conflict, noise, lowpass, contrast." in html


def test_the_verdict_rests_on_corrected_intervals():
    assert rows_of(drawn()[0])["shuffled"][0] == ["+26.0", "[+18.1, +24.0] at 98.75 %"]


def test_the_best_baseline_and_the_power_are_told():
    html, _ = drawn()
    assert "is attentive: BMFL is +28.4 points from it [+26.4, +30.4]" in html
    assert "The smallest gain shown is 2.1." in html


def numbers(chart):
    return list(csv.reader(io.StringIO(chart.csv)))


def test_the_forest_has_each_arm_once_with_both_intervals_under_its_kind():
    record, (_, charts) = made_up_study(), drawn()
    head, *rows = numbers(charts["ablations"])
    assert head == ["group", "row", "difference", "image low", "image high", "seed low", "seed high"]
    assert {row[1]: row[0] for row in rows} == {name: KINDS[kind] for kind, name in arms_by_kind(record)}
    assert ["controls", "shuffled", "26", "24", "28", "18", "34"] in rows
    assert all(f">{name}<" in charts["ablations"].svg for name in (*KINDS.values(), "shuffled", "pcc_0.1"))


def test_the_terms_of_the_decomposition_end_where_the_total_does():
    _, charts = drawn()
    rows = numbers(charts["decomposition"])[1:]
    assert [row[1] for row in rows] == [
        "a larger image network",
        "training on any fMRI",
        "what the brain knows",
        "in all",
    ]
    *terms, total = [float(row[2]) for row in rows]
    assert sum(terms) == pytest.approx(total)


def test_each_bar_begins_where_the_one_before_it_ends():
    terms = [Difference(name, value, (0, 0), (0, 0)) for name, value in (("a", 10.0), ("b", -4.0), ("c", 1.0))]
    assert starts_of(terms) == [0, 10, 6, 0]


def test_an_encoder_trained_elsewhere_has_no_terms_that_need_its_controls():
    record, charts = made_up_study(), {}
    for key in ("brain", "training_on_fmri"):
        del record["decomposition"][key]
    del record["power"]
    assert "ablations" in study(record, charts)
    assert "decomposition" not in charts


def test_one_seed_has_no_interval_over_seeds():
    record = {"difference": 3.0, "image_interval": [1.0, 5.0], "seed_interval": None}
    chart = forest_chart({"controls": [difference("shuffled", record)]})
    assert numbers(chart)[1] == ["controls", "shuffled", "3", "1", "5", "", ""]
    assert "over seeds" not in chart.svg
    assert "over images" in chart.svg


def test_regions_alone_and_left_out_share_a_row():
    cells = {"early": {"mean": 40.0, "per_seed": [39.0, 41.0]}, "faces": {"mean": 50.0, "per_seed": [50.0]}}
    chart = region_chart(cells, {"early": {"mean": 60.0, "per_seed": [58.0, 61.0]}}, {"bmfl": 65.0})
    assert numbers(chart)[1:] == [
        ["early", "this group alone", "40", "39", "41"],
        ["faces", "this group alone", "50", "50", "50"],
        ["early", "all but this group", "60", "58", "61"],
        ["", "bmfl", "65", "", ""],
    ]


def test_regions_that_were_never_left_out_stand_alone():
    chart = region_chart({"early": {"mean": 40.0, "per_seed": [39.0, 41.0]}}, {}, {"bmfl": 65.0})
    assert numbers(chart)[1:] == [["early", "this group alone", "40", "39", "41"], ["", "bmfl", "65", "", ""]]
    assert "all but this group" not in chart.svg


def test_the_regions_come_from_the_arms_of_their_kind():
    html, charts = drawn()
    rows = {(row[0], row[1]): float(row[2]) for row in numbers(charts["regions"])[1:]}
    assert rows["high", "this group alone"] == 62
    assert rows["high", "all but this group"] == 41
    assert rows["", "shuffled"] == 38.9
    assert "labels only" in html


def test_a_quick_study_without_regions_has_no_such_chart():
    record = made_up_study() | {"quick": True}
    record["arms"] = {name: arm for name, arm in record["arms"].items() if arm["kind"] != "rois"}
    charts = {}
    html = study(record, charts)
    assert "Which regions" not in html
    assert set(charts) == {"ablations", "decomposition"}
    assert "the quick one" in html


def test_arms_stand_beside_people():
    arm = {"spearman": 0.21, "low": 0.1, "high": 0.3, "main_minus_it": {"spearman": -0.04, "low": -0.09, "high": 0.01}}
    html = study(made_up_study() | {"geometry": {"objects92": {"shuffled": arm}}, "humans": {}}, {})
    assert ["0.210 [0.100, 0.300]", "-0.040 [-0.090, +0.010]"] in rows_of(html)["shuffled"]
    assert "beside people" not in study(made_up_study(), {})
