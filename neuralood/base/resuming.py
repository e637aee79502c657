"""A training that was interrupted: what is needed to go on at the same step to the same weights."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from neuralood.base import collectives, console, ranks
from neuralood.base.checkpoint import save_tensors
from neuralood.base.device import random_states, restore_random_states


@dataclass(frozen=True)
class Epoch:
    """What one epoch left: numbers, 1-based."""

    epoch: int
    train_loss: float
    validation_loss: float


@dataclass
class Trained:
    """How far the training of one model is: its loss summed over this epoch's images, past epochs, and weights.

    `best` are the weights after the best epoch; `average` their running average, empty where there is none; `last`
    those after the last epoch, set when training ends.
    """

    total: float = 0.0
    images: int = 0
    history: list[Epoch] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    average: dict[str, Tensor] = field(default_factory=dict)
    last: dict[str, Tensor] = field(default_factory=dict)

    def count(self, loss: tuple[Tensor, int] | None) -> None:
        """Add the mean loss of some images."""
        if loss is not None:
            self.total += loss[0].item() * loss[1]
            self.images += loss[1]

    def follow(self, model: nn.Module, decay: float, step: int) -> None:
        """Move the average towards the model's weights; fast at first, as the start is random."""
        if not self.average:
            return
        decay = min(decay, step / (step + 9))
        with torch.no_grad():
            for name, value in model.state_dict().items():
                if value.is_floating_point():
                    self.average[name].lerp_(value, 1 - decay)
                else:
                    self.average[name].copy_(value)

    def kept_now(self, model: nn.Module) -> dict[str, Tensor]:
        """A copy of the weights that count: the average where there is one."""
        return {name: value.detach().clone() for name, value in (self.average or model.state_dict()).items()}

    def end_epoch(self, epoch: Epoch, model: nn.Module, *, keep_last: bool) -> None:
        """Note an epoch, and keep its weights where none before was as good, or where the last one counts."""
        before = [one.validation_loss for one in self.history]
        self.history.append(epoch)
        if keep_last or not before or epoch.validation_loss < min(before):
            self.best = {}  # before the new ones are copied
            self.best = self.kept_now(model)


@dataclass
class TrainingState:
    """How far a training of models on the same batches is: steps done, and each model's."""

    step: int
    models: list[Trained]

    @property
    def averages(self) -> bool:
        """Whether running averages of the weights are what counts."""
        return bool(self.models[0].average)


def fresh_state(models: Sequence[nn.Module], ema: float) -> TrainingState:
    """Before the first step."""
    states = [Trained() for _ in models]
    for one, model in zip(states, models, strict=True):
        one.average = one.kept_now(model) if ema else {}
    return TrainingState(0, states)


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


def kept_tensors(
    checkpoint: Checkpoint, make: Callable[[], dict[str, Tensor]], beside: Path | None = None
) -> dict[str, Tensor]:
    """What an interrupted run made and kept, else what `make` makes, which is kept.

    Without what `make` leaves `beside` them, the tensors are of no use.
    """

    def is_there() -> bool:
        return (beside is None or beside.exists()) and _read(checkpoint)[0] is not None

    if not collectives.broadcast(is_there):
        tensors = make()
        collectives.broadcast(lambda: save_tensors(checkpoint.file, tensors, {"identity": checkpoint.identity}))
        return tensors
    return _read(checkpoint)[1]


def save_state(
    checkpoint: Checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer, state: TrainingState
) -> None:
    """Write weights, moments, random state and progress, whole or not at all: the first of several processes does."""
    states = _everyones_random_states(next(model.parameters()).device)
    if not ranks.is_first():
        return
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for number, one in enumerate(state.models):
        tensors |= {f"best.{number}.{name}": value for name, value in one.best.items()}
        tensors |= {f"average.{number}.{name}": value for name, value in one.average.items()}
    for number, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": value for name, value in moments.items()}
    tensors |= {f"random.{rank}.{name}": value for rank, own in enumerate(states) for name, value in own.items()}
    progress = {
        "step": state.step,
        "models": [
            {
                "total": one.total,
                "images": one.images,
                "history": [asdict(epoch) for epoch in one.history],
            }
            for one in state.models
        ],
    }
    about = {"identity": checkpoint.identity, "progress": json.dumps(progress)}
    save_tensors(checkpoint.file, tensors, about)


def resume(checkpoint: Checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer) -> TrainingState | None:
    """Put a checkpoint back into model, optimizer and random state; None where there is none of this training."""
    about, tensors = _read(checkpoint)
    if about is None:
        return None
    progress = json.loads(about["progress"])
    model.load_state_dict(_part(tensors, "model"))
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in _part(tensors, "optimizer").items():
        number, moment = name.split(".", 1)
        moments.setdefault(int(number), {})[moment] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
    own = _part(tensors, f"random.{ranks.rank()}")
    if own:  # else there were fewer processes
        restore_random_states(next(model.parameters()).device, own)
    models = [
        Trained(
            total=one["total"],
            images=one["images"],
            history=[Epoch(**epoch) for epoch in one["history"]],
            best=_part(tensors, f"best.{number}"),
            average=_part(tensors, f"average.{number}"),
        )
        for number, one in enumerate(progress["models"])
    ]
    console.note(f"going on with an interrupted training at step {progress['step']}")
    return TrainingState(progress["step"], models)


def _part(tensors: dict[str, Any], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{prefix}."): value for name, value in tensors.items() if name.startswith(f"{prefix}.")}


def _everyones_random_states(device: torch.device) -> list[dict[str, Tensor]]:
    own = {name: value.tolist() for name, value in random_states(device).items()}
    return [
        {name: torch.tensor(value, dtype=torch.uint8) for name, value in one.items()} for one in collectives.gather(own)
    ]


def _read(checkpoint: Checkpoint) -> tuple[dict[str, str] | None, dict[str, Tensor]]:
    """The texts and tensors that were kept; None and none where there are none of this identity."""
    try:
        with safe_open(checkpoint.file, "pt") as opened:
            about = opened.metadata() or {}
            if about.get("identity") != checkpoint.identity:
                return None, {}
            return about, {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  (no mapping)
    except FileNotFoundError:
        return None, {}
    except (SafetensorError, OSError):
        console.warn(f"{checkpoint.file} is damaged: what it held is made anew")
        return None, {}
