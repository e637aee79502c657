"""The arms run as DVC experiments, some at a time in workspaces of their own, and what is kept of each.

All caches are shared: an arm runs the stages that its changes reach. An interrupted study goes on with the arms, and
inside them with the stages and steps, that it was at.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
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
from neuralood.study.workspaces import Pool, Workspace, open_workspaces

ARMS = paths.DATA / "study"
RECORD = "arm.json"
NEITHER_DECIDES = ("runtime", "study")
"""Sections that change no result of an arm."""
SHOWN_LINES = 20
"""Of what a failed arm said."""


def run_arms(arms: Sequence[Arm], seeds: int, at_a_time: int) -> None:
    """Run those arms that are not kept yet, so many at a time: first those that take longest.

    Raises UserError where one cannot run, before any work, or fails, once those that are running have ended.
    """
    texts = {arm.name: params_text({**arm.changes, "fusion.seeds": seeds}) for arm in arms}
    for name, text in texts.items():
        _require_valid(name, text)
    left = sorted((arm for arm in arms if not is_kept(arm, texts[arm.name])), key=_shares_encoder)
    console.note(f"{len(arms) - len(left)} of {len(arms)} arms are there")
    if not left:
        return
    pool = open_workspaces(min(at_a_time, len(left)))
    with ThreadPoolExecutor(at_a_time) as threads:
        runs = {threads.submit(_run, arm, texts[arm.name], pool): arm.name for arm in left}
        try:
            for done in console.track(as_completed(runs), "arms of the study", len(left)):
                done.result()
                console.note(f"arm {runs[done]} is there")
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            raise


def _run(arm: Arm, text: str, pool: Pool) -> None:
    with pool.lend(arm.name) as workspace:
        workspace.hold(arm.name, text)
        reproduce(arm.name, workspace)
        _keep(arm, text, workspace.folder)


def _shares_encoder(arm: Arm) -> bool:
    """Whether it reads the main arm's predicted fMRI; others train an encoder and predict anew."""
    return not any(key.startswith("encoder.") for key in arm.changes)


def reproduce(name: str, workspace: Workspace) -> None:
    """Run an arm up to metrics/classification.json, as the experiment study-NAME. Raises UserError if it fails."""
    experiment, log = f"study-{name.replace('.', '-')}", ARMS / f"{name}.log"
    console.note(f"arm {name}: what it says is in {log}")
    if workspace.run(experiment, "summarize", log):
        said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-SHOWN_LINES:]
        raise UserError(
            "\n".join([f"study: arm {name} failed; mend it and run `neuralood study` again. Last in {log}:", *said])
        )
    workspace.publish(experiment)


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


def _keep(arm: Arm, text: str, workspace: Path) -> None:
    """Copy what the study reads of a run into a folder of the arm's, whole or not at all."""
    folder, partial = ARMS / arm.name, ARMS / f".{arm.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    for name in ("eval", "humans"):
        shutil.copytree(workspace / paths.DATA / name, partial / name, ignore=shutil.ignore_patterns("*.json"))
    for file in (*(workspace / paths.METRICS).glob("*.json"), workspace / paths.FUSION / "fusion.json"):
        if file.name != paths.STUDY_METRICS.name:
            shutil.copy(file, partial / file.name)
    write_json(partial / RECORD, {"key": _key(text), "kind": arm.kind, "changes": dict(arm.changes)})
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
