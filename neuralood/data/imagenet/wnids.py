"""The 1000 classes of ImageNet-1k in their one order, and the names of its validation images."""

import hashlib
import re
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from neuralood.base.errors import UserError

WNIDS_SHA256 = "385e0240499426c022b773be1ae4da780f057b89c9694c7f47199f62746b6edd"
"""Of the 1000 sorted wnids joined by newlines."""

WNID = re.compile(r"n\d{8}")

VAL_NAME = re.compile(r"ILSVRC2012_val_(\d{8})")


def packaged_wnids(file: str) -> tuple[str, ...]:
    """A list of wnids that timm ships, such as imagenet_a_synsets.txt."""
    return tuple(_packaged_text(file).split())


def spoken(name: str) -> str:
    """A class as people call it: the first word of a wnid's synset, any other name as it is."""
    return _lemmas().get(name, name) if WNID.fullmatch(name) else name


@cache
def _lemmas() -> dict[str, str]:
    lines = (line.partition("\t") for line in _packaged_text("imagenet_synset_to_lemma.txt").splitlines())
    return {wnid: lemmas.split(",")[0] for wnid, _, lemmas in lines}


def _packaged_text(file: str) -> str:
    """A text that timm ships; timm itself is not imported, as it is slow."""
    package = find_spec("timm")
    if package is None or package.origin is None:
        raise UserError("timm is not installed: run `pip install -e .`")
    return (Path(package.origin).parent / "data" / "_info" / file).read_text(encoding="utf-8")


def checked_wnids(wnids: Sequence[str]) -> tuple[str, ...]:
    """The same; raises UserError where these are not the 1000 classes in order."""
    if hashlib.sha256("\n".join(wnids).encode()).hexdigest() != WNIDS_SHA256:
        raise UserError("timm's imagenet_synsets.txt is not the list of ImageNet's 1000 classes: install timm anew")
    return tuple(wnids)


WNIDS = checked_wnids(packaged_wnids("imagenet_synsets.txt"))
"""The 1000 wnids, sorted: position is class index."""

_INDEX = {wnid: index for index, wnid in enumerate(WNIDS)}


def class_index(wnid: str) -> int:
    """The class index, 0 to 999, of a wnid. Raises UserError for one that is not of the 1000."""
    if wnid not in _INDEX:
        raise UserError(f"{wnid} is none of ImageNet's 1000 classes: take the list of ILSVRC2012")
    return _INDEX[wnid]


def val_source(name: str) -> str | None:
    """What an image of that name is a version of, where it is made from ImageNet's validation images."""
    match = VAL_NAME.search(name)
    return f"imagenet_val/{match[0]}" if match else None
