"""Made OOD sets: every image of a labelled set redrawn, the whole set or none of it, gone on with after a stop.

A set grows in data/.partial/made/NAME, where DVC does not reach: its recipe, a line in `drawn` for each finished
image, and the images. A finished image is kept while the recipe and its source file stay the same, whatever other
images the source set gains or loses.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from neuralood.base import paths
from neuralood.base.console import note, track
from neuralood.base.errors import UserError
from neuralood.base.records import read_json, write_json, write_text
from neuralood.base.seeding import generator
from neuralood.config import MadeSet, Params
from neuralood.data.containers import stamp, stem_of
from neuralood.data.files import fingerprint_files
from neuralood.data.imagenet.corruptions import CORRUPTIONS
from neuralood.data.images import read_image
from neuralood.data.index import check_classes, made_manifest
from neuralood.data.listing import lines
from neuralood.data.made.corruptions import corruption_library
from neuralood.data.made.framing import without_margin
from neuralood.data.made.transforms import TRANSFORMS
from neuralood.data.manifest import Manifest, read_manifest

DRAWING_CODE = ("corruptions.py", "distortions.py", "framing.py", "sets.py", "styles.py", "transforms.py")
"""Modules of this folder that decide what a drawing looks like: an edit of one lets an unfinished set start anew."""

JOBS_AT_A_TIME = 16
"""Images that a process is handed at once."""


class Job(NamedTuple):
    """One image to draw: its path in the source set, its file, and the path of its drawing below the made set."""

    path: str
    file: Path
    made_path: str


class Mark(NamedTuple):
    """A finished drawing: its path, and bytes; of what: path, bytes, and modification time in ns of the file."""

    made_path: str
    made_bytes: int
    path: str
    file_bytes: int
    file_time: int


@dataclass(frozen=True)
class Recipe:
    """All that a set's drawings depend on, but for the images themselves."""

    root: str
    folder: str
    margin_px: int
    cropped: bool
    transform: str
    level: float
    seed: int
    code: str

    def draw(self, job: Job, images: Path) -> Mark | str:
        """Draw one image below the folder `images`; returns its mark, or what is wrong with it."""
        read_from = stamp(job.file)
        try:
            image = without_margin(read_image(job.file), self.margin_px)
        except UserError as error:
            return str(error)
        transform, rng = TRANSFORMS[self.transform], generator(self.seed, "made", self.transform, job.path)
        transform.save(transform.apply(image, self.level, rng, cropped=self.cropped), images / job.made_path)
        return Mark(job.made_path, stamp(images / job.made_path)[0], job.path, *read_from)


@dataclass(frozen=True)
class Growing:
    """A made set that is not whole yet."""

    folder: Path

    @property
    def images(self) -> Path:
        """What will be the set's folder."""
        return self.folder / "images"

    @property
    def log(self) -> Path:
        """A line for each finished drawing: its mark, as JSON."""
        return self.folder / "drawn"

    def resume(self, recipe: Recipe, jobs: Sequence[Job]) -> set[str]:
        """Keep the finished drawings of these jobs and drop all else; returns their paths."""
        if not self._is_of(recipe):
            shutil.rmtree(self.folder, ignore_errors=True)
            write_json(self.folder / "recipe.json", asdict(recipe))
        marks = self._marks()
        kept = [mark for job in jobs if (mark := marks.get(job.made_path)) and mark == self._mark_now(job)]
        finished = {mark.made_path for mark in kept}
        for file in self.images.glob("*/*"):
            if file.relative_to(self.images).as_posix() not in finished:
                file.unlink()
        write_text(self.log, "".join(map(_line, kept)))
        return finished

    def logged(self, outcomes: Iterable[Mark | str]) -> Iterator[Mark | str]:
        """Note each finished drawing as it passes."""
        with self.log.open("a", encoding="utf-8") as log:
            for outcome in outcomes:
                if isinstance(outcome, Mark):
                    log.write(_line(outcome))
                    log.flush()
                yield outcome

    def _is_of(self, recipe: Recipe) -> bool:
        try:
            return read_json(self.folder / "recipe.json") == asdict(recipe)
        except UserError:
            return False

    def _marks(self) -> dict[str, Mark]:
        """Path of a drawing -> its mark. A line that a stop cut short counts as none."""
        if not self.log.exists():
            return {}
        marks = {}
        for line in self.log.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                mark = Mark(*json.loads(line))
            except (ValueError, TypeError):
                continue
            marks[mark.made_path] = mark
        return marks

    def _mark_now(self, job: Job) -> Mark:
        """The mark that the job's drawing has if it is whole and of what the source file is now."""
        return Mark(job.made_path, stamp(self.images / job.made_path)[0], job.path, *stamp(job.file))


