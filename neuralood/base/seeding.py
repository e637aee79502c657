"""Every random draw of the project comes from here, so that one number in params.yaml fixes them all."""

import hashlib

import numpy as np


def derived_seed(seed: int, *names: str | int) -> int:
    """A 63-bit seed for one named purpose: equal names give equal draws, other names independent ones."""
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: str | int) -> np.random.Generator:
    """A NumPy generator for one named purpose, for example `generator(params.seed, "split", "nsd")`."""
    return np.random.default_rng(derived_seed(seed, *names))
