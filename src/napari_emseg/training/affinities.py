"""Cells drawn in sections → which voxels are of one cell: what affinities learn from.

Ids are whole numbers `(y, x)`: of a cell from 1, 0 between cells, `UNKNOWN` where
nobody has said anything. Cells that reach what is unknown are `OPEN` and more: two of
them may be one cell, and only what lies in each of them is sure. Ids may say which run
gave them, see `sparse_labels.RUN`.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage as ndi
from torch import Tensor

from napari_emseg.core.card import USUAL_AFFINITIES, Offset
from napari_emseg.core.stack import Stack
from napari_emseg.training.losses import IGNORE, MEMBRANE
from napari_emseg.training.sparse_labels import RUN

UNKNOWN = -1

OPEN = 2**23
"""Ids are exact in single precision up to twice as many."""


ISOTROPIC = 2.0
"""Voxels at most so many times as deep as they are wide."""


def affinities_for(stack: Stack) -> tuple[Offset, ...]:
    """Return the usual affinities; three sections away, too, where these are thin."""
    size = stack.voxel_size_nm
    thin = size is not None and size[0] is not None and size[0] <= ISOTROPIC * size[1]
    return (*USUAL_AFFINITIES, (-3, 0, 0)) if thin else USUAL_AFFINITIES


def connected_cells(target: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Return ids of what hangs together in a section of class numbers `(y, x)`.

    They say nothing of other sections. What is no membrane is of a cell.
    """
    unknown = target == IGNORE
    labels, n = ndi.label(~unknown & (target != MEMBRANE))
    ids: NDArray[np.int32] = labels.astype(np.int32)
    if unknown.any():
        is_open = np.zeros(n + 1, bool)
        is_open[ids[ndi.binary_dilation(unknown)]] = True
        is_open[0] = False
        ids[is_open[ids]] += OPEN
        ids[unknown] = UNKNOWN
    return ids


def affinity_targets(
    ids: Tensor,
    near: Callable[[int], Tensor | None],
    offsets: Sequence[Offset],
    through: Tensor | None = None,
) -> Tensor:
    """Return whether each voxel and the one at each offset are of one cell.

    Parameters
    ----------
    ids
        Of a section `(y, x)`.
    near
        Gives the ids of another section by its distance; None if they aren't known.
    through
        Ids of the section as other sections have them, where `ids` are its own.

    Returns
    -------
    `(len(offsets), y, x)`: 1 of one cell, 0 not, `IGNORE` where that isn't known.
    """
    found = []
    own = ids if through is None else through
    for z, y, x in offsets:
        other = ids if z == 0 else near(z)
        if other is None:
            found.append(torch.full_like(ids, IGNORE))
        else:
            found.append(_are_one(own if z else ids, _moved(other, y, x)))
    return torch.stack(found)


def _moved(ids: Tensor, y: int, x: int) -> Tensor:
    """Return what lies `(y, x)` further on of each pixel; beyond the border unknown."""
    height, width = ids.shape
    moved = torch.full_like(ids, UNKNOWN)
    there = slice(max(0, y), height + min(0, y)), slice(max(0, x), width + min(0, x))
    here = slice(max(0, -y), height - max(0, y)), slice(max(0, -x), width - max(0, x))
    moved[here] = ids[there]
    return moved


def _are_one(a: Tensor, b: Tensor) -> Tensor:
    cells = (a > 0) & (b > 0)
    # divisions are slow, and there is mostly one run
    several = int(max(a.max(), b.max())) >= RUN
    one, other = (a % RUN, b % RUN) if several else (a, b)
    # an open cell may be one with another open cell, never with one that is closed
    may_be = (one >= OPEN) & (other >= OPEN)
    if several:
        # what another run found has other ids, whether it is another cell or not
        may_be |= cells & (a // RUN != b // RUN)
    same = ((one == other) & cells).to(a.dtype)
    unsure = (a < 0) | (b < 0) | ((one != other) & may_be)
    return torch.where(unsure, torch.full_like(same, IGNORE), same)
