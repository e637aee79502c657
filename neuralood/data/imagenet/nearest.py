"""Which format a folder most resembles, by a cheap look at it: for messages about a folder of another layout."""

import os
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from neuralood.data.imagenet.wnids import VAL_NAME, WNID, WNIDS, packaged_wnids
from neuralood.data.images import EXTENSIONS

MOST_SEEN = 4000
"""Entries of a folder that are looked at."""


class Look(NamedTuple):
    """What a cheap look at a folder shows."""

    name: str
    """Of the folder, in lower case."""
    folders: frozenset[str]
    files: frozenset[str]
    inner: str
    """A file in the first of the folders, or nothing."""

    @property
    def wnids(self) -> frozenset[str]:
        """The folders that are named by a wnid."""
        return frozenset(name for name in self.folders if WNID.fullmatch(name))

    def has_file(self, end: str) -> bool:
        """Whether a file's name ends so."""
        return any(name.lower().endswith(end) for name in self.files)


LAYOUTS: tuple[tuple[str, Callable[[Look], bool]], ...] = (
    ("algonauts2023", lambda look: "training_split" in look.folders),
    ("nsd", lambda look: bool({"nsddata", "nsddata_betas", "nsddata_stimuli"} & look.folders)),
    ("objectnet", lambda look: "alarm_clock" in look.folders or {"images", "mappings"} <= look.folders),
    ("imagenet_c", lambda look: bool({"gaussian_noise", "defocus_blur", "snow", "pixelate"} & look.folders)),
    ("imagenet_v2", lambda look: "0" in look.folders and all(name.isdigit() for name in look.folders)),
    ("imagenet_v2", lambda look: any(name.startswith("imagenetv2-") for name in look.folders)),
    ("imagenet_hard", lambda look: look.has_file(".parquet") and "hard" in look.name),
    ("imagenet_parquet", lambda look: look.has_file(".parquet")),
    ("imagenet_shards", lambda look: any(_is_shard(name) for name in look.files)),
    ("imagenet_flat", lambda look: any(VAL_NAME.match(name) for name in look.files)),
    ("imagenet_a", lambda look: look.wnids == frozenset(packaged_wnids("imagenet_a_synsets.txt"))),
    ("imagenet_r", lambda look: look.wnids == frozenset(packaged_wnids("imagenet_r_synsets.txt"))),
    ("imagenet_sketch", lambda look: _is_imagenet(look) and ("sketch" in look.name or look.inner.startswith("sketch"))),
    ("imagenet_cartoon", lambda look: _is_imagenet(look) and "cartoon" in look.name),
    ("imagenet_drawing", lambda look: _is_imagenet(look) and "drawing" in look.name),
    ("imagenet_stylized", lambda look: _is_imagenet(look) and "styl" in look.name),
    ("imagenet_folders", lambda look: look.wnids >= frozenset(WNIDS)),
    ("wnid_folders", lambda look: bool(look.wnids) and look.wnids <= frozenset(WNIDS)),
    ("folders", lambda look: not look.wnids and look.inner.lower().endswith(tuple(EXTENSIONS))),
)
"""A format and what gives it away; the first that fits is meant."""


def nearest_format(folder: Path) -> str | None:
    """The format that a folder is laid out as, or None where it resembles none."""
    look = _look(folder)
    return next((name for name, fits in LAYOUTS if fits(look)), None)


def nearest_hint(folder: Path, own: str) -> str:
    """What to append to a message: the format that the folder, or a folder in it, resembles; nothing where none.

    `own` is the format that it should have; nothing is said where it looks like that.
    """
    nearest = nearest_format(folder)
    if nearest == own:
        return ""
    if nearest not in (None, "folders"):
        return f"; this looks like format {nearest}"
    for name in sorted(_look(folder).folders)[:20]:
        inside = nearest_format(folder / name)
        if inside == own or inside not in (None, "folders", "wnid_folders"):
            deeper = f"; its folder {name} looks like format {inside}"
            return deeper + (": let the path go one level deeper" if inside == own else "")
    return f"; this looks like format {nearest}" if nearest else ""


def _look(folder: Path) -> Look:
    folders, files = _names(folder)
    inner = min(_names(folder / min(folders))[1], default="") if folders else ""
    return Look(folder.name.lower(), frozenset(folders), frozenset(files), inner)


def _names(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the folders and of the files in a folder, as far as MOST_SEEN entries show; none where it is gone."""
    try:
        with os.scandir(folder) as entries:
            seen = [(entry.name, entry.is_dir()) for entry in islice(entries, MOST_SEEN)]
    except OSError:
        return [], []
    shown = [(name, is_folder) for name, is_folder in seen if not name.startswith(".")]
    return [name for name, is_folder in shown if is_folder], [name for name, is_folder in shown if not is_folder]


def _is_shard(name: str) -> bool:
    """Whether a tar is a shard of samples, and not one of ImageNet's own archives."""
    return name.endswith(".tar") and not name.startswith("ILSVRC2012_") and not WNID.match(name)


def _is_imagenet(look: Look) -> bool:
    return len(look.wnids) > 100 and look.wnids <= frozenset(WNIDS)
