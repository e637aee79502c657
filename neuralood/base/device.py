"""Where tensors are computed, and how to compute the same numbers twice."""

import ctypes
import os
import sys
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from neuralood.base import collectives, ranks
from neuralood.base.errors import UserError


def prepare_torch(device: str, threads: int) -> torch.device:
    """Fix the thread count, ask an accelerator for deterministic kernels, and return the device that `device` names.

    Several processes of a stage meet here; `cuda`, and `auto` where there is CUDA, are then a card of each one's own.
    Raises UserError as `choose_device` does, and where there are too few cards.
    """
    torch.set_num_threads(threads)
    own_card = ranks.count() > 1 and device in ("auto", "cuda") and torch.cuda.is_available()
    chosen = choose_device(_own_card() if own_card else device, "runtime.device")
    collectives.join(own_card=own_card)
    if chosen.type != "cpu":  # every operation used here is deterministic on the CPU, and the call takes a second
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with it
        torch.use_deterministic_algorithms(True)
    return chosen


def _own_card() -> str:
    """Of several processes on this machine, this one's CUDA device."""
    cards = torch.cuda.device_count()
    if ranks.place() >= cards:
        raise UserError(f"each process takes a CUDA device of its own, and here are {cards}: lower runtime.nproc")
    torch.cuda.set_device(ranks.place())
    return f"cuda:{ranks.place()}"


def choose_device(device: str, key: str) -> torch.device:
    """The device that `device` names; `auto` takes CUDA, then MPS, then the CPU.

    Raises UserError, which calls the setting `key`, where the named device is not there.
    """
    chosen = torch.device(_best_device() if device == "auto" else device)
    try:
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"{key}: {device} cannot be used here ({error})".splitlines()[0]) from None
    return chosen


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


class GraphicsCard(NamedTuple):
    """A CUDA device: its name, memory in bytes, and whether it computes in bfloat16."""

    name: str
    nbytes: int
    bfloat16: bool


def graphics_card(device: torch.device) -> GraphicsCard | None:
    """What a CUDA device is; None for any other."""
    if device.type != "cuda":
        return None
    card = torch.cuda.get_device_properties(device)
    return GraphicsCard(card.name, card.total_memory, torch.cuda.is_bf16_supported())


def autocast(device: torch.device, dtype: str) -> torch.autocast:
    """Mixed precision on CUDA; everywhere else, and for `none`, a context that changes nothing."""
    enabled = device.type == "cuda" and dtype != "none"
    return torch.autocast(device.type, getattr(torch, dtype) if enabled else None, enabled=enabled)


def pins_memory(device: torch.device) -> bool:
    """Whether batches for this device are put into pinned memory, from which CUDA copies while the CPU goes on."""
    return device.type == "cuda"


def random_states(device: torch.device) -> dict[str, Tensor]:
    """The state of every generator that a training on this device draws from, by name."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_random_states(device: torch.device, states: Mapping[str, Tensor]) -> None:
    """Put back what `random_states` gave; that of another kind of device is left out."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


def release_memory(device: torch.device) -> None:
    """Give memory that was freed back to the device: an accelerator's cache, or what malloc keeps on Linux.

    There, pieces that batches of tokens leave fit no later batch, and a long run would grow without a leak.
    """
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
    elif sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it, others need not
        if trim is not None:
            trim(0)
