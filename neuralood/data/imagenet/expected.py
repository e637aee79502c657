"""Whether a published set lies as its authors laid it out, and whether all of it is there."""

import hashlib
import re
from collections.abc import Iterable, Sequence

from neuralood.base import console
from neuralood.base.errors import UserError
from neuralood.data.imagenet.nearest import nearest_hint
from neuralood.data.listing import Exclusion, Request, class_folders

SHOWN = 5
"""Names in one message."""

IMAGENET_O = "39f8e64e8f89efad8fd9615c061abc61695ffbd27793e87199181cb4fb340083"
"""SHA-256 of the names of ImageNet-O's 200 folders, sorted and joined by newlines."""


def sub_folders(request: Request, below: str = "") -> list[str]:
    """Names of the folders in a set's folder, or in `below` inside it, sorted; without those that are excluded."""
    if not below:
        return class_folders(request.folder, request.excluded, request.key)
    names = class_folders(request.folder / below, Exclusion(()), request.key)
    return [name for name in names if not request.excluded.covers(f"{below}/{name}")]


def require_folders(request: Request, below: str, expected: Iterable[str], what: str) -> list[str]:
    """The `expected` folders in `below`, in their order, without those that are excluded.

    Raises UserError, which says `what` was expected, where one is missing or there is another.
    """
    prefix = f"{below}/" if below else ""
    wanted = [name for name in expected if not request.excluded.covers(f"{prefix}{name}")]
    found = sub_folders(request, below)
    if set(found) != set(wanted):
        raise layout_error(request, what, differing(found, wanted), below)
    return wanted


def differing(found: Sequence[str], wanted: Sequence[str]) -> str:
    """How many folders were found, and which are missing or should not be there."""
    missing, strange = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    kinds = (("missing", missing), ("unknown", strange))
    problems = (f"{len(names)} {kind} ({shown(names)})" for kind, names in kinds if names)
    return f"{len(found)} folders, {' and '.join(problems)}"


def refuse_imagenet_o(request: Request, folders: Sequence[str]) -> None:
    """Raise UserError for ImageNet-O: its folders are named after classes that its images are not of."""
    listed = hashlib.sha256("\n".join(sorted(folders)).encode()).hexdigest()
    if listed == IMAGENET_O or re.fullmatch(r"imagenet[-_]?o", request.folder.name, re.IGNORECASE):
        raise UserError(
            f"{request.folder} ({request.key}) is ImageNet-O, whose images are of none of ImageNet's classes: "
            "it measures how outliers are detected, not accuracy; remove the set"
        )


def layout_error(request: Request, expected: str, found: str, below: str = "") -> UserError:
    """The error for a folder of another layout: what was expected, what is there, and the format it resembles."""
    hint = nearest_hint(request.folder, request.entry.format)
    place = request.folder / below
    return UserError(
        f"{place} ({request.key}) is not laid out as {request.entry.format}: expected {expected}, found {found}{hint}"
    )


def warn_count(request: Request, found: int, expected: int, of: str = "a whole copy") -> None:
    """Warn where a set has not as many images as were published: its scores are then not those of papers."""
    if found != expected:
        console.warn(
            f"{request.folder} ({request.key}) has {found:,} images, {of} has {expected:,}: "
            "scores will not compare with published ones"
        )


def shown(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
