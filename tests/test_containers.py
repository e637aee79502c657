"""Images inside HDF5, parquet and tar: the right one comes out, and nothing else can."""

import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_data import LFS
from helpers_imagenet import code_of, coded, write_brick, write_parquet, write_tar

from neuralood.base.errors import UserError
from neuralood.data import containers
from neuralood.data.containers import container_of, member_bytes, read_columns, split_member, stem_of, tar_members
from neuralood.data.images import read_image


@pytest.fixture
def brick(tmp_path: Path, rng: np.random.Generator) -> tuple[Path, np.ndarray[Any, Any]]:
    images = rng.integers(0, 256, (7, 5, 6, 3), np.uint8)
    return write_brick(tmp_path / "nsd_stimuli.hdf5", images), images


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    """23 rows in groups of 5: row r shows class r, and is named for it."""
    rows = [(row, coded(row, 7), f"n01440764_{row}.JPEG") for row in range(23)]
    return write_parquet(tmp_path / "train-00000-of-00001.parquet", rows, group=5)


@pytest.fixture
def tar(tmp_path: Path) -> Path:
    members = [(f"a/{number:04d}.{kind}", coded(number)) for number in range(9) for kind in ("jpg", "cls")]
    return write_tar(tmp_path / "0.tar", members)


def member(file: Path, name: object) -> Path:
    return Path(f"{file}::{name}")


def test_a_path_and_its_member_are_told_apart() -> None:
    assert split_member(Path("a/b.hdf5::2950")) == (Path("a/b.hdf5"), "2950")
    assert split_member(Path("a.tar::512+9/x/y.tar::z.jpg")) == (Path("a.tar"), "512+9/x/y.tar::z.jpg")
    for plain in ("a/b.png", "a/b::c.png", "a.zip::b.png", "x.parquet", "n::1/x.png"):
        assert split_member(Path(plain)) is None, plain
        assert container_of(Path(plain)) == Path(plain)
    assert container_of(Path("d/x.parquet::12")) == Path("d/x.parquet")


def test_members_have_stems_of_their_own() -> None:
    stems = [stem_of(path) for path in ("n0/a.JPEG", "d/x.parquet::12", "s.hdf5::3", "0.tar::512+9/k/b.jpg")]
    assert stems == ["a", "x-12", "s-3", "b"]


def test_a_row_of_hdf5_is_the_image_of_that_id(brick: tuple[Path, np.ndarray[Any, Any]]) -> None:
    file, images = brick
    for row in (6, 0, 3):
        assert (np.asarray(read_image(member(file, row))) == images[row]).all()
        assert member_bytes(member(file, row)) == images[row].tobytes()


def test_a_row_of_parquet_counts_over_all_row_groups(parquet: Path) -> None:
    for row in (22, 4, 5, 0, 9, 10):
        assert code_of(read_image(member(parquet, row))) == (row, 7)
        assert member_bytes(member(parquet, row)) == coded(row, 7)


def test_rows_in_order_read_each_row_group_once(parquet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_image(member(parquet, 0))
    opened = containers._opened(parquet)
    groups: list[int] = []

    class Counting:
        def read_row_group(self, group: int, **options: Any) -> Any:
            groups.append(group)
            return whole.read_row_group(group, **options)

    whole = opened._file  # type: ignore[attr-defined]
    monkeypatch.setattr(opened, "_file", Counting())
    for row in range(23):
        read_image(member(parquet, row))
    assert groups == [1, 2, 3, 4]


def test_members_of_a_tar_are_their_bytes(tar: Path) -> None:
    members = [one for one in tar_members(tar) if one.name.endswith("jpg")]
    assert [one.name for one in members] == [f"a/{number:04d}.jpg" for number in range(9)]
    for number, one in enumerate(members):
        place = Path(one.within(str(tar)))
        assert code_of(read_image(place)) == (number, 0)
        assert member_bytes(place) == coded(number)
        assert one.size == len(coded(number))


def test_long_and_odd_names_in_a_tar(tmp_path: Path) -> None:
    names = ["x" * 150 + "/" + "y" * 90 + ".jpg", "./dots..jpg", "Ümläut ö.jpg", "a::b.jpg"]
    tar = write_tar(tmp_path / "odd.tar", [(name, coded(index)) for index, name in enumerate(names)])
    found = list(tar_members(tar))
    assert [one.name for one in found] == names
    assert [code_of(read_image(tmp_path / one.within(tar.name)))[0] for one in found] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "../out.jpg"}, "leads out of the archive"),
        ({"name": "a/../../out.jpg"}, "leads out of the archive"),
        ({"name": "/etc/out.jpg"}, "leads out of the archive"),
        ({"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, "a link"),
        ({"type": tarfile.LNKTYPE, "linkname": "a.jpg"}, "a link"),
        ({"type": tarfile.CHRTYPE}, "neither a file nor a folder"),
        ({"type": tarfile.FIFOTYPE}, "neither a file nor a folder"),
        ({"type": tarfile.DIRTYPE, "name": "../out"}, "leads out of the archive"),
    ],
)
def test_a_tar_that_could_step_outside_is_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    info = tarfile.TarInfo("b.jpg")
    for key, value in change.items():
        setattr(info, key, value)
    tar = write_tar(tmp_path / "evil.tar", [("a.jpg", coded(1)), (info, b"")])
    with pytest.raises(UserError, match=rf"evil\.tar: its member .*{said}"):
        list(tar_members(tar))
    assert [file.name for file in tmp_path.rglob("*")] == ["evil.tar"]


