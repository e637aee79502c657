"""A training that was interrupted: what is needed to go on at the same step to the same weights."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from neuralood.base import console
from neuralood.base.checkpoint import save_tensors
from neuralood.base.device import random_states, restore_random_states


@dataclass(frozen=True)
class Epoch:
    """What one epoch left: numbers, 1-based."""

    epoch: int
    train_loss: float
    validation_loss: float


@dataclass
class TrainingState:
    """How far a training is: steps done, loss summed over this epoch's images, past epochs, the best one's weights."""

    step: int = 0
    total: float = 0.0
    history: list[Epoch] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoint:
    """Where an unfinished training is kept, what it is a training of, and the seconds between two writes."""

    file: Path
    identity: str
    """Of everything that decides the result: a file of another identity is ignored."""
    every_s: float


def checkpoint_of(file: Path, decides: Mapping[str, Any], every_minutes: float) -> Checkpoint:
    """The checkpoint of a training that is decided by these values (as JSON has them)."""
    text = json.dumps(decides, sort_keys=True)
    return Checkpoint(file, hashlib.sha256(text.encode()).hexdigest(), 60 * every_minutes)


def save_state(
    checkpoint: Checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer, state: TrainingState
) -> None:
    """Write weights, moments, random state and progress, whole or not at all."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"best.{name}": value for name, value in state.best.items()}
    for number, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": value for name, value in moments.items()}
    tensors |= {f"random.{name}": value for name, value in random_states(next(model.parameters()).device).items()}
    progress = {"step": state.step, "total": state.total, "history": [asdict(epoch) for epoch in state.history]}
    about = {"identity": checkpoint.identity, "progress": json.dumps(progress)}
    save_tensors(checkpoint.file, tensors, about)


def resume(checkpoint: Checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer) -> TrainingState | None:
    """Put a checkpoint back into model, optimizer and random state; None where there is none of this training."""
    try:
        with safe_open(checkpoint.file, "pt") as opened:
            about = opened.metadata() or {}
            if about.get("identity") != checkpoint.identity:
                return None
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  (no mapping)
    except FileNotFoundError:
        return None
    except (SafetensorError, OSError):
        console.warn(f"{checkpoint.file} is damaged: training starts anew")
        return None
    progress = json.loads(about["progress"])
    model.load_state_dict(_part(tensors, "model"))
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in _part(tensors, "optimizer").items():
        number, moment = name.split(".", 1)
        moments.setdefault(int(number), {})[moment] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
    restore_random_states(next(model.parameters()).device, _part(tensors, "random"))
    history = [Epoch(**epoch) for epoch in progress["history"]]
    console.note(f"going on with an interrupted training at step {progress['step']}")
    return TrainingState(progress["step"], progress["total"], history, _part(tensors, "best"))


def _part(tensors: dict[str, Any], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{prefix}."): value for name, value in tensors.items() if name.startswith(f"{prefix}.")}
