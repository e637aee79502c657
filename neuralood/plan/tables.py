"""`neuralood plan`: the tables, and whether the disk will do."""

import os
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
from neuralood.plan.disk import MADE_IMAGE_BYTES, REMEDY, disk_need, features_size, made_size, measured_size
from neuralood.plan.forms import FormCost, form_costs
from neuralood.plan.sizes import SetSize, StoreSize, set_sizes, vertex_count
from neuralood.plan.study import study_text
from neuralood.plan.times import ESTIMATE, StageTime, stage_times
from neuralood.plan.words import UNKNOWN, bytes_text, duration_text, rate_text
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
    study = study_text(work, backbone)
    if study is not None:
        note(study)
    if work.encoder is not None and vertices is not None:
        _print(_table_of_forms(form_costs(params, _counts(sets), vertices, work.encoder, device)))
    _print(_table_of_others(params, sets, backbone, vertices))
    for line in _remedies(params, sets, vertices):
        note(line)
    return _disk_will_do(sets, _others(params, sets, backbone, vertices).values())


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
            UNKNOWN if count is None else f"{'about ' if one.images.about else ''}{count:,}",
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


def _counts(sets: Iterable[SetSize]) -> list[int]:
    """Images of each set that gets predicted fMRI, where they are known."""
    return [one.images.count for one in sets if one.fmri is not None and one.images.count is not None]


def _table_of_forms(forms: Iterable[FormCost]) -> Table:
    title = "Predicted fMRI by what is kept of it (synthesis.store), all sets that are counted"
    table = Table(title=title, title_justify="left", box=None)
    for name in ("kept", "numbers an image", "bytes", "restored"):
        table.add_column(name, justify="left" if name == "kept" else "right", no_wrap=True)
    for one in forms:
        restored = "as stored" if not one.seconds else f"{rate_text(one.seconds)} in each epoch"
        name = escape(one.name) + (" (chosen)" if one.chosen else "")
        table.add_row(name, f"{one.width:,}", bytes_text(one.nbytes), restored)
    return table


def _others(
    params: Params, sets: Sequence[SetSize], backbone: FrozenBackbone, vertices: int | None
) -> dict[str, StoreSize]:
    """What lies beside the stores of the sets: measured fMRI, features of the probe, and the images that are made."""
    sizes = {
        "measured fMRI": measured_size(params, sets, vertices),
        "features of the linear probe, while train_fusion runs": features_size(sets, backbone.shape),
    }
    if params.made:
        sizes["made images"] = made_size(params, sets)
    return sizes


def _table_of_others(params: Params, sets: Sequence[SetSize], backbone: FrozenBackbone, vertices: int | None) -> Table:
    table = Table(title="Beside them; models and predictions are small", title_justify="left", box=None)
    for name in ("what", "bytes", "basis"):
        table.add_column(name, justify="right" if name == "bytes" else "left", no_wrap=True)
    for what, size in _others(params, sets, backbone, vertices).items():
        basis = f"{ESTIMATE}: {bytes_text(MADE_IMAGE_BYTES)} an image" if what == "made images" else "float32"
        table.add_row(what, _store_text(size), basis)
    return table


def _remedies(params: Params, sets: Iterable[SetSize], vertices: int | None) -> list[str]:
    """What to run so that every '?' becomes a number."""
    unknown = [one.name for one in sets if one.images.count is None or one.images.about]
    names = list(dict.fromkeys(params.made[name].source if name in params.made else name for name in unknown))
    lines = []
    if names:
        lines.append(f"images are not listed yet: run `dvc repro {' '.join(f'index@{name}' for name in names)}`")
    if vertices is None:
        stage = "import_encoder" if params.fmri.source == "imported" else "index_fmri"
        lines.append(f"vertices are not known yet: run `dvc repro {stage}@{params.fmri.subject}`")
    return lines


def _disk_will_do(sets: Iterable[SetSize], others: Iterable[StoreSize]) -> bool:
    need = disk_need(sets, others)
    if not need.too_few:
        note(need.text)
        return True
    console.print(f"[bold red]{need.text}: {bytes_text(need.too_few)} too few. {REMEDY}[/]")
    return False


def _print(table: Table) -> None:
    """At the width that it needs, whatever the terminal's."""
    table.width = Measurement.get(console, console.options.update(width=MOST_WIDTH), table).maximum
    console.print(table)
    console.print()
