"""`neuralood doctor`: all checks, their table, and whether a run can start."""

from collections.abc import Iterator, Sequence

from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from neuralood.base import console
from neuralood.config import Params
from neuralood.doctor.findings import Check, Finding, findings_of
from neuralood.doctor.fmri import fmri_checks
from neuralood.doctor.images import image_checks
from neuralood.doctor.machine import machine_checks
from neuralood.doctor.weights import weights_checks

STYLE = {"ok": "green", "note": "yellow", "red": "bold red"}

WIDTH_IN_A_LOG = 140
"""Columns of the table where there is no terminal."""


def show_doctor(params: Params) -> bool:
    """Print what all checks found; returns whether no line is red. Nothing is written, nothing is fetched."""
    console.show_progress(False)  # of the readers: there is one line for all
    found: list[Finding] = []
    with console.console.status("looking") as status:
        for check in all_checks(params):
            status.update(f"looking at {check.name}")
            found += findings_of(check)
    _show(found)
    red, notes = (sum(one.verdict == verdict for one in found) for verdict in ("red", "note"))
    if red:
        console.fail(f"{red} of {len(found)} checks are red: mend these before `dvc repro`")
    else:
        console.note(f"{len(found)} checks, none red, {notes} to note: `neuralood plan` says what a run takes")
    return not red


def all_checks(params: Params) -> Iterator[Check]:
    """In the order in which they are shown."""
    yield from image_checks(params)
    yield from fmri_checks(params)
    yield from weights_checks(params)
    yield from machine_checks(params)


def _show(found: Sequence[Finding]) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("check", no_wrap=True)
    table.add_column("found, and what to do", overflow="fold")
    table.add_column("verdict", no_wrap=True)
    for one in found:
        style = STYLE[one.verdict]
        remedy = f"\n[bold]remedy: {escape(one.remedy)}[/]" if one.remedy else ""
        table.add_row(escape(one.check), escape(one.found) + remedy, f"[{style}]{one.verdict}[/]")
    if not console.console.is_terminal:
        options = console.console.options.update(width=WIDTH_IN_A_LOG)
        table.width = Measurement.get(console.console, options, table).maximum
    console.console.print(table)
    console.console.print()
