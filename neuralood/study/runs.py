"""The arms run as DVC experiments in the project's own folder, and what is kept of each.

All caches are shared: an arm runs the stages that its changes reach. An interrupted study goes on with the arm, and
inside it with the stage and step, that it was at.
"""

import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from neuralood.base import console, paths
from neuralood.base.errors import UserError
from neuralood.base.records import read_json, write_json, write_text
from neuralood.config import load_params
from neuralood.study.arms import Arm

ARMS = paths.DATA / "study"
RECORD = "arm.json"
OWN_PARAMS, RUNNING_PARAMS = "own_params.yaml", "running_params.yaml"
"""In ARMS while an arm runs: the user's params.yaml, and the arm's."""
NEITHER_DECIDES = ("runtime", "study")
"""Sections that change no result of an arm."""


def run_arms(arms: Sequence[Arm], seeds: int) -> None:
    """Run those arms that are not kept yet, one after the other: first those that share the main arm's encoder.

    Raises UserError where one cannot run, or fails.
    """
    texts = {arm.name: params_text({**arm.changes, "fusion.seeds": seeds}) for arm in arms}
    for name, text in texts.items():
        _require_valid(name, text)
    seconds: list[float] = []
    for number, arm in enumerate(sorted(arms, key=_changes_encoder), start=1):
        text, place = texts[arm.name], f"arm {arm.name}, {number} of {len(arms)}"
        if is_kept(arm, text):
            console.note(f"{place}: is there")
            continue
        started = time.monotonic()
        console.heading(place + _time_left(seconds, len(arms) + 1 - number))
        with _in_place(text):
            reproduce(arm.name)
            _keep(arm, text)
        seconds.append(time.monotonic() - started)


def _changes_encoder(arm: Arm) -> bool:
    """Whether it predicts fMRI anew; going back to the encoder before takes DVC a minute or more."""
    return any(key.startswith("encoder.") for key in arm.changes)


def _time_left(seconds: Sequence[float], arms: int) -> str:
    """As those that ran took, if none of the others is there."""
    return f" (about {sum(seconds) / len(seconds) * arms / 60:.0f} min left)" if seconds else ""


def reproduce(name: str) -> None:
    """`dvc exp run` up to metrics/classification.json, as the experiment study-NAME. Raises UserError if it fails."""
    experiment = f"study-{name.replace('.', '-')}"
    dvc("exp", "remove", experiment, quiet=True)  # of an earlier study: a name is taken once
    if dvc("exp", "run", "--name", experiment, "summarize"):
        raise UserError(f"study: arm {name} failed, as said above; mend it and run `neuralood study` again")


def dvc(*arguments: str, quiet: bool = False) -> int:
    """Run DVC here, and return its exit status. After Ctrl-C, which reaches it as well, it may end in its own time."""
    sink = subprocess.DEVNULL if quiet else None
    command = [sys.executable, "-m", "dvc", *arguments]
    with subprocess.Popen(command, stdout=sink, stderr=sink) as process:  # noqa: S603, no shell
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.wait()
            raise


def params_text(changes: Mapping[str, Any]) -> str:
    """params.yaml with these values, by dotted key, its comments kept."""
    yaml = YAML()
    content = yaml.load(paths.PARAMS.read_text(encoding="utf-8"))
    for key, value in changes.items():
        *sections, last = key.split(".")
        place = content
        for section in sections:
            place = place[section]
        place[last] = value
    stream = StringIO()
    yaml.dump(content, stream)
    return stream.getvalue()


def is_kept(arm: Arm, text: str) -> bool:
    """Whether the arm's results are there, of these params, this code and these images."""
    file = ARMS / arm.name / RECORD
    return file.exists() and read_json(file)["key"] == _key(text)


def restore_params() -> None:
    """Put the user's params.yaml back, after an arm or after a study that was killed.

    Raises UserError where it was edited while it was the arm's: nobody's edit, and not the user's own file, is lost.
    """
    own, running = ARMS / OWN_PARAMS, ARMS / RUNNING_PARAMS
    if own.exists():
        now = paths.PARAMS.read_bytes()
        if now not in (own.read_bytes(), running.read_bytes() if running.exists() else None):
            raise UserError(
                f"{paths.PARAMS} was edited while it was that of an arm of the study; {own} is your own: "
                "make one of them what you want, delete the other, and run `neuralood study` again"
            )
        own.replace(paths.PARAMS)
    running.unlink(missing_ok=True)


@contextmanager
def _in_place(text: str) -> Iterator[None]:
    """An arm's params.yaml while the context lasts; the user's own one afterwards, whatever happened."""
    write_text(ARMS / OWN_PARAMS, paths.PARAMS.read_text(encoding="utf-8"))
    write_text(ARMS / RUNNING_PARAMS, text)
    write_text(paths.PARAMS, text)
    try:
        yield
    finally:
        restore_params()


def _keep(arm: Arm, text: str) -> None:
    """Copy what the study reads of a run into a folder of the arm's, whole or not at all."""
    folder, partial = ARMS / arm.name, ARMS / f".{arm.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    for name in ("eval", "humans"):
        shutil.copytree(paths.DATA / name, partial / name, ignore=shutil.ignore_patterns("*.json"))
    for file in (*paths.METRICS.glob("*.json"), paths.FUSION / "fusion.json"):
        if file != paths.STUDY_METRICS:
            shutil.copy(file, partial / file.name)
    names = read_json(paths.ENCODER / "encoder.json")["roi_names"]
    record = {"key": _key(text), "kind": arm.kind, "changes": dict(arm.changes), "roi_names": names}
    write_json(partial / RECORD, record)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def _key(text: str) -> str:
    """What an arm's results depend on: its params, the code, and the lists of all images."""
    digest = hashlib.sha256((_decisive(text) + _code()).encode())
    for file in sorted(paths.manifest("train").parent.glob("*.json")):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()


@cache
def _decisive(text: str) -> str:
    content = YAML(typ="safe", pure=True).load(text)
    return json.dumps({name: value for name, value in content.items() if name not in NEITHER_DECIDES}, sort_keys=True)


@cache
def _code() -> str:
    digest, project = hashlib.sha256(), Path(__file__).resolve().parents[2]
    for file in sorted([*project.glob("neuralood/**/*.py"), *project.glob("stages/*.py")]):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()


def _require_valid(name: str, text: str) -> None:
    file = ARMS / f"{name}.yaml"
    write_text(file, text)
    try:
        load_params(file)
    except UserError as error:
        raise UserError(f"study: arm {name} cannot run: {error}") from None
    finally:
        file.unlink()
