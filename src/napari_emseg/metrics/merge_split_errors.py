"""Mistakes as a list of places: what kind, in which section, where, how large."""

from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_emseg.metrics.inputs import as_pair, in_threads
from napari_emseg.metrics.isbi import KINDS, simple_points

Kind = Literal["merger", "split"]


@dataclass(frozen=True, slots=True)
class SegmentationError:
    """A connected group of pixels where cells were merged, or one was split.

    Parameters
    ----------
    z, y, x
        The pixel of the group that is next to its middle.
    pixels
        Its size.
    extent
        The longer side of the box around it, px.
    """

    kind: Kind
    z: int
    y: int
    x: int
    pixels: int
    extent: int


def merge_split_errors(
    kinds: NDArray[np.uint8], *, z: int = 0
) -> list[SegmentationError]:
    """List the mergers and splits of one section.

    Parameters
    ----------
    kinds
        `(y, x)`, as in `Mistakes.kinds`.
    z
        The section that it is.
    """
    return [
        place
        for kind in get_args(Kind)
        for place in _groups(kinds == KINDS.index(f"{kind}s") + 1, kind, z)
    ]


def _groups(mask: NDArray[np.bool_], kind: Kind, z: int) -> list[SegmentationError]:
    """One place for each 8-connected group of a mask `(y, x)`."""
    from scipy.ndimage import find_objects, label

    # 8-connected: a mistake along a slanting membrane is one
    # line of pixels by their corners
    groups, _ = label(mask, np.ones((3, 3)))
    found = []
    for number, box in enumerate(find_objects(groups), start=1):
        pixels = np.argwhere(groups[box] == number)
        offsets = pixels - pixels.mean(axis=0)
        y, x = pixels[np.argmin((offsets**2).sum(axis=1))]
        sides = [part.stop - part.start for part in box]
        at = (int(box[0].start + y), int(box[1].start + x))
        found.append(SegmentationError(kind, z, *at, len(pixels), max(sides)))
    return found


def format_errors(
    places: list[SegmentationError] | tuple[SegmentationError, ...],
) -> str:
    """Count them, e.g. `4 mergers, 1 split`."""
    counts = {
        kind: sum(place.kind == kind for place in places) for kind in get_args(Kind)
    }
    return ", ".join(f"{n} {kind}{'s' * (n != 1)}" for kind, n in counts.items())


@dataclass(frozen=True, slots=True, eq=False)
class Mistakes:
    """Places at which no bending of the truth leads to the prediction."""

    kinds: NDArray[np.uint8]
    """Of each pixel `(z, y, x)` or `(y, x)`: 0 = none, k = the k-th of `KINDS`."""
    mergers: int
    """Connected groups of merger pixels, in all sections."""
    splits: int
    """Connected groups of split pixels, in all sections."""

    def in_words(self) -> str:
        """`4 mergers, 1 split`."""
        counts = (("merger", self.mergers), ("split", self.splits))
        return ", ".join(f"{n} {name}{'' if n == 1 else 's'}" for name, n in counts)


def find_mistakes(
    inside: ArrayLike,
    truth: ArrayLike,
    threshold: float,
    *,
    threads: int | None = None,
) -> Mistakes:
    """Find mergers and splits of a prediction at one threshold.

    They are those of the warping error: where the membrane only lies elsewhere or has
    another width there is no mistake.

    Parameters
    ----------
    inside
        Probability of inside, `(z, y, x)` or `(y, x)`, floating point in [0, 1].
    truth
        Same shape; 0 = membrane, anything else = inside.
    threshold
        Probability of inside above which a pixel is inside, in [0, 1).
    threads
        Threads to use; none takes all cores.

    Raises
    ------
    ValueError
        As `isbi_scores`, or a threshold out of range.
    """
    if not 0 <= threshold < 1:
        msg = f"threshold must be at least 0 and below 1, got {threshold!r}"
        raise ValueError(msg)
    pairs = zip(*as_pair(inside, truth), strict=True)
    calls = (partial(_section_kinds, *pair, threshold) for pair in pairs)
    sections = list(in_threads(calls, threads=threads))
    merger, split = (KINDS.index(name) + 1 for name in ("mergers", "splits"))
    return Mistakes(
        kinds=np.stack(sections).reshape(np.shape(truth)),
        mergers=sum(_overlapping(section == merger) for section in sections),
        splits=sum(_overlapping(section == split) for section in sections),
    )


def _section_kinds(
    inside: NDArray[np.float32], truth: NDArray[np.bool_], threshold: float
) -> NDArray[np.uint8]:
    """Kinds of mistakes in one section `(y, x)`."""
    from napari_emseg.metrics.kernels.section import Warper

    return Warper(inside, truth, simple_points()).kinds(threshold)


def _overlapping(mask: NDArray[np.bool_]) -> int:
    """Count the 8-connected groups of a section."""
    from scipy.ndimage import label

    return int(label(mask, np.ones((3, 3)))[1])
