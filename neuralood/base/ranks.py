"""Which of several processes of one stage this is, and which share of the work is its own.

They are started by PyTorch's torchrun, by the user's or by the one in `neuralood.launch`: it numbers them from 0 and
says so in the environment. A process that was started alone is the first of one. What they tell each other is in
`neuralood.base.collectives`; here torch, which takes seconds to import, is not needed.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy.typing as npt

T = TypeVar("T", bound=Any)

_alone = False


@contextmanager
def alone() -> Iterator[None]:
    """What this process does meanwhile it does by itself, whatever the others do."""
    global _alone
    _alone, before = True, _alone
    try:
        yield
    finally:
        _alone = before


def is_started_by_torchrun() -> bool:
    """Whether this process is one of those that torchrun, or whoever sets what it sets, started."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def rank() -> int:
    """The number of this process, from 0."""
    return int(os.environ["RANK"]) if is_started_by_torchrun() and not _alone else 0


def count() -> int:
    """How many processes there are, on all machines."""
    return int(os.environ["WORLD_SIZE"]) if is_started_by_torchrun() and not _alone else 1


def place() -> int:
    """The number of this process among those of its machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", "0")) if is_started_by_torchrun() else 0


def is_first() -> bool:
    """Whether this is the process that does what is done once, and speaks for all."""
    return rank() == 0


def name() -> str:
    """How this process is called before people, who count from 1."""
    return f"worker {rank() + 1} of {count()}"


def share(items: T) -> T:
    """This process's part of a list or array, the same in all: each item is one process's, in parts of about a size."""
    part: T = items[rank() :: count()]
    return part


def own_rows(rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """This process's part of the rows of a batch; the first row where there are fewer rows than processes.

    Each must have something to compute, as all take each step together: what has no part of its own does not count.
    """
    return rows[rank() :: count()] if has_part(rows) else rows[:1]


def has_part(rows: npt.NDArray[Any]) -> bool:
    """Whether this process has a part of the rows of a batch."""
    return rank() < len(rows)
