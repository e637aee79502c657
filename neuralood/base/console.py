"""What a person sees of a run: one console on stderr, progress bars with rate and time left, result tables.

Of several processes of a stage (see `ranks`) only the first shows them; each may warn.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from neuralood.base import ranks

T = TypeVar("T")

console = Console(stderr=True, highlight=False, soft_wrap=True)

LOG_INTERVAL_S = 30.0
"""Seconds between two plain progress lines where stderr is no terminal."""

_progress_shown = True
_collected: list[str] | None = None


def show_progress(shown: bool) -> None:
    """Switch all progress output on or off (`runtime.progress`)."""
    global _progress_shown
    _progress_shown = shown


@contextmanager
def collected() -> Iterator[list[str]]:
    """What `warn` says while the context lasts, in a list; nothing of it, nor of `note`, is shown."""
    global _collected
    _collected, before = [], _collected
    try:
        yield _collected
    finally:
        _collected = before


class _Rate(ProgressColumn):
    """Steps a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.1f} /s", style="dim")


def track(items: Iterable[T], description: str, total: int | None) -> Iterator[T]:
    """Yield `items` with a progress bar on a terminal, or a plain line every 30 s in a log; `total` may be unknown."""
    if not _progress_shown or not ranks.is_first():
        yield from items
    elif console.is_terminal:
        yield from _track_bar(items, description, total)
    else:
        yield from _track_lines(items, description, total)


def _track_bar(items: Iterable[T], description: str, total: int | None) -> Iterator[T]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(description, total=total)
        for item in items:
            yield item
            progress.advance(task)


def _track_lines(items: Iterable[T], description: str, total: int | None) -> Iterator[T]:
    started = last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= LOG_INTERVAL_S and done != total:
            last = now
            rate = done / (now - started)
            left = "" if total is None else f", {(total - done) / rate:,.0f} s left"
            console.print(f"{description}: {done}/{'?' if total is None else total}, {rate:,.1f} /s{left}")


def note(message: str) -> None:
    """One plain line."""
    if _collected is None and ranks.is_first():
        console.print(escape(message))


def heading(title: str) -> None:
    """A rule with a title, between parts of a long run."""
    console.rule(escape(title))


def warn(message: str) -> None:
    """One line that asks for a look."""
    if _collected is not None:
        _collected.append(message)
        return
    console.print(f"[yellow]warning:[/] {escape(message)}")


def fail(message: str) -> None:
    """Why a stage stops: one line, or one line a problem."""
    console.print(f"[bold red]error:[/] {escape(message)}")


def wrote(path: Path, what: str) -> None:
    """Say at the end of a stage what it wrote."""
    if ranks.is_first():
        console.print(f"[dim]wrote[/] {escape(str(path))} [dim]({escape(what)})[/]")


def results(title: str, rows: Mapping[str, str]) -> None:
    """A small two-column table of results."""
    if not ranks.is_first():
        return
    table = Table(title=escape(title), title_justify="left", show_header=False, box=None)
    table.add_column(style="dim")
    table.add_column()
    for name, value in rows.items():
        table.add_row(escape(name), escape(value))
    console.print(table)
