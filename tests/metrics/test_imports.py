from __future__ import annotations

import subprocess
import sys


def loaded_after(code: str) -> set[str]:
    """Names of the modules that a new process has loaded after `code`."""
    told = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
        check=True,
        capture_output=True,
        text=True,
    )
    return set(told.stdout.split())


def test_nothing_heavy_is_loaded_before_it_is_used():
    loaded = loaded_after("import napari_emseg.metrics")
    assert not loaded & {"numba", "skimage", "scipy", "torch", "napari", "qtpy"}


def test_kernels_work_where_no_cache_can_be_written(tmp_path):
    """As in a read-only container: numba finds no place and compiles anew."""
    code = """
import numba.core.caching as caching
caching.CacheImpl._locator_classes = []
from napari_emseg.metrics.kernels.compiler import compiled
@compiled
def twice(x): return 2 * x
assert twice(4) == 8
"""
    assert "numba" in loaded_after(code)
