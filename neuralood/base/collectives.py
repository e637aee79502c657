"""What the processes of one stage (see `ranks`) tell each other; with one process, none of it does anything.

Values and barriers go over gloo, through the CPU, on any machine. CUDA tensors go over NCCL where each process has a
card of its own.
"""

import inspect
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from neuralood.base import ranks
from neuralood.base.errors import UserError

T = TypeVar("T")

LONGEST_WAIT = timedelta(days=7)
"""The first process may work alone for hours; one that is lost is noticed without any time limit."""

END_S = 10.0
"""Seconds within which torchrun ends all processes after it lost one."""


def join(*, own_card: bool) -> None:
    """Meet all other processes, which call this as well; `own_card` says that no two of them compute on one GPU."""
    if ranks.count() == 1 or dist.is_initialized():
        return
    with _losses_noticed():
        dist.init_process_group("cpu:gloo,cuda:nccl" if own_card else "gloo", timeout=LONGEST_WAIT)


def leave() -> None:
    """End what `join` began."""
    if dist.is_initialized():
        dist.destroy_process_group()


def barrier() -> None:
    """Wait until all processes are here."""
    sum_over(torch.zeros(1))


def broadcast(make: Callable[[], T]) -> T:
    """What `make` gives in the first process, in all of them; as JSON has it: tuples are lists.

    It is called, there alone, when all are here, and none goes on before it is done.
    """
    if ranks.count() == 1:
        return make()
    barrier()
    value: T = _sent(make() if ranks.is_first() else None, 0)
    return value


def gather(value: T) -> list[T]:
    """The value of every process, in their order, in all of them; as JSON has it."""
    if ranks.count() == 1:
        return [value]
    return [_sent(value, source) for source in range(ranks.count())]


def sum_over(tensor: Tensor) -> None:
    """Put the sum over all processes in the tensor's place."""
    if ranks.count() == 1:
        return
    there = tensor.cpu() if tensor.device.type == "mps" else tensor  # which no engine carries
    with _losses_noticed():
        dist.all_reduce(there)
    if there is not tensor:
        tensor.copy_(there)


def distributed(module: nn.Module) -> nn.Module:
    """The module, by PyTorch's DistributedDataParallel where there are several processes: they average gradients."""
    if ranks.count() == 1:
        return module
    known = inspect.signature(DistributedDataParallel).parameters
    buffers = next(name for name in ("forward_sync_buffers", "broadcast_buffers") if name in known)  # renamed in 2.14
    options: dict[str, Any] = {"find_unused_parameters": True, buffers: False}  # no step changes a buffer
    with _losses_noticed():
        return DistributedDataParallel(module, **options)


def draw_apart() -> None:
    """Let each process draw other random numbers, of dropout for one, than the first."""
    if ranks.rank():
        torch.manual_seed(torch.initial_seed() + ranks.rank())


def sums(values: Sequence[float]) -> list[float]:
    """The sum of each number over all processes."""
    total = torch.tensor(values, dtype=torch.float64)
    sum_over(total)
    return [float(value) for value in total]


def _sent(value: Any, source: int) -> Any:
    """The value of the process `source`."""
    content = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    length = torch.tensor([len(content)])
    with _losses_noticed():
        dist.broadcast(length, source)
        if ranks.rank() != source:
            content = torch.empty(int(length), dtype=torch.uint8)
        dist.broadcast(content, source)
    return json.loads(content.numpy().tobytes())


@contextmanager
def _losses_noticed() -> Iterator[None]:
    """Be ended by torchrun, which says why, rather than show how a connection to a lost process broke.

    Raises UserError where nobody ends this process.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        time.sleep(END_S)
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"the connection to another process of this stage broke ({reason}): run it again") from None
