"""Which of several processes of one stage this is, and which share of the work is its own.

They are started by PyTorch's torchrun, by the user's or by the one in `neuralood.launch`: it numbers them from 0 and
says so in the environment. A process that was started alone is the first of one. What they tell each other is in
`neuralood.base.collectives`; here torch, which takes seconds to import, is not needed.
"""

import os
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def is_started_by_torchrun() -> bool:
    """Whether this process is one of those that torchrun, or whoever sets what it sets, started."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def rank() -> int:
    """The number of this process, from 0."""
    return int(os.environ["RANK"]) if is_started_by_torchrun() else 0


def count() -> int:
    """How many processes there are, on all machines."""
    return int(os.environ["WORLD_SIZE"]) if is_started_by_torchrun() else 1


def place() -> int:
    """The number of this process among those of its machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", "0")) if is_started_by_torchrun() else 0


def is_first() -> bool:
    """Whether this is the process that does what is done once, and speaks for all."""
    return rank() == 0


def name() -> str:
    """How this process is called before people, who count from 1."""
    return f"worker {rank() + 1} of {count()}"


def share(items: Sequence[T]) -> Sequence[T]:
    """This process's part of `items`, the same in all: each is one process's, and all parts are of about a size."""
    return items[rank() :: count()]
