"""Brain-machine fusion learning (BMFL): does knowledge from the visual cortex help classifiers out of distribution?"""

from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    """`neuralood.BrainEncoder`, imported when it is first asked for: its module takes seconds."""
    if name == "BrainEncoder":
        return import_module("neuralood.brain_encoder").BrainEncoder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
