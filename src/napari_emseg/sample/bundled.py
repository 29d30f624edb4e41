"""The real stack that comes with the package: fly neuropil, and its membranes.

Sections 2–7, rows 416–927, columns 288–799 of the first stack of Gerhard et al.,
Segmented anisotropic ssTEM dataset of neural tissue, figshare 2013, CC BY-NC-SA 3.0;
see LICENCE.md beside this file.
"""

from __future__ import annotations

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


def vnc() -> Stack:
    """Grey values `(6, 512, 512)`, uint8, of a fly larva's ventral nerve cord (ssTEM).

    Licensed CC BY-NC-SA 3.0: not for commercial use; cite `CITATION`.
    """
    return _bundled("vnc_raw.tif", "VNC")


def vnc_membranes() -> Stack:
    """Membranes of `vnc()` as drawn by its authors, uint8: membrane 255, inside 0."""
    return _bundled("vnc_membranes.tif", "VNC membranes")


def path(name: str) -> Path:
    """Return where a file of this folder lies, e.g. `vnc_raw.tif`."""
    return Path(str(files("napari_emseg.sample") / name))


def _bundled(name: str, title: str) -> Stack:
    import dask.array as da
    from dask.delayed import delayed
    from tifffile import imread

    file = path(name)
    read = delayed(imread, pure=True)
    # each section opens the file anew: nothing stays open, and workers can have a copy
    pages = [read(file, key=z) for z in range(SHAPE[0])]
    sections = [da.from_delayed(page, SHAPE[1:], np.uint8) for page in pages]  # type: ignore[no-untyped-call]
    return Stack(
        da.stack(sections),  # type: ignore[no-untyped-call]
        name=title,
        voxel_size_nm=VOXEL_SIZE_NM,
        source=str(file),
        metadata={"licence": LICENCE, "citation": CITATION},
    )
