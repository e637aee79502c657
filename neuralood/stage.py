"""How every stage starts and ends: params checked first, one line for what the user can mend."""

import inspect
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import NoReturn

from neuralood.base import console, ranks
from neuralood.base.checking import verify_chunks
from neuralood.base.errors import DISK_FULL, UserError
from neuralood.config import Params, Role, load_params

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""

FIRST_SPEAKS_S = 1.5
"""Seconds within which the first of several processes has said why it stops, and its end has ended the others."""


def run(main: Callable[..., None], launch: Callable[[int], None] | None = None) -> None:
    """Run a stage: `main(params)` or, where it takes a second argument, `main(params, SET)` with SET from argv.

    A stage that several processes can share has a second argument here: `neuralood.launch.launch`, which takes
    `runtime.nproc`. Under torchrun, or once launched, `main` runs in each of them (see `neuralood.base.ranks`).
    """
    with errors_in_one_line():
        params = load_params()
        arguments = _set_argument(main, params)
        if launch is None and ranks.count() > 1:
            raise UserError("this stage is one process's: start it without torchrun")
        if launch and params.runtime.nproc > 1 and not ranks.is_started_by_torchrun():
            launch(params.runtime.nproc)
            return
        console.show_progress(params.runtime.progress)
        verify_chunks(params.runtime.verify)
        main(params, *arguments)


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """What the user can mend as one line and an exit status, in place of a traceback."""
    try:
        with _first_speaks():
            yield
    except UserError as error:
        _stop(str(error))
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        _stop(f"no space left while writing {error.filename or 'a file'}: free some and run the stage again")
    except KeyboardInterrupt:
        if ranks.is_first():
            console.fail("interrupted: finished work is kept, run the stage again to go on")
        sys.exit(INTERRUPTED)


@contextmanager
def _first_speaks() -> Iterator[None]:
    """Delay the errors of other processes than the first: those that all have are said once."""
    try:
        yield
    except Exception:
        if not ranks.is_first():
            time.sleep(FIRST_SPEAKS_S)
        raise


def _stop(reason: str) -> NoReturn:
    """Say why, and exit with status 1."""
    console.fail(reason if ranks.is_first() else f"({ranks.name()}) {reason}")
    if ranks.count() > 1:  # at once: torch takes seconds to clear up, in which others would say the same
        os._exit(1)
    sys.exit(1)


def has_role(params: Params, set_name: str, roles: tuple[Role, ...], output: Path) -> bool:
    """Whether a stage has work to do for a set; if not, says so and leaves an empty folder as its output.

    DVC iterates one dict of all sets, so each stage exists for each of them.
    """
    role = params.sets[set_name].role
    if role in roles:
        return True
    console.note(f"nothing to do for {set_name}, whose role is {role}")
    output.mkdir(parents=True, exist_ok=True)
    return False


def _set_argument(main: Callable[..., None], params: Params) -> list[str]:
    given, wanted = sys.argv[1:], len(inspect.signature(main).parameters) - 1
    if len(given) != wanted:
        raise UserError(f"this stage takes {'one set name' if wanted else 'no argument'}, got {given}")
    known = [*params.sets, *params.fmri.simulated, *params.fmri.files, *params.fmri.imported]
    known += params.encoder.more_subjects
    for name in given:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            raise UserError(f"no set {name} in params.yaml" + (f", did you mean {near[0]}?" if near else ""))
    return given
