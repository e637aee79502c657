"""`neuralood plan`: the tables, and whether the disk will do."""

import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict

from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from neuralood.backbone import FrozenBackbone, load_backbone
from neuralood.base import paths
from neuralood.base.console import console, note, warn
from neuralood.base.device import prepare_torch
from neuralood.config import Params
from neuralood.plan.sizes import SetSize, StoreSize, set_sizes, vertex_count
from neuralood.plan.times import StageTime, stage_times
from neuralood.plan.words import UNKNOWN, bytes_text, duration_text
from neuralood.plan.work import Work, probe

MOST_WIDTH = 200
"""Columns that a table may take: wider than any of ours, so that no number is cut short."""


def show_plan(params: Params) -> bool:
    """Print sizes, times and the verdict on the disk; returns whether it will do. Nothing of the project is written.

    Raises UserError for a backbone that cannot be made, or a `cache.pool` that does not fit its grid.
    """
    device = prepare_torch(params.runtime.device, params.runtime.threads)
    note(f"probing {device} for a few seconds; weights are not loaded: random ones have the same shapes and speed")
    _warn_of_load()
    backbone = load_backbone(**{**asdict(params.backbone), "weights": None}, data_root=paths.data_root()).to(device)
    vertices = vertex_count(params)
    sets = set_sizes(params, backbone, vertices)
    work = probe(params, sets, backbone, vertices, device)
    times = list(stage_times(work, backbone))
    _print(_table_of_sizes(work, backbone))
    _print(_table_of_times(times))
    for line in _remedies(params, sets, vertices):
        note(line)
    return _disk_will_do(sets)


def _warn_of_load() -> None:
    """Say so where other programs have the processor, as then all that is measured takes longer."""
    load, cores = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0, os.cpu_count() or 1
    if load > cores:
        warn(f"this machine is busy (load {load:.1f} on {cores} cores): all takes longer now than when it is idle")


def _table_of_sizes(work: Work, backbone: FrozenBackbone) -> Table:
    shape, params = backbone.shape, work.params
    tokens = f"{shape.layers} x {shape.patches // params.cache.pool**2} x {shape.width} {params.cache.dtype}"
    title = f"Image sets: {params.backbone.name} at {params.backbone.image_size} px"
    title += f", {UNKNOWN if work.vertices is None else format(work.vertices, ',')} vertices"
    table = Table(title=title, title_justify="left", box=None)
    for name in ("set", "role", "images", "layers x patches x width", "token store", "predicted fMRI", "cache_tokens"):
        table.add_column(name, justify="left" if name in ("set", "role") else "right", no_wrap=True)
    for one in work.sets.values():
        count = one.images.count
        table.add_row(
            escape(one.name),
            one.role,
            UNKNOWN if count is None else f"{count:,}",
            tokens,
            _store_text(one.tokens),
            "-" if one.fmri is None else _store_text(one.fmri),
            duration_text(work.caching_seconds(one)),
        )
    return table


def _store_text(store: StoreSize) -> str:
    if store.nbytes is None or store.left is None:
        return UNKNOWN
    there = store.nbytes - store.left
    shown = " (there)" if not store.left else f" ({bytes_text(there)} there)" if there else ""
    return bytes_text(store.nbytes) + shown


def _table_of_times(times: Sequence[StageTime]) -> Table:
    table = Table(title="Times, from nothing: DVC skips what it finds unchanged", title_justify="left", box=None)
    for name in ("stage", "work", "rate", "time", "basis"):
        table.add_column(name, justify="right" if name in ("rate", "time") else "left", no_wrap=True)
    for one in times:
        over = "over " if one.least else ""
        table.add_row(one.stage, over + one.work, one.rate, over + duration_text(one.seconds), one.basis)
    over = "over " if any(one.least or one.seconds is None for one in times) else ""
    in_all = sum(one.seconds or 0 for one in times)
    table.add_row("in all", "", "", over + duration_text(in_all), "", style="bold")
    return table


def _remedies(params: Params, sets: Iterable[SetSize], vertices: int | None) -> list[str]:
    """What to run so that every '?' becomes a number."""
    unknown = [one.name for one in sets if one.images.count is None]
    names = list(dict.fromkeys(params.made[name].source if name in params.made else name for name in unknown))
    lines = []
    if names:
        lines.append(f"images are not listed yet: run `dvc repro {' '.join(f'index@{name}' for name in names)}`")
    if vertices is None:
        lines.append(f"vertices are not known yet: run `dvc repro index_fmri@{params.fmri.subject}`")
    return lines


def _disk_will_do(sets: Iterable[SetSize]) -> bool:
    stores = [store for one in sets for store in one.stores]
    needed = sum(store.left or 0 for store in stores)
    least = "at least " if any(store.left is None for store in stores) else ""
    free = shutil.disk_usage(paths.DATA if paths.DATA.exists() else paths.DATA.absolute().parent).free
    text = f"stores need {least}{bytes_text(needed)} more; the disk of {paths.DATA}/ has {bytes_text(free)} free"
    if needed <= free:
        note(text)
        return True
    console.print(
        f"[bold red]{text}: {bytes_text(needed - free)} too few. Set cache.dtype int8 (half) or cache.pool 2 "
        "(a quarter), take fewer sets, free some, or take another disk[/]"
    )
    return False


def _print(table: Table) -> None:
    """At the width that it needs, whatever the terminal's."""
    table.width = Measurement.get(console, console.options.update(width=MOST_WIDTH), table).maximum
    console.print(table)
    console.print()
