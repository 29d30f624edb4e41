"""Cells through a stack whose membranes lead nobody to them but a classifier."""

import numpy as np
from scipy import ndimage as ndi

from napari_emseg.sample import synthetic


def drawn(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Membranes with thinner ones across cells, which are none, and the cells."""
    _, cells = synthetic((6, 128, 128), seed=seed, drift=0.5, cell_size=20)
    wall = ndi.gaussian_filter((cells == 0).astype(np.float32), (0, 1, 1)) * 1.4
    z, y, x = np.mgrid[tuple(slice(n) for n in cells.shape)]
    across = ((x + y // 2 + 11 * z + 5 * seed) % 31 == 0) | ((y + 13 * z) % 37 == 0)
    return np.clip(np.where(across, 0.9, wall), 0, 1).astype(np.float32), cells


def ended(cells: np.ndarray) -> np.ndarray:
    """Cells half of which end in the middle, so that some edges don't join there.

    Nothing shows that they do, and so a classifier joins them all the same.
    """
    out = cells.copy()
    out[3:][cells[3:] % 2 > 0] += cells.max()
    return out
