"""What a check found, and how checks are run so that none stops the others."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from neuralood.base import console
from neuralood.base.errors import UserError

Verdict = Literal["ok", "note", "red"]

MOST_LINES = 6
"""Lines that are shown of one message."""


@dataclass(frozen=True)
class Finding:
    """One line of the table. A red one has a remedy, be it in what was found."""

    check: str
    found: str
    verdict: Verdict = "ok"
    remedy: str = ""


@dataclass(frozen=True)
class Check:
    """Something to look at: findings come one after the other, until there are no more or an error."""

    name: str
    look: Callable[[], Iterable[Finding]]


def findings_of(check: Check) -> list[Finding]:
    """All that a check finds: what the user can mend is a red line, what readers warn of a note."""
    found: list[Finding] = []
    with console.collected() as warnings:
        try:
            for finding in check.look():
                found.append(finding)  # so that those before an error are kept
        except UserError as error:
            found.append(Finding(check.name, shortened(str(error)), "red"))
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            remedy = "make it readable, or mend its path in params.yaml"
            found.append(Finding(check.name, f"{place}{error.strerror or error}", "red", remedy))
    return [*found, *(Finding(check.name, shortened(text), "note") for text in warnings)]


def shortened(message: str) -> str:
    """The first lines of a message, and how many more it has."""
    lines = message.splitlines()
    more = [f"  ... and {len(lines) - MOST_LINES} more"] if len(lines) > MOST_LINES else []
    return "\n".join(lines[:MOST_LINES] + more)
