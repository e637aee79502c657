"""What the times of all stages follow from: sizes, and what each kind of work takes here."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from neuralood.backbone import FrozenBackbone
from neuralood.config import Params
from neuralood.plan.probe import Speed, brain_of, decode_seconds, encoder_speed, forward_seconds, fusion_speed
from neuralood.plan.sizes import SetSize

DISK_BYTES_S = 0.5e9
"""What a disk is taken to read or write in a second: a SATA SSD. Hard disks do a third of it, NVMe several times."""

UNKNOWN_CLASSES = 1000
"""Classes of train before its images are listed."""


@dataclass(frozen=True)
class Work:
    """What times follow from: the sets by name, and what was probed (None where shapes are not known yet)."""

    params: Params
    sets: dict[str, SetSize]
    caching: dict[str, float]
    """Seconds an image of cache_tokens, by set."""
    encoder: Speed | None
    fusion: Speed | None
    vertices: int | None

    def chosen(self, *roles: str) -> list[SetSize]:
        """The sets of some roles."""
        return [one for one in self.sets.values() if one.role in roles]

    def caching_seconds(self, one: SetSize) -> float | None:
        """Seconds of cache_tokens for a set: computing or writing, whichever is longer."""
        left = images_left(one)
        return None if left is None else max(left * self.caching[one.name], (one.tokens.left or 0) / DISK_BYTES_S)


def probe(
    params: Params, sets: Sequence[SetSize], backbone: FrozenBackbone, vertices: int | None, device: torch.device
) -> Work:
    """Measure what can be: takes seconds."""
    caching, by_name = _caching(params, sets, backbone, device), {one.name: one for one in sets}
    if vertices is None:
        return Work(params, by_name, caching, None, None, None)
    brain, classes = brain_of(params.fusion.rois, vertices), by_name["train"].images.classes or UNKNOWN_CLASSES
    encoder = encoder_speed(params, backbone.shape, brain, device)
    fusion = fusion_speed(params, backbone.shape, brain, classes, device)
    return Work(params, by_name, caching, encoder, fusion, vertices)


def seconds_side_by_side(decode: float, forward: float, workers: int, threads: int) -> float:
    """Seconds an image where `workers` processes decode while the device computes; one after the other for none.

    `threads` of the CPU compute as well (0: an accelerator does), and share its cores with the processes.
    """
    if not workers:
        return decode + forward
    cores = os.cpu_count() or 1
    return max(forward, decode / workers, (decode + min(threads, cores) * forward) / cores)


def _caching(
    params: Params, sets: Sequence[SetSize], backbone: FrozenBackbone, device: torch.device
) -> dict[str, float]:
    """Seconds an image of cache_tokens, by set: sets differ in how long their images take to decode."""
    forward, of_pictures = forward_seconds(backbone, params.cache, device), decode_seconds(None, backbone, device)
    threads = params.runtime.threads if device.type == "cpu" else 0
    seconds = {}
    for one in sets:
        decode = decode_seconds(one.images.sample, backbone, device) if one.images.sample else of_pictures
        seconds[one.name] = seconds_side_by_side(decode, forward, params.runtime.workers, threads)
    return seconds


def images_left(one: SetSize) -> int | None:
    """Images whose tokens are still to be computed."""
    return None if one.images.count is None else round(one.images.count * one.tokens.share_left)
