"""Which image each trial of the Natural Scenes Dataset showed, and which images all subjects share.

Ids are 0-based from here on, as the rows of nsd_stimuli.hdf5 are; 73KID, `subjectim` and `sharedix` count from 1.
"""

import csv
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from neuralood.base.errors import UserError
from neuralood.data.files import require_content

Ids = npt.NDArray[np.int64]

RESPONSES = "nsddata/ppdata/{}/behav/responses.tsv"
DESIGN = "nsddata/experiments/nsd/nsd_expdesign.mat"
DESIGN_VARIABLES = ("masterordering", "subjectim", "sharedix")
STIMULUS_TABLE = "nsddata/experiments/nsd/nsd_stim_info_merged.csv"

STIMULI = 73_000
"""Images of the whole dataset."""

SESSIONS = (40, 40, 32, 30, 40, 32, 40, 30)
"""Sessions of subjects 1 to 8; copies made before 2023-08-20 lack the last three of each."""

ORDER_COLUMNS = ("SUBJECT", "SESSION", "RUN", "TRIAL")
IMAGE_COLUMN = "73KID"


@dataclass(frozen=True)
class Trials:
    """Every trial in the order of the betas, T."""

    session: Ids
    """1, 2, ..."""
    image: Ids
    """Id, 0-based."""
    files: tuple[str, ...]
    """What was read, relative to NSD's folder."""

    @property
    def images(self) -> Ids:
        """The images seen, each once, ascending."""
        return np.unique(self.image)


def subject_number(subject: str) -> int:
    """1 to 8. Raises UserError for a name that is not subj01 to subj08."""
    if not re.fullmatch(r"subj0[1-8]", subject):
        raise UserError(f"fmri.subject: NSD has subj01 to subj08, got {subject}")
    return int(subject[4:])


def read_trials(folder: Path, subject: str) -> Trials:
    """The subject's trials from responses.tsv, compared with nsd_expdesign.mat where that is there.

    Raises UserError where the table is not the subject's own in its own order, or where the two differ.
    """
    name = RESPONSES.format(subject)
    table = _read_columns(folder / name, (*ORDER_COLUMNS, IMAGE_COLUMN))
    number, order = subject_number(subject), np.stack([table[column] for column in ORDER_COLUMNS], axis=1)
    if (order[:, 0] != number).any():
        raise UserError(f"{folder / name} is of subject {order[0, 0]}, not {number}: take the file of {subject}")
    steps = np.diff(order[:, 1:] @ np.array([10**6, 10**3, 1]))
    if (steps <= 0).any():
        row = int(np.argmax(steps <= 0)) + 3
        raise UserError(f"{folder / name}, line {row}: trials are not in the order of the sessions; download it again")
    sessions = np.unique(order[:, 1])
    if sessions.tolist() != list(range(1, len(sessions) + 1)):
        raise UserError(f"{folder / name}: sessions do not run 1, 2, 3, ... without a gap; download it again")
    image = table[IMAGE_COLUMN] - 1
    if image.min() < 0 or image.max() >= STIMULI:
        raise UserError(f"{folder / name}: 73KID runs from {image.min() + 1} to {image.max() + 1}, not 1 to {STIMULI}")
    files = [name]
    if (folder / DESIGN).exists():
        _compare_with_design(folder / DESIGN, number, image)
        files.append(DESIGN)
    return Trials(order[:, 1], image, tuple(files))


def shared_images(folder: Path, subject: str) -> tuple[Ids, tuple[str, ...]]:
    """Ids of the images that all subjects were to see, ascending, and the files that say so.

    Raises UserError where neither file is there, or where they differ.
    """
    found: dict[str, Ids] = {}
    if (folder / DESIGN).exists():
        found[DESIGN] = _shared_in_design(folder / DESIGN, subject_number(subject))
    if (folder / STIMULUS_TABLE).exists():
        found[STIMULUS_TABLE] = _shared_in_table(folder / STIMULUS_TABLE)
    if not found:
        raise UserError(f"{folder}: {DESIGN} or {STIMULUS_TABLE} says which images are the test set; download one")
    first, *others = found.values()
    if any(not np.array_equal(first, other) for other in others):
        raise UserError(f"{folder}: {' and '.join(found)} name other shared images; download both again")
    return first, tuple(found)


