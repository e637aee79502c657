"""The `neuralood` command: one function a subcommand, whose docstring is its help."""

import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from neuralood.base import console
from neuralood.base.errors import UserError
from neuralood.config import load_params
from neuralood.plan.words import bytes_text
from neuralood.stage import errors_in_one_line

WRONG_CALL = 2
"""Exit status of a call that no subcommand understands."""


def plan() -> bool:
    """What params.yaml will take, before anything runs: bytes of all stores, free disk, time a stage."""
    from neuralood.plan.tables import show_plan  # torch takes seconds to import

    params = load_params(check_paths=False)
    console.show_progress(params.runtime.progress)
    return show_plan(params)


def doctor() -> bool:
    """Look at your images, fMRI, weights and machine before a run: what is wrong, and what to do about it."""
    from neuralood.doctor.tables import show_doctor  # torch takes seconds to import

    return show_doctor(load_params(check_paths=False))


def study(quick: str = "") -> bool:
    """Is the gain from the brain? Every ablation and control as a DVC experiment, one table, metrics/study.json."""
    from neuralood.study.study import study as run_study  # torch takes seconds to import

    if quick not in ("", "--quick"):
        raise UserError(f"neuralood study takes --quick or nothing, got {quick}")
    run_study(quick=quick == "--quick")
    return True


def verify(path: str, *more: str) -> bool:
    """Check every byte of stores, such as data/tokens/val.zarr, against their checksums."""
    return all([_is_whole(Path(one)) for one in (path, *more)])  # a list: all of them are looked at


def export_encoder(path: str) -> bool:
    """Write the trained brain encoder, weights and no data, to a new folder that others can import."""
    from neuralood.encoder.exported import export_encoder as export  # torch takes seconds to import

    export(Path(path), load_params(check_paths=False))
    return True


def export(path: str) -> bool:
    """Write the trained classifiers and brain encoder, with a model card and no data, to a new folder."""
    from neuralood.sharing.export import export_model  # torch takes seconds to import

    export_model(Path(path), load_params(check_paths=False))
    return True


def predict(*arguments: str) -> bool:
    """Classify images with an exported model, and predict the activity of each ROI: a table, or JSON."""
    from neuralood.sharing.predict import predict as run  # torch takes seconds to import

    return run(arguments)


def import_berg(*arguments: str) -> bool:
    """Convert a linear model of BERG (subject 1 to 8; its files are pickles) into an encoder to import."""
    from neuralood.encoder.berg import import_berg as convert  # torch takes seconds to import

    convert(arguments)
    return True


def compare_head(model: str, weights: str, experiment: str, stimuli: str, answers: str, out: str) -> bool:
    """Compare a timm model's own ImageNet classifier with people, on stimuli of an experiment such as cue-conflict."""
    from neuralood.humans.heads import compare_head as compare  # torch takes seconds to import

    params = load_params(check_paths=False)
    console.show_progress(params.runtime.progress)
    compare(model, weights, experiment, Path(stimuli), Path(answers), Path(out), params)
    return True


COMMANDS: dict[str, Callable[..., bool]] = {
    "doctor": doctor,
    "plan": plan,
    "study [--quick]": study,
    "verify PATH...": verify,
    "export-encoder PATH": export_encoder,
    "export PATH": export,
    "predict --model PATH [--json OUT] [--weights FILE] IMAGE...": predict,
    "import-berg --trust FOLDER SUBJECT OUT": import_berg,
    "compare-head MODEL WEIGHTS EXPERIMENT STIMULI ANSWERS OUT": compare_head,
}
"""Subcommands and what follows them."""


def main() -> None:
    """Run the subcommand that the command line names: exit status 0 where all is well, 1 where it is not."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if {"--help", "-h"} & {name, *arguments}:
        _show_usage()
        return
    command = {usage.split()[0]: function for usage, function in COMMANDS.items()}.get(name)
    if command is None or not _takes(command, arguments):
        _show_usage()
        sys.exit(WRONG_CALL)
    with errors_in_one_line():
        sys.exit(0 if command(*arguments) else 1)


def _is_whole(path: Path) -> bool:
    """Print a line for each problem of a store, or one that it has none."""
    from neuralood.base.store import read_store
    from neuralood.base.verifying import store_problems

    whole = True
    try:
        for problem in store_problems(path, console.track):
            console.fail(problem)
            whole = False
    except UserError as error:  # no store at all
        console.fail(str(error))
        return False
    if whole:
        arrays = read_store(path).arrays.values()
        sizes = [array.file(number).stat().st_size for array in arrays for number in range(array.chunks)]
        console.note(f"{path}: whole ({len(arrays)} arrays, {len(sizes)} chunks, {bytes_text(sum(sizes))})")
    return whole


def _takes(command: Callable[..., bool], arguments: Sequence[str]) -> bool:
    try:
        inspect.signature(command).bind(*arguments)
    except TypeError:
        return False
    return True


def _show_usage() -> None:
    console.note("usage: neuralood COMMAND")
    for usage, command in COMMANDS.items():
        console.note(f"  {usage:16} {inspect.getdoc(command)}")
