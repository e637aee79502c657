"""What the committed table of encoder options says of each, and that the benchmark still makes one."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT

from benchmarks.encoder_options import DEMO, ENSEMBLE, OPTIONS, OTHER_DRAWS, LayerMix, helps, with_correlation
from neuralood.base.attention import CrossAttention

KEPT = ("(encoder.more_subjects)", "(encoder.ensemble)")
"""Params that are there because they make the encoder better."""


@pytest.fixture(scope="module")
def committed() -> dict:
    return json.loads((ROOT / "benchmarks" / "encoder_options.json").read_text())["options"]


def test_what_is_kept_helps(committed):
    kept = [name for name in committed if name.endswith(KEPT)]
    assert len(kept) == len(KEPT)
    assert all(helps(committed[name]) for name in kept)


def test_what_has_no_param_does_not_help(committed):
    left_out = [name for name in committed if not name.endswith(")") and name not in (DEMO, OTHER_DRAWS)]
    assert len(left_out) >= 6
    assert not [name for name in left_out if helps(committed[name])]


def test_the_table_is_of_these_options(committed):
    assert set(committed) == {DEMO, OTHER_DRAWS, ENSEMBLE, *OPTIONS}
    assert {len(scores) for scores in committed.values()} == {2}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_benchmark_makes_such_a_table():
    command = [sys.executable, "-m", "benchmarks.encoder_options", "--short"]
    subprocess.run(command, cwd=ROOT, env=os.environ, check=True)
    fresh = json.loads((ROOT / "build" / "encoder_options" / "encoder_options.json").read_text())["options"]
    assert set(fresh) == {DEMO, OTHER_DRAWS, ENSEMBLE, *OPTIONS}
    assert fresh[DEMO][0]["all"]["gain"] == 0
    assert helps(fresh[ENSEMBLE])
    assert fresh[DEMO][0]["early"]["r"] > 0.4


@pytest.mark.parametrize(("low", "wanted"), [(0.001, True), (0.0, False), (-0.001, False)])
def test_an_option_helps_where_each_interval_is_above_0(low, wanted):
    assert helps([{"all": {"interval": [0.01, 0.02]}}, {"all": {"interval": [low, 0.03]}}]) is wanted


def test_the_correlation_loss_is_squared_error_and_what_is_missing_to_r_of_1(rng):
    predicted, fmri = rng.standard_normal((2, 30, 4))
    r = [np.corrcoef(predicted[:, vertex], fmri[:, vertex])[0, 1] for vertex in range(4)]
    found = with_correlation(0.3)(torch.from_numpy(predicted), torch.from_numpy(fmri), torch.ones(4))
    assert float(found) == pytest.approx(np.square(predicted - fmri).mean() + 0.3 * (1 - np.mean(r)))


def test_a_mix_of_one_layer_is_plain_cross_attention():
    torch.manual_seed(0)
    mix, plain = LayerMix(8, 2, 5, 1, 3), CrossAttention(8, 2, 0.0, 5)
    plain.load_state_dict({name: value for name, value in mix.state_dict().items() if name != "mix"})
    queries, tokens, position = torch.randn(2, 3, 8), torch.randn(2, 6, 5), torch.randn(6, 5)
    torch.testing.assert_close(mix(queries, tokens, position), plain(queries, tokens, position))


def test_a_mix_reads_the_mean_of_the_layers_that_each_query_chose():
    torch.manual_seed(0)
    mix = LayerMix(8, 2, 10, 2, 3)
    with torch.no_grad():
        mix.mix.copy_(torch.randn(3, 2))
    queries, tokens = torch.randn(2, 3, 8), torch.randn(2, 6, 10)
    share, found = mix.mix.softmax(-1), mix(queries, tokens)
    for query in range(3):
        one = LayerMix(8, 2, 5, 1, 1)
        one.load_state_dict({**mix.state_dict(), "mix": torch.zeros(1, 1)})
        mean = (tokens.unflatten(-1, (2, 5)) * share[query, :, None]).sum(-2)
        torch.testing.assert_close(one(queries[:, query : query + 1], mean), found[:, query : query + 1])
