"""The report's sentences follow the numbers."""

import pytest

from neuralood.report.page import text
from neuralood.report.words import banner, verdict, verdicts


def cell(low: float, high: float) -> dict:
    return {
        "linear": {"top1": 50.0},
        "fusion": {"top1": 50.0 + (low + high) / 2},
        "gain": {"top1": (low + high) / 2, "low": low, "high": high},
    }


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(1.0, 3.0, "a gain of 2.0 points"), (-3.0, -1.0, "a loss of 2.0 points"), (-1.0, 1.0, "no clear difference")],
)
def test_the_verdict_follows_the_interval(low, high, said):
    assert said in verdict("On average", cell(low, high))


def test_an_interval_that_touches_zero_is_no_gain():
    assert "no clear difference" in verdict("On average", cell(0.0, 4.0))


def test_without_a_mean_each_set_gets_its_sentence():
    sentences = verdicts({"id": {"val": cell(-1, 1)}, "ood": {"sketch": cell(1, 3), "edges": cell(-3, -1)}})
    assert [("sketch" in one, "edges" in one, "(val)" in one) for one in sentences] == [
        (True, False, False),
        (False, True, False),
        (False, False, True),
    ]


def test_what_is_simulated_is_said_and_nothing_else():
    assert banner(True, ["val", "edges"], ["val", "edges"]).startswith("SIMULATED")
    assert "the images classified are real" in banner(True, [], ["val"])
    assert "edges" in banner(False, ["edges"], ["val", "edges"])
    assert banner(False, [], ["val"]) is None


def test_what_comes_from_data_is_escaped():
    assert "<script>" not in text("p", "<script>alert(1)</script>")
