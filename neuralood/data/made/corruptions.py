"""The 15 corruptions of ImageNet-C, by the library that its authors' code lives on in."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import Image

from neuralood.base.errors import UserError

TAKE_A_SEED = ("impulse_noise", "glass_blur")
"""Corruptions that do not draw from NumPy's global generator."""


def corrupted(image: Image.Image, level: float, rng: np.random.Generator, *, name: str) -> Image.Image:
    """A square image under one corruption at severity `level`, in 1..5.

    Raises UserError where the library is not installed.
    """
    corrupt, seed = corruption_library(), int(rng.integers(2**32))
    seeded = {"seed": seed} if name in TAKE_A_SEED else {}
    with _global_generator(seed):
        return Image.fromarray(corrupt(np.asarray(image), severity=int(level), corruption_name=name, **seeded))


def corruption_library() -> Callable[..., Any]:
    """The function that corrupts. Raises UserError where it cannot be imported, with the reason."""
    try:
        from imagecorruptions import corrupt
    except ImportError as error:
        raise UserError(
            f"ImageNet-C's corruptions need imagecorruptions-imaug ({error}): pip install 'neuralood[corruptions]'"
        ) from None
    found: Callable[..., Any] = corrupt
    return found


@contextmanager
def _global_generator(seed: int) -> Iterator[None]:
    """NumPy's global generator seeded, for a library that draws from it, and put back."""
    before = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002
