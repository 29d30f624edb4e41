"""The real stacks that come with the package: fly neuropil, and what was drawn in it.

VNC: sections 2–7, rows 416–927, columns 288–799 of the first stack of Gerhard et al.,
Segmented anisotropic ssTEM dataset of neural tissue, figshare 2013, CC BY-NC-SA 3.0;
see LICENCE.md beside this file. FIB-25: the last 20 sections of a block of Takemura et
al., PNAS 2015, under the licence of that data; see LICENCE-fib25.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np

from napari_emseg.core.stack import Stack

VOXEL_SIZE_NM = (50.0, 4.6, 4.6)
SHAPE = (6, 512, 512)
LICENCE = "CC-BY-NC-SA-3.0"
CITATION = (
    "Stephan Gerhard, Jan Funke, Julien Martel, Albert Cardona, Richard Fetter: "
    "Segmented anisotropic ssTEM dataset of neural tissue. figshare, 2013. "
    "http://dx.doi.org/10.6084/m9.figshare.856713"
)


@dataclass(frozen=True, slots=True)
class _Origin:
    """What the files of one stack have in common."""

    shape: tuple[int, int, int]
    voxel_size_nm: tuple[float, float, float]
    licence: str
    citation: str


_VNC = _Origin(SHAPE, VOXEL_SIZE_NM, LICENCE, CITATION)
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

    Licensed CC BY-NC-SA 3.0: not for commercial use; cite `CITATION`.
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
    """Return where a file of this folder lies, e.g. `vnc_raw.tif`."""
    return Path(str(files("napari_emseg.sample") / name))


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
