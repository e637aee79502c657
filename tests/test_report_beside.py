"""Robustness, people and brains on the page: every number where it belongs, and what is missing left out."""

import csv
import io
import re

import pytest
from helpers_report import made_up_geometry, made_up_humans, made_up_robustness

from neuralood.report.geometry import called, geometry, kind_of
from neuralood.report.humans import humans
from neuralood.report.robustness import robustness, severity_chart, transforms


def rows_of(html):
    """The cells of the tables' rows."""
    return [re.findall(r"<t[dh]>(.*?)</t[dh]>", row) for row in re.findall(r"<tr.*?</tr>", html)]


def numbers(chart):
    return list(csv.reader(io.StringIO(chart.csv)))[1:]


def test_levels_are_drawn_in_their_order_and_single_ones_are_not():
    record = made_up_robustness()
    ((title, levels),) = transforms(record["levels"])
    assert (title, list(levels)) == ("val: fog", ["fog1", "fog2", "fog10"])
    charts = {}
    html = robustness(record, charts)
    assert numbers(charts["severity"])[2] == ["val: fog", "fog10", "10", "30", "70", "40", "37", "43"]
    assert ["val: fog", "10", "30.0", "70.0", "+40.0 [+37.0, +43.0]"] in rows_of(html)


def test_severities_without_an_interval_have_a_plain_gain():
    record = made_up_robustness()
    for one in record["levels"]["val"]["fog"].values():
        del one["gain"]
    charts = {}
    assert ["val: fog", "1", "75.0", "88.0", "+13.0"] in rows_of(robustness(record, charts))
    assert numbers(charts["severity"])[0][-3:] == ["", "", ""]


@pytest.mark.parametrize("count", [1, 4, 5, 19])
def test_every_transform_has_a_panel(count):
    fog = dict(transforms(made_up_robustness()["levels"]))["val: fog"]
    chart = severity_chart({f"c: kind{number}": fog for number in range(count)})
    assert all(f">c: kind{number}<" in chart.svg for number in range(count))
    assert len(chart.rows) == 3 * count


def test_without_levels_calibration_is_told_all_the_same():
    charts = {}
    html = robustness(made_up_robustness() | {"levels": {}}, charts)
    assert charts == {}
    assert "several levels" in html
    assert ["val", "10.2", "10.0", "1.70", "1.50", "0.700", "0.500", "bolt 20 %", "bolt 20 %"] in rows_of(html)


def test_kappa_of_each_model_stands_beside_that_between_people():
    charts = {}
    html = humans(made_up_humans(), charts)
    assert numbers(charts["humans"]) == [
        ["cue", "between people", "0.331", "", ""],
        ["cue", "linear", "0.08", "0.03", "0.14"],
        ["cue", "fusion", "0.15", "0.1", "0.21"],
    ]
    people, linear, fusion = rows_of(html)[1:]
    assert people == ["cue", "10 people", "1,200", "80.0", "61.2 %", "0.331", "", "0.959"]
    assert linear[-3:] == ["0.080 [0.030, 0.140]", "", "0.210 [0.160, 0.270]"]
    assert fusion[-2:] == ["+0.070 [+0.020, +0.130]", "0.420 [0.370, 0.480]"]
    assert "fMRI of the encoder: simulated" in html


def test_a_set_that_the_classes_do_not_reach_is_said_to_be_not_applicable():
    record, charts = made_up_humans(), {}
    assert "edges: not applicable, classes map onto 3 of 16 categories." in humans(record, charts)
    charts = {}
    html = humans({"edges": record["edges"]}, charts)
    assert charts == {}
    assert "<table" not in html


def test_stimuli_without_cue_conflict_have_no_shape_bias():
    record = {"cue": made_up_humans()["cue"]}
    for who in ("people", "linear", "fusion"):
        del record["cue"][who]["shape_bias"]
    assert [row[-1] for row in rows_of(humans(record, {}))[1:]] == ["", "", ""]


def test_representations_are_lined_up_by_what_came_before_and_after_fusion():
    charts = {}
    html = geometry(made_up_geometry(), charts)
    rows = numbers(charts["geometry_objects92"])
    assert [row[1] for row in rows] == ["before fusion"] * 3 + ["predicted fMRI"] * 2 + [
        "after fusion",
        "lower to upper",
    ]
    assert rows[0] == ["[CLS]", "before fusion", "0.15", "0.09", "0.22"]
    assert rows[-1] == ["noise ceiling", "lower to upper", "", "0.379", "0.661"]
    table = rows_of(html)
    assert ["[CLS]", "before fusion", "0.150 [0.090, 0.220]", "0.100", "0.250"] in table
    assert ["noise ceiling, upper", "", "0.661", "0.661", "0.661"] in table
    minus = "\N{MINUS SIGN}"
    assert [
        "fused features",
        *(f"{gain} [{minus}0.040, +0.050]" for gain in ("+0.040", "+0.020", f"{minus}0.030")),
    ] in table


def test_one_person_has_no_ceiling():
    record = made_up_geometry()
    record["objects92"] |= {"ceiling": {}, "n_people": 1}
    charts = {}
    html = geometry(record, charts)
    assert "one person" in html
    assert "Shaded" not in html
    assert "noise ceiling" not in charts["geometry_objects92"].svg


def test_representations_have_names_that_people_read():
    names = ("cls", "fmri", "fmri_high", "fused", "classifier_input")
    assert [called(name) for name in names] == [
        "[CLS]",
        "predicted fMRI",
        "predicted fMRI, high",
        "fused features",
        "classifier's input",
    ]
    assert [kind_of(name) for name in names] == ["before fusion", *["predicted fMRI"] * 2, *["after fusion"] * 2]
