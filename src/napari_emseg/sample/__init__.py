"""EM to try things on: a bundled real stack, and drawn ones with known cells."""

from napari_emseg.sample.bundled import vnc, vnc_membranes
from napari_emseg.sample.drawn import synthetic

__all__ = ["synthetic", "vnc", "vnc_membranes"]
