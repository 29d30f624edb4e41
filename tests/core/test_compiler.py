from __future__ import annotations

import subprocess
import sys


def run(code: str) -> set[str]:
    """Run code in a new process; return the names of the modules it has then."""
    told = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
        check=True,
        capture_output=True,
        text=True,
    )
    return set(told.stdout.split())


def test_numba_is_loaded_with_the_first_kernel() -> None:
    assert "numba" not in run("import napari_emseg.core.compiler")


def test_kernels_work_where_no_cache_can_be_written() -> None:
    """As in a read-only container: numba finds no place and compiles anew."""
    code = """
import numba.core.caching as caching
caching.CacheImpl._locator_classes = []
from napari_emseg.core.compiler import compiled
@compiled
def twice(x): return 2 * x
assert twice(4) == 8
"""
    assert "numba" in run(code)
