"""What tests share: a seeded generator, a project of their own to run in, real data where it is at hand."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import asdict
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[1]

if "NEURALOOD_TEST_CUDA" not in os.environ:  # before anything asks torch for cards; what is expected is the CPU's
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

settings.register_profile(
    "neuralood",
    deadline=None,
    max_examples=50,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("neuralood")


@pytest.fixture
def rng() -> np.random.Generator:
    """Every draw of a test comes from here."""
    return np.random.default_rng(int(os.environ.get("NEURALOOD_TEST_SEED", "20240828")))


@cache
def _parsed(text: str) -> dict[str, Any]:
    content: dict[str, Any] = YAML(typ="safe", pure=True).load(text)
    return content


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As in another process: on more threads sums are rounded otherwise, and earlier tests set any number."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Project:
    """A folder with its own params.yaml, in which the test runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "params.yaml"

    def read(self) -> dict[str, Any]:
        """params.yaml as plain mappings and lists."""
        return deepcopy(_parsed(self.file.read_text()))

    def write(self, content: dict[str, Any]) -> None:
        """Put `content` in place of params.yaml."""
        text = StringIO()
        YAML(typ="safe", pure=True).dump(content, text)
        self.file.write_text(text.getvalue())

    def edit(self, **changes: Any) -> None:
        """Set keys: edit(**{"fusion.width": 12}); a value of DELETE removes the key."""
        content = self.read()
        for key, value in changes.items():
            *above, last = key.split(".")
            section = content
            for part in above:
                section = section[part]
            if value is DELETE:
                del section[last]
            else:
                section[last] = value
        self.write(content)

    def replace(self, old: str, new: str) -> None:
        """Replace the one place where `old` stands in the text of params.yaml."""
        text = self.file.read_text()
        assert text.count(old) == 1, f"{old!r} occurs {text.count(old)} times"
        self.file.write_text(text.replace(old, new))

    def load(self) -> Any:
        """The parsed params."""
        from neuralood.config import load_params

        return load_params()


DELETE = object()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A copy of the shipped params.yaml in an empty folder, which is the working directory."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NEURALOOD_DATA", raising=False)
    return Project(tmp_path)


def copy_project(folder: Path) -> YAML:
    """The project's committed and changed files, copied into a Git repository of their own."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file() and not name.startswith(("tests/", "benchmarks/", "metrics/")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((ROOT / name).read_bytes())
    (folder / "dvc.lock").unlink(missing_ok=True)
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    return YAML()


@pytest.fixture(scope="session")
def real() -> Path:
    """The sample of real data; tests that use it are marked `real`."""
    folder = Path(os.environ.get("NEURALOOD_REAL") or ROOT.parent / "shared" / "real")
    if not folder.is_dir():
        pytest.skip("no sample of real data: neither NEURALOOD_REAL nor ../shared/real is there")
    return folder


def as_yaml(params: Any) -> dict[str, Any]:
    """Parsed params as YAML would hold them: tuples as lists, options that were left out not there."""
    record: dict[str, Any] = json.loads(json.dumps(asdict(params)))
    for section, left_out in (("sets", (None,)), ("files", (None, [], False))):
        for name, entry in record[section].items():
            record[section][name] = {key: value for key, value in entry.items() if value not in left_out}
    return record


def randomise(module: Any, seed: int = 0) -> Any:
    """Give a torch module weights of its own generator (no global seed), and statistics that are not trivial."""
    import torch

    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in sorted(module.state_dict().items()):
            if not value.is_floating_point():
                continue
            drawn = torch.randn(value.shape, generator=source, dtype=torch.float64)
            if name.endswith(("running_var", "sd")):
                drawn = 0.5 + drawn.abs()
            elif value.ndim > 1:
                drawn = drawn / value[0].numel() ** 0.5
            else:
                drawn = (1.0 if name.endswith("weight") else 0.0) + 0.1 * drawn
            value.copy_(drawn)
    return module
