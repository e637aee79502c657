"""The `neuralood` command: its subcommands, its exit status, and one line for what is wrong."""

import sys

import numpy as np
import pytest

from neuralood import cli
from neuralood.base.writing import write_store
from neuralood.doctor import tables as doctor_tables
from neuralood.plan import tables


@pytest.fixture
def call(project, monkeypatch, capsys):
    """Run the command in a project of its own; gives the exit status and what it says."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["neuralood", *map(str, arguments)])
        try:
            cli.main()
            status = 0
        except SystemExit as stopped:
            status = stopped.code
        said = capsys.readouterr()
        assert said.out == ""
        return status, said.err

    return run


@pytest.fixture
def store(tmp_path, rng):
    """Two arrays, three chunks each."""
    path = tmp_path / "store.zarr"
    arrays = {"patches": rng.standard_normal((10, 2, 3)).astype(np.float16), "label": np.arange(10, dtype=np.int32)}
    write_store(path, arrays, {"kind": "test"}, chunk=4)
    return path


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",), ("study", "--help"), ("predict", "-h")])
def test_alone_it_lists_its_subcommands(call, arguments):
    status, said = call(*arguments)
    assert status == 0
    assert said.startswith("usage: neuralood COMMAND\n")
    assert [line.split()[0] for line in said.splitlines()[1:]] == [
        "doctor",
        "plan",
        "study",
        "verify",
        "export-encoder",
        "export",
        "predict",
        "import-berg",
        "compare-head",
    ]
    assert "Check every byte of stores" in said


@pytest.mark.parametrize("arguments", [("plna",), ("verify",), ("plan", "more")])
def test_a_wrong_call_shows_the_usage_with_status_2(call, arguments):
    status, said = call(*arguments)
    assert status == 2
    assert said.startswith("usage: neuralood COMMAND\n")


def test_a_whole_store_is_said_to_be_whole(call, store):
    nbytes = 3 * (4 * 2 * 3 * 2 + 4) + 3 * (4 * 4 + 4)
    assert call("verify", store) == (0, f"{store}: whole (2 arrays, 6 chunks, {nbytes} B)\n")


def test_each_damage_is_a_line_and_the_other_stores_are_looked_at_all_the_same(call, store, tmp_path):
    other = tmp_path / "other.zarr"
    write_store(other, {"label": np.arange(3)}, {}, chunk=2)
    flipped, missing = store / "patches/c.1.0.0", store / "label/c.2"
    content = bytearray(flipped.read_bytes())
    content[5] ^= 1
    flipped.write_bytes(content)
    missing.unlink()
    status, said = call("verify", store, other)
    assert status == 1
    lines = said.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith(f"error: {missing} is missing")
    assert lines[1].startswith(f"error: {flipped} is damaged")
    assert lines[2].startswith(f"{other}: whole")


def test_no_store_is_one_line(call, tmp_path):
    status, said = call("verify", tmp_path / "nothing.zarr")
    assert (status, len(said.splitlines())) == (1, 1)
    assert said.startswith(f"error: {tmp_path / 'nothing.zarr'} is missing")
    (tmp_path / "folder").mkdir()
    status, said = call("verify", tmp_path / "folder")
    assert (status, len(said.splitlines())) == (1, 1)
    assert "Traceback" not in said


def test_broken_params_are_said_in_one_line(call, project):
    project.edit(**{"encoder.heads": 5})
    status, said = call("plan")
    assert status == 1
    assert said.startswith("error: params.yaml has 1 problem:\n  encoder.heads: 5 does not divide")


@pytest.mark.parametrize(("will_do", "status"), [(True, 0), (False, 1)])
def test_the_status_of_a_plan_is_whether_the_disk_will_do(call, monkeypatch, will_do, status):
    monkeypatch.setattr(tables, "show_plan", lambda params: will_do)
    assert call("plan") == (status, "")


@pytest.mark.parametrize(("well", "status"), [(True, 0), (False, 1)])
def test_the_status_of_the_doctor_is_whether_no_line_is_red(call, monkeypatch, well, status):
    monkeypatch.setattr(doctor_tables, "show_doctor", lambda params: well)
    assert call("doctor") == (status, "")


def test_a_plan_needs_no_data(call, project, monkeypatch):
    project.edit(**{"backbone.weights": "weights/not_there.safetensors"})
    monkeypatch.setattr(tables, "show_plan", lambda params: True)
    assert call("plan") == (0, "")


def test_ctrl_c_is_one_line(call, monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(tables, "show_plan", interrupted)
    status, said = call("plan")
    assert status == 130
    assert said.startswith("error: interrupted")
