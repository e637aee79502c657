"""dvc.yaml and the code agree: what a stage imports is what it depends on, and modules know their place."""

import ast
import inspect
import re
from functools import cache
from pathlib import Path

import pytest
from conftest import ROOT
from ruamel.yaml import YAML

from neuralood.base import paths

PIPELINE = YAML(typ="safe", pure=True).load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
PARAMS = YAML(typ="safe", pure=True).load((ROOT / "params.yaml").read_text(encoding="utf-8"))
STAGES = {name: entry.get("do", entry) for name, entry in PIPELINE["stages"].items()}
MODULES = sorted(str(file.relative_to(ROOT)) for file in (ROOT / "neuralood").rglob("*.py"))
TORCH = {"torch", "torchvision", "timm", "himalaya", "safetensors"}
TORCH_FREE = (
    "index",
    "index_fmri",
    "transform",
    "render",
    "simulate_fmri",
    "prepare_fmri",
    "prepare_more",
    "map_categories",
    "summarize",
    "summarize_encoder",
)


@cache
def imported(file):
    """Dotted names that a file imports: of `from a import b` both a and a.b, for b may be a module."""
    names = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def own_files(name):
    """The project's files that importing a dotted name runs: non-empty __init__ on the way, and the module."""
    parts = name.split(".")
    if parts[0] not in ("neuralood", "stages"):
        return
    for length in range(1, len(parts) + 1):
        base = Path(*parts[:length])
        for file in (base.with_suffix(".py"), base / "__init__.py"):
            if (ROOT / file).is_file() and (ROOT / file).stat().st_size:
                yield str(file)


@cache
def closure(file):
    """Every file of the project that running `file` runs, itself among them."""
    reached, todo = set(), [file]
    while todo:
        one = todo.pop()
        if one not in reached:
            reached.add(one)
            todo += [found for name in imported(one) for found in own_files(name)]
    return frozenset(reached)


def third_party(file):
    return {name.split(".")[0] for one in closure(file) for name in imported(one)}


def code_deps(stage):
    return [dep for dep in STAGES[stage].get("deps", []) if dep.startswith(("neuralood", "stages"))]


def listed_params(stage):
    entries = STAGES[stage].get("params", [])
    assert all(isinstance(entry, str) for entry in entries), f"{stage}: params of another file"
    return entries


def test_the_pipeline_has_its_stages():
    assert len(STAGES) >= 12
    modules = {file.stem for file in (ROOT / "stages").glob("*.py")} - {"__init__"}
    commands = {re.match(r"python -m stages\.(\w+)( |$)", entry["cmd"])[1] for entry in STAGES.values()}
    assert commands == modules == set(STAGES)


@pytest.mark.parametrize("stage", STAGES)
def test_what_a_stage_imports_is_among_its_deps(stage):
    deps = code_deps(stage)
    uncovered = [
        file
        for file in sorted(closure(f"stages/{stage}.py"))
        if not any(file == dep or file.startswith(f"{dep.rstrip('/')}/") for dep in deps)
    ]
    assert uncovered == []


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_no_code_that_it_does_not_import(stage):
    reached = closure(f"stages/{stage}.py")
    unused = [dep for dep in code_deps(stage) if not any(f == dep or f.startswith(f"{dep}/") for f in reached)]
    assert unused == []
    assert len(set(code_deps(stage))) == len(code_deps(stage))


@pytest.mark.parametrize("stage", STAGES)
def test_params_that_a_stage_lists_exist(stage):
    for entry in listed_params(stage):
        section = PARAMS
        for part in entry.split("."):
            if part.startswith("${"):
                break
            assert part in section, f"{stage}: {entry}"
            section = section[part]


@pytest.mark.parametrize("stage", STAGES)
def test_no_stage_lists_runtime(stage):
    assert not any(entry.split(".")[0] == "runtime" for entry in listed_params(stage))


def own_paths():
    """Every path of neuralood/base/paths.py, those of a set with {} for its name."""
    found = {}
    for name, value in vars(paths).items():
        if isinstance(value, Path) and name not in ("PARAMS", "DATA", "METRICS"):
            found[name] = str(value)
        elif inspect.isfunction(value) and list(inspect.signature(value).parameters) in (["set_name"], ["subject"]):
            found[name] = str(value("{}"))
    return found


def written_paths():
    """Deps and outputs of all stages that are no code, a set's name replaced by {}."""
    for entry in STAGES.values():
        for kind in ("deps", "outs", "metrics", "plots"):
            for item in entry.get(kind, []):
                path = item if isinstance(item, str) else next(iter(item))
                if not path.startswith(("neuralood", "stages")):
                    yield re.sub(r"\$\{.*?\}", "{}", path)


def test_every_path_of_the_code_is_in_the_pipeline():
    assert len(own_paths()) >= 15
    missing = {name: path for name, path in own_paths().items() if path not in set(written_paths())}
    assert set(missing) == {"STUDY_METRICS"}  # of `neuralood study`, which is about many runs of the pipeline


def test_every_path_of_the_pipeline_is_the_codes():
    known = [re.escape(path).replace(r"\{\}", r"(\{\}|nsd|train|val)") for path in own_paths().values()]
    known += [re.escape(str(Path(path).parent)) for path in own_paths().values() if "{}" in path]
    strange = [path for path in set(written_paths()) if not any(re.fullmatch(one, path) for one in known)]
    assert strange == []


def test_every_output_is_made_by_one_stage():
    """A set's manifest has three makers, one for each source of images; config sees that a set has one source."""
    makers = {}
    for name, entry in STAGES.items():
        for item in [*entry.get("outs", []), *entry.get("metrics", [])]:
            path = re.sub(r"\$\{.*?\}", "{}", item if isinstance(item, str) else next(iter(item)))
            makers.setdefault(path, []).append(name)
    shared = {path: names for path, names in makers.items() if len(names) > 1}
    assert shared == {
        str(paths.manifest("{}")): ["render", "index", "transform"],
        str(paths.FMRI_MANIFEST): ["simulate_fmri", "index_fmri", "import_encoder"],
    }


@pytest.mark.parametrize("module", MODULES)
def test_the_library_imports_no_stage(module):
    assert not any(name.split(".")[0] == "stages" for name in imported(module))


@pytest.mark.parametrize("module", [module for module in MODULES if module.startswith("neuralood/data/")])
def test_data_modules_need_no_torch(module):
    assert third_party(module) & TORCH == set()


@pytest.mark.parametrize("stage", TORCH_FREE)
def test_stage_needs_no_torch(stage):
    assert third_party(f"stages/{stage}.py") & TORCH == set()


def test_the_closure_finds_what_it_should():
    """A test of the tests: it follows imports, and tells torch."""
    assert "neuralood/data/images.py" in closure("stages/cache_tokens.py")
    assert "neuralood/demo/__init__.py" in closure("stages/render.py")
    assert "torch" in third_party("stages/cache_tokens.py")
    assert "neuralood/fusion/model.py" not in closure("stages/train_encoder.py")


@pytest.mark.parametrize("module", MODULES)
def test_devices_are_named_in_one_module(module):
    if module == "neuralood/base/device.py":
        return
    for node in ast.walk(ast.parse((ROOT / module).read_text(encoding="utf-8"))):
        assert not (isinstance(node, ast.Attribute) and node.attr == "cuda"), f"{module}:{node.lineno}"
