"""The machine: device, memory, disk, limits, and the programs that everything rests on."""

import configparser
import os
import platform
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from neuralood.backbone import load_backbone
from neuralood.base import paths
from neuralood.base.device import graphics_card, prepare_torch
from neuralood.config import Params
from neuralood.doctor.findings import Check, Finding
from neuralood.plan.disk import REMEDY, disk_need, features_size, made_size, measured_size
from neuralood.plan.sizes import SetSize, set_sizes, vertex_count
from neuralood.plan.words import bytes_text

MANY_IMAGES = 100_000
"""Sets of more images take days without an accelerator."""

OPEN_FILES = 1024
"""A limit of open files below this makes reading large stores slow."""

SHARED_BYTES = 2**30
"""Shared memory through which the processes that decode images hand them on: Docker gives 64 MB."""

DVC_DEFAULT_LINKS = "reflink,copy"


def machine_checks(params: Params) -> Iterator[Check]:
    """All of them."""
    yield Check("versions", _versions)
    yield Check("device", lambda: _device(params))
    yield Check("disk", lambda: _stores(params))
    yield Check("write access", _write_access)
    yield Check("DVC", _dvc_links)
    yield Check("open files", _open_files)
    yield Check("shared memory", lambda: _shared_memory(params))


def _versions() -> Iterator[Finding]:
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "timm", "numpy", "zarr", "dvc"))
    yield Finding("versions", f"Python {platform.python_version()}, {packages}")


def _device(params: Params) -> Iterator[Finding]:
    device = prepare_torch(params.runtime.device, params.runtime.threads)
    card = graphics_card(device)
    if card is not None:
        text, supported = f"{card.name}, {bytes_text(card.nbytes)}", card.bfloat16
        if params.cache.autocast == "bfloat16" and not supported:
            yield Finding("device", f"{text}, which has no bfloat16", "red", "set cache.autocast to float16")
        else:
            yield Finding("device", f"{text}, {'with' if supported else 'without'} bfloat16")
        return
    cores = os.cpu_count() or 1
    text = f"{device.type}, {cores} cores, {params.runtime.threads} threads, {params.runtime.workers} workers"
    large = params.files and device.type == "cpu"
    hint = ": no CUDA, so ImageNet takes days; `neuralood plan` says how long" if large else ""
    yield Finding("device", text + hint, "note" if large else "ok")
    nproc, threads, workers = params.runtime.nproc, params.runtime.threads, params.runtime.workers
    if nproc * threads > cores or nproc * workers > 2 * cores:
        each = f", each of {nproc} processes," if nproc > 1 else ""
        text = f"runtime.threads {threads} and workers {workers}{each} on {cores} cores"
        yield Finding("device", f"{text}: more than it has slow each other down", "note")


def _stores(params: Params) -> Iterator[Finding]:
    """Disk for all stores, and memory for what training mixes batches from."""
    backbone = load_backbone(**{**asdict(params.backbone), "weights": None}, data_root=paths.data_root())
    vertices = vertex_count(params)
    sets = set_sizes(params, backbone, vertices)
    beside = [measured_size(params, sets, vertices), features_size(sets, backbone.shape), made_size(params, sets)]
    need = disk_need(sets, beside)
    if need.too_few:
        yield Finding("disk", f"{need.text}: {bytes_text(need.too_few)} too few", "red", REMEDY)
    elif need.whole:
        yield Finding("disk", need.text)
    else:
        yield Finding("disk", f"{need.text}; sets that cannot be counted yet are left out", "note")
    yield from _memory(params, {one.name: one for one in sets})


def _memory(params: Params, sets: Mapping[str, SetSize]) -> Iterator[Finding]:
    """Tokens that training mixes its batches from: where they do not fit, each epoch waits for the disk."""
    try:
        there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on every system
        return
    mixed = [
        _buffer_bytes(sets.get(name), buffer)
        for name, buffer in (("nsd", params.encoder.shuffle_buffer), ("train", params.fusion.shuffle_buffer))
    ]
    wanted = max(mixed)
    text = f"{bytes_text(there)}, of which training mixes batches from {bytes_text(wanted)}"
    if wanted > there / 2:
        key = "encoder.shuffle_buffer" if mixed[0] == wanted else "fusion.shuffle_buffer"
        yield Finding("memory", f"{text}: more than half; lower {key} if training waits for the disk", "note")
    else:
        yield Finding("memory", text)


def _buffer_bytes(one: SetSize | None, buffer: int) -> int:
    if one is None or not one.images.count:
        return 0
    nbytes = sum(store.nbytes or 0 for store in one.stores)
    return round(min(1.0, buffer / one.images.count) * nbytes)


def _write_access() -> Iterator[Finding]:
    place = next(one for one in (paths.DATA, Path()) if one.is_dir())
    if os.access(place, os.W_OK | os.X_OK):
        yield Finding("write access", f"{place.resolve()} can be written to")
    else:
        yield Finding(
            "write access",
            f"{place.resolve()} is read-only for you",
            "red",
            f"sudo chown -R $USER {place.resolve()}, or clone the project where you may write",
        )


def _dvc_links() -> Iterator[Finding]:
    """Whether DVC's cache and the workspace share the bytes of a store."""
    config = Path(".dvc/config")
    if not config.is_file():
        yield Finding(
            "DVC", "no .dvc here", "red", "run it in the project's top folder (a copy without .git: git init)"
        )
        return
    values = _dvc_cache((config, Path(".dvc/config.local")))
    links = [kind.strip() for kind in values.get("type", DVC_DEFAULT_LINKS).split(",")]
    folder = Path(".dvc", values.get("dir", "cache"))  # an absolute one stays as it is
    place = next(one for one in (folder, *folder.parents) if one.is_dir())
    same_disk = place.stat().st_dev == Path().stat().st_dev
    works = "symlink" in links or (same_disk and "hardlink" in links)
    text = f"cache in {folder}, {'on the same disk' if same_disk else 'on another disk'}, links {','.join(links)}"
    if works:
        yield Finding("DVC cache", text)
    else:
        remedy = "every store may lie on the disk twice: dvc config cache.type hardlink,symlink"
        yield Finding("DVC cache", f"{text}: {remedy}", "note")


def _dvc_cache(files: Sequence[Path]) -> dict[str, str]:
    """The `cache` section of DVC's settings, later files over earlier ones."""
    values: dict[str, str] = {}
    for file in files:
        parser = configparser.ConfigParser(interpolation=None, strict=False)
        parser.read(file, encoding="utf-8")
        if parser.has_section("cache"):
            values |= {key: value.strip("\"'") for key, value in parser["cache"].items()}
    return values


def _open_files() -> Iterator[Finding]:
    if sys.platform == "win32":
        return
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY or limit >= OPEN_FILES:
        yield Finding("open files", "no limit" if limit == resource.RLIM_INFINITY else f"{limit:,} at a time")
    else:
        yield Finding("open files", f"{limit:,} at a time, which makes large stores slow: ulimit -n 4096", "note")


def _shared_memory(params: Params) -> Iterator[Finding]:
    place = Path("/dev/shm")  # noqa: S108 where Linux has it
    if not place.is_dir() or not params.runtime.workers:
        return
    size = shutil.disk_usage(place).total
    if size >= SHARED_BYTES:
        yield Finding("shared memory", bytes_text(size))
    else:
        remedy = "in a container: --shm-size=8g; else set runtime.workers 0"
        yield Finding("shared memory", f"{bytes_text(size)}, too little for runtime.workers: {remedy}", "note")