def make_set(name: str, params: Params) -> Manifest:
    """Draw every image of a made set's source into data/made/NAME/CLASS/STEM.png (or .jpg).

    Raises UserError, after all other images, that names every source image that cannot be decoded; what is drawn
    by then is kept for the next run.
    """
    entry, source = params.made[name], read_manifest(params.made[name].source)
    if not source.classes:
        raise UserError(f"made.{name}.source: {entry.source} has no classes; choose a labelled set")
    check_classes(name, source.classes, params, source.members)
    if entry.transform in CORRUPTIONS:
        corruption_library()
    transform, folder = TRANSFORMS[entry.transform], paths.made(name)
    made_paths = _made_paths(source, transform.kept_as.suffix)
    jobs = [Job(*job) for job in zip(source.paths, source.image_files(), made_paths, strict=True)]
    growing = Growing(paths.partial(folder))
    problems = _draw_all(name, growing, _recipe(entry, source), jobs, params.runtime.workers)
    if problems:
        headline = f"{name} is not made, as {len(problems)} of {len(jobs)} images of {entry.source} are bad:"
        raise UserError(lines(headline, problems))
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    growing.images.rename(folder)
    shutil.rmtree(growing.folder)
    return made_manifest(name, source, made_paths, cropped=source.cropped or transform.square)


def _recipe(entry: MadeSet, source: Manifest) -> Recipe:
    code = fingerprint_files(Path(__file__).parent, DRAWING_CODE)
    drawn = (entry.transform, float(entry.level), entry.seed)
    return Recipe(source.root, source.folder, source.margin_px, source.cropped, *drawn, code)


def _made_paths(source: Manifest, suffix: str) -> list[str]:
    """CLASS/STEM.png for each image, relative to the set's folder; equal stems are numbered: STEM-2.png."""
    taken: set[str] = set()
    made_paths = []
    for path, label in zip(source.paths, source.labels, strict=True):
        stem = f"{source.classes[label]}/{stem_of(path)}"
        number, made_path = 1, stem + suffix
        while made_path.lower() in taken:  # lower: some file systems cannot tell A.png from a.png
            number += 1
            made_path = f"{stem}-{number}{suffix}"
        taken.add(made_path.lower())
        made_paths.append(made_path)
    return made_paths


def _draw_all(name: str, growing: Growing, recipe: Recipe, jobs: Sequence[Job], workers: int) -> list[str]:
    """Draw what is not finished yet; returns a line for each bad image."""
    finished = growing.resume(recipe, jobs)
    if finished:
        note(f"{name}: {len(finished):,} of {len(jobs):,} images are drawn already, going on with the others")
    left = [job for job in jobs if job.made_path not in finished]
    for folder in {(growing.images / job.made_path).parent for job in jobs}:
        folder.mkdir(parents=True, exist_ok=True)
    outcomes = growing.logged(_mapped(partial(recipe.draw, images=growing.images), left, workers))
    tracked = track(outcomes, f"{recipe.transform} {name}", len(left))
    return [outcome for outcome in tracked if isinstance(outcome, str)]


def _mapped(draw: Callable[[Job], Mark | str], jobs: Sequence[Job], workers: int) -> Iterator[Mark | str]:
    if not workers:
        yield from map(draw, jobs)
        return
    try:
        with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
            yield from pool.map(draw, jobs, chunksize=JOBS_AT_A_TIME)
    except BrokenProcessPool:
        raise UserError(
            "a process that draws images was killed (out of memory?): lower runtime.workers and run again; "
            "finished images are kept"
        ) from None


def _line(mark: Mark) -> str:
    return json.dumps(mark) + "\n"