def test_folders_in_a_tar_are_harmless(tmp_path: Path) -> None:
    info = tarfile.TarInfo("./a")
    info.type = tarfile.DIRTYPE
    assert [one.name for one in tar_members(write_tar(tmp_path / "a.tar", [(info, b""), ("./a/b.jpg", b"b")]))] == [
        "./a/b.jpg"
    ]


def test_damaged_tars_are_refused(tmp_path: Path, tar: Path) -> None:
    content, members = tar.read_bytes(), list(tar_members(tar))
    broken = members[3].offset - 512
    cases = {
        "cut.tar": content[: members[5].offset + 7],
        "boundary.tar": content[: members[5].offset - 512],
        "header.tar": content[:broken] + b"\xff" * 512 + content[broken + 512 :],
        "hole.tar": content[:broken] + bytes(2**21),
        "text.tar": b"hello" * 300,
        "empty.tar": b"",
    }
    for name, damaged in cases.items():
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(UserError, match=f"{name} .*download or copy it again"):
            list(tar_members(tmp_path / name))
    with tarfile.open(tmp_path / "packed.tar", "w:gz") as packed:
        packed.add(tar, "0.tar")
    with pytest.raises(UserError, match=r"packed\.tar is no uncompressed tar"):
        list(tar_members(tmp_path / "packed.tar"))


@pytest.mark.parametrize("name", ["23", "-1", "1.5", "x", "1" * 30])
def test_a_row_that_is_not_there(parquet: Path, brick: tuple[Path, np.ndarray[Any, Any]], name: str) -> None:
    for file in (parquet, brick[0]):
        with pytest.raises(UserError, match=f"{file.name}::{name}.*no such member"):
            read_image(member(file, name))


@pytest.mark.parametrize("place", ["0+99999999", "99999999+4", "x", "5", "-1+4", "1" * 18 + "+" + "9" * 18])
def test_bytes_that_are_not_in_the_tar(tar: Path, place: str) -> None:
    with pytest.raises(UserError, match="no such member"):
        read_image(member(tar, place))


def test_what_is_wrong_names_container_and_member(tmp_path: Path) -> None:
    whole = coded(3)
    rows = [(0, b"hello", "a"), (0, whole[:50], "b"), (0, b"", "c"), (0, None, "d"), (0, LFS, "e")]
    file = write_parquet(tmp_path / "val.parquet", rows)
    for row, said in enumerate(("no image", "truncated", "is empty", "is empty", "no image")):
        with pytest.raises(UserError, match=rf"val\.parquet::{row} .*{said}"):
            read_image(member(file, row))


@pytest.mark.parametrize(("name", "at"), [("a.parquet", "0"), ("a.hdf5", "0"), ("a.tar", "0+4/a.jpg")])
def test_damaged_and_missing_containers(tmp_path: Path, name: str, at: str) -> None:
    file = tmp_path / name
    with pytest.raises(UserError, match=f"{name} cannot be opened"):
        read_image(member(file, at))
    file.write_bytes(b"")
    with pytest.raises(UserError, match=f"{name} is empty"):
        read_image(member(file, at))
    file.write_bytes(LFS)
    with pytest.raises(UserError, match="git lfs pull"):
        read_image(member(file, at))
    file.write_bytes(b"hello" * 300)
    with pytest.raises(UserError, match=f"{name}::"):
        read_image(member(file, at))


