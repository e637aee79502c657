"""What a person sees of a comparison with people: a line each for people among themselves and for every model."""

from collections.abc import Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

from neuralood.base import console

COLUMNS = ("", "accuracy %", "shape bias", "consistency", "kappa")


def show(title: str, record: Mapping[str, Any]) -> None:
    """Print the table of a record that neuralood.humans.comparison made."""
    table = Table(
        title=escape(f"{title}: {record['experiment']}, {record['n']:,} images"), title_justify="left", box=None
    )
    for name in COLUMNS:
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    table.add_row(f"{record['people']['count']} people", *_cells(record["people"]))
    for name, one in record.items():
        if isinstance(one, dict) and "with" in one:
            table.add_row(name, *_cells(one))
    if "gain" in record:
        table.add_row("gain", "", "", "", _text(record["gain"]["kappa"], "+.3f"))
    console.console.print(table)


def _cells(one: Mapping[str, Any]) -> list[str]:
    bias = _text(one["shape_bias"], ".2f") if "shape_bias" in one else ""
    return [f"{one['accuracy']:.1f}", bias, f"{one['consistency']:.3f}", _text(one["kappa"], ".3f")]


def _text(one: Mapping[str, float], form: str) -> str:
    interval = f" [{one['low']:{form}}, {one['high']:{form}}]" if "low" in one else ""
    return f"{one['value']:{form}}{interval}"
