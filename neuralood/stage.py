"""How every stage starts and ends: params checked first, one line for what the user can mend."""

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path

from neuralood.base import console
from neuralood.base.checking import verify_chunks
from neuralood.base.errors import DISK_FULL, UserError
from neuralood.config import Params, Role, load_params

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""


def run(main: Callable[..., None]) -> None:
    """Run a stage: `main(params)` or, where it takes a second argument, `main(params, SET)` with SET from argv."""
    with errors_in_one_line():
        params = load_params()
        console.show_progress(params.runtime.progress)
        verify_chunks(params.runtime.verify)
        main(params, *_set_argument(main, params))


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """What the user can mend as one line and an exit status, in place of a traceback."""
    try:
        yield
    except UserError as error:
        console.fail(str(error))
        sys.exit(1)
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        console.fail(f"no space left while writing {error.filename or 'a file'}: free some and run the stage again")
        sys.exit(1)
    except KeyboardInterrupt:
        console.fail("interrupted: finished work is kept, run the stage again to go on")
        sys.exit(INTERRUPTED)


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
