"""Every byte of a store against its checksums."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from neuralood.base.chunks import bytes_of_chunk, size_problem
from neuralood.base.store import CONTENTS, attribute_problem, contents_digest, read_store


def store_problems(path: Path, track: Any) -> Iterator[str]:
    """A line for all that is wrong with a store, complete or not; reads every byte.

    `track(items, description, total)` shows progress. Raises UserError where there is no store at all.
    """
    store = read_store(path)
    problem = attribute_problem(store)
    if problem:
        yield problem
    whole = problem is None
    yield from _strays(path, {*store.arrays, "zarr.json"})
    for name, array in store.arrays.items():
        missing = list(array.size_problems())
        yield from missing
        yield from _strays(array.path, {array.file(number).name for number in range(array.chunks)} | {"zarr.json"})
        whole = whole and not missing
        wanted = bytes_of_chunk(array.dtype, (array.chunk, *array.shape[1:]))
        for number in track(range(array.chunks), f"checking {path.name}/{name} (chunks)", array.chunks):
            if size_problem(array.file(number), wanted) is None and (problem := array.content_problem(number)):
                whole = False
                yield problem
    if whole and contents_digest(store.arrays) != store.attributes[CONTENTS]:
        yield f"{path} holds whole chunks that are not its own (its attribute {CONTENTS} does not fit them)"


def _strays(folder: Path, known: set[str]) -> Iterator[str]:
    """A line for each file in a folder that is not one of the known names."""
    yield from (f"{file} does not belong there" for file in sorted(folder.iterdir()) if file.name not in known)
