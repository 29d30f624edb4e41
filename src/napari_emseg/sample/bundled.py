"""The real stacks that come with the package: fly neuropil, and what was drawn in it.

FIB-25: the last 20 sections of a block of Takemura et al., PNAS 2015, under the licence
of that data; see LICENCE-fib25.md beside this file. VNC: sections 2–7, rows 416–927,
columns 288–799 of the first stack of Gerhard et al., Segmented anisotropic ssTEM
dataset of neural tissue, figshare 2013, CC BY-NC-SA 3.0; it comes with
napari-emseg-data, with its LICENCE.md.
"""

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path, PureWindowsPath

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi
from scipy.spatial import KDTree

from napari_emseg._installed import data_folder, only_in_data
from napari_emseg.core.stack import Stack, VoxelSize

IN_DATA = ("vnc_raw.tif", "vnc_membranes.tif", "LICENCE.md")
"""Files that come with napari-emseg-data."""


@dataclass(frozen=True, slots=True)
class _Origin:
    """What the files of one stack have in common."""

    shape: tuple[int, int, int]
    voxel_size_nm: tuple[float, float, float]
    licence: str
    citation: str


_VNC = _Origin(
    (6, 512, 512),
    (50.0, 4.6, 4.6),
    "CC-BY-NC-SA-3.0",
    "Stephan Gerhard, Jan Funke, Julien Martel, Albert Cardona, Richard Fetter: "
    "Segmented anisotropic ssTEM dataset of neural tissue. figshare, 2013. "
    "http://dx.doi.org/10.6084/m9.figshare.856713",
)
_FIB25 = _Origin(
    (20, 250, 250),
    (10.0, 10.0, 10.0),
    "LicenseRef-FIB25",
    "Shin-ya Takemura et al.: Synaptic circuits and their variations within different "
    "columns in the visual system of Drosophila. PNAS 112(44): 13711-13716, 2015. "
    "https://doi.org/10.1073/pnas.1509820112",
)


def vnc() -> Stack:
    """Grey values `(6, 512, 512)`, uint8, of a fly larva's ventral nerve cord (ssTEM).

    Licensed CC BY-NC-SA 3.0: not for commercial use; cite what its metadata say.

    Raises
    ------
    ValueError
        If napari-emseg-data isn't installed.
    """
    return _bundled("vnc_raw.tif", "VNC", _VNC)


def vnc_membranes() -> Stack:
    """Membranes of `vnc()` as drawn by its authors, uint8: membrane 255, inside 0."""
    return _bundled("vnc_membranes.tif", "VNC membranes", _VNC)


def fib25() -> Stack:
    """Grey values `(20, 250, 250)`, uint8, of a fly's optic lobe (FIB-SEM, 10 nm).

    The bundled weights `isbi2012-*` never saw such tissue and make many mistakes in it:
    here one can try to teach them. See LICENCE-fib25.md; cite Takemura et al. 2015.
    """
    return _bundled("fib25_raw.tif", "FIB-25", _FIB25)


def fib25_cells() -> Stack:
    """Cells of `fib25()` by their authors, uint16 ids; they touch without a gap."""
    return _bundled("fib25_cells.tif", "FIB-25 cells", _FIB25, np.uint16)


def path(name: str) -> Path:
    """Return where a file of a sample lies, e.g. `vnc_raw.tif`.

    Raises
    ------
    ValueError
        If it comes with napari-emseg-data, and that isn't installed.
    """
    if name not in IN_DATA:
        return Path(str(files("napari_emseg.sample") / name))
    folder = data_folder()
    if folder is None:
        raise ValueError(only_in_data("the EM of fly neuropil (VNC)"))
    return folder / "sample" / name


def name_in_sample(place: str) -> str | None:
    """Return the name of a file that is a sample in some installation; None for others.

    That may be another environment, or one from before napari-emseg-data was a
    distribution of its own; `path` says where the same file is here.
    """
    *_, package, folder, name = ("", "", "", *PureWindowsPath(place).parts)
    ours = package in ("napari_emseg", "napari_emseg_data") and folder == "sample"
    return name if ours and name in _STACKS else None


_STACKS = ("fib25_raw.tif", "fib25_cells.tif", "vnc_raw.tif", "vnc_membranes.tif")


def _bundled(
    name: str, title: str, origin: _Origin, dtype: type[np.generic] = np.uint8
) -> Stack:
    import dask.array as da
    from dask.delayed import delayed
    from tifffile import imread

    file = path(name)
    read = delayed(imread, pure=True)
    # each section opens the file anew: nothing stays open, and workers can have a copy
    pages = [read(file, key=z) for z in range(origin.shape[0])]
    sections = [da.from_delayed(page, origin.shape[1:], dtype) for page in pages]  # type: ignore[no-untyped-call]
    return Stack(
        da.stack(sections),  # type: ignore[no-untyped-call]
        name=title,
        voxel_size_nm=origin.voxel_size_nm,
        source=str(file),
        metadata={"licence": origin.licence, "citation": origin.citation},
    )


