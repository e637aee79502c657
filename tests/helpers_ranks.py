"""A stage of a few small images that several processes share, tokens and predicted fMRI: `-m helpers_ranks SET`.

A file `fault` in the project's folder says what goes wrong in the second process: `kill` in its sixth batch, or `wait`.
"""

import os
import time
from pathlib import Path
from unittest import mock

import torch
from conftest import randomise
from helpers_tokens import GRID, WIDTH, Stub, kill_self

from neuralood import synthesis
from neuralood.base import console, ranks
from neuralood.base.device import prepare_torch
from neuralood.data.manifest import read_manifest
from neuralood.encoder.model import RoiEncoder
from neuralood.launch import launch
from neuralood.stage import run
from neuralood.tokens.cache import cache_tokens

FAULT = Path("fault")


def before(batch):
    """Called before each batch."""
    fault = FAULT.read_text() if FAULT.exists() else ""
    if fault == "kill" and ranks.rank() == 1 and batch == 6:  # in its second chunk
        time.sleep(1)  # in which the first one is written
        kill_self()
    if fault == "wait" and batch == 2:
        Path(f"waiting.{ranks.rank()}").write_text(str(os.getpid()))
        time.sleep(120)


def encoder():
    """Random weights, 7 vertices."""
    membership = torch.ones(2, 7, dtype=torch.bool)
    sizes = {"grid": [GRID, GRID], "token_width": WIDTH, "width": 8, "depth": 1, "heads": 2, "dropout": 0.0}
    model = randomise(RoiEncoder(membership, **sizes, positions="learned", start="queries"))
    return model.eval().requires_grad_(False), {"source": "simulated", "control": "none", "fingerprint": "random"}


def main(params, set_name):
    """data/manifests/SET.json -> data/tokens/SET.zarr, data/fmri/SET.zarr."""
    device, backbone = prepare_torch(params.runtime.device, params.runtime.threads), Stub(before)
    store = cache_tokens(read_manifest(set_name), "stub", backbone, params.cache, device, params.runtime.workers)
    console.wrote(store, "tokens")
    with mock.patch.multiple(synthesis, load_encoder=encoder, require_recipe=lambda tokens, record: None):
        synthesis.synthesize(params, set_name)


if __name__ == "__main__":
    run(main, launch)
