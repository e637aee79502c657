"""What lies beside the page: each chart as SVG and CSV, and the page's words as Markdown."""

import csv
import io
import re
from functools import cache

import pytest
from helpers_report import made_up_geometry, made_up_humans, made_up_robustness, made_up_study
from hypothesis import given
from hypothesis import strategies as st

from neuralood.base import paths
from neuralood.report import charts as looks
from neuralood.report import page
from neuralood.report.charts import Chart, Dots, accuracy_chart, gain_chart
from neuralood.report.figures import chart, write_charts
from neuralood.report.geometry import geometry
from neuralood.report.humans import humans
from neuralood.report.markdown import markdown
from neuralood.report.robustness import robustness
from neuralood.report.study import study

NAN = float("nan")


@cache
def all_charts():
    """Every chart of the made-up results."""
    charts = {}
    for section, record in (
        (study, made_up_study()),
        (robustness, made_up_robustness()),
        (humans, made_up_humans()),
        (geometry, made_up_geometry()),
    ):
        section(record, charts)
    return charts


def test_charts_are_the_same_bytes_each_time_and_carry_no_date():
    first, again = all_charts(), all_charts.__wrapped__()
    assert len(first) == 6
    assert first == again
    assert not any(re.search(r"dc:date|\d{4}-\d\d-\d\d", one.svg) for one in first.values())


def test_each_chart_has_its_numbers_beside_it_and_old_ones_go(project):
    charts = all_charts()
    for name in ("gone.svg", "gone.csv", "kept.txt"):
        paths.PLOTS.mkdir(parents=True, exist_ok=True)
        (paths.PLOTS / name).write_text("old")
    write_charts(charts)
    assert {file.name for file in paths.PLOTS.iterdir()} == {
        "kept.txt",
        *(f"{name}.{kind}" for name in charts for kind in ("svg", "csv")),
    }
    for name, one in charts.items():
        rows = list(csv.reader((paths.PLOTS / f"{name}.csv").read_text().splitlines()))
        assert tuple(rows[0]) == one.columns
        assert len(rows) == len(one.rows) + 1 > 1
        assert {len(row) for row in rows} == {len(one.columns)}


def test_numbers_of_dots_are_those_drawn_and_gaps_are_left_out():
    linear = Dots("linear", [50.0, NAN], "o", "red", False, [(40.0, 60.0), (NAN, NAN)])
    fusion = Dots("fusion", [70.123456789, 80.0], "s", "blue", True, [(65.0, 75.0), (70.0, 90.0)])
    rows = list(csv.reader(io.StringIO(accuracy_chart(["val", "edges"], linear, fusion).csv)))
    assert rows == [
        ["row", "series", "value", "low", "high"],
        ["val", "linear", "50", "40", "60"],
        ["val", "fusion", "70.1235", "65", "75"],
        ["edges", "fusion", "80", "70", "90"],
    ]


def test_dots_without_intervals_leave_their_cells_empty():
    chart = gain_chart(["val"], Dots("gain", [1.5], "D", "blue"))
    assert chart.csv.splitlines()[1] == "val,gain,1.5,,"


@given(st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1))
def test_names_with_commas_quotes_and_the_like_come_back_from_the_csv(name):
    chart = Chart("", ("row", "value"), ((name, 1.0),))
    assert next(csv.DictReader(io.StringIO(chart.csv))) == {"row": name, "value": "1"}


def test_a_chart_on_the_page_names_its_files():
    html = chart({"gain": gain_chart(["val"], Dots("gain", [1.5], "D", "blue"))}, "gain", "A <caption>")
    assert '<figure id="gain">' in html
    assert "plots/gain.svg, gain.csv" in html
    assert "A &lt;caption&gt;" in html


def contrast(one, other):
    """WCAG 2 contrast of two colours."""

    def luminance(colour):
        values = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [value / 12.92 if value <= 0.03928 else ((value + 0.055) / 1.055) ** 2.4 for value in values]
        return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_marks_and_text_stand_out_from_the_paper():
    assert all(contrast(colour, "#ffffff") >= 3 for colour in (looks.LINEAR, looks.FUSION, looks.FAINT, looks.INK))
    for rule in (":root {", "@media screen and (prefers-color-scheme: dark) { :root {"):
        block = page.CSS[page.CSS.index(rule) :].split("}")[0]
        colours = dict(re.findall(r"--(\w+): (#\w+);", block))
        wash = colours["wash"]
        assert all(contrast(colours[name], wash) >= 4.5 for name in ("right", "wrong", "soft", "ink"))


def test_nothing_dark_is_printed_and_no_figure_is_broken():
    assert page.CSS.count("prefers-color-scheme") == page.CSS.count("@media screen and (prefers-color-scheme") == 1
    printed = page.CSS[page.CSS.index("@media print") :]
    assert re.search(r"figure[^{]*\{ break-inside: avoid; \}", printed)


def test_markdown_has_words_tables_and_links_to_charts():
    table = page.table(["set", "top-1"], [["val", "50.0"], ["a|b", "1.0"]])
    figure = page.figure("<svg><text>left out</text></svg>", "What it shows.", "gain")
    parts = [
        page.text("h1", "Title"),
        page.text("p", "Words & more."),
        table,
        figure,
        page.terms({"r": "a number"}, "terms"),
    ]
    assert markdown(page.page("Head", parts)).split("\n\n") == [
        "# Title",
        "Words & more.",
        "| set | top-1 |\n| --- | ---: |\n| val | 50.0 |\n| a\\|b | 1.0 |",
        "![gain](plots/gain.svg)",
        "*What it shows.*",
        "- **r**: a number\n",
    ]


def test_markdown_leaves_pictures_out_and_what_describes_them():
    pictures = page.element("section", page.text("h2", "Samples"), page.element("div", "x", cls="card"), cls="pictures")
    strip = page.figure(page.image("data:image/jpeg;base64,AAAA", "alt"), "Where it looks.")
    assert markdown(page.text("p", "before") + pictures + strip + page.text("p", "after")) == "before\n\nafter\n"


def test_markdown_keeps_code_and_bold():
    assert markdown("<p>run <code>neuralood study</code>, <b>now</b></p>") == "run `neuralood study`, **now**\n"


@given(st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1))
def test_no_markup_of_the_data_gets_into_the_markdown(name):
    """A class called <script> stays text in whatever renders the file."""
    assert "<" not in markdown(page.text("p", f"<script>{name}</script>"))


@pytest.mark.parametrize("section", [study, robustness, humans, geometry])
def test_without_results_there_is_no_section(section):
    assert section({}, {}) == ""
