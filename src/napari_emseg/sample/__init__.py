"""EM to try things on: two bundled real stacks, and drawn ones with known cells."""

from napari_emseg.sample.bundled import (
    fib25,
    fib25_cells,
    synthetic,
    vnc,
    vnc_membranes,
)

__all__ = ["fib25", "fib25_cells", "synthetic", "vnc", "vnc_membranes"]
