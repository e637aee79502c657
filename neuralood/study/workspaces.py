"""Folders that arms run in: clones of the project below data/study, which link their files from its DVC cache.

Each holds one arm at a time and stays, so that an interrupted arm goes on where it was. The project's own params.yaml
and data are never touched.
"""

import filecmp
import os
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from neuralood.base import paths
from neuralood.base.errors import UserError
from neuralood.base.records import write_text

FOLDER = paths.DATA / "study" / "workspaces"
LAST_ARM = ".last_arm"
"""In a workspace: the arm that it holds."""
ITS_OWN = (str(paths.PARAMS), "dvc.lock")
"""Tracked files of a workspace that are its arm's, as metrics are."""


@dataclass(frozen=True)
class Workspace:
    """A folder that is a whole project, with an arm's params.yaml."""

    folder: Path

    @property
    def last_arm(self) -> str | None:
        """The arm that it was given last."""
        file = self.folder / LAST_ARM
        return file.read_text(encoding="utf-8") if file.exists() else None

    def hold(self, arm: str, params: str) -> None:
        """Be this arm's: with its params.yaml and, unless it was so already, the project's results to start from."""
        if self.last_arm != arm:
            self.restore()
            write_text(self.folder / LAST_ARM, arm)
        write_text(self.folder / paths.PARAMS, params)

    def restore(self) -> None:
        """Link what the project's dvc.lock names from its cache: an arm then runs what its own changes reach.

        The scores of its encoder out of distribution it never runs, and is not given those of another one.
        """
        for file in (Path("dvc.lock"), *paths.METRICS.glob("*.json")):
            _copy(file, self.folder / file)
        (self.folder / paths.ENCODER_OOD_METRICS).unlink(missing_ok=True)
        self._dvc("checkout", "--force", "--allow-missing")

    def run(self, experiment: str, target: str, log: Path) -> int:
        """`dvc exp run` here up to a stage; what it says goes to `log`. Returns its exit status."""
        if self._refs(experiment):
            self._dvc("exp", "remove", experiment)  # of an earlier study: a name is taken once
        with log.open("wb") as sink:
            command = [sys.executable, "-m", "dvc", "exp", "run", "--name", experiment, target]
            environment = os.environ | {paths.DATA_ROOT_VARIABLE: str(paths.data_root().resolve())}
            return subprocess.run(  # noqa: S603, no shell
                command, cwd=self.folder, env=environment, stdout=sink, stderr=subprocess.STDOUT, check=False
            ).returncode

    def publish(self, experiment: str) -> None:
        """Make an experiment that ran here one of the project's, for `dvc exp show` there."""
        for ref in self._refs(experiment):
            git("fetch", "-q", str(self.folder.resolve()), f"+{ref}:{ref}")

    def update(self) -> None:
        """Have the project's code and files as they lie there now, committed or not."""
        head = git("rev-parse", "HEAD").strip()
        if git("rev-parse", "HEAD", at=self.folder).strip() != head:
            git("fetch", "-q", str(Path.cwd()), "HEAD", at=self.folder)
            git("reset", "-q", "--hard", head, at=self.folder)
        for name in git("ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0"):
            if name and name not in ITS_OWN and not Path(name).is_relative_to(paths.METRICS):
                _copy(Path(name), self.folder / name)

    def _refs(self, experiment: str) -> list[str]:
        refs = git("for-each-ref", "--format=%(refname)", "refs/exps", at=self.folder).split()
        return [ref for ref in refs if ref.endswith(f"/{experiment}")]

    def _dvc(self, *arguments: str) -> int:
        command = [sys.executable, "-m", "dvc", "-q", *arguments]
        return subprocess.run(command, cwd=self.folder, capture_output=True, check=False).returncode  # noqa: S603


class Pool:
    """Workspaces that are lent out, each to one arm at a time; an arm gets the one that holds what it left there."""

    def __init__(self, workspaces: Sequence[Workspace]) -> None:
        self._free, self._lock = deque(workspaces), Lock()

    @contextmanager
    def lend(self, arm: str) -> Iterator[Workspace]:
        """A free workspace, while the context lasts; there must be one."""
        with self._lock:
            chosen = next((one for one in self._free if one.last_arm == arm), self._free[0])
            self._free.remove(chosen)
        try:
            yield chosen
        finally:
            with self._lock:
                self._free.append(chosen)


def open_workspaces(count: int) -> Pool:
    """So many workspaces, made where there are none. Raises UserError where the project has no Git commit."""
    git("rev-parse", "HEAD")
    workspaces = [Workspace(FOLDER / str(number)) for number in range(count)]
    cache = _cache_folder() if not all(one.folder.exists() for one in workspaces) else ""
    for one in workspaces:
        if not one.folder.exists():
            _make(one, cache)
        one.update()
    return Pool(workspaces)


def git(*arguments: str, at: Path = Path()) -> str:
    """What a git command prints. Raises UserError where it fails."""
    done = subprocess.run(  # noqa: S603, no shell
        ["git", *arguments],  # noqa: S607, the user's own git
        cwd=at,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise UserError(f"study: git {arguments[0]} failed: {done.stderr.strip()}")
    return done.stdout


def _make(workspace: Workspace, cache: str) -> None:
    """Clone the project, with its DVC cache."""
    partial = paths.partial(workspace.folder)
    shutil.rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    git("clone", "-q", "--shared", str(Path.cwd()), str(partial))
    _copy(Path(".dvc/config.local"), partial / ".dvc/config.local")
    if Workspace(partial)._dvc("cache", "dir", "--local", cache):
        raise UserError(f"study: DVC cannot share its cache {cache} with {partial}")
    workspace.folder.parent.mkdir(parents=True, exist_ok=True)
    partial.rename(workspace.folder)


def _cache_folder() -> str:
    command = [sys.executable, "-m", "dvc", "cache", "dir"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603, no shell
    return str(Path(done.stdout.strip()).resolve())


def _copy(source: Path, target: Path) -> None:
    """Make target what source is, if it is not so already: a file, or nothing."""
    if not source.is_file():
        target.unlink(missing_ok=True)
    elif not target.is_file() or not filecmp.cmp(source, target, shallow=False):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
