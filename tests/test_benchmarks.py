"""Every benchmark can be imported: their runs, which are slow, are tests of their own."""

from importlib import import_module

import pytest
from conftest import ROOT

NAMES = sorted(file.stem for file in (ROOT / "benchmarks").glob("*.py") if file.stem != "__init__")


@pytest.mark.parametrize("name", NAMES)
def test_benchmark_can_be_imported(name):
    import_module(f"benchmarks.{name}")
