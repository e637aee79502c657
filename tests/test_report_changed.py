"""Which images changed most, and what the run was made of."""

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

from neuralood.config import load_params
from neuralood.report.attention import Attention
from neuralood.report.changed import _tiles, changed, most_changed
from neuralood.report.outputs import SetResult
from neuralood.report.pictures import SIDE
from neuralood.report.provenance import _settings


def set_result(name, labels, linear, fusion, sure, sources=None):
    """A set of images whose labels, first guesses and confidences are given; its pictures are nowhere."""
    labels = np.array(labels)
    count = len(labels)
    predictions = SimpleNamespace(
        labels=labels,
        sources=tuple(sources or (f"{name}/{row}" for row in range(count))),
        ranked={"linear": np.array(linear)[None, :, None], "fusion": np.array(fusion)[None, :, None]},
        confidence={model: np.array(sure, np.float32)[None] for model in ("linear", "fusion")},
    )
    predictions.correct = lambda model: predictions.ranked[model][..., 0] == labels
    manifest = SimpleNamespace(classes=("cat", "dog"), image_file=lambda row: Path("nowhere", f"{row}.png"))
    return SetResult(name, "ood", {}, manifest, predictions)


@pytest.fixture
def two_sets():
    labels, wrong = [0, 0, 0, 1], [1, 1, 1, 0]
    one = set_result("edges", labels, wrong, labels, [0.5, 0.9, 0.7, 0.6], ["a", "b", "c", "d"])
    other = set_result("noise", labels, labels, wrong, [0.8, 0.8, 0.1, 0.99], ["a", "b", "c", "d"])
    third = set_result("sketch", labels, wrong, labels, [0.95, 0.2, 0.2, 0.2], ["b", "x", "y", "z"])
    return one, other, third


def test_the_surest_disagreements_come_first_over_all_sets(two_sets):
    found = most_changed(two_sets, "only fusion right", 3)
    assert [(change.one.name, change.row) for change in found] == [("sketch", 0), ("edges", 2), ("edges", 3)]
    assert found[0].sureness == pytest.approx(1.9)
    found = most_changed(two_sets, "only linear right", 9)
    assert [(change.one.name, change.row) for change in found] == [("noise", row) for row in (3, 0, 1, 2)]


def test_the_page_shows_both_kinds_without_attention_where_the_encoder_has_none(two_sets):
    outputs = SimpleNamespace(sets=two_sets, encoder_record={"reads": "images"})
    html = changed(outputs, load_params())
    kinds = html.split("<h3>")[1:]
    assert [kind.count("not on this machine") for kind in kinds] == [6, 4]
    assert "cat (sketch)" in kinds[0]
    assert "✗ linear: dog, 95 % sure" in kinds[0]
    assert "✓ fusion: cat, 95 % sure" in kinds[0]
    assert "queries look" not in html


def test_where_the_models_never_differ_the_page_says_so(two_sets):
    alike = set_result("edges", [0, 1], [0, 1], [0, 1], [0.5, 0.5])
    html = changed(SimpleNamespace(sets=(alike,), encoder_record={"reads": "images"}), load_params())
    assert html.count("There is no such image.") == 2


def test_early_and_high_queries_have_a_tile_each():
    names = ("lh.V1v", "rh.V1v", "lh.EBA", "lh.rest", "lh.early-stream")
    relative = np.zeros((1, 5, 2, 2))
    relative[0, :2, 0, 0] = 8.0  # early queries look up left
    relative[0, 2, 1, 1] = 8.0  # high ones down right
    relative[0, 3:, 0, 1] = 8.0  # these count for neither
    picture = Image.new("RGB", (200, 200), (90, 90, 90))
    view, early, high = (np.asarray(tile, int) for tile in _tiles(picture, Attention(names, relative, 1.0)))
    coloured = [np.ptp(tile, axis=2) > 60 for tile in (view, early, high)]
    half = SIDE // 2
    assert not coloured[0].any()
    assert coloured[1][:half, :half].any()
    assert not coloured[1][:, half + 16 :].any()
    assert coloured[2][half:, half:].any()
    assert not coloured[2][: half - 16].any()


def test_an_encoder_without_high_rois_has_one_tile_less():
    looks = Attention(("lh.V1v",), np.ones((1, 1, 2, 2)), 1.0)
    assert len(_tiles(Image.new("RGB", (80, 60)), looks)) == 2


def test_every_value_but_those_of_runtime_is_told():
    params = load_params()
    told = _settings(params)
    assert "runtime" not in told
    assert {"seed", "backbone", "encoder", "fusion", "evaluation"} <= set(told)
    assert "vertices.early 46" in told["demo"]
    assert "lr 0.001;" in told["fusion"]
    assert "layers blocks.4" in told["backbone"]
    assert told["files"] == "none"
    other = replace(params, fusion=replace(params.fusion, lr=0.5))
    assert "lr 0.5;" in _settings(other)["fusion"]


def test_what_is_told_of_params_makes_the_page_anew():
    stage = YAML(typ="safe", pure=True).load(Path(__file__).parents[1] / "dvc.yaml")["stages"]["report"]
    assert set(stage["params"]) == set(_settings(load_params()))


def test_options_that_were_left_out_are_not_there():
    assert not re.search(r"\bNone\b|class_map", " ".join(_settings(load_params()).values()))