def _compare_with_design(file: Path, number: int, image: Ids) -> None:
    design = read_design(file, DESIGN_VARIABLES)
    ordering, own = design["masterordering"], design["subjectim"][number - 1]
    if len(image) > len(ordering):
        raise UserError(f"{file} orders {len(ordering)} trials, responses.tsv has {len(image)}: download both again")
    planned = own[ordering[: len(image)] - 1] - 1
    if (planned != image).any():
        trial = int(np.argmax(planned != image))
        raise UserError(
            f"{file}: trial {trial + 1} of subject {number} shows 73KID {planned[trial] + 1}, in responses.tsv "
            f"{image[trial] + 1}: one of the two is another subject's or damaged; download both again"
        )


def _shared_in_design(file: Path, number: int) -> Ids:
    design = read_design(file, DESIGN_VARIABLES)
    shared = np.sort(design["sharedix"])
    if not np.array_equal(shared, np.sort(design["subjectim"][number - 1, : len(shared)])):
        raise UserError(f"{file}: sharedix are not the first columns of subjectim; download it again")
    return shared - 1


def read_design(file: Path, wanted: tuple[str, ...]) -> dict[str, Ids]:
    """Variables such as masterordering (T), subjectim (8 I) and sharedix, as int64: MATLAB's may be unsigned or float.

    Raises UserError where the file cannot be read or lacks one.
    """
    from scipy.io import loadmat, matlab  # here: no other stage is to wait for it

    require_content(file)
    try:
        content = loadmat(file, variable_names=wanted)
        design = {name: np.asarray(content[name]).astype(np.int64) for name in wanted}
    except KeyError as error:
        raise UserError(f"{file} has no variable {error}: download it again") from None
    except (matlab.MatReadError, ValueError, TypeError, NotImplementedError, OSError, zlib.error) as error:
        raise UserError(f"{file} is no MATLAB 5 file that can be read ({error}): download it again") from None
    return {name: values if name == "subjectim" else values.reshape(-1) for name, values in design.items()}


def _shared_in_table(file: Path) -> Ids:
    rows = _read_text_columns(file, ("nsdId", "shared1000"), ",")
    return np.array(sorted(int(nsd) for nsd, shared in rows if shared.lower() in ("true", "1", "1.0")), np.int64)


def _read_columns(file: Path, names: tuple[str, ...]) -> dict[str, Ids]:
    """Columns of whole numbers, by name."""
    rows = _read_text_columns(file, names, "\t")
    if not rows:
        raise UserError(f"{file} has no trials: download it again")
    try:
        values = np.array(rows, np.float64)
    except ValueError as error:
        raise UserError(f"{file}: a trial's number is no number ({error}); download it again") from None
    whole = np.isfinite(values) & (values == np.rint(values))
    if not whole.all():
        row, column = np.argwhere(~whole)[0]
        raise UserError(f"{file}, line {row + 2}: {names[column]} is no whole number; download it again")
    return dict(zip(names, values.T.astype(np.int64), strict=True))


def _read_text_columns(file: Path, names: tuple[str, ...], delimiter: str) -> list[tuple[str, ...]]:
    """Some columns of a table with a header line, found by name: their place differs between tools."""
    require_content(file)
    with file.open(newline="", encoding="utf-8") as opened:
        reader: Any = csv.reader(opened, delimiter=delimiter)
        header = next(reader)
        missing = [name for name in names if name not in header]
        if missing:
            raise UserError(f"{file} has no column {', '.join(missing)}: download it again")
        places = [header.index(name) for name in names]
        try:
            return [tuple(row[place] for place in places) for row in reader if row]
        except IndexError:
            raise UserError(f"{file}, line {reader.line_num}: too few columns; download it again") from None
