"""Trial-by-trial answers as the data sets of Geirhos et al. (2019, 2021) keep them: one CSV an observer and session."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from neuralood.base.errors import UserError
from neuralood.base.store import Array
from neuralood.data.imagenet.categories import CATEGORIES
from neuralood.humans.categories import NO_ANSWER

COLUMNS = ("subj", "object_response", "category", "condition", "imagename")
SAID_NOTHING = "na"


@dataclass(frozen=True)
class Observer:
    """One observer's answers to T images, aligned: ids, conditions as text, the true category and the answer.

    Categories are indices into CATEGORIES; an answer may be NO_ANSWER.
    """

    name: str
    images: tuple[str, ...]
    conditions: tuple[str, ...]
    truth: Array
    answers: Array

    @property
    def correct(self) -> Array:
        """Whether each answer is right, T bool."""
        right: Array = self.answers == self.truth
        return right

    @property
    def is_person(self) -> bool:
        """Whether this is a person, not a network."""
        return self.name.startswith("subject")

    def at(self, images: Sequence[str]) -> "Observer":
        """The answers to these images, in their order. Raises UserError for one that was not shown."""
        place = {image: row for row, image in enumerate(self.images)}
        missing = [image for image in images if image not in place]
        if missing:
            raise UserError(f"{self.name} has no answer to {missing[0]} and {len(missing) - 1} more")
        rows = np.array([place[image] for image in images], int)
        conditions = tuple(self.conditions[row] for row in rows)
        return Observer(self.name, tuple(images), conditions, self.truth[rows], self.answers[rows])


def read_observers(folder: Path, experiment: str) -> list[Observer]:
    """Everybody's answers in `experiment`_NAME_session_K.csv of a folder, sessions joined, by name.

    Raises UserError where there are none, and for a file that is damaged, naming its line.
    """
    files: dict[str, list[Path]] = {}
    for file in files_of(folder, experiment):
        name = file.name.removeprefix(f"{experiment}_").rsplit("_session_", 1)[0]
        files.setdefault(name, []).append(file)
    if not files:
        raise UserError(f"{folder} has no answers of people: no {experiment}_NAME_session_1.csv")
    return [_observer(name, sessions) for name, sessions in sorted(files.items())]


def files_of(folder: Path, experiment: str) -> list[Path]:
    """The files of answers in an experiment, sorted."""
    return sorted(folder.glob(f"{experiment}_*_session_*.csv"))


def image_id(imagename: str) -> str:
    """What names an image across observers: the part after the last '_', with the wnid before it where there is one.

    Each session shows an image under another name, such as 0001_edg_s02_0_cat_00_cat3.png.
    """
    *before, last = imagename.split("_")
    return f"{before[-1]}_{last}" if before and before[-1].startswith("n0") else last


def shape_and_texture(image: str) -> tuple[str, str]:
    """The two categories of a cue-conflict image, such as cat7-elephant3.png. Raises ValueError for another name."""
    cues = [part.rstrip("0123456789") for part in image.rsplit(".", 1)[0].split("-")]
    if len(cues) != 2 or not set(cues) <= set(CATEGORIES):
        raise ValueError(f"{image} is no cue-conflict image: wants SHAPEi-TEXTUREj")
    return cues[0], cues[1]


def _observer(name: str, files: Sequence[Path]) -> Observer:
    rows = [row for file in files for row in _rows(file)]
    images = tuple(image for image, *_ in rows)
    if len(set(images)) < len(images):
        raise UserError(f"{files[0].parent}: {name} has two answers to an image; each image is shown once")
    truth, answers = (np.array([row[place] for row in rows], int) for place in (2, 3))
    return Observer(name, images, tuple(row[1] for row in rows), truth, answers)


def _rows(file: Path) -> Iterator[tuple[str, str, int, int]]:
    """Image, condition, true category and answer of each trial of a file."""
    try:
        with file.open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            lacking = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
            if lacking:
                raise UserError(f"{file} has no column {lacking[0]}: is it a table of trials?")
            for row in reader:
                if None in row.values():
                    raise UserError(f"{file}, line {reader.line_num}: the line is cut short")
                yield (
                    image_id(row["imagename"]),
                    row["condition"],
                    _category(row["category"], file, reader.line_num),
                    NO_ANSWER
                    if row["object_response"] == SAID_NOTHING
                    else _category(row["object_response"], file, reader.line_num),
                )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file} cannot be read ({error})") from None


def _category(name: str | None, file: Path, line: int) -> int:
    if name not in CATEGORIES:
        raise UserError(f"{file}, line {line}: {name!r} is none of the 16 categories")
    return CATEGORIES.index(name)
