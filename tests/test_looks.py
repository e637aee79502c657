"""Where queries look: each has its pictures, and attention is compared with the visual fields in the right place."""

import base64
import io
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from neuralood.config import load_params
from neuralood.data.fmri import prepare_fmri
from neuralood.demo.brain import EARLY_ROIS, BrainSettings, early_fields, field_part, simulate
from neuralood.demo.drawing import render_set
from neuralood.demo.scenes import draw_scenes
from neuralood.demo.subject import simulate_subject, simulated_fields
from neuralood.encoder.model import RoiEncoder
from neuralood.report.attention import Attention, query_names, read_attention
from neuralood.report.looks import _strips, shown_regions
from neuralood.report.pictures import SIDE
from neuralood.report.retinotopy import compare

SETTINGS = BrainSettings("shape", (0.2, 0.6), 3, early_vertices=40, high_vertices=2, rest_vertices=4)
QUERIES = tuple(f"{side}.{roi}" for roi in EARLY_ROIS for side in ("lh", "rh"))


def attention_at(spots, grid=(6, 6), crop_pct=1.0):
    """Attention over two images that lies in one patch of each query; spots: row and column by query."""
    relative = np.zeros((2, len(spots), *grid))
    for query, (row, column) in enumerate(spots.values()):
        relative[:, query, row, column] = grid[0] * grid[1]
    return Attention(tuple(spots), relative, crop_pct)


@pytest.fixture
def fields():
    return early_fields(SETTINGS, 7)


def test_the_fields_are_those_that_the_subject_was_simulated_with(fields):
    simulated = simulate(
        draw_scenes("nsd", 3, seed=1, confound=0.0), np.zeros((3, 96, 96, 3), np.uint8), SETTINGS, seed=7
    )
    for name, centres in fields.items():
        side, roi = name.split(".")
        own = (simulated.roi == roi) & (simulated.hemi == ("lh", "rh").index(side))
        np.testing.assert_array_equal(centres, simulated.receptive_fields[own])
    assert set(fields) == set(QUERIES)


def test_all_fields_of_a_roi_lie_in_its_part(fields):
    for name, centres in fields.items():
        for (low, high), places in zip(field_part(name), centres.T, strict=True):
            assert low < places.min() <= places.max() < high


def test_attention_inside_the_field_is_found_there(fields):
    inside = {"lh.V1v": (1, 4), "rh.V1v": (1, 1), "lh.V1d": (4, 4), "rh.V1d": (4, 1), "lh.hV4": (4, 5)}
    looks = compare(attention_at(inside), fields)
    assert {look.name for look in looks} == set(inside)
    for look in looks:
        row, column = inside[look.name]
        assert look.centre == pytest.approx(((column + 0.5) / 6, (row + 0.5) / 6))
        assert (look.share, look.seen_side) == (1.0, True)
        assert look.even == (0.5 if look.name == "lh.hV4" else 0.25)
        assert look.seen_half is (None if look.name == "lh.hV4" else True)
        np.testing.assert_allclose(look.field_centre, fields[look.name].mean(axis=0), rtol=1e-6)


def test_attention_on_the_other_side_or_in_the_other_half_is_told(fields):
    mirrored, flipped = {"lh.V1v": (1, 0), "rh.V1d": (4, 5)}, {"lh.V1v": (5, 4), "rh.V1d": (0, 1)}
    for look in compare(attention_at(mirrored), fields):
        assert (look.seen_side, look.seen_half, look.share) == (False, True, 0.0)
    for look in compare(attention_at(flipped), fields):
        assert (look.seen_side, look.seen_half, look.share) == (True, False, 0.0)


def test_images_and_patches_of_other_shapes_weigh_as_much_as_they_should(fields, rng):
    relative = rng.uniform(0, 2, (5, 1, 4, 8))
    (look,) = compare(Attention(("rh.V2d",), relative, 1.0), fields)
    mean = relative[:, 0].mean(axis=0)
    assert look.share == pytest.approx(mean[2:, :4].sum() / mean.sum())
    assert look.even == 0.25


def test_what_the_network_never_sees_is_no_part_of_the_grid(fields):
    (look,) = compare(attention_at({"lh.V1v": (0, 5)}, crop_pct=0.6), fields)
    assert look.centre == pytest.approx((0.2 + 0.6 * 5.5 / 6, 0.2 + 0.6 * 0.5 / 6))