def test_a_truncated_container_is_refused(parquet: Path, brick: tuple[Path, np.ndarray[Any, Any]]) -> None:
    for file in (parquet, brick[0]):
        file.write_bytes(file.read_bytes()[:-40])
        with pytest.raises(UserError, match=rf"{file.name}::1 cannot be read .*download or copy it again"):
            read_image(member(file, 1))


def test_containers_of_another_content(tmp_path: Path, rng: np.random.Generator) -> None:
    import h5py
    import pyarrow as pa
    from pyarrow import parquet

    with h5py.File(tmp_path / "a.h5", "w") as opened:
        opened["images"] = rng.integers(0, 9, (2, 3, 3, 3), np.uint8)
    with pytest.raises(UserError, match="no array imgBrick; it has images"):
        read_image(tmp_path / "a.h5::0")
    write_brick(tmp_path / "b.hdf5", rng.random((3, 6, 5, 2)))
    with pytest.raises(UserError, match="expected uint8"):
        read_image(tmp_path / "b.hdf5::0")
    parquet.write_table(pa.table({"jpg": [b"x"]}), tmp_path / "c.parquet")
    with pytest.raises(UserError, match=r"no column image\.bytes; it has jpg"):
        read_image(tmp_path / "c.parquet::0")
    with pytest.raises(UserError, match=r"c\.parquet has no column label; it has jpg"):
        read_columns(tmp_path / "c.parquet", ["jpg", "label"])
    (tmp_path / "d.parquet").write_bytes(b"PAR1 and more PAR1")
    with pytest.raises(UserError, match=r"d\.parquet is no parquet file"):
        read_columns(tmp_path / "d.parquet", ["label"])


def test_few_containers_stay_open(tmp_path: Path) -> None:
    files = [write_tar(tmp_path / f"{number}.tar", [("a.jpg", coded(number))]) for number in range(20)]
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(2):
        for number, file in enumerate(files):
            place = Path(next(tar_members(file)).within(str(file)))
            assert code_of(read_image(place))[0] == number
    assert len(containers._kept) <= containers.MOST_OPEN
    assert len(os.listdir("/proc/self/fd")) <= before + containers.MOST_OPEN


def test_another_process_opens_its_own(
    brick: tuple[Path, np.ndarray[Any, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = containers._opened(brick[0])
    assert containers._opened(brick[0]) is mine
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert containers._opened(brick[0]) is not mine


def test_a_container_that_changed_is_opened_again(tmp_path: Path) -> None:
    file = write_tar(tmp_path / "a.tar", [("a.jpg", coded(1))])
    place = Path(next(tar_members(file)).within(str(file)))
    assert code_of(read_image(place))[0] == 1
    file.unlink()
    write_tar(file, [("a.jpg", coded(2))])
    os.utime(file, ns=(1, 1))
    assert code_of(read_image(place))[0] == 2


def test_the_stamp_of_a_member_is_that_of_its_container(tar: Path) -> None:
    from neuralood.tokens.unfinished import stamp_of

    assert stamp_of(member(tar, "512+4/a.jpg")).tolist() == [tar.stat().st_size, tar.stat().st_mtime_ns]
    assert stamp_of(member(tar.with_name("gone.tar"), "512+4/a.jpg")).tolist() == [0, 0]


def test_processes_that_decode_read_containers(
    tmp_path: Path, parquet: Path, brick: tuple[Path, np.ndarray[Any, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from neuralood.backbone import Preprocessing
    from neuralood.data.manifest import Manifest
    from neuralood.tokens.decode import decoded_batches

    class Backbone:
        preprocessing = Preprocessing(8, 1.0, "bilinear", (0.0,) * 3, (1.0,) * 3)

    monkeypatch.setenv("NEURALOOD_DATA", str(tmp_path))
    paths = tuple(f"{file.name}::{row}" for row in range(7) for file in (parquet, brick[0]))
    manifest = Manifest("val", "data_root", "", False, (), paths, (-1,) * 14, paths, "fingerprint")
    read_image(member(brick[0], 0))  # the parent has handles, which its children are not to use
    here, there = (
        [
            batch.pixels
            for batch in decoded_batches(
                manifest, Backbone(), [[0, 1, 2, 3, 4, 5, 6], [*range(7, 14)]], torch.device("cpu"), workers
            )
        ]  # type: ignore[arg-type]
        for workers in (0, 2)
    )
    assert all(torch.equal(one, other) for one, other in zip(here, there, strict=True))
    assert here[0].shape == (7, 3, 8, 8)
