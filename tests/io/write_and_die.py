"""Writes outputs of all formats, section by section, and kills itself in mid-write.

`write_and_die.py FOLDER` begins each format once and dies at its third section;
`write_and_die.py FOLDER forever` replaces finished outputs until it is killed. All
voxels of an output have the same value, the number of the round.
"""

from __future__ import annotations

import os
import signal
import sys
from itertools import count
from pathlib import Path

import numpy as np
import tensorstore as ts

from napari_emseg.io import OUTPUT_KINDS, open_sink, open_stack, output_kind

SHAPE = (4, 70, 70)
SIZE = (40.0, 4.0, 4.0)


def place(folder: Path, name: str) -> Path:
    """Return where the output of a format goes."""
    return folder / f"{name}{output_kind(name).suffixes[0]}"


def dtype(name: str) -> np.dtype:
    """Return a type that the format holds."""
    return np.dtype(np.uint32 if output_kind(name).cells_only else np.uint16)


def begin(folder: Path, name: str):
    """Open the output of a format."""
    return open_sink(
        place(folder, name),
        SHAPE,
        dtype(name),
        format=name,
        voxel_size_nm=SIZE,
        overwrite=True,
    )


def write(sink, nth: int, depth: int = SHAPE[0]) -> None:
    """Write the first sections."""
    for z in range(depth):
        sink.write(z, np.full(SHAPE[1:], nth, sink.dtype))


def sections(path: Path) -> np.ndarray:
    """Read an output `(z, y, x)`, also of the format that this package only writes."""
    if not (path / "info").exists():
        return np.asarray(open_stack(path).data[:])
    kvstore = {"driver": "file", "path": str(path)}
    spec = {"driver": "neuroglancer_precomputed", "kvstore": kvstore}
    found = ts.open(spec, read=True).result().read().result()
    return np.asarray(found)[..., 0].transpose(2, 1, 0)


def main(folder: Path, *, forever: bool) -> None:
    """Write all formats."""
    for nth in count(1):
        sinks = []
        for kind in OUTPUT_KINDS:
            sinks.append(begin(folder, kind.name))
            write(sinks[-1], nth, SHAPE[0] if forever else 2)
        if not forever:
            os.kill(os.getpid(), signal.SIGKILL)
        for sink in sinks:
            sink.close()
        sys.stdout.write(f"{nth}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), forever="forever" in sys.argv)