def test_rest_queries_are_named_by_their_hemisphere():
    membership = np.array([[1, 1, 0, 0, 0], [0, 0, 0, 1, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 1]], bool)
    hemi = np.array([0, 0, 0, 1, 1])
    assert query_names(["lh.V1v", "rh.EBA"], membership, hemi) == ("lh.V1v", "rh.EBA", "lh.rest", "rh.rest")
    only_right = query_names(["lh.V1v", "rh.EBA"], membership[[0, 1, 3]], hemi)
    assert only_right == ("lh.V1v", "rh.EBA", "rh.rest")


def test_rows_follow_the_tables_and_the_rest_comes_last():
    names = ("lh.rest", "rh.EBA", "lh.myROI", "rh.V1d", "lh.V1d", "lh.early-stream")
    assert shown_regions(names) == ["V1d", "EBA", "early-stream", "myROI", "rest"]


def test_every_query_has_a_tile_of_every_image_at_its_place():
    names = ("lh.V1v", "rh.V1v", "lh.EBA", "rh.rest")
    views = [Image.new("RGB", (SIDE, SIDE), (60 * number,) * 3) for number in range(3)]
    relative = np.zeros((3, 4, 2, 2))
    relative[1, 1] = relative[2, 3] = 9.0  # rh.V1v looks at all of the second image, rh.rest of the third
    html = _strips(Attention(names, relative, 1.0), views, 4.0)
    strips = {
        alt: np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"), int)
        for data, alt in re.findall(r'base64,([^"]*)" alt="([^"]*)"', html)
    }
    assert set(strips) == {"The images", *(f"Where {name} looks" for name in names)}
    assert html.count("<img") == 2 + 4
    coloured = {
        (alt, number)
        for alt, strip in strips.items()
        for number, left in enumerate(range(0, strip.shape[1], SIDE + 4))
        if np.ptp(strip[SIDE // 2, left + SIDE // 2]) > 60
    }
    assert coloured == {("Where rh.V1v looks", 1), ("Where rh.rest looks", 2)}
    cells = [len(re.findall("<t[dh]", row)) for row in re.findall(r"<tr.*?</tr>", html)]
    assert set(cells) == {3}
    assert [len(re.findall("<img", row)) for row in re.findall(r"<tr.*?</tr>", html)] == [0, 2, 2, 1, 1]


def test_an_encoder_of_local_patches_looks_where_they_are(fields, rng):
    """Tokens of chance, and fMRI that each early ROI reads from the patches of its part of the image only."""
    torch.manual_seed(int(rng.integers(1000)))
    grid, width = 4, 6
    tokens = torch.randn(200, grid * grid, width)
    place = (np.arange(grid) + 0.5) / grid
    fmri = []
    for name in QUERIES:
        (left, right), (top, bottom) = field_part(name)
        inside = np.outer((top < place) & (place < bottom), (left < place) & (place < right)).flatten()
        fmri.append(tokens[:, inside].mean(dim=1) @ torch.randn(width, 4) * inside.sum() ** 0.5)
    target = torch.cat(fmri, dim=1)
    membership = torch.eye(len(QUERIES), dtype=torch.bool).repeat_interleave(4, dim=1)
    sizes = {"grid": (grid, grid), "token_width": width, "width": 16, "depth": 1, "heads": 2, "dropout": 0.0}
    model = RoiEncoder(membership, **sizes, positions="learned", start="queries")
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.02)
    for _ in range(120):
        optimiser.zero_grad()
        nn.functional.mse_loss(model(tokens), target).backward()
        optimiser.step()
    weights = model.attention(tokens[:50]).detach().numpy().reshape(50, len(QUERIES), grid, grid) * grid**2
    for look in compare(Attention(QUERIES, weights, 1.0), fields):
        assert look.share > 1.5 * look.even
        assert look.seen_side
        assert look.seen_half is not False


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_early_queries_of_the_demo_look_where_the_simulation_put_their_fields(project):
    from neuralood.encoder.baselines.every import fit_baselines
    from neuralood.encoder.train import train_encoder
    from stages.cache_tokens import main as cache_tokens

    params = load_params()
    params = replace(params, runtime=replace(params.runtime, progress=False, device="cpu"))
    for name in ("nsd", "val"):
        render_set(params, name)
        cache_tokens(params, name)
    simulate_subject(params, params.fmri.subject)
    prepare_fmri(params)
    fit_baselines(params)
    train_encoder(params)
    attention = read_attention("val", np.arange(64), params.runtime.threads)
    looks = compare(attention, simulated_fields(params))
    assert [look.name for look in looks] == list(early_fields(SETTINGS, 7))
    for look in looks:
        assert look.share > 1.2 * look.even, look.name
        assert look.seen_side, look.name
        assert look.seen_half is not False, look.name