INSIDE_GREY, MEMBRANE_GREY = 180.0, 60.0


def synthetic(
    shape: tuple[int, int, int] = (4, 128, 128),
    *,
    seed: int = 0,
    cell_size: float = 24.0,
    membrane_width: float = 4.0,
    drift: float = 1.5,
    noise: float = 0.05,
    voxel_size_nm: VoxelSize = (50.0, 4.0, 4.0),
) -> tuple[Stack, NDArray[np.uint32]]:
    """Draw neurites cut across: Voronoi cells with wavy walls that drift through z.

    Parameters
    ----------
    shape
        `(z, y, x)`.
    cell_size
        Mean distance of neighbouring cells' centres, px.
    membrane_width
        Width of the dark walls, px.
    drift
        Standard deviation of a cell's movement from section to section, px.
    noise
        Standard deviation of the noise; 1 is the range of uint8.

    Returns
    -------
    stack
        Grey values, uint8, membranes dark.
    cells
        `(z, y, x)` uint32 ids, 0 on membranes. An id is the same cell in all sections,
        and one 4-connected piece in each.

    Raises
    ------
    ValueError
        If a cell would be no wider than its walls.
    """
    if not 0 < membrane_width < cell_size:
        msg = (
            f"cell_size must be above membrane_width, and both above 0; "
            f"got {cell_size} and {membrane_width}"
        )
        raise ValueError(msg)
    rng = np.random.default_rng(seed)
    where = _wavy_positions(shape[1:], cell_size, rng)
    centres = _scattered((shape[1], shape[2]), cell_size, rng)
    cells = np.empty(shape, np.uint32)
    for z in range(shape[0]):
        cells[z] = _section(where, centres, membrane_width)
        centres = centres + rng.normal(0, drift, centres.shape)
    grey = np.where(cells > 0, np.float32(INSIDE_GREY), np.float32(MEMBRANE_GREY))
    grey = ndi.gaussian_filter(grey, (0, 0.7, 0.7))
    grey += rng.normal(0, 255 * noise, shape).astype(np.float32)
    data = np.clip(grey.round(), 0, 255).astype(np.uint8)
    return Stack(data, name="synthetic", voxel_size_nm=voxel_size_nm), cells


def _wavy_positions(
    shape: tuple[int, int], cell_size: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Positions `(y, x, 2)` of pixels, bent smoothly so that walls aren't straight."""
    position = np.moveaxis(np.indices(shape, np.float64), 0, -1).copy()
    for axis in range(2):
        bend = ndi.gaussian_filter(rng.normal(size=shape), cell_size / 3)
        position[..., axis] += bend * (cell_size / 16 / max(bend.std(), 1e-12))
    return position


def _scattered(
    shape: tuple[int, int], cell_size: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Centres `(n, 2)` on a jittered grid that reaches beyond the picture."""
    line = [np.arange(-cell_size, n + 2 * cell_size, cell_size) for n in shape]
    grid = np.stack(np.meshgrid(*line, indexing="ij"), axis=-1).reshape(-1, 2)
    jittered: NDArray[np.float64] = (
        grid + rng.uniform(-0.3, 0.3, grid.shape) * cell_size
    )
    return jittered


def _section(
    where: NDArray[np.float64], centres: NDArray[np.float64], membrane_width: float
) -> NDArray[np.uint32]:
    """Cells `(y, x)`: the nearest centre, 0 where the second is hardly farther."""
    distance, nearest = KDTree(centres).query(where, k=2)
    # next to a wall halfway between two centres, the difference grows by two per px
    inside = distance[..., 1] - distance[..., 0] > membrane_width
    cells = np.where(inside, nearest[..., 0] + 1, 0).astype(np.uint32)
    return _main_pieces(cells)


def _main_pieces(cells: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Keep the largest 4-connected piece of each cell."""
    pieces, n = ndi.label(cells > 0)
    size = np.bincount(pieces.ravel(), minlength=n + 1)
    owner = np.zeros(n + 1, np.uint32)
    owner[pieces] = cells
    largest: dict[int, int] = {}
    for piece in sorted(range(1, n + 1), key=lambda piece: int(size[piece])):
        largest[int(owner[piece])] = piece
    keep = np.zeros(n + 1, bool)
    keep[list(largest.values())] = True
    return np.where(keep[pieces], cells, 0).astype(np.uint32)
