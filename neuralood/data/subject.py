"""What every source of measured fMRI hands over, and the parts that its images fall into."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

HEMISPHERES = ("lh", "rh")
"""Left first, everywhere: the one vertex axis is lh, then rh."""

FSAVERAGE_VERTICES = 163_842
"""Vertices of a hemisphere of fsaverage."""

UNMEASURED, TRAIN, VALIDATION, TEST = -1, 0, 1, 2
"""Parts of the images. UNMEASURED: shown in a session that is not at hand, so in no split."""


class Subject(Protocol):
    """One subject's fMRI: I images, V vertices or voxels (lh, then rh), R ROIs that are not empty."""

    @property
    def n_images(self) -> int: ...

    @property
    def n_vertices(self) -> int: ...

    @property
    def hemi(self) -> npt.NDArray[np.int8]:
        """0 left, 1 right, V."""

    @property
    def roi_names(self) -> tuple[str, ...]:
        """Such as lh.V1v: in the order of the tables, lh before rh."""

    @property
    def roi(self) -> npt.NDArray[np.bool_]:
        """Membership, R V; a vertex may belong to several ROIs or to none."""

    @property
    def ceiling(self) -> npt.NDArray[np.float32] | None:
        """The largest r a perfect model can reach, V; None where it is not known."""

    @property
    def fsaverage_vertex(self) -> npt.NDArray[np.int32] | None:
        """Index of each vertex on fsaverage's own hemisphere, V; None where it has no such place."""

    @property
    def voxel(self) -> npt.NDArray[np.int32] | None:
        """Index of each voxel in the subject's volume X Y Z, in C order, V; None on a surface."""

    @property
    def given_split(self) -> npt.NDArray[np.int8] | None:
        """TEST and UNMEASURED where the dataset says so, TRAIN for the rest, I; None: all is drawn."""

    @property
    def provenance(self) -> Mapping[str, Any]:
        """What else the store's attributes say of how the values came about: what `keep_rois` says, and more."""

    def blocks(self, rows: int) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
        """fMRI as float32 in blocks of up to `rows` images: index of the first, and B V values."""


def keep_rois(
    names: Sequence[str], members: npt.NDArray[np.bool_], usable: npt.NDArray[np.bool_]
) -> tuple[tuple[str, ...], npt.NDArray[np.bool_], dict[str, Any]]:
    """ROIs (names R, members R V) of the vertices that are `usable`, V, without those of which nothing is left.

    Also what a store's attributes say of it: how many vertices were left out, and which ROIs became empty.
    """
    rows = members[:, usable]
    there = rows.any(axis=1)
    kept, gone = (tuple(names[row] for row in np.flatnonzero(chosen).tolist()) for chosen in (there, ~there))
    return kept, rows[there], {"vertices_left_out": int((~usable).sum()), "rois_left_out": list(gone)}
