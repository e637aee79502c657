"""The report's sentences follow the numbers."""

import base64
import io
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from helpers_data import write_classes
from PIL import Image, ImageDraw

from neuralood.base import paths
from neuralood.config import MadeSet, load_params
from neuralood.data.index import made_manifest
from neuralood.data.manifest import Manifest, write_manifest
from neuralood.report.contact_sheet import MOST_COLUMNS, contact_sheets
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


COLOURS = {"val": "red", "lines": "lime", "flat": "blue"}
"""The one colour of all images of a set."""


@pytest.fixture
def sheet_params(project):
    """Params with two sets made of val, and the manifests and images of all three."""
    folder = write_classes(paths.rendered("val"), {"cat": 8, "dog": 8})
    names = tuple(sorted(str(file.relative_to(folder)) for file in folder.glob("*/*")))
    labels = tuple(int(name.startswith("dog")) for name in names)
    source = Manifest("val", "project", folder.as_posix(), True, ("cat", "dog"), names, labels, names, "print")
    for name, colour in COLOURS.items():
        below = folder if name == "val" else paths.made(name)
        for row, path in enumerate(names):
            (below / path).parent.mkdir(parents=True, exist_ok=True)
            image = Image.new("RGB", (80, 60), colour)
            image.paste(Image.new("RGB", (80, 60), (row * 16,) * 3), (0, 30))
            ImageDraw.Draw(image).rectangle((0, 0, 79, 59), outline="white", width=3)
            image.save(below / path)
        write_manifest(source if name == "val" else made_manifest(name, source, names, cropped=name == "flat"))
    made = {
        "lines": MadeSet(source="val", transform="line_drawing", level=0.5, seed=3),
        "flat": MadeSet(source="val", transform="fog", level=4, seed=1),
    }
    return replace(load_params(), made=made)


def sheet_rows(html):
    """The rows of the tables of a page, each with its pictures."""
    rows = []
    for row in re.findall(r"<tr>.*?</tr>", html):
        found = re.findall(r'<img src="data:image/jpeg;base64,([^"]*)"', row)
        rows.append((row, [Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB") for data in found]))
    return rows


def test_the_contact_sheet_has_a_row_of_photos_and_one_a_made_set_of_the_same_images(sheet_params):
    head, *rows = sheet_rows(contact_sheets(sheet_params))
    assert [colour for row, _ in rows for colour in COLOURS if f"<b>{colour}</b>" in row] == list(COLOURS)
    assert [len(pictures) for _, pictures in rows] == [MOST_COLUMNS] * 3
    assert head[0].count("cat") + head[0].count("dog") == MOST_COLUMNS
    shades = []
    for (_, pictures), colour in zip(rows, COLOURS.values(), strict=True):
        pixels = [np.asarray(picture, int) for picture in pictures]
        expected = np.asarray(Image.new("RGB", (1, 1), colour), int)[0, 0]
        assert all(np.abs(one[20, 48] - expected).max() < 12 for one in pixels)
        shades.append([int(one[80, 48].mean()) for one in pixels])
    assert np.abs(np.subtract(shades[0], shades[1:])).max() < 6
    assert np.abs(np.subtract(shades[0], [16 * row for row in (1, 3, 5, 8, 10, 12, 14)])).max() < 6
    edges = [int(np.asarray(pictures[0])[0].mean()) for _, pictures in rows]
    assert edges[0] < 200 > edges[1]
    assert edges[2] > 240, "what the network sees whole is shown whole"


def test_the_contact_sheet_names_transform_level_and_seed(sheet_params):
    html = contact_sheets(sheet_params)
    assert "line_drawing, level 0.5, seed 3" in html
    assert "fog, level 4, seed 1" in html


def test_the_contact_sheet_works_where_the_photos_are_gone(sheet_params):
    shutil.rmtree(paths.rendered("val"))
    (_, *rows) = sheet_rows(contact_sheets(sheet_params))
    assert rows[0][0].count("not on this machine") == MOST_COLUMNS
    assert [len(pictures) for _, pictures in rows] == [0, MOST_COLUMNS, MOST_COLUMNS]


def test_many_made_sets_keep_the_page_light(sheet_params):
    many = {f"lines{number}": replace(sheet_params.made["lines"], level=1.0) for number in range(60)}
    for name in many:
        shutil.copytree(paths.made("lines"), paths.made(name))
        shutil.copy(paths.manifest("lines"), paths.manifest(name))
    html = contact_sheets(replace(sheet_params, made=many))
    assert html.count("<img") == 2 * 61
