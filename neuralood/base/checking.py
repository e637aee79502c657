"""How much is checked while stores are read (`runtime.verify`), and how many of their files are open at a time."""

import sys
from typing import Literal

Verify = Literal["first_touch", "sample", "off"]

SAMPLED = 16
"""With `sample`, one chunk in so many is checked."""

MOST_MAPPED = 128
"""Chunks of one array that are mapped at a time; fewer where the limit of open files is low."""
SHARE_OF_OPEN_FILES = 8

_verify: Verify = "first_touch"


def verify_chunks(mode: Verify) -> None:
    """Choose which chunks' checksums are compared when they are first touched."""
    global _verify
    _verify = mode


def is_checked(number: int) -> bool:
    """Whether chunk `number` of an array is to be checked."""
    return _verify == "first_touch" or (_verify == "sample" and number % SAMPLED == 0)


def most_mapped() -> int:
    """Chunks of one array to map at a time: stays well below the system's limit of open files."""
    if sys.platform == "win32":
        return MOST_MAPPED
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_MAPPED if limit == resource.RLIM_INFINITY else max(4, min(MOST_MAPPED, limit // SHARE_OF_OPEN_FILES))
