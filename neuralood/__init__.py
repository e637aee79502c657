"""Brain-machine fusion learning (BMFL): does knowledge from the visual cortex help classifiers out of distribution?"""

from importlib import import_module
from typing import Any

LAZY = {"BMFL": "neuralood.sharing.model", "BrainEncoder": "neuralood.brain_encoder"}
"""What is imported when it is first asked for, from where: these modules take seconds."""


def __getattr__(name: str) -> Any:
    """`neuralood.BrainEncoder` and `neuralood.BMFL`."""
    if name in LAZY:
        return getattr(import_module(LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
